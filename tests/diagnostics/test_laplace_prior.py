"""Evidence and prior precisions against the exact evidence of Bayesian linear regression."""

from __future__ import annotations

import pytest
import torch
from langevin.diagnostics import Laplace
from langevin.samplers import LogDensity, Posterior, find_mode, gaussian
from scipy.optimize import minimize
from torch import nn
from torch.distributions import MultivariateNormal, Normal, StudentT

double = torch.float64
NOISE = 0.7


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=double, generator=torch.Generator().manual_seed(seed))


X = rows(25, 4, seed=3)
Y = X @ torch.linspace(-1, 2, 4, dtype=double) + 0.4 + NOISE * rows(25, seed=4)


def normal(mean: float, scale: float) -> Normal:
    return Normal(torch.tensor(mean, dtype=double), scale)


def regression(prior) -> Posterior:
    return Posterior(nn.Linear(4, 1).double(), gaussian(NOISE), (X, Y[:, None]), prior)


def exact_evidence(weight_scale: float, bias_scale: float, weight_mean: float = 0.0, bias_mean: float = 0.0) -> float:
    """log p(y) with the weights and the bias integrated out."""
    covariance = NOISE**2 * torch.eye(len(Y), dtype=double) + weight_scale**2 * X @ X.T + bias_scale**2
    mean = weight_mean * X.sum(1) + bias_mean
    return float(MultivariateNormal(mean, covariance).log_prob(Y))


def best(function, start: list[float]) -> torch.Tensor:
    """Scales that maximise a function of them, by the simplex method in their logarithms."""
    options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 2000}
    found = minimize(
        lambda log: -function(*torch.as_tensor(log).exp().tolist()), start, method="Nelder-Mead", options=options
    )
    return torch.as_tensor(found.x).exp()


def scales(laplace: Laplace) -> dict[str, float]:
    assert isinstance(laplace.posterior, Posterior)
    return {name: float(laplace.posterior.prior_of(name).scale) for name in laplace.posterior.layout.names}


@pytest.mark.parametrize("structure", ["dense", "kronecker", "last_layer"])
def test_evidence_of_a_linear_regression_is_exact(structure):
    laplace = Laplace.fit(regression({"weight": normal(0.3, 0.5), "bias": normal(-1.0, 2.0)}), structure=structure)
    assert laplace.log_marginal_likelihood == pytest.approx(exact_evidence(0.5, 2.0, 0.3, -1.0), abs=1e-8)


@pytest.mark.parametrize("structure", ["dense", "kronecker", "last_layer"])
def test_one_tuned_scale_maximises_the_exact_evidence(structure):
    laplace = Laplace.fit(regression(normal(0.0, 0.2)), structure=structure)
    tuned = laplace.tune_prior(refit=True)
    expected = float(best(lambda s: exact_evidence(s, s), [0.0]))
    assert scales(tuned)["weight"] == scales(tuned)["bias"] == pytest.approx(expected, rel=1e-3)
    assert tuned.log_marginal_likelihood == pytest.approx(exact_evidence(expected, expected), abs=1e-5)
    assert isinstance(tuned.posterior.prior, Normal)
    torch.testing.assert_close(tuned.mode, find_mode(tuned.posterior), rtol=1e-4, atol=1e-5)
    assert scales(laplace)["weight"] == 0.2  # what was fitted stays as it was
    assert tuned.structure == structure


@pytest.mark.parametrize("structure", ["dense", "kronecker", "last_layer"])
def test_a_mode_that_stays_gets_the_best_scale_for_that_mode(structure):
    laplace = Laplace.fit(regression(normal(0.0, 0.2)), structure=structure)
    with pytest.warns(UserWarning, match="Newton decrement .*the mode moves with the prior: use refit=True") as caught:
        tuned = laplace.tune_prior()
    assert caught[0].filename == __file__
    assert torch.equal(tuned.mode, laplace.mode)
    ones = torch.cat((X, torch.ones(25, 1, dtype=double)), 1)

    def value(scale):  # the exact evidence less what the quadratic still rises from this position
        gradient = ones.T @ (ones @ laplace.mode - Y) / NOISE**2 + laplace.mode / scale**2
        precision = ones.T @ ones / NOISE**2 + torch.eye(5, dtype=double) / scale**2
        return exact_evidence(scale, scale) - 0.5 * float(gradient @ torch.linalg.solve(precision, gradient))

    expected = float(best(value, [0.0]))
    assert scales(tuned)["weight"] == pytest.approx(expected, rel=1e-4)
    assert tuned.log_marginal_likelihood == pytest.approx(value(expected), abs=1e-8)
    assert expected < 0.9 * float(best(lambda s: exact_evidence(s, s), [0.0]))


@pytest.mark.parametrize("structure", ["dense", "kronecker"])
@pytest.mark.parametrize("groups", ["prior", "layer"])
def test_tuned_scales_of_several_groups(structure, groups):
    posterior = regression({"weight": normal(0.3, 0.5), "bias": normal(-1.0, 2.0)})
    tuned = Laplace.fit(posterior, structure=structure).tune_prior(groups, refit=True)
    assert float(tuned.posterior.prior_of("weight").loc) == 0.3
    assert float(tuned.posterior.prior_of("bias").loc) == -1.0
    if groups == "prior":
        expected = best(lambda w, b: exact_evidence(w, b, 0.3, -1.0), [0.0, 0.0])
    else:
        expected = best(lambda s: exact_evidence(s, s, 0.3, -1.0), [0.0]).expand(2)
    assert list(scales(tuned).values()) == pytest.approx(expected.tolist(), rel=1e-3)


