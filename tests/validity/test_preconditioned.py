"""PSGLD, ASGLD and ConstantSGD against the laws that they have."""

import pytest
import torch
from langevin.diagnostics import temperature
from langevin.samplers import ASGLD, PSGLD, ConstantSGD, LogDensity, Posterior, sample
from torch import Tensor

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
UPPER = tuple(torch.triu_indices(DIM, DIM))


def correlated(scales=(1.0, 1.0)) -> tuple[Posterior, Tensor]:
    return mean_model(torch.tensor([[1.0, 0.6], [0.0, 0.8]]) * torch.tensor(scales))


def linear_law(M: Tensor, noise: Tensor) -> Tensor:
    """V = (I − MH) V (I − MH)ᵀ + noise, for steps M of the mean gradient and H = λI; `M` is `[..., D, D]`."""
    contraction = torch.eye(DIM, dtype=torch.float64) - CURVATURE * M
    kron = torch.einsum("...ij,...kl->...ikjl", contraction, contraction).reshape(*M.shape[:-2], DIM**2, DIM**2)
    system = torch.eye(DIM**2, dtype=torch.float64) - kron
    return torch.linalg.solve(system, noise.flatten(-2)).reshape(M.shape)


@pytest.mark.parametrize(("batch_size", "temperature"), [(None, 1.0), (BATCH, 0.2)])
def test_frozen_psgld_has_the_linear_law_of_its_own_preconditioner(batch_size, temperature):
    posterior, y = correlated((1.0, 3.0))
    lr = 0.3
    sampler = PSGLD(lr=lr, damping=0.7, decay=0.9, temperature=temperature)
    chains, error = errors(posterior, y, sampler, batch_size)
    M = lr * torch.diag_embed(1 / (0.7 + chains.state["square"].sqrt()))  # each chain has its own
    noise = 2 * temperature / N * M
    if batch_size is not None:
        noise = noise + M @ batch_noise(y, batch_size) @ M
    law = linear_law(M, noise)[:, *UPPER]
    assert (law[:, 0] / (temperature / (N * CURVATURE)) - 1).abs().max() > 0.05  # a step that shows
    assert z_scores(error.mean(1), 0.0).abs().max() < 4
    assert z_scores(second_moments(error) - law, 0.0).abs().max() < 4


