"""Saddle-free Newton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..schedules import Schedule, at_step, check_lr, check_positive
from ..target import Batch, Target, hessian_product
from ..threefry import Noise
from .curvature import krylov, ritz
from .gauss_newton import ROUNDING

SUFFICIENT = 1e-4  # of the fall that the model predicts (Armijo)
HALVINGS = 50
NEGATIVE = {torch.float64: 1e-8}  # parts of the largest curvature below which a negative one may be rounding
NEGATIVE_ELSEWHERE = 1e-4


@dataclass
class SaddleFreeState:
    """State of every chain.

    Attributes
    ----------
    position, gradient, cost
        ω, and g and C there.
    smallest, largest
        Smallest eigenvalue of H in the Krylov space of the last step, and largest magnitude of one.
    length
        t, the part of the last step that was made.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    smallest: Float[Tensor, " chain"]
    largest: Float[Tensor, " chain"]
    length: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class SaddleFreeNewton:
    r"""Newton's method by the magnitudes of curvatures, which is repelled by saddles (Dauphin et al. 2014).

    .. math:: ω ← ω − t \sum_k |λ_k|^{-1} v_k v_k^T g

    V spans the block Krylov space of g and of a random vector, {g, ξ, Hg, Hξ, H²g, …}, by Lanczos with Hessian-vector
    products; λₖ, vₖ are Ritz values and vectors in it. As g lies in it, nothing of the step is outside. (Dauphin et
    al. start from g alone, whose Krylov space on the stable manifold of a saddle never leaves that manifold.)
    Magnitudes count as δ times the largest at least.

    Along directions of negative curvature the step is `kick` long at least, so that it leaves saddles where the
    gradient is zero. t = 1, ½, ¼, … is the first that lowers the cost sufficiently: **the cost never increases** by
    more than its rounding.

    Good for costs with saddles, and for large D: num_vectors Hessian-vector products a step, each of two or three
    gradients. With num_vectors ≥ D nothing is left out of H, and the step converges quadratically.

    Parameters
    ----------
    num_vectors
        Dimensions of the Krylov space, and Hessian-vector products of a step (D, if less).
    damping
        δ in (0, 1].
    kick
        Least length of a step along each direction of negative curvature, in units of ω.
    lr
        Length t that is tried first, or a schedule of it.

    Raises
    ------
    ValueError
        For settings out of range, and at the start for minibatches.
    """

    num_vectors: int = 20
    damping: float = 1e-6
    kick: float = 1e-2
    lr: float | Schedule = 1.0

    gradient_at: ClassVar[str] = "current"
    stats: ClassVar[tuple[str, ...]] = ()
    prefers_double: ClassVar[bool] = True

    def __post_init__(self):
        check_lr(self.lr)
        check_positive(damping=self.damping, kick=self.kick)
        if self.damping > 1:
            raise ValueError(f"damping is a part of the largest curvature, in (0, 1], got {self.damping}")
        if isinstance(self.num_vectors, bool) or not isinstance(self.num_vectors, int) or self.num_vectors < 2:
            raise ValueError(
                f"num_vectors must be a whole number ≥ 2, for the gradient and what it misses, got {self.num_vectors!r}"
            )

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Refuse minibatches."""
        if batch_size is not None:
            raise ValueError("SaddleFreeNewton compares costs of the full data: use batch_size=None")

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> SaddleFreeState:
        """Evaluate the start."""
        cost, gradient = target.cost_and_gradient(position)
        return SaddleFreeState(
            position=position.clone(),
            gradient=gradient,
            cost=cost,
            smallest=torch.full_like(cost, -torch.inf),  # not yet known
            largest=torch.ones_like(cost),
            length=torch.zeros_like(cost),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
        )

    def unsettled(self, state: SaddleFreeState) -> Bool[Tensor, " chain"]:
        """Whether the last step saw negative curvature: a vanishing gradient is a saddle's then."""
        return state.smallest < -NEGATIVE.get(state.cost.dtype, NEGATIVE_ELSEWHERE) * state.largest

    def refused(self, state: SaddleFreeState) -> Bool[Tensor, " chain"]:
        """Whether the last step was not made."""
        return state.length == 0

    def step(self, target: Target, state: SaddleFreeState, batch: Batch, noise: Noise) -> SaddleFreeState:
        """ω ← ω − t Σ vₖ vₖᵀg/abs(λₖ), at least `kick` long where λₖ < 0."""
        ω, g, N = state.position, state.gradient, target.num_data
        ξ = noise.normal(target.dim)
        size = min(self.num_vectors, target.dim)
        λ, v = ritz(*krylov(lambda vector: hessian_product(target, ω, vector), [g, ξ][:size], size))
        largest = λ.abs().amax(-1, keepdim=True)
        magnitude = torch.maximum(λ.abs(), self.damping * largest).clamp_min(torch.finfo(ω.dtype).tiny)
        c = (v @ g[..., None])[..., 0]
        s = -c / magnitude
        negative = λ < -NEGATIVE.get(ω.dtype, NEGATIVE_ELSEWHERE) * largest
        s = torch.where(negative & (s.abs() < self.kick), self.kick * torch.where(c > 0, -1.0, 1.0), s)
        # What the cost falls by along t s, to first order and, where it is curved downwards, to second.
        slope, bend = -(c * s).sum(-1), (torch.where(negative, -λ, 0.0) * s**2).sum(-1) / 2
        s = (s[:, None] @ v)[:, 0]
        # Where the cost's precision cannot tell, the gradient does.
        blind = (slope + bend) * N <= ROUNDING * torch.finfo(ω.dtype).eps * state.cost.abs()
        t = self._length(target, state, s, slope, bend, blind)
        position = ω + t[:, None] * s
        cost, gradient = target.cost_and_gradient(position)
        worse = (blind & (gradient.norm(dim=-1) >= g.norm(dim=-1))) | (t == 0)
        return SaddleFreeState(
            position=torch.where(worse[:, None], ω, position),
            gradient=torch.where(worse[:, None], g, gradient),
            cost=torch.where(worse, state.cost, cost),
            smallest=λ[:, 0],
            largest=largest[:, 0],
            length=torch.where(worse, 0.0, t),
            step=state.step + 1,
        )

    def _length(
        self, target: Target, state: SaddleFreeState, s: Tensor, slope: Tensor, bend: Tensor, blind: Tensor
    ) -> Float[Tensor, " chain"]:
        """The first of ε, ε/2, ε/4, … by which the cost falls sufficiently; 0 if none does."""
        N = target.num_data
        t = torch.as_tensor(at_step(self.lr, state.step)[0]).to(s).expand_as(state.cost).clone()
        enough = blind
        for _ in range(HALVINGS):
            fall = state.cost - target.cost(state.position + t[:, None] * s)
            enough = blind | (fall >= SUFFICIENT * N * (t * slope + t**2 * bend)) & (fall > 0)
            if bool(enough.all()):
                return t
            t = torch.where(enough, t, t / 2)
        return torch.where(enough, t, 0.0)
