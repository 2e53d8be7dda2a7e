"""What a metric is: a symmetric positive definite matrix G(ω) for every position, M = G⁻¹ its inverse."""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor

from ..target import Target
from ..threefry import Noise

# Random streams of one step: what a sampler injects in the metric's own shape and in the damping's, the direction that
# the drift is probed in, and the labels of a sampled Fisher.
INJECTED, DAMPING, PROBE, LABELS = 0, 1, 2, 3

_EIGENVALUES = 1000  # parameters up to which the smallest eigenvalue is worked out


def no_noise(target: Target, num_chains: int = 1) -> Noise:
    """Random numbers for looking at a metric outside of any chain."""
    keys = torch.zeros(num_chains, 2, dtype=torch.int32, device=target.device)
    return Noise(keys, torch.zeros((), dtype=torch.int64, device=target.device), target.dtype)


def smallest_eigenvalue(metric: Metric, target: Target, position: Float[Tensor, "1 dim"], noise: Noise) -> float:
    """Of G at one position; ∞ where it is too large to tell, or not finite."""
    dim = target.dim
    if dim > _EIGENVALUES:
        return float("inf")
    curvature = metric.curvature(target, position, noise)
    units = torch.eye(dim, dtype=position.dtype, device=position.device)
    matrix = torch.cat([curvature.multiply(unit[None]) for unit in units]) + metric.damping * units
    return float(torch.linalg.eigvalsh(matrix.double())[0]) if bool(torch.isfinite(matrix).all()) else float("inf")


def remedy(metric: Metric, target: Target, position: Float[Tensor, "1 dim"], noise: Noise) -> str | None:
    """What to do about a chain that stopped here, if its metric is to blame."""
    smallest = smallest_eigenvalue(metric, target, position, noise)
    if smallest > 0:
        return None
    return (
        f"There its metric has {smallest:.3g} as smallest eigenvalue and is not positive definite: give it more "
        "damping, or add a multiple of the identity to it"
    )


class MetricValue(Protocol):
    """G at the position of every chain, factorised.

    Attributes
    ----------
    noise_dim
        How many standard normal numbers `factor` takes; D or more.
    """

    @property
    def noise_dim(self) -> int:
        """Length of the ξ that `factor` and `sample_noise` take."""
        ...

    def solve(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """G⁻¹v."""
        ...

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """G v."""
        ...

    def factor(self, noise: Float[Tensor, "chain noise"]) -> Float[Tensor, "chain dim"]:
        """L ξ with L Lᵀ = G: gradient noise of covariance G, and after `solve` noise of covariance G⁻¹."""
        ...

    def sample_noise(self, noise: Float[Tensor, "chain noise"]) -> Float[Tensor, "chain dim"]:
        """Noise of covariance G⁻¹ from standard normal numbers."""
        ...

    def log_det(self) -> Float[Tensor, " chain"]:
        """log |G|."""
        ...

    def trace(self, curvature: Any) -> Float[Tensor, " chain"]:
        """Tr(G⁻¹F) with an F of the same structure, to be differentiated in F."""
        ...


class Curvature(Protocol):
    """F at the position of every chain, before it is damped and factorised; a smooth function of the position."""

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """F v."""
        ...

    def scaled(self, factor: Tensor | float) -> Self:
        """A multiple of F."""
        ...

    def plus(self, other: Self) -> Self:
        """F + F′."""
        ...

    def damped(self, damping: float) -> MetricValue:
        """F + δI, factorised."""
        ...


class Metric(Protocol):
    """Settings of a metric.

    Attributes
    ----------
    damping
        The δ that G contains, which no gradient noise corresponds to; 0 where there is none.
    constant
        Whether G is the same everywhere.
    """

    @property
    def damping(self) -> float:
        """δ in G = F + δI."""
        ...

    @property
    def constant(self) -> bool:
        """Whether G does not depend on ω."""
        ...

    def check(self, target: Target, drift: str, measure: str, num_warmup: int | None) -> None:
        """Raise a ValueError or NotImplementedError for what this metric cannot do on this target."""
        ...

    def at(self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise) -> MetricValue:
        """G(ω). Whatever is random in it depends on `noise` alone: the same noise is the same function of ω."""
        ...

    def curvature(self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise) -> Curvature:
        """G(ω) before damping, in its structure."""
        ...

    def product(
        self,
        target: Target,
        position: Float[Tensor, "chain dim"],
        noise: Noise,
        vector: Float[Tensor, "chain dim"],
    ) -> Float[Tensor, "chain dim"]:
        """G(ω) v, to be differentiated in ω."""
        ...

    def remember(self, target: Target, position: Float[Tensor, "chain dim"]) -> Any:
        """What the metric carries from step to step, as a tree of tensors: () unless it averages or refreshes."""
        ...

    def recall(
        self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise, memory: Any, warming: Tensor
    ) -> tuple[MetricValue, Any]:
        """The metric for this step and what to remember of it; `warming` is 0-d, true during warm-up."""
        ...
