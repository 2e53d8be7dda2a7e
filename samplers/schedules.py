"""Learning-rate schedules: lr, heat and weight of each step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Schedule(ABC):
    """Learning rate ε_t and heat of step t = 0, 1, … (warm-up included)."""

    @abstractmethod
    def lr(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """ε_t."""

    @abstractmethod
    def heat(self, step: Int[Tensor, ""]) -> Float[Tensor, ""] | float:
        """Factor of the temperature: 0 where the step is meant to optimise, 1 where it is meant to sample."""


def at_step(lr: Any, step: Int[Tensor, ""]) -> tuple[Any, Any]:
    """Learning rate and heat at a step, of a schedule or of a plain number (whose heat is 1)."""
    return (lr.lr(step), lr.heat(step)) if isinstance(lr, Schedule) else (lr, 1.0)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """ε_t = a (b + t)^(−γ) (Welling & Teh 2011): the bias vanishes with the step, at the price of slowing down.

    Averages over the chain must weight draws by ε_t; the recorded weights do.

    Parameters
    ----------
    a, b
        Scale and offset, positive.
    gamma
        Exponent γ ∈ (½, 1], for which Σ ε_t diverges and Σ ε_t² converges.
    """

    a: float
    b: float = 1.0
    gamma: float = 0.55

    def __post_init__(self):
        check_positive(a=self.a, b=self.b)
        if not 0.5 < self.gamma <= 1:
            raise ValueError(
                f"gamma must lie in (0.5, 1], where sums of lr diverge and sums of lr² converge, got {self.gamma}"
            )

    def lr(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """a (b + t)^(−γ)."""
        return self.a * (self.b + step.to(torch.float64)) ** (-self.gamma)

    def heat(self, step: Int[Tensor, ""]) -> float:
        """Always 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cyclical(Schedule):
    """ε_t = (ε₀/2)(cos(π (t mod L)/L) + 1) (Zhang et al. 2020, Eq. 1): every cycle begins with large steps.

    Parameters
    ----------
    value
        ε₀, at the start of each cycle.
    length
        Steps per cycle L.
    exploration
        Leading fraction of each cycle run without noise, to find another mode; draws made there get weight 0.
    """

    value: float
    length: int
    exploration: float = 0.0

    def __post_init__(self):
        check_positive(lr=self.value, length=self.length)
        if not 0 <= self.exploration < 1:
            raise ValueError(f"exploration is a fraction of the cycle in [0, 1), got {self.exploration}")

    def _place(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        return (step % self.length).to(torch.float64) / self.length

    def lr(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """Cosine from ε₀ down to almost 0."""
        return 0.5 * self.value * (torch.cos(math.pi * self._place(step)) + 1)

    def heat(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """0 while exploring, then 1."""
        return (self._place(step) >= self.exploration).to(torch.float64)


def check_lr(lr: Any) -> None:
    """Raise a ValueError unless `lr` is a schedule or a positive, finite number."""
    if not isinstance(lr, Schedule):
        check_positive(lr=lr)


def check_positive(**settings: Any) -> None:
    """Raise a ValueError that names the first setting which is not a positive, finite number."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_fraction(**settings: Any) -> None:
    """Raise a ValueError that names the first setting which is not a number in [0, 1)."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}")


def check_temperature(temperature: Any) -> None:
    """Raise a ValueError unless `temperature` is a finite number ≥ 0; at 0 a sampler is an optimiser."""
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be zero or positive and finite, got {temperature!r}")
