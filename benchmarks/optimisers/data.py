"""JPEG copies of CIFAR-10: ``cifar10-jpeg.tar.gz`` in ``$LANGEVIN_DATA``, else in ``../shared/data``.

The copies are compressed with loss, so no published number on CIFAR-10 applies to them exactly. Decoded images are kept
in the system's temporary folder, for the next run.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NAME = "cifar10-jpeg.tar.gz"
MEAN, SD = (0.4913, 0.4821, 0.4465), (0.2452, 0.2428, 0.2606)  # of the decoded training images


@dataclass(frozen=True)
class Images:
    """Images ``[n, 3, side, side]``, standardised by channel, and labels ``[n]``, in three parts."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(num_train: int, num_validation: int, num_test: int, side: int) -> Images:
    """Subsets of the given sizes, the same at every call; images are averaged down to `side` pixels.

    Training and validation parts are disjoint parts of the archive's training images. Ends the program where the
    archive is missing or too small.
    """
    arrays = _decoded()
    available, available_test = len(arrays["y_train"]), len(arrays["y_test"])
    if num_train + num_validation > available or num_test > available_test:
        sys.exit(
            f"asked for {num_train} + {num_validation} training and validation images and {num_test} test images; the "
            f"archive has {available} and {available_test}"
        )
    order = torch.randperm(available, generator=torch.Generator().manual_seed(0))
    order_test = torch.randperm(available_test, generator=torch.Generator().manual_seed(0))

    def part(name: str, chosen: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(arrays[f"x_{name}"][chosen.numpy()]).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SD)[:, None, None]
        if side != 32:
            x = torch.nn.functional.adaptive_avg_pool2d(x, side)
        return x.contiguous(), torch.from_numpy(arrays[f"y_{name}"][chosen.numpy()]).long()

    return Images(
        part("train", order[:num_train]),
        part("train", order[num_train : num_train + num_validation]),
        part("test", order_test[:num_test]),
    )


def _decoded() -> dict[str, np.ndarray]:
    """All images as uint8 ``[n, 32, 32, 3]`` and labels, from the archive or from what an earlier run kept."""
    folder = Path(os.environ.get("LANGEVIN_DATA") or Path(__file__).parents[3] / "shared" / "data")
    path = folder / NAME
    if not path.exists():
        sys.exit(
            f"no images at {path}: skipped. Set LANGEVIN_DATA to a folder with {NAME}, an archive of JPEG files "
            "train/CLASS/NNNN.jpg and test/CLASS/NNNN.jpg of 32 × 32 pixels"
        )
    status = path.stat()
    kept = Path(tempfile.gettempdir()) / f"langevin-cifar10-jpeg-{status.st_size}-{int(status.st_mtime)}.npz"
    if kept.exists():
        with np.load(kept) as file:
            return {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    arrays = _decode(path)
    partial = kept.with_name(f"{kept.stem}-{os.getpid()}.npz")
    np.savez(partial, **arrays)
    partial.replace(kept)  # never a half-written file under the final name
    return arrays


def _decode(path: Path) -> dict[str, np.ndarray]:
    try:
        from PIL import Image
    except ImportError:
        sys.exit("decoding JPEG needs Pillow, which matplotlib brings: pip install pillow")
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[str]] = {"train": [], "test": []}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                part, name, _ = member.name.split("/")
                images[part].append(np.asarray(Image.open(file)))
                labels[part].append(name)
    classes = sorted(set(labels["train"]))  # alphabetical order is CIFAR-10's own
    result: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        result[f"x_{part}"] = np.stack(images[part])
        result[f"y_{part}"] = np.array([classes.index(name) for name in labels[part]])
    return result
