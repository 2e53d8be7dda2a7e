import math

import numpy as np
import pytest
import torch
from langevin.samplers import (
    ConstantMetric,
    Fisher,
    LogDensity,
    MetricFunction,
    Posterior,
    RiemannianLangevin,
    bernoulli,
    categorical,
    gaussian,
    heteroscedastic_gaussian,
    poisson,
    sample,
)
from torch import nn
from torch.distributions import Distribution, StudentT
from torch.func import jacrev

from tests.samplers.small import CHAINS, N, classifier, columns, matrix_of, network, noise_of, positions, seeded


def labels_and_weights(likelihood, outputs):
    """All labels of one example and their probabilities, by quadrature for real ones; outputs of few elements."""
    if likelihood is categorical:
        return torch.arange(outputs.shape[-1]), torch.softmax(outputs, -1)
    if likelihood is bernoulli:
        p = torch.sigmoid(outputs)
        return torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.cat((1 - p, p))
    if likelihood is poisson:
        counts = torch.arange(80.0, dtype=torch.float64)[:, None]
        return counts, likelihood(outputs).log_prob(counts)[:, 0].exp()
    nodes, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(12))
    distribution = likelihood(outputs)
    labels = distribution.mean + distribution.stddev * nodes.reshape(-1, *[1] * distribution.mean.ndim)
    return labels, weights / math.sqrt(2 * math.pi)


def brute_force(posterior, position):
    """(1/N) Σᵢ E[∇L ∇Lᵀ] by automatic differentiation of −log p, label by label."""
    total = torch.zeros(posterior.dim, posterior.dim, dtype=torch.float64)
    for x in posterior.inputs:
        outputs = posterior.call(position, x[None])[0]
        for label, weight in zip(*labels_and_weights(posterior.likelihood, outputs), strict=True):

            def cost(at, x=x, label=label):
                return -posterior.likelihood(posterior.call(at, x[None])[0]).log_prob(label).sum()

            gradient = torch.func.grad(cost)(position)
            total += weight * gradient[:, None] * gradient / len(posterior.inputs)
    return total


@pytest.mark.parametrize(
    ("likelihood", "outputs", "targets"),
    [
        (categorical, 3, torch.zeros(N, dtype=torch.int64)),
        (bernoulli, 1, torch.zeros(N, 1)),
        (gaussian(0.7), 1, torch.zeros(N, 1)),
        (heteroscedastic_gaussian, 2, torch.zeros(N)),
        (poisson, 1, torch.zeros(N, 1)),
    ],
    ids=["categorical", "bernoulli", "gaussian", "heteroscedastic", "poisson"],
)
def test_the_dense_fisher_is_the_expectation_over_labels(likelihood, outputs, targets):
    posterior = Posterior(network(outputs), likelihood, (seeded(N, 2), targets))
    position = positions(posterior, 1)
    found = matrix_of(Fisher(damping=0.5), posterior, position, noise_of(chains=1))[0]
    expected = brute_force(posterior, position[0]) + 0.5 * torch.eye(posterior.dim)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


