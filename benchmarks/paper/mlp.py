"""NGD on an MLP 10-40-10 and MNIST in ten random projections, at several batch sizes: figures 4 and 5.

A repetition has its own projection, training examples and initial weights (PyTorch's default). Projections of pixels
in [0, 1] are used as they come, with a standard deviation of some 7; ``--standardise`` scales them to 1, which makes
the regulariser that much stronger. λ = 20/N is read as a multiple of the mean cost: R = N (λ/2)|ω|² = 10|ω|², a normal
prior of variance 1/20 on all weights and biases.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from langevin.samplers import NGD, Fisher, Posterior, categorical, sample, temperature_of
from torch import nn
from torch.distributions import Normal

from . import mnist
from .records import Row, score

FEATURES, HIDDEN, CLASSES = 10, 40, 10
LR, DAMPING, REGULARISER = 1 / 8, 0.1, 20.0
FISHER_INPUTS = 1024
NUM_WARMUP, NUM_SAMPLES = 500, 500
SMALLEST_BATCH = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what both figures let one choose."""
    parser.add_argument("--batch-sizes", type=int, nargs="*", help="default: powers of two from 8 to N")
    parser.add_argument("--standardise", action="store_true", help="scale projected features to mean 0, variance 1")
    parser.add_argument("--device", default="cpu")


def run(arguments: argparse.Namespace, num_data: int, repetition: int) -> Iterator[Row]:
    """One row per batch size."""
    train, test = mnist.load()
    powers = [2**k for k in range(SMALLEST_BATCH.bit_length() - 1, num_data.bit_length())]
    torch.manual_seed(repetition)
    projection = torch.randn(28 * 28, FEATURES)
    model = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    images, labels = mnist.subset(*train, size=num_data, seed=repetition)
    x, x_test = images.flatten(1) @ projection, test[0].flatten(1) @ projection
    if arguments.standardise:
        x, x_test = (x - x.mean(0)) / x.std(0), (x_test - x.mean(0)) / x.std(0)
    posterior = Posterior(model, categorical, (x, labels), prior=Normal(0.0, REGULARISER**-0.5))
    posterior = posterior.to(arguments.device)
    metric = Fisher(kind="sampled", inputs=FISHER_INPUTS, damping=DAMPING)
    for batch_size in arguments.batch_sizes or powers:
        start = time.perf_counter()
        chains = sample(
            posterior,
            NGD(lr=LR, metric=metric),
            num_samples=NUM_SAMPLES,
            num_warmup=NUM_WARMUP,
            num_chains=1,
            batch_size=batch_size,
            chain_ids=[repetition],
            progress=False,
            compile=False,
        )
        settings = {
            "num_data": num_data,
            "batch_size": batch_size,
            "temperature": temperature_of(LR, num_data, batch_size),
            "repetition": repetition,
        }
        scores = score(posterior, chains, x_test, test[1])
        yield settings | scores | {"seconds": time.perf_counter() - start}
