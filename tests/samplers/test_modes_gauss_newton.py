"""Gauss–Newton, Levenberg–Marquardt and natural Newton against dense formulas and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from langevin.samplers import (
    LogDensity,
    Posterior,
    categorical,
    find_mode,
    gaussian,
    heteroscedastic_gaussian,
    poisson,
)
from langevin.samplers.modes import GaussNewton, NaturalNewton
from langevin.samplers.modes.curvature import gauss_newton_matrix, prior_hessian
from torch import nn
from torch.distributions import MultivariateNormal, Normal, StudentT
from torch.func import hessian, jacrev

from tests.samplers.small import classifier, network, noise_of, positions, seeded


def linear() -> Posterior:
    x = seeded(30, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + seeded(30, 1, seed=1)
    return Posterior(nn.Linear(3, 1, dtype=torch.float64), gaussian(0.5), (x, y), Normal(0.3, 2.0))


def tanh_net(seed: int = 0) -> Posterior:
    """A network on data of another with weights not far from its own: one mode is the nearest for any method."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0]]))
        model[0].bias.copy_(torch.tensor([1.0, -1.0]))
        model[2].weight.copy_(torch.tensor([[1.5, -1.0]]))
        x = torch.linspace(-3, 3, 40, dtype=torch.float64)[:, None]
        y = model(x) + 0.1 * seeded(40, 1, seed=seed)
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return Posterior(model, gaussian(0.1), (x, y), Normal(0.0, 2.0))


def mean_hessian(posterior: Posterior, position: torch.Tensor) -> torch.Tensor:
    return torch.stack([hessian(lambda at: posterior.cost(at[None])[0])(p) for p in position]) / posterior.num_data


def newton(posterior: Posterior, position: torch.Tensor) -> torch.Tensor:
    _, g = posterior.cost_and_gradient(position)
    return position - torch.linalg.solve(mean_hessian(posterior, position), g)


@pytest.mark.parametrize("prior", [Normal(0.0, 2.0), StudentT(3.0), None, {"weight": None, "bias": Normal(0.0, 0.1)}])
def test_hessian_of_the_prior(prior):
    posterior = Posterior(nn.Linear(3, 1, dtype=torch.float64), gaussian(0.5), (seeded(5, 3), seeded(5, 1)), prior)
    at = positions(posterior)
    expected = [hessian(lambda p: -posterior.log_prior(p[None])[0])(p) / 5 for p in at]
    torch.testing.assert_close(prior_hessian(posterior, at), torch.stack(expected))


def test_hessian_of_a_prior_with_correlations():
    covariance = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    prior = {"weight": MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance), "bias": Normal(0.0, 1.0)}
    posterior = Posterior(nn.Linear(2, 1, dtype=torch.float64), gaussian(0.5), (seeded(4, 2), seeded(4, 1)), prior)
    expected = torch.block_diag(covariance.inverse(), torch.ones(1, 1, dtype=torch.float64)) / 4
    torch.testing.assert_close(prior_hessian(posterior, positions(posterior)), expected.expand(2, 3, 3))


@pytest.mark.parametrize("chosen", [None, [[0, 3, 4], [5, 1, 0]]])
@pytest.mark.parametrize("likelihood", [categorical, heteroscedastic_gaussian, poisson])
def test_matrix_is_the_hessian_without_second_derivatives_of_the_outputs(likelihood, chosen):
    outputs = 3 if likelihood is categorical else 2
    targets = torch.arange(6) % 3 if likelihood is categorical else torch.arange(6.0).double()
    if likelihood is poisson:
        targets = torch.stack((targets, targets), -1)
    posterior = Posterior(network(outputs), likelihood, (seeded(6, 2), targets))
    at, batch = positions(posterior), None if chosen is None else torch.tensor(chosen)
    found = gauss_newton_matrix(posterior, at, batch)
    for chain, position in enumerate(at):
        inputs = posterior.inputs if batch is None else posterior.inputs[batch[chain]]
        J = jacrev(lambda p, inputs=inputs: posterior.call(p, inputs))(position)
        H = likelihood.fisher(posterior.call(position, inputs))
        H = torch.diag_embed(H) if H.ndim == 2 else H
        expected = torch.einsum("nai,nab,nbj->ij", J, H, J) / len(inputs) + torch.eye(posterior.dim) / 6
        torch.testing.assert_close(found[chain], expected)


