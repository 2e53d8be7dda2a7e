"""Second derivatives of the mean cost at every chain's position: products, whole matrices, and Krylov subspaces."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.func import grad, jvp, vmap

from .. import data as data_
from ..metrics.dense import gram
from ..metrics.rows import chunks_of, exact_directions, rows_of, take_chunk
from ..posterior import Posterior
from ..target import Batch, Target

MAX_DENSE = 5000  # parameters up to which D × D matrices are made: 200 MB in float64, and D³ operations a step

Product = Callable[[Float[Tensor, "chain dim"]], Float[Tensor, "chain dim"]]


def check_examples(target: Target, method: str) -> None:
    """Raise unless the target has examples, and a size for which D × D matrices can be made."""
    if not isinstance(target, Posterior):
        raise ValueError(
            f"{method} needs the examples of a Posterior and a {type(target).__name__} has none: use SaddleFreeNewton, "
            'or a method of scipy such as "trust-krylov"'
        )
    if not hasattr(target.likelihood, "fisher"):
        raise ValueError(
            f"{method} needs the Fisher information of the outputs, and the likelihood {target.likelihood!r} has no "
            "method `fisher(outputs)`: give it one, or use SaddleFreeNewton"
        )
    if target.dim > MAX_DENSE:
        raise ValueError(
            f"{method} makes {target.dim} × {target.dim} matrices, too large above {MAX_DENSE} parameters: use "
            'SaddleFreeNewton, or NGD with metric=Fisher(structure="kronecker", damping=…)'
        )


def gauss_newton_matrix(
    posterior: Posterior, position: Float[Tensor, "chain dim"], batch: Batch = None
) -> Float[Tensor, "chain dim dim"]:
    """(1/B) Σ_b JᵀHJ + ∇²R/N: the Hessian of the mean cost without the second derivatives of the outputs."""
    shared = batch is None
    inputs = posterior.inputs if batch is None else data_.take(posterior.inputs, batch)
    outputs = posterior.outputs(position, inputs, shared)
    directions = exact_directions(posterior, outputs) / outputs.shape[1] ** 0.5
    chunks = chunks_of(outputs.shape[1], len(position) * directions.shape[2] * posterior.dim, position.device)
    parts = [
        gram(rows_of(posterior, position, *take_chunk(inputs, directions, chunk, shared), shared)) for chunk in chunks
    ]
    return sum(parts[1:], parts[0]) + prior_hessian(posterior, position)


def prior_hessian(posterior: Posterior, position: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim dim"]:
    """∇²R/N. Of priors that factorise into single parameters it is diagonal, and one product gives it."""

    def gradient(at: Tensor) -> Tensor:
        return -grad(lambda at: posterior.log_prior(at).sum())(at) / posterior.num_data

    def product(vector: Tensor) -> Tensor:
        return jvp(gradient, (position,), (vector,))[1]  # pyright: ignore[reportReturnType]

    priors = [posterior.prior] if isinstance(posterior.prior, Distribution) else list((posterior.prior or {}).values())
    if all(prior is None or not prior.event_shape for prior in priors):
        return torch.diag_embed(product(torch.ones_like(position)))
    units = torch.eye(posterior.dim, dtype=position.dtype, device=position.device)
    return vmap(lambda unit: product(unit.expand_as(position)), out_dims=1)(units)


def krylov(
    product: Product, starts: list[Float[Tensor, "chain dim"]], size: int
) -> tuple[Float[Tensor, "chain size dim"], Float[Tensor, "chain size dim"]]:
    """An orthonormal basis V of the block Krylov space of the starts, and HV; `size` Hessian-vector products.

    Block Lanczos with full orthogonalisation. The first start lies in the space exactly. Where the space is exhausted
    (the starts lie in few eigenvectors) it is extended by a vector that is as good as random, so that `size` = D spans
    everything.
    """
    basis: list[Tensor] = []
    images: list[Tensor] = []
    for i in range(size):
        candidate = starts[i] if i < len(starts) else images[i - len(starts)]
        vector, lost = _orthogonal(candidate, basis)
        if bool(lost.any()):
            filler, empty = _orthogonal(starts[-1].roll(7 * i + 1, -1) * _wave(starts[-1], i), basis)
            vector = torch.where(lost[:, None], torch.where(empty[:, None], 0.0, filler), vector)
        basis.append(vector)
        images.append(product(vector))
    return torch.stack(basis, 1), torch.stack(images, 1)


def ritz(
    basis: Float[Tensor, "chain size dim"], images: Float[Tensor, "chain size dim"]
) -> tuple[Float[Tensor, "chain size"], Float[Tensor, "chain size dim"]]:
    """Eigenvalues in ascending order and eigenvectors of H restricted to the space, VᵀHV.

    Every Ritz value is the curvature vᵀHv along its unit vector, so the smallest is never below that of H. NaN where a
    number is not finite.
    """
    small = basis @ images.mT
    small = 0.5 * (small + small.mT)
    finite = torch.isfinite(small).flatten(1).all(-1)[:, None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, small, 0.0))
    return torch.where(finite[..., 0], values, torch.nan), vectors.mT @ basis


def _orthogonal(vector: Tensor, basis: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What of a vector is orthogonal to the basis, normalised, and in which chains that is only rounding."""
    before = vector.norm(dim=-1)
    if basis:
        stack = torch.stack(basis, 1)
        for _ in range(2):  # once leaves as much as rounding puts back
            vector = vector - ((stack @ vector[..., None]).mT @ stack)[:, 0]
    after = vector.norm(dim=-1)
    lost = ~(after > before * torch.finfo(vector.dtype).eps ** 0.5)
    return torch.where(lost[:, None], 0.0, vector / after[:, None]), lost


def _wave(like: Tensor, turn: int) -> Tensor:
    return torch.cos((1.0 + turn) * torch.arange(like.shape[-1], device=like.device, dtype=like.dtype) ** 1.5)
