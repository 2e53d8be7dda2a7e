"""Gradient descent whose memory and learning rate follow from its own statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .schedules import check_positive
from .target import Batch, Target
from .threefry import Noise


@dataclass
class SecondOrderSGDState:
    """State of every chain.

    Attributes
    ----------
    position
        ω.
    mean, square
        g̃ and s̃, running averages of ĝ and ĝ².
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    step_size
        Mean of η over parameters.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    mean: Float[Tensor, "chain dim"]
    square: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    step_size: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class SecondOrderSGD:
    r"""The "complete algorithm" of McAllester's slides (TTIC 31230, 2018), with its batch sizes counted in batches.

    .. math::

        n^* = \max\!\left(1, \frac{λ_B \tildeσ^2}{\tilde g^2 + ϵ}\right), \qquad
        \tilde g ← \tilde g + r(ĝ − \tilde g), \quad \tilde s ← \tilde s + r(ĝ^2 − \tilde s), \quad
        \tildeσ^2 = \max(\tilde s − \tilde g^2, 0)

        ω ← ω − η ĝ, \qquad η = \frac{1}{2 L n^*}, \qquad r = \frac{1}{\min(t, \max(K, n^*))}

    for each parameter by itself; n* = K and η = 0 in the first K steps. n* is the number of minibatches whose mean
    tells the sign of the gradient well enough to take a whole step 1/(2L), of which each of them gets its share. As
    gradients vanish in their noise, η → 0 by itself.

    The slides' σ̃² is the variance of *minibatch* gradients, so their B* counts batches, and their rate B/B* is right at
    B = 1 only; their η = λ_η g̃²/σ̃² is λ_η λ_B/n* here, at most 1/(2L). K bounds the memory from below, without which
    σ̃ = 0 after n* = 1 would never recover.

    **An optimiser, not a posterior sampler.** The bound behind it holds in one dimension for a second derivative of at
    most L; treating parameters independently is a heuristic.

    Parameters
    ----------
    smoothness
        L > 0, the largest second derivative of the mean cost.
    window
        K ≥ 2, in steps.
    confidence
        λ_B > 0; 16 is derived from two standard errors.
    epsilon
        ϵ > 0, in squared units of the gradient of the mean cost.

    Raises
    ------
    ValueError
        For settings out of range.
    """

    smoothness: float
    window: int = 64
    confidence: float = 16.0
    epsilon: float = 1e-12

    temperature: ClassVar[float] = 0.0
    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ("step_size",)

    def __post_init__(self):
        check_positive(smoothness=self.smoothness, confidence=self.confidence, epsilon=self.epsilon)
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 2:
            raise ValueError(f"window must be a whole number of steps, at least 2, got {self.window!r}")

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> SecondOrderSGDState:
        """Start every chain at its position."""
        zero = torch.zeros_like(position)
        return SecondOrderSGDState(
            position=position.clone(),
            mean=zero.clone(),
            square=zero.clone(),
            gradient=zero.clone(),
            cost=position.new_zeros(position.shape[0]),
            step_size=position.new_zeros(position.shape[0]),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
        )

    def step(self, target: Target, state: SecondOrderSGDState, batch: Batch, noise: Noise) -> SecondOrderSGDState:
        """ω ← ω − ĝ/(2Ln*), n* = max(1, λ_B σ̃²/(g̃² + ϵ)) from the batches before this one."""
        K, t = self.window, state.step + 1
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        n = self.num_batches(state)
        r = 1 / torch.minimum(t.to(n), n.clamp_min(K))
        η = torch.where(t > K, 1 / (2 * self.smoothness * n), 0.0)
        return SecondOrderSGDState(
            position=state.position - η * ĝ,
            mean=torch.lerp(state.mean, ĝ, r),
            square=torch.lerp(state.square, ĝ.square(), r),
            gradient=ĝ,
            cost=cost,
            step_size=η.mean(-1),
            step=t,
        )

    def num_batches(self, state: SecondOrderSGDState) -> Float[Tensor, "chain dim"]:
        """n* of every parameter."""
        g2 = state.mean.square()
        variance = (state.square - g2).clamp_min(0)
        n = (self.confidence * variance / (g2 + self.epsilon)).clamp_min(1)
        return torch.where(state.step < self.window, float(self.window), n)
