"""Riemannian Langevin against quadrature: every drift and measure at ε → 0, and the naive update, which must fail."""

import pytest
import torch
from langevin.samplers import (
    Fisher,
    LogDensity,
    MetricFunction,
    Posterior,
    RiemannianLangevin,
    bernoulli,
    sample,
)
from langevin.samplers.metrics.metric import no_noise
from torch import nn

from tests.validity.replicates import draw_from_grid, extrapolated_z
from tests.validity.targets import curved_cost as cost
from tests.validity.targets import curved_metric as metric

KINDS = [(drift, measure) for drift in ("exact", "probe", "midpoint") for measure in ("lebesgue", "jeffreys")]


def moments(w):
    """E ω₁, E ω₂, E ω₁², E ω₂², E ω₁ω₂ of each chain."""
    first, second = w.unbind(-1)
    return torch.stack((first, second, first**2, second**2, first * second), -1).mean(1)


PLANE = LogDensity(lambda p: -cost(p["w"]), {"w": torch.zeros(2, dtype=torch.float64)})
QUADRATURE = {
    "lebesgue": torch.tensor([0.0, 0.0, 0.63672, 0.81932, -0.15007], dtype=torch.float64),
    "jeffreys": torch.tensor([-0.0876, 0.3980, 0.7788, 0.8437, -0.1874], dtype=torch.float64),
}


def plane_z(drift, measure, truth, chains=2**13):
    """z of the five moments at ε → 0; chains start in the law they should keep."""
    grid = torch.linspace(-4.5, 4.5, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(grid, grid)
    log_density = -torch.func.vmap(cost)(grid)
    if truth == "jeffreys":
        log_density = log_density + 0.5 * torch.logdet(torch.func.vmap(metric)(grid))
    start = draw_from_grid(grid, log_density, chains)

    def run(lr):
        sampler = RiemannianLangevin(lr=lr, metric=MetricFunction(metric), drift=drift, measure=measure)
        draws = sample(
            PLANE,
            sampler,
            num_samples=round(1.5 / lr),
            num_warmup=round(2.5 / lr),
            num_chains=chains,
            init=start,
            progress=False,
            compile=False,
        ).draws["w"]
        return moments(draws)

    return extrapolated_z(run, (0.01, 0.02, 0.04), QUADRATURE[truth])


@pytest.mark.parametrize(("drift", "measure"), KINDS)
def test_moments_of_the_plane(drift, measure):
    assert plane_z(drift, measure, measure).abs().max() < 4


def test_the_naive_update_fails_the_test_of_the_plane():
    assert plane_z("none", "lebesgue", "lebesgue").abs().max() > 8


def test_measures_are_told_apart():
    """The Jeffreys law fails the test of the Lebesgue law, and the other way round."""
    assert plane_z("midpoint", "jeffreys", "lebesgue").abs().max() > 8
    assert plane_z("midpoint", "lebesgue", "jeffreys").abs().max() > 8


LINE = LogDensity(lambda p: -0.5 * (p["w"] ** 2).sum(), {"w": torch.zeros(1, dtype=torch.float64)})
# ∫ω² exp(−ω²/2) (1 + ω²)^k over ∫exp(−ω²/2) (1 + ω²)^k: Lebesgue k = 0, Jeffreys k = ½, no drift k = 1.
POWER = {"lebesgue": (0.0, 1.0), "jeffreys": (0.5, 1.41704), "none": (1.0, 2.0)}


def line_z(drift, measure, law, chains=2**14):
    """z of the variance at ε → 0 in one dimension, G = 1 + ω²."""
    power, variance = POWER[law]
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    start = draw_from_grid(grid, (-0.5 * grid**2 + power * torch.log1p(grid**2))[:, 0], chains)

    def run(lr):
        sampler = RiemannianLangevin(lr=lr, metric=MetricFunction(lambda w: 1 + w**2), drift=drift, measure=measure)
        draws = sample(
            LINE,
            sampler,
            num_samples=round(4 / lr),
            num_warmup=round(4 / lr),
            num_chains=chains,
            init=start,
            progress=False,
            compile=False,
        ).draws["w"]
        return (draws**2).mean((1, 2))

    return extrapolated_z(run, (0.02, 0.04, 0.08), variance)


@pytest.mark.parametrize(("drift", "measure"), [*KINDS, ("none", "lebesgue")])
def test_variance_on_the_line(drift, measure):
    """Without drift the law is exp(−C) G."""
    assert abs(line_z(drift, measure, "none" if drift == "none" else measure)) < 4


def test_laws_on_the_line_are_told_apart():
    assert line_z("none", "lebesgue", "lebesgue") > 8
    assert line_z("midpoint", "jeffreys", "lebesgue") > 8


@pytest.fixture(scope="module")
def logistic():
    """The paper's first experiment with fewer data and weaker inputs: a curved posterior in two dimensions."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(60, 2, dtype=torch.float64, generator=generator)
    y = (
        torch.rand(60, dtype=torch.float64, generator=generator) < torch.sigmoid(x @ x.new_tensor([2.0, 0.0]))
    ).double()
    posterior = Posterior(nn.Linear(2, 1, bias=False, dtype=torch.float64), bernoulli, (x, y[:, None]), prior=None)
    grid = torch.cartesian_prod(
        torch.linspace(-1.0, 8.0, 400, dtype=torch.float64), torch.linspace(-4.0, 4.0, 400, dtype=torch.float64)
    )
    return posterior, grid, torch.cat([-posterior.cost(part) for part in grid.split(4000)])


@pytest.mark.parametrize("measure", ["lebesgue", "jeffreys"])
def test_covariance_of_a_logistic_posterior(logistic, measure):
    """Mean and full covariance against quadrature, with the Fisher metric and its drift."""
    posterior, grid, log_density = logistic
    metric = Fisher(damping=0.02)
    if measure == "jeffreys":
        noise = no_noise(posterior, 4000)
        log_dets = [metric.at(posterior, part, noise).log_det() for part in grid.split(4000)]
        log_density = log_density + 0.5 * torch.cat(log_dets)
    weight = torch.softmax(log_density, 0)
    mean = weight @ grid
    products = torch.stack((grid[:, 0], grid[:, 1], (grid[:, 0] - mean[0]) ** 2, (grid[:, 1] - mean[1]) ** 2,
                            (grid[:, 0] - mean[0]) * (grid[:, 1] - mean[1])), -1)  # fmt: skip
    start = draw_from_grid(grid, log_density, 2**12)

    def run(lr):
        draws = sample(
            posterior,
            RiemannianLangevin(lr=lr, metric=metric, measure=measure),
            num_samples=round(8 / lr),
            num_warmup=round(4 / lr),
            num_chains=2**12,
            init=start,
            progress=False,
            compile=False,
        ).draws["weight"][:, :, 0]
        first, second = (draws - mean).unbind(-1)
        return torch.stack((first + mean[0], second + mean[1], first**2, second**2, first * second), -1).mean(1)

    assert extrapolated_z(run, (0.05, 0.1, 0.2), weight @ products).abs().max() < 4
