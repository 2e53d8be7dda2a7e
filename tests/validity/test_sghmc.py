"""SGHMC and SGNHT against the laws of their own discretisation, with minibatch noise on."""

import math
from dataclasses import dataclass

import pytest
import scipy.optimize
import torch
from langevin.samplers import SGHMC, SGNHT, LogDensity, Posterior, sample
from langevin.samplers.batches import Batches
from langevin.samplers.threefry import BATCHES, Noise, chain_keys
from torch import Tensor, nn

from tests.validity.replicates import (
    CURVATURE,
    NUM_DATA,
    batch_noise,
    errors,
    mean_model,
    second_moments,
    z_scores,
)

N, BATCH, DIM = NUM_DATA, 5, 2


def independent(spread: float = 1.0) -> tuple[Posterior, Tensor]:
    return mean_model(spread * torch.eye(DIM))


def sghmc_law(y: Tensor, lr: float, momentum: float, temperature: float, batch_size: int | None) -> Tensor:
    """T/(Nλ) I + ε(1+β) S / (λ(1−β)(2(1+β) − ελ))."""
    law = temperature / (N * CURVATURE) * torch.eye(DIM, dtype=torch.float64)
    if batch_size is not None:
        stiffness = CURVATURE * (1 - momentum) * (2 * (1 + momentum) - lr * CURVATURE)
        law = law + lr * (1 + momentum) / stiffness * batch_noise(y, BATCH)
    return law[tuple(torch.triu_indices(DIM, DIM))]


@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.parametrize(("step", "momentum", "temperature"), [(1.6, 0.0, 1.0), (0.1, 0.9, 0.1), (3.6, 0.9, 1.0)])
def test_sghmc_up_to_the_stability_limit(step, momentum, batch_size, temperature):
    """ελ < 2(1 + β)."""
    posterior, y = independent()
    lr = step / CURVATURE
    sampler = SGHMC(lr=lr, momentum=momentum, temperature=temperature)
    chains, error = errors(posterior, y, sampler, batch_size)
    assert z_scores(error.mean(1), 0.0).abs().max() < 4
    z = z_scores(second_moments(error), sghmc_law(y, lr, momentum, temperature, batch_size))
    assert z.abs().max() < 4, z
    if batch_size is None:
        assert abs(z_scores(chains.sample_stats["kinetic_temperature"].mean(1), temperature)) < 4
        assert abs(z_scores(chains.sample_stats["temperature"].mean(1), temperature)) < 4


