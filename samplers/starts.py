"""Where chains start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .modes import find_mode
from .target import Target, cost_and_gradient
from .threefry import INIT, Noise, chain_keys, words

Init = Any
"""None, "prior", "mode", "overdispersed", a tensor, a mapping of named tensors, or earlier Chains."""

OVERDISPERSION = 2.0
CURVATURE_PROBES = 32


def starting_positions(
    target: Target, init: Init, seed: int, chain_ids: list[int], temperature: float
) -> Float[Tensor, "chain dim"]:
    """One finite starting position per chain; see `sample`."""
    keys = chain_keys(seed, torch.tensor(chain_ids, device=target.device), INIT)
    if init is None:
        position = target.default_position()
    elif isinstance(init, str):
        position = _named_start(target, init, keys, temperature)
    elif isinstance(init, Mapping):
        position = target.ravel({name: torch.as_tensor(value) for name, value in init.items()})
    elif isinstance(init, Tensor):
        position = init
    else:
        raise ValueError(
            f'init must be None, "prior", "mode", "overdispersed", tensors or Chains, got {type(init).__name__}'
        )
    position = position.detach().to(device=target.device, dtype=target.dtype)
    shape = (len(chain_ids), target.dim)
    if tuple(position.shape) not in (shape, shape[1:]):
        raise ValueError(
            f"init must have shape {shape[1:]} or {shape} for {shape[0]} chains, got {tuple(position.shape)}"
        )
    position = position.expand(shape).contiguous()
    bad = ~torch.isfinite(position).all(-1)
    if bad.any():
        raise ValueError(f"the starting position of chain {chain_ids[int(bad.nonzero()[0])]} is not finite")
    return position


def _named_start(target: Target, init: str, keys: Tensor, temperature: float) -> Tensor:
    if init == "prior":
        # torch.distributions draws from a seeded generator: a seed per chain makes a chain independent of the others.
        word = words(keys, torch.tensor(0, device=keys.device), 1)[:, 0]
        return target.prior_draw([w & 0xFFFFFFFF for w in word.tolist()])
    if init not in ("mode", "overdispersed"):
        raise ValueError(f'init must be "prior", "mode" or "overdispersed", got {init!r}')
    mode = find_mode(target)
    if init == "mode":
        return mode
    spread = OVERDISPERSION * max(temperature, 0.0) ** 0.5 / _diagonal_curvature(target, mode).sqrt()
    noise = Noise(keys, torch.tensor(0, device=keys.device), target.dtype).normal(target.dim)
    return mode + spread * noise


def _diagonal_curvature(target: Target, mode: Float[Tensor, " dim"]) -> Float[Tensor, " dim"]:
    """Diagonal of ∇²C by Hutchinson's estimator, kept above a tenth of its mean; only starts depend on it."""

    def gradient(position: Tensor) -> Tensor:
        return cost_and_gradient(target, position[None], None)[1][0]

    key = chain_keys(0, torch.tensor([0], device=mode.device), INIT)
    total = torch.zeros_like(mode)
    for turn in range(CURVATURE_PROBES):
        probe = Noise(key, torch.tensor(turn, device=mode.device), mode.dtype).rademacher(target.dim)[0]
        total += probe * torch.func.jvp(gradient, (mode,), (probe,))[1]
    curvature = total * (target.num_data / CURVATURE_PROBES)
    return curvature.clamp_min(0.1 * curvature.abs().mean())
