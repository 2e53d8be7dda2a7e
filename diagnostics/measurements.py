"""Everything that the report shows of chains, measured once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..samplers import data as data_
from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from ..samplers.target import Target
from . import calibration
from .comparison import Comparison, compare
from .convergence import Convergence, convergence
from .ensemble import Ensemble, Evaluation, Prediction, evaluate_point, evenly_spaced
from .kinetic import KineticTemperature, kinetic_temperature
from .laplace import Laplace
from .step_size import JUDGED, StepSize, step_size
from .thermometer import Temperature, temperature

MAX_INPUTS = 300
"""Inputs at which predictions are judged for convergence, evenly chosen."""

MAX_COSTS = 60
"""Draws per chain at which the cost is evaluated anew."""

MAX_EXAMPLES = 4096
"""Training examples on which it is."""

MAX_DRAWS = 1000
"""Draws in the ensemble, evenly chosen."""

MAX_GRADIENTS = 1e10
"""(Draw, example, parameter) triples differentiated for the temperature, some seconds, though at least 32 draws."""

MAX_TEMPERATURES = 2000
"""Draws at which the temperature is measured at most, over all chains."""

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
"""Predictive intervals whose coverage is drawn."""

MAX_LAPLACE = 400
"""Draws in the ensemble of Laplace."""


@dataclass
class Measured:
    """All that is known of the chains; None where the inputs for it were not given, `problems` where it failed."""

    chains: Chains
    finished: Chains | None = None
    posterior: Target | None = None
    laplace: Laplace | None = None
    convergence: Convergence | None = None
    inputs: Any = None
    inputs_kind: str = ""
    cost: tuple[Tensor, Tensor, str] | None = None
    temperature: Temperature | None = None
    kinetic: KineticTemperature | None = None
    step: StepSize | None = None
    comparison: Comparison | None = None
    targets: Tensor | None = None
    evaluation: Evaluation | None = None
    prediction: Prediction | None = None
    coverage: tuple[np.ndarray, np.ndarray] | None = None
    mode_metrics: dict[str, float] | None = None
    mode_prediction: Prediction | None = None
    laplace_evaluation: Evaluation | None = None
    problems: dict[str, str] = field(default_factory=dict)


def measure(
    chains: Chains, posterior: Target | None, laplace: Laplace | None, test: tuple[Any, Any] | None
) -> Measured:
    """Apply every diagnostic for which the inputs are there."""
    measured = Measured(chains, posterior=posterior, laplace=laplace)
    if not bool(chains.valid.all(-1).any()):
        return measured
    finished = measured.finished = chains.finished()
    whole = posterior
    if posterior is not None and set(posterior.layout.names) != set(chains.draws):
        measured.problems["posterior"] = (
            f"The chains kept {len(chains.draws)} of {len(posterior.layout.names)} parameter tensors; predictions and "
            "temperature from full gradients need all of them."
        )
        whole = None
    predicts = whole if isinstance(whole, Posterior) else None
    inputs = None
    if predicts is not None:
        inputs, count, measured.inputs_kind = predicts.inputs, predicts.num_data, "training inputs"
        if test is not None:
            inputs, targets = data_.as_tensors(test)
            count, measured.inputs_kind = data_.check(inputs, targets), "test inputs"
            inputs = data_.cast(inputs, predicts.device, predicts.dtype)
            measured.targets = targets.to(predicts.device)
        measured.inputs = data_.take(inputs, evenly_spaced(count, MAX_INPUTS).to(predicts.device))
    measured.convergence = convergence(chains, predicts, measured.inputs)
    measured.cost = _cost(finished, whole)
    with _Problem(measured, "temperature"):
        few = MAX_TEMPERATURES if whole is None else MAX_GRADIENTS // (whole.num_data * whole.dim)
        measured.temperature = temperature(finished, whole, max_draws=int(max(32, min(MAX_TEMPERATURES, few))))
    if "kinetic_temperature" in finished.sample_stats:
        measured.kinetic = kinetic_temperature(finished)
    if whole is not None and chains.attrs.get("sampler") in JUDGED:
        with _Problem(measured, "step"):
            measured.step = step_size(chains, whole)
    if laplace is not None:
        with _Problem(measured, "comparison"):
            measured.comparison = compare(chains, laplace)
    if predicts is not None and measured.targets is not None:
        _predict(measured, predicts, finished, inputs, measured.targets, laplace)
    return measured


@torch.no_grad()
def _cost(finished: Chains, target: Target | None) -> tuple[Tensor, Tensor, str] | None:
    """Cost [chain, draw], numbers of its draws, and what it is; where only estimates were recorded, at some draws anew.

    Anew on the same examples for every draw, all or an even selection, so that the trace shows chains and not batches.
    """
    estimated = finished.attrs.get("batch_size") is not None
    if not estimated or target is None:
        cost = finished.sample_stats.get("cost")
        what = " (minibatch estimate)" if estimated else ""
        return None if cost is None else (cost, torch.arange(cost.shape[1]), what)
    chosen = evenly_spaced(finished.num_draws, MAX_COSTS)
    positions = target.ravel({name: x[:, chosen] for name, x in finished.draws.items()}).flatten(0, 1)
    positions = positions.to(device=target.device, dtype=target.dtype)
    some = target.num_data > MAX_EXAMPLES
    batch = evenly_spaced(target.num_data, MAX_EXAMPLES).to(target.device) if some else None
    parts = positions.split(max(1, MAX_EXAMPLES // target.num_data))
    costs = [target.cost(part, None if batch is None else batch.expand(len(part), -1)).cpu() for part in parts]
    what = f" (from {MAX_EXAMPLES:,} examples)" if some else ""
    return torch.cat(costs).unflatten(0, (finished.num_chains, len(chosen))), chosen, what


def _predict(
    measured: Measured, posterior: Posterior, finished: Chains, inputs: Any, targets: Tensor, laplace: Laplace | None
) -> None:
    """Metrics and predictions on test data."""
    with _Problem(measured, "predictions"):
        ensemble = Ensemble(posterior, finished, num_draws=MAX_DRAWS)
        measured.evaluation = ensemble.evaluate(inputs, targets)
        measured.prediction = ensemble.predict(inputs)
        if "coverage_90" in measured.evaluation.ensemble:
            few = evenly_spaced(len(targets), MAX_INPUTS).to(posterior.device)
            found = []
            for level in LEVELS:
                low, high = ensemble.interval(data_.take(inputs, few), level)
                found.append(calibration.coverage(low, high, targets[few].cpu()))
            measured.coverage = (np.array(LEVELS), np.array(found))
    if laplace is not None:
        with _Problem(measured, "predictions at the mode"):
            measured.mode_metrics = evaluate_point(posterior, laplace.mode, inputs, targets)
            measured.mode_prediction = Ensemble(posterior, laplace.mode[None]).predict(inputs)
            measured.laplace_evaluation = Ensemble(posterior, laplace, num_draws=MAX_LAPLACE).evaluate(inputs, targets)


class _Problem:
    """Records a ValueError under a name and goes on: a report on what there is, rather than none."""

    def __init__(self, measured: Measured, name: str):
        self.measured, self.name = measured, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        if isinstance(error, ValueError):
            self.measured.problems[self.name] = f"Not shown: {error}."
            return True
        return False
