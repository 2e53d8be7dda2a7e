"""The table and the figure of docs/optimisers.md, from the numbers that `cifar10` wrote.

Run with ``python -m benchmarks.optimisers.table``; it prints the table and replaces what stands between the page's two
marks.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from ..rows import mean_and_error
from .records import RESULTS, Row, best_rates, final, read
from .training import GRIDS

mpl.use("Agg")

from matplotlib import pyplot as plt

DOCS = Path(__file__).parents[2] / "docs"
PAGE, IMAGE = DOCS / "optimisers.md", DOCS / "_static" / "optimisers" / "curves.png"
BEGIN, END = "<!-- begin table -->", "<!-- end table -->"
STYLES = {
    "SGD": ("#000000", "-"), "ASGLD": ("#7F7F7F", "-"), "Adam": ("#E69F00", "-"), "AMSGrad": ("#E69F00", ":"),
    "AdaGrad": ("#56B4E9", "-"), "AdamW": ("#D55E00", "-"), "AdaBayes": ("#0072B2", "-"),
    "AdaBayes-FP": ("#009E73", "-"),
}  # fmt: skip


def chosen(rows: Sequence[Row], optimiser: str) -> list[Row]:
    """Last epochs of the runs with the learning rates that the grid, as it is now, chooses."""
    rates = best_rates(rows, "small", optimiser)
    return [row for row in final(rows, stage="test", optimiser=optimiser) if (row["lr"], row["sgd_lr"]) == rates]


def table(rows: Sequence[Row]) -> str:
    """Markdown: one line per optimiser, in the order of test error."""
    lines = [
        "| optimiser | learning rate | runs | test error, % | test loss, nats | training loss, nats |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    scored: list[tuple[float, str]] = []
    for optimiser in GRIDS:
        last = chosen(rows, optimiser)
        if not last:
            continue
        cells = [_with_error([100 * row["error"] for row in last], 1)]
        cells += [_with_error([row[name] for row in last], 3) for name in ("loss", "train_loss")]
        scored.append((mean_and_error([row["error"] for row in last])[0],
                       f"| {optimiser} | {_rates(last[0])} | {len(last)} | {' | '.join(cells)} |"))  # fmt: skip
    return "\n".join(lines + [line for _, line in sorted(scored)])


def grid(rows: Sequence[Row]) -> str:
    """Markdown: validation error of every learning rate that was tried."""
    lines = ["| optimiser | validation error, %, at each learning rate |", "|---|---|"]
    for optimiser in GRIDS:
        tried = final(rows, stage="grid", optimiser=optimiser)
        if tried:
            cells = ", ".join(
                f"{_rates(row)}: {100 * row['error']:.1f}" + ("" if math.isfinite(row["loss"]) else " (diverged)")
                for row in tried
            )
            lines.append(f"| {optimiser} | {cells} |")
    return "\n".join(lines)


def _rates(row: Row) -> str:
    return f"{row['lr']:g}" if row["sgd_lr"] == 0 else f"{row['lr']:g}, η_SGD = {row['sgd_lr']:g}"


def _with_error(values: list[float], digits: int) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def draw(rows: Sequence[Row]) -> None:
    """Test error and training loss against epochs, means over runs."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    for optimiser, (color, style) in STYLES.items():
        runs = {(row["lr"], row["sgd_lr"], row["seed"]) for row in chosen(rows, optimiser)}
        own = [
            row
            for row in rows
            if (row["stage"], row["optimiser"]) == ("test", optimiser)
            and (row["lr"], row["sgd_lr"], row["seed"]) in runs
        ]
        epochs = sorted({row["epoch"] for row in own})
        for panel, name, factor in zip(axes, ("error", "train_loss"), (100.0, 1.0), strict=True):
            means = [factor * mean_and_error([r[name] for r in own if r["epoch"] == epoch])[0] for epoch in epochs]
            panel.plot(epochs, means, color=color, linestyle=style, label=optimiser, linewidth=1.3)
    for panel, label in zip(axes, ("test error, %", "training loss, nats"), strict=True):
        panel.set(xlabel="epoch", ylabel=label)
        panel.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, fontsize=8)
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE, dpi=130)
    plt.close(figure)


def main() -> None:
    """Draw, print, and put the tables into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--csv", type=Path, default=RESULTS / "cifar10.csv")
    rows = [row for row in read(parser.parse_args().csv) if row["model"] == "small"]
    if not rows:
        parser.error("no rows: run python -m benchmarks.optimisers.cifar10 first")
    text = f"{table(rows)}\n\nLearning rates tried (one run each, seed 0):\n\n{grid(rows)}"
    print(text)
    draw(rows)
    if PAGE.exists():
        page = PAGE.read_text()
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
