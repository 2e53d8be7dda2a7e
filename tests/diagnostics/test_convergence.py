import logging
import math
import sys
import warnings

import arviz as az
import numpy as np
import pytest
import torch
from langevin.diagnostics.convergence import convergence, ess, mcse, rhat
from langevin.samplers.chains import Chains
from langevin.samplers.likelihoods import categorical, gaussian
from langevin.samplers.posterior import Posterior

OURS = {
    "rhat": rhat,
    "ess_bulk": lambda x: ess(x, "bulk"),
    "ess_tail": lambda x: ess(x, "tail"),
    "ess_mean": lambda x: ess(x, "mean"),
    "mcse": mcse,
}


def arviz_statistics(x):
    """ArviZ on one element, `[chain, draw]`."""
    if int(az.__version__.split(".")[0]) >= 1:
        pytest.skip("compares with the functions of ArviZ 0.23")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {
                "rhat": float(az.rhat(x)),
                "ess_bulk": float(az.ess(x, method="bulk")),
                "ess_tail": float(az.ess(x, method="tail", prob=(0.05, 0.95))),
                "ess_mean": float(az.ess(x, method="mean")),
                "mcse": float(az.mcse(x)),
            }
    finally:
        logging.disable(logging.NOTSET)


def autoregressive(num_chains, num_draws, rho, size, generator):
    """Stationary AR(1) with unit variance, `[chain, draw, size]`."""
    x = generator.standard_normal((num_chains, num_draws, size))
    for t in range(1, num_draws):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * x[:, t]
    return x


def awkward(num_chains, num_draws):
    """Elements of every kind that has a statistic: `[chain, draw, element]`."""
    generator = np.random.default_rng(num_chains * 1000 + num_draws)
    columns = []
    for rho in (-0.95, -0.5, 0.0, 0.6, 0.97):
        x = autoregressive(num_chains, num_draws, rho, 1, generator)[..., 0]
        chain = np.arange(num_chains)[:, None]
        drift = np.arange(num_draws) / num_draws
        columns += [
            x,
            np.round(x),
            (x > 0.8) * 1.0,
            x + chain,
            x * (1 + chain),
            np.tan(x),
            x + 5 * drift,
            1e8 * x - 3e8,
        ]
    return np.stack(columns, -1)


@pytest.mark.parametrize("num_chains", [1, 2, 3, 8])
@pytest.mark.parametrize("num_draws", [4, 5, 6, 7, 8, 9, 11, 20, 51, 200])
def test_equal_to_arviz(num_chains, num_draws):
    x = awkward(num_chains, num_draws)
    halves = np.delete(x, num_draws // 2, 1) if num_draws % 2 else x
    x = x[..., (halves != halves[:1, :1]).any((0, 1))]  # of constant elements below
    ours = {name: function(torch.from_numpy(x)).numpy() for name, function in OURS.items()}
    for element in range(x.shape[-1]):
        for name, expected in arviz_statistics(x[..., element]).items():
            found = ours[name][element]
            if name == "rhat" and expected > 1e6:
                assert found > 1e6  # a variance of zero, but for ArviZ's rounding
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-8, err_msg=f"{name} of element {element}")


def test_shapes_and_types():
    x = torch.from_numpy(awkward(3, 30)).float()[..., :12]
    for name, function in OURS.items():
        flat = function(x)
        assert flat.shape == (12,)
        assert flat.dtype == torch.float64, name
        torch.testing.assert_close(function(x.reshape(3, 30, 2, 3, 2)), flat.reshape(2, 3, 2), rtol=0, atol=0)
        torch.testing.assert_close(function(x[..., 4]), flat[4], rtol=0, atol=0, equal_nan=True)


def test_blocks_do_not_change_the_numbers(monkeypatch):
    x = torch.from_numpy(awkward(2, 25))
    whole = {name: function(x) for name, function in OURS.items()}
    monkeypatch.setattr(sys.modules[convergence.__module__], "_BLOCK", 150)
    for name, function in OURS.items():
        torch.testing.assert_close(function(x), whole[name], rtol=1e-12, atol=0, equal_nan=True)


