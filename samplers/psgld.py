"""Preconditioned stochastic gradient Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .averages import newest_weight
from .metrics.diagonal import Diagonal
from .metrics.metric import PROBE
from .schedules import Schedule, at_step, check_fraction, check_lr, check_positive, check_temperature
from .target import Batch, Target, hessian_product
from .threefry import Noise

Adapt = Literal["warmup", "always"]


@dataclass
class PSGLDState:
    """State of every chain.

    Attributes
    ----------
    position
        ω.
    square
        V, the running average of ĝ².
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    step, num_warmup
        Number of steps made, and of steps of warm-up.
    """

    position: Float[Tensor, "chain dim"]
    square: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    step: Int[Tensor, ""]
    num_warmup: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class PSGLD:
    r"""SGLD preconditioned by root-mean-square gradients (Li et al. 2016), as RMSprop is.

    .. math::

        ω ← ω − ε M ĝ + \sqrt{2Tε/N}\, M^{1/2} ξ, \qquad M = \operatorname{diag} \frac1{κ + \sqrt V}, \qquad
        V ← αV + (1−α)\, ĝ^2

    V begins as a plain mean, which forgets where it started: the weight of step t is max(1 − α, 1/t).

    Target density with ``adapt="warmup"``: exp(−C/T) as ε → 0, as for `SGLD`, with εM for ε. Each chain learns its V in
    the first half of the warm-up; in the second V is frozen, and the chain forgets the too wide law of the first. On a
    quadratic cost of curvature λ in one dimension the variance is (T + εMNs²/2) / (Nλ(1 − εMλ/2)).

    **Approximate** with ``adapt="always"``, as published: V depends on the past, M and ω are correlated, and no local
    drift repairs that. In one dimension the law is exp(−C/T)/E[M|ω]; measured on N(0, 1) with the full data, κ = .05,
    α = .99 and ε = .01 the variance is 1.32, and 1.31 with Li's Γ. The bias shrinks where gradient noise dominates V or
    1/(1−α) is far longer than the chain's memory.

    Parameters
    ----------
    lr
        ε, or a schedule. Steps have the size of ε divided by typical gradients of the mean cost.
    temperature
        T ≥ 0.
    damping
        κ > 0 in M = 1/(κ + √V), in units of the gradient of the mean cost. Directions whose gradients are smaller are
        preconditioned by 1/κ.
    decay
        α in [0, 1).
    adapt
        ``"warmup"``: freeze V half-way through the warm-up. ``"always"``: as published.
    correction
        With ``adapt="always"``, add the published ε(T/N) Γ, Γᵢ = −(1−α) Mᵢᵢ² ĝᵢ Hᵢᵢ/√Vᵢ, with the diagonal of the
        Hessian from one random probe.

    Raises
    ------
    ValueError
        For settings out of range, and when sampling begins with ``adapt="warmup"`` and no warm-up.
    """

    lr: float | Schedule
    temperature: float = 1.0
    damping: float = 1e-5
    decay: float = 0.99
    adapt: Adapt = "warmup"
    correction: bool = False

    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_lr(self.lr)
        check_temperature(self.temperature)
        check_positive(damping=self.damping)
        check_fraction(decay=self.decay)
        if self.adapt not in get_args(Adapt):
            raise ValueError(f"adapt must be one of {get_args(Adapt)}, got {self.adapt!r}")
        if self.correction and self.adapt == "warmup":
            raise ValueError('correction=True is a part of adapt="always"; a frozen preconditioner needs none')

    @property
    def law(self) -> str | None:
        """What is drawn from, where that is not exp(−C/T)."""
        return None if self.adapt == "warmup" else "a wider law, as the preconditioner follows the chain's own past"

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Ask for a warm-up to learn V in."""
        if self.adapt == "warmup" and num_warmup == 0:
            raise ValueError(
                "V is learnt in the warm-up and then frozen, and there is no warm-up: give num_warmup, or "
                'adapt="always"'
            )

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> PSGLDState:
        """Start every chain at its position."""
        return PSGLDState(
            position=position.clone(),
            square=torch.zeros_like(position),
            gradient=torch.zeros_like(position),
            cost=position.new_zeros(position.shape[0]),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
            num_warmup=torch.full((), num_warmup, dtype=torch.int64, device=position.device),
        )

    def preconditioner(self, target: Target, state: PSGLDState, batch: Batch, noise: Noise) -> tuple[Diagonal, Any]:
        """G = κ + √V, as it stands."""
        return Diagonal(self.damping + state.square.sqrt()), None

    def step(self, target: Target, state: PSGLDState, batch: Batch, noise: Noise) -> PSGLDState:
        """ω ← ω − ε M ĝ [+ ε(T/N) Γ] + √(2Tε/N) M^½ ξ."""
        ε, heat = at_step(self.lr, state.step)
        T, N, ω = self.temperature * heat, target.num_data, state.position
        cost, ĝ = target.cost_and_gradient(ω, batch)

        rate = newest_weight(state.step, self.decay).to(ω)
        if self.adapt == "warmup":
            rate = torch.where(2 * state.step < state.num_warmup, rate, 0.0)
        V = torch.lerp(state.square, ĝ.square(), rate)
        M = 1 / (self.damping + V.sqrt())

        Γ = 0.0
        if self.correction:
            tiny = torch.finfo(V.dtype).tiny
            Γ = -rate * M**2 * ĝ * _hessian_diagonal(target, ω, batch, noise) / V.clamp_min(tiny).sqrt()
        ξ = noise.normal(target.dim)
        return PSGLDState(
            position=ω - ε * M * ĝ + ε * (T / N) * Γ + (2 * T * ε / N * M).sqrt() * ξ,
            square=V,
            gradient=ĝ,
            cost=cost,
            step=state.step + 1,
            num_warmup=state.num_warmup.clone(),
        )


def _hessian_diagonal(target: Target, position: Tensor, batch: Batch, noise: Noise) -> Float[Tensor, "chain dim"]:
    """Unbiased estimate v ∘ Hv of the diagonal of the mean cost's Hessian, v of random signs."""
    v = noise.rademacher(target.dim, PROBE)
    return v * hessian_product(target, position, v, batch)