@pytest.mark.parametrize("method", [GaussNewton(damping=0, adapt=False), GaussNewton(damping=0)])
def test_one_step_solves_linear_least_squares(method):
    posterior = linear()
    at = positions(posterior)
    state = method.step(posterior, method.init(posterior, at), None, noise_of())
    torch.testing.assert_close(state.position, newton(posterior, at))
    assert state.gradient.abs().max() < 1e-12


def test_step_is_the_damped_formula():
    posterior = tanh_net()
    at, method = positions(posterior), GaussNewton(damping=0.1, adapt=False, lr=0.5)
    state = method.step(posterior, method.init(posterior, at), None, noise_of())
    G, (_, g) = gauss_newton_matrix(posterior, at), posterior.cost_and_gradient(at)
    λ = 0.1 * G.diagonal(dim1=1, dim2=2).amax(-1)
    expected = at - 0.5 * torch.linalg.solve(G + λ[:, None, None] * torch.eye(posterior.dim), g)
    torch.testing.assert_close(state.position, expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_levenberg_marquardt_agrees_with_scipy(seed):
    posterior = tanh_net(seed)

    def residuals(values: np.ndarray) -> torch.Tensor:
        at = torch.as_tensor(values)
        misfit = (posterior.call(at, posterior.inputs) - posterior.targets)[:, 0] / 0.1
        return torch.cat((misfit, at / 2.0))

    def jacobian(values: np.ndarray) -> np.ndarray:
        return jacrev(residuals)(torch.as_tensor(values)).numpy()

    start = posterior.default_position().numpy()
    reference = scipy.optimize.least_squares(
        lambda v: residuals(v).numpy(), start, jacobian, method="lm", xtol=1e-13, ftol=1e-13, gtol=1e-13
    )
    mode = find_mode(posterior, GaussNewton(), tolerance=1e-10)
    here, there = (0.5 * residuals(at).square().sum().item() for at in (mode.numpy(), reference.x))
    assert here == pytest.approx(there, abs=1e-6)
    np.testing.assert_allclose(mode.numpy(), reference.x, atol=1e-6)


def test_a_step_that_would_raise_the_cost_is_refused_and_damping_grows():
    posterior = classifier()
    at = torch.stack((posterior.default_position() * 12, posterior.default_position()))
    method = GaussNewton(damping=1e-9)
    state = method.init(posterior, at)
    refused = 0
    for _ in range(40):
        new = method.step(posterior, state, None, noise_of())
        stays = (new.position == state.position).all(-1)
        assert (new.cost <= state.cost).all()
        assert (new.damping[stays] > state.damping[stays]).all()
        refused += int(stays[0])
        state = new
    assert refused > 0
    assert state.gradient.abs().max() < 1e-2


def test_converges_to_rounding_and_then_stands_still():
    posterior = tanh_net()
    with pytest.warns(RuntimeWarning, match="stopped before converging after") as record:
        mode = find_mode(posterior, GaussNewton(), tolerance=0.0)
    assert posterior.cost_and_gradient(mode[None])[1].abs().max() < 1e-12
    assert int(str(record[0].message).split(" after ")[1].split()[0]) < 1000  # of 10,000


def test_a_float32_model_is_evaluated_in_float64():
    posterior = tanh_net().to(dtype=torch.float32)
    mode = find_mode(posterior, GaussNewton(), tolerance=1e-12)
    assert mode.dtype == torch.float32
    exact = find_mode(tanh_net(), GaussNewton(), init=mode.double(), tolerance=1e-12)
    torch.testing.assert_close(mode.double(), exact, rtol=0, atol=1e-5)


def gradients_of_examples(posterior: Posterior, position: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return -jacrev(lambda at: posterior.log_likelihood(at[None], index[None])[0])(position)


@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize("chosen", [None, [[0, 3, 4], [5, 1, 0]]])
def test_natural_newton_is_the_dense_formula(chosen, finite):
    posterior, σ, δ, ε = classifier(), 0.3, 0.05, 0.7
    method = NaturalNewton(sigma=σ, damping=δ, lr=ε, finite_population=finite)
    at, batch = positions(posterior), None if chosen is None else torch.tensor(chosen)
    state = method.step(posterior, method.init(posterior, at), batch, noise_of())
    I, N = torch.eye(posterior.dim, dtype=torch.float64), posterior.num_data  # noqa: E741  # the identity
    H = gauss_newton_matrix(posterior, at, batch) + δ * I
    _, ĝ = posterior.cost_and_gradient(at, batch)
    for chain, position in enumerate(at):
        index = torch.arange(N) if batch is None else batch[chain]
        n, inverse = len(index), H[chain].inverse()
        Ĉ = torch.cov(gradients_of_examples(posterior, position, index).T)
        factor = 1 - n / N if finite else 1.0
        d = (I + factor * inverse @ Ĉ @ inverse / (n * σ**2)).inverse() @ inverse @ ĝ[chain]
        torch.testing.assert_close(state.position[chain], position - ε * d)


def test_natural_newton_is_newton_where_examples_leave_no_doubt():
    posterior = linear()
    at = positions(posterior)
    for method in (NaturalNewton(sigma=math.inf), NaturalNewton(sigma=0.01, finite_population=True)):
        state = method.step(posterior, method.init(posterior, at), None, noise_of())
        torch.testing.assert_close(state.position, newton(posterior, at))
    small = NaturalNewton(sigma=0.01)
    state = small.step(posterior, small.init(posterior, at), None, noise_of())
    assert ((state.position - at).norm(dim=-1) < 0.5 * (newton(posterior, at) - at).norm(dim=-1)).all()


def test_natural_newton_averages_as_a_plain_mean_at_first():
    posterior, method = classifier(), NaturalNewton(sigma=1.0, damping=0.1, average=0.9, lr=0.1)
    state, seen = method.init(posterior, positions(posterior)), []
    for _ in range(3):
        seen.append(gauss_newton_matrix(posterior, state.position))
        state = method.step(posterior, state, None, noise_of())
    torch.testing.assert_close(state.hessian, sum(seen) / 3)


def test_natural_newton_finds_the_mode():
    posterior = linear()
    mode = find_mode(posterior, NaturalNewton(sigma=0.1, lr=1.0), tolerance=1e-9)
    torch.testing.assert_close(mode, newton(posterior, posterior.default_position()[None])[0], rtol=0, atol=1e-6)


def no_fisher(outputs):
    return Normal(outputs, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussNewton(damping=-1.0), "damping must be positive and finite, got -1"),
        (lambda: GaussNewton(lr=0.0), "lr must be positive"),
        (lambda: NaturalNewton(sigma=0.0), "sigma must be positive"),
        (lambda: NaturalNewton(sigma=1.0, average=1.0), r"average must lie in \[0, 1\), got 1"),
        (lambda: NaturalNewton(sigma=1.0, damping=math.nan), "damping must be positive"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", [GaussNewton(), NaturalNewton(sigma=1.0)])
def test_targets_without_what_is_needed_are_refused(method):
    density = LogDensity(lambda v: -(v["x"] ** 2).sum(), {"x": torch.ones(2)})
    with pytest.raises(ValueError, match=r"needs the examples of a Posterior.*SaddleFreeNewton"):
        find_mode(density, method)
    unknown = Posterior(nn.Linear(1, 1), no_fisher, (torch.ones(3, 1), torch.ones(3, 1)))
    with pytest.raises(ValueError, match=r"no method `fisher\(outputs\)`"):
        find_mode(unknown, method)
    large = Posterior(nn.Linear(5000, 1), gaussian(1.0), (torch.ones(3, 5000), torch.ones(3, 1)))
    with pytest.raises(ValueError, match="5001 × 5001 matrices"):
        find_mode(large, method)


def test_gauss_newton_refuses_minibatches_and_natural_newton_single_examples():
    with pytest.raises(ValueError, match="costs of the full data"):
        find_mode(linear(), GaussNewton(), batch_size=10)
    with pytest.raises(ValueError, match="covariance of the examples"):
        find_mode(linear(), NaturalNewton(sigma=1.0), batch_size=1)
