"""Posteriors of posteriordb other than regressions, as log densities in the coordinates of its `check.npz`.

Where a parameter's range depends on another (ordered means, the triangle of GARCH) the free coordinate is the one that
posteriordb names: a gap or a share, whose Jacobian is written here.
"""

from __future__ import annotations

from typing import Any

import torch
from langevin.samplers.log_density import LogDensity
from torch import Tensor
from torch.distributions import Beta, Gamma, HalfCauchy, Normal, Poisson, constraints

from tests.validity.posteriordb_regressions import Model, Named, half_normal, tensor, zeros

POSITIVE, UNIT = constraints.positive, constraints.unit_interval


def eight_schools(data: dict[str, Any]) -> Model:
    """Non-centred: θ = μ + τ θ̃."""
    y, sigma = tensor(data["y"]), tensor(data["sigma"])

    def log_density(v: Named) -> Tensor:
        theta = v["mu"] + v["tau"] * v["theta_trans"]
        prior = Normal(0.0, 5.0).log_prob(v["mu"]) + HalfCauchy(tensor(5.0)).log_prob(v["tau"])
        return Normal(theta, sigma).log_prob(y).sum() + Normal(0.0, 1.0).log_prob(v["theta_trans"]).sum() + prior

    def columns(v: Named) -> Tensor:
        mu, tau = v["mu"][..., None], v["tau"][..., None]
        return torch.cat((mu + tau * v["theta_trans"], mu, tau), -1)

    init = {"theta_trans": zeros(8), "mu": zeros(), "tau": zeros() + 1}
    return LogDensity(log_density, init, {"tau": POSITIVE}), columns


def eight_schools_centred(data: dict[str, Any]) -> Model:
    """The same posterior as a funnel: θ itself is sampled."""
    y, sigma = tensor(data["y"]), tensor(data["sigma"])

    def log_density(v: Named) -> Tensor:
        prior = Normal(0.0, 5.0).log_prob(v["mu"]) + HalfCauchy(tensor(5.0)).log_prob(v["tau"])
        effects = Normal(v["mu"], v["tau"]).log_prob(v["theta"]).sum()
        return Normal(v["theta"], sigma).log_prob(y).sum() + effects + prior

    def columns(v: Named) -> Tensor:
        return torch.cat((v["theta"], v["mu"][..., None], v["tau"][..., None]), -1)

    init = {"theta": zeros(8), "mu": zeros(), "tau": zeros() + 3}
    return LogDensity(log_density, init, {"tau": POSITIVE}), columns


def gp_regression(data: dict[str, Any]) -> Model:
    """Hyperparameters of a Gaussian process; `sigma` is the variance of the noise."""
    x, y = tensor(data["x"]), tensor(data["y"])
    squares, unit = (x[:, None] - x).square(), torch.eye(len(x), dtype=torch.float64)

    def log_density(v: Named) -> Tensor:
        covariance = v["alpha"].square() * torch.exp(-squares / (2 * v["rho"].square())) + v["sigma"] * unit
        factor, info = torch.linalg.cholesky_ex(covariance)
        factor = torch.where(info == 0, factor, torch.nan)  # a rejection, where it would otherwise raise
        white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)[:, 0]
        log_likelihood = Normal(0.0, 1.0).log_prob(white).sum() - factor.diagonal().log().sum()
        hyper = half_normal(v["alpha"], 2.0) + half_normal(v["sigma"], 1.0)
        return log_likelihood + Gamma(tensor(25.0), tensor(4.0)).log_prob(v["rho"]) + hyper

    def columns(v: Named) -> Tensor:
        return torch.stack((v["rho"], v["alpha"], v["sigma"]), -1)

    init = {"rho": zeros() + 6, "alpha": zeros() + 2, "sigma": zeros() + 1}
    return LogDensity(log_density, init, dict.fromkeys(init, POSITIVE)), columns


