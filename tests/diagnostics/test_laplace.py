"""Laplace against curvature worked out by hand: explicit Jacobians, double loops of autograd, closed forms."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from langevin.diagnostics.laplace import Laplace
from langevin.samplers.likelihoods import bernoulli, categorical, gaussian, heteroscedastic_gaussian, poisson
from langevin.samplers.log_density import LogDensity
from langevin.samplers.modes import find_mode
from langevin.samplers.posterior import Posterior
from torch import nn
from torch.distributions import MultivariateNormal, NegativeBinomial, Normal, StudentT, constraints

torch_double = torch.float64
SIZES = (3, 5, 4)  # inputs and hidden units of the network; its outputs depend on the likelihood
NUM_DATA = 120


def network(num_outputs: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(SIZES[0], SIZES[1]), nn.Tanh(), nn.Linear(SIZES[1], SIZES[2]), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(SIZES[2], num_outputs)).double()


def network_by_hand(position: torch.Tensor, x: torch.Tensor, num_outputs: int) -> torch.Tensor:
    widths = (*SIZES, num_outputs)
    start = 0
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        weight = position[start : start + fan_in * fan_out].view(fan_out, fan_in)
        bias = position[start + fan_in * fan_out :][:fan_out]
        start += fan_in * fan_out + fan_out
        x = (x if layer == 0 else x.tanh()) @ weight.T + bias
    assert start == len(position)
    return x


def inputs() -> torch.Tensor:
    return torch.randn(NUM_DATA, SIZES[0], dtype=torch_double, generator=torch.Generator().manual_seed(1))


def normal(scale: float) -> Normal:
    """In float64: the log normaliser of `Normal(0.0, scale)` has the 24 bits of a float32."""
    return Normal(torch.zeros((), dtype=torch_double), scale)


def noise(size: int) -> torch.Tensor:
    return torch.randn(size, dtype=torch_double, generator=torch.Generator().manual_seed(2))


def softmax_information(z: torch.Tensor) -> torch.Tensor:
    p = z.exp() / z.exp().sum()
    return p.diag() - torch.outer(p, p)


def bernoulli_information(z: torch.Tensor) -> torch.Tensor:
    return (1 / (2 + z.exp() + (-z).exp())).diag()


def heteroscedastic_information(z: torch.Tensor) -> torch.Tensor:
    return torch.stack([1 / z[1].exp() ** 2, torch.tensor(2.0, dtype=torch_double)]).diag()


def heteroscedastic_cost(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (z[:, 1] + 0.5 * (y - z[:, 0]) ** 2 / z[:, 1].exp() ** 2 + 0.5 * math.log(2 * math.pi)).sum()


def gaussian_cost(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((y - z) ** 2 / (2 * 0.3**2) + math.log(0.3) + 0.5 * math.log(2 * math.pi)).sum()


# likelihood, number of outputs, targets, cost by hand, information of one example's outputs by hand
CASES = {
    "categorical": (
        categorical,
        3,
        lambda x: (x[:, 0] + x[:, 1] * x[:, 2] > 0.2).long() + (x[:, 2] > 0.5).long(),
        lambda z, y: F.cross_entropy(z, y, reduction="sum"),
        softmax_information,
    ),
    "bernoulli": (
        bernoulli,
        2,
        lambda x: (x[:, :2] > 0.3 * x[:, 2:]).double(),
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="sum"),
        bernoulli_information,
    ),
    "gaussian": (
        gaussian(0.3),
        2,
        lambda x: torch.stack([x[:, 0].sin() + x[:, 1], x[:, 2] ** 2], 1),
        gaussian_cost,
        lambda z: torch.full_like(z, 1 / 0.3**2).diag(),
    ),
    "poisson": (
        poisson,
        2,
        lambda x: (2 * x[:, :2].abs()).round(),
        lambda z, y: (z.exp() - y * z + torch.lgamma(y + 1)).sum(),
        lambda z: z.exp().diag(),
    ),
    "heteroscedastic": (
        heteroscedastic_gaussian,
        2,
        lambda x: x[:, 0] + (0.5 + 0.3 * x[:, 1].abs()) * noise(NUM_DATA),
        heteroscedastic_cost,
        heteroscedastic_information,
    ),
}


def posterior_of(case: str, **kwargs) -> Posterior:
    likelihood, num_outputs, targets, _, _ = CASES[case]
    x = inputs()
    return Posterior(network(num_outputs), likelihood, (x, targets(x)), **({"prior": normal(0.75)} | kwargs))


def hessian_by_hand(cost, position: torch.Tensor) -> torch.Tensor:
    position = position.detach().clone().requires_grad_()
    gradient = torch.autograd.grad(cost(position), position, create_graph=True)[0]
    rows = [torch.autograd.grad(g, position, retain_graph=True)[0] for g in gradient]
    return torch.stack(rows)


def ggn_by_hand(outputs, information, position: torch.Tensor, num_data: int) -> torch.Tensor:
    """Σᵢ Jᵢᵀ Hᵢ Jᵢ, one backward pass per output; `information` takes the example's number and its flat outputs."""
    position = position.detach().clone().requires_grad_()
    total = torch.zeros(len(position), len(position), dtype=torch_double)
    for i in range(num_data):
        z = outputs(position, i).reshape(-1)
        jacobian = torch.stack([torch.autograd.grad(value, position, retain_graph=True)[0] for value in z])
        total += jacobian.T @ information(i, z.detach()) @ jacobian
    return total


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_ggn_covariance_equals_inverse_of_explicit_jacobians(case):
    _, num_outputs, _, _, information = CASES[case]
    posterior = posterior_of(case)
    mode = find_mode(posterior)
    laplace = Laplace.fit(posterior, mode)
    ggn = ggn_by_hand(
        lambda p, i: network_by_hand(p, inputs()[i], num_outputs), lambda _, z: information(z), mode, NUM_DATA
    )
    expected = torch.linalg.inv(ggn + torch.eye(posterior.dim, dtype=torch_double) / 0.75**2)
    assert relative_error(laplace.covariance, expected) < 1e-6
    assert relative_error(laplace.sd, expected.diagonal().sqrt()) < 1e-6
    diagonal = Laplace.fit(posterior, mode, structure="diagonal")
    assert diagonal.covariance.shape == (posterior.dim,)
    assert relative_error(diagonal.covariance, 1 / (ggn.diagonal() + 1 / 0.75**2)) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_hessian_covariance_equals_inverse_of_double_loop(case):
    _, num_outputs, targets, cost_of_outputs, _ = CASES[case]
    posterior = posterior_of(case)
    mode = find_mode(posterior, tolerance=1e-9)
    x = inputs()

    def cost(position):
        prior = 0.5 * (position / 0.75) ** 2 + math.log(0.75) + 0.5 * math.log(2 * math.pi)
        return cost_of_outputs(network_by_hand(position, x, num_outputs), targets(x)) + prior.sum()

    expected = hessian_by_hand(cost, mode)
    laplace = Laplace.fit(posterior, mode, curvature="hessian")
    assert relative_error(laplace.covariance, torch.linalg.inv(expected)) < 1e-6
    assert laplace.cost == pytest.approx(float(cost(mode)), rel=1e-12)
    evidence = -float(cost(mode)) + 0.5 * posterior.dim * math.log(2 * math.pi) - 0.5 * float(torch.logdet(expected))
    assert laplace.log_marginal_likelihood == pytest.approx(evidence, rel=1e-9)
    diagonal = Laplace.fit(posterior, mode, curvature="hessian", structure="diagonal")
    assert relative_error(diagonal.precision, expected.diagonal()) < 1e-9


