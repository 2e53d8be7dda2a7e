"""What a page of the report is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """One figure.

    Attributes
    ----------
    svg
        Inline SVG, safe to place in HTML as it is.
    caption
        What it shows and how to read it.
    """

    svg: Markup
    caption: str


@dataclass
class Table:
    """Rows of cells that are strings already; the first cell of a row is its heading.

    Attributes
    ----------
    text
        Whether the cells are words rather than numbers.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    text: bool = False


@dataclass
class Section:
    """One section.

    Attributes
    ----------
    asides
        Explanations set apart, each a title and a paragraph.
    missing
        What would add more.
    pairs, beside
        Whether to set two panels, or panel and table, side by side.
    """

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    asides: list[tuple[str, str]] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    code: str = ""
    missing: list[str] = field(default_factory=list)
    pairs: bool = False
    beside: bool = False
