"""The report's evidence on the steps: their length, minibatch noise, momenta, and whether forces balance."""

from __future__ import annotations

import math

from .measurements import Measured
from .page import Section, Table
from .rules import num, within
from .step_size import JUDGED, StepSize


def steps(measured: Measured) -> Section:
    """What the step and the minibatch do to the law, one line each."""
    section = Section("steps", "Step size and bias")
    judged, reading = measured.step, measured.temperature
    rows: list[list[str]] = []
    if judged is not None:
        section.text.append(
            "Steps of a finite length widen the law, most along the largest curvature, and explode where lr times that "
            "curvature reaches a limit. Minibatch noise adds heat. Both are proportional to lr: `halve_step(chains, "
            "posterior, sampler)` repeats the run at half of it and shows what changes."
        )
        rows += _lengths(judged)
    if measured.kinetic is not None:
        low, high = measured.kinetic.interval
        span = f", 95 % interval {num(low, 4)} to {num(high, 4)}" if math.isfinite(low + high) else ""
        rows.append(["temperature of the momenta", f"{num(measured.kinetic.value, 4)}{span}"])
    force = None if reading is None else reading.force
    if force is not None and (worst := force.worst(1)):
        name, shift, error, limit = (worst[0][key] for key in ("name", "shift", "error", "limit"))
        told = f"{within(float(shift), float(error))} sd at {name}; chance makes up to {num(limit, 2)}"
        rows.append(["mean gradient, as a shift of the mean", told])
    if rows:
        table = Table("Steps of this run", ["", "value"], rows, "", text=True)
        section.tables.append(table)
    if force is not None:
        section.text.append(
            "In equilibrium the gradient of the cost averages to zero for every parameter, whatever lr is. Chains that "
            "drift, or that were drawn from another cost than this posterior's, give themselves away here."
        )
    if judged is None:
        section.missing.append(_why(measured))
    return section


def _lengths(judged: StepSize) -> list[list[str]]:
    found = judged.curvature
    where = f"at {found.num_positions} draw{'s' if found.num_positions > 1 else ''}"
    accepted = (
        f"{100 * judged.acceptance:.1f} ± {100 * judged.acceptance_error:.1f} % of {judged.num_tested}"
        if math.isfinite(judged.acceptance)
        else "not measured: gradients of all examples would take minutes"
    )
    rows = [
        ["lr", num(judged.lr)],
        ["limit of stability", f"{num(judged.limit)}, of which lr is {100 * judged.stability:.1f} %"],
        [
            "largest curvature of the mean cost",
            f"{num(found.largest)} in the mean and {num(found.extreme)} at most, {where}, on {found.num_examples:,} "
            f"examples; of an average direction {num(found.average)}",
        ],
        ["variance along it, from step length alone", f"×{num(judged.stretch)}"],
        ["temperature, from step length alone", f"×{num(judged.average_stretch, 4)} on average"],
        ["a Metropolis test would accept", f"{accepted} steps"],
    ]
    if judged.batch_share:
        rows.append(
            ["temperature that minibatch noise adds", f"{100 * judged.batch_share:.1f} % of what was asked for"]
        )
    return rows


def _why(measured: Measured) -> str:
    sampler = measured.chains.attrs.get("sampler")
    if measured.finished is None:
        return "Not shown: it needs a chain that was not stopped."
    if "step" in measured.problems:
        return measured.problems["step"]
    if sampler not in JUDGED:
        others = sampler or "chains that do not say how they were drawn"
        return f"Not shown: the length of steps, which is judged for {', '.join(JUDGED)}, not for {others}."
    return "Not shown: the length of steps. Give `posterior=` to add it."
