"""Predictors side by side on the same test data."""

import math
import re

import numpy as np
import pytest
import torch
from langevin.diagnostics import Ensemble, Laplace, compare_predictions, evaluate_point
from langevin.samplers import Chains, Posterior, bernoulli, categorical, find_mode, gaussian
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

N, FEATURES = 60, 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


X = torch.randn(N, FEATURES, generator=generator(), dtype=torch.float64)


def problem(likelihood=categorical):
    y = (X[:, 0] + 0.5 * torch.randn(N, generator=generator(1), dtype=torch.float64) > 0).long()
    if likelihood is not categorical:
        y = y[:, None].double()
    torch.manual_seed(0)
    outputs = 2 if likelihood is categorical else 1
    posterior = Posterior(nn.Linear(FEATURES, outputs).double(), likelihood, (X[:40], y[:40]))
    g = generator(2)
    shapes = zip(posterior.layout.names, posterior.layout.shapes, strict=True)
    chains = Chains({n: torch.randn(3, 20, *s, generator=g, dtype=torch.float64) for n, s in shapes})
    return posterior, chains, find_mode(posterior), X[40:], y[40:]


def test_every_predictor_gets_its_own_scores():
    posterior, chains, mode, x, y = problem()
    laplace = Laplace.fit(posterior, mode)
    deep = torch.stack((mode, mode + 0.1))
    draws = Ensemble(posterior, laplace, num_draws=30, seed=2)
    predictors = {"chains": chains, "mode": mode, "Laplace": laplace, "two": deep, "sampled": draws}
    found = compare_predictions(predictors, posterior, x, y)
    whole = Ensemble(posterior, chains).evaluate(x, y)
    assert found.scores["chains"] == pytest.approx(whole.ensemble)
    assert found.errors["chains"] == pytest.approx(whole.ensemble_error)
    assert found.monte_carlo_errors["chains"] == pytest.approx(whole.monte_carlo_error)
    assert found.scores["mode"] == pytest.approx(evaluate_point(posterior, mode, x, y))
    assert found.scores["Laplace"] == pytest.approx(laplace.evaluate(x, y))
    assert found.scores["two"] == pytest.approx(Ensemble(posterior, deep).evaluate(x, y).ensemble)
    assert found.scores["sampled"] == pytest.approx(draws.evaluate(x, y).ensemble)
    assert found.num_draws == {"chains": 60, "mode": 1, "Laplace": 0, "two": 2, "sampled": 30}
    assert all(math.isnan(v) for name in ("mode", "Laplace") for v in found.monte_carlo_errors[name].values())
    assert (found.baseline, found.num_examples) == ("chains", 20)


def test_differences_and_their_paired_errors_by_hand():
    posterior, chains, mode, x, y = problem()
    found = compare_predictions({"mode": mode, "chains": chains}, posterior, x, y)
    p = {"mode": Ensemble(posterior, mode[None]).predict(x).mean, "chains": Ensemble(posterior, chains).predict(x).mean}
    truth = torch.nn.functional.one_hot(y, 2)
    each = {
        name: {
            "accuracy": (q.argmax(-1) == y).double(),
            "nll": -q.gather(-1, y[:, None])[:, 0].log(),
            "brier": (q - truth).square().sum(-1),
        }
        for name, q in p.items()
    }
    for one, other in (("chains", "mode"), ("mode", "chains")):
        differences = found.difference(one, other)
        for score in ("accuracy", "nll", "brier"):
            values = each[one][score] - each[other][score]
            expected = values.mean().item(), values.std().item() / math.sqrt(20)
            assert differences[score] == pytest.approx(expected), score
    assert found.difference("chains") == found.difference("chains", "mode")
    assert found.difference("mode") == dict.fromkeys(found.scores["mode"], (0.0, 0.0))
    with pytest.raises(ValueError, match="no predictor 'map'"):
        found.difference("map")


def test_laplace_of_a_regression_is_in_closed_form():
    posterior, chains, mode, x, y = problem(gaussian(0.5))
    laplace = Laplace.fit(posterior, mode)
    found = compare_predictions({"Laplace": laplace, "chains": chains}, posterior, x, y, chunk=7)
    assert found.scores["Laplace"] == pytest.approx(laplace.evaluate(x, y))
    assert list(found.scores["chains"]) == ["rmse", "nll", "coverage_90"]
    squares = {
        name: (mean - y).square()[:, 0]
        for name, mean in (("L", laplace.predict(x).mean), ("c", Ensemble(posterior, chains).predict(x).mean))
    }
    rmse = {name: values.mean().sqrt() for name, values in squares.items()}
    slopes = squares["c"] / (2 * rmse["c"]) - squares["L"] / (2 * rmse["L"])
    difference, error = found.difference("chains")["rmse"]
    assert difference == pytest.approx((rmse["c"] - rmse["L"]).item())
    assert error == pytest.approx(slopes.std().item() / math.sqrt(20))


