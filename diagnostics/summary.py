"""What was found of chains as data: a dictionary for programs, and the same as JSON or Markdown."""

from __future__ import annotations

import json
import math
from typing import Any

from torch import Tensor

from .assessment import Assessment
from .comparison import Comparison
from .convergence import Convergence
from .measurements import Measured
from .rules import most, num, statistics, within
from .sections import version
from .thermometer import Temperature


def summarise(assessment: Assessment, title: str) -> dict[str, Any]:
    """Say what was found in JSON values.

    Parameters
    ----------
    assessment
        Chains, measured and judged.
    title
        Headline.

    Returns
    -------
    dict
        ``title``; ``verdict`` ("trust", "look" or "do not trust"), ``basis`` and ``sentences``; ``findings``, each with
        ``level``, ``topic``, ``sentence`` and ``remedy``, worst first; ``numbers``, the headline ones; ``worst`` and
        ``worst_predictions``, those that agree least; ``scores`` on test data; ``problems``, what could not be
        measured; ``run``, how the chains were made; ``judged_by``, the version that judged. What is not finite, not
        known or was not given is None.
    """
    measured, verdict = assessment.measured, assessment.verdict
    judged = measured.convergence
    predictions = judged.predictions if judged else None
    summary = {
        "title": title,
        "verdict": verdict.level,
        "basis": verdict.basis,
        "sentences": verdict.sentences,
        "findings": [
            {"level": f.level, "topic": f.topic, "sentence": f.sentence, "remedy": f.remedy} for f in verdict.findings
        ],
        "numbers": numbers(measured),
        "worst": judged.worst(10) if judged else [],
        "worst_predictions": predictions.worst(10) if predictions else [],
        "scores": _scores(measured),
        "problems": measured.problems,
        "run": measured.chains.attrs,
        "judged_by": {"langevin": version()},
    }
    return finite(summary)


def numbers(measured: Measured) -> dict[str, Any]:
    """Headline numbers of chains that were measured; NaN or None where they are not defined."""
    chains, judged = measured.chains, measured.convergence
    return {
        "chains": chains.num_chains,
        "chains_stopped": chains.num_chains - (judged.num_chains if judged else 0),
        "draws_per_chain": chains.num_draws,
        "parameters": sum(x[0, 0].numel() for x in chains.draws.values()),
        **_agreement(judged),
        "predictions": _predictions(judged.predictions if judged else None),
        "temperature": _temperature(measured.temperature),
        "laplace": _laplace(measured.comparison),
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


def _predictions(judged: Convergence | None) -> dict[str, Any] | None:
    return None if judged is None else {"count": sum(x.numel() for x in judged.mean.values())} | _agreement(judged)


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
        "by_tensor": {name: {"value": value, "error": error} for name, (value, error) in reading.blocks.items()},
    }


def _laplace(compared: Comparison | None) -> dict[str, Any] | None:
    if compared is None:
        return None
    ratio, shift = (values[values.isfinite()] for values in (compared.ratio, compared.shift))
    return {
        "kl": compared.kl,
        "kl_kind": compared.kl_kind,
        "kl_by_chance": compared.kl_by_chance,
        "spread_ratio_median": float(ratio.median()) if len(ratio) else math.nan,
        "shift_largest": float(shift.abs().max()) if len(shift) else math.nan,
    }


def _scores(measured: Measured) -> dict[str, Any] | None:
    """Scores on test data, of the ensemble and of what it is set beside."""
    evaluation, laplace = measured.evaluation, measured.laplace_evaluation
    if evaluation is None:
        return None
    return {
        "ensemble": evaluation.ensemble,
        "single_draw": evaluation.single,
        "single_draw_sd": evaluation.single_sd,
        "mode": measured.mode_metrics,
        "laplace": laplace.ensemble if laplace else None,
    }


def finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(summary: dict[str, Any]) -> str:
    """Write a summary as JSON; `NaN` and `Infinity`, which are not JSON, never appear."""
    return json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(summary: dict[str, Any]) -> str:
    """Write a summary as Markdown: the verdict, its reasons, the numbers, what to do, the settings."""
    lines = [f"# {_text(summary['title'])}", "", f"**Verdict: {summary['verdict']}**"]
    lines += ["", *(f"- {_text(sentence)}" for sentence in summary["sentences"] if sentence)]
    lines += ["", _text(summary["basis"])]
    lines += _table("Numbers", ["", ""], _rows(summary["numbers"]))
    found = [[finding[key] for key in ("level", "topic", "sentence", "remedy")] for finding in summary["findings"]]
    lines += _table("Checks", ["level", "check", "what was found", "what to do"], found)
    for key, what in (("worst", "Parameters"), ("worst_predictions", "Predictions")):
        columns = ["name", "mean", "sd", "R̂", "ESS bulk", "ESS tail"]
        lines += _table(f"{what} that agree least", columns, [_offender(row) for row in summary[key]])
    scores = {label.replace("_", " "): values for label, values in (summary["scores"] or {}).items() if values}
    rows = [[name, *(_number(of[name], 4, "f") for of in scores.values())] for name in scores.get("ensemble", {})]
    lines += _table("Scores on test data", ["", *scores], rows)
    lines += ["", *(f"- {_text(problem)}" for problem in summary["problems"].values())]
    run = [[key, _setting(value)] for key, value in summary["run"].items()]
    judged_by = [["judged by", f"langevin {summary['judged_by']['langevin']}"]]
    return "\n".join([*lines, *_table("How it was made", ["", ""], run + judged_by)]) + "\n"


def _table(title: str, columns: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a section with a table; nothing if it has no rows."""
    if not rows:
        return []
    lines = [[_cell(cell) for cell in row] for row in [columns, *rows]]
    lines.insert(1, ["---"] * len(columns))
    return ["", f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines)]


def _offender(row: dict[str, Any]) -> list[str]:
    shown = [row["name"], _number(row["mean"], 4), _number(row["sd"]), _number(row["rhat"], 3, "f")]
    return shown + [_number(row[kind], 0, "f") for kind in ("ess_bulk", "ess_tail")]


def _rows(values: dict[str, Any]) -> list[list[str]]:
    rows = [
        ["parameters judged", f"{values['parameters']:,}"],
        ["chains stopped", f"{values['chains_stopped']} of {values['chains']}"],
        *_agreement_rows(values, ""),
    ]
    if values["predictions"] is not None:
        rows.append(["predictions judged", f"{values['predictions']['count']:,}"])
        rows += _agreement_rows(values["predictions"], " of predictions")
    rows.append(["temperature", _heat(values["temperature"])])
    if values["laplace"] is not None:
        rows += [
            ["KL from Laplace, nats", _number(values["laplace"]["kl"])],
            ["chain sd / Laplace sd, median", _number(values["laplace"]["spread_ratio_median"])],
        ]
    return rows


def _agreement_rows(values: dict[str, Any], of: str) -> list[list[str]]:
    return [
        [f"R̂ of 95 %{of}", _number(values["rhat_95_percent"], 3, "f")],
        [f"largest R̂{of}", _number(values["rhat_largest"], 3, "f")],
        [f"ESS of 95 %{of}", _number(values["ess_95_percent"], 0, "f")],
        [f"smallest ESS{of}", _number(values["ess_smallest"], 0, "f")],
        [f"R̂ or ESS undefined{of}", _number(values["undefined"], 0, "f")],
    ]


def _heat(reading: dict[str, Any] | None) -> str:
    if reading is None:
        return "not measured"
    asked = "" if reading["nominal"] is None else f", asked for {num(reading['nominal'])}"
    if None in (reading["value"], reading["error"], *reading["interval_95_percent"]):
        return f"not known{asked}"
    low, high = reading["interval_95_percent"]
    return f"{within(reading['value'], reading['error'])}, 95 % interval {num(low)} to {num(high)}{asked}"


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
