import math

import pytest
import torch
from langevin.diagnostics import thermometer as module
from langevin.diagnostics.thermometer import temperature
from langevin.samplers.chains import Chains
from langevin.samplers.likelihoods import gaussian
from langevin.samplers.log_density import LogDensity
from langevin.samplers.posterior import Posterior
from langevin.samplers.sampling import sample
from langevin.samplers.sgld import SGLD
from torch.distributions import Normal, constraints

PRECISION = torch.tensor([1.0, 25.0, 0.04], dtype=torch.float64)


def target():
    """C = ½ Σ λᵢ(wᵢ − 3)² over a vector and a scalar parameter."""

    def log_density(values):
        both = torch.cat((values["w"], values["b"][None]))
        return -0.5 * (PRECISION * (both - 3) ** 2).sum()

    return LogDensity(
        log_density, {"w": torch.zeros(2, dtype=torch.float64), "b": torch.zeros((), dtype=torch.float64)}
    )


def autoregressive(runs, num_chains, num_draws, rho, generator):
    """Stationary AR(1), unit variance, `[run, chain, draw, 3]`."""
    x = torch.randn(runs, num_chains, num_draws, 3, dtype=torch.float64, generator=generator)
    for t in range(1, num_draws):
        x[:, :, t] = rho * x[:, :, t - 1] + math.sqrt(1 - rho**2) * x[:, :, t]
    return x


def chains_of(x, heat=1.0, **attrs):
    """`[chain, draw, 3]` standard normal numbers as chains of `target()` at a temperature."""
    position = 3 + x * (heat / PRECISION).sqrt()
    return Chains({"w": position[..., :2], "b": position[..., 2]}, attrs={"temperature": heat} | attrs)


def z_of(values, expected):
    values = torch.as_tensor(values, dtype=torch.float64)
    return ((values.mean() - expected) / (values.std() / math.sqrt(len(values)))).item()


@pytest.mark.parametrize(("num_chains", "rho", "heat"), [(4, 0.5, 1.0), (2, 0.7, 0.1)])
def test_intervals_hold_what_they_promise(num_chains, rho, heat):
    density = target()
    runs = autoregressive(200, num_chains, 100, rho, torch.Generator().manual_seed(0))
    found = [temperature(chains_of(x, heat), density, max_draws=400) for x in runs]
    inside = sum(t.interval[0] <= heat <= t.interval[1] for t in found)
    assert 180 <= inside <= 198
    assert abs(z_of([t.value for t in found], heat)) < 4
    errors = torch.tensor([t.error for t in found])
    spread = torch.tensor([t.value for t in found]).std()
    assert errors.mean() / spread == pytest.approx(1, abs=4 / math.sqrt(2 * 200))


def test_several_chains_are_read_without_bias_however_slow():
    """IAT/n = 39/60: with its own mean as c a chain would read about half."""
    density = target()
    rho, num_draws = 0.95, 60
    runs = autoregressive(400, 4, num_draws, rho, torch.Generator().manual_seed(1))
    found = [temperature(chains_of(x), density) for x in runs]
    assert abs(z_of([t.value for t in found], 1.0)) < 4
    assert all(t.shortfall == 0 for t in found)
    own = (runs * (runs - runs.mean(2, keepdim=True))).mean((1, 2, 3))
    assert z_of(own, 1.0) < -20


def test_a_single_chain_reads_low_by_the_square_of_its_shortness():
    density = target()
    rho, num_draws = 0.9, 200
    runs = autoregressive(300, 1, num_draws, rho, torch.Generator().manual_seed(2))
    found = [temperature(chains_of(x), density) for x in runs]
    lags = torch.arange(num_draws)
    correlation = rho ** (lags[:100, None] - lags[None, 100:]).abs().double()
    assert abs(z_of([t.value for t in found], 1 - correlation.mean().item())) < 4
    told = torch.tensor([t.shortfall for t in found]).median().item()
    assert told == pytest.approx(correlation.mean().item(), rel=0.5)