def test_diagonal_scale_maximises_the_diagonal_evidence():
    laplace = Laplace.fit(regression(normal(0.0, 1.0)), structure="diagonal")
    tuned = laplace.tune_prior(refit=True)

    def value(scale):
        return Laplace.fit(regression(normal(0.0, scale)), structure="diagonal").log_marginal_likelihood

    top = tuned.log_marginal_likelihood
    scale = scales(tuned)["weight"]
    assert top == pytest.approx(value(scale), abs=1e-8)
    # Refitting ends where MacKay's condition holds, τ |ω̂|² = γ, with the approximation's own variances.
    γ = 5 - float(tuned.covariance.sum()) / scale**2
    assert float(tuned.mode.square().sum()) / scale**2 == pytest.approx(γ, rel=1e-3)


def network(num_data: int, hidden: int, num_outputs: int) -> Posterior:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, num_outputs)).double()
    x = rows(num_data, 2, seed=5)
    y = torch.stack((x.sum(1).sin(), x[:, 1]), 1)[:, :num_outputs]
    return Posterior(model, gaussian(0.3), (x, y), normal(0.0, 1.0))


def test_the_precision_of_a_network_ends_at_mackays_condition():
    laplace = Laplace.fit(network(60, 2, 1), structure="kronecker")
    tuned = laplace.tune_prior(refit=True)
    τ = scales(tuned)["0.weight"] ** -2
    γ = tuned.dim - τ * float(tuned.sd.square().sum())
    assert abs(τ - 1) > 0.03
    assert τ * float(tuned.mode.square().sum()) == pytest.approx(γ, rel=2e-3)


def test_an_evidence_that_falls_with_the_mode_is_said_to(monkeypatch):
    monkeypatch.setattr("langevin.diagnostics.laplace_prior._SETTLED", 1.0)  # one round
    laplace = Laplace.fit(network(60, 2, 1))
    with pytest.warns(UserWarning, match=r"evidence fell from -5\.9.* to -6\.2.* nats .*tune fewer") as caught:
        laplace.tune_prior("layer", refit=True)
    assert caught[0].filename == __file__


def test_last_layer_tunes_the_prior_of_that_layer_only():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)).double()
    posterior = Posterior(model, gaussian(NOISE), (X, Y[:, None]), normal(0.0, 1.0))
    laplace = Laplace.fit(posterior, structure="last_layer")
    tuned = laplace.tune_prior(refit=True)
    w, b = (laplace.posterior.unravel(laplace.mode)[name] for name in ("0.weight", "0.bias"))
    hidden = torch.cat((X @ w.T + b, torch.ones(25, 1, dtype=double)), 1)

    def value(scale):
        covariance = NOISE**2 * torch.eye(25, dtype=double) + scale**2 * hidden @ hidden.T
        return float(MultivariateNormal(torch.zeros(25, dtype=double), covariance).log_prob(Y))

    expected = float(best(value, [0.0]))
    found = {"0.weight": 1.0, "0.bias": 1.0, "1.weight": expected, "1.bias": expected}
    assert scales(tuned) == pytest.approx(found, rel=1e-3)
    assert tuned.log_marginal_likelihood == pytest.approx(value(expected), abs=1e-5)
    assert torch.equal(tuned.mode[:15], laplace.mode[:15])
    assert not torch.equal(tuned.mode[15:], laplace.mode[15:])
    assert tuned.sample(2).shape == (2, posterior.dim)


def test_an_evidence_without_maximum():
    posterior = Posterior(nn.Linear(4, 1).double(), gaussian(NOISE), (X, torch.zeros(25, 1)), normal(0.0, 1.0))
    laplace = Laplace.fit(posterior, torch.zeros(5, dtype=double))
    with pytest.warns(UserWarning, match=r"no maximum within a factor of 1e8 .*\['weight', 'bias'\]") as caught:
        tuned = laplace.tune_prior()
    assert caught[0].filename == __file__
    assert scales(tuned)["weight"] == pytest.approx(1e-4)


def test_priors_that_cannot_be_tuned():
    for prior, what in (
        (None, "is flat"),
        ({"bias": None, "*": normal(0.0, 1.0)}, "of 'bias' is flat"),
        (StudentT(4.0), r"is StudentT\("),
        ({"weight": Normal(torch.zeros(4), 1.0), "*": normal(0.0, 1.0)}, r"is Normal\("),
    ):
        laplace = Laplace.fit(regression(prior))
        with pytest.raises(
            ValueError, match=f"{what}.*only the precision of Normal priors with one mean and one scale"
        ):
            laplace.tune_prior()
    laplace = Laplace.fit(regression(normal(0.0, 1.0)))
    with pytest.raises(ValueError, match=r"groups must be one of \('prior', 'layer'\), got 'weight'"):
        laplace.tune_prior("weight")
    with pytest.raises(ValueError, match=r"temperature 1, this is a fit at 0\.5"):
        Laplace.fit(regression(normal(0.0, 1.0)), laplace.mode, temperature=0.5).tune_prior()
    density = LogDensity(lambda v: -(v["x"] ** 2).sum(), {"x": torch.zeros(2)})
    with pytest.raises(ValueError, match="tune_prior needs the model and data of a Posterior"):
        Laplace.fit(density, torch.zeros(2), curvature="hessian").tune_prior()
