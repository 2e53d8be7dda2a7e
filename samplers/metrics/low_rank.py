"""Low-rank matrices plus damping, solved in the space of the few rows instead of that of the parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .dense import cholesky, eigh


@dataclass
class LowRank:
    r"""G = XᵀX + δI, δ > 0, X with m rows.

    By the Woodbury identity G⁻¹ = (I − Xᵀ(XXᵀ + δI)⁻¹X)/δ, which needs only the m × m factor of XXᵀ +
    δI.
    """

    rows: Float[Tensor, "chain rows dim"]
    cholesky: Float[Tensor, "chain rows rows"]
    damping: Float[Tensor, ""]

    @property
    def noise_dim(self) -> int:
        """D + m: a root of G with as many columns is known without an eigendecomposition."""
        return self.rows.shape[-1] + self.rows.shape[-2]

    def solve(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """(v − Xᵀ(XXᵀ + δI)⁻¹X v)/δ."""
        inner = torch.cholesky_solve(self.rows @ vector[..., None], self.cholesky)
        return (vector - (self.rows.mT @ inner)[..., 0]) / self.damping

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """XᵀX v + δv."""
        return (self.rows.mT @ (self.rows @ vector[..., None]))[..., 0] + self.damping * vector

    def factor(self, noise: Float[Tensor, "chain noise"]) -> Float[Tensor, "chain dim"]:
        """√δ ξ₁ + Xᵀξ₂."""
        own, of_rows = noise.split([self.rows.shape[-1], self.rows.shape[-2]], -1)
        return self.damping.sqrt() * own + (self.rows.mT @ of_rows[..., None])[..., 0]

    def sample_noise(self, noise: Float[Tensor, "chain noise"]) -> Float[Tensor, "chain dim"]:
        """G⁻¹(√δ ξ₁ + Xᵀξ₂)."""
        return self.solve(self.factor(noise))

    def trace(self, curvature: LowRankCurvature) -> Float[Tensor, " chain"]:
        """Σ over rows r of F, of rᵀG⁻¹r."""
        inner = torch.cholesky_solve(self.rows @ curvature.rows.mT, self.cholesky)
        solved = (curvature.rows - inner.mT @ self.rows) / self.damping
        return (curvature.rows * solved).sum((-2, -1))

    def log_det(self) -> Float[Tensor, " chain"]:
        """log|XXᵀ + δI| + (D − m) log δ."""
        num_rows, dim = self.rows.shape[-2:]
        return 2 * self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1) + (dim - num_rows) * self.damping.log()


@dataclass
class LowRankCurvature:
    """F = XᵀX."""

    rows: Float[Tensor, "chain rows dim"]

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """XᵀX v."""
        return (self.rows.mT @ (self.rows @ vector[..., None]))[..., 0]

    def scaled(self, factor: Tensor | float) -> LowRankCurvature:
        """A multiple."""
        return LowRankCurvature(torch.as_tensor(factor, dtype=self.rows.dtype).sqrt() * self.rows)

    def plus(self, other: LowRankCurvature) -> LowRankCurvature:
        """The sum: rows of both."""
        return LowRankCurvature(torch.cat((self.rows, other.rows), -2))

    def damped(self, damping: float) -> LowRank:
        """F + δI."""
        gram = self.rows @ self.rows.mT
        delta = torch.as_tensor(damping, dtype=gram.dtype, device=gram.device)
        return LowRank(
            self.rows, cholesky(gram + delta * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)), delta
        )

    def truncated(self, rank: int) -> LowRankCurvature:
        """The `rank` leading eigenvectors: X ← UᵀX from XXᵀ = UΛUᵀ (Le Roux et al. 2007); zeros if too few rows."""
        num_rows = self.rows.shape[-2]
        if rank >= num_rows:
            return LowRankCurvature(torch.nn.functional.pad(self.rows, (0, 0, 0, rank - num_rows)))
        vectors = eigh(self.rows @ self.rows.mT)[1][..., -rank:]  # the last are the largest
        # Rounding decides the signs of eigenvectors, and noise must not depend on it.
        largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
        return LowRankCurvature(torch.where(largest < 0, -vectors, vectors).mT @ self.rows)
