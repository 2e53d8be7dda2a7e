"""Figure 3: minibatch NGD on logistic regression with 64 inputs: scores against the temperature.

Run with ``python -m benchmarks.paper.figure3``; settings are in `logistic`. Every repetition has its own training and
test set; B = εN/(2T).
"""

from __future__ import annotations

from langevin.samplers import NGD, Fisher

from . import logistic

METRIC = Fisher(damping=logistic.DAMPING)


def sampler(temperature: float) -> NGD:
    """Eq. 11; the batch size sets the temperature."""
    return NGD(lr=logistic.LR, metric=METRIC)


if __name__ == "__main__":
    logistic.figure("figure3", __doc__, sampler, minibatches=True, x_label="temperature T = εN/(2B)")
