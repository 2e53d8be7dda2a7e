"""How a step of langevin grows with chains, parameters and data, µs per step of all chains.

Chains: the MLP, by SGLD. Parameters: the cost ½|ω|² of one vector. Data: logistic regression in four dimensions with
minibatches of 50, where the time should not grow at all. Threads are as many as langevin chooses.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from langevin.samplers import SGLD

from ...rows import Row
from ..cases import CORES, Case, Effort
from ..peers.with_langevin import langevin, stepper, threads
from ..quadratic import Quadratic
from ..timing import alternate, summary
from ..workloads import logistic, mlp

AXES = {
    "chains": [4**power for power in range(7)],
    "parameters": [10**power for power in range(2, 8)],
    "data": [10**power for power in range(3, 8)],
}
DATA_DIM = 4


def cases(effort: Effort) -> Iterator[Case]:
    """Every point of every axis."""
    work = mlp()
    for axis, sizes in AXES.items():
        for size in sizes[:2] if effort.quick else sizes:
            count = threads(work.dim, work.batch_size, size) if axis == "chains" else 1
            if axis == "parameters":
                count = threads(size, 1, 1)
            yield Case(f"{axis}, {size}", measure, (axis, size, effort), min(count, CORES))


def measure(axis: str, size: int, effort: Effort) -> list[Row]:
    """One row."""
    if axis == "parameters":
        run, engine = stepper(Quadratic(size), SGLD(lr=0.01), None, torch.zeros(1, size), 10**6, max(8, 10**7 // size))
        how = engine.description
    else:
        problem, chains = (mlp(), size) if axis == "chains" else (logistic(DATA_DIM, size), 1)
        peer = langevin(problem, "SGLD", chains)
        run, how = peer.run, peer.how
    times = alternate({"langevin": run}, effort.repeats, effort.seconds)["langevin"]
    return [{"axis": axis, "size": size} | summary(times, "us") | {"how": how}]
