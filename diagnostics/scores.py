"""Scores as functions of means over test examples, with standard errors; nothing is kept of single examples.

A score is f(m), m = (1/n) Σᵢ tᵢ, of a few terms tᵢ of every example:

    accuracy, nll, brier, coverage      one term, f(m) = m
    rmse                                squared error, f(m) = √m
    ece                                 correct − confidence in the example's bin and 0 elsewhere, f(m) = Σ_b |m_b|

so data are read once, in pieces, and the error over independent examples is that of the delta method,
se² = ∇fᵀ Cov(t) ∇f / n. The difference of two predictors' scores is such a function of both their terms: its error is
the paired one. An example with several targets (pixels, tokens) enters by the means over them, as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from . import calibration
from .mixture import Averages

LEVEL = 0.9
LOWER_IS_BETTER = ("nll", "brier", "ece", "rmse")

Scores = dict[str, float]
Terms = dict[str, Float[Tensor, "n term"]]


def terms_of(averages: Averages, targets: Tensor) -> Terms:
    """Terms of every score of these examples, float64 on the CPU, from what `mixture.average` found for them."""
    n = len(targets)
    terms: dict[str, Tensor] = {}
    if "probability" in averages:
        p, labels = averages["probability"], targets.long()
        confidence, predicted = p.max(-1)
        correct = (predicted == labels).double()
        terms["accuracy"] = correct
        terms["nll"] = -averages["log_likelihood"]
        terms["brier"] = calibration.quadratic_loss(p, labels)
        terms["ece"] = _gaps(confidence.reshape(n, -1), correct.reshape(n, -1))
    else:
        if "mean" in averages:
            terms["rmse"] = (averages["mean"] - targets.double()).square()
        terms["nll"] = -averages["log_likelihood"]
        if "cdf" in averages:
            inside = (averages["cdf"] >= (1 - LEVEL) / 2) & (averages["cdf_below"] <= (1 + LEVEL) / 2)
            terms["coverage_90"] = inside.double()
    each = {
        name: value if name == "ece" else value.reshape(n, -1).mean(1, keepdim=True) for name, value in terms.items()
    }
    return {name: value.cpu() for name, value in each.items()}


def _gaps(confidence: Float[Tensor, "n target"], correct: Float[Tensor, "n target"]) -> Float[Tensor, "n bin"]:
    place = calibration.bins_of_width(confidence, calibration.BINS)
    empty = confidence.new_zeros(len(confidence), calibration.BINS)
    return empty.scatter_add(1, place, correct - confidence) / confidence.shape[1]


class Means:
    """Scores of one predictor, from sums over examples that come in pieces."""

    def __init__(self) -> None:
        self.count = 0
        self._total: dict[str, Tensor] = {}

    def add(self, terms: Terms) -> None:
        """Count these examples in."""
        self.count += len(terms["nll"])
        for name, rows in terms.items():
            self._total[name] = self._total.get(name, 0.0) + rows.sum(0)

    def scores(self) -> Scores:
        """`{score: value}`."""
        return {name: self._value(name, total / self.count) for name, total in self._total.items()}

    def gradients(self) -> dict[str, Float[Tensor, " term"]]:
        """∂score/∂m at the means."""
        return {name: self._gradient(name, total / self.count) for name, total in self._total.items()}

    @staticmethod
    def _value(name: str, mean: Tensor) -> float:
        if name == "ece":
            return mean.abs().sum().item()
        return math.sqrt(mean.item()) if name == "rmse" else mean.item()

    @staticmethod
    def _gradient(name: str, mean: Tensor) -> Tensor:
        if name == "ece":
            return mean.sign()
        if name == "rmse":  # without any error the squares do not vary either
            return torch.where(mean > 0, 0.5 / mean.sqrt(), 0.0)
        return torch.ones_like(mean)


def scores_of(averages: Averages, targets: Tensor) -> Scores:
    """Scores of what `mixture.average` found for these targets: see `Evaluation`."""
    means = Means()
    means.add(terms_of(averages, targets))
    return means.scores()


class Separate:
    """Scores of each of several predictions, as many as the first pieces bring."""

    def __init__(self) -> None:
        self._means: list[Means] = []

    def add(self, averages: Iterable[Averages], targets: Tensor) -> None:
        """Count these examples in, by what `mixture.average` found for each prediction."""
        terms = [terms_of(own, targets) for own in averages]
        self._means = self._means or [Means() for _ in terms]
        for means, own in zip(self._means, terms, strict=True):
            means.add(own)

    def scores(self) -> list[Scores]:
        """Of each prediction."""
        return [means.scores() for means in self._means]


class Tally:
    """Scores of predictors side by side on the same examples, and how they vary together from example to example."""

    def __init__(self, num_predictors: int):
        self.means = [Means() for _ in range(num_predictors)]
        self._centre: dict[str, Tensor] = {}
        self._sum: dict[str, Tensor] = {}
        self._square: dict[str, Tensor] = {}

    def add(self, terms: Sequence[Terms]) -> None:
        """Count examples in, by the terms of each predictor."""
        for mean, own in zip(self.means, terms, strict=True):
            mean.add(own)
        for name in terms[0]:
            rows = torch.cat([own[name] for own in terms], 1)
            # Sums are taken from near the mean, so that squares do not cancel.
            rows = rows - self._centre.setdefault(name, rows.mean(0))
            self._sum[name] = self._sum.get(name, 0.0) + rows.sum(0)
            self._square[name] = self._square.get(name, 0.0) + rows.T @ rows

    @property
    def count(self) -> int:
        """Examples so far."""
        return self.means[0].count

    def errors(self, first: int = 0, second: int | None = None) -> Scores:
        """Standard errors over examples, of a predictor's scores or of their differences from another's.

        NaN for a single example, and where a term is infinite.
        """
        slopes = [{name: torch.zeros_like(g) for name, g in mean.gradients().items()} for mean in self.means]
        slopes[first] = self.means[first].gradients()
        if second is not None:
            slopes[second] = {
                name: own - g
                for (name, g), own in zip(self.means[second].gradients().items(), slopes[second].values(), strict=True)
            }
        return {name: self._error(name, torch.cat([own[name] for own in slopes])) for name in slopes[0]}

    def _error(self, name: str, slope: Float[Tensor, " term"]) -> float:
        if self.count < 2:
            return math.nan
        used = slope.nonzero().squeeze(-1)  # terms without a slope may be infinite
        slope, total = slope[used], self._sum[name][used]
        covariance = self._square[name][used][:, used] - torch.outer(total, total) / self.count
        variance = slope @ covariance @ slope / (self.count - 1) / self.count
        return variance.clamp(min=0).sqrt().item()


def jackknife(whole: Scores, without: Sequence[Scores]) -> Scores:
    """Standard errors of scores from those without one of G groups each, √((G − 1)/G Σ (s_g − s̄)²).

    NaN where there are no two groups. Efron & Stein, "The jackknife estimate of variance", Annals of Statistics 9,
    1981.
    """
    if len(without) < 2:
        return dict.fromkeys(whole, math.nan)
    columns = {name: torch.tensor([scores[name] for scores in without], dtype=torch.float64) for name in whole}
    return {name: ((len(own) - 1) * own.var(correction=0)).sqrt().item() for name, own in columns.items()}
