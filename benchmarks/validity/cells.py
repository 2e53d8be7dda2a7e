"""Which sampler is run on which target, what is known of its law there, and the row of results that comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from langevin.samplers import HMC
from torch import Tensor

from tests.validity import densities, posteriordb, targets
from tests.validity.bed import Run, Size, limit_z, run
from tests.validity.table import TABLE, Row
from tests.validity.targets import Problem

SEED = 1000
GAUSSIAN = ("gaussian", "ill-conditioned", "thousand", "mean", "regression")
CURVED = ("curved", "skewed", "bimodal")
MODELS = ("logistic", "poisson")
WHITENED = ("eight_schools-eight_schools_noncentered", "arK-arK", "low_dim_gauss_mix-low_dim_gauss_mix")
CENTRED = "eight_schools-eight_schools_centered"
POSTERIORDB = tuple(posteriordb.MODELS)

MAKERS: dict[str, Callable[[], Problem]] = {
    "gaussian": targets.isotropic,
    "ill-conditioned": targets.ill_conditioned,
    "thousand": targets.thousand,
    "mean": targets.mean_problem,
    "regression": targets.conjugate_problem,
    "curved": targets.curved,
    "skewed": densities.skewed,
    "bimodal": densities.bimodal,
    "funnel": densities.funnel,
    "logistic": densities.logistic,
    "poisson": densities.poisson_regression,
} | {name: (lambda name=name: densities.from_posteriordb(name, whiten=name != CENTRED)) for name in POSTERIORDB}
WITH_PRIOR = "mean with a prior"
MAKERS[WITH_PRIOR] = lambda: targets.mean_problem(prior=2.0)

problem = cache(lambda name: MAKERS[name]())

# Samplers that can be brought to ε → 0 at fixed minibatches; the others are tied to one ε by their heat.
FREE_STEP = ("SGLD", "PSGLD", "SGHMC", "SGNHT", "RiemannianLangevin", "NGD, T = 1", "SNGD")
ON_POSTERIORDB = ("SGLD", "PSGLD", "SGHMC", "SGNHT")


@dataclass(frozen=True)
class Cell:
    """One row of the results.

    Attributes
    ----------
    kind
        "exact": the sampler's law, whatever ε, is known and tends to, or is, the posterior; "own law": it is known and
        is not the posterior; "limit": only ε → 0 is known, |z| is of the extrapolation; "bias": nothing is tested,
        the bias at this ε is reported; "no law": the same for methods that have no posterior to tend to.
    lr
        ε, where the sampler has one.
    max_z, threshold, comparisons
        Largest |z| of so many comparisons; NaN where nothing is tested.
    bias_mean
        Largest distance of a mean from that of exp(−C), in posterior standard deviations.
    variance, error, predicted
        Variances over those of exp(−C), averaged, with standard error; and by the sampler's law at this ε.
    ess_second, ess_gradient
        Smallest bulk effective sample size, all chains together, per CPU second and per gradient.
    """

    target: str
    sampler: str
    kind: str
    lr: float
    batch_size: int
    chains: int
    steps: int
    comparisons: int
    max_z: float
    chains_lost: int
    bias_mean: float
    variance: float
    error: float
    predicted: float
    ess_second: float
    ess_gradient: float
    remark: str
    threshold: float = math.nan

    @property
    def tested(self) -> bool:
        """Whether anything is judged."""
        return not math.isnan(self.max_z)

    @property
    def passed(self) -> bool:
        """Whether it is within its threshold."""
        return self.max_z < self.threshold and self.chains_lost == 0


def is_runnable(row: Row, name: str) -> bool:
    """Whether this sampler takes this target at all."""
    if row.needs == "prior":
        return name == WITH_PRIOR
    if name == WITH_PRIOR:
        return False
    if name in POSTERIORDB:
        return row.name == "HMC" or (row.name in ON_POSTERIORDB and name in WHITENED)
    has_examples = name in ("mean", "regression", *MODELS)
    if row.needs == "minibatch" and not has_examples:
        return False
    if row.name == "NGD" and name not in ("mean", "regression"):
        return False
    if row.name == "SGFS":
        return name in (*GAUSSIAN, *MODELS)
    if name in ("skewed", "bimodal") and "NGD" in row.name:
        return False  # with a constant metric and all data they are RiemannianLangevin
    if row.name == "PSGLD" and name == "ill-conditioned":
        return False  # no diagonal metric helps, and its law is not known before the run, to start from
    if name == "funnel":
        return row.name in ("HMC", "SGLD", "SGHMC", "SGNHT", "RiemannianLangevin")
    if row.name.startswith("AdaBayes"):
        return name in ("mean", *MODELS)
    return True


def size_of(row: Row, name: str, quick: bool) -> Size:
    """Long enough that a tenth of a variance is many standard errors."""
    size = Size(chains=128, memories=8.0, least=400, most=2500)
    if row.name == "HMC":
        size = Size(chains=64, least=150, kept=150)
    if name == "thousand":
        size = replace(size, chains=64, kept=100)
    if name == "ill-conditioned":
        size = replace(size, most=1500) if row.name != "HMC" else replace(size, least=100, chains=32)
    if name in ("regression", *MODELS):
        size = replace(size, chains=64, most=2000)
    if name == "funnel" and row.name != "HMC":
        size = replace(size, chains=256)
    if name in POSTERIORDB and row.name == "HMC":
        size = replace(size, chains=32 if name == CENTRED else 48, least=100)
    return replace(size, least=size.least // 3, memories=size.memories / 3, most=size.most // 3) if quick else size


def _start(row: Row, target: Problem) -> Callable[[int], Tensor] | None:
    """The law itself, where no chain would reach it in time."""
    if target.name != "ill-conditioned" or row.name == "HMC":
        return None
    if row.rate(target, row.step) > 0.01:
        return None
    assert row.law is not None
    law = row.law(target, row.build(target, row.step), None, None)  # pyright: ignore[reportArgumentType]
    return targets.started_from_law(target, law)


def _lacks_drift(row: Row, target: Problem) -> bool:
    """NGD leaves out the drift of a metric that changes, so that even its limit is not the posterior."""
    return row.name.startswith("NGD") and target.name == "curved"


def compute(row: Row, name: str, quick: bool, seed: int) -> Cell:
    """Run one cell."""
    target, size = problem(name), size_of(row, name, quick)
    settings: dict[str, Any] = {"seed": seed}
    if row.name == "HMC" and name in POSTERIORDB:
        settings["build"] = lambda p, step: HMC(target_accept=0.95)
    if target.quadratic is not None and row.law is not None:
        known = not (row.name == "SGNHT" and target.batch_size is not None)  # its heat differs by direction there
        result = run(target, row, size, start=_start(row, target), **settings)
        kind = ("exact" if row.posterior else "own law") if known else "bias"
        return _cell(result, kind, result.z if known else None)
    if row.name == "HMC":
        result = run(target, row, size, **settings)
        known = name not in ("funnel", CENTRED)
        return _cell(result, "exact" if known else "bias", result.z_posterior if known else None)
    if name in CURVED and row.name in FREE_STEP and not _lacks_drift(row, target):
        first = {"SGLD": 0.025, "PSGLD": 0.025, "SGHMC": 0.0125, "SGNHT": 0.0125}.get(row.name, 0.01)
        crowd = Size(chains=512, memories=4.0 if quick else 8.0, warmup=3.0, least=300)
        z, runs = limit_z(target, row, crowd, steps=(first, 2 * first, 4 * first), seed=seed)
        return _cell(runs[1], "limit", z)
    step = None
    if name in MODELS and row.name in FREE_STEP:
        step = 0.1 if row.name != "SGHMC" else 0.02
    if row.name == "RiemannianLangevin" and name == "funnel":
        step = 0.05
    if _lacks_drift(row, target):
        step = 0.02
    result = run(target, row, size, step=step, **settings)
    return _cell(result, "bias" if row.posterior else "no law", None)


def _cell(result: Run, kind: str, z: Tensor | None) -> Cell:
    p, row = result.problem, result.row
    count = len(result.per_chain)
    units = torch.ones(len(p.truth), dtype=torch.float64) if p.quadratic is not None else p.scale
    base = p.truth[p.squares] / units[p.squares]
    ratio = (result.per_chain[:, p.squares] / units[p.squares]).mean(-1) / base.mean()
    predicted = math.nan
    if result.predicted is not None:
        law = result.predicted if result.predicted.ndim == 1 else result.predicted.mean(0)
        predicted = float(law[p.squares].mean() / p.truth[p.squares].mean())
    ess = result.ess()
    gradients = row.gradients(result.chains) * result.steps * count
    return Cell(
        target=p.name,
        sampler=row.name,
        kind=kind,
        lr=float(getattr(result.sampler, "lr", math.nan)),
        batch_size=result.chains.attrs["batch_size"] or 0,
        chains=count,
        steps=result.steps,
        comparisons=0 if z is None else len(z),
        max_z=math.nan if z is None else float(z.abs().max()),
        chains_lost=result.stopped,
        bias_mean=float(result.bias[p.means].abs().max()),
        variance=float(ratio.mean()),
        error=float(ratio.std() / count**0.5),
        predicted=predicted,
        ess_second=ess / result.seconds,
        ess_gradient=ess / gradients,
        remark=row.remark,
    )


def cells(samplers: list[str], names: list[str], quick: bool) -> Iterator[tuple[Row, str, int]]:
    """All pairs to be run, each with its own seed."""
    for i, name in enumerate(MAKERS):
        for j, row in enumerate(TABLE.values()):
            if name in names and row.name in samplers and is_runnable(row, name):
                yield row, name, SEED + 100 * i + j
