"""Posteriors with reference draws from posteriordb (Magnusson et al. 2023), written as log densities.

The folder is looked for in `$LANGEVIN_DATA`, else in `../shared/data` beside the repository; tests skip without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from langevin.samplers.log_density import LogDensity
from torch import Tensor

from tests.validity import posteriordb_others as others
from tests.validity import posteriordb_regressions as regressions

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Reference:
    """A target with what is known of it.

    Attributes
    ----------
    target
        In the unconstrained coordinates of `check`.
    columns
        Named draws `[..., *shape]` -> `[..., column]`, in the order of `draws`.
    draws
        Reference draws, `[10, 1000, column]`.
    check
        Unconstrained points `u`, their `log_density` (up to a constant) and its gradient `grad`.
    """

    target: LogDensity
    columns: Callable[[Named], Tensor]
    draws: Tensor
    check: dict[str, Tensor]


MODELS = {
    "eight_schools-eight_schools_noncentered": others.eight_schools,
    "eight_schools-eight_schools_centered": others.eight_schools_centred,
    "kidiq-kidscore_interaction": regressions.kidscore_interaction,
    "kidiq-kidscore_momiq": regressions.kidscore_momiq,
    "earnings-logearn_interaction": regressions.earnings,
    "mesquite-logmesquite_logvash": regressions.mesquite,
    "nes1980-nes": regressions.nes,
    "sblrc-blr": regressions.blr,
    "arK-arK": regressions.autoregression,
    "gp_pois_regr-gp_regr": others.gp_regression,
    "gp_pois_regr-gp_pois_regr": others.gp_poisson,
    "garch-garch11": others.garch,
    "hmm_example-hmm_example": others.hidden_markov,
    "low_dim_gauss_mix-low_dim_gauss_mix": others.gaussian_mixture,
}


def folder_of(name: str) -> Path:
    """Where the files of one posterior should be."""
    root = Path(os.environ.get("LANGEVIN_DATA") or Path(__file__).parents[3] / "shared" / "data")
    return root / "posteriordb" / name


def read(name: str) -> Reference:
    """Read one posterior."""
    folder = folder_of(name)
    target, columns = MODELS[name](json.loads((folder / "data.json").read_text()))
    check = np.load(folder / "check.npz")
    return Reference(
        target=target,
        columns=columns,
        draws=torch.from_numpy(np.load(folder / "reference.npz")["draws"]),
        check={key: torch.from_numpy(check[key]) for key in ("u", "log_density", "grad")},
    )


def load(name: str) -> Reference:
    """Read one posterior; skip the test where the data are not on this machine."""
    if not folder_of(name).is_dir():
        import pytest

        pytest.skip(f"no reference draws at {folder_of(name)}; set LANGEVIN_DATA to the folder that holds posteriordb")
    return read(name)


def reference_z(reference: Reference, draws: Named) -> Tensor:
    """z of every mean and every second moment about the reference's mean, with both Monte-Carlo errors.

    `draws` are named, `[chain, draw, *shape]`.
    """
    ours = reference.columns(draws)
    center = reference.draws.mean((0, 1))
    ours, theirs = (torch.cat((x, x**2), -1) for x in (ours - center, reference.draws - center))
    # The reference draws are nearly independent; means over stretches of 100 take up what correlation is left.
    per_batch = theirs.unflatten(1, (10, 100)).mean(2).flatten(0, 1)
    error = (ours.mean(1).var(0) / len(ours) + per_batch.var(0) / len(per_batch)).sqrt()
    return (ours.mean((0, 1)) - per_batch.mean(0)) / error
