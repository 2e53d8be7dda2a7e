"""Figure 2: preconditioned Langevin dynamics on logistic regression with 64 inputs: scores against the temperature.

Run with ``python -m benchmarks.paper.figure2``; settings are in `logistic`. Every repetition has its own training and
test set.
"""

from __future__ import annotations

import statistics

from langevin.samplers import Fisher, RiemannianLangevin

from . import logistic
from .plotting import accuracy_and_cross_entropy, save
from .records import best_settings, collect, parser

REPETITIONS = 10
METRIC = Fisher(damping=logistic.DAMPING)


def sampler(temperature: float) -> RiemannianLangevin:
    """Eq. 5, without correction terms."""
    return RiemannianLangevin(lr=logistic.LR, metric=METRIC, drift="none", temperature=temperature)


def main() -> None:
    """Run all temperatures, draw and print where the ensemble is best."""
    arguments_ = parser(__doc__, "figure2", REPETITIONS)
    logistic.add_arguments(arguments_)
    arguments = arguments_.parse_args()
    rows = collect(arguments, lambda: logistic.sweep(arguments, sampler, minibatches=False))
    x_label = "temperature T"
    save(accuracy_and_cross_entropy(rows, "temperature", x_label, 1.0, "T = 1"), arguments.image)
    best = best_settings(rows, "temperature")
    print(f"ensemble's cross-entropy is lowest at T = {best}, geometric mean {statistics.geometric_mean(best):.2f}")
    print(
        f"{len({r['repetition'] for r in rows if r['separable']})} of {len(best)} training sets are linearly separable"
    )


if __name__ == "__main__":
    main()