def linear_regression(num_data=50, dim=4, noise=0.7, spread=1.25, **kwargs):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(num_data, dim, dtype=torch_double, generator=generator)
    x[:, 1] += 0.9 * x[:, 0]
    y = x @ torch.linspace(-1, 2, dim, dtype=torch_double) + noise * torch.randn(
        num_data, dtype=torch_double, generator=generator
    )
    model = nn.Linear(dim, 1, bias=False).double()
    posterior = Posterior(model, gaussian(noise), (x, y[:, None]), **({"prior": normal(spread)} | kwargs))
    precision = x.T @ x / noise**2 + torch.eye(dim, dtype=torch_double) / spread**2
    mean = torch.linalg.solve(precision, x.T @ y / noise**2)
    evidence = MultivariateNormal(
        torch.zeros(num_data, dtype=torch_double),
        noise**2 * torch.eye(num_data, dtype=torch_double) + spread**2 * x @ x.T,
    ).log_prob(y)
    return posterior, mean, precision, float(evidence)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_conjugate_linear_regression_is_exact(curvature):
    posterior, mean, precision, evidence = linear_regression()
    laplace = Laplace.fit(posterior, curvature=curvature)
    torch.testing.assert_close(laplace.mean, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(laplace.covariance, torch.linalg.inv(precision), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(laplace.precision, precision, rtol=1e-9, atol=1e-9)
    assert laplace.log_marginal_likelihood == pytest.approx(evidence, abs=1e-8)


def test_ggn_equals_hessian_for_a_model_linear_in_its_parameters():
    x = inputs()
    torch.manual_seed(0)
    posterior = Posterior(nn.Linear(3, 3).double(), categorical, (x, CASES["categorical"][2](x)))
    mode = find_mode(posterior)
    ggn, hessian = (Laplace.fit(posterior, mode, curvature=kind) for kind in ("ggn", "hessian"))
    torch.testing.assert_close(ggn.precision, hessian.precision, rtol=1e-10, atol=1e-10)


def test_priors_per_name_and_priors_with_correlations():
    scale = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [-0.5, 0.3, 1.5]], dtype=torch_double)
    prior = {
        "4.bias": MultivariateNormal(torch.ones(3, dtype=torch_double), scale_tril=scale),
        "*.bias": Normal(0.0, 2.0),
        "0.weight": StudentT(4.0, 0.0, 0.5),
        "*": Normal(0.125, 0.75),
    }
    posterior = posterior_of("categorical", prior=prior)
    mode = find_mode(posterior)
    names = dict(zip(posterior.layout.names, torch.arange(posterior.dim).split(posterior.layout.sizes), strict=True))
    expected = torch.zeros(posterior.dim, posterior.dim, dtype=torch_double)
    for name, index in names.items():
        if name == "4.bias":
            block = torch.linalg.inv(scale @ scale.T)
        elif name == "0.weight":  # −log p = (ν+1)/2 log(1 + t²/ν), t = x / s
            square = (mode[index] / 0.5) ** 2
            block = ((4 + 1) * (4 - square) / (4 + square) ** 2 / 0.5**2).diag()
        else:
            block = torch.eye(len(index), dtype=torch_double) / (0.75 if name.endswith("weight") else 2.0) ** 2
        expected[index[:, None], index] = block
    bare = posterior_of("categorical", prior={"*": Normal(0.0, 1.0)})  # the likelihood's part, by difference
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        likelihood = Laplace.fit(bare, mode).precision - torch.eye(posterior.dim, dtype=torch_double)
    laplace = Laplace.fit(posterior, mode)
    torch.testing.assert_close(laplace.precision, likelihood + expected, rtol=1e-8, atol=1e-8)
    diagonal = Laplace.fit(posterior, mode, structure="diagonal")
    torch.testing.assert_close(diagonal.precision, (likelihood + expected).diagonal(), rtol=1e-8, atol=1e-8)
    factorised = posterior_of("categorical", prior={name: value for name, value in prior.items() if name != "4.bias"})
    index = names["4.bias"]
    expected[index[:, None], index] = torch.eye(3, dtype=torch_double) / 2.0**2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Laplace.fit(factorised, mode).precision
    torch.testing.assert_close(found, likelihood + expected, rtol=1e-8, atol=1e-8)