def gp_poisson(data: dict[str, Any]) -> Model:
    x, counts = tensor(data["x"]), tensor(data["k"])
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
        hyper = Gamma(tensor(25.0), tensor(4.0)).log_prob(v["rho"]) + half_normal(v["alpha"], 2.0)
        return log_likelihood + Normal(0.0, 1.0).log_prob(v["f_tilde"]).sum() + hyper

    def columns(v: Named) -> Tensor:
        f = latent(v["rho"], v["alpha"], v["f_tilde"])
        return torch.cat((v["rho"][..., None], v["alpha"][..., None], f), -1)

    init = {"rho": zeros() + 5, "alpha": zeros() + 1, "f_tilde": zeros(11)}
    return LogDensity(log_density, init, {"rho": constraints.positive, "alpha": constraints.positive}), columns


def garch(data: dict[str, Any]) -> Model:
    y, first = tensor(data["y"]), tensor([data["sigma1"] ** 2])

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

    init = {"mu": y.mean(), "alpha0": zeros() + 1, "alpha1": zeros() + 0.4, "beta_share": zeros() + 0.4}
    support = {
        "alpha0": constraints.positive,
        "alpha1": constraints.unit_interval,
        "beta_share": constraints.unit_interval,
    }
    return LogDensity(log_density, init, support), columns


def hidden_markov(data: dict[str, Any]) -> Model:
    """Two states; the sums over paths are products of 2 × 2 matrices, paired up until one is left."""
    y = tensor(data["y"])

    def log_density(v: Named) -> Tensor:
        mu = torch.stack((v["low"], v["low"] + v["gap"]))
        stay = torch.stack((v["first"], v["second"]))
        emission = Normal(mu, 1.0).log_prob(y[:, None])
        scale = emission.detach().amax(-1, keepdim=True)
        likelihood = (emission - scale).exp()
        steps = torch.stack((stay, 1 - stay), -1) * likelihood[1:, None, :]
        total = scale.sum()
        while len(steps) > 1:
            odd = steps[-1:] if len(steps) % 2 else steps[:0]
            pairs = steps[: len(steps) // 2 * 2].unflatten(0, (-1, 2))
            product = pairs[:, 0] @ pairs[:, 1]
            size = product.detach().amax((-1, -2), keepdim=True)
            steps, total = torch.cat((product / size, odd)), total + size.log().sum()
        prior = Normal(3.0, 1.0).log_prob(mu[0]) + Normal(10.0, 1.0).log_prob(mu[1])
        return total + (likelihood[0] @ steps[0]).sum().log() + prior

    def columns(v: Named) -> Tensor:
        first, second, low = v["first"], v["second"], v["low"]
        return torch.stack((first, 1 - first, second, 1 - second, low, low + v["gap"]), -1)

    init = {"first": zeros() + 0.6, "second": zeros() + 0.1, "low": zeros() + 3, "gap": zeros() + 5}
    return LogDensity(log_density, init, {"first": UNIT, "second": UNIT, "low": POSITIVE, "gap": POSITIVE}), columns


def gaussian_mixture(data: dict[str, Any]) -> Model:
    """Two components with ordered means; `theta` is the weight of the lower."""
    y = tensor(data["y"])

    def log_density(v: Named) -> Tensor:
        mu = torch.stack((v["low"], v["low"] + v["gap"]))
        weight = torch.stack((v["theta"], 1 - v["theta"]))
        likelihood = torch.logsumexp(weight.log() + Normal(mu, v["sigma"]).log_prob(y[:, None]), -1).sum()
        prior = Normal(0.0, 2.0).log_prob(mu).sum() + half_normal(v["sigma"], 2.0).sum()
        return likelihood + prior + Beta(tensor(5.0), tensor(5.0)).log_prob(v["theta"])

    def columns(v: Named) -> Tensor:
        low, theta = v["low"][..., None], v["theta"][..., None]
        return torch.cat((low, low + v["gap"][..., None], v["sigma"], theta), -1)

    init = {"low": zeros() - 2.5, "gap": zeros() + 5, "sigma": zeros(2) + 1, "theta": zeros() + 0.6}
    return LogDensity(log_density, init, {"gap": POSITIVE, "sigma": POSITIVE, "theta": UNIT}), columns
