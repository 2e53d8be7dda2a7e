"""The checks: what was measured, held against `rules`, in plain words with numbers and with what to do about it.

Here those of the run and of its convergence, and the notes; those of the law that is drawn from are in `checks_law`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..samplers.chains import Chains
from .comparison import Comparison
from .convergence import Convergence
from .ensemble import Evaluation
from .rules import CALIBRATED, LEVELS, NOTE, RULES, Finding, has_lr, most, num, rounded_up, statistics


def run(chains: Chains) -> list[Finding]:
    """Whether the chains ran, and moved."""
    findings = []
    total, attrs = chains.num_chains, chains.attrs
    stopped = {str(k): v for k, v in (attrs.get("stopped") or {}).items()}
    lost = int((~chains.valid.all(-1)).sum())
    lr = (attrs.get("settings") or {}).get("lr")
    if lost:
        steps = ", ".join(f"chain {c} at step {s}" for c, s in stopped.items()) or f"{lost} chains"
        lower = "`lr` " if has_lr(attrs) else "the step size "
        lower += f"from {num(lr)} to {num(lr / 3)} " if isinstance(lr, (int, float)) else ""
        findings.append(
            Finding(
                RULES["stopped"].level(lost / total),
                "stopped chains",
                f"{lost} of {total} chains became non-finite and were stopped ({steps}); what follows leaves them out.",
                f"Lower {lower}and sample again: chains that survive next to ones that explode are near the limit too.",
            )
        )
    kept = total - lost
    if kept == 0:
        return findings
    if (level := RULES["chains"].level(kept)) != LEVELS[0]:
        findings.append(
            Finding(
                level,
                "one chain",
                "There is one chain, so nothing shows whether another start would have led elsewhere.",
                "Sample at least four chains (`num_chains=4`), from different starts.",
            )
        )
    draws = chains.num_draws
    if (level := RULES["draws"].level(draws)) != LEVELS[0]:
        findings.append(
            Finding(
                level,
                "few draws",
                f"There are {draws} draws per chain; below {num(RULES['draws'].good)} neither R̂ nor ESS means much.",
                f"Keep more draws: `num_samples={max(200, 4 * draws)}`.",
            )
        )
    share, still = frozen(chains)
    if still:
        findings.append(
            Finding(
                LEVELS[2],
                "chains at rest",
                f"{_chain_list(still)} never moved: every draw is the same.",
                "Check that `lr` is not below the rounding of the parameters' type and that their gradients are not "
                "all zero.",
            )
        )
    elif share > 0:
        findings.append(
            Finding(
                RULES["frozen"].level(share),
                "numbers at rest",
                f"{share:.2g} of the sampled numbers never changed in a whole chain.",
                "Small steps may be lost to rounding: sample in float32 or float64. Otherwise leave these parameters "
                "out (`parameters=`).",
            )
        )
    return findings


def frozen(chains: Chains) -> tuple[float, list[int]]:
    """Share of numbers that are constant within a chain that was not stopped, and the chains in which all are."""
    finished = chains.valid.all(-1)
    if chains.num_draws < 2:
        return 0.0, []
    constant = torch.stack([_constant_per_chain(x[finished]) for x in chains.draws.values()]).sum(0)
    size = sum(x[0, 0].numel() for x in chains.draws.values())
    ids = chains.attrs.get("chain_ids") or list(range(chains.num_chains))
    names = [ids[int(i)] for i in finished.nonzero().flatten()]
    still = [name for name, count in zip(names, constant.tolist(), strict=True) if count == size]
    return float(constant.sum()) / (size * len(names)), still


def _constant_per_chain(x: Float[Tensor, "chain draw *shape"]) -> Int[Tensor, " chain"]:
    """Numbers whose draws are all the same; the last draw rules most of them out before all draws are read."""
    flat = x.flatten(2) if x.ndim > 2 else x[..., None]
    few = (flat[:, 0] == flat[:, -1]).any(0)
    return (flat[..., few] == flat[:, :1, few]).all(1).sum(-1)


def agreement(chains: Chains, convergence: Convergence, what: str) -> list[Finding]:
    """R̂ and effective draws of one kind of number."""
    rhat, ess = (values[~values.isnan()] for values in statistics(convergence))
    if not len(ess) or (convergence.num_chains > 1 and not len(rhat)):
        return [
            Finding(
                LEVELS[2],
                f"R̂ of {what}",
                f"R̂ and effective draws of the {what} cannot be computed: too few draws, or none that vary.",
                "Sample more draws, and see whether the chains moved.",
            )
        ]
    findings = []
    thinning, warmup = int(chains.attrs.get("thinning") or 1), int(chains.attrs.get("num_warmup") or 0)
    usual_ess, least = most(ess, largest=False), float(ess.min())
    factor = 1.1 * max(1.0, RULES["ess"].good / usual_ess, RULES["ess_worst"].good / least)
    if len(rhat):
        usual, worst = most(rhat), float(rhat.max())
        level = max(RULES["rhat"].level(usual), RULES["rhat_worst"].level(worst), key=LEVELS.index)
        wanted, numbers = RULES["rhat"].good, f"{len(rhat):,} {what}"
        if level == LEVELS[0]:
            sentence = (
                f"The chains agree: R̂ is at most {num(usual, 3, 'f')} for 95 % of {numbers} and {num(worst, 3, 'f')} "
                "at worst."
            )
            if len(rhat) < 20:
                sentence = f"The chains agree: R̂ is at most {num(worst, 3, 'f')} over {numbers}."
        else:
            verb = "do not quite agree" if level == LEVELS[1] else "disagree"
            aside = f", and to {num(usual, 3, 'f')} without the worst 5 %" if len(rhat) >= 20 else ""
            sentence = (
                f"The chains {verb}: over {numbers} R̂ goes up to {num(worst, 3, 'f')}{aside}; {wanted} is wanted."
            )
        longer = max(2 * warmup, chains.num_draws * thinning)
        remedy = (
            f"The chains have not covered the same region. Warm up longer (`num_warmup={rounded_up(longer)}`) and run "
            f"{_times(max(factor, 2.0 if level == LEVELS[1] else 4.0))} as many steps; look at the traces for drift or "
            "for separate levels."
        )
        findings.append(Finding(level, f"R̂ of {what}", sentence, "" if level == LEVELS[0] else remedy))
    level = max(RULES["ess"].level(usual_ess), RULES["ess_worst"].level(least), key=LEVELS.index)
    total = convergence.num_chains * convergence.num_draws
    sentence = f"{total:,} draws are worth at least {least:,.0f} independent ones for each of {len(ess):,} {what}"
    if len(ess) >= 20:
        sentence += f", and at least {usual_ess:,.0f} for 95 % of them"
    faster = " A larger `lr` mixes faster, as long as the temperature stays right." if has_lr(chains.attrs) else ""
    remedy = (
        f"Run about {_times(factor)} as many steps: `thinning={rounded_up(factor * thinning)}` with as many draws, or "
        f"`num_samples={rounded_up(factor * chains.num_draws)}`.{faster}"
    )
    findings.append(Finding(level, f"ESS of {what}", sentence + ".", "" if level == LEVELS[0] else remedy))
    return findings


def _law(attrs: dict) -> list[Finding]:
    """What the chains draw from, where that is not the posterior itself."""
    if other := attrs.get("law"):
        return [Finding(NOTE, "law", f"The draws are not from the posterior but from {other}.")]
    temperature, settings = attrs.get("temperature"), attrs.get("settings") or {}
    tempered = isinstance(temperature, float) and temperature > 0 and abs(math.log(temperature)) > math.log(1.1)
    jeffreys = settings.get("measure") == "jeffreys"
    if not (tempered or jeffreys):
        return []
    law = f"exp(−C/{num(temperature)})" if tempered else "exp(−C)"
    sentence = f"The draws are from {law}{' |G|^½' if jeffreys else ''}"
    reasons = ["tempered"] * tempered + ["with the Jeffreys factor of the metric"] * jeffreys
    return [Finding(NOTE, "law", f"{sentence}: the posterior, {' and '.join(reasons)}.")]


def notes(
    chains: Chains,
    comparison: Comparison | None,
    evaluation: Evaluation | None,
    mode: dict[str, float] | None,
    confidence: float | None,
) -> list[Finding]:
    """What is worth knowing and changes nothing; see `verdict.judge` for the arguments."""
    findings = []
    asked = chains.attrs.get("num_samples")
    if chains.attrs.get("interrupted"):
        of = f" of {asked}" if isinstance(asked, int) and asked > chains.num_draws else ""
        findings.append(
            Finding(
                NOTE,
                "interrupted",
                f"The run was interrupted after {chains.num_draws}{of} draws per chain.",
                "`sample(..., init=chains)` goes on from here.",
            )
        )
    findings += _law(chains.attrs)
    if (weights := chains.weights) is not None:
        w = weights[torch.isfinite(weights)]
        effective = float(w.sum() ** 2 / (w**2).sum() / w.numel())
        findings.append(
            Finding(
                NOTE,
                "weights of draws",
                f"The schedule changes lr, so draws count in proportion to lr in averages (worth {effective:.0%} as "
                "many equal draws); R̂ and ESS count them alike.",
            )
        )
    if comparison is not None:
        ratio = comparison.ratio[torch.isfinite(comparison.ratio)]
        if ratio.numel():
            middle = float(ratio.median())
            far = int(((ratio < 0.5) | (ratio > 2)).sum())
            differ = f"{far:,} of {ratio.numel():,} differ" if far else f"none of {ratio.numel():,} differs"
            sentence = (
                f"Chain spreads are {num(middle, 2)} times Laplace's in the median; {differ} by more than a factor of "
                "two."
            )
            findings.append(Finding(NOTE, "Laplace", sentence))
    if evaluation is not None and "nll" in evaluation.ensemble:
        together, alone = evaluation.ensemble["nll"], evaluation.single["nll"]
        better = "better" if together < alone else "no better"
        against = f"{num(alone)} for single draws" + (
            f" and {num(mode['nll'])} at the mode" if mode is not None else ""
        )
        findings.append(
            Finding(
                NOTE,
                "ensemble",
                f"On test data the ensemble is {better} than its single draws: mean negative log-likelihood "
                f"{num(together)} nats, against {against}.",
            )
        )
    if evaluation is not None and confidence is not None and "accuracy" in evaluation.ensemble:
        gap = confidence - evaluation.ensemble["accuracy"]
        if abs(gap) > CALIBRATED:
            sure = "too sure" if gap > 0 else "not sure enough"
            findings.append(
                Finding(
                    NOTE,
                    "calibration",
                    f"The ensemble is {sure}: its mean confidence is {confidence:.1%}, and "
                    f"{evaluation.ensemble['accuracy']:.1%} of its answers are right. That is the model's and the "
                    "prior's doing where the chains are sound.",
                )
            )
    return findings


def _times(factor: float) -> str:
    return f"{num(factor, 2)} times"


def _chain_list(ids: list[int]) -> str:
    return f"Chain {ids[0]}" if len(ids) == 1 else f"Chains {', '.join(map(str, ids))}"
