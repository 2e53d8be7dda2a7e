"""The rules: what is trusted, what is not, and that the advice would work."""

from __future__ import annotations

import math
import re

import pytest
import torch
from langevin.diagnostics import Evaluation, Temperature, convergence
from langevin.diagnostics.rules import LEVELS, RULES, most
from langevin.diagnostics.verdict import judge
from langevin.samplers import Chains


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chains_of(x: torch.Tensor, **attrs: object) -> Chains:
    made = {
        "sampler": "SGLD",
        "settings": {"lr": 0.1, "temperature": 1.0},
        "temperature": 1.0,
        "num_warmup": 100,
        "thinning": 1,
    }
    made |= {"num_samples": x.shape[1], "chain_ids": list(range(x.shape[0]))}
    return Chains(draws={"w": x}, attrs=made | attrs)


def autoregressive(chains: int, draws: int, size: int, rho: float, seed: int = 0) -> torch.Tensor:
    steps = noise(draws, chains, size, seed=seed) * math.sqrt(1 - rho**2)
    x = [noise(chains, size, seed=seed + 10_000)]
    for step in steps:
        x.append(rho * x[-1] + step)
    return torch.stack(x[1:], 1)


def reading(
    value: float,
    error: float = 0.005,
    nominal: float | None = 1.0,
    share: float = 0.0,
    shortfall: float = 0.0,
    **blocks: tuple[float, float],
) -> Temperature:
    return Temperature(
        value=value,
        error=error,
        interval=(value - 1.96 * error, value + 1.96 * error),
        shortfall=shortfall,
        nominal=nominal,
        batch_share=share,
        blocks=blocks,
        source="full gradients",
        num_chains=4,
        num_draws=50,
        stopped={},
    )


def verdict_of(chains: Chains, temperature: Temperature | None = None, **more: object):
    return judge(chains, convergence(chains), temperature or reading(1.0), **more)  # type: ignore[arg-type]


def finding(verdict, topic: str):
    return next(f for f in verdict.findings if f.topic == topic)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_its_limits_on_the_right_side(name):
    rule = RULES[name]
    good, bad = rule.good, rule.bad
    beyond = bad + (1 if good <= bad else -1)
    assert rule.level(good) == "trust"
    assert rule.level(good + (bad - good) / 1e6 if math.isfinite(bad) else good + 1e-9) in ("look", "do not trust")
    if math.isfinite(bad):
        assert rule.level(bad) in ("look", "trust")
        assert rule.level(beyond) == "do not trust"
    assert rule.level(math.nan) == "do not trust"


def test_most_leaves_five_per_cent_aside_and_nothing_of_a_few():
    assert most(torch.arange(100.0)) == 94.0
    assert most(torch.arange(100.0), largest=False) == 5.0
    assert most(torch.arange(19.0)) == 18.0


@pytest.mark.parametrize("size", [1, 10, 2000])
@pytest.mark.parametrize("seed", range(3))
def test_sound_chains_are_trusted_however_many_numbers_there_are(size, seed):
    verdict = verdict_of(chains_of(noise(4, 500, size, seed=seed)))
    assert verdict.level == "trust", verdict.findings
    assert len(verdict.sentences) == 3
    assert all(f.level == "trust" for f in verdict.findings)


@pytest.mark.parametrize("seed", range(3))
def test_slowly_moving_chains_of_enough_effective_draws_are_trusted(seed):
    # rho = .8: one effective draw in nine, 1,800 of 16,000
    verdict = verdict_of(chains_of(autoregressive(4, 4000, 100, 0.8, seed)))
    assert verdict.level == "trust", verdict.findings


def test_separate_levels_are_not_trusted():
    x = noise(4, 500, 30)
    x[0] += 1.0
    verdict = verdict_of(chains_of(x))
    assert verdict.level == "do not trust"
    assert finding(verdict, "R̂ of parameters").level == "do not trust"
    assert "num_warmup=" in finding(verdict, "R̂ of parameters").remedy


def test_one_strayed_number_among_thousands_is_seen():
    x = noise(4, 1000, 3000)
    x[0, :, 17] += 1.5
    assert finding(verdict_of(chains_of(x)), "R̂ of parameters").level == "do not trust"


def test_few_effective_draws_are_not_trusted_and_the_remedy_supplies_them():
    x = autoregressive(4, 2000, 50, 0.98)  # 8,000 draws worth about 80
    verdict = verdict_of(chains_of(x))
    found = finding(verdict, "ESS of parameters")
    assert found.level == "do not trust"
    more = int(re.search(r"num_samples=(\d+)", found.remedy)[1])
    cured = verdict_of(chains_of(autoregressive(4, more, 50, 0.98, seed=1)))
    assert finding(cured, "ESS of parameters").level == "trust"


def test_a_single_chain_is_looked_at():
    verdict = verdict_of(chains_of(noise(1, 2000, 10)))
    assert verdict.level == "look"
    assert finding(verdict, "one chain").level == "look"
    assert not any(f.topic == "R̂ of parameters" for f in verdict.findings)


