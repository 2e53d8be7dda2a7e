"""What a Laplace approximation is fitted from: checked settings, and the curvature in the structure asked for."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers.metrics.layers import layers_of
from ..samplers.posterior import Posterior
from ..samplers.target import Target
from .curvature import kronecker_curvature, likelihood_curvature, prior_curvature
from .laplace_precision import Likelihood

Structure = Literal["dense", "diagonal", "kronecker", "last_layer"]
Curvature = Literal["ggn", "hessian"]

_TOLERATED = 0.1  # nats of Newton decrement beyond which a position is not taken for a mode


def check_settings(posterior: Target, structure: str, curvature: str, temperature: float, chunk: int | None) -> None:
    """Refuse what no mode could be fitted with."""
    if structure not in get_args(Structure):
        raise ValueError(f"structure must be one of {get_args(Structure)}, got {structure!r}")
    if curvature not in get_args(Curvature):
        raise ValueError(f'curvature must be "ggn" or "hessian", got {curvature!r}')
    if not isinstance(posterior, Posterior):
        if curvature == "ggn":
            raise ValueError(
                f"a {type(posterior).__name__} has no model outputs to build a Gauss–Newton matrix on; use "
                'curvature="hessian"'
            )
        if structure == "last_layer":
            raise ValueError(f'a {type(posterior).__name__} has no layers; use structure="dense" or "diagonal"')
    if structure == "kronecker":
        _check_kronecker(posterior, curvature)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")


def _check_kronecker(posterior: Target, curvature: str) -> None:
    if curvature != "ggn" or not isinstance(posterior, Posterior):
        raise ValueError(
            'structure="kronecker" is an approximation of the Gauss–Newton matrix: use curvature="ggn", or '
            'structure="dense" or "diagonal"'
        )
    if not hasattr(posterior.likelihood, "fisher"):
        raise ValueError(
            'structure="kronecker" needs the Fisher information of the outputs, and the likelihood '
            f"{posterior.likelihood!r} has no method `fisher(outputs)`: give it one, or use another structure"
        )
    layers = layers_of(posterior)
    if not layers.layers:
        raise ValueError(
            'structure="kronecker" is for sampled weights and biases of nn.Linear and nn.Conv2d (one group, padded '
            'with zeros) used once in a forward pass, and this model has none: use "dense" or "diagonal"'
        )
    if layers.outside:
        warnings.warn(
            f"{list(layers.outside)} are outside of the layers that K-FAC is for and get the diagonal of P",
            stacklevel=4,  # whoever called `Laplace.fit`
        )


def check_memory(device: torch.device, dim: int, structure: str) -> None:
    """Refuse D×D matrices that the device has no room for."""
    matrix, memory = 8 * dim**2, _memory(device)
    if structure != "diagonal" and 2 * matrix > memory:
        others = {"kronecker": "`sd`, `sample` and `predict` need none", "last_layer": 'structure="diagonal"'}
        others["dense"] = 'use structure="diagonal", "kronecker" or "last_layer"'
        raise ValueError(
            f"a dense matrix of a Laplace approximation of {dim} parameters needs two matrices of "
            f"{matrix / 2**30:.3g} GiB, and {device} has {memory / 2**30:.3g} GiB; {others[structure]}, or sample "
            "fewer parameters with Posterior(..., parameters=[patterns])"
        )


def _memory(device: torch.device) -> float:
    """Bytes of memory that the device has; infinite where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_mode(posterior: Target, mode: Tensor) -> Float[Tensor, " dim"]:
    """The mode as the target takes it."""
    if mode.shape != (posterior.dim,):
        raise ValueError(f"mode must be one flat position of shape [{posterior.dim}], got {list(mode.shape)}")
    bad = int((~torch.isfinite(mode)).sum())
    if bad:
        raise ValueError(f"mode is not finite in {bad} of {posterior.dim} coordinates")
    return mode.detach().to(device=posterior.device, dtype=posterior.dtype)


def check_examples(target: Target, method: str) -> Posterior:
    """The target, if it has a model and data."""
    if not isinstance(target, Posterior):
        raise ValueError(f"{method} needs the model and data of a Posterior, and a {type(target).__name__} has none")
    return target


def curvatures(
    target: Target, position: Float[Tensor, " dim"], structure: str, curvature: str, chunk: int | None
) -> tuple[Likelihood, Float[Tensor, "dim dim"] | Float[Tensor, " dim"]]:
    """Curvature of the likelihood's part of C in a structure, and of the prior's part."""
    diagonal = structure == "diagonal"
    prior = torch.zeros(target.dim, dtype=torch.float64, device=target.device)
    if isinstance(target, Posterior):
        prior = prior_curvature(target, position, diagonal=diagonal)
        if structure == "kronecker":
            return kronecker_curvature(target, position, chunk), prior
    return likelihood_curvature(target, position, curvature, diagonal=diagonal, chunk=chunk), prior


def tolerances(target: Target, curvature: str) -> dict[str, Any]:
    """For `factorise`: what rounding may make of a zero eigenvalue, and what to do about one."""
    # Rounding of the derivatives moves eigenvalues of a Hessian by up to `noise`, small ones of JᵀHJ by its square.
    noise = 10 * torch.finfo(target.dtype).eps
    remedy = "Data and prior leave some direction undetermined: "
    if curvature == "hessian":
        remedy = "The position is not a mode, or the density is flat there: run find_mode to a tighter tolerance, "
        remedy += 'use curvature="ggn" (a Posterior only), or '
    if target.dtype != torch.float64:
        remedy += "work in float64 (posterior.to(dtype=torch.float64)), or "
    remedy += "give every parameter a proper prior or sample fewer parameters"
    return {"noise": noise**2 if curvature == "ggn" else noise, "remedy": remedy}


def warn_unless_mode(decrement: float, remedy: str) -> None:
    """Warn of a Newton decrement that no mode has."""
    if decrement > _TOLERATED:
        warnings.warn(
            f"the gradient at the mode is not zero: Newton decrement {decrement:.3g} nats (½ gᵀP⁻¹g), the minimum "
            f"of the quadratic is {math.sqrt(2 * decrement):.3g} standard deviations away; {remedy}",
            stacklevel=4,  # whoever called `Laplace.fit` or `Laplace.tune_prior`
        )
