"""How good and how honest predictions are: plain functions of predictions and targets.

Leading dimensions are all averaged over, so that pixels and tokens count like examples. Standard errors are over test
examples, taken as independent: how much a score would differ on other test data of the same size and law.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import kstest, rankdata
from torch import Tensor

from ..samplers.threefry import NOISE, chain_keys, to_uniform, words

BINS = 15
Binning = Literal["width", "mass"]
Probabilities = Float[Tensor, "*example classes"]
Labels = Int[Tensor, "*example"]


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Share of examples whose most probable class is the label."""
    _check_labels(probabilities, labels)
    return (probabilities.argmax(-1) == labels).double().mean().item()


def nll(log_likelihood: Float[Tensor, "*example"]) -> float:
    """Negative log predictive probability (or density) of the targets, mean over examples, in nats.

    Parameters
    ----------
    log_likelihood
        log p(yᵢ | xᵢ); for class probabilities ``probabilities.log().gather(-1, labels[..., None])``.
    """
    return -log_likelihood.double().mean().item()


def brier(probabilities: Probabilities, labels: Labels) -> float:
    """Brier score Σₖ (pₖ − 1[y = k])², mean over examples: 0 is perfect, 2 the worst.

    This is the original definition over all classes (Brier 1950); with two classes it is twice (p₁ − y)².
    """
    return quadratic_loss(probabilities, labels).mean().item()


def quadratic_loss(probabilities: Probabilities, labels: Labels) -> Float[Tensor, "*example"]:
    """Σₖ (pₖ − 1[y = k])² of every example, whose mean is `brier`; float64."""
    _check_labels(probabilities, labels)
    truth = torch.nn.functional.one_hot(labels.long(), probabilities.shape[-1])
    return (probabilities.double() - truth).square().sum(-1)


