"""A target given directly as a log density."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

from .likelihoods import without_validation
from .target import Batch, Layout, cost_and_gradient


class LogDensity:
    """A density known up to a constant, π(θ) ∝ exp(fn(θ)), with N = 1: `lr` is then the step of the plain diffusion.

    Constrained parameters are sampled in the unconstrained coordinates of `torch.distributions.biject_to`, with the
    log-Jacobian added; draws come back constrained.

    Parameters
    ----------
    fn
        `{name: Tensor}` → 0-d log density of one point. It is mapped over chains by `torch.func.vmap`.
    init
        A point inside the support, `{name: Tensor}`; it also fixes shapes, type and device.
    constraints
        `{name: constraint}` from `torch.distributions.constraints`; parameters not named are real.

    Raises
    ------
    ValueError
        If a constraint names no parameter, a starting value lies outside its constraint, or `fn` is not a finite scalar
        at `init`.
    """

    num_data = 1

    def __init__(
        self,
        fn: Callable[[dict[str, Tensor]], Tensor],
        init: Mapping[str, Tensor],
        constraints: Mapping[str, Constraint] | None = None,
    ):
        self.fn = fn
        init = {name: torch.as_tensor(value) for name, value in init.items()}
        if not init:
            raise ValueError("init is empty: name at least one parameter, for example {'theta': torch.zeros(3)}")
        for name, value in init.items():
            if not value.is_floating_point():
                raise ValueError(f"parameter {name!r} has type {value.dtype}; parameters must be floating point")
        self.dtype = max((value.dtype for value in init.values()), key=lambda t: torch.finfo(t).bits)
        self.device = next(iter(init.values())).device
        self.constraints = dict(constraints or {})
        unknown = set(self.constraints) - set(init)
        if unknown:
            raise ValueError(f"constraints name unknown parameters {sorted(unknown)}; parameters are {sorted(init)}")
        self._transforms = {name: biject_to(self.constraints.get(name, _REAL)) for name in init}
        free = {}
        for name, value in init.items():
            value = value.detach().to(self.dtype)
            if not bool(self.constraints.get(name, _REAL).check(value).all()):
                raise ValueError(f"init[{name!r}] = {value} violates its constraint {self.constraints[name]}")
            free[name] = self._transforms[name].inv(value)
        self.layout = Layout(tuple(free), tuple(value.shape for value in free.values()))
        self._default = self.layout.ravel(free)
        value = self.fn({name: init[name].detach().to(self.dtype) for name in init})
        if not isinstance(value, Tensor) or value.ndim != 0:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"fn must return a 0-d tensor, the log density of one point; it returned {shape}")
        if not bool(torch.isfinite(value)):
            raise ValueError(f"fn is {value.item()} at init; choose a starting point with positive density")

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates."""
        return self.layout.dim

    def _log_density(self, position: Float[Tensor, " dim"]) -> Float[Tensor, ""]:
        values, log_jacobian = {}, position.new_zeros(())
        for name, free in self.layout.unravel(position).items():
            transform = self._transforms[name]
            values[name] = transform(free)
            if name in self.constraints:
                log_jacobian = log_jacobian + transform.log_abs_det_jacobian(free, values[name]).sum()
        return self.fn(values) + log_jacobian

    def cost(self, position: Float[Tensor, "chain dim"], batch: Batch = None) -> Float[Tensor, " chain"]:
        """−log π in unconstrained coordinates, Jacobian included, up to `fn`'s constant."""
        if batch is not None:
            raise ValueError("a LogDensity has no examples to draw minibatches from: use batch_size=None")
        with without_validation():
            return -torch.func.vmap(self._log_density)(position)

    def cost_and_gradient(
        self, position: Float[Tensor, "chain dim"], batch: Batch = None
    ) -> tuple[Float[Tensor, " chain"], Float[Tensor, "chain dim"]]:
        """−log π and its gradient."""
        return cost_and_gradient(self, position, batch)

    def default_position(self) -> Float[Tensor, " dim"]:
        """`init` in unconstrained coordinates."""
        return self._default.clone()

    def prior_draw(self, seeds: list[int]) -> Float[Tensor, "chain dim"]:
        """Not available: a log density does not tell its prior apart."""
        raise ValueError('a LogDensity has no separate prior to draw from: start from init="mode" or give tensors')

    def ravel(self, values: Mapping[str, Tensor]) -> Float[Tensor, "*chain dim"]:
        """Constrained named values → unconstrained flat coordinates."""
        return self.layout.ravel(
            {n: self._transforms[n].inv(v) if n in self._transforms else v for n, v in values.items()}
        )

    def unravel(self, position: Float[Tensor, "*chain dim"]) -> dict[str, Tensor]:
        """Unconstrained flat coordinates → constrained named values."""
        return {name: self._transforms[name](free) for name, free in self.layout.unravel(position).items()}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the starting point; tensors inside `fn` stay where they are."""
        moved = copy.copy(self)
        moved._default = self._default.to(device=device, dtype=dtype)
        moved.device, moved.dtype = moved._default.device, moved._default.dtype
        return moved


_REAL = constraints.real
