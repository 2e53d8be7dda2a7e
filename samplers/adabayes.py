"""Optimisation as Bayesian filtering: AdaBayes and its fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .averages import debiased
from .schedules import check_fraction, check_positive
from .target import Batch, Target
from .threefry import Noise


@dataclass
class AdaBayesState:
    """State of every chain.

    Attributes
    ----------
    position
        μ, the filter's mean.
    momentum
        m, the average of g.
    memory
        AdaBayes: σ²_prior, the filter's variance before the next observation. AdaBayes-FP: v, the average of g².
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    step_size
        Mean over parameters of s, the step size of this step: of the *summed* minibatch gradient.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    momentum: Float[Tensor, "chain dim"]
    memory: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    step_size: Float[Tensor, " chain"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class AdaBayes:
    r"""AdaBayes (Aitchison 2020, Algorithm 1): Bayesian filtering of each parameter's moving optimum.

    .. math::

        m ← β_1 m + (1−β_1) g, \quad ⟨g⟩ = \frac{m}{1 − β_1^t}, \quad s = \frac{1}{1/σ^2_{prior} + g^2}, \quad
        μ ← (1−λ)μ + s⟨g⟩, \quad σ^2_{prior} ← a^2 s + η^2

    with g = −Bĝ the gradient of the **summed** minibatch log-likelihood, η = η_Adam, σ² = η_SGD/B, a = 1 − η²/(2σ²)
    and σ²_prior = σ² at the start. Where gradients are small the step is SGD's with learning rate η_SGD, where they
    are large Adam's with η_Adam. For a constant g it settles on s = 2η²/(b + √(b² + 4a²g²η²)), b = 1 − a² + g²η².

    **An optimiser, not a posterior sampler**: s is the filter's variance about the moving optimum given all other
    parameters, not that of the posterior. Runs are reported as those of an optimiser.

    Parameters
    ----------
    lr
        η_SGD, which multiplies the mean gradient.
    adam_lr
        η_Adam. It must be below √2 σ, σ² = lr/B.
    weight_decay
        λ ≥ 0, the share of μ that is taken away at every step; the equal of ``weight_decay=λ/η`` in
        `torch.optim.AdamW`. A target's own prior acts through its gradient, besides.
    beta1
        β₁ in [0, 1), the momentum.

    Raises
    ------
    ValueError
        For settings out of range, and when the run begins if `adam_lr` is too large for the filter's prior.
    """

    lr: float = 0.1
    adam_lr: float = 1e-3
    weight_decay: float = 0.0
    beta1: float = 0.9

    temperature: ClassVar[float] = 0.0
    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ("step_size",)

    def __post_init__(self):
        check_positive(lr=self.lr, adam_lr=self.adam_lr)
        check_fraction(weight_decay=self.weight_decay, beta1=self.beta1)

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Compare the random walk of the optimum with its prior variance."""
        B = batch_size or target.num_data
        if self.adam_lr**2 >= 2 * self.lr / B:
            raise ValueError(
                f"adam_lr = {self.adam_lr} is too large for σ² = lr/B = {self.lr / B:.3g}: it must be below "
                f"√(2σ²) = {(2 * self.lr / B) ** 0.5:.3g}; raise lr or lower adam_lr"
            )

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> AdaBayesState:
        """Start every chain at its position; σ²_prior is 0 until B is known."""
        return _start(position)

    def step(self, target: Target, state: AdaBayesState, batch: Batch, noise: Noise) -> AdaBayesState:
        """s = 1/(1/σ²_prior + g²), μ ← (1−λ)μ + s⟨g⟩, σ²_prior ← a²s + η²."""
        η, B = self.adam_lr, _batch_size(target, batch)
        σ2 = self.lr / B
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        g = -B * ĝ
        m, g_mean = debiased(state.momentum, g, self.beta1, state.step)
        σ2_prior = torch.where(state.step == 0, σ2 * torch.ones_like(g), state.memory)
        s = 1 / (1 / σ2_prior + g.square())
        a = 1 - η**2 / (2 * σ2)
        return AdaBayesState(
            position=(1 - self.weight_decay) * state.position + s * g_mean,
            momentum=m,
            memory=a**2 * s + η**2,
            gradient=ĝ,
            cost=cost,
            step_size=s.mean(-1),
            step=state.step + 1,
        )


@dataclass(frozen=True, kw_only=True)
class AdaBayesFP:
    r"""AdaBayes at its fixed point (Aitchison 2020, Algorithm 2, Eq. 20).

    .. math::

        v ← β_2 v + (1−β_2) g^2, \quad ⟨g^2⟩ = \frac{v}{1 − β_2^t}, \quad
        s = \left[\frac{1}{2σ^2} + \sqrt{\frac{1}{4σ^4} + \frac{⟨g^2⟩}{η^2}}\right]^{-1}, \quad
        μ ← (1−λ)μ + s⟨g⟩

    with the symbols of `AdaBayes`. As σ² → ∞ it equals ``torch.optim.AdamW(lr=η, weight_decay=λ/η, eps=0)``, as g → 0
    SGD with the learning rate η_SGD and a debiased average of gradients. The fixed point is that to first order in
    ηg: for constant gradients s is too large by about ½ηg (5 % at ηg = .1, 2.4 times at ηg = 2).

    **An optimiser, not a posterior sampler**; see `AdaBayes`.

    Parameters
    ----------
    lr, adam_lr, weight_decay, beta1
        As of `AdaBayes`; `adam_lr` has no upper limit here.
    beta2
        β₂ in [0, 1), of the average of g².

    Raises
    ------
    ValueError
        For settings out of range.
    """

    lr: float = 0.1
    adam_lr: float = 1e-3
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999

    temperature: ClassVar[float] = 0.0
    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ("step_size",)

    def __post_init__(self):
        check_positive(lr=self.lr, adam_lr=self.adam_lr)
        check_fraction(weight_decay=self.weight_decay, beta1=self.beta1, beta2=self.beta2)

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> AdaBayesState:
        """Start every chain at its position."""
        return _start(position)

    def step(self, target: Target, state: AdaBayesState, batch: Batch, noise: Noise) -> AdaBayesState:
        """s = [1/(2σ²) + √(1/(4σ⁴) + ⟨g²⟩/η²)]⁻¹, μ ← (1−λ)μ + s⟨g⟩."""
        η, B = self.adam_lr, _batch_size(target, batch)
        half_precision = B / (2 * self.lr)  # 1/(2σ²)
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        g = -B * ĝ
        m, g_mean = debiased(state.momentum, g, self.beta1, state.step)
        v, g_square = debiased(state.memory, g.square(), self.beta2, state.step)
        s = 1 / (half_precision + (half_precision**2 + g_square / η**2).sqrt())
        return AdaBayesState(
            position=(1 - self.weight_decay) * state.position + s * g_mean,
            momentum=m,
            memory=v,
            gradient=ĝ,
            cost=cost,
            step_size=s.mean(-1),
            step=state.step + 1,
        )


def _start(position: Float[Tensor, "chain dim"]) -> AdaBayesState:
    zero = torch.zeros_like(position)
    return AdaBayesState(
        position=position.clone(),
        momentum=zero.clone(),
        memory=zero.clone(),
        gradient=zero.clone(),
        cost=position.new_zeros(position.shape[0]),
        step_size=position.new_zeros(position.shape[0]),
        step=torch.zeros((), dtype=torch.int64, device=position.device),
    )


def _batch_size(target: Target, batch: Batch) -> int:
    return target.num_data if batch is None else batch.shape[1]
