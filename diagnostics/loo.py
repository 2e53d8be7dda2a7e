"""How well the model would predict each of its own examples from the others: PSIS-LOO, without held-out data.

    elpd = Σᵢ log p(yᵢ | y₋ᵢ),   p(yᵢ | y₋ᵢ) ≈ Σ_d r_d p(yᵢ | ω_d) / Σ_d r_d,   r_d ∝ 1/p(yᵢ | ω_d)

with the ratios smoothed by a generalised Pareto distribution, whose shape k̂ tells whether they can be believed:
Vehtari, Gelman & Gabry 2017, "Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC";
Vehtari, Simpson, Gelman, Yao & Gabry 2024, "Pareto smoothed importance sampling". The smoothing is ArviZ's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..samplers import data as data_
from ..samplers.chains import Chains
from ..samplers.inference_data import to_arviz
from ..samplers.posterior import Posterior
from .convergence import ess
from .ensemble import chain_positions
from .laplace_fit import _memory
from .psis import leave_one_out

_LEAST = 25  # draws: a fifth of them are the tail, to which a distribution of two parameters is fitted
_COPIES = 6  # of the log-likelihoods, in float64, that are held at worst


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """What `loo` found; all in nats.

    Attributes
    ----------
    elpd
        Σᵢ log p(yᵢ | y₋ᵢ) over the examples looked at; higher is better.
    error
        Its standard error over examples, √n sd(elpdᵢ). The difference of two models has the paired one, from the
        differences of their `pointwise` (of the same examples).
    effective_parameters
        p_loo: the log-likelihood of the posterior predictive less `elpd`. Far more than the model has parameters points
        at a model that does not fit.
    pointwise
        log p(yᵢ | y₋ᵢ), ``[example]``, float64.
    pareto_k
        k̂ of every example: above `limit` its estimate is not to be relied upon.
    limit
        min(1 − 1/log₁₀ S, 0.7) for S draws (Vehtari et al. 2024).
    examples
        Their places in the posterior's data.
    efficiency
        Effective draws over draws of the likelihoods p(yᵢ | ω), mean over examples.
    num_draws
        S.
    """

    elpd: float
    error: float
    effective_parameters: float
    pointwise: Float[Tensor, " example"]
    pareto_k: Float[Tensor, " example"]
    limit: float
    examples: Int[Tensor, " example"]
    efficiency: float
    num_draws: int

    @property
    def unreliable(self) -> Int[Tensor, " bad"]:
        """Examples, by their places in the posterior's data, whose k̂ is above the limit, the worst first."""
        order = self.pareto_k.argsort(descending=True, stable=True)
        return self.examples[order[~(self.pareto_k[order] <= self.limit)]]

    def __str__(self) -> str:
        n, bad = len(self.examples), len(self.unreliable)
        mean = f"{self.elpd / n:.4f} ± {self.error / n:.4f} nats per example"
        judged = f"{bad} of {n:,} above" if bad else "all below"
        return "\n".join(
            [
                f"elpd {self.elpd:.2f} ± {self.error:.2f} over {n:,} examples; {mean}",
                f"effective parameters {self.effective_parameters:.1f}",
                f"from {self.num_draws:,} draws, each worth {self.efficiency:.2g}; Pareto k̂ {judged} the limit of "
                f"{self.limit:.2f}, the largest {self.pareto_k.max():.2f}",
            ]
        )


