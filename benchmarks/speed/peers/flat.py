"""SGLD on the cost ½|ω|² of one flat vector by the other libraries, and PSGLD by hand.

Each returns a function that makes some steps and their number.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..timing import Run, once

BLOCK = 3  # steps of a scan


def blackjax(dim: int, lr: float) -> Run:
    """A scan under `jit`, which may overwrite the position that it is given; the gradient is handed to it."""
    import blackjax
    import jax
    import jax.numpy as jnp

    sgld: Any = blackjax.sgld(lambda position, _: -position)

    def body(position: Any, key: Any) -> tuple[Any, None]:
        return sgld.step(key, position, None, lr), None

    def scan(key: Any, position: Any) -> Any:
        return jax.lax.scan(body, position, jax.random.split(key, BLOCK))[0]

    call, key, position = jax.jit(scan, donate_argnums=1), jax.random.key(0), jnp.zeros(dim)

    def run() -> int:
        nonlocal key, position
        key, own = jax.random.split(key)
        position = jax.block_until_ready(call(own, position))
        return BLOCK

    run()
    return run


def posteriors(dim: int, lr: float) -> Run:
    """One call of `update` a step; the gradient comes through `torch.func`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Tensor default of the field", FutureWarning)
        from posteriors import sgmcmc

    def log_posterior(position: Tensor, batch: None) -> tuple[Tensor, Tensor]:
        return -0.5 * position.square().sum(), position.new_zeros(0)

    method = sgmcmc.sgld.build(log_posterior, lr=lr)
    state: Any = method.init(torch.zeros(dim))

    def step() -> None:
        nonlocal state
        state, _ = method.update(state, None)

    return once(step)


def by_hand(dim: int, lr: float) -> Run:
    """As one writes it down, out of place; the gradient is the position."""
    position = torch.zeros(dim)

    def step() -> None:
        nonlocal position
        position = position - lr * position + (2 * lr) ** 0.5 * torch.randn_like(position)

    return once(step)


def psgld_by_hand(dim: int, lr: float) -> Run:
    """The same for PSGLD, which adapts at every step."""
    position, square = torch.zeros(dim), torch.zeros(dim)

    def step() -> None:
        nonlocal position, square
        square = 0.99 * square + 0.01 * position**2
        preconditioner = 1 / (1e-5 + square.sqrt())
        noise = (2 * lr * preconditioner).sqrt() * torch.randn_like(position)
        position = position - lr * preconditioner * position + noise

    return once(step)


PEERS: dict[str, Callable[[int, float], Run]] = {
    "blackjax SGLD": blackjax,
    "posteriors SGLD": posteriors,
    "by hand SGLD": by_hand,
    "by hand PSGLD": psgld_by_hand,
}
