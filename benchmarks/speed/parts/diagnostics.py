"""R̂, bulk and tail ESS and MCSE of 8 chains of 200 draws of 10,000 numbers, beside ArviZ's, in seconds.

The draws are those of autoregressive chains, the same array for both. ArviZ works on one thread, whatever there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from langevin.diagnostics import convergence
from langevin.diagnostics.convergence import ess, mcse, rhat
from langevin.samplers import Chains

from ...rows import Row
from ..cases import CORES, Case, Effort
from ..timing import alternate, once, ratio, summary

CHAINS, DRAWS, NUMBERS, QUICK_NUMBERS = 8, 200, 10_000, 200
CORRELATION = 0.5  # of successive draws
ALL = "all four"


def cases(effort: Effort) -> Iterator[Case]:
    """On one thread and on all."""
    for threads in sorted({1, CORES}):
        yield Case(f"{threads} threads", measure, (threads, effort), threads)


def draws(numbers: int) -> np.ndarray:
    """`[chain, draw, number]` in float64."""
    x = np.random.default_rng(0).normal(size=(CHAINS, DRAWS, numbers))
    for step in range(1, DRAWS):
        x[:, step] = CORRELATION * x[:, step - 1] + math.sqrt(1 - CORRELATION**2) * x[:, step]
    return x


def measure(threads: int, effort: Effort) -> list[Row]:
    """A row for each statistic; `difference` is the largest relative one."""
    import arviz as az

    x = draws(QUICK_NUMBERS if effort.quick else NUMBERS)
    tensor, dataset = torch.from_numpy(x), az.convert_to_dataset({"x": x})
    ours: dict[str, Callable[[], torch.Tensor]] = {
        "rhat": lambda: rhat(tensor),
        "ess bulk": lambda: ess(tensor),
        "ess tail": lambda: ess(tensor, "tail"),
        "mcse": lambda: mcse(tensor),
    }
    theirs = {
        "rhat": lambda: az.rhat(dataset),
        "ess bulk": lambda: az.ess(dataset),
        "ess tail": lambda: az.ess(dataset, method="tail"),
        "mcse": lambda: az.mcse(dataset),
    }
    rows: list[Row] = []
    for name in ours:
        expected = theirs[name]()["x"].values
        difference = float(np.abs(ours[name]().numpy() / expected - 1).max())
        rows.append(_row(name, ours[name], theirs[name], threads, effort) | {"difference": difference})
    chains = Chains({"x": tensor})
    together = _row(ALL, lambda: convergence(chains), lambda: [call() for call in theirs.values()], threads, effort)
    return [*rows, together | {"difference": max(row["difference"] for row in rows)}]


def _row(name: str, ours: Callable[[], object], theirs: Callable[[], object], threads: int, effort: Effort) -> Row:
    times = alternate({"langevin": once(ours), "arviz": once(theirs)}, max(1, effort.repeats // 5))
    row: Row = {"variant": name, "times_langevin": ratio(times["arviz"], times["langevin"], threads)}
    for key, values in times.items():
        row |= {f"{key}_{column}": value for column, value in summary(values, "s").items()}
    return row
