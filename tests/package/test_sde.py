"""SDEs and solvers against Fokker–Planck, moment equations and orders of convergence.

A solver's step on a linear SDE is an affine map x → A x + B z. Two runs with the same
noise give A exactly, a run from 0 with known noise gives B, and the mean and variance
of the discrete chain follow without sampling error.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from torch import Tensor

from diffedu.losses import gaussian, rademacher
from diffedu.metrics import Estimate, convergence_order
from diffedu.mixture import GaussianMixture, three_gaussians, three_gaussians_1d
from diffedu.path import (
    GaussianPath,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from diffedu.sde import (
    SDE,
    BrownianPath,
    MultiplicativeSDE,
    brownian_path,
    divergence,
    euler_maruyama,
    forward,
    heun,
    langevin,
    log_likelihood,
    milstein,
    reverse,
)
from tests.package.oracles import (
    assert_mean,
    derivative,
    gradient,
    hessian,
    jacobian,
    linear_transition,
    noised,
    order,
    products,
    random_mixture,
)

ETAS = [0.0, 0.3, 1.0, 2.0]
SOLVERS = [euler_maruyama, heun]
either_solver = pytest.mark.parametrize("solver", SOLVERS)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def end(states) -> Tensor:
    *_, x = states
    return x


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step_map(solver, sde: SDE, t: float, s: float) -> tuple[float, float]:
    """(A, B) of one step t → s of a linear SDE on the line, x → A x + B z."""
    unit = SDE(lambda x, t: torch.zeros_like(x), torch.ones_like)
    z = end(euler_maruyama(unit, column(0.0), [0.0, 1.0], seeded()))
    from_zero = end(solver(sde, column(0.0), [t, s], seeded()))
    from_one = end(solver(sde, column(1.0), [t, s], seeded()))
    return float(from_one - from_zero), float(from_zero / z)


def moments(
    solver, sde: SDE, times: Tensor, mean: float, variance: float
) -> tuple[float, float]:
    """Exact mean and variance of the discrete chain of a linear SDE on the line."""
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        A, B = step_map(solver, sde, t, s)
        mean, variance = A * mean, A**2 * variance + B**2
    return mean, variance


# Solvers


@either_solver
def test_the_start_is_yielded_first_and_then_a_state_per_step(solver) -> None:
    sde, x = forward(OrnsteinUhlenbeck()), torch.ones(3, 2)
    states = list(solver(sde, x, [0.0, 0.1, 0.3, 1.0], seeded()))
    assert len(states) == 4
    assert torch.equal(states[0], x)
    assert torch.equal(x, torch.ones(3, 2))  # not changed in place
    again = list(solver(sde, x, [0.0, 0.1, 0.3, 1.0], seeded()))
    assert all(torch.equal(a, b) for a, b in zip(states, again, strict=True))


@either_solver
def test_a_pure_noise_step_has_variance_g_squared_h(solver) -> None:
    sde = SDE(lambda x, t: torch.zeros_like(x), lambda t: torch.tensor(1.7).double())
    n = 40_000
    for times in ([0.5, 0.7, 1.5], [1.5, 0.7, 0.5]):  # the arrow of time is immaterial
        a, b, c = solver(sde, torch.zeros(n, 1).double(), times, seeded(3))
        first, second = b - a, c - b
        h = [abs(times[1] - times[0]), abs(times[2] - times[1])]
        assert_mean(first, 0.0)
        assert_mean(first**2, 1.7**2 * h[0])
        assert_mean(second**2, 1.7**2 * h[1])
        assert_mean(first * second, 0.0)  # independent increments
        assert_mean(first[: n // 2] * first[n // 2 :], 0.0)  # independent points


def test_euler_maruyama_evaluates_at_the_start_of_each_step() -> None:
    # dx = t dt + t dw gives the left Riemann sums of ∫t and ∫t²
    sde = SDE(lambda x, t: torch.ones_like(x) * t, lambda t: t)
    times = [0.5, 0.8, 1.4]
    n = 40_000
    x = end(euler_maruyama(sde, torch.zeros(n, 1).double(), times, seeded()))
    assert_mean(x, 0.5 * 0.3 + 0.8 * 0.6)
    assert_mean(products(x)[:, 0], 0.5**2 * 0.3 + 0.8**2 * 0.6)


def test_heun_averages_over_both_ends_of_each_step() -> None:
    # the trapezoidal sum of ∫t², which is ½(t² + s²)(s − t); the noise by ((t + s)/2)²
    sde = SDE(lambda x, t: torch.ones_like(x) * t**2, lambda t: t)
    n = 40_000
    x = end(heun(sde, torch.zeros(n, 1).double(), [0.5, 1.5], seeded()))
    assert_mean(x, 0.5 * (0.5**2 + 1.5**2))
    assert_mean(products(x)[:, 0], 1.0)


@pytest.mark.parametrize(("solver", "expected"), [(euler_maruyama, 1), (heun, 2)])
@pytest.mark.parametrize("backwards", [False, True])
def test_order_on_a_nonlinear_ode(solver, expected: int, backwards: bool) -> None:
    # dx/dt = −2 t x², x = 1/(t² + c), in both directions of time
    ode = SDE(lambda x, t: -2 * t * x**2)
    t, s = (2.0, 0.2) if backwards else (0.2, 2.0)
    x = 1 / (t**2 + column(1.0, 2.0))
    truth = 1 / (s**2 + column(1.0, 2.0))
    counts = [40, 80, 160, 320]
    errors = [
        float((end(solver(ode, x, time_grid(t, s, n))) - truth).abs().max())
        for n in counts
    ]
    assert order(counts, errors) == pytest.approx(expected, abs=0.1)


LINEAR = [
    pytest.param(OrnsteinUhlenbeck(0.8, 1.1), 1.0, id="OU"),
    pytest.param(VariancePreserving(0.1, 4.0), 1.0, id="VP"),
    pytest.param(VarianceExploding(0.3, 3.0), 1.0, id="VE"),
    pytest.param(Straight(), 0.5, id="Straight"),
]


@pytest.mark.parametrize(("solver", "expected"), [(euler_maruyama, 1), (heun, 2)])
@pytest.mark.parametrize(("path", "stop"), LINEAR)
def test_weak_order_of_the_forward_sde(
    solver, expected: int, path: GaussianPath, stop: float
) -> None:
    alpha, variance = float(path.alpha(stop)), float(path.variance(stop))
    counts = [8, 16, 32, 64]
    errors = []
    for n in counts:
        got = moments(solver, forward(path), time_grid(0.0, stop, n), 1.7, 0.3)
        truth = (alpha * 1.7, alpha**2 * 0.3 + variance)
        errors.append(max(abs(a - b) for a, b in zip(got, truth, strict=True)))
    # the next term of the expansion bends the line a little at 8 steps
    assert order(counts, errors) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize(("solver", "expected"), [(euler_maruyama, 1), (heun, 2)])
@pytest.mark.parametrize("eta", ETAS)
def test_weak_order_of_the_reverse_family_on_a_gaussian(
    solver, expected: int, eta: float
) -> None:
    """From N(0, α²v + σ²) at t = .9 back to t = .1, for every η."""
    path, v = OrnsteinUhlenbeck(0.8, 1.1), 0.4

    def law(t: float) -> float:
        return float(path.alpha(t)) ** 2 * v + float(path.variance(t))

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x / law(float(t))

    sde = reverse(forward(path), score, eta)
    counts = [8, 16, 32, 64]
    errors = []
    for n in counts:
        _, variance = moments(solver, sde, time_grid(0.9, 0.1, n), 0.0, law(0.9))
        errors.append(abs(variance - law(0.1)))
    assert order(counts, errors) == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize(("solver", "least"), [(euler_maruyama, 0.9), (heun, 0.9)])
def test_strong_order_is_one_when_the_noise_has_no_state_in_it(
    solver, least: float
) -> None:
    """Runs with different steps on one Brownian path, against the exact solution there.

    x_1 = e^{−β} x_0 + ∫ g e^{−β(1−u)} dw, the integral as a sum over 2¹² intervals;
    its error, 2⁻¹² of the noise, is far below those measured.
    """
    path, n, fine = OrnsteinUhlenbeck(0.8, 1.1), 500, 4096
    dw = torch.randn(fine, n, 1, generator=seeded(), dtype=torch.float64) / fine**0.5
    w = torch.cat([torch.zeros(1, n, 1).double(), dw.cumsum(0)])
    middle = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine
    weight = 1.1 * torch.exp(-0.8 * (1 - middle))
    exact = math.exp(-0.8) * 1.7 + (weight[:, None, None] * dw).sum(0)

    def increment(t: Tensor, s: Tensor) -> Tensor:
        return w[round(float(s) * fine)] - w[round(float(t) * fine)]

    errors, counts = [], [8, 16, 32, 64]
    for steps in counts:
        x = torch.full((n, 1), 1.7, dtype=torch.float64)
        times = time_grid(0.0, 1.0, steps)
        got = end(solver(forward(path), x, times, increment=increment))
        errors.append(float((got - exact).square().mean().sqrt()))
    assert order(counts, errors) > least


@either_solver
def test_a_given_increment_takes_the_place_of_the_drawn_noise(solver) -> None:
    x, generator = torch.ones(4, 2, dtype=torch.float64), seeded(1)
    sde = SDE(lambda x, t: -x * t, lambda t: G)
    drawn = end(solver(sde, x, [0.2, 0.7], seeded()))
    z = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    before = generator.get_state()
    given = end(solver(sde, x, [0.2, 0.7], generator, lambda t, s: (s - t) ** 0.5 * z))
    torch.testing.assert_close(given, drawn)
    assert torch.equal(generator.get_state(), before)


@either_solver
def test_matrix_diffusion_gives_noise_of_covariance_g_g_transposed(solver) -> None:
    G = torch.tensor([[1.0, 0.0], [0.8, 0.3]]).double()
    sde = SDE(lambda x, t: torch.zeros_like(x), lambda t: G)
    x = end(solver(sde, torch.zeros(40_000, 2).double(), [0.2, 0.7], seeded()))
    assert_mean(products(x), 0.5 * torch.tensor([[1.0, 0.8], [0.8, 0.73]]).double())


@either_solver
def test_a_diffusion_given_as_a_plain_number_follows_the_points(solver) -> None:
    sde = SDE(lambda x, t: -x, lambda t: 0.5)
    x = end(solver(sde, torch.ones(3, 2), [0.0, 0.1], seeded()))
    assert x.dtype == torch.float32


def test_a_plain_number_keeps_the_digits_of_the_points() -> None:
    sde = SDE(lambda x, t: 0 * x, lambda t: 0.1)
    for eta in (None, 1.0):
        used = sde if eta is None else reverse(sde, lambda x, t: 0 * x, eta)
        noise = used.noise(column(0.0), torch.tensor(0.0), column(3.0))
        assert float(noise) == pytest.approx(0.3, rel=1e-15)


def test_the_noise_of_an_sde_is_g_times_the_increment() -> None:
    x, dw = torch.zeros(5, 2).double(), torch.randn(5, 2, generator=seeded()).double()
    t = torch.tensor(0.5).double()
    assert torch.equal(SDE(lambda x, t: x).noise(x, t, dw), torch.zeros_like(x))
    number = SDE(lambda x, t: x, lambda t: 3 * t).noise(x, t, dw)
    torch.testing.assert_close(number, 1.5 * dw)
    matrix = SDE(lambda x, t: x, lambda t: 2 * t * G).noise(x, t, dw)
    rows = [[sum(G[i, j] * w[j] for j in range(2)) for i in range(2)] for w in dw]
    torch.testing.assert_close(matrix, torch.tensor(rows, dtype=torch.float64))


def test_which_sdes_do_not_depend_on_time() -> None:
    assert forward(OrnsteinUhlenbeck()).autonomous
    assert not forward(VariancePreserving()).autonomous
    assert langevin(lambda x: -x).autonomous
    assert not SDE(lambda x, t: -x).autonomous
    for eta in (0.0, 1.0):
        sde = reverse(forward(OrnsteinUhlenbeck()), lambda x, t: -x, eta)
        assert not sde.autonomous


@pytest.mark.parametrize(("solver", "expected"), [(euler_maruyama, 1), (heun, 2)])
def test_weak_order_with_a_matrix(solver, expected: int) -> None:
    """Mean and covariance of the discrete chain against those by exponentials."""
    b = torch.tensor([0.5, -1.0]).double()
    sde = SDE(lambda x, t: x @ A.mT + b, lambda t: G)
    start, unit = torch.tensor([[1.0, -2.0]]).double(), torch.eye(2).double()
    flow, shift, spread = linear_transition(A, G, 1.0, b)
    mean = start @ flow.mT + shift
    covariance = flow @ P_0 @ flow.mT + spread
    counts, errors = [8, 16, 32, 64], []
    for n in counts:
        h = 1 / n

        def step(x: Tensor, dw: Tensor, h: float = h) -> Tensor:
            return end(solver(sde, x, [0.0, h], increment=lambda t, s: dw))

        zero = torch.zeros(2, 2).double()
        at_zero = step(zero, zero)
        M = (step(unit, zero) - at_zero).mT
        B = (step(zero, h**0.5 * unit) - at_zero).mT
        m, C = start, P_0
        for _ in range(n):
            m, C = m @ M.mT + at_zero[:1], M @ C @ M.mT + B @ B.mT
        gaps = [(m - mean).abs().max(), (C - covariance).abs().max()]
        errors.append(float(max(gaps)))
    assert order(counts, errors) == pytest.approx(expected, abs=0.15)


# Noise that depends on the state


def rates(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def geometric(mu: float, *volatility: float) -> MultiplicativeSDE:
    """dx_i = μ x_i dt + σ_i x_i dw_i."""
    sigma = rates(*volatility)
    return MultiplicativeSDE(lambda x, t: mu * x, lambda x, t: sigma * x)


def test_a_step_with_a_diagonal_and_with_a_matrix_per_point() -> None:
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    dw = torch.randn(5, 2, generator=seeded(1), dtype=torch.float64)
    t, s = 0.3, 0.8

    def drift(x: Tensor, t: Tensor) -> Tensor:
        return torch.cos(x) * (1 + t)

    def matrix(x: Tensor, t: Tensor) -> Tensor:
        u, v = x.unbind(1)
        return torch.stack([u * v, 0 * u + t, u.sin(), v**2], 1).reshape(-1, 2, 2)

    def diagonal(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x) + t

    for diffusion in (matrix, diagonal):
        sde = MultiplicativeSDE(drift, diffusion)
        got = end(euler_maruyama(sde, x, [t, s], increment=lambda t, s: dw))
        for k, ((u, v), (a, b)) in enumerate(zip(x.tolist(), dw.tolist(), strict=True)):
            if diffusion is matrix:
                noise = [u * v * a + t * b, math.sin(u) * a + v**2 * b]
            else:
                noise = [(math.sin(u) + t) * a, (math.sin(v) + t) * b]
            truth = [
                y + math.cos(y) * (1 + t) * (s - t) + g
                for y, g in zip((u, v), noise, strict=True)
            ]
            assert got[k].tolist() == pytest.approx(truth, rel=1e-12)


def test_drawn_noise_gives_geometric_brownian_motion_its_moments() -> None:
    """E x = (1 + μh)ⁿ x_0 and E x_i x_j = ((1 + μh)² + h g_i·g_j)ⁿ of the chain."""
    mu, n, h = 0.3, 10, 0.1
    g = torch.tensor([[0.4, 0.0], [0.2, 0.3]]).double()
    start = torch.ones(80_000, 2).double()
    both = MultiplicativeSDE(lambda x, t: mu * x, lambda x, t: x[:, :, None] * g)
    alone = geometric(mu, 0.4, 0.3)
    for sde, squares in ((both, g @ g.mT), (alone, torch.diag(rates(0.16, 0.09)))):
        x = end(euler_maruyama(sde, start, time_grid(0.0, n * h, n), seeded(3)))
        assert_mean(x, (1 + mu * h) ** n)
        second = ((1 + mu * h) ** 2 + h * squares) ** n
        assert_mean(x[:, :, None] * x[:, None, :], second)


def test_weak_order_of_euler_maruyama_with_multiplicative_noise() -> None:
    """E x_1² = e^{2μ + σ²}; increments ±√h have the moments that a step of the chain
    needs."""
    mu, sigma = 0.5, 0.8
    counts, errors = [8, 16, 32, 64], []
    for n in counts:
        dw = column(n**-0.5, -(n**-0.5))
        one = torch.ones(2, 1).double()
        x = end(
            euler_maruyama(
                geometric(mu, sigma),
                one,
                [0.0, 1 / n],
                increment=lambda t, s, dw=dw: dw,
            )
        )
        second = float(x.square().mean()) ** n
        errors.append(abs(second - math.exp(2 * mu + sigma**2)))
    assert order(counts, errors) == pytest.approx(1, abs=0.15)


def strong_errors(solver, sde, exact, x_0: Tensor, levels: int, n: int = 4000):
    """E|x̂_1 − x_1| on one set of Brownian paths, for 8, 16, … steps."""
    path = brownian_path([0.0, 1.0], n, x_0.shape[1], seeded(4))
    while len(path.times) < 8 * 2 ** (levels - 1) + 1:
        path = path.refined(seeded(len(path.times)))
    truth = exact(path.w[-1])
    steps, errors = [], []
    for k in range(levels):
        m = 8 * 2**k
        times = path.times[:: (len(path.times) - 1) // m]
        got = end(solver(sde, x_0.expand(n, -1), times, increment=path))
        error = (got - truth).abs().sum(1)
        steps.append(1 / m)
        mean, spread = float(error.mean()), float(error.std())
        errors.append(Estimate(mean, spread / math.sqrt(n)))
    return steps, errors


START = rates(1.0, 0.5)[None]


def sinh_and_geometric() -> tuple[MultiplicativeSDE, Callable[[Tensor], Tensor]]:
    """dx = .4 x dt + .7 x dw beside dx = ½ x dt + √(1 + x²) dw, and their solutions.

    x_1 = x_0 e^{.4 − .245 + .7w} and x_1 = sinh(arsinh x_0 + w).
    """

    def diffusion(x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([0.7 * x[:, 0], (1 + x[:, 1] ** 2).sqrt()], 1)

    def exact(w: Tensor) -> Tensor:
        first = START[0, 0] * torch.exp(0.4 - 0.5 * 0.49 + 0.7 * w[:, 0])
        second = torch.sinh(torch.asinh(START[0, 1]) + w[:, 1])
        return torch.stack([first, second], 1)

    return MultiplicativeSDE(lambda x, t: rates(0.4, 0.5) * x, diffusion), exact


@pytest.mark.parametrize(("solver", "expected"), [(euler_maruyama, 0.5), (milstein, 1)])
def test_strong_order_with_multiplicative_noise(solver, expected: float) -> None:
    sde, exact = sinh_and_geometric()
    slope = convergence_order(*strong_errors(solver, sde, exact, START, 6))
    assert slope.value == pytest.approx(expected, abs=0.15)
    assert slope.standard_error < 0.03


def test_strong_order_of_milstein_in_decreasing_times() -> None:
    # with u = −t: dx = −μ x du + σ x dw
    sde = geometric(0.4, 0.7)
    counts, errors = [8, 16, 32, 64, 128], []
    path = brownian_path(time_grid(0.0, 1.0, 128), 4000, 1, seeded(5))
    exact = torch.exp(-0.4 - 0.5 * 0.49 + 0.7 * path.w[-1])
    for n in counts:
        times = 1 - path.times[:: 128 // n]
        got = end(
            milstein(
                sde,
                torch.ones(4000, 1).double(),
                times,
                increment=lambda t, s: path(1 - t, 1 - s),
            )
        )
        errors.append(float((got - exact).abs().mean()))
    assert order(counts, errors) == pytest.approx(1, abs=0.15)


def test_a_step_of_milstein_by_hand() -> None:
    """g = t sin x has g g′ = t² sin x cos x; the mean of the correction is 0."""
    sde = MultiplicativeSDE(lambda x, t: t * x, lambda x, t: t * torch.sin(x))
    x = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    dw = torch.randn(4, 2, generator=seeded(1), dtype=torch.float64)
    for t, s in ((0.5, 0.8), (0.8, 0.5)):
        with torch.no_grad():
            got = end(milstein(sde, x, [t, s], increment=lambda t, s: dw))
        g, gg = t * torch.sin(x), t**2 * torch.sin(x) * torch.cos(x)
        correction = 0.5 * gg * (dw**2 - abs(s - t))
        torch.testing.assert_close(got, x + t * x * (s - t) + g * dw + correction)
        assert not got.requires_grad
    drawn = end(milstein(sde, torch.ones(40_000, 1).double(), [0.8, 0.5], seeded(2)))
    assert_mean(drawn, 1 - 0.8 * 0.3)


def test_milstein_is_euler_maruyama_where_the_noise_has_no_state_in_it() -> None:
    additive = MultiplicativeSDE(
        lambda x, t: torch.sin(x), lambda x, t: (1 + t) * torch.ones_like(x)
    )
    x, times = torch.ones(50, 2).double(), [0.0, 0.3, 0.5]
    a, b = (end(s(additive, x, times, seeded())) for s in (milstein, euler_maruyama))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_milstein_yields_the_start_and_every_state() -> None:
    x = torch.ones(3, 2).double()
    states = list(milstein(geometric(0.3, 0.4, 0.5), x, [0.0, 0.1, 0.3], seeded()))
    again = list(milstein(geometric(0.3, 0.4, 0.5), x, [0.0, 0.1, 0.3], seeded()))
    assert len(states) == 3
    assert torch.equal(states[0], torch.ones(3, 2).double())
    assert all(torch.equal(a, b) for a, b in zip(states, again, strict=True))


# Brownian paths


def test_brownian_paths_have_covariance_min_s_t() -> None:
    times = rates(0.5, 0.7, 1.2, 2.5)
    path = brownian_path(times, 40_000, 2, seeded(6))
    assert torch.equal(path.w[0], torch.zeros(40_000, 2).double())
    since = times - 0.5
    truth = torch.minimum(since[:, None], since[None, :])
    for i, j in ((1, 1), (1, 2), (2, 3), (3, 3)):
        products = path.w[i][:, :, None] * path.w[j][:, None, :]
        assert_mean(products, truth[i, j] * torch.eye(2).double())
    assert_mean(path.w[3], 0.0)
    with_few = brownian_path(times, 3, 2, seeded(), torch.float32)
    assert with_few.w.dtype == torch.float32


def test_increments_are_differences_of_values_and_add_up() -> None:
    times = time_grid(0.0, 1.0, 7)
    path = brownian_path(times, 5, 2, seeded())
    a, b, c = times[1], times[3], times[6]
    torch.testing.assert_close(path(a, b), path.w[3] - path.w[1])
    torch.testing.assert_close(path(a, b) + path(b, c), path(a, c))
    torch.testing.assert_close(path(b, a), -path(a, b))
    assert torch.equal(path.at(c), path.w[6])
    # the last digits of a time do not matter
    assert torch.equal(path.at(torch.tensor(3 / 7).double() + 1e-12), path.w[3])


def test_a_path_is_not_read_between_its_times_nor_backwards() -> None:
    path = brownian_path([0.0, 0.5, 1.0], 2, 1, seeded())
    for t in (0.25, 0.499, 1.001):
        with pytest.raises(ValueError, match="t must be one of the path's 3 times"):
            path.at(torch.tensor(t).double())
    with pytest.raises(ValueError, match="times must increase"):
        BrownianPath(path.times.flip(0), path.w)


def test_a_refined_path_keeps_its_values_and_bridges_between_them() -> None:
    """Given both ends the midpoint is N(½(w_t + w_s), ¼(s − t)), independently."""
    times = rates(0.0, 0.4, 2.0)
    path = brownian_path(times, 40_000, 1, seeded(7))
    fine = path.refined(seeded(8))
    torch.testing.assert_close(fine.times, rates(0.0, 0.2, 0.4, 1.2, 2.0))
    assert torch.equal(fine.w[::2], path.w)
    for k, h in ((0, 0.4), (1, 1.6)):
        middle = fine.w[2 * k + 1] - 0.5 * (path.w[k] + path.w[k + 1])
        assert_mean(middle, 0.0)
        assert_mean(middle**2, h / 4)
        assert_mean(middle * path(times[k], times[k + 1]), 0.0)
    # so that the increments of the refined path are those of Brownian motion
    steps = fine.w.diff(dim=0)
    assert_mean(steps[2] ** 2, 0.8)
    assert_mean(steps[2] * steps[3], 0.0)
    again = path.refined(seeded(8)).refined(seeded(9))
    assert torch.equal(again.w[::4], path.w)
    assert torch.equal(again.w[::2], fine.w)


def test_quadratic_variation_of_a_refined_path_tends_to_time() -> None:
    path = brownian_path([0.0, 2.0], 200, 1, seeded())
    for _ in range(8):
        path = path.refined(seeded(len(path.times)))
    # Σ Δw² over 256 steps has mean 2 and variance 2·4/256
    assert_mean(path.w.diff(dim=0).square().sum(0), 2.0)
    spread = path.w.diff(dim=0).square().sum(0).var()
    assert float(spread) == pytest.approx(2 * 4 / 256, rel=0.5)


def test_a_path_drives_two_step_sizes_by_the_same_noise() -> None:
    sde = SDE(lambda x, t: torch.zeros_like(x), lambda t: 2.0)
    path = brownian_path(time_grid(0.0, 1.0, 8), 5, 1, seeded())
    fine = path.refined(seeded(1))
    x = torch.zeros(5, 1).double()
    for used, times in ((path, path.times), (fine, fine.times), (fine, path.times)):
        got = end(euler_maruyama(sde, x, times, increment=used))
        torch.testing.assert_close(got, 2 * path.w[-1])


# The forward process and its reversal


def test_forward_is_the_drift_and_diffusion_of_the_path() -> None:
    path, x = VariancePreserving(), torch.ones(3, 2).double()
    sde, t = forward(path), torch.tensor(0.4).double()
    beta = 0.1 + 0.4 * 19.9
    torch.testing.assert_close(sde.drift(x, t), -0.5 * beta * x)
    assert float(sde.diffusion(t)) == pytest.approx(math.sqrt(beta))


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize(
    "path",
    [
        OrnsteinUhlenbeck(0.8, 1.1),
        VariancePreserving(),
        VarianceExploding(),
        Straight(),
    ],
    ids=lambda path: type(path).__name__,
)
def test_every_eta_keeps_the_marginals_by_fokker_planck(
    path: GaussianPath, eta: float
) -> None:
    """∂ₜ log p = −∇·b − b·∇log p − ½η²g² (Δ log p + ‖∇log p‖²) at every point.

    It is the Fokker–Planck equation of dx = b dt + η g dw̄ run with dt < 0, divided by
    p. The density and its derivatives come from torch.distributions.
    """
    mixture, t = three_gaussians(), torch.tensor(0.35).double()
    x = 1.3 * torch.randn(8, 2, generator=seeded(), dtype=torch.float64)

    def log_prob(x: Tensor, t: Tensor) -> Tensor:
        return noised(mixture, path.alpha(t), path.sigma(t)).log_prob(x)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return gradient(lambda y: log_prob(y, t), x)

    sde = reverse(forward(path), lambda x, t: path.marginal(mixture, t).score(x), eta)
    b = sde.drift(x, t)
    jac = jacobian(lambda y: sde.drift(y, t), x)
    s, H = score(x, t), hessian(lambda y: log_prob(y, t), x)
    g_squared = 0.0 if eta == 0 else float(sde.diffusion(t)) ** 2
    curvature = H.diagonal(dim1=1, dim2=2).sum(1) + s.square().sum(1)
    divergences = jac.diagonal(dim1=1, dim2=2).sum(1)
    rate = -divergences - (b * s).sum(1) - 0.5 * g_squared * curvature
    truth = derivative(lambda t: log_prob(x, t), float(t), 1e-2)
    # the 8th-order difference at this step leaves about 1e-7 of the largest rate
    scale = float(truth.abs().max())
    torch.testing.assert_close(rate, truth, rtol=1e-5, atol=1e-6 * scale)
    if eta:
        assert g_squared == pytest.approx(eta**2 * float(path.g(t)) ** 2)


A = torch.tensor([[-1.0, 0.6], [-0.2, -0.5]]).double()
G = torch.tensor([[1.0, 0.0], [0.8, 0.3]]).double()
P_0 = torch.tensor([[0.5, -0.2], [-0.2, 0.3]]).double()


def covariance_of_linear_sde(t: float) -> Tensor:
    """P(t) = e^{At} P_0 e^{Aᵀt} + ∫ e^{As} GGᵀ e^{Aᵀs} ds of dx = A x dt + G dw."""
    drift, noise = A.numpy(), (G @ G.T).numpy()

    def integrand(s: float) -> np.ndarray:
        flow = scipy.linalg.expm(drift * s)
        return flow @ noise @ flow.T

    flow = scipy.linalg.expm(drift * t)
    added, _ = scipy.integrate.quad_vec(integrand, 0, t)
    return torch.from_numpy(flow @ P_0.numpy() @ flow.T + added)


@pytest.mark.parametrize("eta", ETAS)
def test_reversal_of_a_matrix_sde_takes_the_covariance_back(eta: float) -> None:
    """Ṗ = M P + P Mᵀ − D Dᵀ with the reverse drift M x and diffusion D."""
    sde = SDE(lambda x, t: x @ A.mT, lambda t: G)
    for t in (0.1, 0.6):
        P = covariance_of_linear_sde(t)
        precision = torch.linalg.inv(P)
        back = reverse(sde, lambda x, t, Q=precision: -x @ Q.mT, eta)
        time = torch.tensor(t).double()
        M = back.drift(torch.eye(2).double(), time).mT  # rows are M e_i
        D = torch.zeros(2, 2).double() if eta == 0 else back.diffusion(time)
        forward_rate = A @ P + P @ A.mT + G @ G.mT
        torch.testing.assert_close(M @ P + P @ M.mT - D @ D.mT, forward_rate)


def test_the_probability_flow_has_no_noise() -> None:
    flow = reverse(forward(OrnsteinUhlenbeck()), lambda x, t: -x, eta=0.0)
    assert flow.diffusion is None


def test_naive_reversal_grows_by_its_closed_form() -> None:
    """dx = f dt + g dw with dt < 0 undoes the decay and adds the noise once more."""
    beta, g, T, V_T = 0.8, 1.1, 1.5, 0.7
    path = OrnsteinUhlenbeck(beta, g, T)
    growth = math.exp(2 * beta * T)
    truth = growth * V_T + g**2 / (2 * beta) * (growth - 1)
    counts, errors = [8, 16, 32], []
    for n in counts:
        _, v = moments(heun, forward(path), time_grid(T, 0.0, n), 0.0, V_T)
        errors.append(abs(v - truth))
    assert errors[-1] < 0.01 * truth
    assert order(counts, errors) == pytest.approx(2, abs=0.2)


# Path laws


def cross_covariance(path: GaussianPath, mixture: GaussianMixture) -> float:
    """tr Cov(X_.1, X_.8) = α(.8)/α(.1) tr Cov X_.1, by the Markov property."""
    inner = noised(mixture, path.alpha(0.1), path.sigma(0.1))
    ratio = float(path.alpha(0.8)) / float(path.alpha(0.1))
    return ratio * float(inner.variance.sum())


@pytest.mark.parametrize(("eta", "same_path_law"), [(1.0, True), (0.0, False)])
def test_only_the_reverse_sde_has_the_path_law_of_the_forward_process(
    eta: float, same_path_law: bool
) -> None:
    path, mixture, n = OrnsteinUhlenbeck(), three_gaussians(), 20_000
    generator = seeded(7)
    x_8 = path.marginal(mixture, 0.8).sample(n, generator)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return path.marginal(mixture, t).score(x)

    sde = reverse(forward(path), score, eta)
    x_1 = end(heun(sde, x_8, time_grid(0.8, 0.1, 60, power=2.0), generator))
    together = ((x_8 - x_8.mean(0)) * (x_1 - x_1.mean(0))).sum(1)
    truth = cross_covariance(path, mixture)
    # both have the right variance at .1; 60 quadratic steps bias it by less than 1 %
    variance = noised(mixture, path.alpha(0.1), path.sigma(0.1)).variance.sum()
    assert_mean((x_1 - x_1.mean(0)).square().sum(1), variance, 0.01 * float(variance))
    if same_path_law:
        assert_mean(together, truth, allowance=0.01 * truth)
    else:
        assert float(together.mean()) > 1.5 * truth


def test_the_forward_process_has_the_cross_covariance_that_is_taken_for_exact() -> None:
    path, mixture, n = OrnsteinUhlenbeck(), three_gaussians(), 20_000
    generator = seeded(8)
    x_1 = path.marginal(mixture, 0.1).sample(n, generator)
    x_8 = end(heun(forward(path), x_1, time_grid(0.1, 0.8, 20), generator))
    together = ((x_8 - x_8.mean(0)) * (x_1 - x_1.mean(0))).sum(1)
    # Heun's second-order error at h = .035 is below .1 %
    assert_mean(together, cross_covariance(path, mixture), allowance=0.002)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_slope_of_an_earlier_on_a_later_state_of_a_gaussian(eta: float) -> None:
    """Bayes' slope Cov(x_s, x_t)/Var x_t belongs to η = 1 alone.

    The slope of the flow is the ratio of deviations, and the logarithm of the slope is
    linear in η².
    """
    path, v = OrnsteinUhlenbeck(), 0.25

    def variance(t: float) -> float:
        return float(path.alpha(t)) ** 2 * v + float(path.variance(t))

    sde = reverse(forward(path), lambda x, t: -x / variance(float(t)), eta)
    times = time_grid(0.8, 0.1, 200)
    a, b = (end(heun(sde, column(x), times, seeded())) for x in (0.0, 1.0))
    slope = float(b - a)
    bayes = float(path.alpha(0.8)) / float(path.alpha(0.1)) * variance(0.1)
    bayes /= variance(0.8)
    flow = math.sqrt(variance(0.1) / variance(0.8))
    between = bayes ** (eta**2) * flow ** (1 - eta**2)
    assert slope == pytest.approx(between, rel=1e-3)
    assert bayes < 0.7 * flow


# Langevin


@pytest.mark.parametrize("step", [0.1, 0.5, 1.0])
def test_langevin_with_a_finite_step_has_stationary_variance_above_one(
    step: float,
) -> None:
    """Unadjusted Langevin on N(0, 1) is stationary at 1/(1 − ε/4), not at 1."""
    a, b = step_map(euler_maruyama, langevin(lambda x: -x), 0.0, step)
    assert a == pytest.approx(1 - step / 2)
    assert b**2 / (1 - a**2) == pytest.approx(1 / (1 - step / 4))


def test_langevin_leaves_a_mixture_stationary_by_fokker_planck() -> None:
    # ∇·(p drift) = ½ g² Δp, divided by p
    mixture, t = three_gaussians(), torch.tensor(0.0).double()
    x = torch.randn(8, 2, generator=seeded(), dtype=torch.float64)
    sde = langevin(mixture.score)
    log_prob = noised(mixture, 1.0, 0.0).log_prob
    s, H = gradient(log_prob, x), hessian(log_prob, x)
    inflow = jacobian(lambda y: sde.drift(y, t), x).diagonal(dim1=1, dim2=2).sum(1)
    inflow = inflow + (sde.drift(x, t) * s).sum(1)
    spread = H.diagonal(dim1=1, dim2=2).sum(1) + s.square().sum(1)
    torch.testing.assert_close(inflow, 0.5 * float(sde.diffusion(t)) ** 2 * spread)


# Likelihood


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_divergence_is_the_trace_of_the_jacobian(dim: int) -> None:
    g = seeded()
    W = torch.randn(dim, dim, generator=g, dtype=torch.float64)
    x = torch.randn(4, dim, generator=g, dtype=torch.float64)
    t = torch.tensor(0.3).double()

    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x @ W) * x.sum(1, keepdim=True) + t * x**2

    velocity, trace = divergence(field, x, t)
    truth = jacobian(lambda y: field(y, t), x).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(velocity, field(x, t))
    torch.testing.assert_close(trace, truth)
    assert not velocity.requires_grad
    assert not x.requires_grad


def probability_flow(
    mixture: GaussianMixture, path: GaussianPath
) -> tuple[SDE, Callable[[Tensor], Tensor]]:
    """The flow of the exact score, and log p at t_max from torch.distributions."""
    flow = reverse(
        forward(path), lambda x, t: path.marginal(mixture, t).score(x), eta=0.0
    )
    T = path.t_max
    return flow, noised(mixture, path.alpha(T), path.sigma(T)).log_prob


@pytest.mark.parametrize(
    ("mixture", "path"),
    [
        pytest.param(three_gaussians(), OrnsteinUhlenbeck(), id="plane"),
        pytest.param(three_gaussians_1d(), VariancePreserving(), id="line"),
        pytest.param(random_mixture(2, 5), OrnsteinUhlenbeck(0.8, 1.1, 1.0), id="5-d"),
    ],
)
def test_likelihood_by_the_flow_is_the_density_of_the_data(
    mixture: GaussianMixture, path: GaussianPath
) -> None:
    x = torch.randn(5, mixture.dim, generator=seeded(), dtype=torch.float64)
    flow, prior = probability_flow(mixture, path)
    got = log_likelihood(flow, x, (0.0, path.t_max), prior, tolerance=1e-8)
    # a tolerance per step of 1e-8, over some hundred steps
    truth = noised(mixture, 1.0, 0.0).log_prob(x)
    torch.testing.assert_close(got, truth, rtol=0, atol=3e-6)


def test_likelihood_by_fixed_steps_converges_with_order_four() -> None:
    mixture, path = three_gaussians(), OrnsteinUhlenbeck(horizon=1.0)
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    flow, prior = probability_flow(mixture, path)
    truth = noised(mixture, 1.0, 0.0).log_prob(x)
    counts, errors = [40, 80, 160], []
    for n in counts:
        times = time_grid(0.0, 1.0, n, power=2.0)
        got = log_likelihood(flow, x, times, prior, method="rk4")
        errors.append(float((got - truth).abs().max()))
    assert order(counts, errors) == pytest.approx(4, abs=0.4)
    assert errors[-1] < 1e-6


def test_likelihood_uses_the_prior_it_is_given() -> None:
    # along x' = −x to t = 1, log p_0(x) = log prior(e^{−1} x) − d
    flow = SDE(lambda x, t: -x)
    x = torch.tensor([[0.5, -1.0], [2.0, 0.0]]).double()
    prior = torch.distributions.Laplace(0.3, 0.7)
    got = log_likelihood(flow, x, (0.0, 1.0), lambda y: prior.log_prob(y).sum(1))
    truth = prior.log_prob(math.exp(-1) * x).sum(1) - 2
    torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_either_adaptive_method_gives_the_likelihood(method: str) -> None:
    mixture, path = three_gaussians(), OrnsteinUhlenbeck(horizon=1.0)
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    flow, prior = probability_flow(mixture, path)
    got = log_likelihood(flow, x, (0.0, 1.0), prior, method, tolerance=1e-8)
    truth = noised(mixture, 1.0, 0.0).log_prob(x)
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_an_adaptive_method_goes_from_the_first_time_to_the_last(method: str) -> None:
    """x' = −x, with times between that nothing depends on."""
    flow, x = SDE(lambda x, t: -x), torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    got = log_likelihood(flow, x, (0.0, 0.3, 1.1), lambda y: y.sum(1), method)
    truth = math.exp(-1.1) * x.sum(1) - 2 * 1.1
    torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-6)


