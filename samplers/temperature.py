"""The temperature that minibatch noise supplies, and the batch size and learning rate that supply a temperature.

For batches without replacement, independent at every update, a preconditioner M = Σ⁻¹ turns gradient noise into heat
T_mb = (εN/2B)(1 − B/N) (Smith et al. 2018, Section 5, with the finite-population factor). It is a temperature only
where M Σ M = M; elsewhere directions differ, see `langevin.diagnostics.temperature`.
"""

from __future__ import annotations

import math


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
    return lr * num_data / (2 * batch_size) * (1 - batch_size / num_data)


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


def _check(**settings: float) -> None:
    for name, value in settings.items():
        if not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
