"""The quick part of the test bed: every sampler where a theorem says what it must draw, in one family of comparisons.

`exact` cells hold the law of the discretised sampler on quadratic costs, at steps where its bias is many times the
Monte-Carlo error; `limit` cells extrapolate to ε → 0 on curved costs, where that is all that is known. The threshold is
one for all cells (see `bed.threshold`) and was there before the seeds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.validity import targets
from tests.validity.bed import Size, limit_z, run, threshold
from tests.validity.densities import bimodal, skewed
from tests.validity.laws import Quadratic, asgld, sghmc
from tests.validity.table import TABLE, example_noise, frozen_covariance

SEED = 20
EVEN = "mean, even noise"


@cache
def problem(name):
    return {
        "gaussian": targets.isotropic,
        "ill-conditioned": targets.ill_conditioned,
        "thousand": targets.thousand,
        "mean": targets.mean_problem,
        "mean with a prior": lambda: targets.mean_problem(prior=2.0),
        "mean with a prior, all data": lambda: targets.mean_problem(None, prior=2.0),
        EVEN: lambda: targets.mean_problem(correlated=False),
        "curved": targets.curved,
    }[name]()


SMALL = Size(chains=128)
FEW = Size(chains=64, kept=400)  # for costly steps
WIDE = Size(chains=64, least=250, kept=125, memories=5.0)
EXACT = [
    *(("gaussian", name, SMALL) for name in
      ("SGLD", "PSGLD", "SGHMC", "SGNHT", "RiemannianLangevin", "NGD, T = 1", "SNGD", "SGFS")),
    ("gaussian", "HMC", FEW),
    *(("ill-conditioned", name, SMALL) for name in ("RiemannianLangevin", "NGD, T = 1", "SNGD")),
    *(("thousand", name, WIDE) for name in ("SGLD", "SGNHT")),
    *(("mean", name, SMALL) for name in
      ("SGLD", "PSGLD", "SGHMC", "NGD, T = 1", "NGD", "SGFS", "ASGLD",
       "ConstantSGD, scalar", "ConstantSGD, diagonal", "ConstantSGD, full")),
    *(("mean", name, FEW) for name in ("RiemannianLangevin", "SNGD")),
    ("mean with a prior", "VON", replace(SMALL, chains=64)),
    ("mean with a prior, all data", "VON", SMALL),
]  # fmt: skip
CROWD = Size(chains=2048, memories=6.0, warmup=3.0, least=100, kept=200)
LIMIT = [
    *(("curved", name, CROWD, (0.025, 0.05, 0.1)) for name in ("SGLD", "PSGLD")),
    *(("curved", name, CROWD, (0.0125, 0.025, 0.05)) for name in ("SGHMC", "SGNHT")),
    ("curved", "RiemannianLangevin", CROWD, (0.01, 0.02, 0.04)),
    (EVEN, "SGNHT", Size(chains=512, least=300, kept=100), (0.0125, 0.025, 0.05)),
]
CELLS = len(EXACT) + len(LIMIT) + 1


def name_only(value):
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("target", "sampler", "size"), EXACT, ids=name_only)
def test_law_of_the_discretised_sampler(target, sampler, size):
    result = run(problem(target), TABLE[sampler], size, seed=SEED)
    assert result.stopped == 0
    z = result.z
    assert z.abs().max() < threshold(len(z), size.chains, CELLS), z


@pytest.mark.parametrize(("target", "sampler", "size", "steps"), LIMIT, ids=name_only)
def test_law_as_the_step_vanishes(target, sampler, size, steps):
    z, runs = limit_z(problem(target), TABLE[sampler], size, steps=steps, seed=SEED)
    assert all(r.stopped == 0 for r in runs)
    assert z.abs().max() < threshold(len(z), size.chains, CELLS), z


def absorbing_z(**settings):
    """SGNHT with minibatches at a small ε against exp(−C): there its bias is far below the Monte-Carlo error."""
    return run(problem(EVEN), TABLE["SGNHT"], SMALL, step=0.0125, seed=SEED, **settings).z_posterior


def test_a_thermostat_absorbs_even_minibatch_noise():
    z = absorbing_z()
    assert z.abs().max() < threshold(len(z), SMALL.chains, CELLS), z


def test_the_covariance_that_constant_sgd_freezes_is_that_of_the_examples():
    result = run(problem("mean"), TABLE["ConstantSGD, full"], replace(SMALL, chains=32, least=10, warmup=0.1))
    Σ = frozen_covariance(result.chains)[:, 0]
    torch.testing.assert_close(Σ, example_noise(problem("mean")).expand_as(Σ))


def one_dimension(noise: float) -> Quadratic:
    return Quadratic(
        torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64), 1,
        lambda batch: torch.full((1, 1, 1), 0.0 if batch is None else noise, dtype=torch.float64),
    )  # fmt: skip


def test_laws_are_the_closed_forms():
    """What the samplers are compared with, against what is known by hand in one dimension."""
    β, ε, s2 = 0.9, 0.1, 1.7
    closed = 1 + ε * (1 + β) * s2 / ((1 - β) * (2 * (1 + β) - ε))
    assert float(sghmc(one_dimension(s2), ε, 1.0, β, 1)) == pytest.approx(closed, rel=1e-12)
    assert float(sghmc(one_dimension(s2), 1.9, 1.0, β, None)) == pytest.approx(1.0, rel=1e-9)
    assert float(asgld(one_dimension(1.0), 0.1, 0.5, 0.9, 1)) == pytest.approx(0.07870, abs=5e-6)


@pytest.mark.parametrize("make", [targets.curved, skewed, bimodal])
def test_starting_points_have_the_moments_of_the_target(make):
    """Draws from the density itself against the stated truth: two ways to the same numbers."""
    target = make()
    statistics = target.statistics(target.start(200_000))
    z = (statistics.mean(0) - target.truth) / (statistics.std(0) / len(statistics) ** 0.5)
    assert z.abs().max() < 5, z


def test_the_threshold_counts_comparisons_and_cells():
    assert threshold(1, 10_000, 1, level=0.05) == pytest.approx(1.96, abs=0.01)
    assert threshold(20, 10_000, 1, level=0.05) == pytest.approx(3.02, abs=0.01)  # Šidák: 1 − 0.95^(1/20) = .00256
    assert threshold(20, 64, 40) > threshold(20, 10_000, 40) > threshold(20, 10_000, 1)
