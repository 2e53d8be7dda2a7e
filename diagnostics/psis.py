"""ArviZ's Pareto-smoothed importance sampling, of either generation of ArviZ; no torch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


def leave_one_out(data: Any, efficiency: float) -> tuple[np.ndarray, np.ndarray]:
    """log p(yᵢ | all other examples) and k̂ of every example, from pointwise log-likelihoods.

    Parameters
    ----------
    data
        ArviZ's object with a group ``log_likelihood`` that holds ``y``, ``[chain, draw, example]``.
    efficiency
        Effective draws over draws.
    """
    with warnings.catch_warnings():
        # ArviZ warns of large k̂ without their number and places, which the caller says.
        warnings.simplefilter("ignore")
        import arviz

        found = arviz.loo(data, pointwise=True, var_name="y", reff=efficiency)
    pointwise = found["loo_i"] if int(arviz.__version__.split(".")[0]) == 0 else found["elpd_i"]
    return np.asarray(pointwise), np.asarray(found["pareto_k"])
