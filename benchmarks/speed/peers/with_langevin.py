"""langevin's own steps, run by its engine as `sample` runs them."""

from __future__ import annotations

import time
from typing import Any

import torch
from langevin.samplers import PSGLD, SGHMC, SGLD
from langevin.samplers.batches import Batches
from langevin.samplers.control import threads_for
from langevin.samplers.engine import Engine
from torch import Tensor

from ..timing import Run
from ..workloads import Workload
from .peer import Peer

MOMENTUM = 0.9
LONG = 10**9  # steps: any such run repays compiling, and the warm-up of one never ends


def sampler_of(name: str, lr: float) -> Any:
    """Our sampler of that name."""
    return {
        "SGLD": SGLD(lr=lr),
        "PSGLD": PSGLD(lr=lr / 10, damping=0.1),
        "SGHMC": SGHMC(lr=lr / 10, momentum=MOMENTUM),
    }[name]


def langevin(workload: Workload, sampler: str, chains: int) -> Peer:
    """Minibatches without replacement; cost, gradient norm and temperature are recorded at every draw."""
    target, start = workload.posterior(), workload.start()
    began = time.perf_counter()
    run, engine = stepper(
        target,
        sampler_of(sampler, workload.lr),
        Batches(workload.num_data, workload.batch_size),
        start.expand(chains, -1),
        workload.thinning,
    )
    seconds = time.perf_counter() - began
    _, gradient = target.cost_and_gradient(start[None])
    return Peer(run, gradient[0].numpy() * target.num_data, seconds, engine.description)


def stepper(
    target: Any, sampler: Any, batches: Batches | None, position: Tensor, thinning: int, most: int = LONG
) -> tuple[Run, Engine]:
    """A function that makes at most so many steps in the way that the library chooses, and what runs them."""
    state = sampler.init(target, position.clone(), LONG)
    engine = Engine(target, sampler, batches, state, seed=0, chain_ids=list(range(len(position))), thinning=thinning)
    engine.choose(LONG, "auto")

    def run() -> int:
        steps = min(engine.longest, most)
        engine.run(steps)
        return steps

    return run, engine


def threads(dim: int, batch_size: int, chains: int) -> int:
    """How many threads `sample` would use."""
    with threads_for(dim * batch_size * chains, torch.device("cpu")):
        return torch.get_num_threads()
