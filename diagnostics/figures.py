"""The report's figures, one function each: numbers in, a panel with its caption and its text for screen readers out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.stats import rankdata

from .canvas import GOOD, INK, MAX_LINES, MUTED, SERIES, Canvas, number, plain_log, short, spread
from .page import Panel

MAX_POINTS = 240
"""Points of one line."""
MAX_DOTS = 300
"""Dots of one scatter plot."""
LEAST_IN_BIN = 5
"""Examples below which a point of the reliability diagram is left out."""


def traces(key: str, values: np.ndarray, title: str, label: str, at: np.ndarray | None = None) -> Panel:
    """Lines of `values` [chain, draw] over the number of the draw, or over `at` [draw]."""
    at = np.arange(values.shape[1]) if at is None else at
    chains, draws = spread(values.shape[0], MAX_LINES), spread(values.shape[1], MAX_POINTS)
    canvas = Canvas(key, title)
    with canvas as axes:
        for colour, chain in zip(SERIES, chains, strict=False):
            marker = "." if len(draws) < 3 else ""
            axes.plot(at[draws] + 1, values[chain, draws], color=colour, lw=1.0, alpha=0.85, marker=marker)
        axes.set_xlabel("draw")
        axes.set_ylabel(short(label, 24), parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(number))
        axes.grid(axis="y", lw=0.6)
    fraction = f", {len(draws)} of {values.shape[1]:,} draws" if len(draws) < values.shape[1] else ""
    which = f"{len(chains)} of {values.shape[0]} chains" if len(chains) < values.shape[0] else f"{len(chains)} chains"
    if len(chains) == 1:
        which = "one chain"
    finite = values[np.isfinite(values)]
    extent = f"from {finite.min():.4g} to {finite.max():.4g}" if finite.size else "with no finite value"
    return canvas.panel(
        f"One line per chain ({which}{fraction}). Good chains overlap, with no trend and no long excursions."
        if len(chains) > 1
        else f"A good chain has no trend and no long excursions{fraction.replace(',', ';', 1)}.",
        f"Trace of {title} by draw for {which}, {extent}.",
    )


def ranks(key: str, values: np.ndarray, title: str, ids: Sequence[int], bins: int = 20) -> Panel:
    """Histogram of each chain's ranks among all draws of `values` [chain, draw] (Vehtari et al. 2021, Section 4.4).

    `ids` are the chains' numbers.
    """
    share = rankdata(values).reshape(values.shape) / values.size
    bins = max(2, min(bins, values.shape[1] // 5))
    counts = np.stack([np.histogram(row, bins, (0, 1))[0] for row in share]) * bins / values.shape[1]
    off = np.abs(counts - 1).mean(1)
    chains = np.sort(np.argsort(-off)[:MAX_LINES])
    canvas = Canvas(key, title, height=max(150, 60 + 42 * len(chains)))
    with canvas as axes:
        edges = np.linspace(0, 1, bins + 1)
        for row, chain in enumerate(chains[::-1]):
            heights = np.minimum(counts[chain], 2.5) / 2.8
            colour = SERIES[int(np.searchsorted(chains, chain))]
            axes.bar(edges[:-1], heights, 0.94 / bins, bottom=row, align="edge", color=colour, alpha=0.75)
            axes.plot([0, 1], [row + 1 / 2.8] * 2, color=INK, lw=0.9, ls=(0, (4, 3)))
        axes.set_yticks(np.arange(len(chains)) + 1 / 2.8, [f"chain {ids[c]}" for c in chains[::-1]])
        axes.set(xlim=(0, 1), ylim=(0, len(chains)), xlabel="rank among all draws (0 = smallest)")
        axes.spines["left"].set_visible(False)
    which = "the chains that differ most" if len(chains) < len(values) else "each chain"
    return canvas.panel(
        f"Ranks of {which} among all draws. Bars near the dashed line: the chain visits every level as often as the "
        "others.",
        f"Rank histograms of {title}; mean departure from uniform by chain: "
        + ", ".join(f"chain {ids[c]} {off[c]:.0%}" for c in chains)
        + ".",
    )


def growth(key: str, at: np.ndarray, curves: dict[str, np.ndarray], wanted: float, title: str) -> Panel:
    """Effective draws, `{label: [point]}`, of the first `at` [point] draws, all chains together."""
    canvas = Canvas(key, title, height=240 + 16 * len(curves))
    with canvas as axes:
        axes.axhline(wanted, color=INK, lw=0.9, ls=(0, (4, 3)))
        lines = [
            axes.plot(at, sizes, color=SERIES[i], lw=1.4, marker="os^D"[i % 4], ms=4)[0]
            for i, sizes in enumerate(curves.values())
        ]
        axes.set(xlim=(0, 1.03 * at[-1]), ylim=(0, None), xlabel="draws used, all chains", ylabel="effective draws")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y", lw=0.6)
        canvas.legend(lines, list(curves))
    ends = [f"{label} {sizes[len(at) // 2]:,.0f} then {sizes[-1]:,.0f}" for label, sizes in curves.items()]
    return canvas.panel(
        "Effective draws of the first draws of every chain, counted anew for more and more of them. In a sound run "
        "they grow in proportion: a straight line from the origin. One that flattens or falls means that later draws "
        "found something new, and that its numbers cannot be believed yet; but these are the worst of all, and among "
        f"thousands some bend by chance. Dashed: {wanted:.0f}, the usual least.",
        f"{title}, after {at[len(at) // 2]:,} and after all {at[-1]:,} draws: {'; '.join(ends)}.",
    )


def overview(
    key: str, groups: dict[str, tuple[np.ndarray, np.ndarray]], rhat_limit: float, ess_limit: float, title: str
) -> Panel:
    """R̂ over effective draws; `groups` maps a label to (R̂, ESS), each [quantity]."""
    canvas = Canvas(key, title)
    alts = []
    with canvas as axes:
        everything = np.concatenate([np.stack(pair, 1) for pair in groups.values()])
        everything = everything[np.isfinite(everything).all(1)]
        floor = 5e-4  # smaller excesses over 1, or R̂ below 1, are drawn here
        top = max(0.1, (everything[:, 0].max(initial=1.0) - 1) * 1.5)
        low = min(ess_limit / 8, everything[:, 1].min(initial=ess_limit) * 0.7)
        high = max(ess_limit * 4, everything[:, 1].max(initial=0) * 1.3)
        axes.fill_between([ess_limit, high], floor / 1.5, rhat_limit - 1, color=GOOD, alpha=0.14, lw=0)
        axes.axhline(rhat_limit - 1, color=MUTED, lw=0.9, ls=(0, (4, 3)))
        axes.axvline(ess_limit, color=MUTED, lw=0.9, ls=(0, (4, 3)))
        for i, (label, (rhat, ess)) in enumerate(groups.items()):
            known = np.isfinite(rhat) & np.isfinite(ess)
            worst = np.argsort(-rhat[known])
            shown = worst[: MAX_DOTS // 3]
            if len(worst) > len(shown):
                rest = worst[len(shown) :]
                shown = np.concatenate([shown, rest[spread(len(rest), MAX_DOTS - len(shown))]])
            x, y = ess[known][shown], np.maximum(rhat[known][shown] - 1, floor)
            axes.scatter(
                x,
                y,
                s=14,
                color=SERIES[1 - i % 2],
                alpha=0.6,
                lw=0,
                label=f"{label} ({known.sum():,})",
                marker="o^"[i % 2],
            )
            inside = ((rhat <= rhat_limit) & (ess >= ess_limit))[known].mean() if known.any() else float("nan")
            alts.append(f"{label}: {known.sum()} numbers, {inside:.0%} in the good corner")
        axes.set(
            xlim=(low, high), ylim=(floor / 1.5, top), xlabel="effective draws (smaller of bulk and tail)", ylabel="R̂"
        )
        plain_log(axes, "x", [1, 3, 10, 30, 100, 400, 1000, 4000, 10_000, 40_000, 100_000, 1_000_000])
        plain_log(axes, "y", [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 100])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{1 + y:.4g}"))
        canvas.legend(*axes.get_legend_handles_labels(), ncols=2, handletextpad=0.1, markerscale=1.8)
    return canvas.panel(
        f"Each dot is one number that was sampled or predicted. The shaded corner, R̂ ≤ {rhat_limit} and at least "
        f"{ess_limit:.0f} effective draws, is where they should be. The worst are always drawn; of the rest, an even "
        "selection.",
        f"Scatter of R̂ against effective draws. {'; '.join(alts)}.",
    )


def intervals(
    key: str, rows: list[tuple[str, float, float]], lines: list[tuple[str, float]], title: str, xlabel: str
) -> Panel:
    """Dots with 95 % intervals; `rows` holds (label, value, standard error), `lines` vertical marks."""
    canvas = Canvas(key, title, height=max(150, 96 + 20 * len(rows)))
    with canvas as axes:
        height = np.arange(len(rows))[::-1]
        value, error = np.array([r[1] for r in rows]), np.array([r[2] for r in rows])
        for i, (label, at) in enumerate(lines):
            axes.axvline(
                at, color=(INK, SERIES[1])[i % 2], lw=1.2, ls=("-", (0, (4, 3)))[i % 2], label=f"{label} {number(at)}"
            )
        axes.errorbar(value, height, xerr=1.96 * np.nan_to_num(error), fmt="o", ms=5, color=SERIES[0], lw=1.6)
        axes.set_yticks(height, [short(r[0], 24) for r in rows])
        for text in axes.get_yticklabels():
            text.set_parse_math(False)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(number))
        axes.grid(axis="x", lw=0.6)
        canvas.legend(*axes.get_legend_handles_labels(), ncols=2)
    return canvas.panel(
        "Dots with 95 % Monte-Carlo intervals.",
        f"{title}: " + "; ".join(f"{label} {v:.3g} ± {1.96 * e:.2g}" for label, v, e in rows) + ".",
    )


def ellipses(
    key: str,
    points: np.ndarray,
    outlines: dict[str, np.ndarray],
    names: tuple[str, str],
) -> Panel:
    """Draws of two parameters, `points` [draw, 2], under closed outlines `{label: [point, 2]}`."""
    canvas = Canvas(key, f"{short(names[0], 22)} and {short(names[1], 22)}", height=270)
    with canvas as axes:
        shown = points[spread(len(points), MAX_DOTS)]
        axes.scatter(*shown.T, s=7, color=MUTED, alpha=0.45, lw=0, label="draws")
        for i, (label, outline) in enumerate(outlines.items()):
            axes.plot(*outline.T, color=SERIES[i], lw=1.8, ls=("-", (0, (5, 2)))[i % 2], label=label)
        axes.set_xlabel(short(names[0]), parse_math=False)
        axes.set_ylabel(short(names[1], 30), parse_math=False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(FuncFormatter(number))
        canvas.legend(*axes.get_legend_handles_labels(), ncols=3, handlelength=1.6, markerscale=2)
    sizes = "; ".join(f"{k} spans {np.ptp(o[:, 0]):.3g} by {np.ptp(o[:, 1]):.3g}" for k, o in outlines.items())
    return canvas.panel(
        "95 % ellipses of the two Gaussians with the same mean and covariance, and draws of the chains.",
        f"Draws and 95 % ellipses of {names[0]} and {names[1]}: {sizes}.",
    )


def histogram(
    key: str,
    groups: dict[str, np.ndarray],
    title: str,
    xlabel: str,
    *,
    mark: float | None = None,
    log: bool = False,
    share: bool = False,
) -> Panel:
    """Histograms of `{label: values}` on common bins; `share` divides each by its size, `mark` is a vertical line."""
    everything = np.concatenate([v[np.isfinite(v)] for v in groups.values()])
    low, high = np.quantile(everything, [0.001, 0.999]) if everything.size else (0.0, 1.0)
    if mark is not None:
        low, high = min(low, mark), max(high, mark)
    if log:
        low, high = min(low, (mark or 1) / 2), max(high, (mark or 1) * 2)
        edges = np.geomspace(low, high, 33)
    else:
        pad = 0.02 * (high - low) or 0.5
        edges = np.linspace(max(low - pad, 0.0) if low >= 0 else low - pad, high + pad, 33)
    canvas = Canvas(key, title)
    with canvas as axes:
        for i, (label, values) in enumerate(groups.items()):
            values = np.clip(values[np.isfinite(values)], edges[0], edges[-1])
            counts = np.histogram(values, edges)[0] / (len(values) or 1 if share else 1)
            axes.stairs(counts, edges, fill=True, color=SERIES[i], alpha=0.28, lw=0)
            axes.stairs(counts, edges, color=SERIES[i], lw=1.6, ls=("-", (0, (4, 2)))[i % 2], label=label)
        if mark is not None:
            axes.axvline(mark, color=INK, lw=1.1, ls=(0, (4, 3)))
        if log:
            plain_log(axes, "x", [0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100, 1000])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(number))
        axes.set(xlabel=xlabel, ylabel="share" if share else "count")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if len(groups) > 1:
            axes.legend(loc="best")
    finite = {label: values[np.isfinite(values)] for label, values in groups.items()}
    medians = "; ".join(f"{k}: {len(v)} values, median {np.median(v):.3g}" for k, v in finite.items() if len(v))
    return canvas.panel("", f"Histogram of {xlabel}. {medians}.")


def _unit_square(axes: Axes) -> None:
    """Axes of shares, with the diagonal."""
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1.0, ls=(0, (4, 3)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    axes.grid(lw=0.6)


def reliability(key: str, curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], title: str) -> Panel:
    """Accuracy over confidence; `curves` maps a label to (mean confidence, accuracy, count), each [bin]."""
    canvas = Canvas(key, title, height=270)
    alts = []
    with canvas as axes:
        left = 1.0
        for i, (label, (confidence, accuracy, count)) in enumerate(curves.items()):
            filled = count >= (LEAST_IN_BIN if (count >= LEAST_IN_BIN).any() else 1)
            confidence, accuracy, count = confidence[filled], accuracy[filled], count[filled]
            left = min(left, confidence.min(initial=1.0))
            size = 10 + 110 * count / max(count.max(initial=1), 1)
            axes.plot(confidence, accuracy, color=SERIES[i], lw=1.4, ls=("-", (0, (4, 2)))[i % 2])
            axes.scatter(
                confidence, accuracy, s=size, color=SERIES[i], alpha=0.75, lw=0, label=label, marker="os^D"[i % 4]
            )
            pairs = ", ".join(f"{c:.0%} sure {a:.0%} right" for c, a in zip(confidence, accuracy, strict=True))
            alts.append(f"{label}: {pairs}")
        axes.set(
            xlim=(max(0, left - 0.06), 1.02), ylim=(-0.02, 1.04), xlabel="confidence", ylabel="share that was right"
        )
        for handle in axes.legend(loc="lower right", borderaxespad=0.2).legend_handles:
            handle.set_sizes([36])  # pyright: ignore
        _unit_square(axes)
    return canvas.panel(
        "On the dashed line confidence is honest; below it the model is too sure. The area of a mark is the number of "
        f"examples; bins of fewer than {LEAST_IN_BIN} are left out.",
        f"Reliability diagram. {'; '.join(alts)}.",
    )


def coverage(key: str, nominal: np.ndarray, curves: dict[str, np.ndarray], title: str) -> Panel:
    """Share of targets inside central predictive intervals of each `nominal` probability."""
    canvas = Canvas(key, title, height=270)
    with canvas as axes:
        for i, (label, found) in enumerate(curves.items()):
            axes.plot(nominal, found, color=SERIES[i], lw=1.6, marker="os^D"[i % 4], ms=4, label=label)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="probability of the interval", ylabel="share of targets inside")
        _unit_square(axes)
        axes.legend(loc="lower right")
    alts = [
        f"{label}: " + ", ".join(f"{n:.0%} interval holds {f:.0%}" for n, f in zip(nominal, found, strict=True))
        for label, found in curves.items()
    ]
    return canvas.panel(
        "On the dashed line intervals hold what they promise; below it they are too narrow.",
        f"Coverage. {'; '.join(alts)}.",
    )
