"""Where a search for the mode ended, as all of its back ends report it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..target import Target


@dataclass(frozen=True)
class Ending:
    """The last position and what is known of it.

    Attributes
    ----------
    position
        Flat position `[dim]`.
    mean_cost, largest
        C/N there, and the largest component of its gradient.
    how
        What ended the search, to be read after "it stopped".
    satisfied
        Whether the method ended by a rule of its own that is as good as the tolerance.
    """

    position: Tensor
    mean_cost: float
    largest: float
    how: str
    satisfied: bool = False

    def is_finite(self) -> bool:
        """Whether cost and gradient are finite."""
        return math.isfinite(self.mean_cost + self.largest)


def show(bar: tqdm, mean_cost: float, largest: float) -> None:
    """Count a step and show where it is."""
    bar.set_postfix({"C/N": f"{mean_cost:.6g}", "gradient": f"{largest:.1e}"}, refresh=False)
    bar.update()


def in_double(target: Target, start: Tensor) -> Target:
    """Return the target in float64: in float32 rounding of the cost would stop searches far from the mode."""
    try:
        double = target.to(dtype=torch.float64)
        double.cost_and_gradient(start.double()[None])
    except (RuntimeError, TypeError):  # tensors of another type inside the user's function; a device without float64
        return target
    return double
