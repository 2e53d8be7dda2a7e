"""Predictions of a linearised model, f(x, ω) ≈ f(x, ω̂) + J(x)(ω − ω̂), under a Gaussian of its parameters.

    f(x) ~ N(f(x, ω̂), J P⁻¹ Jᵀ)

is exact for that model (Khan et al., "Approximate inference turns deep networks into Gaussian processes", NeurIPS
2019; Immer, Korzepa & Bauer, "Improving predictions of Bayesian neural nets via local linearization", AISTATS 2021).
The distribution of a target is the likelihood's, averaged over the outputs f:

    closed form   Gaussian noise of sd σ: N(y | f(x, ω̂), J P⁻¹ Jᵀ + σ²). Exact.
    monte carlo   any likelihood: the average over draws of f.
    probit        an approximation of class probabilities, p ≈ link(κ f(x, ω̂)) with κ = (1 + π v/8)^−½ for every output
                  and v its variance; link is the sigmoid (MacKay, "The evidence framework applied to classification
                  networks", Neural Computation 4, 1992, Eq. 10) or the softmax (Gibbs, "Bayesian Gaussian processes for
                  regression and classification", 1997), of which it sees no covariance between outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from ..samplers import data as data_
from ..samplers.likelihoods import BernoulliLikelihood, CategoricalLikelihood, GaussianLikelihood
from ..samplers.metrics.dense import eigh
from ..samplers.posterior import Posterior
from ..samplers.threefry import INIT, chain_keys, normals
from . import mixture
from .curvature import jacobians
from .laplace_precision import Precision

Method = Literal["auto", "closed_form", "monte_carlo", "probit"]

_BLOCK = 32  # draws that are made and averaged together


@dataclass(frozen=True, eq=False)
class OutputGaussian:
    """A Gaussian for the outputs of each example, float64.

    Attributes
    ----------
    mean
        The outputs at the mode, `[n, ...]`.
    covariance
        Of the outputs of an example, flattened, `[n, outputs, outputs]`.
    """

    mean: Float[Tensor, "n ..."]
    covariance: Float[Tensor, "n outputs outputs"]

    @property
    def variance(self) -> Float[Tensor, "n ..."]:
        """Of every output, in the shape of the outputs."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).reshape(self.mean.shape)

    def sample(self, n: int, seed: int = 0) -> Float[Tensor, "draw n ..."]:
        """Independent draws for each example: of its marginal, not of functions over all examples.

        Parameters
        ----------
        n
            How many. Draw d of example i depends on `seed`, d and i alone.
        seed
            Non-negative integer.
        """
        return torch.cat(list(self.blocks(n, seed)))

    def blocks(self, n: int, seed: int = 0) -> Iterator[Float[Tensor, "draw n ..."]]:
        """The draws of `sample`, a few at a time."""
        if n < 1:
            raise ValueError(f"the number of draws must be at least 1, got {n}")
        values, vectors = eigh(self.covariance)
        root = (vectors * values.sqrt()[..., None, :]) @ vectors.mT  # symmetric: no choice of eigenvectors in it
        keys = chain_keys(seed, torch.arange(len(root), device=root.device), INIT)
        for block, first in enumerate(range(0, n, _BLOCK)):
            step = torch.tensor(block, device=root.device)
            noise = normals(keys, step, _BLOCK * root.shape[-1], torch.float64).unflatten(-1, (_BLOCK, -1))
            draws = (noise @ root).movedim(1, 0)[: n - first]
            yield self.mean + draws.reshape(-1, *self.mean.shape)


def linearise(
    posterior: Posterior, mode: Float[Tensor, " dim"], precision: Precision, inputs: data_.Inputs, chunk: int | None
) -> OutputGaussian:
    """N(f(x, ω̂), J P⁻¹ Jᵀ) of every input; J is never held for more than `chunk` of them."""
    means, covariances = [], []
    for _, outputs, jacobian in jacobians(posterior, mode, inputs, chunk):
        root = precision.spread(jacobian.double())
        means.append(outputs.double())
        covariances.append(root @ root.mT)
    return OutputGaussian(torch.cat(means), torch.cat(covariances))


def averages(
    outputs: OutputGaussian,
    posterior: Posterior,
    targets: Tensor | None,
    method: Method,
    num_draws: int,
    seed: int,
) -> dict[str, Tensor]:
    """What `mixture.average` returns of draws, for the distribution of the targets under a Gaussian of the outputs."""
    method = _choose(posterior, method)
    one = torch.ones(1, dtype=torch.float64, device=outputs.mean.device)
    if method == "closed_form":
        noise = posterior.likelihood.scale**2  # pyright: ignore[reportFunctionMemberAccess]
        whole = Normal(outputs.mean[None], (outputs.variance[None] + noise).sqrt(), validate_args=False)
        parts = {"epistemic": outputs.variance, "aleatoric": torch.full_like(outputs.mean, noise)}
        return mixture.average([(whole, one)], targets) | parts
    if method == "probit":
        shrunk = outputs.mean / (1 + torch.pi / 8 * outputs.variance).sqrt()
        found = mixture.average([(posterior.distribution(shrunk[None]), one)], targets)
        found.pop("entropy")  # of the average: how much draws disagree is not known
        return found
    blocks = (
        (posterior.distribution(few), one.expand(len(few)) / num_draws) for few in outputs.blocks(num_draws, seed)
    )
    return mixture.average(blocks, targets)


def _choose(posterior: Posterior, method: Method) -> Method:
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, got {method!r}")
    likelihood = posterior.likelihood
    if method == "auto":
        return "closed_form" if isinstance(likelihood, GaussianLikelihood) else "monte_carlo"
    if method == "closed_form" and not isinstance(likelihood, GaussianLikelihood):
        raise ValueError(
            f'method="closed_form" is known for the likelihood gaussian(scale), not for {likelihood!r}: use '
            '"monte_carlo"'
        )
    if method == "probit" and not isinstance(likelihood, (CategoricalLikelihood, BernoulliLikelihood)):
        raise ValueError(
            f'method="probit" approximates class probabilities of the likelihoods categorical and bernoulli, not of '
            f'{likelihood!r}: use "monte_carlo"'
        )
    return method
