"""Mode finding by the library's own methods, and by any of its samplers at temperature 0: one loop for all.

A method has the samplers' contract: `init(target, position, num_warmup)` makes a state and `step(target, state, batch,
noise)` the next one. Beyond it, a method may have

    prefers_double      whether it is run in float64 where the target can
    unsettled(state)    `[chain]`, whether the last step saw reason to think that a vanishing gradient is no mode
    refused(state)      `[chain]`, whether the last step was not made because the cost would not have fallen
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..batches import Batches
from ..likelihoods import without_validation
from ..target import Target
from ..threefry import BATCHES, NOISE, Noise, chain_keys
from .ending import Ending, in_double, show

STANDSTILL = 60  # refused steps after which none is to be expected: damping has grown by more than float64's digits


def is_sampler(optimizer: Any) -> bool:
    """Whether this is a sampler, or a method with the samplers' contract, and not a class of them."""
    return not isinstance(optimizer, type) and hasattr(optimizer, "init") and hasattr(optimizer, "step")


def at_zero_temperature(sampler: Any) -> Any:
    """Replace the temperature, if there is such a setting, by 0. One of None injects nothing of its own and stays.

    Raises
    ------
    ValueError
        For a sampler that has no temperature 0, such as HMC.
    """
    if getattr(sampler, "temperature", None) is None or not dataclasses.is_dataclass(sampler):
        return sampler
    if "temperature" not in {field.name for field in dataclasses.fields(sampler)}:
        return sampler  # an optimiser's, by definition
    try:
        return dataclasses.replace(sampler, temperature=0.0)  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{type(sampler).__name__} cannot look for a mode, because it does not run at temperature 0: {error}"
        ) from error


def run(
    target: Target,
    method: Any,
    start: Tensor,
    *,
    num_steps: int,
    batch_size: int | None,
    tolerance: float,
    seed: int,
    bar: tqdm,
) -> Ending:
    """Make up to `num_steps` steps; see `find_mode`."""
    place = in_double(target, start) if getattr(method, "prefers_double", False) else target
    method = at_zero_temperature(method)
    if hasattr(method, "check"):
        method.check(place, batch_size, num_steps)
    batches = None if batch_size is None else Batches(target.num_data, batch_size)
    chain = torch.tensor([-1], device=place.device)  # no chain has this number
    noise_keys, batch_keys = (chain_keys(seed, chain, purpose) for purpose in (NOISE, BATCHES))

    def ending(position: Tensor, mean_cost: float, largest: float, steps: int) -> Ending:
        position = position[0].to(device=target.device, dtype=target.dtype)
        return Ending(position, mean_cost, largest, f"after {steps} steps")

    with torch.no_grad(), without_validation():
        # All steps are warm-up to what adapts.
        state, step, still = method.init(place, start.to(place.dtype)[None], num_steps), 0, 0
        for step in range(num_steps):
            old = state
            batch = None if batches is None else batches.indices(batch_keys, state.step)
            state = method.step(place, state, batch, Noise(noise_keys, state.step, place.dtype))
            previous = method.gradient_at == "previous"
            mean_cost, largest = float(state.cost) / target.num_data, float(state.gradient.abs().max())
            if not (math.isfinite(mean_cost + largest) and bool(torch.isfinite(state.position).all())):
                raise FloatingPointError(
                    f"the mean cost became {mean_cost} at step {step} of {type(method).__name__}; lower lr, or "
                    "raise the damping if it has one"
                )
            unsettled, refused = (
                hasattr(method, hook) and bool(getattr(method, hook)(state).any()) for hook in ("unsettled", "refused")
            )
            if batch is None and largest <= tolerance and not unsettled:
                return ending(old.position if previous else state.position, mean_cost, largest, step + (not previous))
            show(bar, mean_cost, largest)
            still = still + 1 if refused else 0
            if still >= STANDSTILL:
                break  # it would do the same for ever
        cost, gradient = place.cost_and_gradient(state.position)
    return ending(state.position, float(cost) / target.num_data, float(gradient.abs().max()), step + 1)
