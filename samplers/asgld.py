"""Adaptively preconditioned stochastic gradient Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .schedules import Schedule, at_step, check_fraction, check_lr
from .target import Batch, Target
from .threefry import Noise


@dataclass
class ASGLDState:
    """State of every chain.

    Attributes
    ----------
    position
        ω.
    mean, variance
        μ and C, running averages of ĝ and of its squared deviations.
    gradient, cost
        ĝ and the estimate of the cost that the last step was made with, at the position before it.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    mean: Float[Tensor, "chain dim"]
    variance: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class ASGLD:
    r"""Adaptively preconditioned SGLD (Bhardwaj 2019, Algorithm 1): a **noisy optimiser, not a posterior sampler**.

    .. math::

        μ &← ρμ + (1−ρ)\, ĝ, \qquad C ← ρC + (1−ρ)(ĝ − μ)(ĝ − μ_{\text{before}})

        ω &← ω − ε\,(ĝ + ψ ζ), \qquad ζ ∼ \mathcal N(μ, C)

    elementwise, with μ = C = 0 at the start. At ψ = 0 this is SGD. The noise grows with the variance of the gradients
    and no T appears: the learning rate is really ε(1+ψ), and for slow directions the law is that of temperature
    (εNs²/2) [(1+ψ)² + 2ρψ²/(1+ρ)]/(1+ψ), s² being the variance of ĝ. Runs are reported as those of an optimiser.

    Parameters
    ----------
    lr
        ε, or a schedule.
    scale
        ψ ≥ 0, of the noise; the paper's "noise".
    decay
        ρ in [0, 1), of the averages; the paper's "momentum".

    Raises
    ------
    ValueError
        For settings out of range.
    """

    lr: float | Schedule
    scale: float = 0.1
    decay: float = 0.9

    temperature: ClassVar[float] = 0.0
    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_lr(self.lr)
        check_fraction(decay=self.decay)
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"scale must be zero or positive and finite, got {self.scale}")

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> ASGLDState:
        """Start every chain at its position."""
        zero = torch.zeros_like(position)
        return ASGLDState(
            position=position.clone(),
            mean=zero.clone(),
            variance=zero.clone(),
            gradient=zero.clone(),
            cost=position.new_zeros(position.shape[0]),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
        )

    def step(self, target: Target, state: ASGLDState, batch: Batch, noise: Noise) -> ASGLDState:
        """ω ← ω − ε (ĝ + ψζ), ζ ~ N(μ, C)."""
        ε, heat = at_step(self.lr, state.step)
        ρ, ψ = self.decay, self.scale
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        μ = ρ * state.mean + (1 - ρ) * ĝ
        # (ĝ − μ)(ĝ − μ_before) = ρ(ĝ − μ_before)², which rounding cannot make negative.
        C = ρ * state.variance + (1 - ρ) * ρ * (ĝ - state.mean).square()
        ζ = μ + heat**0.5 * C.sqrt() * noise.normal(target.dim)
        return ASGLDState(
            position=state.position - ε * (ĝ + ψ * ζ),
            mean=μ,
            variance=C,
            gradient=ĝ,
            cost=cost,
            step=state.step + 1,
        )
