"""The Fokker–Planck solver against exact laws, its Markov chain, and quadrature.

Exact: a mixture under a linear SDE stays a mixture, on a ring it is wrapped, and where
the drift is ½G∇log π the chain is in balance with π. The semi-discrete equation is
solved by matrix exponentials, a step of Crank–Nicolson by dense solves.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.sparse.linalg
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from diffedu import fokker_planck
from diffedu.fokker_planck import (
    Grid,
    bernoulli,
    generator_matrix,
    richardson,
    solve_fokker_planck,
    stationary_density,
)
from diffedu.metrics import grid_kl
from diffedu.mixture import GaussianMixture, three_gaussians, three_gaussians_1d
from diffedu.path import (
    GaussianPath,
    OrnsteinUhlenbeck,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from diffedu.samplers import last
from diffedu.sde import (
    SDE,
    euler_maruyama,
    forward,
    langevin,
    reverse,
)
from tests.package.oracles import (
    assert_mean,
    gradient,
    jacobian,
    noised,
    order,
    transported,
)

G1D, G3 = three_gaussians_1d(), three_gaussians()
OU = OrnsteinUhlenbeck(0.8, 1.1)

GAIN = torch.tensor([[0.9, 0.0], [0.6, 0.5]], dtype=torch.float64)
PULL = torch.tensor([[-1.0, 0.5], [-0.3, -0.8]], dtype=torch.float64)
PUSH = torch.tensor([0.3, -0.2], dtype=torch.float64)

WIDTH = 2 * math.pi


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def density(law) -> Callable[[Tensor], Tensor]:
    """p of a law of torch.distributions."""
    return lambda x: law.log_prob(x).exp()


def path_density(mixture: GaussianMixture, path: GaussianPath, t: float):
    return density(noised(mixture, path.alpha(t), path.sigma(t)))


def on_the_line(mean: float, variance: float) -> MultivariateNormal:
    return MultivariateNormal(vector(mean), vector(variance)[:, None])


def l1(p: Tensor, q: Tensor, grid: Grid) -> float:
    """∫ |p − q| of two densities on the grid."""
    return float((p - q).abs().sum()) * grid.volume


def line(n: int, reach: float = 6.0) -> Grid:
    return Grid(-reach, reach, n)


def square(n: int, reach: float = 5.0) -> Grid:
    return Grid((-reach, -reach), (reach, reach), (n, n))


def linear(A: Tensor, g: Tensor, b: Tensor | float = 0.0) -> SDE:
    """dx = (A x + b) dt + g dw."""
    return SDE(lambda x, t: x @ A.mT + b, lambda t: g, autonomous=True)


def exponential(sde: SDE, grid: Grid, p: Tensor, t: float) -> Tensor:
    """e^{At} p, by SciPy."""
    A = generator_matrix(sde, grid)
    at_t = scipy.sparse.linalg.expm_multiply(A * t, p.numpy().ravel())
    return torch.from_numpy(at_t).reshape(grid.shape)


def assert_second_order(counts: Sequence[int], errors: Sequence[float]) -> None:
    assert len(counts) >= 4
    assert order(list(counts), list(errors)) == pytest.approx(2, abs=0.15)


# The grid


def test_a_grid_on_the_line() -> None:
    grid = Grid(-1.0, 2.0, 6)
    assert (grid.dim, grid.shape, grid.spacing, grid.volume) == (1, (6,), (0.5,), 0.5)
    centers = vector(-0.75, -0.25, 0.25, 0.75, 1.25, 1.75)
    torch.testing.assert_close(grid.centers, centers[:, None])
    assert grid.mass(vector(0.0, 1.0, 2.0, 0.0, 0.0, 4.0)) == 3.5


def test_a_grid_in_the_plane_has_the_first_axis_first() -> None:
    grid = Grid((-1.0, 10.0), (2.0, 14.0), (3, 8), (True, False))
    assert (grid.dim, grid.shape, grid.spacing) == (2, (3, 8), (1.0, 0.5))
    assert grid.volume == 0.5
    assert [axis.periodic for axis in grid.axes] == [True, False]
    assert tuple(grid.centers.shape) == (3, 8, 2)
    torch.testing.assert_close(grid.centers[2, 0], vector(1.5, 10.25))
    torch.testing.assert_close(grid.centers[0, 7], vector(-0.5, 13.75))
    assert grid.mass(torch.ones(3, 8).double()) == pytest.approx(12)


@pytest.mark.parametrize("dim", [1, 2])
def test_averages_are_exact_up_to_degree_seven_per_axis(dim: int) -> None:
    grid = Grid(-1.0, 2.0, 4) if dim == 1 else Grid((-1.0, 0.5), (2.0, 1.5), (4, 3))

    def mean(axis, k: int, degree: int) -> float:
        """(1/h) ∫ x^degree over cell k, from the antiderivative."""
        h = (axis.high - axis.low) / axis.cells
        low = axis.low + k * h
        top = (low + h) ** (degree + 1) - low ** (degree + 1)
        return top / (h * (degree + 1))

    def gap(degrees: tuple[int, ...]) -> float:
        got = grid.average(lambda x: (x ** torch.tensor(degrees)).prod(1))
        return max(
            abs(float(got[cell]) - math.prod(map(mean, grid.axes, cell, degrees)))
            for cell in product(*map(range, grid.shape))
        )

    for degrees in product(range(8), repeat=dim):
        assert gap(degrees) < 1e-12
    assert gap((8,) * dim) > 1e-9


def test_averages_of_a_gaussian_are_differences_of_its_distribution_function() -> None:
    grid = line(60)
    law = scipy.stats.norm(0.3, 0.7)
    edges = np.linspace(-6, 6, 61)
    truth = torch.from_numpy(np.diff(law.cdf(edges)) / grid.spacing[0])
    got = grid.average(lambda x: torch.from_numpy(law.pdf(x[:, 0].numpy())))
    # the error of 4 nodes is of order (h/std)⁹
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "grid",
    [
        Grid(-1.0, 2.0, 5, periodic=True),
        Grid((-1.0, 0.0), (2.0, 1.0), (5, 3), (True, False)),
    ],
    ids=["line", "plane"],
)
def test_a_refined_grid_halves_the_cells_of_the_same_box(grid: Grid) -> None:
    fine = grid.refined()
    assert (fine.low, fine.high, fine.periodic) == (grid.low, grid.high, grid.periodic)
    assert fine.shape == tuple(2 * n for n in grid.shape)
    quarters = fine.centers.reshape(
        [k for n in grid.shape for k in (n, 2)] + [grid.dim]
    )
    middle = quarters.mean(tuple(range(1, 2 * grid.dim, 2)))
    torch.testing.assert_close(middle, grid.centers)


# The weight B and the directions


@pytest.mark.parametrize(
    "z", [0.0, 1e-300, 1e-12, -1e-7, 1e-3, 0.5, -1.0, 3.0, -20.0, 40.0, -300.0, 700.0]
)
def test_bernoulli_to_the_last_digits(z: float) -> None:
    with mpmath.workdps(60):
        exact = mpmath.mpf(z)
        truth = float(exact / mpmath.expm1(exact)) if z else 1.0
    assert float(bernoulli(np.array([z]))[0]) == pytest.approx(truth, rel=1e-14)


@pytest.mark.parametrize("condition", [1.0, 3.0, 30.0, 1e3, 1e4])
def test_lattice_directions_write_a_matrix_as_squares_of_steps(
    condition: float,
) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        angle = rng.uniform(0, math.pi)
        Q = np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        D = 10 ** rng.uniform(-3, 3) * Q @ np.diag([1, condition]) @ Q.T
        directions = fokker_planck._lattice_directions(D)
        total = sum(weight * np.outer(e, e) for e, weight in directions)
        np.testing.assert_allclose(total, D, rtol=0, atol=1e-11 * np.trace(D))
        assert len(directions) <= 3
        assert all(weight > 0 for _, weight in directions)
        assert all(math.gcd(*e) == 1 for e, _ in directions)


def test_lattice_directions_of_a_diagonal_matrix_are_the_axes() -> None:
    directions = fokker_planck._lattice_directions(np.diag([2.0, 5e-3]))
    assert {(tuple(map(abs, e)), round(w, 12)) for e, w in directions} == {
        ((1, 0), 2.0),
        ((0, 1), 5e-3),
    }


# The chain


GRIDS = [
    pytest.param(line(24, 2.0), id="line"),
    pytest.param(Grid(-2.0, 2.0, 24, periodic=True), id="ring"),
    pytest.param(Grid((-2.0, -1.0), (2.0, 1.0), (12, 10)), id="plane"),
    pytest.param(Grid((-2.0, -1.0), (2.0, 1.0), (12, 10), (True, False)), id="tube"),
    pytest.param(Grid((-2.0, -1.0), (2.0, 1.0), (12, 10), True), id="torus"),
]


def gain(grid: Grid) -> Tensor:
    return vector(1.3).reshape(()) if grid.dim == 1 else GAIN


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("strength", [0.3, 30.0])
def test_the_generator_is_that_of_a_markov_chain(grid: Grid, strength: float) -> None:
    sde = SDE(
        lambda x, t: strength * torch.sin(3 * x.flip(1) + x), lambda t: gain(grid)
    )
    A = generator_matrix(sde, grid).toarray()
    scale = np.abs(A).max()
    assert np.abs(A.sum(0)).max() < 1e-13 * scale
    assert (A - np.diag(np.diag(A)) >= 0).all()
    assert (np.diag(A) < 0).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_jumps_have_the_mean_and_the_covariance_of_the_noise(grid: Grid) -> None:
    """Σ_i A_ij (x_i − x_j) = f for a constant f; without a drift their squares give G.

    In every cell that no jump across a wall is missing from; on a ring the way round.
    """
    f = PUSH[: grid.dim]
    g = gain(grid)
    G = (g @ g.mT if g.ndim else g[None, None] ** 2).numpy()
    x = grid.centers.reshape(-1, grid.dim).numpy()
    jump = x[:, None] - x[None, :]
    for k, axis in enumerate(grid.axes):
        if axis.periodic:
            length = axis.high - axis.low
            jump[..., k] -= length * np.round(jump[..., k] / length)
    inside = np.ones(grid.shape, dtype=bool)
    for k, axis in enumerate(grid.axes):
        if not axis.periodic:
            np.moveaxis(inside, k, 0)[[0, 1, -2, -1]] = False
    inside = inside.ravel()
    assert inside.sum() >= 10
    A = generator_matrix(SDE(lambda x, t: f.expand_as(x), lambda t: g), grid).toarray()
    drift = np.einsum("ij,ijk->jk", A, jump)[inside]
    np.testing.assert_allclose(drift, np.broadcast_to(f, drift.shape), atol=1e-12)
    A = generator_matrix(SDE(lambda x, t: 0 * x, lambda t: g), grid).toarray()
    squares = np.einsum("ij,ijk,ijl->jkl", A, jump, jump)[inside]
    np.testing.assert_allclose(squares, np.broadcast_to(G, squares.shape), atol=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
def test_other_weights_give_central_and_upwind_differences(periodic: bool) -> None:
    """dp_i/dt = J_{i−1} − J_i, with the mean of both cells or with the upwind cell."""
    n, g_squared = 16, 1.3**2
    grid = Grid(-2.0, 2.0, n, periodic)
    h = 4 / n
    sde = SDE(lambda x, t: 2.0 - 0.7 * x**3, lambda t: 1.3)
    p = torch.rand(n, generator=torch.Generator().manual_seed(1)).double().numpy()
    face = np.linspace(-2, 2, n + 1)[1:]
    f = 2.0 - 0.7 * (face**3 + face * h**2 / 4)  # the mean of x³ between the centres
    q = np.roll(p, -1)
    means = {
        lambda w: 1 - w / 2: (p + q) / 2,
        lambda w: 1 + np.maximum(-w, 0): np.where(f > 0, p, q),
    }
    for weight, mean in means.items():
        J = f * mean - 0.5 * g_squared * (q - p) / h
        if not periodic:
            J[-1] = 0.0
        else:  # the face that joins the ends lies at both of them
            J[-1] = np.nan
        truth = (np.roll(J, 1) - J) / h
        got = generator_matrix(sde, grid, bernoulli=weight) @ p
        inner = slice(1, -1) if periodic else slice(None)
        np.testing.assert_allclose(got[inner], truth[inner], rtol=1e-12, atol=1e-12)


def test_the_generator_takes_its_coefficients_at_the_given_time() -> None:
    sde = SDE(lambda x, t: -t * x, lambda t: 1 + t)
    frozen = SDE(lambda x, t: -0.7 * x, lambda t: 1.7)
    A, B = (generator_matrix(s, line(9), 0.7).toarray() for s in (sde, frozen))
    np.testing.assert_allclose(A, B, rtol=1e-14)


def fokker_planck_rate(sde: SDE, p, x: Tensor, t: float) -> Tensor:
    """−∇·(f p) + ½ ∇·(G ∇p) at points, by automatic differentiation."""
    time = torch.tensor(t, dtype=torch.float64)
    g = torch.as_tensor(sde.diffusion(time)).double()
    G = g @ g.mT if g.ndim else g**2 * torch.eye(x.shape[1]).double()

    def minus_current(y: Tensor) -> Tensor:
        with torch.enable_grad():
            if not y.requires_grad:
                y = y.detach().requires_grad_()
            slope = torch.autograd.grad(p(y).sum(), y, create_graph=True)[0]
        return 0.5 * slope @ G - sde.drift(y, time) * p(y)[:, None]

    return jacobian(minus_current, x).diagonal(dim1=1, dim2=2).sum(1)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_chain_is_the_equation_to_second_order(dim: int) -> None:
    """A p against the right-hand side, at points that are centres of every grid."""
    sde = SDE(
        lambda x, t: torch.sin(2 * x.flip(1)) - x * t + 0.3 * x**2,
        lambda t: t * (vector(1.1).reshape(()) if dim == 1 else GAIN),
    )

    def p(x: Tensor) -> Tensor:
        return torch.exp(-((x - 0.2) ** 2).sum(1)) * (1.5 + torch.sin(x).prod(1))

    counts = [21, 63, 105, 189, 315] if dim == 1 else [21, 63, 105, 147]
    errors = []
    for n in counts:
        grid = line(n, 2.0) if dim == 1 else square(n, 2.0)
        x = grid.centers.reshape(-1, dim)
        rate = generator_matrix(sde, grid, 0.9) @ p(x).numpy()
        # the 9 (or 81) points k·4/21 for |k| <= 4
        multiple = x / (4 / 21)
        near = (multiple - multiple.round()).abs().amax(1) < 1e-9
        chosen = near & (x.abs().amax(1) < 0.8)
        assert chosen.sum() == 9**dim
        truth = fokker_planck_rate(sde, p, x[chosen], 0.9)
        errors.append(float((torch.from_numpy(rate)[chosen] - truth).abs().max()))
    assert_second_order(counts, errors)


# Orders, on the line


def test_order_in_space_on_the_line() -> None:
    counts, errors = [100, 200, 400, 800], []
    for n in counts:
        grid = line(n)
        p_0, p_t = (grid.average(path_density(G1D, OU, t)) for t in (0.0, 0.5))
        # 400 steps add 3e-7, a hundredth of the last error
        p = last(solve_fokker_planck(forward(OU), p_0, grid, time_grid(0.0, 0.5, 400)))
        errors.append(l1(p, p_t, grid))
    assert_second_order(counts, errors)
    assert errors[-1] < 3e-5


def test_order_in_time_on_the_line_against_the_exponential_of_the_chain() -> None:
    grid, sde = line(200), forward(OU)
    p_0 = grid.average(path_density(G1D, OU, 0.0))
    truth = exponential(sde, grid, p_0, 0.5)
    counts = [10, 20, 40, 80, 160]
    errors = [
        l1(
            last(solve_fokker_planck(sde, p_0, grid, time_grid(0.0, 0.5, n))),
            truth,
            grid,
        )
        for n in counts
    ]
    assert_second_order(counts, errors)
    assert errors[-1] < 3e-6


def test_order_in_time_on_a_fine_grid_of_the_line() -> None:
    grid = line(3000)
    p_0, p_t = (grid.average(path_density(G1D, OU, t)) for t in (0.0, 0.5))
    counts = [8, 16, 32, 64]  # down to 1e-5, where space adds 1.5e-6
    errors = [
        l1(
            last(solve_fokker_planck(forward(OU), p_0, grid, time_grid(0.0, 0.5, n))),
            p_t,
            grid,
        )
        for n in counts
    ]
    assert_second_order(counts, errors)


PATHS = [
    pytest.param(OU, id="OU"),
    pytest.param(VariancePreserving(0.1, 4.0), id="VP"),
    pytest.param(VarianceExploding(0.3, 1.5), id="VE"),
]


@pytest.mark.parametrize("path", PATHS)
def test_order_of_both_together_on_the_line(path: GaussianPath) -> None:
    counts, errors = [100, 200, 400, 800], []
    for n in counts:
        grid, times = line(n, 8.0), time_grid(0.0, 0.6, n // 4)
        p_0, p_t = (path_density(G1D, path, t) for t in (0.0, 0.6))
        p = last(solve_fokker_planck(forward(path), p_0, grid, times))
        errors.append(l1(p, grid.average(p_t), grid))
    assert_second_order(counts, errors)
    assert errors[-1] < 1e-4


def test_order_in_time_of_coefficients_that_depend_on_it() -> None:
    """Frozen in the middle of a step, against many steps on the same grid."""
    grid, sde = line(200), forward(VariancePreserving(0.1, 8.0))
    p_0 = path_density(G1D, OU, 0.3)

    def at_end(n: int) -> Tensor:
        return last(solve_fokker_planck(sde, p_0, grid, time_grid(0.0, 1.0, n)))

    truth = at_end(800)
    counts = [20, 40, 80, 160]
    assert_second_order(counts, [l1(at_end(n), truth, grid) for n in counts])


@pytest.mark.parametrize(
    ("path", "eta"), [(OU, 0.4), (OU, 1.0), (VariancePreserving(0.1, 4.0), 1.0)]
)
def test_decreasing_times_take_the_marginals_back(
    path: GaussianPath, eta: float
) -> None:
    sde = reverse(forward(path), lambda x, t: path.marginal(G1D, t).score(x), eta)
    counts, errors = [60, 120, 240, 480], []
    for n in counts:
        grid, times = line(n, 5.0), time_grid(0.8, 0.1, n // 8)
        p_0, p_t = (path_density(G1D, path, t) for t in (0.8, 0.1))
        p = last(solve_fokker_planck(sde, p_0, grid, times))
        errors.append(l1(p, grid.average(p_t), grid))
    assert_second_order(counts, errors)
    assert errors[-1] < 3e-4


def test_decreasing_times_change_the_sign_of_the_drift_and_not_of_the_noise() -> None:
    p_0, grid = path_density(G1D, OU, 0.3), line(80)
    up = SDE(lambda x, t: 0.3 - 0.8 * x, lambda t: 1.1)
    down = SDE(lambda x, t: 0.8 * x - 0.3, lambda t: 1.1)
    for autonomous in (False, True):
        p, q = (
            last(solve_fokker_planck(sde, p_0, grid, times))
            for sde, times in (
                (up, [0.0, 0.1, 0.4]),
                (
                    SDE(down.drift, down.diffusion, autonomous=autonomous),
                    [3.0, 2.9, 2.6],
                ),
            )
        )
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-14)


# Orders, in the plane


def after_linear(A: Tensor, g: Tensor, t: float):
    return density(transported(G3, A, g, t, PUSH))


EYE = torch.eye(2, dtype=torch.float64)
PLANES = [
    pytest.param(PULL, 1.1 * EYE, id="diagonal"),
    pytest.param(PULL, torch.tensor([[0.6, 0.0], [0.0, 1.2]]).double(), id="unequal"),
    pytest.param(PULL, GAIN, id="full"),
    pytest.param(PULL, GAIN.mT.contiguous(), id="transposed"),
]


def plane_errors(
    A: Tensor, g: Tensor, counts: Sequence[int], start: float, steps: Callable
) -> list[float]:
    errors = []
    for n in counts:
        grid, times = square(n, 4.2), time_grid(0.0, 0.5, steps(n))
        p_0, p_t = (after_linear(A, g, t) for t in (start, start + 0.5))
        p = last(solve_fokker_planck(linear(A, g, PUSH), p_0, grid, times))
        errors.append(l1(p, grid.average(p_t), grid))
    return errors


def test_order_of_both_together_in_the_plane() -> None:
    counts = [32, 48, 64, 96]
    errors = plane_errors(PULL, 1.1 * EYE, counts, 0.0, lambda n: n // 4)
    assert_second_order(counts, errors)


def test_order_of_both_together_in_the_plane_with_a_full_matrix() -> None:
    counts = [64, 80, 96, 128]  # the directions reach over more cells than the axes
    errors = plane_errors(PULL, GAIN, counts, 0.0, lambda n: n // 4)
    assert_second_order(counts, errors)


@pytest.mark.parametrize(("A", "g"), PLANES)
def test_order_from_a_smooth_start_in_the_plane(A: Tensor, g: Tensor) -> None:
    counts = [56, 72, 96, 120]
    errors = plane_errors(A, g, counts, 0.3, lambda n: n // 8)
    assert_second_order(counts, errors)


@pytest.mark.parametrize(("A", "g"), PLANES[1:])
def test_order_in_space_in_the_plane(A: Tensor, g: Tensor) -> None:
    counts = [56, 64, 80, 96]
    errors = plane_errors(A, g, counts, 0.3, lambda n: 40)
    assert_second_order(counts, errors)


@pytest.mark.parametrize(("A", "g"), PLANES[1:3])
def test_order_in_time_in_the_plane(A: Tensor, g: Tensor) -> None:
    grid, sde = square(48), linear(A, g, PUSH)
    p_0 = grid.average(after_linear(A, g, 0.2))
    truth = exponential(sde, grid, p_0, 0.5)
    counts = [16, 32, 64, 128]
    errors = [
        l1(
            last(solve_fokker_planck(sde, p_0, grid, time_grid(0.0, 0.5, n))),
            truth,
            grid,
        )
        for n in counts
    ]
    assert_second_order(counts, errors)


def test_order_in_the_plane_with_coefficients_that_depend_on_time() -> None:
    path = VariancePreserving(0.1, 4.0)
    counts, errors = [32, 48, 64, 96], []
    for n in counts:
        grid, times = square(n, 6.0), time_grid(0.0, 0.6, n // 4)
        p_0, p_t = (path_density(G3, path, t) for t in (0.0, 0.6))
        p = last(solve_fokker_planck(forward(path), p_0, grid, times))
        errors.append(l1(p, grid.average(p_t), grid))
    assert_second_order(counts, errors)


# Rings


def wrapped(mean: Tensor, covariance: Tensor, lengths: Sequence[float]):
    """The density of a Gaussian on a ring or torus; a length of 0 is an open axis."""
    law = MultivariateNormal(mean, covariance)
    turns = [range(-2, 3) if length else range(1) for length in lengths]

    def p(x: Tensor) -> Tensor:
        shifts = [vector(*(k * w for k, w in zip(turn, lengths, strict=True)))
                  for turn in product(*turns)]  # fmt: skip
        return sum(law.log_prob(x + shift).exp() for shift in shifts)

    return p


def test_order_on_a_ring() -> None:
    # 1.7 units of time carry the centre over the joint
    speed, g, v, t = 2.5, 0.5, 0.16, 1.7
    sde = SDE(lambda x, t: torch.full_like(x, speed), lambda t: g, autonomous=True)
    counts, errors = [80, 160, 320, 640], []
    for n in counts:
        grid = Grid(-1.0, WIDTH - 1, n, periodic=True)
        p_0 = wrapped(vector(0.5), vector(v)[:, None], [WIDTH])
        p_t = wrapped(vector(0.5 + speed * t), vector(v + g**2 * t)[:, None], [WIDTH])
        p = last(solve_fokker_planck(sde, p_0, grid, time_grid(0.0, t, n)))
        errors.append(l1(p, grid.average(p_t), grid))
    assert_second_order(counts, errors)
    assert errors[-1] < 2e-3


@pytest.mark.parametrize("periodic", [(True, True), (True, False), (False, True)])
def test_order_on_a_torus_and_on_tubes(periodic: tuple[bool, bool]) -> None:
    """Carried round the periodic axes, pulled to the middle of an open one."""
    A = torch.diag(vector(*(0.0 if p else -1.0 for p in periodic)))
    push, g = vector(*(1.5 if p else 0.4 for p in periodic)), 1.4 * GAIN
    mean = [2.5 if p else 0.3 for p in periodic]
    start = GaussianMixture([1.0], [mean], [[[0.3, 0.05], [0.05, 0.4]]])
    law = transported(start, A, g, 0.6, push).component_distribution
    lengths = [WIDTH if p else 0.0 for p in periodic]
    p_0 = wrapped(start.means[0], start.covariances[0], lengths)
    p_t = wrapped(law.mean[0], law.covariance_matrix[0], lengths)
    box = [math.pi if p else 4.5 for p in periodic]
    counts, errors = [40, 52, 64, 80], []
    for n in counts:
        cells = [n if p else n + n // 4 for p in periodic]
        grid = Grid([-b for b in box], box, cells, periodic)
        times = time_grid(0.0, 0.6, n // 4)
        p = last(solve_fokker_planck(linear(A, g, push), p_0, grid, times))
        errors.append(l1(p, grid.average(p_t), grid))
    assert_second_order(counts, errors)


def test_a_rotated_ring_gives_the_rotated_density() -> None:
    """No cell of a ring is special, nor is an axis of a torus."""
    n = 12
    grid = Grid((0.0, 0.0), (WIDTH, WIDTH), (n, n), True)
    p_0 = torch.rand(n, n, generator=torch.Generator().manual_seed(2)).double()
    p_0 = p_0 / grid.mass(p_0)
    sde = SDE(lambda x, t: PUSH.expand_as(x), lambda t: GAIN, autonomous=True)
    p = last(solve_fokker_planck(sde, p_0, grid, [0.0, 0.1, 0.2]))
    rolled = last(
        solve_fokker_planck(sde, p_0.roll((5, 3), (0, 1)), grid, [0.0, 0.1, 0.2])
    )
    torch.testing.assert_close(rolled, p.roll((5, 3), (0, 1)), rtol=1e-11, atol=1e-14)


# Steps


def crank_nicolson(A: np.ndarray, tau: float, p: np.ndarray) -> np.ndarray:
    I = np.eye(len(A))  # noqa: E741
    return np.linalg.solve(I - tau / 2 * A, (I + tau / 2 * A) @ p)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_step_on_the_line_is_crank_nicolson(periodic: bool) -> None:
    grid, tau = Grid(-3.0, 3.0, 40, periodic), 0.05
    sde = SDE(lambda x, t: torch.sin(x) - t * x, lambda t: 0.9 + t)
    p_0 = grid.average(density(noised(G1D, 0.5, 0.4)))
    p = last(solve_fokker_planck(sde, p_0, grid, [0.3, 0.3 + tau], mass_tolerance=1e-3))
    A = generator_matrix(sde, grid, 0.3 + tau / 2).toarray()
    truth = crank_nicolson(A, tau, p_0.numpy())
    np.testing.assert_allclose(p.numpy(), truth, rtol=0, atol=1e-13)


def test_a_step_in_the_plane_is_a_strang_splitting() -> None:
    """Half a step along one axis, a whole one along the other, half a step again."""
    tau, g = 0.1, torch.diag(vector(0.8, 1.3))
    grid = Grid((-3.0, -4.0), (3.0, 4.0), (14, 17))
    sde = SDE(lambda x, t: torch.sin(x + x.flip(1)) - x, lambda t: g, autonomous=True)
    p_0 = grid.average(lambda x: torch.exp(-0.5 * x.square().sum(1)) / WIDTH)
    A = generator_matrix(sde, grid).toarray()
    index = np.arange(14 * 17)
    parts = []
    for same in (index // 17, index % 17):  # jumps that keep the other coordinate
        part = np.where(same[:, None] == same[None, :], A, 0.0)
        part -= np.diag(np.diag(part))
        parts.append(part - np.diag(part.sum(0)))
    np.testing.assert_allclose(sum(parts), A, atol=1e-12)
    got = last(solve_fokker_planck(sde, p_0, grid, [0.0, tau], 1e-2, math.inf))
    gaps = []
    for outer, inner in (parts, parts[::-1]):
        p = crank_nicolson(outer, tau / 2, p_0.numpy().ravel())
        p = crank_nicolson(inner, tau, p)
        p = crank_nicolson(outer, tau / 2, p)
        gaps.append(np.abs(p - got.numpy().ravel()).max())
    assert min(gaps) < 1e-13 < 1e-6 < max(gaps)  # the order of the axes is free


def test_coefficients_are_taken_in_the_middle_of_every_step() -> None:
    asked: list[float] = []

    def drift(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t))
        return -x

    grid, p_0 = line(100), path_density(G1D, OU, 0.5)
    sde = SDE(drift, lambda t: 1.0)
    last(solve_fokker_planck(sde, p_0, grid, [0.0, 0.02, 0.06]))
    assert asked == pytest.approx([0.01, 0.04])
    asked.clear()
    sde = SDE(drift, lambda t: 1.0, autonomous=True)
    p = last(solve_fokker_planck(sde, p_0, grid, [0.0, 0.02, 0.06]))
    assert len(asked) == 1
    again = SDE(drift, lambda t: 1.0)
    q = last(solve_fokker_planck(again, p_0, grid, [0.0, 0.02, 0.06]))
    torch.testing.assert_close(p, q, rtol=1e-13, atol=0)


def one_cell(grid: Grid, *cell: int) -> Tensor:
    """All mass in one cell."""
    p = torch.zeros(grid.shape, dtype=torch.float64)
    p[cell] = 1 / grid.volume
    return p


def test_a_step_below_the_limit_is_taken_whole_and_a_longer_one_in_halves() -> None:
    """The limit is 2 / (rate at which the fullest cell is left)."""
    grid, sde = line(41, 3.0), langevin(lambda x: -x)
    A = generator_matrix(sde, grid).toarray()
    p_0, limit = one_cell(grid, 20), 2 / -A[20, 20]
    for factor in (0.6, 0.98):
        p = last(solve_fokker_planck(sde, p_0, grid, [0.0, factor * limit]))
        truth = crank_nicolson(A, factor * limit, p_0.numpy())
        assert truth.min() >= 0
        np.testing.assert_allclose(p.numpy(), truth, rtol=0, atol=1e-12)
    # 1.9 limits would go negative, so it is two steps of .95
    tau = 2.5 * limit
    assert crank_nicolson(A, tau, p_0.numpy()).min() < 0
    assert crank_nicolson(A, tau / 2, p_0.numpy()).min() >= 0
    p = last(solve_fokker_planck(sde, p_0, grid, [0.0, tau]))
    halves = crank_nicolson(A, tau / 2, crank_nicolson(A, tau / 2, p_0.numpy()))
    np.testing.assert_allclose(p.numpy(), halves, rtol=0, atol=1e-12)


def test_a_step_taken_in_halves_asks_for_the_coefficients_of_each_half() -> None:
    grid, sde = line(41, 3.0), SDE(lambda x, t: -x * (1 + 9 * t), lambda t: 1 + t)
    p_0 = one_cell(grid, 20)
    coarse, fine = (
        last(solve_fokker_planck(sde, p_0, grid, times))
        for times in ([0.0, 0.1], [0.0, 0.05, 0.1])
    )
    A = generator_matrix(sde, grid, 0.05).toarray()
    assert crank_nicolson(A, 0.1, p_0.numpy()).min() < 0
    torch.testing.assert_close(coarse, fine, rtol=1e-12, atol=0)


def test_every_time_has_its_density_and_nothing_is_changed_in_place() -> None:
    grid = line(60)
    p_0 = grid.average(path_density(G1D, OU, 0.3))
    kept = p_0.clone()
    states = list(solve_fokker_planck(forward(OU), p_0, grid, [0.0, 0.1, 0.3, 1.0]))
    copies = [p.clone() for p in solve_fokker_planck(
        forward(OU), p_0, grid, [0.0, 0.1, 0.3, 1.0])]  # fmt: skip
    assert len(states) == 4
    assert torch.equal(states[0], p_0)
    assert torch.equal(p_0, kept)
    assert all(p.dtype == torch.float64 and p.shape == (60,) for p in states)
    assert all(torch.equal(a, b) for a, b in zip(states, copies, strict=True))
    # each time's density belongs to that time
    for p, t in zip(states, [0.0, 0.1, 0.3, 1.0], strict=True):
        alpha = math.exp(-0.8 * t)
        mean = float((p * grid.centers[:, 0]).sum()) * grid.volume
        start = float((p_0 * grid.centers[:, 0]).sum()) * grid.volume
        assert mean == pytest.approx(alpha * start, abs=2e-3)


# Positive, and of mass 1


def settings(count: int) -> Iterator[tuple[SDE, Grid, Tensor, Tensor]]:
    """Random drifts of any strength, noise, grids, starts and steps, far and near."""
    rng = np.random.default_rng(11)
    for k in range(count):
        dim = 1 + k % 2
        cells = tuple(rng.integers(5, 60 if dim == 1 else 11, dim).tolist())
        periodic = tuple((rng.random(dim) < 0.4).tolist())
        low, high = (-2.0,) * dim, (2.0,) * dim
        grid = Grid(low, high, cells, periodic)
        strength = 10 ** rng.uniform(-1, 2.5)  # cell Péclet numbers up to thousands
        M = torch.from_numpy(rng.normal(size=(dim, dim)))
        kind = k // 2 % 3

        def drift(x: Tensor, t: Tensor, M=M, kind=kind, size=strength) -> Tensor:
            y = x @ M.mT
            field = (torch.sin(3 * y + t), -y, y - y**3)[kind]
            return size * field

        g = torch.from_numpy(np.eye(dim) + 0.3 * rng.normal(size=(dim, dim)))
        sde = SDE(drift, lambda t, g=g: (1 + 0.1 * torch.sin(t)) * g)
        start = k // 6 % 3
        p_0 = torch.rand(cells, generator=torch.Generator().manual_seed(k)).double()
        if start == 0:
            p_0 = one_cell(grid, *rng.integers(0, cells).tolist())
        elif start == 1:
            p_0 = p_0**30
        p_0 = p_0 / grid.mass(p_0)
        steps = int(rng.integers(1, 5))
        stop = 10 ** rng.uniform(-4, 0)
        times = time_grid(0.0, stop, steps)
        yield sde, grid, p_0, times.flip(0) if k % 4 == 3 else times


def test_mass_is_kept_and_no_density_is_negative_whatever_is_asked() -> None:
    refusals = []
    for sde, grid, p_0, times in settings(30):
        try:
            for p in solve_fokker_planck(sde, p_0, grid, times, wall_mass=math.inf):
                assert float(p.min()) >= 0
                assert abs(grid.mass(p) - 1) < 1e-12
        except ValueError as error:
            refusals.append(str(error))
    assert all(words.startswith("times are too far apart") for words in refusals)
    assert len(refusals) < 6


def test_a_step_of_thousands_of_smaller_ones_is_refused() -> None:
    # cells are left up to 10⁴ times in a unit of time
    sde = SDE(lambda x, t: -1e3 * x, lambda t: 1.0, autonomous=True)
    grid, uniform = line(61, 2.0), torch.full((61,), 0.25, dtype=torch.float64)
    states = solve_fokker_planck(sde, uniform, grid, [0.0, 1e4], wall_mass=math.inf)
    with pytest.raises(ValueError, match="times are too far apart: from 0 to 10000"):
        list(states)


def test_mass_is_kept_over_thousands_of_steps() -> None:
    grid, times = line(200), time_grid(0.0, 2.0, 2000)
    for p in solve_fokker_planck(forward(OU), path_density(G1D, OU, 0.0), grid, times):
        assert float(p.min()) >= 0
    start = grid.mass(grid.average(path_density(G1D, OU, 0.0)))
    assert abs(grid.mass(p) - start) < 1e-12


def test_a_density_too_small_for_float64_stays_zero() -> None:
    # far tails underflow: 1e-320 has no digits left to subtract
    grid = line(400, 40.0)
    p_0 = density(noised(G1D, 1.0, 0.0))
    for p in solve_fokker_planck(
        langevin(lambda x: -9 * x), p_0, grid, [0.0, 1e-3, 0.1]
    ):
        assert float(p.min()) >= 0
        assert grid.mass(p) == pytest.approx(1, abs=1e-6)


# Stationary laws


def double_well(x: Tensor) -> Tensor:
    """log π up to a constant: wells at ±1 on every axis, tilted along the first."""
    return -2 * ((x**2 - 1) ** 2).sum(-1) + 0.5 * x[..., 0]


def gibbs(log_pi, grid: Grid) -> Tensor:
    """π at the centres of the cells, with mass 1."""
    pi = log_pi(grid.centers).exp()
    return pi / grid.mass(pi)


def overdamped(log_pi, G: Tensor) -> SDE:
    """dx = ½ G ∇log π dt + g dw."""
    g = torch.linalg.cholesky(G)

    def drift(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            return 0.5 * gradient(log_pi, x) @ G

    return SDE(drift, lambda t: g, autonomous=True)


WELLS = [
    pytest.param(line(60, 2.5), torch.eye(1).double(), id="line"),
    pytest.param(line(61, 2.5), 0.4 * torch.eye(1).double(), id="less noise"),
    pytest.param(square(30, 2.5), torch.eye(2).double(), id="plane"),
    pytest.param(
        Grid((-2.5, -2.4), (2.5, 2.4), (30, 26)), GAIN @ GAIN.mT, id="full matrix"
    ),
]


@pytest.mark.parametrize(("grid", "G"), WELLS)
def test_the_stationary_state_of_a_double_well_is_the_gibbs_density(
    grid: Grid, G: Tensor
) -> None:
    sde, pi = overdamped(double_well, G), gibbs(double_well, grid)
    torch.testing.assert_close(stationary_density(sde, grid), pi, rtol=0, atol=1e-10)
    # the middle cells of the wall have less than 1e-10 of the mass
    kept = last(solve_fokker_planck(sde, pi, grid, [0.0, 0.01, 0.5]))
    torch.testing.assert_close(kept, pi, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("grid", "G"),
    [
        pytest.param(line(60, 2.5), torch.eye(1).double(), id="line"),
        pytest.param(square(16, 2.5), EYE, id="plane"),
        pytest.param(square(14, 2.5), GAIN @ GAIN.mT + 0.5 * EYE, id="full matrix"),
    ],
)
def test_time_steps_end_in_the_gibbs_density(grid: Grid, G: Tensor) -> None:
    def shallow(x: Tensor) -> Tensor:
        return 0.3 * double_well(x)

    pi = gibbs(shallow, grid)
    uniform = torch.full_like(pi, 1 / (pi.numel() * grid.volume))
    run = solve_fokker_planck(
        overdamped(shallow, G), uniform, grid, time_grid(0.0, 90.0, 600), 1e-6, math.inf
    )
    torch.testing.assert_close(last(run), pi, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("grid", "G"), WELLS)
def test_the_chain_is_in_detailed_balance_with_the_gibbs_density(
    grid: Grid, G: Tensor
) -> None:
    pi = gibbs(double_well, grid).numpy().ravel()
    flow = generator_matrix(overdamped(double_well, G), grid).toarray() * pi
    np.testing.assert_allclose(flow, flow.T, rtol=1e-9, atol=1e-13 * np.abs(flow).max())


def test_langevin_has_the_mixture_as_its_stationary_density() -> None:
    # a score that is no polynomial is integrated with an error of order h⁸
    sde, grid = langevin(G3.score), square(100, 4.5)
    pi = gibbs(noised(G3, 1.0, 0.0).log_prob, grid)
    torch.testing.assert_close(stationary_density(sde, grid), pi, rtol=0, atol=1e-6)


def test_the_stationary_gaussian_of_a_rotating_drift() -> None:
    """No potential: A P + P Aᵀ + G = 0 by SciPy, to second order."""
    A = torch.tensor([[-1.0, 2.0], [-2.0, -1.5]]).double()
    P = scipy.linalg.solve_continuous_lyapunov(A.numpy(), -(GAIN @ GAIN.mT).numpy())
    law = MultivariateNormal(torch.zeros(2).double(), torch.from_numpy(P))
    counts, errors = [36, 48, 60, 84], []
    for n in counts:
        grid = square(n, 3.5)
        p = stationary_density(linear(A, GAIN), grid)
        assert grid.mass(p) == pytest.approx(1, abs=1e-12)
        errors.append(l1(p, grid.average(density(law)), grid))
    assert_second_order(counts, errors)


def test_the_stationary_current_on_a_ring() -> None:
    """p(x) ∝ ∫₀^L e^{Φ(x) − Φ(x + y)} dy with Φ' = 2f/g², by quadrature."""
    g, L = 0.8, WIDTH

    def phi(x: float) -> float:
        return 2 / g**2 * (0.5 * x + 0.6 * math.sin(x) - 0.3 * math.cos(2 * x))

    sde = SDE(
        lambda x, t: 0.5 + 0.6 * torch.cos(x) + 0.6 * torch.sin(2 * x), lambda t: g
    )

    def truth(x: float) -> float:
        return scipy.integrate.quad(
            lambda y: math.exp(phi(x) - phi(x + y)), 0, L, epsabs=0, epsrel=1e-10
        )[0]

    counts, errors = [30, 60, 120, 240], []
    for n in counts:
        grid = Grid(0.0, L, n, periodic=True)
        exact = torch.tensor([truth(x) for x in grid.centers[:, 0].tolist()]).double()
        exact = exact / grid.mass(exact)
        errors.append(l1(stationary_density(sde, grid), exact, grid))
    assert_second_order(counts, errors)
    assert errors[-1] < 1e-3