def test_probes_have_an_axis_of_their_own_and_one_direction_per_point(
    no_shape_checks,
) -> None:
    flow, x = SDE(lambda x, t: -x), torch.ones(3, 2).double()
    for nu in (x, x[None, :2], x[None, :, :1], x[None][:0]):
        with pytest.raises(ValueError, match=r"probes must have shape \(m, 3, 2\)"):
            log_likelihood(flow, x, (0.0, 1.0), lambda y: y.sum(1), probes=nu)


def test_a_stated_divergence_takes_the_place_of_differentiation() -> None:
    """x' = −x, stated with the divergence of another field to see that it is read."""

    def stated(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return -x, torch.full_like(x[:, 0], 3.0) * t

    flow = SDE(lambda x, t: -x, drift_and_divergence=stated)
    x = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)

    def prior(y: Tensor) -> Tensor:
        return y.sum(1)

    got = log_likelihood(flow, x, (0.0, 2.0), prior)
    # ∫₀² 3t dt = 6
    truth = math.exp(-2) * x.sum(1) + 6
    torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-6)
    # probes look at the drift itself, whose slope along any ν is −‖ν‖²
    nu = torch.tensor([[[1.0, 2.0], [0.5, 0.0]]], dtype=torch.float64)
    got = log_likelihood(flow, x, (0.0, 2.0), prior, probes=nu)
    truth = math.exp(-2) * x.sum(1) - 2 * nu[0].square().sum(1)
    torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-6)


