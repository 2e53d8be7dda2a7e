"""One row per (set, split, method), kept as CSV; a stopped run goes on where it ended."""

from __future__ import annotations

from pathlib import Path

from .. import rows as rows_
from ..rows import Row

RESULTS = Path(__file__).parent / "results" / "uci.csv"
COLUMNS = (
    *("set", "split", "method", "num_data", "dim", "rmse", "log_likelihood", "coverage_90"),
    *("rhat_max", "rhat_95", "temperature", "temperature_error", "stopped", "steps", "lr", "seconds"),
)


def read(path: Path) -> list[Row]:
    """All rows; none if there is no file."""
    return rows_.read(path, ("set", "method"))


def append(path: Path, row: Row) -> None:
    """Add one row at the end."""
    rows_.append(path, COLUMNS, [row])
