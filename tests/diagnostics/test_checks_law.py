"""The checks of the law: forces and steps, from numbers set by hand, and in the report."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from langevin.diagnostics import report
from langevin.diagnostics.checks_law import force, step_length
from langevin.diagnostics.force import MeanForce
from langevin.diagnostics.rules import RULES
from langevin.diagnostics.step_size import Curvature, StepSize
from langevin.samplers import HMC, SGHMC, SGLD, LogDensity, Posterior, gaussian, sample
from langevin.samplers.target import Layout
from torch import nn
from torch.distributions import Normal

from .test_verdict import reading


def step(**changes: float) -> StepSize:
    plain = StepSize(
        lr=0.1,
        limit=1.0,
        stretch=1 / 0.9,
        average_stretch=1.01,
        batch_share=0.02,
        acceptance=0.9,
        acceptance_error=0.01,
        curvature=Curvature(largest=2.0, extreme=2.0, smallest=0.1, average=0.2, num_positions=4, num_examples=100),
        num_tested=400,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "trust"),
        ({"stretch": 2.0, "lr": 0.5}, "look"),
        ({"stretch": 5.0, "lr": 0.8}, "do not trust"),
        ({"stretch": 1.0, "lr": 0.79}, "trust"),
        ({"stretch": 1.0, "lr": 0.81}, "look"),
        ({"stretch": math.inf, "lr": 1.1}, "do not trust"),
    ],
)
def test_levels_of_step_length(changes: dict, level: str) -> None:
    assert step_length(step(**changes))[0].level == level


def test_advised_lr_meets_the_rules() -> None:
    for changes in ({"stretch": 5.0, "lr": 0.8}, {"stretch": 1.0, "lr": 1.2}):
        found = step_length(step(**changes))[0]
        lr = float(found.remedy.split("about ")[1].split(",")[0])
        stretch = 1 / (1 - lr) if changes["stretch"] > 1 else 1.0
        assert step_length(step(lr=lr, stretch=stretch))[0].level == "trust"
        assert lr > 0.2  # and is not far below what they allow


def test_acceptance_is_a_note_and_left_out_where_it_was_not_measured() -> None:
    assert [f.level for f in step_length(step())] == ["trust", "note"]
    assert len(step_length(step(acceptance=math.nan))) == 1


@pytest.mark.parametrize(("shift", "level"), [(0.25, "trust"), (0.5, "look"), (-0.9, "do not trust")])
def test_levels_of_mean_force(shift: float, level: str) -> None:
    limit, error = torch.full((2,), 0.3, dtype=torch.float64), torch.full((2,), 0.1, dtype=torch.float64)
    layout = Layout(("w",), (torch.Size([2]),))
    mean = MeanForce(torch.tensor([0.0, shift], dtype=torch.float64), error, limit, layout)
    (found,) = force(replace(reading(1.0), force=mean))
    assert found.level == level
    assert (level == "trust") == ("w[1]" not in found.sentence)
    assert force(reading(1.0)) == []
    assert force(replace(reading(1.0), force=replace(mean, error=error * math.nan, limit=limit * math.nan))) == []


def test_report_shows_steps_momenta_and_forces(tmp_path: Path) -> None:
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    posterior = Posterior(nn.Linear(2, 1), gaussian(1.0), (x, x.sum(-1, keepdim=True)), prior=Normal(0.0, 1.0))
    settings = {"num_samples": 60, "num_warmup": 100, "progress": False, "compile": False}
    chains = sample(posterior, SGHMC(lr=0.05), batch_size=20, **settings)
    text = report(chains, posterior=posterior, path=tmp_path / "r.html").path.read_text()
    for part in (
        "Step size and bias",
        "limit of stability",
        "temperature of the momenta",
        "a Metropolis test",
        "shift",
    ):
        assert part in text
    assert "Give <code>posterior=</code>" in report(chains, path=tmp_path / "alone.html").path.read_text()


@pytest.mark.parametrize("width", [0.5, 0.5 / 2**0.5], ids=["its prior", "a prior counted twice"])
def test_chains_of_another_cost_are_not_trusted(tmp_path: Path, width: float) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = (x, 2 * x.sum(-1, keepdim=True))
    drawn, true = (
        Posterior(nn.Linear(3, 1).double(), gaussian(1.0), data, prior=Normal(0.0, sd)) for sd in (width, 0.5)
    )
    chains = sample(drawn, HMC(), num_samples=500, num_warmup=200, init="mode", progress=False)
    found = report(chains, posterior=true, path=tmp_path / "r.html")
    level = next(f.level for f in found.findings if f.topic == "mean force")
    assert level == found.verdict == ("trust" if width == 0.5 else "do not trust")


def test_steps_near_the_limit_are_not_trusted(tmp_path: Path) -> None:
    """Only the step's length is wrong: one stiff direction among fifty leaves the temperature nearly right."""
    H = torch.cat((torch.ones(49), torch.tensor([40.0]))).double()
    density = LogDensity(lambda at: -0.5 * (H * at["w"] ** 2).sum(-1), {"w": torch.zeros(50, dtype=H.dtype)})
    settings = {"num_samples": 400, "num_warmup": 200, "thinning": 40, "progress": False, "num_chains": 8}
    chains = sample(density, SGLD(lr=0.04), **settings)
    found = report(chains, posterior=density, path=tmp_path / "r.html")
    levels = {f.topic: f.level for f in found.findings}
    assert levels["temperature"] == "trust"
    assert levels["step length"] == found.verdict == "do not trust"
    assert RULES["stretch"].bad == pytest.approx(4.0)
