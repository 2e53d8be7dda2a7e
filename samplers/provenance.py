"""How chains were made, as JSON values."""

from __future__ import annotations

import dataclasses
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

from .schedules import Schedule
from .target import Target
from .temperature import minibatch_temperature


def describe(
    target: Target, sampler: Any, seed: int, ids: list[int], batch_size: int | None, order: str, thinning: int
) -> dict[str, Any]:
    """What decides a run's draws; a checkpoint that differs in any of it belongs to another run."""
    return {
        "sampler": type(sampler).__name__,
        "settings": _settings_fields(sampler),
        "law": getattr(sampler, "law", None),
        "num_data": target.num_data,
        "dim": target.dim,
        "batch_size": batch_size,
        "batches": order if batch_size is not None else None,
        "temperature": _nominal_temperature(sampler, target.num_data, batch_size),
        "seed": seed,
        "chain_ids": ids,
        "thinning": thinning,
        "autocast": str(cast).removeprefix("torch.") if (cast := getattr(target, "autocast", None)) else None,
    }


def _nominal_temperature(sampler: Any, num_data: int, batch_size: int | None) -> float | None:
    """T; where minibatch noise decides it, T_mb; None where that changes from step to step."""
    temperature = getattr(sampler, "temperature", 1.0)
    if temperature is not None:
        return float(temperature)
    return None if isinstance(sampler.lr, Schedule) else minibatch_temperature(sampler.lr, num_data, batch_size)


def _settings(settings: Any) -> Any:
    if dataclasses.is_dataclass(settings):
        return {"type": type(settings).__name__} | _settings_fields(settings)
    if isinstance(settings, Tensor):
        return f"tensor {tuple(settings.shape)} of norm {float(settings.double().norm()):.12g}"
    if callable(settings):
        return f"function {getattr(settings, '__qualname__', type(settings).__name__)}"
    return settings if isinstance(settings, (int, float, str, bool, type(None))) else repr(settings)


def _settings_fields(settings: Any) -> dict[str, Any]:
    return {field.name: _settings(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def versions() -> dict[str, str]:
    """Versions of the packages that took part."""
    found = {}
    for package in ("langevin", "torch", "numpy", "arviz"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
