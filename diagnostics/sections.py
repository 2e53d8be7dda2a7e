"""The report's sections: what each figure and table holds, and the words around them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..samplers import data as data_
from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from . import calibration, figures
from .comparison import Comparison
from .convergence import Convergence
from .ensemble import draw_means
from .figures import Panel
from .verdict import ALLOWED, RULES, Verdict, most, num, statistics, within

if TYPE_CHECKING:
    from .report import Measured

MAX_BLOCKS = 12
METRICS = {
    "accuracy": "accuracy ↑",
    "nll": "negative log-likelihood, nats ↓",
    "brier": "Brier score ↓",
    "ece": "calibration error ↓",
    "rmse": "root mean squared error ↓",
    "coverage_90": "coverage of 90 % intervals → 0.9",
}


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
    """One section; `missing` says what would add more, `pairs` sets two panels side by side."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    code: str = ""
    missing: list[str] = field(default_factory=list)
    pairs: bool = False


def build(measured: Measured, verdict: Verdict) -> list[Section]:
    """All sections, in order."""
    return [
        _next(verdict),
        _convergence(measured),
        _temperature(measured),
        _laplace(measured),
        _predictions(measured),
        _made(measured),
        _approximate(measured),
    ]


def version() -> str:
    """Version of the installed library."""
    try:
        return metadata.version("langevin")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def size_of(chains: Chains) -> str:
    """Chains and draws in words."""
    many = "chain" if chains.num_chains == 1 else "chains"
    return f"{chains.num_chains} {many} × {chains.num_draws:,} draws"


def subtitle(measured: Measured) -> str:
    """One line under the title."""
    attrs = measured.chains.attrs
    parts = [size_of(measured.chains)]
    if attrs.get("sampler"):
        parts.insert(0, str(attrs["sampler"]))
    if attrs.get("dim"):
        parts.append(f"{attrs['dim']:,} parameters")
    if attrs.get("num_data", 1) and attrs.get("num_data", 1) > 1:
        parts.append(f"{attrs['num_data']:,} examples")
    if attrs.get("started"):
        parts.append(str(attrs["started"])[:16].replace("T", " "))
    return " · ".join(parts)


def key_panels(measured: Measured) -> list[Panel]:
    """The three figures that matter most."""
    panels = []
    if measured.finished is None:
        return panels
    if measured.cost is not None:
        cost, at = measured.cost
        estimate = measured.chains.attrs.get("batch_size") and measured.posterior is None
        title = "Cost by chain" + (" (minibatch estimate)" if estimate else "")
        panels.append(figures.traces("cost", cost.numpy(), title, "C, nats", at.numpy()))
    elif measured.convergence is not None:
        name = measured.convergence.worst(1)[0]["name"]
        panels.append(figures.traces("cost", element(measured.finished.draws, name).numpy(), f"{name}, by chain", name))
    if measured.convergence is not None:
        panels += _overview(measured.convergence)
    if measured.comparison is not None:
        panels.append(_ratios(measured, "key-ratio"))
    elif measured.prediction is not None and measured.prediction.entropy is not None:
        panels.append(_reliability(measured, "key-reliability"))
    elif measured.temperature is not None:
        panels.append(_heat_panel(measured, "key-heat", blocks=False))
    return panels


def element(draws: dict[str, Tensor], label: str) -> Tensor:
    """Draws [chain, draw] of a labelled element such as ``0.weight[3, 1]``."""
    if label in draws:
        return draws[label]
    name, _, index = label[:-1].rpartition("[")
    return draws[name][(..., *(int(i) for i in index.split(", ")))]


def _next(verdict: Verdict) -> Section:
    steps = list(dict.fromkeys(f.remedy for f in verdict.findings if f.remedy))
    section = Section("next", "What to do next", steps=steps)
    if not steps:
        section.text.append(
            "Nothing needs to be done. For smaller Monte-Carlo errors draw more: errors fall with the root of the number of "
            "effective draws. The sharpest check is to start more chains elsewhere (`init=\"prior\"`) and see that they arrive here."
        )
    return section