class Pixels(nn.Module):
    """Classes of every pixel, last in the output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3, padding="same", dtype=torch.float64)

    def forward(self, x):
        return self.conv(x).movedim(1, -1)


def test_outputs_of_many_dimensions_add_up_over_their_places():
    posterior = Posterior(Pixels(), categorical, (seeded(4, 1, 2, 2), torch.zeros(4, 2, 2, dtype=torch.int64)))
    position = positions(posterior, 1)
    jacobian = jacrev(lambda at: posterior.call(at, posterior.inputs))(position[0])
    information = categorical.fisher(posterior.call(position[0], posterior.inputs))
    expected = torch.einsum("nhwki,nhwkl,nhwlj->ij", jacobian, information, jacobian) / 4
    noise = noise_of(chains=1)
    torch.testing.assert_close(
        Fisher().curvature(posterior, position, noise).multiply(torch.eye(posterior.dim)[:1].double())[0], expected[0]
    )
    found = matrix_of(Fisher(damping=1.0), posterior, position, noise)[0] - torch.eye(posterior.dim)
    torch.testing.assert_close(found, expected)


class Triangular(Distribution):
    """Density 1 + z(y − ½) on [0, 1] for |z| < 2, by inversion: a law that the library has never seen."""

    support = torch.distributions.constraints.unit_interval
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, slope):
        self.slope = slope
        super().__init__(slope.shape, validate_args=False)

    def log_prob(self, value):
        return torch.log1p(self.slope * (value - 0.5))

    def icdf(self, value):
        b = 1 - self.slope / 2
        return 2 * value / (b + (b**2 + 2 * self.slope * value).sqrt())


def triangular_information(z):
    """E[(∂log p/∂s)²] = ∫ (y−½)²/(1 + s(y−½)) dy times (∂s/∂z)², s = tanh z, by the trapezoidal rule."""
    s, y = torch.tanh(z), torch.linspace(0, 1, 4001, dtype=torch.float64) - 0.5
    return torch.trapezoid(y**2 / (1 + s[..., None] * y), dx=1 / 4000) * (1 - s**2) ** 2


CUSTOM = {
    "custom with icdf": (lambda z: Triangular(torch.tanh(z)), triangular_information),
    "custom without icdf": (
        lambda z: StudentT(5.0, z, 1.0, validate_args=False),
        lambda z: torch.full_like(z, 6 / 8),  # (ν + 1)/(ν + 3)
    ),
}


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "gaussian", "heteroscedastic", "poisson", *CUSTOM])
def test_a_sampled_fisher_is_unbiased(name):
    """A linear model's F from labels drawn at 400 steps, against the exact one, entry by entry."""
    known = {
        "categorical": (categorical, 3, torch.zeros(N, dtype=torch.int64)),
        "bernoulli": (bernoulli, 1, torch.zeros(N, 1)),
        "gaussian": (gaussian(0.7), 1, torch.zeros(N, 1)),
        "heteroscedastic": (heteroscedastic_gaussian, 2, torch.zeros(N)),
        "poisson": (poisson, 1, torch.zeros(N, 1)),
    }
    likelihood, outputs, targets = known.get(name, (CUSTOM.get(name, (None,))[0], 1, torch.full((N, 1), 0.5)))
    posterior = Posterior(nn.Linear(2, outputs).double(), likelihood, (seeded(N, 2), targets))
    position = 0.3 * seeded(1, posterior.dim, seed=1).expand(100, -1)
    sampled = Fisher(kind="sampled", num_labels=3, damping=1.0)
    estimates = torch.cat([matrix_of(sampled, posterior, position, noise_of(step, 100)) for step in range(4)])
    assert not torch.equal(estimates[:100], estimates[100:200])  # labels of every step are new
    if name in CUSTOM:
        jacobian = jacrev(lambda at: posterior.call(at, posterior.inputs))(position[0])
        information = CUSTOM[name][1](posterior.call(position[0], posterior.inputs))
        exact = torch.einsum("nki,nk,nkj->ij", jacobian, information, jacobian) / N + torch.eye(posterior.dim)
    else:
        exact = matrix_of(Fisher(damping=1.0), posterior, position[:1], noise_of(chains=1))[0]
    error = estimates.std(0) / len(estimates) ** 0.5
    certain = error < 1e-12
    assert (((estimates.mean(0) - exact) / error)[~certain].abs() < 4).all()
    torch.testing.assert_close(estimates.mean(0)[certain], exact[certain])


# Memory


@pytest.mark.parametrize("structure", ["dense", "diagonal", "quasi_diagonal", "kronecker"])
def test_moving_average_and_freezing(structure):
    """c = 0.6: weights 1, ½, then 0.4, and nothing after warm-up."""
    posterior, c = classifier(), 0.6
    metric = Fisher(structure=structure, kind="sampled", damping=0.1, average=c)
    position = positions(posterior)
    memory, average, value = metric.remember(posterior, position), None, None
    for step in range(5):
        noise, warming = noise_of(step), torch.tensor(step < 4)
        value, memory = metric.recall(posterior, position + 0.1 * step, noise, memory, warming)
        if warming:
            new, weight = pieces(metric.curvature(posterior, position + 0.1 * step, noise)), max(1 / (step + 1), 1 - c)
            average = (
                new if average is None else [(1 - weight) * a + weight * b for a, b in zip(average, new, strict=True)]
            )
        for found, expected in zip(pieces(memory.average), average, strict=True):
            torch.testing.assert_close(found, expected)
    assert int(memory.updates) == 4
    expected = memory.average.damped(0.1)
    torch.testing.assert_close(columns(value.multiply, posterior.dim), columns(expected.multiply, posterior.dim))


def pieces(curvature):
    """What a moving average is over."""
    if hasattr(curvature, "outside"):
        return [*curvature.outputs, *curvature.inputs]
    return [getattr(curvature, name) for name in ("matrix", "diagonal", "border") if hasattr(curvature, name)]


def test_an_average_that_is_not_frozen_goes_on():
    posterior = classifier()
    metric = Fisher(damping=0.1, average=0.6, freeze=False)
    memory = metric.remember(posterior, positions(posterior))
    for step in range(3):
        _, memory = metric.recall(posterior, positions(posterior), noise_of(step), memory, torch.tensor(False))
    assert int(memory.updates) == 3


