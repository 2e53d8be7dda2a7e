"""Labels drawn from the model, for the sampled Fisher information."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from ..likelihoods import without_validation
from ..posterior import Posterior
from ..threefry import Noise, words
from .metric import LABELS


def draw_labels(
    posterior: Posterior, outputs: Float[Tensor, "chain batch ..."], noise: Noise, num_labels: int
) -> Float[Tensor, "chain label batch ..."]:
    """Draw labels for every input from its predicted distribution.

    By inversion, label by label, where the likelihood has `labels(outputs, uniform)` or its distribution `icdf`: labels
    then move little when outputs do, so that `drift="midpoint"` sees the same labels twice. Other distributions are
    drawn from with a generator seeded from the chain's key.
    """
    shape = (num_labels, outputs.shape[1], *posterior.targets.shape[1:])
    uniform = noise.uniform(torch.Size(shape).numel(), LABELS).clamp_max(1 - 2.0**-24).reshape(-1, *shape)
    invert = getattr(posterior.likelihood, "labels", None)
    with without_validation():
        if invert is not None:
            return invert(outputs[:, None].detach(), uniform)
        try:
            return vmap(vmap(lambda o, u: posterior.likelihood(o).icdf(u), in_dims=(None, 0)))(
                outputs.detach(), uniform
            )
        except NotImplementedError:
            return _by_generator(posterior, outputs.detach(), noise, num_labels)


def _by_generator(posterior: Posterior, outputs: Tensor, noise: Noise, num_labels: int) -> Tensor:
    seeds = words(noise.keys, noise.step, 1, LABELS)[:, 0].tolist()
    drawn = []
    with torch.random.fork_rng(devices=[outputs.device] if outputs.device.type == "cuda" else []):
        for seed, own in zip(seeds, outputs, strict=True):
            torch.manual_seed(seed & 0xFFFFFFFF)
            drawn.append(posterior.distribution(own).sample((num_labels,)))
    return torch.stack(drawn)
