"""The thresholds, in one table, and what a check says.

Largest R̂ and smallest ESS over thousands of numbers are extreme values: they cross the usual thresholds by chance
alone. So 95 % of the numbers must meet the usual threshold and the worst one a wider one; with fewer than twenty
numbers all must meet the usual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .convergence import Convergence

LEVELS = ("trust", "look", "do not trust")

NOTE = "note"


@dataclass(frozen=True)
class Rule:
    """A quantity with the value up to which it is good, and the value beyond which it is bad.

    Attributes
    ----------
    what
        The quantity, in words.
    good, bad
        The limits; between them is "look". Which side is good follows from their order.
    why
        Reason or source.
    """

    what: str
    good: float
    bad: float
    why: str

    def level(self, value: float) -> str:
        """Level of a value; one that could not be computed is bad."""
        sign = 1 if self.good <= self.bad else -1
        if sign * value <= sign * self.good:
            return LEVELS[0]
        return LEVELS[1] if sign * value <= sign * self.bad else LEVELS[2]


ALLOWED = 0.05
"""Share of the numbers that may miss the usual threshold for R̂ and ESS."""

CALIBRATED = 0.05
"""Difference between mean confidence and accuracy beyond which there is a note."""

RULES = {
    "rhat": Rule("R̂ that 95 % of the numbers keep within", 1.01, 1.05, "Vehtari et al. 2021: R̂ ≤ 1.01"),
    "rhat_worst": Rule("largest R̂", 1.05, 1.1, "an extreme among many; 1.1 was the older rule for one number"),
    "ess": Rule(
        "effective draws that 95 % of the numbers reach", 400, 100, "Vehtari et al. 2021: 100 per chain, 4 chains"
    ),
    "ess_worst": Rule("smallest number of effective draws", 100, 50, "below 50, R̂ and ESS themselves are unreliable"),
    "draws": Rule("draws per chain", 50, 20, "each half of a chain must show its own mean and spread"),
    "chains": Rule("chains", 2, 1, "one chain cannot show that another start leads elsewhere"),
    "stopped": Rule("share of chains stopped by a non-finite value", 0.0, 0.49, "what is left is a selection"),
    "frozen": Rule("share of numbers that never moved", 0.0, 0.01, "a chain that stands still has no spread"),
    "temperature": Rule(
        "distance of the temperature's 95 % interval from T, over T", 0.1, 0.3, "10 % in T: 5 % in spreads"
    ),
    "precision": Rule("standard error of the temperature, over T", 0.1, math.inf, "too few effective draws to tell"),
    "block": Rule(
        "the same distance for one layer or tensor, at 4 standard errors", 0.3, math.inf, "heat can differ by layer"
    ),
    "force": Rule(
        "shift of a mean that the mean gradient shows, in standard deviations, beyond its error",
        0.1,
        0.5,
        "gradients average to zero under the law they are of",
    ),
    "stretch": Rule(
        "factor that step length puts on the variance along the largest curvature",
        1.5,
        4.0,
        "1/(1 − ε/limit): 1.5 is 22 % in spread, in one direction",
    ),
    "stability": Rule("lr over the lr at which steps explode", 0.8, 1.0, "curvature fluctuates along a chain"),
}


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes
    ----------
    level
        "trust", "look", "do not trust" or "note".
    topic
        Two or three words.
    sentence
        What was found, with the numbers.
    remedy
        What to do about it; empty where nothing is to be done.
    """

    level: str
    topic: str
    sentence: str
    remedy: str = ""


def most(values: Tensor, largest: bool = True) -> float:
    """Value that at most a share `ALLOWED` of the numbers lie beyond; with fewer than twenty, the extreme."""
    beyond = int(ALLOWED * values.numel())
    return float(values.sort(descending=largest).values[beyond])


def statistics(convergence: Convergence) -> tuple[Tensor, Tensor]:
    """R̂ and the smaller of bulk and tail ESS of every number, flat."""
    rhat = torch.cat([x.reshape(-1) for x in convergence.rhat.values()])
    bulk = torch.cat([x.reshape(-1) for x in convergence.ess_bulk.values()])
    tail = torch.cat([x.reshape(-1) for x in convergence.ess_tail.values()])
    return rhat, torch.minimum(bulk, tail)


def num(value: Any, digits: int = 3, style: str = "g") -> str:
    """Render a number with a few significant digits (style "f": decimals), anything else as it is."""
    if not isinstance(value, (int, float)):
        return str(value)
    if math.isnan(value):
        return "–"
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else f"{value:,.{digits}{style}}".replace("-", "−")


def within(value: float, error: float) -> str:
    """Render `value ± error` with two digits of the error and as many decimals of the value."""
    if not math.isfinite(value + error) or error <= 0:
        return f"{num(value)} ± {num(error, 2)}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")


def has_lr(attrs: dict) -> bool:
    """Whether the sampler's step is set by `lr`, as far as the chains say."""
    return "lr" in (attrs.get("settings") or {"lr": None})


def rounded_up(value: float) -> int:
    """Round up to two significant digits."""
    scale = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return math.ceil(value / scale) * scale
