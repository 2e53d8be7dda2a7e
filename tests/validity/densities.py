"""Targets whose truth is not Gaussian: skewed, bimodal, a funnel, generalised linear models, and posteriordb's."""

from __future__ import annotations

import math
from functools import cache

import torch
from langevin.samplers import HMC, LogDensity, Posterior, bernoulli, find_mode, poisson, sample
from langevin.samplers.target import Target
from torch import Tensor, nn
from torch.distributions import Normal

from tests.validity import posteriordb
from tests.validity.replicates import draw_from_grid
from tests.validity.targets import DOUBLE, Problem, moment_scale, moments_about, randn, square_places

SHAPES = torch.tensor([1.0, 2.0, 5.0], dtype=DOUBLE)  # of the log-gamma components; the fourth is a Gumbel
GUMBEL_SCALE = 1.5


def skewed() -> Problem:
    """Independent logarithms of gamma variables, skew to the left, and a Gumbel variable, skew to the right."""

    def log_density(v: dict[str, Tensor]) -> Tensor:
        left, right = v["w"][:3], v["w"][3] / GUMBEL_SCALE
        return (SHAPES * left - left.exp()).sum() - right - (-right).exp()

    one = torch.ones((), dtype=DOUBLE)
    shapes = torch.cat((SHAPES, one[None]))
    sign = torch.tensor([1.0, 1.0, 1.0, -GUMBEL_SCALE], dtype=DOUBLE)  # a Gumbel variable is −β log Gamma(1)
    mean, variance, third = (sign**power * torch.polygamma(n, shapes) for n, power in ((0, 1), (1, 2), (2, 3)))
    moments = moments_about(mean)

    def statistics(position: Tensor) -> Tensor:
        return torch.cat((moments(position), (position - mean) ** 3), -1)

    upper = torch.triu_indices(4, 4).unbind()
    truth = torch.cat((torch.zeros(4, dtype=DOUBLE), torch.diag(variance)[upper], third))

    def start(chains: int) -> Tensor:
        # Marsaglia's method would need rejection; sums of exponentials give Gamma(1), Gamma(2) and Gamma(5).
        generator = torch.Generator().manual_seed(4)
        exponentials = -torch.rand(chains, 4, 5, dtype=DOUBLE, generator=generator).log()
        kept = torch.arange(5) < shapes[:, None]
        return sign * torch.where(kept, exponentials, 0.0).sum(-1).log()

    curvature = shapes / sign**2  # E e^ω = a
    return Problem(
        name="skewed",
        target=LogDensity(log_density, {"w": torch.zeros(4, dtype=DOUBLE)}),
        statistics=statistics,
        truth=truth,
        scale=torch.cat((moment_scale(variance.sqrt()), variance**1.5)),
        start=start,
        hessian=torch.diag(curvature),
        largest=15.0,
        means=list(range(4)),
        squares=square_places(4),
        metric=lambda w: torch.diag(curvature),
    )


def bimodal() -> Problem:
    """Two Gaussians in the plane, of weights 0.35 and 0.65, near enough to be crossed; the weight is compared too."""
    centers = torch.tensor([[-1.2, -0.6], [1.2, 0.6]], dtype=DOUBLE)
    precisions = torch.tensor([[[2.0, 0.0], [0.0, 4.0]], [[2.0, 1.0], [1.0, 2.0]]], dtype=DOUBLE)
    heights = torch.tensor([0.35, 0.65], dtype=DOUBLE).log() + 0.5 * torch.logdet(precisions)

    def log_density(w: Tensor) -> Tensor:
        error = w[..., None, :] - centers
        return torch.logsumexp(heights - 0.5 * torch.einsum("...ki,kij,...kj->...k", error, precisions, error), -1)

    def statistics(position: Tensor) -> Tensor:
        return torch.cat((moments(position), (position[..., :1] < 0).to(position)), -1)

    line = torch.linspace(-6, 6, 800, dtype=DOUBLE)  # no point at 0, where the indicator jumps
    grid = torch.cartesian_prod(line, line)
    height = log_density(grid)
    weight = torch.softmax(height, 0)
    moments = moments_about(weight @ grid)
    truth = weight @ statistics(grid)
    target = LogDensity(lambda v: log_density(v["w"]), {"w": torch.zeros(2, dtype=DOUBLE)})
    mass = truth[-1]
    scale = torch.cat((moment_scale(truth[[2, 4]].sqrt()), (mass * (1 - mass)).sqrt()[None]))
    return Problem(
        name="bimodal",
        target=target,
        statistics=statistics,
        truth=truth,
        scale=scale,
        start=lambda chains: draw_from_grid(grid, height, chains),
        hessian=torch.diag(truth[[2, 4]].reciprocal()),
        largest=4.0,
        means=[0, 1],
        squares=square_places(2),
        metric=lambda w: torch.diag(truth[[2, 4]].reciprocal()),
    )


