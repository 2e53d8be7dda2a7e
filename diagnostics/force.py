"""Does the target's force vanish on average? In equilibrium ⟨∂ᵢC⟩ = 0 for every parameter i.

Integration by parts, as for the thermometer: ⟨∇log π⟩ = 0 for every smooth density that vanishes at its boundary, here
π ∝ exp(−C/T), or exp(−C/T) |G|^(1/2) for Jeffreys chains. It holds for `SGLD` at any lr, where the mean step is −ε⟨ĝ⟩.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.stats import t as student
from torch import Tensor

from ..samplers.target import Layout
from .convergence import _statistics

LEVEL = 0.01  # of a false alarm among all parameters
_KEPT = 2**23  # numbers kept of the forces at all readings; where these are more, means of segments
_LEAST = 8  # readings of a chain, below which the error of their mean is not told
_BATCHES, _PER_CHAIN = 16, 8  # batch means of all chains, for which fewer chains are cut up, and at most of one
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False)
class MeanForce:
    """The mean of ∂C/∂ωᵢ, told as a shift of the parameter that would make it.

    Attributes
    ----------
    shift
        sᵢ = ⟨∂ᵢC⟩ sdᵢ/T, `[dim]`, float64, with sdᵢ the standard deviation of the draws. Gaussian chains without
        correlations whose target lies δ standard deviations below them have sᵢ = δ.
    error
        Its Monte-Carlo standard error, `[dim]`; NaN where it cannot be told.
    limit
        The size of sᵢ beyond which chance leads in at most 1 % of cases for any of the D parameters, `[dim]`
        (Bonferroni, Student's t).
    layout
        Names of the parameters.
    """

    shift: Float[Tensor, " dim"]
    error: Float[Tensor, " dim"]
    limit: Float[Tensor, " dim"]
    layout: Layout

    @property
    def distance(self) -> float:
        """How far the most striking sᵢ lies beyond its limit, in standard deviations; 0 if none does or is known."""
        return max(0.0, self._beyond().max().item())

    def worst(self, count: int = 5) -> list[dict[str, float | str]]:
        """Describe the parameters with the most striking shifts, known ones only: name, shift, error and limit."""
        beyond = self._beyond()
        order = beyond.argsort(descending=True, stable=True)[: min(count, int(beyond.isfinite().sum()))].tolist()
        columns = {name: getattr(self, name)[order].tolist() for name in ("shift", "error", "limit")}
        rows = zip(map(self.layout.label, order), *columns.values(), strict=True)
        return [dict(zip(("name", *columns), row, strict=True)) for row in rows]

    def _beyond(self) -> Float[Tensor, " dim"]:
        return (self.shift.abs() - self.limit).nan_to_num(nan=-math.inf)

    def __str__(self) -> str:
        worst = self.worst(1)
        if not worst:
            return "mean force: its error cannot be told from so few draws"
        name, shift, _, limit = worst[0].values()
        return f"mean force: most striking at {name}, a shift of {shift:.2g} sd, where chance makes up to {limit:.2g}"


class ForceSums:
    """Weighted sums of ∇C over the readings of segments of each chain: single readings, if these are not too many.

    Parameters
    ----------
    weights
        Of the readings.
    dim
        Number of parameters.
    """

    def __init__(self, weights: Float[Tensor, "chain reading"], dim: int):
        num_chains, num_readings = weights.shape
        self.kept = min(num_readings, max(_LEAST, _KEPT // (num_chains * dim)))
        segment = torch.arange(num_readings) * self.kept // num_readings
        self._cell = (self.kept * torch.arange(num_chains)[:, None] + segment).flatten()
        self._weight = (weights.double() / weights.double().sum()).flatten()
        self.mass = torch.zeros(num_chains * self.kept, dtype=torch.float64).index_add_(0, self._cell, self._weight)
        self.sums = torch.zeros(num_chains * self.kept, dim, dtype=torch.float64)

    def add(self, rows: Int[Tensor, " row"], force: Float[Tensor, "row dim"]) -> None:
        """Count the forces at these rows of the flattened readings."""
        self.sums.index_add_(0, self._cell[rows], self._weight[rows, None] * force)

    def mean_force(self, sd: Float[Tensor, " dim"], temperature: float, layout: Layout) -> MeanForce:
        """Take means and tell their error, as `mean_and_error` does."""
        dim = self.sums.shape[1]
        mass = self.mass.view(-1, self.kept)
        values = (self.sums / self.mass[:, None].clamp(min=_TINY)).view(*mass.shape, dim)
        mean, error, effective = mean_and_error(values, mass)
        error = error if self.kept >= _LEAST else torch.full_like(error, math.nan)
        degrees = effective.clamp(max=batches(len(mass), self.kept) * len(mass)) - 1
        t = torch.as_tensor(student.ppf(1 - LEVEL / (2 * dim), degrees.clamp(min=1).numpy()))
        scale = sd / temperature
        return MeanForce(shift=mean * scale, error=error * scale, limit=t * error * scale, layout=layout)


def mean_and_error(
    values: Float[Tensor, "chain reading dim"], weights: Float[Tensor, "chain reading"] | None
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """Mean, its Monte-Carlo standard error, and the effective number of readings.

    The error is the larger of two. By the effective number of readings, which is itself uncertain and on average some
    percent too large. By batch means, of whole chains if there are 16 or more, else of up to 8 segments of each: right
    wherever these are independent, but chains may be too slow for that.
    """
    weights = torch.ones(values.shape[:2], dtype=torch.float64) if weights is None else weights.double()
    found = _statistics(values, ("mean", "sd", "mcse"), weights)
    num_chains, num_readings = values.shape[:2]
    per_chain = batches(num_chains, num_readings)
    batch = torch.arange(num_chains)[:, None] * per_chain + torch.arange(num_readings) * per_chain // num_readings
    batch, flat = batch.flatten(), (weights / weights.sum()).flatten()
    mass = torch.zeros(num_chains * per_chain, dtype=torch.float64).index_add_(0, batch, flat)
    sums = torch.zeros(len(mass), values.shape[2], dtype=torch.float64)
    means = sums.index_add_(0, batch, flat[:, None] * values.flatten(0, 1)) / mass[:, None].clamp(min=_TINY)
    share = mass.square().sum()
    variance = (mass[:, None] * (means - found["mean"]).square()).sum(0) * share / (1 - share)
    error = torch.maximum(found["mcse"], variance.sqrt())
    return found["mean"], error, (found["sd"] / found["mcse"]).square()


def batches(num_chains: int, num_readings: int) -> int:
    """Segments that each chain is cut into for batch means."""
    return max(1, min(num_readings // 2, _PER_CHAIN, -(-_BATCHES // num_chains)))
