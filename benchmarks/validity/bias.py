"""Bias against ε and B where theory predicts it: variances over the posterior's, measured and by the linear law."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.validity import targets
from tests.validity.bed import Size, run
from tests.validity.table import TABLE

SAMPLERS = ("SGLD", "PSGLD", "SGHMC", "SGNHT")
STEPS = (0.03, 0.1, 0.3)
SEED = 5000


@dataclass(frozen=True)
class Bias:
    """Mean variance over the posterior's, with standard error, and as predicted; `batch_size` 0 is the full data."""

    target: str
    sampler: str
    step: float
    batch_size: int
    measured: float
    error: float
    predicted: float

    @property
    def z(self) -> float:
        """Distance of measured from predicted in standard errors."""
        return (self.measured - self.predicted) / self.error


def biases(samplers: list[str], quick: bool) -> Iterator[Bias]:
    """All runs: the mean model with noise that is the same in all directions, as SGNHT asks, and the regression."""
    mean, regression = targets.mean_problem(5, correlated=False), targets.conjugate_problem(500)
    size = Size(chains=128, memories=10.0, least=300 if quick else 800, most=1500 if quick else 4000, kept=100)
    seed = SEED
    for problem, batches in ((mean, (2, 8, None)), (regression, (100, 500, None))):
        for name in SAMPLERS:
            for batch in batches:
                for step in STEPS:
                    seed += 1
                    if name not in samplers or (quick and problem is regression and step < 0.3):
                        continue
                    at = replace(problem, batch_size=batch)
                    few = replace(size, chains=64) if problem is regression else size
                    result = run(at, TABLE[name], few, step=step, seed=seed)
                    place = problem.squares
                    ratio = result.per_chain[:, place].mean(-1)
                    assert result.predicted is not None
                    law = result.predicted if result.predicted.ndim == 1 else result.predicted.mean(0)
                    yield Bias(
                        target=problem.name, sampler=name, step=step, batch_size=batch or 0,
                        measured=float(ratio.mean()), error=float(ratio.std() / len(ratio) ** 0.5),
                        predicted=float(law[place].mean()),
                    )  # fmt: skip
