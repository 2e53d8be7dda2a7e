"""Published samplers that are `RiemannianLangevin` with a certain metric."""

from __future__ import annotations

from typing import Any

from .metrics import Fisher
from .riemannian import RiemannianLangevin
from .schedules import Schedule


def natural_langevin(
    *,
    lr: float | Schedule,
    damping: float,
    temperature: float = 1.0,
    inputs: Any = None,
    average: float = 0.99,
) -> RiemannianLangevin:
    """Natural Langevin dynamics (Marceau-Caron & Ollivier 2017): a quasi-diagonal Fisher metric, averaged over steps.

    The average is frozen when warm-up ends, so that the metric is constant and needs no drift; the paper lets it adapt
    for ever, which `Fisher(freeze=False)` does. Parameters as of `RiemannianLangevin` and `Fisher`.
    """
    metric = Fisher(kind="sampled", structure="quasi_diagonal", damping=damping, inputs=inputs, average=average)
    return RiemannianLangevin(lr=lr, metric=metric, temperature=temperature, drift="none")


def kfac_langevin(
    *,
    lr: float | Schedule,
    damping: float,
    temperature: float = 1.0,
    inputs: Any = None,
    average: float = 0.95,
) -> RiemannianLangevin:
    """K-FAC Langevin dynamics (Nado et al. 2018): a Kronecker-factored Fisher metric, averaged over steps.

    The average is frozen when warm-up ends, so that the metric is constant and needs no drift. Damping is exact, S⊗A +
    δI, where the paper damps the factors. Parameters as of `RiemannianLangevin` and `Fisher`.
    """
    metric = Fisher(kind="sampled", structure="kronecker", damping=damping, inputs=inputs, average=average)
    return RiemannianLangevin(lr=lr, metric=metric, temperature=temperature, drift="none")
