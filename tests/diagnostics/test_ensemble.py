import gc
import math
import weakref

import numpy as np
import pytest
import torch
from langevin.diagnostics import calibration
from langevin.diagnostics.ensemble import Ensemble, evaluate_point
from langevin.samplers.chains import Chains
from langevin.samplers.likelihoods import bernoulli, categorical, gaussian, heteroscedastic_gaussian, poisson
from langevin.samplers.posterior import Posterior
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import poisson as counts
from torch import nn
from torch.distributions import Laplace as DoubleExponential
from torch.distributions import MultivariateNormal, Normal, VonMises
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

N, FEATURES = 37, 4
X = torch.randn(N, FEATURES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def posterior_of(likelihood, y, outputs, x=X, model=None):
    torch.manual_seed(0)
    return Posterior((model or nn.Linear(FEATURES, outputs)).double(), likelihood, (x, y))


def chains_of(posterior, num_chains=2, num_draws=15, scale=1.0, **stats):
    shapes = zip(posterior.layout.names, posterior.layout.shapes, strict=True)
    g = generator()
    draws = {n: scale * torch.randn(num_chains, num_draws, *s, generator=g, dtype=torch.float64) for n, s in shapes}
    return Chains(draws, stats, {"chain_ids": list(range(num_chains))})


def outputs_of(posterior, chains, x=X):
    """One forward pass after another, `[draw, n, ...]`."""
    flat = chains.position(posterior).flatten(0, 1)
    return torch.stack([posterior.outputs(position[None], x)[0] for position in flat])


def classification():
    y = torch.arange(N) % 3
    posterior = posterior_of(categorical, y, 3)
    return posterior, chains_of(posterior), y


def test_class_probabilities_entropy_and_mutual_information():
    posterior, chains, _ = classification()
    prediction = Ensemble(posterior, chains).predict(X)
    p = torch.softmax(outputs_of(posterior, chains), -1)
    torch.testing.assert_close(prediction.mean, p.mean(0))

    def entropy(p):
        return -(p * p.log()).sum(-1)

    torch.testing.assert_close(prediction.entropy, entropy(p.mean(0)))
    information = (p * (p / p.mean(0)).log()).sum(-1).mean(0)  # mean divergence from the mean, the other definition
    torch.testing.assert_close(prediction.mutual_information, information)
    assert prediction.sd is None


def test_draws_that_agree_carry_no_information():
    posterior, chains, _ = classification()
    same = Chains({name: value[:1, :1].expand(2, 15, *value.shape[2:]) for name, value in chains.draws.items()})
    information = Ensemble(posterior, same).predict(X).mutual_information
    assert information is not None
    assert (information >= 0).all()
    assert information.max() < 1e-12


def test_scores_of_ensemble_and_of_single_draws():
    posterior, chains, y = classification()
    found = Ensemble(posterior, chains).evaluate(X, y)
    p = torch.softmax(outputs_of(posterior, chains), -1)
    own = p.gather(-1, y.expand(30, -1)[..., None]).squeeze(-1)

    def scores(p, own):
        return {
            "accuracy": calibration.accuracy(p, y),
            "nll": -own.log().mean().item(),
            "brier": calibration.brier(p, y),
            "ece": calibration.ece(p, y),
        }

    assert found.ensemble == pytest.approx(scores(p.mean(0), own.mean(0)))
    singles = [scores(one, its) for one, its in zip(p, own, strict=True)]
    for name in found.ensemble:
        values = np.array([single[name] for single in singles])
        assert found.single[name] == pytest.approx(values.mean())
        assert found.single_sd[name] == pytest.approx(values.std(ddof=1))
    assert (found.num_draws, found.num_single) == (30, 30)
    assert list(found.ensemble) == ["accuracy", "nll", "brier", "ece"]
    flat = chains.position(posterior).flatten(0, 1)
    assert evaluate_point(posterior, flat[4], X, y) == pytest.approx(singles[4])


def test_table_is_aligned():
    posterior, chains, y = classification()
    lines = str(Ensemble(posterior, chains).evaluate(X, y)).split("\n")
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    assert "ensemble of 30" in lines[0]
    alone = Ensemble(posterior, chains, num_draws=1).evaluate(X, y)
    assert math.isnan(alone.single_sd["nll"])
    assert "nan" in str(alone)


@pytest.mark.parametrize("chunk", [1, 7, 40, 100, 10**6])
def test_pieces_do_not_change_the_numbers_and_bound_the_memory(chunk):
    posterior, chains, y = classification()
    ensemble = Ensemble(posterior, chains)
    prediction, scores = ensemble.predict(X), ensemble.evaluate(X, y)
    largest = 0
    outputs = posterior.outputs

    def watched(position, inputs):
        nonlocal largest
        largest = max(largest, len(position) * len(inputs))
        return outputs(position, inputs)

    posterior.outputs = watched
    again = ensemble.predict(X, chunk=chunk)
    for field in ("mean", "entropy", "mutual_information"):
        torch.testing.assert_close(getattr(again, field), getattr(prediction, field))
    assert ensemble.evaluate(X, y, chunk=chunk).ensemble == pytest.approx(scores.ensemble)
    assert largest <= chunk


def test_draws_count_by_their_weight():
    y = torch.randn(N, 1, generator=generator(), dtype=torch.float64)
    posterior = posterior_of(gaussian(0.5), y, 1)
    weight = torch.arange(1.0, 16.0).expand(2, 15)
    chains = chains_of(posterior, weight=weight)
    w = (weight / weight.sum()).flatten().double()[:, None, None]
    ensemble = Ensemble(posterior, chains)
    prediction = ensemble.predict(X)
    mean = outputs_of(posterior, chains)
    torch.testing.assert_close(prediction.mean, (w * mean).sum(0))
    torch.testing.assert_close(prediction.epistemic_sd, (w * (mean - prediction.mean) ** 2).sum(0).sqrt())
    likelihood = (w * Normal(mean, 0.5).log_prob(y).exp()).sum(0)
    assert ensemble.evaluate(X, y).ensemble["nll"] == pytest.approx(-likelihood.log().mean().item())


def test_regression_moments_scores_and_intervals():
    y = X[:, :1] + 0.3 * torch.randn(N, 1, generator=generator(), dtype=torch.float64)
    posterior = posterior_of(gaussian(0.3), y, 1)
    chains = chains_of(posterior, scale=0.5)
    ensemble = Ensemble(posterior, chains)
    prediction = ensemble.predict(X)
    mean = outputs_of(posterior, chains)
    torch.testing.assert_close(prediction.mean, mean.mean(0))
    torch.testing.assert_close(prediction.epistemic_sd, mean.std(0, correction=0))
    torch.testing.assert_close(prediction.aleatoric_sd, torch.full_like(y, 0.3))
    torch.testing.assert_close(prediction.sd, (mean.var(0, correction=0) + 0.09).sqrt())
    found = ensemble.evaluate(X, y)
    assert list(found.ensemble) == ["rmse", "nll", "coverage_90"]
    assert found.ensemble["rmse"] == pytest.approx((mean.mean(0) - y).square().mean().sqrt().item())
    own = Normal(mean, 0.3).log_prob(y).exp().mean(0)
    assert found.ensemble["nll"] == pytest.approx(-own.log().mean().item())

    lower, upper = ensemble.interval(X)
    for row in (0, 10, 36):
        for end, prob in ((lower, 0.05), (upper, 0.95)):
            exact = brentq(lambda q: norm.cdf(q, mean[:, row, 0], 0.3).mean() - prob, -20, 20, xtol=1e-13)  # noqa: B023
            assert end[row, 0].item() == pytest.approx(exact, abs=1e-9)
    assert found.ensemble["coverage_90"] == calibration.coverage(lower, upper, y)
    single = [calibration.coverage(m - 1.6448536 * 0.3, m + 1.6448536 * 0.3, y) for m in mean]
    assert found.single["coverage_90"] == pytest.approx(np.mean(single))
    narrow, wide = ensemble.interval(X, level=0.5, chunk=64)
    assert ((lower < narrow) & (narrow < wide) & (wide < upper)).all()


def test_large_means_do_not_cancel():
    y = torch.zeros(N, 1, dtype=torch.float64)
    posterior = posterior_of(gaussian(1e-3), y, 1)
    chains = chains_of(posterior, scale=1e-4)
    chains.draws["bias"] += 1e6
    prediction = Ensemble(posterior, chains).predict(X, chunk=50)
    expected = outputs_of(posterior, chains).sub(1e6).std(0, correction=0)
    torch.testing.assert_close(prediction.epistemic_sd, expected, rtol=1e-4, atol=0)


def test_counts():
    rate = (0.5 * X[:, 0]).exp()
    y = torch.poisson(rate, generator=generator())
    model = nn.Sequential(nn.Linear(FEATURES, 1), nn.Flatten(0))
    posterior = posterior_of(poisson, y, 1, model=model)
    chains = chains_of(posterior, scale=0.4)
    ensemble = Ensemble(posterior, chains)
    rates = outputs_of(posterior, chains).exp()
    prediction = ensemble.predict(X)
    torch.testing.assert_close(prediction.mean, rates.mean(0))
    torch.testing.assert_close(prediction.sd, (rates.mean(0) + rates.var(0, correction=0)).sqrt())
    lower, upper = ensemble.interval(X)
    for row in range(N):
        cdf = counts.cdf(np.arange(60), rates[:, row, None].numpy()).mean(0)
        assert lower[row] == np.argmax(cdf >= 0.05)
        assert upper[row] == np.argmax(cdf >= 0.95)
    for targets, inside in ((lower, 1.0), (upper, 1.0), (upper + 1, 0.0)):
        assert ensemble.evaluate(X, targets).ensemble["coverage_90"] == inside
    found = ensemble.evaluate(X, y.long())
    assert found.ensemble["coverage_90"] == calibration.coverage(lower, upper, y)
    own = counts.pmf(y.numpy(), rates.numpy()).mean(0)
    assert found.ensemble["nll"] == pytest.approx(-np.log(own).mean())


def test_heteroscedastic_noise():
    y = torch.randn(N, generator=generator(), dtype=torch.float64)
    posterior = posterior_of(heteroscedastic_gaussian, y, 2)
    chains = chains_of(posterior, scale=0.3)
    outputs = outputs_of(posterior, chains)
    prediction = Ensemble(posterior, chains).predict(X)
    torch.testing.assert_close(prediction.aleatoric_sd, (2 * outputs[..., 1]).exp().mean(0).sqrt())
    own = Normal(outputs[..., 0], outputs[..., 1].exp()).log_prob(y).exp().mean(0)
    scores = Ensemble(posterior, chains).evaluate(X, y).ensemble
    assert scores["nll"] == pytest.approx(-own.log().mean().item())
    assert scores["coverage_90"] == calibration.coverage(*Ensemble(posterior, chains).interval(X), y)


@pytest.mark.parametrize("as_column", [True, False])
def test_binary_labels_are_two_classes(as_column):
    y = (X[:, :1] > 0).long()
    model = nn.Linear(FEATURES, 1)
    if not as_column:
        y, model = y[:, 0], nn.Sequential(model, nn.Flatten(0))
    posterior = posterior_of(bernoulli, y, 1, model=model)
    chains = chains_of(posterior)
    prediction = Ensemble(posterior, chains).predict(X)
    p = torch.sigmoid(outputs_of(posterior, chains)).mean(0)
    torch.testing.assert_close(prediction.mean, torch.stack((1 - p, p), -1))
    for targets in (y, y.double(), y.bool(), y.numpy()):
        scores = Ensemble(posterior, chains).evaluate(X, targets).ensemble
        assert scores["accuracy"] == ((p > 0.5) == y).double().mean().item()
        assert scores["brier"] == pytest.approx(2 * (p - y).square().mean().item())
        assert scores["nll"] == pytest.approx(-torch.where(y == 1, p, 1 - p).log().mean().item())


class PerPixel(nn.Module):
    """A class for each of 5 pixels, from a dictionary of inputs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(FEATURES, 15)

    def forward(self, image, shift):
        return self.linear(image).unflatten(-1, (5, 3)) + shift[:, None, None]


def test_many_outputs_and_dictionary_inputs():
    x = {"image": X, "shift": torch.arange(N, dtype=torch.float64)}
    y = (torch.arange(N)[:, None] + torch.arange(5)) % 3
    posterior = posterior_of(categorical, y, 15, x=x, model=PerPixel())
    chains = chains_of(posterior)
    ensemble = Ensemble(posterior, chains)
    prediction = ensemble.predict(x, chunk=100)
    p = torch.softmax(outputs_of(posterior, chains, x), -1)
    assert prediction.mean.shape == (N, 5, 3)
    torch.testing.assert_close(prediction.mean, p.mean(0))
    assert prediction.entropy is not None
    assert prediction.entropy.shape == (N, 5)
    own = p.mean(0).gather(-1, y[..., None])
    scores = ensemble.evaluate(x, y).ensemble
    assert scores["nll"] == pytest.approx(-own.log().mean().item())
    assert scores["accuracy"] == pytest.approx((p.mean(0).argmax(-1) == y).double().mean().item())
    with pytest.raises(ValueError, match=r"got \[36, 37\] rows"):
        ensemble.predict({"image": X, "shift": torch.zeros(36)})
    arrays = {name: value.numpy().astype(np.float32) for name, value in x.items()}
    torch.testing.assert_close(ensemble.predict(arrays).mean, p.mean(0), rtol=1e-4, atol=1e-5)


class FixedDraws:
    """What `Laplace` offers."""

    def __init__(self, dim):
        self.dim = dim

    def sample(self, n, seed=0):
        return torch.randn(n, self.dim, generator=generator(seed), dtype=torch.float64)


def test_draws_of_an_approximation():
    posterior, _, y = classification()
    laplace = FixedDraws(posterior.dim)
    ensemble = Ensemble(posterior, laplace, seed=3)
    torch.testing.assert_close(ensemble.positions, laplace.sample(200, seed=3))
    assert Ensemble(posterior, laplace, num_draws=7).evaluate(X, y).num_draws == 7
    found = Ensemble(posterior, laplace, num_draws=150).evaluate(X, y)
    assert (found.num_draws, found.num_single) == (150, 100)
    with pytest.raises(ValueError, match=r"\[draw, 15\], got \(200, 14\)"):
        Ensemble(posterior, FixedDraws(14))


def test_some_of_the_draws_of_chains():
    posterior, chains, _ = classification()
    flat = chains.position(posterior).flatten(0, 1)
    torch.testing.assert_close(Ensemble(posterior, chains, num_draws=3).positions, flat[[0, 14, 29]])
    assert len(Ensemble(posterior, chains, num_draws=99).positions) == 30
    with pytest.raises(ValueError, match="num_draws must be at least 1, got 0"):
        Ensemble(posterior, chains, num_draws=0)


def test_stopped_chains_are_left_out():
    posterior, chains, _ = classification()
    only = Ensemble(posterior, Chains({name: value[1:] for name, value in chains.draws.items()})).predict(X)
    chains.draws["weight"][0, 5:] = math.nan
    with pytest.raises(ValueError, match="10 of 30 draws are not finite"):
        Ensemble(posterior, chains)
    diverged = torch.zeros(2, 15, dtype=torch.bool)
    diverged[0, 5:] = True
    chains.sample_stats["diverged"], chains.attrs["stopped"] = diverged, {"0": 12}
    ensemble = Ensemble(posterior, chains)
    assert ensemble.stopped == {"0": 12}
    torch.testing.assert_close(ensemble.predict(X).mean, only.mean)
    diverged[1, -1] = True
    with pytest.raises(ValueError, match="every chain was stopped"):
        Ensemble(posterior, chains)


def test_other_distributions_as_far_as_torch_knows_them():
    y = torch.randn(N, 1, generator=generator(), dtype=torch.float64)
    posterior = posterior_of(lambda outputs: DoubleExponential(outputs, 0.5, validate_args=False), y, 1)
    chains = chains_of(posterior)
    ensemble = Ensemble(posterior, chains)
    outputs = outputs_of(posterior, chains)
    scores = ensemble.evaluate(X, y).ensemble
    law = DoubleExponential(outputs, 0.5)
    assert scores["nll"] == pytest.approx(-law.log_prob(y).exp().mean(0).log().mean().item())
    assert scores["coverage_90"] == ((law.cdf(y).mean(0) - 0.5).abs() <= 0.45).double().mean().item()
    torch.testing.assert_close(ensemble.predict(X).aleatoric_sd, torch.full_like(y, 0.5 * math.sqrt(2)))
    with pytest.raises(NotImplementedError, match="Normal and Poisson likelihoods, not for Laplace"):
        ensemble.interval(X)

    pairs = torch.randn(N, 2, generator=generator(), dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
    posterior = posterior_of(lambda outputs: MultivariateNormal(outputs, covariance, validate_args=False), pairs, 2)
    chains = chains_of(posterior)
    outputs = outputs_of(posterior, chains)
    scores = Ensemble(posterior, chains).evaluate(X, pairs).ensemble
    assert list(scores) == ["rmse", "nll"]
    own = MultivariateNormal(outputs, covariance).log_prob(pairs).exp().mean(0)
    assert scores["nll"] == pytest.approx(-own.log().mean().item())

    class Unknown(Normal):
        mean = property(lambda self: self._unknown())
        variance = cdf = mean

        def _unknown(self):
            raise NotImplementedError

    posterior = posterior_of(lambda outputs: Unknown(outputs, 0.5, validate_args=False), y, 1)
    ensemble = Ensemble(posterior, chains_of(posterior))
    assert list(ensemble.evaluate(X, y).ensemble) == ["nll"]
    with pytest.raises(NotImplementedError, match="no moments"):
        ensemble.predict(X)


def test_bad_data_gets_a_clear_error():
    posterior, chains, y = classification()
    ensemble = Ensemble(posterior, chains)
    with pytest.raises(ValueError, match="differ in length"):
        ensemble.evaluate(X, y[:-1])
    with pytest.raises(ValueError, match="differ in length"):
        evaluate_point(posterior, posterior.default_position(), X, y[:-1])
    with pytest.raises(ValueError, match="y holds 3, which lies outside"):
        ensemble.evaluate(X, y + 1)
    with pytest.raises(ValueError, match=r"shape \(37,\), but y has \(37, 1\)"):
        ensemble.evaluate(X, y[:, None])
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 37 examples"):
        ensemble.predict(torch.where(torch.arange(N)[:, None] == 3, math.nan, X))
    with pytest.raises(ValueError, match="empty"):
        ensemble.predict(X[:0])
    with pytest.raises(ValueError, match="level must lie strictly"):
        ensemble.interval(X, level=90)
    with pytest.raises(NotImplementedError, match="not for Categorical"):
        ensemble.interval(X)
    with pytest.raises(ValueError, match="draws must be Chains, a Laplace or positions"):
        Ensemble(posterior, "chains")  # pyright: ignore[reportArgumentType]
    del chains.draws["bias"]
    with pytest.raises(ValueError, match=r"no draws of \['bias'\]"):
        Ensemble(posterior, chains)


def test_circular_targets_have_no_distribution_function():
    y = torch.zeros(N, 1, dtype=torch.float64)
    posterior = posterior_of(lambda outputs: VonMises(outputs, torch.ones_like(outputs), validate_args=False), y, 1)
    assert list(Ensemble(posterior, chains_of(posterior)).evaluate(X, y).ensemble) == ["rmse", "nll"]


def regression():
    y = X[:, :1] + 0.3 * torch.randn(N, 1, generator=generator(), dtype=torch.float64)
    posterior = posterior_of(gaussian(0.3), y, 1)
    return posterior, chains_of(posterior, scale=0.5), y


def binary():
    y = (X[:, :1] > 0).long()
    posterior = posterior_of(bernoulli, y, 1)
    return posterior, chains_of(posterior), y


def assert_same(found, expected):
    for field in ("ensemble", "single", "single_sd", "ensemble_error", "monte_carlo_error"):
        assert getattr(found, field) == pytest.approx(getattr(expected, field), rel=1e-9, nan_ok=True), field
    for field in ("num_draws", "num_single", "num_examples"):
        assert getattr(found, field) == getattr(expected, field), field


@pytest.mark.parametrize("problem", [classification, regression, binary])
def test_batches_say_what_the_whole_says(problem):
    posterior, chains, y = problem()
    ensemble = Ensemble(posterior, chains)
    whole, prediction = ensemble.evaluate(X, y), ensemble.predict(X)
    assert whole.num_examples == N
    loader = DataLoader(TensorDataset(X, y), batch_size=10)
    assert_same(ensemble.evaluate(loader), whole)
    assert_same(ensemble.evaluate(loader, chunk=30), whole)
    assert_same(ensemble.evaluate((few.numpy(), own.numpy()) for few, own in loader), whole)
    shuffled = DataLoader(TensorDataset(X, y), batch_size=1, shuffle=True, generator=generator())
    assert_same(ensemble.evaluate(shuffled), whole)
    point = posterior.default_position()
    assert evaluate_point(posterior, point, loader) == pytest.approx(evaluate_point(posterior, point, X, y))
    pieces = list(ensemble.predict_batches(few for few, _ in loader))
    assert len(pieces) == 4
    for field, value in vars(prediction).items():
        if value is not None:
            torch.testing.assert_close(torch.cat([getattr(piece, field) for piece in pieces]), value)


def test_batches_of_dictionaries():
    x = {"image": X, "shift": torch.arange(N, dtype=torch.float64)}
    y = (torch.arange(N)[:, None] + torch.arange(5)) % 3
    posterior = posterior_of(categorical, y, 15, x=x, model=PerPixel())
    ensemble = Ensemble(posterior, chains_of(posterior))
    parts = [({name: value[rows] for name, value in x.items()}, y[rows]) for rows in torch.arange(N).split(20)]
    assert_same(ensemble.evaluate(parts), ensemble.evaluate(x, y))
    prediction = torch.cat([each.mean for each in ensemble.predict_batches(inputs for inputs, _ in parts)])
    torch.testing.assert_close(prediction, ensemble.predict(x).mean)


def test_batches_are_made_when_they_are_needed_and_not_kept():
    posterior, chains, y = classification()
    ensemble = Ensemble(posterior, chains)
    made, most = [], 0

    def batches(with_targets):
        nonlocal most
        for rows in torch.arange(N).split(13):
            gc.collect()
            most = max(most, sum(reference() is not None for reference in made))
            few = X[rows]
            made.append(weakref.ref(few))
            yield (few, y[rows]) if with_targets else few
            del few

    ensemble.evaluate(batches(True))
    assert len(made) == 3
    predictions = ensemble.predict_batches(batches(False))
    assert len(made) == 3
    next(predictions)
    assert len(made) == 4
    list(predictions)
    assert most <= 1


class Endless(IterableDataset):
    def __iter__(self):
        yield from ((X[i], i % 3) for i in range(20))


def test_other_iterables():
    posterior, chains, _ = classification()
    found = Ensemble(posterior, chains).evaluate(DataLoader(Endless(), batch_size=6))
    assert_same(found, Ensemble(posterior, chains).evaluate(X[:20], torch.arange(20) % 3))


def test_bad_batches_get_a_clear_error():
    posterior, chains, y = classification()
    ensemble = Ensemble(posterior, chains)
    loader = DataLoader(TensorDataset(X, y), batch_size=10)
    used = iter([(X, y)])
    ensemble.evaluate(used)
    nan = torch.where(torch.arange(N)[:, None] == 13, math.nan, X)
    for data, message in (
        (X, "an iterable of batches of .inputs, targets. is needed, such as a DataLoader, got a tensor"),
        ({"image": X}, "got a dictionary"),
        (3, "got int"),
        (TensorDataset(X, y), "TensorDataset gives single examples: wrap it in a torch.utils.data.DataLoader"),
        ((X, y), "batch 0 must be .inputs, targets., got a tensor; whole data are given as two arguments"),
        (DataLoader(X, batch_size=10), "batch 0 must be .inputs, targets., got a tensor"),
        (DataLoader(TensorDataset(X, y, y), batch_size=10), "batch 0 must be .* got a tuple or list of 3"),
        ([], "there are no batches"),
        (used, "there are no batches: the iterable is empty, or an iterator that was used up before"),
        ([(X, y), (X, y[:5])], "batch 1: inputs and targets differ in length"),
        ([(X, y), (nan, y)], "batch 1: inputs contain NaN or infinity in 1 of 37 examples, first in example 13"),
        ([(X[:0], y[:0])], "batch 0: the data set is empty"),
        ([(X, y + 1)], "y holds 3, which lies outside"),
    ):
        with pytest.raises(ValueError, match=message):
            ensemble.evaluate(data)
    for data, message in (
        (loader, "batch 0: the model takes a tensor as inputs, got a tuple or list of 2: give inputs alone"),
        (X, "an iterable of batches of inputs is needed"),
        (iter(()), "there are no batches"),
        ([X, nan], "batch 1: inputs contain NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            list(ensemble.predict_batches(data))
    with pytest.raises(ValueError, match="the model takes a tensor as inputs, got a dictionary"):
        ensemble.predict({"x": X})


def only(chains, which):
    return Chains({name: value[which] for name, value in chains.draws.items()})


def test_monte_carlo_error_leaves_out_one_chain_after_another():
    posterior, _, y = classification()
    chains = chains_of(posterior, num_chains=4)
    found = Ensemble(posterior, chains).evaluate(X, y).monte_carlo_error
    rest = [[c for c in range(4) if c != left] for left in range(4)]
    scores = [Ensemble(posterior, only(chains, which)).evaluate(X, y).ensemble for which in rest]
    for name, value in found.items():
        assert value == pytest.approx(np.std([each[name] for each in scores]) * math.sqrt(3)), name


@pytest.mark.parametrize("problem", [classification, regression])
def test_monte_carlo_error_of_weighted_and_chosen_draws(problem):
    """Two chains of 15 draws, 12 of which are chosen, with weights: by hand, from both chains alone."""
    posterior, chains, y = problem()
    chains.sample_stats["weight"] = torch.linspace(1, 3, 15).expand(2, 15)
    ensemble = Ensemble(posterior, chains, num_draws=12)
    assert [len(positions) for positions, _ in ensemble.grouped.groups] == [6, 6]
    found = ensemble.evaluate(X, y)
    flat, weights = chains.position(posterior).flatten(0, 1), chains.weights.flatten()
    chosen = torch.linspace(0, 29, 12, dtype=torch.float64).round().long()
    scores = []
    for which in (chosen[:6], chosen[6:]):
        one = chains_of(posterior, 1, 6, weight=weights[which][None])
        one.draws = {name: value[None] for name, value in posterior.unravel(flat[which]).items()}
        scores.append(Ensemble(posterior, one).evaluate(X, y).ensemble)
    for name, value in found.monte_carlo_error.items():
        assert value == pytest.approx(abs(scores[0][name] - scores[1][name]) / 2), name  # √((G−1)/G Σ(s−s̄)²), G = 2


def test_monte_carlo_error_is_that_of_repeated_draws():
    """Of independent draws, in stretches: an error from 16 stretches varies by 18 %, its mean over 60 by 2 %."""
    posterior, _, y = classification()
    found = [Ensemble(posterior, FixedDraws(posterior.dim), 160, seed).evaluate(X, y) for seed in range(60)]
    for name in ("nll", "brier"):
        values = np.array([each.ensemble[name] for each in found])
        errors = np.array([each.monte_carlo_error[name] for each in found])
        assert values.std(ddof=1) == pytest.approx(errors.mean(), rel=0.3), name  # three errors of an sd from 60
    alone = Ensemble(posterior, torch.zeros(1, posterior.dim)).evaluate(X, y)
    assert all(math.isnan(value) for value in alone.monte_carlo_error.values())


def test_draws_that_weigh_nothing_are_no_group():
    posterior, chains, y = classification()
    one = only(chains, [0])
    whole = Ensemble(posterior, Chains({name: value[:, 5:] for name, value in one.draws.items()})).evaluate(X, y)
    one.sample_stats["weight"] = (torch.arange(15)[None] >= 5).double()
    found = Ensemble(posterior, one)
    assert sum(len(positions) for positions, _ in found.grouped.groups) == 10
    assert found.evaluate(X, y).ensemble == pytest.approx(whole.ensemble)
    assert math.isfinite(found.evaluate(X, y).monte_carlo_error["nll"])


def test_many_chains_are_left_out_a_few_at_a_time():
    posterior, _, y = classification()
    ensemble = Ensemble(posterior, chains_of(posterior, num_chains=40, num_draws=2))
    sizes = [len(positions) for positions, _ in ensemble.grouped.groups]
    assert len(sizes) == 16
    assert sum(sizes) == 80
    assert set(sizes) == {4, 6}
    assert math.isfinite(ensemble.evaluate(X, y).monte_carlo_error["nll"])


def test_pit_is_the_mixture_s_distribution_function():
    posterior, chains, y = regression()
    ensemble = Ensemble(posterior, chains)
    found = ensemble.pit(X, y)
    mean = outputs_of(posterior, chains)
    torch.testing.assert_close(found, torch.from_numpy(norm.cdf(y, mean, 0.3).mean(0)))
    torch.testing.assert_close(ensemble.pit(DataLoader(TensorDataset(X, y), batch_size=7), chunk=11), found)
    with pytest.raises(NotImplementedError, match=r"calibration\.reliability judges"):
        Ensemble(*classification()[:2]).pit(X, classification()[2])


def test_pit_of_counts_that_the_predictions_are_right_about():
    x = torch.randn(2000, FEATURES, generator=generator(4), dtype=torch.float64)
    model = nn.Sequential(nn.Linear(FEATURES, 1), nn.Flatten(0))
    posterior = posterior_of(poisson, torch.zeros(N), 1, model=model)
    chains = chains_of(posterior, scale=0.4)
    rates = outputs_of(posterior, chains, x).exp()
    y = torch.poisson(rates.gather(0, torch.randint(30, (1, 2000), generator=generator(5)))[0], generator=generator(6))
    ensemble = Ensemble(posterior, chains)
    values = ensemble.pit(x, y, seed=1)
    assert calibration.uniformity(values).p_value > 0.01
    torch.testing.assert_close(ensemble.pit(DataLoader(TensorDataset(x, y), batch_size=300), seed=1), values)
    assert not torch.equal(values, ensemble.pit(x, y, seed=2))
    assert calibration.uniformity(ensemble.pit(x, y + 1)).p_value < 1e-6
