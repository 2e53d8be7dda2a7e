"""Stochastic gradient Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .schedules import Schedule, at_step, check_lr, check_temperature
from .target import Batch, Target
from .threefry import Noise


@dataclass
class SGLDState:
    """State of every chain.

    Attributes
    ----------
    position
        ω.
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class SGLD:
    r"""Stochastic gradient Langevin dynamics (Welling & Teh 2011, Eq. 4).

    .. math:: ω ← ω − ε ĝ + \sqrt{2Tε/N}\, ξ

    with ĝ the minibatch gradient of the mean cost and ξ standard normal. Welling & Teh's ε is 2ε/N here.

    Target density: exp(−C/T) as ε → 0. **Approximate** at a finite ε, in two known ways: on a quadratic cost of
    curvature λ with gradient noise of variance s² the variance is (T + εNs²/2) / (Nλ(1 − ελ/2)), that is, minibatch
    noise adds εNs²/2 to the temperature and discretisation divides by 1 − ελ/2. Steps with ελ ≥ 2 diverge.

    Parameters
    ----------
    lr
        ε, multiplies the mean gradient as in `torch.optim.SGD`; or a schedule (`Polynomial`, `Cyclical`).
    temperature
        T ≥ 0. At 0 this is SGD.

    Raises
    ------
    ValueError
        If `lr` is not positive or `temperature` is negative.
    """

    lr: float | Schedule
    temperature: float = 1.0

    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_lr(self.lr)
        check_temperature(self.temperature)

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> SGLDState:
        """Start every chain at its position."""
        return SGLDState(
            position=position.clone(),
            gradient=torch.zeros_like(position),
            cost=position.new_zeros(position.shape[0]),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
        )

    def step(self, target: Target, state: SGLDState, batch: Batch, noise: Noise) -> SGLDState:
        """ω ← ω − ε ĝ + √(2Tε/N) ξ."""
        ε, heat = at_step(self.lr, state.step)
        T, N = self.temperature * heat, target.num_data
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        ξ = noise.normal(target.dim)
        ω = state.position - ε * ĝ + (2 * T * ε / N) ** 0.5 * ξ
        return SGLDState(position=ω, gradient=ĝ, cost=cost, step=state.step + 1)
