"""Samplers as optimisers: `find_mode` runs them at temperature 0."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from langevin.samplers import (
    ASGLD,
    HMC,
    NGD,
    PSGLD,
    SGFS,
    SGHMC,
    SGLD,
    SGNHT,
    AdaBayes,
    AdaBayesFP,
    ConstantMetric,
    Cyclical,
    Fisher,
    Posterior,
    RiemannianLangevin,
    SecondOrderSGD,
    bernoulli,
    categorical,
    find_mode,
    gaussian,
)
from langevin.samplers.modes import GaussNewton, NaturalNewton, SaddleFreeNewton, smallest_curvature
from langevin.samplers.modes.steps import at_zero_temperature
from torch import nn

from tests.samplers.small import classifier, noise_of, positions, seeded


def logistic() -> Posterior:
    x = seeded(200, 3)
    return Posterior(
        nn.Linear(3, 1, bias=False).double(), bernoulli, (x, (x[:, :1] + 0.5 * seeded(200, 1, seed=1) > 0).double())
    )


def blobs() -> Posterior:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    labels = torch.arange(90) % 3
    centers = torch.tensor([[0.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return Posterior(model, categorical, (centers[labels] + 0.5 * seeded(90, 2), labels))


SGD = torch.optim.SGD
FULL, BATCH = {"num_steps": 50}, {"num_steps": 50, "batch_size": 20}


@pytest.mark.filterwarnings("ignore:find_mode stopped before converging")
@pytest.mark.parametrize("settings", [FULL, BATCH], ids=["full", "minibatches"])
@pytest.mark.parametrize(
    ("sampler", "optimizer"),
    [
        (SGLD(lr=0.3), SGD),
        (SGLD(lr=0.3, temperature=0.0), SGD),
        (RiemannianLangevin(lr=0.3, metric=ConstantMetric(torch.ones(3, dtype=torch.float64))), SGD),
        (SGHMC(lr=0.1, momentum=0.8), partial(SGD, momentum=0.8)),
    ],
)
def test_langevin_without_temperature_is_gradient_descent(sampler, optimizer, settings):
    posterior, lr = logistic(), sampler.lr
    expected = find_mode(posterior, optimizer, lr=lr, **settings)
    if "batch_size" in settings:  # torch.optim's lr falls along half a cosine
        sampler = dataclasses.replace(sampler, lr=Cyclical(value=lr, length=50))
    torch.testing.assert_close(find_mode(posterior, sampler, **settings), expected, rtol=1e-12, atol=1e-12)


def test_natural_gradient_at_the_paper_s_temperature_is_the_preconditioned_step():
    posterior, metric = logistic(), Fisher(damping=0.1)
    with pytest.warns(RuntimeWarning, match="stopped before converging after 1 steps"):
        found = find_mode(posterior, NGD(lr=0.5, metric=metric), num_steps=1)
    at = posterior.default_position()[None]
    _, g = posterior.cost_and_gradient(at)
    torch.testing.assert_close(found, (at - 0.5 * metric.at(posterior, at, noise_of(chains=1)).solve(g))[0])


@pytest.mark.parametrize("structure", ["kronecker", "dense"])
def test_natural_gradient_descent_trains_a_classifier(structure):
    posterior = blobs()
    mode = find_mode(posterior, NGD(lr=0.5, metric=Fisher(structure=structure, damping=3e-2)), num_steps=3000)
    assert posterior.cost_and_gradient(mode[None])[1].abs().max() <= 1e-6
    assert smallest_curvature(posterior, mode)[0] > 0
    accuracy = (posterior.call(mode, posterior.inputs).argmax(-1) == posterior.targets).double().mean()
    assert accuracy > 0.85


def test_kfac_needs_fewer_steps_than_gradient_descent():
    posterior = blobs()
    with pytest.warns(RuntimeWarning, match="stopped before converging"):
        kfac = find_mode(posterior, NGD(lr=0.5, metric=Fisher(structure="kronecker", damping=3e-2)), num_steps=30)
    costs = []
    for lr in (0.1, 0.3, 1.0, 3.0):
        with pytest.warns(RuntimeWarning, match="stopped before converging"):
            costs.append(float(posterior.cost(find_mode(posterior, "SGD", lr=lr, num_steps=30)[None])))
    assert float(posterior.cost(kfac[None])) < min(costs)


@pytest.mark.filterwarnings("ignore:find_mode stopped before converging")
@pytest.mark.parametrize("batch_size", [None, 50])
@pytest.mark.parametrize(
    "sampler",
    [
        PSGLD(lr=0.01),
        ASGLD(lr=0.1),
        SGHMC(lr=0.02),
        AdaBayes(lr=1.0, adam_lr=0.05),
        AdaBayesFP(lr=1.0, adam_lr=0.05),
        SecondOrderSGD(smoothness=1.0),
        NGD(lr=0.1, metric=Fisher(damping=0.1, average=0.9)),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_every_sampler_that_can_goes_downhill(sampler, batch_size):
    posterior = logistic()
    best = float(posterior.cost(find_mode(posterior)[None]))
    begin = float(posterior.cost(posterior.default_position()[None]))
    found = float(posterior.cost(find_mode(posterior, sampler, num_steps=500, batch_size=batch_size)[None]))
    assert found - best < 0.05 * (begin - best)


def test_what_adapts_in_warm_up_adapts_to_the_end():
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Spy(SGLD):
        def init(self, target, position, num_warmup=0):
            seen.append(num_warmup)
            return super().init(target, position, num_warmup)

    with pytest.warns(RuntimeWarning, match="stopped before converging"):
        find_mode(logistic(), Spy(lr=0.1), num_steps=7)
    assert seen == [7]


def test_the_temperature_becomes_zero_and_none_stays():
    assert at_zero_temperature(SGLD(lr=0.1, temperature=3.0)).temperature == 0
    ngd = NGD(lr=0.1, metric=Fisher(damping=0.1))
    assert at_zero_temperature(ngd) is ngd
    assert at_zero_temperature(dataclasses.replace(ngd, temperature=2.0)).temperature == 0


@pytest.mark.parametrize(
    "sampler", [HMC(), SGNHT(lr=0.1), SGFS(lr=0.1, metric=Fisher(damping=0.1))], ids=lambda s: type(s).__name__
)
def test_samplers_that_do_not_run_at_zero_are_refused(sampler):
    with pytest.raises(
        ValueError, match=f"{type(sampler).__name__} cannot look for a mode.*temperature 0: temperature"
    ):
        find_mode(logistic(), sampler)


@pytest.mark.parametrize(
    ("optimizer", "settings", "message"),
    [
        (SGLD, {}, r"optimizer is the class SGLD: give one with its settings, SGLD\(…\)"),
        (SGLD(lr=0.1), {"lr": 0.1}, "lr=0.1 is for torch.optim optimisers; SGLD has settings of its own"),
        (SGLD(lr=0.1), {"batch_size": 201}, "batch_size must lie in"),
        (NGD(lr=0.1, metric=Fisher(damping=0.1), temperature=1.0), {"batch_size": 20}, "more than the 0 asked for"),
    ],
)
def test_settings_that_do_not_fit_are_named(optimizer, settings, message):
    with pytest.raises(ValueError, match=message):
        find_mode(logistic(), optimizer, **settings)


def test_divergence_is_an_error():
    x = 100 * seeded(50, 3)
    posterior = Posterior(nn.Linear(3, 1).double(), gaussian(0.01), (x, x[:, :1]))
    with pytest.raises(FloatingPointError, match="of SGLD; lower lr"):
        find_mode(posterior, SGLD(lr=1.0))


@pytest.mark.parametrize(
    "method",
    [GaussNewton(), SaddleFreeNewton(num_vectors=5), NaturalNewton(sigma=0.1, damping=0.1)],
    ids=lambda method: type(method).__name__,
)
def test_chains_do_not_interact(method):
    posterior = classifier()
    at = positions(posterior, 3)
    together, alone = method.init(posterior, at), method.init(posterior, at[1:2])
    for step in range(12):
        noise = noise_of(step, chains=3)
        together = method.step(posterior, together, None, noise)
        alone = method.step(posterior, alone, None, type(noise)(noise.keys[1:2], noise.step, noise.dtype))
    torch.testing.assert_close(alone.position[0], together.position[1], rtol=1e-6, atol=1e-8)
    assert not torch.allclose(together.position[0], together.position[1])


def test_a_seed_decides_the_minibatches():
    posterior = logistic()

    def run(seed):
        with pytest.warns(RuntimeWarning, match="stopped before converging"):
            return find_mode(posterior, SGLD(lr=0.1), batch_size=10, num_steps=20, seed=seed)

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
