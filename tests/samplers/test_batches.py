import math

import pytest
import torch
from langevin.samplers.batches import Batches, domain, num_rounds, permute
from langevin.samplers.threefry import BATCHES, chain_keys


@pytest.mark.parametrize("num_data", [1, 2, 3, 4, 5, 7, 11, 23, 101, 1009, 60_000])
def test_every_key_gives_a_permutation(num_data):
    index = torch.arange(num_data, dtype=torch.int32).expand(3, -1)
    image = permute(index, chain_keys(0, torch.arange(3), BATCHES), torch.tensor(5), num_data)
    assert torch.equal(image.sort(-1).values, torch.arange(num_data).expand(3, -1))
    if num_data > 20:
        assert not torch.equal(image[0], image[1])


def test_domain_holds_the_data_with_little_excess():
    for num_data in [*range(3, 300), 1009, 2**31 - 1, 10**9 + 7]:
        a, b = domain(num_data)
        assert 2 <= a <= b
        assert 0 <= a * b - num_data <= math.isqrt(num_data) + 1
        assert num_rounds(a) % 2 == 0


@pytest.mark.parametrize("num_data", [3, 5, 6, 10, 16, 23, 100])
def test_pairs_are_uniform(num_data):
    steps = 200_000
    keys = chain_keys(11, torch.tensor([0]), BATCHES).expand(steps, -1)
    index = torch.arange(2, dtype=torch.int32).expand(steps, -1)
    image = permute(index, keys, torch.arange(steps), num_data)
    counts = torch.bincount(image[:, 0] * num_data + image[:, 1], minlength=num_data**2).reshape(num_data, num_data)
    off = ~torch.eye(num_data, dtype=torch.bool)
    assert counts.diagonal().sum() == 0
    expected = steps / (num_data * (num_data - 1))
    degrees = num_data * (num_data - 1) - 1
    chi_square = ((counts[off] - expected) ** 2 / expected).sum()
    assert abs(chi_square - degrees) < 4.5 * math.sqrt(2 * degrees)


@pytest.mark.parametrize(("num_data", "batch_size"), [(7, 3), (10, 9), (200, 10), (997, 50)])
def test_variance_of_a_batch_mean_has_the_finite_population_factor(num_data, batch_size):
    steps = 40_000
    values = torch.randn(num_data, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keys = chain_keys(5, torch.tensor([2]), BATCHES).expand(steps, -1)
    means = values[Batches(num_data, batch_size).indices(keys, torch.arange(steps))].mean(1)
    exact = values.var() / batch_size * (1 - batch_size / num_data)
    square = (means - values.mean()) ** 2
    assert abs(square.mean() - exact) < 4 * square.std() / math.sqrt(steps)
    lag = (means[1:] - values.mean()) * (means[:-1] - values.mean())
    assert abs(lag.mean()) < 4 * lag.std() / math.sqrt(steps)


def test_epoch_sweeps_use_every_example_once_and_carry_on_over_the_border():
    batches = Batches(10, 4, "epoch")
    keys = chain_keys(0, torch.arange(2), BATCHES)
    swept = torch.cat([batches.indices(keys, torch.tensor(step)) for step in range(10)], -1)
    for epoch in swept.unflatten(1, (4, 10)).unbind(1):
        assert torch.equal(epoch.sort(-1).values, torch.arange(10).expand(2, -1))
    assert not torch.equal(swept[:, :10], swept[:, 10:20])
    full = Batches(10, 10, "epoch").indices(keys, torch.tensor([3, 4]))
    assert torch.equal(full.sort(-1).values, torch.arange(10).expand(2, -1))


@pytest.mark.parametrize("batch_size", [0, 11])
def test_batch_size_out_of_range(batch_size):
    with pytest.raises(ValueError, match=f"N = 10 examples, got {batch_size}"):
        Batches(10, batch_size)


def test_unknown_order():
    with pytest.raises(ValueError, match="shuffle"):
        Batches(10, 2, "shuffle")
