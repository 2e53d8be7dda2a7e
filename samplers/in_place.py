"""Steps of many parameters, written over the old ones.

Where a state is too large for the cache, passes over memory and new memory are what a step costs besides its gradient.
Here one call is one step: a first pass over gradient and position takes the statistics, and a second draws the noise,
makes the sampler's update and writes it into the state's own memory. Gradients that compiling does not make faster,
those of large convolutional networks, can be computed outside, eagerly.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .batches import Batches
from .blocks import Block, Layers, over, statistics, sums_of
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


@dataclasses.dataclass(frozen=True)
class GivenGradient:
    """A target as far as the update of a sampler needs it, whose cost and gradient have been computed elsewhere."""

    target: Target
    cost: Tensor
    gradient: Tensor

    @property
    def num_data(self) -> int:
        """N."""
        return self.target.num_data

    @property
    def dim(self) -> int:
        """Length of a position."""
        return self.target.dim

    def cost_and_gradient(self, position: Tensor, batch: Any = None) -> tuple[Tensor, Tensor]:
        """What was computed, at the state's own position."""
        return self.cost, self.gradient


def make_step(target: Target, sampler: Any, batches: Batches | None, state: Spec, given: bool = False) -> Block:
    """Build the function of tensors that makes one step in place, or none unless `due`; it is meant to be compiled.

    With `given`, cost and gradient of the step are two more arguments, before the state's fields.
    """
    layers = Layers(target)

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
        place: Any = GivenGradient(target, *fields[:2]) if given else target
        old = rebuild(state, fields[2:] if given else fields)
        noise = Noise(noise_keys, old.step, old.position.dtype)
        batch = None if batches is None or given else batches.indices(batch_keys, old.step)
        new = sampler.step(place, old, batch, noise)

        # The new position is finite if the old one and the gradient are, short of overflow, which `run` looks for.
        sums = sums_of(layers, old.position - center, new.gradient)
        healthy = torch.isfinite(new.cost + sums[0])
        stopped = torch.where((stopped < 0) & due & ~healthy, old.step, stopped)
        alive = stopped < 0
        stats, total = statistics(target, sampler, layers, new, sums, reading, phase, thinning)
        for name, value in vars(new).items():
            if name != "gradient":
                here = getattr(old, name)
                here.copy_(torch.where(over(alive & due, value) if value.ndim else due, value, here))
        return stopped, torch.where(due, total, reading), torch.where(alive, stats, torch.nan)

    return step
