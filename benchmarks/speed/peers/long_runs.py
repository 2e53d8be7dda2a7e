"""Runs of langevin's `sample` for so many seconds on the wall, compiling and warm-up apart."""

from __future__ import annotations

import time
from typing import Any

import torch
from langevin.samplers import HMC, SGHMC, SGLD, Chains, sample
from torch import Tensor

from ..workloads import Workload
from .with_langevin import MOMENTUM

WARMUP = {"HMC": 500, "SGLD": 20_000, "SGHMC": 20_000}  # steps
THINNING = {"HMC": 1, "SGLD": 20, "SGHMC": 10}  # steps between draws, of which a second yields enough
TRIAL = 100  # draws; four times as many, and again, until they take a tenth of the time and tell how many fit


def long_draws(
    workload: Workload, sampler: str, chains: int, seconds: float, seed: int = 0
) -> tuple[Tensor, float, float]:
    """Draws `[chain, draw, dim]`, the seconds they took, and those of compiling and warm-up together."""
    posterior, method = workload.posterior(), _method(sampler, workload.lr)
    settings: dict[str, Any] = {
        "thinning": THINNING[sampler],
        "num_chains": chains,
        "batch_size": None if sampler == "HMC" else workload.batch_size,
        "seed": seed,
        "progress": False,
        "compile": True,
    }

    def more(count: int, init: Any, warmup: int = 0) -> tuple[Chains, float]:
        began = time.perf_counter()
        found = sample(posterior, method, num_samples=count, num_warmup=warmup, init=init, **settings)
        return found, time.perf_counter() - began

    trial, before = more(TRIAL, workload.start(), WARMUP[sampler])
    count, once = TRIAL, 0.0
    while once < seconds / 10:
        count *= 4
        trial, once = more(count, trial)
    found, spent = more(max(TRIAL, int(count * seconds / once)), trial)
    return torch.cat([value.flatten(2) for value in found.draws.values()], -1), spent, before


def _method(sampler: str, lr: float) -> Any:
    """SGHMC's steps add 1/(1−β) times the heat of SGLD's of the same lr, and have a tenth of it."""
    if sampler == "HMC":
        return HMC()
    return SGLD(lr=lr) if sampler == "SGLD" else SGHMC(lr=lr / 10, momentum=MOMENTUM)
