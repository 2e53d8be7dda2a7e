"""Likelihoods: a model's outputs → a distribution of the targets, and the Fisher information of that distribution.

A likelihood is any callable from outputs to a `torch.distributions.Distribution` over one data set's targets, pass
``validate_args=False`` where you can. The ready-made ones also know the Fisher information of their distribution with
respect to the outputs, H in F = (1/N) Σᵢ Jᵢᵀ Hᵢ Jᵢ (algorithms page, "Natural gradient").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, Poisson

_BISECTIONS = 24  # of the range of a Poisson count, which is shorter than 2²⁴ for any rate that float32 counts exactly


@contextlib.contextmanager
def without_validation() -> Iterator[None]:
    """Switch off the checks of torch.distributions, which read values and so cannot run under vmap or compile."""
    if (
        torch.compiler.is_compiling()
    ):  # the class cannot be changed in compiled code; its caller has switched checks off
        yield
        return
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@dataclass(frozen=True)
class CategoricalLikelihood:
    """Class labels; outputs are logits along the last dimension, labels are integers 0 … K−1."""

    def __call__(self, outputs: Float[Tensor, "*batch classes"]) -> Categorical:
        """The distribution of the labels."""
        return Categorical(logits=outputs, validate_args=False)

    def fisher(self, outputs: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes classes"]:
        """diag(p) − p pᵀ."""
        p = torch.softmax(outputs, -1)
        return torch.diag_embed(p) - p[..., :, None] * p[..., None, :]

    def fisher_root(self, outputs: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes classes"]:
        """diag(√p) − p √pᵀ, whose product with its transpose is the Fisher information."""
        log_p = torch.log_softmax(outputs, -1)
        root = torch.exp(0.5 * log_p)  # differentiable where p underflows, unlike √p
        return torch.diag_embed(root) - torch.exp(log_p)[..., :, None] * root[..., None, :]

    def labels(self, outputs: Float[Tensor, "*batch classes"], uniform: Float[Tensor, "*batch"]) -> Tensor:
        """Labels by inversion of the distribution function at uniform numbers."""
        below = torch.softmax(outputs, -1).cumsum(-1)[..., :-1] < uniform[..., None]
        return below.sum(-1)


@dataclass(frozen=True)
class BernoulliLikelihood:
    """Binary labels 0 or 1, one logit each; the outputs have the shape of the labels."""

    def __call__(self, outputs: Float[Tensor, "*batch"]) -> Bernoulli:
        """The distribution of the labels."""
        return Bernoulli(logits=outputs, validate_args=False)

    def fisher(self, outputs: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """p (1 − p), elementwise."""
        p = torch.sigmoid(outputs)
        return p * (1 - p)

    def fisher_root(self, outputs: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """√(p (1 − p)), differentiable where the product underflows."""
        log_sigmoid = torch.nn.functional.logsigmoid
        return torch.exp(0.5 * (log_sigmoid(outputs) + log_sigmoid(-outputs)))

    def labels(self, outputs: Float[Tensor, "*batch"], uniform: Float[Tensor, "*batch"]) -> Tensor:
        """1 where the uniform number is at most p."""
        return (uniform <= torch.sigmoid(outputs)).to(outputs.dtype)


@dataclass(frozen=True)
class PoissonLikelihood:
    """Counts; the outputs are log rates of the shape of the counts."""

    def __call__(self, outputs: Float[Tensor, "*batch"]) -> Poisson:
        """The distribution of the counts."""
        return Poisson(torch.exp(outputs), validate_args=False)

    def fisher(self, outputs: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """exp(z), elementwise."""
        return torch.exp(outputs)

    def fisher_root(self, outputs: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """exp(z/2)."""
        return torch.exp(0.5 * outputs)

    def labels(self, outputs: Float[Tensor, "*batch"], uniform: Float[Tensor, "*batch"]) -> Tensor:
        """Counts by inversion of the distribution function, Q(k + 1, e^z), which bisection finds."""
        rate = torch.exp(outputs.detach())
        low, high = torch.full_like(rate, -1.0), torch.ceil(rate + 12 * rate.sqrt() + 40)
        for _ in range(_BISECTIONS):
            middle = torch.floor((low + high) / 2)
            enough = (middle >= 0) & (torch.special.gammaincc(middle.clamp_min(0) + 1, rate) >= uniform)
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return high


@dataclass(frozen=True)
class GaussianLikelihood:
    """Real targets with a known standard deviation; the outputs are means of the shape of the targets."""

    scale: float

    def __call__(self, outputs: Float[Tensor, "*batch"]) -> Normal:
        """The distribution of the targets."""
        return Normal(outputs, self.scale, validate_args=False)

    def fisher(self, outputs: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """1/σ², elementwise."""
        return torch.full_like(outputs, self.scale**-2)

    def labels(self, outputs: Float[Tensor, "*batch"], uniform: Float[Tensor, "*batch"]) -> Tensor:
        """Mean plus σ times a normal quantile."""
        return outputs + self.scale * torch.special.ndtri(uniform)


@dataclass(frozen=True)
class HeteroscedasticGaussianLikelihood:
    """Real targets with a predicted spread; the last dimension of the outputs holds (mean, log σ)."""

    def __call__(self, outputs: Float[Tensor, "*batch 2"]) -> Normal:
        """The distribution of the targets."""
        return Normal(outputs[..., 0], torch.exp(outputs[..., 1]), validate_args=False)

    def fisher(self, outputs: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2 2"]:
        """diag(1/σ², 2)."""
        precision = torch.exp(-2 * outputs[..., 1])
        return torch.diag_embed(torch.stack((precision, torch.full_like(precision, 2.0)), -1))

    def fisher_root(self, outputs: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2 2"]:
        """diag(1/σ, √2)."""
        root = torch.exp(-outputs[..., 1])
        return torch.diag_embed(torch.stack((root, torch.full_like(root, 2.0**0.5)), -1))

    def labels(self, outputs: Float[Tensor, "*batch 2"], uniform: Float[Tensor, "*batch"]) -> Tensor:
        """Mean plus σ times a normal quantile."""
        return outputs[..., 0] + torch.exp(outputs[..., 1]) * torch.special.ndtri(uniform)


categorical = CategoricalLikelihood()
bernoulli = BernoulliLikelihood()
poisson = PoissonLikelihood()
heteroscedastic_gaussian = HeteroscedasticGaussianLikelihood()


def gaussian(scale: float) -> GaussianLikelihood:
    """Gaussian observation noise with standard deviation `scale`, in the units of the targets.

    Raises
    ------
    ValueError
        If `scale` is not positive and finite.
    """
    scale = float(scale)
    if not 0 < scale < float("inf"):
        raise ValueError(f"gaussian(scale) needs a positive, finite standard deviation, got {scale}")
    return GaussianLikelihood(scale)