@pytest.mark.parametrize(("draws", "level"), [(60, "trust"), (30, "look"), (10, "do not trust")])
def test_few_draws(draws, level):
    verdict = verdict_of(chains_of(noise(40, draws, 3)))
    assert [f.level for f in verdict.findings if f.topic == "few draws"] == ([] if level == "trust" else [level])


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (1.0, "trust"),
        (1.1, "trust"),
        (0.9, "trust"),
        (1.2, "look"),
        (0.8, "look"),
        (1.5, "do not trust"),
        (0.5, "do not trust"),
    ],
)
def test_temperature(value, level):
    verdict = verdict_of(chains_of(noise(4, 1000, 5)), reading(value))
    assert finding(verdict, "temperature").level == level
    assert verdict.level == level


def test_a_reading_that_short_chains_lower_is_no_alarm():
    chains = chains_of(noise(4, 1000, 5))
    assert finding(verdict_of(chains, reading(0.8)), "temperature").level == "look"
    assert finding(verdict_of(chains, reading(0.8, shortfall=0.2)), "temperature").level == "trust"
    assert finding(verdict_of(chains, reading(1.2, shortfall=0.2)), "temperature").level == "look"


def test_an_uncertain_temperature_raises_no_false_alarm_but_is_named():
    verdict = verdict_of(chains_of(noise(4, 1000, 5)), reading(1.3, error=0.2))
    assert finding(verdict, "temperature").level == "trust"
    assert finding(verdict, "temperature's error").level == "look"


def test_readings_at_the_nominal_temperature_are_within_their_errors_for_hundreds_of_tensors():
    error = 0.1
    z = noise(500).clamp(-3.9, 3.9)
    blocks = {f"layer{i}": (1 + error * float(z[i]), error) for i in range(500)}
    verdict = verdict_of(chains_of(noise(4, 1000, 5)), reading(1.0, **blocks))
    assert verdict.level == "trust"
    blocks["layer7"] = (2.0, error)
    verdict = verdict_of(chains_of(noise(4, 1000, 5)), reading(1.0, **blocks))
    assert finding(verdict, "temperature by layer").level == "look"
    assert "layer7" in finding(verdict, "temperature by layer").sentence


@pytest.mark.parametrize("nominal", [0.1, 1.0])
def test_the_advice_against_heat_brings_it_within_tolerance(nominal):
    N, B, lr, T = 1000, 20, 0.1, nominal * 1.5
    chains = chains_of(noise(4, 1000, 5), num_data=N, batch_size=B, temperature=nominal)
    found = finding(verdict_of(chains, reading(T, 0.001 * nominal, nominal, T - nominal)), "temperature")
    assert found.level == "do not trust"
    assert "minibatch" in found.sentence
    lr_advised = float(re.search(r"`lr` from 0.1 to about ([\d.e-]+)", found.remedy)[1])
    B_advised = int(re.search(r"`batch_size` from 20 to (\d+)", found.remedy)[1])

    def heat(lr: float, B: int) -> float:  # the excess is proportional to lr (1/B − 1/N)
        return (T - nominal) * lr / 0.1 * (1 / B - 1 / N) / (1 / 20 - 1 / N)

    tolerated = RULES["temperature"].good * nominal
    assert 0.4 * tolerated < heat(lr_advised, B) < 0.6 * tolerated
    assert 0.4 * tolerated < heat(lr, B_advised) <= 0.5 * tolerated


def test_full_batch_heat_is_blamed_on_the_step():
    found = finding(
        verdict_of(chains_of(noise(4, 1000, 5), num_data=100, batch_size=None), reading(1.4)), "temperature"
    )
    assert "steps are long" in found.sentence
    assert "batch_size" not in found.remedy


@pytest.mark.parametrize(
    ("temperature", "measure", "sentence"),
    [
        (1.0, "lebesgue", None),
        (0.5, "lebesgue", "The draws are from exp(−C/0.5): the posterior, tempered."),
        (1.0, "jeffreys", "The draws are from exp(−C) |G|^½: the posterior, with the Jeffreys factor of the metric."),
    ],
)
def test_a_law_that_is_not_the_posterior_is_named(temperature, measure, sentence):
    chains = chains_of(noise(4, 1000, 5), temperature=temperature, settings={"measure": measure})
    found = [
        f.sentence for f in verdict_of(chains, reading(temperature, nominal=temperature)).findings if f.topic == "law"
    ]
    assert found == ([sentence] if sentence else [])


def test_a_law_that_the_sampler_states_is_repeated():
    chains = chains_of(noise(4, 1000, 5), law="a fitted Gaussian", settings={})
    found = [f.sentence for f in verdict_of(chains, reading(1.0)).findings if f.topic == "law"]
    assert found == ["The draws are not from the posterior but from a fitted Gaussian."]


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [({"temperature": 0.0}, "Sample with `temperature=1.0`."), ({}, "Take another sampler; this one has no")],
)
def test_an_optimiser_is_no_sampler(settings, remedy):
    verdict = verdict_of(chains_of(noise(4, 1000, 5), settings=settings), reading(0.0, nominal=0.0))
    assert verdict.level == "do not trust"
    assert finding(verdict, "temperature").remedy.startswith(remedy)


