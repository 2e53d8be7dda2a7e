"""Law in function space of SNGD and NGD under two parameterisations of one model, as the learning rate falls.

Run with ``python -m benchmarks.paper.reparameterisation``. Every example has cost ½(h − y)², y = ±√((N−1)/N) in equal
number, and the model is h = a sinh φ with a = √(T/N): sampled in φ, or in h itself. Minibatches keep the temperature
at T while ε falls. In h the Fisher information is constant, so both samplers should give N E[h²]/T = 1/(1 − ε/2), the
linear law; in φ it is a² cosh²φ. Chains are the repetitions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from langevin.samplers import NGD, SNGD, Fisher, Posterior, gaussian, sample, temperature_of
from torch import Tensor, nn

from ..rows import mean_and_error
from . import plotting
from .records import Row, collect, parser

NUM_DATA, TEMPERATURE = 400, 0.24
SCALE = (TEMPERATURE / NUM_DATA) ** 0.5
BATCH_SIZES = (64, 32, 16, 8)  # with the ε that gives T: 0.091 to 0.0098
WARMUP_TIME, SAMPLING_TIME, SPACING = 6.0, 20.0, 0.5  # in units of 1/ε steps, the relaxation time
CHAINS = 1024
METHODS = ("SNGD", "NGD")
COORDINATES = ("φ", "h")


class Model(nn.Module):
    """The same h for every input, from φ or as it is."""

    def __init__(self, coordinate: str):
        super().__init__()
        self.coordinate = coordinate
        self.parameter = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """h, ``[batch, 1]``."""
        return function_value(self.parameter, self.coordinate) + 0 * x


def function_value(parameter: Tensor, coordinate: str) -> Tensor:
    """h of the parameter that is sampled."""
    return SCALE * torch.sinh(parameter) if coordinate == "φ" else parameter


def draw(method: str, coordinate: str, batch_size: int, chains: int) -> tuple[float, np.ndarray]:
    """ε, and draws of h√(N/T), ``[chain, draw]``."""
    x, y = torch.ones(NUM_DATA, 1), torch.ones(NUM_DATA, 1) * (1 - 1 / NUM_DATA) ** 0.5
    y[::2] *= -1
    posterior = Posterior(Model(coordinate), gaussian(1.0), (x, y), prior=None)
    ε = 2 * TEMPERATURE * batch_size / (NUM_DATA - batch_size)
    assert abs(temperature_of(ε, NUM_DATA, batch_size) / TEMPERATURE - 1) < 1e-9
    metric = Fisher(inputs=x[:1])  # all inputs are alike
    thinning = max(1, round(SPACING / ε))
    result = sample(
        posterior,
        SNGD(lr=ε, metric=metric) if method == "SNGD" else NGD(lr=ε, metric=metric),
        num_samples=round(SAMPLING_TIME / SPACING),
        num_warmup=round(WARMUP_TIME / ε),
        thinning=thinning,
        num_chains=chains,
        batch_size=batch_size,
        progress=False,
        compile=False,
    )
    h = function_value(result.position(posterior)[..., 0].double(), coordinate)
    return ε, (h * (NUM_DATA / TEMPERATURE) ** 0.5).numpy()


def runs(chains: int, last: dict[tuple[str, str], np.ndarray]) -> Iterator[Row]:
    """One row per sampler, parameterisation and batch size; the draws at the smallest ε go to `last`."""
    for i, method in enumerate(METHODS):
        for j, coordinate in enumerate(COORDINATES):
            for batch_size in BATCH_SIZES:
                start = time.perf_counter()
                ε, h = draw(method, coordinate, batch_size, chains)
                last[method, coordinate] = h
                row: Row = {"method": i, "coordinate": j, "batch_size": batch_size, "lr": ε}
                for name, moment in ("h2", h**2), ("h4", h**4):
                    row[name], row[f"{name}_error"] = mean_and_error(np.nanmean(moment, 1))
                yield row | {"seconds": time.perf_counter() - start}


def main() -> None:
    """Run, and draw the second moment against ε and the densities at the smallest."""
    arguments = parser(__doc__, "reparameterisation", CHAINS).parse_args()
    last: dict[tuple[str, str], np.ndarray] = {}
    rows = collect(arguments, lambda: runs(arguments.repetitions, last))
    figure, axes = plotting.panels(2)
    cells = np.linspace(-5, 5, 51)
    for i, method in enumerate(METHODS):
        for j, coordinate in enumerate(COORDINATES):
            own = [(r["lr"], r["h2"], r["h2_error"]) for r in rows if (r["method"], r["coordinate"]) == (i, j)]
            look: dict[str, Any] = {
                "color": plotting.CYCLE[i],
                "linestyle": "-" if j == 0 else "--",
                "label": f"{method} in {coordinate}",
                "linewidth": (4, 1.3)[i],  # in h both draw the same chains, one over the other
                "alpha": (0.5, 1)[i],
            }
            filled = plotting.CYCLE[i] if j == 0 else "white"
            axes[0].errorbar(*np.array(own).T, marker=plotting.MARKERS[i], markerfacecolor=filled, **look)
            h = last.get((method, coordinate))
            h = draw(method, coordinate, BATCH_SIZES[-1], arguments.repetitions)[1] if h is None else h
            height, _ = np.histogram(h, cells, density=True)
            axes[1].plot((cells[1:] + cells[:-1]) / 2, height, **look)
    axes[0].axhline(1, color=plotting.GREY, linewidth=1, zorder=0)
    axes[0].set(xlabel="learning rate ε, at constant T", ylabel="N E[h²] / T", xlim=(0, None))
    axes[1].set(xlabel="h √(N/T)", ylabel=f"density at B = {BATCH_SIZES[-1]}")
    axes[1].legend(fontsize=8)
    plotting.save(figure, arguments.image)


if __name__ == "__main__":
    main()
