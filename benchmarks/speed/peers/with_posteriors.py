"""posteriors: a transform's `update` is called for every step, vmapped over chains where there are several."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import Tensor

from ..workloads import Workload
from .peer import Peer
from .with_langevin import MOMENTUM

BLOCK = 20


def posteriors(workload: Workload, sampler: str, chains: int) -> Peer:
    """Minibatches with replacement, the cheapest way there is; a draw is kept by keeping its state.

    Its SGHMC has momentum with unit mass: learning rate h and friction α stand for ε = h² and β = 1 − αh.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Tensor default of the field", FutureWarning)
        from posteriors import sgmcmc

    began = time.perf_counter()
    num, model = workload.num_data, workload.model
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)

    def log_posterior(parameters: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        outputs = torch.func.functional_call(model, parameters, (batch[0],))
        squares = sum(p.square().sum() for p in parameters.values())
        return -workload.loss(outputs, batch[1]) - 0.5 * squares / num, outputs.new_zeros(0)

    if sampler == "SGHMC":
        size = (workload.lr / 10) ** 0.5
        method = sgmcmc.sghmc.build(log_posterior, lr=size, alpha=(1 - MOMENTUM) / size, temperature=1 / num)
    else:
        method = sgmcmc.sgld.build(log_posterior, lr=workload.lr, temperature=1 / num)

    start = workload.start()
    parts = start.split([shape.numel() for shape in shapes])
    parameters = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
    gradient, _ = torch.func.grad(log_posterior, has_aux=True)(parameters, (workload.x, workload.y))

    several = chains > 1
    lead, size = ((chains,), (chains, workload.batch_size)) if several else ((), (workload.batch_size,))
    init, update = method.init, method.update
    if several:
        init = torch.func.vmap(init, randomness="different")
        update = torch.func.vmap(update, randomness="different")
    state: Any = init({name: value.expand(*lead, *value.shape).clone() for name, value in parameters.items()})

    def run() -> int:
        nonlocal state
        draws = []
        for step in range(BLOCK):
            index = torch.randint(num, size)
            state, _ = update(state, (workload.x[index], workload.y[index]))
            if step % workload.thinning == 0:
                draws.append(state.params)
        return BLOCK

    run()
    flat = torch.cat([gradient[name].reshape(-1) for name in names])
    return Peer(run, -num * flat.numpy(), time.perf_counter() - began, "eager, vmap" if several else "eager")
