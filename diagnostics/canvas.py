"""What all figures of the report share: small matplotlib panels turned into inline SVG in the colours of the page.

Every colour below is a stand-in that `_inline` replaces by a CSS variable, so one figure serves light, dark and print.
Panels are as wide as a phone; the page sets several side by side where there is room. Text stays text: it scales and
can be searched.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .page import Panel

MAX_LINES = 8
"""Chains drawn in one panel; statistics always use all of them."""

INK, MUTED, GRID, SURFACE, GOOD = (f"#00000{i}" for i in range(1, 6))
SERIES = [f"#00001{i}" for i in range(MAX_LINES)]
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface", GOOD: "good"} | {
    stand_in: f"series-{i}" for i, stand_in in enumerate(SERIES)
}
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "langevin",
    "font.size": 12.0,
    "axes.titlesize": 12.5,
    "axes.labelsize": 11.5,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "legend.fontsize": 11.0,
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": GRID,
    "grid.color": GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}


class Canvas:
    """A figure: `with Canvas(...) as axes:` draws, then `.panel(caption, alt)` gives the panel.

    Parameters
    ----------
    key
        Unique on the page.
    title
        Of the figure; long ones are shortened.
    height
        In points; all figures are equally wide.
    """

    def __init__(self, key: str, title: str, height: float = 240):
        self.key, self.title, self.height = key, title, height

    def __enter__(self) -> Axes:
        self._context = mpl.rc_context(_STYLE)  # pyright: ignore[reportArgumentType]
        self._context.__enter__()
        self.figure = Figure(figsize=(4.5, self.height / 72), layout="constrained")
        axes = self.figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", length=0)
        axes.set_title(short(self.title), loc="left", parse_math=False)
        return axes

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None:
                buffer = io.StringIO()
                with warnings.catch_warnings():
                    # The page's own fonts set the text: what matplotlib's cannot draw, it only cannot measure.
                    warnings.filterwarnings("ignore", "Glyph .* missing from")
                    self.figure.savefig(buffer, format="svg", metadata={"Date": None})
                self._svg = buffer.getvalue()
        finally:
            self._context.__exit__(None, None, None)

    def legend(self, handles: Sequence[Artist], labels: Sequence[str], **how: Any) -> None:
        """Set a legend below the axes; labels are taken as they are, whatever they begin with or contain."""
        legend = self.figure.legend(handles, [" "] * len(labels), loc="outside lower center", **how)
        for text, label in zip(legend.get_texts(), labels, strict=True):
            text.set_parse_math(False)
            text.set_text(short(label))

    def panel(self, caption: str, alt: str) -> Panel:
        """Give the figure as it stands in a page, with what is read aloud in its place."""
        return Panel(_inline(self._svg, self.key, alt), caption)


def _inline(svg: str, key: str, alt: str) -> Markup:
    """Strip what a stand-alone file needs, make ids unique on the page, and exchange colours for CSS variables."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg[svg.index("<svg") :])
    for child in [c for c in root if c.tag.endswith("metadata")]:
        root.remove(child)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", printable(alt))
    for element in root.iter():
        for attribute, value in list(element.attrib.items()):
            if attribute == "id":
                element.set("id", f"{key}-{value}")
            elif attribute.endswith("href") and value.startswith("#"):
                element.set(attribute, f"#{key}-{value[1:]}")
            elif attribute in ("clip-path", "style"):
                value = re.sub(r"url\(#", f"url(#{key}-", value)
                value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)
                value = re.sub(r"#0000\d\d", lambda m: f"var(--{_VARIABLES[m[0]]})", value)
                element.set(attribute, value)
    # The text was written by ElementTree, which escapes it; nothing else enters the page unescaped.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def printable(text: str) -> str:
    """Text on one line, without the characters that XML forbids."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def short(text: str, length: int = 46) -> str:
    """One line of at most `length` characters."""
    text = printable(text)
    return text if len(text) <= length else text[: length // 2 - 1] + "…" + text[-length // 2 :]


def number(value: float, _: object = None) -> str:
    """Four digits and a proper minus; the second argument is for matplotlib's formatters."""
    return f"{value:.4g}".replace("-", "−")


def plain_log(axes: Axes, which: str, ticks: Sequence[float]) -> None:
    """Log axis with round tick labels instead of powers of ten."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    axis.set_ticks([t for t in ticks if low <= t <= high])
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_formatter(NullFormatter())


def spread(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` indices of `count`, evenly spaced, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))