def _overview(convergence: Convergence) -> list[Panel]:
    groups = {}
    for label, part in (("parameters", convergence), ("predictions", convergence.predictions)):
        if part is not None:
            rhat, ess = statistics(part)
            groups[label] = (rhat.numpy(), ess.numpy())
    if convergence.num_chains < 2:
        values = {label: ess for label, (_, ess) in groups.items()}
        panel = figures.histogram("overview", values, "Effective draws", "effective draws", mark=RULES["ess"].good, share=True)
        return [Panel(panel.svg, "One chain has no R̂. The dashed line is the usual least number of effective draws.")]
    return [figures.overview("overview", groups, RULES["rhat"].good, RULES["ess"].good, "R̂ and effective draws")]


def _convergence(measured: Measured) -> Section:
    section = Section("convergence", "Convergence", pairs=True)
    finished, judged = measured.finished, measured.convergence
    if finished is None or judged is None:
        section.text.append("Every chain was stopped, so there is nothing to judge.")
        return section
    section.text.append(
        "R̂ compares the spread between chains with the spread within them; 1 means that chains cannot be told apart. "
        "Effective draws say how many independent draws would be worth as much, for the centre (bulk) and for the 5 % and 95 % "
        "quantiles (tail) of each number."
    )
    parts = [("parameters", judged)]
    if judged.predictions is not None:
        count = next(iter(judged.predictions.mean.values())).shape[0]
        parts.append((f"predictions at {count} {measured.inputs_kind}", judged.predictions))
    section.tables.append(_summary(parts))
    worst = judged.worst(10)
    if judged.predictions is not None and isinstance(measured.posterior, Posterior):
        label = _noticeable(judged.predictions)
        section.panels += _agreement("p", _one_prediction(measured, measured.posterior, label), label, "probability or mean")
    for i, row in enumerate(worst[:2]):
        section.panels += _agreement(str(i), element(finished.draws, row["name"]).double().numpy(), row["name"], "value")
    section.panels[2:] = [Panel(panel.svg, "") for panel in section.panels[2:]]  # the same captions again
    section.tables.append(_offenders("Parameters that agree least", worst))
    if judged.predictions is not None:
        note = (
            f"The first index counts the {measured.inputs_kind} that were judged, the last the class or output. The figure shows the "
            "worst of those that vary noticeably."
        )
        section.tables.append(_offenders("Predictions that agree least", judged.predictions.worst(5), note))
    elif "posterior" not in measured.problems and not isinstance(measured.posterior, Posterior):
        section.missing.append("Not shown: predictions. Give `posterior=`, and `test=(inputs, targets)`, to judge them too.")
    if "posterior" in measured.problems:
        section.missing.append(measured.problems["posterior"])
    return section


def _agreement(key: str, values: np.ndarray, name: str, label: str) -> list[Panel]:
    return [figures.traces(f"trace-{key}", values, name, label), figures.ranks(f"rank-{key}", values, name)]


def _noticeable(predictions: Convergence) -> str:
    """Label of the worst prediction among those whose spread is not tiny beside the largest."""
    largest = max(float(sd.max()) for sd in predictions.sd.values())
    rows = predictions.worst(sum(sd.numel() for sd in predictions.sd.values()))
    return next((row["name"] for row in rows if row["sd"] >= 0.05 * largest), rows[0]["name"])


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
        f"{share} of the numbers have an R̂ no larger, and an ESS no smaller, than the value given. ESS is the smaller of bulk "
        "and tail. Undefined: numbers that never change, or with a single chain.",
    )


def _offenders(caption: str, rows: list[dict[str, Any]], note: str = "") -> Table:
    cells = [
        [row["name"], num(row["mean"], 4), num(row["sd"]), num(row["mcse"], 2), num(row["rhat"], 3, "f")]
        + [num(row[kind], 0, "f") for kind in ("ess_bulk", "ess_tail")]
        for row in rows
    ]
    return Table(caption, ["name", "mean", "sd", "error of mean", "R̂", "ESS bulk", "ESS tail"], cells, note)


