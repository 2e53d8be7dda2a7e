"""Rows whose Gram product is a Fisher matrix: F = XᵀX with X = Jᵀ-products of every example's output directions.

For each example a few directions in the space of the outputs have E[ccᵀ] = Hᵢ: the columns of a root of the output
Fisher (exact), or the gradients of −log p(y | outputs) with respect to the outputs, for labels drawn from the model
(sampled) or observed (empirical). A row is Jᵢᵀc.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vjp, vmap
from torch.utils._pytree import tree_map_only

from ..likelihoods import without_validation
from ..posterior import Posterior
from .dense import eigh
from .layers import complete_layers

_ELEMENTS = 2**24  # numbers of the rows held at once

Directions = Float[Tensor, "chain batch direction ..."]


def exact_directions(posterior: Posterior, outputs: Float[Tensor, "chain batch ..."]) -> Directions:
    """Columns of roots R of the output Fisher information, RRᵀ = H, one direction per output."""
    root = output_root(posterior.likelihood, outputs)
    event = outputs.shape[2:]
    if root.shape == outputs.shape:  # elementwise: 1 × 1 blocks
        blocks = root.reshape(*root.shape[:2], -1, 1, 1)
    else:  # matrices along the last dimension, one for each place of the others
        blocks = root.reshape(*root.shape[:2], -1, *root.shape[-2:])
    places = torch.eye(blocks.shape[2], dtype=root.dtype, device=root.device)
    directions = torch.einsum("st,cntjk->cntksj", places, blocks)
    return directions.reshape(*outputs.shape[:2], -1, *event)


def output_root(likelihood: Any, outputs: Float[Tensor, "chain batch ..."]) -> Tensor:
    """R with RRᵀ = H, of the shape of `likelihood.fisher(outputs)`; its own `fisher_root`, else by eigenvectors."""
    if hasattr(likelihood, "fisher_root"):
        return likelihood.fisher_root(outputs)
    information = likelihood.fisher(outputs)
    if information.shape == outputs.shape:
        return information.sqrt()
    values, vectors = eigh(information)
    return (vectors * values.sqrt()[..., None, :]) @ vectors.mT  # the symmetric root: no choice of eigenvectors in it


def score_directions(
    posterior: Posterior, outputs: Float[Tensor, "chain batch ..."], labels: Float[Tensor, "chain label batch ..."]
) -> Directions:
    """∇ of −log p(label | outputs) with respect to the outputs, over the root of the number of labels."""

    def cost(outputs: Tensor, labels: Tensor) -> Tensor:
        return -posterior.likelihood(outputs).log_prob(labels).sum()

    with without_validation():
        score = vmap(vmap(grad(cost), in_dims=(None, 0)))(outputs, labels)
    return (score / labels.shape[1] ** 0.5).movedim(1, 2)


def rows_of(
    posterior: Posterior,
    position: Float[Tensor, "chain dim"],
    inputs: Any,
    directions: Directions,
    shared: bool,
) -> Float[Tensor, "chain row dim"]:
    """Jᵢᵀc for every example and direction: from the layers, or by one vector-Jacobian product each."""
    if (layers := complete_layers(posterior)) is not None:
        return layers.rows(layers.signals(posterior, position, inputs, directions, shared))

    def of_example(position: Tensor, example: Any, directions: Tensor) -> Tensor:
        single = tree_map_only(Tensor, lambda leaf: leaf[None], example)
        _, pull_back = vjp(lambda at: posterior.call(at, single)[0], position)  # pyright: ignore[reportAssignmentType]
        return vmap(pull_back)(directions)[0]

    of_chain = vmap(of_example, in_dims=(None, 0, 0))
    return vmap(of_chain, in_dims=(0, None if shared else 0, 0))(position, inputs, directions).flatten(1, 2)


def chunks_of(size: int, per_example: int, device: torch.device) -> tuple[Tensor | None, ...]:
    """Indices of examples whose rows are looked at together; None for all of them."""
    at_once = max(1, _ELEMENTS // per_example)
    return (None,) if at_once >= size else torch.arange(size, device=device).split(at_once)


def take_chunk(inputs: Any, directions: Tensor, chunk: Tensor | None, shared: bool) -> tuple[Any, Tensor]:
    """Inputs and directions of these examples."""
    if chunk is None:
        return inputs, directions
    dim = 0 if shared else 1
    return tree_map_only(Tensor, lambda leaf: leaf.index_select(dim, chunk), inputs), directions[:, chunk]
