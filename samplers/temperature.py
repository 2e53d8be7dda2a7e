"""The temperature that minibatch noise supplies, and the batch size and learning rate that supply a temperature.

For batches without replacement, independent at every update, a preconditioner M = Σ⁻¹ turns gradient noise into heat
T_mb = (εN/2B)(1 − B/N) (Smith et al. 2018, Section 5, with the finite-population factor). It is a temperature only
where M Σ M = M; elsewhere directions differ, see `langevin.diagnostics.temperature`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .batches import Batches
from .target import Target

HEAT_BATCHES = 16


def temperature_of(lr: float, num_data: int, batch_size: int) -> float:
    """T_mb = (εN/2B)(1 − B/N).

    Parameters
    ----------
    lr
        Learning rate ε of the mean gradient.
    num_data, batch_size
        N and B ≤ N.
    """
    _check(lr=lr)
    if not 1 <= batch_size <= num_data:
        raise ValueError(f"batch_size must lie in [1, {num_data}], got {batch_size}")
    return minibatch_temperature(lr, num_data, batch_size)


def minibatch_temperature(lr: Any, num_data: int, batch_size: int | None) -> Any:
    """`temperature_of` without its checks, for an lr that may be a tensor; 0 for the full data."""
    return 0.0 if batch_size is None else lr * num_data / (2 * batch_size) * (1 - batch_size / num_data)


def batch_size_for(temperature: float, lr: float, num_data: int) -> int:
    """Smallest whole B whose minibatch noise does not exceed `temperature`: N/(2T/ε + 1), rounded up.

    Rounding up leaves the noise a little cooler than asked for; `temperature_of` tells by how much.

    Raises
    ------
    ValueError
        If even one example a batch is too cold, with the smallest learning rate that would do.
    """
    _check(lr=lr, temperature=temperature)
    exact = num_data / (2 * temperature / lr + 1)
    if exact < 1:
        raise ValueError(
            f"no batch size reaches temperature {temperature} at lr = {lr} with N = {num_data}: batches of one example "
            f"give {temperature_of(lr, num_data, 1):.3g}; raise lr to at least {2 * temperature / (num_data - 1):.3g}"
            if num_data > 1
            else f"one example has no minibatch noise, so no batch size reaches temperature {temperature}"
        )
    return math.ceil(exact - 1e-9 * exact)


def batch_heat(
    target: Target,
    batches: Batches,
    position: Float[Tensor, "chain dim"],
    keys: Int[Tensor, "chain 2"],
    solve: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, " chain"]:
    """Temperature per unit of lr that minibatch noise makes, averaged over directions.

    (N/2) Tr(M S_mb)/D, with S_mb the covariance of the minibatch gradient, estimated at these positions from 16 fresh
    batches of each chain, and M the preconditioner, `solve(v)` = Mv; I if None.
    """
    keys = keys ^ 0x5BD1E995  # batches of its own, which no step uses
    mean, square = torch.zeros_like(position), torch.zeros_like(position)
    for turn in torch.arange(HEAT_BATCHES, device=target.device):
        _, gradient = target.cost_and_gradient(position, batches.indices(keys, turn))
        delta = gradient - mean
        mean = mean + delta / (turn + 1)
        square = square + delta * (gradient - mean if solve is None else solve(gradient - mean))
    return target.num_data / 2 * square.mean(-1) / (HEAT_BATCHES - 1)


def _check(**settings: float) -> None:
    for name, value in settings.items():
        if not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
