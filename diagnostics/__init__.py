"""Judges chains, compares them with Laplace approximations, and predicts with them."""

from .comparison import Comparison, compare
from .convergence import Convergence, convergence
from .ensemble import Ensemble, Evaluation, Prediction, evaluate_point
from .laplace import Laplace
from .report import Report, report
from .thermometer import Temperature, temperature

__all__ = [
    "Comparison",
    "Convergence",
    "Ensemble",
    "Evaluation",
    "Laplace",
    "Prediction",
    "Report",
    "Temperature",
    "compare",
    "convergence",
    "evaluate_point",
    "report",
    "temperature",
]
