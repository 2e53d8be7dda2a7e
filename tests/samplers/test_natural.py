"""Natural gradient samplers as pieces of the library: chains alone, resumed and compiled, settings, stopped chains."""

import pytest
import torch
from langevin.samplers import (
    NGD,
    SNGD,
    Chains,
    ConstantMetric,
    Cyclical,
    Fisher,
    LogDensity,
    MetricFunction,
    Posterior,
    RiemannianLangevin,
    categorical,
    gaussian,
    kfac_langevin,
    natural_langevin,
    sample,
)
from torch import nn

from tests.samplers.small import draw_few, logistic

FISHER = Fisher(damping=0.05)
SAMPLERS = {
    "midpoint": (SNGD(lr=0.1, metric=FISHER), 20),
    "probe": (SNGD(lr=0.1, metric=FISHER, drift="probe"), 20),
    "exact": (RiemannianLangevin(lr=0.1, metric=FISHER, drift="exact", measure="jeffreys"), None),
    "own inputs": (RiemannianLangevin(lr=0.1, metric=Fisher(damping=0.05, inputs=10)), 20),
    "sampled": (NGD(lr=0.1, metric=Fisher(kind="sampled", damping=0.05, inputs=30)), 20),
    "average": (NGD(lr=0.1, metric=Fisher(kind="sampled", damping=0.05, average=0.9)), 20),
    "refresh": (SNGD(lr=0.1, metric=Fisher(damping=0.05, refresh_every=3), drift="probe"), 20),
    "quasi-diagonal": (natural_langevin(lr=0.1, damping=0.05), None),
    "Kronecker": (kfac_langevin(lr=0.1, damping=0.05, inputs=20), 20),
}

posterior = pytest.fixture(logistic, scope="module")


def draw(posterior, name, **settings):
    return draw_few(posterior, *SAMPLERS[name], **settings)