@torch.no_grad()
def loo(
    chains: Chains, posterior: Posterior, *, subset: Sequence[int] | Int[Tensor, " example"] | None = None
) -> LeaveOneOut:
    """Estimate how well each example is predicted from all others, by Pareto-smoothed importance sampling.

    Several targets of an example (pixels, tokens) are left out together.

    Parameters
    ----------
    chains
        Draws of the posterior at T = 1. Stopped chains are left out.
    posterior
        The target that was sampled, with its data.
    subset
        Places of the examples to look at, where all do not fit in memory; by default all. The sum is over them; means
        per example of a random subset estimate those of all.

    Raises
    ------
    ValueError
        If there are fewer than 25 draws, or of unequal weights or another temperature, the table of draws × examples
        does not fit in memory, `subset` holds no examples of the data, or log-likelihoods are not finite.

    Warns
    -----
    UserWarning
        If any k̂ exceeds the limit; it says how many and which.
    """
    chains = chains.finished()
    if chains.weights is not None:
        raise ValueError(
            "the draws have unequal weights (a schedule with a changing lr), which PSIS-LOO does not know; sample with "
            "a constant lr"
        )
    temperature = chains.attrs.get("temperature")
    if temperature is not None and temperature != 1.0:
        raise ValueError(f"the chains were sampled at temperature {temperature}; leave-one-out is known for T = 1")
    num_draws = chains.num_chains * chains.num_draws
    if num_draws < _LEAST:
        raise ValueError(f"{num_draws} draws are too few to see the tail of importance ratios: {_LEAST} at least")
    examples = _examples(posterior, subset)
    needed = _COPIES * 8 * num_draws * len(examples)
    if needed > _memory(torch.device("cpu")):
        raise ValueError(
            f"log-likelihoods of {num_draws:,} draws × {len(examples):,} examples need {needed / 2**30:.3g} GiB, more "
            "than the machine has; look at some of the examples with subset=torch.randperm(N)[:n], or keep fewer draws"
        )
    chain_positions(posterior, chains)  # a clear error where parameters were not kept
    if subset is not None:
        posterior = posterior.to_be_varied()
        posterior.inputs, posterior.targets = data_.take((posterior.inputs, posterior.targets), examples)
        posterior.num_data = len(examples)
    groups = {
        name: group for name, group in chains.groups(posterior).items() if name in ("posterior", "log_likelihood")
    }
    pointwise = torch.from_numpy(np.array(groups["log_likelihood"]["y"], dtype=np.float64))
    finite = pointwise.isfinite().flatten(0, 1).all(0)
    if not bool(finite.all()):
        raise ValueError(
            f"{int((~finite).sum())} of {len(examples)} examples have log-likelihoods that are not finite, the first "
            f"example {int(examples[~finite][0])}; importance ratios do not exist there"
        )
    efficiency = _efficiency(pointwise)
    elpd, k = (torch.from_numpy(found).double() for found in leave_one_out(to_arviz(groups, {}), efficiency))
    together = (pointwise.flatten(0, 1).logsumexp(0) - math.log(num_draws)).sum()
    found = LeaveOneOut(
        elpd=elpd.sum().item(),
        error=math.sqrt(len(elpd)) * elpd.std().item() if len(elpd) > 1 else math.nan,
        effective_parameters=(together - elpd.sum()).item(),
        pointwise=elpd,
        pareto_k=k,
        limit=min(1 - 1 / math.log10(num_draws), 0.7),
        examples=examples,
        efficiency=efficiency,
        num_draws=num_draws,
    )
    bad = found.unreliable.tolist()
    if bad:
        which = ", ".join(map(str, bad[:10])) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
        warnings.warn(
            f"Pareto k̂ is above {found.limit:.2f} for {len(bad)} of {len(examples)} examples: leaving one of these out "
            f"changes the posterior too much for its draws to tell how well it is predicted. The worst first: {which}",
            stacklevel=3,  # no_grad wraps this function
        )
    return found


def _examples(posterior: Posterior, subset: Sequence[int] | Tensor | None) -> Int[Tensor, " example"]:
    if subset is None:
        return torch.arange(posterior.num_data)
    examples = torch.as_tensor(subset).cpu()
    if examples.ndim != 1 or len(examples) == 0 or examples.is_floating_point() or examples.dtype == torch.bool:
        raise ValueError(
            f"subset must be places of examples, integers [example], got {examples.dtype} {examples.shape}"
        )
    if int(examples.min()) < 0 or int(examples.max()) >= posterior.num_data or len(examples.unique()) < len(examples):
        raise ValueError(f"subset must hold different places in 0 … {posterior.num_data - 1}")
    return examples


def _efficiency(log_likelihood: Float[Tensor, "chain draw example"]) -> float:
    """Mean over examples of ESS/S of the likelihoods; 1 where it is not defined."""
    sizes = ess((log_likelihood - log_likelihood.amax((0, 1))).exp(), "mean")
    sizes = sizes[~sizes.isnan()] / log_likelihood[..., 0].numel()
    return float(sizes.mean()) if len(sizes) else 1.0
