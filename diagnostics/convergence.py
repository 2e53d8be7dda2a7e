"""Have the chains settled, and what are they worth: rank-normalised split R̂, effective sample size, Monte-Carlo error.

Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, "Rank-normalization, folding, and localization: an improved R̂ for
assessing convergence of MCMC", with Geyer's (1992) initial monotone positive sequence, for all parameters at once.
The numbers equal ArviZ's, with three deliberate differences: elements that never change are NaN (ArviZ calls each of
their draws effective), infinite values count as NaN does, and the scale of an element does not matter, however small
it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.fft import next_fast_len
from torch import Tensor

from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from ..samplers.target import Layout
from .ensemble import draw_means

TAIL = (0.05, 0.95)
_COLUMNS = ("mean", "sd", "rhat", "ess_bulk", "ess_tail", "mcse")
_WORTH_THREADS = 16  # blocks of some milliseconds each
_BLOCK = 2**17  # draws looked at together: fits the cache, fastest of 2¹⁵ … 2²²

Block = Float[Tensor, "element chain draw"]
PerElement = Float[Tensor, " element"]


def rhat(x: Float[Tensor, "chain draw *shape"]) -> Float[Tensor, "*shape"]:
    """Rank-normalised split R̂, the larger of bulk and folded.

    Parameters
    ----------
    x
        Draws.

    Returns
    -------
    Tensor
        float64; NaN for fewer than 2 chains or 4 draws, for non-finite values and for elements that never change.
        Infinite where every half chain stands still, but not all at one value.
    """
    return _statistics(x, ("rhat",))["rhat"]


def ess(
    x: Float[Tensor, "chain draw *shape"], kind: Literal["bulk", "tail", "mean"] = "bulk"
) -> Float[Tensor, "*shape"]:
    """Effective sample size.

    Parameters
    ----------
    x
        Draws.
    kind
        ``"bulk"``: of the rank-normalised draws; ``"tail"``: the smaller of those for the 5 % and 95 % quantiles;
        ``"mean"``: of the draws as they are.

    Returns
    -------
    Tensor
        float64; NaN for fewer than 4 draws, for non-finite values and for elements that never change.
    """
    if kind not in ("bulk", "tail", "mean"):
        raise ValueError(f'kind must be "bulk", "tail" or "mean", got {kind!r}')
    return _statistics(x, (f"ess_{kind}",))[f"ess_{kind}"]


def mcse(x: Float[Tensor, "chain draw *shape"]) -> Float[Tensor, "*shape"]:
    """Monte-Carlo standard error of the mean, in the units of x: their standard deviation over √`ess(x, "mean")`."""
    return _statistics(x, ("mcse",))["mcse"]


@dataclass(frozen=True)
class Convergence:
    """Statistics of every element of every parameter (or prediction), over the chains that were not stopped.

    Attributes
    ----------
    mean, sd, mcse
        Mean, standard deviation and Monte-Carlo standard error of the mean, `{name: [*shape]}`, float64.
    rhat, ess_bulk, ess_tail
        See `rhat` and `ess`.
    predictions
        The same for the predictive mean or class probabilities, under the name ``prediction``; None if not asked for.
    num_chains, num_draws
        Chains judged, and draws of each.
    stopped
        Chains left out because they diverged, `{chain id: step}`.
    unmoved
        Numbers of the chains all of whose draws are the same point: the sampler did nothing there.
    """

    mean: dict[str, Tensor]
    sd: dict[str, Tensor]
    rhat: dict[str, Tensor]
    ess_bulk: dict[str, Tensor]
    ess_tail: dict[str, Tensor]
    mcse: dict[str, Tensor]
    num_chains: int
    num_draws: int
    stopped: dict[str, int]
    unmoved: list[int]
    predictions: Convergence | None = None

    @property
    def max_rhat(self) -> float:
        """Largest R̂; NaN if it is defined for no element."""
        values = _flat(self.rhat)
        values = values[~values.isnan()]
        return values.max().item() if len(values) else math.nan

    @property
    def min_ess(self) -> float:
        """Smallest of all bulk and tail effective sample sizes; NaN if defined for no element."""
        values = torch.cat([_flat(self.ess_bulk), _flat(self.ess_tail)])
        values = values[~values.isnan()]
        return values.min().item() if len(values) else math.nan

    @property
    def num_constant(self) -> int:
        """Number of elements with one value in every draw of every chain, of whose convergence nothing can be said."""
        return int((_flat(self.sd) == 0).sum())

    def worst(self, count: int = 10) -> list[dict[str, Any]]:
        """Describe the worst elements: undefined ones first, then by R̂, or for a single chain by effective size."""
        least = torch.fmin(_flat(self.ess_bulk), _flat(self.ess_tail))
        badness = _flat(self.rhat) if self.num_chains > 1 else -least
        order = badness.nan_to_num(nan=math.inf, posinf=math.inf).argsort(descending=True, stable=True)[:count]
        columns = ("mean", "sd", "mcse", "rhat", "ess_bulk", "ess_tail")
        values = torch.stack([_flat(getattr(self, column))[order] for column in columns], -1)
        layout = Layout(tuple(self.mean), tuple(value.shape for value in self.mean.values()))
        labels = map(layout.label, order.tolist())
        return [{"name": n} | dict(zip(columns, v, strict=True)) for n, v in zip(labels, values.tolist(), strict=True)]

    def __str__(self) -> str:
        size = sum(value.numel() for value in self.mean.values())
        lines = [f"{self.num_chains} chains × {self.num_draws} draws of {size} numbers"]
        lines += [f"stopped and left out: chain {chain} at step {step}" for chain, step in self.stopped.items()]
        lines += [f"chain {chain} has not moved: all its draws are the same" for chain in self.unmoved]
        if self.num_constant:
            lines.append(f"{self.num_constant} numbers never change; R̂ and ESS are undefined for them")
        lines.append(f"largest R̂ {self.max_rhat:.3f}, smallest ESS {self.min_ess:.0f}; worst:")
        worst = self.worst(5)
        width = max(len(row["name"]) for row in worst)
        lines.append(f"  {'':{width}} {'mean':>10} {'sd':>10} {'mcse':>10} {'R̂':>8} {'ESS bulk':>9} {'tail':>8}")
        lines += [
            f"  {row['name']:{width}} {row['mean']:10.4g} {row['sd']:10.3g} {row['mcse']:10.2g} {row['rhat']:7.3f} "
            f"{row['ess_bulk']:9.0f} {row['ess_tail']:8.0f}"
            for row in worst
        ]
        if self.predictions is not None:
            lines.append(f"predictions: {self.predictions}")
        return "\n".join(lines)


def convergence(
    chains: Chains, posterior: Posterior | None = None, inputs: Any = None, *, chunk: int = 4096
) -> Convergence:
    """Judge chains by every weight, and on `inputs` also by every prediction.

    Networks have many settings of the weights that mean the same function, so R̂ of the predictions is what matters for
    predicting, and R̂ of the weights often looks worse than it is.

    Parameters
    ----------
    chains
        What `sample` returned. Stopped chains are left out and named. Draws of unequal weight (schedules with a
        changing lr) enter mean and sd by their weight; R̂ and ESS know no weights, and `mcse` is enlarged for them by
        Kish's factor, which is exact for independent draws only.
    posterior, inputs
        The target, and inputs of its model (tensor, dict or tuple) at which class probabilities or predictive means are
        judged.
    chunk
        How many (draw, example) pairs are evaluated at once.

    Raises
    ------
    ValueError
        If every chain was stopped, or inputs come without a posterior.
    """
    if inputs is not None and posterior is None:
        raise ValueError("inputs without a posterior: give convergence(chains, posterior, inputs) to judge predictions")
    stopped = dict(chains.attrs.get("stopped") or {})
    chains = chains.finished()
    judged = _judge(chains, chains.draws.items(), stopped)
    if posterior is None or inputs is None:
        return judged
    means = draw_means(posterior, chains, inputs, chunk)
    predictions = _judge(chains, (("prediction", piece) for piece in means), stopped)
    return replace(judged, predictions=predictions)


def _judge(chains: Chains, pieces: Iterable[tuple[str, Tensor]], stopped: dict[str, int]) -> Convergence:
    """Statistics of named pieces; pieces of one name are joined along their first dimension."""
    found: dict[str, dict[str, list[Tensor]]] = {column: {} for column in _COLUMNS}
    moved = torch.zeros(chains.num_chains, dtype=torch.bool)
    for name, x in pieces:
        for column, value in _statistics(x, _COLUMNS, chains.weights).items():
            found[column].setdefault(name, []).append(value)
        moved |= (x.amax(1) != x.amin(1)).reshape(len(x), -1).any(-1)
    joined: dict[str, Any] = {
        column: {name: values[0] if len(values) == 1 else torch.cat(values) for name, values in named.items()}
        for column, named in found.items()
    }
    ids = chains.attrs.get("chain_ids") or range(chains.num_chains)
    return Convergence(
        **joined,
        num_chains=chains.num_chains,
        num_draws=chains.num_draws,
        stopped=stopped,
        unmoved=[int(chain) for chain, did in zip(ids, moved.tolist(), strict=True) if not did],
    )


def _flat(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values.values()])


def _statistics(
    x: Float[Tensor, "chain draw *shape"], names: Sequence[str], weights: Float[Tensor, "chain draw"] | None = None
) -> dict[str, Float[Tensor, "*shape"]]:
    """The named statistics of every element, a block of elements at a time."""
    if x.ndim < 2 or x.shape[0] < 1 or x.shape[1] < 1:
        raise ValueError(f"draws must have shape [chain, draw, ...] with at least one of each, got {tuple(x.shape)}")
    flat = x.detach().flatten(2) if x.ndim > 2 else x.detach()[..., None]
    out = {name: torch.empty(flat.shape[-1], dtype=torch.float64, device=x.device) for name in names}
    size = max(1, _BLOCK // (x.shape[0] * x.shape[1]))

    def fill(start: int) -> None:
        block = flat[..., start : start + size].permute(2, 0, 1).to(torch.float64).contiguous()
        for name, value in _statistics_of_block(block, names, weights).items():
            out[name][start : start + size] = value

    starts = range(0, flat.shape[-1], size)
    threads = torch.get_num_threads()
    if x.device.type == "cpu" and threads > 1 and len(starts) >= _WORTH_THREADS:
        # Blocks are small, and numpy sorts on one thread: a block to a thread is faster than threads inside a block.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(fill, starts))
        torch.set_num_threads(threads)
    else:
        for start in starts:
            fill(start)
    return {name: value.reshape(x.shape[2:]) for name, value in out.items()}


def _statistics_of_block(block: Block, names: Sequence[str], weights: Tensor | None) -> dict[str, PerElement]:
    num_chains, num_draws = block.shape[1:]
    constant = _constant(block)
    values: dict[str, PerElement] = {}
    kish = 1.0
    if weights is None:
        mean = block.flatten(1).mean(-1)
        sd = ((block - mean[:, None, None]).square().flatten(1).sum(-1) / (num_chains * num_draws - 1)).sqrt()
    else:
        w = (weights / weights.sum()).to(block)
        squares = w.square().sum()
        mean = (w * block).flatten(1).sum(-1)
        sd = ((w * (block - mean[:, None, None]) ** 2).flatten(1).sum(-1) / (1 - squares)).sqrt()
        kish = 1 / (w.numel() * squares)
    # Of equal numbers the mean may be off by rounding, and then their spread is not zero.
    values["mean"], values["sd"] = torch.where(constant, block[:, 0, 0], mean), sd.masked_fill(constant, 0.0)
    if num_draws >= 4:
        split = _split(block)
        if "rhat" in names or "ess_bulk" in names:
            bulk, ordered = _normal_scores(split)
            values["ess_bulk"] = _ess(bulk)
            if "rhat" in names and num_chains > 1:
                folded, _ = _normal_scores((split - _quantile(ordered, 0.5)[:, None, None]).abs())
                values["rhat"] = torch.fmax(_split_rhat(bulk), _split_rhat(folded))
        if "ess_tail" in names:
            values["ess_tail"] = _ess_tail(block)
        if "ess_mean" in names or "mcse" in names:
            values["ess_mean"] = _ess(split)
            values["mcse"] = sd / (values["ess_mean"] * kish).sqrt()
        constant = _constant(split)
    undefined = constant | ~block.flatten(1).sum(-1).isfinite()  # six times as fast as to look at every draw
    nothing = torch.full_like(mean, math.nan)
    return {
        name: values[name] if name in ("mean", "sd") else values.get(name, nothing).masked_fill(undefined, math.nan)
        for name in names
    }


def _constant(block: Block) -> Bool[Tensor, " element"]:
    return (block == block[:, :1, :1]).flatten(1).all(-1)


def _split(block: Block) -> Block:
    """Both halves of every chain as chains; of an odd number of draws the middle one belongs to neither."""
    half = block.shape[-1] // 2
    return torch.cat((block[..., :half], block[..., -half:]), -2)


def _normal_scores(block: Block) -> tuple[Block, Float[Tensor, "element size"]]:
    """Φ⁻¹((rank − 3/8)/(S + 1/4)), Blom 1958, over all chains, ties sharing their mean rank; and the draws sorted."""
    flat = block.flatten(1)
    size = flat.shape[-1]
    # numpy's argsort uses vector instructions that torch's does not: six times faster on one core.
    order = torch.from_numpy(flat.numpy().argsort(-1)) if flat.device.type == "cpu" else flat.argsort(-1)
    ordered = flat.gather(-1, order)
    table = _score_table(size).to(flat.device)
    place = torch.arange(size, device=flat.device)
    new = ordered[:, 1:] != ordered[:, :-1]
    tied = ~new.all(-1)
    scores = table[2 * place].expand_as(flat)
    if bool(tied.any()):
        new = new[tied]
        edge = new.new_ones(len(new), 1)
        first = torch.where(torch.cat((edge, new), -1), place, 0).cummax(-1).values
        last = torch.where(torch.cat((new, edge), -1), place, size - 1).flip(-1).cummin(-1).values.flip(-1)
        scores = scores.index_put((tied,), table[first + last])
    return torch.empty_like(flat).scatter_(-1, order, scores).view_as(block), ordered


@lru_cache(maxsize=4)
def _score_table(size: int) -> Float[Tensor, " twice"]:
    """Scores of all possible ranks: twice the mean rank is a whole number."""
    twice = torch.arange(2, 2 * size + 1, dtype=torch.float64)
    return torch.special.ndtri((twice / 2 - 0.375) / (size + 0.25))


def _quantile(ordered: Float[Tensor, "element size"], prob: float) -> PerElement:
    """Quantile by linear interpolation (R's type 7)."""
    size = ordered.shape[-1]
    place = size * prob + (1 - prob)
    below = min(max(math.floor(place), 1), size - 1)
    share = min(max(place - below, 0.0), 1.0)
    return (1 - share) * ordered[:, below - 1] + share * ordered[:, below]


def _split_rhat(split: Block) -> PerElement:
    num = split.shape[-1]
    # Differences from the first draw: a chain that stands still has variance 0, not rounding error.
    shifted = split - split[..., :1]
    mean_shift = shifted.mean(-1, keepdim=True)
    between = num * (split[..., 0] + mean_shift[..., 0]).var(-1)
    within = (shifted - mean_shift).square().sum(-1).mean(-1) / (num - 1)  # three times as fast as `var`
    return ((between / within + num - 1) / num).sqrt()


def _ess_tail(block: Block) -> PerElement:
    flat = block.flatten(1)
    ordered = torch.from_numpy(np.sort(flat.numpy(), -1)) if flat.device.type == "cpu" else flat.sort(-1).values
    sizes = []
    for prob in TAIL:
        split = _split((block <= _quantile(ordered, prob)[:, None, None]).to(torch.float64))
        share = split.flatten(1).mean(-1)
        # Where no draw, or every one, lies below, as with few distinct values, this quantile sets no limit.
        sizes.append(torch.where((share == 0) | (share == 1), split[0].numel(), _ess(split)))
    return torch.minimum(*sizes)


def _ess(block: Block) -> PerElement:
    """S/τ, τ from the autocorrelations of all chains together, in pairs while these are positive, made to decrease."""
    num_chains, num = block.shape[-2:]
    mean = block.mean(-1)
    spectrum = torch.fft.rfft(block - mean[..., None], n=next_fast_len(2 * num))
    power = (spectrum.real.square() + spectrum.imag.square()).mean(-2)
    autocovariance = torch.fft.irfft(power, n=next_fast_len(2 * num))[:, :num] / num
    within = autocovariance[:, :1] * (num / (num - 1))
    total = autocovariance[:, :1] + (mean.var(-1)[:, None] if num_chains > 1 else 0.0)
    rho = 1 - (within - autocovariance) / total
    rho[:, 0] = 1.0
    pairs = max((num - 3) // 2, 0) + 1
    even = rho[:, 0 : 2 * pairs : 2]
    sums = even + rho[:, 1 : 2 * pairs : 2]
    # The last pair looked at, K: the first that is not positive, or the last there is.
    positive = (sums > 0).cumprod(-1)
    last = positive.sum(-1, keepdim=True).clamp(max=pairs - 1)
    before = torch.arange(pairs, device=block.device) < last
    monotone = torch.where(before, sums.cummin(-1).values, 0.0).sum(-1)
    # Half of pair K improves antithetic chains.
    half = even.gather(-1, last).squeeze(-1)
    half = torch.where((half > 0) | (sums.gather(-1, last).squeeze(-1) >= 0), half, 0.0)
    size = num_chains * num
    tau = (-1 + 2 * monotone + half).clamp(min=1 / math.log10(size))
    return size / tau
