"""Predictions averaged over posterior draws, and what the average is worth beside a single draw.

p(y | x) = Σ_d w_d p(y | x, ω_d): draws are averaged in probability space, with equal weights or, for schedules with a
changing lr, with the chains' own. Draws and examples are visited in pieces: memory does not grow with their product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..samplers import data as data_
from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from ..samplers.target import Target
from . import calibration, mixture
from .grouped import GroupedDraws
from .held_out import batches, input_batches, inputs_of, length, pieces
from .mixture import Averages
from .prediction import Evaluation, Prediction, prediction_of
from .scores import LEVEL, Means, Scores, Separate, Tally, jackknife, terms_of

_SINGLE = 100  # at most so many draws are scored alone
_GROUPS = 16  # of draws, at most, left out one by one for Monte-Carlo errors
_FEW = 32  # examples
_INDEPENDENT = 200  # draws from an approximation that can give any number


class Approximation(Protocol):
    """Anything that draws independent positions, such as `Laplace`."""

    def sample(self, n: int, seed: int = 0) -> Float[Tensor, "n dim"]:
        """Draw `n` flat positions."""
        ...


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
    grouped
        The same draws by chains, or by stretches of draws where there are no two chains.

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
        weights, num_chains = None, 1
        if isinstance(draws, Chains):
            self.stopped = dict(draws.attrs.get("stopped") or {})
            draws = draws.finished()
            weights, num_chains = draws.weights, draws.num_chains
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
        chosen = evenly_spaced(len(positions), num_draws or len(positions))
        sizes = _group_sizes(chosen, len(positions), num_chains)
        if len(chosen) < len(positions):
            positions, weights = positions[chosen.to(positions.device)], weights[chosen]
        suspect = positions[~positions.sum(-1).isfinite()]  # sums show it, and are quicker than to look at every number
        bad = int((~suspect.isfinite().all(-1)).sum())
        if bad:
            raise ValueError(
                f"{bad} of {len(positions)} draws are not finite: they cannot be averaged; sample with a lower lr"
            )
        self.positions = positions.detach().to(device=posterior.device, dtype=posterior.dtype)
        weights = weights.to(device=posterior.device, dtype=torch.float64)
        self.weights = weights / weights.sum()
        self.grouped = GroupedDraws(posterior, self.positions, self.weights, sizes)

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
            If inputs differ in length, are not finite, or are not what the model takes.
        NotImplementedError
            If torch knows neither class probabilities nor moments of the likelihood's distribution.
        """
        return self._predict(inputs_of(self.posterior, x), chunk)

    @torch.no_grad()
    def predict_batches(self, batches: Iterable[Any], chunk: int = 4096) -> Iterator[Prediction]:
        """Predict the targets of one batch of inputs after another, for inputs that do not fit in memory.

        Parameters
        ----------
        batches
            Any iterable of inputs as `predict` takes them. Of a `DataLoader` of (inputs, targets) give the inputs
            alone, ``(x for x, _ in loader)``.
        chunk
            See `predict`.

        Yields
        ------
        Prediction
            Of each batch, when it is asked for; nothing is kept.

        Raises
        ------
        ValueError
            As `predict`, with the number of the batch; if there is no batch.
        """
        for inputs in input_batches(self.posterior, batches):
            yield self._predict(inputs, chunk)

    def _predict(self, inputs: data_.Inputs, chunk: int) -> Prediction:
        few = pieces(inputs, chunk)
        parts = [self.grouped.average(some, None, chunk) for some in few]
        return prediction_of({name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    @torch.no_grad()
    def interval(self, x: Any, level: float = LEVEL, chunk: int = 4096) -> tuple[Tensor, Tensor]:
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

    @torch.no_grad()
    def pit(self, x: Any, y: Any = None, *, seed: int = 0, chunk: int = 4096) -> Tensor:
        """Probability integral transform of held-out targets: uniform on (0, 1) for honest predictions.

        Values heaped at both ends tell of predictions that are too sure, heaped in the middle of too wide ones;
        `calibration.uniformity` tests them.

        Parameters
        ----------
        x, y, chunk
            See `evaluate`.
        seed
            For counts, whose values are drawn: see `calibration.pit`.

        Returns
        -------
        Tensor
            ``[n, ...]`` in the shape of the targets, float64 on the CPU.

        Raises
        ------
        NotImplementedError
            For class labels, and where torch knows no distribution function.
        """
        found: list[Averages] = []
        for inputs, targets in batches(self.posterior, x, y):
            for few, own in pieces((inputs, targets), chunk):
                averages = self.grouped.average(few, own, chunk)
                if "cdf" not in averages:
                    raise NotImplementedError(
                        "the likelihood has no distribution function that torch knows; of class labels "
                        "calibration.reliability judges the probabilities"
                    )
                found.append({name: averages[name].cpu() for name in ("cdf", "cdf_below")})
        cdf, below = (torch.cat([part[name] for part in found]) for name in ("cdf", "cdf_below"))
        return calibration.pit(cdf, below, seed)

    @torch.no_grad()
    def evaluate(self, x: Any, y: Any = None, chunk: int = 4096) -> Evaluation:
        """Score the ensemble, and up to 100 of its draws one by one, on held-out data.

        Several targets per example (pixels, tokens) are scored one by one, each by its own predictive distribution.
        Interval coverage is read off the mixture's distribution function at the targets, without solving for the ends.

        Parameters
        ----------
        x, y
            Inputs as `predict` takes them and as many targets. Or, without `y`, any iterable of (inputs, targets)
            batches, such as a `DataLoader`: it is read once, and memory grows neither with it nor with the draws.
        chunk
            See `predict`.

        Raises
        ------
        ValueError
            If lengths differ, numbers are not finite, or targets have the wrong shape or lie outside the support; if
            batches are not pairs, or there is none.
        """
        draws = self.grouped
        chosen = evenly_spaced(draws.num_draws, _SINGLE).tolist()
        tally, without, alone = Tally(1), Separate(), Separate()
        for inputs, targets in batches(self.posterior, x, y):
            for few, own in pieces((inputs, targets), draws.rows(chunk)):
                whole, rest = draws.averages(few, own, chunk)
                tally.add([terms_of(whole, own)])
                without.add(rest, own)
                alone.add(draws.each(chosen, few, own, chunk), own)
        singles = alone.scores()
        ensemble = tally.means[0].scores()
        columns = {name: torch.tensor([s[name] for s in singles], dtype=torch.float64) for name in ensemble}
        return Evaluation(
            ensemble=ensemble,
            single={name: column.mean().item() for name, column in columns.items()},
            single_sd={n: column.std().item() if len(column) > 1 else math.nan for n, column in columns.items()},
            num_draws=draws.num_draws,
            num_single=len(chosen),
            ensemble_error=tally.errors(),
            monte_carlo_error=jackknife(tally.means[0].scores(), without.scores()),
            num_examples=tally.count,
        )


@torch.no_grad()
def evaluate_point(
    posterior: Posterior, position: Float[Tensor, " dim"], x: Any, y: Any = None, chunk: int = 4096
) -> Scores:
    """Scores of a single parameter vector, such as a mode: the ensemble of one, see `Ensemble.evaluate`."""
    point, means = Ensemble(posterior, position.reshape(1, -1)), Means()
    for inputs, targets in batches(posterior, x, y):
        for few, own in pieces((inputs, targets), chunk):
            means.add(terms_of(point.grouped.average(few, own, chunk), own))
    return means.scores()


@torch.no_grad()
def draw_means(posterior: Posterior, chains: Chains, inputs: Any, chunk: int = 4096) -> Iterator[Tensor]:
    """Class probabilities or predictive means, ``[chain, draw, few, ...]``, of a few examples at a time, on the CPU."""
    ensemble = Ensemble(posterior, chains)
    for outputs in _outputs(posterior, ensemble.positions, inputs_of(posterior, inputs), chunk):
        means = mixture.predictive_mean(posterior.distribution(outputs)).cpu()
        yield means.unflatten(0, (-1, chains.num_draws))


def chain_positions(
    target: Target, chains: Chains, chosen: Int[Tensor, " few"] | None = None
) -> Float[Tensor, "chain draw dim"]:
    """Draws, or the chosen ones of every chain, as flat positions, or a clear error where parameters were not kept."""
    missing = [name for name in target.layout.names if name not in chains.draws]
    if missing:
        raise ValueError(
            f"the chains hold no draws of {missing}, and the model needs every sampled parameter; sample without keep="
        )
    draws = chains.draws if chosen is None else {name: x[:, chosen] for name, x in chains.draws.items()}
    return target.ravel(draws).to(target.dtype)


def evenly_spaced(size: int, count: int) -> Int[Tensor, " count"]:
    """At most `count` indices of 0 … size−1, the first and the last among them."""
    return torch.linspace(0, size - 1, min(size, count), dtype=torch.float64).round().long()


def _outputs(posterior: Posterior, positions: Tensor, inputs: data_.Inputs, chunk: int) -> Iterator[Tensor]:
    """Outputs of all draws, ``[draw, few, ...]``, for a few examples at a time."""
    rows = torch.arange(length(inputs), device=posterior.device)
    # Every turn reads all draws: at least a few examples a turn, however many draws there are.
    for few in rows.split(max(_FEW, chunk // len(positions))):
        some = data_.take(inputs, few)
        yield torch.cat([posterior.outputs(part, some) for part in positions.split(max(1, chunk // len(few)))])


def _group_sizes(chosen: Int[Tensor, " draw"], size: int, num_chains: int) -> list[int]:
    """How many of the chosen of `size` draws lie in each chain, or stretch where there is one chain."""
    if num_chains > 1:
        group = chosen * num_chains // size * min(num_chains, _GROUPS) // num_chains
    else:
        group = torch.arange(len(chosen)) * min(len(chosen), _GROUPS) // len(chosen)
    return [count for count in torch.bincount(group).tolist() if count]
