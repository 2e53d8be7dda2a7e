"""Training data as two trees of tensors with a common first dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

Inputs = Any
"""A tensor `[N, ...]`, or a dict or tuple of them."""

_READ_AT_ONCE = 512


def as_tensors(data: Any) -> tuple[Inputs, Tensor]:
    """Read `(inputs, targets)` tensors or arrays, a map-style `Dataset`, or a `DataLoader`, into memory.

    A data set is read once: random augmentation is frozen at its first draw. Of a `DataLoader` only the data set and
    `collate_fn` are used, because the library draws its own minibatches.
    """
    if isinstance(data, DataLoader):
        data, collate = data.dataset, data.collate_fn
    else:
        collate = default_collate
    if isinstance(data, IterableDataset):
        raise ValueError(
            "an IterableDataset cannot be indexed, so minibatches cannot be drawn without replacement from it; "
            "give a map-style Dataset or tensors"
        )
    if isinstance(data, Dataset):
        data = _read(data, collate)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            "data must be (inputs, targets), or a Dataset or DataLoader whose items are (input, target); "
            f"got {type(data).__name__}" + (f" of {len(data)} parts" if isinstance(data, (tuple, list)) else "")
        )
    inputs = pytree.tree_map_only(np.ndarray, torch.as_tensor, data[0])
    return inputs, torch.as_tensor(data[1])


def _read(dataset: Dataset, collate: Any) -> Any:
    size = len(dataset)  # pyright: ignore[reportArgumentType]  # map-style data sets have a length
    if size == 0:
        raise ValueError("the data set is empty")
    chunks = [
        collate([dataset[i] for i in range(start, min(start + _READ_AT_ONCE, size))])
        for start in range(0, size, _READ_AT_ONCE)
    ]
    leaves = [pytree.tree_leaves(chunk) for chunk in chunks]
    joined = [torch.cat(parts) for parts in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(joined, pytree.tree_structure(chunks[0]))


def check(inputs: Inputs, targets: Tensor) -> int:
    """Return N after checking that lengths agree and all numbers are finite."""
    named = {"targets": targets} | _name_leaves(inputs)
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor) or tensor.ndim == 0:
            raise ValueError(f"{name} must be a tensor with one row per example, got {type(tensor).__name__}")
    lengths = {name: len(tensor) for name, tensor in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"inputs and targets differ in length: {lengths}")
    if len(targets) == 0:
        raise ValueError("the data set is empty")
    for name, tensor in named.items():
        if tensor.is_floating_point() or tensor.is_complex():
            bad = ~torch.isfinite(tensor).reshape(len(tensor), -1).all(-1)
            if bad.any():
                raise ValueError(
                    f"{name} contain NaN or infinity in {int(bad.sum())} of {len(tensor)} examples, first in example "
                    f"{int(bad.nonzero()[0])}; remove or impute them"
                )
    return len(targets)


def _name_leaves(inputs: Inputs) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return {f"inputs[{key!r}]": value for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return {f"inputs[{i}]": value for i, value in enumerate(inputs)}
    return {"inputs": inputs}


def cast(tree: Any, device: torch.device | str | None, dtype: torch.dtype) -> Any:
    """Move all tensors to `device`, the floating-point ones to `dtype`."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

    return pytree.tree_map_only(Tensor, move, tree)


def take(tree: Any, index: Tensor | int) -> Any:
    """Rows `index` of all tensors."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[index], tree)
