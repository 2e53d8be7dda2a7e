"""Draws chains of parameters from the posterior of a PyTorch model."""

from .adabayes import AdaBayes, AdaBayesFP
from .asgld import ASGLD
from .chains import Chains
from .constant_sgd import ConstantSGD
from .hmc import HMC
from .likelihoods import bernoulli, categorical, gaussian, heteroscedastic_gaussian, poisson
from .log_density import LogDensity
from .metrics import ConstantMetric, Fisher, MetricFunction
from .modes import (
    TONGA,
    GaussNewton,
    GradientRegression,
    NaturalNewton,
    SaddleFreeNewton,
    find_mode,
    smallest_curvature,
)
from .named import kfac_langevin, natural_langevin
from .ngd import NGD
from .posterior import Posterior
from .psgld import PSGLD
from .riemannian import RiemannianLangevin
from .sampling import sample
from .scaling import scale_to_batch
from .schedules import Cyclical, Polynomial
from .second_order import SecondOrderSGD
from .sgfs import SGFS
from .sghmc import SGHMC
from .sgld import SGLD
from .sgnht import SGNHT
from .sngd import SNGD
from .temperature import batch_size_for, temperature_of
from .vadam import Vadam
from .von import VON

__all__ = [
    "ASGLD",
    "HMC",
    "NGD",
    "PSGLD",
    "SGFS",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "SNGD",
    "TONGA",
    "VON",
    "AdaBayes",
    "AdaBayesFP",
    "Chains",
    "ConstantMetric",
    "ConstantSGD",
    "Cyclical",
    "Fisher",
    "GaussNewton",
    "GradientRegression",
    "LogDensity",
    "MetricFunction",
    "NaturalNewton",
    "Polynomial",
    "Posterior",
    "RiemannianLangevin",
    "SaddleFreeNewton",
    "SecondOrderSGD",
    "Vadam",
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
    "scale_to_batch",
    "smallest_curvature",
    "temperature_of",
]
