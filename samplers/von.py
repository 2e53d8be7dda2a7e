"""Variational online Newton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .metrics.metric import PROBE
from .schedules import Schedule, at_step, check_fraction, check_lr, check_positive
from .target import Batch, Target
from .threefry import Noise
from .variational import VariationalState, normal_prior, start


@dataclass(frozen=True, kw_only=True)
class VON:
    r"""Variational online Newton (Khan et al. 2018, Eq. 7): natural gradient on a Gaussian of independent components.

    .. math::

        θ = μ + ξ/\sqrt{N(s + \tilde λ)}, \qquad s ← β s + (1−β)\, \widehat{\operatorname{diag} H}_{lik}(θ), \qquad
        μ ← μ − ε \frac{ĝ_{lik}(θ) + \tilde λ μ}{s + \tilde λ}

    with ĝ_lik and H_lik the minibatch gradient and Hessian of the mean negative log-likelihood, the diagonal of H_lik
    by one random probe v ∘ Hv, and λ̃ the prior's precision divided by N (μ counts from the prior's mean). The draws are
    the θ.

    **Not a posterior sampler**: the law is close to the Gaussian with independent components that is nearest to the
    posterior; each precision is that of a parameter given all others, so spreads are too narrow where parameters are
    correlated. **Approximate** at a finite ε, which lets μ fluctuate: on a quadratic cost with a diagonal Hessian, a
    flat prior and the full data the variance is 2/(2−ε) times the right one; minibatch noise adds to that.

    Parameters
    ----------
    lr
        ε, in units of a Newton step; or a schedule.
    decay
        β in [0, 1).
    precision
        s > 0 at the start.

    Raises
    ------
    ValueError
        For settings out of range, and when sampling begins for targets whose prior is not Normal. Where the cost is not
        convex a precision can become negative: that chain stops; `Vadam` cannot.
    """

    lr: float | Schedule
    decay: float = 0.999
    precision: float = 1.0

    law: ClassVar[str] = "a Gaussian with independent components, fitted to the posterior (variational inference)"
    gradient_at: ClassVar[str] = "current"
    stats: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_lr(self.lr)
        check_fraction(decay=self.decay)
        check_positive(precision=self.precision)

    def check(self, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
        """Ask for a normal prior."""
        normal_prior(target)

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> VariationalState:
        """Start every chain's mean at its position."""
        return start(position, self.precision, momentum=False)

    def step(self, target: Target, state: VariationalState, batch: Batch, noise: Noise) -> VariationalState:
        """θ = μ + ξ/√(N(s+λ̃)), s ← βs + (1−β) diag H, μ ← μ − ε (ĝ + λ̃μ)/(s+λ̃)."""
        ε, heat = at_step(self.lr, state.step)
        N, μ = target.num_data, state.mean
        λ = normal_prior(target)[1] / N
        θ = μ + (heat / (N * (state.precision + λ))) ** 0.5 * noise.normal(target.dim)

        def gradient(ω: Tensor) -> tuple[Tensor, Tensor]:
            cost, ĝ = target.cost_and_gradient(ω, batch)
            return ĝ, cost

        v = noise.rademacher(target.dim, PROBE)
        ĝ, Hv, cost = torch.func.jvp(gradient, (θ,), (v,), has_aux=True)  # pyright: ignore[reportAssignmentType]
        s = self.decay * state.precision + (1 - self.decay) * (v * Hv - λ)
        return VariationalState(
            position=θ,
            mean=μ - ε * (ĝ - λ * (θ - μ)) / (s + λ),
            precision=s,
            momentum=state.momentum.clone(),
            gradient=ĝ,
            cost=cost,
            step=state.step + 1,
        )
