"""Predictions beside those of a reference, and beside what the reference is worth."""

import itertools
import math

import numpy as np
import pytest
import torch
from langevin.diagnostics import Ensemble, Laplace, compare_to_reference
from langevin.samplers import Chains, Posterior, bernoulli, categorical, gaussian, heteroscedastic_gaussian, poisson
from scipy.stats import norm
from scipy.stats import poisson as counts
from torch import nn
from torch.distributions import VonMises

N, FEATURES = 23, 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


X = torch.randn(N, FEATURES, generator=generator(), dtype=torch.float64)


def posterior_of(likelihood, outputs=1, flat=False, y=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, outputs), nn.Flatten(0)) if flat else nn.Linear(FEATURES, outputs)
    return Posterior(model.double(), likelihood, (X, torch.zeros(N) if y is None else y))


def chains_of(posterior, seed, num_chains=4, num_draws=10, scale=0.5):
    shapes = zip(posterior.layout.names, posterior.layout.shapes, strict=True)
    g = generator(seed)
    return Chains(
        {n: scale * torch.randn(num_chains, num_draws, *s, generator=g, dtype=torch.float64) for n, s in shapes}
    )


def outputs_of(posterior, chains):
    return posterior.outputs(chains.position(posterior).flatten(0, 1), X)


def test_classes_by_hand():
    posterior = posterior_of(categorical, 3, y=torch.zeros(N).long())
    first, second = chains_of(posterior, 1), chains_of(posterior, 2)
    found = compare_to_reference(posterior, first, second, X)
    p, q = (torch.softmax(outputs_of(posterior, chains), -1) for chains in (first, second))
    same = (p.mean(0).argmax(-1) == q.mean(0).argmax(-1)).double()
    variation = 0.5 * (p.mean(0) - q.mean(0)).abs().sum(-1)
    assert found.agreement == pytest.approx(same.mean().item())
    assert found.agreement_error == pytest.approx(same.std().item() / math.sqrt(N))
    assert found.total_variation == pytest.approx(variation.mean().item())
    assert found.total_variation_error == pytest.approx(variation.std().item() / math.sqrt(N))
    by_chain = q.unflatten(0, (4, 10)).mean(1)
    halves = [((0, 1), (2, 3)), ((1, 2), (3, 0))]
    pairs = [(by_chain[list(a)].mean(0), by_chain[list(b)].mean(0)) for a, b in halves]
    expected = np.mean([(0.5 * (a - b).abs().sum(-1)).mean().item() for a, b in pairs])
    assert found.total_variation_floor == pytest.approx(expected)
    expected = np.mean([(a.argmax(-1) == b.argmax(-1)).double().mean().item() for a, b in pairs])
    assert found.agreement_floor == pytest.approx(expected)
    assert found.num_inputs == N
    for chunk in (1, 50):
        again = compare_to_reference(posterior, first, second, X, chunk=chunk)
        for name, value in vars(found).items():
            assert getattr(again, name) == pytest.approx(value), name


def test_binary_labels_are_two_classes():
    posterior = posterior_of(bernoulli, y=torch.zeros(N, 1))
    first, second = chains_of(posterior, 1), chains_of(posterior, 2)
    found = compare_to_reference(posterior, first, second, X)
    p, q = (torch.sigmoid(outputs_of(posterior, chains)).mean(0) for chains in (first, second))
    assert found.total_variation == pytest.approx((p - q).abs().mean().item())
    assert found.agreement == ((p > 0.5) == (q > 0.5)).double().mean().item()


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_regression_is_the_integral_of_densities(noise):
    """Mixtures of ten normals, narrow ones among them, beside a fine Riemann sum of |p − q|/2."""
    posterior = posterior_of(gaussian(noise), y=torch.zeros(N, 1))
    first, second = chains_of(posterior, 1, 2, 5), chains_of(posterior, 2, 2, 5)
    found = compare_to_reference(posterior, first, second, X)
    line = np.linspace(-12, 12, 200_001)
    values = []
    for row in range(N):
        p, q = (norm.pdf(line, outputs_of(posterior, chains)[:, row], noise).mean(0) for chains in (first, second))
        values.append(0.5 * np.abs(p - q).sum() * (line[1] - line[0]))
    assert found.total_variation == pytest.approx(np.mean(values), rel=0.02)
    assert found.total_variation <= np.mean(values) * (1 + 1e-6)
    assert found.agreement is None
    assert found.agreement_floor is None
    assert "agreement" not in str(found)


def test_scales_that_differ_are_seen():
    """N(0, 1) beside N(0, e⁶): the total variation of centred normals in closed form."""
    posterior = posterior_of(heteroscedastic_gaussian, 2)
    positions = torch.zeros(2, posterior.dim, dtype=torch.float64)
    positions[1] = posterior.ravel({"weight": torch.zeros(2, FEATURES), "bias": torch.tensor([0.0, 3.0])})
    found = compare_to_reference(posterior, positions[:1], positions[1:], X)
    ratio = math.exp(3)
    crossing = math.sqrt(2 * math.log(ratio) / (1 - ratio**-2))
    exact = 2 * (norm.cdf(crossing) - norm.cdf(crossing / ratio))
    assert found.total_variation == pytest.approx(exact, rel=1e-2)
    assert found.total_variation_floor is None
    assert "not known" in str(found)


