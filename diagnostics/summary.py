"""The verdict on chains as data: a dictionary for programs, and the same as JSON or Markdown."""

from __future__ import annotations

import json
import math
from typing import Any

from torch import Tensor

from ..samplers.chains import Chains
from .convergence import Convergence
from .measurements import Measured, measure
from .rules import most, num, statistics, within
from .sections import size_of, version
from .thermometer import Temperature
from .verdict import judge


def summarise(chains: Chains) -> dict[str, Any]:
    """Judge chains by themselves, as `report(chains)` does, and say it in JSON values.

    Parameters
    ----------
    chains
        What `sample` returned; stopped and interrupted runs too.

    Returns
    -------
    dict
        ``verdict`` ("trust", "look" or "do not trust"), ``basis`` and ``sentences``; ``findings``, each with ``level``,
        ``topic``, ``sentence`` and ``remedy``, worst first; ``numbers``, the headline ones; ``worst``, the parameters
        that agree least; ``run``, how the chains were made; ``judged_by``, the version that judged. What is not finite
        or not known is None.
    """
    measured = measure(chains, None, None, None)
    verdict = judge(chains, measured.convergence, measured.temperature)
    summary = {
        "verdict": verdict.level,
        "basis": verdict.basis,
        "sentences": verdict.sentences,
        "findings": [
            {"level": f.level, "topic": f.topic, "sentence": f.sentence, "remedy": f.remedy} for f in verdict.findings
        ],
        "numbers": numbers(measured),
        "worst": measured.convergence.worst(10) if measured.convergence else [],
        "problems": measured.problems,
        "run": chains.attrs,
        "judged_by": {"langevin": version()},
    }
    return _finite(summary)


def numbers(measured: Measured) -> dict[str, Any]:
    """Headline numbers of chains that were measured; NaN or None where they are not defined."""
    chains, judged = measured.chains, measured.convergence
    return {
        "chains": chains.num_chains,
        "chains_stopped": chains.num_chains - (judged.num_chains if judged else 0),
        "draws_per_chain": chains.num_draws,
        "parameters": sum(x[0, 0].numel() for x in chains.draws.values()),
        **_agreement(judged),
        "temperature": _temperature(measured.temperature),
    }


def _agreement(judged: Convergence | None) -> dict[str, float | None]:
    if judged is None:
        return dict.fromkeys(("rhat_95_percent", "rhat_largest", "ess_95_percent", "ess_smallest", "undefined"))
    rhat, ess = statistics(judged)
    undefined = int((ess.isnan() | (rhat.isnan() if judged.num_chains > 1 else False)).sum())
    rhat, ess = rhat[~rhat.isnan()], ess[~ess.isnan()]

    def of(values: Tensor, largest: bool) -> tuple[float, float]:
        if not len(values):
            return math.nan, math.nan
        return most(values, largest), float(values.max() if largest else values.min())

    (rhat_most, rhat_worst), (ess_most, ess_worst) = of(rhat, True), of(ess, False)
    return {
        "rhat_95_percent": rhat_most,
        "rhat_largest": rhat_worst,
        "ess_95_percent": ess_most,
        "ess_smallest": ess_worst,
        "undefined": undefined,
    }


def _temperature(reading: Temperature | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    return {
        "value": reading.value,
        "error": reading.error,
        "interval_95_percent": list(reading.interval),
        "nominal": reading.nominal,
        "shortfall": reading.shortfall,
        "minibatch_share": reading.batch_share,
        "source": reading.source,
    }


def _finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(summary: dict[str, Any]) -> str:
    """Write a summary as JSON; `NaN` and `Infinity`, which are not JSON, never appear."""
    return json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(summary: dict[str, Any], chains: Chains) -> str:
    """Write a summary of chains as Markdown: the verdict, its reasons, the numbers, what to do, the settings."""
    run = summary["run"]
    lines = [f"# {_text(run.get('sampler') or 'Chains')}: {size_of(chains)}", "", f"**Verdict: {summary['verdict']}**"]
    lines += ["", *(f"- {_text(sentence)}" for sentence in summary["sentences"] if sentence)]
    lines += ["", _text(summary["basis"]), "", "## Numbers", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _rows(summary["numbers"])]
    lines += ["", "## Checks", "", "| level | check | what was found | what to do |", "|---|---|---|---|"]
    for found in summary["findings"]:
        lines.append("| " + " | ".join(_cell(found[key]) for key in ("level", "topic", "sentence", "remedy")) + " |")
    if summary["worst"]:
        lines += ["", "## Parameters that agree least", "", "| name | mean | sd | R̂ | ESS bulk | ESS tail |"]
        lines.append("|---|---|---|---|---|---|")
        for row in summary["worst"]:
            shown = [_number(row["mean"], 4), _number(row["sd"]), _number(row["rhat"], 3, "f")]
            shown += [_number(row[kind], 0, "f") for kind in ("ess_bulk", "ess_tail")]
            lines.append(f"| {_cell(row['name'])} | " + " | ".join(shown) + " |")
    lines += ["", "## How it was made", "", "| | |", "|---|---|"]
    lines += [f"| {_cell(key)} | {_cell(_setting(value))} |" for key, value in run.items()]
    lines.append(f"| judged by | langevin {_cell(summary['judged_by']['langevin'])} |")
    return "\n".join(lines) + "\n"


def _rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    reading = values["temperature"]
    heat = "not measured"
    if reading is not None:
        asked = "" if reading["nominal"] is None else f", asked for {num(reading['nominal'])}"
        heat = "not known"
        if None not in (reading["value"], reading["error"], *reading["interval_95_percent"]):
            low, high = reading["interval_95_percent"]
            heat = f"{within(reading['value'], reading['error'])}, 95 % interval {num(low)} to {num(high)}"
        heat += asked
    return [
        ("numbers judged", f"{values['parameters']:,}"),
        ("chains stopped", f"{values['chains_stopped']} of {values['chains']}"),
        ("R̂ of 95 %", _number(values["rhat_95_percent"], 3, "f")),
        ("largest R̂", _number(values["rhat_largest"], 3, "f")),
        ("ESS of 95 %", _number(values["ess_95_percent"], 0, "f")),
        ("smallest ESS", _number(values["ess_smallest"], 0, "f")),
        ("R̂ or ESS undefined", _number(values["undefined"], 0, "f")),
        ("temperature", heat),
    ]


def _number(value: float | None, digits: int = 3, style: str = "g") -> str:
    return "–" if value is None else num(value, digits, style)


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_setting(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(_setting, value)) or "–"
    return "–" if value is None else str(value)


def _text(value: str) -> str:
    """Names come from files: no tags and no line breaks in a page that shows them."""
    return " ".join(value.replace("&", "&amp;").replace("<", "&lt;").split())


def _cell(value: str) -> str:
    return _text(value).replace("|", "\\|")
