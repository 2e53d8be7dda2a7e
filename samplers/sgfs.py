"""Stochastic gradient Fisher scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from . import natural
from .metrics.metric import INJECTED, Curvature, Metric, MetricValue, no_noise
from .natural import Drift, Measure, NaturalState, advance, check_settings
from .schedules import Schedule, at_step, check_positive
from .target import Batch, Target
from .temperature import minibatch_temperature
from .threefry import Noise


@dataclass(frozen=True, kw_only=True)
class SGFS:
    r"""Stochastic gradient Fisher scoring (Ahn et al. 2012), in the form that is exact at any step size.

    .. math::

        ω ← ω − ε G^{-1} (ĝ + α), \qquad G = \tfrac ε2 H + \tfrac{T_{mb}}{T} Σ + B_0,
        \qquad α ∼ \mathcal N\!\left(0, \tfrac{2T}{εN} B_0\right)

    with Σ the covariance of the gradients of single examples and T_mb = (εN/2B)(1 − B/N), so that (T_mb/T) Σ = (εN/2T)
    S_mb. Ahn's ε is 2ε/N, and his γ = (N + B)/B is that of batches drawn with replacement.

    Target density: exp(−C/T), **exact** at every ε and B on a quadratic cost, whether or not the model is right, if H
    and Σ are those of the cost; elsewhere **approximate**: with frozen H and Σ a Gaussian of the curvature where they
    were taken, with a metric of the present position one whose drift is left out.

    Parameters
    ----------
    lr
        ε, or a schedule.
    metric
        Σ, as a rule ``Fisher(kind="empirical", centered=True, inputs=B, average=0.99)``, which is frozen when warm-up
        ends. Its damping is not used.
    hessian
        H = ∇²C/N, of the same structure, such as ``ConstantMetric`` or ``Fisher()``. None: Σ, right for a right model
        and a flat prior. `Fisher` leaves out the prior's part of H.
    temperature
        T > 0.
    noise
        b ≥ 0 in B₀ = bI: how much noise is injected, at the price of smaller steps. Needed where H and Σ are singular.

    Raises
    ------
    ValueError
        For settings out of range, and for H and Σ of different structures.
    """

    lr: float | Schedule
    metric: Metric
    hessian: Metric | None = None
    temperature: float = 1.0
    noise: float = 0.0

    drift: ClassVar[Drift] = "none"
    measure: ClassVar[Measure] = "lebesgue"
    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()
    counts_minibatch: ClassVar[bool] = True

    def __post_init__(self):
        check_settings(self)
        check_positive(temperature=self.temperature)
        if self.noise != 0:
            check_positive(noise=self.noise)

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Ask the metrics, and compare their structures."""
        few = target.default_position()[None]
        metrics = [m for m in (self.metric, self.hessian) if m is not None]
        kinds = set()
        for metric in metrics:
            metric.check(target, self.drift, self.measure, num_warmup)
            kinds.add(type(metric.curvature(target, few, no_noise(target))).__name__)
            if getattr(metric, "refresh_every", 1) > 1 and getattr(metric, "average", None) is None:
                raise ValueError("SGFS evaluates its metric at every step unless it averages: use refresh_every=1")
        if len(kinds) > 1:
            raise ValueError(f"metric and hessian must have one structure, got {sorted(kinds)}")
        if "KroneckerCurvature" in kinds:
            raise NotImplementedError(
                "SGFS needs multiples and sums of curvatures, which are no Kronecker products: use "
                'structure="dense", "quasi_diagonal" or "diagonal"'
            )
        if self.noise == 0 and "LowRankCurvature" in kinds:
            raise ValueError("with fewer rows than parameters G is singular: give noise > 0")
        if self.noise == 0 and batch_size in (None, target.num_data):
            raise ValueError(
                "with the full data and noise=0 nothing drives SGFS, it reflects about the mode for ever: give "
                "noise > 0, or a batch_size below N"
            )

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> NaturalState:
        """Start every chain at its position."""
        state = natural.init(self, target, position, num_warmup)
        if self.hessian is not None:
            state.memory = (state.memory, self.hessian.remember(target, position))
        return state

    def preconditioner(
        self, target: Target, state: NaturalState, batch: Batch, noise: Noise
    ) -> tuple[MetricValue, Any]:
        """G = (ε/2) H + (T_mb/T) Σ + bI, and what to remember of H and Σ."""
        ε, T = at_step(self.lr, state.step)[0], self.temperature
        T_mb = minibatch_temperature(ε, target.num_data, None if batch is None else batch.shape[1])
        if self.hessian is None:
            Σ, memory = self._recall(self.metric, target, state, noise, state.memory)
            total = Σ.scaled(ε / 2 + T_mb / T)
        else:
            Σ, of_metric = self._recall(self.metric, target, state, noise, state.memory[0])
            H, of_hessian = self._recall(self.hessian, target, state, noise, state.memory[1])
            total, memory = H.scaled(ε / 2).plus(Σ.scaled(T_mb / T)), (of_metric, of_hessian)
        return total.damped(self.noise), memory

    def step(self, target: Target, state: NaturalState, batch: Batch, noise: Noise) -> NaturalState:
        """ω ← ω − ε G⁻¹ (ĝ + α)."""
        ε, heat = at_step(self.lr, state.step)
        T, N = self.temperature, target.num_data
        G, memory = self.preconditioner(target, state, batch, noise)
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        α = (2 * T * heat * self.noise / (ε * N)) ** 0.5 * noise.normal(target.dim, INJECTED)
        return advance(self, target, state, noise, ε=ε, T=T, G=G, memory=memory, cost=cost, ĝ=ĝ, α=α)

    @staticmethod
    def _recall(
        metric: Metric, target: Target, state: NaturalState, noise: Noise, memory: Any
    ) -> tuple[Curvature, Any]:
        if memory == ():
            return metric.curvature(target, state.position, noise), memory
        _, memory = metric.recall(target, state.position, noise, memory, state.step < state.num_warmup)
        return memory.average, memory
