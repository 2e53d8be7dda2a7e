"""What the noisy natural-gradient methods share: their state, and the normal prior that they need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Normal

from .posterior import Posterior
from .target import Target


@dataclass
class VariationalState:
    """State of every chain.

    Attributes
    ----------
    position
        θ, the draw that the last step was made with.
    mean
        μ of the variational Gaussian.
    precision
        s: N(s + λ̃) is its precision, λ̃ the prior's divided by N.
    momentum
        The average of gradients; of width 0 without one.
    gradient, cost
        ĝ and the estimate of C at θ.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    mean: Float[Tensor, "chain dim"]
    precision: Float[Tensor, "chain dim"]
    momentum: Float[Tensor, "chain momentum"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


def start(position: Float[Tensor, "chain dim"], precision: float, momentum: bool) -> VariationalState:
    """Begin with means at the positions."""
    return VariationalState(
        position=position.clone(),
        mean=position.clone(),
        precision=torch.full_like(position, precision),
        momentum=position.new_zeros(len(position), position.shape[1] if momentum else 0),
        gradient=torch.zeros_like(position),
        cost=position.new_zeros(len(position)),
        step=torch.zeros((), dtype=torch.int64, device=position.device),
    )


def normal_prior(target: Target) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """Mean and precision of the prior of every parameter.

    Raises
    ------
    ValueError
        If the target is no `Posterior`, or its prior is not normal.
    """
    if not isinstance(target, Posterior):
        raise ValueError(f"this method needs a Posterior, whose prior is known; got a {type(target).__name__}")
    means, precisions = [], []
    for name, shape in zip(target.layout.names, target.layout.shapes, strict=True):
        prior = target.prior_of(name)
        if not isinstance(prior, Normal):
            kind = "flat" if prior is None else type(prior).__name__
            raise ValueError(f"the variational Gaussian needs Normal priors; that of {name!r} is {kind}")
        for parts, value in ((means, prior.loc), (precisions, prior.scale**-2)):
            parts.append(value.to(device=target.device, dtype=target.dtype).expand(shape).reshape(-1))
    return torch.cat(means), torch.cat(precisions)
