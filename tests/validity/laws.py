"""Exact laws of the *discretised* samplers on quadratic costs: what a long chain must have, whatever its step size.

With e = ω − mean every sampler here is a linear recursion x ← Ax + noise for x = e, or e with velocities or averages,
so that its covariance solves V = AVAᵀ + Q. H is block-diagonal, `[block, d, d]`: one block for small problems, D blocks
of size 1 for large ones. Results have the shape `[*chain, block, d, d]`: where a sampler freezes what a chain has
learnt, every chain has a law of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quadratic:
    """C/N = ½ (ω−mean)ᵀ H (ω−mean) + constant.

    Attributes
    ----------
    mean
        `[dim]`.
    hessian
        H, `[block, d, d]`.
    num_data
        N.
    batch_noise
        Covariance of ĝ for a batch size, `[block, d, d]`; 0 for None.
    noise_within
        The same, averaged over positions of a covariance `[block, d, d]`, where it depends on them.
    """

    mean: Tensor
    hessian: Tensor
    num_data: int
    batch_noise: Callable[[int | None], Tensor]
    noise_within: Callable[[int | None, Tensor], Tensor] | None = None

    def heated(self, covariance: Tensor) -> Quadratic:
        """The same cost with the gradient noise that positions of this covariance (of all chains) meet."""
        within = self.noise_within
        if within is None:
            return self
        mean = covariance if covariance.ndim == 3 else covariance.mean(0)
        return replace(self, batch_noise=lambda batch: within(batch, mean))

    @property
    def eye(self) -> Tensor:
        """The identity, `[block, d, d]`."""
        return torch.eye(self.hessian.shape[-1], dtype=torch.float64).expand_as(self.hessian)

    def blocks(self, diagonal: Tensor) -> Tensor:
        """Diagonal matrices `[..., dim]` as `[..., block, d, d]`."""
        return torch.diag_embed(diagonal.unflatten(-1, self.hessian.shape[:2]))

    def target(self, temperature: float = 1.0) -> Tensor:
        """(T/N) H⁻¹, the covariance of exp(−C/T)."""
        return temperature / self.num_data * torch.linalg.inv(self.hessian)


def stationary(contraction: Tensor, noise: Tensor) -> Tensor:
    """V = AVAᵀ + Q by doubling: after k rounds the sum holds 2ᵏ terms."""
    A, V = contraction, noise
    for _ in range(64):
        step = A @ V @ A.mT
        V, A = V + step, A @ A
        if step.abs().amax() <= 1e-15 * V.abs().amax():
            return V
    raise AssertionError("the recursion is unstable")


def preconditioned(problem: Quadratic, lr: float, metric_inverse: Tensor, noise: Tensor) -> Tensor:
    """ω ← ω − εM(ĝ + α), with `noise` the covariance of ĝ + α: V = (I−εMH)V(I−εMH)ᵀ + ε²MSM."""
    M = metric_inverse
    return stationary(problem.eye - lr * M @ problem.hessian, lr**2 * M @ noise @ M.mT)


def injected(problem: Quadratic, lr: float, temperature: float, metric: Tensor) -> Tensor:
    """Covariance (2T/(εN)) G of the gradient noise that heats to T."""
    return 2 * temperature / (lr * problem.num_data) * metric


def sghmc(
    problem: Quadratic, lr: float, temperature: float, momentum: float, batch: int | None, gradient_noise: float = 0.0
) -> Tensor:
    """ω ← ω − ε(v + ĝ − n), v ← β(v + ĝ) − (1+β)n."""
    H, eye, β = problem.hessian, problem.eye, momentum
    A = _join([[eye - lr * H, -lr * eye], [β * H, β * eye]])
    from_batch, from_noise = _join([[-lr * eye], [β * eye]]), _join([[lr * eye], [-(1 + β) * eye]])
    own = (1 - β) * temperature / (2 * lr * problem.num_data) - gradient_noise / 4
    Q = from_batch @ problem.batch_noise(batch) @ from_batch.mT + own * from_noise @ from_noise.mT
    d = H.shape[-1]
    return stationary(A, Q)[..., :d, :d]


def sghmc_euler(problem: Quadratic, lr: float, temperature: float, momentum: float) -> Tensor:
    """Chen's Eq. 15 with the full data, which every comparison must tell from `sghmc`: T H⁻¹/(N(1 − ελ/(2(1+β))))."""
    H, eye = problem.hessian, problem.eye
    return problem.target(temperature) @ torch.linalg.inv(eye - lr / (2 * (1 + momentum)) * H)


def momentum_sgd(problem: Quadratic, rate: Tensor, momentum: float, batch: int) -> Tensor:
    """v ← βv + (1−β)Kĝ, ω ← ω − v."""
    H, β = problem.hessian, momentum
    eye = problem.eye.expand_as(rate)
    push = (1 - β) * rate
    A = _join([[eye - push @ H, -β * eye], [push @ H, β * eye]])
    B = _join([[-push], [push]])
    d = H.shape[-1]
    return stationary(A, B @ problem.batch_noise(batch) @ B.mT)[..., :d, :d]


def asgld(problem: Quadratic, lr: float, scale: float, decay: float, batch: int) -> Tensor:
    """ω ← ω − ε(ĝ + ψζ), ζ ~ N(μ, C) with C's mean ρ E(ĝ − μ)²: elementwise noise, so its mean is all that counts."""
    H, eye, ρ, ψ = problem.hessian, problem.eye, decay, scale
    S, d = problem.batch_noise(batch), H.shape[-1]
    gain = lr * (1 + ψ * (1 - ρ))  # of ĝ on ω; μ_before acts by ψρ
    A = _join([[eye - gain * H, -lr * ψ * ρ * eye], [(1 - ρ) * H, ρ * eye]])
    B = _join([[-gain * eye], [(1 - ρ) * eye]])
    fixed = B @ S @ B.mT
    difference = _join([[H, -eye]])  # ĝ − μ_before = Hω − μ + batch noise
    variance = torch.diag_embed(torch.diagonal(S, dim1=-1, dim2=-2))
    first = torch.zeros_like(fixed)
    for _ in range(500):
        first[..., :d, :d] = (lr * ψ) ** 2 * variance
        V = stationary(A, fixed + first)
        spread = difference @ V @ difference.mT + S
        new = ρ * torch.diag_embed(torch.diagonal(spread, dim1=-1, dim2=-2))
        if torch.allclose(new, variance, rtol=1e-13, atol=0):
            return V[..., :d, :d]
        variance = new
    raise AssertionError("the variance of ASGLD's noise does not settle")


def von(problem: Quadratic, lr: float, prior_precision: float, batch: int | None) -> Tensor:
    """θ = μ + ξ/√(N(s+λ̃)), μ ← μ − ε(Hμ + H_lik(θ−μ) + batch noise)/(s+λ̃), for a diagonal H: s + λ̃ = H there."""
    H, N = problem.hessian, problem.num_data
    P, H_lik = torch.linalg.inv(H), H - prior_precision / N * problem.eye
    spread = P / N
    noise = H_lik @ spread @ H_lik.mT + problem.batch_noise(batch)
    return preconditioned(problem, lr, P, noise) + spread


def _join(rows: list[list[Tensor]]) -> Tensor:
    return torch.cat([torch.cat(row, -1) for row in rows], -2)