def test_a_temperature_that_cannot_be_told():
    assert verdict_of(chains_of(noise(4, 1000, 5)), reading(1.0, error=math.nan)).level == "look"
    assert verdict_of(chains_of(noise(4, 1000, 5)), reading(1.0, nominal=None)).level == "trust"


@pytest.mark.parametrize(("stopped", "level"), [(1, "look"), (2, "do not trust"), (3, "do not trust")])
def test_stopped_chains(stopped, level):
    x = noise(4, 1000, 5)
    x[:stopped, 500:] = math.nan
    chains = chains_of(x, stopped={str(c): 600 for c in range(stopped)})
    diverged = torch.zeros(4, 1000, dtype=torch.bool)
    diverged[:stopped, 500:] = True
    chains.sample_stats["diverged"] = diverged
    found = finding(verdict_of(chains), "stopped chains")
    assert found.level == level
    assert "chain 0 at step 600" in found.sentence
    assert "from 0.1 to 0.0333" in found.remedy


def test_all_chains_stopped_is_never_trusted():
    chains = chains_of(torch.full((2, 10, 3), math.nan), stopped={"0": 1, "1": 2})
    chains.sample_stats["diverged"] = torch.ones(2, 10, dtype=torch.bool)
    verdict = judge(chains, None, None)
    assert verdict.level == "do not trust"
    assert len(verdict.sentences) == 3


def test_chains_at_rest():
    x = noise(4, 1000, 5)
    x[2] = x[2, :1]
    verdict = verdict_of(chains_of(x))
    assert finding(verdict, "chains at rest").level == "do not trust"
    assert "Chain 2 never moved" in finding(verdict, "chains at rest").sentence


@pytest.mark.parametrize(("still", "level"), [(0, None), (1, "look"), (50, "do not trust")])
def test_numbers_at_rest(still, level):
    x = noise(4, 1000, 200)
    x[..., :still] = 0.5
    levels = [f.level for f in verdict_of(chains_of(x)).findings if f.topic == "numbers at rest"]
    assert levels == ([level] if level else [])


def test_constant_draws_of_every_chain():
    verdict = verdict_of(chains_of(torch.ones(4, 100, 3)))
    assert verdict.level == "do not trust"


def test_weights_of_a_network_count_only_where_predictions_were_not_judged():
    agreed = convergence(chains_of(noise(4, 1000, 100)))
    x = noise(4, 1000, 30)
    x[0] += 3
    chains = chains_of(x)
    weights = convergence(chains)
    both = type(weights)(**(vars(weights) | {"predictions": agreed}))
    network = judge(chains, both, reading(1.0), symmetric=True)
    assert network.level == "trust"
    assert finding(network, "single weights").level == "note"
    assert "permuted" in network.basis
    assert judge(chains, both, reading(1.0), symmetric=False).level == "do not trust"
    alone = judge(chains, weights, reading(1.0), symmetric=True)
    assert alone.level == "do not trust"
    assert "test=(x, y)" in finding(alone, "basis").remedy


def test_disagreeing_predictions_are_not_trusted_even_if_weights_agree():
    x = noise(4, 1000, 30)
    x[0] += 3
    agreed = convergence(chains_of(noise(4, 1000, 30)))
    both = type(agreed)(**(vars(agreed) | {"predictions": convergence(chains_of(x))}))
    assert judge(chains_of(noise(4, 1000, 30)), both, reading(1.0), symmetric=True).level == "do not trust"


def test_notes_do_not_change_the_verdict():
    chains = chains_of(noise(4, 1000, 5), interrupted=True, num_samples=5000)
    weight = torch.linspace(1, 2, 1000).expand(4, -1)
    chains.sample_stats["weight"] = weight
    scores = {"accuracy": 0.9, "nll": 0.5, "brier": 0.2, "ece": 0.2}
    evaluation = Evaluation(scores, scores, scores, 100, 100)
    verdict = verdict_of(chains, evaluation=evaluation, mode=scores, confidence=0.6)
    assert verdict.level == "trust"
    assert "1000 of 5000" in finding(verdict, "interrupted").sentence
    kish = float(weight.sum() ** 2 / (weight**2).sum() / weight.numel())
    assert f"worth {kish:.0%}" in finding(verdict, "weights of draws").sentence
    assert "no better" in finding(verdict, "ensemble").sentence
    assert "not sure enough" in finding(verdict, "calibration").sentence


def test_findings_are_sorted_worst_first_and_remedies_come_with_what_counts():
    x = noise(4, 200, 5)
    x[0] += 1
    verdict = verdict_of(chains_of(x, interrupted=True), reading(1.2))
    order = [LEVELS.index(f.level) if f.level in LEVELS else -1 for f in verdict.findings]
    assert order == sorted(order, reverse=True)
    assert all(f.remedy for f in verdict.findings if f.level in LEVELS[1:])