def test_outputs_per_token_and_per_pixel():
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(8, 6, 3, dtype=torch_double, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    posterior = Posterior(model, categorical, (tokens, (tokens[..., 0] > 0).long() + (tokens[..., 1] > 1).long()))
    mode = find_mode(posterior)

    def of_tokens(position, i):
        w1, b1, w2, b2 = position.split([12, 4, 12, 3])
        return (tokens[i] @ w1.view(4, 3).T + b1).tanh() @ w2.view(3, 4).T + b2

    def information(_, z):
        return torch.block_diag(*[softmax_information(row) for row in z.view(6, 3)])

    expected = torch.linalg.inv(ggn_by_hand(of_tokens, information, mode, 8) + torch.eye(31, dtype=torch_double))
    assert relative_error(Laplace.fit(posterior, mode).covariance, expected) < 1e-6

    pixels = torch.randn(7, 1, 5, 4, dtype=torch_double, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 1)).double()
    posterior = Posterior(model, gaussian(0.5), (pixels, pixels.roll(1, -1)))
    mode = find_mode(posterior)

    def of_pixels(position, i):
        w1, b1, w2, b2 = position.split([18, 2, 2, 1])
        hidden = F.conv2d(pixels[i : i + 1], w1.view(2, 1, 3, 3), b1, padding=1).tanh()
        return F.conv2d(hidden, w2.view(1, 2, 1, 1), b2)

    expected = ggn_by_hand(of_pixels, lambda _, z: torch.full_like(z, 4.0).diag(), mode, 7)
    expected = torch.linalg.inv(expected + torch.eye(23, dtype=torch_double))
    assert relative_error(Laplace.fit(posterior, mode).covariance, expected) < 1e-6


