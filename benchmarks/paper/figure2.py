"""Figure 2: preconditioned Langevin dynamics on logistic regression with 64 inputs: scores against the temperature.

Run with ``python -m benchmarks.paper.figure2``; settings are in `logistic`. Every repetition has its own training and
test set.
"""

from __future__ import annotations

from langevin.samplers import Fisher, RiemannianLangevin

from . import logistic

METRIC = Fisher(damping=logistic.DAMPING)


def sampler(temperature: float) -> RiemannianLangevin:
    """Eq. 5, without correction terms."""
    return RiemannianLangevin(lr=logistic.LR, metric=METRIC, drift="none", temperature=temperature)


if __name__ == "__main__":
    logistic.figure("figure2", __doc__, sampler, minibatches=False, x_label="temperature T")
