"""The example of a user's metric: its Dirichlet posterior has known moments."""

import torch
from langevin.samplers import RiemannianLangevin, sample
from langevin.samplers.threefry import NOISE, Noise, chain_keys

from examples.simplex import probabilities, simplex_metric, simplex_posterior
from tests.validity.replicates import extrapolated_z

COUNTS, A = [8, 3, 1], 2.0


def moments(lr: float, drift: str) -> torch.Tensor:
    """π₁, π₂ and their squares, averaged over each chain."""
    chains = sample(
        simplex_posterior(COUNTS, A),
        RiemannianLangevin(lr=lr, metric=simplex_metric, drift=drift),
        num_samples=60,
        num_warmup=int(4 / lr),
        thinning=max(1, round(0.4 / lr)),
        num_chains=2048,
        init={"theta": torch.tensor([4.0, 2.0, 1.0])},
        progress=False,
        compile=False,
    )
    π = probabilities(chains.draws["theta"])[..., :2]
    return torch.cat((π, π.square()), -1).mean(1)


def truth() -> torch.Tensor:
    shape = torch.tensor(COUNTS, dtype=torch.float64) + A
    mean = shape / shape.sum()
    square = mean * (shape + 1) / (shape.sum() + 1)
    return torch.cat((mean[:2], square[:2]))


def test_dirichlet_moments_as_the_step_vanishes():
    z = extrapolated_z(lambda lr: moments(lr, "exact"), (0.05, 0.1, 0.2), truth())
    assert z.abs().max() < 4, z


def test_without_the_drift_it_is_another_law():
    z = extrapolated_z(lambda lr: moments(lr, "none"), (0.05, 0.1, 0.2), truth())
    assert z.abs().max() > 8, z


def test_one_step_is_the_papers():
    posterior = simplex_posterior(COUNTS, A)
    θ, ε, N = torch.tensor([[3.0, 0.5, 1.5]], dtype=torch.float64), 0.05, sum(COUNTS)
    sampler = RiemannianLangevin(lr=ε, metric=simplex_metric, drift="exact")
    noise = Noise(chain_keys(0, torch.arange(1), NOISE), torch.tensor(0), torch.float64)
    after = sampler.step(posterior, sampler.init(posterior, θ), None, noise).position
    n = torch.tensor(COUNTS, dtype=torch.float64)
    drift = A - θ + n - N * θ / θ.sum()
    torch.testing.assert_close(after, θ + ε * drift / N - (2 * ε * θ / N).sqrt() * noise.normal(3))
