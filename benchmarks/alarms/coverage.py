"""How often 95 % intervals of a temperature hold the truth, on quadratic costs, where it is known at any lr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from langevin.diagnostics import kinetic_temperature, temperature
from langevin.samplers import SGHMC, SGLD, Chains, LogDensity, Posterior, gaussian, sample
from langevin.samplers.target import Target
from torch import Tensor

from tests.diagnostics.repetitions import groups_of
from tests.validity.replicates import Mean

from ..rows import Row

COLUMNS = ("reading", "chains", "repetitions", "held")
REPETITIONS = 200
LR, DIM, FIRST = 0.1, 20, 12  # the first layer's share of the parameters
CURVATURE = torch.linspace(0.2, 2.0, DIM, dtype=torch.float64)  # spread over both layers
NUM_DATA, BATCH = 50, 5

Interval = tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """What is read of runs, and what it should be."""

    name: str
    target: Target
    sampler: Any
    settings: dict[str, Any]
    chains: int
    read: Callable[[Chains], Interval]
    truth: float


def readings() -> Iterator[Reading]:
    """All of them."""
    order = torch.arange(DIM) % 2 * (DIM // 2) + torch.arange(DIM) // 2
    first, second = CURVATURE[order][:FIRST], CURVATURE[order][FIRST:]

    def log_density(at: dict[str, Tensor]) -> Tensor:
        return -0.5 * ((first * at["a.w"] ** 2).sum(-1) + (second * at["b.w"] ** 2).sum(-1))

    quadratic = LogDensity(
        log_density, {"a.w": torch.zeros(len(first), dtype=torch.float64), "b.w": torch.zeros_like(second)}
    )

    def excess(curvature: Tensor) -> float:
        return float((1 / (1 - LR * curvature / 2)).mean())

    def of_all(chains: Chains) -> Interval:
        return temperature(chains, quadratic).interval

    def block(chains: Chains, name: str, target: Target | None) -> Interval:
        value, error = temperature(chains, target).blocks[name]
        return value - 1.96 * error, value + 1.96 * error

    sgld, settings = SGLD(lr=LR), {"num_samples": 500, "num_warmup": 1000, "thinning": 10}
    whole = excess(CURVATURE)
    yield Reading("full gradients", quadratic, sgld, settings, 4, of_all, whole)
    yield Reading("full gradients, one chain", quadratic, sgld, settings, 1, of_all, whole)
    yield Reading(
        "full gradients, one tensor", quadratic, sgld, settings, 4, lambda c: block(c, "a.w", quadratic), excess(first)
    )
    yield Reading("taken while sampling", quadratic, sgld, settings, 4, lambda c: temperature(c).interval, whole)
    yield Reading(
        "taken while sampling, one layer", quadratic, sgld, settings, 4, lambda c: block(c, "b", None), excess(second)
    )
    data = torch.randn(NUM_DATA, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = Posterior(Mean(3), gaussian(1.0), (torch.zeros(NUM_DATA, 1, dtype=torch.float64), data))
    noise = data.var(0) / BATCH * (1 - BATCH / NUM_DATA)
    hot = float((1 + LR * NUM_DATA * noise / 2).mean() / (1 - LR / 2))
    batches = settings | {"batch_size": BATCH}
    yield Reading("minibatches, full gradients", mean, sgld, batches, 4, lambda c: temperature(c, mean).interval, hot)
    yield Reading("minibatches, taken while sampling", mean, sgld, batches, 4, lambda c: temperature(c).interval, hot)
    moving = SGHMC(lr=LR)
    yield Reading("kinetic (SGHMC)", quadratic, moving, settings, 4, lambda c: kinetic_temperature(c).interval, 1.0)


def coverages(quick: bool = False) -> Iterator[Row]:
    """A row for each reading."""
    for reading in readings():
        repetitions = 4 if quick else REPETITIONS
        held = 0
        chains = sample(
            reading.target,
            reading.sampler,
            num_chains=reading.chains * repetitions,
            seed=1,
            progress=False,
            **reading.settings,
        )
        for run in groups_of(chains, reading.chains):
            low, high = reading.read(run)
            held += low <= reading.truth <= high
        yield {"reading": reading.name, "chains": reading.chains, "repetitions": repetitions, "held": held}