def close(one, other):
    return all(torch.allclose(one.draws[n], other.draws[n], rtol=1e-5, atol=1e-8) for n in one.draws)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_chain_alone_is_the_same_chain(posterior, name):
    together, alone = draw(posterior, name), draw(posterior, name, chain_ids=[2])
    assert torch.allclose(together.draws["weight"][2], alone.draws["weight"][0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("settings", [{"structure": "kronecker"}, {"structure": "low_rank", "rank": 10}])
def test_noise_does_not_depend_on_the_choice_of_eigenvectors(settings):
    """Rounding decides it, so a chain alone would be another one; softmax gradients span one dimension too few."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    posterior = Posterior(model, categorical, (torch.randn(40, 8), torch.randint(0, 4, (40,))))
    sampler = RiemannianLangevin(lr=0.05, metric=Fisher(damping=0.1, **settings))
    runs = [
        sample(posterior, sampler, num_samples=10, init="prior", progress=False, compile=False, chain_ids=ids)
        for ids in ([0, 1, 2, 3], [2])
    ]
    torch.testing.assert_close(runs[0].draws["0.weight"][2], runs[1].draws["0.weight"][0], rtol=1e-3, atol=1e-3)


def test_chains_of_another_law_are_not_continued(posterior):
    jeffreys = draw(posterior, "midpoint")
    for sampler in (
        SNGD(lr=0.1, metric=FISHER, measure="lebesgue"),
        SNGD(lr=0.1, metric=Fisher(refresh_every=2), drift="probe"),
    ):
        with pytest.raises(ValueError, match="with other settings of the sampler"):
            sample(posterior, sampler, num_samples=1, batch_size=20, init=jeffreys, progress=False)


def test_an_overdispersed_start_at_the_temperature_of_the_batch(posterior):
    chains = draw(posterior, "midpoint", init="overdispersed", num_samples=2)
    assert bool(torch.isfinite(chains.draws["weight"]).all())


@pytest.mark.parametrize("name", ["midpoint", "average", "refresh", "Kronecker"])
def test_a_resumed_run_is_the_same_run(posterior, name, tmp_path):
    whole = draw(posterior, name)
    first = draw(posterior, name, num_samples=7)
    first.save(tmp_path / "run")
    rest = draw(posterior, name, num_samples=13, num_warmup=0, init=Chains.load(tmp_path / "run"))
    assert close(whole, Chains.concatenate([first, rest]))


@pytest.mark.parametrize(
    "name",
    ["probe", *(pytest.param(n, marks=pytest.mark.slow) for n in ("midpoint", "exact", "own inputs", "refresh"))],
)
def test_compiled_steps_are_the_eager_ones(posterior, name):
    """With a probed log-determinant once read from a null pointer in compiled code."""
    eager, compiled = draw(posterior, name), draw(posterior, name, compile=True)
    assert compiled.attrs["engine"].startswith("compiled")
    assert close(eager, compiled)


@pytest.mark.slow
def test_inputs_drawn_twice_a_step_are_right_in_compiled_code():
    """Midpoint looks twice at the metric; loops that made no turn once gave their memory away in between."""
    x = torch.randn(691, 3, generator=torch.Generator().manual_seed(0))
    target = Posterior(nn.Linear(3, 1), gaussian(1.0), (x, x.sum(1, keepdim=True)))
    sampler = RiemannianLangevin(lr=0.01, metric=Fisher(structure="diagonal", inputs=256, damping=1e-3))
    settings = {"num_samples": 100, "thinning": 3, "num_chains": 4, "progress": False}
    eager, fast = (sample(target, sampler, compile=compile, **settings) for compile in (False, True))
    torch.testing.assert_close(eager.draws["weight"], fast.draws["weight"], rtol=1e-4, atol=1e-5)


def test_the_average_is_frozen_after_warmup(posterior):
    chains = draw(posterior, "average")
    assert chains.state["memory.updates"] == 10
    for_ever = NGD(lr=0.1, metric=Fisher(kind="sampled", damping=0.05, average=0.9, freeze=False))
    chains = sample(posterior, for_ever, num_samples=20, num_warmup=10, batch_size=20, progress=False)
    assert chains.state["memory.updates"] == 30


def test_the_nominal_temperature_of_minibatch_noise(posterior):
    """T_mb where the sampler leaves it to the minibatch, and what was asked for otherwise."""
    assert draw(posterior, "midpoint").attrs["temperature"] == pytest.approx(0.1 * 60 / 40 * (1 - 20 / 60))
    assert draw(posterior, "exact").attrs["temperature"] == 1.0
    scheduled = NGD(lr=Cyclical(value=0.1, length=10), metric=FISHER)
    chains = sample(posterior, scheduled, num_samples=10, batch_size=20, progress=False)
    assert chains.attrs["temperature"] is None


def test_a_metric_that_is_no_longer_positive_definite_stops_its_chain():
    target = LogDensity(lambda p: -0.5 * (p["w"] ** 2).sum(), {"w": torch.ones(2)})
    sampler = RiemannianLangevin(lr=0.3, metric=MetricFunction(lambda w: torch.diag(0.2 + w)), drift="none")
    with pytest.warns(UserWarning, match=r"after step 2; .*has -0\.0\d+ as smallest eigenvalue .* more damping"):
        chains = sample(target, sampler, num_samples=20, num_chains=1, progress=False)
    assert chains.attrs["stopped"] == {"0": 2}
    assert bool(torch.isfinite(chains.draws["w"][0, :2]).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RiemannianLangevin(lr=-1.0, metric=FISHER), "lr must be positive"),
        (lambda: RiemannianLangevin(lr=0.1, metric=FISHER, temperature=-1.0), "temperature must be zero or positive"),
        (lambda: RiemannianLangevin(lr=0.1, metric=FISHER, drift="ito"), "drift must be one of"),
        (lambda: SNGD(lr=0.1, metric=FISHER, measure="uniform"), "measure must be one of"),
        (lambda: SNGD(lr=0.1, metric=FISHER, drift="none"), "is no density's sampler"),
        (lambda: ConstantMetric(torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "smallest eigenvalue is -1"),
        (lambda: ConstantMetric(torch.tensor([[1.0, 2.0], [0.0, 1.0]])), "not symmetric"),
        (lambda: ConstantMetric(torch.tensor([1.0, 0.0])), "not positive definite"),
        (lambda: ConstantMetric(torch.ones(2, 3)), "must have shape"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (MetricFunction(lambda w: w[:2]), "must have shape"),
        (MetricFunction(lambda w: torch.diag(w - 100.0)), "not positive definite"),
        (ConstantMetric(torch.ones(7)), "is for 7 parameters, the target has 3"),
    ],
)
def test_metrics_that_do_not_fit_the_target(posterior, metric, message):
    with pytest.raises(ValueError, match=message):
        sample(posterior, RiemannianLangevin(lr=0.1, metric=metric), num_samples=1, progress=False)


def test_sweeps_through_the_data_are_refused_where_minibatch_noise_is_counted(posterior):
    with pytest.raises(ValueError, match='use batches="independent"'):
        sample(posterior, NGD(lr=0.1, metric=FISHER), num_samples=1, batch_size=20, batches="epoch", progress=False)


def test_the_jeffreys_factor_of_a_random_metric_is_refused(posterior):
    sampler = SNGD(lr=0.1, metric=Fisher(damping=0.05, inputs=10))
    with pytest.raises(NotImplementedError, match="as many fixed inputs"):
        sample(posterior, sampler, num_samples=1, batch_size=20, progress=False)


def test_a_constant_metric_makes_drift_and_measure_void(posterior):
    matrix = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 0.5]], dtype=torch.float64)
    runs = [
        sample(posterior, sampler, num_samples=10, seed=1, progress=False)
        for sampler in (
            RiemannianLangevin(lr=0.1, metric=ConstantMetric(matrix), drift="none"),
            RiemannianLangevin(lr=0.1, metric=ConstantMetric(matrix), drift="exact", measure="jeffreys"),
            RiemannianLangevin(lr=0.1, metric=MetricFunction(lambda w: matrix + 0 * w[0]), drift="midpoint"),
        )
    ]
    assert close(runs[0], runs[1])
    assert close(runs[0], runs[2])