def test_readings_of_the_sampler_and_their_shortfall():
    """c where the chain starts: too low by the mean autocorrelation with the start."""
    rho, num_draws = 0.8, 100
    runs = autoregressive(300, 4, num_draws + 1, rho, torch.Generator().manual_seed(3))
    found = []
    for x in runs:
        chains = chains_of(x[:, 1:], batch_temperature=0.25, batch_size=10)
        chains.sample_stats["temperature"] = (x[:, 1:] * (x[:, 1:] - x[:, :1])).mean(-1).float()
        found.append(temperature(chains))
    hidden = (rho ** torch.arange(1, num_draws + 1).double()).mean().item()
    assert abs(z_of([t.value for t in found], 1 - hidden)) < 4
    assert torch.tensor([t.shortfall for t in found]).median().item() == pytest.approx(hidden, rel=0.3)
    one = found[0]
    assert (one.source, one.nominal, one.batch_share, one.blocks) == ("minibatch gradients", 1.0, 0.25, {})
    assert one.force is None
    assert "too low" in str(one)
    assert "minibatch noise alone makes 0.25" in str(one)


def test_each_parameter_is_a_thermometer():
    density = target()
    x = autoregressive(1, 4, 500, 0.0, torch.Generator().manual_seed(4))[0]
    x[..., 2] *= 2  # b at four times the temperature
    found = temperature(chains_of(x), density, max_draws=2000)
    for name, expected in (("w", 1.0), ("b", 4.0)):
        value, error = found.blocks[name]
        assert abs(value - expected) < 4 * error
        least = expected * math.sqrt(2 / (2 if name == "w" else 1) / 2000)
        assert 0.8 * least < error < 1.5 * least  # the larger of two estimates, one of them from 16 batch means
    assert found.value == pytest.approx((2 * found.blocks["w"][0] + found.blocks["b"][0]) / 3)
    assert (found.num_chains, found.num_draws, found.source) == (4, 500, "full gradients")
    assert "b" in str(found)


def test_langevin_dynamics_reads_the_temperature_of_its_discretised_law():
    """T/(1 − ελ/2) for each direction, by full gradients and by the sampler's own readings."""
    curvature = torch.tensor([1.0, 0.2]).repeat_interleave(50)
    density = LogDensity(lambda values: -0.5 * (curvature * values["w"] ** 2).sum(), {"w": torch.zeros(100)})
    chains = sample(
        density, SGLD(lr=0.6, temperature=2.0), num_samples=400, num_warmup=100, thinning=5, seed=0, progress=False
    )
    expected = (2.0 / (1 - 0.3 * curvature)).mean().item()
    for found in (temperature(chains, density, max_draws=1600), temperature(chains)):
        assert abs(found.value - expected) < 4 * found.error
        assert found.error < 0.05
        assert abs(found.value - 2.0) > 4 * found.error


