"""Where the posterior is highest: the position that minimises the mean cost C/N."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..control import threads_for
from ..target import Target
from . import scipy_minimize, steps, torch_optim
from .saddle import find_saddle
from .scipy_minimize import SCIPY_METHODS
from .torch_optim import OptimizerFactory, factory_of


def find_mode(
    target: Target,
    optimizer: str | OptimizerFactory | Any | None = None,
    *,
    init: Float[Tensor, " dim"] | Mapping[str, Tensor] | None = None,
    num_steps: int = 10_000,
    batch_size: int | None = None,
    lr: float | None = None,
    tolerance: float = 1e-6,
    seed: int = 0,
    progress: bool = False,
    check_saddle: bool = True,
) -> Float[Tensor, " dim"]:
    """Minimise the mean cost C/N over the flat (unconstrained) position.

    Parameters
    ----------
    target
        A `Posterior` or `LogDensity`. For a `LogDensity` with constraints this is the mode of the density of the
        unconstrained coordinates, Jacobian included, which is the one that the samplers and Laplace's method see.
    optimizer
        One of

        - a method of `scipy.optimize.minimize` that uses gradients: "L-BFGS-B", "BFGS", "CG", or with Hessian-vector
          products "Newton-CG", "trust-ncg", "trust-krylov"; full data only;
        - a class of `torch.optim`, its name, or a callable like `functools.partial(torch.optim.SGD, momentum=0.9)`,
          which is called with the position and `lr`;
        - a method of `langevin.samplers.modes`: `GaussNewton`, `SaddleFreeNewton`, `NaturalNewton`, `TONGA`,
          `GradientRegression`;
        - a sampler, which is run at temperature 0 whatever its own (None stays None: `NGD` then injects no noise).

        Default: "L-BFGS-B"; with `batch_size`, `torch.optim.Adam`.
    init
        Where to start: a position, or named tensors. Default: the model's own weights, a `LogDensity`'s `init`.
    num_steps
        Largest number of steps (scipy: iterations). All of them are warm-up to a sampler that adapts.
    batch_size
        B; None for the full data. With minibatches the `lr` of a `torch.optim` optimiser falls to zero along half a
        cosine: at a constant lr the position would never come to rest. That of a sampler or method is its own:
        ``lr=Cyclical(value=lr, length=num_steps)`` is the same cosine.
    lr
        Learning rate, for `torch.optim` only; multiplies the gradient of the mean cost. Default: the optimiser's own.
    tolerance
        The mode is reached when no component of the gradient of the mean cost is larger. (Distance from the mode in
        posterior standard deviations is about √N·gradient/√curvature.)
    seed
        Decides the minibatches, and what else is random in a method.
    progress
        Show a progress bar.
    check_saddle
        Whether to look for negative curvature where the gradient is within `tolerance`, by at most 40 Hessian-vector
        products; see `smallest_curvature`. A gradient alone does not tell a saddle from a mode.

    Returns
    -------
    Tensor
        Position `[dim]`, of the target's type and on its device. Scipy's methods, `GaussNewton` and
        `SaddleFreeNewton` evaluate the target in float64 where it can be moved there (tensors held by a `LogDensity`'s
        function may prevent it), else in its own type.

    Raises
    ------
    ValueError
        For an unknown optimiser, settings that do not fit it or are out of range, a sampler that does not run at
        temperature 0, or a start where the cost or its gradient is not finite.
    FloatingPointError
        If the cost becomes non-finite on the way.

    Warns
    -----
    RuntimeWarning
        If it stopped before the gradient was within `tolerance`, with the gradient that is left. Scipy's methods may
        also end quietly when the cost cannot be lowered by more than its rounding error. If it ended at a saddle, with
        the negative curvature.
    UserWarning
        If the check for a saddle needs second derivatives that the target does not have.
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
    scipy_method = SCIPY_METHODS.get(optimizer.lower()) if isinstance(optimizer, str) else None
    bar = tqdm(total=num_steps, disable=not progress, desc="mode", leave=False)
    common: dict[str, Any] = {"num_steps": num_steps, "tolerance": tolerance, "bar": bar}
    with bar, threads_for(target.dim * (batch_size or target.num_data), target.device):
        if scipy_method is not None:
            if batch_size is not None:
                raise ValueError(
                    f"{scipy_method} needs the full data; for batch_size={batch_size} use a torch.optim optimiser"
                )
            if lr is not None:
                raise ValueError(f"{scipy_method} chooses its own step lengths; lr={lr} is for torch.optim optimisers")
            end = scipy_minimize.run(target, scipy_method, start, **common)
        elif steps.is_sampler(optimizer):
            if lr is not None:
                name = type(optimizer).__name__
                raise ValueError(f"lr={lr} is for torch.optim optimisers; {name} has settings of its own: {name}(…)")
            end = steps.run(target, optimizer, start, batch_size=batch_size, seed=seed, **common)
        else:
            factory = factory_of(optimizer, list(SCIPY_METHODS.values()))
            end = torch_optim.run(target, factory, start, batch_size=batch_size, lr=lr, seed=seed, **common)
        if not end.is_finite():
            remedy = "try another init or optimiser" if scipy_method else "lower lr"
            raise FloatingPointError(f"the mean cost is {end.mean_cost} {end.how}; {remedy}")
        converged = end.satisfied or end.largest <= tolerance
        saddle = find_saddle(target, end.position) if check_saddle and converged else None
    if not converged:
        warnings.warn(
            f"find_mode stopped before converging {end.how}: the largest component of the mean cost's gradient is "
            f"{end.largest:.2e}, the tolerance {tolerance:.2e}; raise num_steps, go on from here with init=, or accept "
            "it with a larger tolerance",
            RuntimeWarning,
            stacklevel=2,
        )
    if saddle is not None:
        warnings.warn(saddle, RuntimeWarning, stacklevel=2)
    return end.position


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
