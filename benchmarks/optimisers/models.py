"""The networks: a small one for a CPU, and a ResNet-34 for images of 32 × 32 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 10


class Small(nn.Sequential):
    """Three 3 × 3 convolutions of 16, 32 and 32 channels, each with ReLU and 2 × 2 max-pooling, and a linear layer."""

    side = 16

    def __init__(self):
        layers: list[nn.Module] = []
        channels = 3
        for width in (16, 32, 32):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * (self.side // 8) ** 2, CLASSES))


class ResNet34(nn.Module):
    """He et al. 2016 with a 3 × 3 stem for small images.

    GroupNorm of 32 groups stands where the paper has BatchNorm, whose cost is no sum over examples.
    """

    side = 32

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.GroupNorm(32, 64), nn.ReLU())
        blocks: list[nn.Module] = []
        channels = 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for block in range(count):
                blocks.append(_Block(channels, width, stride if block == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.blocks(self.stem(x)).mean((-2, -1)))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.GroupNorm(32, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(32, width),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.GroupNorm(32, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


MODELS: dict[str, type[nn.Module]] = {"small": Small, "resnet34": ResNet34}
