"""SGLD against the exact law of its own discretisation, and against a conjugate posterior."""

import pytest
import torch
from langevin.samplers import SGLD, Posterior, gaussian, sample

from tests.validity.replicates import Mean, z_scores
from tests.validity.targets import Conjugate

NUM_DATA, BATCH, SCALE = 40, 5, 0.5
CURVATURE = SCALE**-2  # λ of the mean cost


def mean_model(dim):
    y = torch.randn(NUM_DATA, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Posterior(Mean(dim), gaussian(SCALE), (torch.zeros(NUM_DATA, 1, dtype=torch.float64), y), prior=None), y


def errors(posterior, y, sampler, batch_size, *, num_chains, num_samples):
    """Draws minus the posterior mean, `[chain, draw, dim]`; chains start there."""
    chains = sample(
        posterior,
        sampler,
        num_samples=num_samples,
        num_warmup=150,
        num_chains=num_chains,
        batch_size=batch_size,
        init={"mean": y.mean(0)},
        progress=False,
        compile=False,
    )
    return chains.draws["mean"] - y.mean(0)


def discretised_law(y, lr, temperature, batch_size):
    """V = (2Tε/N I + ε² S_mb) / (ελ (2 − ελ)), S_mb = λ² Cov(y) (1/B)(1 − B/N)."""
    dim = y.shape[1]
    noise = 2 * temperature * lr / NUM_DATA * torch.eye(dim, dtype=torch.float64)
    if batch_size is not None:
        covariance = torch.cov(y.T).reshape(dim, dim)
        noise = noise + lr**2 * CURVATURE**2 * covariance / batch_size * (1 - batch_size / NUM_DATA)
    return noise / (lr * CURVATURE * (2 - lr * CURVATURE))


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.parametrize("step", [0.1, 0.7, 1.9])  # ελ; the stability limit is 2
def test_one_dimension(step, batch_size, temperature):
    posterior, y = mean_model(1)
    lr = step / CURVATURE
    error = errors(posterior, y, SGLD(lr=lr, temperature=temperature), batch_size, num_chains=256, num_samples=1200)
    assert abs(z_scores(error.mean(1), 0.0)) < 4
    assert abs(z_scores((error**2).mean(1), discretised_law(y, lr, temperature, batch_size)[0, 0])) < 4


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.parametrize("step", [0.1, 0.7, 1.9])
def test_thousand_dimensions(step, batch_size, temperature):
    dim = 1000
    posterior, y = mean_model(dim)
    lr = step / CURVATURE
    error = errors(posterior, y, SGLD(lr=lr, temperature=temperature), batch_size, num_chains=32, num_samples=400)
    law = discretised_law(y, lr, temperature, batch_size)
    # All variances at once, and the covariance along fixed directions in which minibatch noise is correlated.
    assert abs(z_scores((error**2).mean(1).mean(-1), law.diagonal().mean())) < 4
    directions = torch.cat((y[:3] - y.mean(0), torch.ones(1, dim, dtype=torch.float64)))
    for direction in directions / directions.norm(dim=1, keepdim=True):
        assert abs(z_scores(((error @ direction) ** 2).mean(1), direction @ law @ direction)) < 4


def test_a_ten_per_cent_error_of_the_noise_is_seen():
    """The test of the test: the same comparison fails when T is 10 % off."""
    posterior, y = mean_model(1)
    error = errors(posterior, y, SGLD(lr=0.7 / CURVATURE, temperature=1.1), None, num_chains=256, num_samples=1200)
    assert abs(z_scores((error**2).mean(1), discretised_law(y, 0.7 / CURVATURE, 1.0, None)[0, 0])) > 8


@pytest.fixture(scope="module")
def conjugate():
    return Conjugate()


def run_conjugate(problem, lr, batch_size, *, num_chains, num_samples, thinning):
    """First and second moments of each chain about the posterior mean; chains start from the posterior itself."""
    start = torch.linalg.cholesky(problem.covariance) @ torch.randn(
        10, num_chains, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    chains = sample(
        problem.posterior,
        SGLD(lr=lr),
        num_samples=num_samples,
        num_warmup=100,
        thinning=thinning,
        num_chains=num_chains,
        batch_size=batch_size,
        init={"weight": (problem.mean + start.T)[:, None]},
        progress=False,
        compile=False,
    )
    error = chains.draws["weight"][:, :, 0] - problem.mean
    return error.mean(1), torch.einsum("cdi,cdj->cij", error, error) / num_samples


@pytest.mark.slow
def test_conjugate_regression_with_minibatches(conjugate):
    """At a small step and large batches the bias is below the Monte-Carlo error: closed-form mean and covariance."""
    lr, batch_size = 0.01 / conjugate.largest, 500
    bias = (conjugate.law(lr, batch_size) / conjugate.covariance - 1).diagonal().abs().max()
    assert bias < 0.02
    mean, second = run_conjugate(conjugate, lr, batch_size, num_chains=256, num_samples=200, thinning=10)
    upper = torch.triu_indices(10, 10).unbind()
    assert z_scores(mean, 0.0).abs().max() < 4
    assert z_scores(second[:, *upper], conjugate.covariance[upper]).abs().max() < 4


@pytest.mark.parametrize("step", [0.4, 0.2, 0.1])
def test_bias_of_conjugate_regression_falls_at_the_predicted_rate(conjugate, step):
    """With small batches the excess variance is large, and is the predicted one at each step size."""
    lr, batch_size = step / conjugate.largest, 100
    law = conjugate.law(lr, batch_size)
    whiten = torch.linalg.inv(torch.linalg.cholesky(conjugate.covariance))
    predicted = (whiten @ law @ whiten.T).diagonal().mean()
    _, second = run_conjugate(conjugate, lr, batch_size, num_chains=64, num_samples=1000, thinning=2)
    measured = (whiten @ second @ whiten.T).diagonal(dim1=1, dim2=2).mean(1)
    assert abs(z_scores(measured, predicted)) < 4
    assert predicted - 1 > 20 * measured.std() / 8  # the bias itself is seen, many times over its error
