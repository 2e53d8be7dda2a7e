"""Have many short chains settled: nested R̂.

Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari & Gelman 2024, "Nested R̂: assessing the convergence of Markov chain
Monte Carlo when running many short chains" (Bayesian Analysis). K superchains of M chains of N draws each:

    R̂_ν = √(1 + B̂/Ŵ),
    B̂ = variance over superchains of their means,
    Ŵ = mean over superchains of (variance over their chains of chain means + mean variance within their chains),

all variances with one less than their number as divisor, and that within a chain 0 for N = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..samplers.chains import Chains
from .convergence import _BLOCK, _constant, _normal_scores

Draws = Float[Tensor, "chain draw *shape"]


@overload
def nested_rhat(
    draws: Tensor, superchains: int | Sequence[int] | Int[Tensor, " chain"], *, rank_normalized: bool = False
) -> Tensor: ...
@overload
def nested_rhat(
    draws: Chains, superchains: int | Sequence[int] | Int[Tensor, " chain"], *, rank_normalized: bool = False
) -> dict[str, Tensor]: ...
def nested_rhat(
    draws: Draws | Chains,
    superchains: int | Sequence[int] | Int[Tensor, " chain"],
    *,
    rank_normalized: bool = False,
) -> Tensor | dict[str, Tensor]:
    """Nested R̂ of every element.

    Parameters
    ----------
    draws
        ``[chain, draw, *shape]`` in any units, or what `sample` returned, whose weights are not used; no element's
        scale matters.
    superchains
        How many there are, of equal numbers of consecutive chains; or of each chain the label of its superchain.
    rank_normalized
        Replace draws by the normal scores of their ranks over all chains first, as `convergence` does; then heavy
        tails do no harm. It looks at location only (no folding), and chains are not split.

    Returns
    -------
    Tensor or dict of Tensor
        float64, ``[*shape]``, by name for `Chains`. NaN for elements that never change; infinite where superchains
        stand apart and nothing varies inside them.

    Raises
    ------
    ValueError
        If there are fewer than two superchains, they are not of equal size, one chain per superchain comes with one
        draw, draws are not finite, or a chain was stopped.

    Notes
    -----
    **Starts.** Chains of one superchain should start at the *same* point, and superchains at different ones, spread
    wider than the target. Then B̂ shows the bias that the starts left behind, since all chains of a superchain share
    it. Chains that started independently make B̂ shrink like 1/M whatever the bias is: R̂_ν then says that the Monte
    Carlo error of a superchain's mean is small, not that the starts are forgotten. If starts are independent, use
    `convergence`, or superchains of one chain.

    **Expected value.** For independent draws E[B̂]/E[Ŵ] = 1/(M(N+1)), since Ŵ counts the variance of chain means
    besides that within; 1/M for one draw, 1/N for one chain per superchain. With draws that hardly move R̂_ν is near
    √(1 + 1/M) however many there are: choose M large enough for the threshold.
    """
    if isinstance(draws, Chains):
        if stopped := draws.attrs.get("stopped"):
            raise ValueError(f"chains were stopped, which leaves superchains unequal: {dict(stopped)}; pass whole ones")
        order, number = _order(superchains, draws.num_chains)
        return {name: _nested(x, order, number, rank_normalized) for name, x in draws.draws.items()}
    if draws.ndim < 2 or 0 in draws.shape[:2]:
        raise ValueError(
            f"draws must have shape [chain, draw, ...] with at least one of each, got {tuple(draws.shape)}"
        )
    order, number = _order(superchains, len(draws))
    return _nested(draws, order, number, rank_normalized)


def _order(superchains: int | Sequence[int] | Tensor, num_chains: int) -> tuple[Int[Tensor, " chain"], int]:
    """Chains sorted by superchain, and the number of superchains."""
    if isinstance(superchains, int):
        number, order = superchains, torch.arange(num_chains)
        if number >= 2 and num_chains % number:
            raise ValueError(f"{num_chains} chains cannot be divided into {number} superchains of equal size")
    else:
        labels = torch.as_tensor(superchains)
        if labels.shape != (num_chains,):
            raise ValueError(f"superchains must label each of {num_chains} chains, got shape {tuple(labels.shape)}")
        sizes = labels.unique(return_counts=True)[1]
        if bool((sizes != sizes[0]).any()):
            raise ValueError(f"superchains must be of equal size, got {sizes.tolist()} chains")
        number, order = len(sizes), labels.argsort(stable=True).cpu()
    if number < 2:
        raise ValueError(f"nested R̂ compares superchains: at least 2 are needed, got {number}")
    return order, number


def _nested(x: Draws, order: Int[Tensor, " chain"], number: int, rank_normalized: bool) -> Float[Tensor, "*shape"]:
    num_chains, num_draws = x.shape[:2]
    if num_chains == number and num_draws == 1:
        raise ValueError(
            "one chain per superchain and one draw: nothing varies inside a superchain; run more of either"
        )
    if not bool(x.isfinite().all()):
        raise ValueError("draws are not finite; leave out chains that diverged")
    flat = x.detach().reshape(num_chains, num_draws, -1)[order.to(x.device)]
    found = [torch.empty(0, dtype=torch.float64, device=x.device)]
    for part in flat.split(max(1, _BLOCK // (num_chains * num_draws)), -1):
        block = part.permute(2, 0, 1).double().contiguous()
        constant = _constant(block)
        scores = _normal_scores(block)[0] if rank_normalized else block
        found.append(_statistic(scores.unflatten(1, (number, -1))).masked_fill(constant, math.nan))
    return torch.cat(found).reshape(x.shape[2:])


def _statistic(block: Float[Tensor, "element superchain chain draw"]) -> Float[Tensor, " element"]:
    # Differences from a first draw: what stands still has variance 0, not rounding error.
    shifted = block - block[..., :1]
    chain_mean = block[..., 0] + shifted.mean(-1)
    apart = chain_mean - chain_mean[..., :1]
    between = (chain_mean[..., 0] + apart.mean(-1)).var(-1)
    within = torch.zeros_like(between)
    if block.shape[2] > 1:
        within = within + apart.var(-1).mean(-1)
    if block.shape[3] > 1:
        within = within + shifted.var(-1).mean((-1, -2))
    return (1 + between / within).sqrt()
