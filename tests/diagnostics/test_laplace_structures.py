"""Kronecker-factored and last-layer Laplace against factors worked out by hand, dense matrices and each other."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from langevin.diagnostics import Ensemble, Laplace, compare
from langevin.samplers import SGLD, Fisher, LogDensity, Posterior, categorical, gaussian, sample
from langevin.samplers.metrics.metric import no_noise
from torch import nn
from torch.distributions import MultivariateNormal, NegativeBinomial, Normal, StudentT

from tests.diagnostics.test_laplace import linear_regression, normal, relative_error

pytestmark = pytest.mark.filterwarnings("ignore:the gradient at the mode is not zero")  # curvature is had anywhere
double = torch.float64
N, HIDDEN, CLASSES = 40, 4, 3


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=double, generator=torch.Generator().manual_seed(seed))


def classifier(num_data: int = N, **kwargs) -> tuple[Posterior, torch.Tensor]:
    """A network with one hidden layer, and a position that is no mode; weights and biases have priors of their own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)).double()
    x = rows(num_data, 3, seed=1)
    prior = {"*.bias": normal(2.0), "0.weight": normal(0.5), "*": normal(1.5)}
    posterior = Posterior(
        model, categorical, (x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5)), **({"prior": prior} | kwargs)
    )
    return posterior, posterior.default_position() + 0.5 * rows(posterior.dim, seed=2)


