"""Optimisers on JPEG copies of CIFAR-10: same network, same initial weights, same minibatches, same schedule.

Run with ``python -m benchmarks.optimisers.cifar10``; then ``python -m benchmarks.optimisers.table`` writes the table
and the figure of docs/optimisers.md. Learning rates are chosen by validation error with seed 0 (stage "grid"); the runs
that count have other seeds and are scored on test images (stage "test"). Runs that the CSV file has already are not
repeated.

The paper's schedule, 200 epochs of a ResNet-34 with all 50,000 images, is
``python -m benchmarks.optimisers.cifar10 --model resnet34 --device cuda``; it keeps the paper's learning rates unless
``--grid`` asks for the grid.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
import warnings
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from .data import Images, load
from .models import MODELS
from .records import RESULTS, Row, append, best_rates, final, read
from .training import GRIDS, Rates, evaluate, make, train

# epochs, training, validation and test images
SIZES = {"small": (12, 5_120, 2_560, 4_000), "resnet34": (200, 50_000, 0, 10_000)}
# For the ResNet without a grid: Aitchison's, and for the others those of Luo et al. 2019, whose protocol he took.
PAPER: dict[str, Rates] = {
    "SGD": (0.1, 0.0),
    "ASGLD": (0.1, 0.0),
    "AdaGrad": (0.01, 0.0),
    "Adam": (1e-3, 0.0),
    "AMSGrad": (1e-3, 0.0),
    "AdamW": (1e-3, 0.0),
    "AdaBayes": (1e-3, 0.1),
    "AdaBayes-FP": (1e-3, 0.1),
}
GRID_SEED = 0


def run(
    arguments: argparse.Namespace, images: Images, stage: str, optimiser: str, rates: Rates, seed: int
) -> list[Row]:
    """One run; a row per epoch, scored on validation images in the grid, else on test images."""
    torch.manual_seed(seed)
    model = MODELS[arguments.model]().to(arguments.device)
    trainer = make(optimiser, rates, model, images.train, seed)
    held_out = images.validation if stage == "grid" else images.test
    some = (images.train[0][:2000], images.train[1][:2000])
    settings = {"model": arguments.model, "stage": stage, "optimiser": optimiser, "lr": rates[0], "sgd_lr": rates[1]}
    settings |= {"seed": seed, "epochs": arguments.epochs, "num_train": len(images.train[0])}
    rows: list[Row] = []
    start = time.perf_counter()

    def record(epoch: int) -> None:
        if stage == "grid" and epoch < arguments.epochs:
            return
        error, loss = evaluate(trainer, held_out)
        found = {"train_loss": evaluate(trainer, some)[1], "error": error, "loss": loss}
        rows.append(settings | {"epoch": epoch} | found | {"seconds": time.perf_counter() - start})

    train(trainer, len(images.train[0]), arguments.epochs, seed, arguments.device, record)
    return rows


def plan(arguments: argparse.Namespace, done: list[Row]) -> Iterator[tuple[str, str, Rates, int]]:
    """What is missing: stage, optimiser, learning rates, seed. `done` grows meanwhile."""

    def missing(stage: str, optimiser: str, rates: Rates, seed: int) -> bool:
        lr, sgd_lr = rates
        settings = {"stage": stage, "optimiser": optimiser, "lr": lr, "sgd_lr": sgd_lr, "seed": seed}
        return not final(done, model=arguments.model, **settings)

    if arguments.grid:
        for optimiser in arguments.optimisers:
            for rates in GRIDS[optimiser]:
                if missing("grid", optimiser, rates, GRID_SEED):
                    yield "grid", optimiser, rates, GRID_SEED
    for seed in range(1, arguments.seeds + 1):
        for optimiser in arguments.optimisers:
            rates = best_rates(done, arguments.model, optimiser) if arguments.grid else PAPER[optimiser]
            if rates is None:
                print(f"{optimiser}: no learning rate of the grid gave a finite loss; left out")
            elif missing("test", optimiser, rates, seed):
                yield "test", optimiser, rates, seed


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--optimisers", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--seeds", type=int, default=3, help="runs that are scored on test images (%(default)s)")
    parser.add_argument("--grid", action=argparse.BooleanOptionalAction, help="default: for the small network only")
    for name, what in (("epochs", "passes"), ("train", "images"), ("validation", "images"), ("test", "images")):
        parser.add_argument(f"--{name}", type=int, help=f"{what}; default: by model, see SIZES")
    parser.add_argument("--csv", type=Path, default=RESULTS / "cifar10.csv", help="where numbers go (%(default)s)")
    arguments = parser.parse_args()
    for name, size in zip(("epochs", "train", "validation", "test"), SIZES[arguments.model], strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, size)
    if arguments.grid is None:
        arguments.grid = arguments.model == "small"
    if arguments.model == "resnet34" and arguments.grid and arguments.validation == 0:
        parser.error("--grid needs --validation images, such as --train 45000 --validation 5000")
    if min(arguments.epochs, arguments.train, arguments.test, arguments.seeds) < 1:
        parser.error("epochs, seeds and numbers of images must be at least 1")
    return arguments


def main() -> None:
    """Run what is missing."""
    arguments = parse()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    where = f"{platform.machine()}, {os.cpu_count()} cores, one used" if arguments.device == "cpu" else arguments.device
    print(f"{date.today()}  {where}; torch {torch.__version__}")
    images = load(arguments.train, arguments.validation, arguments.test, MODELS[arguments.model].side)
    images = Images(*(_to(part, arguments.device) for part in (images.train, images.validation, images.test)))
    done = read(arguments.csv)
    for stage, optimiser, rates, seed in plan(arguments, done):
        rows = run(arguments, images, stage, optimiser, rates, seed)
        append(arguments.csv, rows)
        done += rows
        last = rows[-1]
        if not math.isfinite(last["loss"]):
            warnings.warn(f"{optimiser} at lr = {rates[0]} left the finite numbers", stacklevel=1)
        print(
            f"{stage} {optimiser} lr={rates} seed={seed}: error {last['error']:.4f}, loss {last['loss']:.4f}, training "
            f"loss {last['train_loss']:.4f}, {last['seconds']:.0f} s",
            flush=True,
        )


def _to(part: tuple[Tensor, Tensor], device: str) -> tuple[Tensor, Tensor]:
    return part[0].to(device), part[1].to(device)


if __name__ == "__main__":
    main()
