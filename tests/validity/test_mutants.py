"""Wrong samplers, each of which the quick comparison of `test_bed` must see: |z| at least twice its threshold.

The faults are a tenth too much or too little noise variance in every sampler that injects noise, and defects found in
published samplers. A mutant is judged by the law of the sampler that it pretends to be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from langevin.samplers import SGHMC, SGNHT, ConstantSGD, sample
from langevin.samplers.sghmc import SGHMCState
from langevin.samplers.sgnht import SGNHTState, _relaxation
from langevin.samplers.threefry import Noise
from torch import Tensor

from tests.validity import laws
from tests.validity.bed import run, threshold, z_of
from tests.validity.table import MOMENTUM, TABLE, build_psgld, lr_of
from tests.validity.test_bed import CELLS, EVEN, FEW, SEED, SMALL, absorbing_z, problem


def worst(target, sampler, build, *, size=SMALL, step=None):
    """Largest |z| over its threshold."""
    result = run(problem(target), TABLE[sampler], size, seed=SEED, build=build, step=step)
    z = result.z
    return float(z.abs().max()) / threshold(len(z), size.chains, CELLS)


@dataclass(frozen=True)
class Scaled:
    """Noise whose normal numbers have another variance."""

    noise: Noise
    variance: float

    def normal(self, dim: int, stream: int = 0) -> Tensor:
        return math.sqrt(self.variance) * self.noise.normal(dim, stream)

    def uniform(self, dim: int = 1, stream: int = 0) -> Tensor:
        return self.noise.uniform(dim, stream)

    def rademacher(self, dim: int, stream: int = 0) -> Tensor:
        return self.noise.rademacher(dim, stream)


def settings(sampler):
    return {field.name: getattr(sampler, field.name) for field in fields(sampler)}


def with_noise(sampler, variance):
    """The sampler with wrongly scaled noise in its steps, adaptation included."""

    class Broken(type(sampler)):
        def step(self, target, state, batch, noise):
            return super().step(target, state, batch, Scaled(noise, variance))

    return Broken(**settings(sampler))


NOISY = [
    *(("gaussian", name, SMALL) for name in
      ("SGLD", "PSGLD", "SGHMC", "SGNHT", "RiemannianLangevin", "NGD, T = 1", "SNGD", "SGFS")),
    ("gaussian", "HMC", replace(FEW, least=250)),
    ("mean", "ASGLD", replace(SMALL, chains=512, least=600)),
    ("mean with a prior, all data", "VON", SMALL),
]  # fmt: skip


@pytest.mark.parametrize("variance", [0.9, 1.1])
@pytest.mark.parametrize(("target", "sampler", "size"), NOISY, ids=[name for _, name, _ in NOISY])
def test_a_tenth_of_the_noise_variance(target, sampler, size, variance):
    row = TABLE[sampler]
    assert worst(target, sampler, lambda p, step: with_noise(row.build(p, step), variance), size=size) > 2


@pytest.mark.parametrize("structure", ["scalar", "diagonal", "full"])
def test_minibatch_heat_without_the_finite_population(structure):
    """Mandt's printed B/N for B/(N−B), an eighth less here."""

    def printed(p, step):
        return ConstantSGD(structure=structure, temperature=1 - p.batch_size / p.target.num_data)

    assert worst("mean", f"ConstantSGD, {structure}", printed) > 2


@pytest.mark.parametrize(("decay", "step"), [(0.99, 0.02), (0.9, 0.1), (0.5, 0.3)])
def test_a_preconditioner_that_adapts_for_ever(decay, step):
    def published(p, step):
        return build_psgld(p, step, adapt="always", decay=decay)

    assert worst("gaussian", "PSGLD", published, step=step) > 2


def test_a_sampler_that_never_moves():
    class Still(SGHMC):
        def step(self, target, state, batch, noise):
            return replace(super().step(target, state, batch, noise), position=state.position.clone())

    result = run(problem("gaussian"), TABLE["SGHMC"], SMALL, build=lambda p, step: Still(lr=lr_of(p, step)))
    assert (result.per_chain[:, :10].mean(0) > 2.9).all()  # where it started, with no spread to take a z from


