"""Sampler states as lists of tensors: states are dataclasses of tensors, of tuples and of further such dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

Spec = tuple[Any, tuple[Any, ...]] | None
"""What a tree is without its tensors: None for a tensor, else its type and the specs of its parts."""


def spec_of(tree: Any) -> Spec:
    """Structure of a tree, all constants."""
    if isinstance(tree, Tensor):
        return None
    return type(tree), tuple(spec_of(part) for _, part in _parts(tree))


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in a fixed order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for _, part in _parts(tree) for leaf in leaves(part)]


def leaf_names(tree: Any, prefix: str = "") -> list[str]:
    """Dotted names of the tensors, in the order of `leaves`."""
    if isinstance(tree, Tensor):
        return [prefix]
    return [name for key, part in _parts(tree) for name in leaf_names(part, f"{prefix}.{key}" if prefix else key)]


def rebuild(spec: Spec, tensors: Sequence[Tensor]) -> Any:
    """The tree that has these leaves."""
    return _rebuild(spec, iter(tensors))


def _rebuild(spec: Spec, tensors: Iterator[Tensor]) -> Any:
    if spec is None:
        return next(tensors)
    kind, specs = spec
    parts = [_rebuild(part, tensors) for part in specs]
    return tuple(parts) if kind is tuple else kind(*parts)


def _parts(tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, tuple):
        return [(str(index), part) for index, part in enumerate(tree)]
    return [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
