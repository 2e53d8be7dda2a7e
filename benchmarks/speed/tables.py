"""Tables of what was measured, in Markdown, for the documentation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import records
from .records import Row

PEERS = {"langevin": "langevin", "blackjax": "BlackJAX", "posteriors": "posteriors", "by hand": "by hand"}


def number(value: float) -> str:
    """Three digits, or a dash for what was not measured."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; columns after the first are numbers."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines)) + "\n"


def steps(rows: Sequence[Row]) -> str:
    """CPU µs per step of all chains, a column for each peer."""
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in rows:
        found.setdefault((row["workload"], row["sampler"], int(row["chains"])), {})[row["peer"]] = row["cpu_us"]
    lines = [
        [f"{workload}, {sampler}", str(chains), *(number(times.get(peer, math.nan)) for peer in PEERS)]
        for (workload, sampler, chains), times in found.items()
    ]
    return table(["", "chains", *PEERS.values()], lines)


def listing(rows: Sequence[Row], names: Sequence[str], columns: Mapping[str, str]) -> str:
    """One line for each row, named by some columns, with the numbers of others."""
    lines = [[", ".join(row[name] for name in names), *(number(row[key]) for key in columns)] for row in rows]
    return table(["", *columns.values()], lines)


def write(folder: Path) -> None:
    """A file for each part that there are results of."""

    def save(part: str, text: str) -> None:
        if records.read(folder, part):
            (folder / f"{part}.md").write_text(text)

    def rows(part: str) -> list[Row]:
        return records.read(folder, part)

    save("steps", steps(rows("steps")))
    effort = {"ess_per_second": "worst ESS / s", "mean_bias": "worst bias of a mean, sd", "mean_error": "its error"}
    save("effective", listing(rows("effective"), ("workload", "sampler"), effort | {"sd_ratio": "sd / true sd"}))
    save("first_draw", listing(rows("first_draw"), ("workload", "peer"), {"wall_s": "seconds"}))
    save("natural", listing(rows("natural"), ("case", "variant"), {"cpu_ms": "ms", "times_yardstick": "/ yardstick"}))
    compared = {"cpu_ms": "CPU ms", "times_langevin": "/ langevin", "difference": "difference"}
    save("laplace", listing(rows("laplace"), ("workload", "structure", "peer"), compared))
    save("large", listing(rows("large"), ("case", "variant"), {"wall_ns": "ns", "times_normal": "/ `normal_`"}))
