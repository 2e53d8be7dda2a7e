"""What is minimised: a network's least squares, a curved valley, and a function with many saddles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import scipy.optimize
import torch
from langevin.samplers import LogDensity, Posterior, gaussian
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import jacrev

DIM, UNITS, SCALE, PRIOR = 10, 5, 0.1, 3.0


@dataclass(frozen=True)
class Problem:
    """A target and where to start, by the number of the start.

    Attributes
    ----------
    lr
        Learning rate of plain gradient descent, with and without momentum; stable from all starts.
    """

    target: Posterior | LogDensity
    start: Callable[[int], Tensor]
    lr: float


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> Problem:
    """A tanh network 1-5-1 (D = 16), 100 examples, noise of 0.1, prior N(0, 3²); starts at initial weights."""
    x = torch.linspace(-3, 3, 100, dtype=torch.float64)[:, None]
    y = torch.sin(2 * x) + 0.3 * x + SCALE * normal(100, 1, seed=0)

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, UNITS), nn.Tanh(), nn.Linear(UNITS, 1)).double()

    target = Posterior(model(0), gaussian(SCALE), (x, y), Normal(0.0, PRIOR))
    return Problem(target, lambda seed: nn.utils.parameters_to_vector(model(seed).parameters()).detach(), 1e-3)


def valley() -> Problem:
    """Rosenbrock's function in a chain of 10, Σ 100(x₊ − x²)² + (1 − x)²; starts at normal numbers."""

    def log_density(values: dict[str, Tensor]) -> Tensor:
        x = values["x"]
        return -(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    target = LogDensity(log_density, {"x": torch.zeros(DIM, dtype=torch.float64)})
    return Problem(target, lambda seed: normal(DIM, seed=seed), 2e-4)


def saddles() -> Problem:
    """Σ ½aᵢ(xᵢ² − 1)², a from 0.1 to 10: 2¹⁰ modes of cost 0, and 3¹⁰ stationary points in all.

    Starts by the saddle at 0: half of the coordinates at 10⁻³ times normal numbers, half exactly at 0, so that their
    gradient vanishes on all of the way.
    """
    a = torch.logspace(-1, 1, DIM, dtype=torch.float64)
    target = LogDensity(
        lambda values: -(0.5 * a * (values["x"] ** 2 - 1) ** 2).sum(), {"x": torch.zeros(DIM, dtype=torch.float64)}
    )
    near = torch.tensor([0.0, 1e-3] * (DIM // 2), dtype=torch.float64)
    return Problem(target, lambda seed: near * normal(DIM, seed=seed), 0.02)


PROBLEMS = {"network": network, "valley": valley, "saddles": saddles}


def least_squares(posterior: Posterior, start: Tensor, num_steps: int) -> scipy.optimize.OptimizeResult:
    """Let scipy's (MINPACK's) Levenberg–Marquardt minimise the network's cost: residuals and weights as one vector."""

    def residuals(position: Tensor) -> Tensor:
        misfit = posterior.call(position, posterior.inputs) - posterior.targets
        return torch.cat((misfit[:, 0] / SCALE, position / PRIOR))

    return scipy.optimize.least_squares(
        lambda values: residuals(torch.as_tensor(values)).detach().numpy(),
        start.numpy(),
        lambda values: jacrev(residuals)(torch.as_tensor(values)).numpy(),
        method="lm",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=num_steps,
    )
