"""Running averages that are not drawn to where they begin."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def newest_weight(count: Int[Tensor, ""], decay: Any) -> Float[Tensor, ""]:
    """Weight of the next value after `count` of them: a plain mean that becomes exponential, max(1/t, 1 − decay)."""
    return torch.clamp(1 / (count + 1), min=1 - decay)


def debiased(
    average: Float[Tensor, "chain dim"], value: Float[Tensor, "chain dim"], decay: Any, step: Int[Tensor, ""]
) -> tuple[Float[Tensor, "chain dim"], Float[Tensor, "chain dim"]]:
    """The exponential average from 0 with `value` counted in, and the same divided by 1 − decayᵗ, t = step + 1."""
    average = decay * average + (1 - decay) * value
    return average, average / (1 - torch.as_tensor(decay, dtype=torch.float64) ** (step + 1))