def test_likelihoods_without_a_fisher_method_use_the_observed_hessian():
    x = inputs()
    y = (2 * x[:, :2].abs()).round()

    def counts(z):
        return NegativeBinomial(3.0, logits=z, validate_args=False)

    def spread(z):  # couples the numbers of an output: neither elementwise nor a matrix in the last dimension
        z = z.unflatten(-1, (2, 2))
        return Normal(
            z[..., 0, :], 0.5 + F.softplus(z[..., 1, :] + 0.1 * z.sum((-2, -1))[..., None]), validate_args=False
        )

    def scalar(z):
        return NegativeBinomial(3.0, logits=z[..., 0] * 1.0, validate_args=False)

    for likelihood, num_outputs, targets in ((counts, 2, y), (spread, 4, y), (scalar, 1, y[:, 0])):
        posterior = Posterior(network(num_outputs), likelihood, (x, targets), prior=Normal(0.0, 0.5))
        mode = find_mode(posterior)

        def information(i, z, likelihood=likelihood, targets=targets):
            return hessian_by_hand(lambda z: -likelihood(z[None]).log_prob(targets[i : i + 1]).sum(), z)

        def outputs(position, i, num_outputs=num_outputs):
            return network_by_hand(position, x[i], num_outputs)

        expected = ggn_by_hand(outputs, information, mode, NUM_DATA)
        expected += torch.eye(posterior.dim, dtype=torch_double) * 4
        assert relative_error(Laplace.fit(posterior, mode).precision, expected) < 1e-9


def test_outputs_without_a_dimension_of_their_own():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, dtype=torch_double))

        def forward(self, x):
            return x @ self.weight

    x = inputs()
    for likelihood in (bernoulli, lambda z: torch.distributions.Bernoulli(logits=z, validate_args=False)):
        posterior = Posterior(Line(), likelihood, (x, (x[:, 0] > 0).double()))
        mode = find_mode(posterior)
        p = torch.sigmoid(x @ mode)
        expected = x.T @ (x * (p * (1 - p))[:, None]) + torch.eye(3, dtype=torch_double)
        torch.testing.assert_close(Laplace.fit(posterior, mode).precision, expected, rtol=1e-9, atol=1e-9)


