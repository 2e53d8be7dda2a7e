"""Three statements of McAllester's slides (TTIC 31230, 2018), in their corrected form.

Run with ``python -m benchmarks.paper.mcallester``. (a) The converged loss of SGD on a logistic regression rises from
its minimum by η Tr Σ (1 − B/N)/(4B(1 − β)). (b) Curves of the loss against examples seen coincide over batch sizes with
`scale_to_batch`, on a small network and the digits of scikit-learn. (c) Two parameters whose gradients differ in noise
have two temperatures under SGD, and one under ηᵢ = η′/σᵢ². Errors are over independent chains.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from langevin.samplers import (
    SGHMC,
    ConstantSGD,
    Posterior,
    bernoulli,
    categorical,
    find_mode,
    gaussian,
    sample,
    scale_to_batch,
)
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ..rows import mean_and_error
from . import plotting
from .records import Row, collect, parser

CHAINS = 64
SETTINGS = ((1, 0.0), (8, 0.0), (1, 0.8))  # B, β
RATES = (0.02, 0.04, 0.08)
BATCHES, MEMORY = (4, 16, 64, 256), 256  # N′_g in examples
EXAMPLES, PLACES, RATE = 2**16, 16, 0.002  # η′ of one example
STATEMENTS = ("slope", "curve", "temperature")


def logistic() -> Posterior:
    """500 examples, three weights, no prior."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, dtype=torch.float64, generator=generator) * torch.tensor([1.0, 2.0, 0.5])
    y = torch.rand(500, 1, dtype=torch.float64, generator=generator) < torch.sigmoid(x @ torch.ones(3, 1).double())
    return Posterior(nn.Linear(3, 1, bias=False).double(), bernoulli, (x, y.double()), prior=None)


def descend(posterior: Posterior, lr: float, momentum: float, batch_size: int, **settings) -> Tensor:
    """Draws ``[chain, draw, dim]`` of SGD with momentum."""
    sampler = SGHMC(lr=lr, momentum=momentum, temperature=0.0)
    return sample(posterior, sampler, batch_size=batch_size, progress=False, compile=False, **settings).position(
        posterior
    )


def mean_loss(posterior: Posterior, draws: Tensor) -> Tensor:
    """C/N at draws ``[chain, draw, dim]``."""
    return torch.stack([posterior.cost(chain) for chain in draws]) / posterior.num_data


def slope_rows(chains: int) -> Iterator[Row]:
    """Statement (a): the rise of the loss, divided by η, and its prediction."""
    posterior = logistic()
    mode = find_mode(posterior)
    least = float(mean_loss(posterior, mode[None, None]))
    each = torch.func.vmap(
        torch.func.grad(lambda ω, i: -posterior.log_likelihood(ω[None], i[None, None])[0, 0]), in_dims=(None, 0)
    )(mode, torch.arange(posterior.num_data))
    trace = float(each.var(0).sum())
    for batch_size, momentum in SETTINGS:
        share = (1 - batch_size / posterior.num_data) / (4 * batch_size * (1 - momentum))
        for lr in RATES:
            eta = lr * batch_size * (1 - momentum)
            draws = descend(
                posterior, eta, momentum, batch_size, num_chains=chains, num_warmup=round(60 / lr), thinning=5,
                num_samples=round(40 / lr), init=mode, seed=1,
            )  # fmt: skip
            rise = (mean_loss(posterior, draws).mean(1) - least) / eta
            mean, error = mean_and_error(rise.tolist())
            yield {
                "statement": 0, "batch_size": batch_size, "momentum": momentum, "x": eta, "value": mean, "error": error,
                "predicted": trace * share,
            }  # fmt: skip


