"""Runs that are right, and runs that are wrong in a known way, many of each from one call of `sample`.

A chain is the same whether it runs alone or beside others, so 80 chains are 20 independent runs of four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from langevin.samplers import HMC, SGHMC, SGLD, Chains, sample
from torch import Tensor

from tests.diagnostics.repetitions import groups_of

from .problems import Problem, logistic, network

CHAINS = 4
RIGHT = "right"


@dataclass(frozen=True)
class Case:
    """Runs of one kind.

    Attributes
    ----------
    kind
        "right", or what is wrong.
    what
        The same with its size, for the table's reader.
    make, data_seed
        The problem.
    sampler, settings
        For `sample`.
    runs
        How many.
    claimed
        Temperature that the chains say they have, where it is not the one they were drawn at.
    doubled
        Whether to sample with the prior counted twice.
    stuck
        Whether one chain of four takes steps a hundred times shorter, from a start of its own.
    """

    kind: str
    what: str
    make: Callable[[int], Problem]
    data_seed: int
    sampler: Any
    settings: dict[str, Any]
    runs: int
    claimed: float | None = None
    doubled: bool = False
    stuck: bool = False

    @property
    def label(self) -> str:
        """Problem and sampler."""
        return f"{self.make.__name__}, {type(self.sampler).__name__}"

    @property
    def problem(self) -> Problem:
        """Posterior and test data."""
        return self.make(self.data_seed)

    def draw(self, seed: int) -> list[Chains]:
        """Sample, and split into runs."""
        target = self.problem.doubled if self.doubled else self.problem.posterior
        arguments = {"num_chains": CHAINS * self.runs, "init": "prior", "seed": seed, "progress": False} | self.settings
        chains = sample(target, self.sampler, **arguments)
        if self.stuck:
            short = sample(target, replace(self.sampler, lr=self.sampler.lr / 1e4), **arguments)
            chains = _every_fourth_from(chains, short)
        if self.claimed is not None:
            chains.attrs["temperature"] = self.claimed
        return groups_of(chains, CHAINS)


def _every_fourth_from(chains: Chains, other: Chains) -> Chains:
    fourth = torch.arange(chains.num_chains) % CHAINS == CHAINS - 1

    def mixed(values: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: torch.where(fourth.reshape(-1, *[1] * (value.ndim - 1)), others[name], value)
            if value.ndim and len(value) == len(fourth)
            else value
            for name, value in values.items()
        }

    return replace(
        chains,
        draws=mixed(chains.draws, other.draws),
        sample_stats=mixed(chains.sample_stats, other.sample_stats),
        state=mixed(chains.state, other.state),
    )


def cases(quick: bool = False) -> list[Case]:
    """All of them; a smoke run takes two runs of each, which are too short to be right."""
    runs, wrong, length = (2, 2, 20) if quick else (20, 17, 1)

    def long(steps: int, **more: Any) -> dict[str, Any]:
        return {
            "num_samples": 500,
            "num_warmup": steps // 10 // length,
            "thinning": max(1, steps // 500 // length),
        } | more

    hmc: dict[str, Any] = {"num_samples": 500, "num_warmup": 500 // length}
    found = []
    for data_seed in (0, 1):
        found += [
            Case(RIGHT, "", logistic, data_seed, SGLD(lr=0.2), long(80_000, batch_size=100), runs),
            Case(RIGHT, "", logistic, data_seed, SGHMC(lr=0.5), long(20_000), runs),
            Case(RIGHT, "", logistic, data_seed, HMC(), hmc, runs),
            Case(RIGHT, "", network, data_seed, SGHMC(lr=0.3), long(60_000), runs),
            Case(RIGHT, "", network, data_seed, HMC(), hmc, runs),
        ]
    on_logistic, on_network = long(20_000), long(60_000)
    few = {"num_samples": 500, "num_warmup": 100}
    for kind, what, first, second in (
        (
            "lr too large",
            "70 % of what explodes",
            (logistic, SGLD(lr=4.0), long(10_000), {}),
            (network, SGLD(lr=1.6), long(60_000), {}),
        ),
        (
            "too few steps",
            "600, a hundredth of what is needed",
            (logistic, SGLD(lr=0.2), few, {}),
            (network, SGHMC(lr=0.3), few, {}),
        ),
        (
            "a stuck chain",
            "one of four, its lr 10⁴ times too small",
            (logistic, SGHMC(lr=0.5), on_logistic, {"stuck": True}),
            (network, SGHMC(lr=0.3), on_network, {"stuck": True}),
        ),
        (
            "temperature off by 20 %",
            "1.2 (logistic) and 0.8 (network)",
            (logistic, SGHMC(lr=0.5, temperature=1.2), on_logistic, {"claimed": 1.0}),
            (network, SGHMC(lr=0.3, temperature=0.8), on_network, {"claimed": 1.0}),
        ),
        (
            "prior counted twice",
            "where it holds a quarter of the precision, and more",
            (logistic, HMC(), hmc, {"doubled": True}),
            (network, HMC(), hmc, {"doubled": True}),
        ),
        (
            "gradient noise ignored",
            "batches of 10, which add about a third to the temperature",
            (logistic, SGLD(lr=0.5), long(40_000, batch_size=10), {}),
            (network, SGHMC(lr=0.1), long(60_000, batch_size=10), {}),
        ),
    ):
        for make, sampler, settings, more in (first, second):
            found.append(Case(kind, what, make, 0, sampler, settings, wrong, **more))
    return found