def _heat_panel(measured: Measured, key: str, blocks: bool = True) -> Panel:
    heat = measured.temperature
    assert heat is not None
    rows = [("all parameters", heat.value, heat.error)]
    if blocks:
        nominal = heat.nominal or 0.0
        far = sorted(heat.blocks, key=lambda name: -abs(heat.blocks[name][0] - nominal))[:MAX_BLOCKS]
        rows += [(name, *heat.blocks[name]) for name in heat.blocks if name in far]
    lines = [] if heat.nominal is None else [("nominal", heat.nominal)]
    panel = figures.intervals(key, rows, lines, "Temperature", "temperature")
    left = len(heat.blocks) - MAX_BLOCKS if blocks else 0
    more = f" The {MAX_BLOCKS} tensors farthest from nominal; {left} more are closer." if left > 0 else ""
    return Panel(panel.svg, f"Measured temperature with 95 % Monte-Carlo intervals; the line is what was asked for.{more}")


def _temperature(measured: Measured) -> Section:
    section = Section("temperature", "Temperature")
    heat = measured.temperature
    if heat is None:
        why = measured.problems.get("temperature")
        section.missing.append(why or "Not measured: it needs a chain that was not stopped.")
        return section
    section.text.append(
        "At temperature T a chain samples exp(−C/T): spreads grow with the root of T. It is measured by ⟨(ω − c)·∇C⟩/D, which "
        f"equals T in equilibrium, from {heat.source} at {heat.num_chains} × {heat.num_draws} draws."
    )
    low, high = heat.interval
    rows = [
        ["asked for", "–" if heat.nominal is None else num(heat.nominal, 4)],
        ["measured", num(heat.value, 4)],
        ["95 % interval", f"{num(low, 4)} to {num(high, 4)}" if math.isfinite(low + high) else "cannot be told"],
        ["minibatch's own share", "–" if heat.batch_share is None else num(heat.batch_share)],
    ]
    note = (
        "The minibatch's share is what its noise alone would supply, (εN/2) Tr(S)/D with S the covariance of fresh minibatch "
        "gradients at the last positions; it comes on top of what was asked for."
        if heat.batch_share
        else ""
    )
    section.tables.append(Table("Temperature of all parameters together", ["", "value"], rows, note))
    section.panels.append(_heat_panel(measured, "heat"))
    if not heat.blocks:
        section.missing.append("Not shown: temperature by parameter tensor, from full gradients. Give `posterior=` to add it.")
    return section


def _ratios(measured: Measured, key: str) -> Panel:
    assert measured.comparison is not None
    ratio = measured.comparison.ratio.numpy()
    panel = figures.histogram(
        key, {"parameters": ratio}, "Spread: chains against Laplace", "chain sd / Laplace sd", mark=1.0, log=True
    )
    return Panel(panel.svg, "Right of the dashed line the chains are wider than the Laplace approximation, left of it narrower.")


