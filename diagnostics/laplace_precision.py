"""The precision P of a Gaussian in the structures that `Laplace` has, factorised once: P = (Σᵢ Jᵢᵀ Hᵢ Jᵢ + ∇²R)/T.

Every structure has a root P = KKᵀ and offers it in the three ways that a Gaussian is used in: Kᵀx, whose squared length
is xᵀPx (densities); K⁻¹x, whose squared length is xᵀP⁻¹x (variances of linear functions); K⁻ᵀξ, which for standard
normal ξ has covariance P⁻¹ (draws).

Of a layer with K-FAC factors S ⊗ A the prior's precision diag(c ⊗ d), c for its output units and d for its inputs, is
added exactly:

    S⊗A + diag(c⊗d) = W (S̃⊗Ã + 1) W,   W = diag(c⊗d)^½,   S̃ = diag(c)^−½ S diag(c)^−½,   Ã = diag(d)^−½ A diag(d)^−½,

whose middle is diagonal in the eigenvectors of S̃ and Ã (for c = d = 1: Ritter, Botev & Barber, "A scalable Laplace
approximation for neural networks", ICLR 2018, who damp each factor instead; Immer et al., "Improving predictions of
Bayesian neural nets via local linearization", AISTATS 2021, who do not).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers.metrics.kronecker import Kronecker, KroneckerCurvature, join, restore, split
from ..samplers.threefry import INIT, chain_keys, normals

Vector = Float[Tensor, " dim"]
Rows = Float[Tensor, "*batch dim"]
Likelihood = Float[Tensor, "dim dim"] | Vector | KroneckerCurvature
"""The likelihood's part of the curvature: a matrix, its diagonal, or Kronecker factors."""


class Precision(Protocol):
    """P of one structure, float64."""

    def whiten(self, vectors: Rows) -> Rows:
        """Kᵀx: |Kᵀx|² = xᵀPx."""
        ...

    def spread(self, vectors: Rows) -> Rows:
        """K⁻¹x: |K⁻¹x|² = xᵀP⁻¹x."""
        ...

    def colour(self, noise: Rows) -> Rows:
        """K⁻ᵀξ, of covariance P⁻¹."""
        ...

    def matrix(self) -> Float[Tensor, "dim dim"] | Vector:
        """P, or its diagonal where it is diagonal."""
        ...

    def covariance(self) -> Float[Tensor, "dim dim"] | Vector:
        """P⁻¹, or its diagonal where it is diagonal."""
        ...

    def variances(self) -> Vector:
        """Diagonal of P⁻¹."""
        ...

    def log_det(self) -> float:
        """log |P|."""
        ...


@dataclass(frozen=True, eq=False)
class DensePrecision:
    """P = LLᵀ by its lower Cholesky factor L, `[dim, dim]`."""

    factor: Float[Tensor, "dim dim"]

    def whiten(self, vectors: Rows) -> Rows:
        """Lᵀx."""
        return vectors @ self.factor

    def spread(self, vectors: Rows) -> Rows:
        """L⁻¹x."""
        flat = vectors.reshape(-1, len(self.factor))
        return torch.linalg.solve_triangular(self.factor, flat.mT, upper=False).mT.reshape(vectors.shape)

    def colour(self, noise: Rows) -> Rows:
        """L⁻ᵀξ."""
        flat = noise.reshape(-1, len(self.factor))
        return torch.linalg.solve_triangular(self.factor.mT, flat.mT, upper=True).mT.reshape(noise.shape)

    def matrix(self) -> Float[Tensor, "dim dim"]:
        """LLᵀ."""
        return self.factor @ self.factor.mT

    def covariance(self) -> Float[Tensor, "dim dim"]:
        """L⁻ᵀL⁻¹."""
        return torch.cholesky_inverse(self.factor)

    def variances(self) -> Vector:
        """Diagonal of P⁻¹."""
        return self.covariance().diagonal()

    def log_det(self) -> float:
        """2 Σ log Lᵢᵢ."""
        return 2 * float(self.factor.diagonal().log().sum())


