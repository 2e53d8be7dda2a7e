"""Curvature of the summed cost C = Σᵢ Lᵢ + R at one position: exact or Gauss–Newton; all of it, its diagonal, or K-FAC.

The generalised Gauss–Newton matrix Σᵢ Jᵢᵀ Hᵢ Jᵢ (Schraudolph, "Fast curvature matrix-vector products for second-order
gradient descent", Neural Computation 14, 2002) stands for the likelihood's part of ∇²C: Jᵢ = ∂outputs/∂ω, Hᵢ the Fisher
information of the outputs. It drops Σᵢ (∂Lᵢ/∂outputs) ∂²outputs/∂ω²; it is exact for models linear in ω if Hᵢ is also
the Hessian of Lᵢ with respect to the outputs.

Sums run over chunks of examples. Derivatives are taken in the target's dtype, the prior's and all sums in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, grad_and_value, jacrev, vjp, vmap
from torch.utils._pytree import tree_leaves

from ..samplers import data as data_
from ..samplers.metrics import Fisher
from ..samplers.metrics.kronecker import KroneckerCurvature
from ..samplers.metrics.metric import no_noise
from ..samplers.metrics.rows import rows_of
from ..samplers.posterior import Posterior
from ..samplers.target import Target
from ..samplers.threefry import INIT, chain_keys, normals

Position = Float[Tensor, " dim"]
Scalar = Callable[[Tensor], Tensor]

_ELEMENTS = 2**24  # numbers per array held at once by default: 128 MB in float64
_COLUMNS = 64  # Hessian-vector products evaluated at once


def cost_and_gradient(target: Target, position: Position, chunk: int | None = None) -> tuple[float, Position]:
    """C and ∇C (not of the mean cost), float64; `chunk` as in `likelihood_curvature`."""
    value, gradient = 0.0, torch.zeros(target.dim, dtype=torch.float64, device=position.device)
    for part, at in _parts(target, position, target.dim, chunk):
        slope, cost = grad_and_value(part)(at)
        value, gradient = value + float(cost), gradient.add_(slope)
    return value, gradient


def likelihood_curvature(
    target: Target, position: Position, kind: str = "ggn", *, diagonal: bool = False, chunk: int | None = None
) -> Float[Tensor, "dim dim"] | Position:
    """∇²(C − R), or the Gauss–Newton matrix; of a target without examples, ∇²C.

    Parameters
    ----------
    target
        A `Posterior`, or with ``kind="hessian"`` any target.
    position
        Flat position, in the target's dtype and on its device.
    kind
        "ggn", with Hᵢ = `likelihood.fisher(outputs)`, or for a likelihood without that method the Hessian of
        −log p(yᵢ | outputs) at the observed target, which may be indefinite. "hessian", from Hessian-vector products
        with all D unit vectors, for the diagonal too.
    diagonal
        Return the diagonal only, without ever holding the matrix.
    chunk
        Examples looked at together; by default as many as keep each array within 128 MB, and at least one (whose
        Jacobian is `[outputs, dim]`).

    Returns
    -------
    Tensor
        `[dim, dim]`, symmetric up to rounding, or `[dim]`; float64.

    Raises
    ------
    ValueError
        If `fisher` returns another shape than the outputs' or outputs × last dimension.
    """
    total = torch.zeros((target.dim,) * (1 if diagonal else 2), dtype=torch.float64, device=position.device)
    if kind == "ggn":
        assert isinstance(target, Posterior)
        _add_gauss_newton(total, target, position, chunk)
    else:
        for part, at in _parts(target, position, min(_COLUMNS, target.dim) * target.dim, chunk, prior=False):
            _add_hessian(total, part, at)
    return total


def prior_curvature(
    posterior: Posterior, position: Position, *, diagonal: bool = False
) -> Float[Tensor, "dim dim"] | Position:
    """∇²R in float64: `[dim]` if it is diagonal, as of priors that factorise, or where only that is asked for.

    Whether it is diagonal is seen by trying: only then is (∇²R)v = v∘(∇²R 1) for a random v, almost surely.
    """
    position, cost = position.double(), _prior_cost(posterior)
    keys = chain_keys(0, torch.zeros(1, device=position.device), INIT)
    probe = normals(keys, keys.new_zeros(()), posterior.dim, position.dtype)
    along, across = _hessian_products(cost, position)(torch.cat((torch.ones_like(probe), probe)))
    if torch.allclose(across, probe[0] * along, rtol=1e-8, atol=0.0):
        return along
    total = torch.zeros((posterior.dim,) * (1 if diagonal else 2), dtype=torch.float64, device=position.device)
    _add_hessian(total, cost, position)
    return total


def kronecker_curvature(posterior: Posterior, position: Position, chunk: int | None = None) -> KroneckerCurvature:
    """Σᵢ Jᵢᵀ Hᵢ Jᵢ as one Kronecker product S⊗A for each layer, and its diagonal outside of layers; without the prior.

    The factors are those of `Fisher(structure="kronecker")`, which averages over examples: S is N times as large here.
    """
    mean = None
    for batch in _batches(posterior.num_data, posterior.dim, chunk, position.device):
        metric = Fisher(structure="kronecker", inputs=data_.take(posterior.inputs, batch))
        part = metric.curvature(posterior, position[None], no_noise(posterior))
        assert isinstance(part, KroneckerCurvature)
        part = _in_double(part).scaled(len(batch) / posterior.num_data)
        mean = part if mean is None else mean.plus(part)
    assert mean is not None
    outputs = tuple(posterior.num_data * matrix for matrix in mean.outputs)
    return KroneckerCurvature(outputs, mean.inputs, posterior.num_data * mean.outside, mean.order)


def jacobians(
    posterior: Posterior, position: Position, inputs: data_.Inputs, chunk: int | None = None
) -> Iterator[tuple[Tensor, Float[Tensor, "batch ..."], Float[Tensor, "batch output dim"]]]:
    """Indices of a few examples, their outputs, and the derivatives of these, flattened, in the parameters."""
    size = len(next(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)))
    first = torch.zeros(1, dtype=torch.int64, device=position.device)
    num_outputs = posterior.outputs(position[None], data_.take(inputs, first)).numel()
    for batch in _batches(size, num_outputs * posterior.dim, chunk, position.device):
        few = data_.take(inputs, batch)
        outputs = posterior.outputs(position[None], few)
        units = torch.eye(num_outputs, dtype=outputs.dtype, device=outputs.device)
        units = units.reshape(num_outputs, *outputs.shape[2:]).expand(1, len(batch), num_outputs, *outputs.shape[2:])
        rows = rows_of(posterior, position[None], few, units, shared=True)
        yield batch, outputs[0], rows[0].unflatten(0, (-1, num_outputs))


def _in_double(part: KroneckerCurvature) -> KroneckerCurvature:
    outputs, inputs = (tuple(matrix.double() for matrix in factors) for factors in (part.outputs, part.inputs))
    return KroneckerCurvature(outputs, inputs, part.outside.double(), part.order)


def _batches(size: int, per_example: int, chunk: int | None, device: torch.device) -> Iterator[Tensor]:
    """Indices of all examples, `chunk` or `_ELEMENTS` numbers at a time."""
    yield from torch.arange(size, device=device).split(chunk or max(1, _ELEMENTS // per_example))


def _parts(
    target: Target, position: Position, per_example: int, chunk: int | None, prior: bool = True
) -> Iterator[tuple[Scalar, Position]]:
    """Functions that add up to C, each with the position in the dtype that it is to be evaluated in."""
    if not isinstance(target, Posterior):
        yield lambda at: target.cost(at[None])[0], position
        return
    if prior:
        yield _prior_cost(target), position.double()
    for batch in _batches(target.num_data, per_example, chunk, position.device):
        yield lambda at, batch=batch: -target.log_likelihood(at[None], batch[None]).sum(), position


def _prior_cost(posterior: Posterior) -> Scalar:
    return lambda at: -posterior.log_prior(at[None])[0]


def _hessian_products(cost: Scalar, position: Position) -> Callable[[Tensor], Tensor]:
    """Return v ↦ (∇²cost) v for the rows of a matrix; the forward pass is shared between calls."""
    pull_back = vjp(grad(cost), position)[1]
    return vmap(lambda vector: pull_back(vector)[0])


def _add_hessian(total: Tensor, cost: Scalar, position: Position) -> None:
    product = _hessian_products(cost, position)
    for columns in torch.arange(position.numel(), device=position.device).split(_COLUMNS):
        units = torch.zeros(len(columns), position.numel(), dtype=position.dtype, device=position.device)
        block = product(units.scatter_(1, columns[:, None], 1.0))
        total[columns] += block.gather(1, columns[:, None])[:, 0] if total.ndim == 1 else block


def _add_gauss_newton(total: Tensor, posterior: Posterior, position: Position, chunk: int | None) -> None:
    for batch, outputs, jacobian in jacobians(posterior, position, posterior.inputs, chunk):
        information = _output_information(posterior, outputs, posterior.targets[batch]).double()
        jacobian = jacobian.double().reshape(-1, information.shape[-1], posterior.dim)
        weighted = information @ jacobian
        if total.ndim == 1:
            total += (jacobian * weighted).sum((0, 1))
        else:
            total.addmm_(jacobian.flatten(0, 1).mT, weighted.flatten(0, 1))


def _output_information(
    posterior: Posterior, outputs: Float[Tensor, "batch ..."], targets: Tensor
) -> Float[Tensor, "rows block block"]:
    """Hᵢ as blocks along the flattened outputs: 1×1 where it is elementwise."""
    fisher = getattr(posterior.likelihood, "fisher", None)
    if fisher is None:

        def cost(flat: Tensor, target: Tensor) -> Tensor:
            return -posterior.distribution(flat.reshape(outputs[:1].shape)).log_prob(target[None]).sum()

        return vmap(jacrev(grad(cost)))(outputs.reshape(len(outputs), -1), targets)
    information = fisher(outputs.double())  # in float32, rounding of diag(p) − ppᵀ would make it indefinite
    if information.shape == outputs.shape:
        return information.reshape(-1, 1, 1)
    matrices = outputs.shape + outputs.shape[1:][-1:]
    if outputs.ndim > 1 and information.shape == matrices:
        return information.flatten(0, -3)
    raise ValueError(
        f"likelihood.fisher(outputs) has shape {tuple(information.shape)} for outputs {tuple(outputs.shape)}; it must "
        f"be elementwise, {tuple(outputs.shape)}, or hold matrices for the last dimension, {tuple(matrices)}"
    )
