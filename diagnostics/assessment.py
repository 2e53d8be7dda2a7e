"""Chains measured and judged, once, for whatever is written about them: page, Markdown, JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from ..samplers.target import Target
from .ensemble import Prediction
from .laplace import Laplace
from .measurements import Measured, measure
from .verdict import Verdict, judge


@dataclass(frozen=True)
class Assessment:
    """All that is known of chains, and what it amounts to."""

    measured: Measured
    verdict: Verdict


def assess(
    chains: Chains,
    posterior: Target | None = None,
    laplace: Laplace | None = None,
    test: tuple[Any, Any] | None = None,
) -> Assessment:
    """Measure and judge; see `report` for the arguments, which are taken as they are.

    Raises
    ------
    ValueError
        If `test` is not a pair or comes without `posterior`, or posterior, Laplace and chains do not fit together.
    """
    _check(chains, posterior, laplace, test)
    measured = measure(chains, posterior, laplace, test)
    verdict = judge(
        chains,
        measured.convergence,
        measured.temperature,
        step=measured.step,
        comparison=measured.comparison,
        evaluation=measured.evaluation,
        mode=measured.mode_metrics,
        confidence=_confidence(measured.prediction),
        symmetric=symmetric(posterior),
    )
    return Assessment(measured, verdict)


def symmetric(posterior: Target | None) -> bool:
    """Whether different weights may compute the same function: several weight matrices in a row can trade units."""
    return isinstance(posterior, Posterior) and sum(len(shape) >= 2 for shape in posterior.layout.shapes) > 1


def _check(chains: Chains, posterior: Target | None, laplace: Laplace | None, test: tuple[Any, Any] | None) -> None:
    if test is not None:
        if not isinstance(test, (tuple, list)) or len(test) != 2:
            raise ValueError(f"test must be a pair (inputs, targets), got {type(test).__name__}")
        if not isinstance(posterior, Posterior):
            raise ValueError("test=(inputs, targets) needs posterior=, the Posterior that was sampled, to predict with")
    if posterior is not None:
        shapes = dict(zip(posterior.layout.names, posterior.layout.shapes, strict=True))
        for name, draws in chains.draws.items():
            if name not in shapes or draws.shape[2:] != shapes[name]:
                expected = f"of shape {tuple(shapes[name])}" if name in shapes else f"not among {list(shapes)[:8]}"
                raise ValueError(
                    f"the chains do not belong to this posterior: they hold {name!r} of shape "
                    f"{tuple(draws.shape[2:])}, which there is {expected}"
                )
    if laplace is not None and posterior is not None and laplace.mode.numel() != posterior.dim:
        raise ValueError(f"laplace has {laplace.mode.numel()} parameters, the posterior {posterior.dim}")


def _confidence(prediction: Prediction | None) -> float | None:
    """Mean probability of the most probable class; None for other predictions."""
    return None if prediction is None or prediction.entropy is None else float(prediction.mean.max(-1).values.mean())
