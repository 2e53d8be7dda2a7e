"""Simulation-based calibration (Talts et al. 2018) of many data sets at once.

If parameters are drawn from the prior and data from the model, the rank of the true parameter among posterior draws is
uniform, whatever the posterior looks like. Data sets are independent problems, so their product is one target of
D = K·d parameters, which one run samples: example i of the product is the i-th example of every data set.

The log-likelihood is ranked besides the parameters: it sees errors that leave every margin right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from langevin.diagnostics.convergence import ess
from langevin.samplers import Posterior, bernoulli, sample
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.distributions import Normal

DOUBLE = torch.float64
BINS = 16


class Many(nn.Module):
    """K logistic regressions side by side: inputs `[example, K, d]`, logits `[example, K]`."""

    def __init__(self, count: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, dim, dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(-1)


@dataclass(frozen=True, eq=False)
class DataSets:
    """K data sets, their true parameters `[K, d]` and the posterior of all."""

    posterior: Posterior
    truth: Tensor
    x: Tensor
    y: Tensor

    def log_likelihood(self, weight: Tensor) -> Tensor:
        """`[draw, K, d]` → `[draw, K]`."""
        logits = torch.einsum("nki,dki->dnk", self.x, weight)
        return (self.y * logits - nn.functional.softplus(logits)).sum(1)


def data_sets(count: int = 1024, num_data: int = 20, dim: int = 2, seed: int = 0) -> DataSets:
    """θ ~ N(0, I) and y from the logistic model, for inputs of its own in every data set."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(count, dim, dtype=DOUBLE, generator=generator)
    x = torch.randn(num_data, count, dim, dtype=DOUBLE, generator=generator)
    uniform = torch.rand(num_data, count, dtype=DOUBLE, generator=generator)
    y = (uniform < torch.sigmoid((x * truth).sum(-1))).to(DOUBLE)
    return DataSets(Posterior(Many(count, dim), bernoulli, (x, y), prior=Normal(0.0, 1.0)), truth, x, y)


@dataclass(frozen=True)
class Calibration:
    """p-values of uniform ranks: of each parameter, and last of the log-likelihood.

    Attributes
    ----------
    p_values
        By χ² on `BINS` bins.
    counts
        Data sets in each bin, `[quantity, BINS]`.
    independence
        Mean effective sample size per kept draw; ranks are uniform only if it is about 1.
    """

    p_values: list[float]
    counts: Tensor
    independence: float


def calibrate(
    sets: DataSets,
    sampler: Any,
    *,
    thinning: int,
    num_warmup: int,
    num_chains: int = 4,
    batch_size: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Rank the truth among 4·BINS − 1 thinned draws of all chains."""
    kept = 4 * BINS
    chains = sample(
        sets.posterior, sampler, num_samples=kept // num_chains, num_warmup=num_warmup, thinning=thinning,
        num_chains=num_chains, batch_size=batch_size, init="prior", seed=seed, progress=False, compile=False,
    )  # fmt: skip
    draws = chains.draws["weight"]
    independence = float(ess(draws, "mean").mean()) / kept
    pooled = draws.flatten(0, 1)[: kept - 1]
    ranks = (pooled < sets.truth).sum(0)
    truth = sets.log_likelihood(sets.truth[None])
    ranks = torch.cat((ranks, (sets.log_likelihood(pooled) < truth).sum(0)[:, None]), 1)
    counts = torch.stack([torch.bincount(column * BINS // kept, minlength=BINS) for column in ranks.T])
    return Calibration([float(chisquare(row).pvalue) for row in counts.numpy()], counts, independence)
