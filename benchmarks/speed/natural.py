"""What a step of natural gradient samplers costs, beside the Gram product and Cholesky factor of a Fisher metric.

Run with ``python -m benchmarks.speed.natural``. The model is the MLP 10-40-10 of Smith et al. 2018 (D = 850), with
1,024 inputs for the exact Fisher information and minibatches of 64; then logistic regression with 64 weights and 64
chains. Steps are eager, in float32; variants alternate and the table gives medians of CPU times. The yardstick is the
Gram product XᵀX of the Jacobian's 10,240 rows, by one matrix product, and a Cholesky factorisation: what a dense
natural gradient cannot do without, if it forms the rows.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from langevin.samplers import NGD, SNGD, Fisher, Posterior, bernoulli, categorical
from langevin.samplers.batches import Batches
from langevin.samplers.metrics.metric import no_noise
from langevin.samplers.metrics.rows import exact_directions, rows_of
from langevin.samplers.threefry import Noise
from torch import nn

BATCH_SIZE, NUM_FISHER = 64, 1024


def mlp() -> Posterior:
    """The paper's MLP on random data of the size of its experiment."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(NUM_FISHER, 10, generator=generator), torch.randint(0, 10, (NUM_FISHER,), generator=generator)
    return Posterior(nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 10)), categorical, (x, y))


def logistic() -> Posterior:
    """Logistic regression in 64 dimensions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 64, generator=generator)
    y = (torch.rand(1000, generator=generator) < torch.sigmoid(x[:, 0])).float()
    return Posterior(nn.Linear(64, 1, bias=False), bernoulli, (x, y[:, None]))


def steps_of(posterior: Posterior, sampler: Any, chains: int) -> Callable[[], Any]:
    """A function that makes one step."""
    state = sampler.init(posterior, posterior.default_position().expand(chains, -1).clone())
    keys, batches = no_noise(posterior, chains).keys, Batches(posterior.num_data, BATCH_SIZE)

    def step() -> None:
        nonlocal state
        noise = Noise(keys, state.step, posterior.dtype)
        with torch.no_grad():
            state = sampler.step(posterior, state, batches.indices(keys, state.step), noise)

    return step


def parts_of(posterior: Posterior, chains: int) -> dict[str, Callable[[], Any]]:
    """Pieces of a step."""
    position = posterior.default_position().expand(chains, -1).clone()
    noise, metric = no_noise(posterior, chains), Fisher(damping=0.1)
    outputs = posterior.outputs(position, posterior.inputs)
    rows = rows_of(posterior, position, posterior.inputs, exact_directions(posterior, outputs), True)
    matrix = rows.mT @ rows / posterior.num_data + 0.1 * torch.eye(posterior.dim)
    batch = Batches(posterior.num_data, BATCH_SIZE).indices(noise.keys, noise.step)
    return {
        "Gram product of the rows": lambda: rows.mT @ rows,
        "Cholesky": lambda: torch.linalg.cholesky_ex(matrix),
        "Fisher matrix": lambda: metric.curvature(posterior, position, noise),
        "gradient": lambda: posterior.cost_and_gradient(position, batch),
    }


def measure(variants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of each, alternating."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats + 1):
        for name, run in variants.items():
            start = time.process_time()
            run()
            if turn:  # the first warms up
                times[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/natural.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{date.today()}  {platform.machine()}, {os.cpu_count()} cores, one used; torch {torch.__version__}")
    metric, found = Fisher(damping=0.1), []
    samplers = {
        "NGD": NGD(lr=0.1, metric=metric),
        "SNGD, Lebesgue, probe": SNGD(lr=0.1, metric=metric, measure="lebesgue", drift="probe"),
        "SNGD, Jeffreys, probe": SNGD(lr=0.1, metric=metric, drift="probe"),
        "SNGD, Lebesgue, midpoint": SNGD(lr=0.1, metric=metric, measure="lebesgue"),
        "SNGD, Jeffreys, midpoint": SNGD(lr=0.1, metric=metric),
        "SNGD, Jeffreys, probe, between": SNGD(lr=0.1, metric=Fisher(damping=0.1, refresh_every=10**6), drift="probe"),
    }
    for label, posterior, chains in (
        ("MLP, D = 850, 1 chain", mlp(), 1),
        ("logistic, D = 64, 64 chains", logistic(), 64),
    ):
        variants = parts_of(posterior, chains)
        variants |= {name: steps_of(posterior, sampler, chains) for name, sampler in samplers.items()}
        times = measure(variants, arguments.repeats)
        yardstick = times["Gram product of the rows"] + times["Cholesky"]
        print(f"\n{label}: CPU ms, median of {arguments.repeats}, and over Gram product + Cholesky")
        for name, value in times.items():
            print(f"  {name:32} {value:9.2f} {value / yardstick:8.2f}")
            found.append({"case": label, "part": name, "ms": round(value, 3), "ratio": round(value / yardstick, 3)})
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    with arguments.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
