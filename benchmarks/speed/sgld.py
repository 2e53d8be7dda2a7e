"""SGLD on small logistic regressions beside BlackJAX's scan: CPU microseconds per step of all chains.

Run with ``python -m benchmarks.speed.sgld``. Both libraries draw every chain's own minibatch and noise at every step,
record every position, and compute in float32 on one thread. BlackJAX indexes its minibatches with replacement, the
cheapest way it has; langevin draws them without replacement and records cost, gradient norm and temperature besides.
The gradients are compared first. Compilation is timed apart; runs of the two alternate, and the table gives the
median of their CPU times and of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
import torch
from langevin.samplers import SGLD, Posterior, bernoulli
from langevin.samplers.batches import Batches
from langevin.samplers.engine import Engine
from torch import nn

NUM_DATA, BATCH_SIZE, LR = 1000, 50, 0.1
SIZES = [(2, 1), (2, 64), (64, 1), (64, 64)]

Run = Callable[[int], None]


def make_data(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw inputs and labels of a logistic regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_DATA, dim)).astype(np.float32)
    y = (rng.uniform(size=NUM_DATA) < 1 / (1 + np.exp(-x.sum(1) / np.sqrt(dim)))).astype(np.float32)
    return x, y


def langevin_run(x: np.ndarray, y: np.ndarray, chains: int) -> tuple[Run, np.ndarray]:
    """Compile langevin's block; return a function that makes some steps, and the gradient at 0.1."""
    dim = x.shape[1]
    posterior = Posterior(nn.Linear(dim, 1, bias=False), bernoulli, (torch.from_numpy(x), torch.from_numpy(y)[:, None]))
    sampler = SGLD(lr=LR)
    state = sampler.init(posterior, torch.zeros(chains, dim))
    batches = Batches(NUM_DATA, BATCH_SIZE)
    engine = Engine(posterior, sampler, batches, state, seed=0, chain_ids=list(range(chains)), thinning=1)
    engine.compile()

    def run(steps: int) -> None:
        while steps > 0:
            engine.run(min(steps, engine.longest))
            steps -= engine.plan.max_steps

    _, gradient = posterior.cost_and_gradient(torch.full((1, dim), 0.1))
    return run, gradient[0].numpy() * NUM_DATA


def blackjax_run(x: np.ndarray, y: np.ndarray, chains: int, steps_a_call: int) -> tuple[Run, np.ndarray]:
    """Compile a scan over BlackJAX's SGLD kernel; the same two things."""
    import blackjax
    import jax
    import jax.numpy as jnp

    x, y = jnp.asarray(x), jnp.asarray(y)
    dim = x.shape[1]

    def log_prior(w):
        return -0.5 * jnp.sum(w**2)

    def log_likelihood(w, row):
        z = row[0] @ w
        return row[1] * z - jnp.logaddexp(0.0, z)

    gradient = blackjax.sgmcmc.gradients.grad_estimator(log_prior, log_likelihood, NUM_DATA)
    sgld = blackjax.sgld(gradient)
    step_size = LR / NUM_DATA

    def one(key, w):
        index_key, step_key = jax.random.split(key)
        index = jax.random.randint(index_key, (BATCH_SIZE,), 0, NUM_DATA)
        return sgld.step(step_key, w, (x[index], y[index]), step_size)

    @jax.jit
    def scan(key, w):
        def body(carry, key):
            new = jax.vmap(one)(jax.random.split(key, chains), carry)
            return new, new

        return jax.lax.scan(body, w, jax.random.split(key, steps_a_call))

    position, key = jnp.zeros((chains, dim)), jax.random.key(0)
    jax.block_until_ready(scan(key, position))

    def run(steps: int) -> None:
        nonlocal position, key
        while steps > 0:
            key, sub = jax.random.split(key)
            position, draws = scan(sub, position)
            jax.block_until_ready(draws)
            steps -= steps_a_call

    return run, -np.asarray(gradient(jnp.full(dim, 0.1), (x, y)))


def timed(run: Run, steps: int) -> float:
    """CPU microseconds per step."""
    start = time.process_time()
    run(steps)
    return (time.process_time() - start) / steps * 1e6


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/sgld.csv"))
    arguments = parser.parse_args()
    try:
        import blackjax
        import jax
    except ImportError:
        print(
            "blackjax is not installed: pip install -r benchmarks/requirements.txt; timing langevin alone",
            file=sys.stderr,
        )
        blackjax = jax = None
    torch.set_num_threads(1)
    versions = f"torch {torch.__version__}" + (
        f", jax {jax.__version__}, blackjax {blackjax.__version__}" if jax else ""
    )
    print(f"{date.today()}  {platform.machine()}, {os.cpu_count()} cores, one used; {versions}")
    print(
        f"logistic regression, N = {NUM_DATA}, B = {BATCH_SIZE}; "
        f"CPU µs per step of all chains, median of {arguments.repeats}"
    )
    print(f"{'d':>4} {'chains':>7} {'langevin':>10} {'blackjax':>10} {'ratio':>7}  {'compile s (langevin, blackjax)'}")
    rows = []
    for dim, chains in SIZES:
        x, y = make_data(dim)
        steps = 5120 if chains == 1 else 1024
        start = time.perf_counter()
        ours, gradient = langevin_run(x, y, chains)
        compile_ours, start = time.perf_counter() - start, time.perf_counter()
        theirs, compile_theirs = None, float("nan")
        if blackjax:
            theirs, other = blackjax_run(x, y, chains, steps)
            compile_theirs = time.perf_counter() - start
            np.testing.assert_allclose(gradient, other, rtol=1e-3, atol=1e-2)
        pairs = [
            (timed(ours, steps), timed(theirs, steps) if theirs else float("nan")) for _ in range(arguments.repeats + 1)
        ]
        pairs = pairs[1:]
        us, them = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(
            f"{dim:>4} {chains:>7} {us:>10.2f} {them:>10.2f} {ratio:>6.2f}×  {compile_ours:.1f}, {compile_theirs:.1f}"
        )
        rows.append([dim, chains, us, them, ratio, compile_ours, compile_theirs])
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    with arguments.csv.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["dim", "chains", "langevin_us", "blackjax_us", "ratio", "langevin_compile_s", "blackjax_compile_s"]
        )
        writer.writerows(rows)


if __name__ == "__main__":
    main()
