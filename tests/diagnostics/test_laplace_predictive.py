"""Predictions of the linearised model against explicit Jacobians, conjugate formulas and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from langevin.diagnostics import Ensemble, Laplace
from langevin.samplers import (
    LogDensity,
    Posterior,
    bernoulli,
    categorical,
    gaussian,
    heteroscedastic_gaussian,
    poisson,
)
from torch import nn
from torch.distributions import Bernoulli, Normal
from torch.func import functional_call, jacrev

from tests.diagnostics.test_laplace import linear_regression

pytestmark = pytest.mark.filterwarnings("ignore:the gradient at the mode is not zero")
double = torch.float64
STRUCTURES = ["dense", "diagonal", "kronecker", "last_layer"]


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=double, generator=torch.Generator().manual_seed(seed))


def network(num_outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, num_outputs)).double()


LIKELIHOODS = {
    "categorical": (categorical, 3, lambda x: (x[:, 0] > 0).long() + (x[:, 1] > 0.5)),
    "bernoulli": (bernoulli, 2, lambda x: (x[:, :2] > 0).double()),
    "gaussian": (gaussian(0.4), 2, lambda x: x[:, :2].sin()),
    "poisson": (poisson, 1, lambda x: x[:, :1].abs().round()),
    "heteroscedastic": (heteroscedastic_gaussian, 2, lambda x: x[:, 0]),
}


def problem(case: str, num_data: int = 30) -> Posterior:
    likelihood, num_outputs, targets = LIKELIHOODS[case]
    x = rows(num_data, 3, seed=1)
    return Posterior(network(num_outputs), likelihood, (x, targets(x)), Normal(0.0, 0.7))


def fitted(case: str, structure: str = "dense") -> Laplace:
    posterior = problem(case)
    return Laplace.fit(posterior, posterior.default_position() + 0.3 * rows(posterior.dim), structure=structure)


def jacobian_by_hand(laplace: Laplace, x: torch.Tensor) -> torch.Tensor:
    """∂ outputs / ∂ position of the model itself, `[n, outputs, dim]`, of all parameters."""
    target = laplace.posterior
    assert isinstance(target, Posterior)

    def outputs(position):
        return functional_call(target.model, target.layout.unravel(position), (x,)).flatten(1)

    return jacrev(outputs)(laplace.mode)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("case", LIKELIHOODS)
def test_outputs_have_the_covariance_of_explicit_jacobians(case, structure):
    laplace, x = fitted(case, structure), rows(7, 3, seed=4)
    J = jacobian_by_hand(laplace, x)[..., -laplace.dim :]
    S = laplace.covariance.diag() if structure == "diagonal" else laplace.covariance
    found = laplace.linearised(x)
    torch.testing.assert_close(found.covariance, J @ S @ J.mT, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.mean, laplace.posterior.outputs(laplace.mode[None], x)[0])
    torch.testing.assert_close(found.variance.flatten(1), (J @ S @ J.mT).diagonal(dim1=-2, dim2=-1))
    for chunk in (1, 3):
        torch.testing.assert_close(laplace.linearised(x, chunk=chunk).covariance, found.covariance)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_conjugate_regression_predicts_exactly(structure):
    posterior, mean, precision, _ = linear_regression()
    laplace = Laplace.fit(posterior, mean, structure=structure)
    x, y = rows(40, 4, seed=5), rows(40, 1, seed=6)
    S = torch.linalg.inv(precision) if structure != "diagonal" else precision.diagonal().reciprocal().diag()
    epistemic = ((x @ S) * x).sum(-1, keepdim=True)
    whole = Normal((x @ mean)[:, None], (epistemic + 0.7**2).sqrt())
    prediction = laplace.predict(x)
    torch.testing.assert_close(prediction.mean, whole.mean)
    torch.testing.assert_close(prediction.sd, whole.stddev)
    torch.testing.assert_close(prediction.epistemic_sd, epistemic.sqrt())
    torch.testing.assert_close(prediction.aleatoric_sd, torch.full_like(y, 0.7))
    scores = laplace.evaluate(x, y)
    assert scores["nll"] == pytest.approx(-float(whole.log_prob(y).mean()), rel=1e-12)
    assert scores["rmse"] == pytest.approx(float((whole.mean - y).square().mean().sqrt()), rel=1e-12)
    assert scores["coverage_90"] == float(((y - whole.mean).abs() / whole.stddev < 1.6448536).double().mean())


def test_draws_of_the_outputs_have_their_covariance_example_by_example():
    laplace, n = fitted("categorical"), 20_000
    outputs = laplace.linearised(rows(5, 3, seed=4))
    draws = outputs.sample(n, seed=3)
    assert draws.shape == (n, 5, 3)
    flat = draws.flatten(1)
    expected = torch.block_diag(*outputs.covariance)
    variance = expected.diagonal()
    assert ((flat.mean(0) - outputs.mean.flatten()) / (variance / n).sqrt()).abs().max() < 4
    error = ((expected**2 + variance * variance[:, None]) / n).sqrt()
    assert ((torch.cov(flat.T) - expected) / error).abs().max() < 4
    torch.testing.assert_close(outputs.sample(70, seed=3), draws[:70])
    assert not torch.allclose(outputs.sample(70, seed=4), draws[:70])
    with pytest.raises(ValueError, match="number of draws must be at least 1, got 0"):
        outputs.sample(0)


def quadrature(function, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """E function(z) for z ~ N(mean, variance), by 100 Gauss–Hermite points."""
    points, weights = (torch.as_tensor(values) for values in np.polynomial.hermite_e.hermegauss(100))
    z = mean[..., None] + variance.sqrt()[..., None] * points
    return (function(z) * weights).sum(-1) / math.sqrt(2 * math.pi)


def test_binary_probabilities_by_draws_and_by_probit():
    laplace, x = fitted("bernoulli"), 3 * rows(50, 3, seed=4)
    outputs = laplace.linearised(x)
    expected = quadrature(torch.sigmoid, outputs.mean, outputs.variance)
    square = quadrature(lambda z: torch.sigmoid(z) ** 2, outputs.mean, outputs.variance)
    assert (expected - torch.sigmoid(outputs.mean)).abs().max() > 0.05  # the mode alone would not do
    n = 4000
    prediction = laplace.predict(x, num_draws=n, seed=2)
    z = (prediction.mean[..., 1] - expected) / ((square - expected**2) / n).sqrt()
    assert z.abs().max() < 4
    assert abs(float(z.mean())) * math.sqrt(z.numel()) < 4
    assert float(z.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / z.numel()))
    mean_entropy = quadrature(lambda z: Bernoulli(logits=z).entropy(), outputs.mean, outputs.variance)
    information = torch.special.entr(torch.stack((expected, 1 - expected))).sum(0) - mean_entropy
    torch.testing.assert_close(prediction.mutual_information, information, rtol=0, atol=0.02)

    probit = laplace.predict(x, method="probit")
    torch.testing.assert_close(
        probit.mean[..., 1], torch.sigmoid(outputs.mean / (1 + math.pi * outputs.variance / 8).sqrt())
    )
    assert (probit.mean[..., 1] - expected).abs().max() < 0.02
    assert probit.mutual_information is None
    y = (x[:, :2] > 0).double()
    nll = -torch.where(y == 1, probit.mean[..., 1], probit.mean[..., 0]).log().mean()
    assert laplace.evaluate(x, y, method="probit")["nll"] == pytest.approx(float(nll))


def test_two_class_probabilities_see_the_covariance_between_logits():
    x = rows(30, 3, seed=1)
    posterior = Posterior(network(2), categorical, (x, (x[:, 0] > 0).long()), Normal(0.0, 0.7))
    laplace = Laplace.fit(posterior, posterior.default_position() + 0.3 * rows(posterior.dim))
    outputs = laplace.linearised(3 * x)
    contrast = torch.tensor([-1.0, 1.0], dtype=double)
    m, v = outputs.mean @ contrast, contrast @ outputs.covariance @ contrast
    expected = quadrature(torch.sigmoid, m, v)
    blind = quadrature(torch.sigmoid, m, outputs.variance.sum(-1))
    assert (expected - blind).abs().max() > 0.03
    sd = (quadrature(lambda z: torch.sigmoid(z) ** 2, m, v) - expected**2).sqrt()
    n = 4000
    assert ((laplace.predict(3 * x, num_draws=n).mean[:, 1] - expected) / sd * math.sqrt(n)).abs().max() < 4
    probit = laplace.predict(3 * x, method="probit").mean
    kappa = (1 + math.pi / 8 * outputs.variance).rsqrt()
    torch.testing.assert_close(probit, (kappa * outputs.mean).softmax(-1))


def test_moments_of_counts_and_of_a_predicted_spread():
    n = 20_000
    laplace, x = fitted("poisson"), rows(20, 3, seed=4)
    outputs = laplace.linearised(x)
    v = outputs.variance
    rate = (outputs.mean + v / 2).exp()  # log-normal
    prediction = laplace.predict(x, num_draws=n)
    assert ((prediction.mean - rate) / (rate * ((v.exp() - 1) / n).sqrt())).abs().max() < 4
    torch.testing.assert_close(prediction.aleatoric_sd, rate.sqrt(), rtol=0.02, atol=0)
    torch.testing.assert_close(prediction.epistemic_sd, rate * (v.exp() - 1).sqrt(), rtol=0.1, atol=0)

    laplace = fitted("heteroscedastic")
    outputs = laplace.linearised(x)
    prediction = laplace.predict(x, num_draws=n)
    v = outputs.variance
    assert ((prediction.mean - outputs.mean[:, 0]) / (v[:, 0] / n).sqrt()).abs().max() < 4
    torch.testing.assert_close(prediction.epistemic_sd, v[:, 0].sqrt(), rtol=4 / math.sqrt(2 * n), atol=0)
    aleatoric = (outputs.mean[:, 1] + v[:, 1]).exp()
    torch.testing.assert_close(prediction.aleatoric_sd, aleatoric, rtol=0.05, atol=0)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_model_linear_in_its_parameters_predicts_as_its_own_draws_do(structure):
    x = rows(40, 3, seed=1)
    posterior = Posterior(nn.Linear(3, 3).double(), categorical, (x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5)))
    laplace = Laplace.fit(posterior, posterior.default_position(), structure=structure)
    n = 4000
    of_draws = Ensemble(posterior, laplace, num_draws=n).predict(x[:10])
    linearised = laplace.predict(x[:10], num_draws=n)
    p = linearised.mean
    assert ((p - of_draws.mean) / (2 * p * (1 - p) / n).sqrt()).abs().max() < 4  # p(1 − p) bounds the variance
    torch.testing.assert_close(linearised.mutual_information, of_draws.mutual_information, rtol=0.1, atol=2e-3)


def test_outputs_of_any_shape():
    tokens = rows(6, 4, 3)
    posterior = Posterior(network(3), categorical, (tokens, (tokens[..., 0] > 0).long()))
    for structure in STRUCTURES:
        laplace = Laplace.fit(posterior, posterior.default_position(), structure=structure)
        assert laplace.linearised(tokens).covariance.shape == (6, 12, 12)
        assert laplace.linearised(tokens).sample(3).shape == (3, 6, 4, 3)
        assert laplace.predict(tokens, num_draws=40).mean.shape == (6, 4, 3)

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, dtype=double))

        def forward(self, left, right):
            return (left + right) @ self.weight

    x = rows(9, 3)
    data = {"left": 0.25 * x, "right": 0.75 * x}
    laplace = Laplace.fit(Posterior(Line(), gaussian(0.5), (data, x[:, 0])))
    outputs = laplace.linearised(data)
    torch.testing.assert_close(outputs.covariance[:, 0, 0], ((x @ laplace.covariance) * x).sum(-1))
    assert outputs.variance.shape == outputs.sample(2)[0].shape == (9,)


def test_what_cannot_be_predicted():
    laplace, x = fitted("gaussian"), rows(4, 3)
    with pytest.raises(ValueError, match=r"method must be one of .*'probit'\), got 'bridge'"):
        laplace.predict(x, method="bridge")
    with pytest.raises(ValueError, match=r'"probit" approximates class probabilities .* not of GaussianLikelihood'):
        laplace.predict(x, method="probit")
    with pytest.raises(ValueError, match=r'"closed_form" is known for the likelihood gaussian\(scale\), not for Pois'):
        fitted("poisson").predict(x, method="closed_form")
    with pytest.raises(ValueError, match="number of draws must be at least 1, got -3"):
        fitted("poisson").predict(x, num_draws=-3)
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 4 examples"):
        laplace.predict(x.index_fill(0, torch.tensor(2), math.nan))
    with pytest.raises(ValueError, match=r"targets of shape \(4, 2\), but y has \(4, 1\)"):
        laplace.evaluate(x, x[:, :1])
    density = LogDensity(lambda v: -(v["x"] ** 2).sum(), {"x": torch.zeros(2)})
    with pytest.raises(ValueError, match="predict needs the model and data of a Posterior, and a LogDensity has none"):
        Laplace.fit(density, torch.zeros(2), curvature="hessian").predict(x)
