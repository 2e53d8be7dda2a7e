"""Natural gradient as a sampler against closed forms: the linear law, damping, missing noise, the sinh model."""

import math

import pytest
import torch
from langevin.diagnostics import temperature as measured_temperature
from langevin.samplers import (
    NGD,
    SGFS,
    SNGD,
    ConstantMetric,
    Fisher,
    Posterior,
    batch_size_for,
    bernoulli,
    find_mode,
    gaussian,
    sample,
    temperature_of,
)
from torch import nn

from tests.validity.replicates import extrapolated_z, z_scores


class Scaled(nn.Module):
    """Outputs s ∘ ω: the Fisher information diag(s²)/σ² and the gradient noise do not depend on ω."""

    def __init__(self, scales):
        super().__init__()
        self.scales = scales
        self.weight = nn.Parameter(torch.zeros_like(scales))

    def forward(self, x):
        return (self.scales * self.weight).expand(len(x), -1)


NUM_DATA = 60
ONE_INPUT = torch.zeros(1, 1, dtype=torch.float64)  # stands for all inputs of a model that does not look at them
SCALES = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)


def scaled_problem(well_specified):
    """Posterior, its mode, H = F, and Σ, the covariance of single gradients: Σ = F if the model is right."""
    y = torch.randn(NUM_DATA, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = y - y.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(y.T)), y.T, upper=False).T
    if not well_specified:
        mix = torch.tensor([[1.5, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.4, 0.3, 1.2]], dtype=torch.float64)
        white = white @ mix.T
    y = white + 0.3
    posterior = Posterior(Scaled(SCALES), gaussian(1.0), (torch.zeros(NUM_DATA, 1, dtype=torch.float64), y), prior=None)
    gradients = SCALES * y
    return posterior, y.mean(0) / SCALES, torch.diag(SCALES**2), torch.cov(gradients.T)


def linear_law(lr, metric, hessian, noise):
    """V = (I − εMH) V (I − εMH)ᵀ + ε² M S M."""
    inverse = torch.linalg.inv(metric)
    contraction = torch.eye(len(metric), dtype=torch.float64) - lr * inverse @ hessian
    system = torch.eye(len(metric) ** 2, dtype=torch.float64) - torch.kron(contraction, contraction)
    return torch.linalg.solve(system, (lr**2 * inverse @ noise @ inverse).flatten()).view_as(metric)


def batch_noise(covariance, batch_size):
    return covariance / batch_size * (1 - batch_size / NUM_DATA)


def covariance_z(posterior, mode, sampler, batch_size, law, *, chains=256, draws=250, thinning=3):
    drawn = sample(
        posterior,
        sampler,
        num_samples=draws,
        num_warmup=200,
        thinning=thinning,
        num_chains=chains,
        batch_size=batch_size,
        init=mode,
        progress=False,
        compile=False,
    )
    error = drawn.draws["weight"] - mode
    upper = torch.triu_indices(3, 3).unbind()
    second = torch.einsum("cdi,cdj->cij", error, error)[:, *upper] / draws
    return torch.cat((z_scores(error.mean(1), 0.0), z_scores(second, law[upper]))), drawn


@pytest.mark.parametrize("damping", [0.0, 0.05])
@pytest.mark.parametrize("well_specified", [True, False])
@pytest.mark.parametrize("lr", [0.1, 0.8])
def test_ngd_has_the_linear_law(lr, well_specified, damping):
    """The whole covariance, with what damping and a wrong model do to it."""
    posterior, mode, fisher, covariance = scaled_problem(well_specified)
    law = linear_law(lr, fisher + damping * torch.eye(3), fisher, batch_noise(covariance, 6))
    z, _ = covariance_z(posterior, mode, NGD(lr=lr, metric=Fisher(damping=damping)), 6, law)
    assert z.abs().max() < 4


