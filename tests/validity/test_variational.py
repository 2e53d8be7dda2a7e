"""Vadam and VON have the law of a Gaussian fitted to the posterior, as far as that is known in closed form."""

import pytest
import torch
from langevin.samplers import VON, LogDensity, Posterior, Vadam, gaussian, sample
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

from tests.validity.replicates import Mean, z_scores

N, CURVATURE = 40, 4.0


def mean_model(prior) -> tuple[Posterior, Tensor]:
    y = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Posterior(Mean(2), gaussian(0.5), (torch.zeros(N, 1, dtype=torch.float64), y), prior=prior), y


def draw(posterior, sampler, start, batch_size=None, **settings):
    settings = {"num_samples": 800, "num_warmup": 300, "num_chains": 64} | settings
    return sample(
        posterior, sampler, batch_size=batch_size, init={"mean": start}, progress=False, compile=False, **settings
    )


@pytest.mark.parametrize(("scale", "lr"), [(100.0, 0.5), (0.1, 0.05)])
def test_von_has_its_law_on_a_quadratic(scale, lr):
    """σ² (1 + ε(s/(s+λ̃))²/(2−ε)), σ² = 1/(N(s+λ̃)), about the posterior mean; s = λ."""
    posterior, y = mean_model(Normal(1.0, scale))
    λ = scale**-2 / N
    centre = (CURVATURE * y.mean(0) + λ) / (CURVATURE + λ)
    chains = draw(posterior, VON(lr=lr, precision=CURVATURE, decay=0.9), centre)
    error = chains.draws["mean"] - centre
    law = (1 + lr * (CURVATURE / (CURVATURE + λ)) ** 2 / (2 - lr)) / (N * (CURVATURE + λ))
    assert z_scores(error.mean(1), 0.0).abs().max() < 4
    assert z_scores(error.square().mean(1), law).abs().max() < 4
    assert abs(z_scores((error[..., 0] * error[..., 1]).mean(1), 0.0)) < 4
    assert "variational" in chains.attrs["law"]


def test_von_finds_the_precision_from_a_wrong_start():
    posterior, y = mean_model(Normal(0.0, 10.0))
    chains = draw(posterior, VON(lr=0.05, precision=0.3, decay=0.98), y.mean(0), batch_size=10, num_chains=4)
    torch.testing.assert_close(chains.state["precision"], torch.full((4, 2), CURVATURE, dtype=torch.float64))


def test_vadam_has_the_law_of_its_own_precision():
    """The draws scatter about μ by 1/√(N(s+λ̃)), and s is the mean of squared likelihood gradients."""
    posterior, y = mean_model(Normal(0.0, 10.0))
    chains = draw(posterior, Vadam(lr=1e-3, precision=20.0), y.mean(0), batch_size=2, num_warmup=4000, num_samples=1500)
    error = chains.draws["mean"] - y.mean(0)
    # E ĝ² = λ² (Cov(y)(1/B)(1 − B/N) + Var(θ)), Var(θ) = 1/(N(s+λ̃)) + Var(μ); of the last, Adam's, the leading order.
    batch = CURVATURE**2 * torch.cov(y.T).diagonal() / 2 * (1 - 2 / N)
    s = chains.state["precision"].mean(0)
    torch.testing.assert_close(s, batch + CURVATURE**2 / (N * s), rtol=0.05, atol=0)
    predicted = 1 / (N * (s + 1e-2 / N)) + 1e-3 * s.sqrt() / (2 * CURVATURE)
    assert ((error.square().mean((0, 1)) / predicted) - 1).abs().max() < 0.04


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return x * self.mean


def test_only_normal_priors_will_do():
    x = torch.ones(4, 1, dtype=torch.float64)
    for prior, kind in ((None, "flat"), (Laplace(0.0, 1.0), "Laplace")):
        with pytest.raises(ValueError, match=f"needs Normal priors; that of 'mean' is {kind}"):
            draw(Posterior(Line(), gaussian(1.0), (x, x), prior=prior), VON(lr=0.1), torch.zeros(1))
    density = LogDensity(lambda v: -v["mean"].square().sum(), {"mean": torch.zeros(1)})
    with pytest.raises(ValueError, match="needs a Posterior"):
        draw(density, Vadam(lr=0.1), torch.zeros(1))


def test_von_stops_where_the_cost_is_concave():
    """A double well: the Hessian at the ridge is negative."""

    class Square(Line):
        def forward(self, x):
            return x * self.mean**2

    x = torch.ones(50, 1, dtype=torch.float64)
    posterior = Posterior(Square(), gaussian(0.5), (x, x), prior=Normal(0.0, 10.0))
    with pytest.warns(UserWarning, match="no longer finite"):
        chains = draw(posterior, VON(lr=1e-3, decay=0.5), torch.zeros(1, dtype=torch.float64), num_chains=2)
    assert set(chains.attrs["stopped"]) == {"0", "1"}
