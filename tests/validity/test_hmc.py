"""HMC draws from π_T exactly: every figure is compared within Monte-Carlo error, taken from the spread over chains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from langevin.samplers import HMC, Chains, LogDensity, Posterior, gaussian, sample
from langevin.samplers.hmc import _ACCEPT, _schedule
from langevin.samplers.threefry import NOISE, Noise, chain_keys
from torch import Tensor, nn
from torch.distributions import Normal

from tests.validity.replicates import z_scores
from tests.validity.targets import curved_cost as quartic

QUARTIC = LogDensity(lambda v: -quartic(v["w"]), {"w": torch.zeros(2, dtype=torch.float64)})


def five(w: Tensor) -> Tensor:
    """ω₁, ω₂, ω₁², ω₂², ω₁ω₂."""
    return torch.stack((w[..., 0], w[..., 1], w[..., 0] ** 2, w[..., 1] ** 2, w[..., 0] * w[..., 1]), -1)


def quartic_moments(temperature: float) -> Tensor:
    """Expectations of `five` by the rectangle rule, exact to rounding for a density that vanishes at the ends."""
    line = torch.linspace(-8, 8, 801, dtype=torch.float64)
    w = torch.cartesian_prod(line, line)
    weight = torch.softmax(-quartic(w) / temperature, 0)
    return weight @ five(w)


def quartic_z(sampler: HMC, **settings) -> Tensor:
    run = {"num_chains": 64, "num_warmup": 150, "num_samples": 400, "seed": 1, "progress": False, "compile": False}
    chains = sample(QUARTIC, sampler, **run | settings)
    return z_scores(five(chains.draws["w"]).mean(1), quartic_moments(sampler.temperature))


def test_quadrature_gives_the_published_moments():
    expected = torch.tensor([0, 0, 0.63672, 0.81932, -0.15007], dtype=torch.float64)
    torch.testing.assert_close(quartic_moments(1.0), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("target_accept", [0.6, 0.9])
def test_moments_at_any_step_size_and_temperature(temperature, target_accept):
    z = quartic_z(HMC(temperature=temperature, target_accept=target_accept))
    assert z.abs().max() < 4, z


@dataclass(frozen=True)
class AlwaysAccept:
    """Noise whose accept numbers let any trajectory pass that is not all but lost: no Metropolis correction."""

    noise: Noise

    def normal(self, dim: int, stream: int = 0) -> Tensor:
        return self.noise.normal(dim, stream)

    def uniform(self, dim: int = 1, stream: int = 0) -> Tensor:
        return self.noise.uniform(dim, stream) * (1e-6 if stream == _ACCEPT else 1.0)


@dataclass(frozen=True)
class HotMomentum:
    """Noise whose momenta are drawn at 1.4 times the temperature."""

    noise: Noise

    def normal(self, dim: int, stream: int = 0) -> Tensor:
        return math.sqrt(1.4) * self.noise.normal(dim, stream)

    def uniform(self, dim: int = 1, stream: int = 0) -> Tensor:
        return self.noise.uniform(dim, stream)


@pytest.mark.parametrize(("fault", "target_accept"), [(AlwaysAccept, 0.6), (HotMomentum, 0.9)])
def test_a_broken_sampler_is_noticed(fault, target_accept):
    class Broken(HMC):
        def step(self, target, state, batch, noise):
            return super().step(target, state, batch, noise if state.step < state.num_warmup else fault(noise))

    assert quartic_z(Broken(target_accept=target_accept)).abs().max() > 8


@pytest.mark.parametrize("target_accept", [0.6, 0.8, 0.95])
def test_energy_errors_average_to_one_at_the_acceptance_asked_for(target_accept):
    target = LogDensity(lambda v: -0.5 * (v["x"] ** 2).sum(), {"x": torch.zeros(20, dtype=torch.float64)})
    sampler = HMC(target_accept=target_accept)
    chains = sample(
        target, sampler, num_chains=64, num_warmup=300, num_samples=200, seed=2, progress=False, compile=False
    )
    stats = chains.sample_stats
    assert stats["energy_error"].std() > 0.05  # coarse enough to tell
    # E[e^(−ΔH)] = 1 shows only where no trajectory diverges: the states that would be their images are never met.
    assert abs(z_scores(torch.exp(-stats["energy_error"]).mean(1), 1.0)) < 4
    assert abs(float(stats["accept"].mean()) - target_accept) < 0.12  # of the end; adapted is the trajectory's mean
    assert (stats["step_size"] == stats["step_size"][:, :1]).all()  # frozen
    lengths = stats["num_leapfrog"] * stats["step_size"]
    assert ((lengths > 1.0) & (lengths < 3.0 + stats["step_size"])).all()


def test_covariance_of_gaussians_with_scales_from_hundredth_to_hundred():
    dim = 12
    generator = torch.Generator().manual_seed(0)
    half = 0.5 * torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5 + torch.eye(dim)
    scales = torch.logspace(-2, 2, dim, dtype=torch.float64)
    factor = scales[:, None] * half
    covariance = factor @ factor.mT
    precision = covariance.inverse()
    target = LogDensity(lambda v: -0.5 * v["x"] @ precision @ v["x"], {"x": torch.zeros(dim, dtype=torch.float64)})
    chains = sample(
        target, HMC(), num_chains=64, num_warmup=600, num_samples=200, seed=4, progress=False, compile=False
    )
    x = chains.draws["x"]
    z = z_scores((x[..., :, None] * x[..., None, :]).mean(1), covariance)
    assert z.abs().max() < 4, z
    assert z_scores(x.mean(1), 0.0).abs().max() < 4


def regression() -> tuple[Posterior, Tensor, Tensor]:
    """Bayesian linear regression with N = 50, and its mean and covariance at T = 1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64
    )
    y = x.sum(-1, keepdim=True) + torch.randn(50, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    posterior = Posterior(model, gaussian(1.0), (x, y), Normal(0.0, 2.0))
    precision = x.mT @ x + torch.eye(3) / 4
    return posterior, torch.linalg.solve(precision, x.mT @ y)[:, 0], precision.inverse()


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_posterior_of_a_model_equals_conjugate_linear_regression(temperature):
    posterior, mean, covariance = regression()
    chains = sample(
        posterior,
        HMC(temperature=temperature),
        num_chains=64,
        num_warmup=200,
        num_samples=300,
        seed=5,
        progress=False,
        compile=False,
    )
    w = chains.draws["weight"][..., 0, :]
    assert z_scores(w.mean(1), mean).abs().max() < 4
    error = w - mean
    z = z_scores((error[..., :, None] * error[..., None, :]).mean(1), temperature * covariance)
    assert z.abs().max() < 4, z


def test_only_cost_over_temperature_matters():
    # A wrong force would still give the right law, at worse steps: it shows here.
    posterior, _, _ = regression()
    temperature = 0.1
    plain = LogDensity(lambda v: -posterior.cost(v["w"][None])[0] / temperature, {"w": posterior.default_position()})
    run = {"num_chains": 4, "num_warmup": 60, "num_samples": 40, "progress": False, "compile": False}
    one = sample(posterior, HMC(temperature=temperature), **run)
    other = sample(plain, HMC(), **run)
    torch.testing.assert_close(one.draws["weight"][..., 0, :], other.draws["w"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.sample_stats["num_leapfrog"], other.sample_stats["num_leapfrog"])


@pytest.mark.parametrize("outside", [math.nan, -math.inf])
def test_leaving_the_support_is_a_rejection(outside):
    def log_density(v: dict[str, Tensor]) -> Tensor:
        return torch.where(v["x"].abs() < 1.5, -0.5 * v["x"] ** 2, outside)

    target = LogDensity(log_density, {"x": torch.zeros((), dtype=torch.float64)})
    # Trajectories short enough that most stay inside, whatever the step size.
    sampler = HMC(step_size=0.3, trajectory=0.4)
    chains = sample(target, sampler, num_samples=700, num_chains=64, seed=6, progress=False, compile=False)
    x = chains.draws["x"][:, 100:]
    assert chains.attrs["stopped"] == {}
    assert torch.isfinite(x).all()
    assert all(torch.isfinite(value).all() for value in chains.state.values())
    lost = chains.sample_stats["energy_error"] > 1e300
    assert 0.01 < lost.double().mean() < 0.5
    assert (chains.sample_stats["accept"][lost] == 0).all()
    line = torch.linspace(-1.5, 1.5, 100_001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * line**2, 0)
    assert z_scores((x**2).mean(1), float(weight @ line**2)).abs() < 4
    assert z_scores((x**4).mean(1), float(weight @ line**4)).abs() < 4


def test_nothing_depends_on_the_parameters_units():
    def chains(scale: float) -> Chains:
        target = LogDensity(lambda v: -quartic(v["w"] / scale), {"w": torch.zeros(2, dtype=torch.float64)})
        return sample(target, HMC(), num_chains=4, num_warmup=50, num_samples=50, seed=7, progress=False, compile=False)

    one, small = chains(1.0), chains(2.0**-12)
    torch.testing.assert_close(small.draws["w"] * 2.0**12, one.draws["w"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(small.sample_stats["accept"], one.sample_stats["accept"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_chain_alone_is_the_chain_among_others(compile):
    settings = {"num_warmup": 50, "num_samples": 50, "seed": 8, "progress": False, "compile": compile}
    together = sample(QUARTIC, HMC(), num_chains=8, **settings)
    alone = sample(QUARTIC, HMC(), num_chains=1, chain_ids=[3], **settings)
    torch.testing.assert_close(alone.draws["w"][0], together.draws["w"][3], rtol=1e-5, atol=1e-8)
    for name, value in alone.sample_stats.items():
        torch.testing.assert_close(value[0], together.sample_stats[name][3], rtol=1e-5, atol=1e-8)
    assert not torch.allclose(together.draws["w"][2], together.draws["w"][3])


def test_a_step_survives_full_graph_compilation_and_equals_the_eager_one():
    sampler = HMC()
    target = LogDensity(lambda v: -0.5 * (v["x"] ** 2).sum(), {"x": torch.ones(3, dtype=torch.float64)})
    state = sampler.init(target, target.default_position().expand(4, -1), num_warmup=30)
    fields = list(vars(state))
    keys = chain_keys(9, torch.arange(4), NOISE)

    def step(*values: Tensor) -> tuple[Tensor, ...]:
        old = type(state)(*values)
        new = sampler.step(target, old, None, Noise(keys, old.step, torch.float64))
        return tuple(getattr(new, name) for name in fields)

    options = {"cpp_wrapper": True, "realize_opcount_threshold": 8}
    compiled = torch.compile(step, fullgraph=True, dynamic=False, options=options)
    eager_values = compiled_values = tuple(vars(state).values())
    for _ in range(40):  # through warm-up, past its end
        eager_values, compiled_values = step(*eager_values), compiled(*compiled_values)
    for name, one, other in zip(fields, eager_values, compiled_values, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("num_warmup", "ends"),
    [(1000, [100, 150, 250, 450, 950]), (150, [100]), (100, [40, 90]), (20, [18]), (19, []), (0, [])],
)
def test_windows_double(num_warmup, ends):
    found = [s + 1 for s in range(1200) if bool(_schedule(torch.tensor(s), torch.tensor(num_warmup))[1])]
    assert found == ends


def test_runs_without_warmup_from_a_given_step_size():
    z = quartic_z(
        HMC(step_size=0.7),
        num_warmup=0,
        num_samples=300,
        init=torch.randn(64, 2, generator=torch.Generator().manual_seed(0)),
    )
    # The start is forgotten within a few steps but stays in the mean: its share is a few of 300.
    assert z.abs().max() < 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0"),
        ({"temperature": -1.0}, "temperature must be positive and finite, got -1"),
        ({"trajectory": math.inf}, "trajectory must be positive"),
        ({"step_size": -0.1}, "step_size must be positive and finite, got -0.1"),
        ({"target_accept": 1.0}, "target_accept must lie between 0 and 1, got 1"),
        ({"max_leapfrog": 0}, "max_leapfrog must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        HMC(**settings)


def test_bad_starts_and_minibatches_are_refused():
    position = torch.zeros(3, 2, dtype=torch.float64)
    position[1] = math.nan
    with pytest.raises(ValueError, match=r"chains \[1\]"):
        HMC().init(QUARTIC, position, 0)
    with pytest.raises(ValueError, match="batch_size=None"):
        sample(QUARTIC, HMC(), num_samples=1, batch_size=1, progress=False)
