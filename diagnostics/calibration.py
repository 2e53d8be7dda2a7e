"""How good and how honest predictions are: plain functions of predictions and targets.

Leading dimensions are all averaged over, so that pixels and tokens count like examples.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
    _check_labels(probabilities, labels)
    truth = torch.nn.functional.one_hot(labels.long(), probabilities.shape[-1])
    return (probabilities.double() - truth).square().sum(-1).mean().item()


def reliability(
    probabilities: Probabilities, labels: Labels, bins: int = 15
) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"], Int[Tensor, " bins"]]:
    """Mean confidence, accuracy and number of examples in bins of equal width of the top class's probability.

    Bin b of M holds confidences in ((b−1)/M, b/M]: one on an edge belongs to the bin below it, 1.0 to the last, 0 to
    the first. Confidence and accuracy of empty bins are NaN.
    """
    _check_labels(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, predicted = probabilities.max(-1)
    confidence, correct = confidence.reshape(-1), (predicted == labels).reshape(-1)
    # Edges in the type of the confidences: 9/15 must round as a confidence of 0.6 does.
    edges = torch.arange(1, bins, device=confidence.device, dtype=confidence.dtype) / bins
    place = torch.bucketize(confidence, edges)
    count = torch.bincount(place, minlength=bins)
    mean_confidence = torch.bincount(place, weights=confidence.double(), minlength=bins) / count
    return mean_confidence, torch.bincount(place, weights=correct.double(), minlength=bins) / count, count


def ece(probabilities: Probabilities, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error of the top class, Σ_b n_b/n |accuracy_b − confidence_b| over `reliability`'s bins.

    Guo et al. 2017, "On calibration of modern neural networks".
    """
    confidence, correct, count = reliability(probabilities, labels, bins)
    return ((correct - confidence).abs().nan_to_num(0.0) * count).sum().item() / int(count.sum())


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