@pytest.mark.parametrize("lr", [0.1, 0.8])
def test_damping_cools_flat_directions(lr):
    """Var = T_mb/(N(f+δ)(1−a/2)), a = εf/(f+δ), and the temperature of each direction T_mb f/(f+δ)/(1−a/2)."""
    damping, batch_size = 0.05, 6
    posterior, mode, fisher, _ = scaled_problem(True)
    f = fisher.diagonal()
    a = lr * f / (f + damping)
    heat = temperature_of(lr, NUM_DATA, batch_size)
    law = torch.diag(heat / (NUM_DATA * (f + damping) * (1 - a / 2)))
    z, chains = covariance_z(
        posterior, mode, NGD(lr=lr, metric=Fisher(damping=damping, inputs=ONE_INPUT)), batch_size, law
    )
    assert z.abs().max() < 4
    reading = measured_temperature(chains)
    expected = float((heat * f / (f + damping) / (1 - a / 2)).mean())
    assert abs(reading.value - expected) < 4 * reading.error
    undamped = heat / (1 - lr / 2)
    assert undamped - expected > 20 * reading.error


@pytest.mark.parametrize(
    ("metric", "temperature"),
    [
        ("fisher", 5.0),
        ("constant", None),
        *(pytest.param(m, t, marks=pytest.mark.slow) for m, t in (("fisher", None), ("constant", 5.0))),
    ],
)
def test_missing_noise_restores_the_temperature(metric, temperature):
    """A total heat of 2TG/(εN): at T_mb and above it, whatever the damping, Var = T/(N f (1 − a/2)) where G ∝ f."""
    lr, batch_size, damping = 0.4, 6, 0.05
    posterior, mode, fisher, _ = scaled_problem(True)
    T = temperature_of(lr, NUM_DATA, batch_size) if temperature is None else temperature
    if metric == "fisher":
        g, chosen = fisher + damping * torch.eye(3), Fisher(damping=damping, inputs=ONE_INPUT)
    else:
        g, chosen = fisher, ConstantMetric(fisher)
    law = linear_law(lr, g, fisher, 2 * T * g / (lr * NUM_DATA))
    sampler = SNGD(lr=lr, metric=chosen, temperature=temperature, measure="lebesgue", drift="probe")
    z, chains = covariance_z(posterior, mode, sampler, batch_size, law)
    assert z.abs().max() < 4
    from_batch = temperature_of(lr, NUM_DATA, batch_size) * (torch.linalg.inv(g) @ fisher).trace() / 3
    assert chains.attrs["batch_temperature"] == pytest.approx(float(from_batch), rel=0.05)
    reading = measured_temperature(chains)
    f = fisher.diagonal()
    expected = float((T / (1 - lr * f / g.diagonal() / 2)).mean())
    assert abs(reading.value - expected) < 4 * reading.error


def test_centred_empirical_fisher_is_right_for_a_wrong_model():
    """With G = Σ minibatch noise is a temperature whatever the model: Var → (T/N) H⁻¹, not F⁻¹ΣF⁻¹."""
    lr, batch_size = 0.1, 6
    posterior, mode, hessian, covariance = scaled_problem(False)
    metric = Fisher(kind="empirical", centered=True)
    law = linear_law(lr, covariance, hessian, batch_noise(covariance, batch_size))
    T = temperature_of(lr, NUM_DATA, batch_size)
    assert torch.allclose(law, T / NUM_DATA * torch.linalg.inv(hessian), rtol=0.15, atol=2e-3)
    sampler = SNGD(lr=lr, metric=metric, measure="lebesgue", drift="midpoint")
    z, _ = covariance_z(posterior, mode, sampler, batch_size, law, thinning=5)
    assert z.abs().max() < 4


@pytest.mark.parametrize(("batch_size", "noise"), [(6, 0.0), (6, 0.3), (None, 0.3)])
@pytest.mark.parametrize("lr", [0.1, 1.5])
def test_sgfs_is_exact_at_any_step(lr, noise, batch_size):
    """Covariance (T/N) H⁻¹ for a wrong model, where gradient noise and curvature differ, for any B₀."""
    posterior, mode, hessian, covariance = scaled_problem(False)
    sampler = SGFS(
        lr=lr, metric=ConstantMetric(covariance), hessian=ConstantMetric(hessian), temperature=2.0, noise=noise
    )
    z, _ = covariance_z(posterior, mode, sampler, batch_size, 2.0 / NUM_DATA * torch.linalg.inv(hessian))
    assert z.abs().max() < 4


