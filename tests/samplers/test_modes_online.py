"""TONGA and gradient regression, which learn from the gradients that they see."""

from __future__ import annotations

import math

import pytest
import torch
from langevin.samplers import LogDensity, Posterior, find_mode, gaussian
from langevin.samplers.modes import TONGA, GradientRegression
from langevin.samplers.modes.tonga import solve, solve_row, truncated, with_row
from torch import nn
from torch.distributions import Normal

from tests.samplers.small import classifier, noise_of, positions, seeded


def quadratic(A: torch.Tensor, center: torch.Tensor) -> LogDensity:
    return LogDensity(lambda v: -0.5 * (v["x"] - center) @ A @ (v["x"] - center), {"x": torch.zeros_like(center)})


def rotated(values) -> torch.Tensor:
    values = torch.as_tensor(values, dtype=torch.float64)
    Q = torch.linalg.qr(seeded(len(values), len(values))).Q
    return Q @ torch.diag(values) @ Q.mT


def run(method, target, position, num_steps, batches=None):
    """All states of a run, the first included."""
    states = [method.init(target, position)]
    for step in range(num_steps):
        batch = None if batches is None else batches[step]
        states.append(method.step(target, states[-1], batch, noise_of(step, chains=len(position))))
    return states


def dense_tonga(gradients, damping, decay, keep=lambda C, step: C):
    """(C+λI)⁻¹g at each step, by D × D matrices; `keep` truncates C before the step's gradient goes in."""
    C, directions = torch.zeros(gradients.shape[1], gradients.shape[2], gradients.shape[2], dtype=torch.float64), []
    for step, g in enumerate(gradients):
        C = decay * keep(C, step) + g[:, :, None] * g[:, None, :]
        directions.append(torch.linalg.solve(C + damping * torch.eye(C.shape[-1]), g))
    return torch.stack(directions)


def tonga_run(method, num_steps):
    posterior = classifier()
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(6, (2, 3), generator=generator) for _ in range(num_steps)]
    states = run(method, posterior, positions(posterior), num_steps, batches)
    path = torch.stack([state.position for state in states])
    return posterior, (path[:-1] - path[1:]) / method.lr, torch.stack([state.gradient for state in states[1:]]), states


def test_tonga_is_the_dense_solve_while_nothing_is_cut():
    method = TONGA(lr=1e-3, damping=1e-3, decay=0.9, rank=2, refresh_every=12)
    _, found, gradients, _ = tonga_run(method, 12)
    torch.testing.assert_close(found, dense_tonga(gradients, 1e-3, 0.9), rtol=1e-6, atol=1e-6)


def test_tonga_cuts_to_the_leading_eigenvectors():
    method = TONGA(lr=1e-3, damping=1e-3, decay=0.9, rank=3, refresh_every=4)
    _, found, gradients, states = tonga_run(method, 21)

    def keep(C, step):
        if step % 4 or step == 0:
            return C
        values, vectors = torch.linalg.eigh(C)
        return (vectors[..., -3:] * values[:, None, -3:]) @ vectors[..., -3:].mT

    torch.testing.assert_close(found, dense_tonga(gradients, 1e-3, 0.9, keep), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, dense_tonga(gradients, 1e-3, 0.9), rtol=1e-2)  # the cut has been felt
    final = states[-1]
    torch.testing.assert_close(final.rows @ final.rows.mT, final.gram)


