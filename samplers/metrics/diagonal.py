"""Diagonal matrices."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass
class Diagonal:
    """A diagonal matrix of positive elements; others give NaN."""

    diagonal: Float[Tensor, "chain dim"]

    @property
    def noise_dim(self) -> int:
        """D."""
        return self.diagonal.shape[-1]

    def solve(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """v / G."""
        return vector / self.diagonal

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """G v."""
        return self.diagonal * vector

    def factor(self, noise: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """√G ξ."""
        return self.diagonal.sqrt() * noise

    def sample_noise(self, noise: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """ξ / √G."""
        return noise / self.diagonal.sqrt()

    def log_det(self) -> Float[Tensor, " chain"]:
        """Σ log Gᵢᵢ."""
        return self.diagonal.log().sum(-1)

    def trace(self, curvature: DiagonalCurvature) -> Float[Tensor, " chain"]:
        """Σ F/G."""
        return (curvature.diagonal / self.diagonal).sum(-1)


@dataclass
class DiagonalCurvature:
    """A diagonal matrix."""

    diagonal: Float[Tensor, "chain dim"]

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """F v."""
        return self.diagonal * vector

    def scaled(self, factor: Tensor | float) -> DiagonalCurvature:
        """A multiple."""
        return DiagonalCurvature(factor * self.diagonal)

    def plus(self, other: DiagonalCurvature) -> DiagonalCurvature:
        """The sum."""
        return DiagonalCurvature(self.diagonal + other.diagonal)

    def damped(self, damping: float) -> Diagonal:
        """F + δ; NaN where that is not positive."""
        diagonal = self.diagonal + damping
        return Diagonal(diagonal.where(diagonal > 0, float("nan")))
