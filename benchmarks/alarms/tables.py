"""The tables of the documentation, from the CSV files."""

from __future__ import annotations

import csv
import os
import platform
from collections import Counter
from datetime import date
from pathlib import Path

import torch
from langevin.diagnostics.rules import LEVELS
from scipy.stats import binomtest

from .cases import RIGHT


def write(folder: Path) -> None:
    """Write `alarms.md` and `coverage.md`."""
    (folder / "alarms.md").write_text(f"{_alarms(_read(folder / 'alarms.csv'))}\n\n{_machine()}\n", encoding="utf-8")
    (folder / "coverage.md").write_text(_coverage(_read(folder / "coverage.csv")) + "\n", encoding="utf-8")


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _machine() -> str:
    day = date.today()
    return f"{day.day} {day:%B %Y}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}."


def _alarms(rows: list[dict[str, str]]) -> str:
    lines = [
        "| runs | number | trust | look | do not trust | alarm (95 % interval) | without the posterior | checks |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    groups = [(kind, [row for row in rows if row["kind"] == kind]) for kind in kinds]
    groups.append(("**all wrong runs**", [row for row in rows if row["kind"] != RIGHT]))
    for kind, group in groups:
        found = Counter(row["verdict"] for row in group)
        alone = sum(row["alone"] != LEVELS[0] for row in group)
        checks = Counter(check for row in group for check in row["checks"].split("; ") if check)
        named = ", ".join(f"{check} {count}" for check, count in checks.most_common(3)) if len(kinds) > 1 else ""
        what = f": {group[0]['what']}" if group[0]["what"] and not kind.startswith("**") else ""
        counts = " | ".join(str(found[level]) for level in LEVELS)
        lines.append(
            f"| {kind}{what} | {len(group)} | {counts} | {_share(len(group) - found[LEVELS[0]], len(group))} | "
            f"{100 * alone / len(group):.0f} % | {named} |"
        )
    return "\n".join(lines)


def _share(count: int, total: int) -> str:
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return f"{100 * count / total:.3g} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _coverage(rows: list[dict[str, str]]) -> str:
    lines = ["| reading | chains | repetitions | interval holds the truth |", "|---|--:|--:|--:|"]
    for row in rows:
        share = _share(int(row["held"]), int(row["repetitions"]))
        lines.append(f"| {row['reading']} | {row['chains']} | {row['repetitions']} | {share} |")
    return "\n".join(lines)