def _laplace(measured: Measured) -> Section:
    section = Section("laplace", "Comparison with Laplace")
    compared, laplace = measured.comparison, measured.laplace
    if compared is None or laplace is None:
        why = measured.problems.get("comparison")
        section.missing.append(why or "Not shown. Give `laplace=Laplace.fit(posterior)` to add it.")
        return section
    section.text.append(
        f"Laplace puts a Gaussian at a mode, here with {laplace.structure} {laplace.curvature.upper()} curvature. Where it and the "
        "chains agree, the posterior is close to that Gaussian; where not, the chains have seen what a quadratic cannot."
    )
    section.text += [note[:1].upper() + note[1:] + "." for note in compared.notes]
    if compared.kl is None:
        section.text.append(f"KL divergence not computed: {compared.kl_reason}.")
    else:
        section.text.append(
            f"KL divergence of the Gaussian with the chains' moments from Laplace's: {num(compared.kl)} nats ({compared.kl_kind}); "
            f"draws of Laplace itself would show {num(compared.kl_by_chance)} by chance."
            + (f" {compared.kl_reason[:1].upper()}{compared.kl_reason[1:]}." if compared.kl_reason else "")
        )
    section.panels.append(_ratios(measured, "ratio"))
    panel = figures.histogram(
        "shift", {"parameters": compared.shift.numpy()}, "Shift of the mean", "(chain mean − mode) / Laplace sd", mark=0.0
    )
    section.panels.append(Panel(panel.svg, "How far the chains' means lie from the mode, in Laplace's standard deviations."))
    for i, pair in enumerate(_pairs(compared)):
        outlines = dict(zip(("chains", "Laplace"), (o.numpy() for o in compared.ellipse(*pair)), strict=True))
        points = compared._draws[..., list(pair)].flatten(0, 1).numpy()
        names = compared.names
        panel = figures.ellipses(f"pair-{i}", points, outlines, (names[pair[0]], names[pair[1]]))
        section.panels.append(panel if i == 0 else Panel(panel.svg, ""))
    columns = ["name", "chain mean", "chain sd", "Laplace mean", "Laplace sd", "shift", "spread ratio"]
    rows = [
        [
            row["name"],
            *(num(row[key]) for key in ("chain_mean", "chain_sd", "laplace_mean", "laplace_sd")),
            within(row["shift"], row["shift_error"]),
            within(row["ratio"], row["ratio_error"]),
        ]
        for row in compared.worst(8)
    ]
    note = "Shift is in Laplace's standard deviations, spread ratio is chain sd / Laplace sd; ± is one Monte-Carlo standard error."
    section.tables.append(Table("Parameters that differ most", columns, rows, note))
    return section


def _pairs(compared: Comparison) -> list[tuple[int, int]]:
    """Up to three pairs: the two that differ most, the most shifted with the widest, and two in the middle."""
    order = compared.marginal_kl.nan_to_num(0.0, posinf=0.0).argsort(descending=True).tolist()
    if len(order) < 2:
        return []
    wide = int(compared.ratio.nan_to_num(0.0).argmax())
    far = int(compared.shift.nan_to_num(0.0).abs().argmax())
    middle = len(order) // 2
    pairs = [(order[0], order[1]), (far, wide), (order[middle - 1], order[middle])]
    return list({frozenset(pair): pair for pair in pairs if pair[0] != pair[1]}.values())


def _reliability(measured: Measured, key: str) -> Panel:
    assert measured.prediction is not None and measured.targets is not None
    labels = measured.targets.cpu().long()
    curves = {"ensemble": calibration.reliability(measured.prediction.mean, labels)}
    if measured.mode_prediction is not None:
        curves["mode"] = calibration.reliability(measured.mode_prediction.mean, labels)
    arrays = {k: (c.cpu().numpy(), a.cpu().numpy(), n.cpu().numpy()) for k, (c, a, n) in curves.items()}
    return figures.reliability(key, arrays, "Confidence and how often it was right")


def _predictions(measured: Measured) -> Section:
    section = Section("predictions", "Predictions and calibration")
    evaluation, prediction, targets = measured.evaluation, measured.prediction, measured.targets
    if evaluation is None or targets is None:
        why = measured.problems.get("predictions")
        hint = "Not shown. Give `posterior=` and `test=(inputs, targets)`, data that were not trained on, to add it."
        section.missing.append(why or hint)
        return section
    section.text.append(
        f"Scores on {targets.shape[0]:,} test examples. The ensemble averages the predictions of {evaluation.num_draws:,} draws; single "
        f"draws are {evaluation.num_single} of them, each scored alone."
    )
    section.tables.append(_scores(measured))
    if prediction is not None and prediction.entropy is not None and prediction.mutual_information is not None:
        section.panels.append(_reliability(measured, "reliability"))
        right = (prediction.mean.argmax(-1) == targets.cpu()).flatten().numpy()
        for key, title, values, meaning in (
            ("entropy", "Entropy of the prediction", prediction.entropy, "How unsure the ensemble is, in nats."),
            (
                "information",
                "Mutual information",
                prediction.mutual_information,
                "How much the draws disagree, in nats: what more data could teach.",
            ),
        ):
            flat = values.flatten().numpy()
            groups = {f"right ({right.sum():,})": flat[right], f"wrong ({(~right).sum():,})": flat[~right]}
            groups = {label: part for label, part in groups.items() if len(part)}
            panel = figures.histogram(key, groups, title, "nats", share=True)
            section.panels.append(Panel(panel.svg, f"{meaning} Wrong answers should lie further right than right ones."))
    if measured.coverage is not None:
        levels, found = measured.coverage
        section.panels.append(figures.coverage("coverage", levels, {"ensemble": found}, "Coverage of predictive intervals"))
    if prediction is not None and prediction.epistemic_sd is not None and prediction.aleatoric_sd is not None:
        groups = {"parameters": prediction.epistemic_sd.flatten().numpy(), "noise": prediction.aleatoric_sd.flatten().numpy()}
        panel = figures.histogram("spread", groups, "Where uncertainty comes from", "standard deviation", share=True)
        section.panels.append(Panel(panel.svg, "Spread of the draws' means (parameters), and of targets around them (noise)."))
    if measured.laplace is None:
        section.missing.append("Not shown: the mode and Laplace beside the chains. Give `laplace=Laplace.fit(posterior)` to add them.")
    section.missing += [measured.problems[k] for k in ("predictions at the mode", "coverage") if k in measured.problems]
    return section