def test_a_constant_drift_on_a_torus_leaves_the_uniform_law() -> None:
    grid = Grid((0.0, 0.0), (1.0, 2.0), (8, 12), True)
    sde = SDE(lambda x, t: PUSH.expand_as(x), lambda t: GAIN)
    p = stationary_density(sde, grid)
    torch.testing.assert_close(p, torch.full_like(p, 0.5), rtol=1e-11, atol=0)


def test_stationary_density_takes_the_coefficients_at_the_given_time() -> None:
    sde = SDE(lambda x, t: -t * x, lambda t: 1.0)
    for t in (0.5, 2.0):
        grid = line(80)
        pi = gibbs(lambda x, t=t: -t * x[..., 0] ** 2, grid)
        got = stationary_density(sde, grid, t)
        torch.testing.assert_close(got, pi, rtol=0, atol=1e-12)


def test_stationary_density_of_wells_that_do_not_communicate_is_refused() -> None:
    deep = overdamped(lambda x: 60 * double_well(x), torch.eye(2).double())
    with pytest.raises(ValueError, match="grid has parts that hardly exchange mass"):
        stationary_density(deep, square(30, 2.5))


@pytest.mark.parametrize(("grid", "G"), WELLS)
def test_kl_to_the_stationary_law_never_increases(grid: Grid, G: Tensor) -> None:
    sde, pi = overdamped(double_well, G), gibbs(double_well, grid)
    p_0 = one_cell(grid, *(n // 3 for n in grid.shape))
    times = time_grid(0.0, 20.0, 100, power=3.0)
    kl = [
        grid_kl(p, pi, grid.volume) for p in solve_fokker_planck(sde, p_0, grid, times)
    ]
    assert kl[0] > 1
    assert kl[-1] < 0.3 * kl[0]
    assert all(later <= earlier + 1e-13 for earlier, later in pairwise(kl))


def test_the_decay_of_kl_is_the_relative_fisher_information() -> None:
    """d/dt KL(p_t‖π) = −½ ∫ p g² ‖∇log(p/π)‖², of Gaussians (de Bruijn)."""
    beta, g, v, mean = 0.8, 1.1, 0.3, 1.0
    stationary = g**2 / (2 * beta)
    grid = line(1000)
    pi = grid.average(density(on_the_line(0.0, stationary)))
    p_0 = density(on_the_line(mean, v))
    p = list(solve_fokker_planck(forward(OU), p_0, grid, [0.0, 1e-3, 2e-3]))
    slope = (grid_kl(p[2], pi, grid.volume) - grid_kl(p[0], pi, grid.volume)) / 2e-3
    t = 1e-3
    m_t = math.exp(-beta * t) * mean
    v_t = math.exp(-2 * beta * t) * (v - stationary) + stationary
    # ∇log(p/π) = −(x − m)/v + x/s, of mean m/s and variance v (1/s − 1/v)²
    information = (m_t / stationary) ** 2 + v_t * (1 / stationary - 1 / v_t) ** 2
    assert slope == pytest.approx(-0.5 * g**2 * information, rel=1e-4)


# Particles


@pytest.mark.parametrize("backwards", [False, True])
def test_particles_have_the_moments_of_the_density(backwards: bool) -> None:
    """A nonlinear drift that depends on time, simulated in the same clock."""
    sign = -1.0 if backwards else 1.0
    sde = SDE(
        lambda x, t: sign * (torch.sin(2 * x) * (1 + t) - x), lambda t: 0.5 + 0.5 * t
    )
    ends = (1.0, 0.0) if backwards else (0.0, 1.0)
    p = last(
        solve_fokker_planck(
            sde, density(noised(G1D, 1.0, 0.0)), line(400), time_grid(*ends, 100)
        )
    )
    g = torch.Generator().manual_seed(5)
    x = G1D.sample(40_000, g)
    x = last(euler_maruyama(sde, x, time_grid(*ends, 200), g))
    grid, centers = line(400), line(400).centers
    for statistic in (torch.cos, torch.square, lambda x: torch.sin(2 * x + 0.5)):
        truth = float((statistic(centers)[:, 0] * p).sum()) * grid.volume
        assert_mean(statistic(x), truth, allowance=4e-3)  # 200 steps of weak order 1


# Richardson


def richardson_errors(
    sde, p_0, exact, grids: Sequence[Grid], steps: Sequence[int]
) -> list[float]:
    errors = []
    for grid, n in zip(grids, steps, strict=True):
        p = last(richardson(sde, p_0, grid, time_grid(0.0, 0.5, n)))
        assert float(p.min()) >= 0
        errors.append(l1(p, grid.average(exact), grid))
    return errors


def test_richardson_is_of_order_four_on_the_line() -> None:
    counts = [60, 90, 120, 180, 240]
    errors = richardson_errors(
        forward(OU),
        path_density(G1D, OU, 0.1),
        path_density(G1D, OU, 0.6),
        [line(n, 8.0) for n in counts],
        [n // 6 for n in counts],
    )
    assert order(counts, errors) == pytest.approx(4, abs=0.3)
    assert errors[-1] < 2e-6


def test_richardson_is_of_order_four_in_the_plane_and_with_time() -> None:
    path = VariancePreserving(0.5, 3.0)
    smooth = GaussianMixture(
        [0.6, 0.4],
        [[-0.8, 0.0], [0.7, 0.5]],
        0.4 * torch.eye(2).expand(2, 2, 2).double(),
    )
    counts = [24, 32, 40, 56]
    errors = richardson_errors(
        forward(path),
        path_density(smooth, path, 0.0),
        path_density(smooth, path, 0.5),
        [square(n, 5.0) for n in counts],
        [n // 8 for n in counts],
    )
    assert order(counts, errors) == pytest.approx(4, abs=0.3)


def test_richardson_keeps_mass_and_follows_the_times_it_is_given() -> None:
    grid, times = line(120), [0.1, 0.15, 0.3, 0.6]
    p_0 = path_density(G1D, OU, 0.1)
    states = list(richardson(forward(OU), p_0, grid, times))
    assert len(states) == 4
    for p, t in zip(states, times, strict=True):
        assert float(p.min()) >= 0
        assert grid.mass(p) == pytest.approx(grid.mass(states[0]), abs=1e-12)
        assert l1(p, grid.average(path_density(G1D, OU, t)), grid) < 2e-3


def test_richardson_extrapolates_the_logarithms_of_two_runs() -> None:
    grid, times = line(60), [0.0, 0.02, 0.04]
    fine_times = [0.0, 0.01, 0.02, 0.03, 0.04]
    p_0 = path_density(G1D, OU, 0.3)
    got = torch.stack(list(richardson(forward(OU), p_0, grid, times)))
    coarse = torch.stack(list(solve_fokker_planck(forward(OU), p_0, grid, times)))
    fine = solve_fokker_planck(forward(OU), p_0, line(120), fine_times)
    fine = torch.stack(list(fine))
    pairs = fine[::2].reshape(3, 60, 2).mean(2)
    shape = ((4 * pairs.log() - coarse.log()) / 3).exp()
    shape = shape / shape.sum(1, keepdim=True) * coarse.sum(1, keepdim=True)
    # averages by 4 nodes and by pairs of 4 differ in the tails, far below the peak
    torch.testing.assert_close(got, shape, rtol=0, atol=1e-11)


# The walls


def test_mass_that_gathers_at_a_wall_is_refused_and_said() -> None:
    away = SDE(lambda x, t: torch.full_like(x, 3.0), lambda t: 0.5)
    start = density(noised(G1D, 0.3, 0.3))
    states = solve_fokker_planck(away, start, line(120, 4.0), time_grid(0.0, 2.0, 40))
    with pytest.raises(ValueError, match=r"grid is too small: at t = 0\.\d+ the cells"):
        list(states)
    # in the middle of a ring it would go round
    ring = Grid(-4.0, 4.0, 120, periodic=True)
    p = last(solve_fokker_planck(away, start, ring, time_grid(0.0, 2.0, 40)))
    assert ring.mass(p) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("end", [0, -1])
def test_every_wall_of_the_plane_is_watched_and_no_joint(axis: int, end: int) -> None:
    sde = SDE(lambda x, t: 0 * x, lambda t: 1.0)
    cell = [5, 5]
    cell[axis] = end
    for periodic in product([False, True], repeat=2):
        grid = Grid((0.0, 0.0), (1.0, 1.0), (11, 11), periodic)
        states = solve_fokker_planck(sde, one_cell(grid, *cell), grid, [0.0, 1e-5])
        if periodic[axis]:
            assert grid.mass(next(states)) == pytest.approx(1)
        else:
            with pytest.raises(
                ValueError, match="cells along its walls hold the mass 1"
            ):
                next(states)


def test_walls_that_are_meant_keep_the_mass_in() -> None:
    # on [0, 1] with walls: p = 1 + Σ 2 cos(kπx) cos(kπx_0) e^{−½k²π²g²t}
    grid, x_0, t = Grid(0.0, 1.0, 200), 0.3, 0.05
    k = torch.arange(1, 60, dtype=torch.float64)

    def reflected(t: float):
        def p(x: Tensor) -> Tensor:
            waves = torch.cos(k * math.pi * x) * torch.cos(k * math.pi * x_0)
            return 1 + 2 * (waves * torch.exp(-0.5 * (k * math.pi) ** 2 * t)).sum(1)

        return p

    sde = SDE(lambda x, t: 0 * x, lambda t: 1.0, autonomous=True)
    times = time_grid(0.0, t, 100)
    p = last(solve_fokker_planck(sde, reflected(0.01), grid, times, wall_mass=math.inf))
    exact = grid.average(reflected(0.01 + t))
    torch.testing.assert_close(p, exact, rtol=0, atol=1e-4)
