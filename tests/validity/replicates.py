"""z-scores from independent chains.

Chains are independent, so the spread of a statistic over chains is its Monte-Carlo error, whatever the
autocorrelation within a chain: no estimate of an effective sample size can be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from langevin.samplers import Chains, Posterior, gaussian, sample
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


NUM_DATA, CURVATURE = 40, 4.0


def mean_model(mixing: Float[Tensor, "dim dim"]) -> tuple[Posterior, Float[Tensor, "example dim"]]:
    """Two Gaussian means, N = 40 and λ = 4, of data that `mixing` correlates and scales."""
    y = torch.randn(NUM_DATA, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = y @ torch.as_tensor(mixing, dtype=torch.float64)
    x = torch.zeros(NUM_DATA, 1, dtype=torch.float64)
    return Posterior(Mean(2), gaussian(CURVATURE**-0.5), (x, y), prior=None), y


def errors(
    posterior: Posterior, y: Tensor, sampler: Any, batch_size: int | None, **settings: int
) -> tuple[Chains, Float[Tensor, "chain draw dim"]]:
    """Chains that start from the posterior mean, and their draws minus it."""
    settings = {"num_samples": 1000, "num_warmup": 200, "num_chains": 64} | settings
    start = {"mean": y.mean(0)}
    chains = sample(posterior, sampler, batch_size=batch_size, init=start, progress=False, compile=False, **settings)
    return chains, chains.draws["mean"] - y.mean(0)


def batch_noise(y: Float[Tensor, "example dim"], batch_size: int) -> Float[Tensor, "dim dim"]:
    """S_mb = (1/B)(1 − B/N) λ² Cov(y)."""
    return CURVATURE**2 * torch.cov(y.T) / batch_size * (1 - batch_size / NUM_DATA)


def second_moments(error: Float[Tensor, "chain draw dim"]) -> Float[Tensor, "chain pair"]:
    """Of the elements on and above the diagonal."""
    dim = error.shape[-1]
    full = torch.einsum("cdi,cdj->cij", error, error) / error.shape[1]
    return full[:, *torch.triu_indices(dim, dim).unbind()]
