"""The mean force: silent for right chains, an alarm for those of another cost and for those that drift."""

import math

import pytest
import torch
from langevin.diagnostics import force as module
from langevin.diagnostics.thermometer import temperature
from langevin.samplers import SGLD, SNGD, Chains, Fisher, LogDensity, Posterior, bernoulli, gaussian, sample
from langevin.samplers.metrics import log_det_gradient
from langevin.samplers.metrics.metric import no_noise
from torch import nn
from torch.distributions import Normal

from tests.diagnostics.repetitions import groups_of

MEAN, SD = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64), torch.tensor([1.0, 0.2, 0.5], dtype=torch.float64)


def target():
    return LogDensity(lambda v: -0.5 * (((v["w"] - MEAN) / SD) ** 2).sum(), {"w": torch.zeros(3, dtype=torch.float64)})


def autoregressive(num_chains, num_draws, rho, seed=0):
    """Stationary AR(1), unit variance, `[chain, draw, 3]`."""
    x = torch.randn(num_chains, num_draws, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for t in range(1, num_draws):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * x[:, t]
    return x


def chains_of(x, heat=1.0, **stats):
    attrs = {"temperature": heat, "chain_ids": list(range(len(x)))}
    return Chains({"w": MEAN + math.sqrt(heat) * SD * x}, stats, attrs)


def force_of(chains, posterior=None, **settings):
    return temperature(chains, target() if posterior is None else posterior, **settings).force


def alarms(chains, posterior=None):
    return [force_of(part, posterior).distance > 0 for part in groups_of(chains, 4)]


@pytest.mark.parametrize(("rho", "kept"), [(0.0, 2**23), (0.6, 2**23), (0.6, 1)])
def test_right_chains_rarely_alarm(rho, kept, monkeypatch):
    monkeypatch.setattr(module, "_KEPT", kept)
    assert sum(alarms(chains_of(autoregressive(800, 50, rho), heat=0.3))) <= 4  # of 200


def test_langevin_dynamics_with_long_steps_rarely_alarms():
    """The mean is exact at any lr, where the temperature is 1.8 in the stiffest direction."""
    chains = sample(target(), SGLD(lr=0.035), num_samples=50, num_warmup=200, num_chains=400, progress=False,
                    compile=False, init=MEAN, thinning=20)  # fmt: skip
    assert sum(alarms(chains)) <= 3  # of 100


def test_a_shift_is_told_in_standard_deviations():
    """Independent draws δ standard deviations off, with the error that n of them have."""
    x = autoregressive(4, 500, 0.0) + torch.tensor([0.0, 0.5, -0.2], dtype=torch.float64)
    found = force_of(chains_of(x, heat=2.0), max_draws=2000)
    torch.testing.assert_close(found.shift, x.mean((0, 1)) * x.flatten(0, 1).std(0), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.error, torch.full((3,), 2000**-0.5, dtype=torch.float64), rtol=0.4, atol=0.0)
    worst = found.worst(2)
    assert [row["name"] for row in worst] == ["w[1]", "w[2]"]
    assert found.distance == pytest.approx(abs(worst[0]["shift"]) - worst[0]["limit"])
    assert 0.3 < found.distance < 0.5
    assert "w[1]" in str(temperature(chains_of(x, heat=2.0), target()))


def test_segments_give_the_same_mean_and_about_the_same_error(monkeypatch):
    chains = chains_of(autoregressive(4, 400, 0.5))
    every = force_of(chains, max_draws=1600)
    monkeypatch.setattr(module, "_KEPT", 1)
    few = force_of(chains, max_draws=1600)
    torch.testing.assert_close(few.shift, every.shift)
    torch.testing.assert_close(few.error, every.error, rtol=0.6, atol=0.0)


def regression(prior_sd):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 2, dtype=torch.float64, generator=generator)
    y = x @ torch.tensor([[1.5], [-1.0]], dtype=torch.float64) + torch.randn(
        20, 1, dtype=torch.float64, generator=generator
    )
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    prior = Normal(torch.zeros((), dtype=torch.float64), torch.tensor(prior_sd, dtype=torch.float64))
    return Posterior(model, gaussian(1.0), (x, y), prior=prior)


def test_chains_of_a_prior_counted_twice_alarm():
    right, doubled = regression(0.5), regression(0.5 / math.sqrt(2))
    run = {"num_samples": 100, "num_warmup": 200, "thinning": 20, "num_chains": 80, "progress": False, "compile": False}
    assert sum(alarms(sample(doubled, SGLD(lr=0.02), **run), right)) >= 18  # of 20
    assert sum(alarms(sample(right, SGLD(lr=0.02), **run), right)) <= 1


def test_drifting_chains_alarm():
    """Still on their way from far, at a crawl."""
    far = MEAN + 6 * SD
    chains = sample(target(), SGLD(lr=1e-5), num_samples=100, num_chains=4, thinning=10, init=far, progress=False,
                    compile=False)  # fmt: skip
    found = force_of(chains)
    assert found.distance > 0
    assert found.shift[found.shift.abs().argmax()] > 0


def test_draws_count_by_their_weight():
    """Half of the draws lie off, and weigh nothing."""
    x = autoregressive(4, 100, 0.0)
    x[:, 1::2] += 2
    weight = torch.ones(4, 100)
    weight[:, 1::2] = 0.0
    alone = force_of(chains_of(x[:, ::2]), max_draws=400)
    weighted = force_of(chains_of(x, weight=weight), max_draws=400)
    torch.testing.assert_close(weighted.shift, alone.shift, rtol=1e-6, atol=1e-9)
    assert weighted.distance == 0
    assert bool((weighted.error > 0.8 * alone.error).all())
    assert force_of(chains_of(x), max_draws=400).distance > 0


def test_jeffreys_chains_feel_the_measure():
    """⟨∇C − ½T∇log|G|⟩ = 0: the same sums from the metric, draw by draw."""
    metric = Fisher(damping=0.1)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 1, dtype=torch.float64, generator=generator)
    y = (x > 0).double()
    posterior = Posterior(nn.Linear(1, 1, dtype=torch.float64), bernoulli, (x, y))
    chains = sample(posterior, SNGD(lr=0.02, metric=metric), num_samples=10, num_warmup=50, num_chains=2, batch_size=10,
                    progress=False, compile=False)  # fmt: skip
    found = temperature(chains, posterior, metric=metric)
    at = chains.position(posterior).flatten(0, 1)
    noise = no_noise(posterior, len(at))
    tilt = log_det_gradient(metric, metric.at(posterior, at, noise), posterior, at, noise)
    T = chains.attrs["temperature"]
    force = 20 * posterior.cost_and_gradient(at)[1] - 0.5 * T * tilt
    assert found.force is not None
    torch.testing.assert_close(found.force.shift, force.mean(0) * at.std(0) / T, rtol=1e-6, atol=1e-9)
    assert bool((tilt.abs().mean(0) > 0.01).all())
    assert temperature(chains, posterior).force is None  # without the metric


def test_no_alarm_where_nothing_can_be_told():
    few = force_of(chains_of(autoregressive(2, 5, 0.0) + 9))
    assert few.distance == 0.0
    assert few.worst() == []
    assert "cannot be told" in str(few)
    still = torch.full((2, 20, 3), 5.0, dtype=torch.float64)
    assert force_of(chains_of(still)).distance == 0.0
    chains = chains_of(autoregressive(2, 20, 0.0))
    del chains.attrs["temperature"]
    assert force_of(chains) is None
    chains.sample_stats["temperature"] = torch.rand(2, 20)
    assert temperature(chains).force is None
