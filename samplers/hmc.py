"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011), the library's reference for truth on small problems.

Energy H = U(ω) + ½|p|², U = C/T; p is the momentum divided by the square root of the diagonal mass W, and s = W^(−1/2),
so that p ~ N(0, I). A step draws p and follows Hamilton's equations by L leapfrog steps of size η,

    p ← p − ½ η s ∇U(ω);   ω ← ω + η s p;   p ← p − ½ η s ∇U(ω),

and accepts the end with probability min(1, e^(−ΔH)). The law is π_T ∝ exp(−C/T) exactly, whatever η, W and L.

During warm-up η and W are adapted, for each chain by itself, and then frozen: η by dual averaging (Hoffman & Gelman
2014, JMLR 15, section 3.2) of min(1, e^(−ΔH)) averaged over the trajectory, which is less noisy than its value at the
end; 1/W to the variances of the draws in windows of doubling length (the schedule of Stan: a first and a last stretch
are for η alone). The trajectory's length ηL, in units of posterior standard deviations, is drawn anew at every step: at
a fixed one, directions whose period it matches would not mix. Nothing else is approximate; the rounding of C enters ΔH,
so use float64 where the type's precision times |C|/T is not far below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .control import while_loop
from .target import Batch, Target
from .threefry import Noise, words

# Random streams of one step.
_MOMENTUM, _LENGTH, _ACCEPT = 0, 1, 2

# Dual averaging: γ, t₀, κ. Hoffman & Gelman have γ = 0.05, whose wider swings of η cost twice the warm-up here, where
# small steps mean long trajectories.
_GAMMA, _DELAY, _DECAY = 0.1, 10.0, 0.75

# Warm-up schedule in steps: η alone, first window, η alone at the end; in proportion if the warm-up is shorter.
_FIRST, _WINDOW, _LAST = 75, 25, 50

# η at the start, in units of the starting mass: some ten leapfrog steps while directions still differ in scale.
_START = 0.2

# η is rounded to 32 values per factor e. Dual averaging would otherwise feed rounding errors back into η and double
# them at every early step, until a chain run alone no longer resembled the same chain among others.
_RESOLUTION = 32


@dataclass
class HMCState:
    """What a chain carries from step to step; all tensors.

    Attributes
    ----------
    position, gradient, cost
        ω, ∇C/N and C, all at ω.
    step, num_warmup
        Steps done, and steps of warm-up.
    inverse_mass
        1/W.
    log_step, log_step_average, log_step_center, shortfall, num_updates
        log η; dual averaging's mean of it, the value it shrinks to, mean shortfall of acceptance, number of updates.
    window_count, window_mean, window_squares
        Number, mean and sum of squared deviations of the positions in the present window.
    accept, step_size, num_leapfrog, energy_error
        Of the last step: acceptance probability, η, L and ΔH (the largest finite number for a diverged trajectory).
    kinetic_temperature
        T|p|²/D at the end of the last step, p that of the trajectory's end if it was accepted, else of its start.
    """

    position: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    step: Int[Tensor, ""]
    num_warmup: Int[Tensor, ""]
    inverse_mass: Float[Tensor, "chain dim"]
    log_step: Float[Tensor, " chain"]
    log_step_average: Float[Tensor, " chain"]
    log_step_center: Float[Tensor, " chain"]
    shortfall: Float[Tensor, " chain"]
    num_updates: Float[Tensor, " chain"]
    window_count: Float[Tensor, " chain"]
    window_mean: Float[Tensor, "chain dim"]
    window_squares: Float[Tensor, "chain dim"]
    accept: Float[Tensor, " chain"]
    step_size: Float[Tensor, " chain"]
    num_leapfrog: Int[Tensor, " chain"]
    energy_error: Float[Tensor, " chain"]
    kinetic_temperature: Float[Tensor, " chain"]


