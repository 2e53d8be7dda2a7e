import math

import numpy as np
import pytest
import torch
from langevin.diagnostics.nested import nested_rhat
from langevin.samplers.chains import Chains
from scipy.special import ndtri
from scipy.stats import rankdata


def formula(x, number):
    """R̂_ν of one element, `[chain, draw]`, written out sum by sum."""
    num_chains, num_draws = x.shape
    size = num_chains // number
    groups = [x[k * size : (k + 1) * size] for k in range(number)]
    means = [np.mean([np.mean(chain) for chain in group]) for group in groups]
    between = sum((m - np.mean(means)) ** 2 for m in means) / (number - 1)
    within = 0.0
    for group, mean in zip(groups, means, strict=True):
        if size > 1:
            within += sum((chain.mean() - mean) ** 2 for chain in group) / (size - 1) / number
        if num_draws > 1:
            within += sum(((chain - chain.mean()) ** 2).sum() / (num_draws - 1) for chain in group) / size / number
    return math.sqrt(1 + between / within)


@pytest.mark.parametrize(("chains", "number", "num_draws"), [(6, 2, 1), (6, 3, 5), (4, 4, 2), (8, 2, 3)])
@pytest.mark.parametrize("rank", [False, True])
def test_is_the_formula(chains, number, num_draws, rank):
    x = np.random.default_rng(0).standard_cauchy((chains, num_draws, 2, 3)).round(1)  # with ties
    found = nested_rhat(torch.from_numpy(x), number, rank_normalized=rank)
    assert found.shape == (2, 3)
    assert found.dtype == torch.float64
    for i, j in np.ndindex(2, 3):
        one = x[..., i, j]
        if rank:
            one = ndtri((rankdata(one).reshape(one.shape) - 0.375) / (one.size + 0.25))
        np.testing.assert_allclose(found[i, j], formula(one, number), rtol=1e-10)


@pytest.mark.parametrize(("size", "num_draws"), [(16, 1), (8, 4), (1, 20)])
def test_expected_value_of_independent_draws(size, num_draws):
    """E[B̂/Ŵ] is 1/(M(N+1)), 1/M for one draw, 1/N for one chain; z-score over independent elements."""
    number, repeats = 64, 2000
    x = torch.randn(number * size, num_draws, repeats, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ratio = nested_rhat(x, number).square() - 1
    within = 1 if num_draws == 1 else (1 + 1 / num_draws if size > 1 else 1)
    expected = 1 / (size * num_draws) / within
    # B̂ and Ŵ are independent, and the mean of 1/Ŵ exceeds 1/mean by about Var(Ŵ)/Ŵ².
    spread = 4 / (number * (size * num_draws - 1))
    error = ratio.std().item() / math.sqrt(repeats)
    assert abs(ratio.mean().item() - expected) < 4 * error + spread * expected
    assert error < 0.01 * expected


def test_shifted_superchains():
    """Superchains k at distance k·δ: R̂² = 1 + (δ²·5/3 + 1/M)/1 for K = 4 and one draw."""
    x = torch.randn(4 * 5000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x += 0.5 * torch.arange(4).repeat_interleave(5000)[:, None]
    assert nested_rhat(x, 4).item() == pytest.approx(math.sqrt(1 + 0.25 * 5 / 3), rel=0.03)


def test_assignment_and_chains():
    x = torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(3))
    labels = [7, 2, 2, 7, 7, 2]
    sorted_first = nested_rhat(x[[1, 2, 5, 0, 3, 4]], 2)
    torch.testing.assert_close(nested_rhat(x, labels), sorted_first)
    assert not torch.allclose(sorted_first, nested_rhat(x, 2))
    torch.testing.assert_close(nested_rhat(Chains({"w": x}), torch.tensor(labels))["w"], sorted_first)


def test_still_elements():
    still = torch.full((4, 3), 0.1)
    assert nested_rhat(still, 2).isnan()
    still[2:] = 0.3
    assert nested_rhat(still, 2).item() == math.inf


def test_errors():
    x = torch.zeros(6, 1)
    cases = [
        (4, "divided"),
        (1, "at least 2"),
        (0, "at least 2"),
        (6, "one chain per"),
        ([0] * 5, "label"),
        ([0, 0, 0, 0, 1, 1], "equal size"),
        ([1] * 6, "at least 2"),
    ]
    for number, message in cases:
        with pytest.raises(ValueError, match=message):
            nested_rhat(x, number)
    with pytest.raises(ValueError, match="not finite"):
        nested_rhat(torch.full((4, 2), math.nan), 2)
    with pytest.raises(ValueError, match="shape"):
        nested_rhat(torch.zeros(4), 2)
    with pytest.raises(ValueError, match="stopped"):
        nested_rhat(Chains({"w": x}, attrs={"stopped": {"1": 3}}), 2)