def test_refresh_every():
    """G of steps 0 and 3 serves until the next of them."""
    posterior = classifier()
    metric, position = Fisher(damping=0.1, refresh_every=3), positions(posterior)
    memory = metric.remember(posterior, position)
    for step in range(5):
        value, memory = metric.recall(posterior, position + 0.1 * step, noise_of(step), memory, torch.tensor(False))
        expected = matrix_of(Fisher(damping=0.1), posterior, position + 0.1 * (step - step % 3), noise_of())
        torch.testing.assert_close(columns(value.multiply, posterior.dim), expected)


def test_low_rank_average_is_cut_to_its_rank():
    posterior, metric = classifier(), Fisher(structure="low_rank", rank=2, damping=0.1, average=0.5)
    memory = metric.remember(posterior, positions(posterior))
    for step in range(3):
        _, memory = metric.recall(posterior, positions(posterior), noise_of(step), memory, torch.tensor(True))
    assert memory.average.rows.shape == (CHAINS, 2, posterior.dim)
    once = Fisher(structure="low_rank", rank=2, damping=0.1).curvature(posterior, positions(posterior), noise_of())
    F, expected = (columns(x.multiply, posterior.dim) for x in (memory.average, once))
    torch.testing.assert_close(F, expected)


def test_inputs_of_its_own_and_drawn_ones():
    """Given inputs are averaged over; drawn ones have the mean of all, and change from step to step."""
    posterior = classifier()
    position, noise = positions(posterior, 1), noise_of(chains=1)
    few = matrix_of(Fisher(damping=0.1, inputs=posterior.inputs[:2]), posterior, position, noise)
    part = Posterior(network(), categorical, (posterior.inputs[:2], torch.zeros(2, dtype=torch.int64)))
    torch.testing.assert_close(few, matrix_of(Fisher(damping=0.1), part, position, noise))
    drawn = [
        matrix_of(Fisher(damping=0.1, inputs=2), posterior, position.repeat(400, 1), noise_of(step, 400))
        for step in range(2)
    ]
    assert not torch.equal(*drawn)
    estimates, exact = torch.cat(drawn), matrix_of(Fisher(damping=0.1), posterior, position, noise)[0]
    error = estimates.std(0) / len(estimates) ** 0.5
    assert ((estimates.mean(0) - exact) / error).abs().max() < 4.5  # of 441 entries


# What cannot be


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"kind": "guessed"}, "kind must be one of"),
        ({"structure": "sparse"}, "structure must be one of"),
        ({"damping": -1.0}, "damping must be zero or positive"),
        ({"damping": math.inf}, "damping must be zero or positive"),
        ({"average": 1.0}, "average must lie strictly between"),
        ({"refresh_every": 0}, "refresh_every must be a whole number"),
        ({"num_labels": 1.5}, "num_labels must be a whole number"),
        ({"rank": 0, "structure": "low_rank", "damping": 1.0}, "rank must be a whole number"),
        ({"inputs": 0}, "inputs must be a whole number"),
        ({"centered": True}, "centered=True is for"),
        ({"kind": "empirical", "inputs": torch.zeros(2, 2)}, "needs observed labels"),
        ({"structure": "low_rank"}, "singular without damping"),
        ({"rank": 2}, "rank is for"),
        ({"structure": "low_rank", "damping": 1.0, "average": 0.5}, "needs a rank"),
    ],
)
def test_settings_that_make_no_sense(settings, match):
    with pytest.raises(ValueError, match=match):
        Fisher(**settings)


def test_kronecker_has_no_centered_form():
    with pytest.raises(NotImplementedError, match='use "dense", "quasi_diagonal"'):
        Fisher(structure="kronecker", kind="empirical", centered=True, damping=0.1)


@pytest.mark.parametrize(
    ("settings", "asked", "error", "match"),
    [
        ({"inputs": 7}, ("none", "lebesgue", 1), ValueError, "inputs = 7 is more than the data has, 6"),
        ({"average": 0.5}, ("probe", "lebesgue", 1), NotImplementedError, 'use drift="none"'),
        ({"average": 0.5}, ("none", "lebesgue", 0), ValueError, "there is no warm-up"),
        ({"refresh_every": 2}, ("midpoint", "lebesgue", 1), NotImplementedError, "evaluates the metric twice"),
        ({"kind": "empirical"}, ("midpoint", "jeffreys", 1), ValueError, "depends on the labels"),
        ({"kind": "sampled"}, ("probe", "lebesgue", 1), NotImplementedError, "change with it by jumps"),
        ({"kind": "sampled"}, ("midpoint", "jeffreys", 1), NotImplementedError, 'or kind="exact"'),
        ({"structure": "low_rank", "rank": 2}, ("exact", "lebesgue", 1), NotImplementedError, "eigenvectors can swap"),
    ],
)
def test_requests_that_a_metric_cannot_meet(settings, asked, error, match):
    with pytest.raises(error, match=match):
        Fisher(damping=0.1, **settings).check(classifier(), *asked)


