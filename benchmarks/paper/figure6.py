"""Figure 6: NGD on a CNN and MNIST: test cross-entropy against temperature, for several ε (a) and several N (b).

Run with ``python -m benchmarks.paper.figure6 --device cuda``: a step factorises a matrix of 3,490 × 3,490, and a run
makes 850/ε steps. ``--quick`` runs a small version on a CPU, which shows that the program works and nothing about the
paper's claim: a diagonal Fisher metric of 256 inputs, N = 2048 and 1024, 8/ε steps of which the last tenth is kept, a
start from 300 steps of SGD, and 2,000 test images. ``--reduced`` shows panel (a) on a CPU, in a quarter of an hour for
each repetition: 20/ε steps, of which the last tenth is kept; ε = 0.1, 0.05 and 0.025, whose moving averages have
coefficients of 0.006, 0.08 and 0.28 and are left out; a Fisher metric evaluated at every other step.

Every repetition has its own start, training examples and chain. λ = 40/N is read as a multiple of the mean cost, R = N
(λ/2)|ω|² = 20|ω|². The paper does not name its activations, its learning rates in (a) but for 0.05, the values of N in
(b), or how its SGD run was made: here ReLU, the constants below, and momentum 0.9 with a cosine schedule.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from langevin.samplers import NGD, Fisher, Posterior, batch_size_for, categorical, find_mode, sample, temperature_of
from torch import Tensor, nn
from torch.distributions import Normal

from . import mnist
from .plotting import curve, mark, panels, save
from .records import Row, collect, parser, score

CHANNELS, CLASSES = 10, 10
DAMPING, REGULARISER = 0.1, 40.0
TEMPERATURES = (0.03, 0.1, 0.3, 0.6, 1.0, 1.7, 3.0, 10.0)
REPETITIONS = 3
SGD_LR, SGD_BATCH_SIZE = 0.05, 128


@dataclass(frozen=True)
class Grid:
    """What is run: the paper's setting by default."""

    lrs: tuple[float, ...] = (0.2, 0.1, 0.05, 0.02)
    num_data: tuple[int, ...] = (8192, 4096, 2048)  # the first in (a), with all learning rates
    middle_lr: float = 0.05  # in (b), with all sizes of data
    temperatures: tuple[float, ...] = TEMPERATURES
    duration: float = 850.0  # steps times ε
    kept: float = 0.002
    structure: str = "dense"
    averaged: bool = True
    refresh_every: int = 1
    fisher_inputs: int = 1024
    sgd_steps: int = 10_000
    num_test: int = 10_000


QUICK = Grid(
    lrs=(0.2, 0.1), num_data=(2048, 1024), middle_lr=0.1, temperatures=(0.3, 1.0, 3.0), duration=8.0, kept=0.1,
    structure="diagonal", fisher_inputs=256, sgd_steps=300, num_test=2000,
)  # fmt: skip


REDUCED = Grid(
    lrs=(0.1, 0.05, 0.025), num_data=(8192,), temperatures=(0.3, 1.0, 3.0, 10.0, 30.0), duration=20.0, kept=0.1,
    averaged=False, refresh_every=2, sgd_steps=2000,
)  # fmt: skip


def make_posterior(images: Tensor, labels: Tensor, device: str) -> Posterior:
    """Three convolutions 28 → 14 → 7 → 4 and a softmax layer, without biases: 3,490 weights."""
    layers: list[nn.Module] = []
    for channels in (1, CHANNELS, CHANNELS):
        layers += [nn.Conv2d(channels, CHANNELS, 3, stride=2, padding=1, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS * 16, CLASSES, bias=False))
    return Posterior(model, categorical, (images[:, None], labels), prior=Normal(0.0, REGULARISER**-0.5)).to(device)


def average(lr: float) -> float:
    """Coefficient of the Fisher's moving average."""
    return 0.95 ** (lr / 0.001)


