"""Do two runs of one target agree: means in standard errors of their difference, spreads as ratios with an error.

For every number, with means m, Monte-Carlo standard errors e and standard deviations s of runs A and B,

    z = (m_A − m_B) / √(e_A² + e_B²),    z' = log(s_A/s_B) / √(f_A² + f_B²),

where f is the Monte-Carlo standard error of log s, from the squared deviations as a chain of their own: it holds for
skewed and heavy-tailed numbers too. Among thousands of numbers some |z| are large by chance, so the limit is that of
Bonferroni over all z and z' together. Errors are those of `convergence`, which grow where the chains of a run disagree:
two such runs would agree with anything, and are not said to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from ..samplers.chains import Chains
from ..samplers.target import Layout
from .convergence import Convergence, convergence
from .criteria import Criterion
from .rules import LEVELS, RULES, num, statistics

CHANCE = 0.01
"""Probability that two runs of one law are said to differ, at most."""

PerNumber = Float[Tensor, " number"]


@dataclass(frozen=True, eq=False)
class TwoRuns:
    """Two runs side by side.

    Attributes
    ----------
    labels
        Layout that names the numbers.
    difference, ratio, ratio_error
        m_A − m_B, s_A/s_B, and the Monte-Carlo standard error of log(s_A/s_B).
    z_mean, z_sd
        Difference of means and log ratio of spreads in standard errors. Infinite where a number stands still in both
        runs but at different values, or in one of them only; NaN where an error is not defined.
    seen
        Difference of means that would have been found, in standard deviations.
    limit
        Value of |z| up to which both are put down to chance.
    judged
        Both runs by themselves.
    unfit
        Why a run is not fit to be compared; empty if both are.
    """

    labels: Layout
    difference: PerNumber
    ratio: PerNumber
    ratio_error: PerNumber
    z_mean: PerNumber
    z_sd: PerNumber
    seen: PerNumber
    limit: float
    judged: tuple[Convergence, Convergence]
    unfit: list[str]

    @property
    def beyond(self) -> Tensor:
        """Which numbers differ by more than chance, in mean or in spread."""
        return torch.maximum(self.z_mean.abs().nan_to_num(nan=0.0), self.z_sd.abs().nan_to_num(nan=0.0)) > self.limit

    @property
    def agree(self) -> bool:
        """Whether the runs are fit to be compared and no number differs by more than chance."""
        return not self.unfit and not bool(self.beyond.any())

    @property
    def sentence(self) -> str:
        """The verdict."""
        count, total = int(self.beyond.sum()), self.z_mean.numel()
        if self.unfit:
            return f"It cannot be told whether the runs agree: {'; '.join(self.unfit)}."
        if count:
            return (
                f"The runs differ: {count:,} of {total:,} numbers by more than {self.limit:.1f} standard errors, the "
                f"most that chance allows among so many."
            )
        seen = self.seen[self.seen.isfinite()]
        power = f"; a mean off by {num(float(seen.max()), 2)} standard deviations would have shown" if len(seen) else ""
        return (
            f"The runs agree: none of {total:,} numbers differs by more than {self.limit:.1f} standard errors{power}."
        )

    def worst(self, count: int = 5) -> list[dict[str, Any]]:
        """Describe the numbers that differ most, in mean or in spread."""
        size = torch.maximum(self.z_mean.abs().nan_to_num(nan=-1.0), self.z_sd.abs().nan_to_num(nan=-1.0))
        places = size.argsort(descending=True, stable=True)[:count]
        columns = {
            "mean_difference": self.difference,
            "mean_difference_in_errors": self.z_mean,
            "sd_ratio": self.ratio,
            "sd_ratio_error": self.ratio * self.ratio_error,
            "sd_ratio_in_errors": self.z_sd,
        }
        values = {name: column[places].tolist() for name, column in columns.items()}
        labels = [self.labels.label(place) for place in places.tolist()]
        return [{"name": label} | {n: v[row] for n, v in values.items()} for row, label in enumerate(labels)]

    @property
    def criteria(self) -> list[Criterion]:
        """What `agree` rests on."""
        unfit = len(self.unfit)
        found = [Criterion("reasons that they cannot be compared", unfit, 0.0, f"{unfit}", "none")]
        for what, z in (("difference of means", self.z_mean), ("log ratio of sds", self.z_sd)):
            largest = float(z.abs().nan_to_num(nan=0.0, posinf=math.inf).max())
            what = f"largest |{what}| in standard errors"
            found.append(Criterion(what, largest, self.limit, num(largest, 2), f"≤ {num(self.limit)}"))
        return found

    def as_data(self) -> dict[str, Any]:
        """Say it in values for JSON, but for those that are not finite."""
        return {
            "agree": self.agree,
            "sentence": self.sentence,
            "criteria": [line.as_data() for line in self.criteria],
            "unfit": self.unfit,
            "numbers": self.z_mean.numel(),
            "numbers_that_differ": int(self.beyond.sum()),
            "worst": self.worst(),
        }


def compare_runs(first: Chains, second: Chains) -> TwoRuns:
    """Compare two runs of the same target; stopped chains are left out.

    Raises
    ------
    ValueError
        If their parameters differ in name or shape, or every chain of a run was stopped.
    """
    shapes = [{name: value.shape[2:] for name, value in chains.draws.items()} for chains in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the runs hold different parameters: {_mismatch(*shapes)}")
    labels = Layout(tuple(shapes[0]), tuple(shapes[0].values()))
    judged = convergence(first), convergence(second)
    (m_a, e_a, s_a, f_a), (m_b, e_b, s_b, f_b) = (
        _moments(chains, by) for chains, by in zip((first, second), judged, strict=True)
    )
    still_a, still_b = s_a == 0, s_b == 0
    error = (e_a**2 + e_b**2).sqrt()
    z_mean, ratio = (m_a - m_b) / error, s_a / s_b
    ratio_error = (f_a**2 + f_b**2).sqrt()
    z_sd = ratio.log() / ratio_error
    # A number that stands still has no error: nothing to compare where both do at one value, all to where they do not.
    same = still_a & still_b & (m_a == m_b)
    apart = (still_a & still_b & (m_a != m_b)) | (still_a ^ still_b)
    z_mean = z_mean.masked_fill(same, 0.0).masked_fill(apart, math.inf)
    z_sd = z_sd.masked_fill(same | (still_a & still_b), 0.0).masked_fill(still_a ^ still_b, math.inf)
    limit = float(norm.isf(CHANCE / (4 * max(1, len(z_mean)))))  # two-sided, of means and spreads
    undefined = int((z_mean.isnan() | z_sd.isnan()).sum())
    unfit = [reason for name, by in zip("AB", judged, strict=True) if (reason := _unfit(name, by))]
    if undefined and not unfit:
        unfit.append(f"errors of {undefined:,} numbers are undefined")
    seen = limit * error / ((s_a**2 + s_b**2) / 2).sqrt()
    return TwoRuns(labels, m_a - m_b, ratio, ratio_error, z_mean, z_sd, seen, limit, judged, unfit)


def _moments(chains: Chains, judged: Convergence) -> tuple[PerNumber, PerNumber, PerNumber, PerNumber]:
    """Mean, its error, standard deviation, and the error of its logarithm, of every number."""
    squares = {name: (x.double() - judged.mean[name]).square() for name, x in chains.draws.items()}
    by = convergence(replace(chains, draws=squares))
    mean, error, sd, of_square = (
        torch.cat([value.reshape(-1) for value in values.values()])
        for values in (judged.mean, judged.mcse, judged.sd, by.mcse)
    )
    return mean, error, sd, of_square / (2 * sd**2)


def _unfit(name: str, judged: Convergence) -> str:
    """Why the errors of a run cannot be believed: its own chains disagree, or are worth too few draws."""
    rhat, ess = (values[~values.isnan()] for values in statistics(judged))
    if len(rhat) and RULES["rhat_worst"].level(float(rhat.max())) == LEVELS[2]:
        return f"the chains of run {name} disagree among themselves (R̂ up to {num(float(rhat.max()), 3, 'f')})"
    if len(ess) and RULES["ess_worst"].level(float(ess.min())) == LEVELS[2]:
        return f"run {name} is worth too few independent draws ({num(float(ess.min()), 0, 'f')})"
    return ""


def _mismatch(first: dict[str, torch.Size], second: dict[str, torch.Size]) -> str:
    for name in [*first, *second]:
        if name not in second:
            return f"{name!r} is in A only"
        if name not in first:
            return f"{name!r} is in B only"
        if first[name] != second[name]:
            return f"{name!r} has shape {tuple(first[name])} in A and {tuple(second[name])} in B"
    return "their order"