def test_sghmc_without_a_warm_up_starts_in_its_law():
    """Velocities are drawn: started from the posterior at step 0, the spread stays. At rest it would fall to 0.1."""
    posterior, y = independent()
    start = (N * CURVATURE) ** -0.5 * torch.randn(
        4096, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    for sampler in (SGHMC(lr=0.0005), SGNHT(lr=0.0005)):
        chains = sample(
            posterior,
            sampler,
            num_samples=3,
            thinning=12,
            num_chains=4096,
            init={"mean": y.mean(0) + start},
            progress=False,
            compile=False,
        )
        error = chains.draws["mean"] - y.mean(0)
        for row in range(3):
            assert z_scores(error[:, row].square(), 1 / (N * CURVATURE)).abs().max() < 4


def test_chens_explicit_euler_would_be_seen():
    """His Eq. 15, with noise at full strength, has variance T/(Nλ(1 − ελ/(2(1+β))))."""
    posterior, y = independent()
    lr, momentum = 1.0 / CURVATURE, 0.9
    ω, v = y.mean(0).expand(128, DIM).clone(), torch.zeros(128, DIM, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    squares = []
    for _ in range(1200):
        _, ĝ = posterior.cost_and_gradient(ω)
        noise = torch.randn(128, DIM, dtype=torch.float64, generator=generator)
        v = momentum * v - lr * ĝ + (2 * lr * (1 - momentum) / N) ** 0.5 * noise
        ω = ω + v
        squares.append((ω - y.mean(0)).square())
    variance = torch.stack(squares[200:], 1).mean(1)
    euler = 1 / (N * CURVATURE * (1 - lr * CURVATURE / (2 * (1 + momentum))))
    assert z_scores(variance, euler).abs().max() < 4
    assert z_scores(variance, 1 / (N * CURVATURE)).abs().min() > 8


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sghmc_at_temperature_zero_is_sgd_with_momentum(momentum):
    posterior, _ = independent()
    chains = sample(
        posterior,
        SGHMC(lr=0.05, momentum=momentum, temperature=0.0),
        num_samples=30,
        num_chains=2,
        batch_size=BATCH,
        progress=False,
        compile=False,
    )
    parameter = nn.Parameter(torch.zeros(DIM, dtype=torch.float64))
    optimiser = torch.optim.SGD([parameter], lr=0.05, momentum=momentum)
    batches, keys = Batches(N, BATCH), chain_keys(0, torch.tensor([1]), BATCHES)
    for step in range(30):
        batch = batches.indices(keys, torch.tensor(step))
        parameter.grad = posterior.cost_and_gradient(parameter.detach()[None], batch)[1][0]
        optimiser.step()
        torch.testing.assert_close(chains.draws["mean"][1, step], parameter.detach(), rtol=1e-12, atol=1e-14)


def test_declared_gradient_noise_is_taken_out():
    _, y = independent()
    whiten = torch.linalg.inv(torch.linalg.cholesky(torch.cov(y.T))).T  # S_mb becomes a multiple of I
    posterior, y = mean_model(whiten)
    s2 = float(batch_noise(y, BATCH)[0, 0])
    lr = 0.5 * (1 - 0.9) * 2 / (N * s2)  # half of the heat comes from the batch
    _, known = errors(posterior, y, SGHMC(lr=lr, gradient_noise=s2), BATCH, num_samples=2000)
    _, ignored = errors(posterior, y, SGHMC(lr=lr), BATCH, num_samples=2000)
    assert z_scores(second_moments(known), sghmc_law(y, lr, 0.9, 1.0, None)).abs().max() < 4
    assert z_scores(second_moments(ignored), sghmc_law(y, lr, 0.9, 1.0, BATCH)).abs().max() < 4
    assert z_scores(second_moments(ignored), sghmc_law(y, lr, 0.9, 1.0, None)).abs().max() > 8
    with pytest.raises(ValueError, match="use an lr of at most"):
        errors(posterior, y, SGHMC(lr=3 * lr, gradient_noise=s2), BATCH)


@pytest.mark.parametrize(("batch_size", "temperature"), [(None, 1.0), (BATCH, 0.3)])
def test_sgnht_holds_its_temperature_whatever_the_gradient_noise(batch_size, temperature):
    """Means over directions: the thermostat knows no other. ζh stays below 0.05."""
    posterior, y = independent(spread=0.15)
    sampler = SGNHT(lr=0.002, momentum=0.98, temperature=temperature)
    chains, error = errors(posterior, y, sampler, batch_size, num_samples=4000, num_warmup=500)
    h = (2 * 0.002 / 1.98) ** 0.5
    A = -float(torch.log(torch.tensor(0.98, dtype=torch.float64))) / h
    s2 = float(batch_noise(y, BATCH).diagonal().mean()) if batch_size else 0.0
    variance = error.square().mean((1, 2))
    assert abs(z_scores(variance, temperature / (N * CURVATURE))) < 4
    assert abs(z_scores(chains.sample_stats["temperature"].mean(1), temperature)) < 4
    friction = chains.sample_stats["friction"]
    assert abs(z_scores(friction.mean(1), A + N * h * s2 / (2 * temperature))) < 4
    if batch_size is None:  # else S_mb is not quite isotropic
        assert abs(z_scores((friction - friction.mean()).square().mean(1), A**2 / DIM)) < 4
    if batch_size is not None:
        excess = N * h * s2 / (2 * temperature)
        assert excess > 10 * friction.mean(1).std() / 64**0.5  # gradient noise is there, and seen


def frozen_friction(h: float, friction: float, amplitude: float, noise: float) -> tuple[float, float, float]:
    """Var(ω) of BADODAB on C = ω²/2 at a constant ζ, and p² at its two thermostat steps.

    The covariance of (ω, p) solves a discrete Lyapunov equation.
    """
    decay = math.exp(-friction * h)
    kick = torch.tensor([[1.0, 0.0], [-h, 1.0]], dtype=torch.float64)
    drift = torch.tensor([[1.0, h / 2], [0.0, 1.0]], dtype=torch.float64)
    relax = torch.tensor([[1.0, 0.0], [0.0, decay]], dtype=torch.float64)
    heat = torch.zeros(2, 2, dtype=torch.float64)
    heat[1, 1] = amplitude * -math.expm1(-2 * friction * h) / friction
    before, after = drift @ kick, drift @ relax
    kicked = torch.zeros(2, 2, dtype=torch.float64)
    kicked[1, 1] = h**2 * noise
    added = after @ drift @ kicked @ drift.T @ after.T + drift @ heat @ drift.T
    step = after @ before
    V = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - torch.kron(step, step), added.flatten()).reshape(2, 2)
    first = before @ V @ before.T + drift @ kicked @ drift.T
    second = relax @ first @ relax.T + heat
    return float(V[0, 0]), float(first[1, 1]), float(second[1, 1])


@pytest.mark.parametrize("noise", [38.0, 68.0])
def test_sgnht_where_friction_is_not_small(noise):
    """In many dimensions ζ hardly moves: the law is the linear one at the ζ that makes the thermostat stand still."""
    h, momentum, τ = 0.1, math.exp(-0.05), 0.5
    ζ = scipy.optimize.brentq(lambda ζ: sum(frozen_friction(h, ζ, 0.5, noise)[1:]) - 2, 0.1, 20)
    variance, _, second = frozen_friction(h, ζ, 0.5, noise)
    sampler = NoisySGNHT(lr=h**2 * (1 + momentum) / 2, momentum=momentum, thermostat_time=τ, noise=noise)
    target = LogDensity(lambda v: -0.5 * v["x"].square().sum(), {"x": torch.zeros(1024, dtype=torch.float64)})
    chains = sample(
        target, sampler, num_samples=100, num_warmup=400, thinning=3, num_chains=32, progress=False, compile=False
    )
    recorded = ζ + h / (2 * τ**2) * (second - 1)  # after the second step, which sees the colder p
    assert abs(z_scores(chains.sample_stats["friction"].mean(1), recorded)) < 4
    assert abs(z_scores(chains.draws["x"].square().mean((1, 2)), variance)) < 4
    assert 0.2 < ζ * h < 0.45
    assert 0.95 < variance < 0.99


@dataclass(frozen=True, kw_only=True)
class NoisySGNHT(SGNHT):
    """With isotropic Gaussian gradient noise of variance `noise`."""

    noise: float

    def step(self, target, state, batch, noise):
        return super().step(_Noisy(target, noise, self.noise**0.5), state, batch, noise)


@dataclass
class _Noisy:
    target: LogDensity
    noise: Noise
    scale: float

    def __getattr__(self, name):
        return getattr(self.target, name)

    def cost_and_gradient(self, position, batch):
        cost, gradient = self.target.cost_and_gradient(position, batch)
        return cost, gradient + self.scale * self.noise.normal(self.target.dim, 5)
