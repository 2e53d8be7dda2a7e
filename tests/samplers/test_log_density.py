import pytest
import torch
from langevin.samplers import LogDensity
from torch.distributions import Dirichlet, Gamma, Normal, constraints


def density(values):
    return (
        Gamma(2.0, 3.0).log_prob(values["rate"])
        + Dirichlet(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).log_prob(values["share"])
        + Normal(values["rate"], 1.0).log_prob(values["place"]).sum()
    )


INIT = {
    "rate": torch.tensor(0.7, dtype=torch.float64),
    "share": torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64),
    "place": torch.zeros(2, dtype=torch.float64),
}
CONSTRAINTS = {"rate": constraints.positive, "share": constraints.simplex}


def test_round_trip_and_jacobian():
    target = LogDensity(density, INIT, CONSTRAINTS)
    assert target.dim == 1 + 2 + 2
    start = target.default_position()
    for name, value in target.unravel(start[None]).items():
        torch.testing.assert_close(value[0], INIT[name])
    torch.testing.assert_close(target.ravel({name: value[None] for name, value in INIT.items()})[0], start)

    def constrained(u):
        values = target.unravel(u)
        return torch.cat([values["rate"].reshape(1), values["share"][:2], values["place"]])

    # C = −log π + −log |det ∂(free constrained coordinates)/∂u|
    u = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, cost in zip(u, target.cost(u), strict=True):
        jacobian = torch.autograd.functional.jacobian(constrained, row)
        torch.testing.assert_close(-cost, density(target.unravel(row)) + torch.linalg.slogdet(jacobian).logabsdet)
    _, gradient = target.cost_and_gradient(u)
    for row, g in zip(u, gradient, strict=True):
        numeric = torch.autograd.functional.jacobian(lambda v: target.cost(v[None])[0], row)
        torch.testing.assert_close(g, numeric)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"constraints": {"rat": constraints.positive}}, "unknown parameters"),
        ({"init": INIT | {"rate": torch.tensor(-1.0)}}, "violates its constraint"),
        ({"init": {}}, "init is empty"),
        ({"init": {"n": torch.tensor(3)}, "constraints": None}, "floating point"),
        ({"fn": lambda values: values["place"]}, "0-d tensor"),
        ({"fn": lambda values: values["rate"] * float("inf")}, "is inf at init"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        LogDensity(**({"fn": density, "init": INIT, "constraints": CONSTRAINTS} | arguments))


def test_no_minibatches_and_no_prior():
    target = LogDensity(density, INIT, CONSTRAINTS)
    with pytest.raises(ValueError, match="batch_size=None"):
        target.cost(torch.zeros(1, 5, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="prior"):
        target.prior_draw([0])
