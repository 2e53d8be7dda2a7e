"""Do the draws have the target's law? The kernelised Stein discrepancy, from gradients at the draws alone.

Liu, Lee & Jordan 2016, "A kernelized Stein discrepancy for goodness-of-fit tests", with the inverse multiquadric kernel
of Gorham & Mackey 2017, "Measuring sample quality with kernels": with scores s = ∇log π, k = q^β, q = c² + |x−y|²,
β = −½,

    k_π(x, y) = s(x)·s(y) q^β − 2β q^(β−1) [(s(x)−s(y))·(x−y) + D] − 4β(β−1) |x−y|² q^(β−2)

has expectation 0 over y ~ π for every x. The double mean over draws is the squared discrepancy; signs that flip with
the chains' memory tell what it would be by chance (wild bootstrap: Chwialkowski, Strathmann & Gretton 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..samplers.chains import Chains
from ..samplers.target import Target
from .convergence import ess
from .ensemble import chain_positions, evenly_spaced
from .thermometer import _AT_ONCE, _NUMBERS, _full_gradient

_PAIRS = 2**20  # kernel values held at once
_BETA = -0.5


@dataclass(frozen=True, eq=False)
class SteinDiscrepancy:
    """What `stein_discrepancy` found; in scaled coordinates, so all numbers are free of the parameters' units.

    Attributes
    ----------
    value
        Root of the V-statistic (diagonal pairs included): positive, and of order 1/√n even for perfect draws.
    squared, null_error
        U-statistic of the squared discrepancy (diagonal left out), expectation 0 under the target, and the standard
        deviation that it has by chance under the target, from the bootstrap.
    p_value
        Share of bootstrap values at least as large as the one found.
    scale
        What positions were divided by, float64 `[dim]`.
    offset
        c of the kernel.
    flip
        Probability that a bootstrap sign changes from one draw to the next; ½ for independent draws.
    temperature
        T of the target exp(−C/T).
    num_chains, num_draws
        Chains that entered, and draws of each.
    source
        ``"full gradients"`` or ``"minibatch gradients"``.
    stopped
        Chains left out because they diverged, `{chain id: step}`.
    """

    value: float
    squared: float
    null_error: float
    p_value: float
    scale: Float[Tensor, " dim"]
    offset: float
    flip: float
    temperature: float
    num_chains: int
    num_draws: int
    source: Literal["full gradients", "minibatch gradients"]
    stopped: dict[str, int]

    def __str__(self) -> str:
        lines = [
            f"Stein discrepancy {self.value:.4g}; squared, without diagonal {self.squared:.3g} ± {self.null_error:.2g} "
            f"by chance, p = {self.p_value:.2g}",
            f"from {self.source} at {self.num_chains} chains × {self.num_draws} draws, T = {self.temperature:g}",
        ]
        return "\n".join(lines + [f"stopped and left out: chain {c} at step {s}" for c, s in self.stopped.items()])


def stein_discrepancy(
    chains: Chains,
    posterior: Target,
    *,
    max_draws: int = 500,
    batch_size: int | None = None,
    temperature: float | None = None,
    scale: Float[Tensor, " dim"] | None = None,
    offset: float | None = None,
    num_bootstrap: int = 500,
    seed: int = 0,
) -> SteinDiscrepancy:
    """Measure how far draws are from the target's law.

    Parameters
    ----------
    chains
        What `sample` returned, with every sampled parameter. Stopped chains are left out and named; draws of unequal
        weight count by it.
    posterior
        The target; its scores are −∇C/T in the coordinates that are sampled (unconstrained).
    max_draws
        At how many evenly spaced draws gradients are taken, over all chains; at least one of each. Time n²D.
    batch_size
        Examples per gradient, drawn anew with replacement for every draw; None for all. The scores are unbiased and
        independent of each other, so `squared` still has expectation 0 and the p-value holds, with less power; `value`
        contains the noise of the diagonal and is too large.
    temperature
        T; by default what the chains were asked for, else 1.
    scale
        Positions are divided by it; by default the standard deviation of each element over the chosen draws. The
        expectation is 0 for every scale that does not depend on the draws, and for this one up to O(1/n).
    offset
        c of the kernel, in scaled units; √D by default, the size of a typical distance.
    num_bootstrap, seed
        Sign patterns of the bootstrap, and the seed of these and of the minibatches.

    Raises
    ------
    ValueError
        If every chain was stopped, parameters are missing, fewer than two draws are left, an element never moved
        and no scale was given, positions or gradients are not finite, a setting is out of range, or chains have
        ``measure="jeffreys"``, whose law is not exp(−C/T).
    """
    if max_draws < 2 or num_bootstrap < 2 or (batch_size is not None and batch_size < 1):
        raise ValueError("max_draws and num_bootstrap must be at least 2, batch_size at least 1 or None")
    if "temperature_weight" in chains.sample_stats or chains.attrs.get("measure") == "jeffreys":
        raise ValueError(
            'the chains have measure="jeffreys", whose law is not exp(−C/T); their score is not known here'
        )
    stopped = dict(chains.attrs.get("stopped") or {})
    heat = chains.attrs.get("temperature") if temperature is None else temperature
    heat = 1.0 if heat is None else float(heat)
    c = math.sqrt(posterior.dim) if offset is None else float(offset)
    if not 0 < heat < math.inf or not 0 < c < math.inf:
        raise ValueError(f"temperature and offset must be positive and finite, got {heat} and {c}")
    chains = chains.finished()
    chosen = evenly_spaced(chains.num_draws, max(1, max_draws // chains.num_chains))
    at = chain_positions(posterior, chains, chosen)
    shape, flat = at.shape[:2], at.flatten(0, 1)
    if len(flat) < 2:
        raise ValueError("one draw: at least two are needed")
    if not bool(flat.isfinite().all()):
        raise ValueError("positions are not finite; leave out chains that diverged")
    wide = flat.double().cpu()
    scale = wide.std(0) if scale is None else torch.as_tensor(scale).double().cpu()
    if scale.shape != (posterior.dim,) or not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError(f"scale must be {posterior.dim} positive numbers; an element that never moved needs one given")
    generator = torch.Generator().manual_seed(seed)
    score = -_gradients(posterior, flat, batch_size, generator) * (scale / heat)
    if not bool(score.isfinite().all()):
        raise ValueError("gradients are not finite at some draws")
    w = torch.ones(shape, dtype=torch.float64) if chains.weights is None else chains.weights[:, chosen].double().cpu()
    w = (w / w.sum()).flatten()
    flip = _flip(at.double().cpu())
    signs = _signs(shape, num_bootstrap, flip, generator)
    forms, diagonal = _quadratic_forms(
        wide / scale, score, w[:, None] * torch.cat((torch.ones(len(w), 1), signs), 1), c
    )
    # Signs square to 1, so the diagonal enters all alike.
    own = (w.square() * diagonal).sum()
    found, chance = (forms[0] - own) / (1 - w.square().sum()), (forms[1:] - own) / (1 - w.square().sum())
    return SteinDiscrepancy(
        value=math.sqrt(max(forms[0].item(), 0.0)),
        squared=found.item(),
        null_error=chance.square().mean().sqrt().item(),
        p_value=(1 + int((chance >= found).sum())) / (1 + num_bootstrap),
        scale=scale,
        offset=c,
        flip=flip,
        temperature=heat,
        num_chains=shape[0],
        num_draws=shape[1],
        source="full gradients" if batch_size is None else "minibatch gradients",
        stopped=stopped,
    )


def stein_kernel(
    x: Float[Tensor, "row dim"],
    score_x: Float[Tensor, "row dim"],
    y: Float[Tensor, "column dim"],
    score_y: Float[Tensor, "column dim"],
    offset: float,
) -> Float[Tensor, "row column"]:
    """k_π of every pair, in closed form, without an array of pairs × dim."""
    square = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    q = offset**2 + square
    k = q**_BETA
    # (s(x)−s(y))·(x−y) from four inner products.
    along = (score_x * x).sum(-1)[:, None] + (score_y * y).sum(-1) - score_x @ y.mT - x @ score_y.mT
    return (
        (score_x @ score_y.mT) * k
        - 2 * _BETA * (k / q) * (along + x.shape[-1])
        - 4 * _BETA * (_BETA - 1) * square * k / q**2
    )


def _quadratic_forms(
    x: Float[Tensor, "draw dim"], score: Float[Tensor, "draw dim"], v: Float[Tensor, "draw form"], offset: float
) -> tuple[Float[Tensor, " form"], Float[Tensor, " draw"]]:
    """V-statistics vᵀKv of all columns of v, and K's diagonal, a block of rows at a time."""
    x = x - x.mean(0)  # differences alone count, and small numbers round less
    forms = torch.zeros(v.shape[1], dtype=torch.float64)
    for rows in torch.arange(len(x)).split(max(1, _PAIRS // len(x))):
        forms += (v[rows] * (stein_kernel(x[rows], score[rows], x, score, offset) @ v)).sum(0)
    diagonal = score.square().sum(-1) * offset ** (2 * _BETA)
    return forms, diagonal - 2 * _BETA * x.shape[-1] * offset ** (2 * _BETA - 2)


def _gradients(
    target: Target, flat: Float[Tensor, "draw dim"], batch_size: int | None, generator: torch.Generator
) -> Float[Tensor, "draw dim"]:
    """∇C or its estimate, float64 on the CPU."""
    out = torch.empty(flat.shape, dtype=torch.float64)
    per_draw = target.num_data if batch_size is None else batch_size
    for rows in torch.arange(len(flat)).split(max(1, min(_AT_ONCE // per_draw, _NUMBERS // flat.shape[1]))):
        if batch_size is None:
            out[rows] = _full_gradient(target, flat[rows])
        else:
            batch: Int[Tensor, "draw batch"] = torch.randint(
                target.num_data, (len(rows), batch_size), generator=generator
            )
            at = flat[rows].to(device=target.device, dtype=target.dtype)
            out[rows] = target.num_data * target.cost_and_gradient(at, batch.to(target.device))[1].cpu().double()
    return out


def _flip(at: Float[Tensor, "chain draw dim"]) -> float:
    """½/τ, τ the mean integrated autocorrelation time in chosen draws: the signs then remember for about 2τ of them."""
    if at.shape[1] < 4:
        return 0.5
    few = evenly_spaced(at.shape[-1], 1000)
    share = 1 / ess(at[..., few], "mean")
    tau = (share * at.shape[0] * at.shape[1]).nanmean().item()
    return 0.5 / max(tau, 1.0) if math.isfinite(tau) else 0.5


def _signs(shape: torch.Size, count: int, flip: float, generator: torch.Generator) -> Float[Tensor, "draw form"]:
    """±1 that change along each chain with probability `flip`, chains independent of each other."""
    change = torch.rand((*shape, count), generator=generator, dtype=torch.float64) < flip
    change[:, 0] = torch.rand((shape[0], count), generator=generator) < 0.5
    return (1 - 2 * (change.cumsum(1) % 2)).double().flatten(0, 1)
