"""Figure 1: draws of preconditioned Langevin dynamics and of minibatch NGD beside the Laplace approximation.

Run with ``python -m benchmarks.paper.figure1``. Logistic regression with two inputs. Every repetition has its own
training set, on which chains run side by side. Besides the paper's Laplace approximation, the covariance of the draws
is set beside the posterior's own, found by quadrature, and beside the linear law: the stationary covariance of the
update on the quadratic cost at the mode, V = (I−εMH) V (I−εMH)ᵀ + ε² M S M, with S the noise that each sampler has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from langevin.diagnostics import Laplace
from langevin.samplers import NGD, Fisher, Posterior, RiemannianLangevin, find_mode, sample
from matplotlib.axes import Axes
from scipy.linalg import solve_discrete_lyapunov

from ..rows import mean_and_error
from . import logistic, plotting
from .records import Row, collect, parser

DIM, TEMPERATURE = 2, 1.0
BATCH_SIZE = 50  # B = εN/2, as in the paper; 1 − B/N makes its temperature 0.95
NUM_WARMUP, NUM_SAMPLES = 5000, 5000
CHAINS = 8
REPETITIONS = 10
GRID = 400  # points per side of the quadrature, within 12 standard deviations of the mode

METRIC = Fisher(damping=logistic.DAMPING)
SAMPLERS = {
    "langevin": RiemannianLangevin(lr=logistic.LR, metric=METRIC, drift="none", temperature=TEMPERATURE),
    "ngd": NGD(lr=logistic.LR, metric=METRIC),
}


def draw(posterior: Posterior, name: str, mode: torch.Tensor, seed: int) -> np.ndarray:
    """Draws of one sampler, ``[chain, draw, 2]``."""
    chains = sample(
        posterior,
        SAMPLERS[name],
        num_samples=NUM_SAMPLES,
        num_warmup=NUM_WARMUP,
        num_chains=CHAINS,
        batch_size=BATCH_SIZE if name == "ngd" else None,
        init=mode,
        seed=seed,
        progress=False,
        compile=True,
    )
    return chains.position(posterior).double().numpy()


def linear_law(posterior: Posterior, laplace: Laplace, name: str) -> np.ndarray:
    """Stationary covariance on the quadratic cost at the mode."""
    x, y = posterior.inputs.double().numpy(), posterior.targets.double().numpy()
    residual = 1 / (1 + np.exp(-x @ laplace.mode.double().numpy()))[:, None] - y
    ε, N, B = logistic.LR, posterior.num_data, BATCH_SIZE
    H = laplace.precision.numpy() / N
    G = H + logistic.DAMPING * np.eye(DIM)  # F = H: the link is canonical and the prior flat
    M = np.linalg.inv(G)
    S = np.cov(residual * x, rowvar=False) * (1 / B) * (1 - B / N) if name == "ngd" else 2 * TEMPERATURE / (ε * N) * G
    return solve_discrete_lyapunov(np.eye(DIM) - ε * M @ H, ε**2 * M @ S @ M)


def exact_moments(posterior: Posterior, laplace: Laplace) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of exp(−C) by quadrature."""
    factor = np.linalg.cholesky(laplace.covariance.numpy())
    side = np.linspace(-12, 12, GRID)
    points = laplace.mode.double().numpy() + np.stack(np.meshgrid(side, side), -1).reshape(-1, DIM) @ factor.T
    double = posterior.to(dtype=torch.float64)
    cost = torch.cat([double.cost(part) for part in torch.from_numpy(points).split(4000)]).numpy()
    weight = np.exp(cost.min() - cost)
    weight /= weight.sum()
    mean = weight @ points
    return mean, (points - mean).T @ ((points - mean) * weight[:, None])


