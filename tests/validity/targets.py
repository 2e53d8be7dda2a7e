"""Targets with known truth: Gaussians, conjugate models with minibatches, curved, skewed and bimodal densities.

A problem says which statistics are compared, `[..., dim] → [..., statistic]`, and what they are under exp(−C): exact,
by quadrature, or with the Monte-Carlo error of a long run of HMC. On quadratic costs it also says what they are under
any other Gaussian, so that a sampler can be compared with the law of its own discretisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from langevin.samplers import LogDensity, Posterior, gaussian
from langevin.samplers.target import Target
from torch import Tensor, nn
from torch.distributions import Normal

from tests.validity.laws import Quadratic
from tests.validity.replicates import Mean, draw_from_grid

DOUBLE = torch.float64


@dataclass(frozen=True, eq=False)
class Problem:
    """A target and what is known of it.

    Attributes
    ----------
    statistics
        What is compared, of positions.
    truth, error
        Its expectation under exp(−C), and the standard error of that (0 where it is exact).
    means, squares
        Which of the statistics are means, and which variances (all at once, for a quadratic cost).
    scale
        Unit in which a bias of each statistic is stated: a standard deviation, a variance or a geometric mean of two.
    start
        Positions for a number of chains to start from.
    hessian
        E ∇²C/N under the posterior, or near it, `[dim, dim]` or `[dim]` if diagonal.
    largest
        The largest curvature of C/N that chains meet; step sizes are stated in units of its inverse.
    batch_size
        B where minibatches are on; None for the full data.
    quadratic, expected
        The quadratic cost, and the statistics' expectations for an error of covariance `[*chain, block, d, d]`.
    metric
        A function G(ω) suited to the curvature, if the target has one.
    """

    name: str
    target: Target
    statistics: Callable[[Tensor], Tensor]
    truth: Tensor
    scale: Tensor
    start: Callable[[int], Tensor]
    hessian: Tensor
    largest: float
    means: list[int]
    squares: list[int]
    error: Tensor | float = 0.0
    batch_size: int | None = None
    quadratic: Quadratic | None = None
    expected: Callable[[Tensor], Tensor] | None = None
    metric: Callable[[Tensor], Tensor] | None = None

    @property
    def softest(self) -> float:
        """The smallest typical curvature of C/N: a step of SGLD forgets at the rate ε times this."""
        diagonal = self.hessian.ndim == 1
        return float((self.hessian if diagonal else torch.linalg.eigvalsh(self.hessian)).min())


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def moments_about(center: Tensor) -> Callable[[Tensor], Tensor]:
    """Means and all second moments about a fixed point."""
    upper = torch.triu_indices(len(center), len(center)).unbind()

    def statistics(position: Tensor) -> Tensor:
        error = position - center
        return torch.cat((error, (error[..., upper[0]] * error[..., upper[1]])), -1)

    return statistics


def moment_scale(sd: Tensor) -> Tensor:
    """Units of `moments_about`."""
    upper = torch.triu_indices(len(sd), len(sd)).unbind()
    return torch.cat((sd, sd[upper[0]] * sd[upper[1]]))


def square_places(dim: int) -> list[int]:
    """Where `moments_about` has the variances."""
    return [dim + place for place, (i, j) in enumerate(torch.triu_indices(dim, dim).T.tolist()) if i == j]


def quadratic_problem(
    name: str, target: Target, quadratic: Quadratic, *, batch_size: int | None = None, offset: float = 3.0
) -> Problem:
    """Compare means and covariances of all coordinates, or along few directions if there are many; and the energy.

    The energy, N eᵀHe/D, takes all variances at once. Chains start `offset` standard deviations off the mean along
    every coordinate, so that a chain which does not move is seen.
    """
    mean, H, N = quadratic.mean, quadratic.hessian, quadratic.num_data
    dim = len(mean)
    directions = torch.eye(dim, dtype=DOUBLE)
    if dim > 12:
        directions = torch.cat((directions[[0, dim // 2, dim - 1]], torch.full((1, dim), dim**-0.5, dtype=DOUBLE)))
    few = moments_about(torch.zeros(len(directions), dtype=DOUBLE))
    upper = torch.triu_indices(len(directions), len(directions)).unbind()

    def statistics(position: Tensor) -> Tensor:
        error = position - mean
        parts = error.unflatten(-1, H.shape[:2])
        energy = N / dim * torch.einsum("...bi,bij,...bj->...", parts, H, parts)
        return torch.cat((few(error @ directions.mT), energy[..., None]), -1)

    def expected(covariance: Tensor) -> Tensor:
        parts = directions.unflatten(-1, H.shape[:2])
        projected = torch.einsum("kbi,...bij,lbj->...kl", parts, covariance, parts)
        energy = N / dim * torch.einsum("bij,...bji->...", H, covariance)
        products = projected[..., upper[0], upper[1]]
        zeros = products.new_zeros(*products.shape[:-1], len(directions))
        return torch.cat((zeros, products, energy[..., None]), -1)

    covariance = quadratic.target()
    sd = torch.diagonal(covariance, dim1=-2, dim2=-1).flatten().sqrt()
    projected = torch.einsum("kd,d->k", directions**2, sd**2).sqrt()
    diagonal = len(H) > 1
    return Problem(
        name=name,
        target=target,
        statistics=statistics,
        truth=expected(covariance),
        scale=torch.cat((moment_scale(projected), torch.ones(1, dtype=DOUBLE))),
        start=lambda chains: (mean + offset * sd).expand(chains, -1).clone(),
        hessian=H.flatten() if diagonal else H[0],
        largest=float(torch.linalg.eigvalsh(H).max()),
        means=list(range(len(directions))),
        squares=[len(directions) + len(upper[0])],
        batch_size=batch_size,
        quadratic=quadratic,
        expected=expected,
    )


def started_from_law(problem: Problem, covariance: Tensor) -> Callable[[int], Tensor]:
    """Start from N(mean, covariance): for targets that no chain crosses in a test's time."""
    assert problem.quadratic is not None
    mean, factor = problem.quadratic.mean, torch.linalg.cholesky(covariance)
    shape = problem.quadratic.hessian.shape[:2]

    def start(chains: int) -> Tensor:
        white = randn(chains, *shape, seed=3)
        return mean + torch.einsum("bij,cbj->cbi", factor, white).flatten(1)

    return start