def test_monte_carlo_error_is_the_error():
    """z = mean/mcse of chains with a known mean is standard normal, for slow, independent and antithetic chains."""
    generator = np.random.default_rng(0)
    for rho in (-0.5, 0.0, 0.8):
        x = torch.from_numpy(autoregressive(4, 500, rho, 2000, generator))
        z = x.mean((0, 1)) / mcse(x)
        assert abs(z.mean().item()) < 4 / math.sqrt(2000)
        # The error itself is known to some per cent only, which widens z.
        assert abs(z.square().mean().item() - 1) < 4 * math.sqrt(2 / 2000) + 0.03


def test_elements_that_never_change_are_undefined():
    x = torch.randn(4, 20, 3, generator=torch.Generator().manual_seed(0))
    x[..., 1] = 0.1
    odd = torch.cat((x[:, :10], torch.randn(4, 1, 3), x[:, 10:]), 1)  # the middle draw is in neither half
    assert ess(odd).isnan().tolist() == [False, True, False]
    for name, function in OURS.items():
        assert function(x).isnan().tolist() == [False, True, False], name
    result = convergence(Chains({"w": x}))
    assert result.num_constant == 1
    assert result.mean["w"][1].item() == pytest.approx(0.1)
    assert result.sd["w"][1].item() == 0
    assert result.worst(1)[0]["name"] == "w[1]"
    assert "1 numbers never change" in str(result)
    assert math.isfinite(result.max_rhat)


def test_chains_that_stand_still_at_different_values():
    x = torch.arange(4.0)[:, None].expand(4, 20) * 0.1
    assert rhat(x).item() == math.inf
    assert ess(x).item() < 8  # one for each half chain


def test_a_chain_that_has_not_moved_is_named():
    x = torch.randn(3, 50, 5, generator=torch.Generator().manual_seed(1))
    x[1] = x[1, :1]
    chains = Chains({"a": x[..., :2], "b": x[..., 2]}, attrs={"chain_ids": [4, 7, 9]})
    result = convergence(chains)
    assert result.unmoved == [7]
    assert "chain 7 has not moved" in str(result)
    assert result.max_rhat > 1.1
    assert convergence(Chains({"a": x[:1]})).unmoved == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_undefined(bad):
    x = torch.randn(4, 20, 3, generator=torch.Generator().manual_seed(0))
    x[2, 5, 0] = bad
    for name, function in OURS.items():
        assert function(x).isnan().tolist() == [True, False, False], name


def test_too_few_draws_or_chains_are_undefined():
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    assert all(function(x).isnan().all() for function in OURS.values())
    result = convergence(Chains({"w": x}))
    torch.testing.assert_close(result.mean["w"], x.double().mean((0, 1)))
    torch.testing.assert_close(result.sd["w"], x.double().flatten(0, 1).std(0))
    assert math.isnan(result.max_rhat)
    assert math.isnan(result.min_ess)
    single = convergence(Chains({"w": torch.randn(1, 100, 2, generator=torch.Generator().manual_seed(0))}))
    assert single.rhat["w"].isnan().all()
    assert single.min_ess > 20
    one = convergence(Chains({"w": torch.ones(1, 1)}))
    assert one.mean["w"] == 1
    assert str(one)


def test_convergence_collects_names_and_orders_the_worst():
    x = torch.from_numpy(autoregressive(4, 100, 0.3, 13, np.random.default_rng(0)))
    x[0, :, 7] += 3
    chains = Chains({"0.weight": x[..., :12].reshape(4, 100, 3, 4), "0.bias": x[..., 12]})
    result = convergence(chains)
    assert result.rhat["0.weight"].shape == (3, 4)
    assert result.rhat["0.bias"].shape == ()
    worst = result.worst(3)
    assert len(worst) == 3
    assert worst[0]["name"] == "0.weight[1, 3]"
    assert worst[0]["rhat"] == result.max_rhat == result.rhat["0.weight"][1, 3].item()
    assert [row["rhat"] for row in worst] == sorted((row["rhat"] for row in worst), reverse=True)
    assert {row["name"] for row in result.worst(99)} >= {"0.bias", "0.weight[0, 0]", "0.weight[2, 3]"}
    everything = torch.cat([result.ess_bulk["0.weight"].flatten(), result.ess_tail["0.weight"].flatten()])
    assert result.min_ess <= everything.min().item()
    torch.testing.assert_close(result.mcse["0.bias"], mcse(x[..., 12]))
    assert "0.weight[1, 3]" in str(result)