def digits() -> Posterior:
    """The network 64-32-10 on handwritten digits."""
    x, y = load_digits(return_X_y=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    return Posterior(model, categorical, (torch.tensor(x).float() / 8 - 1, torch.tensor(y)), prior=None)


def curve_rows() -> Iterator[Row]:
    """Statement (b): the loss at places along the examples seen, scaled and as it is."""
    posterior = digits()
    one = RATE / MEMORY  # η at B = 1 with momentum 1 − 1/N′_g
    base = scale_to_batch(one, 1 - 1 / MEMORY, BATCHES[0])
    for batch_size in BATCHES:
        for scaled, (lr, momentum) in enumerate((base, scale_to_batch(one, 1 - 1 / MEMORY, batch_size))):
            steps = EXAMPLES // batch_size
            draws = descend(
                posterior, lr, momentum, batch_size, num_chains=4, num_samples=PLACES, thinning=steps // PLACES
            )
            loss = mean_loss(posterior, draws)
            for place in range(PLACES):
                mean, error = mean_and_error(loss[:, place].tolist())
                yield {
                    "statement": 1, "batch_size": batch_size, "momentum": scaled, "x": (place + 1) * EXAMPLES / PLACES,
                    "value": mean, "error": error, "predicted": np.nan,
                }  # fmt: skip


class Mean(nn.Module):
    """The outputs are the two parameters."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """The same for every x."""
        return self.mean.expand(len(x), -1)


def temperature_rows(chains: int) -> Iterator[Row]:
    """Statement (c): the temperature of each of two parameters whose data have standard deviations 1 and 3."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(200, 2, dtype=torch.float64, generator=generator) * torch.tensor([1.0, 3.0])
    posterior = Posterior(Mean(), gaussian(1.0), (torch.zeros(200, 1, dtype=torch.float64), y), prior=None)
    B, N, T = 4, 200, 1.0
    noise = torch.cov(y.T).diagonal()
    for repaired, structure in enumerate(("scalar", "diagonal")):
        draws = sample(
            posterior, ConstantSGD(temperature=T, structure=structure), batch_size=B, num_chains=chains, num_warmup=500,
            num_samples=2000, thinning=5, init={"mean": y.mean(0)}, progress=False, compile=False,
        ).position(posterior)  # fmt: skip
        for i in range(2):
            heat = N * (draws[..., i] - y[:, i].mean()).square().mean(1)
            mean, error = mean_and_error(heat.tolist())
            rate = 2 * T * B / (N - B) / (noise.mean() if structure == "scalar" else noise[i])
            predicted = rate * N * noise[i] / (2 * B) * (1 - B / N) / (1 - rate / 2)
            yield {
                "statement": 2, "batch_size": B, "momentum": repaired, "x": i, "value": mean, "error": error,
                "predicted": float(predicted),
            }  # fmt: skip


def main() -> None:
    """Run, and draw three panels."""
    arguments = parser(__doc__, "mcallester", CHAINS).parse_args()

    def runs() -> Iterator[Row]:
        yield from slope_rows(arguments.repetitions)
        yield from curve_rows()
        yield from temperature_rows(arguments.repetitions)

    rows = collect(arguments, runs)
    figure, axes = plotting.panels(3, width=3.6)
    for i, (batch_size, momentum) in enumerate(SETTINGS):
        own = [r for r in rows if r["statement"] == 0 and (r["batch_size"], r["momentum"]) == (batch_size, momentum)]
        scaled = [(r["x"], r["value"] / r["predicted"], r["error"] / r["predicted"]) for r in own]
        label = f"B = {batch_size}, β = {momentum:g}"
        axes[0].errorbar(*np.array(scaled).T, color=plotting.CYCLE[i], marker=plotting.MARKERS[i], label=label)
    axes[0].axhline(1, color=plotting.GREY, linewidth=1, zorder=0)
    axes[0].set(
        xlabel="learning rate η", ylabel="rise of the loss / predicted", xscale="log", ylim=(0.9, 1.2), title="(a)"
    )
    for i, batch_size in enumerate(BATCHES):
        for scaled in (0, 1):
            own = [
                (r["x"] / 1000, r["value"])
                for r in rows
                if r["statement"] == 1 and (r["batch_size"], r["momentum"]) == (batch_size, scaled)
            ]
            look = {"color": plotting.CYCLE[i], "linestyle": "-" if scaled else ":"}
            axes[1].plot(*np.array(own).T, label=f"B = {batch_size}" if scaled else None, **look)
    axes[1].set(
        xlabel="examples seen, thousands", ylabel="training loss", yscale="log", title="(b) scaled (–) and not (⋯)"
    )
    for i, name in enumerate(("one η", "ηᵢ = η′/σᵢ²")):
        own = [r for r in rows if r["statement"] == 2 and r["momentum"] == i]
        place = np.array([0, 1]) + 0.3 * (i - 0.5)
        axes[2].bar(place, [r["value"] for r in own], 0.28, color=plotting.CYCLE[i], label=name)
        axes[2].plot(place, [r["predicted"] for r in own], "k_", markersize=24)
    axes[2].axhline(1, color=plotting.GREY, linewidth=1, zorder=0)
    axes[2].set(xticks=[0, 1], xticklabels=["σ = 1", "σ = 3"], ylabel="temperature (– predicted)")
    for panel, letter in zip(axes, "abc", strict=True):
        panel.set_title(f"({letter})")
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=8)
    axes[2].legend(fontsize=8)
    plotting.save(figure, arguments.image)


if __name__ == "__main__":
    main()
