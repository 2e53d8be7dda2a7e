"""Temperatures recorded by layer: which layers there are, what is read of them, and that all ways of running agree."""

import itertools

import pytest
import torch
from langevin.samplers import SGLD, SNGD, Chains, Fisher, LogDensity, Posterior, categorical, sample
from langevin.samplers import engine as engine_module
from langevin.samplers.target import MAX_LAYERS, Layout
from torch import nn

RUN = {"num_samples": 12, "num_warmup": 20, "thinning": 3, "num_chains": 2, "progress": False, "compile": False}
SIZES = {"a.x": 2, "b": 1, "a.y": 3, "c/d.z": 4}
LAYERS = {"a": [(0, 2), (3, 6)], "b": [(2, 3)], "c/d": [(6, 10)]}


def layout(*names: str) -> Layout:
    return Layout(names, (torch.Size((2,)),) * len(names))


def gaussian(dims: dict[str, int] = SIZES) -> LogDensity:
    """C = ½ Σᵢ i |wᵢ|² over the parameters i = 1, 2, …; every layer has a curvature of its own."""
    return LogDensity(
        lambda values: -0.5 * sum(i * (w**2).sum() for i, w in enumerate(values.values(), 1)),
        {name: torch.ones(dim, dtype=torch.float64) for name, dim in dims.items()},
    )


def network() -> Posterior:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 3, generator=generator), torch.randint(2, (60,), generator=generator)
    torch.manual_seed(0)
    return Posterior(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), categorical, (x.double(), y))


def readings(chains: Chains) -> dict[str, torch.Tensor]:
    return {name: value for name, value in chains.sample_stats.items() if name.startswith("temperature")}


def assert_same_readings(chains: Chains, others: Chains, tolerance: float = 1e-5) -> None:
    assert readings(chains).keys() == readings(others).keys()
    assert len(readings(chains)) > 2
    for name, value in readings(others).items():
        torch.testing.assert_close(chains.sample_stats[name], value, rtol=tolerance, atol=tolerance)


def test_layers_are_names_up_to_the_last_dot():
    assert gaussian().layout.layers == LAYERS
    assert layout("0.weight", "0.bias", "2.weight").layers == {"0": [(0, 4)], "2": [(4, 6)]}
    assert layout("mean", "scale").layers == {"mean": [(0, 2)], "scale": [(2, 4)]}
    assert layout("0.weight", "0.bias").layers == {}
    assert layout("w").layers == {}


def test_many_layers_are_grouped_by_fewer_components_of_their_names():
    assert len(layout(*(f"{i}.weight" for i in range(MAX_LAYERS))).layers) == MAX_LAYERS
    assert layout(*(f"{i}.weight" for i in range(MAX_LAYERS + 1))).layers == {}
    deep = layout("stem.weight", *(f"layer{i % 2}.{i // 6}.conv{i}.weight" for i in range(42)))
    assert list(deep.layers) == ["stem", *(f"layer{i % 2}.{i // 2}" for i in range(14))]
    many = layout("stem.weight", *(f"layer{i % 2}.{i}.conv.weight" for i in range(60)))
    assert list(many.layers) == ["stem", "layer0", "layer1"]
    assert many.layers["layer0"][:2] == [(2, 4), (6, 8)]


def test_a_reading_is_the_mean_of_its_layers_part_of_every_step():
    """Against (ω−c)·∇C of the layer's own coordinates, over its own number of them."""
    target = gaussian()
    cold = RUN | {"num_warmup": 0}  # c is then the start in both
    every = sample(target, SGLD(lr=0.1), **(cold | {"thinning": 1, "num_samples": 36}))
    some = sample(target, SGLD(lr=0.1), **cold)
    before = torch.cat((every.position(target)[:, :1], every.position(target)[:, :-1]), 1)
    curvature = torch.tensor([float(i) for i, dim in enumerate(SIZES.values(), 1) for _ in range(dim)])
    virial = ((before - every.state["center"][:, None]) * curvature * before)[:, 3:]
    for layer, ranges in LAYERS.items():
        expected = torch.cat([virial[..., start:stop] for start, stop in ranges], -1).mean(-1)
        torch.testing.assert_close(every.sample_stats[f"temperature[{layer}]"][:, 3:], expected)
        thinned = expected.unflatten(1, (-1, 3)).mean(-1)
        torch.testing.assert_close(some.sample_stats[f"temperature[{layer}]"][:, 1:], thinned)
    torch.testing.assert_close(every.sample_stats["temperature"][:, 3:], virial.mean(-1))


def test_a_single_layer_has_no_reading_of_its_own():
    chains = sample(gaussian({"0.weight": 3, "0.bias": 2}), SGLD(lr=0.1), **RUN)
    assert list(readings(chains)) == ["temperature"]


