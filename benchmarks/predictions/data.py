"""UCI regression sets with their published splits: ``uci/*.npz`` in ``$LANGEVIN_DATA``, else in ``../shared/data``."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SETS = ("bostonHousing", "concrete", "energy", "kin8nm", "power-plant", "wine-quality-red", "yacht")
NUM_SPLITS = 20


@dataclass(frozen=True)
class Split:
    """One training and test part, standardised by the mean and standard deviation of the training part.

    Attributes
    ----------
    x, y, x_test, y_test
        Features ``[n, feature]`` and targets ``[n]``, float32.
    scale
        Standard deviation of the training targets: what one unit of `y` is worth.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    scale: float


def load(name: str, split: int) -> Split:
    """Read one split; ends the program where the file is missing."""
    folder = Path(os.environ.get("LANGEVIN_DATA") or Path(__file__).parents[3] / "shared" / "data") / "uci"
    path = folder / f"{name}.npz"
    if not path.exists():
        sys.exit(
            f"no data at {path}: skipped. Set LANGEVIN_DATA to a folder with uci/{name}.npz, which holds X [n, "
            "feature], y [n], and the indices train_idx and test_idx [split, …] of the published splits"
        )
    with np.load(path) as file:
        features, targets, train, test = (file[key] for key in ("X", "y", "train_idx", "test_idx"))
    train, test = train[split], test[split]
    mean, sd = features[train].mean(0), features[train].std(0)
    centre, scale = targets[train].mean(), targets[train].std()
    x = torch.from_numpy((features - mean) / np.where(sd > 0, sd, 1.0)).float()
    y = torch.from_numpy((targets - centre) / scale).float()
    return Split(x[train], y[train], x[test], y[test], float(scale))
