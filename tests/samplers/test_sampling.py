import warnings

import pytest
import torch
from langevin.samplers import SGLD, Chains, Cyclical, LogDensity, Polynomial, Posterior, categorical, gaussian, sample
from langevin.samplers import engine as engine_module
from torch import nn
from torch.distributions import Normal

from tests.validity.replicates import Mean


@pytest.fixture(scope="module")
def posterior():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 3, generator=generator), torch.randint(2, (60,), generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return Posterior(model, categorical, (x, y))


SETTINGS = {"num_samples": 40, "num_warmup": 20, "thinning": 3, "batch_size": 7, "seed": 3, "progress": False}


def run(posterior, **changes):
    return sample(posterior, SGLD(lr=0.05), **(SETTINGS | {"compile": False} | changes))


@pytest.fixture(scope="module")
def eight(posterior):
    return run(posterior, num_chains=8)


def assert_same(one, other, tolerance=1e-5):
    for name, value in one.draws.items():
        torch.testing.assert_close(value, other.draws[name], rtol=tolerance, atol=tolerance)
    for name, value in one.sample_stats.items():
        torch.testing.assert_close(value, other.sample_stats[name], rtol=tolerance, atol=tolerance)


def test_shapes_and_attributes(posterior, eight):
    assert {name: tuple(value.shape) for name, value in eight.draws.items()} == {
        "0.weight": (8, 40, 4, 3),
        "0.bias": (8, 40, 4),
        "2.weight": (8, 40, 2, 4),
        "2.bias": (8, 40, 2),
    }
    assert eight.warmup_stats["cost"].shape == (8, 20 // 3)
    assert (eight.attrs["num_data"], eight.attrs["batch_size"], eight.attrs["stopped"]) == (60, 7, {})
    assert eight.weights is None
    assert eight.valid.all()
    assert eight.position(posterior).shape == (8, 40, posterior.dim)


def test_a_chain_alone_is_the_chain_among_eight(posterior, eight):
    alone = run(posterior, chain_ids=[3])
    for name, value in alone.draws.items():
        torch.testing.assert_close(value[0], eight.draws[name][3], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(eight.draws["0.bias"][2], eight.draws["0.bias"][3])


def test_split_runs_are_the_whole_run(posterior, eight, tmp_path):
    first = run(posterior, num_chains=8, num_samples=15)
    first.save(tmp_path / "first.nc")
    second = run(posterior, num_chains=8, num_samples=25, num_warmup=0, init=Chains.load(tmp_path / "first.nc"))
    assert_same(Chains.concatenate([first, second]), eight, 0.0)


def test_checkpoint_resumes_where_it_was(posterior, eight, tmp_path):
    path = tmp_path / "run.nc"
    run(posterior, num_chains=8, num_samples=11, checkpoint=path)
    resumed = run(posterior, num_chains=8, checkpoint=path)
    assert_same(resumed, eight, 0.0)
    assert Chains.load(path).num_draws == 40
    with pytest.raises(ValueError, match=r"another run.*seed"):
        run(posterior, num_chains=8, checkpoint=path, seed=4)


def test_interrupted_runs_keep_what_was_drawn_and_can_go_on(posterior, eight, tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    for stop_after in (3, 9):  # in the warm-up, and in the middle of the sampling
        calls = 0
        original = engine_module.Engine.run

        def interrupted(self, steps, original=original, stop_after=stop_after):
            nonlocal calls
            calls += 1
            if calls > stop_after:
                raise KeyboardInterrupt
            return original(self, min(steps, 7))  # blocks that do not end with a draw

        monkeypatch.setattr(engine_module.Engine, "run", interrupted)
        monkeypatch.setattr(engine_module.Engine, "longest", 7)
        with pytest.warns(UserWarning, match="interrupted after step"):
            part = run(posterior, num_chains=8, checkpoint=path)
        assert part.attrs["interrupted"]
        assert part.weights is None
        monkeypatch.undo()
    assert 0 < part.num_draws < 40
    resumed = run(posterior, num_chains=8, checkpoint=path)
    for name, value in eight.draws.items():
        torch.testing.assert_close(resumed.draws[name], value, rtol=1e-5, atol=1e-5)


def test_compiled_steps_are_the_eager_steps(posterior, eight):
    compiled = run(posterior, num_chains=8, compile=True)
    assert compiled.attrs["engine"].startswith("compiled")
    assert_same(compiled, eight, 1e-5)
    # Another lr and temperature use the same compiled code, with their own values.
    other = {"num_chains": 8, "num_samples": 5}
    hot = [
        sample(posterior, SGLD(lr=0.02, temperature=0.3), **(SETTINGS | other | {"compile": c})) for c in (True, False)
    ]
    assert_same(*hot)
    assert len(posterior._compiled) == 1


def test_compilation_failure_falls_back_with_a_word(posterior, eight, monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(engine_module, "compiled", broken)
    monkeypatch.setattr("langevin.samplers.engine.WORTH_COMPILING", 0.0)
    with pytest.warns(UserWarning, match="no compiler here"):
        chains = run(posterior, num_chains=8, compile="auto", thinning=1)
    assert chains.attrs["engine"].startswith("eager, 1 thread (compiling failed, ")
    with pytest.raises(RuntimeError, match="no compiler here"):
        run(posterior, num_chains=8, compile=True, thinning=1)


def test_long_thinning_records_the_same_draws(posterior):
    every = run(posterior, num_chains=2, num_samples=600, thinning=1, num_warmup=0)
    some = run(posterior, num_chains=2, num_samples=2, thinning=300, num_warmup=0)
    for name, value in some.draws.items():
        torch.testing.assert_close(value, every.draws[name][:, 299::300], rtol=1e-4, atol=1e-5)
    reading = every.sample_stats["temperature"].unflatten(1, (2, 300)).mean(-1)
    torch.testing.assert_close(some.sample_stats["temperature"], reading, rtol=1e-3, atol=1e-4)


def test_keep(posterior, eight):
    kept = run(posterior, num_chains=8, keep=["2.*", "0.bias"], keep_warmup=True)
    assert list(kept.draws) == ["0.bias", "2.weight", "2.bias"]
    for name, value in kept.draws.items():
        torch.testing.assert_close(value, eight.draws[name], rtol=1e-5, atol=1e-5)
    assert kept.warmup_draws["2.bias"].shape == (8, 6, 2)
    with pytest.raises(ValueError, match="'nope' matches none"):
        run(posterior, keep="nope")


def test_a_diverging_chain_stops_and_the_others_go_on():
    target = LogDensity(lambda values: -(values["x"] ** 4).sum(), {"x": torch.zeros(1)})
    init = torch.tensor([[0.0], [30.0], [0.5]])  # from 30 a step overshoots ever further
    with pytest.warns(UserWarning, match="chain 1 stopped.*after step") as record:
        chains = sample(target, SGLD(lr=0.01), num_samples=20, num_chains=3, init=init, progress=False)
    assert record[0].filename == __file__
    assert list(chains.attrs["stopped"]) == ["1"]
    step = chains.attrs["stopped"]["1"]
    draws = chains.draws["x"]
    assert torch.isfinite(draws[[0, 2]]).all()
    assert torch.isfinite(draws[1, :step]).all()
    assert draws[1, step:].isnan().all()
    assert chains.valid[1].sum() == step
    assert chains.finished().attrs["chain_ids"] == [0, 2]
    assert torch.isfinite(chains.state["position"]).all()
    alone = sample(target, SGLD(lr=0.01), num_samples=20, chain_ids=[2], init=init[2], progress=False)
    torch.testing.assert_close(alone.draws["x"][0], draws[2])


def test_all_chains_stopped():
    target = LogDensity(lambda v: -(v["x"] ** 4).sum(), {"x": torch.full((1,), 50.0)})
    with pytest.warns(UserWarning, match="stopped"):
        chains = sample(target, SGLD(lr=1.0), num_samples=3000, num_chains=2, progress=False)
    assert chains.num_draws < 3000
    with pytest.raises(ValueError, match="every chain was stopped"):
        chains.finished()


def test_a_chain_stopped_before_its_first_draw_is_not_finished():
    target = LogDensity(lambda p: -0.5 * (p["w"] ** 2).sum(), {"w": torch.ones(1)})
    with pytest.warns(UserWarning, match="stopped"):
        chains = sample(target, SGLD(lr=100.0), num_samples=5, num_warmup=100, num_chains=1, progress=False)
    assert chains.num_draws == 0
    with pytest.raises(ValueError, match="every chain was stopped"):
        chains.finished()


@pytest.mark.parametrize("init", ["prior", "mode", "overdispersed"])
def test_named_starts_do_not_depend_on_the_other_chains(posterior, init):
    together = run(posterior, num_chains=3, init=init, num_samples=2)
    alone = run(posterior, chain_ids=[2], init=init, num_samples=2)
    torch.testing.assert_close(alone.draws["0.weight"][0], together.draws["0.weight"][2], rtol=1e-4, atol=1e-5)


def test_overdispersed_starts_are_twice_as_wide():
    y = torch.randn(40, 300, dtype=torch.float64)
    target = Posterior(Mean(300), gaussian(0.5), (torch.zeros(40, 1, dtype=torch.float64), y), prior=None)
    chains = sample(target, SGLD(lr=1e-12), num_samples=1, num_chains=40, init="overdispersed", progress=False)
    spread = (chains.draws["mean"][:, 0] - y.mean(0)).std() / (0.5 / 40**0.5)
    assert abs(spread - 2) < 4 * 2 / (2 * 12_000) ** 0.5


def test_recorded_statistics():
    """Cost, gradient and temperature reading of the step that led to a draw, against their definitions."""
    y = torch.randn(40, 2, dtype=torch.float64)
    target = Posterior(Mean(2), gaussian(1.0), (torch.zeros(40, 1, dtype=torch.float64), y), prior=Normal(0.0, 1.0))
    chains = sample(target, SGLD(lr=0.1), num_samples=6, num_chains=2, progress=False)
    position = torch.cat((torch.zeros(2, 1, 2, dtype=torch.float64), chains.draws["mean"]), 1)
    for draw in range(6):
        cost, gradient = target.cost_and_gradient(position[:, draw])
        torch.testing.assert_close(chains.sample_stats["cost"][:, draw], cost)
        torch.testing.assert_close(chains.sample_stats["gradient_norm"][:, draw], gradient.norm(dim=1))
        reading = (position[:, draw] * gradient).sum(1) * 40 / 2
        torch.testing.assert_close(chains.sample_stats["temperature"][:, draw], reading)


def test_center_of_the_temperature_reading_is_the_late_warmup_mean(posterior):
    chains = run(posterior, num_chains=2, num_warmup=30, keep_warmup=True, keep="2.bias")
    late = chains.warmup_draws["2.bias"][:, 5:].mean(1)
    torch.testing.assert_close(posterior.unravel(chains.state["center"])["2.bias"], late)


def test_heat_of_minibatch_noise():
    y = torch.randn(40, 200, dtype=torch.float64)
    target = Posterior(Mean(200), gaussian(0.5), (torch.zeros(40, 1, dtype=torch.float64), y), prior=None)
    chains = sample(target, SGLD(lr=0.1), num_samples=1, num_chains=4, batch_size=8, progress=False)
    exact = 0.1 * 40 / 2 * (y.var(0).mean() / 0.5**4 / 8 * (1 - 8 / 40))
    assert abs(chains.attrs["batch_temperature"] / exact - 1) < 0.15


@pytest.mark.parametrize(
    "lr",
    [
        Polynomial(a=0.1, b=10.0),
        pytest.param(Cyclical(value=0.1, length=15, exploration=0.4), marks=pytest.mark.slow),
    ],
)
def test_schedules_are_recorded_and_weight_the_draws(posterior, lr):
    chains = sample(posterior, SGLD(lr=lr), **(SETTINGS | {"num_chains": 2}))
    steps = 20 + 3 * torch.arange(1, 41) - 1
    torch.testing.assert_close(chains.sample_stats["lr"][0], lr.lr(steps).float())
    torch.testing.assert_close(chains.weights[1], (lr.lr(steps) * lr.heat(steps)).float())
    compiled = sample(posterior, SGLD(lr=lr), **(SETTINGS | {"num_chains": 2, "compile": True}))
    assert_same(chains, compiled)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 61}, "N = 60 examples, got 61"),
        ({"num_samples": 0}, "num_samples must be a whole number ≥ 1, got 0"),
        ({"num_warmup": -1}, "num_warmup"),
        ({"thinning": 1.5}, "thinning"),
        ({"num_chains": 0}, "num_chains"),
        ({"seed": -2}, "seed must be"),
        ({"init": "somewhere"}, "somewhere"),
        ({"init": torch.zeros(3)}, r"must have shape \(26,\)"),
        ({"init": torch.full((26,), float("inf"))}, "starting position of chain 0 is not finite"),
        ({"init": {"0.weight": torch.zeros(4, 3)}}, "missing"),
        ({"dtype": torch.bfloat16}, "never move"),
        ({"chain_ids": [1, 1]}, "distinct"),
        ({"compile": "maybe"}, "compile must be"),
        ({"batches": "shuffled"}, "shuffled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input(posterior, changes, message):
    with pytest.raises(ValueError, match=message):
        run(posterior, **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -0.1}, "lr must be positive and finite, got -0.1"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"lr": 0.1, "temperature": -1.0}, "temperature must be zero or positive and finite, got -1.0"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        SGLD(**arguments)


def test_zero_temperature_is_gradient_descent(posterior):
    chains = sample(posterior, SGLD(lr=0.1, temperature=0.0), num_samples=5, num_chains=1, progress=False)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model.load_state_dict({name: value.clone() for name, value in posterior.model.state_dict().items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        cost = nn.functional.cross_entropy(model(posterior.inputs), posterior.targets, reduction="sum")
        prior = sum(Normal(0.0, 1.0).log_prob(p).sum() for p in model.parameters())
        ((cost - prior) / 60).backward()
        optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(chains.draws[name][0, -1], value.detach(), rtol=1e-5, atol=1e-6)


def test_quiet_without_a_terminal(posterior, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(posterior, num_samples=2, progress=True)
    assert capsys.readouterr() == ("", "")
