"""One row per epoch of every run, kept as CSV; a stopped benchmark goes on with the run that it was at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import rows as rows_
from ..rows import Row

RESULTS = Path(__file__).parent / "results"
TEXT = ("model", "stage", "optimiser")
COLUMNS = (
    *("model", "stage", "optimiser", "lr", "sgd_lr", "seed", "epochs", "num_train", "epoch"),
    *("train_loss", "error", "loss", "seconds"),
)


def read(path: Path) -> list[Row]:
    """All rows; none if there is no file."""
    return rows_.read(path, TEXT)


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add the rows of one run at the end."""
    rows_.append(path, COLUMNS, rows)


def final(rows: Sequence[Row], **settings: Any) -> list[Row]:
    """The last epoch of every run with these settings."""
    return [row for row in rows if row["epoch"] == row["epochs"] and all(row[k] == v for k, v in settings.items())]


def best_rates(rows: Sequence[Row], model: str, optimiser: str) -> tuple[float, float] | None:
    """Learning rates with the lowest validation error, by loss where errors are equal; None without a finite one."""
    tried = [row for row in final(rows, model=model, stage="grid", optimiser=optimiser) if math.isfinite(row["loss"])]
    if not tried:
        return None
    best = min(tried, key=lambda row: (row["error"], row["loss"]))
    return best["lr"], best["sgd_lr"]
