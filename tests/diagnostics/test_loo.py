"""PSIS-LOO beside exact leaving out, in a model where that is a formula."""

import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from langevin.diagnostics import loo, psis
from langevin.samplers import Chains, Posterior, gaussian, inference_data
from scipy.stats import norm
from torch import nn
from torch.distributions import Normal

N, FEATURES, NOISE = 30, 3, 0.7
ROOT = Path(__file__).parents[2]
ARVIZ1 = Path(os.environ.get("LANGEVIN_ARVIZ1_PYTHON", ROOT / ".venv-arviz1/bin/python"))


def problem(outlier=0.0):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, FEATURES, generator=g, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-1.0], [0.5]], dtype=torch.float64)
    y = y + NOISE * torch.randn(N, 1, generator=g, dtype=torch.float64)
    x[4], y[4] = x[4] + outlier, y[4] - outlier
    torch.manual_seed(0)
    model = nn.Linear(FEATURES, 1, bias=False).double()
    return Posterior(model, gaussian(NOISE), (x, y), prior=Normal(0.0, 1.0)), x.numpy(), y.numpy()[:, 0]


def gaussian_posterior(x, y):
    precision = x.T @ x / NOISE**2 + np.eye(FEATURES)
    covariance = np.linalg.inv(precision)
    return covariance @ x.T @ y / NOISE**2, covariance


def exact(x, y):
    """log p(yᵢ | y₋ᵢ), by N posteriors without an example each."""
    found = []
    for left in range(len(y)):
        keep = np.arange(len(y)) != left
        mean, covariance = gaussian_posterior(x[keep], y[keep])
        sd = np.sqrt(NOISE**2 + x[left] @ covariance @ x[left])
        found.append(norm.logpdf(y[left], x[left] @ mean, sd))
    return np.array(found)


def draws_of(x, y, seed=0, num_chains=4, num_draws=500):
    mean, covariance = gaussian_posterior(x, y)
    draws = np.random.default_rng(seed).multivariate_normal(mean, covariance, (num_chains, num_draws))
    return Chains({"weight": torch.from_numpy(draws)[:, :, None]})


def test_it_is_exact_leaving_out_to_monte_carlo_error():
    posterior, x, y = problem()
    found = [loo(draws_of(x, y, seed), posterior) for seed in range(12)]
    pointwise = torch.stack([each.pointwise for each in found]).numpy()
    error = pointwise.std(0, ddof=1) / np.sqrt(12)
    assert (np.abs(pointwise.mean(0) - exact(x, y)) < 5 * error + 1e-3).all()
    elpd = np.array([each.elpd for each in found])
    assert abs(elpd.mean() - exact(x, y).sum()) < 4 * elpd.std(ddof=1) / np.sqrt(12)
    assert elpd.std(ddof=1) < 0.2


def test_the_numbers_that_come_with_it():
    posterior, x, y = problem()
    found = loo(draws_of(x, y), posterior)
    assert found.elpd == pytest.approx(found.pointwise.sum().item())
    assert found.error == pytest.approx(found.pointwise.std().item() * np.sqrt(N))
    mean, covariance = gaussian_posterior(x, y)
    in_sample = norm.logpdf(y, x @ mean, np.sqrt(NOISE**2 + np.einsum("ni,ij,nj->n", x, covariance, x)))
    assert found.effective_parameters == pytest.approx(in_sample.sum() - exact(x, y).sum(), abs=0.3)
    assert found.efficiency == pytest.approx(1, abs=0.1)  # the draws are independent
    assert found.limit == pytest.approx(min(0.7, 1 - 1 / np.log10(2000)))
    assert found.num_draws == 2000
    assert len(found.unreliable) == 0
    text = str(found)
    assert f"{found.elpd:.2f} ± {found.error:.2f} over 30 examples" in text
    assert "all below" in text


def test_correlated_draws_are_worth_less():
    posterior, x, y = problem()
    chains = draws_of(x, y)
    slow = Chains({name: value.repeat_interleave(5, 1) for name, value in chains.draws.items()})
    assert loo(slow, posterior).efficiency == pytest.approx(0.2, rel=0.15)


def test_an_outlier_is_named():
    posterior, x, y = problem(outlier=9.0)
    with pytest.warns(UserWarning, match=r"k̂ is above 0\.70 for \d+ of 30 examples.*The worst first: 4") as record:
        found = loo(draws_of(x, y), posterior)
    assert record[0].filename == __file__
    assert found.unreliable[0] == 4
    assert found.pareto_k[4] > 0.7
    assert "of 30 above the limit" in str(found)