def test_full_gradients_in_pieces(monkeypatch):
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x @ torch.tensor([1.0, -1, 2], dtype=torch.float64)[:, None]
    model = torch.nn.Linear(3, 1, bias=False).double()
    posterior = Posterior(model, gaussian(0.5), (x, y), prior=Normal(torch.zeros((), dtype=torch.float64), 2.0))
    w = torch.randn(3, 8, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradient = torch.einsum("cdoi,nm,ni->cdom", w, x, x) / 0.25 - (x.T @ y).T / 0.25 + w / 4
    others = (w.mean(1).sum(0) - w.mean(1)) / 2
    expected = ((w - others[:, None]) * gradient).mean().item()
    monkeypatch.setattr(module, "_NUMBERS", 20)
    for at_once in (2**15, 70, 7):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        assert temperature(Chains({"weight": w}), posterior).value == pytest.approx(expected, rel=1e-10)


def test_constrained_parameters_are_read_where_they_are_sampled():
    """θ > 0 with log θ ~ N(0, 1): the free coordinate is the thermometer."""
    density = LogDensity(
        lambda values: -values["theta"].log() - 0.5 * values["theta"].log() ** 2,
        {"theta": torch.ones(())},
        {"theta": constraints.positive},
    )
    x = torch.randn(4, 500, generator=torch.Generator().manual_seed(5))
    found = temperature(Chains({"theta": x.exp()}), density, max_draws=2000)
    assert abs(found.value - 1) < 4 * found.error


def test_layers_are_read_without_a_posterior():
    """With a name like that of the whole, and over the layer's own weight for Jeffreys chains."""
    generator = torch.Generator().manual_seed(10)
    readings = torch.randn(4, 400, generator=generator) * 0.1 + 1
    stats = {"temperature": readings, "temperature[0]": 2 * readings, "temperature[a/b]": 3 * readings}
    chains = Chains({"w": torch.randn(4, 400, generator=generator)}, stats)
    found = temperature(chains)
    assert found.blocks.keys() == {"0", "a/b"}
    for layer, factor in (("0", 2), ("a/b", 3)):
        assert found.blocks[layer] == pytest.approx((factor * found.value, factor * found.error))
    weights = {
        "temperature_weight": readings,
        "temperature_weight[0]": 4 * readings,
        "temperature_weight[a/b]": readings,
    }
    heavy = temperature(Chains(chains.draws, stats | weights))
    assert heavy.blocks["0"][0] == pytest.approx(0.5)
    assert heavy.blocks["a/b"][0] == pytest.approx(3.0)


def test_draws_of_unequal_weight():
    """Hot draws count as little as their weight says."""
    generator = torch.Generator().manual_seed(6)
    readings = torch.randn(4, 300, generator=generator) * 0.1 + 1
    readings[:, ::2] += 1
    weight = torch.ones(4, 300)
    weight[:, ::2] = 1 / 3
    chains = Chains({"w": torch.randn(4, 300, generator=generator)}, {"temperature": readings, "weight": weight})
    assert temperature(chains).value == pytest.approx(1.25, abs=0.02)
    del chains.sample_stats["weight"]
    assert temperature(chains).value == pytest.approx(1.5, abs=0.02)


def test_stopped_chains_are_left_out_and_named():
    x = autoregressive(1, 3, 60, 0.0, torch.Generator().manual_seed(7))[0]
    whole = temperature(chains_of(x[:2]), target())
    x[2, 30:] = math.nan
    chains = chains_of(x, chain_ids=[0, 1, 5], stopped={"5": 77})
    chains.sample_stats["diverged"] = x[..., 0].isnan()
    found = temperature(chains, target())
    assert found.value == pytest.approx(whole.value)
    assert found.num_chains == 2
    assert "chain 5 at step 77" in str(found)
    chains.sample_stats["diverged"][:] = True
    with pytest.raises(ValueError, match="every chain was stopped"):
        temperature(chains, target())


def test_few_draws_give_no_error_rather_than_a_wrong_one():
    found = temperature(chains_of(autoregressive(1, 2, 3, 0.0, torch.Generator().manual_seed(8))[0]), target())
    assert math.isfinite(found.value)
    assert math.isnan(found.error)
    assert math.isnan(found.interval[0])
    assert str(found)


def test_clear_errors():
    x = autoregressive(1, 2, 20, 0.0, torch.Generator().manual_seed(9))[0]
    with pytest.raises(ValueError, match="no temperature readings; give the posterior"):
        temperature(chains_of(x))
    with pytest.raises(ValueError, match="max_draws must be at least 1, got 0"):
        temperature(chains_of(x), target(), max_draws=0)
    chains = chains_of(x, batches="epoch")
    chains.sample_stats["temperature"] = x[..., 0]
    with pytest.raises(ValueError, match="sweeps through the data"):
        temperature(chains)
    assert temperature(chains, target()).num_draws == 20
    del chains.draws["b"]
    with pytest.raises(ValueError, match=r"no draws of \['b'\]"):
        temperature(chains, target())
