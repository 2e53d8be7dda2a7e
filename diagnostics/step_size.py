"""Was the step short enough? What a run's lr means beside the largest curvature, and to a Metropolis test.

The samplers judged here move by a leapfrog step of length h or by its limit of forgotten momentum, in coordinates in
which the mass is one: h² = 2ε'/N with ε' = ε/(1+β), β = 0 for SGLD (algorithms page, "Step size and bias"). So one
number, r = ε'λ/2 with λ the largest eigenvalue of M∇²C/N, says how far they are from exploding (r = 1), and one
acceptance probability what a Metropolis test would make of their steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers.chains import Chains
from ..samplers.likelihoods import without_validation
from ..samplers.modes.curvature import krylov, ritz
from ..samplers.modes.ending import in_double
from ..samplers.target import Target, hessian_product
from ..samplers.threefry import INIT, Noise, chain_keys
from .ensemble import chain_positions, evenly_spaced

MOMENTUM = ("SGHMC", "SGNHT")
JUDGED = ("SGLD", "PSGLD", *MOMENTUM)

NUM_PRODUCTS = 24
NUM_PROBES = 8

_POSITIONS = 8  # at which curvature is measured
_CURVATURE_WORK = 2e8  # (example, parameter) pairs in one Hessian-vector product: a tenth of a second
_ACCEPTANCE_WORK = 5e9  # in all steps that are put to the test: some seconds
_LEAST, _MOST = 16, 400  # such steps

PerChain = Float[Tensor, " chain"]


@dataclass(frozen=True)
class Curvature:
    """Of M∇²C/N at some positions: the preconditioned mean cost.

    Attributes
    ----------
    largest, extreme, smallest
        Means over the positions of the largest and the smallest eigenvalue, and the largest of all, by Lanczos: never
        above the true ones, and for the smallest never below. Exact up to 24 parameters; the largest are close.
    average
        Tr(M∇²C/N)/D, averaged over positions, from random probes.
    num_positions, num_examples
        Where it was measured, and on how much of the data.
    """

    largest: float
    extreme: float
    smallest: float
    average: float
    num_positions: int
    num_examples: int


@dataclass(frozen=True)
class StepSize:
    """A run's step beside what its posterior allows.

    Attributes
    ----------
    lr
        ε at the end of the run.
    limit
        The lr from which on steps explode along the largest curvature that was seen.
    stretch
        Factor by which the step's length alone widens the variance along the direction of largest curvature λ, on a
        quadratic cost: 1/(1 − ελ/2) for SGLD and PSGLD, with λ the mean over positions; infinite beyond the limit; 1
        for samplers with momentum, whose positions are exact there.
    average_stretch
        The same averaged over directions, to first order in ε: what the step's length adds to the temperature.
    batch_share
        Temperature that minibatch noise makes beside the nominal one, T_mb/T; None where the sampler absorbs it.
    acceptance, acceptance_error
        Probability with which a Metropolis test on full gradients would accept the steps, and its Monte-Carlo error
        (over draws, taken as independent); NaN where that would cost too much.
    curvature
        The largest curvature, and where it was measured.
    num_tested
        Steps that were put to the Metropolis test.
    """

    lr: float
    limit: float
    stretch: float
    average_stretch: float
    batch_share: float | None
    acceptance: float
    acceptance_error: float
    curvature: Curvature
    num_tested: int

    @property
    def stability(self) -> float:
        """Share of the limit, ε/limit; at 1 steps explode."""
        return self.lr / self.limit

    def __str__(self) -> str:
        share = "" if not self.batch_share else f"; minibatch noise adds {self.batch_share:.2%} to the temperature"
        accepted = (
            f"a Metropolis test would accept {self.acceptance:.1%} ± {self.acceptance_error:.1%} of its steps"
            if math.isfinite(self.acceptance)
            else "acceptance not measured: full gradients would cost too much"
        )
        return (
            f"lr {self.lr:.3g} is {self.stability:.1%} of the limit of stability, {self.limit:.3g}\n"
            f"variance along the largest curvature ×{self.stretch:.3g}, on average ×{self.average_stretch:.4g}{share}\n"
            f"{accepted}"
        )


def step_size(chains: Chains, posterior: Target) -> StepSize:
    r"""Judge the step of a run.

    With M the sampler's (frozen) diagonal preconditioner, I but for PSGLD, and p ~ N(0, T) a step put to the test is

    .. math::

        p' = p - \tfrac h2 M^{½}(∇C(ω) + ∇C(ω')),\quad ω' = ω + h M^{½} p - \tfrac{h^2}2 M∇C(ω),\quad
        α = \min\!\left(1, e^{-[C(ω') + |p'|²/2 - C(ω) - |p|²/2]/T}\right),

    which for SGLD is its own step with the full gradient, and α the acceptance of MALA (Roberts & Tweedie 1996). The
    test uses draws of the chains as they are: where these are too wide already, it judges steps out there.

    Parameters
    ----------
    chains
        A run of SGLD, PSGLD (with a frozen preconditioner, and its final state), SGHMC or SGNHT.
    posterior
        The target that was sampled, twice differentiable.

    Returns
    -------
    StepSize
        **Approximate**: curvature is measured at some draws, on some of the examples where there are many.

    Raises
    ------
    ValueError
        For other samplers, PSGLD's chains without a final state, at temperature 0, or if every chain was stopped.
    """
    name, settings = str(chains.attrs.get("sampler")), chains.attrs.get("settings") or {}
    T = chains.attrs.get("temperature")
    if name not in JUDGED or settings.get("adapt") == "always":
        raise ValueError(f"steps of {name} are not judged; those of {', '.join(JUDGED)} (frozen) are")
    if name == "PSGLD" and "square" not in chains.state:
        raise ValueError("the chains carry no final state, which holds their preconditioner")
    if not isinstance(T, float) or not T > 0:
        raise ValueError(f"these chains are at temperature {T}: their steps are an optimiser's")
    finished = chains.finished()
    if "lr" not in finished.sample_stats or not finished.num_draws:
        raise ValueError("the chains do not say which lr they were drawn with")
    ε = float(finished.sample_stats["lr"][0, -1])
    β = float(settings.get("momentum", 0.0)) if name in MOMENTUM else 0.0
    ids = list(chains.attrs.get("chain_ids") or range(chains.num_chains))
    kept = [ids.index(c) for c in finished.attrs.get("chain_ids") or range(finished.num_chains)]
    M = torch.ones(len(kept), posterior.dim) if name != "PSGLD" else preconditioner(chains.attrs, chains.state)[kept]
    late = finished.num_draws - finished.num_draws // 2  # chains may begin elsewhere
    chosen = finished.num_draws - 1 - evenly_spaced(late, -(-_POSITIONS // len(kept)))
    some = chain_positions(posterior, finished, chosen).transpose(0, 1).flatten(0, 1)
    found = curvature(posterior, some, M.repeat(len(chosen), 1))
    half = ε / (1 + β) / 2
    r, typical = half * found.extreme, half * found.largest
    stretch = (1.0 if name in MOMENTUM else 1 / (1 - typical)) if typical < 1 else math.inf
    heat = chains.attrs.get("batch_temperature")
    α, num_tested = _acceptance(finished, posterior, M, ε / (1 + β), T)
    return StepSize(
        lr=ε,
        limit=math.inf if r <= 0 else ε / r,
        stretch=stretch,
        average_stretch=1.0 if name in MOMENTUM else 1 + half * found.average,
        batch_share=None if heat is None else float(heat) / T,
        acceptance=float(α.mean()) if num_tested else math.nan,
        acceptance_error=float(α.std() / num_tested**0.5) if num_tested else math.nan,
        curvature=found,
        num_tested=num_tested,
    )


def preconditioner(attrs: dict, state: dict[str, Tensor]) -> Float[Tensor, "chain dim"]:
    """Diagonal of M in ω ← ω − ε M ĝ."""
    if attrs["sampler"] == "PSGLD":
        return 1 / (attrs["settings"]["damping"] + state["square"].sqrt())
    return torch.ones_like(state["position"])


def curvature(
    posterior: Target, position: Float[Tensor, "chain dim"], M: Float[Tensor, "chain dim"] | None = None
) -> Curvature:
    """Extreme eigenvalues and trace of M^½ H M^½, H = ∇²C/N, at up to eight of the positions.

    Where there are many parameters and examples, on an even selection of these.

    Raises
    ------
    ValueError
        If curvature is not finite, or the target has no second derivatives.
    """
    num_examples = int(min(posterior.num_data, max(16, _CURVATURE_WORK / posterior.dim)))
    num_positions = int(max(1, min(_POSITIONS, len(position), _CURVATURE_WORK / posterior.dim / num_examples)))
    at = position[:num_positions].to(device=posterior.device, dtype=posterior.dtype)
    root = torch.ones_like(at) if M is None else M[:num_positions].to(at).sqrt()
    batch = None
    if num_examples < posterior.num_data:
        chosen = evenly_spaced(posterior.num_data, num_examples).to(at.device)
        batch = chosen.expand(num_positions, -1)

    def product(vector: Tensor) -> Tensor:
        return root * hessian_product(posterior, at, root * vector, batch)

    keys = chain_keys(0, torch.arange(num_positions, device=at.device), INIT)
    with torch.no_grad(), without_validation():
        probes = [
            Noise(keys, torch.tensor(turn, device=at.device), at.dtype).rademacher(posterior.dim)
            for turn in range(NUM_PROBES)
        ]
        try:
            product(probes[0])
        except Exception as error:  # whatever functions of the user's own without second derivatives raise
            raise ValueError(
                f"the cost has no second derivatives ({type(error).__name__}: {str(error)[:200]})"
            ) from error
        size = min(posterior.dim, NUM_PRODUCTS)
        values, _ = ritz(*krylov(product, probes[:1], size))
        if size == posterior.dim:  # then these are all the eigenvalues there are
            trace = values.sum(-1).mean()
        else:
            trace = torch.stack([(probe * product(probe)).sum(-1).mean() for probe in probes]).mean()
    if not bool(values.isfinite().all()):
        raise ValueError("the curvature of the cost is not finite at the draws")
    return Curvature(
        largest=float(values[:, -1].mean()),
        extreme=float(values[:, -1].max()),
        smallest=float(values[:, 0].mean()),
        average=float(trace) / posterior.dim,
        num_positions=num_positions,
        num_examples=num_examples,
    )


@torch.no_grad()
def _acceptance(
    chains: Chains, posterior: Target, M: Float[Tensor, "chain dim"], lr: float, T: float
) -> tuple[Float[Tensor, " draw"], int]:
    """Acceptance probabilities of one step from each of some draws, in float64; none where that would take minutes."""
    per_draw = posterior.num_data * posterior.dim
    if per_draw * _LEAST > 4 * _ACCEPTANCE_WORK:
        return torch.empty(0), 0
    count = int(min(_MOST, max(_LEAST, _ACCEPTANCE_WORK / per_draw)))
    chosen = evenly_spaced(chains.num_draws, max(1, count // chains.num_chains))
    ω = chain_positions(posterior, chains, chosen)
    root = M[:, None].expand_as(ω).flatten(0, 1).double().sqrt().to(posterior.device)
    ω = ω.flatten(0, 1).double().to(posterior.device)
    double, N = in_double(posterior, ω[0]), posterior.num_data
    keys = chain_keys(0, torch.arange(len(ω), device=ω.device), INIT)
    p = T**0.5 * Noise(keys, torch.tensor(0, device=ω.device), torch.float64).normal(posterior.dim)
    h = (2 * lr / N) ** 0.5
    α = []
    for rows in torch.arange(len(ω), device=ω.device).split(max(1, int(2e7 // per_draw))):
        before, gradient = double.cost_and_gradient(ω[rows])
        start = p[rows] - 0.5 * h * N * root[rows] * gradient
        after, gradient = double.cost_and_gradient(ω[rows] + h * root[rows] * start)
        end = start - 0.5 * h * N * root[rows] * gradient
        ΔH = after - before + 0.5 * (end.square() - p[rows].square()).sum(-1)
        α.append(torch.exp((-ΔH / T).clamp(max=0)).nan_to_num(0.0).cpu())
    return torch.cat(α), len(ω)
