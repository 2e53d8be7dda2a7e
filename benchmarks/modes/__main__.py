"""Which method finds a mode at which price.

Run with ``python -m benchmarks.modes``. Every method starts at the same positions and goes on until no component of the
mean cost's gradient exceeds the tolerance, or for as many steps as are allowed, on the full data. The target counts how
often it is asked for gradients, Hessian-vector products, costs alone, and Jacobians (a matrix JᵀHJ of all examples).
Where it ended is judged afterwards: by the gradient, and by the smallest eigenvalue of the Hessian.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
import warnings
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from langevin.samplers import NGD, SGHMC, SGLD, Fisher, find_mode
from langevin.samplers.modes import (
    TONGA,
    GaussNewton,
    GradientRegression,
    NaturalNewton,
    SaddleFreeNewton,
    smallest_curvature,
)
from torch import Tensor

from .counting import NAMES, Steps, counted, iterations
from .problems import PROBLEMS, Problem, least_squares

RESULTS = Path(__file__).parent / "results" / "modes.csv"
TOLERANCE = 1e-6
Row = dict[str, Any]

# From a few trials on the first start.
ADAM = {"network": 0.05, "valley": 0.1, "saddles": 0.05}
TONGA_SETTINGS = {"network": (0.3, 10.0), "valley": (30.0, 1e4), "saddles": (0.5, 1.0)}
REGRESSION = {"network": (1e-4, 0.1), "valley": (2e-4, 0.1), "saddles": (0.02, 0.3)}


def methods(name: str, problem: Problem) -> dict[str, Any]:
    """What is compared on a problem."""
    lr, (tonga_lr, tonga_damping) = problem.lr, TONGA_SETTINGS[name]
    found: dict[str, Any] = {method: method for method in ("L-BFGS-B", "BFGS", "CG", "Newton-CG", "trust-krylov")}
    found |= {
        "Adam": partial(torch.optim.Adam, lr=ADAM[name]),
        "gradient descent (SGLD, T = 0)": SGLD(lr=lr, temperature=0.0),
        "momentum 0.95 (SGHMC, T = 0)": SGHMC(lr=lr, momentum=0.95, temperature=0.0),
        "TONGA": TONGA(lr=tonga_lr, damping=tonga_damping, decay=0.9),
        "GradientRegression": GradientRegression(lr=REGRESSION[name][0], max_step=REGRESSION[name][1]),
        "SaddleFreeNewton": SaddleFreeNewton(),
    }
    if name == "network":
        found |= {
            "NGD, Fisher": NGD(lr=0.5, metric=Fisher(damping=0.01)),
            "NGD, K-FAC": NGD(lr=0.3, metric=Fisher(structure="kronecker", damping=0.3)),
            "NaturalNewton": NaturalNewton(sigma=0.3, damping=0.01),
            "GaussNewton": GaussNewton(),
            "scipy least_squares (lm)": least_squares,
        }
    return found


def search(problem: Problem, method: Any, start: Tensor, num_steps: int) -> tuple[Tensor, Row]:
    """The position where a method ends, and what it took."""
    target, counts = counted(problem.target)
    began = time.process_time()
    if method is least_squares:
        result = least_squares(target, start, num_steps)
        counts.update(iterations=result.njev, costs=result.nfev, jacobians=result.njev)
        return torch.as_tensor(result.x), dict(counts) | {"cpu_seconds": time.process_time() - began}
    own = hasattr(method, "init") and not isinstance(method, str)
    with iterations(counts), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "find_mode stopped before converging")
        position = find_mode(
            target,
            Steps(method, counts) if own else method,
            init=start,
            num_steps=num_steps,
            tolerance=TOLERANCE,
            check_saddle=False,
        )
    return position, {name: counts[name] for name in NAMES} | {"cpu_seconds": time.process_time() - began}


def judge(problem: Problem, position: Tensor) -> Row:
    """Cost, gradient and curvature where a search ended."""
    cost, gradient = problem.target.cost_and_gradient(position[None])
    largest = float(gradient.abs().max())
    curvature, _ = smallest_curvature(problem.target, position)
    stationary = "mode" if curvature > -1e-6 else "saddle"
    return {
        "end": stationary if largest <= 10 * TOLERANCE else "not converged",
        "mean_cost": float(cost) / problem.target.num_data,
        "gradient": largest,
        "smallest_curvature": curvature,
    }


def rows(num_starts: int, num_steps: int) -> Iterator[Row]:
    """One row for every problem, method and start."""
    for name, make in PROBLEMS.items():
        problem = make()
        for label, method in methods(name, problem).items():
            for number in range(num_starts):
                try:
                    position, effort = search(problem, method, problem.start(number), num_steps)
                except FloatingPointError:
                    yield {"problem": name, "method": label, "start": number, "end": "diverged"}
                    continue
                yield {"problem": name, "method": label, "start": number} | judge(problem, position) | effort


def summary(found: list[Row]) -> Iterator[str]:
    """Medians over starts as lines of a table."""
    yield (
        f"{'problem':8} {'method':34} {'modes':>6} {'mean cost':>11} "
        + " ".join(f"{n[:10]:>10}" for n in NAMES)
        + "   CPU s"
    )
    for name, label in dict.fromkeys((row["problem"], row["method"]) for row in found):
        own = [row for row in found if (row["problem"], row["method"]) == (name, label)]
        modes = sum(row["end"] == "mode" for row in own)

        def median(column: str, own: list[Row] = own) -> float:
            return statistics.median(row.get(column, float("nan")) for row in own)

        seconds = median("cpu_seconds")
        efforts = " ".join(f"{median(column):10.0f}" for column in NAMES)
        yield f"{name:8} {label:34} {modes:>3}/{len(own)} {median('mean_cost'):11.6f} {efforts} {seconds:7.2f}"


def write(path: Path, found: list[Row]) -> None:
    """Write rows as CSV, those of searches that diverged with gaps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(column for row in found for column in row)))
        writer.writeheader()
        for row in found:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--starts", type=int, default=3, help="starting positions (%(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="most steps of a method (%(default)s)")
    parser.add_argument("--csv", type=Path, default=RESULTS, help="where the numbers go (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "date": str(date.today()),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    print(f"{about['date']}  {about['machine']}, {about['cores']} cores, one used; torch {about['torch']}", flush=True)
    found = []
    for row in rows(arguments.starts, arguments.steps):
        found.append(row | about)
        write(arguments.csv, found)
        print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
    print("\n" + "\n".join(summary(found)))


if __name__ == "__main__":
    main()
