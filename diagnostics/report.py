"""One self-contained HTML file that says whether chains can be believed, and why.

Nothing is decided here: `measurements` gathers what `convergence`, `temperature`, `compare` and `Ensemble` say,
`verdict` applies the rules, `evidence` and `sections` word it, `figures` draws, and the template lays out. The file
loads nothing and runs no scripts; Jinja2 escapes every string except the SVG of `figures`.
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
from ..samplers.posterior import Posterior
from ..samplers.target import Target
from . import sections
from .ensemble import Prediction
from .laplace import Laplace
from .measurements import measure
from .rules import Finding
from .verdict import judge


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
        File to write, replaced if it exists.
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
    path = _check(chains, posterior, laplace, test, path)
    measured = measure(chains, posterior, laplace, test)
    verdict = judge(
        chains,
        measured.convergence,
        measured.temperature,
        comparison=measured.comparison,
        evaluation=measured.evaluation,
        mode=measured.mode_metrics,
        confidence=_confidence(measured.prediction),
        symmetric=_symmetric(posterior),
    )
    title = title if title is not None else f"{chains.attrs.get('sampler', 'Chains')}: {sections.size_of(chains)}"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["words"] = _words
    template = environment.from_string(
        resources.files("langevin.diagnostics").joinpath("templates/report.html").read_text("utf-8")
    )
    html = template.render(
        title=title,
        subtitle=sections.subtitle(measured),
        verdict=verdict,
        tones={"trust": "trust", "look": "look", "do not trust": "bad", "note": "note"},
        marks={"trust": "✓", "look": "!", "do not trust": "✕", "note": "i"},
        key_panels=sections.key_panels(measured),
        sections=sections.build(measured, verdict),
        version=sections.version(),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(html, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return Report(verdict.level, verdict.sentences, path, verdict.findings)


def _words(text: str) -> Markup:
    """Escape a sentence; what stands between backticks is code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _check(
    chains: Chains,
    posterior: Target | None,
    laplace: Laplace | None,
    test: tuple[Any, Any] | None,
    path: str | os.PathLike[str],
) -> Path:
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise ValueError(f"the folder of path={str(path)!r} does not exist; create it or choose another")
    if path.is_dir():
        raise ValueError(
            f"path={str(path)!r} is a folder; name a file in it, for example {str(path / 'report.html')!r}"
        )
    if test is not None:
        if not isinstance(test, (tuple, list)) or len(test) != 2:
            raise ValueError(f"test must be a pair (inputs, targets), got {type(test).__name__}")
        if not isinstance(posterior, Posterior):
            raise ValueError("test=(inputs, targets) needs posterior=, the Posterior that was sampled, to predict with")
    if posterior is not None:
        shapes = dict(zip(posterior.layout.names, posterior.layout.shapes, strict=True))
        for name, draws in chains.draws.items():
            if name not in shapes or draws.shape[2:] != shapes[name]:
                expected = f"of shape {tuple(shapes[name])}" if name in shapes else f"not among {list(shapes)[:8]}"
                raise ValueError(
                    f"the chains do not belong to this posterior: they hold {name!r} of shape "
                    f"{tuple(draws.shape[2:])}, which there is {expected}"
                )
    if laplace is not None and posterior is not None and laplace.mode.numel() != posterior.dim:
        raise ValueError(f"laplace has {laplace.mode.numel()} parameters, the posterior {posterior.dim}")
    return path


def _confidence(prediction: Prediction | None) -> float | None:
    """Mean probability of the most probable class; None for other predictions."""
    return None if prediction is None or prediction.entropy is None else float(prediction.mean.max(-1).values.mean())


def _symmetric(posterior: Target | None) -> bool:
    """Whether different weights may compute the same function: several weight matrices in a row can trade units."""
    return isinstance(posterior, Posterior) and sum(len(shape) >= 2 for shape in posterior.layout.shapes) > 1
