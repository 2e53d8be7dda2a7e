import copy

import pytest
import torch
from langevin.samplers import (
    Fisher,
    Posterior,
    categorical,
)
from langevin.samplers.metrics.layers import layers_of
from langevin.samplers.metrics.rows import rows_of
from torch import nn

from tests.samplers.small import (
    CHAINS,
    N,
    classifier,
    convolutional,
    jacobian_rows,
    network,
    noise_of,
    positions,
    seeded,
)


class Positions(nn.Module):
    """A linear layer at each of five places, and a sum over them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(2, 3), nn.Linear(3, 2, bias=False)
        self.double()

    def forward(self, x):
        return self.outer(self.inner(x).tanh()).sum((1, 2))


SUPPORTED = {
    "mlp": classifier,
    "strides": convolutional,
    "same": lambda: convolutional(stride=1, padding="same"),
    "dilation": lambda: convolutional(stride=1, padding=(1, 2), dilation=2, bias=False),
    "positions": lambda: Posterior(Positions(), categorical, (seeded(N, 5, 1, 2), torch.arange(N) % 2)),
    "weights only": lambda: Posterior(
        network(), categorical, (seeded(N, 2), torch.arange(N) % 3), parameters="*weight"
    ),
    "biases only": lambda: Posterior(network(), categorical, (seeded(N, 2), torch.arange(N) % 3), parameters="*bias"),
}


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("shared", [True, False])
def test_rows_from_layers_equal_those_from_jacobians(name, shared):
    posterior = SUPPORTED[name]()
    layers, position = layers_of(posterior), positions(posterior)
    assert not layers.outside
    inputs = posterior.inputs if shared else torch.stack((posterior.inputs, posterior.inputs.flip(0) + 0.1))
    directions = seeded(CHAINS, N, 4, *posterior.outputs(position, inputs, shared).shape[2:])
    expected = jacobian_rows(posterior, position, directions, None if shared else inputs)
    signals = layers.signals(posterior, position, inputs, directions, shared)
    torch.testing.assert_close(layers.rows(signals), expected)
    if all(a.shape[2] == 1 for a, _ in signals):
        torch.testing.assert_close(layers.gram(signals), expected.mT @ expected)
    squares, products = layers.moments(signals)
    torch.testing.assert_close(squares, expected.square().sum(1))
    is_weight = layers.bias_of != torch.arange(posterior.dim)
    torch.testing.assert_close(products, is_weight * (expected * expected[..., layers.bias_of]).sum(1))


def test_a_gram_product_without_rows_where_it_is_cheaper():
    """With ten directions an example, as ten classes have, and not with one or with positions."""
    wide = Posterior(network(outputs=10), categorical, (seeded(N, 2), torch.arange(N) % 10))

    def pays(posterior, num_directions):
        position = positions(posterior)
        directions = seeded(CHAINS, N, num_directions, *posterior.outputs(position, posterior.inputs).shape[2:])
        layers = layers_of(posterior)
        return layers.gram_pays(layers.signals(posterior, position, posterior.inputs, directions, True))

    assert pays(wide, 10)
    assert not pays(wide, 1)
    assert not pays(convolutional(), 10)


class Used(nn.Module):
    """A layer (weight, bias) put to a use that the formula does not cover."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.layer, self.last = how, nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
        if how == "tied":
            self.last.weight = self.layer.weight

    def forward(self, x):
        if self.how == "unfolded":  # twice as many rows as examples
            return self.last(self.layer(torch.cat((x, -x), 1).reshape(-1, 3)).tanh().reshape(len(x), 2, 3).sum(1))
        h = self.layer(x)
        if self.how == "twice":
            h = self.layer(h.tanh())
        if self.how == "elsewhere":
            h = h + self.layer.weight.square().sum()
        return self.last(h.tanh())


@pytest.mark.parametrize(
    ("how", "outside"),
    [
        ("tied", {"layer.weight", "layer.bias", "last.bias"}),
        ("twice", {"layer.weight", "layer.bias"}),
        ("elsewhere", {"layer.weight", "layer.bias"}),
        ("unfolded", {"layer.weight", "layer.bias"}),
        ("plainly", set()),
    ],
)
def test_layers_used_otherwise_fall_back(how, outside):
    posterior = Posterior(Used(how), categorical, (seeded(N, 3), torch.arange(N) % 3))
    assert set(layers_of(posterior).outside) == outside
    position = positions(posterior)
    directions = seeded(CHAINS, N, 2, 3)
    found = rows_of(posterior, position, posterior.inputs, directions, True)
    torch.testing.assert_close(found, jacobian_rows(posterior, position, directions))


def test_convolutions_in_groups_fall_back():
    model = nn.Sequential(nn.Conv2d(2, 2, 2, groups=2), nn.Flatten(), nn.Linear(2, 2)).double()
    posterior = Posterior(model, categorical, (seeded(N, 2, 2, 2), torch.arange(N) % 2))
    assert layers_of(posterior).outside == ("0.weight", "0.bias")


def test_the_model_stays_as_it_is():
    posterior = classifier()
    before = copy.deepcopy(posterior.model.state_dict())
    Fisher(structure="kronecker", damping=0.1).at(posterior, positions(posterior), noise_of())
    assert not any(module._forward_hooks for module in posterior.model.modules())
    torch.testing.assert_close(posterior.model.state_dict(), before)
    assert posterior.to(dtype=torch.float32).dtype == torch.float32
    moved = posterior.to(dtype=torch.float32)
    value = Fisher(structure="kronecker", damping=0.1).at(moved, positions(posterior).float(), noise_of())
    assert value.solve(positions(posterior).float()).dtype == torch.float32


def test_kronecker_factors_add_inputs_and_average_gradients_over_positions():
    """Outputs are a sum over places: δ is the same at all five of them."""
    posterior, model = SUPPORTED["positions"](), Positions()
    found = Fisher(structure="kronecker", damping=0.1).curvature(
        posterior, posterior.default_position()[None], noise_of(chains=1)
    )
    hidden = model.inner(posterior.inputs).tanh().reshape(-1, 3)
    torch.testing.assert_close(found.inputs[1][0], hidden.mT @ hidden / N)
    torch.testing.assert_close(found.outputs[1][0], categorical.fisher(model(posterior.inputs)).mean(0))
