"""One file that says whether chains can be believed, and why: a page to read, or Markdown or JSON.

Nothing is decided here: `assessment` measures and judges, once; `evidence…` and `sections` word and draw what was
found for the page, which the template lays out; `summary` says the same as data. The page loads nothing and runs no
scripts; Jinja2 escapes every string except the SVG of `canvas`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ..samplers.chains import Chains
from ..samplers.target import Target
from . import sections, summary
from .assessment import Assessment, assess
from .laplace import Laplace
from .rules import Finding

FORMATS = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}
"""Formats by the ending of the file's name; any other is a page."""


@dataclass(frozen=True)
class Report:
    """What the report says.

    Attributes
    ----------
    verdict
        "trust", "look" or "do not trust".
    sentences
        The three sentences under it.
    path
        Where the file is.
    findings
        Every check with its level, sentence and remedy, worst first.
    """

    verdict: str
    sentences: list[str]
    path: Path
    findings: list[Finding] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        return "\n".join([f"Verdict: {self.verdict}", *(f"  {s}" for s in self.sentences if s), f"  {self.path}"])


def report(
    chains: Chains,
    *,
    posterior: Target | None = None,
    laplace: Laplace | None = None,
    test: tuple[Any, Any] | None = None,
    path: str | os.PathLike[str] = "report.html",
    title: str | None = None,
) -> Report:
    """Judge chains and write the report.

    Parameters
    ----------
    chains
        What `sample` returned, whatever the sampler; stopped and interrupted runs too.
    posterior
        The target that was sampled: adds temperature by parameter group and the judgement of predictions.
    laplace
        A Laplace approximation of it, to compare with.
    test
        `(inputs, targets)` that were not trained on: adds calibration, and predictions are judged there rather than on
        training inputs. Needs `posterior`.
    path
        File to write, replaced if it exists. A name that ends in ``.md`` or ``.json`` gets Markdown or JSON with the
        same verdict, findings and numbers, any other the page.
    title
        Headline; by default the sampler and the size of the run.

    Returns
    -------
    Report
        The verdict in short.

    Raises
    ------
    ValueError
        If the folder of `path` does not exist, `test` is not a pair or comes without `posterior`, or posterior and
        chains do not fit together.
    """
    path = check_path(path)
    return save(assess(chains, posterior, laplace, test), path, title=title)


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that can be written, as far as its folder tells.

    Raises
    ------
    ValueError
        If the folder does not exist, or the path is one.
    """
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise ValueError(f"the folder of path={str(path)!r} does not exist; create it or choose another")
    if path.is_dir():
        raise ValueError(
            f"path={str(path)!r} is a folder; name a file in it, for example {str(path / 'report.html')!r}"
        )
    return path


def save(assessment: Assessment, path: Path, form: str | None = None, title: str | None = None) -> Report:
    """Write what was found, by default in the format of the file's ending. A failure leaves an old file as it was."""
    text = render(assessment, form or FORMATS.get(path.suffix.lower(), "html"), title)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    verdict = assessment.verdict
    return Report(verdict.level, verdict.sentences, path, verdict.findings)


def render(assessment: Assessment, form: str, title: str | None = None) -> str:
    """Text of a report: "html", "markdown" or "json"."""
    chains = assessment.measured.chains
    title = title if title is not None else f"{chains.attrs.get('sampler', 'Chains')}: {sections.size_of(chains)}"
    if form == "html":
        return _page(assessment, title)
    found = summary.summarise(assessment, title)
    return summary.to_json(found) if form == "json" else summary.to_markdown(found)


def _page(assessment: Assessment, title: str) -> str:
    measured, verdict = assessment.measured, assessment.verdict
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["words"] = _words
    template = environment.from_string(
        resources.files("langevin.diagnostics").joinpath("templates/report.html").read_text("utf-8")
    )
    return template.render(
        title=title,
        subtitle=sections.subtitle(measured),
        verdict=verdict,
        tones={"trust": "trust", "look": "look", "do not trust": "bad", "note": "note"},
        marks={"trust": "✓", "look": "!", "do not trust": "✕", "note": "i"},
        alerts=sections.alerts(measured),
        key_panels=sections.key_panels(measured),
        sections=sections.build(measured, verdict),
        version=sections.version(),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _words(text: str) -> Markup:
    """Escape a sentence; what stands between backticks is code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))
