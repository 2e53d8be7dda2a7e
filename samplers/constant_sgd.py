"""Stochastic gradient descent with the constant learning rate that makes it sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .metrics.diagonal import Diagonal
from .metrics.fisher import Fisher
from .metrics.metric import MetricValue
from .schedules import check_fraction, check_positive
from .target import Batch, Target
from .threefry import Noise

Structure = Literal["scalar", "diagonal", "full"]


@dataclass
class ConstantSGDState:
    """State of every chain.

    Attributes
    ----------
    position
        ω.
    velocity
        v, the average of Mĝ that momentum keeps.
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    step, num_warmup
        Number of steps made, and of steps of warm-up.
    memory
        The running average of Σ.
    """

    position: Float[Tensor, "chain dim"]
    velocity: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    step: Int[Tensor, ""]
    num_warmup: Int[Tensor, ""]
    memory: Any


@dataclass(frozen=True, kw_only=True)
class ConstantSGD:
    r"""Minibatch SGD at the constant learning rate whose own noise has temperature T (Mandt et al. 2017).

    .. math::

        v ← βv + (1−β)\, Kĝ, \qquad ω ← ω − v, \qquad K = \frac{2TB}{N−B}\, Σ^{-1}

    No noise is injected. Σ is the covariance of the gradients of single examples, averaged over the warm-up and then
    frozen; its inverse stands for

    - ``"scalar"``: D/Tr Σ (Mandt's optimal learning rate, in the Kullback–Leibler sense). Only the average over
      directions is at T;
    - ``"diagonal"``: 1/Σ_kk for each parameter, so that ⟨ω_k ∂_k C⟩ = T for every k (the Gibbs law of McAllester's
      slides, ηᵢ = η′/σᵢ²). Correlations are not the posterior's;
    - ``"full"``: Σ⁻¹. Near a mode the covariance tends to (T/N) H⁻¹ as K → 0.

    Mandt prints B/N for B/(N−B), which is for batches drawn with replacement.

    **Approximate** everywhere but on a quadratic cost with constant gradient noise, where the law is the Gaussian with
    V = (I − KH)V(I − KH)ᵀ + K S_mb Kᵀ at β = 0. With T fixed, K becomes small, and the law that of T, only where B is
    small against N.

    Parameters
    ----------
    temperature
        T > 0.
    structure
        What of Σ is used.
    damping
        δ ≥ 0 added to Σ; needed where gradients of some parameters vanish. It cools.
    average
        Coefficient of the moving average of Σ.
    inputs
        From how many examples, drawn anew at every step, Σ is estimated during warm-up; None for all.
    momentum
        β in [0, 1). It leaves the law as it is to leading order.

    Attributes
    ----------
    metric
        Σ + δI, as a metric.

    Raises
    ------
    ValueError
        For settings out of range; when sampling begins, for targets without examples, the full data, no warm-up, or a
        singular Σ without damping.
    """

    temperature: float = 1.0
    structure: Structure = "scalar"
    damping: float = 0.0
    average: float = 0.99
    inputs: int | None = None
    momentum: float = 0.0
    metric: Fisher = field(init=False, repr=False)

    law: ClassVar[str] = "the law that SGD's own noise makes near a mode"
    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()
    counts_minibatch: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(temperature=self.temperature)
        check_fraction(momentum=self.momentum)
        if self.structure not in get_args(Structure):
            raise ValueError(f"structure must be one of {get_args(Structure)}, got {self.structure!r}")
        metric = Fisher(
            kind="empirical",
            centered=True,
            structure="dense" if self.structure == "full" else "diagonal",
            damping=self.damping,
            inputs=self.inputs,
            average=self.average,
        )
        object.__setattr__(self, "metric", metric)

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Ask for minibatches, and the metric."""
        if batch_size is None or batch_size >= target.num_data:
            raise ValueError("ConstantSGD takes its heat from minibatch noise: give a batch_size below N")
        self.metric.check(target, "none", "lebesgue", num_warmup)

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> ConstantSGDState:
        """Start every chain at its position."""
        return ConstantSGDState(
            position=position.clone(),
            velocity=torch.zeros_like(position),
            gradient=torch.zeros_like(position),
            cost=position.new_zeros(position.shape[0]),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
            num_warmup=torch.full((), num_warmup, dtype=torch.int64, device=position.device),
            memory=self.metric.remember(target, position),
        )

    def preconditioner(self, target: Target, state: ConstantSGDState, batch: Batch, noise: Noise) -> tuple[_Rate, Any]:
        """K⁻¹, and what to remember of Σ."""
        assert batch is not None
        Σ, memory = self.metric.recall(target, state.position, noise, state.memory, state.step < state.num_warmup)
        if self.structure == "scalar":
            assert isinstance(Σ, Diagonal)
            Σ = Diagonal(Σ.diagonal.mean(-1, keepdim=True))
        B, N = batch.shape[1], target.num_data
        return _Rate(2 * self.temperature * B / (N - B), Σ), memory

    def step(self, target: Target, state: ConstantSGDState, batch: Batch, noise: Noise) -> ConstantSGDState:
        """v ← βv + (1−β) Kĝ, ω ← ω − v."""
        β = self.momentum
        rate, memory = self.preconditioner(target, state, batch, noise)
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        v = β * state.velocity + (1 - β) * rate.solve(ĝ)
        return ConstantSGDState(
            position=state.position - v,
            velocity=v,
            gradient=ĝ,
            cost=cost,
            step=state.step + 1,
            num_warmup=state.num_warmup.clone(),
            memory=memory,
        )


@dataclass(frozen=True)
class _Rate:
    """ε and Σ of K = εΣ⁻¹."""

    lr: Any
    covariance: MetricValue

    def solve(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """K v."""
        return self.lr * self.covariance.solve(vector)
