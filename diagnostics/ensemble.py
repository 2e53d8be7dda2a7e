"""Predictions averaged over posterior draws, and what the average is worth beside a single draw.

p(y | x) = Σ_d w_d p(y | x, ω_d): draws are averaged in probability space, with equal weights or, for schedules with a
changing lr, with the chains' own. Draws and examples are visited in pieces: memory does not grow with their product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from ..samplers import data as data_
from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from ..samplers.target import Target
from . import calibration, mixture

_LEVEL = 0.9
_SINGLE = 100  # at most so many draws are scored alone
_INDEPENDENT = 200  # draws from an approximation that can give any number


class Approximation(Protocol):
    """Anything that draws independent positions, such as `Laplace`."""

    def sample(self, n: int, seed: int = 0) -> Float[Tensor, "n dim"]:
        """Draw `n` flat positions."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The predictive distribution of new targets, float64 on the CPU.

    Attributes
    ----------
    mean
        Classification: probabilities ``[n, ..., classes]``, of two classes for binary labels. Otherwise predictive
        means ``[n, ...]``.
    entropy
        Of the averaged probabilities, in nats, ``[n, ...]``; None unless classification.
    mutual_information
        Of label and parameters in nats, the entropy of the mean minus the mean entropy: how much the draws disagree.
        None where there are no draws (`Laplace.predict` with ``method="probit"``).
    sd, epistemic_sd, aleatoric_sd
        Standard deviation of the predictive mixture, in the units of the targets, and its parts: sd² = epistemic²
        (variance of the draws' means) + aleatoric² (mean of their variances). None for classification.
    """

    mean: Tensor
    entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    sd: Tensor | None = None
    epistemic_sd: Tensor | None = None
    aleatoric_sd: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """Scores on held-out data.

    Attributes
    ----------
    ensemble
        Scores of the averaged prediction. Classification: ``accuracy``, ``nll``, ``brier``, ``ece``. Otherwise
        ``rmse``, ``nll`` and ``coverage_90`` (of the central 90 % interval), as far as torch knows moments and ``cdf``.
    single, single_sd
        Mean and standard deviation of the scores of single draws.
    num_draws, num_single
        Draws in the ensemble, and how many of them, evenly spaced, were scored alone.
    """

    ensemble: dict[str, float]
    single: dict[str, float]
    single_sd: dict[str, float]
    num_draws: int
    num_single: int

    def __str__(self) -> str:
        heads = f"ensemble of {self.num_draws}", f"mean of {self.num_single} single draws", "their sd"
        width = max(len(name) for name in self.ensemble)
        lines = ["  ".join([" " * width, *heads])]
        for name, value in self.ensemble.items():
            row = zip((value, self.single[name], self.single_sd[name]), heads, strict=True)
            lines.append("  ".join([f"{name:{width}}", *(f"{number:{len(head)}.4f}" for number, head in row)]))
        return "\n".join(lines)


class Ensemble:
    """A model averaged over draws of its parameters.

    Parameters
    ----------
    posterior
        The target that was sampled: it knows the model, and which distribution its outputs mean.
    draws
        `Chains`, a `Laplace` (or anything with ``sample(n, seed)``), or flat positions ``[draw, dim]``. Chains that
        were stopped are left out; `stopped` names them.
    num_draws
        How many draws to use: of chains or positions an evenly spaced subset (default all), of a `Laplace` so many
        independent ones (default 200).
    seed
        For drawing from a `Laplace`.

    Attributes
    ----------
    positions, weights
        ``[draw, dim]``, and ``[draw]`` with sum one.
    stopped
        Chains left out, `{chain id: step}`.

    Raises
    ------
    ValueError
        If draws lack parameters of the posterior, have another dimension or are not finite, or all chains were stopped.
    """

    def __init__(
        self, posterior: Posterior, draws: Chains | Approximation | Tensor, num_draws: int | None = None, seed: int = 0
    ):
        if num_draws is not None and num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws}")
        self.posterior = posterior
        self.stopped: dict[str, int] = {}
        weights = None
        if isinstance(draws, Chains):
            self.stopped = dict(draws.attrs.get("stopped") or {})
            draws = draws.finished()
            weights = draws.weights
            positions = chain_positions(posterior, draws).flatten(0, 1)
        elif isinstance(draws, Tensor):
            positions = draws
        elif hasattr(draws, "sample"):
            positions = draws.sample(num_draws or _INDEPENDENT, seed=seed)
        else:
            raise ValueError(f"draws must be Chains, a Laplace or positions [draw, dim], got {type(draws).__name__}")
        if positions.ndim != 2 or positions.shape[-1] != posterior.dim or len(positions) == 0:
            raise ValueError(f"draws must have shape [draw, {posterior.dim}], got {tuple(positions.shape)}")
        weights = torch.ones(len(positions)) if weights is None else weights.flatten()
        if num_draws is not None and num_draws < len(positions):
            chosen = evenly_spaced(len(positions), num_draws)
            positions, weights = positions[chosen.to(positions.device)], weights[chosen]
        bad = int((~positions.isfinite().all(-1)).sum())
        if bad:
            raise ValueError(
                f"{bad} of {len(positions)} draws are not finite: they cannot be averaged; sample with a lower lr"
            )
        self.positions = positions.detach().to(device=posterior.device, dtype=posterior.dtype)
        weights = weights.to(device=posterior.device, dtype=torch.float64)
        self.weights = weights / weights.sum()

    @torch.no_grad()
    def predict(self, x: Any, chunk: int = 4096) -> Prediction:
        """Predict the targets of new inputs.

        Parameters
        ----------
        x
            Inputs as the model takes them: a tensor or array ``[n, ...]``, or a dict or tuple of them.
        chunk
            How many (draw, example) pairs are evaluated at once; lower it where memory is short.

        Raises
        ------
        ValueError
            If inputs differ in length or are not finite.
        NotImplementedError
            If torch knows neither class probabilities nor moments of the likelihood's distribution.
        """
        return prediction_of(self._averages(inputs_of(self.posterior, x), None, chunk))

    @torch.no_grad()
    def interval(self, x: Any, level: float = _LEVEL, chunk: int = 4096) -> tuple[Tensor, Tensor]:
        """Central interval of the predictive mixture, solved by bisection of its distribution function.

        An interval of counts holds at least `level`, because counts are whole.

        Parameters
        ----------
        x, chunk
            See `predict`.
        level
            Probability inside, in (0, 1).

        Returns
        -------
        tuple of Tensor
            Lower and upper ends ``[n, ...]``, in the units of the targets, float64 on the CPU.

        Raises
        ------
        NotImplementedError
            For likelihoods other than Normal and Poisson.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
        ends: tuple[list[Tensor], list[Tensor]] = ([], [])
        for outputs in _outputs(self.posterior, self.positions, inputs_of(self.posterior, x), chunk):
            distribution = self.posterior.distribution(outputs)
            for end, prob in zip(ends, ((1 - level) / 2, (1 + level) / 2), strict=True):
                end.append(mixture.quantile(distribution, self.weights, prob).cpu())
        return torch.cat(ends[0]), torch.cat(ends[1])

    def evaluate(self, x: Any, y: Any, chunk: int = 4096) -> Evaluation:
        """Score the ensemble, and up to 100 of its draws one by one, on held-out data.

        Several targets per example (pixels, tokens) are scored one by one, each by its own predictive distribution.
        Interval coverage is read off the mixture's distribution function at the targets, without solving for the ends.

        Parameters
        ----------
        x, chunk
            See `predict`.
        y
            Targets, as many as inputs.

        Raises
        ------
        ValueError
            If lengths differ, numbers are not finite, or targets have the wrong shape or lie outside the support.
        """
        inputs, targets = data_of(self.posterior, x, y)
        ensemble = self._scores(inputs, targets, chunk)
        chosen = evenly_spaced(len(self.weights), _SINGLE)
        draws = [Ensemble(self.posterior, self.positions[[draw]]) for draw in chosen.tolist()]
        singles = [draw._scores(inputs, targets, chunk) for draw in draws]
        columns = {name: torch.tensor([s[name] for s in singles], dtype=torch.float64) for name in ensemble}
        return Evaluation(
            ensemble=ensemble,
            single={name: column.mean().item() for name, column in columns.items()},
            single_sd={n: column.std().item() if len(column) > 1 else math.nan for n, column in columns.items()},
            num_draws=len(self.weights),
            num_single=len(chosen),
        )

    @torch.no_grad()
    def _scores(self, inputs: data_.Inputs, targets: Tensor, chunk: int) -> dict[str, float]:
        return scores_of(self._averages(inputs, targets, chunk), targets)

    def _averages(self, inputs: data_.Inputs, targets: Tensor | None, chunk: int) -> dict[str, Tensor]:
        """`mixture.average` of all draws, a few examples at a time."""
        posterior = self.posterior
        num_examples = min(_length(inputs), chunk)
        num_draws = max(1, chunk // num_examples)
        pieces = []
        for rows in torch.arange(_length(inputs), device=posterior.device).split(num_examples):
            few = data_.take(inputs, rows)
            draws = zip(self.positions.split(num_draws), self.weights.split(num_draws), strict=True)
            parts = ((posterior.distribution(posterior.outputs(positions, few)), w) for positions, w in draws)
            pieces.append(mixture.average(parts, None if targets is None else targets[rows]))
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def prediction_of(averages: dict[str, Tensor]) -> Prediction:
    """What `mixture.average` found, as users see it.

    Raises
    ------
    NotImplementedError
        If there are neither class probabilities nor moments.
    """
    averages = {name: value.cpu() for name, value in averages.items()}
    if "probability" in averages:
        entropy = torch.special.entr(averages["probability"]).sum(-1)
        # By Jensen's inequality never negative, but for rounding.
        mutual_information = (entropy - averages["entropy"]).clamp(min=0) if "entropy" in averages else None
        return Prediction(averages["probability"], entropy, mutual_information)
    if "mean" not in averages:
        raise NotImplementedError("torch knows no moments of this likelihood; evaluate() still gives its nll")
    epistemic, aleatoric = averages["epistemic"], averages["aleatoric"]
    return Prediction(
        averages["mean"],
        sd=(epistemic + aleatoric).sqrt(),
        epistemic_sd=epistemic.sqrt(),
        aleatoric_sd=aleatoric.sqrt(),
    )


def scores_of(averages: dict[str, Tensor], targets: Tensor) -> dict[str, float]:
    """Scores of what `mixture.average` found for these targets: see `Evaluation`."""
    nll = calibration.nll(averages["log_likelihood"])
    if "probability" in averages:
        p, labels = averages["probability"], targets.long()
        return {
            "accuracy": calibration.accuracy(p, labels),
            "nll": nll,
            "brier": calibration.brier(p, labels),
            "ece": calibration.ece(p, labels),
        }
    scores = {"rmse": calibration.rmse(averages["mean"], targets)} if "mean" in averages else {}
    scores["nll"] = nll
    if "cdf" in averages:
        inside = (averages["cdf"] >= (1 - _LEVEL) / 2) & (averages["cdf_below"] <= (1 + _LEVEL) / 2)
        scores["coverage_90"] = inside.double().mean().item()
    return scores


def inputs_of(posterior: Posterior, x: Any) -> data_.Inputs:
    """New inputs, checked, on the posterior's device and in its type."""
    x = pytree.tree_map_only(np.ndarray, torch.as_tensor, x)
    data_.check(x, torch.zeros(_length(x)))
    return data_.cast(x, posterior.device, posterior.dtype)


def data_of(posterior: Posterior, x: Any, y: Any) -> tuple[data_.Inputs, Tensor]:
    """New inputs and targets, checked, on the posterior's device."""
    inputs, targets = inputs_of(posterior, x), torch.as_tensor(y).to(posterior.device)
    data_.check(inputs, targets)
    return inputs, targets


def evaluate_point(
    posterior: Posterior, position: Float[Tensor, " dim"], x: Any, y: Any, chunk: int = 4096
) -> dict[str, float]:
    """Scores of a single parameter vector, such as a mode: the ensemble of one, see `Ensemble.evaluate`."""
    point = Ensemble(posterior, position.reshape(1, -1))
    return point._scores(*data_of(posterior, x, y), chunk)


@torch.no_grad()
def draw_means(posterior: Posterior, chains: Chains, inputs: Any, chunk: int = 4096) -> Iterator[Tensor]:
    """Class probabilities or predictive means, ``[chain, draw, few, ...]``, of a few examples at a time, on the CPU."""
    ensemble = Ensemble(posterior, chains)
    for outputs in _outputs(posterior, ensemble.positions, inputs_of(posterior, inputs), chunk):
        means = mixture.predictive_mean(posterior.distribution(outputs)).cpu()
        yield means.unflatten(0, (-1, chains.num_draws))


def chain_positions(target: Target, chains: Chains) -> Float[Tensor, "chain draw dim"]:
    """Draws as flat positions, or a clear error where parameters were not kept."""
    missing = [name for name in target.layout.names if name not in chains.draws]
    if missing:
        raise ValueError(
            f"the chains hold no draws of {missing}, and the model needs every sampled parameter; sample without keep="
        )
    return chains.position(target)  # pyright: ignore[reportArgumentType]  # any target can ravel


def evenly_spaced(size: int, count: int) -> Int[Tensor, " count"]:
    """At most `count` indices of 0 … size−1, the first and the last among them."""
    return torch.linspace(0, size - 1, min(size, count), dtype=torch.float64).round().long()


def _outputs(posterior: Posterior, positions: Tensor, inputs: data_.Inputs, chunk: int) -> Iterator[Tensor]:
    """Outputs of all draws, ``[draw, few, ...]``, for a few examples at a time."""
    rows = torch.arange(_length(inputs), device=posterior.device)
    for few in rows.split(max(1, chunk // len(positions))):
        some = data_.take(inputs, few)
        yield torch.cat([posterior.outputs(part, some) for part in positions.split(max(1, chunk // len(few)))])


def _length(inputs: data_.Inputs) -> int:
    lengths = {len(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim}
    if len(lengths) != 1:
        raise ValueError(f"inputs must be tensors with one row per example, got {sorted(lengths)} rows")
    return lengths.pop()
