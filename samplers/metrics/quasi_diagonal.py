"""Quasi-diagonal matrices: every weight is coupled to the bias of its unit (Marceau-Caron & Ollivier 2017).

Of a matrix F the diagonal Fᵢᵢ and the border F₀ᵢ, 0 the bias of i's unit, are kept. With rᵢ = F₀ᵢ/F₀₀ and
dᵢ = Fᵢᵢ − F₀ᵢ²/F₀₀,

    G = (1 0; r I) diag(F₀₀, d) (1 rᵀ; 0 I),

which agrees with F where F is kept and whose inverse is 0 elsewhere: given its bias, a unit's weights are independent.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class QuasiDiagonal:
    """G by its triangular factors; NaN where it is not positive definite.

    Attributes
    ----------
    pivots
        F₀₀ for biases and parameters without one, dᵢ for weights.
    ratios
        rᵢ for weights, 0 elsewhere.
    bias_of
        Index of the bias of every weight's unit, elsewhere of the parameter itself.
    """

    pivots: Float[Tensor, "chain dim"]
    ratios: Float[Tensor, "chain dim"]
    bias_of: Int[Tensor, "chain dim"]

    @property
    def noise_dim(self) -> int:
        """D."""
        return self.pivots.shape[-1]

    def solve(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """uᵢ = (vᵢ − rᵢv₀)/dᵢ, u₀ = v₀/F₀₀ − Σ rᵢuᵢ."""
        return self._to_biases((vector - self.ratios * vector.gather(-1, self.bias_of)) / self.pivots, -self.ratios)

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """With u₀ = F₀₀(v₀ + Σ rᵢvᵢ): u₀, and dᵢvᵢ + rᵢu₀ for weights."""
        return self._to_weights(self.pivots * self._to_biases(vector, self.ratios))

    def factor(self, noise: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """√F₀₀ ξ₀, and √dᵢ ξᵢ + rᵢ√F₀₀ ξ₀ for weights."""
        return self._to_weights(self.pivots.sqrt() * noise)

    def sample_noise(self, noise: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """uᵢ = ξᵢ/√dᵢ, u₀ = ξ₀/√F₀₀ − Σ rᵢuᵢ."""
        return self._to_biases(noise / self.pivots.sqrt(), -self.ratios)

    def log_det(self) -> Float[Tensor, " chain"]:
        """log F₀₀ + Σ log dᵢ."""
        return self.pivots.log().sum(-1)

    def trace(self, curvature: QuasiDiagonalCurvature) -> Float[Tensor, " chain"]:
        """Σ over units of F₀₀/G₀₀ + Σ (Fᵢᵢ − 2rᵢF₀ᵢ + rᵢ²F₀₀)/dᵢ; G⁻¹ is 0 where F is not kept."""
        own, bias = curvature.diagonal, curvature.diagonal.gather(-1, self.bias_of)
        return ((own - 2 * self.ratios * curvature.border + self.ratios**2 * bias) / self.pivots).sum(-1)

    def _to_weights(self, vector: Tensor) -> Tensor:
        return vector + self.ratios * vector.gather(-1, self.bias_of)

    def _to_biases(self, vector: Tensor, ratios: Tensor) -> Tensor:
        return vector.scatter_add(-1, self.bias_of, ratios * vector)


@dataclass
class QuasiDiagonalCurvature:
    """What is kept of F.

    Attributes
    ----------
    diagonal
        Fᵢᵢ.
    border
        F₀ᵢ for weights whose unit has a bias, 0 elsewhere.
    bias_of
        Index of the bias of every weight's unit, elsewhere of the parameter itself.
    """

    diagonal: Float[Tensor, "chain dim"]
    border: Float[Tensor, "chain dim"]
    bias_of: Int[Tensor, "chain dim"]

    @classmethod
    def of_rows(cls, rows: Float[Tensor, "chain row dim"], bias_of: Int[Tensor, " dim"]) -> QuasiDiagonalCurvature:
        """What is kept of XᵀX."""
        border = (rows * rows[..., bias_of]).sum(1)
        diagonal, is_own = rows.square().sum(1), bias_of == bias_of.new_ones(len(bias_of)).cumsum(0) - 1
        return cls(diagonal, border.masked_fill(is_own, 0.0), bias_of.expand(len(rows), -1))

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """G v at δ = 0."""
        return self.damped(0.0).multiply(vector)

    def scaled(self, factor: Tensor | float) -> QuasiDiagonalCurvature:
        """A multiple."""
        return QuasiDiagonalCurvature(factor * self.diagonal, factor * self.border, self.bias_of)

    def plus(self, other: QuasiDiagonalCurvature) -> QuasiDiagonalCurvature:
        """The sum of what is kept."""
        return QuasiDiagonalCurvature(self.diagonal + other.diagonal, self.border + other.border, self.bias_of)

    def damped(self, damping: float) -> QuasiDiagonal:
        """G of F + δI: δ joins the diagonal before r and d are formed."""
        diagonal = self.diagonal + damping
        ratios = self.border / diagonal.gather(-1, self.bias_of)
        pivots = diagonal - ratios * self.border
        return QuasiDiagonal(pivots.where(pivots > 0, float("nan")), ratios, self.bias_of)
