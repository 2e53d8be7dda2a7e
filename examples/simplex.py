"""A metric of your own: Riemannian Langevin dynamics on the probability simplex.

Patterson & Teh (2013) sample the probabilities π = θ/Σθ of a Dirichlet posterior through θ > 0 with M = diag(θ), so
that small probabilities take small steps:

    θ ← |θ + ε (a − θ + n_k − nπ)/N + √(2εθ/N) ξ|.

In langevin that is `RiemannianLangevin` with G = diag(1/θ). Instead of reflecting at 0, θ may take either sign: cost
and metric depend on |θ| alone, and the absolute value of such a chain is the reflected one.

    python examples/simplex.py
"""

from __future__ import annotations

import torch
from langevin.samplers import MetricFunction, Posterior, RiemannianLangevin, categorical, sample
from torch import Tensor, nn
from torch.distributions import Distribution, Gamma, constraints


class Probabilities(nn.Module):
    """Class probabilities |θ|/Σ|θ|, the same for every example."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.theta = nn.Parameter(torch.ones(num_classes, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every row of x."""
        return self.theta.abs().log().expand(len(x), -1)


class MirroredGamma(Distribution):
    """|θ| ~ Gamma(a, 1), either sign being as likely: π is then Dirichlet(a) beforehand."""

    support = constraints.real

    def __init__(self, concentration: float):
        self.gamma = Gamma(torch.tensor(concentration, dtype=torch.float64), 1.0)
        super().__init__(validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Up to a constant."""
        return self.gamma.log_prob(value.abs())


def simplex_posterior(counts: list[int], concentration: float) -> Posterior:
    """Of probabilities after `counts` observations of each class."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    data = (torch.zeros(len(labels), 1, dtype=torch.float64), labels)
    return Posterior(Probabilities(len(counts)), categorical, data, prior=MirroredGamma(concentration))


simplex_metric = MetricFunction(lambda theta: 1 / theta.abs())


def probabilities(theta: Tensor) -> Tensor:
    """π of draws `[..., class]`."""
    return theta.abs() / theta.abs().sum(-1, keepdim=True)


def main() -> None:
    """Compare the means and standard deviations of π with those of the Dirichlet posterior."""
    counts, concentration = [40, 15, 3, 0], 0.5
    chains = sample(
        simplex_posterior(counts, concentration),
        RiemannianLangevin(lr=0.05, metric=simplex_metric, drift="exact"),
        num_warmup=2000,
        num_samples=4000,
        thinning=10,
        num_chains=16,
    )
    drawn = probabilities(chains.draws["theta"]).flatten(0, 1)
    exact = torch.distributions.Dirichlet(torch.tensor(counts, dtype=torch.float64) + concentration)
    print("class   count   mean (exact)        sd (exact)")
    for k, count in enumerate(counts):
        mean, sd = float(drawn[:, k].mean()), float(drawn[:, k].std())
        print(f"{k:5}   {count:5}   {mean:.4f} ({float(exact.mean[k]):.4f})", end="")
        print(f"   {sd:.4f} ({float(exact.variance[k]) ** 0.5:.4f})")


if __name__ == "__main__":
    main()