def test_dictionary_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2).double()

        def forward(self, left, right):
            return self.layer(left + right)

    x = inputs()
    data = ({"left": 0.25 * x, "right": 0.75 * x}, x[:, :2])
    plain = Posterior(nn.Linear(3, 2).double(), gaussian(0.5), (x, x[:, :2]))
    mode = find_mode(plain)
    found = Laplace.fit(Posterior(Sum(), gaussian(0.5), data), mode).precision
    torch.testing.assert_close(found, Laplace.fit(plain, mode).precision)


def test_subset_of_the_parameters_has_the_block_of_the_whole_precision():
    whole = posterior_of("categorical")
    mode = find_mode(whole)
    last = sum(whole.layout.sizes[-2:])
    model = network(3)
    nn.utils.vector_to_parameters(mode, model.parameters())
    part = Posterior(model, categorical, (whole.inputs, whole.targets), normal(0.75), parameters="4.*")
    for curvature in ("ggn", "hessian"):
        block = Laplace.fit(whole, mode, curvature=curvature).precision[-last:, -last:]
        torch.testing.assert_close(Laplace.fit(part, mode[-last:], curvature=curvature).precision, block)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.parametrize("structure", ["dense", "diagonal"])
def test_chunks_do_not_matter(curvature, structure):
    posterior = posterior_of("categorical")
    mode = find_mode(posterior)
    whole, *parts = (
        Laplace.fit(posterior, mode, curvature=curvature, structure=structure, chunk=chunk) for chunk in (None, 1, 7)
    )
    for part in parts:
        torch.testing.assert_close(part.factor, whole.factor)
        assert part.cost == pytest.approx(whole.cost, rel=1e-12)


def test_single_precision_models_are_summed_and_factorised_in_double():
    posterior = posterior_of("categorical")
    mode = find_mode(posterior)
    for curvature in ("ggn", "hessian"):
        double = Laplace.fit(posterior, mode, curvature=curvature)
        single = Laplace.fit(posterior.to(dtype=torch.float32), mode, curvature=curvature)
        assert single.factor.dtype == torch_double
        assert single.sample(3).dtype == single.mean.dtype == torch.float32
        assert relative_error(single.covariance, double.covariance) < 1e-4


@pytest.mark.parametrize("structure", ["dense", "diagonal"])
def test_samples_have_the_covariance(structure):
    posterior = posterior_of("categorical")
    laplace = Laplace.fit(posterior, structure=structure)
    n = 40_000
    draws = laplace.sample(n, seed=1)
    expected = laplace.covariance if structure == "dense" else laplace.covariance.diag()
    sd = expected.diagonal().sqrt()
    correlation = expected / sd / sd[:, None]
    assert structure == "diagonal" or float((correlation - correlation.diagonal().diag()).abs().max()) > 0.3
    z = (draws.mean(0) - laplace.mean) / sd * math.sqrt(n)
    assert z.abs().max() < 4
    error = ((expected**2 + sd**2 * (sd**2)[:, None]) / n).sqrt()
    z = (torch.cov(draws.T) - expected) / error
    assert z.abs().max() < 4.5  # over 1,830 entries: 4.5 leaves 1 % by chance
    distance = ((draws - laplace.mean) @ torch.linalg.inv(expected) * (draws - laplace.mean)).sum(-1)
    assert abs(distance.mean() - laplace.dim) / math.sqrt(2 * laplace.dim / n) < 4
    assert abs(distance.var() - 2 * laplace.dim) / (2 * laplace.dim * math.sqrt((2 + 12 / laplace.dim) / n)) < 4


def test_samples_depend_on_seed_and_row_only():
    laplace = Laplace.fit(linear_regression()[0])
    torch.testing.assert_close(laplace.sample(5, seed=7)[:3], laplace.sample(3, seed=7), rtol=0, atol=1e-14)
    assert not torch.allclose(laplace.sample(3, seed=7), laplace.sample(3, seed=8))


