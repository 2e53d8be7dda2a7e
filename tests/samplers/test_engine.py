"""The ways of running steps are one: in blocks, in place, without a center, on any number of threads."""

import contextlib
import time

import pytest
import torch
from langevin.samplers import PSGLD, SGHMC, SGLD, SGNHT, LogDensity, Posterior, categorical, control, sample
from langevin.samplers.engine import Engine
from langevin.samplers.threefry import Noise, chain_keys, normals, normals_in_one_pass, words
from torch import nn

DIM = 80_000  # of two chains: beyond what is drawn ahead, so compiled steps are made in place
RUN = {"num_warmup": 6, "num_samples": 4, "thinning": 2, "num_chains": 2, "progress": False, "keep_warmup": True}


def large(dim: int = DIM) -> LogDensity:
    """A wide Gaussian with a quartic wall: chains that start far away diverge."""
    return LogDensity(lambda p: -0.5 * (p["w"] ** 2).sum() - 0.25 * (p["w"] ** 4).sum(), {"w": torch.zeros(dim)})


def assert_same(a, b, tolerance: float = 1e-5) -> None:
    assert a.attrs["stopped"] == b.attrs["stopped"]
    for name in b.draws:
        torch.testing.assert_close(a.draws[name], b.draws[name], rtol=tolerance, atol=tolerance, equal_nan=True)
        torch.testing.assert_close(a.warmup_draws[name], b.warmup_draws[name], rtol=tolerance, atol=tolerance)
    for name, value in b.sample_stats.items():
        torch.testing.assert_close(a.sample_stats[name], value, rtol=1e-3, atol=1e-4, equal_nan=True)


def both(target, sampler, **settings):
    fast, slow = (sample(target, sampler, **(RUN | settings | {"compile": compile})) for compile in (True, False))
    assert fast.attrs["engine"].startswith("compiled, one step a call, in place")
    assert slow.attrs["engine"].startswith("eager")
    return fast, slow


def test_steps_in_place_are_the_eager_steps():
    fast, slow = both(large(), SGLD(lr=0.01))
    assert_same(fast, slow)
    resumed = sample(large(), SGLD(lr=0.01), **(RUN | {"init": fast, "num_warmup": 0, "compile": False}))
    again = sample(large(), SGLD(lr=0.01), **(RUN | {"init": slow, "num_warmup": 0, "compile": False}))
    torch.testing.assert_close(resumed.draws["w"], again.draws["w"], rtol=1e-5, atol=1e-5)


