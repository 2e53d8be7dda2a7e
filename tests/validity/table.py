"""The samplers of the test bed, one row each: how to build it for a problem, and the law it has on quadratic costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from langevin.samplers import (
    ASGLD,
    HMC,
    NGD,
    PSGLD,
    SGFS,
    SGHMC,
    SGLD,
    SGNHT,
    SNGD,
    VON,
    AdaBayes,
    AdaBayesFP,
    Chains,
    ConstantMetric,
    ConstantSGD,
    Fisher,
    MetricFunction,
    Posterior,
    RiemannianLangevin,
    Vadam,
)
from langevin.samplers.temperature import minibatch_temperature
from torch import Tensor

from tests.validity import laws
from tests.validity.targets import DOUBLE, Problem

MOMENTUM = 0.9
Batch = int | None


@dataclass(frozen=True)
class Row:
    """One sampler.

    Attributes
    ----------
    build
        The sampler for a problem and a step, which is ε times the largest curvature that it meets.
    law
        Covariance on a quadratic problem, `[*chain, block, d, d]`; the chains are looked at only for what they froze.
    step
        A step at which discretisation and minibatches show.
    rate
        Share of the slowest direction's deviation that one step forgets.
    posterior
        Whether the law tends to exp(−C) as ε → 0.
    needs
        "full": takes no minibatches; "minibatch": takes its heat from them; "prior": wants normal priors and a diagonal
        Hessian for its law.
    settle
        Memories to leave out at the start of sampling, besides the warm-up: what a chain freezes half-way through that
        was learnt while it was still adapting, and it starts from the law of that.
    remark
        What its law is where it is not the posterior.
    extra
        More statistics of each chain, and their expectations.
    """

    name: str
    build: Callable[[Problem, float], Any]
    law: Callable[[Problem, Any, Batch, Chains], Tensor] | None
    step: float = 0.3
    rate: Callable[[Problem, float], float] = lambda problem, step: step * problem.softest / problem.largest
    posterior: bool = True
    needs: str = ""
    settle: float = 0.0
    remark: str = ""
    extra: Callable[[Problem, Any, Batch, Chains], tuple[Tensor, Tensor]] | None = None

    def gradients(self, chains: Chains) -> float:
        """Gradients of the cost per step."""
        lengths = chains.sample_stats.get("num_leapfrog")
        if lengths is not None:
            return float(lengths.double().mean())
        return 2.0 if self.name == "VON" else 1.0  # VON's Hessian-vector product costs about one more


def _quadratic(problem: Problem) -> laws.Quadratic:
    assert problem.quadratic is not None
    return problem.quadratic


def lr_of(problem: Problem, step: float) -> float:
    return step / problem.largest


def sgld_law(problem: Problem, sampler: Any, batch: Batch, chains: Chains) -> Tensor:
    q = _quadratic(problem)
    noise = q.batch_noise(batch) + laws.injected(q, sampler.lr, sampler.temperature, q.eye)
    return laws.preconditioned(q, sampler.lr, q.eye, noise)


def _typical_metric(problem: Problem) -> tuple[Tensor, float]:
    """√E ĝ² of the coordinates (E (∂C)² = E ∂²C by Stein's identity), and a damping of a tenth of its mean."""
    diagonal = problem.hessian if problem.hessian.ndim == 1 else problem.hessian.diagonal()
    square = diagonal / problem.target.num_data
    if problem.quadratic is not None:
        square = square + torch.diagonal(problem.quadratic.batch_noise(problem.batch_size), dim1=-2, dim2=-1).flatten()
    root = square.sqrt()
    return root, 0.1 * float(root.mean())


def _psgld_spectrum(problem: Problem) -> Tensor:
    root, damping = _typical_metric(problem)
    inverse = 1 / (root + damping)
    if problem.hessian.ndim == 1:
        return (inverse * problem.hessian).sort().values
    half = inverse.sqrt()
    spectrum = torch.linalg.eigvalsh(half[:, None] * problem.hessian * half)
    typical = float(torch.linalg.eigvalsh(problem.hessian)[-1])
    return spectrum * max(1.0, problem.largest / typical)


def build_psgld(problem: Problem, step: float, **settings: Any) -> PSGLD:
    return PSGLD(lr=step / float(_psgld_spectrum(problem)[-1]), damping=_typical_metric(problem)[1], **settings)


def _psgld_rate(problem: Problem, step: float) -> float:
    spectrum = _psgld_spectrum(problem)
    return step * float(spectrum[0] / spectrum[-1])


def psgld_law(problem: Problem, sampler: PSGLD, batch: Batch, chains: Chains) -> Tensor:
    q = _quadratic(problem)
    M = q.blocks(1 / (sampler.damping + chains.state["square"].sqrt()))
    heat = laws.injected(q, sampler.lr, sampler.temperature, torch.linalg.inv(M))
    return laws.preconditioned(q, sampler.lr, M, q.batch_noise(batch) + heat)


def sghmc_law(problem: Problem, sampler: SGHMC, batch: Batch, chains: Chains) -> Tensor:
    return laws.sghmc(
        _quadratic(problem), sampler.lr, sampler.temperature, sampler.momentum, batch, sampler.gradient_noise
    )


def target_law(problem: Problem, sampler: Any, batch: Batch, chains: Chains) -> Tensor:
    return _quadratic(problem).target(sampler.temperature)


def friction_statistics(problem: Problem, sampler: SGNHT, batch: Batch, chains: Chains) -> tuple[Tensor, Tensor]:
    """ζ/A, whose mean is 1 + Nhs²/(2TA) with s² the mean of the gradient noise over directions."""
    h, A, _ = (float(value) for value in sampler._constants(sampler.lr))
    q = _quadratic(problem)
    s2 = float(torch.diagonal(q.batch_noise(batch), dim1=-2, dim2=-1).mean())
    ζ = chains.sample_stats["friction"].to(DOUBLE) / A
    return ζ.mean(1)[:, None], ζ.new_tensor([1 + q.num_data * h * s2 / (2 * sampler.temperature * A)])


def momentum_rate(problem: Problem, step: float) -> float:
    return min(step * problem.softest / problem.largest / (1 - MOMENTUM), (1 - MOMENTUM) / 2)


def fitted_metric(problem: Problem) -> Any:
    """The target's own metric, the Fisher information of a model, or the Hessian of a Gaussian."""
    if problem.metric is not None:
        return MetricFunction(problem.metric)
    return Fisher(damping=0.0) if isinstance(problem.target, Posterior) else ConstantMetric(problem.hessian)


def _prior_precision(problem: Problem) -> float:
    if not isinstance(problem.target, Posterior):
        return 0.0
    prior = problem.target.prior_of(problem.target.layout.names[0])
    return 0.0 if prior is None else float(prior.scale**-2)  # pyright: ignore[reportAttributeAccessIssue]


def _inverse(problem: Problem, sampler: Any) -> Tensor:
    """(F + δI)⁻¹; the Fisher information of a Gaussian likelihood is the Hessian without the prior's share."""
    q = _quadratic(problem)
    shift = sampler.metric.damping - _prior_precision(problem) / q.num_data
    return torch.linalg.inv(q.hessian + shift * q.eye)


def natural_law(problem: Problem, sampler: Any, batch: Batch, chains: Chains) -> Tensor:
    """Constant G = F + δI, injected noise of the whole T."""
    q, M = _quadratic(problem), _inverse(problem, sampler)
    heat = laws.injected(q, sampler.lr, sampler.temperature, torch.linalg.inv(M))
    return laws.preconditioned(q, sampler.lr, M, q.batch_noise(batch) + heat)


def missing_law(problem: Problem, sampler: Any, batch: Batch, chains: Chains) -> Tensor:
    """Constant G, injected (2/(εN)) [(T − T_mb) G + T_mb δI]; nothing for a T of None and δ = 0."""
    q, M = _quadratic(problem), _inverse(problem, sampler)
    T_mb = minibatch_temperature(sampler.lr, q.num_data, batch)
    T = T_mb if sampler.temperature is None else sampler.temperature
    added = laws.injected(q, sampler.lr, T - T_mb, torch.linalg.inv(M))
    if sampler.temperature is not None:
        added = added + laws.injected(q, sampler.lr, T_mb * sampler.metric.damping, q.eye)
    return laws.preconditioned(q, sampler.lr, M, q.batch_noise(batch) + added)


def example_noise(problem: Problem) -> Tensor:
    """Σ, from the minibatch covariance (1/B)(1 − B/N)Σ."""
    N = problem.target.num_data
    return _quadratic(problem).batch_noise(1)[0] / (1 - 1 / N)


def build_sgfs(problem: Problem, step: float) -> SGFS:
    """Half of G's trace is injected noise where the data are complete, and a tenth where minibatches heat too."""
    H = problem.hessian
    if problem.batch_size is None:
        return SGFS(lr=1.0, metric=ConstantMetric(H), hessian=ConstantMetric(H), noise=problem.largest / step)
    lr = 2 * problem.batch_size / (problem.target.num_data - problem.batch_size)  # T_mb = 1
    if problem.quadratic is None:
        Σ = Fisher(kind="empirical", centered=True, average=0.99)
    else:
        Σ = ConstantMetric(example_noise(problem))
    return SGFS(lr=lr, metric=Σ, hessian=ConstantMetric(H), noise=0.1 * problem.largest)


def _sgfs_rate(problem: Problem, step: float) -> float:
    if problem.batch_size is None:
        return step * problem.softest / problem.largest
    return 0.5 * build_sgfs(problem, step).lr


def frozen_covariance(chains: Chains) -> Tensor:
    """Σ as each chain of ConstantSGD froze it, `[chain, 1, d, d]`; diagonal where that is all it looked at."""
    if "memory.average.matrix" in chains.state:
        return chains.state["memory.average.matrix"][:, None]
    return torch.diag_embed(chains.state["memory.average.diagonal"])[:, None]


def constant_sgd_law(problem: Problem, sampler: ConstantSGD, batch: Batch, chains: Chains) -> Tensor:
    """K = 2TB/(N−B) Σ⁻¹ with each chain's frozen Σ."""
    q, Σ = _quadratic(problem), frozen_covariance(chains)
    assert batch is not None
    if sampler.structure == "scalar":
        Σ = torch.diagonal(Σ, dim1=-1, dim2=-2).mean(-1)[..., None, None] * q.eye
    K = 2 * sampler.temperature * batch / (q.num_data - batch) * torch.linalg.inv(Σ)
    return laws.momentum_sgd(q, K, sampler.momentum, batch)


def _constant_sgd_step(problem: Problem, step: float) -> float:
    lr = 2 * (problem.batch_size or 1) / (problem.target.num_data - (problem.batch_size or 1))
    return 0.3 * lr


def asgld_law(problem: Problem, sampler: ASGLD, batch: Batch, chains: Chains) -> Tensor:
    assert batch is not None
    return laws.asgld(_quadratic(problem), sampler.lr, sampler.scale, sampler.decay, batch)


def von_law(problem: Problem, sampler: VON, batch: Batch, chains: Chains) -> Tensor:
    return laws.von(_quadratic(problem), sampler.lr, _prior_precision(problem), batch)


def _curvature_of_data(problem: Problem) -> float:
    """The curvature of C/N without the prior's share."""
    return problem.largest - _prior_precision(problem) / problem.target.num_data


def _ngd_damping(problem: Problem) -> Fisher:
    return Fisher(damping=0.25 * problem.largest)


def _t_mb_lr(problem: Problem, temperature: float) -> float:
    """The ε at which minibatches supply a temperature."""
    B, N = problem.batch_size, problem.target.num_data
    return 0.3 if B is None else 2 * temperature * B / (N - B)


TABLE = {
    row.name: row
    for row in (
        Row("HMC", lambda p, step: HMC(), target_law, needs="full", rate=lambda p, step: 0.3),
        Row("SGLD", lambda p, step: SGLD(lr=lr_of(p, step)), sgld_law),
        Row("PSGLD", build_psgld, psgld_law, rate=_psgld_rate, settle=8.0),
        Row(
            "SGHMC", lambda p, step: SGHMC(lr=lr_of(p, step), momentum=MOMENTUM), sghmc_law, rate=momentum_rate,
        ),
        Row(
            "SGNHT", lambda p, step: SGNHT(lr=lr_of(p, step), momentum=MOMENTUM), target_law, step=0.05,
            rate=momentum_rate, extra=friction_statistics,
        ),
        Row(
            "RiemannianLangevin",
            lambda p, step: RiemannianLangevin(lr=step, metric=fitted_metric(p)), natural_law,
            rate=lambda p, step: step,
        ),
        Row(
            "NGD, T = 1", lambda p, step: NGD(lr=min(step, _t_mb_lr(p, 0.5)), metric=fitted_metric(p), temperature=1.0),
            missing_law, rate=lambda p, step: min(step, _t_mb_lr(p, 0.5)),
            remark="posterior where gradients have the Fisher covariance and it is constant",
        ),
        Row(
            "NGD", lambda p, step: NGD(lr=_t_mb_lr(p, 1.0), metric=_ngd_damping(p)), missing_law, needs="minibatch",
            rate=lambda p, step: 0.5 * _t_mb_lr(p, 1.0), posterior=False,
            remark="T_mb = 1, cooled by damping along flat directions",
        ),
        Row(
            "SNGD",
            lambda p, step: SNGD(
                lr=min(step, _t_mb_lr(p, 0.5)), metric=fitted_metric(p), temperature=1.0, measure="lebesgue"
            ),
            missing_law, rate=lambda p, step: min(step, _t_mb_lr(p, 0.5)),
            remark="posterior where gradients have the Fisher covariance",
        ),
        Row("SGFS", build_sgfs, target_law, rate=_sgfs_rate, remark="exact on quadratic costs at every ε and B"),
        *(
            Row(
                f"ConstantSGD, {structure}", lambda p, step, s=structure: ConstantSGD(structure=s), constant_sgd_law,
                needs="minibatch", rate=_constant_sgd_step, posterior=False,
                remark="minibatch noise only; T_mb = 1 " + where,
            )
            for structure, where in (
                ("scalar", "on average over directions"),
                ("diagonal", "for every parameter, correlations are not the posterior's"),
                ("full", "in the limit N/B → ∞"),
            )
        ),
        Row(
            "ASGLD", lambda p, step: ASGLD(lr=lr_of(p, step / 4), scale=3.0), asgld_law, needs="minibatch",
            posterior=False, remark="a noisy optimiser",
        ),
        Row(
            "VON", lambda p, step: VON(lr=step, decay=0.999, precision=_curvature_of_data(p)), von_law, needs="prior",
            rate=lambda p, step: step, posterior=False, remark="mean-field Gaussian",
        ),
        Row(
            "Vadam", lambda p, step: Vadam(lr=0.01, precision=_curvature_of_data(p)), None, needs="prior",
            rate=lambda p, step: 0.003, posterior=False, remark="mean-field Gaussian, spread right at B = 1 only",
        ),
        Row(
            "AdaBayes", lambda p, step: AdaBayes(lr=lr_of(p, step), adam_lr=1e-3), None, posterior=False,
            rate=lambda p, step: 0.01, remark="an optimiser",
        ),
        Row(
            "AdaBayesFP", lambda p, step: AdaBayesFP(lr=lr_of(p, step), adam_lr=1e-3), None, posterior=False,
            rate=lambda p, step: 0.01, remark="an optimiser",
        ),
    )
}  # fmt: skip
