"""The workloads as JAX functions: the same layers, parameters in PyTorch's shapes and order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from ..workloads import Workload


def forward(model: nn.Sequential) -> Callable[[tuple[Any, ...], Any], Any]:
    """`(parameters, inputs) -> outputs` of a stack of linear layers, convolutions, ReLU and Flatten."""
    import jax
    import jax.numpy as jnp

    def call(parameters: tuple[Any, ...], x: Any) -> Any:
        left = iter(parameters)
        for layer in model:
            if isinstance(layer, nn.Linear):
                x = x @ next(left).T
            elif isinstance(layer, nn.Conv2d):
                x = jax.lax.conv_general_dilated(x, next(left), layer.stride, "VALID")
            elif isinstance(layer, nn.ReLU):
                x = jnp.maximum(x, 0)
            elif isinstance(layer, nn.Flatten):
                x = x.reshape(len(x), -1)
            if getattr(layer, "bias", None) is not None:
                bias = next(left)
                x = x + bias.reshape(-1, *[1] * (x.ndim - 2))
        return x

    return call


def log_prior(parameters: tuple[Any, ...]) -> Any:
    """Standard normal, up to a constant."""
    return -0.5 * sum((p**2).sum() for p in parameters)


def log_likelihood(workload: Workload) -> Callable[[tuple[Any, ...], tuple[Any, Any]], Any]:
    """`(parameters, (x, y)) -> log p(y | x)` of one example."""
    import jax
    import jax.numpy as jnp

    call, binary = forward(workload.model), workload.kind == "binary"

    def one(parameters: tuple[Any, ...], example: tuple[Any, Any]) -> Any:
        x, y = example
        z = call(parameters, x[None])[0]
        return (y * z - jnp.logaddexp(0.0, z))[0] if binary else jax.nn.log_softmax(z)[y]

    return one


def data(workload: Workload) -> tuple[Any, Any]:
    """Inputs and targets."""
    import jax.numpy as jnp

    return jnp.asarray(workload.x.numpy()), jnp.asarray(workload.y.numpy())


def unravel(workload: Workload, position: np.ndarray) -> tuple[Any, ...]:
    """Parameters `[*chain, *shape]` of a flat position `[*chain, dim]`."""
    import jax.numpy as jnp

    shapes = [tuple(p.shape) for p in workload.model.parameters()]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = zip(np.split(position, ends, -1), shapes, strict=True)
    return tuple(jnp.asarray(part.reshape(position.shape[:-1] + shape)) for part, shape in parts)


def ravel(parameters: tuple[Any, ...], lead: int = 0) -> np.ndarray:
    """Flat positions; `lead` dimensions stay in front."""
    arrays = [np.asarray(p) for p in parameters]
    return np.concatenate([a.reshape(*a.shape[:lead], -1) for a in arrays], -1)
