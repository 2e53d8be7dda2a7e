"""A run at half its lr shows the bias of the whole."""

from __future__ import annotations

import pytest
import torch
from langevin.diagnostics import halve_step
from langevin.samplers import SGHMC, SGLD, LogDensity, sample

CURVATURE = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
SETTINGS = {
    "num_samples": 150,
    "num_warmup": 200,
    "thinning": 5,
    "num_chains": 200,
    "progress": False,
    "compile": False,
}


@pytest.fixture(scope="module")
def quadratic() -> LogDensity:
    return LogDensity(lambda at: -0.5 * (CURVATURE * at["w"] ** 2).sum(-1), {"w": torch.zeros(3, dtype=torch.float64)})


def test_bias_of_sgld_is_seen_and_extrapolated(quadratic: LogDensity) -> None:
    sampler = SGLD(lr=0.15)
    found = halve_step(sample(quadratic, sampler, **SETTINGS), quadratic, sampler, progress=False, compile=False)
    assert not found.agree
    assert found.runs.beyond[-1]
    assert found.half.attrs["settings"]["lr"] == 0.075
    assert found.half.attrs["thinning"] == 10
    r = 0.15 * CURVATURE / 2
    by_halving = (1 - r / 2) / (1 - r)  # squared ratio of spreads at ε and ε/2, that is of ε to 0 at first order
    z = (found.spread_bias.log() - by_halving.log()) / found.spread_error
    assert float(z.abs().max()) < 4
    assert "lr → 0" in str(found)


def test_a_sampler_that_is_exact_agrees(quadratic: LogDensity) -> None:
    sampler = SGHMC(lr=0.15)
    found = halve_step(sample(quadratic, sampler, **SETTINGS), quadratic, sampler, progress=False, compile=False)
    assert found.agree, str(found)


def test_arguments_of_sample_can_be_replaced(quadratic: LogDensity) -> None:
    sampler = SGLD(lr=0.1)
    chains = sample(quadratic, sampler, **SETTINGS)
    found = halve_step(chains, quadratic, sampler, num_samples=30, thinning=1, progress=False, compile=False)
    assert found.half.num_draws == 30
    assert found.half.attrs["seed"] == chains.attrs["seed"] + 1
    assert not torch.equal(found.half.draws["w"][:, :30], chains.draws["w"][:, :30])


@pytest.mark.parametrize(("sampler", "message"), [(SGLD(lr=0.2), "lr = 0.1"), (SGHMC(lr=0.1), "not by SGHMC")])
def test_another_sampler_is_refused(quadratic: LogDensity, sampler: object, message: str) -> None:
    chains = sample(quadratic, SGLD(lr=0.1), num_samples=4, progress=False, compile=False)
    with pytest.raises(ValueError, match=message):
        halve_step(chains, quadratic, sampler)
