"""Gaussian regressions of posteriordb as log densities in the coordinates of its `check.npz`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from langevin.samplers.log_density import LogDensity
from torch import Tensor
from torch.distributions import HalfCauchy, Normal, constraints

Named = dict[str, Tensor]
Model = tuple[LogDensity, Callable[[Named], Tensor]]


def tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def half_normal(value: Tensor, scale: float) -> Tensor:
    """Log density of |N(0, scale²)|."""
    return math.log(2) + Normal(0.0, scale).log_prob(value)


def half_cauchy(value: Tensor) -> Tensor:
    """Log density of |Cauchy(0, 2.5)|."""
    return HalfCauchy(tensor(2.5)).log_prob(value)


def _flat(value: Tensor) -> Tensor:
    return 0.0 * value.sum()


def _regression(
    design: Tensor,
    y: Tensor,
    scale: float,
    sigma_prior: Callable[[Tensor], Tensor] = _flat,
    beta_prior: Callable[[Tensor], Tensor] = _flat,
) -> Model:
    """y ~ N(design β, σ²), sampled in (β, log σ); `scale` is where σ starts."""

    def log_density(v: Named) -> Tensor:
        likelihood = Normal(design @ v["beta"], v["sigma"]).log_prob(y).sum()
        return likelihood + beta_prior(v["beta"]) + sigma_prior(v["sigma"])

    def columns(v: Named) -> Tensor:
        return torch.cat((v["beta"], v["sigma"][..., None]), -1)

    init = {"beta": zeros(design.shape[1]), "sigma": zeros() + scale}
    return LogDensity(log_density, init, {"sigma": constraints.positive}), columns


def _columns(*parts: Tensor) -> Tensor:
    return torch.stack((torch.ones_like(parts[0]), *parts), -1)


def kidscore_interaction(data: dict[str, Any]) -> Model:
    hs, iq = tensor(data["mom_hs"]), tensor(data["mom_iq"])
    return _regression(_columns(hs, iq, hs * iq), tensor(data["kid_score"]), 10.0, half_cauchy)


def kidscore_momiq(data: dict[str, Any]) -> Model:
    return _regression(_columns(tensor(data["mom_iq"])), tensor(data["kid_score"]), 10.0, half_cauchy)


def earnings(data: dict[str, Any]) -> Model:
    height, male = tensor(data["height"]), tensor(data["male"])
    return _regression(_columns(height, male, height * male), tensor(data["earn"]).log(), 1.0)


def mesquite(data: dict[str, Any]) -> Model:
    first, second, canopy, total = (
        tensor(data[key]).log() for key in ("diam1", "diam2", "canopy_height", "total_height")
    )
    group = tensor(data["group"])
    design = _columns(first + second + canopy, first + second, first - second, total, group)
    return _regression(design, tensor(data["weight"]).log(), 1.0)


def nes(data: dict[str, Any]) -> Model:
    age = tensor(data["age_discrete"])
    ages = [(age == k).double() for k in (2, 3, 4)]
    before, after = (
        [tensor(data[key]) for key in keys] for keys in (("real_ideo", "race_adj"), ("educ1", "gender", "income"))
    )
    return _regression(_columns(*before, *ages, *after), tensor(data["partyid7"]), 2.0)


def blr(data: dict[str, Any]) -> Model:
    def beta_prior(beta: Tensor) -> Tensor:
        return Normal(0.0, 10.0).log_prob(beta).sum()

    return _regression(tensor(data["X"]), tensor(data["y"]), 1.0, lambda sigma: half_normal(sigma, 10.0), beta_prior)


def autoregression(data: dict[str, Any]) -> Model:
    """Order 5; α is the first coefficient of the regression on the past."""
    y = tensor(data["y"])
    design = _columns(*(y[5 - k : len(y) - k] for k in range(1, 6)))
    return _regression(design, y[5:], 1.0, half_cauchy, lambda beta: Normal(0.0, 10.0).log_prob(beta).sum())
