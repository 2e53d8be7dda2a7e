"""Every method as a function from a problem to draws, with one rule for step sizes that looks at training data only.

Let λ be the largest eigenvalue of the Gauss–Newton matrix H of the mean cost where chains start, or of M^½ H M^½ where
the method multiplies by a diagonal M (log σ counts among the parameters). Then

    SGLD        ελ = 0.2, the full data
    PSGLD       the same with M = 1/(κ + √(diag(H)/N)): at stationarity the gradient's variance is about diag(H)/N.
                It remembers 1000 steps instead of 100, over which gradients of the full data hardly change
    SGHMC       the same, and 1 − β = 2√(ε/N): critical damping for a direction that only the prior determines
    SNGD        ελ = 1 with M = 1/diag(H); batches of N/4, quasi-diagonal Fisher over 256 inputs drawn at every step,
                damping 1/N, which is the prior's curvature, T = 1, Lebesgue measure, midpoint drift
    HMC         adapts its own step size and mass in warm-up; trajectories of half to one and a half posterior standard
                deviations and at most 128 steps, 64 and 32 on the larger sets, where fewer gradients must do

Langevin samplers see the full data because minibatches would not make them faster: to keep the heat of the stiffest
direction, εNλ/(2B)·(1 − B/N), at a given level, ε has to fall as B does, and on one core a step costs what its batch
does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from langevin.samplers import HMC, PSGLD, SGHMC, SGLD, SNGD, Chains, Fisher, sample
from torch import Tensor

from .problem import LARGE, MEDIUM, NUM_DRAWS, SMALL, Problem, gradients

STIFFNESS, NATURAL_STIFFNESS = 0.2, 1.0
FISHER_INPUTS, BATCHES_PER_EPOCH, LEAST_BATCH = 256, 4, 64
DECAY = 0.999
TRAJECTORY = 1.0
LEAPFROG = {SMALL: 128, MEDIUM: 64, LARGE: 32}
NUM_LAPLACE = 1000
NATURAL_SHARE = 10  # steps of the other Langevin samplers for one of SNGD


@dataclass(frozen=True)
class Draws:
    """What a method gives.

    Attributes
    ----------
    positions
        Parameters ``[draw, dim]``; None for a method that gives outputs only.
    outputs
        (mean, log σ) of every draw for the test inputs, ``[draw, n, 2]``, where they are not the network's.
    chains
        Chains to judge; None unless it is a sampler.
    steps, lr
        Steps of each chain, warm-up included; learning rate (HMC: mean step size; else 0).
    """

    positions: Tensor | None = None
    outputs: Tensor | None = None
    chains: Chains | None = None
    steps: int = 0
    lr: float = 0.0


def _run(problem: Problem, sampler: Any, steps: int, batch_size: int | None = None, lr: float = 0.0) -> Draws:
    num_samples = min(NUM_DRAWS, steps // 2)
    every = steps // 2 // num_samples
    settings: dict[str, Any] = {
        "num_samples": num_samples,
        "thinning": every,
        "num_warmup": steps - num_samples * every,
        "num_chains": len(problem.starts),
        "batch_size": batch_size,
        "init": problem.starts,
        "seed": problem.seed,
        "progress": False,
    }
    chains = sample(problem.posterior, sampler, compile=True, **settings)
    return Draws(chains=chains, steps=steps, lr=lr)


def mode(problem: Problem) -> Draws:
    """The mode alone."""
    return Draws(positions=problem.laplace.mode[None])


def modes(problem: Problem) -> Draws:
    """An ensemble of four points near modes, as a deep ensemble is."""
    return Draws(positions=problem.modes)


def laplace(problem: Problem) -> Draws:
    """Networks at draws from the Laplace approximation."""
    return Draws(positions=problem.laplace.sample(NUM_LAPLACE, seed=problem.seed))


def linearised(problem: Problem) -> Draws:
    """Outputs of the network's tangent at the mode: the predictive that the Gauss–Newton matrix belongs to."""
    outputs = problem.laplace.linearised(problem.split.x_test)
    return Draws(outputs=outputs.sample(NUM_LAPLACE, seed=problem.seed))


def sgld(problem: Problem) -> Draws:
    """Stochastic gradient Langevin dynamics."""
    ε = STIFFNESS / problem.stiffness()
    return _run(problem, SGLD(lr=ε), gradients(problem.posterior.num_data), lr=ε)


def psgld(problem: Problem) -> Draws:
    """Preconditioned SGLD, the preconditioner learnt in warm-up and frozen."""
    κ, N = PSGLD(lr=1.0).damping, problem.posterior.num_data
    ε = STIFFNESS / problem.stiffness(lambda diagonal: 1 / (κ + (diagonal / N).sqrt()))
    return _run(problem, PSGLD(lr=ε, decay=DECAY), gradients(N), lr=ε)


def sghmc(problem: Problem) -> Draws:
    """Stochastic gradient Hamiltonian Monte Carlo."""
    ε, N = STIFFNESS / problem.stiffness(), problem.posterior.num_data
    return _run(problem, SGHMC(lr=ε, momentum=max(0.0, 1 - 2 * (ε / N) ** 0.5)), gradients(N), lr=ε)


def sngd(problem: Problem) -> Draws:
    """Stochastic natural gradient descent."""
    N = problem.posterior.num_data
    ε = NATURAL_STIFFNESS / problem.stiffness(torch.reciprocal)
    metric = Fisher(structure="quasi_diagonal", inputs=min(FISHER_INPUTS, N), damping=1 / N)
    sampler = SNGD(lr=ε, metric=metric, temperature=1.0, measure="lebesgue", drift="midpoint")
    batch_size = max(LEAST_BATCH, N // BATCHES_PER_EPOCH)
    return _run(problem, sampler, gradients(N) // NATURAL_SHARE, batch_size, lr=ε)


def hmc(problem: Problem) -> Draws:
    """Hamiltonian Monte Carlo."""
    budget = gradients(problem.posterior.num_data)
    sampler = HMC(trajectory=TRAJECTORY, max_leapfrog=LEAPFROG[budget])
    draws = _run(problem, sampler, 2 * budget // LEAPFROG[budget])
    assert draws.chains is not None
    return Draws(chains=draws.chains, steps=draws.steps, lr=float(draws.chains.sample_stats["step_size"].mean()))


METHODS: dict[str, Callable[[Problem], Draws]] = {
    "mode": mode,
    "modes": modes,
    "laplace": laplace,
    "linearised": linearised,
    "sgld": sgld,
    "psgld": psgld,
    "sghmc": sghmc,
    "sngd": sngd,
    "hmc": hmc,
}
