"""Derivatives of a metric, for the drift that a position-dependent metric needs.

With M = G⁻¹, (div M)ᵢ = Σⱼ ∂ⱼMᵢⱼ = −[M Σⱼ (∂ⱼG) M eⱼ]ᵢ and (∇log|G|)ⱼ = Tr(M ∂ⱼG). Neither needs more of the metric
than products G(ω)v with a fixed vector, differentiated in ω.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vmap

from ..target import Target
from ..threefry import Noise
from .metric import Metric, MetricValue

_AT_ONCE = 64  # directions differentiated together


def drift_force(
    metric: Metric,
    value: MetricValue,
    target: Target,
    position: Float[Tensor, "chain dim"],
    noise: Noise,
    probe: Float[Tensor, "chain dim"] | None = None,
) -> Float[Tensor, "chain dim"]:
    """−Σⱼ (∂ⱼG) M eⱼ, of which M makes div M; arguments as of `divergence`."""
    if metric.constant:
        return torch.zeros_like(position)

    def along(vector: Tensor) -> Tensor:
        solved = value.solve(vector)
        return -jvp(lambda at: metric.product(target, at, noise, solved), (position,), (vector,))[1]

    if probe is not None:
        return along(probe)
    return vmap(along, chunk_size=_AT_ONCE)(_unit_vectors(position)).sum(0)


def divergence(
    metric: Metric,
    value: MetricValue,
    target: Target,
    position: Float[Tensor, "chain dim"],
    noise: Noise,
    probe: Float[Tensor, "chain dim"] | None = None,
) -> Float[Tensor, "chain dim"]:
    """div M at the position of every chain.

    Parameters
    ----------
    metric, value
        The metric, and its value at `position`.
    noise
        What `value` was made with.
    probe
        None: exact, from D directional derivatives. A random v with E[vvᵀ] = I, such as signs: the unbiased estimate
        ∂_v(Mv) = −M (∂_vG) M v, from one.
    """
    return value.solve(drift_force(metric, value, target, position, noise, probe))


def log_det_gradient(
    metric: Metric,
    value: MetricValue,
    target: Target,
    position: Float[Tensor, "chain dim"],
    noise: Noise,
    probe: Float[Tensor, "chain dim"] | None = None,
) -> Float[Tensor, "chain dim"]:
    """∇log|G| at the position of every chain, exact, or from a probe v the unbiased estimate ∇(vᵀM G(ω)v)."""
    if metric.constant:
        return torch.zeros_like(position)
    if probe is not None:
        solved = value.solve(probe)
        return grad(lambda at: (solved * metric.product(target, at, noise, probe)).sum())(position)
    return grad(lambda at: value.trace(metric.curvature(target, at, noise)).sum())(position)


def _unit_vectors(position: Float[Tensor, "chain dim"]) -> Float[Tensor, "dim chain dim"]:
    dim = position.shape[-1]
    units = torch.eye(dim, dtype=position.dtype, device=position.device)
    return units[:, None, :].expand(dim, *position.shape)
