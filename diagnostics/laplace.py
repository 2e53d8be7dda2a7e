"""The Laplace approximation: a Gaussian at a mode, whose precision is the curvature of the cost there.

    π_T ≈ N(ω̂, P⁻¹),   P = (1/T) ∇²C(ω̂),   C = Σᵢ Lᵢ + R  (summed over N examples, the prior R counted once)

MacKay, "A practical Bayesian framework for backpropagation networks", Neural Computation 4, 1992. The curvature is
exact or Gauss–Newton: see `curvature.py`.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers.modes import find_mode
from ..samplers.posterior import Posterior
from ..samplers.target import Target
from ..samplers.threefry import INIT, chain_keys, normals
from .curvature import cost_and_gradient, curvature_matrix

_TOLERATED = 0.1  # nats of Newton decrement beyond which a position is not taken for a mode


@dataclass(frozen=True, eq=False)
class Laplace:
    """N(mode, P⁻¹) with P = ∇²C(mode)/T; made by `Laplace.fit`.

    The factorisation and all that follows from it are float64 whatever the dtype of the model; derivatives are taken in
    the target's dtype (fit ``posterior.to(dtype=torch.float64)`` for more digits), and samples have it. A `LogDensity`
    is approximated in its unconstrained coordinates.

    Attributes
    ----------
    posterior
        The target that is approximated.
    mode
        Where the Gaussian sits, `[dim]`.
    factor
        Lower Cholesky factor L of P = LLᵀ, `[dim, dim]`; with ``structure="diagonal"`` √diag(P), `[dim]`.
    structure, curvature, temperature
        As given to `fit`.
    cost
        C(mode), in nats.
    newton_decrement
        ½ gᵀP⁻¹g with g = ∇C/T at `mode`, in nats: how much −log π_T would still fall if it were quadratic, which is
        also the KL divergence due to the misplaced mean. 0 at an exact mode.
    """

    posterior: Target = field(repr=False)
    mode: Float[Tensor, " dim"] = field(repr=False)
    factor: Float[Tensor, "dim dim"] | Float[Tensor, " dim"] = field(repr=False)
    structure: Literal["dense", "diagonal"]
    curvature: Literal["ggn", "hessian"]
    temperature: float
    cost: float
    newton_decrement: float

    @classmethod
    def fit(
        cls,
        posterior: Target,
        mode: Float[Tensor, " dim"] | None = None,
        *,
        structure: Literal["dense", "diagonal"] = "dense",
        curvature: Literal["ggn", "hessian"] = "ggn",
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
            "dense", all of P. "diagonal", only diag(P), and variances 1/diag(P): of each parameter *conditionally* on
            all others being at the mode. They are never larger than the marginal variances diag(P⁻¹), and often far
            smaller.
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
            finite at `mode`; "ggn" without examples; a dense matrix that does not fit in memory; settings out of range.

        Warns
        -----
        UserWarning
            If the Newton decrement exceeds 0.1 nats: the position is not a mode. A saddle point has no gradient either
            and is caught by the exact dense Hessian only: a Gauss–Newton matrix is positive semidefinite everywhere.
        """
        _check_settings(posterior, structure, curvature, temperature, chunk)
        mode = _check_mode(posterior, find_mode(posterior) if mode is None else mode)
        cost, gradient = cost_and_gradient(posterior, mode, chunk)
        if not (math.isfinite(cost) and bool(torch.isfinite(gradient).all())):
            raise ValueError(f"at the mode the cost is {cost} and its gradient has norm {float(gradient.norm())}")
        precision = curvature_matrix(posterior, mode, curvature, diagonal=structure == "diagonal", chunk=chunk)
        factor = _factorise(precision.div_(temperature), posterior, curvature)
        decrement = 0.5 * float(_solve(factor, gradient / temperature).square().sum())
        if decrement > _TOLERATED:
            warnings.warn(
                f"the gradient at the mode is not zero: Newton decrement {decrement:.3g} nats (½ gᵀP⁻¹g), the minimum "
                f"of the quadratic is {math.sqrt(2 * decrement):.3g} standard deviations away; run find_mode longer or "
                "to a tighter tolerance",
                stacklevel=2,
            )
        return cls(posterior, mode, factor, structure, curvature, float(temperature), cost, decrement)

    @property
    def dim(self) -> int:
        """Number of parameters D."""
        return self.mode.numel()

    @property
    def mean(self) -> Float[Tensor, " dim"]:
        """The mode."""
        return self.mode

    @cached_property
    def covariance(self) -> Float[Tensor, "dim dim"] | Float[Tensor, " dim"]:
        """P⁻¹, `[dim, dim]`; with ``structure="diagonal"`` the conditional variances 1/diag(P), `[dim]`."""
        if self.structure == "diagonal":
            return self.factor.square().reciprocal()
        return torch.cholesky_inverse(self.factor)

    @property
    def precision(self) -> Float[Tensor, "dim dim"] | Float[Tensor, " dim"]:
        """P, or diag(P)."""
        return self.factor.square() if self.structure == "diagonal" else self.factor @ self.factor.mT

    @property
    def sd(self) -> Float[Tensor, " dim"]:
        """Standard deviation of each parameter: marginal for "dense", conditional for "diagonal"."""
        return (self.covariance if self.structure == "diagonal" else self.covariance.diagonal()).sqrt()

    @property
    def _log_det_precision(self) -> float:
        diagonal = self.factor if self.structure == "diagonal" else self.factor.diagonal()
        return 2 * float(diagonal.log().sum())

    def sample(self, n: int, seed: int = 0) -> Float[Tensor, "n dim"]:
        """Independent draws; row i depends on `seed` and i alone.

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
        if self.structure == "diagonal":
            scaled = noise / self.factor
        else:  # P = LLᵀ, so L⁻ᵀξ has covariance L⁻ᵀL⁻¹ = P⁻¹
            scaled = torch.linalg.solve_triangular(self.factor.mT, noise.mT, upper=True).mT
        return (self.mode + scaled).to(self.mode.dtype)

    def log_prob(self, position: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Log density of the Gaussian at flat positions (unconstrained for a `LogDensity`)."""
        if position.shape[-1:] != self.mode.shape:
            raise ValueError(f"positions must have shape [..., {self.dim}], got {tuple(position.shape)}")
        shift = position.to(self.factor) - self.mode
        whitened = shift * self.factor if self.structure == "diagonal" else shift @ self.factor
        return -0.5 * (whitened.square().sum(-1) + self.dim * math.log(2 * math.pi) - self._log_det_precision)

    @property
    def log_marginal_likelihood(self) -> float:
        """log p(data) ≈ −C(mode) + (D/2) log 2π − ½ log|P|, in nats; exact for a Gaussian posterior and dense P.

        A flat prior counts as density 1 and has no normaliser: the value then depends on the parameters' units, and
        only differences between models that share the flat part mean anything. For a `LogDensity` it is log ∫ exp(fn)
        over the constrained space.

        Raises
        ------
        ValueError
            If T ≠ 1: the tempered density's normaliser is not a marginal likelihood.
        """
        if self.temperature != 1.0:
            raise ValueError(f"the marginal likelihood belongs to temperature 1, this is a fit at {self.temperature}")
        return -self.cost + 0.5 * (self.dim * math.log(2 * math.pi) - self._log_det_precision)