@pytest.mark.parametrize("structure", ["dense", "diagonal"])
def test_log_prob_is_that_of_the_gaussian(structure):
    laplace = Laplace.fit(linear_regression()[0], structure=structure)
    covariance = laplace.covariance if structure == "dense" else laplace.covariance.diag()
    positions = laplace.sample(6).view(2, 3, -1)
    expected = MultivariateNormal(laplace.mean, covariance).log_prob(positions)
    torch.testing.assert_close(laplace.log_prob(positions), expected)
    with pytest.raises(ValueError, match=r"positions must have shape \[\.\.\., 4\], got \(2, 3\)"):
        laplace.log_prob(torch.zeros(2, 3))


def test_temperature_scales_the_covariance():
    posterior = linear_regression()[0]
    for structure in ("dense", "diagonal"):
        cold, unit = (Laplace.fit(posterior, structure=structure, temperature=t) for t in (0.25, 1.0))
        torch.testing.assert_close(cold.covariance, 0.25 * unit.covariance)
    with pytest.raises(ValueError, match=r"temperature 1, this is a fit at 0\.25"):
        _ = cold.log_marginal_likelihood


def test_log_density_in_unconstrained_coordinates():
    # θ ~ Gamma(a, b) up to the constant; in x = log θ the log density is a·x − b·eˣ, with curvature a at x = log(a/b)
    a, b = 5.0, 2.0
    target = LogDensity(
        lambda v: (a - 1) * v["theta"].log() - b * v["theta"],
        {"theta": torch.tensor(1.0, dtype=torch_double)},
        {"theta": constraints.positive},
    )
    laplace = Laplace.fit(target, curvature="hessian")
    assert float(laplace.mean) == pytest.approx(math.log(a / b), rel=1e-5)
    assert float(laplace.covariance) == pytest.approx(1 / a, rel=1e-5)
    stirling = a * math.log(a / b) - a + 0.5 * math.log(2 * math.pi / a)
    assert laplace.log_marginal_likelihood == pytest.approx(stirling, rel=1e-6)
    assert stirling == pytest.approx(math.lgamma(a) - a * math.log(b), abs=1 / (11 * a))  # what it approximates
    with pytest.raises(ValueError, match="no model outputs"):
        Laplace.fit(target)


def test_a_saddle_is_not_a_mode():
    target = LogDensity(lambda v: 1.5 * v["x"][0] ** 2 - v["x"][1] ** 2, {"x": torch.zeros(2, dtype=torch_double)})
    with pytest.raises(
        ValueError, match=r"not positive definite: its smallest eigenvalue is -3 .*find_mode.*proper prior"
    ):
        Laplace.fit(target, torch.zeros(2, dtype=torch_double), curvature="hessian")
    with pytest.raises(ValueError, match=r"smallest diagonal entry is -3 "):
        Laplace.fit(target, torch.zeros(2, dtype=torch_double), curvature="hessian", structure="diagonal")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_directions_without_information_are_an_error_under_a_flat_prior(curvature, dtype):
    x = inputs()
    x = torch.cat([x, x.sum(1, keepdim=True)], 1)  # the fourth column says nothing new
    model = nn.Linear(4, 1, bias=False).double()
    data = (x, x[:, :1] + 0.1)
    proper = Posterior(model, gaussian(0.5), data).to(dtype=dtype)
    flat = Posterior(model, gaussian(0.5), data, prior=None).to(dtype=dtype)
    Laplace.fit(proper, curvature=curvature)
    with pytest.raises(ValueError, match=r"not positive definite: its smallest eigenvalue is .* proper prior") as error:
        Laplace.fit(flat, find_mode(proper), curvature=curvature)
    assert ("float64" in str(error.value)) == (dtype == torch.float32)
    for seed in range(6):  # rounding may make the smallest eigenvalue positive
        x = torch.randn(NUM_DATA, 3, dtype=torch_double, generator=torch.Generator().manual_seed(seed))
        x = torch.cat([x, x.sum(1, keepdim=True)], 1)
        flat = Posterior(model, bernoulli, (x, (x[:, :1] > 0).double()), prior=None).to(dtype=dtype)
        with pytest.raises(ValueError, match="not positive definite"):
            Laplace.fit(flat, flat.default_position(), curvature=curvature)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_a_parameter_that_does_nothing_is_an_error_under_a_flat_prior(curvature):
    model = nn.Linear(4, 1, bias=False).double()
    unused = torch.cat([inputs(), torch.zeros(NUM_DATA, 1, dtype=torch_double)], 1)
    flat = Posterior(model, gaussian(0.5), (unused, unused[:, :1]), prior=None)
    with pytest.raises(ValueError, match="smallest diagonal entry is 0 "):
        Laplace.fit(flat, torch.tensor([1.0, 0, 0, 0]), curvature=curvature, structure="diagonal")


