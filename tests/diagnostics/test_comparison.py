"""Comparison of chains with Laplace: moments, Monte-Carlo errors, KL and ellipses against independent computations."""

from __future__ import annotations

import math

import pytest
import torch
from langevin.diagnostics import comparison as comparison_module
from langevin.diagnostics.comparison import compare
from langevin.diagnostics.laplace import Laplace
from langevin.samplers.chains import Chains
from langevin.samplers.likelihoods import gaussian
from langevin.samplers.log_density import LogDensity
from langevin.samplers.posterior import Posterior
from torch import nn
from torch.distributions import MultivariateNormal, Normal, constraints, kl_divergence

DIM = 10  # of the regression: 0.weight [3, 2], 0.bias [3], 1.scale []


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("0", nn.Linear(2, 3))
        self.add_module("1", nn.ParameterDict({"scale": nn.Parameter(torch.tensor(0.3))}))

    def forward(self, x):
        return self._modules["0"](x) + self._modules["1"]["scale"] * x.sum(-1, keepdim=True)


def make_laplace(**kwargs) -> Laplace:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, generator=generator, dtype=torch.float64) + 0.5
    y = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    return Laplace.fit(Posterior(Regression().double(), gaussian(0.5), (x, y)), **kwargs)


def make_chains(draws, target, *, weight=None, diverged=None, **attrs) -> Chains:
    """Chains of flat positions `[chain, draw, dim]`."""
    stats = {}
    if weight is not None:
        stats["weight"] = weight
    if diverged is not None:
        stats["diverged"] = diverged
    ids = list(range(len(draws)))
    attrs = {"chain_ids": ids, "temperature": 1.0, "stopped": {}} | attrs
    return Chains(draws=target.unravel(draws), sample_stats=stats, attrs=attrs)


def other_draws(laplace: Laplace, num_draws: int = 500, seed: int = 0) -> torch.Tensor:
    """Draws of another Gaussian than Laplace's, 4 chains."""
    draws = laplace.sample(4 * num_draws, seed).unflatten(0, (4, num_draws))
    mixing = torch.eye(DIM, dtype=torch.float64) + 0.2 * torch.ones(DIM, DIM, dtype=torch.float64).tril(-1)
    return laplace.mean + 0.1 + (draws - laplace.mean) @ mixing.T * torch.linspace(0.7, 1.6, DIM, dtype=torch.float64)


