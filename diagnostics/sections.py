"""The report as a whole: its sections in order, the figures at its head, and how the chains were made."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import metadata
from typing import Any

from ..samplers.chains import Chains
from . import evidence, evidence_convergence, evidence_steps, figures
from .measurements import Measured
from .page import Panel, Section, Table
from .rules import RULES, num
from .verdict import Verdict

EVIDENCE: tuple[Callable[[Measured], Section], ...] = (
    evidence_convergence.convergence,
    evidence.temperature,
    evidence_steps.steps,
    evidence.laplace,
    evidence.predictions,
)
"""The sections between what to do next and the rules, in order."""


def build(measured: Measured, verdict: Verdict) -> list[Section]:
    """All sections, in order."""
    shown = [section(measured) for section in EVIDENCE]
    return [_next(verdict), *shown, _rules(), _made(measured), _approximate(measured)]


def alerts(measured: Measured) -> list[str]:
    """What must be known of single chains before anything else is read."""
    found = []
    stopped = measured.chains.attrs.get("stopped") or {}
    lost = int((~measured.chains.valid.all(-1)).sum())
    if stopped or lost:
        which = ", ".join(f"{chain} (step {step})" for chain, step in stopped.items()) or f"{lost} of them"
        found.append(f"Stopped, and left out of every figure and number: {_chain(len(stopped) or lost)} {which}.")
    still = measured.convergence.unmoved if measured.convergence is not None and measured.chains.num_draws > 1 else []
    if still:
        verb = "This chain has" if len(still) == 1 else "These chains have"
        found.append(f"{verb} not moved, all draws are the same: {_chain(len(still))} {', '.join(map(str, still))}.")
    return found


def _chain(count: int) -> str:
    return "chain" if count == 1 else "chains"


def version() -> str:
    """Version of the installed library."""
    try:
        return metadata.version("langevin")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def size_of(chains: Chains) -> str:
    """Chains and draws in words."""
    return f"{chains.num_chains} {_chain(chains.num_chains)} × {chains.num_draws:,} draws"


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
        cost, at, what = measured.cost
        title = f"Cost by chain{what}"
        panels.append(figures.traces("cost", cost.numpy(), title, "C, nats", at.numpy()))
    elif measured.convergence is not None:
        name = measured.convergence.worst(1)[0]["name"]
        panels.append(
            figures.traces(
                "cost", evidence_convergence.element(measured.finished.draws, name).numpy(), f"{name}, by chain", name
            )
        )
    if measured.convergence is not None:
        panels += evidence_convergence.overview(measured.convergence)
    if measured.comparison is not None:
        panels.append(evidence.ratios(measured, "key-ratio"))
    elif measured.prediction is not None and measured.prediction.entropy is not None:
        panels.append(evidence.reliability(measured, "key-reliability"))
    elif measured.temperature is not None:
        panels.append(evidence.heat(measured, "key-heat", blocks=False))
    return panels


def _next(verdict: Verdict) -> Section:
    steps = list(dict.fromkeys(f.remedy for f in verdict.findings if f.remedy))
    section = Section("next", "What to do next", steps=steps)
    if not steps:
        section.text.append(
            "Nothing needs to be done. For smaller Monte-Carlo errors draw more: errors fall with the root of the "
            "number of effective draws. The sharpest check is to start more chains elsewhere, by `init='prior'`, and "
            "see that they arrive here."
        )
    return section


def _rules() -> Section:
    text = (
        "The verdict is the worst of all checks. Beyond the first limit a check asks for a look, beyond the second the "
        "draws are not to be trusted. Notes do not count."
    )
    rows = [
        [rule.what, f"{'≤' if rule.good <= rule.bad else '≥'} {num(rule.good)}", num(rule.bad), rule.why]
        for rule in RULES.values()
    ]
    table = Table("Limits", ["quantity", "good", "bad beyond", "why"], rows, text=True)
    return Section("rules", "The rules", text=[text], tables=[table])


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
    where = [
        [key, str(attrs[key])] for key in ("seed", "started", "engine", "device", "dtype") if attrs.get(key) is not None
    ]
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
    arguments = [
        f"    {key}={attrs[key]!r}," for key in ("num_samples", "num_warmup", "thinning") if attrs.get(key) is not None
    ]
    ids = attrs.get("chain_ids") or list(range(chains.num_chains))
    arguments.append(f"    num_chains={len(ids)},")
    if list(ids) != list(range(len(ids))):
        arguments.append(f"    chain_ids={list(ids)!r},")
    arguments += [f"    {key}={attrs[key]!r}," for key in ("batch_size", "seed") if attrs.get(key) is not None]
    about = f"{attrs['dim']:,} parameters" if attrs.get("dim") else "its parameters"
    about += f" and {attrs['num_data']:,} examples" if attrs.get("num_data", 1) and attrs.get("num_data", 1) > 1 else ""
    if attrs.get("batches") not in (None, "independent"):
        arguments.append(f"    batches={attrs['batches']!r},")
    parts = {str(v["type"]) for v in attrs["settings"].values() if isinstance(v, dict) and "type" in v}
    return "\n".join(
        [
            f"from langevin.samplers import {', '.join([name, *sorted(parts)])}, sample",
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
    """Python for a recorded setting; schedules and metrics are recorded as their name and settings."""
    if isinstance(value, dict) and str(value.get("type", "")).isidentifier():
        return f"{value['type']}({', '.join(f'{k}={_literal(v)}' for k, v in value.items() if k != 'type')})"
    if isinstance(value, str) and value.startswith(("tensor (", "function ")):
        return "..."  # recorded by size and norm, or by name, only
    return f"float({str(value)!r})" if isinstance(value, float) and not math.isfinite(value) else repr(value)


def _approximate(measured: Measured) -> Section:
    attrs = measured.chains.attrs
    steps = []
    if attrs.get("batch_size"):
        steps.append(
            "Minibatch gradients heat the chain; the temperature section says by how much. Where their covariance is "
            "not proportional to the inverse of the preconditioner, directions differ in heat."
        )
    if attrs.get("sampler") not in (None, "HMC"):
        steps.append(
            "Steps of finite length leave a bias of order lr in the spreads (for SGLD a factor 1/(1 − lr·λ/2) in "
            "variance along curvature λ of the mean cost), which the measured temperature includes."
        )
    settings = attrs.get("settings") or {}
    without_drift = settings.get("drift") == "none" or attrs.get("sampler") == "NGD"
    if without_drift and not _constant(settings.get("metric") or {}):
        steps.append(
            "The metric changes with the position and the sampler leaves out the drift that this calls for: the law is "
            "tilted towards large determinants of the metric."
        )
    if measured.convergence is not None:
        steps.append(
            "R̂, ESS and Monte-Carlo errors are estimates from the draws themselves: they cannot see what no chain "
            "visited."
        )
    if measured.chains.weights is not None:
        steps.append("Draws have unequal weights; R̂ and ESS ignore them, errors of means use Kish's factor.")
    if measured.inputs is not None:
        steps.append(
            f"Convergence of predictions was judged at no more than 300 {measured.inputs_kind}, evenly chosen."
        )
    if measured.temperature is not None and measured.temperature.source == "full gradients":
        steps.append(
            "The temperature comes from evenly spaced draws, about 200 in all; its interval is Monte-Carlo error alone."
        )
    if measured.laplace is not None:
        kind = {"diagonal": " The diagonal structure ignores correlations: its spreads are conditional, too narrow."}
        steps.append(
            "Laplace is a Gaussian at one mode, with "
            + ("the Gauss–Newton part of the curvature" if measured.laplace.curvature == "ggn" else "the exact Hessian")
            + "."
            + kind.get(measured.laplace.structure, "")
        )
        if measured.laplace_evaluation is not None:
            steps.append(
                f"Laplace's ensemble is {measured.laplace_evaluation.num_draws} draws through the network itself, not "
                "linearised."
            )
    steps.append("Figures thin lines and dots for size, evenly; every table uses all draws.")
    return Section("approximate", "What is approximate", steps=steps)


def _constant(metric: dict[str, Any]) -> bool:
    """Whether a recorded metric does not change after warm-up."""
    return metric.get("type") == "ConstantMetric" or bool(metric.get("average") and metric.get("freeze"))