def funnel(num_effects: int = 9) -> Problem:
    """Neal's funnel: v ~ N(0, 9), xᵢ ~ N(0, eᵛ). No step size fits both ends; compared are v, v² and its two tails."""

    def log_density(v: dict[str, Tensor]) -> Tensor:
        log_variance, effects = v["w"][0], v["w"][1:]
        narrow = 0.5 * (effects.square() * torch.exp(-log_variance)).sum() + 0.5 * num_effects * log_variance
        return -(log_variance**2) / 18 - narrow

    def statistics(position: Tensor) -> Tensor:
        v = position[..., 0]
        return torch.stack((v, v**2, (v < -3).to(v), (v > 3).to(v)), -1)

    def start(chains: int) -> Tensor:
        white = randn(chains, num_effects + 1, seed=5)
        return torch.cat((3 * white[:, :1], torch.exp(1.5 * white[:, :1]) * white[:, 1:]), -1)

    def metric(w: Tensor) -> Tensor:
        return torch.cat((w.new_full((1,), 1 / 9 + num_effects / 2), torch.exp(-w[0]).expand(num_effects)))

    tail = 0.5 * math.erfc(1 / math.sqrt(2))
    spread = math.sqrt(tail * (1 - tail))
    return Problem(
        name="funnel",
        target=LogDensity(log_density, {"w": torch.zeros(num_effects + 1, dtype=DOUBLE)}),
        statistics=statistics,
        truth=torch.tensor([0.0, 9.0, tail, tail], dtype=DOUBLE),
        scale=torch.tensor([3.0, 9.0, spread, spread], dtype=DOUBLE),
        start=start,
        hessian=torch.tensor([1 / 9 + num_effects / 2] + [1.0] * num_effects, dtype=DOUBLE),
        largest=50.0,
        means=[0],
        squares=[1],
        metric=metric,
    )


def hessian_of(target: Target, position: Tensor) -> Tensor:
    """∇²C/N at one position."""
    return torch.func.hessian(lambda w: target.cost(w[None])[0])(position) / target.num_data


def by_hmc(name: str, posterior: Posterior, *, batch_size: int, margin: float = 1.5) -> Problem:
    """Means and covariances from HMC, with their Monte-Carlo errors; its last draws are where chains start."""
    chains = sample(
        posterior,
        HMC(),
        num_chains=64,
        num_warmup=300,
        num_samples=600,
        seed=77,
        init="mode",
        progress=False,
        compile=False,
    )
    draws = chains.position(posterior)
    center = draws.mean((0, 1))
    statistics = moments_about(center)
    per_chain = statistics(draws).mean(1)
    hessian = hessian_of(posterior, center)
    last = draws[:, ::40].flatten(0, 1)
    return Problem(
        name=name,
        target=posterior,
        statistics=statistics,
        truth=per_chain.mean(0),
        error=per_chain.std(0) / math.sqrt(len(per_chain)),
        scale=moment_scale(draws.flatten(0, 1).std(0)),
        start=lambda count: last[torch.arange(count) % len(last)],
        hessian=hessian,
        means=list(range(posterior.dim)),
        squares=square_places(posterior.dim),
        largest=margin * float(torch.linalg.eigvalsh(hessian)[-1]),
        batch_size=batch_size,
    )


def _inputs(num_data: int, dim: int) -> Tensor:
    correlated = randn(num_data, dim, seed=8)
    correlated[:, 1:] += 0.5 * correlated[:, :1]
    return correlated


@cache
def logistic(num_data: int = 200, dim: int = 5, batch_size: int = 20) -> Problem:
    """Logistic regression with a normal prior."""
    x = _inputs(num_data, dim)
    uniform = torch.rand(num_data, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(9))
    y = (uniform < torch.sigmoid(x @ torch.linspace(1.0, -1.0, dim, dtype=DOUBLE)[:, None])).to(DOUBLE)
    model = nn.Linear(dim, 1, bias=False, dtype=DOUBLE)
    return by_hmc("logistic", Posterior(model, bernoulli, (x, y), prior=Normal(0.0, 1.5)), batch_size=batch_size)


@cache
def poisson_regression(num_data: int = 200, dim: int = 4, batch_size: int = 20) -> Problem:
    """Poisson regression with log rates, counts mostly below ten."""
    x = 0.5 * _inputs(num_data, dim)
    rate = torch.exp(x @ torch.linspace(0.8, -0.8, dim, dtype=DOUBLE)[:, None])
    y = torch.poisson(rate, generator=torch.Generator().manual_seed(10))
    model = nn.Linear(dim, 1, bias=False, dtype=DOUBLE)
    return by_hmc("poisson", Posterior(model, poisson, (x, y), prior=Normal(0.0, 1.0)), batch_size=batch_size)


@cache
def from_posteriordb(name: str, *, whiten: bool = True) -> Problem:
    """Means and second moments of the reference's columns, with the reference's own Monte-Carlo error.

    The coordinates are those of `check.npz`, whitened by the curvature at the mode, so that one step size fits all.
    """
    reference = posteriordb.read(name)
    original = reference.target
    center, factor = original.default_position(), torch.eye(original.dim, dtype=DOUBLE)
    if whiten:
        center = find_mode(original, tolerance=1e-4)
        factor = torch.linalg.cholesky(torch.linalg.inv(hessian_of(original, center)))

    def log_density(v: dict[str, Tensor]) -> Tensor:
        return original._log_density(center + factor @ v["z"])

    mean = reference.draws.mean((0, 1))

    def about(columns: Tensor) -> Tensor:
        return torch.cat((columns - mean, (columns - mean) ** 2), -1)

    def statistics(position: Tensor) -> Tensor:
        return about(reference.columns(original.unravel(center + position @ factor.mT)))

    theirs = about(reference.draws).unflatten(1, (10, 100)).mean(2).flatten(0, 1)
    sd = reference.draws.flatten(0, 1).std(0)
    return Problem(
        name=name,
        target=LogDensity(log_density, {"z": torch.zeros(original.dim, dtype=DOUBLE)}),
        statistics=statistics,
        truth=theirs.mean(0),
        error=theirs.std(0) / math.sqrt(len(theirs)),
        scale=torch.cat((sd, sd**2)),
        start=lambda chains: 0.5 * randn(chains, original.dim, seed=6),
        hessian=torch.eye(original.dim, dtype=DOUBLE),
        largest=2.0,
        means=list(range(len(sd))),
        squares=list(range(len(sd), 2 * len(sd))),
    )
