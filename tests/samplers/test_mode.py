from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from langevin.samplers import LogDensity, Posterior, bernoulli, find_mode, gaussian
from torch import Tensor, nn
from torch.distributions import Gamma, Normal, constraints

SCIPY = ("L-BFGS-B", "BFGS", "CG", "Newton-CG", "trust-ncg", "trust-krylov")


def linear(dtype: torch.dtype = torch.float64) -> tuple[Posterior, Tensor]:
    """Bayesian linear regression and its mode in closed form."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.3])
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + torch.randn(
        200, generator=generator, dtype=torch.float64
    )
    model = nn.Linear(3, 1, bias=False, dtype=dtype)
    nn.init.zeros_(model.weight)
    posterior = Posterior(model, gaussian(0.5), (x.to(dtype), y[:, None].to(dtype)), Normal(0.0, 2.0))
    precision = x.mT @ x / 0.25 + torch.eye(3) / 4
    return posterior, torch.linalg.solve(precision, x.mT @ y / 0.25)


def logistic() -> tuple[Posterior, Tensor]:
    """Logistic regression and its mode by Newton's method, in numpy."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 4)) * [1, 2, 0.5, 1]
    y = (rng.random(500) < 1 / (1 + np.exp(-x @ [1, -1, 2, 0]))).astype(float)
    w = np.zeros(4)
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        w -= np.linalg.solve((x.T * (p * (1 - p))) @ x + np.eye(4), x.T @ (p - y) + w)
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    return Posterior(model, bernoulli, (torch.tensor(x), torch.tensor(y)[:, None])), torch.tensor(w)


TORCH = {
    "LBFGS": partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", tolerance_change=0),
    "Nesterov": partial(torch.optim.SGD, momentum=0.8, nesterov=True),
    "Adam": torch.optim.Adam,
}
LR = {linear: {"LBFGS": 1.0, "Nesterov": 0.02, "Adam": 0.1}, logistic: {"LBFGS": 1.0, "Nesterov": 0.5, "Adam": 0.1}}


@pytest.mark.parametrize("optimizer", [None, *SCIPY, *TORCH])
@pytest.mark.parametrize("problem", [linear, logistic])
def test_reaches_the_mode_known_otherwise(problem, optimizer, recwarn):
    posterior, truth = problem()
    mode = find_mode(posterior, TORCH.get(optimizer, optimizer), lr=LR[problem].get(optimizer))
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
    assert mode.dtype == torch.float64
    _, gradient = posterior.cost_and_gradient(mode[None])
    assert gradient.abs().max() <= 1e-6
    torch.testing.assert_close(mode, truth, rtol=0, atol=1e-4)  # a thousandth of the posterior's sd


def test_float32_model_reaches_the_mode_to_its_rounding():
    posterior, truth = linear(torch.float32)
    mode = find_mode(posterior)
    assert mode.dtype == torch.float32
    torch.testing.assert_close(mode.double(), truth, rtol=3e-7, atol=3e-7)


def test_start_does_not_matter_and_may_be_named():
    posterior, truth = linear()
    start = torch.tensor([30.0, -20.0, 10.0])
    from_tensor = find_mode(posterior, init=start)
    from_names = find_mode(posterior, init={"weight": start[None].double()})
    torch.testing.assert_close(from_tensor, from_names, rtol=0, atol=0)
    torch.testing.assert_close(from_tensor, truth, rtol=1e-6, atol=1e-6)


def test_log_density_mode_is_that_of_the_unconstrained_coordinates():
    def log_density(v: dict[str, Tensor]) -> Tensor:
        rate = torch.tensor(4.0, dtype=torch.float64)
        return Gamma(3 * torch.ones_like(rate), rate).log_prob(v["a"]) - 0.5 * ((v["b"] - v["a"]) ** 2).sum()

    init = {"a": torch.tensor(0.1, dtype=torch.float64), "b": torch.zeros(2, dtype=torch.float64)}
    target = LogDensity(log_density, init, {"a": constraints.positive})
    for method in (None, "trust-krylov"):
        values = target.unravel(find_mode(target, method, tolerance=1e-7))
        # In u = log a the density gains a factor a: the mode is 3/4, not 2/4.
        torch.testing.assert_close(values["a"], torch.tensor(0.75, dtype=torch.float64), rtol=1e-6, atol=0)
        torch.testing.assert_close(values["b"], torch.full((2,), 0.75, dtype=torch.float64), rtol=1e-6, atol=0)


