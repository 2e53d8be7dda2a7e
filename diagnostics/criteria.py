"""Chains held against limits, one line for each: what `langevin check` prints."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..samplers.chains import Chains
from .measurements import measure
from .rules import RULES, num, within
from .summary import numbers
from .thermometer import Temperature


@dataclass(frozen=True)
class Criterion:
    """A value, held against a limit.

    Attributes
    ----------
    what
        The quantity, in words.
    value, limit
        NaN for a value that could not be computed.
    shown, bound
        Value and limit in words.
    least
        Whether the limit is the least allowed, rather than the most.
    """

    what: str
    value: float
    limit: float
    shown: str
    bound: str
    least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value keeps within the limit; one that could not be computed does not."""
        return self.value >= self.limit if self.least else self.value <= self.limit

    def as_data(self) -> dict[str, object]:
        """Say it in values for JSON."""
        bound = "at least" if self.least else "at most"
        return {
            "what": self.what,
            "value": self.value,
            "bound": bound,
            "limit": self.limit,
            "passed": self.passed,
            "shown": self.shown,
        }


def criteria(chains: Chains, max_rhat: float = 1.01, min_ess: float = 400, heat: float = 0.1) -> list[Criterion]:
    """Hold chains against limits.

    Parameters
    ----------
    chains
        A run.
    max_rhat, min_ess
        For 95 % of the numbers, all of them where they are fewer than twenty. The worst number is held to the wider
        limit 1 + 5 (max_rhat − 1) and min_ess / 4, in the proportions of the verdict's own rules. Infinity and 0 leave
        the criterion out.
    heat
        How far the temperature's 95 % interval may lie from what was asked for, and how large its standard error may
        be, as a share of what was asked for. Infinity leaves it out.
    """
    measured = measure(chains, None, None, None)
    values = {key: math.nan if value is None else value for key, value in numbers(measured).items()}
    found = [_count("stopped chains", values["chains_stopped"])]
    if max_rhat < math.inf or min_ess > 0:
        found.append(_count("undefined R̂ or ESS", values["undefined"]))
    many = values["parameters"] >= 20
    if max_rhat < math.inf:
        wider = (RULES["rhat_worst"].good - 1) / (RULES["rhat"].good - 1)
        rows = [("R̂ of 95 %" if many else "largest R̂", values["rhat_95_percent"], max_rhat)]
        rows += [("largest R̂", values["rhat_largest"], 1 + wider * (max_rhat - 1))] if many else []
        found += [Criterion(what, v, limit, num(v, 4, "f"), f"≤ {num(limit, 4)}") for what, v, limit in rows]
    if min_ess > 0:
        wider = RULES["ess_worst"].good / RULES["ess"].good
        rows = [("ESS of 95 %" if many else "smallest ESS", values["ess_95_percent"], min_ess)]
        rows += [("smallest ESS", values["ess_smallest"], wider * min_ess)] if many else []
        found += [Criterion(what, v, limit, num(v, 0, "f"), f"≥ {num(limit, 0, 'f')}", True) for what, v, limit in rows]
    if heat < math.inf:
        found += _heat(measured.temperature, heat)
    return found


def _count(what: str, value: float) -> Criterion:
    return Criterion(what, value, 0.0, num(value, 0, "f"), "none")


def _heat(reading: Temperature | None, limit: float) -> list[Criterion]:
    """Distance of the interval from what was asked for, and its precision, both over what was asked for."""
    bound = f"within {num(100 * limit)} %"
    if reading is None or not (reading.nominal or 0) > 0:
        return [Criterion("temperature", math.nan, limit, "not measured", bound)]
    nominal = float(reading.nominal or 0)
    distance = reading.distance if math.isfinite(sum(reading.interval)) else math.nan
    share = reading.error / max(nominal, reading.value)
    shown = f"{within(reading.value, 1.96 * reading.error)} (95 %), asked for {num(nominal)}"
    return [
        Criterion("temperature", distance, limit, shown, bound),
        Criterion("its standard error", share, limit, f"{num(100 * share, 2)} %", f"≤ {num(100 * limit)} %"),
    ]
