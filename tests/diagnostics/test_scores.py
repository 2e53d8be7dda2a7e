"""Standard errors of scores: beside formulas, leaving examples out one by one, and repeated data."""

import math

import numpy as np
import pytest
import torch
from langevin.diagnostics import calibration
from langevin.diagnostics.scores import Means, Tally, jackknife, scores_of, terms_of

N, CLASSES = 300, 3


def classification(seed=0, n=N, sharpness=2.0):
    g = torch.Generator().manual_seed(seed)
    p = torch.softmax(torch.randn(n, CLASSES, generator=g, dtype=torch.float64), -1)
    y = torch.multinomial(p, 1, generator=g)[:, 0]
    return averages_of(torch.softmax(sharpness * p.log(), -1), y), y


def averages_of(p, y):
    return {"probability": p, "log_likelihood": p.gather(-1, y[..., None])[..., 0].log()}


def regression(seed=0, n=N):
    g = torch.Generator().manual_seed(seed)
    mean, y = torch.randn(2, n, generator=g, dtype=torch.float64)
    cdf = torch.special.ndtr(y - mean)
    log_likelihood = -0.5 * (y - mean) ** 2 - 0.5 * math.log(2 * math.pi)
    return {"mean": mean, "log_likelihood": log_likelihood, "cdf": cdf, "cdf_below": cdf}, y


def rows(averages, y, keep):
    return {name: value[keep] for name, value in averages.items()}, y[keep]


def leaving_one_out(averages, y, other=None):
    """Jackknife over examples: of scores, or of their differences from those of other averages."""
    found = []
    for left in range(len(y)):
        keep = torch.arange(len(y)) != left
        scores = scores_of(*rows(averages, y, keep))
        if other is not None:
            theirs = scores_of(*rows(other, y, keep))
            scores = {name: value - theirs[name] for name, value in scores.items()}
        found.append(scores)
    return {name: np.std([s[name] for s in found]) * math.sqrt(len(y) - 1) for name in found[0]}


def tally_of(*predictors, y):
    tally = Tally(len(predictors))
    tally.add([terms_of(averages, y) for averages in predictors])
    return tally


@pytest.mark.parametrize("problem", [classification, regression])
def test_errors_are_those_of_leaving_examples_out(problem):
    averages, y = problem()
    found, expected = tally_of(averages, y=y).errors(), leaving_one_out(averages, y)
    assert list(found) == list(expected)
    for name in found:
        assert found[name] == pytest.approx(expected[name], rel=1e-6 if name not in ("ece", "rmse") else 0.03), name


def test_errors_of_means_by_formula():
    averages, y = classification()
    right = (averages["probability"].argmax(-1) == y).double()
    errors = tally_of(averages, y=y).errors()
    assert errors["accuracy"] == pytest.approx(math.sqrt(right.mean() * (1 - right.mean()) / (N - 1)))
    assert errors["nll"] == pytest.approx(averages["log_likelihood"].std().item() / math.sqrt(N))
    averages, y = regression()
    square = (averages["mean"] - y) ** 2
    expected = square.std().item() / math.sqrt(N) / (2 * math.sqrt(square.mean()))
    assert tally_of(averages, y=y).errors()["rmse"] == pytest.approx(expected)


def test_errors_of_differences_are_paired():
    (first, y), (second, _) = classification(), classification(sharpness=0.7)
    tally = tally_of(first, second, y=y)
    expected = leaving_one_out(first, y, second)
    found = tally.errors(0, 1)
    for name in found:
        assert found[name] == pytest.approx(expected[name], rel=0.05 if name == "ece" else 1e-6, abs=1e-12), name
    assert found == pytest.approx(tally.errors(1, 0))
    assert found["nll"] < 0.7 * math.hypot(tally.errors(0)["nll"], tally.errors(1)["nll"])


