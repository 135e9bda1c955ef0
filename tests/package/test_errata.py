"""Where printed formulas go wrong: the wrong form fails, the right form passes.

Each truth is computed without the formula in question, and each test holds the right
form against it to the stated accuracy and the wrong form to a gross violation.
"""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from diffedu.fokker_planck import Grid, solve_fokker_planck
from diffedu.metrics import energy_distance, sampling_floor
from diffedu.mixture import three_gaussians, three_gaussians_1d
from diffedu.path import OrnsteinUhlenbeck, VariancePreserving, time_grid
from diffedu.samplers import last
from diffedu.sde import SDE, euler_maruyama, forward, heun, reverse
from tests.package.oracles import (
    assert_mean,
    cell,
    derivative,
    gauss_hermite,
    gradient,
    hessian,
    lattice,
    linear_transition,
    noised,
    products,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_score(path, mixture):
    return lambda x, t: path.marginal(mixture, t).score(x)


def distance_and_floor(x: Tensor, mixture) -> tuple[float, float]:
    """Energy distance of x to the mixture; the most that an exact sample would show."""
    g = seeded(99)
    floor = sampling_floor(energy_distance, mixture.sample, len(x), 10, g)
    spread = floor.standard_error * math.sqrt(10)
    distance = energy_distance(x, mixture.sample(len(x), g)).value
    return distance, floor.value + 5 * spread


# 000-E1: a step of the SDE starts from p_t, with noise Z ~ N(0, I) beside it


def test_the_weak_form_takes_x_from_p_t_and_the_noise_from_a_normal() -> None:
    """(E h(X_{t+ε}) − E h(X_t))/ε with X_{t+ε} = X_t + ε f + √ε g Z, by quadrature."""
    path, mixture, t = OrnsteinUhlenbeck(0.8, 1.1), three_gaussians_1d(), 0.2
    x = lattice(mixture, 4000, reach=30.0)
    z, weights = gauss_hermite()

    def h(x: Tensor) -> Tensor:
        return torch.sin(1.3 * x + 0.4)

    def mean(values: Tensor, law) -> Tensor:
        return (values * law.log_prob(x).exp()).sum() * cell(x)

    def p(t: Tensor | float):
        return noised(mixture, path.alpha(t), path.sigma(t))

    def quotient(law, epsilon: float) -> float:
        moved = x * (1 - 0.8 * epsilon) + math.sqrt(epsilon) * 1.1 * z
        return float(mean(h(moved) @ weights - h(x)[:, 0], law)) / epsilon

    truth = float(derivative(lambda t: mean(h(x)[:, 0], p(t)), t, 1e-2))
    assert quotient(p(t), 1e-4) == pytest.approx(truth, abs=1e-4)
    # the error is of order ε
    assert abs(quotient(p(t), 1e-2) - truth) < 1e-2
    # as printed, X ~ N(0, I) takes the place of X ~ p_t
    normal = noised(mixture, 0.0, 1.0)
    assert abs(quotient(normal, 1e-4) - truth) > 0.1
    # and p_t + ε, for p_{t+ε}, has not even mass 1
    mass = ((p(t).log_prob(x).exp() + 1e-2).sum() * cell(x)).item()
    assert abs(mass - 1) > 0.05
    later = float(mean(torch.ones(len(x)).double(), p(t + 1e-2)))
    assert later == pytest.approx(1, abs=1e-9)


# 000-E2: with a matrix g, the correction is g gᵀ ∇log p, not g² ∇log p

GAIN = torch.tensor([[1.0, 0.0], [0.8, 0.3]], dtype=torch.float64)
P_0 = torch.tensor([[0.5, -0.2], [-0.2, 0.3]], dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_matrix_noise_is_reversed_by_g_g_transposed_not_by_g_squared(
    eta: float,
) -> None:
    """dx = −x dt + G dw from N(0, P_0) to t = 1 and back, by moment equations."""
    noise = (GAIN @ GAIN.T).numpy()

    def P(t: float) -> np.ndarray:  # dP/dt = −2P + GGᵀ is solved by hand
        decay = math.exp(-2 * t)
        return decay * P_0.numpy() + 0.5 * (1 - decay) * noise

    def covariance_at_zero(drift, strength: float) -> np.ndarray:
        """dQ/dt = M Q + Q Mᵀ − strength² GGᵀ from Q(1) = P(1) to t = 0."""

        def rate(t: float, q: np.ndarray) -> np.ndarray:
            time = torch.tensor(t, dtype=torch.float64)
            M = drift(torch.eye(2, dtype=torch.float64), time).mT.numpy()
            Q = q.reshape(2, 2)
            return (M @ Q + Q @ M.T - strength**2 * noise).ravel()

        end = scipy.integrate.solve_ivp(
            rate, (1, 0), P(1).ravel(), rtol=1e-9, atol=1e-9
        )
        return end.y[:, -1].reshape(2, 2)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x @ torch.from_numpy(np.linalg.inv(P(float(t))))

    right = reverse(SDE(lambda x, t: -x, lambda t: GAIN), score, eta)
    np.testing.assert_allclose(
        covariance_at_zero(right.drift, eta), P_0.numpy(), rtol=1e-6, atol=1e-7
    )
    for wrong_square in (GAIN @ GAIN, GAIN**2, GAIN.T @ GAIN):

        def wrong(x: Tensor, t: Tensor, square: Tensor = wrong_square) -> Tensor:
            return -x - 0.5 * (1 + eta**2) * score(x, t) @ square.mT

        gap = np.abs(covariance_at_zero(wrong, eta) - P_0.numpy()).max()
        assert gap > 0.1


def test_the_fokker_planck_equation_has_g_g_transposed() -> None:
    """∂ₜp = −∇·(f p) + ½ Σ_ij ∂_i∂_j((g gᵀ)_ij p) at points, divided by p."""
    A = torch.tensor([[-1.0, 0.4], [-0.6, -0.5]]).double()
    x = torch.randn(6, 2, generator=seeded(1), dtype=torch.float64)

    def log_prob(t: Tensor | float) -> MultivariateNormal:
        flow, shift, spread = linear_transition(A, GAIN, float(t))
        mean = flow @ torch.tensor([0.5, -0.3]).double() + shift
        return MultivariateNormal(mean, flow @ P_0 @ flow.mT + spread).log_prob

    truth = derivative(lambda t: log_prob(t)(x), 0.6, 1e-2)
    s, H = gradient(log_prob(0.6), x), hessian(log_prob(0.6), x)
    curvature = H + s[:, :, None] * s[:, None, :]
    inflow = -A.diagonal().sum() - (x @ A.mT * s).sum(1)

    def residual(square: Tensor) -> float:
        rate = inflow + 0.5 * (square * curvature).sum((1, 2))
        return float((rate - truth).abs().max())

    assert residual(GAIN @ GAIN.mT) < 1e-8
    for wrong_square in (GAIN.mT @ GAIN, GAIN @ GAIN, GAIN**2):
        assert residual(wrong_square) > 0.3
    # the solver of the package, whose second moments obey dP/dt = AP + PAᵀ + ggᵀ
    sde = SDE(lambda x, t: x @ A.mT, lambda t: GAIN, autonomous=True)
    grid = Grid((-4.5, -4.5), (4.5, 4.5), (96, 96))
    start = MultivariateNormal(torch.zeros(2).double(), P_0)
    *_, p = solve_fokker_planck(
        sde, lambda x: start.log_prob(x).exp(), grid, time_grid(0.0, 0.6, 20)
    )
    flow, _, spread = linear_transition(A, GAIN, 0.6)
    second = torch.einsum("ab,abi,abj->ij", p, grid.centers, grid.centers) * grid.volume
    truth = flow @ P_0 @ flow.mT + spread
    torch.testing.assert_close(second, truth, rtol=0, atol=0.01)
    _, _, transposed = linear_transition(A, GAIN.mT.contiguous(), 0.6)
    assert float((transposed - spread).abs().max()) > 0.1


# 000-E5: in the clock that runs from noise to data the drift is −f + g² ∇log p


def test_in_the_generative_clock_the_drift_of_the_noising_process_changes_sign() -> (
    None
):
    path, mixture, n, T = OrnsteinUhlenbeck(), three_gaussians(), 2000, 1.5
    score = exact_score(path, mixture)
    start = path.marginal(mixture, T).sample(n, seeded(1))
    # the same quadratic grid, as times u = T − t that increase
    times = T - time_grid(T, 0.0, 100, power=2.0)

    def in_generative_clock(sign: float) -> SDE:
        """dY = (sign f + g² ∇log p_{T−u}) du + g dw, with f = −Y and g² = 2."""

        def drift(y: Tensor, u: Tensor) -> Tensor:
            return sign * -y + 2 * score(y, T - u)

        return SDE(drift, lambda u: torch.tensor(math.sqrt(2)))

    right = last(euler_maruyama(in_generative_clock(-1.0), start, times, seeded(2)))
    distance, limit = distance_and_floor(right, mixture)
    assert distance <= limit + 0.02  # the bias of 100 steps

    # the printed form, −(f + g² ∇log p)
    def printed(y: Tensor, u: Tensor) -> Tensor:
        return -(-y + 2 * score(y, T - u))

    wrong_sde = SDE(printed, lambda u: torch.tensor(math.sqrt(2)))
    wrong = last(euler_maruyama(wrong_sde, start, times, seeded(2)))
    distance, _ = distance_and_floor(wrong, mixture)
    assert distance > 10
    # and the package, which keeps the noising clock, agrees with the right form
    same = reverse(forward(path), score)
    noising = time_grid(T, 0.0, 100, power=2.0)
    got = last(euler_maruyama(same, start, noising, seeded(2)))
    torch.testing.assert_close(got, right, rtol=1e-6, atol=1e-6)


# 000-E6: Anderson's theorem is about path laws; the flow has the marginals only


def test_anderson_gives_path_laws_and_the_flow_only_marginals() -> None:
    """tr Cov(X_.1, X_.8): Markov truth, reverse SDE and probability flow."""
    path, mixture, n = OrnsteinUhlenbeck(), three_gaussians(), 10_000
    inner = noised(mixture, path.alpha(0.1), path.sigma(0.1)).variance.sum()
    truth = math.exp(-(0.8 - 0.1)) * float(inner)
    later = path.marginal(mixture, 0.8).sample(n, seeded(3))
    times = time_grid(0.8, 0.1, 60, power=2.0)
    together = {}
    for eta in (0.0, 1.0):
        sde = reverse(forward(path), exact_score(path, mixture), eta)
        earlier = last(heun(sde, later, times, seeded(4)))
        # the marginal is right for both, to 1 % of step bias
        spread = (earlier - earlier.mean(0)).square().sum(1)
        assert_mean(spread, inner, allowance=0.01 * float(inner))
        together[eta] = products(later, earlier).diagonal(dim1=1, dim2=2).sum(1)
    assert_mean(together[1.0], truth, allowance=0.01 * truth)
    error = float(together[0.0].std()) / math.sqrt(n)
    assert abs(float(together[0.0].mean()) - truth) > 20 * error


# 000-E7: Var X_t = (σ²/2β) I + e^{−2βt} (Var X_0 − (σ²/2β) I)


def test_the_variance_relaxes_at_twice_the_rate_to_its_stationary_value() -> None:
    beta, g, t, v = 0.8, 1.1, 0.7, 2.5
    path = OrnsteinUhlenbeck(beta, g)
    moments = scipy.integrate.solve_ivp(
        lambda _, V: -2 * beta * V + g**2, (0, t), [v], rtol=1e-10, atol=1e-10
    )
    truth = moments.y[0, -1]
    got = float(path.alpha(t)) ** 2 * v + float(path.variance(t))
    assert got == pytest.approx(truth, rel=1e-7)
    printed = 1 + math.exp(-beta * t) * (v - 1)
    right_rate_only = 1 + math.exp(-2 * beta * t) * (v - 1)
    assert abs(printed / truth - 1) > 0.1
    # unit variance is kept only if σ² = 2β
    assert abs(right_rate_only / truth - 1) > 0.05
    kept, not_kept = OrnsteinUhlenbeck(beta, math.sqrt(2 * beta)), path
    assert float(kept.alpha(t) ** 2 + kept.variance(t)) == pytest.approx(1)
    assert abs(float(not_kept.alpha(t) ** 2 + not_kept.variance(t)) - 1) > 0.1


# 000-E11: ∇log p_{t|0} = −(x_t − e^{−βt} x_0)/σ_t²


def test_the_transition_score_is_minus_the_residual_over_the_variance() -> None:
    beta, g, t = 0.8, 1.1, 0.7
    path = OrnsteinUhlenbeck(beta, g)
    x_0, x_t = torch.tensor([[1.7]]).double(), torch.tensor([[2.3]]).double()
    decay = math.exp(-beta * t)
    variance = g**2 / (2 * beta) * (1 - decay**2)
    transition = Normal(decay * x_0, math.sqrt(variance))
    truth = gradient(lambda x: transition.log_prob(x).sum(1), x_t)
    got = path.convert(x_0, x_t, t, "x0", "score")
    torch.testing.assert_close(got, truth)
    residual = x_t - decay * x_0
    for printed in (
        -residual / decay,
        residual / variance,
        residual * 2 * beta / (g**2 * (1 - decay**2)),
    ):
        assert float((printed - truth).abs()) > 0.1


# 002-E8: when the model runs on 1 − t, the noising drift must too


def test_the_noising_drift_is_read_on_the_noising_clock() -> None:
    path, mixture, n = VariancePreserving(), three_gaussians(), 2000
    score = exact_score(path, mixture)
    start = path.marginal(mixture, 1.0).sample(n, seeded(5))
    grid = time_grid(1.0, 0.0, 100, power=2.0)
    u = 1 - grid

    def model(drift_clock) -> SDE:
        """dX = (g²(1−u) ∇log p_{1−u} − f(X, drift_clock(u))) du + g(1−u) dw."""

        def drift(x: Tensor, u: Tensor) -> Tensor:
            t = 1 - u
            return path.g(t) ** 2 * score(x, t) - path.f(drift_clock(u)) * x

        return SDE(drift, lambda u: path.g(1 - u))

    right = last(euler_maruyama(model(lambda u: 1 - u), start, u, seeded(6)))
    distance, limit = distance_and_floor(right, mixture)
    assert distance <= limit + 0.02  # the bias of 100 steps
    wrong = last(euler_maruyama(model(lambda u: u), start, u, seeded(6)))
    distance, limit = distance_and_floor(wrong, mixture)
    assert distance > 0.5 > 10 * limit
    # the package takes one clock, so that there is nothing to mistake
    sde = reverse(forward(path), score)
    got = last(euler_maruyama(sde, start, grid, seeded(6)))
    torch.testing.assert_close(got, right, rtol=1e-6, atol=1e-6)


# 001-E5: it is the reverse SDE that is solved backwards, not the noising SDE


def test_the_noising_sde_run_backwards_does_not_denoise() -> None:
    path, mixture, n, T = OrnsteinUhlenbeck(), three_gaussians(), 2000, 1.5
    start = path.marginal(mixture, T).sample(n, seeded(7))
    times = time_grid(T, 0.0, 100, power=2.0)
    reversed_sde = reverse(forward(path), exact_score(path, mixture))
    right = last(euler_maruyama(reversed_sde, start, times, seeded(8)))
    distance, limit = distance_and_floor(right, mixture)
    assert distance <= limit + 0.02  # the bias of 100 steps
    wrong = last(heun(forward(path), start, times, seeded(8)))
    distance, _ = distance_and_floor(wrong, mixture)
    assert distance > 1
    # it grows as dV/dt = −2V + 2 does when t decreases: V(0) = e^{2T}(V_T + 1) − 1
    V_T = noised(mixture, path.alpha(T), path.sigma(T)).variance
    truth = math.exp(2 * T) * (V_T + 1) - 1
    assert_mean(products(wrong).diagonal(dim1=1, dim2=2), truth, 0.01 * float(truth[0]))