def reliability(
    probabilities: Probabilities, labels: Labels, bins: int = BINS, binning: Binning = "width"
) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"], Int[Tensor, " bins"]]:
    """Mean confidence, accuracy and number of examples in bins of the top class's probability.

    Confidence and accuracy of empty bins are NaN. The accuracies have the standard errors
    ``share_error(accuracy, number)`` and the intervals ``share_interval(accuracy, number)``.

    Parameters
    ----------
    probabilities, labels
        Class probabilities ``[..., classes]`` and class numbers ``[...]``.
    bins
        How many, M.
    binning
        - "width": bin b holds confidences in ((b−1)/M, b/M]. One on an edge belongs to the bin below it, 1.0 to the
          last, 0 to the first.
        - "mass": bins of equal numbers of examples, in the order of their confidences; the numbers differ by at most
          one. Equal confidences belong together, in the bin that the middle one of them falls into, so that with many
          ties bins are unequal and some are empty.

    Raises
    ------
    ValueError
        If shapes do not fit, labels are no classes, or there is less than one bin.
    """
    _check_labels(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if binning not in get_args(Binning):
        raise ValueError(f"binning must be one of {get_args(Binning)}, got {binning!r}")
    confidence, predicted = probabilities.max(-1)
    confidence, correct = confidence.reshape(-1), (predicted == labels).reshape(-1)
    place = bins_of_width(confidence, bins) if binning == "width" else _bins_of_mass(confidence, bins)
    count = torch.bincount(place, minlength=bins)
    mean_confidence = torch.bincount(place, weights=confidence.double(), minlength=bins) / count
    return mean_confidence, torch.bincount(place, weights=correct.double(), minlength=bins) / count, count


def bins_of_width(confidence: Float[Tensor, "*example"], bins: int) -> Int[Tensor, "*example"]:
    """Which of the bins of equal width every confidence falls into, from 0: see `reliability`."""
    # Edges in the type of the confidences: 9/15 must round as a confidence of 0.6 does.
    edges = torch.arange(1, bins, device=confidence.device, dtype=confidence.dtype) / bins
    return torch.bucketize(confidence, edges)


def _bins_of_mass(confidence: Float[Tensor, " example"], bins: int) -> Int[Tensor, " example"]:
    middle = torch.from_numpy(rankdata(confidence.cpu().numpy()) - 1).to(confidence.device)  # ties share their mean
    return (middle * bins / len(confidence)).floor().long()


def ece(probabilities: Probabilities, labels: Labels, bins: int = BINS, binning: Binning = "width") -> float:
    """Expected calibration error of the top class, ``Σ_b n_b/n |accuracy_b − confidence_b|`` over `reliability`'s bins.

    Guo et al. 2017, "On calibration of modern neural networks"; in bins of equal mass it is that of Nixon et al. 2019,
    "Measuring calibration in deep learning". Chance alone makes it positive: of a perfect forecast it is about
    √(2/π) Σ_b √(n_b a_b(1 − a_b))/n, with a_b the accuracies.
    """
    confidence, correct, count = reliability(probabilities, labels, bins, binning)
    return ((correct - confidence).abs().nan_to_num(0.0) * count).sum().item() / int(count.sum())


def share_error(share: Float[Tensor, "*shape"], count: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Binomial standard error √(p(1 − p)/n) of shares of independent test examples: accuracies, coverages.

    It is 0 for shares of 0 and 1, where `share_interval` still says what can be said. NaN for a count of 0.

    Parameters
    ----------
    share
        In [0, 1]; NaN where there was nothing to count.
    count
        Of how many examples.
    """
    share, count = _shares(share, count)
    return (share * (1 - share) / count).sqrt()


def share_interval(
    share: Float[Tensor, "*shape"], count: Int[Tensor, "*shape"], level: float = 0.95
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Confidence interval of shares of independent test examples, after Wilson 1927 (Eq. 4 of Brown et al. 2001).

        (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)

    Parameters
    ----------
    share, count
        See `share_error`.
    level
        Probability that such an interval holds the true share, about, in (0, 1).

    Returns
    -------
    tuple of Tensor
        Lower and upper ends, float64; NaN for a count of 0.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    share, count = _shares(share, count)
    z = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64))
    centre = share + z**2 / (2 * count)
    half = z * (share * (1 - share) / count + z**2 / (4 * count**2)).sqrt()
    # Of shares of 0 and 1 rounding may push an end out by 1e-17.
    ends = (((centre + sign * half) / (1 + z**2 / count)).clamp(0, 1) for sign in (-1, 1))
    return next(ends), next(ends)


def _shares(share: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    share, count = torch.as_tensor(share, dtype=torch.float64), torch.as_tensor(count, dtype=torch.float64)
    if bool(((share < 0) | (share > 1)).any()) or bool((count < 0).any()):
        raise ValueError(f"shares must lie in [0, 1] and counts must not be negative, got {share} of {count}")
    nothing = count == 0
    return share.masked_fill(nothing, math.nan), count.masked_fill(nothing, math.nan)


def rmse(mean: Float[Tensor, "*example"], targets: Float[Tensor, "*example"]) -> float:
    """Root of the mean squared error, in the units of the targets."""
    _check_same("mean", mean, targets)
    return (mean.double() - targets.double()).square().mean().sqrt().item()


def coverage(
    lower: Float[Tensor, "*example"], upper: Float[Tensor, "*example"], targets: Float[Tensor, "*example"]
) -> float:
    """Share of targets inside their intervals, ends included."""
    _check_same("lower", lower, targets)
    _check_same("upper", upper, targets)
    inside: Bool[Tensor, "*example"] = (lower <= targets) & (targets <= upper)
    return inside.double().mean().item()


def pit(
    cdf: Float[Tensor, "*example"], cdf_below: Float[Tensor, "*example"] | None = None, seed: int = 0
) -> Float[Tensor, "*example"]:
    """Probability integral transform of the targets: uniform on (0, 1) for an honest predictive distribution.

    F(y) of a continuous target. Of a count it is drawn from between P(Y < y) and P(Y ≤ y), without which it could not
    be uniform (Czado, Gneiting & Held 2009, "Predictive model assessment for count data").

    Parameters
    ----------
    cdf, cdf_below
        F(y) = P(Y ≤ y) and P(Y < y); None where they are the same.
    seed
        Of the draws, which depend on it and on the place in `cdf` alone.

    Returns
    -------
    Tensor
        float64 on the CPU.
    """
    cdf = cdf.double().cpu()
    below = cdf if cdf_below is None else cdf_below.double().cpu()
    _check_same("cdf_below", below, cdf)
    if bool((below > cdf).any()) or bool((below < 0).any()) or bool((cdf > 1).any()):
        raise ValueError("distribution functions must satisfy 0 ≤ P(Y < y) ≤ P(Y ≤ y) ≤ 1")
    keys = chain_keys(seed, torch.zeros(1), NOISE)
    uniform = to_uniform(words(keys, torch.tensor(0), cdf.numel()), torch.float64)
    return below + uniform.reshape(cdf.shape) * (cdf - below)


class Uniformity(NamedTuple):
    """How far values are from uniform.

    Attributes
    ----------
    distance
        Largest difference of their distribution function from the uniform one (Kolmogorov–Smirnov), in [0, 1].
    p_value
        Probability of at least this distance for as many independent uniform values.
    """

    distance: float
    p_value: float


def uniformity(values: Float[Tensor, "*example"]) -> Uniformity:
    """Test whether values, as a rule from `pit`, are uniform on (0, 1), by the Kolmogorov–Smirnov test.

    The p-value takes them as independent. Several targets of one example are not; test one of each.
    """
    if values.numel() == 0 or not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError("values in [0, 1] are needed, at least one, none of them NaN")
    found = kstest(values.detach().double().cpu().reshape(-1).numpy(), "uniform")
    return Uniformity(float(found.statistic), float(found.pvalue))


class Auroc(NamedTuple):
    """Area under the ROC curve, and its standard error over test examples."""

    value: float
    error: float


def auroc(in_distribution: Float[Tensor, "*m"], out_of_distribution: Float[Tensor, "*n"]) -> Auroc:
    """Probability that an example from outside gets the higher score, ties counting half.

    1 tells the two apart without a mistake, 0.5 is chance. Scores are those that should be *high* outside: entropy,
    mutual information, predictive sd, or one minus the confidence.

    Parameters
    ----------
    in_distribution, out_of_distribution
        Scores of examples like the training data and of others, in any units; only their order counts.

    Returns
    -------
    Auroc
        With the standard error of DeLong, DeLong & Clarke-Pearson 1988, Eq. 6: s²_in/m + s²_out/n, where s² is the
        variance of the share of the other set that each example is on the right side of. NaN for a set of one example.
        Where no pair is on the wrong side it is 0, which says little for few examples.

    Raises
    ------
    ValueError
        If either set is empty or holds NaN.
    """
    inside, outside = (scores.detach().double().cpu().reshape(-1) for scores in (in_distribution, out_of_distribution))
    for name, scores in (("in_distribution", inside), ("out_of_distribution", outside)):
        if len(scores) == 0 or bool(scores.isnan().any()):
            raise ValueError(f"{name} must hold scores, none of them NaN, got {scores.isnan().sum()} of {len(scores)}")
    m, n = len(inside), len(outside)
    ranks = torch.from_numpy(rankdata(torch.cat((inside, outside)).numpy()))
    own = (torch.from_numpy(rankdata(scores.numpy())) for scores in (inside, outside))
    # A rank among all less that among its own counts the others below, ties half.
    right_in = 1 - (ranks[:m] - next(own)) / n
    right_out = (ranks[m:] - next(own)) / m
    error = (right_in.var() / m + right_out.var() / n).sqrt().item() if min(m, n) > 1 else math.nan
    return Auroc(right_out.mean().item(), error)


def agreement(first: Probabilities, second: Probabilities) -> float:
    """Share of inputs for which two predictions have the same most probable class (Izmailov et al. 2021, Section 4)."""
    _check_probabilities(first, second)
    return (first.argmax(-1) == second.argmax(-1)).double().mean().item()


def total_variation(first: Probabilities, second: Probabilities) -> float:
    """``½ Σₖ |pₖ − qₖ|``, mean over inputs: 0 for equal predictions, 1 for those that exclude each other.

    It is the largest difference between the probabilities that the two give to any set of classes (Izmailov et al.
    2021, "What are Bayesian neural network posteriors really like?", Section 4).
    """
    return variations(first, second).mean().item()


def variations(first: Probabilities, second: Probabilities) -> Float[Tensor, "*example"]:
    """``½ Σₖ |pₖ − qₖ|`` of every input, whose mean is `total_variation`; float64."""
    _check_probabilities(first, second)
    return (first.double() - second.double()).abs().sum(-1) / 2


def _check_labels(probabilities: Tensor, labels: Tensor) -> None:
    if probabilities.shape[:-1] != labels.shape or labels.numel() == 0:
        raise ValueError(
            f"probabilities of shape [*example, classes] and labels of shape [*example] are needed, "
            f"got {tuple(probabilities.shape)} and {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= probabilities.shape[-1]:
        raise ValueError(f"labels must lie in 0 … {probabilities.shape[-1] - 1}, got {low} … {high}")


def _check_same(name: str, values: Tensor, targets: Tensor) -> None:
    if values.shape != targets.shape or targets.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(values.shape)} but the targets have {tuple(targets.shape)}")


def _check_probabilities(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.ndim < 2 or first.numel() == 0:
        raise ValueError(
            f"two predictions of the same shape [*example, classes] are needed, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
