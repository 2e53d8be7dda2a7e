"""A saved run means the same on ArviZ 0.23 and on ArviZ 1, without torch on the second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from langevin.samplers import inference_data
from langevin.samplers.chains import Chains

HERE = Path(__file__).parent
ARVIZ1 = Path(os.environ.get("LANGEVIN_ARVIZ1_PYTHON", HERE.parent / ".venv-arviz1/bin/python"))
LABELS = [f"0.weight[{i}, {j}]" for i in range(3) for j in range(2)] + ["0.bias[0]", "0.bias[1]", "log_scale"]


def autocorrelated(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Four chains of 500 draws with lag-one correlation 0.7, the last chain a little off."""
    noise = torch.randn(4, 500, *shape, generator=generator, dtype=torch.float64)
    draws = noise.clone()
    for t in range(1, 500):
        draws[:, t] = 0.7 * draws[:, t - 1] + 0.51**0.5 * noise[:, t]
    draws[3] += 0.3
    return draws


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Chains, Path]:
    generator = torch.Generator().manual_seed(0)
    chains = Chains(
        draws={
            "0.weight": autocorrelated(3, 2, generator=generator),
            "0.bias": autocorrelated(2, generator=generator).float(),
            "log_scale": autocorrelated(generator=generator),
        },
        sample_stats={"cost": autocorrelated(generator=generator), "diverged": torch.zeros(4, 500, dtype=torch.bool)},
        attrs={
            "sampler": "SGLD",
            "settings": {"lr": 0.1},
            "chain_ids": [0, 1, 2, 3],
            "stopped": {},
            "batch_size": None,
        },
        state={"position": torch.randn(4, 9, generator=generator), "step": torch.tensor(500)},
    )
    path = tmp_path_factory.mktemp("run") / "run.nc"
    chains.save(path)
    return chains, path


def summarise(python: Path | str, path: Path) -> dict:
    command = [str(python), str(HERE / "arviz_summary.py"), inference_data.__file__, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_close(first: dict, second: dict, rtol: float) -> None:
    assert list(first["statistics"]) == list(second["statistics"]) == LABELS
    for label in LABELS:
        for statistic, value in first["statistics"][label].items():
            other = second["statistics"][label][statistic]
            np.testing.assert_allclose(value, other, rtol=rtol, err_msg=f"{statistic} of {label}")
    for name in ("0.weight", "0.bias", "log_scale"):
        np.testing.assert_allclose(first["ess_tail"][name], second["ess_tail"][name], rtol=rtol, err_msg=name)


def test_the_file_and_the_object_say_the_same(run):
    chains, path = run
    found = summarise(sys.executable, path)
    assert not found["torch"]
    assert_close(found["to_arviz"], found["from_netcdf"], rtol=0)
    weight = chains.draws["0.weight"][..., 2, 1]
    statistics = found["to_arviz"]["statistics"]["0.weight[2, 1]"]
    np.testing.assert_allclose(statistics["mean"], weight.mean(), rtol=1e-12)
    np.testing.assert_allclose(statistics["sd"], weight.flatten().std(), rtol=1e-12)
    assert 1.005 < statistics["r_hat"] < 1.1
    assert 100 < statistics["ess_bulk"] < 600


def test_loaded_chains_say_the_same_as_the_file(run):
    _, path = run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz

        table = arviz.summary(Chains.load(path).to_arviz(), round_to="none")
    expected = summarise(sys.executable, path)["to_arviz"]["statistics"]
    for label in LABELS:
        np.testing.assert_allclose(table.loc[label, "ess_bulk"], expected[label]["ess_bulk"], rtol=1e-12)


def test_both_generations_say_the_same(run):
    """Equal to rounding in float64; ArviZ 1 averages float32 draws in float32, hence 1e-4 for that parameter."""
    if not ARVIZ1.is_file():
        pytest.skip(f"no environment with ArviZ 1 at {ARVIZ1}: `make test` makes one where Python 3.12 or newer exists")
    _, path = run
    here, there = summarise(sys.executable, path), summarise(ARVIZ1, path)
    assert int(there["version"].split(".")[0]) >= 1
    assert there["type"] == "DataTree"
    assert not there["torch"]
    for source in ("to_arviz", "from_netcdf"):
        assert_close(here[source], there[source], rtol=1e-4)
        for label in LABELS:
            if not label.startswith("0.bias"):
                first, second = (found[source]["statistics"][label] for found in (here, there))
                np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-9, err_msg=label)
