"""Dense matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 256  # rows of a Gram matrix that are made together


@dataclass
class Dense:
    """A symmetric positive definite matrix by its Cholesky factor L, G = LLᵀ; NaN where there is none."""

    cholesky: Float[Tensor, "chain dim dim"]

    @property
    def noise_dim(self) -> int:
        """D."""
        return self.cholesky.shape[-1]

    def solve(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """L⁻ᵀ L⁻¹ v."""
        return torch.cholesky_solve(vector[..., None], self.cholesky)[..., 0]

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """L Lᵀ v."""
        return self.factor((self.cholesky.mT @ vector[..., None])[..., 0])

    def factor(self, noise: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """L ξ."""
        return (self.cholesky @ noise[..., None])[..., 0]

    def sample_noise(self, noise: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """L⁻ᵀ ξ."""
        return torch.linalg.solve_triangular(self.cholesky.mT, noise[..., None], upper=True)[..., 0]

    def log_det(self) -> Float[Tensor, " chain"]:
        """2 Σ log Lᵢᵢ."""
        return 2 * self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def trace(self, curvature: DenseCurvature) -> Float[Tensor, " chain"]:
        """Σ (G⁻¹ ∘ F)."""
        return (torch.cholesky_inverse(self.cholesky) * curvature.matrix).sum((-2, -1))


@dataclass
class DenseCurvature:
    """A symmetric matrix."""

    matrix: Float[Tensor, "chain dim dim"]

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """F v."""
        return (self.matrix @ vector[..., None])[..., 0]

    def scaled(self, factor: Tensor | float) -> DenseCurvature:
        """A multiple."""
        return DenseCurvature(factor * self.matrix)

    def plus(self, other: DenseCurvature) -> DenseCurvature:
        """The sum."""
        return DenseCurvature(self.matrix + other.matrix)

    def damped(self, damping: float) -> Dense:
        """F + δI."""
        return Dense(
            cholesky(
                self.matrix
                + damping * torch.eye(self.matrix.shape[-1], dtype=self.matrix.dtype, device=self.matrix.device)
            )
        )


def cholesky(matrix: Float[Tensor, "chain dim dim"]) -> Float[Tensor, "chain dim dim"]:
    """Cholesky factors; NaN for matrices that have none, which stops their chains and no others."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where((failed > 0)[..., None, None], torch.nan, factor)


def gram(rows: Float[Tensor, "chain row dim"]) -> Float[Tensor, "chain dim dim"]:
    """XᵀX, exactly symmetric: only blocks on and below the diagonal are multiplied out."""
    parts, ends = rows.split(_BLOCK, -1), range(_BLOCK, rows.shape[-1] + _BLOCK, _BLOCK)
    lower = [(part.mT @ rows[..., :end]).split(_BLOCK, -1) for part, end in zip(parts, ends, strict=True)]

    def block(i: int, j: int) -> Tensor:
        if i == j:
            return lower[i][i].tril() + lower[i][i].tril(-1).mT
        return lower[i][j] if i > j else lower[j][i].mT

    every = range(len(parts))
    return torch.cat([torch.cat([block(i, j) for j in every], -1) for i in every], -2)


def eigh(matrix: Float[Tensor, "*chain n n"]) -> tuple[Float[Tensor, "*chain n"], Float[Tensor, "*chain n n"]]:
    """Eigenvalues ≥ 0 and eigenvectors; NaN for matrices that are not finite, at which torch's eigh would raise."""
    finite = torch.isfinite(matrix).all(-1).all(-1)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    values, vectors = torch.linalg.eigh(torch.where(finite[..., None, None], matrix, identity))
    return torch.where(finite[..., None], values.clamp_min(0), torch.nan), vectors
