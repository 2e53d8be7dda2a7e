"""Cases: each is measured in a process of its own, with a fixed number of threads.

JAX reads its thread count once, when it starts; compilers fill caches that would slow or speed up the next case; and
peak memory belongs to a process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch

from ..rows import Row

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Effort:
    """How much time to spend.

    Attributes
    ----------
    repeats
        Turns in which peers alternate.
    seconds
        The least that one timing lasts.
    quick
        Whether this is a smoke run, on smaller problems where they would take long.
    """

    repeats: int
    seconds: float
    quick: bool


@dataclass(frozen=True)
class Case:
    """A function to be called in a fresh process, and with how many threads."""

    label: str
    measure: Callable[..., list[Row]]
    arguments: tuple[Any, ...] = ()
    threads: int = 1

    def run(self) -> list[Row]:
        """Rows of results; none, and a word on stderr, where something went wrong."""
        os.environ["OMP_NUM_THREADS"] = os.environ["NPROC"] = str(self.threads)  # the latter is XLA's
        eigen = str(self.threads > 1).lower()
        os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={self.threads}"
        process = ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (self.threads,))
        with process as pool:
            try:
                found = pool.submit(self.measure, *self.arguments).result()
            except Exception as error:  # the other cases are worth having
                print(f"{self.label}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                return []
        return [{"case": self.label, "threads": self.threads} | row for row in found]