def test_a_gradient_summed_over_two_devices():
    """Both the force and the temperature's N are then wrong by 2: T/2."""
    assert worst("gaussian", "SGLD", lambda p, step: replace(TABLE["SGLD"].build(p, step), temperature=0.5)) > 2


class Euler(SGHMC):
    """Chen's Eq. 15 as it stands: v ← βv + ĝ + noise of variance 2(1−β)T/(εN), ω ← ω − εv."""

    def step(self, target, state, batch, noise):
        ε, β, T, N = self.lr, self.momentum, self.temperature, target.num_data
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        v = β * state.velocity + ĝ + (2 * (1 - β) * T / (ε * N)) ** 0.5 * noise.normal(target.dim)
        return SGHMCState(
            position=state.position - ε * v, velocity=v, gradient=ĝ, cost=cost,
            kinetic_temperature=ε * N * v.square().mean(-1), step=state.step + 1,
        )  # fmt: skip


@pytest.mark.parametrize("step", [0.3, 1.0])
def test_hamiltonian_dynamics_by_explicit_euler(step):
    def euler(p, step):
        return Euler(lr=lr_of(p, step), momentum=MOMENTUM)

    assert worst("gaussian", "SGHMC", euler, step=step) > 2
    # And the mutant is what it is meant to be: its own law holds.
    p = problem("gaussian")
    result = run(p, TABLE["SGHMC"], SMALL, step=step, seed=SEED, build=euler)
    own = p.expected(laws.sghmc_euler(p.quadratic, lr_of(p, step), 1.0, MOMENTUM))
    assert z_of(result.per_chain - own, 0.0).abs().max() < threshold(len(own), SMALL.chains, CELLS)


class Badodab(SGNHT):
    """SGNHT written again, with the thermostat's reading and the friction that is applied to be replaced."""

    def reading(self, p, target):
        return target.num_data * p.square().sum(-1) / (target.dim * self.temperature)

    def friction(self, ζ, A):
        return ζ

    def step(self, target, state, batch, noise):
        h, A, τ = self._constants(self.lr)
        T, N, D = self.temperature, target.num_data, target.dim
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        p = state.velocity - h * ĝ
        ω = state.position + 0.5 * h * p
        ζ = state.friction + h / (2 * τ**2) * (self.reading(p, target) - 1)
        rub = self.friction(ζ, A)
        p = torch.exp(-rub * h)[:, None] * p + (A * T / N * _relaxation(rub, h)).sqrt()[:, None] * noise.normal(D)
        ζ = ζ + h / (2 * τ**2) * (self.reading(p, target) - 1)
        return SGNHTState(
            position=ω + 0.5 * h * p, velocity=p, friction=ζ, gradient=ĝ, cost=cost,
            kinetic_temperature=N * p.square().mean(-1), step=state.step + 1,
        )  # fmt: skip


class Norm(Badodab):
    """‖p‖ where ‖p‖² belongs: kinetic energy settles at temperature D."""

    def reading(self, p, target):
        return (target.num_data / self.temperature) ** 0.5 * p.norm(dim=-1) / target.dim


class Unapplied(Badodab):
    """The correction is computed, and never applied."""

    def friction(self, ζ, A):
        return torch.zeros_like(ζ) + A


def thermostat(kind):
    return lambda p, step: kind(lr=lr_of(p, step), momentum=MOMENTUM)


def test_the_copy_of_the_thermostat_is_the_sampler():
    """Mutants below differ from the sampler by what they replace, and by nothing else."""
    p = problem(EVEN)
    one, other = (
        sample(p.target, kind(lr=0.01), num_samples=20, num_chains=3, batch_size=5, progress=False, compile=False)
        for kind in (SGNHT, Badodab)
    )
    torch.testing.assert_close(one.draws["mean"], other.draws["mean"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [Norm, Unapplied])
def test_a_broken_thermostat(kind):
    """With minibatches, where a friction that stays A leaves the chain too hot."""
    z = absorbing_z(build=thermostat(kind))
    assert float(z.abs().max()) > 2 * threshold(len(z), SMALL.chains, CELLS)


def test_a_thermostat_at_temperature_d():
    assert worst("gaussian", "SGNHT", thermostat(Norm)) > 2
