"""What a user writes without a library: a copy of the model and an optimiser for each chain."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..workloads import Workload
from .peer import Peer

BLOCK = 10


def by_hand(workload: Workload, chains: int) -> Peer:
    """SGLD: a step of `torch.optim.SGD`, the prior as weight decay, and noise; minibatches with replacement."""
    began = time.perf_counter()
    num, noise = workload.num_data, (2 * workload.lr / workload.num_data) ** 0.5
    models = [copy.deepcopy(workload.model) for _ in range(chains)]
    for model in models:
        vector_to_parameters(workload.start(), model.parameters())
    optimisers = [torch.optim.SGD(model.parameters(), workload.lr, weight_decay=1 / num) for model in models]

    def step(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        index = torch.randint(num, (workload.batch_size,))
        optimiser.zero_grad()
        workload.loss(model(workload.x[index]), workload.y[index]).backward()
        optimiser.step()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=noise)

    def run() -> int:
        draws = []
        for turn in range(BLOCK):
            for model, optimiser in zip(models, optimisers, strict=True):
                step(model, optimiser)
            if turn % workload.thinning == 0:
                draws.append([parameters_to_vector(model.parameters()).detach() for model in models])
        return BLOCK

    workload.loss(models[0](workload.x), workload.y).backward()
    gradient = parameters_to_vector([p.grad for p in models[0].parameters() if p.grad is not None])
    gradient = num * gradient + workload.start()
    run()
    return Peer(run, gradient.numpy(), time.perf_counter() - began, "eager, chain after chain")
