"""Small models in double precision, and the matrices of linear functions."""

import torch
from langevin.samplers import Posterior, bernoulli, categorical, sample
from langevin.samplers.threefry import NOISE, Noise, chain_keys
from torch import nn
from torch.func import jacrev

N, CHAINS = 6, 2
STRUCTURES = ("dense", "diagonal", "quasi_diagonal", "kronecker", "low_rank")
CASES = [
    (structure, kind, centered)
    for structure in STRUCTURES
    for kind, centered in (("exact", False), ("sampled", False), ("empirical", False), ("empirical", True))
    if not (structure == "kronecker" and centered)
]


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, outputs)).double()


def classifier():
    return Posterior(network(), categorical, (seeded(N, 2), torch.arange(N) % 3))


def logistic():
    """Logistic regression with an intercept, 60 examples."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, dtype=torch.float64, generator=generator)
    y = (torch.rand(60, dtype=torch.float64, generator=generator) < torch.sigmoid(2 * x[:, 0])).double()
    return Posterior(nn.Linear(2, 1, dtype=torch.float64), bernoulli, (x, y[:, None]))


def draw_few(posterior, sampler, batch_size, **settings):
    """A short run of four chains from the prior."""
    settings = {"num_samples": 20, "num_warmup": 10, "num_chains": 4, "init": "prior", "compile": False} | settings
    return sample(posterior, sampler, batch_size=batch_size, progress=False, **settings)


def convolutional(**settings):
    """Two convolutions and a linear layer, on 4 × 4 images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, **({"stride": 2, "padding": 1} | settings)), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)
    )
    model(torch.zeros(1, 1, 4, 4))
    return Posterior(model.double(), categorical, (seeded(N, 1, 4, 4), torch.arange(N) % 2))


def noise_of(step=0, chains=CHAINS, seed=0):
    return Noise(chain_keys(seed, torch.arange(chains), NOISE), torch.tensor(step), torch.float64)


def positions(target, chains=CHAINS):
    return target.default_position() + 0.3 * seeded(chains, target.dim, seed=1)


def columns(function, dim, chains=CHAINS):
    """The matrices of a linear function of vectors, `[chain, dim, dim]`."""
    return torch.stack([function(e.expand(chains, dim)) for e in torch.eye(dim, dtype=torch.float64)], -1)


def matrix_of(metric, target, position, noise):
    value = metric.at(target, position, noise)
    return columns(value.multiply, target.dim, len(position))


def jacobian_rows(posterior, position, directions, inputs=None):
    """Jᵢᵀc, from the Jacobian of every chain."""
    inputs = [posterior.inputs] * len(position) if inputs is None else inputs
    jacobians = [jacrev(lambda at, x=x: posterior.call(at, x))(p) for p, x in zip(position, inputs, strict=True)]
    products = [
        torch.einsum("nke,nep->nkp", d.flatten(2), J.flatten(1, -2)) for d, J in zip(directions, jacobians, strict=True)
    ]
    return torch.stack(products).flatten(1, 2)
