"""The kinetic temperature: its value and the coverage of its χ² interval, on a quadratic."""

import pytest
import torch
from langevin.diagnostics.kinetic import kinetic_temperature
from langevin.samplers import HMC, SGHMC, SGLD, SGNHT, Chains, LogDensity, sample

from tests.diagnostics.repetitions import groups_of

CURVATURE = torch.tensor([1.0, 4.0, 0.3], dtype=torch.float64)
HEAT, RUNS = 0.5, 200


def target():
    return LogDensity(
        lambda values: -0.5 * (CURVATURE * values["w"] ** 2).sum(), {"w": torch.zeros(3, dtype=torch.float64)}
    )


def run(sampler, **settings):
    settings = {"num_samples": 60, "num_warmup": 200, "thinning": 5, "num_chains": 4 * RUNS} | settings
    return sample(target(), sampler, **settings, progress=False, compile=False)


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        (SGHMC(lr=0.1, temperature=HEAT), {}),
        (SGHMC(lr=0.02, temperature=HEAT), {"thinning": 2, "num_samples": 200}),  # readings that remember each other
        (HMC(temperature=HEAT, step_size=0.9, target_accept=0.5), {"thinning": 1}),
    ],
    ids=["SGHMC", "SGHMC, correlated", "HMC"],
)
def test_intervals_hold_what_they_promise(sampler, settings):
    found = [kinetic_temperature(part) for part in groups_of(run(sampler, **settings), 4)]
    inside = sum(t.interval[0] <= HEAT <= t.interval[1] for t in found)
    assert 0.9 * RUNS <= inside <= 0.99 * RUNS
    values = torch.tensor([t.value for t in found])
    assert abs((values.mean() - HEAT) / values.std() * RUNS**0.5) < 4
    assert (found[0].nominal, found[0].num_chains) == (HEAT, 4)


def test_the_law_of_a_reading_is_chi_squared():
    """Variance 2T²/D, and for HMC whatever it rejects."""
    for sampler in (SGHMC(lr=0.1, temperature=HEAT), HMC(temperature=HEAT, step_size=0.9, target_accept=0.4)):
        chains = run(sampler, num_samples=20, thinning=10)
        values = chains.sample_stats["kinetic_temperature"].flatten()
        assert values.var().item() == pytest.approx(2 * HEAT**2 / 3, rel=0.05)
        if isinstance(sampler, HMC):
            assert chains.sample_stats["accept"].mean() < 0.97


def test_it_can_be_right_where_positions_are_wrong():
    """A thermostat far from where its chains belong."""
    chains = run(SGNHT(lr=1e-5, temperature=HEAT), num_chains=4, num_samples=200, init=torch.full((3,), 20.0))
    found = kinetic_temperature(chains)
    assert found.distance < 0.1
    assert chains.draws["w"].mean() > 15


def test_a_heated_chain_is_seen():
    chains = run(SGHMC(lr=0.1, temperature=1.0), num_chains=4, num_samples=500)
    chains.attrs["temperature"] = HEAT
    found = kinetic_temperature(chains)
    assert found.distance > 0.5
    assert "asked for 0.5" in str(found)


def test_draws_of_unequal_weight():
    generator = torch.Generator().manual_seed(0)
    readings, weight = torch.rand(4, 400, generator=generator), torch.ones(4, 400)
    readings[:, ::2] += 1
    weight[:, ::2] = 0.0
    stats = {"kinetic_temperature": readings, "weight": weight}
    found = kinetic_temperature(Chains({"w": torch.randn(4, 400, 2)}, stats))
    even = kinetic_temperature(Chains({"w": torch.randn(4, 400, 2)}, {"kinetic_temperature": readings}))
    assert found.value == pytest.approx(0.5, abs=0.03)
    assert even.value == pytest.approx(1.0, abs=0.03)


def test_stopped_chains_few_draws_and_clear_errors():
    chains = run(SGHMC(lr=0.1), num_chains=3, num_samples=3)
    assert kinetic_temperature(chains).distance != kinetic_temperature(chains).distance  # not known
    chains.sample_stats["kinetic_temperature"][1] = torch.nan
    chains.sample_stats["diverged"][1] = True
    chains.attrs["stopped"] = {"1": 7}
    found = kinetic_temperature(chains)
    assert found.num_chains == 2
    assert found.value == found.value
    assert "chain 1 at step 7" in str(found)
    with pytest.raises(ValueError, match="SGLD recorded no kinetic temperature, as samplers without momentum"):
        kinetic_temperature(run(SGLD(lr=0.1), num_chains=2, num_samples=3))
