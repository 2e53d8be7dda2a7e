"""The problems: models of a few layers on random data, of the sizes that users of small models have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from langevin.samplers import Posterior, bernoulli, categorical
from torch import Tensor, nn

Kind = Literal["binary", "classes"]
CLASSES = 10


@dataclass(frozen=True)
class Workload:
    """A model with its data; the prior is a standard normal.

    Attributes
    ----------
    kind
        What the targets are: `binary`, one logit for labels 0 and 1 of shape `[N, 1]`, or `classes`.
    batch_size, lr
        B, and ε of the mean gradient.
    thinning
        Steps between two positions that are recorded: 1 unless positions are large.
    """

    model: nn.Sequential
    kind: Kind
    x: Tensor
    y: Tensor
    batch_size: int
    lr: float
    thinning: int

    @property
    def num_data(self) -> int:
        """N."""
        return len(self.x)

    @property
    def dim(self) -> int:
        """D."""
        return sum(p.numel() for p in self.model.parameters())

    def posterior(self) -> Posterior:
        """As langevin sees it."""
        return Posterior(self.model, bernoulli if self.kind == "binary" else categorical, (self.x, self.y))

    def start(self) -> Tensor:
        """The position where chains start and gradients are compared, `[dim]`."""
        return 0.1 * torch.randn(self.dim, generator=torch.Generator().manual_seed(1))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood."""
        if self.kind == "binary":
            return nn.functional.binary_cross_entropy_with_logits(outputs, targets)
        return nn.functional.cross_entropy(outputs, targets)


def logistic(dim: int, num_data: int = 1000) -> Workload:
    """Logistic regression without intercept."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_data, dim, generator=generator)
    y = torch.rand(num_data, 1, generator=generator) < torch.sigmoid(x.sum(1, keepdim=True) / dim**0.5)
    return Workload(nn.Sequential(nn.Linear(dim, 1, bias=False)), "binary", x, y.float(), 50, 0.1, 1)


def mlp() -> Workload:
    """10-40-10 with ReLU, D = 850, on labels that another such network gave."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 10, generator=generator)
    hidden = torch.relu(x @ torch.randn(10, 40, generator=generator))
    logits = hidden @ torch.randn(40, CLASSES, generator=generator) / 40**0.5
    y = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    model = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, CLASSES))
    return Workload(model, "classes", x, y, 64, 0.05, 10)


def cnn() -> Workload:
    """Two 3 × 3 convolutions of stride 2, 8 and 16 channels, and a linear layer: D = 7,018, images of 28 × 28."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 1, 28, 28, generator=generator)
    y = torch.randint(CLASSES, (1024,), generator=generator)
    layers = (nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten())
    return Workload(nn.Sequential(*layers, nn.Linear(576, CLASSES)), "classes", x, y, 64, 0.01, 10)


WORKLOADS = {"logistic 2": lambda: logistic(2), "logistic 64": lambda: logistic(64), "mlp": mlp, "cnn": cnn}
