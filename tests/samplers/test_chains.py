"""Chains: selection, joining, saving, and the objects made for ArviZ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import arviz
import numpy as np
import pytest
import torch
from langevin.samplers import inference_data
from langevin.samplers.chains import Chains
from langevin.samplers.likelihoods import categorical, gaussian
from langevin.samplers.posterior import Posterior
from torch import nn

NUM_CHAINS, NUM_DRAWS = 3, 7


def make_chains(posterior: Posterior, *, warmup: bool = False) -> Chains:
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> dict[str, torch.Tensor]:
        return posterior.unravel(torch.randn(NUM_CHAINS, count, posterior.dim, generator=generator))

    def stats(count: int) -> dict[str, torch.Tensor]:
        return {
            "cost": torch.randn(NUM_CHAINS, count, generator=generator),
            "weight": torch.full((NUM_CHAINS, count), 0.1),
            "diverged": torch.zeros(NUM_CHAINS, count, dtype=torch.bool),
        }

    return Chains(
        draws=draw(NUM_DRAWS),
        sample_stats=stats(NUM_DRAWS),
        attrs={
            "sampler": "SGLD",
            "settings": {"lr": 0.1, "temperature": 1.0},
            "num_data": posterior.num_data,
            "batch_size": None,
            "chain_ids": [4, 5, 9],
            "num_warmup": 4,
            "num_samples": NUM_DRAWS,
            "stopped": {},
            "interrupted": False,
            "seconds": 1.5,
            "started": "2026-01-01T00:00:00",
        },
        state={"position": torch.randn(NUM_CHAINS, posterior.dim, generator=generator), "step": torch.tensor(11)},
        warmup_draws=draw(4) if warmup else {},
        warmup_stats=stats(4) if warmup else {},
    )


@pytest.fixture
def posterior() -> Posterior:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(20, 4, generator=generator), torch.randint(3, (20,), generator=generator)
    return Posterior(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), categorical, (x, y))


@pytest.fixture
def chains(posterior: Posterior) -> Chains:
    return make_chains(posterior)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, equal_nan=True)


def stop(chains: Chains, chain: int, draw: int) -> Chains:
    """What sampling records of a chain that diverged before `draw`."""
    for value in chains.draws.values():
        value[chain, draw:] = torch.nan
    chains.sample_stats["diverged"][chain, draw:] = True
    chains.attrs["stopped"] = {str(chains.attrs["chain_ids"][chain]): draw}
    return chains


def test_everything_survives_save_and_load(tmp_path, posterior):
    chains = stop(make_chains(posterior, warmup=True), chain=1, draw=3)
    chains.save(tmp_path / "run.nc")
    loaded = Chains.load(tmp_path / "run.nc")
    for name in ("draws", "sample_stats", "state", "warmup_draws", "warmup_stats"):
        assert_same(getattr(chains, name), getattr(loaded, name))
    assert loaded.attrs == chains.attrs
    assert list(tmp_path.iterdir()) == [tmp_path / "run.nc"]


def test_names_types_and_shapes_survive(tmp_path):
    draws = {
        "0.weight": torch.randn(2, 5, 3, 2),
        "log scale": torch.randn(2, 5, dtype=torch.float64),
        "a/b": torch.randn(2, 5, 1),
        "σ": torch.randn(2, 5),
        "low": torch.randn(2, 5).to(torch.bfloat16),
    }
    Chains(draws=draws).save(tmp_path / "run.nc")
    loaded = Chains.load(tmp_path / "run.nc").draws
    assert_same(draws | {"low": draws["low"].float()}, loaded)


def test_a_loaded_run_can_be_changed_and_saved_over_itself(tmp_path, chains):
    path = tmp_path / "run.nc"
    chains.save(path)
    loaded = Chains.load(path)
    loaded.draws["0.bias"] += 1
    loaded.save(path)
    torch.testing.assert_close(Chains.load(path).draws["0.bias"], chains.draws["0.bias"] + 1, rtol=0, atol=0)


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, chains):
    path = tmp_path / "run.nc"
    chains.save(path)
    before = path.read_bytes()
    chains.draws["chain"] = chains.draws.pop("0.weight")
    with pytest.raises(ValueError, match="'chain' is the name of a dimension"):
        chains.save(path)
    chains.draws["renamed"] = chains.draws.pop("chain")
    chains.attrs["settings"] = object()
    with pytest.raises(TypeError, match="not JSON serializable"):
        chains.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_not_chains_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no saved chains at"):
        Chains.load(tmp_path / "missing.nc")
    (tmp_path / "text.nc").write_text("not netCDF")
    with pytest.raises(ValueError, match="is not a netCDF file"):
        Chains.load(tmp_path / "text.nc")
    arviz.from_dict({"x": np.zeros((2, 3))}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(ValueError, match="holds no chains of langevin"):
        Chains.load(tmp_path / "other.nc")


def test_loading_executes_nothing_and_needs_no_torch(tmp_path, chains):
    """`inference_data.py` reads a file in a process where importing torch or pickle's loader fails."""
    chains.save(tmp_path / "run.nc")
    script = f"""
import sys
sys.modules["torch"] = None
import importlib.util, pickle
def refuse(*args, **kwargs): raise AssertionError("unpickled something")
import xarray, h5py, h5netcdf
pickle.load = pickle.loads = pickle.Unpickler = refuse
spec = importlib.util.spec_from_file_location("inference_data", {inference_data.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
groups, attrs = module.read({str(tmp_path / "run.nc")!r})
print(groups["posterior"]["0.weight"].shape, attrs["sampler"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(3, 7, 5, 4) SGLD"


def test_to_arviz_has_labelled_groups(posterior):
    chains = make_chains(posterior, warmup=True)
    data = chains.to_arviz(posterior)
    groups = {name.strip("/") for name in (data.groups if isinstance(data.groups, tuple) else data.groups())} - {""}
    assert groups == {
        "posterior",
        "sample_stats",
        "warmup_posterior",
        "warmup_sample_stats",
        "log_likelihood",
        "observed_data",
    }
    weight = data["posterior"]["0.weight"]
    assert weight.dims == ("chain", "draw", "0.weight_dim_0", "0.weight_dim_1")
    assert weight.coords["chain"].values.tolist() == [4, 5, 9]
    np.testing.assert_array_equal(weight.values, chains.draws["0.weight"].numpy())
    assert data["posterior"].attrs["sampler"] == "SGLD"
    assert json.loads(data["posterior"].attrs["settings"]) == {"lr": 0.1, "temperature": 1.0}
    assert json.loads(data["posterior"].attrs["interrupted"]) is False


def test_pointwise_log_likelihood_is_the_models(posterior, chains):
    data = chains.to_arviz(posterior)
    logits = posterior.outputs(chains.position(posterior)[1, 2][None], posterior.inputs)[0]
    expected = -nn.functional.cross_entropy(logits, posterior.targets, reduction="none")
    found = data["log_likelihood"]["y"].sel(chain=5, draw=2)
    np.testing.assert_allclose(found.values, expected.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_log_likelihood_in_chunks_is_the_same(posterior, chains):
    whole, parts = (chains.groups(posterior, chunk=chunk)["log_likelihood"] for chunk in (1000, 4))
    np.testing.assert_allclose(whole["y"].values, parts["y"].values, rtol=1e-4, atol=1e-6)


def test_the_arviz_object_can_be_saved(tmp_path, posterior, chains):
    chains.to_arviz(posterior).to_netcdf(tmp_path / "arviz.nc")
    assert "0.weight" in arviz.from_netcdf(tmp_path / "arviz.nc")["posterior"]


def test_finished_leaves_out_stopped_chains(posterior):
    chains = make_chains(posterior, warmup=True)
    assert chains.finished() is chains
    whole = stop(make_chains(posterior, warmup=True), chain=1, draw=3).finished()
    assert whole.attrs["chain_ids"] == [4, 9]
    assert whole.attrs["stopped"] == {"5": 3}
    for group in ("draws", "sample_stats", "warmup_draws", "warmup_stats"):
        expected = {name: value[[0, 2]] for name, value in getattr(chains, group).items()}
        assert_same(getattr(whole, group), expected)
    assert "stopped chains at steps {'5': 3}" in repr(whole)


def test_finished_says_when_no_chain_is_left(chains):
    for chain in range(NUM_CHAINS):
        stop(chains, chain, draw=0)
    with pytest.raises(ValueError, match="every chain was stopped"):
        chains.finished()


def test_valid_and_weights(chains):
    assert chains.valid.all()
    assert chains.weights is None
    assert Chains(draws=chains.draws).valid.shape == (NUM_CHAINS, NUM_DRAWS)
    stop(chains, chain=2, draw=5)
    assert chains.valid.sum(-1).tolist() == [7, 7, 5]
    chains.sample_stats["weight"] = torch.linspace(1, 0.1, NUM_DRAWS).expand(NUM_CHAINS, -1)
    torch.testing.assert_close(chains.weights, chains.sample_stats["weight"])


def test_position_is_ravel(posterior, chains):
    position = chains.position(posterior)
    assert position.shape == (NUM_CHAINS, NUM_DRAWS, posterior.dim)
    assert_same(posterior.unravel(position), chains.draws)
    del chains.draws["0.bias"]
    with pytest.raises(ValueError, match=r"missing \['0.bias'\]"):
        chains.position(posterior)


def test_concatenate_joins_draws_and_accounts(posterior):
    first, second = make_chains(posterior, warmup=True), stop(make_chains(posterior), chain=0, draw=2)
    first.attrs["stopped"] = {"9": 5}
    second.attrs |= {"num_warmup": 0, "started": "2026-01-02T00:00:00", "interrupted": True}
    joined = Chains.concatenate([first, second])
    assert joined.num_draws == 2 * NUM_DRAWS
    expected = {name: torch.cat((value, second.draws[name]), 1) for name, value in first.draws.items()}
    assert_same(joined.draws, expected)
    assert_same(joined.state, second.state)
    assert_same(joined.warmup_draws, first.warmup_draws)
    assert joined.attrs == second.attrs | {
        "num_samples": 2 * NUM_DRAWS,
        "seconds": 3.0,
        "num_warmup": 4,
        "started": "2026-01-01T00:00:00",
        "stopped": {"4": 2, "9": 5},
    }


def test_only_the_same_chains_can_be_joined(posterior, chains):
    other = make_chains(posterior)
    other.attrs["chain_ids"] = [0, 1, 2]
    with pytest.raises(ValueError, match="same chains and parameters"):
        Chains.concatenate([chains, other])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        Chains.concatenate([])


def test_regression_targets_of_several_columns_are_observed_whole():
    x, y = torch.randn(6, 2), torch.randn(6, 3)
    posterior = Posterior(nn.Linear(2, 3), gaussian(0.5), (x, y))
    data = make_chains(posterior).to_arviz(posterior)
    assert data["log_likelihood"]["y"].shape == (NUM_CHAINS, NUM_DRAWS, 6)
    np.testing.assert_array_equal(data["observed_data"]["y"].values, y.numpy())


def test_paths_may_be_strings(tmp_path, chains):
    chains.save(str(tmp_path / "run.nc"))
    assert Chains.load(str(tmp_path / "run.nc")).num_chains == NUM_CHAINS
    assert Path(tmp_path / "run.nc").stat().st_size > 0