def test_tonga_loses_nothing_of_gradients_in_as_many_dimensions_as_it_keeps():
    target = quadratic(rotated([0.5, 1.0, 2.0]), torch.ones(3, dtype=torch.float64))
    method = TONGA(lr=0.01, damping=1e-2, decay=0.9, rank=3, refresh_every=2)
    states = run(method, target, seeded(2, 3), 30)
    path = torch.stack([state.position for state in states])
    gradients = torch.stack([state.gradient for state in states[1:]])
    torch.testing.assert_close((path[:-1] - path[1:]) / 0.01, dense_tonga(gradients, 1e-2, 0.9), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("cut", [False, True])
def test_tonga_solves_for_its_last_row_and_for_any_vector(cut):
    rows, gram = torch.zeros(2, 6, 9, dtype=torch.float64), torch.zeros(2, 6, 6, dtype=torch.float64)
    for place in range(5):
        rows, gram = with_row(rows, gram, seeded(2, 9, seed=place), place)
    if cut:
        rows, gram = truncated(rows, gram, 3)
    last = seeded(2, 9, seed=10)
    rows, gram = with_row(rows, gram, last, 5)
    torch.testing.assert_close(rows @ rows.mT, gram)
    C = rows.mT @ rows + 0.1 * torch.eye(9)
    torch.testing.assert_close(solve_row(rows, gram, 0.1, 5), torch.linalg.solve(C, last))
    other = seeded(2, 9, seed=11)
    torch.testing.assert_close(solve(rows, gram, 0.1, other), torch.linalg.solve(C, other))
    torch.testing.assert_close(solve(rows, gram, 0.1, last), solve_row(rows, gram, 0.1, 5))


def test_tonga_finds_the_mode():
    posterior = Posterior(
        nn.Linear(3, 1, dtype=torch.float64), gaussian(0.5), (seeded(50, 3), seeded(50, 1)), Normal(0.0, 1.0)
    )
    mode = find_mode(posterior, TONGA(lr=0.02, damping=0.1, decay=0.9), tolerance=1e-8)
    torch.testing.assert_close(mode, find_mode(posterior, tolerance=1e-9), rtol=0, atol=1e-6)


@pytest.mark.parametrize("far", [0.0, 1e4])
@pytest.mark.parametrize("values", [(1.0, 2.0, 5.0), (-1.0, 2.0, 5.0), (-3.0, -1.0, -0.5)])
def test_regression_recovers_curvatures_and_extremum_of_a_parabola(values, far):
    center = far + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    target = quadratic(rotated(values), center)
    method = GradientRegression(lr=0.05, exploration=0.1, decay=0.8)
    state = run(method, target, center + seeded(2, 3), 8)[-1]
    found, order = state.curvature.sort(-1)
    torch.testing.assert_close(found, torch.tensor(values).double().expand(2, 3), rtol=1e-6, atol=0)
    extremum = (state.center[:, None] @ state.basis)[:, 0]
    torch.testing.assert_close(extremum, center.expand(2, 3), rtol=1e-9, atol=1e-5)
    v = state.basis.gather(1, order[..., None].expand(2, 3, 3))
    torch.testing.assert_close(v.mT @ torch.diag_embed(found) @ v, rotated(values).expand(2, 3, 3), rtol=0, atol=1e-5)


def test_averages_are_divided_by_what_their_weights_sum_to():
    λ, p, β, steps = 2.0, 3.0, 0.95, 8
    target = quadratic(torch.tensor([[λ]]).double(), torch.tensor([p]).double())
    method = GradientRegression(lr=0.05, exploration=0.1, decay=β)
    states = run(method, target, torch.tensor([[4.0]]).double(), steps)
    θ = torch.stack([state.position[0, 0] for state in states[:-1]])
    g = torch.stack([state.gradient[0, 0] for state in states[1:]])
    weights = (1 - β) * β ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)

    def regression(weights):
        def mean(x):
            return (weights * x).sum()

        λ = (mean(g * θ) - mean(g) * mean(θ)) / (mean(θ**2) - mean(θ) ** 2)
        return λ, mean(θ) - mean(g) / λ

    for found, expected in zip(regression(weights / (1 - β**steps)), (λ, p), strict=True):
        assert float(found) == pytest.approx(expected, rel=1e-8)
    final = states[-1]
    assert float(final.mean_position[0, 0]) == pytest.approx(float((weights * θ).sum() / (1 - β**steps)), rel=1e-12)
    assert float(final.mean_gradient[0, 0]) == pytest.approx(float((weights * g).sum() / (1 - β**steps)), rel=1e-9)
    assert float(final.curvature[0, 0]) == pytest.approx(λ, rel=1e-8)
    assert float(final.center[0, 0]) == pytest.approx(p, rel=1e-8)
    assert abs(float(regression(weights)[0]) - λ) > 1  # what averages that start at zero would have given


