"""The precisions of Normal priors that maximise the Laplace evidence.

For priors N(μ, 1/τ_k) of the D_k parameters of group k, and P = H + diag(τ) with the curvature H of the likelihood's
part of C at a position ω̂,

    log Z(τ) = −C(ω̂) + (D/2) log 2π − ½ log|P|
    ∂ log Z / ∂ log τ_k = ½ [D_k − τ_k Σ_{i∈k} (P⁻¹)ᵢᵢ − τ_k |ω̂ − μ|²_k],

whose zero is MacKay's τ_k |ω̂ − μ|²_k = γ_k, the number of parameters that the data determine (MacKay, "Bayesian
interpolation", Neural Computation 4, 1992). With ω̂ held fixed this is a first step: the mode moves with τ. Tuning and
looking for the mode in turn (Immer et al., "Scalable marginal likelihood estimation for model selection in deep
learning", ICML 2021) ends where both conditions hold: for linear models with Gaussian noise at a stationary point of
the exact evidence. For others it neglects how H changes with the mode, and the evidence may fall on the way.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import Distribution, Normal

from ..samplers.metrics.kronecker import KroneckerCurvature
from ..samplers.modes import find_mode
from ..samplers.posterior import Posterior
from .laplace_fit import Curvature, Structure, curvatures, tolerances
from .laplace_precision import Likelihood, Precision, factorise

Groups = Literal["prior", "layer"]

_TOLERATED = 0.1  # nats that the evidence may lose to a mode that moves
_RANGE = math.log(1e8)  # how far one search may go from where it starts, in log τ
_ROUNDS = 100  # of tuning and looking for the mode
_SETTLED = 1e-3  # change of log τ in a round below which they end


def evidence(cost: float, precision: Precision, dim: int) -> float:
    """log ∫ exp(−C) for a quadratic C with that value at its minimum."""
    return -cost + 0.5 * (dim * math.log(2 * math.pi) - precision.log_det())


def with_prior(posterior: Posterior, priors: Mapping[str, Distribution | None]) -> Posterior:
    """The same data and model with other priors for the parameters named; one distribution if it is that of all."""
    changed = posterior.to_be_varied()
    changed._priors = {name: priors.get(name, posterior.prior_of(name)) for name in posterior.layout.names}
    distinct = {id(prior): prior for prior in changed._priors.values()}
    changed.prior = next(iter(distinct.values())) if len(distinct) == 1 else dict(changed._priors)
    changed._anchor = None  # a control variate holds the cost with the earlier prior
    return changed


def groups_of(posterior: Posterior, groups: Groups) -> list[list[str]]:
    """Parameters that share a precision.

    Raises
    ------
    ValueError
        For a prior that is not Normal with one mean and one scale, and unknown `groups`.
    """
    if groups not in get_args(Groups):
        raise ValueError(f"groups must be one of {get_args(Groups)}, got {groups!r}")
    found: dict[object, list[str]] = {}
    for name in posterior.layout.names:
        prior = posterior.prior_of(name)
        if type(prior) is not Normal or prior.loc.numel() != 1:
            what = "flat" if prior is None else f"{prior}"
            raise ValueError(
                f"the prior of {name!r} is {what}: only the precision of Normal priors with one mean and one scale can "
                "be tuned; give such priors, for example prior={'*': Normal(0., 1.)}"
            )
        key = id(prior) if groups == "prior" else name.rpartition(".")[0]
        found.setdefault(key, []).append(name)
    return list(found.values())


def tune(
    posterior: Posterior,
    mode: Float[Tensor, " dim"],
    groups: Groups,
    refit: bool,
    structure: Structure,
    curvature: Curvature,
    chunk: int | None,
) -> tuple[Posterior, Float[Tensor, " dim"]]:
    """The posterior with the prior precisions that maximise log Z, and ω̂, or with `refit` the mode that belongs to it.

    The other parameters are those of `Laplace.fit`.

    Warns
    -----
    UserWarning
        If the evidence still rises where τ has changed by a factor of 10⁸, or 100 rounds of `refit` do not settle.
    """
    sharing = groups_of(posterior, groups)
    for _ in range(_ROUNDS):
        before = {name: _log_precision(posterior, name) for name in posterior.layout.names}
        likelihood, _ = curvatures(posterior, mode, structure, curvature, chunk)
        priors, lost = _maximise(posterior, mode, sharing, likelihood, tolerances(posterior, curvature))
        posterior = with_prior(posterior, priors)
        if lost:
            warnings.warn(
                f"the evidence has no maximum within a factor of 1e8 of the precisions of the priors of {lost}: the "
                "data do not determine them; group them with others, or keep the prior",
                stacklevel=3,
            )
        if refit:
            mode = find_mode(posterior, init=mode)
        settled = all(abs(_log_precision(posterior, name) - value) < _SETTLED for name, value in before.items())
        if settled or lost or not refit:
            return posterior, mode
    warnings.warn(f"the prior precisions have not settled within {_ROUNDS} rounds of refitting", stacklevel=3)
    return posterior, mode


def warn_if_lower(before: float, after: float) -> None:
    """Warn of a refit that lost more evidence than the tuning had gained."""
    if after < before - _TOLERATED:
        warnings.warn(
            f"the evidence fell from {before:.4g} to {after:.4g} nats while the mode moved, because the curvature "
            'moves with it: keep the priors as they were, or tune fewer precisions (groups="prior")',
            stacklevel=3,
        )


def _maximise(
    posterior: Posterior,
    mode: Float[Tensor, " dim"],
    groups: list[list[str]],
    likelihood: Likelihood,
    tolerance: dict[str, Any],
) -> tuple[dict[str, Distribution], list[str]]:
    """Normal priors with the best precisions, and the names of those without, from the likelihood's curvature at ω̂."""
    group = torch.zeros(posterior.dim, dtype=torch.int64, device=mode.device)
    centre = torch.zeros(posterior.dim, dtype=torch.float64, device=mode.device)
    places = posterior.unravel(torch.arange(posterior.dim, device=mode.device))
    start = np.zeros(len(groups))
    for k, names in enumerate(groups):
        for name in names:
            prior = _normal(posterior, name)
            group[places[name].flatten()] = k
            centre[places[name].flatten()] = float(prior.loc)
            start[k] += _log_precision(posterior, name) / len(names)
    sizes = torch.bincount(group, minlength=len(groups)).double()
    squares = (mode.double() - centre).square()

    def objective(log_precision: np.ndarray) -> tuple[float, np.ndarray]:
        """−log Z up to a constant, and its gradient."""
        τ = torch.as_tensor(log_precision, device=mode.device).exp()
        prior = τ[group]
        precision = factorise(
            likelihood if isinstance(likelihood, KroneckerCurvature) else likelihood.clone(), prior, **tolerance
        )
        log_evidence = 0.5 * (float((prior.log() - prior * squares).sum()) - precision.log_det())
        spent = torch.zeros_like(τ).index_add(0, group, precision.variances() + squares)
        return -log_evidence, (-0.5 * (sizes - τ * spent)).cpu().numpy()

    bounds = [(value - _RANGE, value + _RANGE) for value in start]
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-6}
    )
    lost = np.isclose(np.abs(found.x - start), _RANGE)
    priors: dict[str, Distribution] = {}
    for names, value in zip(groups, found.x, strict=True):
        priors |= _rescaled(posterior, names, math.exp(-value / 2))
    return priors, [name for names, out in zip(groups, lost, strict=True) if out for name in names]


def _normal(posterior: Posterior, name: str) -> Normal:
    prior = posterior.prior_of(name)
    assert isinstance(prior, Normal)
    return prior


def _log_precision(posterior: Posterior, name: str) -> float:
    return -2 * math.log(float(_normal(posterior, name).scale))


def _rescaled(posterior: Posterior, names: list[str], scale: float) -> dict[str, Distribution]:
    """N(μ, scale²) for each name; parameters that shared a prior still share one."""
    width = torch.tensor(scale, dtype=torch.float64, device=posterior.device)
    made: dict[int, Distribution] = {}
    for name in names:
        prior = _normal(posterior, name)
        made.setdefault(id(prior), Normal(prior.loc.double().reshape(()), width, validate_args=False))
    return {name: made[id(_normal(posterior, name))] for name in names}