@dataclass(frozen=True, kw_only=True)
class HMC:
    """Hamiltonian Monte Carlo on the full data, chains vectorised.

    Parameters
    ----------
    temperature
        T > 0 of the target exp(−C/T).
    target_accept
        Acceptance probability, averaged over the trajectory, that η is adapted to, in (0, 1). On curved posteriors
        0.9 draws as much per gradient as 0.8 and diverges less often; raise it where trajectories still diverge.
    trajectory
        Mean length ηL of a trajectory, in posterior standard deviations (as far as W knows them); each step draws a
        length between half and one and a half times this. Gaussian directions decorrelate best at about π/2; longer
        pays where parameters are strongly correlated.
    max_leapfrog
        Upper limit of L.
    step_size
        Starting step size η of the leapfrog, in the parameters' units. Default: each chain doubles or halves it until
        the acceptance probability of one leapfrog step crosses 0.8 (Hoffman & Gelman 2014, algorithm 4).

    Raises
    ------
    ValueError
        For settings out of range, and in `init` for a start where the cost or its gradient is not finite.
    """

    temperature: float = 1.0
    target_accept: float = 0.9
    trajectory: float = 2.0
    max_leapfrog: int = 256
    step_size: float | None = None

    gradient_at: ClassVar[str] = "current"
    stats: ClassVar[tuple[str, ...]] = ("accept", "step_size", "num_leapfrog", "energy_error", "kinetic_temperature")

    def __post_init__(self):
        for name in ("temperature", "trajectory", "step_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0 < self.target_accept < 1:
            raise ValueError(f"target_accept must lie between 0 and 1, got {self.target_accept}")
        if self.max_leapfrog < 1:
            raise ValueError(f"max_leapfrog must be at least 1, got {self.max_leapfrog}")

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Refuse minibatches."""
        if batch_size is not None:
            raise ValueError("HMC's accept step needs the cost of the full data: use batch_size=None")

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int) -> HMCState:
        """Evaluate the start and choose a first step size."""
        cost, gradient = target.cost_and_gradient(position)
        bad = ~(torch.isfinite(cost) & torch.isfinite(gradient).all(-1))
        if bad.any():
            chains = bad.nonzero()[:, 0].tolist()
            raise ValueError(f"the cost or its gradient is not finite where chains {chains} start; use another init")
        zero = torch.zeros_like(cost)
        if self.step_size is None:
            log_found = self._find_step(target, position, gradient, cost)
        else:
            log_found = zero + math.log(self.step_size)
        log_start = zero + math.log(_START)
        return HMCState(
            position=position.clone(),
            gradient=gradient,
            cost=cost,
            step=torch.zeros((), dtype=torch.int64, device=position.device),
            num_warmup=torch.full((), num_warmup, dtype=torch.int64, device=position.device),
            # An isotropic mass takes up the parameters' scale: η s is the step size found.
            inverse_mass=(2 * (log_found - log_start)).exp()[:, None].expand_as(position).clone(),
            log_step=log_start.clone(),
            log_step_average=log_start.clone(),
            log_step_center=log_start + math.log(10.0),
            shortfall=zero.clone(),
            num_updates=zero.clone(),
            window_count=zero.clone(),
            window_mean=torch.zeros_like(position),
            window_squares=torch.zeros_like(position),
            accept=zero.clone(),
            step_size=log_found.exp(),
            num_leapfrog=torch.zeros_like(cost, dtype=torch.int64),
            energy_error=zero.clone(),
            kinetic_temperature=zero.clone(),
        )

    def step(self, target: Target, state: HMCState, batch: Batch, noise: Noise) -> HMCState:
        """One trajectory of every chain."""
        step_size = ((state.log_step * _RESOLUTION).round() / _RESOLUTION).exp()
        length = self.trajectory * (0.5 + noise.uniform(1, _LENGTH)[:, 0])
        num_leapfrog = (length / step_size).ceil().clamp(1, self.max_leapfrog).to(torch.int64)
        momentum = noise.normal(target.dim, _MOMENTUM).contiguous()  # a compiled loop's carry may not change strides
        scale = state.inverse_mass.sqrt()
        start = (state.position, momentum, state.gradient, state.cost)
        end = self._leapfrog(target, start, step_size, scale, num_leapfrog)
        position, end_momentum, gradient, cost, mean_accept = end

        kinetic_change = 0.5 * (end_momentum.square() - momentum.square()).sum(-1)
        energy_error = (cost - state.cost) / self.temperature + kinetic_change
        worst = torch.finfo(energy_error.dtype).max
        energy_error = torch.where(torch.isfinite(energy_error), energy_error, worst)  # diverged: certain rejection
        accept = torch.exp(-energy_error.clamp(min=0))
        accepted = noise.uniform(1, _ACCEPT)[:, 0] <= accept

        position = torch.where(accepted[:, None], position, state.position)
        last_momentum = torch.where(accepted[:, None], end_momentum, momentum)
        return HMCState(
            position=position,
            gradient=torch.where(accepted[:, None], gradient, state.gradient),
            cost=torch.where(accepted, cost, state.cost),
            step=state.step + 1,
            num_warmup=state.num_warmup.clone(),
            **self._adapt(state, position, mean_accept),
            accept=accept,
            step_size=step_size,
            num_leapfrog=num_leapfrog,
            energy_error=energy_error,
            kinetic_temperature=self.temperature * last_momentum.square().mean(-1),
        )

    def _leapfrog(
        self,
        target: Target,
        start: tuple[Tensor, Tensor, Tensor, Tensor],
        step_size: Float[Tensor, " chain"],
        scale: Float[Tensor, "chain dim"],
        num_leapfrog: Int[Tensor, " chain"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Move (ω, p, ∇C/N, C) of each chain by its own number of steps; chains that are done, or lost, wait.

        The fifth tensor is the mean over the trajectory of min(1, e^(−ΔH)).
        """
        force = -target.num_data / self.temperature * scale  # times ∇C/N: −s ∇U
        position, momentum, gradient, cost = start
        energy = cost / self.temperature + 0.5 * momentum.square().sum(-1)

        def running(remaining: Tensor, *_: Tensor) -> Bool[Tensor, ""]:
            return (remaining > 0).any()

        def advance(remaining: Tensor, position: Tensor, momentum: Tensor, gradient: Tensor, _: Tensor, total: Tensor):
            moving = remaining > 0
            η = torch.where(moving, step_size, 0.0)[:, None]
            momentum = momentum + 0.5 * η * force * gradient
            position = position + η * scale * momentum
            cost, gradient = target.cost_and_gradient(position)
            momentum = momentum + 0.5 * η * force * gradient
            energy_error = cost / self.temperature + 0.5 * momentum.square().sum(-1) - energy
            accept = torch.exp(-energy_error.clamp(min=0)).nan_to_num(0.0)
            remaining = torch.where(torch.isfinite(cost), remaining - 1, 0)
            return remaining, position, momentum, gradient, cost, total + torch.where(moving, accept, 0.0)

        carry = (num_leapfrog, position, momentum, gradient, cost, torch.zeros_like(cost))
        _, position, momentum, gradient, cost, total = while_loop(running, advance, carry)
        return position, momentum, gradient, cost, total / num_leapfrog

    def _adapt(self, state: HMCState, position: Tensor, accept: Tensor) -> dict[str, Tensor]:
        """Warm-up's part of the state: dual averaging of η at every step, the mass at the end of each window."""
        warming = state.step < state.num_warmup
        in_window, window_ends = _schedule(state.step, state.num_warmup)

        num_updates = state.num_updates + 1
        weight = 1 / (num_updates + _DELAY)
        shortfall = (1 - weight) * state.shortfall + weight * (self.target_accept - accept)
        log_step = state.log_step_center - num_updates.sqrt() / _GAMMA * shortfall
        weight = num_updates**-_DECAY
        average = weight * log_step + (1 - weight) * state.log_step_average

        count = state.window_count + in_window
        deviation = position - state.window_mean
        mean = state.window_mean + torch.where(in_window, deviation / count.clamp(min=1)[:, None], 0.0)
        squares = state.window_squares + torch.where(in_window, deviation * (position - mean), 0.0)

        inverse_mass = _regularised_variance(count, squares, state.inverse_mass)
        # The stiffest direction limits η; the change of mass moves it by at most the smallest change of scale.
        rescaled = average - 0.5 * (inverse_mass / state.inverse_mass).log().amin(-1)

        def select(otherwise: Tensor, at_end: Tensor | float, before: Tensor) -> Tensor:
            """Value during warm-up, at the end of one of its windows, and once it is over."""
            return torch.where(warming, torch.where(window_ends, at_end, otherwise), before)

        last = state.step + 1 == state.num_warmup
        return {
            "inverse_mass": torch.where(window_ends, inverse_mass, state.inverse_mass),
            "log_step": select(torch.where(last, average, log_step), rescaled, state.log_step),
            "log_step_average": select(average, rescaled, state.log_step_average),
            "log_step_center": select(state.log_step_center, rescaled + math.log(10.0), state.log_step_center),
            "shortfall": select(shortfall, 0.0, state.shortfall),
            "num_updates": select(num_updates, 0.0, state.num_updates),
            "window_count": torch.where(window_ends, 0.0, count),
            "window_mean": torch.where(window_ends, 0.0, mean),
            "window_squares": torch.where(window_ends, 0.0, squares),
        }

    def _find_step(self, target: Target, position: Tensor, gradient: Tensor, cost: Tensor) -> Float[Tensor, " chain"]:
        """Return log η at which one leapfrog step's acceptance probability crosses 0.8, for unit mass."""
        # Every chain tries the same fixed signs as momentum, as long as a normal draw: no chain's own numbers are used.
        key, first = (torch.zeros(shape, dtype=torch.int32, device=position.device) for shape in ((1, 2), ()))
        signs = words(key, first, target.dim)
        momentum = (1.0 - 2.0 * (signs & 1)).to(position.dtype).expand_as(position)
        one = torch.ones_like(cost, dtype=torch.int64)

        def accepts(log_step: Tensor) -> Bool[Tensor, " chain"]:
            start = (position, momentum, gradient, cost)
            _, end, _, end_cost, _ = self._leapfrog(target, start, log_step.exp(), torch.ones_like(position), one)
            energy_error = (end_cost - cost) / self.temperature + 0.5 * (end.square() - momentum.square()).sum(-1)
            return energy_error <= -math.log(0.8)  # False for NaN

        octaves = torch.zeros_like(cost)
        doubling = accepts(octaves * math.log(2.0))
        direction = 2.0 * doubling.to(cost.dtype) - 1.0
        searching = torch.ones_like(doubling)
        for _ in range(60):
            octaves = octaves + torch.where(searching, direction, 0.0)
            searching = searching & (accepts(octaves * math.log(2.0)) == doubling)
            if not searching.any():
                break
        return (octaves - doubling.to(cost.dtype)) * math.log(2.0)  # from either side the last that is accepted


def _schedule(step: Int[Tensor, ""], num_warmup: Int[Tensor, ""]) -> tuple[Bool[Tensor, ""], Bool[Tensor, ""]]:
    """Whether this step belongs to a window, and whether a window ends with it.

    Windows of _WINDOW · 2ᵏ steps follow one another; one is stretched to the end if the next would not fit.
    """
    short = num_warmup < _FIRST + _WINDOW + _LAST
    begin = torch.where(short, (0.15 * num_warmup).to(torch.int64), _FIRST)
    end = num_warmup - torch.where(short, (0.1 * num_warmup).to(torch.int64), _LAST)
    enough = num_warmup >= 20
    done = step + 1 - begin
    blocks = torch.div(done, _WINDOW, rounding_mode="floor") + 1  # 2ᵏ at the end of the k-th window, which is followed
    doubles = (done > 0) & (done % _WINDOW == 0) & (blocks & (blocks - 1) == 0)  # by one of _WINDOW · 2ᵏ steps
    fits = step + 1 + _WINDOW * blocks <= end
    in_window = enough & (done > 0) & (step < end)
    return in_window, in_window & ((doubles & fits) | (step + 1 == end))


def _regularised_variance(count: Tensor, squares: Tensor, before: Tensor) -> Tensor:
    """Variance of n positions, drawn by 5/(n+5) towards a thousandth of its geometric mean over parameters.

    Stan draws towards 0.001, which presumes parameters of order 1. A parameter that never moved keeps its value.
    """
    variance = torch.where(squares > 0, squares / (count - 1).clamp(min=1)[:, None], before)
    typical = variance.log().mean(-1, keepdim=True).exp()
    weight = (count / (count + 5))[:, None]
    return weight * variance + (1 - weight) * 1e-3 * typical
