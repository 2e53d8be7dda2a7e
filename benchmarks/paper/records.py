"""One row per run: its settings and scores, kept as CSV; means over repetitions with their standard errors."""

from __future__ import annotations

import argparse
import csv
import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import torch
from langevin.diagnostics import Ensemble
from langevin.samplers import Chains, Posterior
from torch import Tensor

Row = dict[str, float]
RESULTS = Path(__file__).parent / "results"
SCORES = ("ensemble_accuracy", "ensemble_cross_entropy", "single_accuracy", "single_cross_entropy")


def parser(description: str | None, name: str, repetitions: int) -> argparse.ArgumentParser:
    """Arguments that all experiments have."""
    result = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    result.add_argument("--repetitions", type=int, default=repetitions, help="independent repetitions (%(default)s)")
    result.add_argument("--csv", type=Path, default=RESULTS / f"{name}.csv", help="where the numbers go (%(default)s)")
    result.add_argument("--image", default=name, help="name of the image in docs/_static/paper (%(default)s)")
    result.add_argument("--redraw", action="store_true", help="draw the figure from the CSV file, run nothing")
    return result


def announce() -> None:
    """Print date, machine and version; compute on one thread."""
    torch.set_num_threads(1)
    print(f"{date.today()}  {platform.machine()}, {os.cpu_count()} cores, one used; torch {torch.__version__}")


def collect(arguments: argparse.Namespace, runs: Callable[[], Iterator[Row]]) -> list[Row]:
    """All rows of `runs`, written to the CSV file as they come; with ``--redraw`` the rows of that file."""
    if arguments.redraw:
        return read(arguments.csv)
    announce()
    rows: list[Row] = []
    for row in runs():
        rows.append(row)
        write(arguments.csv, rows)
        print("  ".join(f"{key}={value:.4g}" for key, value in row.items()), flush=True)
    return rows


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in rows)


def read(path: Path) -> list[Row]:
    """Read rows that `write` wrote."""
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def score(posterior: Posterior, draws: Chains, x: Tensor, y: Tensor) -> Row:
    """Accuracy and cross-entropy in nats of the ensemble, and their means over single draws (100 of them)."""
    if draws.num_draws == 0 or not bool(draws.valid.all(-1).any()):
        return dict.fromkeys(SCORES, math.nan)  # every chain left the finite numbers
    result = Ensemble(posterior, draws).evaluate(x, y)
    both = (result.ensemble["accuracy"], result.ensemble["nll"], result.single["accuracy"], result.single["nll"])
    return dict(zip(SCORES, both, strict=True))


def values_at(rows: Sequence[Row], column: str, **settings: float) -> list[float]:
    """Finite values of a column among the rows with these settings."""
    chosen = (row for row in rows if all(math.isclose(row[k], v, rel_tol=1e-5) for k, v in settings.items()))
    return [row[column] for row in chosen if math.isfinite(row[column])]


def best_settings(rows: Sequence[Row], setting: str, column: str = "ensemble_cross_entropy") -> list[float]:
    """For every repetition the setting with the lowest score."""
    best: list[float] = []
    for repetition in sorted({row["repetition"] for row in rows}):
        own = [row for row in rows if row["repetition"] == repetition and math.isfinite(row[column])]
        if own:
            best.append(min(own, key=lambda row: row[column])[setting])
    return best
