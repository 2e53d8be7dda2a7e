"""Control variates leave the mean of minibatch gradients as it is, and take their variance away near the anchor."""

import pytest
import torch
from langevin.samplers import NGD, SGHMC, SGLD, Fisher, Posterior, bernoulli, find_mode, gaussian, sample
from torch import nn
from torch.distributions import Normal

from tests.validity.replicates import Mean

N = 200


def logistic() -> Posterior:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 3, dtype=torch.float64, generator=generator)
    y = (torch.rand(N, dtype=torch.float64, generator=generator) < torch.sigmoid(x @ torch.ones(3).double())).double()
    torch.manual_seed(0)
    return Posterior(nn.Linear(3, 1).double(), bernoulli, (x, y[:, None]), prior=Normal(0.0, 3.0))


def test_gradient_is_unbiased_and_its_variance_falls_with_the_distance_squared():
    posterior = logistic()
    mode = find_mode(posterior)
    varied = posterior.with_control_variate(mode)
    everything = torch.randperm(N, generator=torch.Generator().manual_seed(1)).reshape(40, 5)
    spreads = []
    for distance in (0.01, 0.1):
        position = (mode + distance).expand(40, -1)
        full_cost, full = posterior.cost_and_gradient(position[:1])
        cost, gradient = varied.cost_and_gradient(position, everything)
        # The batches are a partition: their mean is the full gradient, exactly.
        torch.testing.assert_close(gradient.mean(0), full[0])
        torch.testing.assert_close(cost.mean(), full_cost[0])
        spreads.append(gradient.std(0).norm())
        plain = posterior.cost_and_gradient(position, everything)[1]
        assert spreads[-1] < 1.1 * distance * plain.std(0).norm()
    assert spreads[1] / spreads[0] == pytest.approx(10.0, rel=0.1)


def test_gradient_belongs_to_the_cost():
    varied = logistic().with_control_variate(torch.full((4,), 0.3))
    batch = torch.arange(8).reshape(2, 4)
    position = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradient = torch.func.grad(lambda p: varied.cost_and_gradient(p, batch)[0].sum())(position)
    torch.testing.assert_close(gradient / N, varied.cost_and_gradient(position, batch)[1])


@pytest.mark.parametrize("sampler", [SGLD(lr=0.05), SGHMC(lr=0.05)])
def test_gaussian_means_lose_all_minibatch_noise(sampler):
    y = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    posterior = Posterior(Mean(2), gaussian(0.5), (torch.zeros(40, 1, dtype=torch.float64), y), prior=None)
    varied = posterior.with_control_variate({"mean": torch.ones(2)})
    settings = {"num_samples": 50, "num_chains": 2, "progress": False, "compile": False}
    full = sample(posterior, sampler, **settings)
    batches = sample(varied, sampler, batch_size=3, **settings)
    torch.testing.assert_close(batches.draws["mean"], full.draws["mean"])
    assert batches.attrs["batch_temperature"] == pytest.approx(0.0, abs=1e-12)


def test_it_follows_the_posterior_to_another_type():
    varied = logistic().with_control_variate(torch.zeros(4))
    assert varied.to(dtype=torch.float32).has_control_variate


@pytest.mark.slow
def test_it_compiles():
    varied = logistic().with_control_variate(torch.zeros(4))
    settings = {"num_samples": 20, "num_chains": 2, "batch_size": 5, "progress": False}
    eager = sample(varied, SGLD(lr=0.1), compile=False, **settings)
    fast = sample(varied, SGLD(lr=0.1), compile=True, **settings)
    torch.testing.assert_close(eager.draws["weight"], fast.draws["weight"])


def test_bad_anchors_and_samplers_are_refused():
    posterior = logistic()
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(3,\)"):
        posterior.with_control_variate(torch.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        posterior.with_control_variate(torch.full((4,), float("nan")))
    with pytest.raises(ValueError, match="takes most of it away"):
        sample(
            posterior.with_control_variate(torch.zeros(4)),
            NGD(lr=0.1, metric=Fisher(damping=0.1)),
            num_samples=2,
            batch_size=5,
        )
