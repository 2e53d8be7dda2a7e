"""CSV files, and the tables of the documentation between their markers."""

from __future__ import annotations

import csv
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.validity.bias import Bias
from benchmarks.validity.calibration import TEMPERATURES, Ranks
from benchmarks.validity.cells import MAKERS, POSTERIORDB, WITH_PRIOR, Cell
from tests.validity.table import TABLE

PAGE = Path("docs/validity.md")
_KEYS = {"exact": "=", "own law": "≡", "limit": "→", "bias": "≈", "no law": "≠"}


def machine() -> str:
    """Date, machine and version, as every table of results states them."""
    day = date.today()
    return (
        f"{day.day} {day:%B %Y}, one thread of {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    )


def write(path: Path, rows: Sequence[Any]) -> None:
    """Write data classes as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()})


def read(path: Path, kind: type) -> list[Any]:
    """Read what `write` wrote."""
    types = {"int": int, "float": float, "str": str}
    convert: dict[str, Callable[[str], Any]] = {field.name: types[str(field.type)] for field in fields(kind)}
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [kind(**{key: convert[key](value) for key, value in row.items()}) for row in csv.DictReader(file)]


def verdict(cell: Cell | None) -> str:
    """One cell of the table of verdicts."""
    if cell is None:
        return ""
    sign = _KEYS[cell.kind]
    lost = f" ({cell.chains_lost} lost)" if cell.chains_lost else ""
    if cell.tested:
        text = f"{sign} {cell.max_z:.1f}"
        return (text if cell.passed else f"**✗ {text}**") + lost
    return f"{sign} {cell.variance:.3g}{lost}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table; all but the first column to the right."""
    lines = [" | ".join(header), "|".join(["---", *["--:"] * (len(header) - 1)]), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def by_target(cells: Sequence[Cell], names: Sequence[str], text: Callable[[Cell | None], str]) -> str:
    """Samplers down, targets across."""
    found = {(cell.sampler, cell.target): cell for cell in cells}
    at = {(s, t): found.get((s, t)) for s in TABLE for t in names}
    used = [s for s in TABLE if any(text(at[s, t]) for t in names)]
    return markdown(["", *names], [[f"`{s}`", *(text(at[s, t]) for t in names)] for s in used])


def efficiency(cell: Cell | None) -> str:
    """ESS per thousand gradients, and per CPU second."""
    if cell is None or cell.kind in ("no law", "own law"):
        return ""
    if math.isnan(cell.ess_gradient):
        return "–"
    return f"{1000 * cell.ess_gradient:.2g}, {cell.ess_second:.2g}"


def variances(cell: Cell | None) -> str:
    """Measured with its error, and predicted."""
    if cell is None:
        return ""
    known = "–" if math.isnan(cell.predicted) else _number(cell.predicted)
    return f"{_number(cell.variance)} ± {cell.error:.1g}, {known}"


def _number(value: float) -> str:
    return f"{value:.4f}" if value < 10 else f"{value:.3f}"


def bias_table(rows: Sequence[Bias]) -> str:
    """Measured and predicted, samplers and batches down, steps across."""
    steps = sorted({row.step for row in rows})
    keys = list(dict.fromkeys((row.target, row.sampler, row.batch_size) for row in rows))
    found = {(row.target, row.sampler, row.batch_size, row.step): row for row in rows}

    def text(row: Bias | None) -> str:
        return "" if row is None else f"{_number(row.measured)} ± {row.error:.1g}, {_number(row.predicted)}"

    return markdown(
        ["", "B", *(f"ελ = {step:g}" for step in steps)],
        [[f"{t}, `{s}`", str(b) if b else "N", *(text(found.get((t, s, b, e))) for e in steps)] for t, s, b in keys],
    )


def calibration_table(rows: Sequence[Ranks]) -> str:
    """Smallest p-value of the three at T = 1, largest at wrong temperatures."""
    found = {(row.sampler, row.temperature): row for row in rows}
    lines = []
    for sampler in dict.fromkeys(row.sampler for row in rows):
        texts = []
        for T in TEMPERATURES:
            row = found.get((sampler, T))
            p = [] if row is None else [row.p_first, row.p_second, row.p_log_likelihood]
            texts.append("" if not p else f"{min(p):.2g}" if T == 1 else f"{max(p):.1g}")
        lines.append([f"`{sampler}`", *texts])
    return markdown(["", *(f"T = {T:g}" for T in TEMPERATURES)], lines)


def summary(cells: Sequence[Cell]) -> str:
    """What was compared, in one sentence."""
    tested = [cell for cell in cells if cell.tested]
    count = sum(cell.comparisons for cell in tested)
    low, high = min(c.threshold for c in tested), max(c.threshold for c in tested)
    failed = [f"`{c.sampler}` on {c.target}" for c in tested if not c.passed]
    worst = max(cell.max_z / cell.threshold for cell in tested)
    return (
        f"{len(cells)} cells, {len(tested)} of them judged, with {count} comparisons. Thresholds lie between {low:.1f} "
        f"and {high:.1f}; the largest |z| is {worst:.2f} of its own. "
        + (f"Beyond it: {', '.join(failed)}." if failed else "None is beyond it.")
    )


def sections(cells: Sequence[Cell], biases: Sequence[Bias], ranks: Sequence[Ranks], made: str) -> dict[str, str]:
    """Everything that the command puts into the page, by marker."""
    names = [name for name in MAKERS if name not in (*POSTERIORDB, WITH_PRIOR)]
    gaussian = ("gaussian", "ill-conditioned", "thousand", "mean", "regression")
    own = [cell for cell in cells if cell.target in POSTERIORDB]
    lines = [
        [f"`{c.target}`", f"`{c.sampler}`", verdict(c), f"{c.threshold:.1f}" if c.tested else "",
         f"{c.bias_mean:.2f}", f"{_number(c.variance)} ± {c.error:.1g}", efficiency(c)]
        for c in own
    ]  # fmt: skip
    header = ["posterior", "sampler", "verdict", "threshold", "bias of means, sd", "variances", "ESS"]
    return {
        "summary": summary(cells),
        "verdicts": by_target(cells, names, verdict),
        "variances": by_target(cells, gaussian, variances),
        "efficiency": by_target(cells, names, efficiency),
        "posteriordb": markdown(header, lines) if lines else "",
        "bias": bias_table(biases) if biases else "",
        "calibration": calibration_table(ranks) if ranks else "",
        "made": made,
    }


def fill(page: str, parts: dict[str, str]) -> str:
    """Replace what stands between ``% begin NAME`` and ``% end``."""
    for name, text in parts.items():
        start = page.index(f"% begin {name}\n") + len(f"% begin {name}\n")
        end = page.index("% end", start)
        page = page[:start] + f"\n{text}\n\n" + page[end:]
    return page
