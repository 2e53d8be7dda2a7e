"""The tables of docs/predictions.md, from the numbers that `uci` wrote.

Run with ``python -m benchmarks.predictions.table``; it prints the tables and replaces what stands between the page's
two marks.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median

from ..rows import mean_and_error
from .data import SETS
from .methods import METHODS
from .records import RESULTS, Row, read

PAGE = Path(__file__).parents[2] / "docs" / "predictions.md"
BEGIN, END = "<!-- begin tables -->", "<!-- end tables -->"
LABELS = {
    "mode": "mode", "modes": "4 modes", "laplace": "Laplace, sampled", "linearised": "Laplace, linearised",
    "sgld": "SGLD", "psgld": "PSGLD", "sghmc": "SGHMC", "sngd": "SNGD", "hmc": "HMC",
}  # fmt: skip
SAMPLERS = ("sgld", "psgld", "sghmc", "sngd", "hmc")
# MC dropout over all 20 splits, as the readme of its repository states them for grid search per split: RMSE and its
# standard error, log-likelihood and its.
DROPOUT = {
    "bostonHousing": (2.90, 0.18, -2.40, 0.04),
    "concrete": (4.82, 0.16, -2.93, 0.02),
    "energy": (0.54, 0.06, -1.21, 0.01),
    "kin8nm": (0.08, 0.00, 1.14, 0.01),
    "power-plant": (4.01, 0.04, -2.80, 0.01),
    "wine-quality-red": (0.62, 0.01, -0.93, 0.01),
    "yacht": (0.67, 0.05, -1.25, 0.01),
}
DIGITS = {"kin8nm": 4, "wine-quality-red": 3}


def splits(rows: Sequence[Row], name: str) -> list[float]:
    """Splits of a set that every method has which has any."""
    done = [{row["split"] for row in rows if (row["set"], row["method"]) == (name, method)} for method in METHODS]
    done = [found for found in done if found]
    return sorted(set.intersection(*done)) if done else []


def values(rows: Sequence[Row], name: str, method: str, column: str) -> list[float]:
    """A column of a method on those splits; nothing if it was not run."""
    common = splits(rows, name)
    own = {row["split"]: row[column] for row in rows if (row["set"], row["method"]) == (name, method)}
    return [own[split] for split in common if split in own]


def scores(rows: Sequence[Row], column: str, dropout: Callable[[tuple[float, ...]], tuple[float, ...]]) -> str:
    """Markdown: methods down, sets across, means with their standard errors; MC dropout last."""
    sets = [name for name in SETS if splits(rows, name)]
    lines = ["| | " + " | ".join(sets) + " |", "|---|" + "--:|" * len(sets)]
    lines.append("| splits | " + " | ".join(str(len(splits(rows, name))) for name in sets) + " |")
    for method in METHODS:
        cells = []
        for name in sets:
            found = values(rows, name, method, column)
            if not found:
                cells.append("–")
                continue
            mean, error = mean_and_error(found)
            digits = DIGITS.get(name, 2) if column == "rmse" else 2
            cells.append(f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}"))
        lines.append(f"| {LABELS[method]} | " + " | ".join(cells) + " |")
    published = (dropout(DROPOUT[name]) for name in sets)
    lines.append(
        "| *MC dropout, published (20 splits)* | " + " | ".join(f"{m:.2f} ± {e:.2f}" for m, e in published) + " |"
    )
    return "\n".join(lines)


def per_sampler(rows: Sequence[Row], cell: Callable[[str, str], str]) -> str:
    """Markdown: samplers down, sets across."""
    sets = [name for name in SETS if splits(rows, name)]
    lines = ["| | " + " | ".join(sets) + " |", "|---|" + "--:|" * len(sets)]
    for method in SAMPLERS:
        cells = [cell(name, method) if values(rows, name, method, "steps") else "–" for name in sets]
        lines.append(f"| {LABELS[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(rows: Sequence[Row]) -> str:
    """All tables."""

    def mixing(name: str, method: str) -> str:
        columns = (values(rows, name, method, column) for column in ("rhat_95", "rhat_max"))
        return " / ".join(f"{median(column):.2f}" for column in columns)

    def heat(name: str, method: str) -> str:
        value, error = (values(rows, name, method, column) for column in ("temperature", "temperature_error"))
        return f"{fmean(value):.2f} ± {math.sqrt(sum(e * e for e in error)) / len(error):.2f}"

    def effort(name: str, method: str) -> str:
        return f"{median(values(rows, name, method, 'steps')):.0f}"

    def coverage(name: str, method: str) -> str:
        return f"{100 * fmean(values(rows, name, method, 'coverage_90')):.0f}"

    parts = [
        ("RMSE, in units of the target (lower is better):", scores(rows, "rmse", lambda p: p[:2])),
        ("Test log-likelihood, nats per example (higher is better):", scores(rows, "log_likelihood", lambda p: p[2:])),
        ("R̂ of predictive means, 95th percentile and largest, median over splits:", per_sampler(rows, mixing)),
        ("Measured temperature, mean over splits (asked for: 1):", per_sampler(rows, heat)),
        ("Coverage of the central 90 % interval, %:", per_sampler(rows, coverage)),
        ("Steps of each chain, warm-up included:", per_sampler(rows, effort)),
    ]
    return "\n\n".join(f"{title}\n\n{text}" for title, text in parts)


def main() -> None:
    """Print, and put the tables into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--csv", type=Path, default=RESULTS)
    rows = read(parser.parse_args().csv)
    if not any(splits(rows, name) for name in SETS):
        parser.error("no rows: run python -m benchmarks.predictions.uci first")
    text = report(rows)
    print(text)
    if PAGE.exists():
        head, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