def test_a_chain_that_diverges_in_place_stops_where_it_does_eagerly():
    start = torch.zeros(2, DIM)
    start[1] = 30.0
    with pytest.warns(UserWarning, match="chain 1 stopped"):
        fast, slow = both(large(), SGLD(lr=0.01), init=start, num_warmup=2)
    assert set(fast.attrs["stopped"]) == {"1"}
    assert bool(fast.draws["w"][0].isfinite().all())
    assert bool(fast.draws["w"][1].isnan().all())
    assert fast.attrs["stopped"] == slow.attrs["stopped"]
    torch.testing.assert_close(fast.draws["w"][0], slow.draws["w"][0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [PSGLD(lr=0.003, damping=1.0), SGHMC(lr=0.005), SGNHT(lr=0.005)], ids=repr)
def test_every_sampler_of_large_states_does_the_same_in_place(sampler):
    assert_same(*both(large(), sampler))


def test_many_parameters_are_read_without_a_center(monkeypatch):
    """c = 0 gives temperatures with the same average; nothing else changes."""
    centred = sample(large(), SGLD(lr=0.1), **(RUN | {"num_warmup": 60, "num_samples": 20}), compile=False)
    monkeypatch.setattr("langevin.samplers.engine.CENTERED_DIM", DIM)
    lean = sample(large(), SGLD(lr=0.1), **(RUN | {"num_warmup": 60, "num_samples": 20}), compile=False)
    assert torch.equal(lean.draws["w"], centred.draws["w"])
    assert not torch.equal(lean.sample_stats["temperature"], centred.sample_stats["temperature"])
    for chains in (lean, centred):
        # lr = 0.1 heats by some percent; the readings' own spread is √(2/D).
        assert chains.sample_stats["temperature"].mean() == pytest.approx(1.0, abs=0.2)
    torch.testing.assert_close(
        lean.sample_stats["temperature"].mean(), centred.sample_stats["temperature"].mean(), rtol=0.02, atol=0.0
    )


@pytest.mark.parametrize("dim", [1, 2, 7, 64])
@pytest.mark.parametrize("stream", [0, 3])
def test_noise_in_one_pass_is_the_noise(dim, stream):
    keys = chain_keys(5, torch.arange(3), 0)
    for dtype, rounding in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
        for step in (torch.tensor(11), torch.tensor([1, 2, 3])):
            expected = normals(keys, step, dim, dtype, stream)
            found = normals_in_one_pass(keys, step, dim, dtype, stream)
            torch.testing.assert_close(found, expected, rtol=0.0, atol=rounding)


def test_words_do_not_depend_on_how_they_are_laid_out():
    keys, steps = chain_keys(2, torch.arange(9), 0), torch.arange(9)
    for count in (1, 3, 5, 40):  # more rows than pairs of words, and fewer
        alone = torch.cat([words(keys[c : c + 1], steps[c], count) for c in range(9)])
        assert torch.equal(words(keys, steps, count), alone)


def test_too_many_numbers_for_one_step_are_refused():
    noise = Noise(chain_keys(0, torch.arange(1), 0), torch.tensor(0), torch.float32)
    with pytest.raises(ValueError, match="one step can draw at most"):
        noise.normal(2**31)


@pytest.mark.parametrize(("on_all", "on_one", "threads"), [(1.0, 2.0, 2), (1.0, 1.05, 1), (2.0, 1.0, 1)])
def test_threads_are_those_that_were_measured_to_be_faster(on_all, on_one, threads):
    def time_step():
        return on_all if torch.get_num_threads() == 2 else on_one

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        cpu, found = torch.device("cpu"), 0
        with contextlib.suppress(KeyError), control.threads_for(control.PARALLEL_WORK, cpu, time_step):
            found = torch.get_num_threads()
            raise KeyError("an error inside")
        assert found == threads
        assert torch.get_num_threads() == 2
        for work, many in ((100, 1), (control.PARALLEL_WORK * 100, 2)):
            with control.threads_for(work, cpu, lambda: pytest.fail("timed although there is no doubt")):
                assert torch.get_num_threads() == many
    finally:
        torch.set_num_threads(before)


def test_short_runs_are_not_compiled_and_say_why(monkeypatch):
    target = LogDensity(lambda p: -0.5 * (p["w"] ** 2).sum(), {"w": torch.zeros(2)})
    chains = sample(target, SGLD(lr=0.1), num_samples=3, progress=False)
    assert "too short to repay compiling" in chains.attrs["engine"]
    times = iter((1.0, 0.5))
    monkeypatch.setattr(Engine, "seconds_per_step", lambda self: next(times))
    monkeypatch.setattr(Engine, "compile_seconds", 0.0)
    monkeypatch.setattr(Engine, "compile", lambda self: setattr(self, "description", "compiled at once"))
    chains = sample(target, SGLD(lr=0.1), num_samples=3, progress=False)
    assert chains.attrs["engine"] == "compiled at once, 1 thread"


def test_how_long_compiling_takes_is_measured(monkeypatch):
    monkeypatch.setattr(Engine, "compile_seconds", 1e9)
    target = LogDensity(lambda p: -0.5 * (p["w"] ** 2).sum(), {"w": torch.zeros(2)})
    began = time.perf_counter()
    sample(target, SGLD(lr=0.1), num_samples=3, progress=False, compile=True)
    assert 0.01 < Engine.compile_seconds < time.perf_counter() - began


def test_autocast_rounds_gradients_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 10, generator=generator), torch.randint(0, 3, (200,), generator=generator)
    posterior = Posterior(nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 3)), categorical, (x, y))
    half = posterior.with_autocast()
    position = 0.5 * torch.randn(2, posterior.dim, generator=generator)
    exact, rounded = (target.cost_and_gradient(position)[1] for target in (posterior, half))
    off = ((rounded - exact).norm() / exact.norm()).item()
    assert 1e-4 < off < 2e-2  # bfloat16 has 8 bits
    chains = sample(half, SGLD(lr=0.1), num_samples=5, num_chains=2, batch_size=20, progress=False)
    assert chains.attrs["autocast"] == "bfloat16"
    assert chains.attrs["dtype"] == "float32"
    assert chains.draws["0.weight"].dtype == torch.float32
    with pytest.raises(ValueError, match="float16 loses small gradients"):
        posterior.with_autocast(torch.float16)
    with pytest.raises(ValueError, match="rounding"):
        sample(posterior, SGLD(lr=0.1), num_samples=1, dtype=torch.bfloat16)


def small_images(**settings) -> tuple[Posterior, dict]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 1, 6, 6, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    return Posterior(model, categorical, (x, y)), RUN | {"num_chains": 1, "batch_size": 10, **settings}


def test_large_convolutional_networks_keep_eager_gradients(monkeypatch):
    monkeypatch.setattr("langevin.samplers.engine.LONG_GRADIENT", 0.0)
    posterior, settings = small_images()
    fast, slow = (sample(posterior, SGHMC(lr=0.05), **settings, compile=compile) for compile in (True, False))
    assert fast.attrs["engine"].startswith("compiled, one step a call, in place, after an eager gradient")
    assert_same(fast, slow)


def test_compiled_steps_that_are_slower_are_not_used(monkeypatch):
    monkeypatch.setattr("langevin.samplers.engine.WORTH_COMPILING", 0.0)
    posterior, settings = small_images()
    times = iter((1.0, 3.0))
    monkeypatch.setattr(Engine, "seconds_per_step", lambda self: next(times))
    chains = sample(posterior, SGLD(lr=0.05), **settings)
    assert chains.attrs["engine"] == "eager, 1 thread (compiled steps take 3 times as long)"
    assert_same(chains, sample(posterior, SGLD(lr=0.05), **settings, compile=False), 1e-6)


def test_a_chain_of_convolutions_is_the_same_alone_and_beside_others():
    posterior, settings = small_images()
    alone = sample(posterior, SGLD(lr=0.05), **settings, compile=False)
    beside = sample(posterior, SGLD(lr=0.05), **(settings | {"num_chains": 3}), compile=False)
    for name, value in alone.draws.items():
        torch.testing.assert_close(value[0], beside.draws[name][0], rtol=1e-5, atol=1e-6)
