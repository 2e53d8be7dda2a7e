"""Stochastic natural gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import natural
from .metrics.metric import Metric
from .natural import Drift, Measure, NaturalState, advance, check_settings, missing_noise
from .schedules import Schedule, at_step
from .target import Batch, Target
from .temperature import minibatch_temperature
from .threefry import Noise


@dataclass(frozen=True, kw_only=True)
class SNGD:
    r"""Stochastic natural gradient descent (Smith et al. 2018, Eq. 2 with the sign of div M corrected).

    .. math::

        ω ← ω − ε M (ĝ + α) + ε \frac TN \left[\operatorname{div} M + \tfrac12 M ∇\log|G|\right], \quad
        M = (F + δI)^{-1}

    The minibatch supplies the noise, at temperature T_mb = (εN/2B)(1 − B/N), and α only what is missing: covariance
    (2/(εN)) [(T − T_mb) G + T_mb δI], which is nothing at T = T_mb without damping.

    Target density as ε → 0: ``exp(−C/T) |G|^(1/2)``, the posterior with the Jeffreys prior, the same in every
    parameterisation at δ = 0; for ``measure="lebesgue"`` exp(−C/T).

    **Approximate** at a finite ε, and where the covariance of the gradients at the observed labels is not F: away from
    the truth it cannot be, and batch means are skew. Both leave the mean right to leading order and change the skewness
    by order √(T/N), whatever ε. Exact in this respect: ``metric=Fisher(kind="empirical", centered=True)``,
    ``measure="lebesgue"`` and batches large enough for Gaussian noise.

    Parameters
    ----------
    lr
        ε, or a schedule, which then changes T_mb too.
    metric
        G = F + δI, as a rule a `Fisher`. A metric without damping of its own is taken to be the gradients' covariance.
    temperature
        T ≥ T_mb; None for T = T_mb.
    measure
        ``"jeffreys"`` or ``"lebesgue"``.
    drift
        As of `RiemannianLangevin`.

    Raises
    ------
    ValueError, NotImplementedError
        For settings out of range; when sampling begins, for a T below T_mb (with the batch size and lr that reach it),
        for T = None with the full data, and for a metric that cannot do what is asked.
    """

    lr: float | Schedule
    metric: Metric
    temperature: float | None = None
    measure: Measure = "jeffreys"
    drift: Drift = "midpoint"

    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()
    counts_minibatch: ClassVar[bool] = True

    def __post_init__(self):
        check_settings(self)

    check, init, preconditioner = natural.check, natural.init, natural.preconditioner

    def step(self, target: Target, state: NaturalState, batch: Batch, noise: Noise) -> NaturalState:
        """ω ← ω − ε M(ĝ + α) + ε (T/N) [div M + ½ M ∇log|G|]."""
        ε, heat = at_step(self.lr, state.step)
        T_mb = minibatch_temperature(ε, target.num_data, None if batch is None else batch.shape[1])
        T = None if self.temperature is None else self.temperature * heat
        G, memory = self.preconditioner(target, state, batch, noise)
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        α = missing_noise(target, self.metric, G, noise, lr=ε, temperature=T, from_batch=T_mb)
        T = T_mb if T is None else T
        return advance(self, target, state, noise, ε=ε, T=T, G=G, memory=memory, cost=cost, ĝ=ĝ, α=α)
