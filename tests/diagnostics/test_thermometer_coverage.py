"""Do the thermometer's 95 % intervals hold the exact reading in about 95 % of runs of a sampler?"""

import pytest
import torch
from langevin.diagnostics.thermometer import temperature
from langevin.samplers import SGLD, LogDensity, Posterior, gaussian, sample
from torch import nn

from tests.diagnostics.repetitions import groups_of

RUNS = 200
CURVATURE = {"a.w": torch.tensor([1.0, 0.6, 0.4]), "b.w": torch.tensor([0.8, 0.3])}
LR, HEAT = 0.5, 0.7
RUN = {"num_samples": 300, "num_warmup": 200, "thinning": 4, "progress": False, "compile": False}


def quadratic():
    return LogDensity(
        lambda values: -0.5 * sum((CURVATURE[name] * w**2).sum() for name, w in values.items()),
        {name: torch.zeros(len(c)) for name, c in CURVATURE.items()},
    )


def exact(*names):
    """T/(1 − ελ/2), mean over directions."""
    return (HEAT / (1 - LR * torch.cat([CURVATURE[name] for name in names]) / 2)).mean().item()


def assert_covered(intervals, expected):
    inside = sum(low <= expected <= high for low, high in intervals)
    assert 0.9 * RUNS <= inside <= 0.99 * RUNS, inside


@pytest.mark.parametrize("num_chains", [4, 1])
def test_full_batch_langevin_dynamics(num_chains):
    target = quadratic()
    init = torch.randn(num_chains * RUNS, 5, generator=torch.Generator().manual_seed(0))
    chains = sample(target, SGLD(lr=LR, temperature=HEAT), **RUN, num_chains=num_chains * RUNS, init=init)
    parts = groups_of(chains, num_chains)
    whole = exact("a.w", "b.w")
    full = [temperature(part, target, max_draws=1200) for part in parts]
    assert_covered([t.interval for t in full], whole)
    streamed = [temperature(part) for part in parts]
    assert_covered([t.interval for t in streamed], whole)
    assert list(streamed[0].blocks) == ["a", "b"]
    assert list(full[0].blocks) == ["a.w", "b.w"]
    for layer in "ab":
        for found, name in ((streamed, layer), (full, f"{layer}.w")):
            readings = [t.blocks[name] for t in found]
            assert_covered([(v - 1.98 * e, v + 1.98 * e) for v, e in readings], exact(f"{layer}.w"))
    values = torch.tensor([t.value for t in streamed])
    assert abs((values.mean() - whole) / values.std() * RUNS**0.5) < 4 + RUNS**0.5 * 0.02


class Means(nn.Module):
    """Two vectors, compared with data: minibatch noise does not depend on the position."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Linear(1, size, bias=False) for size in (3, 2))

    def forward(self, x):
        return torch.cat((self.a(x), self.b(x)), -1)


def test_minibatches():
    """(T + εNs²/2)/(1 − ελ/2), with λ = 1/σ² of the mean cost and s² = λ²Var(y)(1/B)(1 − B/N)."""
    num_data, batch_size, lr, sd = 40, 8, 0.1, 0.5
    y = 0.3 * torch.randn(num_data, 5, generator=torch.Generator().manual_seed(1))
    posterior = Posterior(Means(), gaussian(sd), (torch.ones(num_data, 1), y), prior=None)
    chains = sample(posterior, SGLD(lr=lr, temperature=HEAT), **RUN, num_chains=4 * RUNS, batch_size=batch_size,
                    init={"a.weight": y.mean(0)[:3, None], "b.weight": y.mean(0)[3:, None]})  # fmt: skip
    noise = y.var(0) / sd**4 / batch_size * (1 - batch_size / num_data)
    readings = (HEAT + lr * num_data * noise / 2) / (1 - lr / sd**2 / 2)
    assert (readings / HEAT).min() > 1.5
    parts = groups_of(chains, 4)
    for found in ([temperature(part, posterior, max_draws=1200) for part in parts], [temperature(p) for p in parts]):
        assert_covered([t.interval for t in found], readings.mean().item())
    assert_covered(
        [(v - 1.98 * e, v + 1.98 * e) for v, e in (t.blocks["b"] for t in found)], readings[3:].mean().item()
    )
