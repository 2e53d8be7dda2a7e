"""Judges chains, compares them with Laplace approximations, and predicts with them."""

from .comparison import Comparison, compare
from .convergence import Convergence, convergence
from .ensemble import Ensemble, Evaluation, Prediction, evaluate_point
from .laplace import Laplace
from .laplace_predictive import OutputGaussian
from .nested import nested_rhat
from .report import Report, report
from .stein import SteinDiscrepancy, stein_discrepancy
from .thermometer import Temperature, temperature

__all__ = [
    "Comparison",
    "Convergence",
    "Ensemble",
    "Evaluation",
    "Laplace",
    "OutputGaussian",
    "Prediction",
    "Report",
    "SteinDiscrepancy",
    "Temperature",
    "compare",
    "convergence",
    "evaluate_point",
    "nested_rhat",
    "report",
    "stein_discrepancy",
    "temperature",
]
