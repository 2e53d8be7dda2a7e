"""The Laplace approximation: a Gaussian at a mode, whose precision is the curvature of the cost there.

    π_T ≈ N(ω̂, P⁻¹),   P = (1/T) ∇²C(ω̂),   C = Σᵢ Lᵢ + R  (summed over N examples, the prior R counted once)

MacKay, "A practical Bayesian framework for backpropagation networks", Neural Computation 4, 1992. The curvature is
exact or Gauss–Newton (`curvature.py`); its structures are in `laplace_precision.py`, predictions with the linearised
model in `laplace_predictive.py`, the search for prior precisions in `laplace_prior.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers.modes import find_mode
from ..samplers.target import Layout, Target
from ..samplers.threefry import INIT, chain_keys, normals
from .curvature import cost_and_gradient
from .held_out import data_of, inputs_of
from .laplace_fit import (
    Curvature,
    Structure,
    check_examples,
    check_memory,
    check_mode,
    check_settings,
    curvatures,
    tolerances,
    warn_unless_mode,
)
from .laplace_last_layer import given_the_rest, indices_in, last_layer
from .laplace_precision import DensePrecision, DiagonalPrecision, Precision, factorise
from .laplace_predictive import Method, OutputGaussian, averages, linearise
from .laplace_prior import Groups, evidence, tune, warn_if_lower, with_prior
from .prediction import Prediction, prediction_of
from .scores import scores_of

_LONGER = "run find_mode longer or to a tighter tolerance"


@dataclass(frozen=True, eq=False)
class Laplace:
    """N(mode, P⁻¹) with P = ∇²C(mode)/T; made by `Laplace.fit`.

    The factorisation and all that follows from it are float64 whatever the dtype of the model; derivatives are taken in
    the target's dtype (fit ``posterior.to(dtype=torch.float64)`` for more digits), and samples have it. A `LogDensity`
    is approximated in its unconstrained coordinates.

    `Ensemble(posterior, laplace)` predicts with draws of the model itself, `Laplace.predict` with the linearised model.

    Attributes
    ----------
    posterior
        The target that is approximated.
    mode
        Where the Gaussian sits, a whole position `[posterior.dim]`.
    target
        What the Gaussian is over: `posterior`, or with ``structure="last_layer"`` the posterior of the last layer given
        the rest. `mean`, `covariance`, `precision`, `sd` and `dim` are of its parameters, in the order of `layout`.
    gaussian
        P, factorised.
    structure, curvature, temperature
        As given to `fit`.
    cost
        C(mode) of `target`, in nats.
    newton_decrement
        ½ gᵀP⁻¹g with g = ∇C/T at `mode`, in nats: how much −log π_T would still fall if it were quadratic, which is
        also the KL divergence due to the misplaced mean. 0 at an exact mode.
    """

    posterior: Target = field(repr=False)
    mode: Float[Tensor, " whole"] = field(repr=False)
    target: Target = field(repr=False)
    gaussian: Precision = field(repr=False)
    structure: Structure
    curvature: Curvature
    temperature: float
    cost: float
    newton_decrement: float

    @classmethod
    def fit(
        cls,
        posterior: Target,
        mode: Float[Tensor, " whole"] | None = None,
        *,
        structure: Structure = "dense",
        curvature: Curvature = "ggn",
        temperature: float = 1.0,
        chunk: int | None = None,
    ) -> Self:
        """Measure the curvature at a mode.

        Parameters
        ----------
        posterior
            A `Posterior`, or a `LogDensity` (``curvature="hessian"`` only).
        mode
            Flat position of the mode; by default `find_mode(posterior)` looks for it.
        structure
            - "dense": all of P.
            - "diagonal": diag(P), and variances 1/diag(P): of each parameter *conditionally* on all others being at the
              mode. They are never larger than the marginal variances diag(P⁻¹), and often far smaller.
            - "kronecker": one Kronecker product S⊗A for each linear or two-dimensional convolution layer (K-FAC, as
              `Fisher(structure="kronecker")`), which neglects the covariance between layers, between a layer's inputs
              and its output gradients, and between the positions of a convolution. The prior is added exactly, without
              damping. Parameters outside of such layers get their diagonal. Exact for one linear layer with Gaussian
              noise; its blocks are exact for one example.
            - "last_layer": all of P for the parameters of the module that is called last; the rest are fixed at the
              mode, as if they were known.
        curvature
            "ggn", the Gauss–Newton matrix Σᵢ Jᵢᵀ Hᵢ Jᵢ of the likelihood, with Hᵢ = `likelihood.fisher(outputs)`, plus
            the prior's Hessian. For a likelihood without `fisher`, Hᵢ is the Hessian of −log p(yᵢ | outputs) at the
            observed target, which may be indefinite. "hessian", the exact Hessian of the cost; D Hessian-vector
            products, for "diagonal" too.
        temperature
            T of π_T ∝ exp(−C/T).
        chunk
            Examples looked at together; by default as many as keep each array within 128 MB, and at least one.

        Raises
        ------
        ValueError
            For a P that is not positive definite, or singular to working precision; a cost or derivative that is not
            finite at `mode`; "ggn" without examples; "kronecker" without a layer or a likelihood that it can be had
            for, or with a prior that is no product within layers; a dense matrix that does not fit in memory; settings
            out of range.

        Warns
        -----
        UserWarning
            If the Newton decrement exceeds 0.1 nats: the position is not a mode. A saddle point has no gradient either
            and is caught by the exact dense Hessian only: a Gauss–Newton matrix is positive semidefinite everywhere.
            For parameters outside of the layers of "kronecker".
        """
        check_settings(posterior, structure, curvature, temperature, chunk)
        names = posterior.layout.names
        if structure == "last_layer":
            names = last_layer(check_examples(posterior, "last_layer"))
        sizes = zip(posterior.layout.names, posterior.layout.sizes, strict=True)
        if structure != "kronecker":
            check_memory(posterior.device, sum(size for name, size in sizes if name in names), structure)
        mode = check_mode(posterior, find_mode(posterior) if mode is None else mode)
        target = posterior
        if structure == "last_layer":
            target = given_the_rest(check_examples(posterior, "last_layer"), names, mode)
        return cls._at(posterior, target, mode, structure, curvature, temperature, chunk, _LONGER)

    @classmethod
    def _at(
        cls,
        posterior: Target,
        target: Target,
        mode: Tensor,
        structure: Structure,
        curvature: Curvature,
        temperature: float,
        chunk: int | None,
        remedy: str,
    ) -> Self:
        at = mode[indices_in(posterior, target)]
        cost, gradient = cost_and_gradient(target, at, chunk)
        if not (math.isfinite(cost) and bool(torch.isfinite(gradient).all())):
            raise ValueError(f"at the mode the cost is {cost} and its gradient has norm {float(gradient.norm())}")
        likelihood, prior = curvatures(target, at, structure, curvature, chunk)
        gaussian = factorise(likelihood, prior, temperature=temperature, **tolerances(target, curvature))
        decrement = 0.5 * float(gaussian.spread(gradient / temperature).square().sum())
        warn_unless_mode(decrement, remedy)
        return cls(posterior, mode, target, gaussian, structure, curvature, float(temperature), cost, decrement)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters that the Gaussian is over."""
        return self.target.layout

    @property
    def dim(self) -> int:
        """Number of parameters D that the Gaussian is over."""
        return self.target.dim

    @cached_property
    def _index(self) -> Tensor:
        return indices_in(self.posterior, self.target)

    @property
    def mean(self) -> Float[Tensor, " dim"]:
        """The mode; of the last layer its part."""
        return self.mode[self._index]

    @cached_property
    def covariance(self) -> Float[Tensor, "dim dim"] | Float[Tensor, " dim"]:
        """P⁻¹, `[dim, dim]`, zero between the layers of "kronecker"; of "diagonal" the conditional variances, `[dim]`.

        Raises
        ------
        ValueError
            For "kronecker", if the whole matrix does not fit in memory; `sd` and everything else needs no such matrix.
        """
        check_memory(self.mode.device, self.dim, self.structure)
        return self.gaussian.covariance()

    @property
    def precision(self) -> Float[Tensor, "dim dim"] | Float[Tensor, " dim"]:
        """P, or diag(P); whole for "kronecker" too, as `covariance` is."""
        check_memory(self.mode.device, self.dim, self.structure)
        return self.gaussian.matrix()

    @property
    def factor(self) -> Float[Tensor, "dim dim"] | Float[Tensor, " dim"]:
        """Lower Cholesky factor L of P = LLᵀ, `[dim, dim]`; of "diagonal" √diag(P), `[dim]`.

        "kronecker" has none and raises a ValueError.
        """
        if isinstance(self.gaussian, (DensePrecision, DiagonalPrecision)):
            return self.gaussian.factor
        raise ValueError('structure="kronecker" has no Cholesky factor; use `precision`, or `gaussian` for its factors')

    @cached_property
    def sd(self) -> Float[Tensor, " dim"]:
        """Standard deviation of each parameter: marginal, of the approximation; conditional for "diagonal"."""
        return self.gaussian.variances().sqrt()

    def sample(self, n: int, seed: int = 0) -> Float[Tensor, "n whole"]:
        """Independent draws of whole positions; row i depends on `seed` and i alone.

        Parameters
        ----------
        n
            How many.
        seed
            Non-negative integer.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        keys = chain_keys(seed, torch.arange(n, device=self.mode.device), INIT)
        noise = normals(keys, keys.new_zeros(()), self.dim, torch.float64)
        draws = (self.mean + self.gaussian.colour(noise)).to(self.mode.dtype)
        return draws if self.target is self.posterior else self.mode.repeat(n, 1).index_copy_(1, self._index, draws)

    def log_prob(self, position: Float[Tensor, "*batch whole"]) -> Float[Tensor, "*batch"]:
        """Log density of the Gaussian at flat positions (unconstrained for a `LogDensity`).

        Of "last_layer" the density in the parameters of that layer, and −∞ where the others are not at the mode.
        """
        if position.shape[-1:] != self.mode.shape:
            raise ValueError(f"positions must have shape [..., {len(self.mode)}], got {tuple(position.shape)}")
        shift = position.to(self.mode.device, torch.float64) - self.mode
        squares = self.gaussian.whiten(shift[..., self._index]).square().sum(-1)
        log_prob = -0.5 * (squares + self.dim * math.log(2 * math.pi) - self.gaussian.log_det())
        if self.target is self.posterior:
            return log_prob
        elsewhere = shift.index_fill(-1, self._index, 0.0).any(-1)
        return log_prob.masked_fill(elsewhere, -math.inf)

    @property
    def log_marginal_likelihood(self) -> float:
        """log p(data) ≈ −C(mode) + (D/2) log 2π − ½ log|P|, in nats; exact for a Gaussian posterior and dense P.

        A flat prior counts as density 1 and has no normaliser: the value then depends on the parameters' units, and
        only differences between models that share the flat part mean anything. For a `LogDensity` it is log ∫ exp(fn)
        over the constrained space; with "last_layer" it belongs to the model whose other parameters are known.

        Raises
        ------
        ValueError
            If T ≠ 1: the tempered density's normaliser is not a marginal likelihood.
        """
        if self.temperature != 1.0:
            raise ValueError(f"the marginal likelihood belongs to temperature 1, this is a fit at {self.temperature}")
        return evidence(self.cost, self.gaussian, self.dim)

    def tune_prior(self, groups: Groups = "prior", *, refit: bool = False, chunk: int | None = None) -> Self:
        """The approximation with the prior precisions that maximise `log_marginal_likelihood`.

        A local maximum, by L-BFGS in their logarithms. The priors' means stay. The tuned priors are those of the
        `posterior` of what is returned, for example ``tuned.posterior.prior_of(name).scale``.

        Parameters
        ----------
        groups
            "prior", one precision for each Normal distribution that the posterior was given: one for
            ``prior=Normal(0., 1.)``, one per pattern for a mapping. "layer", one for each module that holds parameters.
        refit
            Whether to look for the mode again under the tuned prior, and so on until both settle; an **approximation**
            for models that are not linear, because each search takes mode and curvature as given. Otherwise the mode
            stays where it is, and the precisions are the best for that mode only.
        chunk
            See `fit`.

        Raises
        ------
        ValueError
            For priors other than `torch.distributions.Normal` with one mean and one scale per parameter tensor, a
            `LogDensity`, or T ≠ 1.

        Warns
        -----
        UserWarning
            If the mode stays and is no longer one; if refitting lowers the evidence, or has not settled in 100 rounds;
            if the evidence has no maximum.
        """
        target = check_examples(self.target, "tune_prior")
        before = self.log_marginal_likelihood
        target, at = tune(target, self.mean, groups, refit, self.structure, self.curvature, chunk)
        whole = target
        if self.target is not self.posterior:
            whole = with_prior(
                check_examples(self.posterior, "tune_prior"),
                {name: target.prior_of(name) for name in target.layout.names},
            )
        mode = self.mode.index_copy(0, self._index, at)
        remedy = _LONGER if refit else "the mode moves with the prior: use refit=True"
        tuned = self._at(whole, target, mode, self.structure, self.curvature, 1.0, chunk, remedy)
        warn_if_lower(before, tuned.log_marginal_likelihood)
        return tuned

    @torch.no_grad()
    def linearised(self, x: Any, chunk: int | None = None) -> OutputGaussian:
        """The outputs of the linearised model, f(x) ~ N(f(x, mode), J P⁻¹ Jᵀ), at new inputs.

        Exact for the model f(x, mode) + J(ω − mode), to which the Gauss–Newton matrix belongs.

        Parameters
        ----------
        x
            Inputs as the model takes them: a tensor or array ``[n, ...]``, or a dict or tuple of them.
        chunk
            Inputs whose Jacobians are held together; by default as many as take 128 MB, and at least one.

        Raises
        ------
        ValueError
            If inputs differ in length or are not finite; for a `LogDensity`.
        """
        target = check_examples(self.target, "linearised")
        return linearise(target, self.mean, self.gaussian, inputs_of(target, x), chunk)

    @torch.no_grad()
    def predict(
        self, x: Any, *, method: Method = "auto", num_draws: int = 1000, seed: int = 0, chunk: int | None = None
    ) -> Prediction:
        """Predict the targets of new inputs with the linearised model.

        Parameters
        ----------
        x, chunk
            See `linearised`.
        method
            - "closed_form": exact, for `gaussian(scale)`.
            - "monte_carlo": the average over `num_draws` draws of the outputs, for every likelihood; the standard error
              of a class probability is at most 0.5/√num_draws, 0.016 for 1000.
            - "probit": an approximation for `bernoulli` (off by up to 0.02) and `categorical` (by more, because it does
              not see covariances between the outputs), without draws.
            - "auto": closed_form where there is one, else monte_carlo.
        num_draws, seed
            Of "monte_carlo".

        Raises
        ------
        ValueError
            As `linearised`, and for a method that the likelihood does not have.
        NotImplementedError
            If torch knows neither class probabilities nor moments of the likelihood's distribution.
        """
        target = check_examples(self.target, "predict")
        return prediction_of(averages(self.linearised(x, chunk), target, None, method, num_draws, seed))

    @torch.no_grad()
    def evaluate(
        self,
        x: Any,
        y: Any,
        *,
        method: Method = "auto",
        num_draws: int = 1000,
        seed: int = 0,
        chunk: int | None = None,
    ) -> dict[str, float]:
        """Score `predict` on held-out data, by the scores of `Ensemble.evaluate`.

        Parameters
        ----------
        x, method, num_draws, seed, chunk
            See `predict`.
        y
            Targets, as many as inputs.
        """
        target = check_examples(self.target, "evaluate")
        _, targets = data_of(target, x, y)
        return scores_of(averages(self.linearised(x, chunk), target, targets, method, num_draws, seed), targets)