A_0 = torch.tensor([[-0.6, 0.9, 0.1], [-0.2, 0.4, -0.5], [0.7, 0.3, -0.3]]).double()
A_1 = torch.tensor([[0.2, -0.4, 0.8], [0.6, -0.5, 0.3], [0.1, -0.9, 0.4]]).double()


def turning() -> tuple[SDE, Tensor]:
    """x' = (A_0 + t A_1) x, and the symmetric part of ∫₀¹ A dt."""
    flow = SDE(lambda x, t: x @ (A_0 + t * A_1).mT)
    whole = A_0 + 0.5 * A_1
    return flow, 0.5 * (whole + whole.mT)


def test_probes_see_the_integrated_jacobian_of_a_linear_flow() -> None:
    """∫νᵀA(t)ν dt = νᵀSν, averaged over the probes of each point."""
    flow, S = turning()
    x = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)
    nu = torch.randn(2, 4, 3, generator=seeded(2), dtype=torch.float64)
    got = log_likelihood(flow, x, (0.0, 1.0), lambda y: 0 * y[:, 0], probes=nu)
    truth = torch.einsum("mni,ij,mnj->mn", nu, S, nu).mean(0)
    torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("directions", [rademacher, gaussian])
def test_the_variance_of_probes_is_its_formula(directions, m: int, generator) -> None:
    """2 Σ_{i≠j} S_ij² for ±1 and 2 ‖S‖_F² for normal directions, over m."""
    flow, S = turning()
    n = 6000
    x = torch.ones(n, 3, dtype=torch.float64)
    nu = torch.stack([directions(x, generator) for _ in range(m)])
    got = log_likelihood(
        flow, x, (0.0, 1.0), lambda y: 0 * y[:, 0], tolerance=1e-5, probes=nu
    )
    assert_mean(got, S.trace(), allowance=1e-4)
    square = S.square().sum()
    if directions is rademacher:
        square = square - S.diagonal().square().sum()
    assert_mean((got - S.trace()) ** 2, 2 * square / m, allowance=1e-4)


