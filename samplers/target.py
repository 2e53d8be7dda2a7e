"""What a sampler needs to know of the thing it samples, and the map between named tensors and one flat vector."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Batch = Int[Tensor, "chain batch"] | None
"""Indices of the examples that each chain looks at; None for the full data."""

MAX_LAYERS = 16  # whose temperatures are read apart: more would take long to record and to look through


@dataclass(frozen=True)
class Layout:
    """Order and shapes of named parameters inside a flat position.

    Attributes
    ----------
    names, shapes
        Parameter names, and their shapes without the chain dimension.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @property
    def sizes(self) -> list[int]:
        """Number of elements of each parameter."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def dim(self) -> int:
        """Number of elements of all parameters."""
        return sum(self.sizes)

    @property
    def layers(self) -> dict[str, list[tuple[int, int]]]:
        """Where each layer lies in a flat position, `{layer: [(start, stop), …]}`; empty where there is only one.

        A parameter's layer is its name up to the last dot; a name without dots is a layer of its own. If these are more
        than 16, they are grouped by fewer components of their names (``layer1.0.conv1`` by ``layer1.0``, then by
        ``layer1``). The result is empty if that does not help.
        """
        paths = [(name.rpartition(".")[0] or name).split(".") for name in self.names]
        stops = list(itertools.accumulate(self.sizes))
        for depth in range(max(map(len, paths)), 0, -1):
            layers: dict[str, list[tuple[int, int]]] = {}
            for path, size, stop in zip(paths, self.sizes, stops, strict=True):
                ranges = layers.setdefault(".".join(path[:depth]), [])
                adjacent = ranges and ranges[-1][1] == stop - size
                start = ranges.pop()[0] if adjacent else stop - size
                ranges.append((start, stop))
            if len(layers) <= MAX_LAYERS:
                return layers if len(layers) > 1 else {}
        return {}

    def label(self, index: int) -> str:
        """Name of one element of a flat position, such as ``0.weight[3, 1]``."""
        for name, shape, size in zip(self.names, self.shapes, self.sizes, strict=True):
            if index < size:
                return f"{name}[{', '.join(str(i) for i in np.unravel_index(index, shape))}]" if shape else name
            index -= size
        raise IndexError(f"position has {self.dim} elements")

    def ravel(self, values: Mapping[str, Tensor]) -> Float[Tensor, "*chain dim"]:
        """Concatenate `{name: [*chain, *shape]}` into `[*chain, dim]`."""
        missing, unknown = set(self.names) - set(values), set(values) - set(self.names)
        if missing or unknown:
            raise ValueError(
                f"parameters do not match the target: missing {sorted(missing)}, unknown {sorted(unknown)}"
            )
        flat = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            value = values[name]
            lead = value.shape[: value.ndim - len(shape)]
            if value.shape[len(lead) :] != shape:
                raise ValueError(f"parameter {name!r} must end in shape {tuple(shape)}, got {tuple(value.shape)}")
            flat.append(value.reshape((*lead, -1)))
        return torch.cat(flat, -1)

    def unravel(self, position: Float[Tensor, "*chain dim"]) -> dict[str, Tensor]:
        """Views of `[*chain, dim]` as `{name: [*chain, *shape]}`."""
        parts = position.split(self.sizes, -1)
        return {
            name: part.reshape(position.shape[:-1] + shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }


class Target(Protocol):
    """A density π ∝ exp(−C), known through its summed cost C(ω) = Σᵢ Lᵢ(ω) + R(ω) over N examples.

    Attributes
    ----------
    num_data
        N; 1 for a plain log density.
    layout
        Names and shapes in the coordinates that are sampled (unconstrained).
    device, dtype
        Of positions and gradients.
    """

    num_data: int
    layout: Layout
    device: torch.device
    dtype: torch.dtype

    @property
    def dim(self) -> int:
        """Length of a position."""
        ...

    def cost(self, position: Float[Tensor, "chain dim"], batch: Batch = None) -> Float[Tensor, " chain"]:
        """Summed cost C, or its unbiased estimate (N/B) Σ_b L_b + R from a batch."""
        ...

    def cost_and_gradient(
        self, position: Float[Tensor, "chain dim"], batch: Batch = None
    ) -> tuple[Float[Tensor, " chain"], Float[Tensor, "chain dim"]]:
        """The summed cost C and the gradient of the **mean** cost, ĝ = ∇C/N."""
        ...

    def default_position(self) -> Float[Tensor, " dim"]:
        """The position that the target was built with: the model's weights, or a log density's `init`."""
        ...

    def prior_draw(self, seeds: list[int]) -> Float[Tensor, "chain dim"]:
        """One draw from the prior per seed, or a clear error where there is no proper prior."""
        ...

    def ravel(self, values: Mapping[str, Tensor]) -> Float[Tensor, "*chain dim"]:
        """Flat sampled coordinates of named parameters."""
        ...

    def unravel(self, position: Float[Tensor, "*chain dim"]) -> dict[str, Tensor]:
        """Named parameters of flat sampled coordinates."""
        ...

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """This target on another device or in another floating-point type."""
        ...


def cost_and_gradient(target: Target, position: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Differentiate `target.cost`: chains do not interact, so the gradient of their summed cost is each one's own."""

    def total(position: Tensor) -> tuple[Tensor, Tensor]:
        cost = target.cost(position, batch)
        return cost.sum(), cost

    # Plain autograd is quicker in eager code, but does not nest in other derivatives.
    nested = torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
    if torch.compiler.is_compiling() or nested:
        gradient, (_, cost) = torch.func.grad_and_value(total, has_aux=True)(position)
        return cost, gradient / target.num_data
    with torch.enable_grad():
        position = position.detach().requires_grad_()
        summed, cost = total(position)
    (gradient,) = torch.autograd.grad(summed, position)
    return cost.detach(), gradient / target.num_data


def hessian_product(
    target: Target, position: Float[Tensor, "chain dim"], vector: Float[Tensor, "chain dim"], batch: Batch = None
) -> Float[Tensor, "chain dim"]:
    """Hv, H = ∇²C/N, by forward differentiation of the gradient."""
    return torch.func.jvp(lambda at: target.cost_and_gradient(at, batch)[1], (position,), (vector,))[1]  # pyright: ignore[reportReturnType]
