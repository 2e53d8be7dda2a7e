"""Whether a stationary point is a mode: the smallest curvature of the mean cost there, by Lanczos."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from ..likelihoods import without_validation
from ..target import Target, hessian_product
from ..threefry import INIT, Noise, chain_keys
from .curvature import krylov, ritz
from .ending import in_double

NUM_PRODUCTS = 40

# Curvature below this part of the largest is rounding, and what a gradient left over at the mode makes of a flat one.
NEGATIVE = {torch.float64: 1e-6}
NEGATIVE_ELSEWHERE = 1e-3

# A fall of C by less than this many nats means nothing to a posterior. It is looked for at distances where the
# curvature alone would make these falls: near, because a saddle may be shallow, and far, because C is rounded.
FALL = 0.01
PREDICTED_FALLS = (0.05, 0.2, 1.0, 5.0)


def smallest_curvature(
    target: Target, position: Float[Tensor, " dim"], *, num_products: int = NUM_PRODUCTS
) -> tuple[float, Float[Tensor, " dim"]]:
    """Smallest eigenvalue of H = ∇²C/N, and its eigenvector.

    By Lanczos from a random vector with full orthogonalisation, in float64 where the target can be moved there.

    Parameters
    ----------
    target
        A `Posterior` or `LogDensity` with second derivatives.
    position
        Flat position `[dim]`.
    num_products
        Most Hessian-vector products to spend, which bounds the cost at a few gradients each.

    Returns
    -------
    eigenvalue
        Of the mean cost, per squared unit of ω. Exact to rounding if D ≤ `num_products`. Otherwise the curvature along
        `eigenvector`: never below the smallest eigenvalue, and close to it where it stands out. A negative one thus
        proves a saddle, a positive one proves nothing.
    eigenvector
        `[dim]`, of length 1, of the target's type.

    Raises
    ------
    ValueError
        For a position of another shape or that is not finite, or without a finite Hessian.
    """
    position = torch.as_tensor(position).detach()
    if position.shape != (target.dim,):
        raise ValueError(f"position must have shape ({target.dim},), got {tuple(position.shape)}")
    if not bool(torch.isfinite(position).all()):
        raise ValueError("position is not finite")
    if isinstance(num_products, bool) or not isinstance(num_products, int) or num_products < 1:
        raise ValueError(f"num_products must be a whole number ≥ 1, got {num_products!r}")
    values, vectors = _spectrum(in_double(target, position), position, num_products)
    return float(values[0]), vectors[0].to(device=target.device, dtype=target.dtype)


def find_saddle(target: Target, position: Float[Tensor, " dim"]) -> str | None:
    """What to say of a stationary point that is a saddle; None for a mode, as far as can be told.

    A saddle has a clearly negative curvature, and along it C falls. Flat and almost flat directions (of flat priors and
    of units that are off) pass: their curvature is rounding, or nothing comes of it.
    """
    double = in_double(target, position)
    try:
        values, vectors = _spectrum(double, position, NUM_PRODUCTS)
    except Exception as error:  # whatever functions of the user's own without second derivatives raise
        warnings.warn(
            "whether the position found is a mode or a saddle could not be checked, for want of second derivatives "
            f"({type(error).__name__}: {str(error)[:200]}); check_saddle=False leaves the check out",
            stacklevel=3,
        )
        return None
    λ = values[0]
    if not λ < -NEGATIVE.get(double.dtype, NEGATIVE_ELSEWHERE) * values.abs().max():
        return None
    predicted = torch.tensor(PREDICTED_FALLS, dtype=double.dtype, device=double.device)
    distances = (2 * predicted / (-λ * target.num_data)).sqrt()
    fall = 0.0
    for sign in (1, -1):
        for distance in distances:  # one by one: of large models a position is all that fits
            both = torch.stack((position.to(vectors), position.to(vectors) + sign * distance * vectors[0]))
            with torch.no_grad(), without_validation():
                here, there = double.cost(both)
            fall = max(fall, float((here - there).nan_to_num(0.0, 0.0, 0.0)))
    if fall < FALL:
        return None
    return (
        f"find_mode ended at a saddle, not at a mode: the gradient vanishes, but the Hessian of the mean cost has the "
        f"eigenvalue {float(λ):.3g} (the largest is about {float(values[-1]):.3g}) and along its eigenvector the "
        f"summed cost falls by at least {fall:.3g}; go on from a position displaced along the eigenvector of "
        "langevin.samplers.modes.smallest_curvature, or use optimizer=SaddleFreeNewton()"
    )


def _spectrum(
    target: Target, position: Float[Tensor, " dim"], num_products: int
) -> tuple[Float[Tensor, " size"], Float[Tensor, "size dim"]]:
    """Ritz values in ascending order, and their vectors."""
    at = position.to(device=target.device, dtype=target.dtype)[None]
    noise = Noise(
        chain_keys(0, torch.tensor([-1], device=at.device), INIT), torch.tensor(0, device=at.device), at.dtype
    )
    with torch.no_grad(), without_validation():
        start = noise.normal(target.dim)
        size = min(target.dim, num_products)
        values, vectors = ritz(*krylov(lambda v: hessian_product(target, at, v), [start], size))
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the Hessian of the cost is not finite at this position")
    return values[0], vectors[0]
