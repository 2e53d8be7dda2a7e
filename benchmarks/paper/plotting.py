"""How the figures look: colours that the colour-blind can tell apart, curves with standard errors, ellipses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from ..rows import mean_and_error
from .records import Row, values_at

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

IMAGES = Path(__file__).parents[2] / "docs" / "_static" / "paper"
# Okabe & Ito's palette.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"),
    "#7F7F7F",
)
CYCLE = (BLUE, RED, GREEN, ORANGE, PINK, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

plt.rcParams.update({
    "figure.dpi": 130, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "lines.markersize": 4, "lines.linewidth": 1.3, "errorbar.capsize": 2.5,
})  # fmt: skip


def panels(count: int, width: float = 4.0, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """Empty panels side by side."""
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def save(figure: Figure, name: str) -> None:
    """Write the image into the documentation."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / f"{name}.png")
    plt.close(figure)
    print(f"wrote {IMAGES.relative_to(Path(__file__).parents[2]) / name}.png")


def curve(axes: Axes, rows: Sequence[Row], x: str, y: str, label: str, style: int = 0, **settings: float) -> None:
    """Mean of column y over repetitions against column x, with standard errors."""
    places = sorted({row[x] for row in rows if all(row[k] == v for k, v in settings.items())})
    found = [values_at(rows, y, **{x: place}, **settings) for place in places]
    kept = [(place, *mean_and_error(values)) for place, values in zip(places, found, strict=True) if values]
    place, mean, error = np.array(kept).T if kept else np.empty((3, 0))
    axes.errorbar(
        place, mean, np.nan_to_num(error), color=CYCLE[style], marker=MARKERS[style], label=label, elinewidth=1.3
    )


def accuracy_and_cross_entropy(rows: Sequence[Row], x: str, x_label: str, at: float, at_label: str) -> Figure:
    """Both scores of ensemble and single draws, and a line where the temperature is one."""
    figure, axes = panels(2)
    for panel, name, label in zip(
        axes, ("accuracy", "cross_entropy"), ("test accuracy", "test cross-entropy, nats"), strict=True
    ):
        curve(panel, rows, x, f"ensemble_{name}", "ensemble")
        curve(panel, rows, x, f"single_{name}", "single draw", 1)
        mark(panel, at, at_label)
        panel.set(xscale="log", xlabel=x_label, ylabel=label)
        if name == "cross_entropy":
            focus(panel)
    axes[0].legend(loc="best")
    return figure


def focus(axes: Axes) -> None:
    """Keep the cross-entropies of guessing and worse out of the picture: single draws gone astray cost thousands."""
    low, high = axes.get_ylim()
    lowest = min(np.min(line.get_ydata()) for line in axes.lines if line.get_marker() in MARKERS)
    axes.set_ylim(max(low, 0.9 * lowest), min(high, 2.0, 5 * lowest))


def mark(axes: Axes, at: float, label: str) -> None:
    """Mark a place on the abscissa."""
    axes.axvline(at, color=GREY, linestyle="--", linewidth=1, label=label, zorder=0)


def ellipse(mean: np.ndarray, covariance: np.ndarray, sds: float = 3.0) -> np.ndarray:
    """Points ``[2, n]`` of the ellipse that many standard deviations away."""
    angle = np.linspace(0, 2 * np.pi, 200)
    return mean[:, None] + sds * np.linalg.cholesky(covariance) @ np.stack([np.cos(angle), np.sin(angle)])
