"""The stochastic gradient Nosé–Hoover thermostat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .schedules import Schedule, at_step, check_fraction, check_lr, check_positive
from .target import Batch, Target
from .threefry import Noise


@dataclass
class SGNHTState:
    """State of every chain.

    Attributes
    ----------
    position, velocity
        ω and the momentum p, of unit mass.
    friction
        ζ, in units of 1/h; negative while the chain is too cold.
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    kinetic_temperature
        N|p|²/D at the end of the step.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    velocity: Float[Tensor, "chain dim"]
    friction: Float[Tensor, " chain"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    kinetic_temperature: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class SGNHT:
    r"""Stochastic gradient Nosé–Hoover thermostat (Ding et al. 2014), integrated by the splitting BADODAB.

    .. math::

        p &← p − h ĝ(ω); \quad ω ← ω + \tfrac h2 p; \quad \mathrm D; \quad
        p ← e^{−ζh} p + \sqrt{\tfrac{AT}{N}\tfrac{1 − e^{−2ζh}}{ζ}}\, ξ; \quad \mathrm D; \quad ω ← ω + \tfrac h2 p

        \mathrm D&: \quad ζ ← ζ + \tfrac{h}{2τ^2} \left(\tfrac{N|p|^2}{DT} − 1\right)

    with h² = 2ε/(1+β) and A = −ln(β)/h, so that `lr` and `momentum` mean what they do in `SGHMC` (Leimkuhler & Shang
    2016 for the splitting). The friction ζ of a chain rises until its kinetic energy is that of T, which takes
    gradient noise of unknown size out again.

    Target density: exp(−C/T) as ε → 0, with gradient noise that has the same variance s² in all directions and at all
    positions whatever s² is; and then ζ ~ N(A + Nhs²/(2T), 1/(Dτ²)). **Approximate** where gradient noise differs by
    direction (the thermostat holds the mean over directions only), at a finite ε by O(ε), and where ζh is not small:
    on C = ω²/2 at h = 0.1 the variance is 0.988 at ζh = 0.24 and 0.966 at 0.41, and with more it is lost: keep h
    times the recorded ``friction`` below about 0.2, by a smaller `lr` or larger batches. The kinetic
    temperature is T by construction and proves nothing; look at the configurational one,
    `langevin.diagnostics.temperature`.

    Parameters
    ----------
    lr
        ε, or a schedule, which should be slow.
    temperature
        T > 0.
    momentum
        β in (0, 1), the momentum of `SGHMC` with friction A.
    thermostat_time
        τ > 0, in the units of time of h: how long ζ takes to respond. None: 1/A.

    Raises
    ------
    ValueError
        For settings out of range.
    """

    lr: float | Schedule
    temperature: float = 1.0
    momentum: float = 0.9
    thermostat_time: float | None = None

    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ("kinetic_temperature", "friction")
    absorbs_minibatch: ClassVar[bool] = True

    def __post_init__(self):
        check_lr(self.lr)
        check_fraction(momentum=self.momentum)
        check_positive(temperature=self.temperature, momentum=self.momentum)
        if self.thermostat_time is not None:
            check_positive(thermostat_time=self.thermostat_time)

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> SGNHTState:
        """Start every chain at its position, at rest, with ζ = A."""
        step = torch.zeros((), dtype=torch.int64, device=position.device)
        _, A, _ = self._constants(at_step(self.lr, step)[0])
        zero = position.new_zeros(position.shape[0])
        return SGNHTState(
            position=position.clone(),
            velocity=torch.zeros_like(position),
            friction=zero + A,
            gradient=torch.zeros_like(position),
            cost=zero.clone(),
            kinetic_temperature=zero.clone(),
            step=step,
        )

    def thermalise(self, target: Target, state: SGNHTState, noise: Noise) -> SGNHTState:
        """Draw p ~ N(0, T/N) and ζ ~ N(A, 1/(Dτ²)), their laws at stationarity with the full data."""
        _, _, τ = self._constants(at_step(self.lr, state.step)[0])
        return replace(
            state,
            velocity=(self.temperature / target.num_data) ** 0.5 * noise.normal(target.dim),
            friction=state.friction + noise.normal(1, stream=1)[:, 0] / (target.dim**0.5 * τ),
        )

    def step(self, target: Target, state: SGNHTState, batch: Batch, noise: Noise) -> SGNHTState:
        """One round of BADODAB."""
        ε, heat = at_step(self.lr, state.step)
        h, A, τ = self._constants(ε)
        T, N, D = self.temperature, target.num_data, target.dim
        cost, ĝ = target.cost_and_gradient(state.position, batch)

        def thermostat(ζ: Tensor, p: Tensor) -> Tensor:
            return ζ + h / (2 * τ**2) * (N * p.square().sum(-1) / (D * T) - 1)

        p = state.velocity - h * ĝ
        ω = state.position + 0.5 * h * p
        ζ = thermostat(state.friction, p)
        decay = torch.exp(-ζ * h)[:, None]
        p = decay * p + (A * T * heat / N * _relaxation(ζ, h)).sqrt()[:, None] * noise.normal(D)
        ζ = thermostat(ζ, p)
        return SGNHTState(
            position=ω + 0.5 * h * p,
            velocity=p,
            friction=ζ,
            gradient=ĝ,
            cost=cost,
            kinetic_temperature=N * p.square().mean(-1),
            step=state.step + 1,
        )

    def _constants(self, ε: Any) -> tuple[Any, Any, Any]:
        """h, A and τ."""
        β = self.momentum
        h = (2 * ε / (1 + β)) ** 0.5
        A = -torch.log(torch.as_tensor(β, dtype=torch.float64)) / h
        return h, A, 1 / A if self.thermostat_time is None else self.thermostat_time


def _relaxation(ζ: Tensor, h: Any) -> Tensor:
    """(1 − e^(−2ζh))/ζ, which is 2h at ζ = 0."""
    small = (ζ * h).abs() < 1e-6
    return torch.where(small, 2 * h * (1 - ζ * h), -torch.expm1(-2 * ζ * h) / torch.where(small, 1.0, ζ))
