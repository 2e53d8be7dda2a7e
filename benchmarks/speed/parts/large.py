"""The update alone: 10 million parameters in one flat vector, ns per parameter per step.

The cost is ½|ω|², whose gradient is ω: one pass over memory, timed by itself as `gradient`, and in compiled code no
pass at all. What is left is noise and update. `torch.Tensor.normal_` on a buffer of this size is the yardstick: eager
code draws its noise so. PSGLD adapts at every step; nothing is recorded between steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from langevin.samplers import PSGLD, SGLD

from ...rows import Row
from ..cases import CORES, Case, Effort
from ..peers.flat import PEERS
from ..peers.peer import absent
from ..peers.with_langevin import stepper
from ..quadratic import Quadratic
from ..timing import Run, alternate, once, ratio, summary

DIM, QUICK_DIM = 10_000_000, 1_000_000
LR = 0.01
SAMPLERS = {"langevin SGLD": SGLD(lr=LR), "langevin PSGLD": PSGLD(lr=LR)}
VARIANTS = (*SAMPLERS, *PEERS)


def cases(effort: Effort) -> Iterator[Case]:
    """On one thread and on all."""
    dim = QUICK_DIM if effort.quick else DIM
    for threads in sorted({1, CORES}):
        yield Case(f"{dim} parameters, {threads} threads", measure, (dim, threads, effort), threads)


def make(variant: str, dim: int) -> Run:
    """A function that makes some steps."""
    if variant in PEERS:
        return PEERS[variant](dim, LR)
    run, _ = stepper(Quadratic(dim), SAMPLERS[variant], None, torch.zeros(1, dim), 10**6, 8)
    return run


def measure(dim: int, threads: int, effort: Effort) -> list[Row]:
    """Rows of all variants; `times_normal` is how much longer than `normal_` each takes."""
    buffer, target = torch.zeros(1, dim), Quadratic(dim)
    runs = {"normal_": once(buffer.normal_), "gradient": once(lambda: target.cost_and_gradient(buffer))}
    for variant in VARIANTS:
        try:
            runs[variant] = make(variant, dim)
        except ImportError as error:
            absent(variant, error)
    found = alternate(runs, effort.repeats, effort.seconds)
    return [
        {"variant": name, "dim": dim}
        | {key.replace("_us", "_ns"): value / dim * 1e3 for key, value in summary(found[name], "us").items()}
        | {"times_normal": ratio(found[name], found["normal_"], threads)}
        for name in runs
    ]
