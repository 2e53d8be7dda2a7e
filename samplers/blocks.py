"""Many steps in one call.

Inside a block of up to K steps a loop draws noise and minibatches by counter, calls the sampler's `step`, freezes
chains whose state is no longer finite, and writes draws and statistics into the block's record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .batches import Batches
from .control import while_loop, write_row
from .target import Target
from .threefry import Noise, normals
from .tree import Spec, leaves, rebuild

MAX_STEPS = 256  # per call: makes the call's overhead, about 40 µs, small against the smallest step
PREFETCH_BYTES = 2**19  # of noise and indices drawn ahead of the loop: they, the state and the data share the cache
RECORD_BYTES = 2**18  # compiled loops copy the record at every step: it must stay small
COMMON_STATS = ("cost", "gradient_norm", "temperature")

UNROLL, UNROLL_WORK = 2, 20_000  # parameters × examples × chains of a step below which the loop itself is what costs

Block = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class PrefetchedNoise(Noise):
    """Noise whose first stream was drawn ahead for all steps of a block, `[step, chain, dim]`."""

    table: Tensor
    row: Tensor

    def normal(self, dim: int, stream: int = 0) -> Tensor:
        """Look stream 0 up and draw the others."""
        if stream == 0 and dim == self.table.shape[-1]:
            return self.table.index_select(0, self.row)[0]
        return super().normal(dim, stream)


@dataclass(frozen=True)
class Plan:
    """Sizes of a block.

    Attributes
    ----------
    max_steps
        K, the most steps one call can make.
    rows
        The most draws one call can record. With a single row the draw is the position that the call ends with.
    prefetch
        Whether noise and indices of all K steps are drawn ahead, in one go.
    in_place
        Whether one step is one call, written over the state, once it is compiled.
    eager_gradient
        Whether the gradients of steps in place are computed outside of compiled code.
    unroll
        Steps per turn of the loop, each of which costs some microseconds. Full-batch steps, which can hold loops of
        their own (leapfrog), take one turn each.
    """

    max_steps: int
    rows: int
    prefetch: bool
    in_place: bool
    eager_gradient: bool
    unroll: int

    @classmethod
    def of(cls, sampler: Any, position: Tensor, batch_size: int, thinning: int, num_layers: int) -> Plan:
        """Choose sizes that keep noise and record in the cache."""
        cheap = not hasattr(sampler, "metric")
        chains, dim = position.shape
        item = position.element_size()
        ahead = PREFETCH_BYTES // (chains * (dim * item + batch_size * 8))
        most = min(MAX_STEPS, ahead) if ahead >= 8 else MAX_STEPS
        rows = max(1, min(most // thinning, RECORD_BYTES // (chains * (dim + num_layers) * item)))
        unroll = UNROLL if cheap and 0 < position.numel() * batch_size <= UNROLL_WORK else 1
        in_place = ahead < 8 and can_be_in_place(sampler)
        return cls(min(most, rows * thinning), rows, ahead >= 8, in_place, False, unroll)

    def with_eager_gradient(self) -> Plan:
        """Steps in place after gradients from outside."""
        return replace(self, max_steps=MAX_STEPS, rows=1, prefetch=False, in_place=True, eager_gradient=True, unroll=1)


class Layers:
    """The parts of a position whose temperatures are read: its layers, or all of it as one.

    Attributes
    ----------
    names
        Of the layers; empty where there is only one.
    ranges
        Where each part lies in a flat position.
    sizes
        `[part, 1]`: number of parameters.
    """

    def __init__(self, target: Target):
        layers = target.layout.layers
        self.names = tuple(layers)
        self.ranges = tuple(map(tuple, layers.values())) or (((0, target.dim),),)
        sizes = torch.tensor([[sum(stop - start for start, stop in part)] for part in self.ranges])
        self.sizes = sizes.to(target.device, target.dtype)

    def sums(self, term: Float[Tensor, "chain dim"]) -> Float[Tensor, "part chain"]:
        """Sum over the parameters of each part."""
        sums = [[term[:, start:stop].sum(-1) for start, stop in part] for part in self.ranges]
        return torch.stack([sum(rest, first) for first, *rest in sums])


def stat_names(sampler: Any, layers: Layers) -> tuple[str, ...]:
    """What the rows of `statistics` are."""
    kinds = ("temperature", "temperature_weight") if is_tilted(sampler) else ("temperature",)
    apart = (f"{kind}[{layer}]" for kind in kinds for layer in layers.names)
    return (*COMMON_STATS, *kinds[1:], *apart, *sampler.stats)


def sums_of(layers: Layers, away: Tensor, gradient: Tensor, *tilt: Tensor) -> tuple[Tensor, ...]:
    """|ĝ|², and of each part (ω−c)·ĝ, and (ω−c)·∇log of the measure where there is one; compiled, in one pass."""
    return (gradient**2).sum(-1), *(layers.sums(away * term) for term in (gradient, *tilt))


def statistics(
    target: Target,
    sampler: Any,
    layers: Layers,
    new: Any,
    sums: Sequence[Tensor],
    reading: Float[Tensor, "part chain"],
    phase: Tensor,
    thinning: Tensor,
) -> tuple[Tensor, Tensor]:
    """Statistics of a step, `[statistic, chain]`, and the sum of temperature readings that the next step goes on from.

    A temperature is the mean of the readings since the last draw.
    """
    square, virial, *tilt = sums
    now = (virial * (target.num_data / layers.sizes), *(1 + t / layers.sizes for t in tilt))
    total = reading + torch.cat(now)
    apart = total / thinning
    shares = (layers.sizes / target.dim).repeat(len(now), 1)
    whole = (shares * apart).unflatten(0, (len(now), -1)).sum(1) if layers.names else apart
    kinds = (torch.stack((new.cost, square.sqrt())), whole, apart if layers.names else apart[:0])
    extra = [getattr(new, name).to(total.dtype)[None] for name in sampler.stats]
    values = torch.cat((*kinds, *extra))
    return values, torch.where((phase + 1) % thinning == 0, 0.0, total)


def make_block(target: Target, sampler: Any, batches: Batches | None, state: Spec, plan: Plan) -> Block:
    """Build the function of tensors that makes up to `plan.max_steps` steps; it can be compiled as one graph."""
    tilted, layers = is_tilted(sampler), Layers(target)

    def block(
        num_steps: Tensor,
        phase: Tensor,
        thinning: Tensor,
        noise_keys: Tensor,
        batch_keys: Tensor,
        center: Tensor,
        stopped: Tensor,
        reading: Tensor,
        *fields: Tensor,
    ) -> tuple[Tensor, ...]:
        start = rebuild(state, fields)
        chains, dim = start.position.shape
        dtype, device = start.position.dtype, start.position.device
        noise_table, index_table = None, None
        if plan.prefetch:
            most = plan.max_steps if torch.compiler.is_compiling() else int(num_steps)
            ahead = -(-most // plan.unroll) * plan.unroll
            steps = (start.step + torch.arange(ahead, device=device)).repeat_interleave(chains)
            noise_table = normals(noise_keys.repeat(ahead, 1), steps, dim, dtype)
            noise_table = noise_table.unflatten(0, (ahead, chains))
            if batches is not None:
                index_table = batches.ahead(batch_keys, start.step, ahead)

        def more(k: Tensor, *_: Tensor) -> Tensor:
            return k < num_steps

        def step(k: Tensor, stopped: Tensor, reading: Tensor, draws: Tensor, stats: Tensor, *fields: Tensor):
            due = k < num_steps  # an unrolled loop may overshoot: such steps leave everything as it is
            old = rebuild(state, fields)
            noise, batch = Noise(noise_keys, old.step, dtype), None
            if noise_table is not None:
                noise = PrefetchedNoise(noise_keys, old.step, dtype, noise_table, k.reshape(1))
            if index_table is not None:
                batch = index_table.index_select(0, k.reshape(1))[0]
            elif batches is not None:
                batch = batches.indices(batch_keys, old.step)
            new = sampler.step(target, old, batch, noise)

            at = old.position if sampler.gradient_at == "previous" else new.position
            tilt = (new.log_measure_gradient,) if tilted else ()
            sums = sums_of(layers, at - center, new.gradient, *tilt)
            zero = (new.position - new.position).sum(-1)  # for finite positions, and NaN for others
            healthy = torch.isfinite(new.cost + zero)
            stopped = torch.where((stopped < 0) & due & ~healthy, old.step, stopped)
            alive = stopped < 0
            # Eager code on a CPU may look: where nothing is to be frozen, a large metric need not be copied.
            at_once = not torch.compiler.is_compiling() and device.type == "cpu" and bool((alive & due).all())
            kept = (
                leaves(new)
                if at_once
                else [
                    torch.where(over(alive & due, n) if n.ndim else due, n.contiguous(), o)
                    for n, o in zip(leaves(new), fields, strict=True)  # a compiled loop's carry may not change strides
                ]
            )

            row = torch.where(due, (phase + k) // thinning, plan.rows)
            values, total = statistics(target, sampler, layers, new, sums, reading, phase + k, thinning)
            recorded = torch.where(alive[:, None], rebuild(state, kept).position, torch.nan)
            draws = write_row(draws, row, recorded) if plan.rows > 1 else recorded.unsqueeze(0)
            stats = write_row(stats, row, torch.where(alive, values, torch.nan))
            reading = torch.where(due, total, reading)
            return k + 1, stopped, reading, draws, stats, *kept

        def body(*carry: Tensor) -> tuple[Tensor, ...]:
            for _ in range(plan.unroll):
                carry = step(*carry)
            return carry

        num_stats = len(stat_names(sampler, layers))
        carry = (
            torch.zeros((), dtype=torch.int64, device=device),
            stopped,
            reading,
            torch.zeros(plan.rows + (plan.rows > 1), chains, dim, dtype=dtype, device=device),
            torch.zeros(plan.rows + 1, num_stats, chains, dtype=dtype, device=device),  # the last for steps not due
            *fields,
        )
        _, stopped, reading, draws, stats, *fields_out = while_loop(more, body, carry)
        return stopped, reading, draws, stats, *fields_out

    return block


def can_be_in_place(sampler: Any) -> bool:
    """Whether a step is an update of each parameter: trajectories and metrics read a state that they have changed."""
    return sampler.gradient_at == "previous" and not hasattr(sampler, "metric")


def over(chains: Tensor, value: Tensor) -> Tensor:
    """Per-chain numbers `[chain]`, shaped to go with a value `[chain, ...]`."""
    return chains.reshape(-1, *[1] * (value.ndim - 1))


def is_tilted(sampler: Any) -> bool:
    """Whether the stationary law is exp(−C/T) times a factor, whose log gradient the state holds."""
    return getattr(sampler, "measure", "lebesgue") == "jeffreys"
