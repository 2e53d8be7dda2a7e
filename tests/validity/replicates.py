"""z-scores from independent chains.

Chains are independent, so the spread of a statistic over chains is its Monte-Carlo error, whatever the
autocorrelation within a chain: no estimate of an effective sample size can be wrong.
"""

from __future__ import annotations

import math

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
