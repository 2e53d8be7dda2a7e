"""Mode finding by the methods of `scipy.optimize.minimize` that use gradients, on the flat position."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..target import Target, hessian_product
from .ending import Ending, in_double, show

SCIPY_METHODS = {name.lower(): name for name in ("L-BFGS-B", "BFGS", "CG", "Newton-CG", "trust-ncg", "trust-krylov")}
SCIPY_HESSIAN_METHODS = ("Newton-CG", "trust-ncg", "trust-krylov")


def run(target: Target, method: str, start: Tensor, *, num_steps: int, tolerance: float, bar: tqdm) -> Ending:
    """Make up to `num_steps` iterations of a method of scipy, in float64 if the target can; see `find_mode`."""
    double = in_double(target, start)
    latest: dict[str, np.ndarray | float] = {}

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values).to(device=double.device, dtype=double.dtype)

    def mean_cost_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        cost, gradient = double.cost_and_gradient(tensor(values)[None])
        latest.update(
            position=values.copy(), cost=float(cost) / target.num_data, gradient=gradient[0].double().cpu().numpy()
        )
        return latest["cost"], latest["gradient"]  # pyright: ignore[reportReturnType]

    def product(values: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return hessian_product(double, tensor(values)[None], tensor(vector)[None])[0].double().cpu().numpy()

    def largest_gradient(values: np.ndarray) -> tuple[float, float]:
        if not np.array_equal(latest["position"], values):
            mean_cost_and_gradient(values)
        return float(latest["cost"]), float(np.abs(latest["gradient"]).max())

    def stop_or_go_on(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        now = largest_gradient(intermediate_result.x)
        show(bar, *now)
        if now[1] <= tolerance:
            raise StopIteration

    # One criterion for all methods, in the callback; their own, each of another kind, are left to rounding error.
    result = scipy.optimize.minimize(
        mean_cost_and_gradient,
        start.double().cpu().numpy(),
        jac=True,
        hessp=product if method in SCIPY_HESSIAN_METHODS else None,
        method=method,
        tol=4 * torch.finfo(double.dtype).eps,
        callback=stop_or_go_on,
        options={"maxiter": num_steps} | ({"maxfun": 20 * num_steps} if method == "L-BFGS-B" else {}),
    )
    mean_cost, largest = largest_gradient(result.x)
    position = torch.as_tensor(result.x).to(device=target.device, dtype=target.dtype)
    return Ending(position, mean_cost, largest, f"({method}: {result.message})", satisfied=bool(result.success))
