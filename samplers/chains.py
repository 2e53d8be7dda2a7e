"""What sampling returns: named draws, statistics of how they came about, and how they were made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from xarray import Dataset

from . import inference_data
from .posterior import Posterior
from .target import Target

Draws = dict[str, Tensor]


@dataclass
class Chains:
    """Parameter chains.

    Attributes
    ----------
    draws
        `{name: [chain, draw, *shape]}` on the CPU. What a stopped chain would have drawn later is NaN.
    sample_stats
        `{name: [chain, draw]}`: ``cost`` (C or its minibatch estimate), ``gradient_norm`` (of the mean cost),
        ``temperature`` (this draw's reading (ω−c)·∇C/D, mean over the steps since the draw before), where there are
        several layers ``temperature[<layer>]`` (the same of one layer's parameters, see `Layout.layers`), ``lr``,
        ``weight`` (of the draw in averages: the schedule's lr, 0 where it explores), ``diverged`` (chain stopped at or
        before this draw). Samplers of the Jeffreys measure add ``temperature_weight``, also by layer, over whose mean
        that of ``temperature`` is T; those with momentum ``kinetic_temperature`` (of the draw's last step); HMC more.
    attrs
        How the chains were made, as JSON values: sampler and settings, seed, N, B, T, versions, times, stopped chains.
    state
        The sampler's tensors after the last step, from which `sample(..., init=chains)` goes on.
    warmup_draws, warmup_stats
        The same for the warm-up; draws only if they were asked for.
    """

    draws: Draws
    sample_stats: dict[str, Tensor] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    warmup_draws: Draws = field(default_factory=dict)
    warmup_stats: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_chains(self) -> int:
        """Number of chains, stopped ones included."""
        return next(iter(self.draws.values())).shape[0]

    @property
    def num_draws(self) -> int:
        """Number of draws of a chain that was not stopped."""
        return next(iter(self.draws.values())).shape[1]

    @property
    def valid(self) -> Bool[Tensor, "chain draw"]:
        """Which draws exist: false from where a chain was stopped on."""
        diverged = self.sample_stats.get("diverged")
        return torch.ones(self.num_chains, self.num_draws, dtype=torch.bool) if diverged is None else ~diverged.bool()

    @property
    def weights(self) -> Float[Tensor, "chain draw"] | None:
        """Weights of the draws in averages; None when all count the same."""
        weight = self.sample_stats.get("weight")
        return None if weight is None or bool((weight == weight[:1, :1]).all()) else weight

    def finished(self) -> Self:
        """Only the chains that were never stopped.

        Raises
        ------
        ValueError
            If none is left.
        """
        chain_ids = self.attrs.get("chain_ids", range(self.num_chains))
        stopped = self.attrs.get("stopped") or {}  # a chain can stop before its first draw
        whole = self.valid.all(-1) & torch.tensor([str(c) not in stopped for c in chain_ids])
        if whole.all():
            return self
        if not whole.any():
            raise ValueError(f"every chain was stopped: {self.attrs.get('stopped')}; lower lr and sample again")

        def keep(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[whole] for name, value in values.items()}

        return type(self)(
            draws=keep(self.draws),
            sample_stats=keep(self.sample_stats),
            attrs=self.attrs | {"chain_ids": [c for c, w in zip(chain_ids, whole.tolist(), strict=True) if w]},
            warmup_draws=keep(self.warmup_draws),
            warmup_stats=keep(self.warmup_stats),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Chains]) -> Self:
        """Join runs that continue one another, along the draws."""
        if not parts:
            raise ValueError("nothing to concatenate")
        first, last = parts[0], parts[-1]
        for part in parts[1:]:
            if part.attrs.get("chain_ids") != first.attrs.get("chain_ids") or set(part.draws) != set(first.draws):
                raise ValueError("only runs with the same chains and parameters can be joined")

        def join(name: str) -> dict[str, Tensor]:
            values = [getattr(part, name) for part in parts if getattr(part, name)]
            return {key: torch.cat([value[key] for value in values], 1) for key in values[0]} if values else {}

        drawn = sum(part.num_draws for part in parts[:-1])
        counts = {
            "num_samples": drawn + last.attrs.get("num_samples", last.num_draws),
            "seconds": sum(part.attrs.get("seconds", 0.0) for part in parts),
        }
        stopped = {chain: step for part in reversed(parts) for chain, step in part.attrs.get("stopped", {}).items()}
        begun = {key: first.attrs[key] for key in ("num_warmup", "started") if key in first.attrs}
        return cls(
            draws=join("draws"),
            sample_stats=join("sample_stats"),
            attrs=last.attrs | counts | begun | {"stopped": stopped},
            state=last.state,
            warmup_draws=join("warmup_draws"),
            warmup_stats=join("warmup_stats"),
        )

    def position(self, target: Target) -> Float[Tensor, "chain draw dim"]:
        """Draws as flat positions of `target`, whose sampled parameters must all have been kept."""
        return target.ravel(self.draws).to(target.dtype)

    def groups(self, posterior: Posterior | None = None, *, chunk: int = 64) -> inference_data.Groups:
        """Label everything by the groups that ArviZ knows; `posterior` adds pointwise log-likelihood and observed data.

        Parameters
        ----------
        posterior
            The target that was sampled.
        chunk
            How many draws are evaluated at once.
        """
        chain_ids = self.attrs.get("chain_ids")

        def label(values: dict[str, Tensor]) -> Dataset:
            return inference_data.draws_dataset(_numpy(values), chain_ids)

        groups = {"posterior": label(self.draws), "sample_stats": label(self.sample_stats)}
        if self.warmup_draws:
            groups["warmup_posterior"] = label(self.warmup_draws)
        if self.warmup_stats:
            groups["warmup_sample_stats"] = label(self.warmup_stats)
        if posterior is not None:
            flat = self.position(posterior).flatten(0, 1).to(posterior.device)
            with torch.no_grad():
                pointwise = torch.cat([posterior.log_likelihood(part).cpu() for part in flat.split(chunk)])
            pointwise = pointwise.unflatten(0, (self.num_chains, self.num_draws))
            groups["log_likelihood"] = label({"y": pointwise})
            groups["observed_data"] = inference_data.plain_dataset(_numpy({"y": posterior.targets}))
        return groups

    def to_arviz(self, posterior: Posterior | None = None) -> Any:
        """`InferenceData` on ArviZ 0.23, `DataTree` on ArviZ 1.x; see `groups`."""
        return inference_data.to_arviz(self.groups(posterior), self.attrs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one netCDF file, readable by `Chains.load` and by `arviz.from_netcdf`; no pickle."""
        groups = self.groups()
        if self.state:
            groups[inference_data.STATE] = inference_data.plain_dataset(_numpy(self.state))
        inference_data.write(path, groups, self.attrs)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        groups, attrs = inference_data.read(path)

        def tensors(name: str) -> dict[str, Tensor]:
            arrays = inference_data.to_arrays(groups[name]) if name in groups else {}
            return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}

        return cls(
            draws=tensors("posterior"),
            sample_stats=tensors("sample_stats"),
            attrs=attrs,
            state=tensors(inference_data.STATE),
            warmup_draws=tensors("warmup_posterior"),
            warmup_stats=tensors("warmup_sample_stats"),
        )

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape[2:])}" for name, value in list(self.draws.items())[:4])
        more = f", and {len(self.draws) - 4} more" if len(self.draws) > 4 else ""
        stopped = self.attrs.get("stopped") or {}
        note = f"; stopped chains at steps {stopped}" if stopped else ""
        return f"Chains({self.num_chains} chains × {self.num_draws} draws of {shapes}{more}{note})"


def _numpy(values: dict[str, Tensor]) -> dict[str, np.ndarray]:
    # numpy and netCDF have no short floating-point types; float32 holds their values exactly.
    short = (torch.float16, torch.bfloat16)
    wide = {name: value.float() if value.dtype in short else value for name, value in values.items()}
    return {name: value.detach().cpu().numpy() for name, value in wide.items()}
