"""Sphinx settings. The site builds without network: no inventories are fetched and no images are downloaded."""

import sys
from importlib.metadata import version as installed_version
from math import isfinite
from pathlib import Path

from langevin.diagnostics.rules import RULES

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "langevin"
author = "The langevin developers"
copyright = "2026, the langevin developers"
version = release = installed_version("langevin")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "mathml"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3


def thresholds() -> str:
    """Tabulate the rules of the report's verdict as the code has them."""
    rows = ["| | good | bad | reason |", "|---|--:|--:|---|"]
    for rule in RULES.values():
        good, bad = ("≤", "&gt;") if rule.good <= rule.bad else ("≥", "&lt;")
        limit = f"{bad} {rule.bad:g}" if isfinite(rule.bad) else "–"
        rows.append(f"| {rule.what} | {good} {rule.good:g} | {limit} | {rule.why} |")
    return "\n".join(rows)


myst_substitutions = {"rules": thresholds()}

default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autosummary_generate = True
# Functions named like the class that they return: some file systems would keep one page of the two.
autosummary_filename_map = {
    f"langevin.diagnostics.{name}": f"langevin.diagnostics.{name}-function"
    for name in ("convergence", "report", "temperature")
}
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
maximum_signature_line_length = 100

html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"langevin {release}"
html_copy_source = False