def test_sgfs_learns_its_covariance_in_warmup():
    """With the averaged empirical Fisher for Σ and H on a right model, as it is used."""
    posterior, mode, fisher, _ = scaled_problem(True)
    metric = Fisher(kind="empirical", centered=True, inputs=30, average=0.995)
    z, chains = covariance_z(posterior, mode, SGFS(lr=0.5, metric=metric), 6, torch.linalg.inv(fisher) / NUM_DATA)
    assert z.abs().max() < 4
    assert chains.state["memory.updates"] == 200


def test_sgfs_refuses_two_structures():
    posterior, *_ = scaled_problem(True)
    sampler = SGFS(lr=0.1, metric=Fisher(), hessian=Fisher(structure="diagonal"))
    with pytest.raises(ValueError, match="must have one structure"):
        sample(posterior, sampler, num_samples=1, batch_size=6, progress=False)


@pytest.mark.parametrize(
    ("metric", "batch_size", "error", "message"),
    [
        (Fisher(), None, ValueError, "nothing drives SGFS"),
        (Fisher(), NUM_DATA, ValueError, "nothing drives SGFS"),
        (Fisher(damping=0.1, refresh_every=2), 6, ValueError, "use refresh_every=1"),
        (Fisher(damping=0.1, structure="low_rank"), 6, ValueError, "give noise > 0"),
    ],
)
def test_sgfs_refuses_what_it_cannot_sample_with(metric, batch_size, error, message):
    posterior, *_ = scaled_problem(True)
    with pytest.raises(error, match=message):
        sample(posterior, SGFS(lr=0.1, metric=metric), num_samples=1, batch_size=batch_size, progress=False)