def test_counts_are_the_sum_over_counts():
    posterior = posterior_of(poisson, flat=True)
    first, second = chains_of(posterior, 1), chains_of(posterior, 2, scale=0.7)
    found = compare_to_reference(posterior, first, second, X)
    k = np.arange(3000)
    p, q = (counts.pmf(k, outputs_of(posterior, chains).exp()[..., None].numpy()).mean(0) for chains in (first, second))
    assert found.total_variation == pytest.approx((0.5 * np.abs(p - q).sum(-1)).mean(), rel=1e-3)


def test_no_difference_and_nothing_in_common():
    posterior = posterior_of(gaussian(0.1), y=torch.zeros(N, 1))
    chains = chains_of(posterior, 1)
    same = compare_to_reference(posterior, chains, chains, X)
    assert same.total_variation == pytest.approx(0, abs=1e-12)
    assert same.total_variation_floor is not None
    assert same.total_variation_floor > 0.01
    far = Chains({name: value + (100 if name == "bias" else 0) for name, value in chains.draws.items()})
    assert compare_to_reference(posterior, far, chains, X).total_variation == pytest.approx(1)


def test_a_laplace_is_its_linearised_model():
    posterior = posterior_of(categorical, 3, y=torch.arange(N) % 3)
    laplace, chains = Laplace.fit(posterior), chains_of(posterior, 1)
    found = compare_to_reference(posterior, laplace, chains, X, seed=5)
    p, q = laplace.predict(X, seed=5).mean, Ensemble(posterior, chains).predict(X).mean
    assert found.total_variation == pytest.approx((0.5 * (p - q).abs().sum(-1)).mean().item())
    back = compare_to_reference(posterior, chains, laplace, X, seed=4)
    assert back.total_variation == pytest.approx(found.total_variation)
    assert (back.total_variation_floor, back.agreement_floor) == (None, None)


def test_a_laplace_of_a_linear_regression_is_what_its_draws_tend_to():
    y = X[:, :1] + 0.3 * torch.randn(N, 1, generator=generator(7), dtype=torch.float64)
    posterior = posterior_of(gaussian(0.3), y=y)
    laplace = Laplace.fit(posterior)
    found = [
        compare_to_reference(posterior, Ensemble(posterior, laplace, n), laplace, X).total_variation for n in (50, 5000)
    ]
    assert found[1] < 0.006
    assert found[0] / found[1] == pytest.approx(10, rel=0.6)  # √(5000/50)
    counted = posterior_of(poisson, flat=True, y=torch.ones(N))
    with pytest.raises(NotImplementedError, match=r"give Ensemble\(posterior, laplace\)"):
        compare_to_reference(counted, Laplace.fit(counted), chains_of(counted, 1), X)


def test_halves_of_draws_that_are_no_chains():
    posterior = posterior_of(categorical, 3, y=torch.zeros(N).long())
    positions = torch.randn(3, posterior.dim, generator=generator(3), dtype=torch.float64)
    found = compare_to_reference(posterior, positions[:1], positions, X)
    p = torch.softmax(posterior.outputs(positions, X), -1)
    pairs = [(p[i], (p.sum(0) - p[i]) / 2) for i in range(3)]
    expected = np.mean([(0.5 * (a - b).abs().sum(-1)).mean().item() for a, b in pairs])
    assert found.total_variation_floor == pytest.approx(expected)


def test_draws_count_by_their_weight():
    posterior = posterior_of(gaussian(0.3), y=torch.zeros(N, 1))
    weight = torch.tensor([[1.0, 1.0, 2.0], [3.0, 0.0, 1.0]])
    chains = chains_of(posterior, 1, 2, 3)
    chains.sample_stats["weight"] = weight
    flat = chains.position(posterior).flatten(0, 1)
    repeated = torch.cat([flat[[i]].repeat(int(w), 1) for i, w in enumerate(weight.flatten())])
    found = compare_to_reference(posterior, repeated, chains, X)
    assert found.total_variation == pytest.approx(0, abs=1e-12)


def test_a_perfect_sampler_is_as_near_as_the_floor_says():
    """Half as many independent draws, beside as many others: the floor is what is found, on average."""
    posterior = posterior_of(categorical, 3, y=torch.zeros(N).long())
    laws = [chains_of(posterior, seed, 4, 50) for seed in range(12)]
    floors = [compare_to_reference(posterior, laws[0], chains, X).total_variation_floor for chains in laws]
    halves = [Chains({name: value[:2] for name, value in chains.draws.items()}) for chains in laws]
    found = [compare_to_reference(posterior, a, b, X).total_variation for a, b in itertools.pairwise(halves)]
    error = math.hypot(np.std(found) / math.sqrt(4), np.std(floors) / math.sqrt(12))  # neighbours share a half
    assert abs(np.mean(found) - np.mean(floors)) < 4 * error


def test_what_cannot_be_compared_is_refused():
    posterior = posterior_of(
        lambda outputs: VonMises(outputs, torch.ones_like(outputs), validate_args=False), y=X[:, :1]
    )
    chains = chains_of(posterior, 1)
    with pytest.raises(NotImplementedError, match="no distribution function of VonMises"):
        compare_to_reference(posterior, chains, chains, X)
    with pytest.raises(ValueError, match="draws must have shape"):
        compare_to_reference(posterior, chains, torch.zeros(2, 1), X)
    with pytest.raises(ValueError, match="the model takes a tensor"):
        compare_to_reference(posterior, chains, Ensemble(posterior, chains), (X, X))
