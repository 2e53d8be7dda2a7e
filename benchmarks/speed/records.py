"""Files of results: one CSV for each part, and what they were measured on and with, as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .. import rows
from ..rows import Row

RESULTS = Path(__file__).parents[1] / "results" / "speed"
PACKAGES = ("langevin", "torch", "numpy", "arviz", "jax", "jaxlib", "blackjax", "posteriors", "laplace-torch")
TEXT = (
    "case",
    "workload",
    "sampler",
    "peer",
    "how",
    "variant",
    "structure",
    "axis",
)  # columns of words


def read(folder: Path, part: str) -> list[Row]:
    """Rows of one part; none if it has not been measured."""
    return rows.read(folder / f"{part}.csv", TEXT)


def write(folder: Path, part: str, found: Sequence[Row], repeats: int) -> None:
    """Write what was found so far, and where."""
    rows.write(folder / f"{part}.csv", found)
    path = folder / "machine.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {part: machine() | {"repeats": repeats}}, indent=2, sort_keys=True) + "\n")


def machine() -> dict[str, object]:
    """Date, machine and versions."""
    return {
        "date": str(date.today()),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    path = Path("/proc/cpuinfo")
    names = [line for line in path.read_text().splitlines() if line.startswith("model name")] if path.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()
