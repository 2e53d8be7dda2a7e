"""Which predictor is better on the same test data: paired differences of scores, with errors.

Two predictors find the same examples easy and the same ones hard, so the difference of their scores is known far better
than either: its standard error is that of the differences by example, sd(sᵢ − s'ᵢ)/√n for a score that is a mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..samplers.posterior import Posterior
from .averaging import Averaging, Predictor, prepare
from .held_out import batches, data_of, pieces
from .scores import LOWER_IS_BETTER, Scores, Separate, Tally, jackknife, terms_of


@dataclass(frozen=True, eq=False)
class PredictionComparison:
    """Scores of several predictors on the same test data; made by `compare_predictions`.

    Attributes
    ----------
    scores
        `{predictor: {score: value}}`, as in `Evaluation`.
    errors
        Their standard errors over test examples.
    monte_carlo_errors
        Their standard errors over draws, as in `Evaluation`; NaN for single points and for linearised models.
    num_draws
        `{predictor: draws}`, which is how often the network is evaluated for each input; 0 for a linearised model,
        which needs its Jacobian instead.
    baseline
        The predictor that `str` compares the others with.
    num_examples
        Test examples.
    """

    scores: dict[str, Scores]
    errors: dict[str, Scores]
    monte_carlo_errors: dict[str, Scores]
    num_draws: dict[str, int]
    baseline: str
    num_examples: int
    _tally: Tally = field(repr=False)

    def difference(self, first: str, second: str | None = None) -> dict[str, tuple[float, float]]:
        """Differences of scores, first minus second, with their paired standard errors over test examples.

        Given these draws: that other draws would give other scores is in `monte_carlo_errors`.

        Parameters
        ----------
        first, second
            Names; the second is the baseline by default.

        Returns
        -------
        dict
            `{score: (difference, standard error)}`. For ``nll``, ``brier``, ``ece`` and ``rmse`` negative says that the
            first is better, for ``accuracy`` positive.

        Raises
        ------
        ValueError
            If there is no predictor of that name.
        """
        second = self.baseline if second is None else second
        for name in (first, second):
            if name not in self.scores:
                raise ValueError(f"there is no predictor {name!r}, only {list(self.scores)}")
        if first == second:
            return dict.fromkeys(self.scores[first], (0.0, 0.0))
        places = list(self.scores)
        errors = self._tally.errors(places.index(first), places.index(second))
        return {
            score: (value - self.scores[second][score], errors[score]) for score, value in self.scores[first].items()
        }

    def __str__(self) -> str:
        width = max(len(name) for name in [*self.scores, *map(_titled, self.scores[self.baseline])])
        heads = "draws", "score", "± examples", "± draws", f"− {self.baseline}", "± paired"
        lines = [f"{self.num_examples:,} test examples; standard errors over them, and over draws"]
        for score in self.scores[self.baseline]:
            lines.append("  ".join([f"{_titled(score):{width}}", *(f"{head:>10}" for head in heads)]))
            for name, own in self.scores.items():
                delta = self.difference(name)[score] if name != self.baseline else (math.nan, math.nan)
                draws = f"{self.num_draws[name]:,}" if self.num_draws[name] else "–"
                values = own[score], self.errors[name][score], self.monte_carlo_errors[name][score], *delta
                cells = [f"{draws:>10}"] + [
                    _cell(value, sign=place == 3, size=max(10, len(head)))
                    for place, (value, head) in enumerate(zip(values, heads[1:], strict=True))
                ]
                lines.append("  ".join([f"{name:{width}}", *cells]))
        return "\n".join(lines)


@torch.no_grad()
def compare_predictions(
    predictors: Mapping[str, Predictor],
    posterior: Posterior,
    x: Any,
    y: Any = None,
    *,
    num_draws: int | None = None,
    baseline: str | None = None,
    seed: int = 0,
    chunk: int = 4096,
) -> PredictionComparison:
    """Score named predictors on the same held-out data, with paired standard errors of the differences.

    Parameters
    ----------
    predictors
        `{name: predictor}`, at least one:

        - `Chains`, positions ``[draw, dim]`` (a deep ensemble, say) or one position ``[dim]`` (a mode, a single draw):
          the average over them.
        - `Laplace`: the predictions of its linearised model, as of `Laplace.predict` with ``method="auto"``. For draws
          of its Gaussian through the network itself give ``Ensemble(posterior, laplace)``.
        - anything else with ``sample(n, seed)``: an average over draws.
        - `Ensemble`: as it is.
    posterior
        The target. Ensembles and Laplace approximations keep their own, which must be over the same data.
    x, y
        See `Ensemble.evaluate`: inputs and targets, or an iterable of batches, which is read once.
    num_draws
        Equal compute: how many draws, evenly spaced, every average may take, that is how often the network is evaluated
        for an input. By default all there are.
    baseline
        Name of the predictor that the table compares the others with; by default the first.
    seed
        For predictors that are drawn from.
    chunk
        How many (draw, example) pairs are evaluated at once.

    Raises
    ------
    ValueError
        If there is no predictor, the baseline is none of them, one does not fit the posterior, or an `Ensemble` has
        more than `num_draws` draws; for data as `Ensemble.evaluate`.
    """
    if not predictors:
        raise ValueError("no predictors: give {name: chains, Laplace or positions}")
    if baseline is not None and baseline not in predictors:
        raise ValueError(f"baseline {baseline!r} is none of the predictors {list(predictors)}")
    ready: dict[str, Averaging] = {}
    for name, predictor in predictors.items():
        try:
            ready[name] = prepare(predictor, posterior, num_draws, seed)
        except ValueError as error:
            raise ValueError(f"predictor {name!r}: {error}") from error
    tally = Tally(len(ready))
    without = {name: Separate() for name in ready}
    rows = min(predictor.rows(chunk) for predictor in ready.values())
    for inputs, targets in batches(posterior, x, y):
        for few, own in pieces((inputs, targets), rows):
            terms = []
            for name, predictor in ready.items():
                its, labels = data_of(predictor.posterior, few, own)
                whole, rest = predictor.averages(its, labels, chunk)
                terms.append(terms_of(whole, labels))
                without[name].add(rest, labels)
            _check_same_scores(list(ready), [list(own) for own in terms])
            tally.add(terms)
    scores = {name: means.scores() for name, means in zip(ready, tally.means, strict=True)}
    return PredictionComparison(
        scores=scores,
        errors={name: tally.errors(place) for place, name in enumerate(ready)},
        monte_carlo_errors={name: jackknife(scores[name], own.scores()) for name, own in without.items()},
        num_draws={name: predictor.num_draws for name, predictor in ready.items()},
        baseline=next(iter(ready)) if baseline is None else baseline,
        num_examples=tally.count,
        _tally=tally,
    )


def _check_same_scores(names: list[str], terms: list[list[str]]) -> None:
    for name, own in zip(names, terms, strict=True):
        if own != terms[0]:
            raise ValueError(f"predictors are scored by different numbers: {name!r} by {own}, the first by {terms[0]}")


def _titled(score: str) -> str:
    if score in LOWER_IS_BETTER:
        return f"{score} (lower is better)"
    return f"{score} (higher is better)" if score == "accuracy" else f"{score} (closer to 0.9 is better)"


def _cell(value: float, sign: bool, size: int) -> str:
    return f"{'–':>{size}}" if math.isnan(value) else f"{format(value, '+.4f' if sign else '.4f'):>{size}}"
