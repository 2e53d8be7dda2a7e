"""The checks of the law that chains draw from: its temperature, its mean force, and what the step does to it."""

from __future__ import annotations

import math

from ..samplers.chains import Chains
from .rules import LEVELS, NOTE, RULES, Finding, has_lr, num, rounded_up, within
from .step_size import StepSize
from .thermometer import Temperature


def heat(chains: Chains, temperature: Temperature) -> list[Finding]:
    """Measured against nominal temperature."""
    nominal, value, error = temperature.nominal, temperature.value, temperature.error
    attrs = chains.attrs
    if nominal is None:
        return [Finding(NOTE, "temperature", f"Measured {num(value)}; the chains do not say what was asked for.")]
    if not nominal > 0:
        return [
            Finding(
                LEVELS[2],
                "temperature",
                f"The nominal temperature is {num(nominal)}: these are steps of an optimiser, not draws of a "
                "posterior.",
                "Sample with `temperature=1.0`."
                if "temperature" in (attrs.get("settings") or {})
                else "Take another sampler; this one has no temperature.",
            )
        ]
    if not math.isfinite(value + error):
        few = "The temperature cannot be told from so few or such short chains."
        return [Finding(LEVELS[1], "temperature", few, "Sample more draws.")]
    level = RULES["temperature"].level(temperature.distance)
    measured = f"measured {within(value, 1.96 * error)} (95 %), nominal {num(nominal)}"
    share = float(temperature.batch_share or 0.0)
    if level == LEVELS[0]:
        ok = (
            f"The temperature is as asked for, within {100 * RULES['temperature'].good:.0f} % plus Monte-Carlo error: "
            f"{measured}."
        )
        findings = [Finding(level, "temperature", ok)]
    elif value > nominal:
        cause = f"minibatch noise alone adds about {num(share, 2)}" if share else "steps are long"
        findings = [
            Finding(
                level,
                "temperature",
                f"The chains are too hot, so spreads are too wide: {measured}; {cause}.",
                _cooler(attrs, value, nominal),
            )
        ]
    else:
        findings = [
            Finding(
                level,
                "temperature",
                f"The chains are too cold, so spreads are too narrow: {measured}; they have not spread out yet, or the "
                "sampler cools them.",
                f"Warm up and run longer (`num_warmup={rounded_up(2 * int(attrs.get('num_warmup') or 0) + 1000)}`): "
                "the reading rises as chains spread out. If it stays, damping or a preconditioner takes heat out.",
            )
        ]
    if (level := RULES["precision"].level(error / max(nominal, value))) != LEVELS[0]:
        sentence = f"The temperature is known only to ± {num(1.96 * error, 2)}, which tells little."
        findings.append(Finding(level, "temperature's error", sentence, "Run more steps."))
    off = {}
    for name, (reading, spread) in temperature.blocks.items():
        distance = max(0.0, abs(reading - nominal) - 4 * spread) / nominal
        if RULES["block"].level(distance) != LEVELS[0]:
            off[name] = (distance, reading, spread)
    if off:
        name, (_, reading, spread) = max(off.items(), key=lambda item: item[1][0])
        findings.append(
            Finding(
                LEVELS[1],
                "temperature by layer",
                f"{len(off)} of {len(temperature.blocks)} layers or tensors are off by more than "
                f"{100 * RULES['block'].good:.0f} %, most of all {name} with {within(reading, 1.96 * spread)}.",
                findings[0].remedy  # one cause, one remedy
                or (
                    _cooler(attrs, reading, nominal)
                    if reading > nominal
                    else "Run longer: these have not spread out yet."
                ),
            )
        )
    return findings


def force(reading: Temperature) -> list[Finding]:
    """Whether the mean gradient vanishes, as far as is known."""
    worst = reading.force.worst(1) if reading.force is not None else []
    if reading.force is None or not worst:
        return []
    distance = reading.force.distance
    level = RULES["force"].level(distance)
    if level == LEVELS[0]:
        sentence = "The gradient of the cost averages to zero, as far as these draws tell, as it must in equilibrium."
        return [Finding(level, "mean force", sentence)]
    name, shift, limit = (worst[0][key] for key in ("name", "shift", "limit"))
    return [
        Finding(
            level,
            "mean force",
            f"The gradient of the cost does not average to zero: at {name} it is as if the mean were off by "
            f"{num(shift, 2)} standard deviations, where chance makes up to {num(limit, 2)}.",
            "Either the chains still drift (warm up longer), or they were drawn from another cost than this "
            "posterior's: compare prior, likelihood and number of examples.",
        )
    ]


def step_length(judged: StepSize) -> list[Finding]:
    """Step length beside the largest curvature, and to a Metropolis test."""
    level = max(RULES["stability"].level(judged.stability), RULES["stretch"].level(judged.stretch), key=LEVELS.index)
    share = f"`lr` = {num(judged.lr)} is {100 * judged.stability:.0f} % of what makes steps explode"
    widened = ""
    if judged.stability >= 1:
        widened = ": along the largest curvature seen there is no law left to draw from"
    elif judged.stretch > 1:
        widened = f", which alone widens variances up to {num(judged.stretch)}-fold along the largest curvature"
    remedy = ""
    if level != LEVELS[0]:
        wanted = judged.lr * _allowed(judged) / judged.stability
        remedy = (
            f"Lower `lr` from {num(judged.lr)} to about {num(wanted, 2)}, with as many times more steps; averages over "
            "many directions hide what it does to the stiffest."
        )
    findings = [Finding(level, "step length", f"{share}{widened}.", remedy)]
    if math.isfinite(judged.acceptance):
        sentence = f"A Metropolis test would accept {100 * judged.acceptance:.0f} % of these steps with full gradients."
        findings.append(Finding(NOTE, "acceptance", sentence))
    return findings


def _allowed(judged: StepSize) -> float:
    """Share of the limit of stability at which both rules are met, with some room."""
    by_stretch = 1 - 1 / RULES["stretch"].good if judged.stretch > 1 else 1.0
    return 0.8 * min(RULES["stability"].good, by_stretch)


def _cooler(attrs: dict, value: float, nominal: float) -> str:
    """Learning rate or batch size that bring the excess, proportional to lr (1/B − 1/N), to half the tolerance."""
    factor = 0.5 * RULES["temperature"].good * nominal / (value - nominal)
    lr, B, N = (attrs.get("settings") or {}).get("lr"), attrs.get("batch_size"), attrs.get("num_data")
    lower = (
        f"lower `lr` from {num(lr)} to about {num(lr * factor, 2)}" if isinstance(lr, (int, float)) else "lower `lr`"
    )
    if not has_lr(attrs):
        return "Shorten the sampler's steps."
    if not B or not N or B >= N:
        return f"To bring it within tolerance, {lower} and run as many times more steps."
    larger = min(N, math.ceil(1 / (1 / N + factor * (1 / B - 1 / N))))
    full = " (all the data)" if larger >= N else ""
    return (
        f"To bring it within tolerance, {lower}, with as many times more steps, or raise `batch_size` from {B} to "
        f"{larger}{full}."
    )
