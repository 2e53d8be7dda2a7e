"""Finds modes: `find_mode`, methods of its own, and the check that what was found is no saddle."""

from .find import find_mode
from .gauss_newton import GaussNewton
from .gradient_regression import GradientRegression
from .natural_newton import NaturalNewton
from .saddle import smallest_curvature
from .saddle_free import SaddleFreeNewton
from .tonga import TONGA

__all__ = [
    "TONGA",
    "GaussNewton",
    "GradientRegression",
    "NaturalNewton",
    "SaddleFreeNewton",
    "find_mode",
    "smallest_curvature",
]
