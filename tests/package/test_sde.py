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
    divergence,
    euler_maruyama,
    forward,
    heun,
    langevin,
    log_likelihood,
    reverse,
)
from tests.package.oracles import (
    assert_mean,
    derivative,
    gradient,
    hessian,
    jacobian,
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


def test_solvers_refuse_a_last_time_at_which_the_coefficients_are_never_asked() -> None:
    # Euler–Maruyama asks for the drift at the first time of a step only
    noising = forward(OrnsteinUhlenbeck(horizon=3.0))
    flow = reverse(noising, lambda x, t: -x, eta=0.0)
    x = torch.ones(2, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"times must lie in \[0, 3\], got 0.5 to 4"):
        list(euler_maruyama(noising, x, [0.5, 4.0]))
    with pytest.raises(ValueError, match=r"times must lie in \[0, 3\], got -0.5 to 1"):
        list(euler_maruyama(flow, x, [1.0, -0.5]))