def ever_adapting(correction: bool, decay: float, damping: float, lr: float) -> Tensor:
    """Variance of each chain on N(0, 1) with the full data."""
    target = LogDensity(lambda v: -0.5 * v["x"].square().sum(), {"x": torch.zeros(1, dtype=torch.float64)})
    sampler = PSGLD(lr=lr, damping=damping, decay=decay, adapt="always", correction=correction)
    start = torch.randn(256, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chains = sample(
        target,
        sampler,
        num_samples=400,
        num_warmup=400,
        thinning=5,
        num_chains=256,
        init=start,
        progress=False,
        compile=False,
    )
    return chains.draws["x"].square().mean((1, 2))


def test_psgld_that_adapts_for_ever_is_as_wrong_as_documented():
    """1.32 as published without Γ and 1.31 with it; 1 is right."""
    for correction, documented in ((False, 1.32), (True, 1.31)):
        variance = ever_adapting(correction, 0.99, 0.05, 0.01)
        assert abs(z_scores(variance, documented)) < 4
        assert z_scores(variance, 1.0) > 8


@pytest.mark.slow
def test_the_published_correction_is_the_derivative_of_the_preconditioner():
    """With α = 0, V = ĝ² is a function of the present position and Γ its full drift: the law is right again."""
    wrong, right = (ever_adapting(correction, 0.0, 0.5, 0.01) for correction in (False, True))
    assert abs(z_scores(right, 1.0)) < 4, right.mean()
    assert z_scores(wrong, 1.0).abs() > 8


def moments_of_asgld(lr, decay, scale, curvature, noise) -> Tensor:
    """E(ω², ωμ, μ², C) at stationarity, from their closed linear system."""
    ε, ρ, ψ, λ, s2 = lr, decay, scale, curvature, noise

    # ĝ = λω + n; μ' = ρμ + (1−ρ)ĝ; C' = ρC + (1−ρ)ρ(ĝ−μ)²; ω' = ω − ε(ĝ + ψμ' + ψ√C' ξ)
    def advance(m: Tensor) -> Tensor:
        ωω, ωμ, μμ, C = m
        gg, gω, gμ = λ**2 * ωω + s2, λ * ωω, λ * ωμ
        C_new = ρ * C + (1 - ρ) * ρ * (gg - 2 * gμ + μμ)
        μμ_new = ρ**2 * μμ + 2 * ρ * (1 - ρ) * gμ + (1 - ρ) ** 2 * gg
        # ω' = ω − a ĝ − b μ − εψ√C' ξ
        a, b = ε * (1 + ψ * (1 - ρ)), ε * ψ * ρ
        ωω_new = ωω + a**2 * gg + b**2 * μμ - 2 * a * gω - 2 * b * ωμ + 2 * a * b * gμ + (ε * ψ) ** 2 * C_new
        ωμ_new = ρ * ωμ + (1 - ρ) * gω - a * (ρ * gμ + (1 - ρ) * gg) - b * (ρ * μμ + (1 - ρ) * gμ)
        return torch.stack((ωω_new, ωμ_new, μμ_new, C_new))

    zero = torch.zeros(4, dtype=torch.float64)
    shift = advance(zero)
    matrix = torch.stack([advance(e) - shift for e in torch.eye(4, dtype=torch.float64)], 1)
    return torch.linalg.solve(torch.eye(4, dtype=torch.float64) - matrix, shift)


def test_moment_system_of_asgld_gives_the_known_numbers():
    known = torch.tensor([0.07870, -0.02425, 0.03380, 1.0449], dtype=torch.float64)
    torch.testing.assert_close(moments_of_asgld(0.1, 0.9, 0.5, 1.0, 1.0), known, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("decay", "scale"), [(0.9, 0.5), (0.5, 2.0)])
def test_asgld_has_the_law_of_its_moment_system(decay, scale):
    posterior, y = correlated()
    lr = 0.1 / CURVATURE
    chains, error = errors(posterior, y, ASGLD(lr=lr, scale=scale, decay=decay), BATCH, num_samples=3000)
    noise = batch_noise(y, BATCH).diagonal()
    law = torch.stack([moments_of_asgld(lr, decay, scale, CURVATURE, float(s2)) for s2 in noise])
    assert z_scores(error.square().mean(1), law[:, 0]).abs().max() < 4
    assert chains.attrs["temperature"] == 0.0  # no posterior temperature: an optimiser
    # Slow directions: (εNs²/2) [(1+ψ)² + 2ρψ²/(1+ρ)]/(1+ψ).
    slow = moments_of_asgld(1e-5, decay, scale, CURVATURE, float(noise[0]))[0] * N * CURVATURE
    heat = 1e-5 * N * noise[0] / 2 * ((1 + scale) ** 2 + 2 * decay * scale**2 / (1 + decay)) / (1 + scale)
    assert float(slow) == pytest.approx(float(heat), rel=1e-2)


def test_asgld_without_noise_is_sgd():
    posterior, y = correlated()
    chains, _ = errors(posterior, y, ASGLD(lr=0.05, scale=0.0), None, num_samples=5, num_warmup=0, num_chains=1)
    assert (chains.draws["mean"] - y.mean(0)).abs().max() < 1e-12
    start = {"mean": torch.ones(DIM, dtype=torch.float64)}
    settings = {"num_samples": 5, "num_chains": 1, "init": start, "progress": False, "compile": False}
    draws = sample(posterior, ASGLD(lr=0.05, scale=0.0), **settings).draws["mean"][0]
    factors = (1 - 0.05 * CURVATURE) ** torch.arange(1, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(draws - y.mean(0), factors * (1 - y.mean(0)))


def constant_rate(y: Tensor, structure: str, temperature: float) -> Tensor:
    """K of Gaussian means, where Σ is the same everywhere."""
    Σ = CURVATURE**2 * torch.cov(y.T)
    M = {
        "scalar": torch.eye(DIM, dtype=torch.float64) * DIM / Σ.trace(),
        "diagonal": Σ.diagonal().reciprocal().diag(),
        "full": Σ.inverse(),
    }[structure]
    return 2 * temperature * BATCH / (N - BATCH) * M


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("structure", ["scalar", "diagonal", "full"])
def test_constant_sgd_has_the_linear_law(structure, momentum):
    posterior, y = correlated((1.0, 3.0))
    T = 4.0
    sampler = ConstantSGD(temperature=T, structure=structure, momentum=momentum)
    chains, error = errors(posterior, y, sampler, BATCH)
    K = constant_rate(y, structure, T)
    noise = K @ batch_noise(y, BATCH) @ K.T
    law = linear_law(K, noise)
    if momentum:  # the covariance of (ω, v), v ← βv + (1−β)Kĝ, ω ← ω − v
        identity = torch.eye(DIM, dtype=torch.float64)
        pull = (1 - momentum) * CURVATURE * K
        old_velocity = momentum * torch.cat((-identity, identity))
        step = torch.cat((torch.cat((identity - pull, pull)), old_velocity), 1)
        kick = (1 - momentum) * torch.cat((-identity, identity))
        system = torch.eye(16, dtype=torch.float64) - torch.kron(step, step)
        law = torch.linalg.solve(system, (kick @ noise @ kick.T).flatten()).reshape(4, 4)[:DIM, :DIM]
    assert z_scores(error.mean(1), 0.0).abs().max() < 4
    assert z_scores(second_moments(error), law[UPPER]).abs().max() < 4
    assert chains.attrs["batch_temperature"] == pytest.approx(T, rel=0.1)


def test_what_constant_sgd_promises_of_each_structure():
    """As K → 0, in units of the posterior at T: the mean over directions; each parameter; everything."""
    _, y = correlated((1.0, 3.0))
    T = 1e-4
    law = {}
    for structure in ("scalar", "diagonal", "full"):
        K = constant_rate(y, structure, T)
        law[structure] = linear_law(K, K @ batch_noise(y, BATCH) @ K.T) * N * CURVATURE / T
    close = {"rtol": 1e-3, "atol": 1e-3}
    one = torch.ones(DIM, dtype=torch.float64)
    torch.testing.assert_close(law["scalar"].diagonal().mean(), one[0], **close)
    assert law["scalar"][0, 0] < 0.3 < 1.5 < law["scalar"][1, 1]
    torch.testing.assert_close(law["diagonal"].diagonal(), one, **close)
    assert law["diagonal"][0, 1] > 0.3  # correlated, as this posterior is not
    torch.testing.assert_close(law["full"], one.diag(), **close)


def test_full_batches_have_no_heat_for_constant_sgd():
    posterior, y = correlated()
    with pytest.raises(ValueError, match="give a batch_size below N"):
        errors(posterior, y, ConstantSGD(), None)
    with pytest.raises(ValueError, match="no warm-up"):
        errors(posterior, y, ConstantSGD(), BATCH, num_warmup=0)


def test_thermometer_reads_the_temperature_of_constant_sgd():
    posterior, y = correlated((1.0, 3.0))
    chains, _ = errors(posterior, y, ConstantSGD(temperature=2.0, structure="diagonal"), 1, num_chains=16)
    reading = temperature(chains, posterior, max_draws=2000)
    assert abs(reading.value - 2.0) < 4 * reading.error + 0.02  # 1/(1 − KH/2)
