"""Gauss–Newton and Levenberg–Marquardt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..control import choose
from ..metrics.dense import cholesky
from ..posterior import Posterior
from ..schedules import Schedule, at_step, check_lr, check_positive
from ..target import Batch, Target
from ..threefry import Noise
from .curvature import check_examples, gauss_newton_matrix

ROUNDING = 16  # units of |C|'s last place below which two costs cannot be compared


@dataclass
class GaussNewtonState:
    """State of every chain.

    Attributes
    ----------
    position, gradient, cost, curvature
        ω, and g, C and G there.
    damping, growth
        λ, and the factor that the next refusal multiplies it by.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    curvature: Float[Tensor, "chain dim dim"]
    damping: Float[Tensor, " chain"]
    growth: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class GaussNewton:
    r"""Gauss–Newton with the damping of Levenberg (1944) and Marquardt (1963), for any likelihood.

    .. math:: ω ← ω − ε (G + λI)^{-1} g, \qquad G = \frac1N \Big(\sum_i J_i^T H_i J_i + ∇^2 R\Big)

    with Jᵢ the derivative of the outputs for input i and Hᵢ the Fisher information of their distribution. For least
    squares, H = 1/σ², this is (JᵀJ + λ′I)⁻¹Jᵀf in the residuals f; for other likelihoods it is Fisher scoring
    (generalised Gauss–Newton, Schraudolph 2002).

    λ is adapted by the gain ratio ϱ, how much the mean cost falls over how much its quadratic model says: a step that
    does not lower the cost is not made and λ grows by 2, 4, 8, …; one that does divides λ by up to 3, λ ← λ max(⅓, 1 −
    (2ϱ−1)³) (Nielsen 1999, IMM-REP-1999-05). Where falls are too small for the precision of C, a step counts as
    good if it shortens the gradient.

    Good for small and medium networks: quadratic convergence where residuals are small, D × D matrices and D³
    operations a step. G is not negative where R is convex, so that a saddle attracts it as a mode does, slowly.

    Parameters
    ----------
    damping
        λ at the start as a multiple of the largest diagonal element of G there; 0 starts with plain Gauss–Newton.
    adapt
        Whether λ changes and steps can be refused. False with ``damping=0`` is plain Gauss–Newton.
    lr
        ε, or a schedule.

    Raises
    ------
    ValueError
        For settings out of range; at the start for minibatches, a target other than a `Posterior` whose likelihood has
        `fisher(outputs)`, or more than 5000 parameters.
    """

    damping: float = 1e-3
    adapt: bool = True
    lr: float | Schedule = 1.0

    gradient_at: ClassVar[str] = "current"
    stats: ClassVar[tuple[str, ...]] = ()
    prefers_double: ClassVar[bool] = True

    def __post_init__(self):
        check_lr(self.lr)
        if self.damping != 0:
            check_positive(damping=self.damping)

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Refuse minibatches, and targets without examples."""
        if batch_size is not None:
            raise ValueError("GaussNewton compares costs of the full data: use batch_size=None")
        check_examples(target, "GaussNewton")

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> GaussNewtonState:
        """Evaluate the start and choose λ."""
        assert isinstance(target, Posterior)
        cost, gradient = target.cost_and_gradient(position)
        G = gauss_newton_matrix(target, position)
        return GaussNewtonState(
            position=position.clone(),
            gradient=gradient,
            cost=cost,
            curvature=G,
            damping=self.damping * _scale(G),
            growth=torch.full_like(cost, 2.0),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
        )

    def refused(self, state: GaussNewtonState) -> Bool[Tensor, " chain"]:
        """Whether the last step was not made."""
        return state.growth > 2

    def step(self, target: Target, state: GaussNewtonState, batch: Batch, noise: Noise) -> GaussNewtonState:
        """ω ← ω − ε (G + λI)⁻¹ g, if the cost falls."""
        assert isinstance(target, Posterior)
        ε, _ = at_step(self.lr, state.step)
        ω, g, G, λ, N = state.position, state.gradient, state.curvature, state.damping, target.num_data
        identity = torch.eye(ω.shape[-1], dtype=ω.dtype, device=ω.device)
        s = -ε * torch.cholesky_solve(g[..., None], cholesky(G + λ[:, None, None] * identity))[..., 0]
        cost, gradient = target.cost_and_gradient(ω + s)
        if not self.adapt:
            return GaussNewtonState(
                ω + s, gradient, cost, gauss_newton_matrix(target, ω + s), λ, state.growth, state.step + 1
            )
        model = -((g * s).sum(-1) + 0.5 * (s * (G @ s[..., None])[..., 0]).sum(-1))
        fall = (state.cost - cost) / N
        measurable = model > ROUNDING * torch.finfo(ω.dtype).eps * state.cost.abs() / N
        shorter = gradient.norm(dim=-1) < g.norm(dim=-1)
        good = torch.where(measurable, fall > 0, shorter) & torch.isfinite(cost)
        ϱ = torch.where(measurable, fall / model, 1.0)
        # From λ = 0 a refusal begins at what rounding would allow: the step is then cut where G is singular.
        least = torch.finfo(ω.dtype).eps * _scale(G)
        λ = torch.where(
            good,
            λ * (1 - (2 * ϱ - 1) ** 3).clamp(1 / 3, 2.0),
            torch.maximum(λ, least) * state.growth,
        )
        position = torch.where(good[:, None], ω + s, ω)
        return GaussNewtonState(
            position=position,
            gradient=torch.where(good[:, None], gradient, g),
            cost=torch.where(good, cost, state.cost),
            curvature=choose(good.any(), lambda: gauss_newton_matrix(target, position), G),
            damping=λ.clamp_max(torch.finfo(ω.dtype).max ** 0.5),
            growth=torch.where(good, 2.0, (2 * state.growth).clamp_max(2.0**20)),
            step=state.step + 1,
        )


def _scale(G: Float[Tensor, "chain dim dim"]) -> Float[Tensor, " chain"]:
    return G.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(torch.finfo(G.dtype).tiny)