def test_a_flow_that_does_not_depend_on_x_keeps_the_density() -> None:
    """x' = sin t moves everything alike: log p_0(x) = log prior(x + 1 − cos T)."""
    flow = SDE(lambda x, t: torch.ones(x.shape, dtype=x.dtype) * t.sin())
    x = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    prior = torch.distributions.Laplace(0.3, 0.7)
    truth = prior.log_prob(x + 1 - math.cos(1.5)).sum(1)
    for probes in (None, torch.ones(1, 2, 1).double()):
        got = log_likelihood(
            flow, x, (0.0, 1.5), lambda y: prior.log_prob(y).sum(1), probes=probes
        )
        torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-6)


def test_solvers_refuse_a_last_time_at_which_the_coefficients_are_never_asked() -> None:
    # Euler–Maruyama asks for the drift at the first time of a step only
    noising = forward(OrnsteinUhlenbeck(horizon=3.0))
    flow = reverse(noising, lambda x, t: -x, eta=0.0)
    x = torch.ones(2, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"times must lie in \[0, 3\], got 0.5 to 4"):
        list(euler_maruyama(noising, x, [0.5, 4.0]))
    with pytest.raises(ValueError, match=r"times must lie in \[0, 3\], got -0.5 to 1"):
        list(euler_maruyama(flow, x, [1.0, -0.5]))
