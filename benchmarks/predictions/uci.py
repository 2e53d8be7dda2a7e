"""Test error and log-likelihood of posterior ensembles on UCI regression sets, in the units of the targets.

Run with ``python -m benchmarks.predictions.uci``; then ``python -m benchmarks.predictions.table`` writes the tables
of docs/predictions.md. Rows that the CSV file has already are not run again. Data: see `data`; model: `problem`;
methods and step sizes: `methods`.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
import warnings
from datetime import date
from pathlib import Path

import torch
from langevin.diagnostics import Ensemble, convergence, temperature
from torch import Tensor
from torch.distributions import Normal

from .data import NUM_SPLITS, SETS, load
from .methods import METHODS, Draws
from .problem import Problem
from .records import RESULTS, Row, append, read

JUDGED = 200  # test inputs at which R̂ of the predictive mean is looked at
CHUNK = 16_384


def predictive(problem: Problem, draws: Draws) -> Tensor:
    """(mean, log σ) of every draw for the test inputs, ``[draw, n, 2]`` in float64 and units of the target's sd."""
    if draws.outputs is not None:
        return draws.outputs.double()
    positions = draws.positions
    if draws.chains is not None:
        positions = Ensemble(problem.posterior, draws.chains).positions
    assert positions is not None
    with torch.no_grad():
        rows = positions.split(max(1, CHUNK // len(problem.split.y_test)))
        return torch.cat([problem.posterior.outputs(few, problem.split.x_test) for few in rows]).double()


def scores(outputs: Tensor, y: Tensor, scale: float) -> Row:
    """RMSE of the mean prediction, mean log of the mixture's density, and coverage of its central 90 % interval."""
    noise = Normal(outputs[..., 0], outputs[..., 1].exp())
    target = y.double()
    log_density = noise.log_prob(target).logsumexp(0) - math.log(len(outputs)) - math.log(scale)
    below = noise.cdf(target).mean(0)
    return {
        "rmse": scale * float((outputs[..., 0].mean(0) - target).square().mean().sqrt()),
        "log_likelihood": float(log_density.mean()),
        "coverage_90": float(((below >= 0.05) & (below <= 0.95)).double().mean()),
    }


def judge(problem: Problem, draws: Draws) -> Row:
    """R̂ of the predictive means and the temperature; NaN for what is no chain."""
    names = ("rhat_max", "rhat_95", "temperature", "temperature_error")
    if draws.chains is None:
        return dict.fromkeys(names, math.nan) | {"stopped": 0}
    found = convergence(draws.chains, problem.posterior, problem.split.x_test[:JUDGED]).predictions
    assert found is not None
    rhat = found.rhat["prediction"].flatten()
    heat = temperature(draws.chains, problem.posterior)
    values = (float(rhat.max()), float(rhat.quantile(0.95)), heat.value, heat.error)
    return dict(zip(names, values, strict=True)) | {"stopped": len(heat.stopped)}


def run(name: str, split: int, method: str, problem: Problem) -> Row:
    """One method on one split."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopped chains are counted in the row
        draws = METHODS[method](problem)
    seconds = time.perf_counter() - start
    return {
        "set": name, "split": split, "method": method,
        "num_data": problem.posterior.num_data, "dim": problem.posterior.dim,
        **scores(predictive(problem, draws), problem.split.y_test, problem.split.scale),
        **judge(problem, draws),
        "steps": draws.steps, "lr": draws.lr, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--splits", type=int, default=NUM_SPLITS, help="how many of the splits (%(default)s)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--csv", type=Path, default=RESULTS, help="where the numbers go (%(default)s)")
    arguments = parser.parse_args()
    if not 1 <= arguments.splits <= NUM_SPLITS:
        parser.error(f"--splits must lie between 1 and {NUM_SPLITS}")
    torch.set_num_threads(1)
    print(f"{date.today()}  {platform.machine()}, {os.cpu_count()} cores, one used; torch {torch.__version__}")
    done = {(row["set"], row["split"], row["method"]) for row in read(arguments.csv)}
    for name in arguments.sets:
        problem: Problem | None = None
        for split in range(arguments.splits):
            missing = [method for method in arguments.methods if (name, split, method) not in done]
            if not missing:
                continue
            problem = Problem.of(load(name, split), split, like=problem)
            _ = problem.laplace, problem.curvatures  # shared by all methods, and charged to none
            for method in missing:
                try:
                    row = run(name, split, method, problem)
                except ValueError as error:
                    print(f"{name} {split} {method}: no result: {error}", flush=True)
                    continue
                append(arguments.csv, row)
                shown = (f"{k}={v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items())
                print(" ".join(shown), flush=True)


if __name__ == "__main__":
    main()
