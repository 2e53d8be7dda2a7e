"""BlackJAX's kernels in a scan under `jit`, vmapped over chains."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..timing import Run
from ..workloads import Workload
from . import in_jax
from .peer import Peer
from .with_langevin import MOMENTUM

INTEGRATION_STEPS = 10  # its default: gradients per momentum in SGHMC, all of one minibatch
MAX_STEPS, CALL_WORK = 1000, 10**8  # of a call, in steps and in parameters × examples × chains


def blackjax(workload: Workload, sampler: str, chains: int) -> Peer:
    """Minibatches with replacement, the cheapest way there is; positions are all that is recorded.

    One step of `SGHMC` is one gradient. Between two draws of its momentum the minibatch stays the same, so that it
    draws a tenth of langevin's minibatches and one more normal in ten.
    """
    step, gradients = kernel(workload, sampler)  # imports JAX, which does not count as compiling
    began = time.perf_counter()
    start = workload.start().numpy()
    run, _ = scanned(workload, step, in_jax.unravel(workload, np.tile(start, (chains, 1))), workload.thinning)
    gradient = gradients(in_jax.unravel(workload, start), in_jax.data(workload))
    run()
    gradients_a_step = INTEGRATION_STEPS if sampler == "SGHMC" else 1
    seconds = time.perf_counter() - began
    return Peer(lambda: gradients_a_step * run(), -in_jax.ravel(gradient), seconds, "jit of a scan")


def kernel(workload: Workload, sampler: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`(key, parameters) -> parameters` of one chain, and the gradient of the log density.

    In BlackJAX's variables a step size h and friction α stand for ε = h²N and β = 1 − αh in SGHMC.
    """
    import blackjax
    import jax

    x, y = in_jax.data(workload)
    gradients: Any = blackjax.sgmcmc.gradients.grad_estimator(
        in_jax.log_prior, in_jax.log_likelihood(workload), workload.num_data
    )
    if sampler == "SGHMC":
        size = (workload.lr / 10 / workload.num_data) ** 0.5
        method: Any = blackjax.sghmc(gradients, INTEGRATION_STEPS, alpha=(1 - MOMENTUM) / size)
    else:
        size = workload.lr / workload.num_data
        method = blackjax.sgld(gradients)

    def step(key: Any, parameters: Any) -> Any:
        index_key, step_key = jax.random.split(key)
        index = jax.random.randint(index_key, (workload.batch_size,), 0, workload.num_data)
        return method.step(step_key, parameters, (x[index], y[index]), size)

    return step, gradients


def scanned(
    workload: Workload, step: Callable[..., Any], parameters: Any, thinning: int
) -> tuple[Run, Callable[[], Any]]:
    """A function that makes a call's worth of steps, and one that returns the draws of the last call."""
    import jax

    chains, draws = len(parameters[0]), None
    steps = min(MAX_STEPS, CALL_WORK // (chains * workload.dim * workload.batch_size))
    rows = max(1, steps // thinning)

    def turn(parameters: Any, key: Any) -> tuple[Any, None]:
        return jax.vmap(step)(jax.random.split(key, chains), parameters), None

    def draw(parameters: Any, key: Any) -> tuple[Any, Any]:
        new, _ = jax.lax.scan(turn, parameters, jax.random.split(key, thinning))
        return new, new

    @jax.jit
    def call(key: Any, parameters: Any) -> Any:
        return jax.lax.scan(draw, parameters, jax.random.split(key, rows))

    key = jax.random.key(0)

    def run() -> int:
        nonlocal key, parameters, draws
        key, own = jax.random.split(key)
        parameters, draws = jax.block_until_ready(call(own, parameters))
        return rows * thinning

    return run, lambda: draws