def gaussian_problem(name: str, curvatures: Tensor, *, rotate: bool) -> Problem:
    """A LogDensity, −½ωᵀHω, of given curvatures along the axes or along random directions."""
    dim = len(curvatures)
    if rotate:
        basis = torch.linalg.qr(randn(dim, dim, seed=dim))[0]
        H = (basis * curvatures) @ basis.mT
        target = LogDensity(lambda v: -0.5 * v["w"] @ H @ v["w"], {"w": torch.zeros(dim, dtype=DOUBLE)})
        blocks = H[None]
    else:
        target = LogDensity(lambda v: -0.5 * (curvatures * v["w"] ** 2).sum(), {"w": torch.zeros(dim, dtype=DOUBLE)})
        blocks = curvatures[:, None, None]
    zero = torch.zeros_like(blocks)
    return quadratic_problem(name, target, Quadratic(torch.zeros(dim, dtype=DOUBLE), blocks, 1, lambda _: zero))


def isotropic() -> Problem:
    return gaussian_problem("gaussian", torch.ones(10, dtype=DOUBLE), rotate=True)


def ill_conditioned() -> Problem:
    """Curvatures from 1 to 10⁴, along directions that are not the coordinates'."""
    return gaussian_problem("ill-conditioned", torch.logspace(0, 4, 10, dtype=DOUBLE), rotate=True)


def thousand() -> Problem:
    """D = 1000, curvatures from ¼ to 1."""
    return gaussian_problem("thousand", torch.linspace(0.25, 1, 1000, dtype=DOUBLE), rotate=False)


def mean_problem(
    batch_size: int | None = 5, *, prior: float | None = None, num_data: int = 40, correlated: bool = True
) -> Problem:
    """Gaussian mean model in 3 dimensions: gradient noise that does not depend on ω, of a covariance unlike H.

    Without correlation the noise is (1/B)(1 − B/N) I, the same in all directions.
    """
    y, scale = randn(num_data, 3, seed=1), 0.5
    y = y - y.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(y.T)), y.T, upper=False).T * scale
    mix = torch.tensor([[1.5, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.4, 0.3, 1.2]], dtype=DOUBLE)
    y = (white @ mix.T if correlated else white) + 0.3
    distribution = None if prior is None else Normal(0.0, prior)
    posterior = Posterior(Mean(3), gaussian(scale), (torch.zeros(num_data, 1, dtype=DOUBLE), y), prior=distribution)
    likelihood = scale**-2
    curvature = likelihood + (0.0 if prior is None else prior**-2 / num_data)
    H = curvature * torch.eye(3, dtype=DOUBLE)[None]
    S = likelihood**2 * torch.cov(y.T)[None]

    def batch_noise(batch: int | None) -> Tensor:
        return torch.zeros_like(S) if batch is None else S / batch * (1 - batch / num_data)

    quadratic = Quadratic(y.mean(0) * likelihood / curvature, H, num_data, batch_noise)
    return quadratic_problem("mean" if batch_size else "mean, all data", posterior, quadratic, batch_size=batch_size)


