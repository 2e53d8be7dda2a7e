"""How near predictions are to those of a reference, and how near they could be: long HMC chains, as a rule.

Izmailov, Vikram, Hoffman & Wilson 2021, "What are Bayesian neural network posteriors really like?", Section 4: the
share of inputs with the same top class, and the total variation between predictive distributions. A reference of
finitely many draws differs from itself: its halves from one another by what is the floor here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers import data as data_
from ..samplers.posterior import Posterior
from . import calibration, mixture
from .averaging import Averaging, Predictor, prepare
from .held_out import inputs_of, pieces
from .mixture import Averages

_EDGES = 128  # of cells of the targets, for each of the two predictions
_AT_ONCE = 16  # groups of draws at most, each with the cells of its own, are held for every input
_REACH = 6.0  # in predictive standard deviations on both sides of the mean


Law = Float[Tensor, "n ... cell"]
"""Probabilities of classes, or of cells of the line."""


@dataclass(frozen=True)
class ReferenceComparison:
    """Two predictions of the same inputs; made by `compare_to_reference`.

    Attributes
    ----------
    agreement
        Share of inputs with the same most probable class; None unless classification.
    total_variation
        Largest difference between the probabilities that the two give to any set of targets, in [0, 1], mean over
        inputs.
    agreement_error, total_variation_error
        Standard errors over inputs, taken as independent.
    agreement_floor, total_variation_floor
        The same between halves of the reference, mean over ways of halving: what a perfect sampler would show whose
        draws are worth half as many as the reference's, on both sides. None for a reference of one draw, or a
        linearised one.
    num_inputs
        How many inputs.
    """

    agreement: float | None
    total_variation: float
    agreement_error: float | None
    total_variation_error: float
    agreement_floor: float | None
    total_variation_floor: float | None
    num_inputs: int

    def __str__(self) -> str:
        lines = [f"{self.num_inputs:,} inputs; standard errors over them; in brackets: between halves of the reference"]
        rows = [
            ("agreement", self.agreement, self.agreement_error, self.agreement_floor),
            ("total variation", self.total_variation, self.total_variation_error, self.total_variation_floor),
        ]
        for name, value, error, floor in rows:
            if value is not None:
                known = "not known" if floor is None else f"{floor:.4f}"
                lines.append(f"{name:15}  {value:.4f} ± {error:.4f}  ({known})")
        return "\n".join(lines)


@torch.no_grad()
def compare_to_reference(
    posterior: Posterior,
    draws: Predictor,
    reference: Predictor,
    x: Any,
    *,
    seed: int = 0,
    chunk: int = 4096,
) -> ReferenceComparison:
    """Compare predictions with those of a reference at the same inputs.

    The total variation is ``½ Σₖ |pₖ − qₖ|`` over classes, and ``½ Σ |Pr(cell) − Pr'(cell)|`` for other targets, whose
    line is cut into some 250 cells: never more than ``½ ∫ |p − q|``, and less only by what cancels in the few cells
    where the densities cross. Several targets of an input are compared one by one.

    Parameters
    ----------
    posterior
        The target. Ensembles and Laplace approximations keep their own.
    draws, reference
        Chains, positions, a `Laplace` (its linearised model) or an `Ensemble`: see `compare_predictions`. The
        reference's halves are of whole chains where it has several, else of consecutive draws, and then draws that are
        correlated over a quarter of the run make the floor too high.
    x
        Inputs as the model takes them.
    seed
        For drawing from approximations; the reference gets the next one.
    chunk
        How many (draw, input) pairs are evaluated at once.

    Raises
    ------
    ValueError
        If draws do not fit the posterior, or inputs not the model.
    NotImplementedError
        If torch knows neither class probabilities nor mean, variance and distribution function of the likelihood; for
        a `Laplace` with a likelihood that is neither Gaussian nor one of classes.
    """
    first, second = prepare(draws, posterior, None, seed), prepare(reference, posterior, None, seed + 1)
    shares = second.shares
    found: dict[str, list[Tensor]] = {"agreement": [], "total_variation": []}
    for few in pieces(inputs_of(posterior, x), max(1, chunk // _AT_ONCE)):
        own, parts, are_classes = _laws(first, second, few, chunk)
        pairs = [(own, _mean(parts, shares))]
        pairs += [(_mean(parts, shares * half), _mean(parts, shares * (1 - half))) for half in _halves(shares)]
        found["total_variation"].append(torch.stack([_per_input(calibration.variations(*pair)) for pair in pairs]))
        if are_classes:
            found["agreement"].append(torch.stack([_per_input(p.argmax(-1) == q.argmax(-1)) for p, q in pairs]))
    variation, error, floor = _summary(found["total_variation"])
    agreement, its_error, its_floor = _summary(found["agreement"]) if found["agreement"] else (None, None, None)
    return ReferenceComparison(
        agreement=agreement,
        total_variation=variation,
        agreement_error=its_error,
        total_variation_error=error,
        agreement_floor=its_floor,
        total_variation_floor=floor,
        num_inputs=sum(piece.shape[1] for piece in found["total_variation"]),
    )


def _laws(
    first: Averaging, second: Averaging, few: data_.Inputs, chunk: int
) -> tuple[Law, Float[Tensor, "group n ... cell"], bool]:
    """Probabilities of classes, or of cells of the line: of the first, and of every group of the second's draws."""
    whole, parts = first.averages(few, None, chunk)[0], second.group_averages(few, None, chunk)
    if "probability" in whole:
        return whole["probability"], torch.stack([part["probability"] for part in parts]), True
    together = mixture.combine(parts, second.shares)
    edges = torch.cat([_grid(averages) for averages in (whole, together)], -1).sort(-1).values
    own = _mean(torch.stack(first.group_cells(few, edges, chunk)), first.shares)
    return own, torch.stack(second.group_cells(few, edges, chunk)), False


def _grid(averages: Averages) -> Float[Tensor, "n ... edge"]:
    if "mean" not in averages:
        raise NotImplementedError("torch knows no mean and variance of this likelihood, so its line cannot be cut")
    sd = (averages["epistemic"] + averages["aleatoric"]).sqrt()
    steps = torch.linspace(-_REACH, _REACH, _EDGES, dtype=torch.float64, device=sd.device)
    return averages["mean"][..., None] + sd[..., None] * steps


def _mean(laws: Float[Tensor, "group n ... cell"], weights: Float[Tensor, " group"]) -> Law:
    return torch.tensordot(weights / weights.sum(), laws, 1)


def _halves(shares: Float[Tensor, " group"]) -> list[Float[Tensor, " group"]]:
    """Half of the groups, in every place around the circle of them; each as ones and zeros."""
    half = (torch.arange(len(shares), device=shares.device) < len(shares) // 2).to(shares)
    return [half.roll(place) for place in range(len(shares))] if len(shares) > 1 else []


def _per_input(values: Tensor) -> Float[Tensor, " n"]:
    return values.double().reshape(len(values), -1).mean(1).cpu()


def _summary(pieces: list[Float[Tensor, "pair n"]]) -> tuple[float, float, float | None]:
    """Value, its standard error, and the floor."""
    values = torch.cat(pieces, 1)
    n = values.shape[1]
    error = values[0].std().item() / math.sqrt(n) if n > 1 else math.nan
    return values[0].mean().item(), error, values[1:].mean().item() if len(values) > 1 else None