def test_jeffreys_chains_record_each_layers_weight():
    posterior = network()
    chains = sample(posterior, SNGD(lr=0.01, metric=Fisher(damping=0.1)), **(RUN | {"thinning": 1}), batch_size=30)
    before, tilt = chains.position(posterior)[:, -2], chains.state["log_measure_gradient"]
    terms = (before - chains.state["center"]) * tilt
    for layer, (start, stop) in {"0": (0, 16), "2": (16, 26)}.items():
        weight = chains.sample_stats[f"temperature_weight[{layer}]"][:, -1]
        torch.testing.assert_close(weight, 1 + terms[:, start:stop].mean(-1))
    torch.testing.assert_close(chains.sample_stats["temperature_weight"][:, -1], 1 + terms.mean(-1))


def test_compiled_blocks_and_steps_in_place_read_the_same():
    posterior = network()
    eager = sample(posterior, SGLD(lr=0.05), **RUN, batch_size=10)
    assert_same_readings(sample(posterior, SGLD(lr=0.05), **(RUN | {"compile": True}), batch_size=10), eager)
    large = gaussian({"a.x": 40_000, "b.x": 20_000, "a.y": 20_000})
    eager = sample(large, SGLD(lr=0.01), **RUN)
    in_place = sample(large, SGLD(lr=0.01), **(RUN | {"compile": True}))
    assert in_place.attrs["engine"].startswith("compiled, one step a call, in place")
    assert_same_readings(in_place, eager)


def stopped_between_draws(posterior, path, monkeypatch):
    """A checkpoint of a run that was interrupted 7 steps after its warm-up, at 3 steps a draw."""
    original, calls = engine_module.Engine.run, itertools.count()

    def interrupted(self, steps):
        if next(calls) == 6:  # of 1, 2, 4, 7 and 6 steps in the warm-up, and 7
            raise KeyboardInterrupt
        return original(self, min(steps, 7))

    with monkeypatch.context() as patch:
        patch.setattr(engine_module.Engine, "run", interrupted)
        patch.setattr(engine_module.Engine, "longest", 7)
        with pytest.warns(UserWarning, match="interrupted after step"):
            return sample(posterior, SGLD(lr=0.05), **RUN, checkpoint=path)


def test_a_run_that_goes_on_between_two_draws_has_the_readings_of_one_that_was_not_stopped(tmp_path, monkeypatch):
    posterior, path = network(), tmp_path / "run.nc"
    part = stopped_between_draws(posterior, path, monkeypatch)
    assert int(part.state["phase"]) == 1
    assert_same_readings(
        sample(posterior, SGLD(lr=0.05), **RUN, checkpoint=path), sample(posterior, SGLD(lr=0.05), **RUN), 1e-10
    )


def test_readings_of_other_layers_are_refused_between_draws_only(tmp_path, monkeypatch):
    posterior, path = network(), tmp_path / "run.nc"
    part = stopped_between_draws(posterior, path, monkeypatch)
    part.state["reading"] = part.state["reading"][:1]
    with pytest.raises(ValueError, match="did not tell layers apart"):
        sample(posterior, SGLD(lr=0.05), **(RUN | {"num_warmup": 0}), init=part)
    whole = sample(posterior, SGLD(lr=0.05), **RUN)
    whole.state["reading"] = whole.state["reading"][:1]
    sample(posterior, SGLD(lr=0.05), **(RUN | {"num_warmup": 0}), init=whole)


def test_names_survive_saving_and_arviz(tmp_path):
    chains = sample(gaussian(), SGLD(lr=0.1), **RUN)
    assert list(readings(chains)) == ["temperature", *(f"temperature[{layer}]" for layer in LAYERS)]
    chains.save(tmp_path / "run.nc")
    assert_same_readings(Chains.load(tmp_path / "run.nc"), chains, 0.0)
    stats = chains.to_arviz()["sample_stats"]
    assert stats["temperature[a]"].shape == (2, 12)


def test_stopped_chains_have_no_readings_later():
    target = LogDensity(lambda v: -(v["a"] ** 4).sum() - (v["b"] ** 2).sum(), {"a": torch.ones(1), "b": torch.ones(1)})
    start = torch.tensor([[0.5, 0.5], [30.0, 0.5]])
    with pytest.warns(UserWarning, match="chain 1 stopped"):
        chains = sample(target, SGLD(lr=0.01), **(RUN | {"num_warmup": 0}), init=start)
    for name in ("temperature[a]", "temperature[b]"):
        assert bool(chains.sample_stats[name][0].isfinite().all())
        assert bool(chains.sample_stats[name][1, -1].isnan())
