"""One self-contained HTML file that says whether chains can be believed, and why.

Nothing is decided here: `verdict` applies the rules to what `convergence`, `temperature`, `compare` and `Ensemble` measured,
`sections` words the rest, `figures` draws, and the template lays out. The file loads nothing and runs no scripts; every string is
escaped by Jinja2 except the SVG of `figures`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup, escape
from torch import Tensor

from ..samplers import data as data_
from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from ..samplers.target import Target
from . import calibration
from .comparison import Comparison, compare
from .convergence import Convergence, convergence
from .ensemble import Ensemble, Evaluation, Prediction, evaluate_point
from .laplace import Laplace
from .thermometer import Temperature, temperature
from .verdict import Finding, judge

MAX_INPUTS = 300
"""Inputs at which predictions are judged for convergence, evenly chosen."""
MAX_COSTS = 60
"""Draws per chain at which the full cost is evaluated."""
AT_ONCE = 2**15
"""(Draw, example) pairs evaluated together."""
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
"""Predictive intervals whose coverage is drawn."""
MAX_LAPLACE = 400
"""Laplace draws in its ensemble, at most."""


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


@dataclass
class Measured:
    """All that is known of the chains; None where the inputs for it were not given, `problems` where it failed."""

    chains: Chains
    finished: Chains | None = None
    posterior: Target | None = None
    laplace: Laplace | None = None
    convergence: Convergence | None = None
    inputs: Any = None
    inputs_kind: str = ""
    cost: tuple[Tensor, Tensor] | None = None
    temperature: Temperature | None = None
    comparison: Comparison | None = None
    targets: Tensor | None = None
    evaluation: Evaluation | None = None
    prediction: Prediction | None = None
    coverage: tuple[np.ndarray, np.ndarray] | None = None
    mode_metrics: dict[str, float] | None = None
    mode_prediction: Prediction | None = None
    laplace_evaluation: Evaluation | None = None
    problems: dict[str, str] = field(default_factory=dict)


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
        If the folder of `path` does not exist, `test` is not a pair or comes without `posterior`, or posterior and chains do
        not fit together.
    """
    from . import sections

    path = _check(chains, posterior, laplace, test, path)
    measured = _measure(chains, posterior, laplace, test)
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
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["words"] = _words
    template = environment.from_string(resources.files(__package__).joinpath("templates/report.html").read_text("utf-8"))
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
    chains: Chains, posterior: Target | None, laplace: Laplace | None, test: tuple[Any, Any] | None, path: str | os.PathLike[str]
) -> Path:
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise ValueError(f"the folder of path={str(path)!r} does not exist; create it or choose another")
    if path.is_dir():
        raise ValueError(f"path={str(path)!r} is a folder; name a file in it, for example {str(path / 'report.html')!r}")
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
                    f"the chains do not belong to this posterior: they hold {name!r} of shape {tuple(draws.shape[2:])}, which "
                    f"there is {expected}"
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


def _measure(
    chains: Chains, posterior: Target | None, laplace: Laplace | None, test: tuple[Any, Any] | None
) -> Measured:
    measured = Measured(chains, posterior=posterior, laplace=laplace)
    if not bool(chains.valid.all(-1).any()):
        return measured
    finished = measured.finished = chains.finished()
    whole = posterior
    if posterior is not None and set(posterior.layout.names) != set(chains.draws):
        measured.problems["posterior"] = (
            f"The chains kept {len(chains.draws)} of {len(posterior.layout.names)} parameter tensors; predictions and temperature "
            "by tensor need all of them."
        )
        whole = None
    predicts = whole if isinstance(whole, Posterior) else None
    inputs = None
    if predicts is not None:
        inputs, count, measured.inputs_kind = predicts.inputs, predicts.num_data, "training inputs"
        if test is not None:
            inputs, targets = data_.as_tensors(test)
            count, measured.inputs_kind = data_.check(inputs, targets), "test inputs"
            inputs = data_.cast(inputs, predicts.device, predicts.dtype)
            measured.targets = targets.to(predicts.device)
        measured.inputs = data_.take(inputs, _evenly(count, predicts))
    measured.convergence = convergence(chains, predicts, measured.inputs)
    measured.cost = _cost(finished, whole)
    with _Problem(measured, "temperature"):
        measured.temperature = temperature(finished, whole)
    if laplace is not None:
        with _Problem(measured, "comparison"):
            measured.comparison = compare(chains, laplace)
    if predicts is not None and measured.targets is not None:
        _predict(measured, predicts, finished, inputs, measured.targets, laplace)
    return measured


def _cost(finished: Chains, target: Target | None) -> tuple[Tensor, Tensor] | None:
    """Cost [chain, draw] and numbers of its draws; of the full data at some draws where the recorded one is an estimate."""
    if finished.attrs.get("batch_size") is None or target is None:
        cost = finished.sample_stats.get("cost")
        return None if cost is None else (cost, torch.arange(cost.shape[1]))
    chosen = torch.linspace(0, finished.num_draws - 1, min(finished.num_draws, MAX_COSTS)).round().long()
    positions = target.ravel({name: x[:, chosen] for name, x in finished.draws.items()}).flatten(0, 1)
    positions = positions.to(device=target.device, dtype=target.dtype)
    total = torch.zeros(len(positions), dtype=torch.float64)
    for batch in torch.arange(target.num_data, device=target.device).split(AT_ONCE):
        for rows in torch.arange(len(positions)).split(max(1, AT_ONCE // len(batch))):
            part = target.cost(positions[rows], batch.expand(len(rows), -1))  # (N/B) Σ_b L_b + R
            total[rows] += len(batch) / target.num_data * part.cpu().double()
    return total.unflatten(0, (finished.num_chains, len(chosen))), chosen


def _predict(
    measured: Measured, posterior: Posterior, finished: Chains, inputs: Any, targets: Tensor, laplace: Laplace | None
) -> None:
    """Metrics and predictions on test data."""
    with _Problem(measured, "predictions"):
        ensemble = Ensemble(posterior, finished)
        measured.evaluation = ensemble.evaluate(inputs, targets)
        measured.prediction = ensemble.predict(inputs)
        if "coverage_90" in measured.evaluation.ensemble:
            few = data_.take(inputs, _evenly(len(targets), posterior))
            found = []
            for level in LEVELS:
                low, high = ensemble.interval(few, level)
                found.append(calibration.coverage(low, high, targets[_evenly(len(targets), posterior)].cpu()))
            measured.coverage = (np.array(LEVELS), np.array(found))
    if laplace is not None:
        with _Problem(measured, "predictions at the mode"):
            measured.mode_metrics = evaluate_point(posterior, laplace.mode, inputs, targets)
            measured.mode_prediction = Ensemble(posterior, laplace.mode[None]).predict(inputs)
            measured.laplace_evaluation = Ensemble(posterior, laplace, num_draws=MAX_LAPLACE).evaluate(inputs, targets)


def _evenly(count: int, posterior: Posterior) -> Tensor:
    """Indices of at most `MAX_INPUTS` examples."""
    return torch.linspace(0, count - 1, min(count, MAX_INPUTS)).round().long().to(posterior.device)


class _Problem:
    """Records a ValueError under a name and goes on: a report on what there is, rather than none."""

    def __init__(self, measured: Measured, name: str):
        self.measured, self.name = measured, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        if isinstance(error, ValueError):
            self.measured.problems[self.name] = f"Not shown: {error}."
            return True
        return False
