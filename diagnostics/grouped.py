"""Draws in groups, chains as a rule: averages over all of them, without one group at a time, and of each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from ..samplers import data as data_
from ..samplers.posterior import Posterior
from . import mixture
from .held_out import length
from .mixture import Averages


class GroupedDraws:
    """Predictions for a few examples at a time; each draw is evaluated once, whatever is averaged.

    Parameters
    ----------
    posterior
        The target.
    positions, weights
        ``[draw, dim]`` and ``[draw]``, with sum one.
    sizes
        How many consecutive draws are in each group.

    Attributes
    ----------
    groups
        Positions and weights of every group; those that weigh nothing are left out.
    shares
        What each group weighs, ``[group]``.
    """

    def __init__(
        self,
        posterior: Posterior,
        positions: Float[Tensor, "draw dim"],
        weights: Float[Tensor, " draw"],
        sizes: Sequence[int],
    ):
        self.posterior, self._positions, self._weights = posterior, positions, weights
        parts = zip(positions.split(list(sizes)), weights.split(list(sizes)), strict=True)
        self.groups = [(few, w) for few, w in parts if bool(w.sum() > 0)]
        self.shares = torch.stack([w.sum() for _, w in self.groups])

    @property
    def num_draws(self) -> int:
        """Draws averaged over, which is how often the network is evaluated for each input."""
        return len(self._weights)

    def rows(self, chunk: int) -> int:
        """How many examples `averages` takes at a time, so that it holds no more than `chunk` numbers of each kind."""
        return max(1, chunk // len(self.groups))

    def average(self, inputs: data_.Inputs, targets: Tensor | None, chunk: int) -> Averages:
        """`mixture.average` of all draws."""
        return mixture.average(self._parts(self._positions, self._weights, inputs, chunk), targets)

    def averages(self, inputs: data_.Inputs, targets: Tensor | None, chunk: int) -> tuple[Averages, list[Averages]]:
        """`mixture.average` of all draws, and without each group; of a single group nothing is left without it."""
        parts = self.group_averages(inputs, targets, chunk)
        others = 1 - torch.eye(len(parts), dtype=self.shares.dtype, device=self.shares.device)
        rest = [mixture.combine(parts, self.shares * row) for row in others] if len(parts) > 1 else []
        return mixture.combine(parts, self.shares), rest

    def group_averages(self, inputs: data_.Inputs, targets: Tensor | None, chunk: int) -> list[Averages]:
        """`mixture.average` of every group alone."""
        return [mixture.average(self._parts(few, w / w.sum(), inputs, chunk), targets) for few, w in self.groups]

    def group_cells(self, inputs: data_.Inputs, edges: Tensor, chunk: int) -> list[Tensor]:
        """`mixture.cells` of every group alone."""
        return [mixture.cells(self._parts(few, w / w.sum(), inputs, chunk), edges) for few, w in self.groups]

    def each(
        self, chosen: Sequence[int], inputs: data_.Inputs, targets: Tensor | None, chunk: int
    ) -> Iterator[Averages]:
        """`mixture.average` of every chosen draw alone."""
        one = self._weights.new_ones(1)
        for few in self._positions[list(chosen)].split(max(1, chunk // length(inputs))):
            for outputs in self.posterior.outputs(few, inputs).split(1):
                yield mixture.average([(self.posterior.distribution(outputs), one)], targets)

    def _parts(
        self, positions: Tensor, weights: Tensor, inputs: data_.Inputs, chunk: int
    ) -> Iterator[tuple[Distribution, Tensor]]:
        """Distributions of the targets, a few draws at a time, and the draws' weights."""
        size = max(1, chunk // length(inputs))
        for few, w in zip(positions.split(size), weights.split(size), strict=True):
            yield self.posterior.distribution(self.posterior.outputs(few, inputs)), w
