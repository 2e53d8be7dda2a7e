"""Mode finding by the optimisers of `torch.optim`, on the flat position."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..batches import Batches
from ..target import Batch, Target
from ..threefry import BATCHES, chain_keys
from .ending import Ending, show

OptimizerFactory = Callable[..., torch.optim.Optimizer]

TORCH_METHODS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
)

_BATCH_BLOCK = 64  # minibatches drawn by one call


def run(
    target: Target,
    factory: OptimizerFactory,
    start: Tensor,
    *,
    num_steps: int,
    batch_size: int | None,
    lr: float | None,
    tolerance: float,
    seed: int,
    bar: tqdm,
) -> Ending:
    """Make up to `num_steps` steps of an optimiser made by `factory`; see `find_mode`."""
    position = start.clone().requires_grad_()
    optimizer = factory([position]) if lr is None else factory([position], lr=lr)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer must make a torch.optim.Optimizer, it made {type(optimizer).__name__}")
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1.0 if batch_size is None else 0.5 + 0.5 * math.cos(math.pi * step / num_steps)
    )
    evaluations: list[tuple[float, float]] = []

    def evaluate(batch: Batch) -> float:
        cost, gradient = target.cost_and_gradient(position.detach()[None], batch)
        position.grad = gradient[0]
        evaluations.append((float(cost) / target.num_data, float(gradient.abs().max())))
        return evaluations[-1][0]

    step = 0
    for step, batch in zip(range(num_steps), _batches(target, batch_size, seed), strict=False):
        before = position.detach().clone()
        evaluations.clear()
        optimizer.step(partial(evaluate, batch))
        cosine.step()
        mean_cost, largest = evaluations[0]  # at `before`: later ones are a line search's
        if not math.isfinite(mean_cost + largest):
            raise FloatingPointError(f"the mean cost became {mean_cost} at step {step} of the optimiser; lower lr")
        if batch is None and largest <= tolerance:
            return Ending(before, mean_cost, largest, f"after {step} steps")
        show(bar, mean_cost, largest)
        if batch is None and torch.equal(before, position):
            break  # by a stopping rule of its own: it would do the same for ever
    evaluate(None)
    return Ending(position.detach(), *evaluations[-1], f"after {step + 1} steps")


def factory_of(optimizer: str | OptimizerFactory, others: list[str]) -> OptimizerFactory:
    """What makes the optimiser; `others` are the names that are not of `torch.optim`, for the message."""
    if isinstance(optimizer, str):
        if optimizer not in TORCH_METHODS:
            raise ValueError(
                f"unknown optimizer {optimizer!r}; torch.optim has {TORCH_METHODS}, "
                f"and of scipy.optimize.minimize these are supported: {others}"
            )
        return getattr(torch.optim, optimizer)
    if not callable(optimizer):
        raise ValueError(
            "optimizer must be a name, a class of torch.optim or a callable, or a sampler or method of this library, "
            f"got {type(optimizer).__name__}"
        )
    if isinstance(optimizer, type) and hasattr(optimizer, "init") and hasattr(optimizer, "step"):
        raise ValueError(
            f"optimizer is the class {optimizer.__name__}: give one with its settings, {optimizer.__name__}(…)"
        )
    return optimizer


def _batches(target: Target, batch_size: int | None, seed: int) -> Iterator[Batch]:
    if batch_size is None:
        yield from itertools.repeat(None)
        return
    batches = Batches(target.num_data, batch_size)
    keys = chain_keys(seed, torch.tensor([-1], device=target.device), BATCHES)  # no chain has the number −1
    for first in itertools.count(0, _BATCH_BLOCK):
        steps = torch.arange(first, first + _BATCH_BLOCK, device=target.device)
        yield from batches.indices(keys.expand(_BATCH_BLOCK, 2), steps)[:, None]
