"""Optimisers behind one door: each makes steps on the minibatches that it is given.

Settings follow Aitchison (2020, Section 4): batches of 128, L2 weight decay of 5·10⁻⁴ for the optimisers that add it to
the gradient, decoupled decay λ = 5·10⁻⁵ for AdamW and the filters, all learning rates divided by ten after three
quarters of the run (decoupled decay with them, as in `torch.optim.AdamW`). Learning rates are chosen from the four of
`GRIDS`. The filters have two, η_SGD and η_Adam: the paper's pair, and pairs with an η_SGD ten times larger, because
their average of gradients is normalised while the momentum buffer of SGD sums ten of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from langevin.samplers import ASGLD, AdaBayes, AdaBayesFP, Posterior, categorical
from langevin.samplers.batches import Batches
from langevin.samplers.threefry import BATCHES, NOISE, Noise, chain_keys
from torch import Tensor, nn
from torch.distributions import Normal

BATCH_SIZE = 128
MOMENTUM, L2, DECOUPLED = 0.9, 5e-4, 5e-5
DROP, DROP_AT = 0.1, 0.75
Rates = tuple[float, float]  # lr, and η_SGD of a filter, whose lr is η_Adam; 0 for the others


def _grid(*rates: float) -> tuple[Rates, ...]:
    return tuple((lr, 0.0) for lr in rates)


SMALLER, FILTERS = _grid(3e-4, 1e-3, 3e-3, 1e-2), ((1e-3, 0.1), (1e-3, 1.0), (3e-3, 1.0), (1e-2, 1.0))
GRIDS: dict[str, tuple[Rates, ...]] = {
    "SGD": _grid(0.01, 0.03, 0.1, 0.3),
    "ASGLD": _grid(0.03, 0.1, 0.3, 1.0),
    "AdaGrad": _grid(0.003, 0.01, 0.03, 0.1),
    "Adam": SMALLER,
    "AMSGrad": SMALLER,
    "AdamW": SMALLER,
    "AdaBayes": FILTERS,
    "AdaBayes-FP": FILTERS,
}


class Run(Protocol):
    """An optimiser at work."""

    def step(self, index: Tensor) -> None:
        """One step on the training examples with these numbers, ``[1, batch]``."""
        ...

    def drop(self) -> None:
        """Divide learning rates."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """Outputs for a few images."""
        ...


class TorchRun:
    """An optimiser of `torch.optim`."""

    def __init__(self, model: nn.Module, data: tuple[Tensor, Tensor], make: Callable[..., torch.optim.Optimizer]):
        self.model, self.data = model, data
        self.optimizer = make(model.parameters())

    def step(self, index: Tensor) -> None:
        """One step."""
        x, y = (part[index[0]] for part in self.data)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()

    def drop(self) -> None:
        """Divide the learning rate, which multiplies decoupled decay too."""
        for group in self.optimizer.param_groups:
            group["lr"] *= DROP

    def logits(self, x: Tensor) -> Tensor:
        """Outputs."""
        return self.model(x)


class LangevinRun:
    """One chain of `langevin.samplers`, step by step."""

    def __init__(self, model: nn.Module, data: tuple[Tensor, Tensor], sampler: Any, seed: int, l2: float = 0.0):
        # A decay of l2·ω in the mean gradient is that of a normal prior of variance 1/(N·l2).
        prior = Normal(0.0, (len(data[0]) * l2) ** -0.5) if l2 else None
        self.target = Posterior(model, categorical, data, prior=prior)
        self.sampler = sampler
        if hasattr(sampler, "check"):
            sampler.check(self.target, BATCH_SIZE, 0)
        self.state = sampler.init(self.target, self.target.default_position()[None])
        self.keys = chain_keys(seed, torch.zeros(1, dtype=torch.int64, device=self.target.device), NOISE)

    def step(self, index: Tensor) -> None:
        """One step."""
        noise = Noise(self.keys, self.state.step, self.target.dtype)
        self.state = self.sampler.step(self.target, self.state, index, noise)

    def drop(self) -> None:
        """Divide both learning rates and the decay of a filter; its memory stays."""
        names = [name for name in ("lr", "adam_lr", "weight_decay") if hasattr(self.sampler, name)]
        self.sampler = replace(self.sampler, **{name: DROP * getattr(self.sampler, name) for name in names})

    def logits(self, x: Tensor) -> Tensor:
        """Outputs."""
        return self.target.outputs(self.state.position, x)[0]


def make(name: str, rates: Rates, model: nn.Module, data: tuple[Tensor, Tensor], seed: int) -> Run:
    """The optimiser of that name."""
    optim, (lr, sgd_lr) = torch.optim, rates
    if name in ("AdaBayes", "AdaBayes-FP"):
        kind = AdaBayes if name == "AdaBayes" else AdaBayesFP
        return LangevinRun(model, data, kind(lr=sgd_lr, adam_lr=lr, weight_decay=DECOUPLED), seed)
    if name == "ASGLD":
        return LangevinRun(model, data, ASGLD(lr=lr), seed, l2=L2)
    factories: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "SGD": lambda p: optim.SGD(p, lr=lr, momentum=MOMENTUM, weight_decay=L2),
        "AdaGrad": lambda p: optim.Adagrad(p, lr=lr, weight_decay=L2),
        "Adam": lambda p: optim.Adam(p, lr=lr, weight_decay=L2),
        "AMSGrad": lambda p: optim.Adam(p, lr=lr, weight_decay=L2, amsgrad=True),
        "AdamW": lambda p: optim.AdamW(p, lr=lr, weight_decay=DECOUPLED / lr),
    }
    return TorchRun(model, data, factories[name])


@torch.no_grad()
def evaluate(run: Run, data: tuple[Tensor, Tensor], chunk: int = 1000) -> tuple[float, float]:
    """Error and cross-entropy in nats."""
    pieces = [run.logits(x) for x in data[0].split(chunk)]
    logits = torch.cat(pieces)
    error = float((logits.argmax(-1) != data[1]).double().mean())
    return error, float(nn.functional.cross_entropy(logits, data[1]))


def train(run: Run, num_data: int, epochs: int, seed: int, device: str, each_epoch: Callable[[int], None]) -> None:
    """Sweep through reshuffled data, the same batches for every optimiser."""
    batches = Batches(num_data, min(BATCH_SIZE, num_data), "epoch")
    keys = chain_keys(seed, torch.zeros(1, dtype=torch.int64, device=device), BATCHES)
    steps = math.ceil(num_data / batches.batch_size)
    drop_at = round(DROP_AT * epochs)
    for epoch in range(epochs):
        if epoch == drop_at:
            run.drop()
        numbers = torch.arange(epoch * steps, (epoch + 1) * steps, device=device)
        for index in batches.indices(keys.expand(steps, 2), numbers)[:, None]:
            run.step(index)
        each_epoch(epoch + 1)
