"""Figure 3 of Aitchison (2020): the step size of AdaBayes against the size of constant gradients.

Run with ``python -m benchmarks.paper.adabayes``. The step size s that AdaBayes settles on is measured, and set beside
the fixed point of AdaBayes-FP, the exact fixed point, and the limits: σ² (SGD) and η/g (Adam). Nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from langevin.samplers import AdaBayes, AdaBayesFP, LogDensity, sample

from . import plotting
from .records import Row, collect, parser

PRIOR = 1e-3  # σ² = η_SGD/B of 0.1 and about 100
RATES = (1e-3, 1e-2)  # η_Adam
GRADIENTS = np.logspace(-2, 4, 25)


def settled(sampler: AdaBayes | AdaBayesFP, steps: int) -> np.ndarray:
    """Step sizes after many steps with constant gradients, one parameter for each."""
    gradients = torch.tensor(GRADIENTS)
    target = LogDensity(lambda v: (gradients * v["x"]).sum(), {"x": torch.zeros(len(GRADIENTS), dtype=torch.float64)})
    run = {"num_samples": 2, "num_warmup": steps - 2, "num_chains": 1, "progress": False, "compile": False}
    x = sample(target, sampler, **run).draws["x"][0]
    return ((x[1] - x[0]) / gradients).numpy()


def exact(gradient: float, rate: float) -> float:
    """The fixed point of s = 1/(1/(a²s + η²) + g²)."""
    a = 1 - rate**2 / (2 * PRIOR)
    b = 1 - a**2 + (gradient * rate) ** 2
    return 2 * rate**2 / (b + math.sqrt(b**2 + 4 * (a * gradient * rate) ** 2))


def runs() -> Iterator[Row]:
    """One row per η_Adam and gradient."""
    for rate in RATES:
        steps = round(10 * PRIOR / rate**2) + 200  # the walk takes σ²/η² steps to forget
        measured = settled(AdaBayes(lr=PRIOR, adam_lr=rate), steps)
        fixed = settled(AdaBayesFP(lr=PRIOR, adam_lr=rate), 50)
        for gradient, own, first_order in zip(GRADIENTS.tolist(), measured, fixed, strict=True):
            yield {
                "adam_lr": rate,
                "gradient": gradient,
                "adabayes": own,
                "adabayes_fp": first_order,
                "exact": exact(gradient, rate),
            }


def main() -> None:
    """Measure, and draw the curves."""
    arguments = parser(__doc__, "adabayes", 1).parse_args()
    rows = collect(arguments, runs)
    figure, axes = plotting.panels(len(RATES))
    for panel, rate in zip(axes, RATES, strict=True):
        own = [row for row in rows if math.isclose(row["adam_lr"], rate)]
        g = np.array([row["gradient"] for row in own])
        panel.axhline(PRIOR, color=plotting.GREY, linewidth=1, label="σ²: SGD")
        panel.plot(g, rate / g, color=plotting.GREY, linestyle="--", linewidth=1, label="η/g: Adam")
        panel.plot(g, [row["exact"] for row in own], color=plotting.BLUE, label="AdaBayes, exact fixed point")
        panel.plot(g, [row["adabayes"] for row in own], "o", color=plotting.BLUE, label="AdaBayes, measured")
        panel.plot(
            g, [row["adabayes_fp"] for row in own], "s", color=plotting.RED, fillstyle="none", label="AdaBayes-FP"
        )
        panel.set(
            xscale="log", yscale="log", xlabel="gradient g of the summed loss", title=f"η = {rate:g}, σ² = {PRIOR:g}"
        )
        panel.set_ylim(min(row["exact"] for row in own) / 2, 4 * PRIOR)
    axes[0].set_ylabel("step size s")
    axes[0].legend(fontsize=8)
    plotting.save(figure, arguments.image)


if __name__ == "__main__":
    main()
