"""Natural gradient descent as a sampler."""

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
class NGD:
    r"""Minibatch natural gradient descent (Smith et al. 2018, Eq. 11), whose own noise makes it sample.

    .. math:: ω ← ω − ε (F + δI)^{-1} ĝ

    Where the gradients of single examples have covariance F, minibatches of B drawn without replacement make the
    temperature T_mb = (εN/2B)(1 − B/N), and in one dimension the law is close to ``exp(−C/T_mb) F`` at
    δ = 0 (no drift); in more there is in general no closed form.

    **Approximate** in known ways. Damping cools: along an eigenvector of F with eigenvalue f the temperature is T_mb
    f/(f+δ) and the variance T_mb/(N(f+δ)(1 − a/2)), a = εf/(f+δ). There is no drift for the change of F. At a wrong
    model, or far from the mode, the covariance of the gradients is not F.

    Parameters
    ----------
    lr
        ε, or a schedule, which then changes T_mb too.
    metric
        G = F + δI, as a rule a `Fisher`.
    temperature
        None: Eq. 11 as it stands. A number T ≥ T_mb: add what the minibatch does not supply, gradient noise of
        covariance (2/(εN)) [(T − T_mb) G + T_mb δI], so that damping does not cool. With the full data all of it is
        added.

    Raises
    ------
    ValueError
        For settings out of range; when sampling begins, for a T below T_mb, with the batch size and lr that reach it.
    """

    lr: float | Schedule
    metric: Metric
    temperature: float | None = None

    drift: ClassVar[Drift] = "none"
    measure: ClassVar[Measure] = "lebesgue"
    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()
    counts_minibatch: ClassVar[bool] = True

    def __post_init__(self):
        check_settings(self)

    check, init, preconditioner = natural.check, natural.init, natural.preconditioner

    def step(self, target: Target, state: NaturalState, batch: Batch, noise: Noise) -> NaturalState:
        """ω ← ω − ε M (ĝ + α), α = 0 for a temperature of None."""
        ε, heat = at_step(self.lr, state.step)
        T_mb = minibatch_temperature(ε, target.num_data, None if batch is None else batch.shape[1])
        G, memory = self.preconditioner(target, state, batch, noise)
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        T, α = T_mb, 0.0
        if self.temperature is not None:
            T = self.temperature * heat
            α = missing_noise(target, self.metric, G, noise, lr=ε, temperature=T, from_batch=T_mb)
        return advance(self, target, state, noise, ε=ε, T=T, G=G, memory=memory, cost=cost, ĝ=ĝ, α=α)