def test_equal_compute():
    posterior, chains, mode, x, y = problem()
    laplace = Laplace.fit(posterior, mode)
    deep = torch.stack([mode + 0.1 * i for i in range(6)])
    found = compare_predictions({"chains": chains, "six": deep, "mode": mode}, posterior, x, y, num_draws=4)
    assert found.num_draws == {"chains": 4, "six": 4, "mode": 1}
    four = Ensemble(posterior, chains, num_draws=4).evaluate(x, y)
    assert found.scores["chains"] == pytest.approx(four.ensemble)
    found = compare_predictions({"Laplace": laplace}, posterior, x, y, num_draws=4, seed=3)
    assert found.scores["Laplace"] == pytest.approx(laplace.evaluate(x, y, num_draws=4, seed=3))
    with pytest.raises(ValueError, match="predictor 'all': an ensemble of 60 draws is not one of 4"):
        compare_predictions({"all": Ensemble(posterior, chains)}, posterior, x, y, num_draws=4)


@pytest.mark.parametrize("likelihood", [categorical, bernoulli, gaussian(0.5)])
def test_batches_say_what_the_whole_says(likelihood):
    posterior, chains, mode, x, y = problem(likelihood)
    predictors = {"chains": chains, "mode": mode}
    whole = compare_predictions(predictors, posterior, x, y)
    loader = DataLoader(TensorDataset(x, y), batch_size=6)
    for found in (
        compare_predictions(predictors, posterior, loader),
        compare_predictions(predictors, posterior, x, y, chunk=5),
    ):
        assert found.num_examples == 20
        for field in ("scores", "errors", "monte_carlo_errors"):
            for name in predictors:
                expected = getattr(whole, field)[name]
                assert getattr(found, field)[name] == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)
        for score, values in found.difference("mode").items():
            assert values == pytest.approx(whole.difference("mode")[score], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("chunk", [3, 8, 50])
def test_no_more_than_a_chunk_is_evaluated_at_once(chunk):
    posterior, chains, mode, x, y = problem()
    largest, outputs = 0, posterior.outputs

    def watched(position, inputs):
        nonlocal largest
        largest = max(largest, len(position) * len(inputs))
        return outputs(position, inputs)

    posterior.outputs = watched
    compare_predictions({"chains": chains, "mode": mode}, posterior, x, y, chunk=chunk)
    assert chunk / 2 < largest <= chunk


def test_other_posteriors_see_the_data_in_their_own_type():
    posterior, _, mode, x, y = problem()
    single = posterior.to(dtype=torch.float32)
    predictors = {"single": Ensemble(single, mode[None]), "double": Ensemble(posterior, mode[None])}
    found = compare_predictions(predictors, single, x, y)
    assert found.scores["single"] == pytest.approx(found.scores["double"], rel=1e-5)


def test_the_table_says_what_the_numbers_say():
    posterior, chains, mode, x, y = problem()
    found = compare_predictions(
        {"mode": mode, "four chains": chains, "Laplace": Laplace.fit(posterior, mode)}, posterior, x, y, baseline="mode"
    )
    lines = str(found).split("\n")
    assert lines[0].startswith("20 test examples")
    assert len(lines) == 1 + 4 * 4
    assert len({len(line) for line in lines[1:]}) == 1
    heads = [line for line in lines if "± paired" in line]
    assert [head.split("  ")[0] for head in heads] == [
        "accuracy (higher is better)",
        "nll (lower is better)",
        "brier (lower is better)",
        "ece (lower is better)",
    ]
    row = lines[lines.index(heads[1]) + 2]
    assert row.startswith("four chains")
    values = [float(number) for number in re.findall(r"[+-]?\d+\.\d+", row)]
    difference, error = found.difference("four chains")["nll"]
    errors = found.errors["four chains"]["nll"], found.monte_carlo_errors["four chains"]["nll"]
    np.testing.assert_allclose(values, [found.scores["four chains"]["nll"], *errors, difference, error], atol=6e-5)
    assert lines[lines.index(heads[1]) + 1].count("–") == 3
    assert lines[lines.index(heads[1]) + 3].count("–") == 2


def test_what_cannot_be_compared_is_refused():
    posterior, _, mode, x, y = problem()
    with pytest.raises(ValueError, match="no predictors"):
        compare_predictions({}, posterior, x, y)
    with pytest.raises(ValueError, match=r"baseline 'map' is none of the predictors \['mode'\]"):
        compare_predictions({"mode": mode}, posterior, x, y, baseline="map")
    with pytest.raises(ValueError, match="predictor 'short': draws must have shape"):
        compare_predictions({"mode": mode, "short": mode[1:]}, posterior, x, y)
    with pytest.raises(ValueError, match="num_draws must be at least 1"):
        compare_predictions({"mode": mode}, posterior, x, y, num_draws=0)
    with pytest.raises(ValueError, match="differ in length"):
        compare_predictions({"mode": mode}, posterior, x, y[:3])
    with pytest.raises(ValueError, match="an iterable of batches"):
        compare_predictions({"mode": mode}, posterior, x)
    other = Posterior(nn.Linear(FEATURES, 2).double(), gaussian(1.0), (X, X[:, :2]))
    with pytest.raises(ValueError, match="but y has"):
        compare_predictions({"mode": mode, "other": Ensemble(other, mode[None])}, posterior, x, y)
