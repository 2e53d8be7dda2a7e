"""Settings for a run, from a short pilot: lr, batch size, thinning and warm-up, each with its reason.

Both biases of a stochastic-gradient step grow in proportion to lr: its length widens the variance along curvature λ by
1/(1 − ελ/2), and minibatch noise adds k ε (1/B − 1/N) to the temperature. The number of steps that a chain needs to
forget falls as 1/lr. So the lr to take is the largest whose biases are within the tolerance, and the batch to take is
the smallest that does not force a smaller lr.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers import data as data_
from ..samplers.batches import Batches
from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from ..samplers.sampling import sample
from ..samplers.starts import Init, starting_positions
from ..samplers.target import Target
from ..samplers.temperature import batch_heat
from ..samplers.threefry import INIT, chain_keys
from .assessment import symmetric
from .convergence import ess
from .ensemble import evenly_spaced
from .rules import num, rounded_up
from .step_size import JUDGED, MOMENTUM, StepSize, curvature, preconditioner, step_size
from .thermometer import Temperature, temperature

STIFFEST = 0.2  # share of the limit of stability that steps may take: variance 1/(1 − 0.2), a quarter more, at worst
DRAWS = 500  # to be kept of each chain
ENOUGH = 400.0  # effective draws wanted of all chains together
FORGET = 10.0  # autocorrelation times of warm-up
_NOISE_BATCH = 64


@dataclass(frozen=True)
class Suggestion:
    """Settings that a pilot speaks for.

    Attributes
    ----------
    sampler
        The one that was given, with the suggested lr.
    batch_size, thinning, num_warmup, num_samples, num_chains
        For `sample`; `batch_size` is None for all the data.
    steps
        Steps per chain in all.
    autocorrelation
        Steps that an independent draw takes at the suggested lr, of the slowest quantity seen. **Approximate**: a pilot
        sees no direction slower than itself, so this is a lower bound.
    temperature
        Measured over the second half of the pilot, at its lr.
    step
        The pilot's step, judged.
    reasons
        One sentence for each setting.
    """

    sampler: Any
    batch_size: int | None
    thinning: int
    num_warmup: int
    num_samples: int
    num_chains: int
    autocorrelation: float
    temperature: Temperature
    step: StepSize
    reasons: list[str]

    @property
    def steps(self) -> int:
        """Steps per chain in all."""
        return self.num_warmup + self.num_samples * self.thinning

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments for ``sample(posterior, suggestion.sampler, **suggestion.settings)``."""
        names = ("batch_size", "thinning", "num_warmup", "num_samples", "num_chains")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        lines = [f"sample(posterior, {self.sampler}, {given})", f"  {self.steps:,} steps a chain"]
        return "\n".join([*lines, *(f"  {reason}" for reason in self.reasons)])


def suggest(
    posterior: Target,
    sampler: Any,
    *,
    batch_size: int | None = None,
    tolerance: float = 0.05,
    num_chains: int = 4,
    pilot_steps: int = 1000,
    init: Init = None,
    seed: int = 0,
) -> Suggestion:
    """Suggest settings for a run.

    Curvature and gradient noise are measured where chains start, a first pilot is run with what follows from them, and
    both are measured anew where it ends, for a second pilot, and for what is suggested where that ends. Give chains
    that start far from the posterior a longer pilot.

    Parameters
    ----------
    posterior
        The target.
    sampler
        `SGLD`, `PSGLD` (``adapt="warmup"``), `SGHMC` or `SGNHT`; its lr does not matter, and is replaced.
    batch_size
        To be used; None lets the pilot choose.
    tolerance
        Share of the temperature that step length and minibatch noise may add, half of it each. Independently of it the
        variance along the largest curvature may grow by no more than a quarter.
    num_chains, init, seed
        See `sample`.
    pilot_steps
        Steps of each of the two pilots.

    Raises
    ------
    ValueError
        For other samplers and settings out of range, or if chains explode although curvature allows the step.
    """
    name = type(sampler).__name__
    if name not in JUDGED or getattr(sampler, "adapt", "warmup") == "always":
        raise ValueError(
            f"step sizes of {name} cannot be suggested; those of {', '.join(JUDGED)} can (PSGLD with "
            'adapt="warmup"). HMC finds its own in the warm-up'
        )
    if not sampler.temperature > 0:
        raise ValueError(f"at temperature {sampler.temperature} nothing is sampled; settings are suggested for T > 0")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie strictly between 0 and 1, got {tolerance}")
    if pilot_steps < 100:
        raise ValueError(f"pilot_steps must be at least 100, got {pilot_steps}")
    if batch_size is not None:
        Batches(posterior.num_data, batch_size, "independent")  # which checks it
    pilot = _Pilot(posterior, sampler, batch_size, tolerance, num_chains, pilot_steps, seed)
    position = starting_positions(posterior, init, seed, list(range(num_chains)), sampler.temperature)
    first = pilot.run(pilot.limits(position, pilot.first_preconditioner(position)), position, 1)
    used = pilot.limits_after(first)
    second = pilot.run(used, first.state["position"], 2)
    return pilot.suggestion(second, used.lr, pilot.limits_after(second).at_most(2 * used.lr))