def _check_settings(posterior: Target, structure: str, curvature: str, temperature: float, chunk: int | None) -> None:
    if structure not in ("dense", "diagonal"):
        raise ValueError(f'structure must be "dense" or "diagonal", got {structure!r}')
    if curvature not in ("ggn", "hessian"):
        raise ValueError(f'curvature must be "ggn" or "hessian", got {curvature!r}')
    if curvature == "ggn" and not isinstance(posterior, Posterior):
        raise ValueError(
            f"a {type(posterior).__name__} has no model outputs to build a Gauss–Newton matrix on; use "
            'curvature="hessian"'
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    matrix, memory = 8 * posterior.dim**2, _memory(posterior.device)
    if structure == "dense" and 2 * matrix > memory:
        raise ValueError(
            f"a dense Laplace approximation of {posterior.dim} parameters needs two matrices of {matrix / 2**30:.3g} "
            f'GiB, and {posterior.device} has {memory / 2**30:.3g} GiB; use structure="diagonal", or sample fewer '
            "parameters with Posterior(..., parameters=[patterns])"
        )


def _memory(device: torch.device) -> float:
    """Bytes of memory that the device has; infinite where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _check_mode(posterior: Target, mode: Tensor) -> Tensor:
    if mode.shape != (posterior.dim,):
        raise ValueError(f"mode must be one flat position of shape [{posterior.dim}], got {list(mode.shape)}")
    bad = int((~torch.isfinite(mode)).sum())
    if bad:
        raise ValueError(f"mode is not finite in {bad} of {posterior.dim} coordinates")
    return mode.detach().to(device=posterior.device, dtype=posterior.dtype)


def _factorise(precision: Tensor, posterior: Target, curvature: str) -> Tensor:
    """L or √diag(P), or an error where P is not positive definite beyond rounding."""
    bad = int((~torch.isfinite(precision)).sum())
    if bad:
        raise ValueError(f"the curvature at the mode is not finite in {bad} of {precision.numel()} numbers")
    if precision.ndim == 1:
        what, smallest, scale = "diagonal entry", float(precision.min()), float(precision.max())
        factor, sound = precision.sqrt(), smallest > 0
    else:
        factor, info = torch.linalg.cholesky_ex(precision)
        failed = int(info) != 0
        smallest = float(torch.linalg.eigvalsh(precision)[0]) if failed else _smallest_eigenvalue(factor)
        what, scale = "eigenvalue", float(precision.norm())
        # Rounding of the derivatives moves eigenvalues of a Hessian by up to `noise`, small ones of JᵀHJ by its square.
        noise = 10 * torch.finfo(posterior.dtype).eps
        rounding = (posterior.dim + 100) * torch.finfo(torch.float64).eps
        sound = not failed and smallest > (rounding + (noise**2 if curvature == "ggn" else noise)) * scale
    if sound:
        return factor
    remedy = "Data and prior leave some direction undetermined: "
    if curvature == "hessian":
        remedy = "The position is not a mode, or the density is flat there: run find_mode to a tighter tolerance, "
        remedy += 'use curvature="ggn" (a Posterior only), or '
    if posterior.dtype != torch.float64:
        remedy += "work in float64 (posterior.to(dtype=torch.float64)), or "
    raise ValueError(
        f"the precision at the mode is not positive definite: its smallest {what} is {smallest:.3g} on a scale of "
        f"{scale:.3g}. {remedy}give every parameter a proper prior or sample fewer parameters"
    )


def _smallest_eigenvalue(factor: Float[Tensor, "dim dim"]) -> float:
    """Smallest eigenvalue of LLᵀ by inverse iteration, which is sharp where that lies far below all others."""
    keys = chain_keys(0, torch.zeros(1, device=factor.device), INIT)
    vector = normals(keys, keys.new_zeros(()), len(factor), factor.dtype).mT
    size = vector.norm()
    for _ in range(5):
        vector = torch.cholesky_solve(vector / vector.norm(), factor)
        size = vector.norm()
    return 1 / float(size)


def _solve(factor: Tensor, vector: Float[Tensor, " dim"]) -> Float[Tensor, " dim"]:
    """L⁻¹ vector."""
    if factor.ndim == 1:
        return vector / factor
    return torch.linalg.solve_triangular(factor, vector[:, None], upper=False)[:, 0]
