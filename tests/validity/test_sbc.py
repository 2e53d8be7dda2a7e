"""Ranks of true parameters among draws are uniform, over a thousand data sets; at a wrong temperature they are not."""

from __future__ import annotations

import pytest
import torch
from langevin.samplers import HMC, SGHMC, SGLD, SGNHT

from tests.validity.sbc import calibrate, data_sets

LEVEL = 0.01 / 12  # family-wise 1 %: four samplers, three quantities each
RUNS = [
    ("SGHMC", lambda T: SGHMC(lr=0.5, temperature=T), {"thinning": 60, "num_warmup": 300}),
    pytest.param("SGNHT", lambda T: SGNHT(lr=0.2, temperature=T), {"thinning": 80, "num_warmup": 600},
                 marks=pytest.mark.slow),
    pytest.param("SGLD", lambda T: SGLD(lr=0.15, temperature=T),
                 {"thinning": 250, "num_warmup": 1000, "batch_size": 10}, marks=pytest.mark.slow),
    pytest.param("HMC", lambda T: HMC(temperature=T), {"thinning": 3, "num_warmup": 150}, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.fixture(scope="module")
def sets():
    return data_sets()


@pytest.mark.parametrize(("name", "build", "settings"), RUNS)
def test_ranks_are_uniform(sets, name, build, settings):
    result = calibrate(sets, build(1.0), seed=21, **settings)
    assert result.independence > 0.8
    assert (result.counts.sum(1) == len(sets.truth)).all()
    assert min(result.p_values) > LEVEL, result.p_values


@pytest.mark.parametrize("temperature", [0.65, 1.5])
@pytest.mark.parametrize(("name", "build", "settings"), RUNS)
def test_a_wrong_temperature_is_seen(sets, name, build, settings, temperature):
    """By the same test, and with the shape that belongs to it: too hot, the truth lies in the middle of the draws."""
    result = calibrate(sets, build(temperature), seed=22, **settings)
    assert min(result.p_values) < LEVEL / 10, result.p_values
    outer = result.counts[:2, [0, -1]].sum() / (result.counts[:2].sum() * 2 / result.counts.shape[1])
    assert (outer < 1) == (temperature > 1)


def test_the_product_of_data_sets_is_each_of_them():
    """Cost and gradient of one data set's parameters do not depend on the others."""
    sets = data_sets(count=3)
    position = sets.truth.flatten()[None].repeat(2, 1)
    position[1, 2:] += 1.0
    _, gradient = sets.posterior.cost_and_gradient(position)
    torch.testing.assert_close(gradient[0, :2], gradient[1, :2])
