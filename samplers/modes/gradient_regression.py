"""Online gradient regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..schedules import Schedule, at_step, check_lr, check_positive
from ..target import Batch, Target
from ..threefry import INIT, Noise, chain_keys

# Relative to the largest: variances of θ below which a direction has not been explored, and curvatures that are none.
_UNEXPLORED, _FLAT = 1e-10, 1e-8
_SHRINK = 0.1  # exploration over the move of the model, both per coordinate


@dataclass
class GradientRegressionState:
    """State of every chain.

    Attributes
    ----------
    position
        θ.
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    basis
        The directions vᵢ, orthonormal rows.
    curvature, center
        λᵢ and pᵢ along them; NaN where too little is known.
    mean_position, mean_gradient
        ⟨θ⟩ and ⟨g⟩, exponential averages of weights that sum to 1.
    covariance, cross
        Cov(θ, θ) and Cov(g, θ) in the basis, times the weight.
    weight
        1 + β + β² + … + βᵗ.
    exploration
        Standard deviation of the next random move, per coordinate.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    basis: Float[Tensor, "chain direction dim"]
    curvature: Float[Tensor, "chain direction"]
    center: Float[Tensor, "chain direction"]
    mean_position: Float[Tensor, "chain dim"]
    mean_gradient: Float[Tensor, "chain dim"]
    covariance: Float[Tensor, "chain direction direction"]
    cross: Float[Tensor, "chain direction direction"]
    weight: Float[Tensor, ""]
    exploration: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class GradientRegression:
    r"""Parabolas fitted to the gradients that were seen anyway (Duda 2019, arXiv:1901.11457).

    .. math:: θ ← θ + α \sum_i \mathrm{sign}(λ_i)\,(p_i − θ·v_i)\, v_i − ε\, g_⊥

    In a few directions vᵢ the gradient is regressed linearly on the position, g·vᵢ ≈ λᵢ(θ·vᵢ − pᵢ): λ = (⟨gθ⟩ −
    ⟨g⟩⟨θ⟩)/(⟨θ²⟩ − ⟨θ⟩²), p = ⟨θ⟩ − ⟨g⟩/λ; for all of them together, H = Cov(g, θ) Cov(θ, θ)⁻¹, symmetrised and
    diagonalised at every step, with the vᵢ rotated to its eigenvectors. Averages are exponential with weights that sum
    to 1 (divided by 1 − βᵗ): others would draw ⟨θ⟩ and ⟨g⟩ to zero and with them λ to nonsense. They are kept as means
    and deviations from them, which is the same and does not lose digits far from the origin.

    Minima attract, λ > 0, and saddles and maxima repel, λ < 0. What is not along known directions, g_⊥, makes plain
    gradient steps. Of more than `rank` parameters the directions follow the gradients: every `refresh_every` steps,
    and in each of the first `rank`, the one with the least mean gradient (and no negative curvature) gives way to what
    of the mean gradient is outside of all.

    Good for noisy gradients: no Hessian-vector products, O(Dd²) a step. **Approximate** where the cost is no parabola
    over the memory of 1/(1−β) steps, and in H of a subspace that is not one of eigenvectors. The cost may rise.

    Parameters
    ----------
    lr
        ε, or a schedule.
    rate
        α in (0, 1], or a schedule: how much of the way to pᵢ is made in a step.
    rank
        Number of directions d (D, if less); d²D numbers a step.
    decay
        β in (0, 1). The memory 1/(1−β) should be longer than d steps.
    exploration
        Standard deviation per coordinate of random moves that are added until the model moves, in units of ω; then they
        shrink with its moves. They are what finds negative curvature where the gradient has no part in it.
    max_step
        The longest move along a direction, in units of ω: where λ is small p is far and badly known.
    refresh_every
        Steps between two changes of direction, for D > d.

    Raises
    ------
    ValueError
        For settings out of range.
    """

    lr: float | Schedule
    rate: float | Schedule = 0.5
    rank: int = 10
    decay: float = 0.95
    exploration: float = 1e-3
    max_step: float = 1.0
    refresh_every: int = 5

    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_lr(self.lr)
        check_positive(exploration=self.exploration, max_step=self.max_step, decay=self.decay)
        if self.decay >= 1:
            raise ValueError(f"decay must lie strictly between 0 and 1, got {self.decay!r}")
        if not isinstance(self.rate, Schedule):
            check_positive(rate=self.rate)
            if self.rate > 1:
                raise ValueError(f"rate is a part of the way to the extremum, in (0, 1], got {self.rate!r}")
        for name in ("rank", "refresh_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}")

    def init(
        self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0
    ) -> GradientRegressionState:
        """Start every chain at its position, with any directions."""
        chains, dim = position.shape
        d, device = min(self.rank, dim), position.device
        basis = torch.eye(dim, dtype=position.dtype, device=device).expand(chains, dim, dim).clone()
        if d < dim:
            zero = torch.zeros((), dtype=torch.int64, device=device)
            key = chain_keys(0, torch.zeros(1, dtype=torch.int64, device=device), INIT)  # the same for every chain
            random = Noise(key, zero, position.dtype).normal(d * dim).reshape(dim, d)
            basis = torch.linalg.qr(random).Q.mT.expand(chains, d, dim).clone()
        return GradientRegressionState(
            position=position.clone(),
            gradient=torch.zeros_like(position),
            cost=position.new_zeros(chains),
            basis=basis,
            curvature=position.new_full((chains, d), torch.nan),
            center=position.new_full((chains, d), torch.nan),
            mean_position=torch.zeros_like(position),
            mean_gradient=torch.zeros_like(position),
            covariance=position.new_zeros(chains, d, d),
            cross=position.new_zeros(chains, d, d),
            weight=position.new_zeros(()),
            exploration=position.new_full((chains,), self.exploration),
            step=torch.zeros((), dtype=torch.int64, device=device),
        )

    def unsettled(self, state: GradientRegressionState) -> Bool[Tensor, " chain"]:
        """Whether too little has been seen, or negative curvature: a vanishing gradient may be a saddle's then."""
        λ = state.curvature.nan_to_num(0.0)
        young = state.step <= 2 * state.basis.shape[1] + 1
        return young | (λ < -1e-6 * λ.abs().amax(-1, keepdim=True)).any(-1)

    def step(
        self, target: Target, state: GradientRegressionState, batch: Batch, noise: Noise
    ) -> GradientRegressionState:
        """θ ← θ + α Σ sign(λᵢ)(pᵢ − θ·vᵢ)vᵢ − ε g_⊥."""
        (ε, _), (α, _) = at_step(self.lr, state.step), at_step(self.rate, state.step)
        θ, β = state.position, self.decay
        cost, g = target.cost_and_gradient(θ, batch)
        weight, mean_θ, mean_g, cov, cross = self._averages(state, θ, g, β)
        v, λ, cov, cross = _diagonalised(state.basis, cov, cross)

        known = torch.isfinite(λ)
        p = _along(v, mean_θ) - _along(v, mean_g) / λ
        way = (p - _along(v, θ)).nan_to_num(0.0).clamp(-self.max_step, self.max_step)
        move = α * torch.where(known, λ.sign() * way, 0.0)
        g_rest = g - _combine(v, torch.where(known, _along(v, g), 0.0))
        moves = _combine(v, move) - ε * g_rest
        new = θ + moves + state.exploration[:, None] * noise.normal(target.dim)

        young = state.step < v.shape[1] + 1
        shrunk = (_SHRINK / target.dim**0.5 * moves.norm(dim=-1)).clamp_max(self.exploration)
        due = young | (state.step % self.refresh_every == 0)
        if v.shape[1] < target.dim and bool(due):
            v, cov, cross = _turned(v, λ, mean_g, cov, cross)
        return GradientRegressionState(
            position=new,
            gradient=g,
            cost=cost,
            basis=v,
            curvature=λ,
            center=torch.where(known, p, torch.nan),
            mean_position=mean_θ,
            mean_gradient=mean_g,
            covariance=cov,
            cross=cross,
            weight=weight,
            exploration=torch.where(young, self.exploration, shrunk),
            step=state.step + 1,
        )

    @staticmethod
    def _averages(
        state: GradientRegressionState, θ: Tensor, g: Tensor, β: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Count θ and g in: ⟨x⟩ = Σ βᵗ⁻ˢ xₛ / Σ βᵗ⁻ˢ, and deviations from it (West 1979)."""
        weight = β * state.weight + 1
        from_θ, from_g = θ - state.mean_position, g - state.mean_gradient
        mean_θ, mean_g = state.mean_position + from_θ / weight, state.mean_gradient + from_g / weight
        first = (state.weight > 0).to(θ)  # the first has nothing to deviate from
        a, b, c = (_along(state.basis, x) for x in (from_θ, θ - mean_θ, g - mean_g))
        cov = β * state.covariance + first * b[..., :, None] * a[..., None, :]
        cross = β * state.cross + first * c[..., :, None] * a[..., None, :]
        return weight, mean_θ, mean_g, cov, cross


def _along(v: Float[Tensor, "chain direction dim"], x: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain direction"]:
    return (v @ x[..., None])[..., 0]


def _combine(
    v: Float[Tensor, "chain direction dim"], x: Float[Tensor, "chain direction"]
) -> Float[Tensor, "chain dim"]:
    return (x[:, None] @ v)[:, 0]


def _diagonalised(v: Tensor, cov: Tensor, cross: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """H = Cov(g,θ) Cov(θ,θ)⁻¹ where θ has moved, symmetrised; v and both covariances rotated to its eigenvectors."""
    cov = 0.5 * (cov + cov.mT)
    finite = torch.isfinite(cov).flatten(1).all(-1) & torch.isfinite(cross).flatten(1).all(-1)
    safe_cov, safe_cross = (torch.where(finite[:, None, None], x, 0.0) for x in (cov, cross))
    variance, axes = torch.linalg.eigh(safe_cov)
    explored = variance > torch.maximum(
        _UNEXPLORED * variance[:, -1:], torch.as_tensor(torch.finfo(cov.dtype).tiny, dtype=cov.dtype)
    )
    inverse = torch.where(explored, 1 / variance, 0.0)
    H = axes.mT @ safe_cross @ axes * inverse[:, None]  # in the axes, where the unexplored ones are zero columns
    H = H * explored[..., :, None]
    H = axes @ (0.5 * (H + H.mT)) @ axes.mT
    λ, Q = torch.linalg.eigh(H)
    inside = ((Q.mT @ axes) ** 2 * explored[:, None]).sum(-1) > 0.5
    known = inside & (λ.abs() > _FLAT * λ.abs().amax(-1, keepdim=True))
    v = Q.mT @ v
    v = 1.5 * v - 0.5 * (v @ v.mT) @ v  # rounding would wear orthonormality out
    return v, torch.where(known, λ, torch.nan), Q.mT @ cov @ Q, Q.mT @ cross @ Q


def _turned(v: Tensor, λ: Tensor, mean_g: Tensor, cov: Tensor, cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exchange the direction with the least mean gradient for what the directions miss of the mean gradient."""
    outside = mean_g
    for _ in range(2):
        outside = outside - _combine(v, _along(v, outside))
    size = outside.norm(dim=-1, keepdim=True)
    relevance = torch.where(λ < 0, torch.inf, _along(v, mean_g).abs())
    least, where = relevance.min(-1)
    worth = (least < size[:, 0]) & (size[:, 0] > 1e-12 * mean_g.norm(dim=-1))
    one = torch.nn.functional.one_hot(where, v.shape[1]).bool() & worth[:, None]
    v = torch.where(one[..., None], (outside / size)[:, None], v)
    kept = ~(one[:, :, None] | one[:, None, :])
    return v, cov * kept, cross * kept
