"""A training step of a residual network for images of 32 × 32 pixels, one chain, B = 128, ms per step.

The yardstick is PyTorch's own loop: forward and backward pass and `torch.optim.SGD.step`, on minibatches drawn with
replacement. Steps of SGLD do the same and add the prior's gradient and noise; no draw is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from langevin.samplers import SGLD, Posterior, categorical
from langevin.samplers.batches import Batches
from torch import nn

from ...rows import Row
from ..cases import CORES, Case, Effort
from ..peers.peer import Peer, available, check_gradients
from ..peers.with_langevin import stepper
from ..peers.with_posteriors import posteriors
from ..resnet import resnet
from ..timing import alternate, once, ratio, summary
from ..workloads import Workload

DEPTHS = (8, 20)


def cases(effort: Effort) -> Iterator[Case]:
    """One for each depth."""
    for depth in DEPTHS[:1] if effort.quick else DEPTHS:
        yield Case(f"ResNet-{depth}", measure, (depth, effort), CORES)


def workload(depth: int, quick: bool) -> Workload:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(0)
    num_data, batch_size = (64, 8) if quick else (1024, 128)
    x = torch.randn(num_data, 3, 32, 32, generator=generator)
    y = torch.randint(10, (num_data,), generator=generator)
    return Workload(resnet(depth), "classes", x, y, batch_size, 0.01, 10**6)


def langevin(problem: Workload) -> Peer:
    """SGLD as the engine chooses to run it."""
    target = Posterior(problem.model, categorical, (problem.x, problem.y))
    start, batches = problem.start()[None], Batches(problem.num_data, problem.batch_size)
    run, engine = stepper(target, SGLD(lr=problem.lr), batches, start, problem.thinning, 4)
    _, gradient = target.cost_and_gradient(start)
    return Peer(run, gradient[0].numpy() * target.num_data, 0.0, engine.description)


def sgd(problem: Workload) -> Peer:
    """The yardstick; it has no gradient to compare, having no prior."""
    optimiser = torch.optim.SGD(problem.model.parameters(), problem.lr)

    def step() -> None:
        index = torch.randint(problem.num_data, (problem.batch_size,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(problem.model(problem.x[index]), problem.y[index]).backward()
        optimiser.step()

    return Peer(once(step), problem.start().numpy(), 0.0, "eager")


def measure(depth: int, effort: Effort) -> list[Row]:
    """Rows of all; `times_sgd` is how much longer than the yardstick each one takes."""
    problem = workload(depth, effort.quick)
    makers = {"langevin": lambda: langevin(problem), "posteriors": lambda: posteriors(problem, "SGLD", 1)}
    peers = available(makers)
    check_gradients(peers)
    peers["torch.optim.SGD"] = sgd(problem)
    times = alternate({name: peer.run for name, peer in peers.items()}, effort.repeats)
    return [
        {"peer": name, "dim": problem.dim, "batch_size": problem.batch_size}
        | summary(times[name], "ms")
        | {"times_sgd": ratio(times[name], times["torch.optim.SGD"], CORES), "how": peer.how}
        for name, peer in peers.items()
    ]
