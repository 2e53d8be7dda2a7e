"""Whether chains can be trusted: the worst of all checks, and why, in three sentences.

A finding is "trust", "look" or "do not trust"; the verdict is the worst of them. Notes inform and do not count.
Agreement is judged on predictions where the model can compute the same function with different weights (hidden units
can be permuted, signs flipped): there R̂ of single weights is large in perfectly good chains.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..samplers.chains import Chains
from .checks import agreement, notes, run
from .checks_law import force, heat, step_length
from .comparison import Comparison
from .convergence import Convergence
from .ensemble import Evaluation
from .rules import LEVELS, NOTE, Finding, num, statistics
from .step_size import StepSize
from .thermometer import Temperature


@dataclass(frozen=True)
class Verdict:
    """What the findings amount to.

    Attributes
    ----------
    level
        "trust", "look" or "do not trust".
    basis
        "predictions", "parameters", or both, and why.
    sentences
        Three: the decision, the evidence that weighs most, what to do.
    findings
        Every check, worst first.
    """

    level: str
    basis: str
    sentences: list[str]
    findings: list[Finding] = field(default_factory=list)


def judge(
    chains: Chains,
    convergence: Convergence | None,
    temperature: Temperature | None,
    *,
    step: StepSize | None = None,
    comparison: Comparison | None = None,
    evaluation: Evaluation | None = None,
    mode: dict[str, float] | None = None,
    confidence: float | None = None,
    symmetric: bool = False,
) -> Verdict:
    """Apply the rules.

    Parameters
    ----------
    chains
        As they were drawn, stopped chains included.
    convergence, temperature, step
        None where they could not be computed, for instance because every chain was stopped.
    comparison, evaluation, mode, confidence
        Only for notes: neither a poor Laplace approximation nor a poor model makes draws wrong. `mode` are its scores,
        `confidence` is the ensemble's mean probability of its answers.
    symmetric
        Whether different weights can compute the same function, so that single weights need not agree between chains.
    """
    by_predictions = convergence is not None and convergence.predictions is not None
    findings = run(chains)
    if convergence is not None:
        if by_predictions:
            findings += agreement(chains, convergence.predictions, "predictions")  # pyright: ignore[reportArgumentType]
        counts = not (by_predictions and symmetric)
        weights = agreement(chains, convergence, "parameters") if counts else [_weights(convergence)]
        findings += weights
        if symmetric and not by_predictions and any(f.level != LEVELS[0] for f in weights):
            findings.append(
                Finding(
                    NOTE,
                    "basis",
                    "Only single weights could be judged; in a network with hidden layers they can disagree although "
                    "the chains compute the same function.",
                    "Give test inputs (`test=(x, y)`) to judge predictions instead.",
                )
            )
    if temperature is not None:
        findings += heat(chains, temperature) + force(temperature)
    if step is not None:
        findings += step_length(step)
    findings += notes(chains, comparison, evaluation, mode, confidence)
    findings.sort(key=lambda f: -LEVELS.index(f.level) if f.level in LEVELS else 1)
    level = next((f.level for f in findings if f.level in LEVELS), LEVELS[0])
    subject, basis = _basis(by_predictions, symmetric)
    return Verdict(level, basis, _sentences(level, subject, findings), findings)


def _basis(by_predictions: bool, symmetric: bool) -> tuple[str, str]:
    if by_predictions and symmetric:
        return "predictions", (
            "The verdict rests on predictions. This model can compute the same function with different weights (hidden "
            "units can be permuted), so chains may disagree in single weights and still agree in everything the model "
            "says."
        )
    if by_predictions:
        return "parameters and predictions", (
            "The verdict rests on both parameters and predictions: this model has one set of weights for each function."
        )
    return "parameters", "The verdict rests on the parameters; no predictions were judged."


def _weights(convergence: Convergence) -> Finding:
    """Tell how far single weights agree where that does not count."""
    rhat, ess = (values[~values.isnan()] for values in statistics(convergence))
    least = num(float(ess.min()), 0, "f") if len(ess) else "an unknown number of"
    up_to = f"R̂ goes up to {num(float(rhat.max()), 3, 'f')}, and the worst has" if len(rhat) else "the worst has"
    sentence = f"Over {rhat.numel():,} parameters {up_to} {least} effective draws; this does not count, see above."
    return Finding(NOTE, "single weights", sentence)


def _sentences(level: str, subject: str, findings: list[Finding]) -> list[str]:
    counted = [f for f in findings if f.level in LEVELS]
    bad = [f for f in counted if f.level != LEVELS[0]]
    good = [f for f in counted if f.level == LEVELS[0]]
    topic = {f.topic: f.sentence for f in good}
    if not bad:
        return [
            topic.get(f"R̂ of {'parameters' if subject == 'parameters' else 'predictions'}", "The checks are met."),
            topic.get("temperature", "The temperature was not measured."),
            "Use averages over these draws"
            + (
                ", and ensemble predictions; do not read meaning into single weights."
                if subject == "predictions"
                else "."
            ),
        ]
    count = (
        f"{len(bad)} of {len(counted)} checks ask for a look"
        if level == LEVELS[1]
        else "These draws are not yet a sample"
    )
    other = [f for f in bad[1:] if f.topic[:2] not in ("R̂", "ES")] if bad[0].topic.startswith("R̂") else bad[1:]
    second = f"In order: {', '.join(f.topic for f in good)}." if good else "No check was met."
    second = next((f.sentence for f in [*other, *bad[1:]]), second)
    return [f"{count}. {bad[0].sentence}", second, bad[0].remedy]
