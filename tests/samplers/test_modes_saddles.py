"""Saddles: methods that leave them, and the check that tells them from modes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from langevin.samplers import LogDensity, Posterior, categorical, find_mode, gaussian
from langevin.samplers.modes import GradientRegression, SaddleFreeNewton, smallest_curvature
from langevin.samplers.modes.curvature import krylov, ritz
from langevin.samplers.target import hessian_product
from torch import Tensor, nn
from torch.func import hessian

from tests.samplers.small import classifier, noise_of, positions, seeded


def density(cost, start) -> LogDensity:
    return LogDensity(lambda v: -cost(v["x"]), {"x": torch.as_tensor(start, dtype=torch.float64)})


def saddle(x: Tensor) -> Tensor:
    """½x² − ½y² + ¼y⁴: a saddle at 0, whose stable manifold is y = 0; modes at y = ±1."""
    return 0.5 * x[0] ** 2 - 0.5 * x[1] ** 2 + 0.25 * x[1] ** 4


def symmetric(dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A matrix with eigenvalues of both signs, and these."""
    Q = torch.linalg.qr(seeded(dim, dim, seed=seed)).Q
    values = torch.linspace(-1.0, 4.0, dim, dtype=torch.float64)
    return Q @ torch.diag(values) @ Q.mT, values


ESCAPING = [SaddleFreeNewton(), GradientRegression(lr=0.1)]


