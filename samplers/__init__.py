"""Draws chains of parameters from the posterior of a PyTorch model."""

from .chains import Chains
from .hmc import HMC
from .likelihoods import bernoulli, categorical, gaussian, heteroscedastic_gaussian, poisson
from .log_density import LogDensity
from .metrics import ConstantMetric, Fisher, MetricFunction
from .mode import find_mode
from .named import kfac_langevin, natural_langevin
from .ngd import NGD
from .posterior import Posterior
from .riemannian import RiemannianLangevin
from .sampling import sample
from .schedules import Cyclical, Polynomial
from .sgfs import SGFS
from .sgld import SGLD
from .sngd import SNGD
from .temperature import batch_size_for, temperature_of

__all__ = [
    "HMC",
    "NGD",
    "SGFS",
    "SGLD",
    "SNGD",
    "Chains",
    "ConstantMetric",
    "Cyclical",
    "Fisher",
    "LogDensity",
    "MetricFunction",
    "Polynomial",
    "Posterior",
    "RiemannianLangevin",
    "batch_size_for",
    "bernoulli",
    "categorical",
    "find_mode",
    "gaussian",
    "heteroscedastic_gaussian",
    "kfac_langevin",
    "natural_langevin",
    "poisson",
    "sample",
    "temperature_of",
]
