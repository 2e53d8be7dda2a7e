"""Posteriors with reference draws from posteriordb (Magnusson et al. 2023), written as log densities.

The folder is looked for in `$LANGEVIN_DATA`, else in `../shared/data` beside the repository; tests skip without it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langevin.samplers.log_density import LogDensity
from torch import Tensor
from torch.distributions import Gamma, HalfCauchy, Normal, Poisson, constraints

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


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _eight_schools(data: dict[str, Any]) -> tuple[LogDensity, Callable[[Named], Tensor]]:
    y, sigma = _tensor(data["y"]), _tensor(data["sigma"])

    def log_density(v: Named) -> Tensor:
        theta = v["mu"] + v["tau"] * v["theta_trans"]
        prior = Normal(0.0, 5.0).log_prob(v["mu"]) + HalfCauchy(_tensor(5.0)).log_prob(v["tau"])
        return Normal(theta, sigma).log_prob(y).sum() + Normal(0.0, 1.0).log_prob(v["theta_trans"]).sum() + prior

    def columns(v: Named) -> Tensor:
        mu, tau = v["mu"][..., None], v["tau"][..., None]
        return torch.cat((mu + tau * v["theta_trans"], mu, tau), -1)

    init = {"theta_trans": _zeros(8), "mu": _zeros(), "tau": _zeros() + 1}
    return LogDensity(log_density, init, {"tau": constraints.positive}), columns


def _kidscore(data: dict[str, Any]) -> tuple[LogDensity, Callable[[Named], Tensor]]:
    score, hs, iq = (_tensor(data[key]) for key in ("kid_score", "mom_hs", "mom_iq"))
    design = torch.stack((torch.ones_like(iq), hs, iq, hs * iq), -1)

    def log_density(v: Named) -> Tensor:
        return Normal(design @ v["beta"], v["sigma"]).log_prob(score).sum() + HalfCauchy(_tensor(2.5)).log_prob(
            v["sigma"]
        )

    def columns(v: Named) -> Tensor:
        return torch.cat((v["beta"], v["sigma"][..., None]), -1)

    return LogDensity(
        log_density, {"beta": _zeros(4), "sigma": _zeros() + 10}, {"sigma": constraints.positive}
    ), columns


def _gp_poisson(data: dict[str, Any]) -> tuple[LogDensity, Callable[[Named], Tensor]]:
    x, counts = _tensor(data["x"]), _tensor(data["k"])
    squares = (x[:, None] - x).square()
    jitter = 1e-10 * torch.eye(len(x), dtype=torch.float64)

    def latent(rho: Tensor, alpha: Tensor, f_tilde: Tensor) -> Tensor:
        rho, alpha = rho[..., None, None], alpha[..., None, None]
        covariance = alpha.square() * torch.exp(-squares / (2 * rho.square())) + jitter
        # Where rounding spoils positive definiteness this gives NaN, a rejection, instead of raising.
        factor, info = torch.linalg.cholesky_ex(covariance)
        factor = torch.where((info == 0)[..., None, None], factor, torch.nan)
        return (factor @ f_tilde[..., None])[..., 0]

    def log_density(v: Named) -> Tensor:
        log_likelihood = Poisson(latent(v["rho"], v["alpha"], v["f_tilde"]).exp()).log_prob(counts).sum()
        hyper = (
            Gamma(_tensor(25.0), _tensor(4.0)).log_prob(v["rho"]) + math.log(2) + Normal(0.0, 2.0).log_prob(v["alpha"])
        )
        return log_likelihood + Normal(0.0, 1.0).log_prob(v["f_tilde"]).sum() + hyper

    def columns(v: Named) -> Tensor:
        f = latent(v["rho"], v["alpha"], v["f_tilde"])
        return torch.cat((v["rho"][..., None], v["alpha"][..., None], f), -1)

    init = {"rho": _zeros() + 5, "alpha": _zeros() + 1, "f_tilde": _zeros(11)}
    return LogDensity(log_density, init, {"rho": constraints.positive, "alpha": constraints.positive}), columns


def _garch(data: dict[str, Any]) -> tuple[LogDensity, Callable[[Named], Tensor]]:
    y, first = _tensor(data["y"]), _tensor([data["sigma1"] ** 2])

    def log_density(v: Named) -> Tensor:
        width = 1 - v["alpha1"]
        beta = width * v["beta_share"]  # the triangle alpha1 + beta1 < 1; uniform in (alpha1, beta1): Jacobian `width`
        # v_t = c_t + beta v_{t-1} by doubling: after k rounds each entry holds the terms of 2^k lags.
        variance = torch.cat((first, v["alpha0"] + v["alpha1"] * (y[:-1] - v["mu"]).square()))
        lag, power = 1, beta
        while lag < len(y):
            variance = variance + power * torch.nn.functional.pad(variance[:-lag], (lag, 0))
            lag, power = 2 * lag, power.square()
        return Normal(v["mu"], variance.sqrt()).log_prob(y).sum() + width.log()

    def columns(v: Named) -> Tensor:
        return torch.stack((v["mu"], v["alpha0"], v["alpha1"], (1 - v["alpha1"]) * v["beta_share"]), -1)

    init = {"mu": y.mean(), "alpha0": _zeros() + 1, "alpha1": _zeros() + 0.4, "beta_share": _zeros() + 0.4}
    support = {
        "alpha0": constraints.positive,
        "alpha1": constraints.unit_interval,
        "beta_share": constraints.unit_interval,
    }
    return LogDensity(log_density, init, support), columns


MODELS = {
    "eight_schools-eight_schools_noncentered": _eight_schools,
    "kidiq-kidscore_interaction": _kidscore,
    "gp_pois_regr-gp_pois_regr": _gp_poisson,
    "garch-garch11": _garch,
}


def load(name: str) -> Reference:
    """Read one posterior; skip the test where the data are not on this machine."""
    root = Path(os.environ.get("LANGEVIN_DATA") or Path(__file__).parents[3] / "shared" / "data")
    folder = root / "posteriordb" / name
    if not folder.is_dir():
        pytest.skip(f"no reference draws at {folder}; set LANGEVIN_DATA to the folder that holds posteriordb")
    target, columns = MODELS[name](json.loads((folder / "data.json").read_text()))
    check = np.load(folder / "check.npz")
    return Reference(
        target=target,
        columns=columns,
        draws=torch.from_numpy(np.load(folder / "reference.npz")["draws"]),
        check={key: torch.from_numpy(check[key]) for key in ("u", "log_density", "grad")},
    )
