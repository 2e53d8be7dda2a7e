"""Fits of Laplace approximations beside laplace-torch's, at one mode, by the Gauss–Newton matrix, in ms.

laplace-torch works with its default backend on the data as one batch. Both results are compared: `difference` is that
of the covariances, or for "diagonal" and "kronecker" of the variances, relative, by Frobenius norm. The latter's need
not agree: laplace-torch has a factor of its own for every bias, and ours one for weight and bias together.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from langevin.diagnostics import Laplace
from langevin.samplers import Posterior, find_mode
from torch import Tensor
from torch.nn.utils import vector_to_parameters
from torch.utils.data import DataLoader, TensorDataset

from ...rows import Row
from ..cases import CORES, Case, Effort
from ..peers.peer import absent
from ..timing import alternate, once, ratio, summary
from ..workloads import WORKLOADS, Workload

# Ours → laplace-torch's subset of the weights and structure of the Hessian.
STRUCTURES = {
    "dense": ("all", "full"),
    "diagonal": ("all", "diag"),
    "kronecker": ("all", "kron"),
    "last_layer": ("last_layer", "full"),
}
SKIPPED = {("cnn", "dense")}  # 7,018 parameters: memory for two such matrices in float64, and minutes
MODE_STEPS = 20


def cases(effort: Effort) -> Iterator[Case]:
    """Both networks, every structure."""
    for name in ("mlp", "cnn"):
        for structure in STRUCTURES:
            if (name, structure) not in SKIPPED and not (effort.quick and name == "cnn"):
                yield Case(f"{name}, {structure}", measure, (name, structure, effort), CORES)


def measure(name: str, structure: str, effort: Effort) -> list[Row]:
    """A row for each library."""
    problem = WORKLOADS[name]()
    posterior = problem.posterior()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not be quite a mode: both see the same position
        mode = find_mode(posterior, num_steps=MODE_STEPS)
        vector_to_parameters(mode, problem.model.parameters())
        fits: dict[str, Callable[[], Any]] = {}
        try:
            ours = fit(posterior, mode, structure)
            fits["langevin"] = lambda: fit(posterior, mode, structure)
        except ValueError as error:
            print(f"langevin has no {structure} Laplace here: {error}", file=sys.stderr)
            return []
        try:
            theirs = fit_by_peer(problem, structure)
            fits["laplace-torch"] = lambda: fit_by_peer(problem, structure)
        except ImportError as error:
            absent("laplace-torch", error)
            theirs = None
        times = alternate({key: once(run) for key, run in fits.items()}, max(1, effort.repeats // 3))
    difference = float("nan") if theirs is None else compare(spread(ours), spread_of_peer(theirs, structure))
    return [
        {"workload": name, "structure": structure, "dim": problem.dim, "peer": key}
        | summary(values, "ms")
        | {"times_langevin": ratio(values, times["langevin"], CORES), "difference": difference}
        for key, values in times.items()
    ]


def fit(posterior: Posterior, mode: Tensor, structure: Any) -> Laplace:
    """Ours."""
    return Laplace.fit(posterior, mode, structure=structure)


def fit_by_peer(problem: Workload, structure: str) -> Any:
    """laplace-torch's, of the same prior."""
    import laplace

    subset, hessian = STRUCTURES[structure]
    model: Any = laplace.Laplace(copy.deepcopy(problem.model), "classification", subset, hessian, prior_precision=1.0)
    model.fit(DataLoader(TensorDataset(problem.x, problem.y), batch_size=problem.num_data))
    return model


def spread(fitted: Laplace) -> Tensor:
    """Covariance, or variances."""
    return fitted.sd.square() if fitted.structure in ("diagonal", "kronecker") else fitted.covariance


def spread_of_peer(fitted: Any, structure: str) -> Tensor:
    """The same of laplace-torch."""
    if structure == "diagonal":
        return fitted.posterior_variance
    return fitted.posterior_precision.diag(-1) if structure == "kronecker" else fitted.posterior_covariance


def compare(ours: Tensor, theirs: Tensor) -> float:
    """Relative difference."""
    theirs = theirs.detach().to(ours)
    return float((ours - theirs).norm() / theirs.norm())