def autoregressive(num_chains: int, num_draws: int, dim: int, phi: float, seed: int) -> torch.Tensor:
    noise = torch.randn(num_draws, num_chains, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    draws = [noise[0]]
    for step in noise[1:]:
        draws.append(phi * draws[-1] + math.sqrt(1 - phi**2) * step)
    return torch.stack(draws, 1)


class StandardNormal:
    """A target of independent standard normal coordinates, and its Laplace approximation."""

    def __init__(self, dim: int):
        init = {"x": torch.zeros(dim, dtype=torch.float64)}
        self.target = LogDensity(lambda v: -0.5 * (v["x"] ** 2).sum(), init)
        self.laplace = Laplace.fit(self.target, init["x"], curvature="hessian")


def test_moments_and_full_divergence():
    laplace = make_laplace()
    draws = other_draws(laplace)
    comparison = compare(make_chains(draws, laplace.posterior), laplace)
    flat = draws.flatten(0, 1)
    mean, covariance = flat.mean(0), torch.cov(flat.T)
    torch.testing.assert_close(comparison.chain_mean, mean)
    torch.testing.assert_close(comparison.chain_sd, covariance.diagonal().sqrt())
    torch.testing.assert_close(comparison.laplace_sd, laplace.sd)
    torch.testing.assert_close(comparison.shift, (mean - laplace.mean) / laplace.sd)
    torch.testing.assert_close(comparison.ratio, flat.std(0) / laplace.sd)
    expected = kl_divergence(MultivariateNormal(mean, covariance), MultivariateNormal(laplace.mean, laplace.covariance))
    assert (comparison.kl_kind, comparison.kl_reason) == ("full", "")
    assert comparison.kl == pytest.approx(float(expected), rel=1e-9)
    marginal = kl_divergence(Normal(mean, flat.std(0)), Normal(laplace.mean, laplace.sd))
    torch.testing.assert_close(comparison.marginal_kl, marginal)
    assert (comparison.num_chains, comparison.num_draws, comparison.notes) == (4, 500, ())


def test_divergence_from_a_diagonal_laplace_uses_the_conditional_variances():
    laplace = make_laplace(structure="diagonal")
    draws = other_draws(make_laplace())
    comparison = compare(make_chains(draws, laplace.posterior), laplace)
    flat = draws.flatten(0, 1)
    expected = kl_divergence(
        MultivariateNormal(flat.mean(0), torch.cov(flat.T)), MultivariateNormal(laplace.mean, laplace.covariance.diag())
    )
    assert comparison.kl_kind == "full"
    assert comparison.kl == pytest.approx(float(expected), rel=1e-9)


def test_marginal_divergence_where_draws_are_few():
    laplace = make_laplace()
    draws = other_draws(laplace, num_draws=20)
    comparison = compare(make_chains(draws, laplace.posterior), laplace)
    flat = draws.flatten(0, 1)
    expected = kl_divergence(Normal(flat.mean(0), flat.std(0)), Normal(laplace.mean, laplace.sd)).sum()
    assert comparison.kl_kind == "diagonal"
    assert comparison.kl == pytest.approx(float(expected), rel=1e-9)
    assert "takes 100 effective draws, there are" in comparison.kl_reason
    assert "diagonal" in str(comparison)


@pytest.mark.parametrize("num_draws", [10, 75])  # marginals, full
def test_divergence_by_chance_is_that_of_laplaces_own_draws(num_draws, monkeypatch):
    # The number of draws is given, because an estimated effective size is a few per cent too small on average.
    monkeypatch.setattr(comparison_module, "ess", lambda x, kind: torch.full(x.shape[2:], 4.0 * num_draws))
    laplace = make_laplace()
    found = []
    for seed in range(200):
        draws = laplace.sample(4 * num_draws, seed).unflatten(0, (4, num_draws))
        comparison = compare(make_chains(draws, laplace.posterior), laplace)
        assert comparison.kl_kind == ("full" if num_draws == 75 else "diagonal")
        found.append(comparison.kl)
    found = torch.tensor(found)
    z = (found.mean() - comparison.kl_by_chance) / (found.std() / math.sqrt(200))
    assert abs(z) < 4


@pytest.mark.parametrize("weighted", [False, True])
def test_monte_carlo_errors_of_autocorrelated_weighted_draws(weighted):
    # Each of 400 independent coordinates is a replicate: (estimate − truth) / error must have variance 1.
    standard = StandardNormal(400)
    draws = autoregressive(4, 2000, 400, phi=0.7, seed=1)
    weight = (1 + torch.cos(math.pi * torch.arange(2000) / 2000) + 0.02).expand(4, 2000).double() if weighted else None
    comparison = compare(make_chains(draws, standard.target, weight=weight), standard.laplace)
    for z in (
        comparison.chain_mean / comparison.chain_mean_error,
        (comparison.chain_sd - 1) / comparison.chain_sd_error,
    ):
        assert abs(z.mean()) < 4 / math.sqrt(400)
        assert abs(z.square().mean() - 1) < 4 * math.sqrt(2 / 400)
    expected = 8000 * (1 - 0.7) / (1 + 0.7)
    if weighted:
        expected *= float(weight.sum() ** 2 / (weight**2).sum()) / 8000
    assert abs(float(comparison.effective.median()) / expected - 1) < 0.1
    torch.testing.assert_close(comparison.shift_error, comparison.chain_mean_error)
    torch.testing.assert_close(comparison.ratio_error, comparison.chain_sd_error)


def test_weights_of_draws_are_honoured():
    laplace = make_laplace()
    good = other_draws(laplace, num_draws=600)
    draws = torch.cat([good[:, :600] + 50, good], 1)
    weight = torch.cat([torch.zeros(4, 600), torch.full((4, 600), 0.25)], 1)
    comparison = compare(make_chains(draws, laplace.posterior, weight=weight), laplace)
    flat = good.flatten(0, 1)
    torch.testing.assert_close(comparison.chain_mean, flat.mean(0))
    torch.testing.assert_close(comparison.chain_sd, flat.std(0))
    expected = kl_divergence(
        MultivariateNormal(flat.mean(0), torch.cov(flat.T)), MultivariateNormal(laplace.mean, laplace.covariance)
    )
    assert comparison.kl == pytest.approx(float(expected), rel=1e-9)
    points = comparison.ellipse(0, 1)[0]
    inverse = torch.linalg.inv(torch.cov(flat[:, :2].T))
    radius = ((points - flat[:, :2].mean(0)) @ inverse * (points - flat[:, :2].mean(0))).sum(-1)
    torch.testing.assert_close(radius, torch.full_like(radius, -2 * math.log(0.05)))


def test_stopped_chains_are_left_out_and_named():
    laplace = make_laplace()
    draws = other_draws(laplace)
    whole = compare(make_chains(draws[[0, 1, 3]], laplace.posterior), laplace)
    draws[2, 100:] = math.nan
    diverged = draws.isnan().any(-1)
    chains = make_chains(draws, laplace.posterior, diverged=diverged, stopped={"2": 4321})
    comparison = compare(chains, laplace)
    assert comparison.num_chains == 3
    assert comparison.notes == ("chain 2 was stopped at step 4321 and left out",)
    assert "chain 2 was stopped at step 4321" in str(comparison)
    assert comparison.kl == whole.kl
    with pytest.raises(ValueError, match="every chain was stopped"):
        compare(make_chains(draws[2:3], laplace.posterior, diverged=diverged[2:3], stopped={"2": 4321}), laplace)


def test_labels():
    laplace = make_laplace()
    comparison = compare(make_chains(other_draws(laplace), laplace.posterior), laplace)
    assert comparison.names == [
        *[f"0.weight[{i}, {j}]" for i in range(3) for j in range(2)],
        *[f"0.bias[{i}]" for i in range(3)],
        "1.scale",
    ]
    positions = {name: number for number, name in enumerate(comparison.names)}
    assert float(comparison.chain_mean[positions["0.weight[2, 1]"]]) == float(comparison.chain_mean[5])


def test_chains_that_kept_some_parameters_meet_the_marginal():
    laplace = make_laplace()
    draws = other_draws(laplace)
    chains = make_chains(draws, laplace.posterior)
    del chains.draws["0.bias"]
    comparison = compare(chains, laplace)
    kept = [0, 1, 2, 3, 4, 5, 9]
    flat = draws.flatten(0, 1)[:, kept]
    torch.testing.assert_close(comparison.laplace_sd, laplace.sd[kept])
    torch.testing.assert_close(comparison.chain_mean, flat.mean(0))
    marginal = MultivariateNormal(laplace.mean[kept], laplace.covariance[kept][:, kept])
    expected = kl_divergence(MultivariateNormal(flat.mean(0), torch.cov(flat.T)), marginal)
    assert comparison.kl == pytest.approx(float(expected), rel=1e-9)
    assert comparison.names[-1] == "1.scale"
    assert comparison.notes == ("7 of 10 parameters were kept and are compared",)
    points = comparison.ellipse("1.scale", "0.weight[0, 0]")[1]
    pair = [9, 0]
    inverse = torch.linalg.inv(laplace.covariance[pair][:, pair])
    radius = ((points - laplace.mean[pair]) @ inverse * (points - laplace.mean[pair])).sum(-1)
    torch.testing.assert_close(radius, torch.full_like(radius, -2 * math.log(0.05)))


def test_constrained_draws_are_compared_in_unconstrained_coordinates():
    target = LogDensity(
        lambda v: -0.5 * (v["mu"] ** 2).sum() + 4 * v["sigma"].log() - 2 * v["sigma"],
        {"mu": torch.zeros(2, dtype=torch.float64), "sigma": torch.tensor(1.0, dtype=torch.float64)},
        {"sigma": constraints.positive},
    )
    laplace = Laplace.fit(target, curvature="hessian")
    draws = laplace.sample(2000, seed=4).unflatten(0, (4, 500))
    chains = make_chains(draws, target)
    assert float(chains.draws["sigma"].min()) > 0
    comparison = compare(chains, laplace)
    assert comparison.names == ["mu[0]", "mu[1]", "sigma"]
    torch.testing.assert_close(comparison.chain_mean, draws.flatten(0, 1).mean(0))
    del chains.draws["mu"]
    part = compare(chains, laplace)
    assert part.names == ["sigma"]
    torch.testing.assert_close(part.chain_mean, comparison.chain_mean[2:])
    torch.testing.assert_close(part.laplace_sd, comparison.laplace_sd[2:])


def test_ellipses_hold_their_share_of_the_draws():
    laplace = make_laplace()
    draws = other_draws(laplace, num_draws=5000)
    comparison = compare(make_chains(draws, laplace.posterior), laplace)
    i, j = 1, 7
    for outline, cloud in zip(
        comparison.ellipse(i, j, level=0.9), (draws.flatten(0, 1), laplace.sample(20_000, seed=5)), strict=True
    ):
        assert outline.shape == (100, 2)
        torch.testing.assert_close(outline[0], outline[-1])
        centre = outline[:-1].mean(0)
        angles = torch.atan2(*(outline[:-1] - centre).T)
        radii = (outline[:-1] - centre).norm(dim=-1)
        where = torch.atan2(*(cloud[:, [i, j]] - centre).T)
        nearest = (
            torch.polar(torch.ones_like(where), where)[:, None] - torch.polar(torch.ones_like(angles), angles)
        ).abs()
        inside = (cloud[:, [i, j]] - centre).norm(dim=-1) < radii[nearest.argmin(-1)]
        assert (
            abs(float(inside.double().mean()) - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 20_000) + 0.003
        )  # 0.003: the polygon
    wide = comparison.ellipse(i, j, n_sd=3.0)[1] - laplace.mean[[i, j]]
    radius = (wide @ torch.linalg.inv(laplace.covariance[[i, j]][:, [i, j]]) * wide).sum(-1)
    torch.testing.assert_close(radius, torch.full_like(radius, 9.0))
    torch.testing.assert_close(comparison.ellipse("0.weight[0, 1]", -3), comparison.ellipse(i, j))


def test_worst_parameters_and_table():
    laplace = make_laplace()
    draws = laplace.sample(2000, seed=2).unflatten(0, (4, 500))
    draws[..., 4] = laplace.mean[4] + 3 * (draws[..., 4] - laplace.mean[4])
    draws[..., 9] += 1.5 * laplace.sd[9]
    comparison = compare(make_chains(draws, laplace.posterior), laplace)
    worst = comparison.worst(3)
    assert [row["name"] for row in worst[:2]] == ["0.weight[2, 0]", "1.scale"]
    assert worst[0]["ratio"] == float(comparison.ratio[4])
    assert worst[1]["shift"] == pytest.approx(1.5, abs=5 * worst[1]["shift_error"])
    assert len(worst) == 3
    assert len(comparison.worst(100)) == DIM
    text = str(comparison)
    assert "0.weight[2, 0]" in text
    assert "(full;" in text
    assert "\n\n" not in text


def test_parameters_that_never_move_have_no_divergence():
    laplace = make_laplace()
    draws = other_draws(laplace)
    draws[..., 3] = 0.1
    comparison = compare(make_chains(draws, laplace.posterior), laplace)
    assert comparison.kl is None
    assert comparison.kl_reason == "1 of 10 parameters never moved"
    assert "not computed: 1 of 10 parameters never moved" in str(comparison)
    assert comparison.worst(1)[0]["name"] == "0.weight[1, 1]"
    assert comparison.ratio[3] == 0
    assert torch.isfinite(comparison.ellipse(3, 4)[0]).all()


def test_another_temperature_is_noted():
    laplace = make_laplace()
    chains = make_chains(other_draws(laplace), laplace.posterior, temperature=0.1)
    assert "temperature 0.1, Laplace is at 1" in compare(chains, laplace).notes[0]


def test_what_cannot_be_compared():
    laplace = make_laplace()
    draws = other_draws(laplace)
    with pytest.raises(ValueError, match="hold 3 draws each, at least 4"):
        compare(make_chains(draws[:, :3], laplace.posterior), laplace)
    stranger = make_chains(draws, laplace.posterior)
    stranger.draws["2.weight"] = stranger.draws.pop("0.weight")
    with pytest.raises(ValueError, match=r"draws of \['2\.weight'\], which Laplace's target does not have"):
        compare(stranger, laplace)
    reshaped = make_chains(draws, laplace.posterior)
    reshaped.draws["0.bias"] = reshaped.draws["0.bias"][..., :2]
    with pytest.raises(ValueError, match=r"'0\.bias' must end in shape \(3,\)"):
        compare(reshaped, laplace)
    draws[1, 7, 2] = math.inf
    with pytest.raises(ValueError, match="1 draws are not finite"):
        compare(make_chains(draws, laplace.posterior), laplace)
    comparison = compare(make_chains(other_draws(laplace), laplace.posterior), laplace)
    with pytest.raises(ValueError, match=r"level must lie between 0 and 1, got 1\.5"):
        comparison.ellipse(0, 1, level=1.5)
    with pytest.raises(ValueError, match="n_sd must be positive"):
        comparison.ellipse(0, 1, n_sd=0.0)
    with pytest.raises(ValueError, match=r"no parameter is called 'bias'; labels are like '0\.weight"):
        comparison.ellipse("bias", 1)
    with pytest.raises(ValueError, match="parameter 10 is out of range: 10 were compared"):
        comparison.ellipse(0, 10)
