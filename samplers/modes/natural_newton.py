"""Natural Newton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import data as data_
from ..averages import newest_weight
from ..metrics.dense import cholesky, gram
from ..metrics.rows import chunks_of, rows_of, score_directions, take_chunk
from ..posterior import Posterior
from ..schedules import Schedule, at_step, check_lr, check_positive
from ..target import Batch, Target
from ..threefry import Noise
from .curvature import check_examples, gauss_newton_matrix


@dataclass
class NaturalNewtonState:
    """State of every chain.

    Attributes
    ----------
    position
        ω.
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    hessian, covariance
        Running means of H and of Ĉ.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    hessian: Float[Tensor, "chain dim dim"]
    covariance: Float[Tensor, "chain dim dim"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class NaturalNewton:
    r"""Newton's method that trusts a direction as far as the examples agree on it (Le Roux & Fitzgibbon 2010).

    .. math:: ω ← ω − ε \Big[I + \frac{H^{-1} Ĉ H^{-1}}{n σ^2}\Big]^{-1} H^{-1} ĝ

    with Ĉ the covariance of single examples' ∇Lᵢ (divisor n − 1) and n the number of examples that ĝ is the mean of:
    the posterior mean of the Newton direction, given that of the examples and a normal prior of standard deviation σ
    for each of its components. (Duda's slides leave out the H⁻¹ before ĝ, and print σ²H for the prior of g, which is
    σ²H².)

    H is the Gauss–Newton matrix with the prior's Hessian, of the batch that ĝ is of, plus δI; without damping it has to
    be positive definite. A saddle attracts the method as a mode does.

    Good for noisy minibatches with few parameters; D × D matrices and D³ operations a step. The shrinkage changes where
    the method is in a hurry, not where it comes to rest: ĝ = 0.

    Parameters
    ----------
    sigma
        σ in units of ω: how long Newton's steps are expected to be. ∞ is Newton's method.
    damping
        δ ≥ 0, in units of the mean cost's curvature.
    average
        Coefficient in [0, 1) of moving averages of H and Ĉ over steps, begun as plain means; 0 is this step's batch
        alone, whose noise H shares with ĝ. For minibatches 0.9 or more.
    finite_population
        Take the data for all there is rather than for a sample: the covariance of ĝ is then (1 − B/N)Ĉ/B, and full
        batches make Newton steps.
    lr
        ε, or a schedule.

    Raises
    ------
    ValueError
        For settings out of range; at the start for batches of one example, a target other than a `Posterior` whose
        likelihood has `fisher(outputs)`, or more than 5000 parameters.
    """

    sigma: float
    damping: float = 0.0
    average: float = 0.0
    finite_population: bool = False
    lr: float | Schedule = 1.0

    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_lr(self.lr)
        if self.sigma != float("inf"):
            check_positive(sigma=self.sigma)
        if self.damping != 0:
            check_positive(damping=self.damping)
        if not 0 <= self.average < 1:
            raise ValueError(f"average must lie in [0, 1), got {self.average!r}")

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Refuse targets without examples, and batches without a covariance."""
        check_examples(target, "NaturalNewton")
        if (batch_size or target.num_data) < 2:
            raise ValueError("NaturalNewton needs the covariance of the examples of a batch, of two or more")

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> NaturalNewtonState:
        """Start every chain at its position."""
        chains, dim = position.shape
        return NaturalNewtonState(
            position=position.clone(),
            gradient=torch.zeros_like(position),
            cost=position.new_zeros(chains),
            hessian=position.new_zeros(chains, dim, dim),
            covariance=position.new_zeros(chains, dim, dim),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
        )

    def step(self, target: Target, state: NaturalNewtonState, batch: Batch, noise: Noise) -> NaturalNewtonState:
        """ω ← ω − ε [I + H⁻¹ĈH⁻¹/(nσ²)]⁻¹ H⁻¹ĝ."""
        assert isinstance(target, Posterior)
        ε, _ = at_step(self.lr, state.step)
        ω, N = state.position, target.num_data
        n = N if batch is None else batch.shape[1]
        cost, ĝ = target.cost_and_gradient(ω, batch)
        weight = newest_weight(state.step, self.average).to(ω)
        H = state.hessian + weight * (gauss_newton_matrix(target, ω, batch) - state.hessian)
        Ĉ = state.covariance + weight * (covariance_of_examples(target, ω, batch) - state.covariance)

        identity = torch.eye(target.dim, dtype=ω.dtype, device=ω.device)
        root = cholesky(H + self.damping * identity)
        d = torch.cholesky_solve(ĝ[..., None], root)
        of_newton = torch.cholesky_solve(torch.cholesky_solve(Ĉ, root).mT, root)  # H⁻¹ĈH⁻¹
        share = (1 - n / N if self.finite_population else 1.0) / (n * self.sigma**2)
        d = torch.linalg.solve(identity + share * of_newton, d)
        return NaturalNewtonState(
            position=ω - ε * d[..., 0],
            gradient=ĝ,
            cost=cost,
            hessian=H,
            covariance=Ĉ,
            step=state.step + 1,
        )


def covariance_of_examples(
    posterior: Posterior, position: Float[Tensor, "chain dim"], batch: Batch = None
) -> Float[Tensor, "chain dim dim"]:
    """Covariance of the examples' ∇Lᵢ, divisor n − 1; the prior, which all share, has no part in it."""
    shared = batch is None
    inputs = posterior.inputs if batch is None else data_.take(posterior.inputs, batch)
    outputs = posterior.outputs(position, inputs, shared)
    targets = (
        posterior.targets.expand(len(outputs), *posterior.targets.shape) if batch is None else posterior.targets[batch]
    )
    directions = score_directions(posterior, outputs, targets[:, None])
    n = outputs.shape[1]
    second, mean = position.new_zeros(()), position.new_zeros(())
    for chunk in chunks_of(n, len(position) * posterior.dim, position.device):
        rows = rows_of(posterior, position, *take_chunk(inputs, directions, chunk, shared), shared)
        second, mean = second + gram(rows), mean + rows.sum(1)
    return (second - mean[..., :, None] * mean[..., None, :] / n) / (n - 1)
