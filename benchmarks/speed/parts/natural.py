"""What a step of natural gradient samplers costs, in ms, beside Gram product and Cholesky factor of a Fisher metric.

MLPs of 64, 850 (Smith et al. 2018) and 3,490 weights on one chain, and logistic regression with 64 weights and 64
chains; the exact Fisher information over about 1,000 inputs, minibatches of 64. Steps are eager, in float32, on one
thread. The yardstick is the Gram product XᵀX of the Jacobian's rows, by one matrix product, and a Cholesky
factorisation: what a dense natural gradient cannot do without, if it forms the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from langevin.samplers import NGD, SNGD, Fisher, Posterior, bernoulli, categorical
from langevin.samplers.batches import Batches
from langevin.samplers.metrics.metric import no_noise
from langevin.samplers.metrics.rows import exact_directions, rows_of
from langevin.samplers.threefry import Noise
from torch import nn

from ...rows import Row
from ..cases import Case, Effort
from ..timing import alternate, once, ratio, summary

BATCH_SIZE = 64
MLPS = {64: (7, 5, 4), 850: (10, 40, 10), 3490: (18, 120, 10)}  # widths
DEAR = ("SNGD, Jeffreys, midpoint",)  # a reverse pass through the Fisher matrix: left out where that is large
LARGE, LARGE_REPEATS = 3490, 3
NO_DRIFT, WITH_DRIFT = "NGD", "SNGD, Lebesgue, probe"


def cases(effort: Effort) -> Iterator[Case]:
    """The MLPs, then logistic regression."""
    for dim in (850,) if effort.quick else MLPS:
        yield Case(f"MLP, D = {dim}, 1 chain", measure, (dim, 1, effort))
    if not effort.quick:
        yield Case("logistic, D = 64, 64 chains", measure, (None, 64, effort))


def mlp(widths: tuple[int, int, int]) -> Posterior:
    """A network on random data."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, widths[0], generator=generator)
    y = torch.randint(widths[2], (1024,), generator=generator)
    layers = nn.Linear(*widths[:2]), nn.ReLU(), nn.Linear(*widths[1:])
    return Posterior(nn.Sequential(*layers), categorical, (x, y))


def logistic() -> Posterior:
    """Logistic regression in 64 dimensions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 64, generator=generator)
    y = (torch.rand(1000, generator=generator) < torch.sigmoid(x[:, 0])).float()
    return Posterior(nn.Linear(64, 1, bias=False), bernoulli, (x, y[:, None]))


def samplers() -> dict[str, Any]:
    """Samplers with a dense Fisher metric."""
    metric, rare = Fisher(damping=0.1), Fisher(damping=0.1, refresh_every=10**6)
    return {
        NO_DRIFT: NGD(lr=0.1, metric=metric),
        WITH_DRIFT: SNGD(lr=0.1, metric=metric, measure="lebesgue", drift="probe"),
        "SNGD, Jeffreys, probe": SNGD(lr=0.1, metric=metric, drift="probe"),
        "SNGD, Lebesgue, midpoint": SNGD(lr=0.1, metric=metric, measure="lebesgue"),
        "SNGD, Jeffreys, midpoint": SNGD(lr=0.1, metric=metric),
        "SNGD, Jeffreys, probe, between": SNGD(lr=0.1, metric=rare, drift="probe"),
    }


def step_of(posterior: Posterior, sampler: Any, chains: int) -> Callable[[], None]:
    """A function that makes one step."""
    state = sampler.init(posterior, posterior.default_position().expand(chains, -1).clone())
    keys, batches = no_noise(posterior, chains).keys, Batches(posterior.num_data, BATCH_SIZE)

    def step() -> None:
        nonlocal state
        noise = Noise(keys, state.step, posterior.dtype)
        with torch.no_grad():
            state = sampler.step(posterior, state, batches.indices(keys, state.step), noise)

    return step


def pieces(posterior: Posterior, chains: int) -> dict[str, Callable[[], object]]:
    """Of a step."""
    position = posterior.default_position().expand(chains, -1).clone()
    noise, metric = no_noise(posterior, chains), Fisher(damping=0.1)
    outputs = posterior.outputs(position, posterior.inputs)
    rows = rows_of(posterior, position, posterior.inputs, exact_directions(posterior, outputs), True)
    matrix = rows.mT @ rows / posterior.num_data + 0.1 * torch.eye(posterior.dim)
    batch = Batches(posterior.num_data, BATCH_SIZE).indices(noise.keys, noise.step)
    return {
        "Gram product": lambda: rows.mT @ rows,
        "Cholesky": lambda: torch.linalg.cholesky_ex(matrix),
        "Fisher matrix": lambda: metric.curvature(posterior, position, noise),
        "gradient": lambda: posterior.cost_and_gradient(position, batch),
    }


def measure(dim: int | None, chains: int, effort: Effort) -> list[Row]:
    """Rows of pieces and samplers.

    `times_yardstick` is the time over that of Gram product and Cholesky; `drift_share`, of the sampler with a probed
    drift, how much of its step goes when the drift does.
    """
    posterior = mlp(MLPS[dim]) if dim else logistic()
    large = posterior.dim >= LARGE
    variants = pieces(posterior, chains)
    variants |= {
        name: step_of(posterior, sampler, chains)
        for name, sampler in samplers().items()
        if not (large and name in DEAR)
    }
    repeats = min(effort.repeats, LARGE_REPEATS) if large else effort.repeats
    times = alternate({name: once(run) for name, run in variants.items()}, repeats)
    yardstick = [
        type(gram)(*map(sum, zip(gram, cholesky, strict=True)))
        for gram, cholesky in zip(times["Gram product"], times["Cholesky"], strict=True)
    ]
    drift_share = 1 - ratio(times[NO_DRIFT], times[WITH_DRIFT], 1)
    return [
        {"variant": name, "dim": posterior.dim, "chains": chains}
        | summary(times[name], "ms")
        | {"times_yardstick": ratio(times[name], yardstick, 1)}
        | {"drift_share": drift_share if name == WITH_DRIFT else float("nan")}
        for name in variants
    ]
