"""Binary logistic regression with P(y | x) = 1/(1 + exp(−y ωᵀx)) and a flat prior: the data of figures 1 to 3."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from langevin.samplers import Posterior, bernoulli, sample, temperature_of
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.distributions import Normal

from .plotting import accuracy_and_cross_entropy, save
from .records import Row, best_settings, collect, parser, score

TRUE_SLOPE = 16.0  # ω_true = (16, 0, …, 0)
NUM_DATA = 1000
LR, DAMPING = 0.1, 1e-4

# Figures 2 and 3.
REPETITIONS = 10
DIM = 64
NUM_TEST = 5000
NUM_WARMUP, NUM_SAMPLES = 1000, 1000
BATCH_SIZES = (1000, 250, 100, 71, 50, 35, 25, 10, 3)  # T = εN/(2B) from 0.05 to 17


def make_data(dim: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw inputs from a unit Gaussian, and labels 0 or 1, ``[size, 1]``, from the model at ω_true."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, dim, generator=generator)
    y = torch.rand(size, generator=generator) < torch.sigmoid(TRUE_SLOPE * x[:, 0])
    return x, y[:, None].float()


def make_posterior(dim: int, seed: int, prior_sd: float | None = None) -> Posterior:
    """Posterior of ω given one training set, with a flat or a normal prior; its default position is ω = 0."""
    model = nn.Linear(dim, 1, bias=False)
    nn.init.zeros_(model.weight)
    return Posterior(model, bernoulli, make_data(dim, NUM_DATA, seed), prior=prior_sd and Normal(0.0, prior_sd))


def figure(
    name: str, description: str | None, sampler: Callable[[float], Any], *, minibatches: bool, x_label: str
) -> None:
    """Run a sampler, made for a temperature, at all temperatures; draw, and print where the ensemble is best."""
    arguments_ = parser(description, name, REPETITIONS)
    arguments_.add_argument("--prior-sd", type=float, help="of a normal prior; the paper's is flat")
    arguments = arguments_.parse_args()
    rows = collect(arguments, lambda: sweep(arguments, sampler, minibatches))
    save(accuracy_and_cross_entropy(rows, "temperature", x_label, 1.0, "T = 1"), arguments.image)
    best = best_settings(rows, "temperature")
    print(f"ensemble's cross-entropy is lowest at T = {best}, geometric mean {statistics.geometric_mean(best):.2f}")
    print(
        f"{len({r['repetition'] for r in rows if r['separable']})} of {len(best)} training sets are linearly separable"
    )


def sweep(arguments: argparse.Namespace, sampler: Callable[[float], Any], minibatches: bool) -> Iterator[Row]:
    """One row per training set and temperature T = εN/(2B), at which chains start from ω = 0."""
    for repetition in range(arguments.repetitions):
        posterior = make_posterior(DIM, repetition, arguments.prior_sd)
        test = make_data(DIM, NUM_TEST, seed=10_000 + repetition)
        for batch_size in BATCH_SIZES:
            start = time.perf_counter()
            chains = sample(
                posterior,
                sampler(LR * NUM_DATA / (2 * batch_size)),
                num_samples=NUM_SAMPLES,
                num_warmup=NUM_WARMUP,
                num_chains=1,
                batch_size=batch_size if minibatches else None,
                seed=repetition,
                progress=False,
                compile=False,
            )
            settings = {"repetition": repetition, "temperature": LR * NUM_DATA / (2 * batch_size)}
            if minibatches:
                settings |= {
                    "batch_size": batch_size,
                    "minibatch_temperature": temperature_of(LR, NUM_DATA, batch_size),
                }
            settings |= {
                "separable": separable(posterior),
                "norm": float(chains.position(posterior).norm(dim=-1).mean()),
            }
            yield settings | score(posterior, chains, *test) | {"seconds": time.perf_counter() - start}


def separable(posterior: Posterior) -> bool:
    """Whether a hyperplane divides the labels: the likelihood has no maximum then, the flat-prior posterior no norm."""
    signed = ((2 * posterior.targets - 1) * posterior.inputs).double().numpy()  # pyright: ignore[reportOperatorIssue]
    found = linprog(np.zeros(signed.shape[1]), A_ub=-signed, b_ub=-np.ones(len(signed)), bounds=(None, None))
    return found.status == 0