def test_ngd_on_logistic_regression_has_the_law_of_the_draw():
    """The paper's first experiment: F at the mode differs from the draw's Σ by tens of per cent, and damping counts.

    The batch is most of the data, so that the posterior is narrow and the law linear.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 2, dtype=torch.float64, generator=generator)
    y = (torch.rand(1000, dtype=torch.float64, generator=generator) < torch.sigmoid(16 * x[:, 0])).double()
    posterior = Posterior(nn.Linear(2, 1, bias=False, dtype=torch.float64), bernoulli, (x, y[:, None]), prior=None)
    mode = find_mode(posterior)
    lr, damping, batch_size = 0.5, 1e-4, 900
    p = torch.sigmoid(x @ mode)
    fisher = (x * (p * (1 - p))[:, None]).T @ x / 1000
    covariance = torch.cov(((p - y)[:, None] * x).T)
    noise = covariance / batch_size * (1 - batch_size / 1000)
    law = linear_law(lr, fisher + damping * torch.eye(2), fisher, noise)
    ideal = linear_law(lr, fisher, fisher, noise * (fisher.trace() / covariance.trace()))
    draws = sample(
        posterior,
        NGD(lr=lr, metric=Fisher(damping=damping)),
        num_samples=100,
        num_warmup=30,
        thinning=5,
        num_chains=128,
        batch_size=batch_size,
        init=mode,
        progress=False,
        compile=False,
    ).draws["weight"][:, :, 0]
    error = draws - mode
    second = torch.einsum("cdi,cdj->cij", error, error) / 100
    first, other = torch.triu_indices(2, 2)
    assert z_scores(second[:, first, other], law[first, other]).abs().max() < 4
    assert z_scores(second[:, first, other], ideal[first, other]).abs().max() > 8


class Sinh(nn.Module):
    """Outputs h = a sinh φ, or, in the other parameterisation, h itself."""

    def __init__(self, scale, in_h=False):
        super().__init__()
        self.scale, self.in_h = scale, in_h
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def output(self, weight):
        return weight if self.in_h else self.scale * torch.sinh(weight)

    def forward(self, x):
        return self.output(self.weight).expand(len(x), -1)


SINH_DATA, SINH_T = 400, 0.24
SINH_SCALE = math.sqrt(SINH_T / SINH_DATA)


def sinh_posterior(in_h=False):
    """No skew and Σ = F exactly: labels ±√((N−1)/N) in equal number."""
    y = math.sqrt((SINH_DATA - 1) / SINH_DATA) * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(SINH_DATA // 2)
    inputs = torch.zeros(SINH_DATA, 1, dtype=torch.float64)
    return Posterior(Sinh(SINH_SCALE, in_h), gaussian(1.0), (inputs, y[:, None]), prior=None)


def sinh_statistic(make, in_h=False, chains=2**12):
    """N h²/T of each chain, as a function of ε at T = 0.24."""
    posterior = sinh_posterior(in_h)

    def run(lr):
        draws = sample(
            posterior,
            make(lr),
            num_samples=round(5 / lr),
            num_warmup=round(5 / lr),
            num_chains=chains,
            batch_size=batch_size_for(SINH_T, lr, SINH_DATA),
            progress=False,
            compile=False,
        ).draws["weight"]
        h = posterior.model.output(draws)
        return (h**2).mean((1, 2)) * SINH_DATA / SINH_T

    return run


@pytest.mark.parametrize(
    ("measure", "drift", "damping", "value"),
    [
        pytest.param("jeffreys", "midpoint", 0.0, 1.0, marks=pytest.mark.slow),
        pytest.param("jeffreys", "exact", 0.0, 1.0, marks=pytest.mark.slow),
        ("jeffreys", "probe", 0.0, 1.0),
        pytest.param("lebesgue", "midpoint", 0.0, 0.71538, marks=pytest.mark.slow),
        ("jeffreys", "midpoint", SINH_SCALE**2 / 2, 0.93998),
        pytest.param("lebesgue", "exact", SINH_SCALE**2 / 2, 0.71538, marks=pytest.mark.slow),
        (None, "none", 0.0, 1.41704),
    ],
)
def test_sinh_model(measure, drift, damping, value):
    """N E[h²]/T at T = 0.24, in closed form, with the minibatch as the only noise but for damping and rounding of B."""

    def make(lr):
        metric = Fisher(damping=damping, inputs=ONE_INPUT)
        if measure is None:
            return NGD(lr=lr, metric=metric, temperature=SINH_T)
        return SNGD(lr=lr, metric=metric, temperature=SINH_T, measure=measure, drift=drift)

    z = extrapolated_z(sinh_statistic(make), (0.04, 0.08, 0.16), value)
    assert abs(z) < 4


class Logit(nn.Module):
    """One logit for all examples."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), -0.85, dtype=torch.float64))

    def forward(self, x):
        return self.weight.expand(len(x), 1)


@pytest.mark.parametrize(
    ("sampler", "mean", "deviation", "skewness"),
    [
        (SNGD, -0.852, 0.157, -0.109),
        pytest.param(NGD, -0.842, None, None, marks=pytest.mark.slow),
    ],
)
def test_skew_minibatch_noise(sampler, mean, deviation, skewness):
    """Batches of two, 60 ones of 200: the mean of SNGD is right, its skewness that of the noise; NGD's mean is off."""
    lr = 4 / 198
    assert temperature_of(lr, 200, 2) == pytest.approx(1.0)
    y = torch.zeros(200, 1, dtype=torch.float64)
    y[:60] = 1.0
    posterior = Posterior(Logit(), bernoulli, (torch.zeros(200, 1, dtype=torch.float64), y), prior=None)
    metric = Fisher(inputs=ONE_INPUT)
    settings = {"measure": "lebesgue", "drift": "exact"} if sampler is SNGD else {}
    draws = sample(
        posterior,
        sampler(lr=lr, metric=metric, **settings),
        num_samples=40,
        num_warmup=300,
        thinning=25,
        num_chains=2**13,
        batch_size=2,
        progress=False,
        compile=False,
    ).draws["weight"]
    draws = draws.reshape(64, -1)  # 128 chains together are one replicate
    assert abs(z_scores(draws.mean(1), mean)) < 4
    assert abs(z_scores(draws.mean(1), -0.842 if sampler is SNGD else -0.852)) > 6
    if deviation is not None:
        standard = (draws - draws.mean(1, keepdim=True)) / draws.std(1, keepdim=True)
        assert abs(z_scores(draws.std(1), deviation)) < 4
        assert abs(z_scores((standard**3).mean(1), skewness)) < 4
        assert abs(z_scores((standard**3).mean(1), -0.062)) > 6  # the posterior's