def run(repetition: int, pictures: dict[str, np.ndarray]) -> Row:
    """One training set: standard deviations and means of ω₁ and ω₂; the draws of the first go to `pictures`."""
    posterior = logistic.make_posterior(DIM, seed=repetition)
    mode = find_mode(posterior, tolerance=1e-7)
    laplace = Laplace.fit(posterior.to(dtype=torch.float64), mode)
    mean, covariance = exact_moments(posterior, laplace)
    draws = {name: draw(posterior, name, mode, repetition) for name in SAMPLERS}
    if repetition == 0:
        pictures.update(draws)
    row: Row = {"repetition": repetition}
    for i in range(DIM):
        row |= {f"mode_{i + 1}": float(mode[i]), f"laplace_sd_{i + 1}": float(laplace.sd[i])}
        row |= {f"exact_mean_{i + 1}": mean[i], f"exact_sd_{i + 1}": covariance[i, i] ** 0.5}
        for name, value in draws.items():
            row[f"{name}_mean_{i + 1}"] = value[..., i].mean()
            row[f"{name}_sd_{i + 1}"], row[f"{name}_sd_{i + 1}_error"] = mean_and_error(value[..., i].std(1))
            row[f"{name}_linear_sd_{i + 1}"] = linear_law(posterior, laplace, name)[i, i] ** 0.5
    return row


def draw_figure(rows: list[Row], pictures: dict[str, np.ndarray], image: str) -> None:
    """Draw the first training set as in the paper, and the ratios of all."""
    posterior = logistic.make_posterior(DIM, seed=0)
    mode = find_mode(posterior, tolerance=1e-7)
    laplace = Laplace.fit(posterior.to(dtype=torch.float64), mode)
    figure, axes = plotting.panels(3, width=3.7)
    centre = mode.double().numpy()
    for panel, name, title in zip(axes, SAMPLERS, ("(a) Langevin, T = 1", f"(b) NGD, B = {BATCH_SIZE}"), strict=False):
        ω = pictures[name] if pictures else draw(posterior, name, mode, 0)
        panel.plot(*ω[0].T, ".", color=plotting.ORANGE, markersize=1.5, alpha=0.5, rasterized=True, label="draws")
        own = np.mean([np.cov(chain, rowvar=False) for chain in ω], 0)
        panel.plot(*plotting.ellipse(centre, laplace.covariance.numpy()), color=plotting.BLUE, label="Laplace")
        panel.plot(*plotting.ellipse(ω.mean((0, 1)), own), color=plotting.GREEN, label="covariance of draws")
        linear = plotting.ellipse(centre, linear_law(posterior, laplace, name))
        panel.plot(*linear, "--", color=plotting.BLACK, label="linear law")
        panel.plot(*centre, "o", color=plotting.BLUE)
        panel.set(xlabel="ω₁", ylabel="ω₂", title=title)
    low, high = np.min([a.axis() for a in axes[:2]], 0), np.max([a.axis() for a in axes[:2]], 0)
    for panel in axes[:2]:
        panel.set(xlim=(low[0], high[1]), ylim=(low[2], high[3]))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower left", ncols=4, markerscale=4)
    draw_ratios(axes[2], rows)
    plotting.save(figure, image)


def draw_ratios(panel: Axes, rows: list[Row]) -> None:
    """Draw and print standard deviations relative to three yardsticks, with standard errors over training sets."""
    for style, name in enumerate(SAMPLERS):
        for place, reference in enumerate(("laplace", f"{name}_linear", "exact")):
            for i in (1, 2):
                ratio = [row[f"{name}_sd_{i}"] / row[f"{reference}_sd_{i}"] for row in rows]
                mean, error = mean_and_error(ratio)
                print(f"sd of ω{i}, {name} / {reference}: {mean:.3f} ± {error:.3f}")
                at = place + 0.2 * style - 0.1 + 0.07 * (i - 1.5)
                label = f"{('Langevin', 'NGD')[style]}, ω{'₁₂'[i - 1]}" if place == 0 else None
                look: dict[str, Any] = {"marker": plotting.MARKERS[style], "color": plotting.CYCLE[style]}
                filled = plotting.CYCLE[style] if i == 1 else "white"
                panel.errorbar(at, mean, error, linestyle="", label=label, markerfacecolor=filled, **look)
    panel.axhline(1, color=plotting.GREY, linewidth=1, zorder=0)
    panel.set_xticks(range(3), ["Laplace", "linear law", "posterior"])
    panel.set(ylabel="sd of draws, relative to", title=f"(c) {len(rows)} training sets")
    panel.legend(fontsize=7)


def main() -> None:
    """Run, draw, and print ratios of standard deviations."""
    arguments = parser(__doc__, "figure1", REPETITIONS).parse_args()
    pictures: dict[str, np.ndarray] = {}
    rows = collect(arguments, lambda: (run(repetition, pictures) for repetition in range(arguments.repetitions)))
    draw_figure(rows, pictures, arguments.image)


if __name__ == "__main__":
    main()
