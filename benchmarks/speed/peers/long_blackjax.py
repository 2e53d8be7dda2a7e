"""Runs of BlackJAX's SGHMC and NUTS for so many seconds on the wall, compiling and warm-up apart."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..timing import Run
from ..workloads import Workload
from . import in_jax
from .with_blackjax import kernel, scanned

SGHMC_WARMUP, NUTS_WARMUP = 2_000, 300  # draws of SGHMC, each of ten gradients
NUTS_BLOCK, MAX_DOUBLINGS = 20, 8  # of a trajectory: the chains of a vmap wait for the longest


def blackjax_draws(workload: Workload, sampler: str, chains: int, seconds: float) -> tuple[Tensor, float, float]:
    """Draws `[chain, draw, dim]`, the seconds they took, and those of compiling and warm-up together."""
    began = time.perf_counter()
    start = in_jax.unravel(workload, np.tile(workload.start().numpy(), (chains, 1)))
    if sampler == "NUTS":
        run, draws = _nuts(workload, start)
    else:
        run, draws = scanned(workload, kernel(workload, sampler)[0], start, 1)
        made = 0
        while made < SGHMC_WARMUP:
            made += run()
    run()
    before, began = time.perf_counter() - began, time.perf_counter()
    kept = []
    while (spent := time.perf_counter() - began) < seconds:
        run()
        kept.append(in_jax.ravel(draws(), lead=2))  # [draw, chain, dim]
    return torch.from_numpy(np.concatenate(kept)).transpose(0, 1), spent, before


def _nuts(workload: Workload, start: Any) -> tuple[Run, Any]:
    """Step size and diagonal mass are adapted for each chain by itself, by BlackJAX's window adaptation."""
    import blackjax
    import jax

    data, one = in_jax.data(workload), in_jax.log_likelihood(workload)

    def log_density(parameters: Any) -> Any:
        return in_jax.log_prior(parameters) + jax.vmap(one, (None, 0))(parameters, data).sum()

    adaptation = blackjax.window_adaptation(blackjax.nuts, log_density, max_num_doublings=MAX_DOUBLINGS)

    @jax.jit
    @jax.vmap
    def adapt(key: Any, position: Any) -> Any:
        (state, parameters), _ = adaptation.run(key, position, NUTS_WARMUP)
        return state, parameters["step_size"], parameters["inverse_mass_matrix"]

    step = blackjax.nuts.build_kernel()

    @jax.jit
    @jax.vmap
    def block(key: Any, state: Any, size: Any, mass: Any) -> Any:
        def draw(state: Any, key: Any) -> Any:
            new, _ = step(key, state, log_density, size, mass, max_num_doublings=MAX_DOUBLINGS)
            return new, new.position

        return jax.lax.scan(draw, state, jax.random.split(key, NUTS_BLOCK))

    chains, key, draws = len(start[0]), jax.random.key(0), None
    state, size, mass = adapt(jax.random.split(key, chains), start)

    def run() -> int:
        nonlocal key, state, draws
        key, own = jax.random.split(key)
        state, draws = jax.block_until_ready(block(jax.random.split(own, chains), state, size, mass))
        return NUTS_BLOCK

    return run, lambda: jax.tree.map(lambda x: x.swapaxes(0, 1), draws)
