"""Convolutions of several chains as one grouped convolution, compiled: the best that is known for small CNNs."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

from ..workloads import Workload
from .peer import Peer

BLOCK = 10


def grouped(workload: Workload, chains: int) -> Peer:
    """SGLD, one compiled step a call, minibatches with replacement; the noise is `torch.randn_like`'s."""
    began = time.perf_counter()
    num, lr = workload.num_data, workload.lr
    shapes = [p.shape for p in workload.model.parameters()]
    sizes = [math.prod(shape) for shape in shapes]

    def cost(position: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Mean cost, summed over chains; inputs `[chain, batch, ...]`."""
        count = len(position)
        left = iter([v.reshape(count, *s) for v, s in zip(position.split(sizes, -1), shapes, strict=True)])
        for layer in workload.model:
            if isinstance(layer, nn.Conv2d):
                weight, bias = next(left), next(left)
                wide = x.transpose(0, 1).flatten(1, 2)  # channels of all chains side by side
                out = torch.conv2d(wide, weight.flatten(0, 1), bias.flatten(), layer.stride, groups=count)
                x = out.unflatten(1, (count, -1)).transpose(0, 1)
            elif isinstance(layer, nn.Linear):
                weight, bias = next(left), next(left)
                x = torch.baddbmm(bias[:, None], x, weight.mT)
            elif isinstance(layer, nn.Flatten):
                x = x.flatten(2)
            else:
                x = layer(x)
        return count * workload.loss(x.flatten(0, 1), y.flatten()) + 0.5 * position.square().sum() / num

    gradient = torch.func.grad(cost)
    compiled = torch.compile(gradient)
    noise = (2 * lr / num) ** 0.5
    start = workload.start()
    position = start.repeat(chains, 1)

    def run() -> int:
        draws = []
        for turn in range(BLOCK):
            index = torch.randint(num, (chains, workload.batch_size))
            descent = compiled(position, workload.x[index], workload.y[index])
            position.add_(descent, alpha=-lr).add_(torch.randn_like(position), alpha=noise)
            if turn % workload.thinning == 0:
                draws.append(position.clone())
        return BLOCK

    run()
    full = num * gradient(start[None], workload.x[None], workload.y[None])[0]
    return Peer(run, full.numpy(), time.perf_counter() - began, "one compiled step a call")
