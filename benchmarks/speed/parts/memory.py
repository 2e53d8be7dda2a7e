"""Peak memory of the update of one flat vector, in MiB of the whole process.

What parameters add is the difference between a process with many of them and one with a thousand, which imports and
compiles the same. `whole` is all that a user sees, compiling and its check included, `steps` what steps alone reach.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

from ...rows import Row
from ..cases import CORES, Case, Effort
from ..peers.peer import absent
from .large import VARIANTS, make

FEW, MANY, QUICK_MANY = 1000, 20_000_000, 5_000_000


def cases(effort: Effort) -> Iterator[Case]:
    """Every variant at either size."""
    for variant in VARIANTS[:1] if effort.quick else VARIANTS:
        for dim in (FEW, QUICK_MANY if effort.quick else MANY):
            yield Case(f"{variant}, {dim} parameters", measure, (variant, dim), CORES)


def measure(variant: str, dim: int) -> list[Row]:
    """One row."""
    try:
        run = make(variant, dim)
    except ImportError as error:
        absent(variant, error)
        return []
    run()
    whole = peak()
    forget_peak()
    run()
    return [{"variant": variant, "dim": dim, "whole_mib": whole, "steps_mib": peak()}]


def peak() -> float:
    """Most MiB that this process has had in memory; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> None:
    """Begin to count again, where the system can (Linux)."""
    if (path := Path("/proc/self/clear_refs")).exists():
        path.write_text("5")
