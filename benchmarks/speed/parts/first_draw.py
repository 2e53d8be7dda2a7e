"""From the start of a process to its first draw, in seconds: imports, data, compiler, one step.

langevin compiles with an empty cache, with the cache that the run before left, and not at all. BlackJAX compiles anew
in every process, as JAX does unless told where to keep what it compiled.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec

from ...rows import Row
from ..cases import CORES, Case, Effort

PROBLEMS = {"logistic 2": 1, "mlp": 16}  # and their chains
REPEATS = 3
PEERS = "benchmarks.speed.peers"
COLD, WARM, EAGER = "langevin, cold", "langevin, warm", "langevin, eager"


def cases(effort: Effort) -> Iterator[Case]:
    """Either problem."""
    for name in list(PROBLEMS)[: 1 if effort.quick else None]:
        yield Case(f"first draw, {name}", measure, (name, effort), CORES)


def measure(name: str, effort: Effort) -> list[Row]:
    """A row for each way, the runs taking turns."""
    found: dict[str, list[float]] = {}
    for _ in range(1 if effort.quick else REPEATS):
        for peer, seconds in turn(name).items():
            found.setdefault(peer, []).append(seconds)
    return [
        {"workload": name, "chains": PROBLEMS[name], "peer": peer, "wall_s": statistics.median(seconds)}
        | {"wall_s_low": min(seconds), "wall_s_high": max(seconds)}
        for peer, seconds in found.items()
    ]


def turn(name: str) -> dict[str, float]:
    """Each way once."""
    chains = str(PROBLEMS[name])
    with tempfile.TemporaryDirectory() as cache:
        ways = ((COLD, "compiled"), (WARM, "compiled"), (EAGER, "eager"))
        found = {way: fresh("langevin", name, chains, how, cache=cache) for way, how in ways}
    if find_spec("blackjax"):
        found["blackjax"] = fresh("blackjax", name, chains)
    return found


def fresh(peer: str, *arguments: str, cache: str | None = None) -> float:
    """Seconds of a new process."""
    command = [sys.executable, "-m", f"{PEERS}.fresh_{peer}", *arguments]
    environment = os.environ | ({"TORCHINDUCTOR_CACHE_DIR": cache} if cache else {})
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True)
    return time.perf_counter() - began