def test_log_density_that_holds_float32_tensors_is_evaluated_in_float32():
    matrix = torch.tensor([[2.0, 0.5], [0.5, 1.0]])  # float64 coordinates could not be multiplied by it
    target = LogDensity(
        lambda v: -0.5 * (v["x"] - 1) @ matrix @ (v["x"] - 1), {"x": torch.zeros(2, dtype=torch.float32)}
    )
    torch.testing.assert_close(find_mode(target), torch.ones(2), rtol=0, atol=1e-5)


def test_minibatches_come_to_rest_at_the_mode():
    posterior, truth = logistic()
    sd = torch.func.hessian(lambda w: posterior.cost(w[None])[0])(truth).inverse().diag().sqrt()

    def run(**settings) -> Tensor:
        with pytest.warns(RuntimeWarning, match="stopped before converging"):
            return find_mode(posterior, batch_size=50, lr=0.1, num_steps=1000, **settings)

    mode = run(seed=0)
    assert ((mode - truth) / sd).abs().max() < 0.5
    assert torch.equal(mode, run(seed=0, optimizer=torch.optim.Adam))
    assert not torch.equal(mode, run(seed=1))


@pytest.mark.parametrize("optimizer", ["L-BFGS-B", "Newton-CG", "SGD"])
def test_warns_with_the_gradient_that_is_left(optimizer):
    posterior, _ = logistic()
    with pytest.warns(RuntimeWarning, match="stopped before converging") as record:
        mode = find_mode(posterior, optimizer, num_steps=2)
    assert record[0].filename == __file__
    _, gradient = posterior.cost_and_gradient(mode[None])
    assert f"{float(gradient.abs().max()):.2e}" in str(record[0].message)


def test_an_optimiser_that_stands_still_is_not_called_for_ever():
    posterior, _ = linear()
    with pytest.warns(RuntimeWarning, match=r"after \d{1,2} steps"):
        find_mode(posterior, partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", tolerance_grad=1e-3))


def test_tolerance_accepts_an_early_stop(recwarn):
    posterior, _ = logistic()
    mode = find_mode(posterior, "SGD", lr=0.1, tolerance=0.05)
    _, gradient = posterior.cost_and_gradient(mode[None])
    assert 0.03 < gradient.abs().max() <= 0.05
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "Addam"}, "unknown optimizer 'Addam'.*'Adam'.*'L-BFGS-B'"),
        ({"optimizer": "Nelder-Mead"}, "unknown optimizer"),
        ({"optimizer": 3}, "must be a name, a class of torch.optim"),
        ({"optimizer": lambda parameters: 3}, "made int"),
        ({"optimizer": "Adam", "lr": -0.1}, "lr must be positive and finite, got -0.1"),
        ({"optimizer": "Adam", "lr": math.nan}, "lr must be positive and finite, got nan"),
        ({"optimizer": "BFGS", "lr": 0.1}, "chooses its own step"),
        ({"optimizer": "BFGS", "batch_size": 10}, "BFGS needs the full data"),
        ({"batch_size": 201}, "batch_size must lie in"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"tolerance": -1.0}, "tolerance must not be negative, got -1"),
        ({"init": torch.zeros(2)}, r"shape \(3,\), got \(2,\)"),
        ({"init": torch.tensor([0.0, math.nan, 0.0])}, "init is not finite"),
        ({"init": torch.full((3,), 1e200, dtype=torch.float64)}, "not finite"),
        ({"init": {"bias": torch.zeros(1)}}, "missing.*weight"),
    ],
)
def test_bad_settings_are_named(settings, message):
    posterior, _ = linear()
    with pytest.raises(ValueError, match=message):
        find_mode(posterior, **settings)


def test_divergence_is_an_error():
    posterior, _ = linear()
    with pytest.raises(FloatingPointError, match="lower lr"):
        find_mode(posterior, "SGD", lr=100.0)
