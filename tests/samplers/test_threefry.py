import math

import pytest
import torch
from langevin.samplers.threefry import BATCHES, NOISE, Noise, chain_keys, normals, threefry2x32, words


def signed(word):
    return torch.tensor(word - 2**32 if word >= 2**31 else word, dtype=torch.int32)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),  # Random123's known answers for threefry2x32-20
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(counter, key, expected):
    out = threefry2x32(tuple(map(signed, key)), tuple(map(signed, counter)))
    assert tuple(int(word) & 0xFFFFFFFF for word in out) == expected


def test_normals_are_standard_and_independent():
    keys = chain_keys(7, torch.arange(2000), NOISE)
    z = normals(keys, torch.tensor(3), 501, torch.float64)  # an odd length uses half of the last pair
    count = z.numel()
    assert z.shape == (2000, 501)
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, 3)]:
        spread = math.sqrt({1: 1, 2: 2, 3: 15, 4: 96}[power] / count)
        assert abs((z**power).mean() - moment) < 4 * spread
    later = normals(keys, torch.tensor(4), 501, torch.float64)
    other = Noise(keys, torch.tensor(3), torch.float64).normal(501, stream=1)
    neighbour = torch.roll(z, 1, 0), torch.roll(z, 1, 1), torch.roll(z, 250, 1), later, other
    for partner in neighbour:
        assert abs((z * partner).mean()) < 4 / math.sqrt(count)
        assert abs((z**2 * partner**2).mean() - 1) < 4 * math.sqrt(8 / count)


def test_uniform_and_signs():
    noise = Noise(chain_keys(0, torch.arange(500), NOISE), torch.tensor(0), torch.float32)
    uniform = noise.uniform(400)
    assert uniform.min() > 0
    assert uniform.max() <= 1
    assert abs(uniform.mean() - 0.5) < 4 * math.sqrt(1 / 12 / uniform.numel())
    signs = noise.rademacher(400)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / math.sqrt(signs.numel())


def test_a_chain_draws_the_same_alone_and_together():
    together = normals(chain_keys(1, torch.arange(64), NOISE), torch.tensor(9), 33, torch.float32)
    alone = normals(chain_keys(1, torch.tensor([41]), NOISE), torch.tensor(9), 33, torch.float32)
    assert torch.equal(together[41], alone[0])
    by_row = words(chain_keys(1, torch.arange(3), NOISE), torch.tensor([5, 6, 7]), 8)
    for row, step in enumerate((5, 6, 7)):
        assert torch.equal(by_row[row], words(chain_keys(1, torch.tensor([row]), NOISE), torch.tensor(step), 8)[0])


def test_keys_differ_in_every_part():
    chains = torch.arange(100)
    keys = torch.cat(
        [chain_keys(seed, chains, purpose) for seed in (0, 1, 2**32, 2**63) for purpose in (NOISE, BATCHES)]
    )
    assert len(torch.unique(keys, dim=0)) == len(keys)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match="seed must be"):
        chain_keys(seed, torch.arange(2), NOISE)