def factors_by_hand(posterior: Posterior, position: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """S and A of both layers of `classifier`, by the chain rule."""
    w1, b1, w2, b2 = posterior.unravel(position).values()
    found = []
    for x in posterior.inputs:
        h = (w1 @ x + b1).tanh()
        p = (w2 @ h + b2).softmax(0)
        H = p.diag() - torch.outer(p, p)
        back = (1 - h**2)[:, None] * w2.T
        one = torch.ones(1, dtype=double)
        first, second = torch.cat((x, one)), torch.cat((h, one))
        found.append((back @ H @ back.T, torch.outer(first, first), H, torch.outer(second, second)))
    S1, A1, S2, A2 = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
    return [(S1, A1), (S2, A2)]


def kronecker_by_hand(posterior: Posterior, position: torch.Tensor) -> torch.Tensor:
    """P with every factor multiplied out: Σ S_oo' A_ii' at the places of the weights and, last, the bias."""
    places = posterior.unravel(torch.arange(posterior.dim))
    precision = torch.zeros(posterior.dim, posterior.dim, dtype=double)
    scale = {"0.weight": 0.5, "2.weight": 1.5, "0.bias": 2.0, "2.bias": 2.0}
    for layer, (S, A) in zip("02", factors_by_hand(posterior, position), strict=True):
        index = torch.cat((places[f"{layer}.weight"], places[f"{layer}.bias"][:, None]), 1)
        for (o, i), row in zip(torch.cartesian_prod(*map(torch.arange, index.shape)), index.flatten(), strict=True):
            for (p, j), column in zip(
                torch.cartesian_prod(*map(torch.arange, index.shape)), index.flatten(), strict=True
            ):
                precision[row, column] = posterior.num_data * S[o, p] * A[i, j]
    for name, place in places.items():
        precision[place.flatten(), place.flatten()] += scale[name] ** -2
    return precision


def test_kronecker_precision_is_that_of_the_factors_with_the_prior_added_exactly():
    posterior, position = classifier()
    expected = kronecker_by_hand(posterior, position)
    laplace = Laplace.fit(posterior, position, structure="kronecker")
    assert relative_error(laplace.precision, expected) < 1e-12
    assert relative_error(laplace.covariance, torch.linalg.inv(expected)) < 1e-10
    assert relative_error(laplace.sd, torch.linalg.inv(expected).diagonal().sqrt()) < 1e-10
    assert laplace.gaussian.log_det() == pytest.approx(float(torch.logdet(expected)), rel=1e-12)
    evidence = -laplace.cost + 0.5 * posterior.dim * math.log(2 * math.pi)
    assert laplace.log_marginal_likelihood == pytest.approx(evidence - 0.5 * float(torch.logdet(expected)), rel=1e-12)
    cold = Laplace.fit(posterior, position, structure="kronecker", temperature=0.25)
    torch.testing.assert_close(cold.covariance, 0.25 * laplace.covariance)
    with pytest.raises(ValueError, match="has no Cholesky factor"):
        _ = laplace.factor


def test_kronecker_is_the_blocks_of_the_dense_matrix_where_there_is_one_example():
    posterior, position = classifier(num_data=1)
    dense, kronecker = (Laplace.fit(posterior, position, structure=s).precision for s in ("dense", "kronecker"))
    edge = sum(posterior.layout.sizes[:2])
    blocks = torch.block_diag(dense[:edge, :edge], dense[edge:, edge:])
    assert float(dense[:edge, edge:].abs().max()) > 0.01  # what it leaves out
    torch.testing.assert_close(kronecker, blocks, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("structure", ["kronecker", "last_layer"])
@pytest.mark.parametrize("num_outputs", [1, 2])
@pytest.mark.parametrize("prior", [{"bias": normal(0.3), "weight": normal(1.5)}, None])
def test_one_linear_layer_is_exact(structure, num_outputs, prior):
    x = rows(N, 3, seed=1)
    y = x[:, :num_outputs] + 0.5 + 0.7 * rows(N, num_outputs, seed=3)
    posterior = Posterior(nn.Linear(3, num_outputs).double(), gaussian(0.7), (x, y), prior=prior)
    dense = Laplace.fit(posterior)
    found = Laplace.fit(posterior, dense.mode, structure=structure)
    torch.testing.assert_close(found.precision, dense.precision, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.covariance, dense.covariance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.mean, dense.mean)
    assert found.log_marginal_likelihood == pytest.approx(dense.log_marginal_likelihood, abs=1e-9)
    assert found.newton_decrement == pytest.approx(dense.newton_decrement, rel=1e-6, abs=1e-15)


class Mixed(nn.Module):
    """A convolution, a linear layer, and a parameter outside of both."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2 * 4 * 3, 2)
        self.gain = nn.Parameter(torch.ones(2))
        self.body = nn.Conv2d(1, 2, 2)

    def forward(self, x):
        return self.gain * self.head(self.body(x).tanh().flatten(1))


def mixed() -> tuple[Posterior, torch.Tensor]:
    torch.manual_seed(1)
    posterior = Posterior(Mixed().double(), gaussian(0.5), (rows(15, 1, 5, 4), rows(15, 2, seed=1)), normal(0.8))
    return posterior, posterior.default_position()


def test_kronecker_of_convolutions_and_of_parameters_outside_of_layers():
    posterior, position = mixed()
    with pytest.warns(UserWarning, match=r"\['gain'\] are outside of the layers .* diagonal of P") as caught:
        laplace = Laplace.fit(posterior, position, structure="kronecker")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [Laplace.fit(posterior, position, structure="kronecker", chunk=chunk) for chunk in (1, 4)]
        curvature = Fisher(structure="kronecker").curvature(posterior, position[None], no_noise(posterior))
    units = torch.eye(posterior.dim, dtype=double)
    expected = 15 * torch.cat([curvature.multiply(unit[None]) for unit in units]) + units / 0.8**2
    torch.testing.assert_close(laplace.precision, expected, rtol=1e-9, atol=1e-9)
    for part in parts:
        torch.testing.assert_close(part.precision, expected, rtol=1e-9, atol=1e-9)
    dense = Laplace.fit(posterior, position).precision.diagonal()
    gain = posterior.unravel(torch.arange(posterior.dim))["gain"]
    torch.testing.assert_close(laplace.precision.diagonal()[gain], dense[gain])


@pytest.mark.parametrize("structure", ["kronecker", "last_layer"])
def test_samples_have_the_covariance_and_log_prob_is_its_density(structure):
    posterior, position = classifier()
    laplace = Laplace.fit(posterior, position, structure=structure)
    n = 20_000
    draws = laplace.sample(n, seed=1)
    assert draws.shape == (n, posterior.dim)
    if structure == "last_layer":
        last = sum(posterior.layout.sizes[2:])
        assert torch.equal(draws[:, :-last], position[:-last].expand(n, -1))
        draws = draws[:, -last:]
    expected, sd = laplace.covariance, laplace.sd
    correlation = expected / sd / sd[:, None]
    assert float((correlation - correlation.diagonal().diag()).abs().max()) > 0.3
    assert ((draws.mean(0) - laplace.mean) / sd * math.sqrt(n)).abs().max() < 4
    error = ((expected**2 + sd**2 * (sd**2)[:, None]) / n).sqrt()
    assert ((torch.cov(draws.T) - expected) / error).abs().max() < 4.5
    positions = laplace.sample(6).view(2, 3, -1)
    own = positions if structure == "kronecker" else positions[..., -last:]
    torch.testing.assert_close(laplace.log_prob(positions), MultivariateNormal(laplace.mean, expected).log_prob(own))
    torch.testing.assert_close(laplace.sample(5, seed=7)[:3], laplace.sample(3, seed=7), rtol=0, atol=1e-13)


def test_log_prob_of_the_last_layer_is_a_density_where_the_rest_is_at_the_mode():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(1, 1), nn.Linear(1, 1, bias=False)

        def forward(self, x):
            return self.outer(self.inner(x))

    posterior = Posterior(Line().double(), gaussian(0.5), (rows(9, 1), rows(9, 1, seed=1)))
    laplace = Laplace.fit(posterior, posterior.default_position() + 0.3, structure="last_layer")
    assert laplace.dim == 1
    assert laplace.layout.names == ("outer.weight",)
    grid = laplace.mode.repeat(2001, 1)
    grid[:, -1] += torch.linspace(-8, 8, 2001, dtype=double) * laplace.sd
    assert float(torch.trapezoid(laplace.log_prob(grid).exp(), grid[:, -1])) == pytest.approx(1, abs=1e-9)
    grid[5, 0] += 1e-9
    assert laplace.log_prob(grid[:6]).isneginf().tolist() == [False] * 5 + [True]


def test_last_layer_is_the_dense_approximation_of_the_posterior_of_that_layer():
    posterior, position = classifier()
    model = nn.Sequential(nn.Linear(3, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)).double()
    nn.utils.vector_to_parameters(position, model.parameters())
    data = posterior.inputs, posterior.targets
    part = Posterior(model, categorical, data, {"*.bias": normal(2.0), "*": normal(1.5)}, parameters="2.*")
    for curvature in ("ggn", "hessian"):
        expected = Laplace.fit(part, position[-part.dim :], curvature=curvature)
        found = Laplace.fit(posterior, position, structure="last_layer", curvature=curvature)
        torch.testing.assert_close(found.covariance, expected.covariance)
        torch.testing.assert_close(found.mean, expected.mean)
        assert found.dim == part.dim
        assert found.cost == pytest.approx(expected.cost, rel=1e-12)
        assert found.log_marginal_likelihood == pytest.approx(expected.log_marginal_likelihood, rel=1e-12)
    assert len(found.mode) == posterior.dim


def test_the_last_layer_is_the_one_called_last():
    posterior, position = mixed()  # its head is registered first, and its gain belongs to no layer
    laplace = Laplace.fit(posterior, position, structure="last_layer")
    assert laplace.layout.names == ("head.weight", "head.bias")
    assert not any(module._forward_hooks for module in posterior.model.modules())
    frozen = Posterior(
        posterior.model, gaussian(0.5), (posterior.inputs, posterior.targets), parameters=["gain", "body*"]
    )
    assert Laplace.fit(frozen, structure="last_layer").layout.names == ("body.weight", "body.bias")
    gain = Posterior(posterior.model, gaussian(0.5), (posterior.inputs, posterior.targets), parameters="gain")
    with pytest.raises(ValueError, match=r"\['gain'\] belong to none: choose them yourself"):
        Laplace.fit(gain, structure="last_layer")


def test_structures_in_single_precision():
    posterior, position = classifier()
    for structure in ("kronecker", "last_layer"):
        exact = Laplace.fit(posterior, position, structure=structure)
        single = Laplace.fit(posterior.to(dtype=torch.float32), position, structure=structure)
        assert single.sample(2).dtype == torch.float32
        assert single.covariance.dtype == double
        assert relative_error(single.covariance, exact.covariance) < 1e-4


def test_a_kronecker_covariance_beyond_memory_is_refused_and_not_needed(monkeypatch):
    posterior, position = classifier()
    monkeypatch.setattr("langevin.diagnostics.laplace_fit._memory", lambda device: 1000.0)
    laplace = Laplace.fit(posterior, position, structure="kronecker")
    for matrix in ("covariance", "precision"):
        with pytest.raises(ValueError, match=r"31 parameters .* `sd`, `sample` and `predict` need none"):
            getattr(laplace, matrix)
    assert laplace.sample(2).shape == (2, posterior.dim)
    assert laplace.sd.shape == (posterior.dim,)
    assert laplace.predict(posterior.inputs).mean.shape == (N, CLASSES)
    with pytest.raises(ValueError, match=r'15 parameters .* structure="diagonal"'):
        Laplace.fit(posterior, position, structure="last_layer")


def test_comparison_and_ensemble_of_the_last_layer():
    x = rows(N, 3, seed=1)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    posterior = Posterior(model, gaussian(0.5), (x, x[:, :1]))
    chains = sample(posterior, SGLD(lr=0.01), num_samples=30, num_chains=2, num_warmup=0, progress=False)
    laplace = Laplace.fit(posterior, posterior.default_position(), structure="last_layer")
    comparison = compare(chains, laplace)
    assert comparison.names == ["1.weight[0, 0]", "1.weight[0, 1]", "1.bias[0]"]
    torch.testing.assert_close(comparison.laplace_sd, laplace.sd)
    torch.testing.assert_close(comparison.laplace_mean, laplace.mean)
    torch.testing.assert_close(comparison.chain_mean[:2], chains.draws["1.weight"].double().mean((0, 1))[0])
    assert comparison.notes[0] == "Laplace holds ['0.weight', '0.bias'] fixed: they are not compared"
    hidden = sample(posterior, SGLD(lr=0.01), num_samples=30, num_warmup=0, keep=["0.*"], progress=False)
    with pytest.raises(ValueError, match=r"Laplace is over \['1.weight', '1.bias'\] only: nothing to compare"):
        compare(hidden, laplace)
    assert Ensemble(posterior, laplace, num_draws=5).predict(x).mean.shape == (N, 1)


def test_what_kronecker_factors_cannot_be_had_for():
    posterior, position = classifier()

    def fit(target=posterior, at=position, **kwargs):
        return Laplace.fit(target, at, **({"structure": "kronecker"} | kwargs))

    with pytest.raises(ValueError, match='"kronecker" is an approximation of the Gauss–Newton matrix'):
        fit(curvature="hessian")
    x = rows(9, 3)
    counts = Posterior(
        nn.Linear(3, 1).double(),
        lambda z: NegativeBinomial(3.0, logits=z, validate_args=False),
        (x, x[:, :1].abs().round()),
    )
    with pytest.raises(ValueError, match=r"has no method `fisher\(outputs\)`"):
        fit(counts, counts.default_position())
    norm = Posterior(nn.LayerNorm(3).double(), gaussian(1.0), (x, x))
    with pytest.raises(ValueError, match='this model has none: use "dense" or "diagonal"'):
        fit(norm, norm.default_position())
    density = LogDensity(lambda v: -(v["x"] ** 2).sum(), {"x": torch.zeros(2)})
    with pytest.raises(ValueError, match="a LogDensity has no layers"):
        fit(density, torch.zeros(2), structure="last_layer", curvature="hessian")


@pytest.mark.parametrize(
    "prior",
    [
        {"*.bias": None, "*": normal(1.0)},
        {"0.weight": Normal(0.0, 0.5 + torch.rand(HIDDEN, 3, dtype=double)), "*": normal(1.0)},
        {"0.weight": StudentT(4.0, 0.0, 0.5), "*": normal(1.0)},
        {"2.bias": MultivariateNormal(torch.zeros(3), torch.eye(3) + 0.5), "*": normal(1.0)},
    ],
)
def test_priors_that_are_no_product_within_a_layer_are_refused(prior):
    posterior, position = classifier(prior=prior)
    with pytest.raises(ValueError, match=r"Kronecker factors take a precision exactly only where .*use such a prior"):
        Laplace.fit(posterior, position, structure="kronecker")


def test_scales_per_input_and_per_output_are_a_product():
    columns = Normal(0.0, torch.tensor([0.2, 1.0, 3.0], dtype=double))
    units = Normal(0.0, torch.tensor([[0.3], [1.0], [2.0], [0.5]], dtype=double))
    for hidden in (columns, units):
        prior = {"0.weight": hidden, "2.*": normal(1.0)}
        posterior, _ = classifier(prior=prior, parameters=["0.weight", "2.*"])
        at = posterior.default_position()
        found = Laplace.fit(posterior, at, structure="kronecker").precision
        bare, _ = classifier(prior=normal(1.0), parameters=["0.weight", "2.*"])
        expected = Laplace.fit(bare, at, structure="kronecker").precision
        expected[range(12), range(12)] += hidden.scale.expand(HIDDEN, 3).flatten() ** -2 - 1
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_directions_without_information_are_an_error_under_a_flat_prior():
    posterior, position = classifier(prior=None)  # a constant added to all logits changes nothing
    with pytest.raises(ValueError, match=r"not positive definite: its smallest eigenvalue is .* proper prior"):
        Laplace.fit(posterior, position, structure="kronecker")


def test_every_structure_of_a_linear_regression_has_the_known_evidence():
    posterior, mean, precision, evidence = linear_regression()
    for structure in ("dense", "kronecker", "last_layer"):
        laplace = Laplace.fit(posterior, mean, structure=structure)
        torch.testing.assert_close(laplace.precision, precision, rtol=1e-9, atol=1e-9)
        assert laplace.log_marginal_likelihood == pytest.approx(evidence, abs=1e-8)
    diagonal = Laplace.fit(posterior, mean, structure="diagonal").log_marginal_likelihood
    lost = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    assert diagonal == pytest.approx(evidence - lost, abs=1e-8)
    assert lost > 0.4
