"""Steps beside curvature and a Metropolis test: what is known in closed form on quadratic costs."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest
import torch
from langevin.diagnostics import step_size
from langevin.diagnostics.step_size import curvature
from langevin.samplers import HMC, NGD, PSGLD, SGHMC, SGLD, SGNHT, Chains, LogDensity, Posterior, gaussian, sample
from torch import Tensor, nn
from torch.distributions import Normal

CURVATURE = torch.tensor([0.5, 1.0, 2.0, 8.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def quadratic() -> LogDensity:
    return LogDensity(lambda at: -0.5 * (CURVATURE * at["w"] ** 2).sum(-1), {"w": torch.zeros(4, dtype=torch.float64)})


def exact(lr: float, num_draws: int, seed: int = 0) -> Tensor:
    """Independent draws of the law of SGLD's positions on the quadratic cost."""
    spread = (1 / (CURVATURE * (1 - lr * CURVATURE / 2))).sqrt()
    return spread * torch.randn(4, num_draws, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw(target: LogDensity, sampler: object, **settings: object) -> Chains:
    arguments = {"num_samples": 50, "num_warmup": 50, "progress": False, "compile": False} | settings
    return sample(target, sampler, **arguments)  # type: ignore[arg-type]


def test_limit_and_stretch_of_sgld(quadratic: LogDensity) -> None:
    judged = step_size(draw(quadratic, SGLD(lr=0.1)), quadratic)
    assert judged.curvature.largest == pytest.approx(8.0)
    assert judged.curvature.average == pytest.approx(float(CURVATURE.mean()))
    assert judged.limit == pytest.approx(2 / 8)
    assert judged.stretch == pytest.approx(1 / (1 - 0.1 * 8 / 2))
    assert judged.average_stretch == pytest.approx(1 + 0.1 * float(CURVATURE.mean()) / 2)


@pytest.mark.parametrize("sampler", [SGHMC(lr=0.1, momentum=0.8), SGNHT(lr=0.1, momentum=0.8)])
def test_momentum_doubles_the_limit_and_does_not_stretch(quadratic: LogDensity, sampler: object) -> None:
    judged = step_size(draw(quadratic, sampler), quadratic)
    assert judged.limit == pytest.approx(2 * 1.8 / 8)
    assert judged.stretch == judged.average_stretch == 1.0


@pytest.mark.parametrize(("sampler", "limit"), [(SGLD(lr=1.0), 0.25), (SGHMC(lr=1.0, momentum=0.5), 0.375)])
def test_chains_explode_beyond_the_limit_and_not_before(quadratic: LogDensity, sampler: SGLD, limit: float) -> None:
    judged = step_size(draw(quadratic, replace(sampler, lr=0.01)), quadratic)
    assert judged.limit == pytest.approx(limit)
    near = draw(quadratic, replace(sampler, lr=0.98 * limit), num_samples=500).position(quadratic)
    assert float(near.abs().max()) < 100
    with pytest.warns(UserWarning, match="stopped"):
        assert draw(quadratic, replace(sampler, lr=1.5 * limit), num_samples=2000).attrs["stopped"]


def test_preconditioner_enters_the_curvature(quadratic: LogDensity) -> None:
    chains = draw(quadratic, PSGLD(lr=0.01))
    M = 1 / (1e-5 + chains.state["square"].sqrt())
    found, expected = step_size(chains, quadratic).curvature, (M * CURVATURE).max(-1).values
    assert found.extreme == pytest.approx(float(expected.max()), rel=1e-6)
    assert found.largest == pytest.approx(float(expected.mean()), rel=1e-6)


def test_acceptance_is_that_of_mala(quadratic: LogDensity, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hastings ratio from the proposal's densities, at other draws of the same law."""
    lr, T = 0.15, 1.7
    monkeypatch.setattr(sys.modules["langevin.diagnostics.step_size"], "_MOST", 20_000)
    chains = draw(quadratic, SGLD(lr=lr, temperature=T), num_samples=5000)
    chains = replace(chains, draws={"w": T**0.5 * exact(lr, 5000)})
    judged = step_size(chains, quadratic)

    ω = T**0.5 * exact(lr, 100_000, seed=1).flatten(0, 1)
    there = ω - lr * CURVATURE * ω + (2 * T * lr) ** 0.5 * torch.randn(ω.shape, dtype=ω.dtype)

    def log_proposal(to: Tensor, at: Tensor) -> Tensor:
        return -(to - at + lr * CURVATURE * at).square().sum(-1) / (4 * lr * T)

    log_ratio = -0.5 * (CURVATURE * (there**2 - ω**2)).sum(-1) / T + log_proposal(ω, there) - log_proposal(there, ω)
    expected = log_ratio.clamp(max=0).exp().mean()
    assert judged.num_tested == 20_000
    assert 0.3 < float(expected) < 0.95
    assert abs(judged.acceptance - float(expected)) < 4 * judged.acceptance_error


def test_largest_curvature_of_many_parameters_by_lanczos() -> None:
    """The largest of 500 eigenvalues stands out a little, and 24 products find it to a thousandth."""
    values = torch.linspace(0.01, 1, 500, dtype=torch.float64)
    values[-1] = 1.1
    rotation = torch.linalg.qr(torch.randn(500, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[
        0
    ]
    H = rotation @ torch.diag(values) @ rotation.T
    density = LogDensity(lambda at: -0.5 * ((at["w"] @ H) * at["w"]).sum(-1), {"w": torch.zeros(500, dtype=H.dtype)})
    found = curvature(density, torch.zeros(2, 500, dtype=H.dtype))
    assert found.largest == pytest.approx(1.1, rel=3e-3)
    assert found.largest <= 1.1 + 1e-9
    assert found.average == pytest.approx(float(values.mean()), rel=0.1)


def test_share_of_minibatch_noise_is_that_of_the_run() -> None:
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    posterior = Posterior(nn.Linear(3, 1), gaussian(1.0), (x, x.sum(-1, keepdim=True)), prior=Normal(0.0, 1.0))
    settings = {"num_samples": 20, "num_warmup": 20, "progress": False, "compile": False}
    chains = sample(posterior, SGLD(lr=0.1, temperature=2.0), batch_size=10, **settings)
    judged = step_size(chains, posterior)
    assert judged.batch_share == pytest.approx(chains.attrs["batch_temperature"] / 2.0)
    assert judged.curvature.num_examples == 100
    assert "minibatch noise" in str(judged)


def test_stopped_chains_are_left_out(quadratic: LogDensity) -> None:
    start = torch.zeros(3, 4, dtype=torch.float64)
    start[1] = 1e300
    with pytest.warns(UserWarning, match="chain 1 stopped"):
        chains = draw(quadratic, SGLD(lr=0.2), num_chains=3, init=start)
    assert math.isfinite(step_size(chains, quadratic).acceptance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attrs": {"sampler": "NGD", "temperature": 1.0}}, "NGD are not judged"),
        ({"attrs": {"sampler": "SGLD", "temperature": 0.0}}, "temperature 0.0"),
        ({"attrs": {"sampler": "PSGLD", "temperature": 1.0}, "state": {}}, "no final state"),
    ],
)
def test_what_cannot_be_judged_is_refused(quadratic: LogDensity, change: dict, message: str) -> None:
    chains = draw(quadratic, SGLD(lr=0.1))
    with pytest.raises(ValueError, match=message):
        step_size(replace(chains, **change), quadratic)


def test_other_samplers_are_refused(quadratic: LogDensity) -> None:
    with pytest.raises(ValueError, match="HMC are not judged"):
        step_size(draw(quadratic, HMC()), quadratic)
    assert NGD  # natural gradients have a metric of their own, which no diagonal stands for
