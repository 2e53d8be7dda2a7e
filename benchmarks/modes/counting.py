"""Counts what a search for a mode asks of its target."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import scipy.optimize
import torch
from langevin.samplers.target import Target
from torch.optim.optimizer import register_optimizer_step_post_hook

NAMES = ("iterations", "gradients", "hessian_products", "costs", "jacobians")


def counted(target: Target) -> tuple[Any, Counter[str]]:
    """A copy of a target in float64, and its counts as they grow.

    A gradient inside of a forward derivative is a Hessian-vector product. The outputs of all examples are asked for
    once for each matrix JᵀHJ.
    """
    twin, counts = copy.copy(target), Counter(dict.fromkeys(NAMES, 0))

    def cost_and_gradient(position: Any, batch: Any = None) -> Any:
        along = torch.autograd.forward_ad.unpack_dual(position).tangent is not None
        counts["hessian_products" if along else "gradients"] += 1
        return target.cost_and_gradient(position, batch)

    def cost(position: Any, batch: Any = None) -> Any:
        counts["costs"] += 1
        return target.cost(position, batch)

    def outputs(*arguments: Any) -> Any:
        counts["jacobians"] += 1
        return target.outputs(*arguments)  # pyright: ignore[reportAttributeAccessIssue]

    twin.cost_and_gradient, twin.cost = cost_and_gradient, cost
    if hasattr(target, "outputs"):
        twin.outputs = outputs
    return twin, counts


@contextmanager
def iterations(counts: Counter[str]) -> Iterator[None]:
    """Count the iterations of scipy's methods and the steps of torch's."""
    minimize = scipy.optimize.minimize

    def minimize_and_count(*arguments: Any, **settings: Any) -> Any:
        result = minimize(*arguments, **settings)
        counts["iterations"] += result.nit
        return result

    def one_more(*_: Any) -> None:
        counts["iterations"] += 1

    hook = register_optimizer_step_post_hook(one_more)
    try:
        with patch.object(scipy.optimize, "minimize", minimize_and_count):
            yield
    finally:
        hook.remove()


class Steps:
    """A method whose steps are counted."""

    def __init__(self, method: Any, counts: Counter[str]):
        self.method, self.counts = method, counts

    def init(self, *arguments: Any) -> Any:
        """Start."""
        return self.method.init(*arguments)

    def step(self, *arguments: Any) -> Any:
        """Make a step."""
        self.counts["iterations"] += 1
        return self.method.step(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)
