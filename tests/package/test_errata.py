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
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from diffedu.bounds import (
    GaussHermite,
    LinearVAE,
    continuous_elbo,
    denoising_rate,
    divergence_rate,
    elbo,
    elbo_terms,
)
from diffedu.ddpm import VarianceSchedule, denoising_kl, gaussian_kl, reconstruction
from diffedu.denoiser import ExactDenoiser
from diffedu.fokker_planck import Grid, solve_fokker_planck
from diffedu.losses import (
    denoising_score_matching,
    explicit_score_matching,
    fisher_information,
    implicit_score_matching,
    target_variance,
)
from diffedu.metrics import energy_distance, sampling_floor
from diffedu.mixture import GaussianMixture, three_gaussians, three_gaussians_1d
from diffedu.path import (
    OrnsteinUhlenbeck,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
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


# 000-E9: ∇log p_t is the mean of ∇log p_{t|0} under p(x_0 | x_t)


def test_the_score_is_the_mean_of_conditional_scores_given_the_noisy_point() -> None:
    path, mixture, t = OrnsteinUhlenbeck(0.8, 1.1), three_gaussians_1d(), 0.2
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    x_t, x_0 = torch.tensor([[0.4]]).double(), lattice(mixture, 4000)
    joint = (
        noised(mixture, 1.0, 0.0).log_prob(x_0).exp()
        * Normal(alpha * x_0[:, 0], sigma).log_prob(x_t[0]).exp()
    )
    p_t = noised(mixture, alpha, sigma)
    conditional = -(x_t - alpha * x_0)[:, 0] / sigma**2
    truth = float(gradient(p_t.log_prob, x_t))
    density = float(p_t.log_prob(x_t).exp())
    right = float((conditional * joint / density).sum()) * cell(x_0)
    assert right == pytest.approx(truth, rel=1e-8)
    assert float(path.marginal(mixture, t).score(x_t)) == pytest.approx(truth, rel=1e-9)
    # as printed, the posterior is divided by p_t once more
    printed = right / density
    assert abs(printed - truth) > 0.1 * abs(truth)


# 000-E10 and 003-E9: the denoising objective lacks a constant, and not a small one


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_explicit_and_the_denoising_loss_differ_by_a_constant(sigma: float) -> None:
    """C = d/σ² − E‖∇log q_σ‖², the same at every field."""
    mixture, n = three_gaussians(), 40_000
    law = noised(mixture, 1.0, sigma)
    x = lattice(mixture, 150, reach=9.0 + 9 * sigma)
    q = law.log_prob(x).exp() * cell(x)
    constant = 2 / sigma**2 - float(q @ gradient(law.log_prob, x).square().sum(1))
    x_0 = mixture.sample(n, seeded(30))
    eps = torch.randn(n, 2, generator=seeded(31), dtype=torch.float64)
    noisy = x_0 + sigma * eps
    true = gradient(law.log_prob, noisy)
    fields = (lambda x: -0.5 * x, lambda x: x.flip(1).sin())
    for field in fields:
        denoising = denoising_score_matching(field, x_0, eps, sigma)
        explicit = explicit_score_matching(field, noisy, true)
        assert_mean(denoising - explicit, constant)
        error = float((denoising - explicit).std()) / math.sqrt(n)
        assert constant > 20 * error  # as printed, it is 0
    path = VarianceExploding()
    exact = ExactDenoiser(path, mixture)
    t = path.time_at(sigma)
    assert_mean(target_variance(exact, noisy, t, "score"), constant)


# 000-E12: the network predicts ε at γ x_0 + σ ε; at γ x_0 − σ ε it learns −ε


def test_the_noisy_point_has_plus_the_noise() -> None:
    path, mixture, t, n = VariancePreserving(), three_gaussians(), 0.3, 40_000
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    x_0 = mixture.sample(n, seeded(32))
    eps = torch.randn(n, 2, generator=seeded(33), dtype=torch.float64)
    exact = ExactDenoiser(path, mixture)
    plus, minus = alpha * x_0 + sigma * eps, alpha * x_0 - sigma * eps
    assert torch.equal(path.perturb(x_0, eps, t), plus)
    # E ε ε̂ = E‖ε̂‖² for the regression ε̂ of ε on x_t
    for x_t, sign in ((plus, 1), (minus, -1)):
        learned = exact.eps(x_t, t)
        assert_mean((eps * learned - sign * learned.square()).sum(1), 0.0)
        assert float(learned.square().mean()) > 0.3


# 000-E13: the Gaussian approximation of x given y = x + σ ε


def test_the_normaliser_of_the_noise_has_the_variance_not_the_deviation() -> None:
    sigma = 0.3
    x = torch.cartesian_prod(*2 * [torch.linspace(-4, 4, 801, dtype=torch.float64)])
    kernel = (-x.square().sum(1) / (2 * sigma**2)).exp().sum() * cell(x)
    assert float(kernel) / (2 * math.pi * sigma**2) == pytest.approx(1, rel=1e-9)
    assert float(kernel) / (2 * math.pi * sigma) == pytest.approx(sigma, rel=1e-9)


def test_the_noise_around_the_observation_has_covariance_sigma_squared() -> None:
    """p_Y(y) = E p_X(x) over x ~ N(y, σ² I)."""
    mixture, sigma, y = three_gaussians(), 0.3, torch.tensor([0.2, 0.6]).double()
    x = lattice(mixture, 400)
    density = noised(mixture, 1.0, 0.0).log_prob(x).exp()

    def smoothed(covariance: float) -> float:
        noise = MultivariateNormal(y, covariance * torch.eye(2).double())
        return float((density * noise.log_prob(x).exp()).sum()) * cell(x)

    truth = float(noised(mixture, 1.0, sigma).log_prob(y).exp())
    assert smoothed(sigma**2) == pytest.approx(truth, rel=1e-8)
    assert abs(smoothed(sigma) / truth - 1) > 0.5
    got = VarianceExploding().marginal(mixture, VarianceExploding().time_at(sigma))
    assert float(got.log_prob(y[None]).exp()) == pytest.approx(truth, rel=1e-8)


def test_the_approximate_posterior_needs_its_denominator() -> None:
    """p_X(y) (1 + ⟨∇log p_X(y), x − y⟩) N(x; y, σ²I) integrates to p_X(y), not to 1."""
    mixture, sigma, y = three_gaussians(), 0.1, torch.tensor([0.2, 0.6]).double()
    law = noised(mixture, 1.0, 0.0)
    score = gradient(law.log_prob, y[None])[0]
    density = float(law.log_prob(y).exp())
    offsets = torch.cartesian_prod(
        *2 * [torch.linspace(-0.9, 0.9, 301, dtype=torch.float64)]
    )
    noise = Normal(0.0, sigma).log_prob(offsets).sum(1).exp() * cell(offsets)
    printed = float(noise @ (density * (1 + offsets @ score)))
    assert printed == pytest.approx(density, rel=1e-6)
    assert abs(printed - 1) > 0.5
    assert printed / density == pytest.approx(1, rel=1e-6)
    # and the square that is completed leaves ½σ²‖∇log p‖² behind
    exponent = -offsets.square().sum(1) / (2 * sigma**2) + offsets @ score
    shifted = (offsets - sigma**2 * score).square().sum(1) / (2 * sigma**2)
    left = 0.5 * sigma**2 * float(score.square().sum())
    torch.testing.assert_close(exponent, left - shifted)
    assert left > 1e-3


# 001-E3: ε = (z − x)/σ; with ε = z − x the score −ε/σ is off by σ


def test_the_noise_is_the_residual_in_units_of_sigma() -> None:
    sigma, x, z = 0.3, torch.tensor([[0.5]]).double(), torch.tensor([[1.5]]).double()
    truth = gradient(lambda z: Normal(x, sigma).log_prob(z).sum(1), z)
    right, printed = -((z - x) / sigma) / sigma, -(z - x) / sigma
    torch.testing.assert_close(right, truth)
    assert float((printed / truth).item()) == pytest.approx(sigma)
    # what the loss regresses on is the right one: it vanishes at the truth
    loss = denoising_score_matching(lambda x: truth, x, (z - x) / sigma, sigma)
    assert float(loss.detach()) < 1e-20


# 001-E8: equal scores mean proportional densities on connected support only


def test_equal_scores_on_two_islands_allow_other_weights() -> None:
    def density(share: float):
        """Bumps on [−2, −1] and on [1, 2], smooth and 0 in between."""

        def log_density(x: Tensor) -> Tensor:
            inside = (x.abs() - 1.5)[:, 0]
            bump = -1 / (0.25 - inside**2)
            weight = torch.where(x[:, 0] > 0, share, 1 - share)
            return bump + weight.log()

        return log_density

    x = torch.tensor([[-1.7], [-1.2], [1.3], [1.6]]).double()
    p, q = density(0.5), density(0.8)
    torch.testing.assert_close(gradient(p, x), gradient(q, x))
    ratios = (q(x) - p(x)).exp()
    assert ratios.tolist() == pytest.approx([0.4, 0.4, 1.6, 1.6])
    divergence = explicit_score_matching(lambda x: gradient(p, x), x, gradient(q, x))
    assert float(divergence.abs().max()) < 1e-20


# 003-E1 to E5: energies, and the identities of score matching


def model_and_data() -> tuple[GaussianMixture, GaussianMixture]:
    data = three_gaussians()
    return data, GaussianMixture(
        data.weights.flip(0), data.means + 0.3, 1.3 * data.covariances
    )


def averaged_over_data(values, points: int = 160) -> float:
    data, _ = model_and_data()
    x = lattice(data, points)
    density = noised(data, 1.0, 0.0).log_prob(x).exp()
    return float((density * values(x).detach()).sum()) * cell(x)


def test_the_score_of_exp_f_over_z_is_plus_the_gradient_of_f() -> None:
    def f(x: Tensor) -> Tensor:
        return -0.25 * x.square().sum(1) ** 2 + x[:, 0].sin()

    grid = torch.cartesian_prod(*2 * [torch.linspace(-5, 5, 401).double()])
    log_z = (f(grid).exp().sum() * cell(grid)).log()
    x, h = torch.tensor([[0.7, -0.4], [1.1, 0.9]]).double(), 1e-5
    for i in range(2):
        step = h * torch.eye(2).double()[i]
        slope = ((f(x + step) - log_z) - (f(x - step) - log_z)) / (2 * h)
        torch.testing.assert_close(gradient(f, x)[:, i], slope, rtol=1e-7, atol=1e-8)
        assert float((-gradient(f, x)[:, i] - slope).abs().min()) > 0.1


def test_the_implicit_loss_needs_the_information_of_the_data() -> None:
    """Explicit = implicit + E‖∇log p‖²: 003-E2; ∇² of log p_θ, not of p_θ: 003-E3."""
    data, model = model_and_data()
    law, model_law = noised(data, 1.0, 0.0), noised(model, 1.0, 0.0)

    def explicit(x: Tensor) -> Tensor:
        gap = gradient(law.log_prob, x) - gradient(model_law.log_prob, x)
        return gap.square().sum(1)

    def printed(x: Tensor) -> Tensor:
        """With the trace of the Hessian of the density itself."""
        h = 1e-3
        middle, trace = model_law.log_prob(x).exp(), torch.zeros(len(x)).double()
        for step in h * torch.eye(2).double():
            ends = [model_law.log_prob(x + s).exp() for s in (step, -step)]
            trace = trace + (sum(ends) - 2 * middle) / h**2
        return gradient(model_law.log_prob, x).square().sum(1) + 2 * trace

    truth = averaged_over_data(explicit)
    implicit = averaged_over_data(lambda x: implicit_score_matching(model.score, x))
    fisher = averaged_over_data(lambda x: fisher_information(data, x))
    assert implicit + fisher == pytest.approx(truth, rel=1e-7)
    assert abs(implicit - truth) > 1
    assert abs(averaged_over_data(printed) + fisher - truth) > 1


def test_the_fisher_divergence_is_minimised_not_maximised() -> None:
    data, model = model_and_data()
    law = noised(data, 1.0, 0.0)

    def divergence(score) -> float:
        return averaged_over_data(
            lambda x: explicit_score_matching(score, x, gradient(law.log_prob, x))
        )

    assert divergence(data.score) < 1e-20
    assert divergence(model.score) > 0.1
    assert divergence(lambda x: 100 * x) > divergence(lambda x: 10 * x) > 100


def test_the_noisy_score_is_averaged_over_noisy_points() -> None:
    """Over x̃ ~ q_σ explicit and denoising differ by a constant; over p_data not."""
    data, sigma = three_gaussians(), 1.0
    law, n = noised(data, 1.0, sigma), 40_000
    x_0 = data.sample(n, seeded(34))
    eps = torch.randn(n, 2, generator=seeded(35), dtype=torch.float64)
    noisy = x_0 + sigma * eps
    fields = (lambda x: -0.5 * x, lambda x: x.flip(1).sin() - 2 * x)
    differences = []
    for points in (noisy, x_0):
        true = gradient(law.log_prob, points)
        first, second = (
            denoising_score_matching(field, x_0, eps, sigma)
            - explicit_score_matching(field, points, true)
            for field in fields
        )
        differences.append(second - first)
    right, printed = differences
    assert_mean(right, 0.0)
    error = float(printed.std()) / math.sqrt(n)
    assert abs(float(printed.mean())) > 20 * error


# 001-E1: the mean of the draws estimates the reconstruction, not their sum


CHAIN = VarianceSchedule(torch.tensor([0.0, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64))


def shrunk(x: Tensor, t: int) -> Tensor:
    """Some μ_θ, linear in x."""
    return (0.9 - 0.05 * t) * x


def test_the_reconstruction_is_a_mean_over_draws_not_a_sum() -> None:
    """E log N(x_0; .85 x_1, ς²) over x_1 ~ N(√.7 x_0, .3), as a quadratic form."""
    x_0, L, variance = 0.8, 1000, 0.3
    off = x_0 - 0.85 * math.sqrt(0.7) * x_0
    square = off**2 + 0.85**2 * 0.3
    truth = -0.5 * square / variance - 0.5 * math.log(2 * math.pi * variance)
    eps = torch.randn(L, 1, generator=seeded(40), dtype=torch.float64)
    points = torch.full((L, 1), x_0, dtype=torch.float64)
    draws = reconstruction(CHAIN, shrunk, points, eps, CHAIN.sampler_variance())
    assert_mean(draws, truth)
    assert abs(float(draws.sum()) - truth) > 100


# 001-E2: the noise of the last step is weighted by β_1, whatever t


def test_the_last_step_in_terms_of_noise_has_beta_one() -> None:
    """log p(x_0 | x_1) = −‖g − ε‖²/(2(1 − β_1)) − ½ d log 2πβ_1, g the predicted noise.

    With μ_θ = (x_1 − β_1/√(1 − ᾱ_1) g)/√(1 − β_1) and ς_1² = β_1 = 1 − ᾱ_1.
    """
    beta, eps, g = 0.3, 0.4, -0.35
    x_0 = torch.tensor([[0.8]], dtype=torch.float64)
    x_1 = math.sqrt(1 - beta) * x_0 + math.sqrt(beta) * eps
    mu = (x_1 - math.sqrt(beta) * g) / math.sqrt(1 - beta)
    truth = float(Normal(mu, math.sqrt(beta)).log_prob(x_0))
    constant = -0.5 * math.log(2 * math.pi * beta)
    got = reconstruction(
        CHAIN,
        lambda x, t: mu,
        x_0,
        torch.full_like(x_0, eps),
        CHAIN.sampler_variance(),
    )
    assert float(got) == pytest.approx(truth, rel=1e-12)

    def of_noise(beta_t: float) -> float:
        return constant - (g - eps) ** 2 / (2 * (1 - beta_t))

    assert of_noise(0.3) == pytest.approx(truth, rel=1e-12)
    for later in (0.4, 0.5, 0.6):  # as printed, with β_t
        assert abs(of_noise(later) - truth) > 0.05


# 001-E4: without the KL of the prior the terms are not a bound


def test_without_the_prior_term_the_sum_is_above_log_p() -> None:
    """A linear chain with signal left at T: the model's marginal is a Gaussian."""
    x_0 = torch.tensor([[4.0]], dtype=torch.float64)
    variances = CHAIN.sampler_variance()
    variance = 1.0
    for t in range(4, 0, -1):
        variance = (0.9 - 0.05 * t) ** 2 * variance + float(variances[t])
    log_p = float(Normal(0.0, math.sqrt(variance)).log_prob(x_0))
    terms = elbo_terms(CHAIN, shrunk, x_0, variances, GaussHermite(2))
    assert float(terms.elbo) < log_p
    printed = float(terms.elbo + terms.prior)
    assert printed > log_p + 0.1
    left = 0.7 * 0.6 * 0.5 * 0.4
    missing = 0.5 * (16 * left - left - math.log(1 - left))
    assert printed - float(terms.elbo) == pytest.approx(missing, rel=1e-9)


# 002-E4: the error of the reconstruction carries a half and a square


def test_the_variational_loss_is_half_the_squared_error() -> None:
    """q = N(λ, I), x | z ~ N(wz, 1): ½E(x − wz)² + KL and log 2π/2 is −ELBO."""
    w, x = 0.9, torch.tensor([[1.4]], dtype=torch.float64)
    model = LinearVAE(torch.tensor([[w]]).double(), torch.zeros(1).double(), 1.0)
    w = float(model.W)
    z, weights = gauss_hermite()
    candidates = torch.linspace(-0.5, 1.5, 2001, dtype=torch.float64)
    noisy = candidates[:, None] + z
    error, kl = float(x) - w * noisy, 0.5 * candidates**2
    right = 0.5 * error.square() @ weights + kl
    printed = {"square": error.square() @ weights + kl, "norm": error.abs() @ weights}
    printed["norm"] = printed["norm"] + kl
    n = len(candidates)
    q = MultivariateNormal(candidates[:, None], torch.eye(1).double().expand(n, 1, 1))
    bound = elbo(model.log_joint, q, x.expand(n, 1), GaussHermite(3)).value
    constant = 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(-bound, right + constant, rtol=1e-10, atol=1e-10)
    best = float(candidates[right.argmin()])
    # the best λ is the posterior mean, by conditioning (z, x)
    assert best == pytest.approx(w * float(x) / (w**2 + 1), abs=1e-3)
    for wrong in printed.values():
        assert abs(float(candidates[wrong.argmin()]) - best) > 0.05
        assert abs(float((wrong - right)[right.argmin()])) > 0.1


# 002-E5: the path is not the product of its marginals


def test_the_states_of_a_path_are_not_independent_given_the_data() -> None:
    n, x_0 = 20_000, 0.7
    z = torch.randn(n, 2, generator=seeded(41), dtype=torch.float64)
    x_1 = math.sqrt(0.7) * x_0 + math.sqrt(0.3) * z[:, 0]
    x_2 = math.sqrt(0.6) * x_1 + math.sqrt(0.4) * z[:, 1]
    pair = torch.stack([x_1, x_2], 1)
    # what remains: the marginals are those of the schedule
    for t, x in ((1, x_1), (2, x_2)):
        alpha_bar = float(CHAIN.alpha_bar[t])
        assert_mean(x, math.sqrt(alpha_bar) * x_0)
        assert_mean((x - math.sqrt(alpha_bar) * x_0) ** 2, 1 - alpha_bar)
    covariance = products(pair)[:, 0, 1]
    truth = math.sqrt(1 - float(CHAIN.beta[2])) * float(CHAIN.noise_variance[1])
    assert_mean(covariance, truth)
    error = float(covariance.std()) / math.sqrt(n)
    # the product of the marginals has covariance 0
    assert float(covariance.mean()) > 20 * error
    correlation = truth / math.sqrt(
        float(CHAIN.noise_variance[1] * CHAIN.noise_variance[2])
    )
    assert correlation > 0.5
    # conditioned on x_2, x_1 is where the joint says, not where its marginal is
    gain = truth / float(CHAIN.noise_variance[2])
    x_2 = torch.tensor([[2.0]], dtype=torch.float64)
    posterior = math.sqrt(0.7) * x_0 + gain * (2.0 - math.sqrt(0.42) * x_0)
    got = CHAIN.posterior_mean(x_2, torch.full_like(x_2, x_0), 2)
    assert float(got) == pytest.approx(posterior, rel=1e-9)
    assert abs(posterior - math.sqrt(0.7) * x_0) > 0.1


# 002-E6: the sum of KLs starts at t = 2


def test_at_the_first_step_the_kl_is_infinite_and_the_reconstruction_is_not() -> None:
    variances = CHAIN.sampler_variance()
    x_0 = torch.tensor([[0.8]], dtype=torch.float64)
    terms = elbo_terms(CHAIN, shrunk, x_0, variances, GaussHermite(2))
    later = float(terms.denoising[0, 2:].sum() + terms.prior)
    # q(x_0 | x_1, x_0) narrowed to the point mass that it is
    printed = []
    for width in (1e-2, 1e-4, 1e-8, 1e-16):
        narrow = gaussian_kl(
            x_0,
            torch.tensor(width, dtype=torch.float64),
            shrunk(math.sqrt(0.7) * x_0, 1),
            variances[1],
        )
        printed.append(-float(terms.reconstruction) + later + float(narrow))
    assert printed == sorted(printed)
    assert printed[-1] > printed[0] + 10
    steps = np.diff(printed)[1:]
    assert steps == pytest.approx([0.5 * math.log(1e4), 0.5 * math.log(1e8)], abs=1e-3)
    # the right sum is −ELBO: E_q[log q(x_1 … x_T | x_0) − log p(x_0 … x_T)], by draws
    n = 40_000
    states, log_ratio = [torch.full((n, 1), 0.8, dtype=torch.float64)], 0.0
    for t in range(1, 5):
        beta, z = CHAIN.beta[t], torch.randn(n, 1, generator=seeded(42 + t)).double()
        mean = (1 - beta).sqrt() * states[-1]
        states.append(mean + beta.sqrt() * z)
        log_ratio = log_ratio + Normal(mean, beta.sqrt()).log_prob(states[-1])
        model = Normal(shrunk(states[-1], t), variances[t].sqrt())
        log_ratio = log_ratio - model.log_prob(states[-2])
    log_ratio = log_ratio - Normal(0.0, 1.0).log_prob(states[-1])
    assert_mean(log_ratio[:, 0], -float(terms.elbo))
    with pytest.raises(ValueError, match="t must be a whole number >= 2, got 1"):
        denoising_kl(CHAIN, shrunk, x_0, x_0, 1, variances)


# 002-E7: the constant of the KL is 0 only if the variances are equal


def test_the_kl_of_a_step_has_a_constant_unless_its_variance_is_beta_tilde() -> None:
    """½ (β̃/β − 1 − log β̃/β) per dimension: 0.121 at t = 2 of the linear schedule."""
    schedule = VarianceSchedule.linear()
    x_0, eps = (
        torch.randn(5, 2, generator=seeded(s), dtype=torch.float64) for s in (46, 47)
    )

    def mean(x: Tensor, t: int) -> Tensor:
        return 0.99 * x

    beta_1, beta_2 = 1e-4, 1e-4 + 0.0199 / 999
    kept = (1 - beta_1) * (1 - beta_2)
    tilde = beta_1 / (1 - kept) * beta_2
    x_2 = math.sqrt(kept) * x_0 + math.sqrt(1 - kept) * eps
    q_mean = (
        math.sqrt(1 - beta_1) * beta_2 * x_0 + math.sqrt(1 - beta_2) * beta_1 * x_2
    ) / (1 - kept)
    for kind, variance in (("beta", beta_2), ("beta_tilde", tilde)):
        identity = torch.eye(2).double()
        truth = kl_divergence(
            MultivariateNormal(q_mean, tilde * identity),
            MultivariateNormal(mean(x_2, 2), variance * identity),
        )
        printed = (q_mean - mean(x_2, 2)).square().sum(1) / (2 * variance)
        got = denoising_kl(schedule, mean, x_0, eps, 2, schedule.sampler_variance(kind))
        torch.testing.assert_close(got, truth, rtol=1e-8, atol=1e-8)
        missing = 2 * 0.121 if kind == "beta" else 0.0
        torch.testing.assert_close(
            truth - printed, torch.full_like(truth, missing), rtol=0, atol=1e-3
        )


# 002-E9, E10, E11: the continuous bound, line by line


def score_and_slope(log_prob, y: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of log p on the line."""
    y = y.requires_grad_()
    (score,) = torch.autograd.grad(log_prob(y).sum(), y, create_graph=True)
    (slope,) = torch.autograd.grad(score.sum(), y)
    return score.detach(), slope


def continuous_forms() -> tuple[float, dict[str, float], dict[float, float]]:
    """log p_0(x), and what each line of the derivation gives for it at the exact score.

    E over Y_t = α x + σ ε of the variance-preserving path by quadrature, with m the
    score by automatic differentiation, g² = β(t) and −∇·f = ½ g².
    """
    mixture, path, x = three_gaussians_1d(), VariancePreserving(), 0.3
    z, weights = gauss_hermite(100)
    node, step = np.polynomial.legendre.leggauss(96)
    u = 0.5 * (1 + node)

    def moments(t: float) -> dict[str, float]:
        alpha = math.exp(-0.5 * (0.1 * t + 9.95 * t**2))
        sigma = math.sqrt(-math.expm1(-(0.1 * t + 9.95 * t**2)))
        law = noised(mixture, alpha, sigma)
        y = alpha * x + sigma * z[:, None]
        m, slope = score_and_slope(law.log_prob, y)
        transition = -z[:, None] / sigma  # ∇log q(y | x)
        return {
            "g²": 0.1 + 19.9 * t,
            "m²": float(weights @ m[:, 0] ** 2),
            "∇·m": float(weights @ slope[:, 0]),
            "m·∇log q": float(weights @ (m * transition)[:, 0]),
        }

    at = [moments(t) for t in u**2]
    measure = [w * v for w, v in zip(step, u, strict=True)]  # dt = 2u du

    def integral(rate) -> float:
        return sum(
            w * (rate(E) + 0.5 * E["g²"]) for w, E in zip(measure, at, strict=True)
        )

    alpha, sigma = math.exp(-0.5 * 10.05), math.sqrt(-math.expm1(-10.05))
    end = noised(mixture, alpha, sigma).log_prob(alpha * x + sigma * z[:, None])
    prior = float(weights @ end)
    forms = {
        "divergence": lambda E: 0.5 * E["g²"] * (E["m²"] + 2 * E["∇·m"]),
        "Stein": lambda E: 0.5 * E["g²"] * (E["m²"] - 2 * E["m·∇log q"]),
        # E9: g² of one time outside the integral; E10: the bracket closed early;
        # E11: plus in the place of minus
        "bracket": lambda E: 0.5 * E["g²"] * E["m²"] + 2 * E["∇·m"],
        "plus": lambda E: 0.5 * E["g²"] * (E["m²"] + 2 * E["m·∇log q"]),
    }
    values = {name: prior - integral(rate) for name, rate in forms.items()}

    def outside(t: float) -> float:
        g_squared = 0.1 + 19.9 * t
        inner = sum(
            w * (E["m²"] + 2 * E["∇·m"]) for w, E in zip(measure, at, strict=True)
        )
        return prior - 0.5 * g_squared * inner - 0.5 * 10.05

    truth = float(noised(mixture, 1.0, 0.0).log_prob(torch.tensor([[x]]).double()))
    # the package, in both of its forms
    denoiser = ExactDenoiser(path, mixture)
    point = torch.tensor([[x]], dtype=torch.float64)
    for rate in (divergence_rate, denoising_rate):
        got = continuous_elbo(
            denoiser,
            point,
            path.marginal(mixture, 1.0).log_prob,
            GaussHermite(80),
            rate,
            times=96,
        )
        values[rate.__name__] = float(got.elbo)
    return truth, values, {t: outside(t) for t in (0.0, 0.5, 1.0)}


def test_the_continuous_bound_has_half_g_squared_inside_and_minus_twice_stein() -> None:
    truth, values, outside = continuous_forms()
    for name in ("divergence", "Stein", "divergence_rate", "denoising_rate"):
        assert values[name] == pytest.approx(truth, abs=1e-6), name
    for wrong in (values["bracket"], values["plus"], *outside.values()):
        assert abs(wrong - truth) > 1
