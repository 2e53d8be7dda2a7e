"""How much of a run's answer is its step: the same run at half the lr, and what the two differ by.

The biases of step length and of minibatch noise are proportional to lr where they are small (weak order one; Talay &
Tubaro 1990). So what changes when lr is halved is half of the bias, and the same again is left: extrapolated to lr → 0
a mean is 2 m(ε/2) − m(ε), and likewise the logarithm of a spread (Richardson). HMC and full-batch samplers with
momentum have a bias of order ε² in h, and the extrapolation then overstates it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers.chains import Chains
from ..samplers.sampling import sample
from ..samplers.target import Target
from .rules import num
from .two_runs import TwoRuns, compare_runs

PerNumber = Float[Tensor, " number"]


@dataclass(frozen=True, eq=False)
class StepHalving:
    """A run and its repetition at half the lr.

    Attributes
    ----------
    half
        The second run, the better of the two.
    runs
        The first run (A) beside it (B).
    """

    half: Chains
    runs: TwoRuns

    @property
    def agree(self) -> bool:
        """Whether the step makes no difference beyond Monte-Carlo error."""
        return self.runs.agree

    @property
    def spread_bias(self) -> PerNumber:
        """Factor by which the first run's spreads are too wide for its lr, extrapolated to lr → 0."""
        return self.runs.ratio.square()

    @property
    def spread_error(self) -> PerNumber:
        """Monte-Carlo standard error of its logarithm."""
        return 2 * self.runs.ratio_error

    def __str__(self) -> str:
        bias, error = self.spread_bias, self.spread_error
        known = bias.isfinite() & error.isfinite()
        lines = [f"lr halved: {self.runs.sentence[0].lower()}{self.runs.sentence[1:]}"]
        if bool(known.any()):
            middle = float(bias[known].median())
            lines.append(
                f"spreads at the full lr are {num(middle)} times those at lr → 0 in the median, by extrapolation, each "
                f"known to ± {num(float(error[known].median()), 2)}"
            )
        return "\n".join(lines)


def halve_step(chains: Chains, posterior: Target, sampler: Any, **settings: Any) -> StepHalving:
    """Repeat a run at half its lr, and compare.

    Chains start where the run ended, make twice as many steps per draw, and use other random numbers. The repetition
    costs twice the run.

    Parameters
    ----------
    chains
        A run of `sampler` on `posterior`.
    posterior, sampler
        What it was drawn from, and with.
    **settings
        Replace arguments of `sample`, such as ``num_samples=100`` for a cheaper look or ``progress=False``.

    Returns
    -------
    StepHalving
        Runs that agree show that the bias is small against Monte-Carlo error, not that it is small.

    Raises
    ------
    ValueError
        If the sampler is not the one the chains were drawn with, has no lr that is a number, or chains were stopped.
    """
    attrs = chains.attrs
    lr = getattr(sampler, "lr", None)
    recorded = (attrs.get("settings") or {}).get("lr")
    if type(sampler).__name__ != attrs.get("sampler") or recorded != lr:
        raise ValueError(
            f"the chains were drawn by {attrs.get('sampler')} with lr = {recorded}, not by {type(sampler).__name__} "
            f"with lr = {lr}"
        )
    if not isinstance(lr, (int, float)):
        raise ValueError(f"only an lr that is a number can be halved, got {lr!r}")
    if attrs.get("stopped"):
        raise ValueError(f"chains were stopped: {attrs['stopped']}; lower lr first")
    if "position" not in chains.state:
        raise ValueError("the chains carry no final state to start from")
    arguments: dict[str, Any] = {
        "num_samples": chains.num_draws,
        "num_warmup": 2 * int(attrs.get("num_warmup") or 0),
        "thinning": 2 * int(attrs.get("thinning") or 1),
        "num_chains": chains.num_chains,
        "chain_ids": attrs.get("chain_ids"),
        "batch_size": attrs.get("batch_size"),
        "batches": attrs.get("batches") or "independent",
        "seed": int(attrs.get("seed") or 0) + 1,
        "init": chains.state["position"].detach().to(torch.float64),
    }
    half = sample(posterior, dataclasses.replace(sampler, lr=lr / 2), **(arguments | settings))
    return StepHalving(half, compare_runs(chains, half))
