"""Laplace against laplace-torch (Daxberger et al. 2021), where that is installed."""

from __future__ import annotations

import pytest
import torch
from langevin.diagnostics import Laplace
from langevin.samplers import Posterior, categorical, gaussian
from torch import nn
from torch.distributions import Normal
from torch.utils.data import DataLoader, TensorDataset

theirs = pytest.importorskip("laplace")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, and that the position is no mode
double = torch.float64
SCALE, NOISE = 0.75, 0.4
NAMES = {
    "dense": ("all", "full"),
    "diagonal": ("all", "diag"),
    "kronecker": ("all", "kron"),
    "last_layer": ("last_layer", "full"),
}


def both(structure: str, classes: bool):
    """Our fit, theirs, and test inputs; without biases, whose factors laplace-torch keeps apart from the weights'."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, dtype=double, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5) if classes else x[:, :2].sin()
    torch.manual_seed(1)
    bias = structure != "kronecker"
    model = nn.Sequential(nn.Linear(3, 4, bias=bias), nn.Tanh(), nn.Linear(4, 3 if classes else 2, bias=bias)).double()
    scale = torch.tensor(SCALE, dtype=double)
    posterior = Posterior(model, categorical if classes else gaussian(NOISE), (x, y), Normal(0.0 * scale, scale))
    ours = Laplace.fit(posterior, posterior.default_position(), structure=structure)
    subset, hessian = NAMES[structure]
    other = theirs.Laplace(
        model,
        "classification" if classes else "regression",
        subset_of_weights=subset,
        hessian_structure=hessian,
        prior_precision=torch.full((1,), SCALE**-2, dtype=double),
        sigma_noise=1.0 if classes else NOISE,
    )
    other.fit(DataLoader(TensorDataset(x, y), batch_size=len(x)))
    return ours, other, torch.randn(8, 3, dtype=double, generator=generator)


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("structure", NAMES)
def test_evidence_and_outputs_agree(structure, classes):
    ours, other, x = both(structure, classes)
    mean, covariance = other._glm_predictive_distribution(x)
    found = ours.linearised(x)
    torch.testing.assert_close(found.mean, mean.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.covariance, covariance.detach(), rtol=1e-5, atol=1e-7)
    assert ours.log_marginal_likelihood == pytest.approx(float(other.log_marginal_likelihood()), rel=1e-6)
    if structure in ("dense", "last_layer"):
        torch.testing.assert_close(ours.covariance, other.posterior_covariance.detach(), rtol=1e-5, atol=1e-6)
    if structure == "diagonal":
        torch.testing.assert_close(ours.covariance, other.posterior_variance.detach(), rtol=1e-5, atol=1e-6)
    if classes:
        probit = other(x, pred_type="glm", link_approx="probit")
        torch.testing.assert_close(ours.predict(x, method="probit").mean, probit.detach(), rtol=1e-5, atol=1e-7)
    else:
        torch.testing.assert_close(ours.predict(x).sd ** 2 - NOISE**2, found.variance)


@pytest.mark.parametrize("structure", NAMES)
def test_tuned_precisions_at_a_fixed_mode_agree(structure):
    ours, other, _ = both(structure, classes=True)
    tuned = ours.tune_prior()
    name = ours.layout.names[0]
    other.optimize_prior_precision(method="marglik", n_steps=2000, lr=0.05)
    assert float(tuned.posterior.prior_of(name).scale) ** -2 == pytest.approx(float(other.prior_precision), rel=1e-3)