def test_stopped_chains_are_left_out():
    x = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))
    diverged = torch.zeros(3, 20, dtype=torch.bool)
    diverged[1, 9:] = True
    x[1, 9:] = math.nan
    chains = Chains({"w": x}, {"diverged": diverged}, {"chain_ids": [0, 1, 2], "stopped": {"1": 123}})
    result = convergence(chains)
    assert (result.num_chains, result.stopped) == (2, {"1": 123})
    torch.testing.assert_close(result.rhat["w"], rhat(x[[0, 2]]))
    assert "chain 1 at step 123" in str(result)
    diverged[:, -1] = True
    with pytest.raises(ValueError, match="every chain was stopped"):
        convergence(chains)


def test_draws_of_unequal_weight():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 400, 500, generator=generator, dtype=torch.float64)
    weight = torch.rand(400, generator=generator).expand(4, 400) ** 2
    result = convergence(Chains({"w": x}, {"weight": weight}))
    w = (weight / weight.sum()).double()[..., None]
    torch.testing.assert_close(result.mean["w"], (w * x).sum((0, 1)))
    z = result.mean["w"] / result.mcse["w"]
    assert abs(z.square().mean().item() - 1) < 4 * math.sqrt(2 / 500)


class TwoUnits(torch.nn.Module):
    """v tanh(u x): (u, v) and (−u, −v) are the same function."""

    def __init__(self):
        super().__init__()
        self.u = torch.nn.Parameter(torch.ones(()))
        self.v = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.v * torch.tanh(self.u * x)


def test_predictions_agree_where_weights_do_not():
    x = torch.linspace(-2, 2, 9)
    posterior = Posterior(TwoUnits(), gaussian(1.0), (x, x))
    generator = torch.Generator().manual_seed(0)
    sign = torch.tensor([1.0, 1, -1, -1])[:, None]
    draws = {name: sign * (1 + 0.1 * torch.randn(4, 200, generator=generator)) for name in ("u", "v")}
    chains = Chains(draws)
    result = convergence(chains, posterior, x)
    assert result.max_rhat > 1.5
    assert result.predictions is not None
    # At x = 0 every draw predicts 0.
    assert result.predictions.num_constant == 1
    assert result.predictions.max_rhat < 1.03
    prediction = draws["v"][..., None] * torch.tanh(draws["u"][..., None] * x)
    torch.testing.assert_close(result.predictions.rhat["prediction"], rhat(prediction), equal_nan=True)
    assert "predictions: 4 chains" in str(result)
    for chunk in (1, 900, 1700, 10**6):
        again = convergence(chains, posterior, x, chunk=chunk).predictions
        assert again is not None
        torch.testing.assert_close(again.ess_bulk, result.predictions.ess_bulk, equal_nan=True)


def test_predictions_of_a_classifier_are_probabilities():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    posterior = Posterior(torch.nn.Linear(4, 3), categorical, (x, torch.arange(30) % 3))
    generator = torch.Generator().manual_seed(1)
    chains = Chains(
        {"weight": torch.randn(2, 50, 3, 4, generator=generator), "bias": torch.randn(2, 50, 3, generator=generator)}
    )
    result = convergence(chains, posterior, x[:5]).predictions
    assert result is not None
    probability = torch.softmax(
        torch.einsum("cdki,ni->cdnk", chains.draws["weight"], x[:5]) + chains.draws["bias"][:, :, None], -1
    ).double()
    torch.testing.assert_close(result.mean["prediction"], probability.mean((0, 1)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.ess_bulk["prediction"], ess(probability), rtol=1e-4, atol=0)
    assert result.worst(1)[0]["name"].startswith("prediction[")


def test_clear_errors():
    with pytest.raises(ValueError, match="kind must be"):
        ess(torch.zeros(2, 10), kind="median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"\[chain, draw, \.\.\.\]"):
        rhat(torch.zeros(10))
    with pytest.raises(ValueError, match="inputs without a posterior"):
        convergence(Chains({"w": torch.zeros(2, 10)}), inputs=torch.zeros(3))
