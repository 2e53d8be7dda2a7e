import pytest
import torch
from langevin.samplers import Posterior, bernoulli, categorical, gaussian, heteroscedastic_gaussian, poisson
from torch import nn
from torch.distributions import MultivariateNormal, Normal
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

N = 30


def data(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, 4, generator=generator), torch.randint(classes, (N,), generator=generator)


def network(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def by_hand(model, loss, prior_scale, index):
    """N × the mean loss of a batch, minus the log prior, with plain autograd."""
    x, _ = data()
    cost = loss(model(x[index].double())) * N / len(index)
    for parameter in model.parameters():
        cost = cost - Normal(0.0, prior_scale).log_prob(parameter).sum()
    gradient = torch.autograd.grad(cost, list(model.parameters()))
    return cost, torch.cat([g.reshape(-1) for g in gradient]) / N


def test_cost_and_gradient_against_plain_autograd():
    x, y = data()
    model = network()
    posterior = Posterior(model, categorical, (x, y), prior=Normal(0.0, 2.0))
    index = torch.tensor([3, 8, 1, 20])

    def loss(outputs):
        return nn.functional.cross_entropy(outputs, y[index], reduction="sum")

    cost, gradient = by_hand(model, loss, 2.0, index)
    position = torch.stack((posterior.default_position(), torch.zeros(posterior.dim, dtype=torch.float64)))
    batch = torch.stack((index, torch.tensor([0, 1, 2, 3])))
    costs, gradients = posterior.cost_and_gradient(position, batch)
    torch.testing.assert_close(costs[0], cost)
    torch.testing.assert_close(gradients[0], gradient)


def test_minibatches_are_unbiased_and_the_prior_counts_once():
    posterior = Posterior(network(), categorical, data(), prior=Normal(0.0, 0.3))
    position = posterior.default_position()
    batches = torch.arange(N).reshape(6, 5)
    each_cost, each_gradient = posterior.cost_and_gradient(position.expand(6, -1), batches)
    cost, gradient = posterior.cost_and_gradient(position[None])
    torch.testing.assert_close(each_cost.mean(), cost[0])
    torch.testing.assert_close(each_gradient.mean(0), gradient[0])


@pytest.mark.parametrize(
    ("likelihood", "outputs", "targets"),
    [
        (bernoulli, 1, torch.ones(N, 1)),
        (bernoulli, 2, torch.zeros(N, 2, dtype=torch.int64)),
        (gaussian(0.5), 1, torch.randn(N, 1)),
        (heteroscedastic_gaussian, 2, torch.randn(N)),
        (poisson, 1, torch.arange(N)[:, None]),
        (lambda z: torch.distributions.StudentT(4.0, z[:, 0]), 1, torch.randn(N)),
        (lambda z: MultivariateNormal(z, torch.eye(2, dtype=torch.float64)), 2, torch.randn(N, 2)),
    ],
)
def test_likelihoods(likelihood, outputs, targets):
    model = network(outputs)
    posterior = Posterior(model, likelihood, (data()[0], targets), prior=None)
    position = posterior.default_position().expand(2, -1)
    expected = likelihood(model(data()[0].double())).log_prob(targets.double()).reshape(N, -1).sum(1)
    torch.testing.assert_close(posterior.log_likelihood(position), expected.expand(2, -1))
    assert torch.isfinite(posterior.cost_and_gradient(position)[1]).all()


@pytest.mark.parametrize(
    "likelihood",
    [categorical, bernoulli, gaussian(0.7), heteroscedastic_gaussian, poisson],
    ids=lambda x: type(x).__name__,
)
def test_output_fisher_is_the_expected_hessian(likelihood):
    """Against the expectation over targets of the Hessian of −log p, by sampling-free enumeration or autograd."""
    outputs = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)[: 2 if likelihood is heteroscedastic_gaussian else 3]

    def hessian(target):
        return torch.func.hessian(lambda z: -likelihood(z).log_prob(target).sum())(outputs)

    distribution = likelihood(outputs)
    if likelihood is categorical:
        expected = sum(p * hessian(torch.tensor(k)) for k, p in enumerate(distribution.probs))
    elif likelihood is heteroscedastic_gaussian:  # −log p is quadratic in y: three points give its expectation
        mean, sd = distribution.mean, distribution.stddev
        expected = (hessian(mean - sd * 3**0.5) + 4 * hessian(mean) + hessian(mean + sd * 3**0.5)) / 6
    else:  # linear in the target
        expected = hessian(distribution.mean)
    fisher = likelihood.fisher(outputs)
    torch.testing.assert_close(fisher if fisher.ndim == 2 else torch.diag(fisher), expected)


def test_terms_of_pixels_and_tokens_are_summed_per_example():
    model = nn.Conv1d(4, 3, 1).double()

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = model

        def forward(self, x):
            return self.conv(x).movedim(1, -1)

    x, y = torch.randn(N, 4, 6), torch.randint(3, (N, 6))
    posterior = Posterior(Tokens(), categorical, (x, y))
    expected = -nn.functional.cross_entropy(model(x.double()), y, reduction="none").sum(1)
    torch.testing.assert_close(posterior.log_likelihood(posterior.default_position()[None])[0], expected)
    with pytest.raises(ValueError, match="classes go last"):
        Posterior(model, categorical, (x, y))


def test_dictionary_and_tuple_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, left, right):
            return (left * self.weight + right).sum(-1, keepdim=True)

    x, _ = data()
    y = torch.zeros(N, 1)
    batch = torch.tensor([[1, 2]])
    by_name = Posterior(Two(), gaussian(1.0), ({"right": x, "left": 2 * x}, y))
    by_place = Posterior(Two(), gaussian(1.0), ((2 * x, x), y))
    position = torch.randn(1, 4)
    torch.testing.assert_close(by_name.cost(position, batch), by_place.cost(position, batch))
    torch.testing.assert_close(
        by_name.log_likelihood(position)[0, 0], Normal(0.0, 1.0).log_prob((x[0] * (2 * position[0] + 1)).sum())
    )


