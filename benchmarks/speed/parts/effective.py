"""Effective draws per second of sampling on two posteriors, and how wrong the draws are.

Every sampler has 4 chains, starts at the same place, and after its warm-up samples for the same time on the wall,
compiling apart; on one thread. Bulk ESS is that of the worst quantity: on logistic regression (64 weights) of the worst
weight, on the MLP of the worst of 200 class probabilities at 20 new inputs, as networks have no weights to compare.
Stochastic gradients bias what is drawn: means are off by `mean_bias` standard deviations at worst, and standard
deviations too large by a factor whose median is `sd_ratio`, both against a long run of langevin's HMC, which is exact;
`mean_error` is what Monte Carlo makes of the worst mean, in standard deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from langevin.diagnostics.convergence import ess
from torch import Tensor

from ...rows import Row
from ..cases import Case, Effort
from ..peers.long_blackjax import blackjax_draws
from ..peers.long_runs import long_draws
from ..peers.peer import absent
from ..workloads import CLASSES, WORKLOADS, Workload

CHAINS, SECONDS, REFERENCE_SECONDS, QUICK_SECONDS = 4, 10.0, 40.0, 1.0
PROBLEMS = ("logistic 64", "mlp")
SAMPLERS = ("langevin SGLD", "langevin SGHMC", "langevin HMC", "blackjax SGHMC", "blackjax NUTS")


def cases(effort: Effort) -> Iterator[Case]:
    """Either posterior."""
    for name in PROBLEMS[: 1 if effort.quick else None]:
        yield Case(f"{name}, {CHAINS} chains", measure, (name, effort))


def quantities(name: str, problem: Workload) -> Callable[[Tensor], Tensor]:
    """What is judged: `[chain, draw, dim]` → `[chain, draw, quantity]`."""
    if name != "mlp":
        return lambda draws: draws
    inputs = torch.randn(20, problem.x.shape[1], generator=torch.Generator().manual_seed(2))
    posterior = problem.posterior()

    def probabilities(draws: Tensor) -> Tensor:
        with torch.no_grad():
            pieces = [posterior.outputs(piece.flatten(0, 1), inputs).softmax(-1) for piece in draws.split(1000, 1)]
        return torch.cat([piece.reshape(len(draws), -1, inputs.shape[0] * CLASSES) for piece in pieces], 1)

    return probabilities


def measure(name: str, effort: Effort) -> list[Row]:
    """A row for each sampler, and one for the reference."""
    problem = WORKLOADS[name]()
    judged = quantities(name, problem)
    seconds, most = (QUICK_SECONDS, 2 * QUICK_SECONDS) if effort.quick else (SECONDS, REFERENCE_SECONDS)
    draws, spent, warmup = long_draws(problem, "HMC", CHAINS, most, seed=1)
    reference = judged(draws).double()
    mean, sd = (function(reference, (0, 1)) for function in (torch.mean, torch.std))
    rows = [row("reference", reference, mean, sd, spent, warmup)]
    for label in SAMPLERS:
        library, sampler = label.split()
        make = long_draws if library == "langevin" else blackjax_draws
        try:
            draws, spent, warmup = make(problem, sampler, CHAINS, seconds)
        except ImportError as error:
            absent(label, error)
            continue
        rows.append(row(label, judged(draws).double(), mean, sd, spent, warmup))
    return [{"workload": name} | found for found in rows]


def row(label: str, draws: Tensor, mean: Tensor, sd: Tensor, seconds: float, warmup: float) -> Row:
    """Numbers of one sampler."""
    sizes = ess(draws).numpy()
    ratios = (draws.std((0, 1)) / sd).numpy()
    return {
        "sampler": label,
        "draws": draws.shape[1],
        "seconds": seconds,
        "warmup_s": warmup,
        "ess_worst": float(sizes.min()),
        "ess_median": float(np.median(sizes)),
        "ess_per_second": float(sizes.min()) / seconds,
        "mean_error": float(sizes.min()) ** -0.5,
        "mean_bias": float(((draws.mean((0, 1)) - mean) / sd).abs().max()),
        "sd_ratio": float(np.median(ratios)),
        "sd_ratio_low": float(ratios.min()),
        "sd_ratio_high": float(ratios.max()),
    }
