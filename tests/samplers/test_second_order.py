"""The second-order algorithm and batch-size scaling of McAllester's slides."""

import pytest
import torch
from langevin.samplers import SGHMC, Posterior, SecondOrderSGD, gaussian, sample, scale_to_batch

from tests.validity.replicates import Mean

N = 4000


def mean_model(dim: int = 1, shift: float = 0.5) -> Posterior:
    """L = (ω − y)²/2 with y of mean `shift` and variance 1."""
    y = torch.randn(N, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = (y - y.mean(0)) / y.std(0) + shift
    return Posterior(Mean(dim), gaussian(1.0), (torch.zeros(N, 1, dtype=torch.float64), y), prior=None)


@pytest.mark.parametrize("batch_size", [1, 8, 100, 1000])
def test_number_of_batches_at_a_fixed_position(batch_size):
    """A learning rate of almost 0 keeps ω = 0, where g = −0.5 and σ = 1."""
    sampler = SecondOrderSGD(smoothness=1e9, window=64)
    chains = sample(
        mean_model(),
        sampler,
        num_samples=300,
        num_warmup=700,
        num_chains=48,
        batch_size=batch_size,
        progress=False,
        compile=False,
    )
    n = 1 / (2e9 * chains.sample_stats["step_size"])
    expected = max(1.0, 16 / (batch_size * 0.5**2) * (1 - batch_size / N))
    assert float(n.median()) == pytest.approx(expected, rel=0.2)


def test_nothing_moves_in_the_first_window_and_steps_never_exceed_half_the_inverse_smoothness():
    chains = sample(
        mean_model(shift=5.0), SecondOrderSGD(smoothness=1.0, window=16), num_samples=100, num_chains=4, batch_size=50,
        progress=False, compile=False,
    )  # fmt: skip
    moved = chains.draws["mean"].abs().sum((0, 2)) > 0
    assert moved.nonzero()[0] == 16
    assert chains.sample_stats["step_size"].max() == pytest.approx(0.5)


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_it_converges_and_its_steps_fall(batch_size):
    """After n* = 1 far from the mode the memory recovers: the window sees to that."""
    posterior = mean_model(dim=3, shift=2.0)
    chains = sample(
        posterior,
        SecondOrderSGD(smoothness=1.0),
        num_samples=5000,
        num_chains=8,
        batch_size=batch_size,
        progress=False,
        compile=False,
    )
    error = (chains.draws["mean"] - 2.0).square().mean((0, 2))
    assert error[-2000:].mean() < 0.1 / batch_size  # SGD with steps 1/2L would stay at 1/(3B)
    steps = chains.sample_stats["step_size"].mean(0)
    assert steps[-500:].mean() < 0.05 * steps.max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SecondOrderSGD(smoothness=-1.0), "smoothness must be positive"),
        (lambda: SecondOrderSGD(smoothness=1.0, window=1), "at least 2, got 1"),
        (lambda: SecondOrderSGD(smoothness=1.0, confidence=0.0), "confidence must be positive"),
        (lambda: scale_to_batch(0.1, 1.0, 10), r"momentum must lie in \[0, 1\), got 1.0"),
        (lambda: scale_to_batch(0.1, 0.9, 0), "batch_size must be positive"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def loss_after(examples: int, lr: float, momentum: float, batch_size: int) -> torch.Tensor:
    """Mean loss of SGD with momentum, at four places along `examples` seen."""
    steps = examples // batch_size
    chains = sample(
        mean_model(dim=20, shift=2.0),
        SGHMC(lr=lr, momentum=momentum, temperature=0.0),
        num_samples=steps,
        num_chains=8,
        batch_size=batch_size,
        progress=False,
        compile=False,
    )
    loss = 0.5 * ((chains.draws["mean"] - 2.0).square().mean((0, 2)) + 1)
    return loss[torch.arange(1, 5) * steps // 4 - 1]


def test_scaled_runs_coincide_against_examples_seen():
    """N′_g = 64, η′N′_g = 1/16: within the documented 2 % at B = 16 and 7 % at B = 64."""
    examples, lr, momentum = 4096, 1 / 1024 / 64, 1 - 1 / 64
    one = loss_after(examples, lr, momentum, 1)
    for batch_size, tolerance in ((16, 0.02), (64, 0.07)):
        scaled = loss_after(examples, *scale_to_batch(lr, momentum, batch_size), batch_size)
        assert (scaled / one - 1).abs().max() < tolerance, (batch_size, scaled / one)
        unscaled = loss_after(examples, lr, momentum, batch_size)
        assert (unscaled / one - 1).abs().max() > 0.5


def test_scaling_there_and_back():
    lr, momentum = scale_to_batch(0.01, 0.99, 8)
    assert momentum == pytest.approx(1 - 8 / 100)
    assert scale_to_batch(lr, momentum, 1, from_batch=8) == pytest.approx((0.01, 0.99))
    assert scale_to_batch(0.01, 0.9, 100)[1] == 0.0