def test_reparameterisation():
    """In φ and in h = a sinh φ, SNGD has one law of h, with the measure |F|^(1/2); NGD has two."""
    means = {}
    for sampler, in_h in ((SNGD, False), (NGD, False), (SNGD, True)):

        def make(lr, sampler=sampler):
            return sampler(lr=lr, metric=Fisher(inputs=ONE_INPUT), temperature=SINH_T)

        means[sampler, in_h] = [sinh_statistic(make, in_h)(lr) for lr in (0.04, 0.08, 0.16)]
    means[NGD, True] = means[SNGD, True]  # the metric is constant in h: there they are one sampler
    weights = (8 / 3, -2.0, 1 / 3)  # of a parabola's value at ε = 0

    def z(sampler):
        pairs = list(zip(means[sampler, False], means[sampler, True], weights, strict=True))
        difference = sum(w * (a.mean() - b.mean()) for a, b, w in pairs)
        return difference / sum(w**2 * (a.var() + b.var()) / len(a) for a, b, w in pairs) ** 0.5

    assert abs(z(SNGD)) < 4
    assert abs(z(NGD)) > 6


def test_temperature_of_the_jeffreys_law():
    """⟨(ω−c)·∇C⟩ = T (D + ½⟨(ω−c)·∇log|G|⟩) with the damped G: .240, where the Lebesgue form reads .328."""
    posterior, metric = sinh_posterior(), Fisher(damping=SINH_SCALE**2 / 2, inputs=ONE_INPUT)
    chains = sample(
        posterior,
        SNGD(lr=0.02, metric=metric),
        num_samples=300,
        num_warmup=1000,
        num_chains=2**9,
        batch_size=16,
        progress=False,
        compile=False,
    )
    own, full = measured_temperature(chains), measured_temperature(chains, posterior, metric=metric, max_draws=20000)
    for reading in (own, full):
        assert abs(reading.value - SINH_T) < 4 * reading.error + 0.01 * SINH_T  # ε = 0.02 has a bias
        assert abs(reading.value - 0.328) > 8 * reading.error
    assert float(chains.sample_stats["temperature"].mean()) == pytest.approx(0.328, rel=0.05)
    assert full.source == "full gradients"
    assert full.blocks.keys() == {"weight"}
    assert measured_temperature(chains, posterior).value == own.value  # the metric is needed for full gradients


def test_a_temperature_that_the_batch_cannot_reach():
    posterior = sinh_posterior()
    message = r"make a temperature of 0\.24 .* batch_size of at least 37, or an lr of at most 0\.00833"
    for kind in (NGD, SNGD):
        sampler = kind(lr=0.02, metric=Fisher(), temperature=0.1)
        with pytest.raises(ValueError, match=message):
            sample(posterior, sampler, num_samples=1, batch_size=16, progress=False)
        with pytest.raises(ValueError, match="lr of at most"):
            sample(posterior, sampler, num_samples=1, batch_size=36, progress=False)
        sample(posterior, sampler, num_samples=1, batch_size=37, progress=False)
    with pytest.raises(ValueError, match="takes its temperature from minibatch noise"):
        sample(posterior, SNGD(lr=0.02, metric=Fisher()), num_samples=1, progress=False)