def run(grid: Grid, repetitions: int, device: str) -> Iterator[Row]:
    """One row per repetition, N, ε and temperature."""
    train, test = mnist.load()
    settings = [(grid.num_data[0], lr) for lr in grid.lrs]
    settings += [(num_data, grid.middle_lr) for num_data in grid.num_data[1:]]
    for repetition in range(repetitions):
        torch.manual_seed(repetition)
        momentum = functools.partial(torch.optim.SGD, momentum=0.9)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "find_mode stopped before converging")  # a start, not a mode
            start = find_mode(
                make_posterior(*train, device),
                momentum,
                num_steps=grid.sgd_steps,
                batch_size=SGD_BATCH_SIZE,
                lr=SGD_LR,
                seed=repetition,
            )
        for num_data, lr in settings:
            posterior = make_posterior(*mnist.subset(*train, size=num_data, seed=repetition), device)
            metric = Fisher(
                kind="sampled",
                structure=grid.structure,  # pyright: ignore[reportArgumentType]
                inputs=grid.fisher_inputs,
                damping=DAMPING,
                average=average(lr) if grid.averaged else None,
                freeze=False,
                refresh_every=grid.refresh_every,
            )
            steps = math.ceil(grid.duration / lr)
            num_samples = math.ceil(grid.kept * steps)
            for temperature in grid.temperatures:
                batch_size, began = batch_size_for(temperature, lr, num_data), time.perf_counter()
                chains = sample(
                    posterior,
                    NGD(lr=lr, metric=metric),
                    num_samples=num_samples,
                    num_warmup=steps - num_samples,
                    num_chains=1,
                    batch_size=batch_size,
                    init=start,
                    seed=repetition,
                    progress=False,
                    compile=False,
                )
                row: Row = {"num_data": num_data, "lr": lr, "asked_temperature": temperature, "batch_size": batch_size}
                row |= {"temperature": temperature_of(lr, num_data, batch_size), "repetition": repetition}
                row |= score(posterior, chains, test[0][: grid.num_test, None], test[1][: grid.num_test])
                yield row | {"seconds": time.perf_counter() - began}


def main() -> None:
    """Run, and draw both panels."""
    arguments_ = parser(__doc__, "figure6", REPETITIONS)
    arguments_.add_argument("--quick", action="store_true", help="a small version that shows nothing but that it runs")
    arguments_.add_argument("--reduced", action="store_true", help="a tenth of the steps, for a CPU")
    arguments_.add_argument("--device", default="cpu")
    arguments: argparse.Namespace = arguments_.parse_args()
    grid = Grid()
    for name, smaller in (("quick", QUICK), ("reduced", REDUCED)):
        if getattr(arguments, name):  # under a name of its own, unless another was given
            grid, default = smaller, arguments_.get_default("csv")
            arguments.csv = default.with_stem(f"figure6_{name}") if arguments.csv == default else arguments.csv
            arguments.image = f"figure6_{name}" if arguments.image == "figure6" else arguments.image
    rows = collect(arguments, lambda: run(grid, arguments.repetitions, arguments.device))
    titles = [f"(a) N = {grid.num_data[0]}"] + [f"(b) ε = {grid.middle_lr}"] * (len(grid.num_data) > 1)
    figure, axes = panels(len(titles))
    for style, lr in enumerate(grid.lrs):
        own = {"num_data": grid.num_data[0], "lr": lr}
        curve(axes[0], rows, "asked_temperature", "ensemble_cross_entropy", f"ε = {lr}", style, **own)
    for style, num_data in enumerate(grid.num_data if len(titles) > 1 else ()):
        own = {"num_data": num_data, "lr": grid.middle_lr}
        curve(axes[1], rows, "asked_temperature", "ensemble_cross_entropy", f"N = {num_data}", style, **own)
    for panel, title in zip(axes, titles, strict=True):
        mark(panel, 1.0, "T = 1")
        panel.set(xscale="log", xlabel="temperature T", ylabel="ensemble's test cross-entropy, nats", title=title)
        panel.set_xticks(grid.temperatures, [f"{t:g}" for t in grid.temperatures])
        panel.minorticks_off()
        panel.legend(fontsize=7)
    save(figure, arguments.image)


if __name__ == "__main__":
    main()
