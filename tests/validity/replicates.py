"""z-scores from independent chains.

Chains are independent, so the spread of a statistic over chains is its Monte-Carlo error, whatever the
autocorrelation within a chain: no estimate of an effective sample size can be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn


def z_scores(per_chain: Float[Tensor, "chain *shape"], truth: Tensor | float) -> Float[Tensor, "*shape"]:
    """Distance of the mean over chains from the truth, in standard errors."""
    chains = per_chain.shape[0]
    assert chains >= 32, "with fewer chains the spread is too uncertain for a normal threshold"
    return (per_chain.mean(0) - truth) / (per_chain.std(0) / math.sqrt(chains))


class Mean(nn.Module):
    """The Gaussian mean model: every output is the parameter itself, so minibatch noise does not depend on it."""

    def __init__(self, dim: int):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.mean.expand(x.shape[0], -1)


def draw_from_grid(
    points: Float[Tensor, "point dim"], log_density: Float[Tensor, " point"], count: int, seed: int = 0
) -> Float[Tensor, "draw dim"]:
    """Independent draws from a density tabulated on a regular grid."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(torch.softmax(log_density, 0), count, replacement=True, generator=generator)
    spacing = torch.cat([p.unique().diff()[:1] for p in points.unbind(-1)])
    return points[chosen] + spacing * (torch.rand(count, len(spacing), dtype=points.dtype, generator=generator) - 0.5)


def extrapolated_z(
    run: Callable[[float], Float[Tensor, "chain *shape"]], lrs: tuple[float, float, float], truth: Tensor | float
) -> Float[Tensor, "*shape"]:
    """z of a statistic at ε → 0: the parabola through its means at ε, 2ε and 4ε, whose error is known.

    `run(lr)` gives the statistic of each chain.
    """
    first, second, third = lrs
    assert second == 2 * first
    assert third == 4 * first
    means, variances = zip(*((x.mean(0), x.var(0) / len(x)) for x in map(run, lrs)), strict=True)
    weights = (8 / 3, -2.0, 1 / 3)  # of the parabola's value at 0
    value = sum(w * m for w, m in zip(weights, means, strict=True))
    variance = sum(w**2 * v for w, v in zip(weights, variances, strict=True))
    return (value - truth) / variance**0.5
