"""The figure: how the time of a step grows with chains, parameters and data, beside peers where they were measured."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ..paper.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, RED, panels
from . import records
from .records import Row

IMAGES = Path(__file__).parents[2] / "docs" / "_static" / "performance"
STYLES = {  # colour and marker
    "langevin": (BLUE, "o"),
    "blackjax": (RED, "s"),
    "posteriors": (GREEN, "^"),
    "by hand": (ORANGE, "D"),
    "normal_": (BLACK, "X"),
}
NAMES = {"blackjax": "BlackJAX", "by hand": "a loop over models", "normal_": "normal_ alone"}
GUIDE = "constant, or in proportion"
TITLES = {
    "chains": "chains (MLP, 850 weights)",
    "parameters": "parameters (update alone)",
    "data": "examples (minibatches of 50)",
}


def draw(folder: Path, images: Path) -> None:
    """Draw `scaling.png` from the files in a folder, if the scaling was measured."""
    rows = records.read(folder, "scaling")
    if not rows:
        return
    figure, axes = panels(3, 3.6, 3.4)
    peers = {"chains": _chains(folder), "parameters": _parameters(folder), "data": {}}
    for panel, axis in zip(axes, TITLES, strict=True):
        for peer, points in peers[axis].items():
            _plot(panel, peer, points)
        own = [row for row in rows if row["axis"] == axis]
        _plot(panel, "langevin", {row["size"]: row for row in own})
        _proportional(panel, own, flat=axis == "data")
        panel.set(xscale="log", yscale="log", xlabel=TITLES[axis])
        panel.grid(which="major", color=GREY, alpha=0.2, linewidth=0.6)
        _two_decades(panel)
    axes[0].set_ylabel("µs per step of all chains")
    handles = {str(h.get_label()): h for panel in axes for h in panel.get_legend_handles_labels()[0]}
    order = [name for name in (*(NAMES.get(peer, peer) for peer in STYLES), GUIDE) if name in handles]
    figure.legend(handles=[handles[name] for name in order], loc="outside upper center", ncols=len(order))
    images.mkdir(parents=True, exist_ok=True)
    figure.savefig(images / "scaling.png")
    plt.close(figure)
    print(f"wrote {images / 'scaling.png'}")


def _chains(folder: Path) -> dict[str, dict[float, Row]]:
    """Peers' points on the MLP, by number of chains."""
    rows = [r for r in records.read(folder, "steps") if (r["workload"], r["sampler"]) == ("mlp", "SGLD")]
    return {peer: {r["chains"]: r for r in rows if r["peer"] == peer} for peer in ("blackjax", "posteriors", "by hand")}


def _parameters(folder: Path) -> dict[str, dict[float, Row]]:
    """Peers' points on one large vector, with as many threads as there are."""
    rows = records.read(folder, "large")
    threads = max((row["threads"] for row in rows), default=1)
    found: dict[str, dict[float, Row]] = {}
    for row in rows:
        peer = row["variant"].removesuffix(" SGLD")
        if row["threads"] == threads and peer in STYLES and peer != "langevin":
            scaled = {f"wall_us{end}": row[f"wall_ns{end}"] * row["dim"] / 1e3 for end in ("", "_10", "_90")}
            found[peer] = {row["dim"]: scaled}
    return found


def _plot(panel: Axes, peer: str, points: dict[float, Row]) -> None:
    """Medians on the wall, with 10 and 90 % quantiles."""
    if not points:
        return
    colour, marker = STYLES[peer]
    places = sorted(points)
    middle, low, high = ([points[place][f"wall_us{end}"] for place in places] for end in ("", "_10", "_90"))
    errors = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
    panel.errorbar(places, middle, errors, color=colour, marker=marker, label=NAMES.get(peer, peer), elinewidth=1.0)


def _proportional(panel: Axes, rows: list[Row], flat: bool) -> None:
    """A dashed line through the largest size: in proportion to it, or of constant time."""
    if len(rows) < 2:
        return
    ends = sorted(rows, key=lambda row: row["size"])
    first, last = ends[0], ends[-1]
    shrunk = last["wall_us"] * (1.0 if flat else first["size"] / last["size"])
    panel.plot(
        [first["size"], last["size"]], [shrunk, last["wall_us"]], "--", color=GREY, linewidth=1, zorder=0,
        label=GUIDE,
    )  # fmt: skip


def _two_decades(panel: Axes) -> None:
    """Widen a narrower range of the ordinate: on a logarithmic axis noise would look like growth."""
    low, high = panel.get_ylim()
    short = max(1.0, 10 / (high / low) ** 0.5)
    panel.set_ylim(low / short, high * short)