def test_flat_prior_with_informative_data_is_fine():
    posterior, *_ = linear_regression(prior=None)
    x, y = posterior.inputs, posterior.targets
    laplace = Laplace.fit(posterior)
    torch.testing.assert_close(laplace.precision, x.T @ x / 0.7**2)
    torch.testing.assert_close(laplace.mean, torch.linalg.lstsq(x, y).solution[:, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_position_off_the_mode_is_warned_of_with_the_decrement(curvature, temperature):
    posterior, mean, precision, _ = linear_regression()
    shift = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch_double)
    expected = 0.5 * float(shift @ precision @ shift) / temperature
    with pytest.warns(UserWarning, match=f"Newton decrement {expected:.3g} nats"):
        laplace = Laplace.fit(posterior, mean + shift, curvature=curvature, temperature=temperature)
    assert laplace.newton_decrement == pytest.approx(expected, rel=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Laplace.fit(posterior, mean + 0.01 * shift, curvature=curvature)


def test_settings_out_of_range():
    posterior = linear_regression()[0]
    mode = posterior.default_position()
    with pytest.raises(ValueError, match=r"structure must be one of .*\'last_layer\'\), got \'full\'"):
        Laplace.fit(posterior, mode, structure="full")
    with pytest.raises(ValueError, match=r'curvature must be "ggn" or "hessian", got \'fisher\''):
        Laplace.fit(posterior, mode, curvature="fisher")
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            Laplace.fit(posterior, mode, temperature=temperature)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        Laplace.fit(posterior, mode, chunk=0)
    with pytest.raises(ValueError, match=r"mode must be one flat position of shape \[4\], got \[1, 4\]"):
        Laplace.fit(posterior, mode[None])
    with pytest.raises(ValueError, match="not finite in 1 of 4"):
        Laplace.fit(posterior, mode.clone().index_fill_(0, torch.tensor(2), math.nan))
    with pytest.raises(ValueError, match="the cost is inf"):
        Laplace.fit(posterior, mode + 1e200)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        Laplace.fit(posterior).sample(0)


def test_a_dense_matrix_beyond_memory_is_refused_at_once():
    big = Posterior(nn.Linear(3_000_000, 1), gaussian(1.0), (torch.ones(1, 3_000_000), torch.ones(1, 1)))
    with pytest.raises(ValueError, match=r"3000001 parameters needs two matrices of 6\.71e\+04 GiB.*diagonal"):
        Laplace.fit(big, big.default_position())
    with pytest.warns(UserWarning, match="Newton decrement"):
        laplace = Laplace.fit(big, big.default_position(), structure="diagonal")
    torch.testing.assert_close(laplace.covariance, torch.full((3_000_001,), 0.5, dtype=torch_double))


def test_a_fisher_of_the_wrong_shape():
    x = inputs()

    class Odd:
        def __call__(self, z):
            return Normal(z, 1.0, validate_args=False)

        def fisher(self, z):
            return z.new_ones(3)

    posterior = Posterior(nn.Linear(3, 2).double(), Odd(), (x, x[:, :2]))
    with pytest.raises(ValueError, match=r"fisher\(outputs\) has shape \(3,\).*elementwise, \(120, 2\).*\(120, 2, 2\)"):
        Laplace.fit(posterior, posterior.default_position())
