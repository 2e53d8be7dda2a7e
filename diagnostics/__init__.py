"""Judges chains, compares them with Laplace approximations, and predicts with them."""

from .comparison import Comparison, compare
from .convergence import Convergence, convergence
from .ensemble import Ensemble, Evaluation, Prediction, evaluate_point
from .force import MeanForce
from .halving import StepHalving, halve_step
from .kinetic import KineticTemperature, kinetic_temperature
from .laplace import Laplace
from .laplace_predictive import OutputGaussian
from .loo import LeaveOneOut, loo
from .nested import nested_rhat
from .predictors import PredictionComparison, compare_predictions
from .reference import ReferenceComparison, compare_to_reference
from .report import Report, report
from .stein import SteinDiscrepancy, stein_discrepancy
from .step_size import StepSize, step_size
from .suggestion import Suggestion, suggest
from .thermometer import Temperature, temperature

__all__ = [
    "Comparison",
    "Convergence",
    "Ensemble",
    "Evaluation",
    "KineticTemperature",
    "Laplace",
    "LeaveOneOut",
    "MeanForce",
    "OutputGaussian",
    "Prediction",
    "PredictionComparison",
    "ReferenceComparison",
    "Report",
    "SteinDiscrepancy",
    "StepHalving",
    "StepSize",
    "Suggestion",
    "Temperature",
    "compare",
    "compare_predictions",
    "compare_to_reference",
    "convergence",
    "evaluate_point",
    "halve_step",
    "kinetic_temperature",
    "loo",
    "nested_rhat",
    "report",
    "stein_discrepancy",
    "step_size",
    "suggest",
    "temperature",
]