class Conjugate:
    """Linear regression with correlated inputs: N = 2000, D = 10, known noise, normal prior."""

    def __init__(self):
        generator = torch.Generator().manual_seed(2)
        mixing = torch.eye(10, dtype=DOUBLE) + 0.15 * torch.randn(10, 10, dtype=DOUBLE, generator=generator)
        self.x = torch.randn(2000, 10, dtype=DOUBLE, generator=generator) @ mixing
        weight = torch.randn(10, dtype=DOUBLE, generator=generator)
        self.noise = 0.7
        self.y = self.x @ weight + self.noise * torch.randn(2000, dtype=DOUBLE, generator=generator)
        self.precision = self.x.T @ self.x / self.noise**2 + torch.eye(10, dtype=DOUBLE) / 4
        self.covariance = torch.linalg.inv(self.precision)
        self.mean = self.covariance @ (self.x.T @ self.y) / self.noise**2
        model = nn.Linear(10, 1, bias=False, dtype=DOUBLE)
        self.posterior = Posterior(model, gaussian(self.noise), (self.x, self.y[:, None]), prior=Normal(0.0, 2.0))
        self.largest = float(torch.linalg.eigvalsh(self.precision / 2000)[-1])

    def gradient_noise(self, batch_size: int, covariance: Tensor | None = None) -> Tensor:
        """S_mb averaged over ω ~ N(mean, covariance), by default the posterior's: in regression it depends on ω."""
        covariance = self.covariance if covariance is None else covariance
        residual = (self.x @ self.mean - self.y)[:, None] * self.x / self.noise**2
        at_mean = torch.cov(residual.T)
        # E over ω ~ N(mean, V) adds Cov of x xᵀ(ω − mean)/σ²: the mean of (x xᵀ V x xᵀ) less the square of the mean.
        quadratic = torch.einsum("ni,ij,nj->n", self.x, covariance, self.x)
        second = torch.einsum("n,ni,nj->ij", quadratic, self.x, self.x) / 2000
        gram = self.x.T @ self.x / 2000
        extra = (second - gram @ covariance @ gram) / self.noise**4 * 2000 / 1999
        return (at_mean + extra) / batch_size * (1 - batch_size / 2000)

    def law(self, lr: float, batch_size: int | None) -> Tensor:
        """V = (I − εH) V (I − εH) + ε² S + (2ε/N) I, solved exactly."""
        hessian = self.precision / 2000
        noise = 2 * lr / 2000 * torch.eye(10, dtype=DOUBLE)
        if batch_size is not None:
            noise = noise + lr**2 * self.gradient_noise(batch_size)
        contraction = torch.eye(10, dtype=DOUBLE) - lr * hessian
        system = torch.eye(100, dtype=DOUBLE) - torch.kron(contraction, contraction)
        return torch.linalg.solve(system, noise.flatten()).reshape(10, 10)


def conjugate_problem(batch_size: int | None = 500, problem: Conjugate | None = None) -> Problem:
    """`Conjugate` as a problem; its gradient noise depends on how far chains spread."""
    problem = problem or Conjugate()

    def noise_within(batch: int | None, covariance: Tensor) -> Tensor:
        zero = torch.zeros(10, 10, dtype=DOUBLE)
        return (zero if batch is None else problem.gradient_noise(batch, covariance[0]))[None]

    def batch_noise(batch: int | None) -> Tensor:
        return noise_within(batch, problem.covariance[None])

    quadratic = Quadratic(problem.mean, problem.precision[None] / 2000, 2000, batch_noise, noise_within)
    return quadratic_problem("regression", problem.posterior, quadratic, batch_size=batch_size)


MATRIX = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=DOUBLE)


def curved_cost(w: Tensor) -> Tensor:
    """C = ½ωᵀAω + 0.1 Σωᵢ⁴ (`[..., 2]`)."""
    return 0.5 * torch.einsum("...i,ij,...j", w, MATRIX, w) + 0.1 * (w**4).sum(-1)


def curved_metric(w: Tensor) -> Tensor:
    """B(ω) B(ω)ᵀ + 0.2 I."""
    root = torch.stack((1.2 + torch.sin(w[1]), 0.5 * w[0], torch.zeros_like(w[0]), 1 + 0.3 * w[0] ** 2)).reshape(2, 2)
    return root @ root.mT + 0.2 * torch.eye(2, dtype=w.dtype)


def curved() -> Problem:
    line = torch.linspace(-6, 6, 601, dtype=DOUBLE)
    grid = torch.cartesian_prod(line, line)
    log_density = -curved_cost(grid)
    weight = torch.softmax(log_density, 0)
    statistics = moments_about(torch.zeros(2, dtype=DOUBLE))
    truth = weight @ statistics(grid)
    hessians = MATRIX + 1.2 * torch.diag_embed(weight @ grid**2)
    target = LogDensity(lambda v: -curved_cost(v["w"]), {"w": torch.zeros(2, dtype=DOUBLE)})
    return Problem(
        name="curved",
        target=target,
        statistics=statistics,
        truth=truth,
        scale=moment_scale(truth[[2, 4]].sqrt()),
        start=lambda chains: draw_from_grid(grid, log_density, chains),
        hessian=hessians,
        largest=5.0,
        means=[0, 1],
        squares=square_places(2),
        metric=curved_metric,
    )
