"""Rows of results kept as CSV, to which a stopped benchmark can add."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

Row = dict[str, Any]


def read(path: Path, text: Collection[str]) -> list[Row]:
    """Rows as numbers, the columns `text` as they are; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: v if key in text else float(v) for key, v in row.items()} for row in csv.DictReader(file)]


def append(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Add rows at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerows(map(_formatted, rows))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows in place of those in the file; NaN stands where one lacks a column of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="nan")
        writer.writeheader()
        writer.writerows(map(_formatted, rows))


def _formatted(row: Row) -> Row:
    return {key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()}


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of one value is unknown."""
    values = [float(value) for value in values]
    return fmean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
