import pytest
import torch
from langevin.samplers import (
    Fisher,
    MetricFunction,
    Posterior,
    bernoulli,
    categorical,
)
from langevin.samplers.metrics import divergence, log_det_gradient
from langevin.samplers.metrics import rows as rows_module
from langevin.samplers.metrics.dense import gram
from langevin.samplers.metrics.low_rank import LowRank
from langevin.samplers.metrics.rows import exact_directions
from torch import nn

from tests.samplers.small import (
    CASES,
    CHAINS,
    STRUCTURES,
    N,
    classifier,
    columns,
    convolutional,
    jacobian_rows,
    matrix_of,
    network,
    noise_of,
    positions,
    seeded,
)


@pytest.mark.parametrize(("structure", "kind", "centered"), CASES)
def test_all_functions_of_a_metric_are_of_one_matrix(structure, kind, centered):
    posterior, noise = classifier(), noise_of()
    position = positions(posterior)
    metric = Fisher(structure=structure, kind=kind, centered=centered, damping=0.1)
    value = metric.at(posterior, position, noise)
    G = columns(value.multiply, posterior.dim)
    torch.testing.assert_close(G, G.mT)
    identity = torch.eye(posterior.dim, dtype=torch.float64).expand_as(G)
    torch.testing.assert_close(columns(value.solve, posterior.dim) @ G, identity)
    unit = torch.eye(value.noise_dim, dtype=torch.float64)
    L, R = (torch.stack([f(e.expand(CHAINS, -1)) for e in unit], -1) for f in (value.factor, value.sample_noise))
    torch.testing.assert_close(L @ L.mT, G)
    torch.testing.assert_close(R @ R.mT @ G, identity)
    torch.testing.assert_close(value.log_det(), torch.logdet(G))
    torch.testing.assert_close(columns(lambda v: metric.product(posterior, position, noise, v), posterior.dim), G)
    if structure not in ("dense", "low_rank"):
        return
    curvature = metric.curvature(posterior, position, noise)
    F = columns(curvature.multiply, posterior.dim)
    torch.testing.assert_close(G, F + 0.1 * identity)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_trace_and_chunks(structure, monkeypatch):
    """Tr(G⁻¹F) from dense matrices; and examples looked at in turn add up to all of them at once."""
    posterior, noise = classifier(), noise_of()
    position = positions(posterior)
    metric = Fisher(structure=structure, damping=0.1)
    value = metric.at(posterior, position, noise)
    other = metric.curvature(posterior, position + 0.2, noise)
    F = columns(other.multiply, posterior.dim)
    expected = torch.linalg.solve(columns(value.multiply, posterior.dim), F).diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(value.trace(other), expected)
    monkeypatch.setattr(rows_module, "_ELEMENTS", 4 * 3 * posterior.dim * CHAINS)
    chunked = metric.at(posterior, position, noise)
    torch.testing.assert_close(columns(chunked.multiply, posterior.dim), columns(value.multiply, posterior.dim))


def difference(function, position, step=1e-3):
    """Derivatives `[chain, *value, dim]` by central differences of fourth order, all points as chains of one call."""
    chains, dim = position.shape
    steps = step * torch.tensor([-2.0, -1.0, 1.0, 2.0])[:, None, None] * torch.eye(dim)
    points = position + steps[:, :, None].to(position)
    values = function(points.reshape(-1, dim))
    values = values.reshape(4, dim, chains, *values.shape[1:])
    slopes = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    return slopes.movedim(0, -1)


def drifting():
    """Metrics with derivatives: every smooth structure and kind, and a function."""
    kinds = [(s, k, c) for s, k, c in CASES if k != "sampled"]
    metrics = {f"{s}-{k}-{c}": Fisher(structure=s, kind=k, centered=c, damping=0.1) for s, k, c in kinds}
    metrics["function"] = MetricFunction(lambda ω: torch.diag(1.5 + ω.sin()) + 0.1 * torch.outer(ω.cos(), ω.cos()))
    metrics["diagonal function"] = MetricFunction(lambda ω: 1 + ω**2)
    return metrics


