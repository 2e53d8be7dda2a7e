"""The update rule of Langevin dynamics on a manifold, which `RiemannianLangevin`, `NGD` and `SNGD` share.

    ω ← ω + ε M f + ε (T/N) div M,    f = −(ĝ + α) + (T/2N) ∇log|G|,    M = G⁻¹

with α the gradient noise that is injected; ∇log|G| is there for the Jeffreys measure only (Smith et al. 2018, Eq. 5–7
with their signs corrected). `drift="midpoint"` (Fixman 1978) replaces M f + (T/N) div M by M(ω*) f, ω* = ω + ½ε M(ω) f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .metrics.drift import drift_force, log_det_gradient
from .metrics.metric import DAMPING, INJECTED, PROBE, Metric, MetricValue
from .schedules import at_step, check_lr, check_temperature
from .target import Batch, Target
from .temperature import batch_size_for, minibatch_temperature
from .threefry import Noise

Drift = Literal["exact", "probe", "midpoint", "none"]
Measure = Literal["lebesgue", "jeffreys"]


@dataclass
class NaturalState:
    """State of every chain.

    Attributes
    ----------
    position
        ω.
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    log_measure_gradient
        ½∇log|G| there, for the Jeffreys measure; of width 0 for Lebesgue's.
    step, num_warmup
        Number of steps made, and of steps of warm-up.
    memory
        What the metric carries along; () unless it averages or refreshes.
    """

    position: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    log_measure_gradient: Float[Tensor, "chain tilt"]
    step: Int[Tensor, ""]
    num_warmup: Int[Tensor, ""]
    memory: Any


# `check`, `init` and `preconditioner` become methods of the samplers that take them over as they are.


def init(sampler: Any, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> NaturalState:
    """Start every chain at its position."""
    chains, dim = position.shape
    return NaturalState(
        position=position.clone(),
        gradient=torch.zeros_like(position),
        cost=position.new_zeros(chains),
        log_measure_gradient=position.new_zeros(chains, dim if sampler.measure == "jeffreys" else 0),
        step=torch.zeros((), dtype=torch.int64, device=position.device),
        num_warmup=torch.full((), num_warmup, dtype=torch.int64, device=position.device),
        memory=sampler.metric.remember(target, position),
    )


def check(sampler: Any, target: Target, batch_size: int | None, num_warmup: int | None) -> None:
    """Raise for a metric that cannot do what the sampler asks of it, or a temperature that the batch cannot reach."""
    T, N = sampler.temperature, target.num_data
    if T is None and sampler.drift != "none" and batch_size in (None, N):
        raise ValueError(
            f"{type(sampler).__name__} takes its temperature from minibatch noise: give batch_size, or a temperature"
        )
    sampler.metric.check(target, sampler.drift, sampler.measure, num_warmup)
    if T is None or batch_size is None or not sampler.counts_minibatch:
        return
    ε = float(at_step(sampler.lr, torch.tensor(0))[0])
    T_mb = minibatch_temperature(ε, N, batch_size)
    if T_mb > T * (1 + 1e-9):
        remedy = "the full data, batch_size=None"
        if T > 0:
            largest = 2 * T * batch_size / (N - batch_size)
            remedy = f"batch_size of at least {batch_size_for(T, ε, N)}, or an lr of at most {largest:.3g}"
        raise ValueError(
            f"minibatches of {batch_size} at lr = {ε:.3g} make a temperature of {T_mb:.3g} by themselves, more than "
            f"the {T:.3g} asked for: use {remedy}"
        )


def preconditioner(
    sampler: Any, target: Target, state: NaturalState, batch: Batch, noise: Noise
) -> tuple[MetricValue, Any]:
    """G for this step, and what to remember of it."""
    return sampler.metric.recall(target, state.position, noise, state.memory, state.step < state.num_warmup)


def missing_noise(
    target: Target, metric: Metric, value: MetricValue, noise: Noise, *, lr: Any, temperature: Any, from_batch: Any
) -> Float[Tensor, "chain dim"] | float:
    """Gradient noise α that makes up for what the minibatch does not supply of the heat T.

    Of covariance (2/(εN)) [TG − T_mb F] = (2/(εN)) [(T − T_mb) G + T_mb δ I], if the covariance of gradients is F = G −
    δI.

    Parameters
    ----------
    temperature, from_batch
        T and T_mb ≤ T; a T of None stands for T_mb. Where a schedule explores (T = 0) the noise of damping stays.
    """
    scale = (2 / (lr * target.num_data)) ** 0.5
    α = 0.0
    if temperature is not None:
        α = α + scale * _root(temperature - from_batch) * value.factor(noise.normal(value.noise_dim, INJECTED))
    if not _is_zero(metric.damping) and not _is_zero(from_batch):
        α = α + scale * _root(from_batch * metric.damping) * noise.normal(target.dim, DAMPING)
    return α


def advance(
    sampler: Any,
    target: Target,
    state: NaturalState,
    noise: Noise,
    *,
    ε: Any,
    T: Any,
    G: MetricValue,
    memory: Any,
    cost: Float[Tensor, " chain"],
    ĝ: Float[Tensor, "chain dim"],
    α: Float[Tensor, "chain dim"] | float,
) -> NaturalState:
    """Make one step of the rule above with the sampler's metric, drift and measure."""
    metric, drift, ω, N = sampler.metric, sampler.drift, state.position, target.num_data
    tilt = state.log_measure_gradient
    probe = noise.rademacher(target.dim, PROBE) if drift == "probe" else None

    f = -(ĝ + α)
    if sampler.measure == "jeffreys":
        tilt = 0.5 * log_det_gradient(metric, G, target, ω, noise, probe)
        f = f + (T / N) * tilt
    if drift in ("probe", "exact"):
        f = f + (T / N) * drift_force(metric, G, target, ω, noise, probe)
    if drift == "midpoint" and not metric.constant:
        G = metric.at(target, ω + 0.5 * ε * G.solve(f), noise)
    return NaturalState(
        position=ω + ε * G.solve(f),
        gradient=ĝ,
        cost=cost,
        log_measure_gradient=tilt.clone(),  # a compiled loop may not return what it was given
        step=state.step + 1,
        num_warmup=state.num_warmup.clone(),
        memory=memory,
    )


def check_settings(sampler: Any) -> None:
    """Raise a ValueError for settings that no target could make sense of."""
    check_lr(sampler.lr)
    if sampler.temperature is not None:
        check_temperature(sampler.temperature)
    for name, allowed in (("drift", Drift), ("measure", Measure)):
        if getattr(sampler, name) not in get_args(allowed):
            raise ValueError(f"{name} must be one of {get_args(allowed)}, got {getattr(sampler, name)!r}")
    if sampler.measure == "jeffreys" and sampler.drift == "none":
        raise ValueError('measure="jeffreys" with drift="none" is no density\'s sampler: use another drift')


def _root(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).clamp_min(0).sqrt()  # rounding may leave −1e-17


def _is_zero(value: Any) -> bool:
    return isinstance(value, float | int) and value == 0
