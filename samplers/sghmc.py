"""Stochastic gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .metrics.diagonal import Diagonal
from .schedules import Schedule, at_step, check_fraction, check_lr, check_temperature
from .target import Batch, Target
from .threefry import Noise


@dataclass
class SGHMCState:
    """State of every chain.

    Attributes
    ----------
    position, velocity
        ω and v, which points against the motion as the momentum buffer of `torch.optim.SGD` does.
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    kinetic_temperature
        (2εN/(1+β)) |v|²/D, which averages to T.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    velocity: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    kinetic_temperature: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class SGHMC:
    r"""Stochastic gradient Hamiltonian Monte Carlo (Chen et al. 2014), as SGD with momentum and noise.

    .. math::

        b = v + ĝ, \quad n ∼ \mathcal N\!\left(0, \tfrac{(1-β)T}{2εN} - \tfrac{s^2}{4}\right), \qquad
        ω ← ω − ε (b − n), \qquad v ← β b − (1+β)\, n

    This is the splitting BAOAB of underdamped Langevin dynamics (Leimkuhler & Matthews 2013) in the variables of SGD:
    with time step h, h² = 2ε/(1+β), friction γ, β = exp(−γh), and momentum p = −hv for unit mass. At T = 0 it is
    `torch.optim.SGD(momentum=β)`; at β = 0 the method of Leimkuhler & Matthews. Chen's Eq. 15, in which η = ε/N and
    α = 1−β, is the explicit Euler method, too hot by 1/(1 − ελ/(2(1+β))).

    Target density: exp(−C/T) as ε → 0. On a quadratic cost of curvature λ with gradient noise of variance s² that is
    not declared, the variance is T/(Nλ) + ε(1+β)s²/(λ(1−β)(2(1+β) − ελ)): **exact** with the full data at every
    stable ε, ελ < 2(1+β). **Approximate** with minibatches, which add about εNs²/(2(1−β)) to the temperature, 1/(1−β)
    times as much as in `SGLD`; and beyond quadratic costs at a finite ε, by O(ε).

    Parameters
    ----------
    lr
        ε, multiplies the mean gradient as in `torch.optim.SGD`; or a schedule, which should be slow against the
        1/(1−β) steps that v remembers.
    temperature
        T ≥ 0. At 0 this is SGD with momentum.
    momentum
        β in [0, 1).
    gradient_noise
        s² ≥ 0, variance of every component of ĝ as far as it is known (Chen's B̂); as much less is injected.

    Raises
    ------
    ValueError
        For settings out of range; when sampling begins, if `gradient_noise` alone is more than T allows, with the
        largest lr that would do.
    """

    lr: float | Schedule
    temperature: float = 1.0
    momentum: float = 0.9
    gradient_noise: float = 0.0

    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ("kinetic_temperature",)

    def __post_init__(self):
        check_lr(self.lr)
        check_temperature(self.temperature)
        check_fraction(momentum=self.momentum)
        if not 0 <= self.gradient_noise < float("inf"):
            raise ValueError(f"gradient_noise is a variance and must not be negative, got {self.gradient_noise}")

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Compare the declared gradient noise with the heat that is wanted."""
        ε = float(at_step(self.lr, torch.tensor(0))[0])
        heat = 2 * (1 - self.momentum) * self.temperature / target.num_data
        if self.gradient_noise * ε > heat:
            raise ValueError(
                f"gradient noise of variance {self.gradient_noise} at lr = {ε:.3g} is hotter than temperature "
                f"{self.temperature} by itself: use an lr of at most {heat / self.gradient_noise:.3g}, or less momentum"
            )

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> SGHMCState:
        """Start every chain at its position, at rest."""
        return SGHMCState(
            position=position.clone(),
            velocity=torch.zeros_like(position),
            gradient=torch.zeros_like(position),
            cost=position.new_zeros(position.shape[0]),
            kinetic_temperature=position.new_zeros(position.shape[0]),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
        )

    def thermalise(self, target: Target, state: SGHMCState, noise: Noise) -> SGHMCState:
        """Draw v ~ N(0, (1+β)T/(2εN)), the law that it has at stationarity."""
        ε, heat = at_step(self.lr, state.step)
        variance = (1 + self.momentum) * self.temperature * heat / (2 * ε * target.num_data)
        return replace(state, velocity=variance**0.5 * noise.normal(target.dim))

    def preconditioner(self, target: Target, state: SGHMCState, batch: Batch, noise: Noise) -> tuple[Diagonal, Any]:
        """(1−β) I: what the minibatch's noise meets over the memory of v."""
        return Diagonal(torch.ones_like(state.position) * (1 - self.momentum)), None

    def step(self, target: Target, state: SGHMCState, batch: Batch, noise: Noise) -> SGHMCState:
        """ω ← ω − ε (b − n), v ← β b − (1+β) n, with b = v + ĝ."""
        ε, heat = at_step(self.lr, state.step)
        β, T, N = self.momentum, self.temperature * heat, target.num_data
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        variance = torch.as_tensor((1 - β) * T / (2 * ε * N) - self.gradient_noise / 4, dtype=torch.float64)
        n = variance.clamp_min(0).sqrt() * noise.normal(target.dim)
        b = state.velocity + ĝ
        v = β * b - (1 + β) * n
        return SGHMCState(
            position=state.position - ε * (b - n),
            velocity=v,
            gradient=ĝ,
            cost=cost,
            kinetic_temperature=2 * ε * N / (1 + β) * v.square().mean(-1),
            step=state.step + 1,
        )
