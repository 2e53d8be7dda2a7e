"""Every first-order sampler and optimiser as a piece of the library: chains alone, resumed and compiled, settings."""

import pytest
import torch
from langevin.samplers import (
    ASGLD,
    PSGLD,
    SGHMC,
    SGNHT,
    VON,
    AdaBayes,
    AdaBayesFP,
    ConstantSGD,
    Cyclical,
    LogDensity,
    SecondOrderSGD,
    Vadam,
    sample,
)

from tests.samplers.small import draw_few, logistic

SAMPLERS = {
    "PSGLD": (PSGLD(lr=0.01, damping=0.1), 10),
    "PSGLD always": (PSGLD(lr=0.01, damping=0.1, adapt="always", correction=True), 10),
    "ASGLD": (ASGLD(lr=0.1), 10),
    "SGHMC": (SGHMC(lr=0.02), 10),
    "SGHMC cyclical": (SGHMC(lr=Cyclical(value=0.02, length=15, exploration=0.3)), None),
    "SGNHT": (SGNHT(lr=0.01), 10),
    "ConstantSGD": (ConstantSGD(temperature=0.2, structure="full", momentum=0.5, damping=1e-3), 10),
    "ConstantSGD scalar": (ConstantSGD(temperature=0.2, inputs=20), 10),
    "AdaBayes": (AdaBayes(), 10),
    "AdaBayes-FP": (AdaBayesFP(), None),
    "second order": (SecondOrderSGD(smoothness=1.0, window=5), 10),
    "Vadam": (Vadam(lr=0.01), 10),
    "VON": (VON(lr=0.01), 10),
}


posterior = pytest.fixture(logistic, scope="module")


def draw(posterior, name, **settings):
    return draw_few(posterior, *SAMPLERS[name], **settings)


def assert_close(one, other):
    for name in one.draws:
        torch.testing.assert_close(one.draws[name], other.draws[name], rtol=1e-5, atol=1e-8)
    for name in one.sample_stats:
        torch.testing.assert_close(one.sample_stats[name], other.sample_stats[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_chain_alone_is_the_same_chain(posterior, name):
    together, alone = draw(posterior, name), draw(posterior, name, chain_ids=[2])
    torch.testing.assert_close(together.draws["weight"][2], alone.draws["weight"][0], rtol=1e-5, atol=1e-8)
    assert not torch.equal(together.draws["weight"][0], together.draws["weight"][1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_run_is_the_same_run(posterior, name, tmp_path):
    whole = draw(posterior, name)
    path = tmp_path / "run.nc"
    draw(posterior, name, num_samples=7).save(path)
    first = type(whole).load(path)
    rest = draw(posterior, name, num_samples=13, num_warmup=0, init=first)
    torch.testing.assert_close(type(whole).concatenate([first, rest]).draws["weight"], whole.draws["weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_compiled_steps_are_the_eager_ones(posterior, name):
    eager, fast = draw(posterior, name), draw(posterior, name, compile=True)
    assert fast.attrs["engine"].startswith("compiled")
    assert_close(eager, fast)


@pytest.mark.parametrize("name", SAMPLERS)
def test_single_precision_stays_single(posterior, name):
    chains = draw(posterior, name, dtype=torch.float32)
    assert chains.draws["weight"].dtype == torch.float32
    assert torch.isfinite(chains.draws["weight"]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PSGLD(lr=-1.0), "lr must be positive and finite, got -1.0"),
        (lambda: PSGLD(lr=0.1, damping=0.0), "damping must be positive"),
        (lambda: PSGLD(lr=0.1, decay=1.0), r"decay must lie in \[0, 1\), got 1.0"),
        (lambda: PSGLD(lr=0.1, adapt="never"), "adapt must be one of .*got 'never'"),
        (lambda: PSGLD(lr=0.1, correction=True), "a frozen preconditioner needs none"),
        (lambda: ASGLD(lr=0.1, scale=-0.1), "scale must be zero or positive and finite, got -0.1"),
        (lambda: SGHMC(lr=0.1, momentum=1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (lambda: SGHMC(lr=0.1, temperature=-1.0), "temperature must be zero or positive"),
        (lambda: SGHMC(lr=0.1, gradient_noise=-1.0), "gradient_noise is a variance"),
        (lambda: SGNHT(lr=0.1, temperature=0.0), "temperature must be positive"),
        (lambda: SGNHT(lr=0.1, momentum=0.0), "momentum must be positive"),
        (lambda: SGNHT(lr=0.1, thermostat_time=0.0), "thermostat_time must be positive"),
        (lambda: ConstantSGD(structure="block"), "structure must be one of .*got 'block'"),
        (lambda: ConstantSGD(temperature=0.0), "temperature must be positive"),
        (lambda: Vadam(lr=0.1, beta2=1.0), r"beta2 must lie in \[0, 1\)"),
        (lambda: Vadam(lr=0.1, precision=-1.0), "precision must be zero or positive"),
        (lambda: VON(lr=0.1, precision=0.0), "precision must be positive"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_preconditioner_that_learns_in_the_warm_up_asks_for_one(posterior):
    for name in ("PSGLD", "ConstantSGD"):
        with pytest.raises(ValueError, match="there is no warm-up"):
            draw(posterior, name, num_warmup=0)


def test_constant_sgd_needs_examples():
    target = LogDensity(lambda v: -v["x"].square().sum(), {"x": torch.zeros(2)})
    with pytest.raises(ValueError, match="batch_size"):
        sample(target, ConstantSGD(), num_samples=2, num_warmup=2)


def test_the_preconditioner_is_frozen_when_warm_up_ends(posterior):
    short, long = draw(posterior, "PSGLD", num_samples=1), draw(posterior, "PSGLD", num_samples=50)
    torch.testing.assert_close(short.state["square"], long.state["square"])
    moving = [draw(posterior, "PSGLD always", num_samples=n).state["square"] for n in (1, 50)]
    assert (moving[0] - moving[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "law"),
    [("PSGLD", None), ("PSGLD always", "a wider law"), ("ConstantSGD", "SGD's own noise"), ("VON", "a Gaussian with")],
)
def test_chains_say_what_law_they_have(posterior, name, law):
    said = draw(posterior, name).attrs["law"]
    assert said is None if law is None else law in said


@pytest.mark.parametrize("name", ["ASGLD", "AdaBayes", "second order"])
def test_optimisers_say_so(posterior, name):
    assert draw(posterior, name).attrs["temperature"] == 0.0


def test_a_declared_gradient_noise_that_is_too_hot_is_refused(posterior):
    with pytest.raises(ValueError, match=r"use an lr of at most 0\.00333"):
        sample(posterior, SGHMC(lr=0.02, gradient_noise=1.0), num_samples=2, batch_size=10)
