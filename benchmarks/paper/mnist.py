"""MNIST from a file: `mnist.npz` in ``$LANGEVIN_DATA``, else in ``../shared/data`` beside the repository."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def load() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images ``[n, 28, 28]`` with pixels in [0, 1], and labels; ends the program without the file."""
    folder = Path(os.environ.get("LANGEVIN_DATA") or Path(__file__).parents[3] / "shared" / "data")
    path = folder / "mnist.npz"
    if not path.exists():
        sys.exit(
            f"no MNIST at {path}: skipped. Set LANGEVIN_DATA to a folder with mnist.npz, which holds x_train, y_train, "
            "x_test and y_test: uint8 images of 28 × 28 pixels and their labels"
        )
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in ("x_train", "y_train", "x_test", "y_test")}
    train, test = ((arrays[f"x_{part}"].float() / 255, arrays[f"y_{part}"].long()) for part in ("train", "test"))
    return train, test


def subset(images: Tensor, labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose examples at random, without replacement."""
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:size]
    return images[chosen], labels[chosen]
