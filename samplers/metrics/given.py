"""Metrics that the user gives: a function of the position, or a constant matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..target import Target
from ..threefry import Noise
from .dense import Dense, DenseCurvature
from .diagonal import Diagonal, DiagonalCurvature
from .metric import Metric, MetricValue


def _remember_nothing(metric: Metric, target: Target, position: Float[Tensor, "chain dim"]) -> tuple[()]:
    """Nothing is carried from step to step."""
    return ()


def _recall_nothing(
    metric: Metric, target: Target, position: Float[Tensor, "chain dim"], noise: Noise, memory: Any, warming: Tensor
) -> tuple[MetricValue, Any]:
    """G at the present position."""
    return metric.at(target, position, noise), memory


@dataclass(frozen=True, eq=False)
class MetricFunction:
    """G(ω) from a function of one chain's flat position.

    Parameters
    ----------
    function
        ``[dim] → [dim, dim]``, symmetric positive definite, or ``[dim] → [dim]``, the positive elements of a diagonal
        metric. Written with torch operations that `torch.func` can differentiate and vectorise over chains. Positions
        are those that are sampled: of a `LogDensity` with constraints, the unconstrained ones.

    Notes
    -----
    A chain whose G is not positive definite stops there.
    """

    function: Callable[[Tensor], Tensor]

    @property
    def damping(self) -> float:
        """0: all of G is taken to have gradient noise of its own."""
        return 0.0

    @property
    def constant(self) -> bool:
        """Never known."""
        return False

    def check(self, target: Target, drift: str, measure: str, num_warmup: int | None) -> None:
        """Evaluate once and check shape, symmetry and sign."""
        matrix = self.function(target.default_position())
        _check_matrix(matrix, target.dim, "the metric function at the target's own position")
        if matrix.dtype != target.dtype or matrix.device != target.device:
            raise ValueError(
                f"the metric function returns {matrix.dtype} on {matrix.device} for positions in {target.dtype} on "
                f"{target.device}: make its tensors like its argument"
            )

    def curvature(
        self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise
    ) -> DenseCurvature | DiagonalCurvature:
        """G(ω)."""
        value = torch.func.vmap(self.function)(position)
        return DenseCurvature(value) if value.ndim == 3 else DiagonalCurvature(value)

    def at(self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise) -> Dense | Diagonal:
        """G(ω), factorised."""
        return self.curvature(target, position, noise).damped(0.0)

    def product(
        self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise, vector: Float[Tensor, "chain dim"]
    ) -> Float[Tensor, "chain dim"]:
        """G(ω) v."""
        return self.curvature(target, position, noise).multiply(vector)

    remember, recall = _remember_nothing, _recall_nothing


@dataclass(frozen=True, eq=False)
class ConstantMetric:
    """The same G everywhere.

    Parameters
    ----------
    matrix
        Symmetric positive definite ``[dim, dim]``, or the positive elements ``[dim]`` of a diagonal.

    Raises
    ------
    ValueError
        If it is neither.
    """

    matrix: Tensor

    def __post_init__(self):
        if not isinstance(self.matrix, Tensor) or not self.matrix.is_floating_point():
            raise ValueError(f"the constant metric must be a tensor of floating-point numbers, got {self.matrix!r}")
        _check_matrix(self.matrix, self.matrix.shape[-1] if self.matrix.ndim else 0, "the constant metric")
        curvature = DenseCurvature(self.matrix) if self.matrix.ndim == 2 else DiagonalCurvature(self.matrix)
        object.__setattr__(self, "_value", curvature.damped(0.0))

    @property
    def damping(self) -> float:
        """0: all of G is taken to have gradient noise of its own."""
        return 0.0

    @property
    def constant(self) -> bool:
        """Always."""
        return True

    def check(self, target: Target, drift: str, measure: str, num_warmup: int | None) -> None:
        """Compare sizes."""
        if self.matrix.shape[-1] != target.dim:
            raise ValueError(
                f"the constant metric is for {self.matrix.shape[-1]} parameters, the target has {target.dim}"
            )

    def at(self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise) -> Dense | Diagonal:
        """G, factorised once and for all."""
        value: Dense | Diagonal = self._value  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(value, Dense):
            return Dense(value.cholesky.to(position))
        return Diagonal(value.diagonal.to(position))

    def curvature(
        self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise
    ) -> DenseCurvature | DiagonalCurvature:
        """G."""
        matrix = self.matrix.to(position)
        return DenseCurvature(matrix) if matrix.ndim == 2 else DiagonalCurvature(matrix)

    def product(
        self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise, vector: Float[Tensor, "chain dim"]
    ) -> Float[Tensor, "chain dim"]:
        """G v."""
        matrix = self.matrix.to(vector)
        return vector @ matrix if matrix.ndim == 2 else matrix * vector

    remember, recall = _remember_nothing, _recall_nothing


def _check_matrix(matrix: Tensor, dim: int, what: str) -> None:
    if not isinstance(matrix, Tensor) or tuple(matrix.shape) not in ((dim, dim), (dim,)) or dim == 0:
        found = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(f"{what} must have shape {(dim, dim)} or {(dim,)}, got {found}")
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError(f"{what} is not finite")
    if matrix.ndim == 2 and not torch.allclose(matrix, matrix.mT, rtol=1e-5, atol=1e-6 * float(matrix.abs().max())):
        raise ValueError(
            f"{what} is not symmetric: it differs from its transpose by {float((matrix - matrix.mT).abs().max()):.3g}"
        )
    smallest = float(torch.linalg.eigvalsh(matrix)[0]) if matrix.ndim == 2 else float(matrix.min())
    if not 0 < smallest < math.inf:
        raise ValueError(
            f"{what} is not positive definite: its smallest eigenvalue is {smallest:.3g}; add a multiple of I"
        )
