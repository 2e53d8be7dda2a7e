"""Variational Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from .averages import debiased
from .schedules import Schedule, at_step, check_fraction, check_lr
from .target import Batch, Target
from .threefry import Noise
from .variational import VariationalState, normal_prior, start


@dataclass(frozen=True, kw_only=True)
class Vadam:
    r"""Variational Adam (Khan et al. 2018, Algorithm 1): Adam at a perturbed position.

    .. math::

        θ &= μ + ξ/\sqrt{N(s + \tilde λ)}, \qquad
        m ← β_1 m + (1−β_1)\left[ĝ_{lik}(θ) + \tilde λ μ\right], \qquad s ← β_2 s + (1−β_2)\, ĝ_{lik}(θ)^2

        μ &← μ − ε \frac{m/(1−β_1^t)}{\sqrt{s/(1−β_2^t)} + \tilde λ}

    with ĝ_lik the minibatch gradient of the mean negative log-likelihood and λ̃ the prior's precision divided by N (μ
    counts from the prior's mean). The draws are the θ.

    **Not a posterior sampler**: the law is close to a Gaussian with independent components, fitted to the posterior.
    **Approximate** even as such: squared minibatch gradients stand for the Hessian, E ĝ² = g² + S_mb, and S_mb is about
    1/B of the Fisher information of one example, so that the spread depends on B and is about right at B = 1 only;
    `VON` has the Hessian itself.

    Parameters
    ----------
    lr
        ε, or a schedule.
    beta1, beta2
        β₁ and β₂ in [0, 1).
    precision
        s ≥ 0 at the start; at 0 the first draws are from the prior's spread.

    Raises
    ------
    ValueError
        For settings out of range, and when sampling begins for targets whose prior is not Normal.
    """

    lr: float | Schedule
    beta1: float = 0.9
    beta2: float = 0.999
    precision: float = 0.0

    law: ClassVar[str] = "a Gaussian with independent components, fitted to the posterior (variational inference)"
    gradient_at: ClassVar[str] = "current"
    stats: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_lr(self.lr)
        check_fraction(beta1=self.beta1, beta2=self.beta2)
        if not 0 <= self.precision < float("inf"):
            raise ValueError(f"precision must be zero or positive and finite, got {self.precision}")

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Ask for a normal prior."""
        normal_prior(target)

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> VariationalState:
        """Start every chain's mean at its position."""
        return start(position, self.precision, momentum=True)

    def step(self, target: Target, state: VariationalState, batch: Batch, noise: Noise) -> VariationalState:
        """θ = μ + ξ/√(N(s+λ̃)), and a step of Adam with the gradient there."""
        ε, heat = at_step(self.lr, state.step)
        N, μ = target.num_data, state.mean
        centre, precision = normal_prior(target)
        λ = precision / N
        θ = μ + (heat / (N * (state.precision + λ))) ** 0.5 * noise.normal(target.dim)
        cost, ĝ = target.cost_and_gradient(θ, batch)
        g = ĝ - λ * (θ - centre)
        m, m_hat = debiased(state.momentum, g + λ * (μ - centre), self.beta1, state.step)
        s, s_hat = debiased(state.precision, g.square(), self.beta2, state.step)
        return VariationalState(
            position=θ,
            mean=μ - ε * m_hat / (s_hat.sqrt() + λ),
            precision=s,
            momentum=m,
            gradient=ĝ,
            cost=cost,
            step=state.step + 1,
        )