def check_derivatives(metric, posterior):
    position, noise = positions(posterior), noise_of()
    value = metric.at(posterior, position, noise)

    def inverse(at):
        return columns(metric.at(posterior, at, noise_of(chains=len(at))).solve, posterior.dim, len(at))

    expected = difference(inverse, position).diagonal(dim1=2, dim2=3).sum(-1)
    exact = divergence(metric, value, posterior, position, noise)
    assert (exact - expected).norm() < 1e-6 * expected.norm()
    expected = difference(lambda at: metric.at(posterior, at, noise_of(chains=len(at))).log_det(), position)
    exact = log_det_gradient(metric, value, posterior, position, noise)
    assert (exact - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("name", drifting())
def test_divergence_and_log_det_gradient_against_finite_differences(name):
    check_derivatives(drifting()[name], classifier())


@pytest.mark.parametrize("structure", ["quasi_diagonal", "kronecker"])
def test_derivatives_with_convolutions(structure):
    check_derivatives(Fisher(structure=structure, damping=0.1), convolutional())


@pytest.mark.parametrize("structure", [*STRUCTURES, "function"])
def test_probes_are_unbiased(structure):
    posterior = classifier()
    metric = drifting()["function"] if structure == "function" else Fisher(structure=structure, damping=0.1)
    chains = 1000
    position, noise = positions(posterior, 1).repeat(chains, 1), noise_of(chains=chains)
    value = metric.at(posterior, position, noise)
    few = positions(posterior, 1), noise_of(chains=1)
    one = metric.at(posterior, *few)
    for function in (divergence, log_det_gradient):
        exact = function(metric, one, posterior, *few)
        estimates = function(metric, value, posterior, position, noise, noise.rademacher(posterior.dim, 2))
        error = (estimates.std(0) / chains**0.5).clamp_min(1e-9)  # of a diagonal log|G| signs miss nothing
        assert ((estimates.mean(0) - exact[0]) / error).abs().max() < 4


def test_the_dual_form_equals_the_dense_one():
    """Six inputs of one output each against 13 parameters: solved in the space of the rows."""
    posterior = Posterior(network(1), bernoulli, (seeded(N, 2), torch.zeros(N, 1)))
    position, noise = positions(posterior), noise_of()
    value = Fisher(damping=0.1).at(posterior, position, noise)
    assert isinstance(value, LowRank)
    rows = jacobian_rows(
        posterior, position, exact_directions(posterior, posterior.outputs(position, posterior.inputs))
    )
    dense = rows.mT @ rows / N + 0.1 * torch.eye(posterior.dim)
    v = seeded(CHAINS, posterior.dim, seed=5)
    torch.testing.assert_close(value.solve(v), torch.linalg.solve(dense, v))
    torch.testing.assert_close(value.log_det(), torch.logdet(dense))


@pytest.mark.parametrize("rank", [1, 3, 30])
def test_low_rank_keeps_the_leading_eigenvectors(rank):
    posterior, noise = classifier(), noise_of()
    position = positions(posterior)
    found = matrix_of(Fisher(structure="low_rank", rank=rank, damping=0.1), posterior, position, noise)
    values, vectors = torch.linalg.eigh(matrix_of(Fisher(damping=0.1), posterior, position, noise))
    kept = torch.where(torch.arange(posterior.dim) >= posterior.dim - rank, values - 0.1, 0.0)
    identity = torch.eye(posterior.dim, dtype=torch.float64)
    torch.testing.assert_close(found, vectors * kept[:, None] @ vectors.mT + 0.1 * identity)


def test_quasi_diagonal_agrees_with_the_fisher_where_it_keeps_it():
    posterior, noise = classifier(), noise_of()
    position = positions(posterior)
    F = matrix_of(Fisher(damping=0.1), posterior, position, noise)
    value = Fisher(structure="quasi_diagonal", damping=0.1).at(posterior, position, noise)
    G, inverse = (columns(function, posterior.dim) for function in (value.multiply, value.solve))
    kept = torch.eye(posterior.dim, dtype=torch.bool)
    for weight, bias, width in ((0, 6, 2), (9, 18, 3)):  # where the layers' parameters begin, and their inputs
        for unit in range(3):
            row = torch.arange(width) + weight + unit * width
            kept[row, bias + unit] = kept[bias + unit, row] = True
    torch.testing.assert_close(G[:, kept], F[:, kept])
    assert inverse[:, ~kept].abs().max() < 1e-12 < inverse[:, kept].abs().min()


def test_diagonal_is_the_diagonal():
    posterior, noise = classifier(), noise_of()
    F, D = (matrix_of(Fisher(structure=s, damping=0.1), posterior, positions(posterior), noise) for s in STRUCTURES[:2])
    torch.testing.assert_close(D, torch.diag_embed(F.diagonal(dim1=1, dim2=2)))


def test_kronecker_is_dense_for_one_linear_layer_and_one_example():
    posterior = Posterior(nn.Linear(4, 3).double(), categorical, (seeded(1, 4), torch.zeros(1, dtype=torch.int64)))
    position, noise = positions(posterior), noise_of()
    G, K = (matrix_of(Fisher(structure=s, damping=0.1), posterior, position, noise) for s in ("dense", "kronecker"))
    torch.testing.assert_close(K, G)


def test_kronecker_factors_are_means_over_examples():
    """S and A of the last layer of a classifier, from its softmax and its hidden values."""
    posterior, model = classifier(), network()
    found = Fisher(structure="kronecker", damping=0.1).curvature(
        posterior, posterior.default_position()[None], noise_of()
    )
    hidden = torch.cat((model[:2](posterior.inputs), torch.ones(N, 1)), 1)
    torch.testing.assert_close(found.inputs[1][0], hidden.mT @ hidden / N)
    torch.testing.assert_close(found.outputs[1][0], categorical.fisher(model(posterior.inputs)).mean(0))


@pytest.mark.parametrize("make", [classifier, convolutional])
def test_kronecker_factors_against_curvlinops(make):
    curvlinops = pytest.importorskip("curvlinops")
    posterior = make()
    operator = curvlinops.KFACLinearOperator(
        posterior.model, nn.CrossEntropyLoss(), list(posterior.model.parameters()),
        [(posterior.inputs, posterior.targets)], fisher_type="type-2", separate_weight_and_bias=False,
    )  # fmt: skip
    v = seeded(posterior.dim, 1)
    curvature = Fisher(structure="kronecker", damping=0.1).curvature(
        posterior, posterior.default_position()[None], noise_of(chains=1)
    )
    torch.testing.assert_close(curvature.multiply(v.mT)[0], torch.as_tensor(operator @ v)[:, 0])


class Scaled(nn.Module):
    """A parameter that is in no layer, and first in the flat position."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.net = network()

    def forward(self, x):
        return self.scale * self.net(x)


def test_parameters_outside_of_layers_get_the_diagonal():
    posterior = Posterior(Scaled(), categorical, (seeded(N, 2), torch.arange(N) % 3))
    position, noise = positions(posterior), noise_of()
    F = matrix_of(Fisher(damping=0.1), posterior, position, noise)
    with pytest.warns(UserWarning, match=r"\['scale'\] are outside"):
        Fisher(structure="kronecker", damping=0.1).check(posterior, "none", "lebesgue", None)
    for structure in ("kronecker", "quasi_diagonal"):
        G = matrix_of(Fisher(structure=structure, damping=0.1), posterior, position, noise)
        torch.testing.assert_close(G[:, 0, 0], F[:, 0, 0])
        assert (G[:, 0, 1:] == 0).all()


@pytest.mark.parametrize("structure", ["dense", "diagonal", "quasi_diagonal", "kronecker"])
def test_a_chain_that_is_lost_takes_no_other_along(structure):
    posterior, noise, v = classifier(), noise_of(), seeded(CHAINS, 21)
    position = positions(posterior)
    metric = Fisher(structure=structure, damping=0.1)
    alone = metric.at(posterior, position, noise).solve(v)
    position[0] = torch.nan
    found = metric.at(posterior, position, noise).solve(v)
    torch.testing.assert_close(found[1], alone[1])
    assert found[0].isnan().all()


def test_gram_in_blocks():
    rows = seeded(2, 40, 600)
    product = gram(rows)
    torch.testing.assert_close(product, rows.mT @ rows)
    assert torch.equal(product, product.mT)
