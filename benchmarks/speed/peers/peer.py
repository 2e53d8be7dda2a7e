"""What every library offers to a timing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..timing import Run


@dataclass(frozen=True)
class Peer:
    """A library ready to make steps.

    Attributes
    ----------
    run
        Makes a block of steps of all chains and returns their number.
    gradient
        Of the summed cost on the full data at the workload's start, `[dim]` in the order of the model's parameters.
    compile_seconds
        What getting ready took, tracing and compiling included.
    how
        The way in which steps are run, in words.
    """

    run: Run
    gradient: np.ndarray
    compile_seconds: float
    how: str


def check_gradients(peers: dict[str, Peer]) -> None:
    """Raise an AssertionError unless all compute the same."""
    first, *others = peers.values()
    scale = np.abs(first.gradient).max()
    for other in others:
        np.testing.assert_allclose(other.gradient, first.gradient, rtol=1e-3, atol=1e-4 * scale)


def available(makers: dict[str, Callable[[], Peer]]) -> dict[str, Peer]:
    """Those peers that are installed; a word on stderr about each of the others."""
    found: dict[str, Peer] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError as error:
            absent(name, error)
    return found


def absent(name: str, error: ImportError) -> None:
    """Say what is left out and why."""
    print(f"{name} left out, {error.name} is not installed: see benchmarks/requirements.txt", file=sys.stderr)
