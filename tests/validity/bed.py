"""One cell of the test bed: a sampler on a problem, and how far its statistics are from what they must be.

Chains are independent, so errors come from the spread over chains (see `replicates`). A cell makes several comparisons;
the threshold on the largest |z| is Šidák's for that number of comparisons, from Student's t with one degree of freedom
less than there are chains, at a level divided by the number of cells that are judged together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from langevin.diagnostics.convergence import ess
from langevin.samplers import Chains, sample
from scipy.stats import t as student
from torch import Tensor

from tests.validity.table import Row
from tests.validity.targets import Problem

LEVEL = 0.01  # probability that any cell of a whole bed fails by chance
ESS_CHAINS = 32

Kind = Literal["exact", "own law", "limit", "bias", "no law"]


def threshold(comparisons: int, chains: int, cells: int, level: float = LEVEL) -> float:
    """Largest |z| to be expected of `cells` cells with so many comparisons each, but for a chance of `level`."""
    each = -math.expm1(math.log1p(-level) / (comparisons * cells))
    return float(student.isf(each / 2, chains - 1))


@dataclass(frozen=True)
class Size:
    """How long a cell runs.

    Attributes
    ----------
    chains
        Number of chains.
    memories
        Length of a chain in units of the slowest direction's memory 1/rate, and at least `least` steps.
    warmup
        Length of the warm-up in the same units, at least 50 steps.
    most
        Upper limit of the steps.
    kept
        Draws kept of each chain.
    """

    chains: int = 256
    memories: float = 10.0
    least: int = 400
    warmup: float = 11.0
    most: int = 20_000
    kept: int = 200


@dataclass(frozen=True, eq=False)
class Run:
    """What a sampler did on a problem.

    Attributes
    ----------
    per_chain, truth
        Statistics of each chain, `[chain, statistic]`, and what they would be under exp(−C).
    predicted
        What the sampler's own discretised law makes of them, `[statistic]` or `[chain, statistic]`; None without one.
    chains, seconds
        Draws, and CPU seconds of the whole run.
    """

    problem: Problem
    row: Row
    sampler: Any
    per_chain: Tensor
    predicted: Tensor | None
    chains: Chains
    steps: int
    seconds: float
    stopped: int

    @property
    def z(self) -> Tensor:
        """Distances from the sampler's own law."""
        assert self.predicted is not None
        return z_of(self.per_chain - self.predicted, 0.0)

    @property
    def z_posterior(self) -> Tensor:
        """Distances from exp(−C), bias of discretisation included."""
        return z_of(self.per_chain[:, : len(self.problem.truth)] - self.problem.truth, self.problem.error)

    @property
    def bias(self) -> Tensor:
        """Distance from exp(−C) in units of the problem's scale."""
        return (self.per_chain.mean(0)[: len(self.problem.truth)] - self.problem.truth) / self.problem.scale

    def ess(self) -> float:
        """Smallest bulk effective sample size over coordinates, of all chains."""
        draws = self.chains.position(self.problem.target)[:ESS_CHAINS]
        few = draws[..., :: max(1, draws.shape[-1] // 20)]
        value = ess(few, "bulk").min().item()
        return value * len(self.per_chain) / len(draws)


def z_of(difference: Tensor, error: Tensor | float) -> Tensor:
    """Mean over chains in standard errors, those of the truth included."""
    assert len(difference) >= 32, "with fewer chains the spread is too uncertain"
    return difference.mean(0) / (difference.var(0) / len(difference) + torch.as_tensor(error) ** 2).sqrt()


def run(
    problem: Problem,
    row: Row,
    size: Size,
    *,
    step: float | None = None,
    seed: int = 0,
    batch: bool = True,
    build: Callable[[Problem, float], Any] | None = None,
    start: Callable[[int], Tensor] | None = None,
) -> Run:
    """Sample; `build` may give another sampler than the row's, which is judged by the row's law.

    The law is that of the row's own sampler: a mutant has the settings of the sampler that it pretends to be.
    """
    step = row.step if step is None else step
    sampler = (build or row.build)(problem, step)
    rate = row.rate(problem, step)
    steps = min(size.most, max(size.least, round(size.memories / rate)))
    thinning = max(1, steps // size.kept)
    left_out = math.ceil(row.settle / rate / thinning)
    warmup = min(size.most, max(50 if row.name != "HMC" else 200, round(size.warmup / rate)))
    batch_size = problem.batch_size if batch and row.needs != "full" else None
    began = time.process_time()
    chains = sample(
        problem.target,
        sampler,
        num_samples=left_out + steps // thinning,
        num_warmup=warmup,
        thinning=thinning,
        num_chains=size.chains,
        batch_size=batch_size,
        init=(start or problem.start)(size.chains),
        seed=seed,
        progress=False,
        compile=False,
    )
    seconds = time.process_time() - began
    stopped = len(chains.attrs["stopped"])
    if stopped:
        chains = chains.finished()
    chains = later(chains, left_out)
    per_chain = problem.statistics(chains.position(problem.target)).mean(1)
    predicted = None
    if problem.quadratic is not None and row.law is not None:
        assert problem.expected is not None
        reference = row.build(problem, step)
        predicted = problem.expected(law_of(problem, row, reference, batch_size, chains))
        if row.extra is not None:
            more, expected = row.extra(problem, reference, batch_size, chains)
            per_chain = torch.cat((per_chain, more), -1)
            predicted = torch.cat((predicted, expected.expand(*predicted.shape[:-1], -1)), -1)
    total = warmup + left_out * thinning + steps
    return Run(problem, row, sampler, per_chain, predicted, chains, total, seconds, stopped)


def law_of(problem: Problem, row: Row, sampler: Any, batch_size: int | None, chains: Chains) -> Tensor:
    """The row's law, consistent with itself where wider chains meet more gradient noise."""
    assert problem.quadratic is not None
    assert row.law is not None
    law = row.law(problem, sampler, batch_size, chains)
    for _ in range(20 if problem.quadratic.noise_within is not None and batch_size is not None else 0):
        law = row.law(replace(problem, quadratic=problem.quadratic.heated(law)), sampler, batch_size, chains)
    return law


def later(chains: Chains, first: int) -> Chains:
    """Without the first draws."""
    if first == 0:
        return chains
    draws, stats = ({k: v[:, first:] for k, v in d.items()} for d in (chains.draws, chains.sample_stats))
    return replace(chains, draws=draws, sample_stats=stats)


def limit_z(
    problem: Problem, row: Row, size: Size, *, steps: tuple[float, float, float], seed: int = 0, **settings: Any
) -> tuple[Tensor, list[Run]]:
    """z at ε → 0: the parabola through the statistics at ε, 2ε and 4ε, whose error is known, against exp(−C)."""
    runs = [run(problem, row, size, step=step, seed=seed + k, **settings) for k, step in enumerate(steps)]
    assert steps[1] == 2 * steps[0]
    assert steps[2] == 4 * steps[0]
    weights, count = (8 / 3, -2.0, 1 / 3), len(problem.truth)  # of the parabola's value at 0
    values = [r.per_chain[:, :count] for r in runs]
    value = sum(w * v.mean(0) for w, v in zip(weights, values, strict=True))
    variance = sum(w**2 * v.var(0) / len(v) for w, v in zip(weights, values, strict=True))
    return (value - problem.truth) / (variance + torch.as_tensor(problem.error) ** 2) ** 0.5, runs
