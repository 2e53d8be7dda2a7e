"""The cheapest target there is: ½|ω|², of one example, whose gradient costs one pass over memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from langevin.samplers.target import Batch, Layout
from torch import Tensor


class Quadratic:
    """C = ½|ω|², a standard normal density."""

    num_data = 1
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, dim: int):
        self.dim, self.layout = dim, Layout(("w",), (torch.Size((dim,)),))

    def cost(self, position: Tensor, batch: Batch = None) -> Tensor:
        """½|ω|² of each chain."""
        return 0.5 * position.square().sum(-1)

    def cost_and_gradient(self, position: Tensor, batch: Batch = None) -> tuple[Tensor, Tensor]:
        """The cost, and the position itself as its gradient: a copy, as states own their tensors."""
        return self.cost(position), position.clone()

    def default_position(self) -> Tensor:
        """The mode."""
        return torch.zeros(self.dim)

    def prior_draw(self, seeds: list[int]) -> Tensor:
        """Draws from the density."""
        return torch.stack([torch.randn(self.dim, generator=torch.Generator().manual_seed(s)) for s in seeds])

    def ravel(self, values: Mapping[str, Tensor]) -> Tensor:
        """`{"w": …}` → flat."""
        return self.layout.ravel(values)

    def unravel(self, position: Tensor) -> dict[str, Tensor]:
        """Flat → `{"w": …}`."""
        return self.layout.unravel(position)

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """This target, which lives on the CPU in float32."""
        return self
