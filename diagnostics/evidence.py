"""The report's evidence on the law of the draws: temperature, Laplace and predictions as figures, tables and words."""

from __future__ import annotations

import math

from . import calibration, figures
from .comparison import Comparison
from .measurements import Measured
from .page import Panel, Section, Table
from .rules import num, within

MAX_BLOCKS = 12

NO_CHAIN = "Not shown: every chain was stopped."

METRICS = {
    "accuracy": "accuracy ↑",
    "nll": "NLL ↓",
    "brier": "Brier ↓",
    "ece": "ECE ↓",
    "rmse": "RMSE ↓",
    "coverage_90": "coverage → 0.9",
}


def heat(measured: Measured, key: str, blocks: bool = True) -> Panel:
    """Measured temperatures with their intervals."""
    reading = measured.temperature
    assert reading is not None
    rows = [("all parameters", reading.value, reading.error)]
    if blocks:
        nominal = reading.nominal or 0.0
        far = sorted(reading.blocks, key=lambda name: -abs(reading.blocks[name][0] - nominal))[:MAX_BLOCKS]
        rows += [(name, *reading.blocks[name]) for name in reading.blocks if name in far]
    lines = [] if reading.nominal is None else [("nominal", reading.nominal)]
    panel = figures.intervals(key, rows, lines, "Temperature", "temperature")
    left = len(reading.blocks) - MAX_BLOCKS if blocks else 0
    more = f" The {MAX_BLOCKS} farthest from nominal; {left} more are closer." if left > 0 else ""
    return Panel(
        panel.svg, f"Measured temperature with 95 % Monte-Carlo intervals; the line is what was asked for.{more}"
    )


def temperature(measured: Measured) -> Section:
    """Measured and nominal temperature, of all parameters and by layer or tensor."""
    section = Section("temperature", "Temperature", beside=True)
    reading = measured.temperature
    if reading is None:
        why = measured.problems.get("temperature")
        section.missing.append(why or "Not measured: it needs a chain that was not stopped.")
        return section
    section.text.append(
        "At temperature T a chain samples exp(−C/T): spreads grow with the root of T. It is measured by ⟨(ω − "
        f"c)·∇C⟩/D, which equals T in equilibrium, from {reading.source} at {reading.num_chains} × {reading.num_draws} "
        "draws."
    )
    low, high = reading.interval
    rows = [
        ["asked for", "–" if reading.nominal is None else num(reading.nominal, 4)],
        ["measured", num(reading.value, 4)],
        ["95 % interval", f"{num(low, 4)} to {num(high, 4)}" if math.isfinite(low + high) else "cannot be told"],
        ["minibatch's own share", "–" if reading.batch_share is None else num(reading.batch_share)],
    ]
    note = (
        "The minibatch's share is what its noise alone would supply, (εN/2) Tr(S)/D with S the covariance of fresh "
        "minibatch gradients at the last positions; it comes on top of what was asked for."
        if reading.batch_share
        else ""
    )
    section.tables.append(Table("Temperature of all parameters together", ["", "value"], rows, note))
    section.panels.append(heat(measured, "heat"))
    if not reading.blocks:
        section.missing.append(
            "Not shown: temperature by parameter tensor, from full gradients. Give `posterior=` to add it."
        )
    return section


def ratios(measured: Measured, key: str) -> Panel:
    """Spreads of the chains over those of Laplace."""
    assert measured.comparison is not None
    ratio = measured.comparison.ratio.numpy()
    panel = figures.histogram(
        key, {"parameters": ratio}, "Spread: chains against Laplace", "chain sd / Laplace sd", mark=1.0, log=True
    )
    return Panel(
        panel.svg, "Right of the dashed line the chains are wider than the Laplace approximation, left of it narrower."
    )


def laplace(measured: Measured) -> Section:
    """Means, spreads and ellipses beside Laplace's."""
    section = Section("laplace", "Comparison with Laplace")
    compared, laplace = measured.comparison, measured.laplace
    if compared is None or laplace is None:
        why = measured.problems.get("comparison")
        hint = "Not shown. Give `laplace=Laplace.fit(posterior)` to add it."
        section.missing.append(why or (NO_CHAIN if measured.finished is None else hint))
        return section
    section.text.append(
        f"Laplace puts a Gaussian at a mode, here with {laplace.structure} {laplace.curvature.upper()} curvature. "
        "Where it and the chains agree, the posterior is close to that Gaussian; where not, the chains have seen what "
        "a quadratic cannot."
    )
    section.text += [note[:1].upper() + note[1:] + "." for note in compared.notes]
    if compared.kl is None:
        section.text.append(f"KL divergence not computed: {compared.kl_reason}.")
    else:
        section.text.append(
            f"KL divergence of the Gaussian with the chains' moments from Laplace's: {num(compared.kl)} nats "
            f"({compared.kl_kind}); draws of Laplace itself would show {num(compared.kl_by_chance)} by chance."
            + (f" {compared.kl_reason[:1].upper()}{compared.kl_reason[1:]}." if compared.kl_reason else "")
        )
    section.panels.append(ratios(measured, "ratio"))
    panel = figures.histogram(
        "shift",
        {"parameters": compared.shift.numpy()},
        "Shift of the mean",
        "(chain mean − mode) / Laplace sd",
        mark=0.0,
    )
    section.panels.append(
        Panel(panel.svg, "How far the chains' means lie from the mode, in Laplace's standard deviations.")
    )
    for i, pair in enumerate(_pairs(compared)):
        of_chains, of_laplace = compared.ellipse(*pair)
        outlines = {"chains": of_chains.numpy(), "Laplace": of_laplace.numpy()}
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
    note = (
        "Shift is in Laplace's standard deviations, spread ratio is chain sd / Laplace sd; ± is one Monte-Carlo "
        "standard error."
    )
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


