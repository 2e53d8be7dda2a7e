"""Residual networks of 6n + 2 layers for small images (He et al. 2016, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 64)
GROUPS = 8


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut, which is a 1 × 1 convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.GroupNorm(GROUPS, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, width),
        )
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the block."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(depth: int, classes: int = 10) -> nn.Sequential:
    """ResNet-8, -14, -20, …; GroupNorm stands where the paper has BatchNorm, whose cost is no sum over examples."""
    stem = [nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False), nn.GroupNorm(GROUPS, WIDTHS[0]), nn.ReLU()]
    layers: list[nn.Module] = list(stem)
    channels = WIDTHS[0]
    for width in WIDTHS:
        for block in range((depth - 2) // 6):
            layers.append(Block(channels, width, 2 if block == 0 and width != WIDTHS[0] else 1))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
