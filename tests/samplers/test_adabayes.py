"""AdaBayes and AdaBayes-FP: their limits, and the exact fixed point."""

import math

import pytest
import torch
from langevin.samplers import AdaBayes, AdaBayesFP, LogDensity, Posterior, gaussian, sample
from langevin.samplers.batches import Batches
from langevin.samplers.threefry import BATCHES, chain_keys
from torch import nn

STEPS, BATCH = 40, 5


def regression() -> Posterior:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, dtype=torch.float64, generator=generator)
    y = torch.randn(30, 1, dtype=torch.float64, generator=generator)
    torch.manual_seed(0)
    return Posterior(nn.Linear(3, 1).double(), gaussian(1.0), (x, y), prior=None)


def path(sampler, batch_size=BATCH) -> torch.Tensor:
    """Positions after each step, `[step, dim]`."""
    posterior = regression()
    settings = {"num_samples": STEPS, "num_chains": 1, "progress": False, "compile": False}
    chains = sample(posterior, sampler, batch_size=batch_size, **settings)
    return chains.position(posterior)[0]


def path_of(make_optimiser, debias: float = 0.0) -> torch.Tensor:
    """The same minibatches given to an optimiser of torch; `debias` replaces gradients by their debiased mean."""
    posterior = regression()
    position = posterior.default_position().requires_grad_()
    optimiser = make_optimiser([position])
    batches, keys, average, positions = Batches(30, BATCH), chain_keys(0, torch.tensor([0]), BATCHES), 0.0, []
    for step in range(STEPS):
        gradient = posterior.cost_and_gradient(position.detach()[None], batches.indices(keys, torch.tensor(step)))[1][0]
        average = debias * average + (1 - debias) * gradient
        position.grad = average / (1 - debias ** (step + 1))
        optimiser.step()
        positions.append(position.detach().clone())
    return torch.stack(positions)


@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_fixed_point_with_a_wide_prior_is_adamw(decay):
    η = 1e-2
    adamw = path_of(lambda p: torch.optim.AdamW(p, lr=η, weight_decay=decay / η, eps=0.0))
    ours = path(AdaBayesFP(lr=1e18, adam_lr=η, weight_decay=decay))
    torch.testing.assert_close(ours, adamw, rtol=1e-6, atol=1e-9)
    assert (path(AdaBayesFP(lr=1.0, adam_lr=η, weight_decay=decay)) - adamw).abs().max() > 1e-3


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_fixed_point_with_small_gradients_is_sgd(decay, beta1):
    """ησ⁻² ≫ g: the step is η_SGD times the debiased mean of gradients; plain SGD at β₁ = 0."""
    lr = 1e-2
    sgd = path_of(lambda p: torch.optim.SGD(p, lr=lr, weight_decay=decay / lr), debias=beta1)
    ours = path(AdaBayesFP(lr=lr, adam_lr=1e9, weight_decay=decay, beta1=beta1))
    torch.testing.assert_close(ours, sgd, rtol=1e-6, atol=1e-9)


def linear_target(slope: float) -> LogDensity:
    """C = −slope·x: a constant gradient g = slope, N = B = 1."""
    return LogDensity(lambda v: slope * v["x"], {"x": torch.zeros((), dtype=torch.float64)})


def settled_step(sampler, slope: float, steps: int) -> float:
    settings = {"num_samples": 1, "num_warmup": steps - 1, "num_chains": 1, "progress": False, "compile": False}
    return float(sample(linear_target(slope), sampler, **settings).sample_stats["step_size"])


def exact_fixed_point(g: float, η: float, σ2: float) -> float:
    a = 1 - η**2 / (2 * σ2)
    b = 1 - a**2 + (g * η) ** 2
    return 2 * η**2 / (b + math.sqrt(b**2 + 4 * (a * g * η) ** 2))


@pytest.mark.parametrize("product", [0.01, 0.1, 0.5, 2.0])
def test_adabayes_settles_on_its_fixed_point(product):
    """Constant g, ηg = `product`; FP is its first order, too large by about ½ηg."""
    η, σ2 = 0.05, 0.2
    g = product / η
    exact = exact_fixed_point(g, η, σ2)
    assert settled_step(AdaBayes(lr=σ2, adam_lr=η), g, 3000) == pytest.approx(exact, rel=1e-6)
    first_order = 1 / (1 / (2 * σ2) + math.sqrt(1 / (4 * σ2**2) + (g / η) ** 2))
    assert settled_step(AdaBayesFP(lr=σ2, adam_lr=η), g, 50) == pytest.approx(first_order, rel=1e-9)
    if product in (0.1, 2.0):
        wide = exact_fixed_point(product / 1e-4, 1e-4, 1e3)
        assert 1e-4 * 1e-4 / product / wide == pytest.approx({0.1: 1.05, 2.0: 2.4}[product], rel=0.01)


def test_without_gradients_the_variance_stays_at_the_prior():
    """a²σ² + η² is σ² to order η⁴: the walk is stationary."""
    step = settled_step(AdaBayes(lr=0.2, adam_lr=0.05), 0.0, 3000)
    a = 1 - 0.05**2 / 0.4
    assert step == pytest.approx(0.05**2 / (1 - a**2), rel=1e-6)
    assert step == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaBayes(lr=0.0), "lr must be positive"),
        (lambda: AdaBayes(adam_lr=-1.0), "adam_lr must be positive"),
        (lambda: AdaBayes(beta1=1.0), r"beta1 must lie in \[0, 1\), got 1.0"),
        (lambda: AdaBayesFP(weight_decay=-0.1), r"weight_decay must lie in \[0, 1\)"),
        (lambda: path(AdaBayes(lr=0.1, adam_lr=0.5)), r"adam_lr = 0.5 is too large for σ² = lr/B = 0.02"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_runs_are_those_of_an_optimiser():
    posterior = regression()
    chains = sample(posterior, AdaBayesFP(), num_samples=4, num_chains=2, progress=False, compile=False)
    assert chains.attrs["temperature"] == 0.0