def reliability(measured: Measured, key: str) -> Panel:
    """Accuracy over confidence of the ensemble, and of the mode if it is known."""
    assert measured.prediction is not None
    assert measured.targets is not None
    labels = measured.targets.cpu().long()
    curves = {"ensemble": calibration.reliability(measured.prediction.mean, labels)}
    if measured.mode_prediction is not None:
        curves["mode"] = calibration.reliability(measured.mode_prediction.mean, labels)
    arrays = {k: (c.cpu().numpy(), a.cpu().numpy(), n.cpu().numpy()) for k, (c, a, n) in curves.items()}
    return figures.reliability(key, arrays, "Confidence and how often it was right")


def predictions(measured: Measured) -> Section:
    """Scores, calibration and uncertainty on test data."""
    section = Section("predictions", "Predictions and calibration")
    evaluation, prediction, targets = measured.evaluation, measured.prediction, measured.targets
    if evaluation is None or targets is None:
        why = measured.problems.get("predictions")
        hint = "Not shown. Give `posterior=` and `test=(inputs, targets)`, data that were not trained on, to add it."
        section.missing.append(why or (NO_CHAIN if measured.finished is None else hint))
        return section
    section.text.append(
        f"Scores on {targets.shape[0]:,} test examples. The ensemble averages the predictions of "
        f"{evaluation.num_draws:,} draws; single draws are {evaluation.num_single} of them, each scored alone."
    )
    section.tables.append(_scores(measured))
    if prediction is not None and prediction.entropy is not None and prediction.mutual_information is not None:
        section.panels.append(reliability(measured, "reliability"))
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
            section.panels.append(
                Panel(panel.svg, f"{meaning} Wrong answers should lie further right than right ones.")
            )
    if measured.coverage is not None:
        levels, found = measured.coverage
        section.panels.append(
            figures.coverage("coverage", levels, {"ensemble": found}, "Coverage of predictive intervals")
        )
    if prediction is not None and prediction.epistemic_sd is not None and prediction.aleatoric_sd is not None:
        groups = {
            "parameters": prediction.epistemic_sd.flatten().numpy(),
            "noise": prediction.aleatoric_sd.flatten().numpy(),
        }
        panel = figures.histogram("spread", groups, "Where uncertainty comes from", "standard deviation", share=True)
        section.panels.append(
            Panel(panel.svg, "Spread of the draws' means (parameters), and of targets around them (noise).")
        )
    if measured.laplace is None:
        section.missing.append(
            "Not shown: the mode and Laplace beside the chains. Give `laplace=Laplace.fit(posterior)` to add them."
        )
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
        row = [
            METRICS.get(name, name),
            f"{num(value, 4, 'f')} ± {num(evaluation.ensemble_error.get(name, math.nan), 4, 'f')}",
            f"{num(evaluation.single[name], 4, 'f')} ± {num(evaluation.single_sd[name], 4, 'f')}",
        ]
        if measured.mode_metrics is not None:
            row.append(num(measured.mode_metrics[name], 4, "f"))
        if measured.laplace_evaluation is not None:
            row.append(num(measured.laplace_evaluation.ensemble[name], 4, "f"))
        rows.append(row)
    if "accuracy" in evaluation.ensemble:
        note = (
            "NLL: negative log-likelihood in nats. Brier: squared error of the probabilities. ECE: calibration error."
        )
    else:
        note = "RMSE: root mean squared error. NLL: negative log-likelihood in nats. Coverage: of 90 % intervals."
    note = (
        f"↑ larger is better, ↓ smaller. {note} After ± stands for the ensemble the "
        "standard error over test examples, for single draws their standard deviation. `compare_predictions` tells "
        "whether differences are more than chance."
    )
    return Table("Scores on test data", columns, rows, note)