def _scores(measured: Measured) -> Table:
    evaluation = measured.evaluation
    assert evaluation is not None
    columns = ["score", f"ensemble of {evaluation.num_draws:,}", "single draw"]
    if measured.mode_metrics is not None:
        columns.append("mode")
    if measured.laplace_evaluation is not None:
        columns.append(f"Laplace, {measured.laplace_evaluation.num_draws} draws")
    rows = []
    for name, value in evaluation.ensemble.items():
        row = [METRICS.get(name, name), num(value, 4, "f"), f"{num(evaluation.single[name], 4, 'f')} ± {num(evaluation.single_sd[name], 4, 'f')}"]
        if measured.mode_metrics is not None:
            row.append(num(measured.mode_metrics[name], 4, "f"))
        if measured.laplace_evaluation is not None:
            row.append(num(measured.laplace_evaluation.ensemble[name], 4, "f"))
        rows.append(row)
    note = "↑ larger is better, ↓ smaller is better. ± is the standard deviation over single draws."
    return Table("Scores on test data", columns, rows, note)


def _made(measured: Measured) -> Section:
    section = Section("made", "How it was made")
    attrs, chains = measured.chains.attrs, measured.chains
    batch = attrs.get("batch_size")
    rows = [
        ["sampler", str(attrs.get("sampler", "not recorded"))],
        *[[key, _literal(value)] for key, value in (attrs.get("settings") or {}).items()],
        ["chains", f"{chains.num_chains}"],
        ["draws per chain", f"{chains.num_draws:,}"],
    ]
    for key, label in (
        ("thinning", "steps per draw"),
        ("num_warmup", "warm-up steps"),
        ("num_data", "examples N"),
        ("dim", "parameters D"),
        ("batches", "order of minibatches"),
    ):
        if attrs.get(key) is not None:
            rows.append([label, f"{attrs[key]:,}" if isinstance(attrs[key], int) else str(attrs[key])])
    if "batch_size" in attrs:
        rows.append(["minibatch B", "all the data" if batch is None else f"{batch:,}"])
    if attrs.get("stopped"):
        rows.append(["stopped chains", ", ".join(f"chain {c} at step {s}" for c, s in attrs["stopped"].items())])
    section.tables.append(Table("Settings", ["", "value"], rows, text=True))
    where = [[key, str(attrs[key])] for key in ("seed", "started", "engine", "device", "dtype") if attrs.get(key) is not None]
    if attrs.get("seconds") is not None:
        where.append(["time", f"{attrs['seconds']:.1f} s"])
    versions = {"langevin": attrs.get("langevin")} | (attrs.get("versions") or {})
    where += [[key, str(value)] for key, value in versions.items() if value is not None]
    if where:
        section.tables.append(Table("Run and versions", ["", "value"], where, text=True))
    section.code = snippet(chains)
    if not section.code:
        section.missing.append("No code to reproduce the run: these chains do not say which sampler drew them.")
    return section