@dataclass(frozen=True, eq=False)
class DiagonalPrecision:
    """P = diag(f²), `[dim]`."""

    factor: Vector

    def whiten(self, vectors: Rows) -> Rows:
        """f∘x."""
        return vectors * self.factor

    def spread(self, vectors: Rows) -> Rows:
        """x/f."""
        return vectors / self.factor

    def colour(self, noise: Rows) -> Rows:
        """ξ/f."""
        return noise / self.factor

    def matrix(self) -> Vector:
        """f²."""
        return self.factor.square()

    def covariance(self) -> Vector:
        """1/f²."""
        return self.factor.square().reciprocal()

    def variances(self) -> Vector:
        """1/f²."""
        return self.covariance()

    def log_det(self) -> float:
        """2 Σ log fᵢ."""
        return 2 * float(self.factor.log().sum())


@dataclass(frozen=True, eq=False)
class KroneckerPrecision:
    """P = W M W with M a Kronecker product plus a multiple of the identity for each layer, and W diagonal.

    Attributes
    ----------
    inner
        M, by its eigenvectors.
    scale
        Diagonal of W, in the order of the flat position.
    """

    inner: Kronecker
    scale: Vector

    def whiten(self, vectors: Rows) -> Rows:
        """M^½ W x."""
        return self._each(Kronecker.factor, vectors * self.scale)

    def spread(self, vectors: Rows) -> Rows:
        """M^−½ W⁻¹ x."""
        return self._each(Kronecker.sample_noise, vectors / self.scale)

    def colour(self, noise: Rows) -> Rows:
        """W⁻¹ M^−½ ξ."""
        return self._each(Kronecker.sample_noise, noise) / self.scale

    def matrix(self) -> Float[Tensor, "dim dim"]:
        """P as a whole, zero between layers."""
        rows = self.whiten(torch.eye(len(self.scale), dtype=self.scale.dtype, device=self.scale.device))
        return rows @ rows.mT

    def covariance(self) -> Float[Tensor, "dim dim"]:
        """P⁻¹ as a whole, zero between layers."""
        rows = self.spread(torch.eye(len(self.scale), dtype=self.scale.dtype, device=self.scale.device))
        return rows @ rows.mT

    def variances(self) -> Vector:
        """Diagonal of P⁻¹, without the matrix: (U∘U) Λ⁻¹ (V∘V)ᵀ for each layer, over W²."""
        inner = self.inner
        blocks, outside = split(inner.eigenvalues.reciprocal(), inner.outputs, inner.inputs)
        parts = [U.square() @ B @ V.square().mT for U, B, V in zip(inner.outputs, blocks, inner.inputs, strict=True)]
        return restore(join(parts, outside), inner.order)[0] / self.scale.square()

    def log_det(self) -> float:
        """Σ log Λ + 2 Σ log W."""
        return float(self.inner.log_det()) + 2 * float(self.scale.log().sum())

    def _each(self, method, vectors: Rows) -> Rows:
        flat = vectors.reshape(-1, len(self.scale))
        inner = replace(self.inner, order=self.inner.order.expand(len(flat), -1))
        return method(inner, flat).reshape(vectors.shape)


def factorise(
    likelihood: Likelihood,
    prior: Float[Tensor, "dim dim"] | Vector,
    *,
    temperature: float = 1.0,
    noise: float = 0.0,
    remedy: str = "",
) -> Precision:
    """(likelihood + prior)/T, factorised.

    Parameters
    ----------
    likelihood
        Curvature of −log p(data | ω). A matrix or diagonal is overwritten.
    prior
        ∇²R; a vector is a diagonal.
    temperature
        T.
    noise
        Relative size of an eigenvalue that rounding of the derivatives could have made.
    remedy
        What to do about a P that is not positive definite, for the error.

    Raises
    ------
    ValueError
        For a curvature that is not finite, a P that is not positive definite beyond rounding, and a prior that cannot
        be added to Kronecker factors.
    """
    if isinstance(likelihood, KroneckerCurvature):
        return _factorise_kronecker(likelihood, prior, temperature, noise, remedy)
    precision = likelihood.div_(temperature)
    (precision.diagonal() if prior.ndim < precision.ndim else precision).add_(prior / temperature)
    _check_finite(precision)
    if precision.ndim == 1:
        smallest = float(precision.min())
        _check_positive(smallest > 0, "diagonal entry", smallest, float(precision.max()), remedy)
        return DiagonalPrecision(precision.sqrt())
    factor, info = torch.linalg.cholesky_ex(precision)
    failed, scale = int(info) != 0, float(precision.norm())
    smallest = float(torch.linalg.eigvalsh(precision)[0]) if failed else _smallest_eigenvalue(factor)
    sound = not failed and smallest > _rounding(len(precision), noise) * scale
    _check_positive(sound, "eigenvalue", smallest, scale, remedy)
    return DensePrecision(factor)