def test_targets_without_outputs_are_refused():
    target = LogDensity(lambda at: -at["x"].square().sum(), init={"x": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"use MetricFunction\(G\)"):
        Fisher().check(target, "none", "lebesgue", None)


@pytest.mark.parametrize("structure", ["dense", "diagonal", "quasi_diagonal", "kronecker"])
def test_a_singular_fisher_needs_damping(structure):
    """The third input is always zero."""
    x = seeded(40, 3) * torch.tensor([1.0, 1.0, 0.0])
    posterior = Posterior(nn.Linear(3, 1).double(), bernoulli, (x, torch.zeros(40, 1)))
    with pytest.raises(ValueError, match=r"singular where the target starts.*give it damping"):
        Fisher(structure=structure).check(posterior, "none", "lebesgue", None)
    Fisher(structure=structure, damping=0.1).check(posterior, "none", "lebesgue", None)
    regular = Posterior(nn.Linear(2, 1).double(), bernoulli, (x[:, :2], torch.zeros(40, 1)))
    Fisher(structure=structure).check(regular, "none", "lebesgue", None)


def test_fewer_rows_than_parameters_need_damping():
    posterior = Posterior(network(1), bernoulli, (seeded(N, 2), torch.zeros(N, 1)))
    with pytest.raises(ValueError, match="singular where the target starts"):
        Fisher().check(posterior, "none", "lebesgue", None)


@pytest.mark.parametrize("structure", ["quasi_diagonal", "kronecker"])
def test_models_without_layers_are_sent_to_the_diagonal(structure):
    linear = nn.Linear(2, 2)  # used twice
    models = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Flatten()), nn.Sequential(nn.Flatten(), linear, nn.Tanh(), linear)
    for model in models:
        posterior = Posterior(model.double(), categorical, (seeded(N, 2, 1), torch.arange(N) % 2))
        with pytest.raises(ValueError, match='use "diagonal"'):
            Fisher(structure=structure, damping=0.1).check(posterior, "none", "lebesgue", None)


def test_a_likelihood_without_fisher_is_sampled_with_a_warning():
    likelihood = CUSTOM["custom without icdf"][0]
    posterior = Posterior(nn.Linear(2, 1).double(), likelihood, (seeded(N, 2), torch.zeros(N, 1)))
    with pytest.warns(UserWarning, match="estimated from 2 sampled label"):
        Fisher(num_labels=2, damping=0.1).check(posterior, "midpoint", "lebesgue", None)
    position, noise = positions(posterior), noise_of()
    exact, sampled = (Fisher(kind=k, damping=0.1).at(posterior, position, noise) for k in ("exact", "sampled"))
    torch.testing.assert_close(exact.log_det(), sampled.log_det())


def test_warnings_name_the_code_that_called_sample():
    """One for the likelihood without a Fisher information, one for the parameter in no layer."""
    model = nn.Sequential(nn.Linear(2, 1), nn.PReLU()).double()
    posterior = Posterior(model, CUSTOM["custom without icdf"][0], (seeded(N, 2), torch.zeros(N, 1)))
    sampler = RiemannianLangevin(lr=0.01, metric=Fisher(structure="kronecker", damping=0.1))
    with pytest.warns(UserWarning, match="sampled label|outside of the layers") as record:
        sample(posterior, sampler, num_samples=1, num_warmup=0, num_chains=1, compile=False)
    assert [warning.filename for warning in record] == [__file__] * 2


def test_given_metrics_are_checked():
    target = classifier()
    with pytest.raises(ValueError, match="not symmetric"):
        ConstantMetric(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="not positive definite"):
        ConstantMetric(torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="is for 2 parameters, the target has 21"):
        ConstantMetric(torch.ones(2)).check(target, "none", "lebesgue", None)
    with pytest.raises(ValueError, match="must have shape"):
        MetricFunction(lambda ω: ω[:2]).check(target, "none", "lebesgue", None)
    with pytest.raises(ValueError, match="not positive definite"):
        MetricFunction(lambda ω: torch.zeros_like(ω)).check(target, "none", "lebesgue", None)