def test_errors_are_those_of_repeated_data():
    """Of a forecast that is off in every bin; a standard deviation from 400 repeats has an error of 3.5 %."""
    found = [tally_of(averages, y=y) for averages, y in (classification(seed, sharpness=3.0) for seed in range(400))]
    for name in ("accuracy", "nll", "brier", "ece"):
        values = np.array([tally.means[0].scores()[name] for tally in found])
        errors = np.array([tally.errors()[name] for tally in found])
        assert values.std(ddof=1) == pytest.approx(errors.mean(), rel=0.12), name


@pytest.mark.parametrize("problem", [classification, regression])
def test_pieces_do_not_matter(problem):
    averages, y = problem()
    other = {name: value.roll(1, 0) for name, value in averages.items()}
    whole, pieces = tally_of(averages, other, y=y), Tally(2)
    for keep in torch.arange(N).split([1, 40, 200, 59]):
        pieces.add([terms_of(*rows(each, y, keep)) for each in (averages, other)])
    assert pieces.count == N
    assert pieces.means[0].scores() == pytest.approx(whole.means[0].scores())
    assert pieces.errors() == pytest.approx(whole.errors(), rel=1e-9)
    assert pieces.errors(0, 1) == pytest.approx(whole.errors(0, 1), rel=1e-9, abs=1e-12)


def test_scores_are_the_functions_of_calibration():
    averages, y = classification()
    p = averages["probability"]
    expected = {
        "accuracy": calibration.accuracy(p, y),
        "nll": calibration.nll(averages["log_likelihood"]),
        "brier": calibration.brier(p, y),
        "ece": calibration.ece(p, y),
    }
    assert scores_of(averages, y) == pytest.approx(expected)
    averages, y = regression()
    assert scores_of(averages, y)["rmse"] == pytest.approx(calibration.rmse(averages["mean"], y))


def test_targets_of_one_example_are_not_independent():
    """Five copies of every target say no more than one."""
    averages, y = classification()
    copies = {name: torch.stack([value] * 5, 1) for name, value in averages.items()}
    many, one = tally_of(copies, y=torch.stack([y] * 5, 1)), tally_of(averages, y=y)
    assert many.means[0].scores() == pytest.approx(one.means[0].scores())
    assert many.errors() == pytest.approx(one.errors())


def test_infinite_terms_leave_the_others_alone():
    averages, y = classification()
    averages["log_likelihood"][3] = -math.inf
    tally = Tally(1)
    for keep in torch.arange(N).split(100):
        tally.add([terms_of(*rows(averages, y, keep))])
    assert tally.means[0].scores()["nll"] == math.inf
    assert math.isnan(tally.errors()["nll"])
    assert math.isfinite(tally.errors()["brier"])
    finite, _ = classification(sharpness=0.7)
    both = tally_of(finite, averages, y=y)
    assert both.errors(0)["nll"] == pytest.approx(tally_of(finite, y=y).errors()["nll"])
    assert math.isnan(both.errors(0, 1)["nll"])


def test_large_terms_do_not_cancel():
    averages, y = regression()
    error = tally_of(averages, y=y).errors()["nll"]
    averages["log_likelihood"] = averages["log_likelihood"] + 2.0**27
    assert tally_of(averages, y=y).errors()["nll"] == pytest.approx(error, rel=1e-6)


def test_one_example_has_no_error_and_a_perfect_one_an_error_of_zero():
    averages, y = classification(n=1)
    assert all(math.isnan(error) for error in tally_of(averages, y=y).errors().values())
    averages, y = regression()
    averages["mean"] = y
    assert tally_of(averages, y=y).errors()["rmse"] == 0


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=9)
    without = [{"mean": float(np.delete(values, i).mean())} for i in range(9)]
    whole = {"mean": float(values.mean())}
    assert jackknife(whole, without)["mean"] == pytest.approx(values.std(ddof=1) / 3)
    assert math.isnan(jackknife(whole, without[:1])["mean"])
    assert math.isnan(jackknife(whole, [])["mean"])


def test_means_count_examples():
    averages, y = regression()
    means = Means()
    means.add(terms_of(averages, y))
    assert means.count == N