@pytest.mark.parametrize("method", ESCAPING, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("start", [(0.0, 0.0), (1.0, 0.0), (1.0, 1e-3), (0.0, 1e-9)])
def test_saddles_are_left_from_the_saddle_and_from_its_stable_manifold(method, start):
    mode = find_mode(density(saddle, start), method, num_steps=300)
    assert mode[0].abs() < 1e-5
    assert abs(mode[1].abs() - 1) < 1e-5


@pytest.mark.parametrize("method", ["Newton-CG", "L-BFGS-B", "trust-krylov", "SGD"])
@pytest.mark.parametrize("start", [(0.0, 0.0), (1.0, 0.0)])
def test_other_methods_end_at_the_saddle_and_a_warning_says_so(method, start):
    settings = {"lr": 0.5} if method == "SGD" else {}
    with pytest.warns(RuntimeWarning, match=r"at a saddle, not at a mode.*eigenvalue -1 .*SaddleFreeNewton") as record:
        found = find_mode(density(saddle, start), method, **settings)
    assert record[0].filename == __file__
    assert found.abs().max() < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_mode(density(saddle, start), method, check_saddle=False, **settings)


def test_the_remedy_that_the_warning_names_works():
    target = density(saddle, (0.0, 0.0))
    value, vector = smallest_curvature(target, torch.zeros(2))
    assert value == pytest.approx(-1)
    mode = find_mode(target, init=0.1 * vector)
    assert abs(mode[1].abs() - 1) < 1e-5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_check_does_not_depend_on_the_unit_of_the_parameters(scale):
    target = density(lambda x: saddle(x / scale), (0.0, 0.0))
    with pytest.warns(RuntimeWarning, match="saddle"):
        find_mode(target)


def test_the_check_sees_a_saddle_of_many_parameters():
    A, _ = symmetric(200)
    target = density(lambda x: 0.5 * x @ A @ x + 0.01 * (x**4).sum(), torch.zeros(200))
    with pytest.warns(RuntimeWarning, match="saddle"):
        find_mode(target)


def relu_net() -> Posterior:
    """Fewer examples than parameters, units that are off and a flat prior: most directions are flat."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    return Posterior(model, gaussian(0.1), (seeded(6, 2), seeded(6, 1, seed=1)), None)


def test_modes_and_flat_directions_are_no_saddles():
    flat = [
        (lambda x: 0.5 * x[0] ** 2 + 0 * x[1], (1.0, 1.0)),
        (lambda x: 0.25 * x[1] ** 4 + 0.5 * x[0] ** 2, (1.0, 0.3)),
        (lambda x: 0.5 * x[0] ** 2 + 0.5 * x[1] ** 2, (1.0, 1.0)),
        (lambda x: (1 + x[0] ** 2).log() + x[1] ** 2, (0.1, 0.1)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for cost, start in flat:
            find_mode(density(cost, start))
        find_mode(relu_net(), tolerance=1e-5)


def test_curvature_of_what_the_tolerance_leaves_is_no_saddle():
    target = density(lambda x: 0.5 * x[0] ** 2 + x[0] * x[1] ** 2 + x[1] ** 4, (-1e-5, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = find_mode(target, "SGD", tolerance=2e-5)  # where it starts
    assert smallest_curvature(target, found)[0] == pytest.approx(-2e-5)  # and 0 at the mode


def test_a_target_without_second_derivatives_is_told():
    class Square(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient * 2 * x

    target = density(lambda x: Square.apply(x).sum(), (1.0, 2.0))
    with pytest.warns(UserWarning, match=r"could not be checked, for want of second derivatives.*check_saddle=False"):
        find_mode(target, "L-BFGS-B")
    find_mode(target, "L-BFGS-B", check_saddle=False)


@pytest.mark.parametrize("dim", [1, 2, 3, 30])
def test_smallest_curvature_is_exact_in_few_dimensions(dim):
    A, values = symmetric(dim)
    value, vector = smallest_curvature(density(lambda x: 0.5 * x @ A @ x, torch.zeros(dim)), torch.ones(dim))
    assert value == pytest.approx(float(values[0]), abs=1e-10)
    torch.testing.assert_close(A @ vector, values[0] * vector, atol=1e-8, rtol=0)
    assert float(vector.norm()) == pytest.approx(1)


def test_smallest_curvature_of_a_network_is_that_of_arpack():
    posterior = classifier()
    at = posterior.default_position()
    product = scipy.sparse.linalg.LinearOperator(
        (posterior.dim, posterior.dim),
        matvec=lambda v: hessian_product(posterior, at[None], torch.as_tensor(v).reshape(1, -1))[0].numpy(),
        dtype=np.float64,
    )
    expected = scipy.sparse.linalg.eigsh(product, k=1, which="SA", return_eigenvectors=False)[0]
    assert smallest_curvature(posterior, at)[0] == pytest.approx(expected, rel=1e-8)
    assert smallest_curvature(posterior.to(dtype=torch.float32), at.float())[0] == pytest.approx(expected, rel=1e-5)


def test_products_are_bounded_and_the_value_is_a_curvature_that_is_there():
    dim, calls = 500, []
    values = torch.cat((torch.tensor([-3.0]), torch.linspace(0.0, 1.0, dim - 1))).double()
    target = density(lambda x: 0.5 * (values * x**2).sum(), torch.zeros(dim))
    original = target.cost_and_gradient
    target.cost_and_gradient = lambda *arguments: (calls.append(1), original(*arguments))[1]
    value, vector = smallest_curvature(target.to(), torch.zeros(dim), num_products=15)
    assert len(calls) <= 16
    assert value == pytest.approx(-3, abs=1e-6)
    few, vector = smallest_curvature(target, torch.zeros(dim), num_products=2)
    assert few >= -3
    assert few == pytest.approx(float(vector @ (values * vector)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"position": torch.zeros(3)}, r"position must have shape \(2,\), got \(3,\)"),
        ({"position": torch.tensor([0.0, torch.nan])}, "position is not finite"),
        ({"position": torch.zeros(2), "num_products": 0}, "num_products must be a whole number"),
    ],
)
def test_bad_questions_to_smallest_curvature_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        smallest_curvature(density(saddle, (0.0, 0.0)), **settings)


def test_hessian_product_is_that_of_the_hessian_of_a_batch():
    posterior, batch = classifier(), torch.tensor([[0, 3, 4], [5, 1, 0]])
    at, v = positions(posterior), seeded(2, posterior.dim, seed=3)
    for chain in range(2):
        H = hessian(lambda p, chain=chain: posterior.cost(p[None], batch[chain : chain + 1])[0])(at[chain]) / 6
        torch.testing.assert_close(hessian_product(posterior, at, v, batch)[chain], H @ v[chain])


def test_krylov_basis_is_orthonormal_holds_the_gradient_and_spans_everything_at_full_size():
    A, values = symmetric(12)
    degenerate = torch.linalg.eigh(A).eigenvectors[:, 3]  # its Krylov space is a line
    starts = [torch.stack((seeded(12), degenerate, torch.zeros(12))), seeded(3, 12, seed=1)]
    for size in (4, 12):
        basis, images = krylov(lambda v: v @ A, starts, size)
        torch.testing.assert_close(basis @ basis.mT, torch.eye(size).expand(3, -1, -1).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(basis[:2, 0], torch.nn.functional.normalize(starts[0][:2], dim=-1))
        found, vectors = ritz(basis, images)
        curvatures = ((vectors @ A) * vectors).sum(-1)
        torch.testing.assert_close(found, curvatures, atol=1e-9, rtol=0)
    torch.testing.assert_close(found, values.expand(3, 12), atol=1e-9, rtol=0)


def test_saddle_free_step_is_the_dense_formula():
    A, _ = symmetric(6)
    target = density(lambda x: 0.5 * x @ A @ x + (x**4).sum(), torch.ones(6))
    at, method = 0.3 * seeded(4, 6), SaddleFreeNewton(num_vectors=6, kick=1e-9)
    state = method.step(target, method.init(target, at), None, noise_of(chains=4))
    assert (state.length > 0).all()
    for chain in range(4):
        λ, v = torch.linalg.eigh(A + torch.diag(12 * at[chain] ** 2))
        _, g = target.cost_and_gradient(at[chain : chain + 1])
        step = -v @ (v.mT @ g[0] / λ.abs())
        torch.testing.assert_close(state.position[chain], at[chain] + state.length[chain] * step)
        torch.testing.assert_close(state.smallest[chain], λ[0])
    assert (state.length == 1).any()


@pytest.mark.parametrize("num_vectors", [2, 5, 20])
def test_saddle_free_newton_never_raises_the_cost(num_vectors):
    A, _ = symmetric(20)
    target = density(lambda x: 0.5 * x @ A @ x + 0.1 * (x**4).sum() + (3 * x).cos().sum(), torch.ones(20))
    method = SaddleFreeNewton(num_vectors=num_vectors)
    state = method.init(target, 3 * seeded(5, 20))
    for step in range(60):
        new = method.step(target, state, None, noise_of(step, chains=5))
        assert (new.cost <= state.cost + 1e-12 * state.cost.abs()).all()
        torch.testing.assert_close(new.cost, target.cost(new.position))
        state = new
    assert state.gradient.abs().max() < 1e-2


def test_saddle_free_newton_converges_quadratically_when_the_space_is_everything():
    target = density(lambda x: (x.exp() - x).sum() + 0.5 * (x[0] * x[1]) ** 2, torch.ones(3))
    method = SaddleFreeNewton()
    state, sizes = method.init(target, torch.ones(1, 3, dtype=torch.float64)), []
    for step in range(9):
        state = method.step(target, state, None, noise_of(step, chains=1))
        sizes.append(float(state.gradient.abs().max()))
    late = [i for i, size in enumerate(sizes[:-1]) if 1e-6 < size < 1e-2]
    assert late
    assert all(sizes[i + 1] < 2 * sizes[i] ** 2 for i in late)


def test_saddle_free_newton_finds_the_mode_of_a_network_larger_than_its_space():
    posterior = classifier()
    mode = find_mode(posterior, SaddleFreeNewton(num_vectors=8))
    assert posterior.cost_and_gradient(mode[None])[1].abs().max() <= 1e-6
    assert smallest_curvature(posterior, mode)[0] > 0


def test_saddle_free_newton_on_a_network_at_its_symmetric_saddle():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)  # all units alike: gradients of the first layer vanish
    x = seeded(60, 2)
    posterior = Posterior(model, categorical, (x, (x[:, 0] * x[:, 1] > 0).long()))
    with pytest.warns(RuntimeWarning, match="saddle"):
        stuck = find_mode(posterior, "Newton-CG")
    mode = find_mode(posterior, SaddleFreeNewton())
    assert posterior.cost(mode[None]) < posterior.cost(stuck[None]) - 5
    assert smallest_curvature(posterior, mode)[0] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_vectors": 1}, "num_vectors must be a whole number ≥ 2"),
        ({"damping": 0.0}, "damping must be positive"),
        ({"damping": 2.0}, r"damping is a part of the largest curvature, in \(0, 1\], got 2"),
        ({"kick": -1.0}, "kick must be positive"),
        ({"lr": 0.0}, "lr must be positive"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SaddleFreeNewton(**settings)


def test_minibatches_are_refused():
    with pytest.raises(ValueError, match="costs of the full data"):
        find_mode(classifier(), SaddleFreeNewton(), batch_size=3)
