"""What the drift term is worth: bias of Riemannian Langevin against ε, with it and without.

Run with ``python -m benchmarks.paper.drift``. A quartic cost in two dimensions and a metric that changes by its own
size, T = N = 1. Five moments of the chains are set beside the density's by quadrature; the bias shown is their root
mean square. Without drift the chain converges to another law, and the bias stays. Chains are the repetitions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import get_args

import numpy as np
import torch
from langevin.samplers import LogDensity, MetricFunction, RiemannianLangevin, sample
from langevin.samplers.natural import Drift
from torch import Tensor

from . import plotting
from .records import Row, collect, parser

STEP_SIZES = (0.02, 0.04, 0.08)
WARMUP_TIME, SAMPLING_TIME, SPACING = 6.0, 12.0, 0.16  # in units of the diffusion's time: ε times steps
CHAINS = 4096
DRIFTS = ("exact", "probe", "midpoint", "none")
MEASURES = ("lebesgue", "jeffreys")
MOMENTS = ("1", "2", "11", "22", "12")
A = torch.tensor([[1.0, 0.3], [0.3, 0.5]])


def cost(ω: Tensor) -> Tensor:
    """½ ωᵀAω + 0.1 Σ ωᵢ⁴ of points ``[..., 2]``."""
    return 0.5 * ((ω @ A.to(ω)) * ω).sum(-1) + 0.1 * (ω**4).sum(-1)


def metric(ω: Tensor) -> Tensor:
    """G = BBᵀ + 0.2 I of points ``[..., 2]``."""
    first, second = ω[..., 0], ω[..., 1]
    rows = [1.2 + torch.sin(second), 0.5 * first], [torch.zeros_like(first), 1 + 0.3 * first**2]
    B = torch.stack([torch.stack(row, -1) for row in rows], -2)
    return B @ B.mT + 0.2 * torch.eye(2).to(ω)


def moments(ω: Tensor) -> Tensor:
    """ω₁, ω₂, ω₁², ω₂² and ω₁ω₂."""
    return torch.stack([ω[..., 0], ω[..., 1], ω[..., 0] ** 2, ω[..., 1] ** 2, ω.prod(-1)], -1)


def reference(measure: str) -> Tensor:
    """The same moments of exp(−C), or of exp(−C)|G|^{1/2}, by quadrature."""
    side = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    ω = torch.cartesian_prod(side, side)
    log_density = -cost(ω) + (0.5 * torch.logdet(metric(ω)) if measure == "jeffreys" else 0)
    weight = torch.softmax(log_density, 0)
    return weight @ moments(ω)


def runs(chains: int) -> Iterator[Row]:
    """One row per measure, drift and ε."""
    target = LogDensity(lambda values: -cost(values["ω"]), init={"ω": torch.zeros(2)})
    for measure in MEASURES:
        truth = reference(measure)
        for drift in get_args(Drift):
            if measure == "jeffreys" and drift == "none":
                continue  # no density's sampler
            for ε in STEP_SIZES:
                start = time.perf_counter()
                thinning = round(SPACING / ε)
                draws = sample(
                    target,
                    RiemannianLangevin(lr=ε, metric=MetricFunction(metric), measure=measure, drift=drift),
                    num_samples=round(SAMPLING_TIME / SPACING),
                    num_warmup=round(WARMUP_TIME / ε),
                    thinning=thinning,
                    num_chains=chains,
                    progress=False,
                    compile=False,
                )
                each = moments(draws.position(target).double()).mean(1)
                each = each[each.isfinite().all(-1)]
                bias, error = each.mean(0) - truth, each.std(0) / len(each) ** 0.5
                size = float(bias.square().mean().sqrt())
                row: Row = {"measure": MEASURES.index(measure), "drift": DRIFTS.index(drift), "lr": ε}
                row |= {f"bias_{name}": float(value) for name, value in zip(MOMENTS, bias, strict=True)}
                row |= {f"error_{name}": float(value) for name, value in zip(MOMENTS, error, strict=True)}
                row |= {
                    "rms_bias": size,
                    "rms_error": float((bias * error).square().mean().sqrt()) / size / math.sqrt(5),
                }
                yield row | {"stopped": chains - len(each), "seconds": time.perf_counter() - start}


def main() -> None:
    """Run, and draw the bias against ε."""
    arguments_ = parser(__doc__, "drift", CHAINS)
    arguments = arguments_.parse_args()
    rows = collect(arguments, lambda: runs(arguments.repetitions))
    figure, axes = plotting.panels(2)
    for panel, measure in zip(axes, MEASURES, strict=True):
        for style, drift in enumerate(DRIFTS):
            own = [r for r in rows if r["measure"] == MEASURES.index(measure) and r["drift"] == style]
            if not own:
                continue
            ε, bias, error = np.array([(r["lr"], r["rms_bias"], r["rms_error"]) for r in own]).T
            marker, colour = plotting.MARKERS[style], plotting.CYCLE[style]
            panel.errorbar(ε, bias, error, marker=marker, color=colour, label=f'drift="{drift}"')
        panel.axhline(0, color=plotting.GREY, linewidth=1, zorder=0)
        panel.set(xlabel="step size ε", ylabel="bias of five moments, root mean square", title=f'measure="{measure}"')
        panel.legend(loc="best")
    plotting.save(figure, arguments.image)


if __name__ == "__main__":
    main()
