"""Equations as MathML, which browsers draw themselves: the site is read without network and scripts."""

from __future__ import annotations

import re
import unicodedata

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

# latex2mathml takes other characters than ASCII for identifiers and sets them without the space that operators need.
OPERATORS = {
    "−": "-",
    "·": r"\cdot ",
    "×": r"\times ",
    "±": r"\pm ",
    "≈": r"\approx ",
    "∼": r"\sim ",
    "∝": r"\propto ",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "∈": r"\in ",
    "←": r"\leftarrow ",
    "→": r"\rightarrow ",
    "∞": r"\infty ",
    "∇": r"\nabla ",
    "∂": r"\partial ",
    "∫": r"\int ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "⊤": r"\top ",
}
HAT = "\N{COMBINING CIRCUMFLEX ACCENT}"


def to_mathml(latex: str, display: str) -> str:
    latex = re.sub(f"(.){HAT}", r"\\hat{\1}", unicodedata.normalize("NFD", latex))
    return convert(latex.translate(str.maketrans(OPERATORS)), display=display)


def visit_inline(translator: object, node: nodes.math) -> None:
    translator.body.append(to_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_display(translator: object, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="equation">{to_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