def test_some_of_the_examples():
    posterior, x, y = problem()
    chains = draws_of(x, y)
    whole = loo(chains, posterior)
    some = loo(chains, posterior, subset=[17, 3, 20, 8])
    torch.testing.assert_close(some.pointwise, whole.pointwise[[17, 3, 20, 8]], rtol=0.01, atol=0.005)
    assert some.examples.tolist() == [17, 3, 20, 8]
    assert posterior.num_data == len(posterior.targets) == N
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior, x, y = problem(outlier=9.0)
        assert loo(draws_of(x, y), posterior, subset=torch.tensor([9, 4])).unreliable.tolist() == [4]
    for subset, message in (
        ([], "integers"),
        ([0.5], "integers"),
        ([True] * N, "integers"),
        ([0, 30], "different places in 0 … 29"),
        ([-1], "different places"),
        ([3, 3], "different places"),
    ):
        with pytest.raises(ValueError, match=message):
            loo(draws_of(x, y), posterior, subset=subset)


def test_stopped_chains_are_left_out():
    posterior, x, y = problem()
    chains = draws_of(x, y)
    only = Chains({"weight": chains.draws["weight"][1:]})
    chains.draws["weight"][0, 100:] = torch.nan
    chains.sample_stats["diverged"] = torch.zeros(4, 500, dtype=torch.bool)
    chains.sample_stats["diverged"][0, 100:] = True
    assert loo(chains, posterior).elpd == pytest.approx(loo(only, posterior).elpd)


def test_what_it_cannot_know_is_refused(monkeypatch):
    posterior, x, y = problem()
    chains = draws_of(x, y)
    chains.sample_stats["weight"] = torch.arange(1.0, 501.0).expand(4, 500)
    with pytest.raises(ValueError, match="unequal weights"):
        loo(chains, posterior)
    chains = draws_of(x, y)
    chains.attrs["temperature"] = 0.5
    with pytest.raises(ValueError, match=r"sampled at temperature 0\.5"):
        loo(chains, posterior)
    with pytest.raises(ValueError, match="24 draws are too few"):
        loo(draws_of(x, y, num_chains=2, num_draws=12), posterior)
    with pytest.raises(ValueError, match="no draws of"):
        loo(Chains({"other": draws_of(x, y).draws["weight"]}), posterior)
    chains = draws_of(x, y)
    chains.draws["weight"][2, 7] = torch.inf
    with pytest.raises(ValueError, match="30 of 30 examples have log-likelihoods that are not finite"):
        loo(chains, posterior)
    module = importlib.import_module(loo.__module__)
    monkeypatch.setattr(module, "_memory", lambda device: 2.0**20)
    with pytest.raises(ValueError, match=r"2,000 draws × 30 examples need 0\.00268 GiB.*subset="):
        loo(draws_of(x, y), posterior)
    assert loo(draws_of(x, y), posterior, subset=range(10)).examples.tolist() == list(range(10))


SCRIPT = """
import importlib.util, json, sys, warnings
warnings.simplefilter("ignore")
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
import numpy as np, arviz
adapter, psis = load("inference_data", sys.argv[1]), load("psis", sys.argv[2])
values = np.load(sys.argv[3])
data = adapter.to_arviz({"log_likelihood": adapter.draws_dataset({"y": values})}, {})
elpd, k = psis.leave_one_out(data, 0.8)
print(json.dumps([arviz.__version__, elpd.tolist(), k.tolist(), "torch" in sys.modules]))
"""


def test_both_generations_of_arviz_say_the_same(tmp_path):
    if not ARVIZ1.is_file():
        pytest.skip(f"no environment with ArviZ 1 at {ARVIZ1}: `make test` makes one where Python 3.12 or newer exists")
    values = -np.random.default_rng(0).exponential(size=(4, 200, 7)) * np.linspace(0.1, 0.7, 7)
    np.save(tmp_path / "values.npy", values)
    paths = [inference_data.__file__, psis.__file__, str(tmp_path / "values.npy")]
    found = []
    for python in (sys.executable, ARVIZ1):
        command = [str(python), "-c", SCRIPT, *paths]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert [version.split(".")[0] for version, *_ in found] == ["0", "1"]
    assert not any(torch_too for *_, torch_too in found)
    # Both fit the tail by the same method, with small differences in where it begins.
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=2e-3)
    np.testing.assert_allclose(found[0][2], found[1][2], atol=0.05)
