"""The predictive mixture p(y | x) = Σ_d w_d p(y | x, ω_d): what can be said of it, a few draws at a time.

The type of distribution that the likelihood returns decides: `Categorical` and `Bernoulli` have class probabilities,
others moments as far as torch knows them, `Normal` and `Poisson` (and what else has a ``cdf``) a distribution function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, Poisson

Weights = Float[Tensor, " draw"]
Averages = dict[str, Tensor]


def class_log_probabilities(distribution: Distribution) -> Tensor | None:
    """Log probabilities along a last dimension (binary: two classes), float64; None if there are no classes."""
    if isinstance(distribution, Categorical):
        return distribution.logits.double().log_softmax(-1)
    if isinstance(distribution, Bernoulli):
        logits = distribution.logits.double()
        return torch.nn.functional.logsigmoid(torch.stack((-logits, logits), -1))
    return None


def predictive_mean(distribution: Distribution) -> Tensor:
    """Class probabilities, or the mean of other distributions; float64."""
    classes = class_log_probabilities(distribution)
    if classes is not None:
        return classes.exp()
    if not _has_moments(distribution):
        raise NotImplementedError(
            f"torch knows no mean of {type(distribution).__name__}, so there is nothing to predict"
        )
    return distribution.mean.double()


def average(parts: Iterable[tuple[Distribution, Weights]], targets: Tensor | None = None) -> Averages:
    """Averages over draws, for a few examples.

    Parameters
    ----------
    parts
        Distributions with a leading draw dimension, ``[draw, n, ...]``, and the draws' weights; all weights sum to one.
    targets
        ``[n, ...]``, for the entries about targets.

    Returns
    -------
    dict
        With classes ``probability`` [n, ..., classes] and ``entropy``, the draws' mean entropy in nats; otherwise, if
        there are moments, ``mean``, ``epistemic`` (variance of the draws' means) and ``aleatoric`` (mean of their
        variances). With targets ``log_likelihood``, log Σ_d w_d p_d(y), and, where the distribution function F is
        known, ``cdf`` and ``cdf_below``: F(y) and P(Y < y). All float64, ``[n, ...]``.

    Raises
    ------
    ValueError
        If targets have the wrong shape or lie outside the distribution's support.
    """
    sums: dict[str, Tensor] = {}
    centre = None
    for distribution, weights in parts:
        if targets is not None:
            _check_targets(distribution, targets)
        classes = class_log_probabilities(distribution)
        terms: dict[str, Tensor] = {}
        if classes is not None:
            probability = classes.exp()
            terms = {"probability": probability, "entropy": torch.special.entr(probability).sum(-1)}
        elif _has_moments(distribution):
            mean = distribution.mean.double()
            centre = mean[0] if centre is None else centre  # squares are taken from here, so that they do not cancel
            terms = {
                "shift": mean - centre,
                "square": (mean - centre) ** 2,
                "aleatoric": distribution.variance.double(),
            }
        if targets is not None:
            if classes is None:
                log_prob = distribution.log_prob(targets).double()
                terms |= _distribution_function(distribution, targets)
            else:
                labels = targets.long().expand(classes.shape[:-1])
                log_prob = classes.gather(-1, labels[..., None]).squeeze(-1)
            total = (_like(weights, log_prob).log() + log_prob).logsumexp(0)
            sums["log_likelihood"] = (
                torch.logaddexp(sums["log_likelihood"], total) if "log_likelihood" in sums else total
            )
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + (_like(weights, term) * term).sum(0)
    if centre is not None:
        shift = sums.pop("shift")
        sums["mean"] = centre + shift
        sums["epistemic"] = (sums.pop("square") - shift**2).clamp(min=0)
    return sums


def combine(parts: Sequence[Averages], weights: Float[Tensor, " part"]) -> Averages:
    """The `average` of all draws from those of groups of them.

    Parameters
    ----------
    parts
        What `average` returned for each group, with weights of sum one inside it.
    weights
        Of the groups, any positive sum; a group of weight 0 is left out.
    """
    weights = weights / weights.sum()
    found = {}
    for name in parts[0]:
        stacked = torch.stack([part[name] for part in parts])
        w = _like(weights, stacked)
        if name == "log_likelihood":
            found[name] = (w.log() + stacked).logsumexp(0)
        elif name == "mean":
            found[name] = stacked[0] + (w * (stacked - stacked[0])).sum(0)
        else:
            found[name] = (w * stacked).sum(0)
    if "mean" in found:
        means = torch.stack([part["mean"] for part in parts])
        found["epistemic"] = found["epistemic"] + (_like(weights, means) * (means - found["mean"]) ** 2).sum(0)
    return found


def cells(parts: Iterable[tuple[Distribution, Weights]], edges: Float[Tensor, "n ... edge"]) -> Tensor:
    """Probabilities ``[n, ..., edges + 1]`` that the mixture gives to the cells between increasing edges.

    The first cell reaches to −∞, the last to ∞; an edge belongs to the cell below it.

    Raises
    ------
    NotImplementedError
        If torch knows no distribution function.
    """
    below: Tensor | None = None
    for distribution, weights in parts:
        try:
            found = [_cdf(distribution, edge) for edge in edges.unbind(-1)]
        except NotImplementedError as error:
            name = type(distribution).__name__
            raise NotImplementedError(f"torch knows no distribution function of {name}") from error
        part = torch.stack([(_like(weights, cdf) * cdf).sum(0) for cdf in found], -1)
        below = part if below is None else below + part
    assert below is not None
    ends = torch.zeros_like(below[..., :1]), torch.ones_like(below[..., :1])
    return torch.cat((ends[0], below, ends[1]), -1).diff(dim=-1)


def quantile(distribution: Distribution, weights: Weights, prob: float) -> Tensor:
    """Quantile of the mixture over the first dimension, by bisection of its distribution function to float64 precision.

    Of counts it is the smallest k with P(y ≤ k) ≥ prob.
    """
    if not isinstance(distribution, (Normal, Poisson)):
        name = type(distribution).__name__
        raise NotImplementedError(f"intervals are known for Normal and Poisson likelihoods, not for {name}")
    means = distribution.mean.double()
    w = _like(weights, means)
    mean = (w * means).sum(0)
    sd = (w * (distribution.variance.double() + (means - mean) ** 2)).sum(0).sqrt()
    # Cantelli's inequality: the quantile lies within these bounds, whatever the mixture's shape.
    low = mean - 1.001 * sd * math.sqrt((1 - prob) / prob)
    high = mean + 1.001 * sd * math.sqrt(prob / (1 - prob))
    for _ in range(60):
        middle = (low + high) / 2
        enough = (w * _cdf(distribution, middle)).sum(0) >= prob
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.round() if isinstance(distribution, Poisson) else high


def _like(weights: Weights, term: Tensor) -> Tensor:
    return weights.reshape(-1, *[1] * (term.ndim - 1))


def _has_moments(distribution: Distribution) -> bool:
    try:
        _ = distribution.mean, distribution.variance
    except NotImplementedError:
        return False
    return True


def _distribution_function(distribution: Distribution, targets: Tensor) -> dict[str, Tensor]:
    try:
        cdf = _cdf(distribution, targets)
    except NotImplementedError:
        return {}
    return {"cdf": cdf, "cdf_below": _cdf(distribution, targets - 1) if isinstance(distribution, Poisson) else cdf}


def _cdf(distribution: Distribution, value: Tensor) -> Tensor:
    if isinstance(distribution, Poisson):
        cdf = torch.special.gammaincc(value.double().floor().clamp(min=0) + 1, distribution.rate.double())
        return torch.where(value < 0, 0.0, cdf)
    return distribution.cdf(value).double()


def _check_targets(distribution: Distribution, targets: Tensor) -> None:
    """Refuse targets that would be broadcast, or that the likelihood does not allow."""
    expected = (distribution.batch_shape + distribution.event_shape)[1:]
    if targets.shape != expected:
        raise ValueError(f"the likelihood is over targets of shape {tuple(expected)}, but y has {tuple(targets.shape)}")
    support = distribution.support
    allowed = support.check(targets)  # pyright: ignore[reportOptionalMemberAccess]
    if not bool(allowed.all()):
        value = targets.expand(allowed.shape + targets.shape[allowed.ndim :])[~allowed][0].tolist()
        raise ValueError(f"y holds {value}, which lies outside the likelihood's support {support}")
