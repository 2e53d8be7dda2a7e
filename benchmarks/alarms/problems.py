"""Two small posteriors that are judged: one by its weights, one by its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from langevin.samplers import Posterior, bernoulli
from torch import Tensor, nn
from torch.distributions import Normal


@dataclass(frozen=True)
class Problem:
    """A posterior, the same with its prior counted twice, and test data if predictions are judged."""

    posterior: Posterior
    doubled: Posterior
    test: tuple[Tensor, Tensor] | None


@cache
def logistic(data_seed: int) -> Problem:
    """Logistic regression: 200 examples, 8 features of unequal spread and an intercept, prior N(0, 0.5²).

    The prior holds about a tenth of the precision in the strong directions and half of it in the weak ones.
    """
    generator = torch.Generator().manual_seed(data_seed)
    x = torch.randn(200, 8, generator=generator) * torch.linspace(0.5, 1.5, 8)
    weights = torch.randn(8, generator=generator)
    y = (x @ weights + torch.randn(200, generator=generator).mul(1.5) > 0).float()[:, None]
    return Problem(*_posteriors(nn.Linear(8, 1), x, y, 0.5), None)


@cache
def network(data_seed: int) -> Problem:
    """A 2-6-1 network on 150 examples of two noisy half moons, prior N(0, 1)."""
    generator = torch.Generator().manual_seed(data_seed)

    def moons(count: int) -> tuple[Tensor, Tensor]:
        angle = torch.pi * torch.rand(count, generator=generator)
        side = torch.randint(0, 2, (count,), generator=generator).float()
        x = torch.stack((angle.cos() + side - 0.5, angle.sin() * (1 - 2 * side) + 0.25 * (2 * side - 1)), -1)
        return 1.5 * (x + 0.25 * torch.randn(count, 2, generator=generator)), side[:, None]

    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1))
    return Problem(*_posteriors(model, *moons(150), 1.0), moons(100))


def _posteriors(model: nn.Module, x: Tensor, y: Tensor, sd: float) -> tuple[Posterior, Posterior]:
    right, wrong = (Posterior(model, bernoulli, data=(x, y), prior=Normal(0.0, width)) for width in (sd, sd / 2**0.5))
    return right, wrong