def test_step_goes_to_minima_and_away_from_maxima():
    target = quadratic(torch.diag(torch.tensor([2.0, -1.0])).double(), torch.zeros(2).double())
    method = GradientRegression(lr=0.01, rate=0.25, exploration=1e-2, max_step=10.0)
    states = run(method, target, torch.tensor([[1.0, 1.0]]).double(), 8)
    before, after = states[-2], states[-1]
    noise = before.exploration[:, None] * noise_of(7, chains=1).normal(2)
    expected = before.position * torch.tensor([1 - 0.25, 1 + 0.25])
    torch.testing.assert_close(after.position - noise, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rank", [2, 4, 8])
def test_a_rotating_subspace_finds_the_mode_of_more_parameters(rank):
    values = torch.tensor([0.3, 0.4, 0.5, 1.0, 2.0, 3.0, 30.0, 40.0], dtype=torch.float64)
    target = quadratic(rotated(values), seeded(8, seed=5))
    mode = find_mode(target, GradientRegression(lr=0.02, rank=rank), num_steps=2000)
    torch.testing.assert_close(mode, seeded(8, seed=5), rtol=0, atol=1e-5)


def test_a_subspace_helps():
    values = torch.logspace(-2, 1, 8, dtype=torch.float64)
    target = quadratic(rotated(values), torch.ones(8, dtype=torch.float64))
    start = torch.zeros(1, 8, dtype=torch.float64)
    method = GradientRegression(lr=0.1, rank=4)
    position = run(method, target, start, 300)[-1].position
    descent = start
    for _ in range(300):
        descent = descent - 0.1 * target.cost_and_gradient(descent)[1]
    assert target.cost(position) < 1e-3 * target.cost(descent)


def test_bases_stay_orthonormal():
    posterior = classifier()
    method = GradientRegression(lr=0.1, rank=5, refresh_every=2)
    state = run(method, posterior, positions(posterior), 200)[-1]
    torch.testing.assert_close(state.basis @ state.basis.mT, torch.eye(5).expand(2, 5, 5).double(), rtol=0, atol=1e-9)


def test_regression_on_minibatches_comes_near_the_mode():
    posterior = Posterior(
        nn.Linear(3, 1, dtype=torch.float64), gaussian(0.5), (seeded(200, 3), seeded(200, 1)), Normal(0.0, 1.0)
    )
    truth = find_mode(posterior)
    with pytest.warns(RuntimeWarning, match="stopped before converging"):
        found = find_mode(posterior, GradientRegression(lr=0.02, decay=0.99, rate=0.05), batch_size=20, num_steps=1000)
    sd = torch.func.hessian(lambda w: posterior.cost(w[None])[0])(truth).inverse().diag().sqrt()
    assert ((found - truth) / sd).abs().max() < 3


@pytest.mark.parametrize("method", [TONGA(lr=1e-3, damping=1e-3), GradientRegression(lr=0.1, rank=4)])
def test_chains_do_not_interact(method):
    posterior = classifier()
    at = positions(posterior, 3)
    together = run(method, posterior, at, 25)[-1]
    state = method.init(posterior, at[1:2])
    for step in range(25):
        noise = noise_of(step, chains=3)
        alone = type(noise)(noise.keys[1:2], noise.step, noise.dtype)
        state = method.step(posterior, state, None, alone)
    torch.testing.assert_close(state.position[0], together.position[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TONGA(lr=0.1, damping=0.0), "damping must be positive"),
        (lambda: TONGA(lr=-0.1, damping=0.1), "lr must be positive"),
        (lambda: TONGA(lr=0.1, damping=0.1, decay=1.5), r"decay must lie in \(0, 1\], got 1.5"),
        (lambda: TONGA(lr=0.1, damping=0.1, rank=0), "rank must be a whole number ≥ 1, got 0"),
        (lambda: TONGA(lr=0.1, damping=0.1, refresh_every=2.5), "refresh_every must be a whole number"),
        (lambda: GradientRegression(lr=math.nan), "lr must be positive"),
        (lambda: GradientRegression(lr=0.1, rate=1.5), r"rate is a part of the way .* in \(0, 1\], got 1.5"),
        (lambda: GradientRegression(lr=0.1, decay=1.0), "decay must lie strictly between 0 and 1"),
        (lambda: GradientRegression(lr=0.1, exploration=0.0), "exploration must be positive"),
        (lambda: GradientRegression(lr=0.1, rank=True), "rank must be a whole number"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
