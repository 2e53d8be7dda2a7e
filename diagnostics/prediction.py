"""What a prediction, and an evaluation of predictions on held-out data, hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .mixture import Averages
from .scores import Scores


@dataclass(frozen=True)
class Prediction:
    """The predictive distribution of new targets, float64 on the CPU.

    Attributes
    ----------
    mean
        Classification: probabilities ``[n, ..., classes]``, of two classes for binary labels. Otherwise predictive
        means ``[n, ...]``.
    entropy
        Of the averaged probabilities, in nats, ``[n, ...]``; None unless classification.
    mutual_information
        Of label and parameters in nats, the entropy of the mean minus the mean entropy: how much the draws disagree.
        None where there are no draws (`Laplace.predict` with ``method="probit"``).
    sd, epistemic_sd, aleatoric_sd
        Standard deviation of the predictive mixture, in the units of the targets, and its parts: sd² = epistemic²
        (variance of the draws' means) + aleatoric² (mean of their variances). None for classification.
    """

    mean: Tensor
    entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    sd: Tensor | None = None
    epistemic_sd: Tensor | None = None
    aleatoric_sd: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """Scores on held-out data.

    Attributes
    ----------
    ensemble
        Scores of the averaged prediction. Classification: ``accuracy``, ``nll``, ``brier``, ``ece``. Otherwise
        ``rmse``, ``nll`` and ``coverage_90`` (of the central 90 % interval), as far as torch knows moments and ``cdf``.
    single, single_sd
        Mean and standard deviation of the scores of single draws.
    num_draws, num_single
        Draws in the ensemble, and how many of them, evenly spaced, were scored alone.
    ensemble_error
        Standard errors of `ensemble` over test examples, taken as independent: how much other test data of the same
        size would change it. That of ``ece`` does not count its bias, which is positive (`calibration.ece`). NaN for a
        single example. To tell two predictors apart use `compare_predictions`: on the same examples their scores differ
        by much less than both errors say.
    monte_carlo_error
        Standard errors of `ensemble` over draws: how much another run of the same length would change it. A jackknife
        over chains, if there are two or more; over 16 stretches of draws if there is one, or draws of no chain. Of few
        chains it is rough, and with chains in different modes it says how much that matters. NaN for one draw.
    num_examples
        Test examples.
    """

    ensemble: Scores
    single: Scores
    single_sd: Scores
    num_draws: int
    num_single: int
    ensemble_error: Scores = field(default_factory=dict)
    monte_carlo_error: Scores = field(default_factory=dict)
    num_examples: int = 0

    def __str__(self) -> str:
        heads = f"ensemble of {self.num_draws}", f"mean of {self.num_single} single draws", "their sd"
        width = max(len(name) for name in self.ensemble)
        lines = ["  ".join([" " * width, *heads])]
        for name, value in self.ensemble.items():
            row = zip((value, self.single[name], self.single_sd[name]), heads, strict=True)
            lines.append("  ".join([f"{name:{width}}", *(f"{number:{len(head)}.4f}" for number, head in row)]))
        return "\n".join(lines)


def prediction_of(averages: Averages) -> Prediction:
    """What `mixture.average` found, as users see it.

    Raises
    ------
    NotImplementedError
        If there are neither class probabilities nor moments.
    """
    averages = {name: value.cpu() for name, value in averages.items()}
    if "probability" in averages:
        entropy = torch.special.entr(averages["probability"]).sum(-1)
        # By Jensen's inequality never negative, but for rounding.
        mutual_information = (entropy - averages["entropy"]).clamp(min=0) if "entropy" in averages else None
        return Prediction(averages["probability"], entropy, mutual_information)
    if "mean" not in averages:
        raise NotImplementedError("torch knows no moments of this likelihood; evaluate() still gives its nll")
    epistemic, aleatoric = averages["epistemic"], averages["aleatoric"]
    return Prediction(
        averages["mean"],
        sd=(epistemic + aleatoric).sqrt(),
        epistemic_sd=epistemic.sqrt(),
        aleatoric_sd=aleatoric.sqrt(),
    )
