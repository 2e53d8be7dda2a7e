"""Clocks: functions take turns, and medians and quantiles of their times are reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ..rows import Row

Run = Callable[[], int]
"""Does some work and says how much: a block of steps, and their number."""

UNITS = {"us": 1e6, "ms": 1e3, "s": 1.0}


class Time(NamedTuple):
    """Seconds per unit of work, of this process's threads together and on the wall."""

    cpu: float
    wall: float


def timed(run: Run, seconds: float = 0.0) -> Time:
    """Run until so many seconds have passed, once at least."""
    done, cpu, wall = 0, time.process_time(), time.perf_counter()
    while not done or time.perf_counter() - wall < seconds:
        done += run()
    return Time((time.process_time() - cpu) / done, (time.perf_counter() - wall) / done)


def alternate(runs: Mapping[str, Run], repeats: int, seconds: float = 0.0) -> dict[str, list[Time]]:
    """Times of each function in each of so many turns, after one to warm up."""
    for run in runs.values():
        run()
    turns = [{name: timed(run, seconds) for name, run in runs.items()} for _ in range(repeats)]
    return {name: [turn[name] for turn in turns] for name in runs}


def summary(times: list[Time], unit: str) -> Row:
    """Median and 10 and 90 % quantiles by either clock."""
    row: Row = {}
    for clock, values in zip(Time._fields, np.array(times).T * UNITS[unit], strict=True):
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
        row |= {f"{clock}_{unit}": middle, f"{clock}_{unit}_10": low, f"{clock}_{unit}_90": high}
    return row


def ratio(times: list[Time], base: list[Time], threads: int) -> float:
    """Median over turns of a time over another of the same turn.

    By CPU time on one thread, which others on the machine hardly change; by the wall on several, where waiting counts.
    """
    clock = "cpu" if threads == 1 else "wall"
    return statistics.median(getattr(t, clock) / getattr(b, clock) for t, b in zip(times, base, strict=True))


def once(function: Callable[[], object]) -> Run:
    """A function as one unit of work."""

    def run() -> int:
        function()
        return 1

    return run