def snippet(chains: Chains) -> str:
    """Code that repeats the sampling call, or nothing where the chains do not say how they were made."""
    attrs = chains.attrs
    name = str(attrs.get("sampler", ""))
    if not name.isidentifier() or not isinstance(attrs.get("settings"), dict):
        return ""
    settings = ", ".join(f"{key}={_literal(value)}" for key, value in attrs["settings"].items())
    arguments = [f"    {key}={attrs[key]!r}," for key in ("num_samples", "num_warmup", "thinning") if attrs.get(key) is not None]
    ids = attrs.get("chain_ids") or list(range(chains.num_chains))
    arguments.append(f"    num_chains={len(ids)},")
    if list(ids) != list(range(len(ids))):
        arguments.append(f"    chain_ids={list(ids)!r},")
    arguments += [f"    {key}={attrs[key]!r}," for key in ("batch_size", "seed") if attrs.get(key) is not None]
    about = f"{attrs['dim']:,} parameters" if attrs.get("dim") else "its parameters"
    about += f" and {attrs['num_data']:,} examples" if attrs.get("num_data", 1) and attrs.get("num_data", 1) > 1 else ""
    if attrs.get("batches") not in (None, "independent"):
        arguments.append(f"    batches={attrs['batches']!r},")
    schedules = {str(v["schedule"]) for v in attrs["settings"].values() if isinstance(v, dict) and "schedule" in v}
    return "\n".join(
        [
            f"from langevin.samplers import {', '.join([name, *sorted(schedules)])}, sample",
            "",
            f"# posterior: the target as it was built, with {about}; give `init=` if it was given.",
            "chains = sample(",
            "    posterior,",
            f"    {name}({settings}),",
            *arguments,
            ")",
        ]
    )


def _literal(value: Any) -> str:
    """Python for a recorded setting; schedules are recorded as their name and settings."""
    if isinstance(value, dict) and str(value.get("schedule", "")).isidentifier():
        return f"{value['schedule']}({', '.join(f'{k}={_literal(v)}' for k, v in value.items() if k != 'schedule')})"
    return f"float({str(value)!r})" if isinstance(value, float) and not math.isfinite(value) else repr(value)


def _approximate(measured: Measured) -> Section:
    attrs = measured.chains.attrs
    steps = []
    if attrs.get("batch_size"):
        steps.append(
            "Minibatch gradients heat the chain; the temperature section says by how much. Where their covariance is not "
            "proportional to the inverse of the preconditioner, directions differ in heat."
        )
    if attrs.get("sampler") not in (None, "HMC"):
        steps.append(
            "Steps of finite length leave a bias of order lr in the spreads (for SGLD a factor 1/(1 − lr·λ/2) in variance along "
            "curvature λ of the mean cost), which the measured temperature includes."
        )
    if measured.convergence is not None:
        steps.append("R̂, ESS and Monte-Carlo errors are estimates from the draws themselves: they cannot see what no chain visited.")
    if measured.chains.weights is not None:
        steps.append("Draws have unequal weights; R̂ and ESS ignore them, errors of means use Kish's factor.")
    if measured.inputs is not None:
        steps.append(f"Convergence of predictions was judged at no more than 300 {measured.inputs_kind}, evenly chosen.")
    if measured.temperature is not None and measured.temperature.source == "full gradients":
        steps.append("The temperature comes from evenly spaced draws, about 200 in all; its interval is Monte-Carlo error alone.")
    if measured.laplace is not None:
        kind = {"diagonal": " The diagonal structure ignores correlations: its spreads are conditional, too narrow."}
        steps.append(
            "Laplace is a Gaussian at one mode, with "
            + ("the Gauss–Newton part of the curvature" if measured.laplace.curvature == "ggn" else "the exact Hessian")
            + "."
            + kind.get(measured.laplace.structure, "")
        )
        if measured.laplace_evaluation is not None:
            steps.append(f"Laplace's ensemble is {measured.laplace_evaluation.num_draws} draws through the network itself, not linearised.")
    steps.append("Figures thin lines and dots for size, evenly; every table uses all draws.")
    return Section("approximate", "What is approximate", steps=steps)