def _factorise_kronecker(
    curvature: KroneckerCurvature, prior: Tensor, temperature: float, noise: float, remedy: str
) -> KroneckerPrecision:
    order = curvature.order[0]
    if prior.ndim == 2:
        raise ValueError(f"the prior's precision is not diagonal, and {_NO_PRODUCT}")
    blocks, outside = split((prior / temperature)[None, order], curvature.outputs, curvature.inputs)
    outputs, inputs, scales, added = [], [], [], []
    for S, A, block in zip(curvature.outputs, curvature.inputs, blocks, strict=True):
        _check_finite(torch.cat((S.flatten(), A.flatten())))
        c, d, one = _outer_factors(block[0])
        outputs.append(S / temperature / (c[:, None] * c).sqrt())
        inputs.append(A / (d[:, None] * d).sqrt())
        scales.append((c[:, None] * d).sqrt()[None])
        added.append(torch.full_like(block, one))
    _check_finite(curvature.outside)
    whitened = KroneckerCurvature(tuple(outputs), tuple(inputs), curvature.outside / temperature, curvature.order)
    inner = whitened.damped(0.0)  # NaN stands for eigenvalues that are zero
    values = inner.eigenvalues.nan_to_num(0.0) + join(added, outside)
    smallest, largest = float(values.min()), float(values.max())
    sound = smallest >= 1 or smallest > _rounding(len(order), noise) * largest  # ≥ 1: a proper prior everywhere
    _check_positive(sound, "eigenvalue", smallest, largest, remedy)
    scale = restore(join(scales, torch.ones_like(outside)), curvature.order)[0]
    return KroneckerPrecision(replace(inner, eigenvalues=values), scale)


_NO_PRODUCT = (
    "Kronecker factors take a precision exactly only where in every layer it is (one number per output unit) × (one "
    "per input), as of Normal priors with one scale for the weights of a layer and one for its biases: use such a "
    'prior, or structure="dense" or "diagonal"'
)


def _outer_factors(block: Float[Tensor, "out homogeneous"]) -> tuple[Tensor, Tensor, float]:
    """Return c, d and 1 with block = c dᵀ; ones and 0 for a flat prior."""
    if not bool(block.any()):
        return torch.ones_like(block[:, 0]), torch.ones_like(block[0]), 0.0
    c, d = block[:, 0] / block[0, 0], block[0]
    if not (bool((block > 0).all()) and torch.allclose(block, c[:, None] * d, rtol=1e-8, atol=0.0)):
        raise ValueError(
            f"a layer's prior precision runs from {float(block.min()):.3g} to {float(block.max()):.3g}, and is no "
            f"product, and {_NO_PRODUCT}"
        )
    return c, d, 1.0


def _check_finite(curvature: Tensor) -> None:
    bad = int((~torch.isfinite(curvature)).sum())
    if bad:
        raise ValueError(f"the curvature at the mode is not finite in {bad} of {curvature.numel()} numbers")


def _check_positive(sound: bool, what: str, smallest: float, scale: float, remedy: str) -> None:
    if not sound:
        raise ValueError(
            f"the precision at the mode is not positive definite: its smallest {what} is {smallest:.3g} on a scale of "
            f"{scale:.3g}. {remedy}"
        )


def _rounding(dim: int, noise: float) -> float:
    return (dim + 100) * torch.finfo(torch.float64).eps + noise


def _smallest_eigenvalue(factor: Float[Tensor, "dim dim"]) -> float:
    """Smallest eigenvalue of LLᵀ by inverse iteration, which is sharp where that lies far below all others."""
    keys = chain_keys(0, torch.zeros(1, device=factor.device), INIT)
    vector = normals(keys, keys.new_zeros(()), len(factor), factor.dtype).mT
    size = vector.norm()
    for _ in range(5):
        vector = torch.cholesky_solve(vector / vector.norm(), factor)
        size = vector.norm()
    return 1 / float(size)
