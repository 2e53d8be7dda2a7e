"""Metrics: preconditioners that are functions of the position, and their derivatives."""

from .drift import divergence, log_det_gradient
from .fisher import Fisher
from .given import ConstantMetric, MetricFunction

__all__ = ["ConstantMetric", "Fisher", "MetricFunction", "divergence", "log_det_gradient"]
