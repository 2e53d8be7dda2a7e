"""Steps of many parameters, written over the old ones.

Where a state is too large for the cache, passes over memory and new memory are what a step costs besides its gradient.
Here one call is one step: a first pass over gradient and position takes the statistics, and a second draws the noise,
makes the sampler's update and writes it into the state's own memory.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .batches import Batches
from .blocks import Block, over, statistics, sums_of
from .target import Target
from .threefry import Noise
from .tree import Spec, rebuild

CENTERED_DIM = 2**20
"""Parameters above which c of the temperature reading (ω−c)·∇C/D is 0, which costs no memory.

Any c gives the same average. The mean of the chain gives the least noise, but the part of a wrong c falls with √D.
"""


def without_gradient(state: Any) -> Any:
    """The state with a gradient that takes no memory: samplers report the last one and do not read it."""
    return dataclasses.replace(state, gradient=state.position.new_zeros(1, 1).expand_as(state.position))


def make_step(target: Target, sampler: Any, batches: Batches | None, state: Spec) -> Block:
    """Build the function of tensors that makes one step in place, or none unless `due`; it is meant to be compiled."""

    def step(
        due: Tensor,
        phase: Tensor,
        thinning: Tensor,
        noise_keys: Tensor,
        batch_keys: Tensor,
        center: Tensor,
        stopped: Tensor,
        reading: Tensor,
        *fields: Tensor,
    ) -> tuple[Tensor, ...]:
        old = rebuild(state, fields)
        noise = Noise(noise_keys, old.step, old.position.dtype)
        batch = None if batches is None else batches.indices(batch_keys, old.step)
        new = sampler.step(target, old, batch, noise)

        # The new position is finite if the old one and the gradient are, short of overflow, which `run` looks for.
        virial, square = sums_of(old.position - center, new.gradient)
        healthy = torch.isfinite(new.cost + square)
        stopped = torch.where((stopped < 0) & due & ~healthy, old.step, stopped)
        alive = stopped < 0
        stats, total = statistics(target, sampler, new, (virial, square), reading, phase, thinning)
        for name, value in vars(new).items():
            if name != "gradient":
                here = getattr(old, name)
                here.copy_(torch.where(over(alive & due, value) if value.ndim else due, value, here))
        return stopped, torch.where(due, total, reading), torch.where(alive, stats, torch.nan)

    return step