@dataclass(frozen=True)
class _Limits:
    """What lr may be for the largest curvature, an average one and the batch's noise, and what follows.

    `heat` is what batches make per unit of lr (1/B − 1/N), `smallest` the smallest curvature.
    """

    stiffest: float
    average: float
    noise: float
    smallest: float
    heat: float
    lr: float
    batch_size: int | None

    def at_most(self, lr: float) -> _Limits:
        return dataclasses.replace(self, lr=min(lr, self.lr))


@dataclass(frozen=True)
class _Pilot:
    posterior: Target
    sampler: Any
    batch_size: int | None
    tolerance: float
    num_chains: int
    steps: int
    seed: int

    @property
    def has_momentum(self) -> bool:
        return type(self.sampler).__name__ in MOMENTUM

    @property
    def memory(self) -> float:
        """1/(1−β): steps over which gradient noise acts on."""
        return 1 / (1 - self.sampler.momentum) if self.has_momentum else 1.0

    def first_preconditioner(self, position: Tensor) -> Tensor:
        """M where V holds nothing yet: of the gradients of some minibatches there."""
        if type(self.sampler).__name__ != "PSGLD":
            return torch.ones_like(position)
        keys, square = chain_keys(self.seed, torch.arange(len(position), device=position.device), INIT), 0.0
        batches = self._batches(self.batch_size or _NOISE_BATCH)
        for turn in torch.arange(8, device=position.device):
            batch = None if batches is None else batches.indices(keys, turn)
            square = square + self.posterior.cost_and_gradient(position, batch)[1].square() / 8
        return 1 / (self.sampler.damping + torch.as_tensor(square).sqrt())

    def limits_after(self, chains: Chains) -> _Limits:
        """Measure where a pilot ended."""
        return self.limits(chains.state["position"], preconditioner(chains.attrs, chains.state))

    def limits(self, position: Float[Tensor, "chain dim"], M: Float[Tensor, "chain dim"]) -> _Limits:
        """Measure at these positions."""
        N, T, allowed = self.posterior.num_data, self.sampler.temperature, self.tolerance / 2
        found = curvature(self.posterior, position, M)
        mass = 1 + self.sampler.momentum if self.has_momentum else 1.0
        stiffest = STIFFEST * 2 * mass / found.largest if found.largest > 0 else math.inf
        average = 2 * allowed / found.average if found.average > 0 and not self.has_momentum else math.inf
        lr = min(stiffest, average)
        if not math.isfinite(lr):
            raise ValueError("the cost is curved upwards nowhere: start elsewhere (`init=`), or give a prior")
        heat, batches = 0.0, self._batches(self.batch_size or _NOISE_BATCH)
        if batches is not None:
            keys = chain_keys(self.seed, torch.arange(len(position), device=position.device), INIT)
            at = position.to(device=self.posterior.device, dtype=self.posterior.dtype)
            made = float(batch_heat(self.posterior, batches, at, keys, M.to(at).mul).mean()) * self.memory
            heat = made / (1 / batches.batch_size - 1 / N)
        noise, batch_size = math.inf, self.batch_size
        if batch_size is None:  # the smallest that leaves lr to the curvature
            smallest = math.ceil(1 / (1 / N + allowed * T / (heat * lr))) if heat > 0 else N
            batch_size = None if smallest > N / 2 else max(1, smallest)
        elif heat > 0 and not getattr(self.sampler, "absorbs_minibatch", False):
            noise = allowed * T / (heat * (1 / batch_size - 1 / N))
        return _Limits(stiffest, average, noise, found.smallest, heat, min(lr, noise), batch_size)

    def _batches(self, size: int) -> Batches | None:
        N = self.posterior.num_data
        return Batches(N, min(size, max(1, N // 2)), "independent") if N > 1 and size < N else None

    def run(self, limits: _Limits, position: Tensor, seed: int) -> Chains:
        """One pilot; the preconditioner is learnt in its first half, and temperature measured in the second."""
        chains = sample(
            self.posterior,
            dataclasses.replace(self.sampler, lr=limits.lr),
            num_samples=self.steps - self.steps // 2,
            num_warmup=self.steps // 2,
            num_chains=self.num_chains,
            batch_size=limits.batch_size,
            init=position,
            seed=self.seed + seed,
            progress=False,
        )
        if chains.attrs["stopped"]:
            raise ValueError(
                f"at lr = {limits.lr:.3g}, a fifth of what the curvature where chains began allows, chains "
                f"{list(chains.attrs['stopped'])} exploded: start nearer to the posterior, for instance init='mode'"
            )
        return chains

    def suggestion(self, chains: Chains, lr: float, limits: _Limits) -> Suggestion:
        """Put together what the last pilot, which took steps of `lr`, showed."""
        sampler = dataclasses.replace(self.sampler, lr=_rounded(limits.lr))
        judges_weights = not symmetric(self.posterior)
        seen, at_least = _autocorrelation(chains, self.posterior, judges_weights)
        seen *= lr / sampler.lr
        # Along curvature λ an independent draw takes 2/(ελ) steps, and 1 − β times that with momentum.
        flat = 2 / (sampler.lr * self.memory * limits.smallest) if judges_weights and limits.smallest > 0 else 0.0
        slow = max(seen, flat)
        total = max(DRAWS, math.ceil(slow * ENOUGH / self.num_chains))
        thinning = max(1, math.ceil(total / DRAWS))
        num_warmup = max(self.steps, rounded_up(FORGET * slow))
        reasons = [self._lr_reason(sampler.lr, limits), self._batch_reason(sampler.lr, limits)]
        if flat > seen:
            source = (
                f"along the smallest curvature, {num(limits.smallest)}, an independent draw takes {slow:,.0f} steps"
            )
        else:
            bound = "at least (the pilot is hardly longer) " if at_least else ""
            source = f"the slowest quantity in the pilot takes {bound}{slow:,.0f} steps for an independent draw"
        reasons += [
            f"thinning {thinning}: {source}, and {ENOUGH:.0f} of these are wanted from {self.num_chains} chains.",
            f"num_warmup {num_warmup:,}: {FORGET:.0f} times as long, and no less than the pilot.",
        ]
        return Suggestion(
            sampler=sampler,
            batch_size=limits.batch_size,
            thinning=thinning,
            num_warmup=num_warmup,
            num_samples=DRAWS,
            num_chains=self.num_chains,
            autocorrelation=slow,
            temperature=temperature(chains, self.posterior),
            step=step_size(chains, self.posterior),
            reasons=reasons,
        )

    def _lr_reason(self, lr: float, limits: _Limits) -> str:
        share = f"{100 * self.tolerance / 2:.2g} %"
        least = min(limits.noise, limits.average, limits.stiffest)
        if limits.lr < least:
            return f"lr {lr:.3g}: twice that of the pilot; where it ended {num(least)} might do, after a longer one."
        if least == limits.noise:
            return f"lr {lr:.3g}: more would let the noise of these batches add over {share} to the temperature."
        if least == limits.average:
            return f"lr {lr:.3g}: longer steps would themselves add over {share} to the temperature."
        return f"lr {lr:.3g}: a fifth of the limit of stability, {num(limits.stiffest / STIFFEST)}."

    def _batch_reason(self, lr: float, limits: _Limits) -> str:
        N, B = self.posterior.num_data, limits.batch_size
        if N == 1:
            return "batch_size None: a plain density has no examples."
        if getattr(self.sampler, "absorbs_minibatch", False) and B is not None:
            return f"batch_size {B:,}: the thermostat takes its noise out again, where that is alike in all directions."
        if B is None:
            return f"batch_size None: noise of smaller batches would force a smaller lr than {num(lr)}."
        added = lr * limits.heat * (1 / B - 1 / N) / self.sampler.temperature
        why = "as asked for" if self.batch_size is not None else "the smallest that does not force a smaller lr"
        return f"batch_size {B:,}: {why}; its noise adds {added:.2%} to the temperature."


def _autocorrelation(chains: Chains, posterior: Target, judges_weights: bool) -> tuple[float, bool]:
    """Steps per effective draw of the slowest quantity, and whether that is about as long as the chains themselves.

    Quantities are the cost and every parameter, or outputs at some inputs. The 5 % slowest are left out, as of many
    noisy estimates the largest is too large.
    """
    values = [chains.sample_stats["cost"][..., None]]
    positions = chains.position(posterior)  # pyright: ignore[reportArgumentType]  # any target can ravel
    if isinstance(posterior, Posterior) and not judges_weights:
        inputs = posterior.inputs
        some = evenly_spaced(posterior.num_data, 20).to(posterior.device)
        few = data_.take(inputs, some)
        with torch.no_grad():
            parts = positions.flatten(0, 1).to(posterior.device).split(256)
            outputs = torch.cat([posterior.outputs(part, few).flatten(1).cpu() for part in parts])
        values.append(outputs.unflatten(0, positions.shape[:2]))
    else:
        values.append(positions)
    sizes = torch.cat([ess(value.cpu(), "bulk") for value in values])
    sizes = sizes[~sizes.isnan()].sort().values
    if not len(sizes):
        return float(chains.num_draws), True
    total = chains.num_chains * chains.num_draws
    slow = total / float(sizes[int(0.05 * len(sizes))])
    return slow, slow > chains.num_draws / 10


def _rounded(value: float) -> float:
    """Two significant digits, downwards."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / scale) * scale:.2g}")
