"""Suggested settings keep their promise: on models whose biases are known, and by sampling with them."""

from __future__ import annotations

import math

import pytest
import torch
from langevin.diagnostics import convergence, suggest, temperature
from langevin.samplers import (
    HMC,
    PSGLD,
    SGHMC,
    SGLD,
    SGNHT,
    LogDensity,
    Polynomial,
    Posterior,
    bernoulli,
    gaussian,
    sample,
)
from torch import nn
from torch.distributions import Normal

from tests.validity.replicates import Mean

CURVATURE = torch.tensor([0.5, 1.0, 2.0, 8.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def quadratic() -> LogDensity:
    return LogDensity(lambda at: -0.5 * (CURVATURE * at["w"] ** 2).sum(-1), {"w": torch.zeros(4, dtype=torch.float64)})


@pytest.fixture(scope="module")
def mean() -> Posterior:
    y = torch.randn(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Posterior(Mean(3), gaussian(1.0), (torch.zeros(2000, 1, dtype=torch.float64), y))


@pytest.fixture(scope="module")
def logistic() -> Posterior:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 5, generator=generator) * torch.linspace(0.5, 2, 5)
    y = (x.sum(-1, keepdim=True) + torch.randn(500, 1, generator=generator) > 0).float()
    return Posterior(nn.Linear(5, 1), bernoulli, (x, y), prior=Normal(0.0, 1.0))


def test_curvature_bounds_the_step(quadratic: LogDensity) -> None:
    """Tr H/D = 2.875: lr 2 · 2.5 %/2.875 keeps the temperature, and the stiffest direction would allow 2 · 0.2/8."""
    found = suggest(quadratic, SGLD(lr=1.0), pilot_steps=100)
    assert found.sampler.lr == pytest.approx(0.05 / 2.875, rel=0.06)
    assert found.sampler.lr <= 0.05 / 2.875
    assert "temperature" in found.reasons[0]
    wide = suggest(quadratic, SGLD(lr=1.0), pilot_steps=100, tolerance=0.5)
    assert wide.sampler.lr == pytest.approx(0.2 * 2 / 8, rel=1e-6)
    assert "limit of stability" in wide.reasons[0]


def test_momentum_allows_longer_steps(quadratic: LogDensity) -> None:
    assert suggest(quadratic, SGHMC(lr=1.0), pilot_steps=100).sampler.lr == pytest.approx(0.2 * 2 * 1.9 / 8, rel=0.06)


@pytest.mark.parametrize(("sampler", "memory"), [(SGLD(lr=1.0), 1.0), (SGHMC(lr=1.0, momentum=0.8), 5.0)])
def test_noise_of_a_given_batch_bounds_the_step(mean: Posterior, sampler: SGLD, memory: float) -> None:
    """T_mb = ε (N/2) s² (1/B − 1/N)/(1 − β) with s² = 1 is half of the tolerance."""
    found = suggest(mean, sampler, batch_size=20, pilot_steps=100)
    expected = 0.025 / (1000 * (1 / 20 - 1 / 2000) * memory)
    assert found.sampler.lr == pytest.approx(expected, rel=0.2)  # s² is estimated from 64 batches
    assert "noise of these batches" in found.reasons[0]
    assert found.batch_size == 20


def test_chosen_batch_is_the_smallest_that_leaves_lr_to_curvature(mean: Posterior) -> None:
    """Where T_mb is half of the tolerance, 1/B = 1/N + tolerance/(ε N)."""
    found = suggest(mean, SGLD(lr=1.0), tolerance=0.4, pilot_steps=100)  # lr: 1/5 of the limit, 2
    lr = found.sampler.lr
    assert lr == pytest.approx(0.4, rel=0.03)  # two digits, downwards
    assert found.batch_size == pytest.approx(1 / (1 / 2000 + 0.4 / (lr * 2000)), rel=0.1)
    assert "smallest" in found.reasons[1]
    strict = suggest(mean, SGLD(lr=1.0), tolerance=0.1, pilot_steps=100)
    assert strict.sampler.lr == pytest.approx(0.1, rel=0.06)


def test_thermostats_do_not_mind_noise(mean: Posterior) -> None:
    thermostat = suggest(mean, SGNHT(lr=1.0), batch_size=20, pilot_steps=100)
    assert thermostat.sampler.lr == pytest.approx(0.2 * 2 * 1.9, rel=0.06)
    assert "thermostat" in thermostat.reasons[1]


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(SGLD(lr=1.0), id="SGLD", marks=pytest.mark.slow),
        pytest.param(SGHMC(lr=1.0), id="SGHMC"),
        pytest.param(PSGLD(lr=1.0), id="PSGLD", marks=pytest.mark.slow),
    ],
)
def test_a_run_with_the_suggestion_is_as_promised(logistic: Posterior, sampler: SGLD) -> None:
    found = suggest(logistic, sampler, init="mode")
    chains = sample(logistic, found.sampler, init="mode", seed=7, progress=False, **found.settings)
    read = temperature(chains, logistic)
    assert read.interval[0] < 1 + 0.05 * 1.2  # the tolerance, to first order in lr
    judged = convergence(chains)
    assert judged.min_ess > 200
    assert judged.max_rhat < 1.02


def test_it_says_what_it_suggests(logistic: Posterior) -> None:
    found = suggest(logistic, SGLD(lr=1.0), pilot_steps=200)
    text = str(found)
    assert text.startswith(f"sample(posterior, SGLD(lr={found.sampler.lr}")
    assert f"{found.num_warmup + 500 * found.thinning:,} steps a chain" in text
    assert math.isfinite(found.step.acceptance)


@pytest.mark.parametrize(
    ("sampler", "settings", "message"),
    [
        (HMC(), {}, "finds its own"),
        (PSGLD(lr=1.0, adapt="always"), {}, "cannot be suggested"),
        (SGLD(lr=1.0, temperature=0.0), {}, "temperature 0.0"),
        (SGLD(lr=1.0), {"tolerance": 0.0}, "tolerance"),
        (SGLD(lr=1.0), {"pilot_steps": 10}, "pilot_steps"),
        (SGLD(lr=1.0), {"batch_size": 501}, "501"),
    ],
)
def test_bad_settings_are_refused(logistic: Posterior, sampler: object, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suggest(logistic, sampler, **settings)


def test_a_schedule_is_replaced_by_a_number(quadratic: LogDensity) -> None:
    schedule = Polynomial(a=0.1)
    assert isinstance(suggest(quadratic, SGLD(lr=schedule), pilot_steps=100).sampler.lr, float)