def test_data_sets_and_loaders():
    x, y = data()
    model = network()
    position = torch.randn(1, Posterior(model, categorical, (x, y)).dim, dtype=torch.float64)
    expected = Posterior(model, categorical, (x, y)).cost(position)
    dataset = TensorDataset(x, y)
    for source in (dataset, DataLoader(dataset, batch_size=7, shuffle=True, drop_last=True), (x.numpy(), y.numpy())):
        torch.testing.assert_close(Posterior(model, categorical, source).cost(position), expected)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(ValueError, match="IterableDataset"):
        Posterior(model, categorical, Stream())


def test_subset_of_parameters_and_priors_by_pattern():
    model = network()
    posterior = Posterior(model, categorical, data(), prior={"*.bias": None, "2.*": Normal(0.0, 0.1)}, parameters="2.*")
    assert posterior.layout.names == ("2.weight", "2.bias")
    position = posterior.default_position()[None]
    torch.testing.assert_close(posterior.log_prior(position)[0], Normal(0.0, 0.1).log_prob(model[2].weight).sum())
    with pytest.raises(ValueError, match="no prior"):
        Posterior(model, categorical, data(), prior={"0.*": None})
    with pytest.raises(ValueError, match="does not fit"):
        Posterior(model, categorical, data(), prior=Normal(torch.zeros(7), 1.0))


def test_the_model_is_left_alone():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    posterior = Posterior(model, categorical, data())
    posterior.cost_and_gradient(torch.randn(3, posterior.dim, dtype=torch.float64))
    moved = posterior.to(dtype=torch.float32)
    moved.cost_and_gradient(torch.randn(3, posterior.dim))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert posterior.to(dtype=torch.float64) is posterior


def test_tied_weights_are_sampled_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    posterior = Posterior(Tied(), categorical, data())
    assert posterior.dim == 16
    weight = torch.randn(4, 4)
    outputs = posterior.outputs(weight.reshape(1, -1), data()[0])[0]
    torch.testing.assert_close(outputs, data()[0] @ weight.T @ weight.T)


def test_evaluation_mode_buffers_are_carried():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    model[1].running_mean += 0.5
    posterior = Posterior(model, categorical, data())
    torch.testing.assert_close(posterior.outputs(posterior.default_position()[None], data()[0])[0], model(data()[0]))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return nn.functional.dropout(self.linear(x), 0.5, training=True)


class Squeezed(nn.Linear):
    def forward(self, x):
        return super().forward(x).squeeze()


def integer_model():
    model = nn.Linear(4, 3)
    model.count = nn.Parameter(torch.tensor([3]), requires_grad=False)
    return model


X, Y = data()
NAN = X.clone()
NAN[4, 1] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": (X[:5], Y)}, "differ in length.*30.*5"),
        ({"data": (NAN, Y)}, "NaN or infinity in 1 of 30 examples, first in example 4"),
        ({"data": (X, Y + 1)}, "outside the likelihood's support.*example"),
        ({"data": (X, Y.double() + 0.5)}, "outside the likelihood's support"),
        ({"data": (X[:0], Y[:0])}, "empty"),
        ({"data": X}, "data must be"),
        ({"likelihood": bernoulli}, r"shape \(2, 3\), but they have shape \(2,\)"),
        ({"likelihood": gaussian(1.0), "data": (X, X[:, :1])}, r"shape \(2, 3\)"),
        ({"likelihood": gaussian(1.0), "model": nn.Linear(4, 1), "data": (X, X[:, 0])}, "unsqueeze"),
        ({"likelihood": lambda z: Normal(z.mean(), 1.0)}, "describe each example"),
        ({"likelihood": lambda z: z}, "must return a torch Distribution"),
        ({"likelihood": bernoulli, "model": Squeezed(4, 1), "data": (X, Y % 2)}, r"\(\) for one: keep the batch"),
        ({"prior": {"layer9.*": None}}, "'layer9.*' matches none"),
        ({"parameters": ["0.*", "nope"]}, "'nope' matches none"),
        ({"model": nn.Tanh()}, "no parameters"),
        ({"model": nn.Linear(4, 3).requires_grad_(False)}, "requires gradients"),
        ({"model": integer_model()}, "torch.int64 and cannot be sampled"),
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))}, "BatchNorm1d '1'.*model.eval"),
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1))}, "Dropout '1' is active"),
        ({"model": Noisy()}, "draws random numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input(change, message):
    arguments = {"model": nn.Sequential(nn.Linear(4, 3)), "likelihood": categorical, "data": (X, Y)} | change
    with pytest.raises(ValueError, match=message):
        Posterior(**arguments)


def test_scale_of_the_gaussian():
    with pytest.raises(ValueError, match="positive, finite"):
        gaussian(0.0)


def test_prior_draws():
    prior = {"0.weight": Normal(3.0, 0.5), "*": Normal(0.0, 1.0)}
    posterior = Posterior(network(), categorical, data(), prior=prior)
    draws = posterior.prior_draw(list(range(400)))
    weight = posterior.unravel(draws)["0.weight"]
    assert abs(weight.mean() - 3) < 4 * 0.5 / weight.numel() ** 0.5
    assert torch.equal(posterior.prior_draw([5])[0], draws[5])
    with pytest.raises(ValueError, match="flat"):
        Posterior(network(), categorical, data(), prior=None).prior_draw([0])
