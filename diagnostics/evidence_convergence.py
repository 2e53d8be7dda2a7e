"""The report's evidence on convergence: traces, ranks, R̂ and effective draws, and how these grow."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..samplers import data as data_
from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from . import figures
from .assessment import symmetric
from .convergence import Convergence, ess
from .ensemble import draw_means
from .measurements import Measured
from .page import Panel, Section, Table
from .rules import ALLOWED, LEVELS, RULES, most, num, statistics

GROWTH = 15
"""Points at which effective draws are counted anew."""

LEAST_GROWTH = 2 * GROWTH
"""Draws per chain below which their growth is not drawn."""


def element(draws: dict[str, Tensor], label: str) -> Tensor:
    """Draws [chain, draw] of a labelled element such as ``0.weight[3, 1]``."""
    if label in draws:
        return draws[label]
    name, _, index = label[:-1].rpartition("[")
    return draws[name][(..., *(int(i) for i in index.split(", ")))]


def overview(convergence: Convergence) -> list[Panel]:
    """R̂ over effective draws of everything that was judged."""
    groups = {}
    for label, part in (("parameters", convergence), ("predictions", convergence.predictions)):
        if part is not None:
            rhat, ess = statistics(part)
            groups[label] = (rhat.numpy(), ess.numpy())
    if convergence.num_chains < 2:
        values = {label: ess for label, (_, ess) in groups.items()}
        panel = figures.histogram(
            "overview", values, "Effective draws", "effective draws", mark=RULES["ess"].good, share=True
        )
        return [Panel(panel.svg, "One chain has no R̂. The dashed line is the usual least number of effective draws.")]
    return [figures.overview("overview", groups, RULES["rhat"].good, RULES["ess"].good, "R̂ and effective draws")]


def convergence(measured: Measured) -> Section:
    """Traces, ranks, R̂ and effective draws."""
    section = Section("convergence", "Convergence", pairs=True)
    finished, judged = measured.finished, measured.convergence
    if finished is None or judged is None:
        section.text.append("Every chain was stopped, so there is nothing to judge.")
        return section
    section.text.append(
        "R̂ compares the spread between chains with the spread within them; 1 means that chains cannot be told apart. "
        "Effective draws say how many independent draws would be worth as much, for the centre (bulk) and for the 5 % "
        "and 95 % quantiles (tail) of each number."
    )
    section.asides += _symmetry(measured, judged)
    parts = [("parameters", judged)]
    if judged.predictions is not None:
        count = next(iter(judged.predictions.mean.values())).shape[0]
        parts.append((f"predictions at {count} {measured.inputs_kind}", judged.predictions))
    section.tables.append(_summary(parts))
    worst = judged.worst(10)
    shown: dict[str, np.ndarray] = {}
    predicted = ""
    if judged.predictions is not None and isinstance(measured.posterior, Posterior):
        predicted = _noticeable(judged.predictions)
        shown[predicted] = _one_prediction(measured, measured.posterior, predicted)
    shown |= {row["name"]: element(finished.draws, row["name"]).double().numpy() for row in worst[:2]}
    for i, (name, values) in enumerate(shown.items()):
        label = "probability or mean" if name == predicted else "value"
        section.panels += _agreement(str(i), values, name, label, finished)
    seen = 2 if len(finished.valid) > 1 else 1
    section.panels[seen:] = [Panel(panel.svg, "") for panel in section.panels[seen:]]  # the same captions again
    section.panels += _growth(shown)
    section.tables.append(_offenders("Parameters that agree least", worst))
    if judged.predictions is not None:
        note = (
            f"The first index counts the {measured.inputs_kind} that were judged, the last the class or output. The "
            "figure shows the worst of those that vary noticeably."
        )
        section.tables.append(_offenders("Predictions that agree least", judged.predictions.worst(5), note))
    elif "posterior" not in measured.problems and not isinstance(measured.posterior, Posterior):
        section.missing.append(
            "Not shown: predictions. Give `posterior=`, and `test=(inputs, targets)`, to judge them too."
        )
    if "posterior" in measured.problems:
        section.missing.append(measured.problems["posterior"])
    return section


def _symmetry(measured: Measured, judged: Convergence) -> list[tuple[str, str]]:
    """What R̂ of single weights means where chains disagree in them, and several weight matrices can trade units."""
    matrices = sum(values.ndim >= 4 for values in measured.chains.draws.values())
    if _agrees(judged) or not (symmetric(measured.posterior) or (measured.posterior is None and matrices > 1)):
        return []
    same = (
        "Hidden units can trade places, the sign of a tanh unit can be flipped on both sides, and a ReLU unit can hand "
        "scale from one layer to the next: the weights change, and the function does not."
    )
    if judged.predictions is None:
        what = (
            "The chains disagree in single weights, which can have a harmless reason in a network with hidden layers. "
            f"{same} Only predictions tell whether the chains agree in what the model says: give `posterior=` and "
            "`test=(inputs, targets)`."
        )
    elif _agrees(judged.predictions):
        what = (
            f"The chains disagree in single weights (R̂ up to {num(judged.max_rhat, 3, 'f')}) and agree in predictions "
            f"(up to {num(judged.predictions.max_rhat, 3, 'f')}). In a network with hidden layers that is to be "
            f"expected. {same} Each chain settles in one of many equal arrangements, so a weight of one name plays "
            "different parts in different chains. Averages of predictions are right; the average of one weight over "
            "chains means nothing."
        )
    else:
        what = (
            "Units that trade places would leave the predictions as they are. Here the chains disagree in predictions "
            "too, so this symmetry of the weights does not explain it."
        )
    return [("How to read R̂ of single weights", what)]


def _agrees(part: Convergence) -> bool:
    """Whether R̂ keeps within the limits, as far as it is known."""
    rhat = statistics(part)[0]
    rhat = rhat[~rhat.isnan()]
    if not len(rhat):
        return True
    return RULES["rhat"].level(most(rhat)) == RULES["rhat_worst"].level(float(rhat.max())) == LEVELS[0]


def _agreement(key: str, values: np.ndarray, name: str, label: str, finished: Chains) -> list[Panel]:
    panels = [figures.traces(f"trace-{key}", values, name, label)]
    ids = finished.attrs.get("chain_ids") or range(finished.num_chains)
    return panels if len(values) == 1 else [*panels, figures.ranks(f"rank-{key}", values, name, ids)]


def _growth(shown: dict[str, np.ndarray]) -> list[Panel]:
    """Effective draws of the numbers shown, over how many draws of each chain are used."""
    num_chains, num_draws = next(iter(shown.values())).shape
    if num_draws < LEAST_GROWTH:
        return []
    ends = np.unique(np.linspace(0, num_draws, GROWTH + 1).round().astype(int))[1:]
    values = torch.from_numpy(np.stack(list(shown.values()), -1))
    panels = []
    kinds: dict[Literal["bulk", "tail"], str] = {
        "bulk": "Effective draws of the centre (bulk)",
        "tail": "Effective draws of the tails",
    }
    for kind, title in kinds.items():
        sizes = torch.stack([ess(values[:, :end], kind) for end in ends.tolist()], -1).numpy()
        curves = {name: size for name, size in zip(shown, sizes, strict=True) if np.isfinite(size).any()}
        if curves:
            panels.append(figures.growth(f"growth-{kind}", ends * num_chains, curves, RULES["ess"].good, title))
    return [panels[0], *(Panel(panel.svg, "") for panel in panels[1:])] if panels else []


def _noticeable(predictions: Convergence) -> str:
    """Label of the worst prediction among those whose spread is not small beside the largest."""
    (name, sd), *_ = predictions.sd.items()
    badness = (predictions.rhat if predictions.num_chains > 1 else predictions.mcse)[name].nan_to_num(nan=torch.inf)
    worst = badness.masked_fill(sd < 0.25 * sd.max(), -torch.inf).argmax()
    return f"{name}[{', '.join(str(int(i)) for i in torch.unravel_index(worst, sd.shape))}]"


def _one_prediction(measured: Measured, posterior: Posterior, label: str) -> np.ndarray:
    """Draws of one prediction, computed again for its input alone."""
    first, *rest = (int(i) for i in label[:-1].rpartition("[")[2].split(", "))
    row = data_.take(measured.inputs, torch.tensor([first], device=posterior.device))
    assert measured.finished is not None
    return next(draw_means(posterior, measured.finished, row))[(..., 0, *rest)].numpy()


def _summary(parts: list[tuple[str, Convergence]]) -> Table:
    rows = []
    for label, part in parts:
        rhat, ess = statistics(part)
        undefined = int((rhat.isnan() | ess.isnan()).sum())
        rhat, ess = rhat[~rhat.isnan()], ess[~ess.isnan()]
        rows.append(
            [
                label,
                f"{sum(x.numel() for x in part.mean.values()):,}",
                num(most(rhat), 3, "f") if len(rhat) else "–",
                num(float(rhat.max()), 3, "f") if len(rhat) else "–",
                f"{most(ess, largest=False):,.0f}" if len(ess) else "–",
                f"{ess.min():,.0f}" if len(ess) else "–",
                f"{undefined:,}",
            ]
        )
    share = f"{100 - 100 * ALLOWED:.0f} %"
    return Table(
        "R̂ and effective draws",
        ["judged", "numbers", f"R̂ of {share}", "largest R̂", f"ESS of {share}", "smallest ESS", "undefined"],
        rows,
        f"{share} of the numbers have an R̂ no larger, and an ESS no smaller, than the value given. ESS is the smaller "
        "of bulk and tail. Undefined: numbers that never change, or with a single chain.",
    )


def _offenders(caption: str, rows: list[dict[str, Any]], note: str = "") -> Table:
    cells = [
        [row["name"], num(row["mean"], 4), num(row["sd"]), num(row["mcse"], 2), num(row["rhat"], 3, "f")]
        + [num(row[kind], 0, "f") for kind in ("ess_bulk", "ess_tail")]
        for row in rows
    ]
    return Table(caption, ["name", "mean", "sd", "error of mean", "R̂", "ESS bulk", "ESS tail"], cells, note)
