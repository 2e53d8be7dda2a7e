"""Data that predictions are made for: new inputs and targets, whole or a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset, IterableDataset

from ..samplers import data as data_
from ..samplers.posterior import Posterior


def inputs_of(posterior: Posterior, x: Any) -> data_.Inputs:
    """New inputs, checked, on the posterior's device and in its type."""
    found, expected = _kind(x), _kind(posterior.inputs)
    if found != expected:
        raise ValueError(
            f"the model takes {expected} as inputs, got {found}: give inputs alone, without targets, in the form of "
            "the training data"
        )
    x = pytree.tree_map_only(np.ndarray, torch.as_tensor, x)
    data_.check(x, torch.zeros(length(x)))
    return data_.cast(x, posterior.device, posterior.dtype)


def data_of(posterior: Posterior, x: Any, y: Any) -> tuple[data_.Inputs, Tensor]:
    """New inputs and targets, checked, on the posterior's device."""
    inputs, targets = inputs_of(posterior, x), torch.as_tensor(y).to(posterior.device)
    data_.check(inputs, targets)
    return inputs, targets


def length(inputs: Any) -> int:
    """Number of examples."""
    lengths = {len(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim}
    if len(lengths) != 1:
        raise ValueError(f"inputs must be tensors with one row per example, got {sorted(lengths)} rows")
    return lengths.pop()


def batches(posterior: Posterior, x: Any, y: Any) -> Iterator[tuple[data_.Inputs, Tensor]]:
    """Checked inputs and targets: those given, or without `y` every batch of the iterable `x`, one after another.

    Raises
    ------
    ValueError
        If `x` is no iterable of (inputs, targets), gives nothing, or a batch is not fit; it says which.
    """
    if y is not None:
        yield data_of(posterior, x, y)
        return
    for number, batch in enumerate(each(x, "(inputs, targets)")):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            hint = "; whole data are given as two arguments, x and y" if isinstance(x, (tuple, list)) else ""
            raise ValueError(f"batch {number} must be (inputs, targets), got {_kind(batch)}{hint}")
        try:
            found = data_of(posterior, *batch)
        except ValueError as error:
            raise ValueError(f"batch {number}: {error}") from error
        yield found


def input_batches(posterior: Posterior, x: Any) -> Iterator[data_.Inputs]:
    """Checked inputs of every batch of an iterable."""
    for number, batch in enumerate(each(x, "inputs")):
        try:
            found = inputs_of(posterior, batch)
        except ValueError as error:
            raise ValueError(f"batch {number}: {error}") from error
        yield found


def each(x: Any, what: str) -> Iterator[Any]:
    """The batches of an iterable.

    Raises
    ------
    ValueError
        If it is none, or gives none.
    """
    if isinstance(x, Dataset) and not isinstance(x, IterableDataset):
        raise ValueError(f"{type(x).__name__} gives single examples: wrap it in a torch.utils.data.DataLoader")
    if isinstance(x, (Tensor, np.ndarray, Mapping, str)) or not isinstance(x, Iterable):
        raise ValueError(f"an iterable of batches of {what} is needed, such as a DataLoader, got {_kind(x)}")
    empty = True
    for batch in x:
        empty = False
        yield batch
    if empty:
        raise ValueError(
            "there are no batches: the iterable is empty, or an iterator that was used up before; give a DataLoader "
            "or a list, which can be read again"
        )


def pieces(data: Any, size: int) -> Iterator[Any]:
    """At most `size` examples at a time of inputs, or of (inputs, targets)."""
    device = pytree.tree_leaves(data)[0].device
    for rows in torch.arange(length(data), device=device).split(size):
        yield data_.take(data, rows)


def _kind(x: Any) -> str:
    if isinstance(x, (Tensor, np.ndarray)):
        return "a tensor"
    if isinstance(x, Mapping):
        return "a dictionary"
    if isinstance(x, (tuple, list)):
        return f"a tuple or list of {len(x)}"
    return type(x).__name__
