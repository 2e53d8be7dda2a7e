import math
import sys

import pytest
import torch
from langevin.diagnostics.stein import stein_discrepancy, stein_kernel
from langevin.samplers.chains import Chains
from langevin.samplers.likelihoods import gaussian
from langevin.samplers.log_density import LogDensity
from langevin.samplers.posterior import Posterior

SD = torch.tensor([1.0, 0.1, 10.0], dtype=torch.float64)
MODULE = sys.modules[stein_kernel.__module__]


def target():
    """Gaussian of means 3 and standard deviations SD."""
    return LogDensity(lambda v: -0.5 * (((v["w"] - 3) / SD) ** 2).sum(), {"w": torch.zeros(3, dtype=torch.float64)})


def chains_of(x, **attrs):
    return Chains({"w": 3 + SD * x}, attrs=attrs)


def normal(*shape, seed=0):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kernel_is_the_stein_operator_applied_twice():
    x, y, sx, sy = normal(4, 5)
    c = 1.3

    def k(a, b):
        return (c**2 + (a - b).square().sum()) ** -0.5

    found = stein_kernel(x, sx, y, sy, c)
    for i in range(5):
        for j in range(5):
            ka, kb = torch.func.grad(k, (0, 1))(x[i], y[j])
            mixed = torch.func.jacrev(torch.func.grad(k, 0), 1)(x[i], y[j]).trace()
            expected = sx[i] @ sy[j] * k(x[i], y[j]) + sx[i] @ kb + sy[j] @ ka + mixed
            torch.testing.assert_close(found[i, j], expected, rtol=1e-10, atol=1e-12)


def test_expectation_is_zero_under_the_target_and_chance_is_told():
    x = normal(300, 2, 25)
    found = [
        stein_discrepancy(chains_of(part), target(), scale=SD, num_bootstrap=99, seed=s) for s, part in enumerate(x)
    ]
    squared = torch.tensor([f.squared for f in found])
    assert abs(squared.mean() / (squared.std() / math.sqrt(300))) < 4
    assert sum(f.null_error for f in found) / 300 == pytest.approx(squared.std().item(), rel=0.2)
    p = torch.tensor([f.p_value for f in found])
    assert abs(p.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 300) + 0.01
    assert (p < 0.05).float().mean() < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize("wrong", [lambda x: 1.5**0.5 * x, lambda x: x + 0.3])
def test_wrong_laws_are_seen(wrong):
    found = stein_discrepancy(chains_of(wrong(normal(4, 250))), target(), max_draws=1000)
    assert found.p_value < 0.01
    assert found.squared > 4 * found.null_error


def test_temperature():
    x = math.sqrt(3) * normal(4, 125)
    assert stein_discrepancy(chains_of(x, temperature=3.0), target()).p_value > 0.01
    assert stein_discrepancy(chains_of(x), target(), temperature=3.0).p_value > 0.01
    assert stein_discrepancy(chains_of(x, temperature=3.0), target(), temperature=1.0).p_value < 0.01


def test_slow_chains_of_the_right_law_are_not_called_wrong():
    p = []
    for seed in range(60):
        x = normal(4, 100, seed=seed)
        for t in range(1, 100):
            x[:, t] = 0.8 * x[:, t - 1] + 0.6 * x[:, t]
        found = stein_discrepancy(chains_of(x), target(), num_bootstrap=99)
        assert found.flip < 0.25
        p.append(found.p_value)
    assert sum(v < 0.05 for v in p) <= 60 * 0.05 + 4 * math.sqrt(60 * 0.05 * 0.95)


def test_blocks_units_and_v_statistic(monkeypatch):
    x = normal(2, 20)
    whole = stein_discrepancy(chains_of(x), target())
    z = ((SD * x) / whole.scale).flatten(0, 1)
    score = -(x / SD).flatten(0, 1) * whole.scale
    matrix = stein_kernel(z, score, z, score, math.sqrt(3))
    assert whole.value == pytest.approx(math.sqrt(matrix.mean()), rel=1e-9)
    assert whole.squared == pytest.approx((matrix.sum() - matrix.trace()).item() / (40 * 39), rel=1e-8)
    monkeypatch.setattr(MODULE, "_PAIRS", 100)
    assert stein_discrepancy(chains_of(x), target()).squared == pytest.approx(whole.squared, rel=1e-9)


def test_minibatch_scores_keep_the_expectation():
    generator = torch.Generator().manual_seed(5)
    inputs = torch.ones(8, 1, dtype=torch.float64)
    y = torch.randn(8, 1, generator=generator, dtype=torch.float64)
    model = torch.nn.Linear(1, 1, bias=False).double()
    posterior = Posterior(model, gaussian(1.0), data=(inputs, y))
    mean, sd = y.sum().item() / 9, 1 / 3
    x = mean + sd * torch.randn(200, 1, 30, 1, 1, generator=generator, dtype=torch.float64)
    found = [
        stein_discrepancy(
            Chains({"weight": part}), posterior, batch_size=2, scale=torch.tensor([sd]), num_bootstrap=2, seed=s
        )
        for s, part in enumerate(x)
    ]
    squared = torch.tensor([f.squared for f in found])
    assert found[0].source == "minibatch gradients"
    assert abs(squared.mean() / (squared.std() / math.sqrt(200))) < 4
    full = stein_discrepancy(Chains({"weight": x[0]}), posterior, scale=torch.tensor([sd]))
    assert full.value < sum(f.value for f in found) / 200


def test_stopped_chains_and_errors():
    x = normal(3, 10)
    broken = x.clone()
    broken[1] = math.nan
    found = stein_discrepancy(chains_of(broken, stopped={"1": 4}, chain_ids=[0, 1, 2]), target())
    assert (found.num_chains, found.stopped) == (2, {"1": 4})
    assert found.squared == pytest.approx(stein_discrepancy(chains_of(x[[0, 2]]), target()).squared)
    assert "chain 1" in str(found)
    for bad, settings, message in [
        (Chains({"v": x}), {}, "no draws of"),
        (chains_of(broken), {}, "not finite"),
        (chains_of(0 * x), {}, "never moved"),
        (chains_of(x), {"max_draws": 1}, "max_draws"),
        (chains_of(x), {"temperature": 0.0}, "positive"),
        (chains_of(x, measure="jeffreys"), {}, "jeffreys"),
    ]:
        with pytest.raises(ValueError, match=message):
            stein_discrepancy(bad, target(), **settings)
