"""Where the posterior is highest: the position that minimises the mean cost C/N.

Nothing is implemented here: `torch.optim` and `scipy.optimize.minimize` do the work, on the flat position.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from .batches import Batches
from .control import threads_for
from .target import Batch, Target
from .threefry import BATCHES, chain_keys

OptimizerFactory = Callable[..., torch.optim.Optimizer]

SCIPY_METHODS = {name.lower(): name for name in ("L-BFGS-B", "BFGS", "CG", "Newton-CG", "trust-ncg", "trust-krylov")}
SCIPY_HESSIAN_METHODS = ("Newton-CG", "trust-ncg", "trust-krylov")
TORCH_METHODS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
)

_BATCH_BLOCK = 64  # minibatches drawn by one call


def find_mode(
    target: Target,
    optimizer: str | OptimizerFactory | None = None,
    *,
    init: Float[Tensor, " dim"] | Mapping[str, Tensor] | None = None,
    num_steps: int = 10_000,
    batch_size: int | None = None,
    lr: float | None = None,
    tolerance: float = 1e-6,
    seed: int = 0,
    progress: bool = False,
) -> Float[Tensor, " dim"]:
    """Minimise the mean cost C/N over the flat (unconstrained) position.

    Parameters
    ----------
    target
        A `Posterior` or `LogDensity`. For a `LogDensity` with constraints this is the mode of the density of the
        unconstrained coordinates, Jacobian included, which is the one that the samplers and Laplace's method see.
    optimizer
        A method of `scipy.optimize.minimize` that uses gradients: "L-BFGS-B", "BFGS", "CG", or with Hessian-vector
        products "Newton-CG", "trust-ncg", "trust-krylov"; full data only. Or a class of `torch.optim`, its name, or a
        callable like `functools.partial(torch.optim.SGD, momentum=0.9)`, which is called with the position and `lr`.
        Default: "L-BFGS-B"; with `batch_size`, `torch.optim.Adam`.
    init
        Where to start: a position, or named tensors. Default: the model's own weights, a `LogDensity`'s `init`.
    num_steps
        Largest number of steps (scipy: iterations).
    batch_size
        B, for `torch.optim` only; None for the full data. With minibatches `lr` falls to zero along half a cosine: at
        a constant lr the position would never come to rest.
    lr
        Learning rate, for `torch.optim` only; multiplies the gradient of the mean cost. Default: the optimiser's own.
    tolerance
        The mode is reached when no component of the gradient of the mean cost is larger. (Distance from the mode in
        posterior standard deviations is about √N·gradient/√curvature.)
    seed
        Decides the minibatches.
    progress
        Show a progress bar.

    Returns
    -------
    Tensor
        Position `[dim]`, of the target's type and on its device. Scipy's methods evaluate the target in float64 where
        it can be moved there (tensors held by a `LogDensity`'s function may prevent it), else in its own type.

    Raises
    ------
    ValueError
        For an unknown optimiser, settings that do not fit it or are out of range, or a start where the cost or its
        gradient is not finite.
    FloatingPointError
        If the cost becomes non-finite on the way.

    Warns
    -----
    RuntimeWarning
        If it stopped before the gradient was within `tolerance`, with the gradient that is left. Scipy's methods may
        also end quietly when the cost cannot be lowered by more than its rounding error.
    """
    if optimizer is None:
        optimizer = "L-BFGS-B" if batch_size is None else torch.optim.Adam
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    start = _start(target, init)
    method = SCIPY_METHODS.get(optimizer.lower()) if isinstance(optimizer, str) else None
    bar = tqdm(total=num_steps, disable=not progress, desc="mode", leave=False)
    with bar, threads_for(target.dim * (batch_size or target.num_data), target.device):
        if method is None:
            return _torch(target, _factory(optimizer), start, num_steps, batch_size, lr, tolerance, seed, bar)
        if batch_size is not None:
            raise ValueError(f"{method} needs the full data; for batch_size={batch_size} use a torch.optim optimiser")
        if lr is not None:
            raise ValueError(f"{method} chooses its own step lengths; lr={lr} is for torch.optim optimisers")
        return _scipy(target, method, start, num_steps, tolerance, bar)


def _start(target: Target, init: Tensor | Mapping[str, Tensor] | None) -> Float[Tensor, " dim"]:
    if init is None:
        start = target.default_position()
    elif isinstance(init, Mapping):
        start = target.ravel(init)
    else:
        start = torch.as_tensor(init)
    if start.shape != (target.dim,):
        raise ValueError(f"init must be one position of shape ({target.dim},), got {tuple(start.shape)}")
    start = start.detach().to(device=target.device, dtype=target.dtype)
    cost, gradient = target.cost_and_gradient(start[None])
    for what, value in (("init", start), ("the cost at init", cost), ("the cost's gradient at init", gradient)):
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise ValueError(f"{what} is not finite ({bad} of {value.numel()} numbers); start from another position")
    return start


def _factory(optimizer: str | OptimizerFactory) -> OptimizerFactory:
    if isinstance(optimizer, str):
        if optimizer not in TORCH_METHODS:
            raise ValueError(
                f"unknown optimizer {optimizer!r}; torch.optim has {TORCH_METHODS}, "
                f"and of scipy.optimize.minimize these are supported: {list(SCIPY_METHODS.values())}"
            )
        return getattr(torch.optim, optimizer)
    if not callable(optimizer):
        raise ValueError(
            f"optimizer must be a name, a class of torch.optim or a callable, got {type(optimizer).__name__}"
        )
    return optimizer


def _torch(
    target: Target,
    factory: OptimizerFactory,
    start: Tensor,
    num_steps: int,
    batch_size: int | None,
    lr: float | None,
    tolerance: float,
    seed: int,
    bar: tqdm,
) -> Tensor:
    position = start.clone().requires_grad_()
    optimizer = factory([position]) if lr is None else factory([position], lr=lr)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer must make a torch.optim.Optimizer, it made {type(optimizer).__name__}")
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1.0 if batch_size is None else 0.5 + 0.5 * math.cos(math.pi * step / num_steps)
    )
    evaluations: list[tuple[float, float]] = []

    def evaluate(batch: Batch) -> float:
        cost, gradient = target.cost_and_gradient(position.detach()[None], batch)
        position.grad = gradient[0]
        evaluations.append((float(cost) / target.num_data, float(gradient.abs().max())))
        return evaluations[-1][0]

    step = 0
    for step, batch in zip(range(num_steps), _batches(target, batch_size, seed), strict=False):
        before = position.detach().clone()
        evaluations.clear()
        optimizer.step(partial(evaluate, batch))
        cosine.step()
        mean_cost, largest = evaluations[0]  # at `before`: later ones are a line search's
        if not math.isfinite(mean_cost + largest):
            raise FloatingPointError(f"the mean cost became {mean_cost} at step {step} of the optimiser; lower lr")
        if batch is None and largest <= tolerance:
            return before
        _show(bar, mean_cost, largest)
        if batch is None and torch.equal(before, position):
            break  # by a stopping rule of its own: it would do the same for ever
    evaluate(None)
    _check(evaluations[-1], tolerance, f"after {step + 1} steps")
    return position.detach()


def _batches(target: Target, batch_size: int | None, seed: int) -> Iterator[Batch]:
    if batch_size is None:
        yield from itertools.repeat(None)
        return
    batches = Batches(target.num_data, batch_size)
    keys = chain_keys(seed, torch.tensor([-1], device=target.device), BATCHES)  # no chain has the number −1
    for first in itertools.count(0, _BATCH_BLOCK):
        steps = torch.arange(first, first + _BATCH_BLOCK, device=target.device)
        yield from batches.indices(keys.expand(_BATCH_BLOCK, 2), steps)[:, None]


def _scipy(target: Target, method: str, start: Tensor, num_steps: int, tolerance: float, bar: tqdm) -> Tensor:
    double = _in_double(target, start)
    latest: dict[str, np.ndarray | float] = {}

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values).to(device=double.device, dtype=double.dtype)

    def mean_cost_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        cost, gradient = double.cost_and_gradient(tensor(values)[None])
        latest.update(
            position=values.copy(), cost=float(cost) / target.num_data, gradient=gradient[0].double().cpu().numpy()
        )
        return latest["cost"], latest["gradient"]  # pyright: ignore[reportReturnType]

    def hessian_product(values: np.ndarray, vector: np.ndarray) -> np.ndarray:
        def gradient(position: Tensor) -> Tensor:
            return double.cost_and_gradient(position[None])[1][0]

        product = torch.func.jvp(gradient, (tensor(values),), (tensor(vector),))[1]
        return product.double().cpu().numpy()

    def largest_gradient(values: np.ndarray) -> tuple[float, float]:
        if not np.array_equal(latest["position"], values):
            mean_cost_and_gradient(values)
        return float(latest["cost"]), float(np.abs(latest["gradient"]).max())

    def stop_or_go_on(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        now = largest_gradient(intermediate_result.x)
        _show(bar, *now)
        if now[1] <= tolerance:
            raise StopIteration

    # One criterion for all methods, in the callback; their own, each of another kind, are left to rounding error.
    result = scipy.optimize.minimize(
        mean_cost_and_gradient,
        start.double().cpu().numpy(),
        jac=True,
        hessp=hessian_product if method in SCIPY_HESSIAN_METHODS else None,
        method=method,
        tol=4 * torch.finfo(double.dtype).eps,
        callback=stop_or_go_on,
        options={"maxiter": num_steps} | ({"maxfun": 20 * num_steps} if method == "L-BFGS-B" else {}),
    )
    reached = largest_gradient(result.x)
    if not math.isfinite(sum(reached)):
        raise FloatingPointError(f"{method} ended where the mean cost is {reached[0]}; try another init or optimiser")
    if not result.success:
        _check(reached, tolerance, f"({method}: {result.message})")
    return torch.as_tensor(result.x).to(device=target.device, dtype=target.dtype)


def _in_double(target: Target, start: Tensor) -> Target:
    """Return the target in float64: in float32 rounding of the cost would stop line searches far from the mode."""
    try:
        double = target.to(dtype=torch.float64)
        double.cost_and_gradient(start.double()[None])
    except (RuntimeError, TypeError):  # tensors of another type inside the user's function; a device without float64
        return target
    return double


def _show(bar: tqdm, mean_cost: float, largest: float) -> None:
    bar.set_postfix({"C/N": f"{mean_cost:.6g}", "gradient": f"{largest:.1e}"}, refresh=False)
    bar.update()


def _check(reached: tuple[float, float], tolerance: float, how: str) -> None:
    mean_cost, largest = reached
    if not math.isfinite(mean_cost + largest):
        raise FloatingPointError(f"the mean cost is {mean_cost} {how}; lower lr")
    if largest > tolerance:
        warnings.warn(
            f"find_mode stopped before converging {how}: the largest component of the mean cost's gradient is "
            f"{largest:.2e}, the tolerance {tolerance:.2e}; raise num_steps, go on from here with init=, or accept it "
            "with a larger tolerance",
            RuntimeWarning,
            stacklevel=4,
        )
