"""DDIM against joint-Gaussian conditioning and the flow; Langevin against its laws."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from diffedu.denoiser import Denoiser, ExactDenoiser
from diffedu.metrics import energy_distance, sampling_floor
from diffedu.mixture import (
    GaussianMixture,
    three_gaussians,
    three_gaussians_1d,
    two_gaussians,
)
from diffedu.path import (
    Cosine,
    GaussianPath,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from diffedu.samplers import (
    annealed_langevin,
    ddim,
    langevin,
    last,
    metropolis_langevin,
    noise_ladder,
    snr_rule,
    trajectory,
    variance_rule,
)
from tests.package.cases import every_path
from tests.package.oracles import (
    assert_mean,
    cell,
    lattice,
    noised,
    order,
    products,
    torch_mixture,
)

POINT = torch.tensor([0.7, -1.3], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class PointMass(Denoiser):
    """Knows that x_0 is POINT."""

    def x0(self, x_t: Tensor, t: Tensor) -> Tensor:
        return POINT.expand_as(x_t)

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        return (x_t - self.path.alpha(t) * POINT) / self.path.sigma(t)


def conditioned(path: GaussianPath, t: float, s: float) -> tuple[float, float, float]:
    """x_s given x_t and x_0 is N(a x_0 + b x_t, variance): joint-Gaussian conditioning.

    Given x_0, (x_s, x_t) is Gaussian with x_t = r x_s + noise, r = α_t/α_s, because the
    process is Markov; its joint covariance is conditioned on x_t by a linear solve.
    """
    alpha_s, alpha_t = float(path.alpha(s)), float(path.alpha(t))
    v_s, v_t = float(path.variance(s)), float(path.variance(t))
    joint = np.array([[v_s, alpha_t / alpha_s * v_s], [alpha_t / alpha_s * v_s, v_t]])
    b = float(np.linalg.solve(joint[1:, 1:], joint[1:, :1]).item())
    variance = 1 / np.linalg.inv(joint)[0, 0]
    return alpha_s - b * alpha_t, b, float(variance)


# What a step does


@every_path
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_step_noise_is_eta_times_the_posterior_deviation(
    path: GaussianPath, eta: float
) -> None:
    t, s, n = 0.7 * path.t_max, 0.5 * path.t_max, 40_000
    x_t = torch.tensor([0.4, 0.9], dtype=torch.float64).expand(n, 2)
    x_s = last(ddim(PointMass(path), x_t, [t, s], eta, seeded()))
    _, _, variance = conditioned(path, t, s)
    spread = (x_s - x_s.mean(0)).square()
    if eta == 0:
        assert spread.max() < 1e-24  # only rounding differs between points
    else:
        assert_mean(spread, eta**2 * variance)
        assert_mean(products(x_s)[:, 0, 1], 0.0)


@every_path
def test_at_eta_one_the_step_has_the_posterior_mean(path: GaussianPath) -> None:
    t, s, n = 0.7 * path.t_max, 0.5 * path.t_max, 40_000
    a, b, _ = conditioned(path, t, s)
    for x_t in torch.tensor([[0.4, 0.9], [-2.0, 1.0]], dtype=torch.float64):
        x_s = last(ddim(PointMass(path), x_t.expand(n, 2), [t, s], 1.0, seeded(1)))
        assert_mean(x_s, a * POINT + b * x_t)
    # two starts and the same noise: the weight of x_t exactly
    start = torch.zeros(3, 2, dtype=torch.float64)
    from_zero = last(ddim(PointMass(path), start, [t, s], 1.0, seeded()))
    from_one = last(ddim(PointMass(path), start + 1, [t, s], 1.0, seeded()))
    torch.testing.assert_close(from_one - from_zero, torch.full_like(start, b))


@every_path
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_every_eta_keeps_the_law_of_the_noised_point(
    path: GaussianPath, eta: float
) -> None:
    """q(x_s | x_0) = N(α_s x_0, σ_s²): weight of ε̂ squared and noise add to σ_s²."""
    t, s = 0.7 * path.t_max, 0.5 * path.t_max
    alpha_t, sigma_t = float(path.alpha(t)), float(path.sigma(t))
    alpha_s, sigma_s = float(path.alpha(s)), float(path.sigma(s))
    start = alpha_t * POINT.expand(3, 2)  # ε = 0
    from_mean = last(ddim(PointMass(path), start, [t, s], eta, seeded()))
    from_one = last(ddim(PointMass(path), start + sigma_t, [t, s], eta, seeded()))
    weight = float((from_one - from_mean).mean())
    _, _, variance = conditioned(path, t, s)
    assert weight**2 + eta**2 * variance == pytest.approx(sigma_s**2)
    # and in distribution, over two steps
    n = 40_000
    x_t = alpha_t * POINT + sigma_t * torch.randn(n, 2, generator=seeded(2)).double()
    x_s = last(ddim(PointMass(path), x_t, [t, 0.6 * path.t_max, s], eta, seeded(3)))
    assert_mean(x_s, alpha_s * POINT)
    assert_mean((x_s - alpha_s * POINT).square(), sigma_s**2)


@every_path
def test_eta_zero_is_eulers_method_in_the_noise_to_signal_ratio(
    path: GaussianPath,
) -> None:
    """d(x/α)/d(σ/α) = E[ε | x_t], one Euler step per pair of times."""
    denoiser = ExactDenoiser(path, three_gaussians())
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    times = [0.9 * path.t_max, 0.5 * path.t_max, 0.2 * path.t_max]
    y = x / path.alpha(times[0])
    for t, s in ((times[0], times[1]), (times[1], times[2])):
        ratio_t, ratio_s = (path.sigma(u) / path.alpha(u) for u in (t, s))
        y = y + (ratio_s - ratio_t) * denoiser.eps(path.alpha(t) * y, t)
    got = last(ddim(denoiser, x, times))
    torch.testing.assert_close(got, path.alpha(times[2]) * y)


@every_path
def test_a_point_mass_is_reached_exactly_in_one_step(path: GaussianPath) -> None:
    mixture = GaussianMixture(
        [1.0], POINT[None], 1e-12 * torch.eye(2, dtype=torch.float64)[None]
    )
    x = 2 * torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    t = 0.9 * path.t_max
    one = last(ddim(ExactDenoiser(path, mixture), x, [t, 0.0]))
    # the component's deviation is 1e-6, and x lies some deviations of p_t away
    torch.testing.assert_close(one, POINT.expand(5, 2), rtol=0, atol=1e-5)
    s = 0.3 * path.t_max
    eps = (x - path.alpha(t) * POINT) / path.sigma(t)
    midway = last(ddim(ExactDenoiser(path, mixture), x, [t, s]))
    torch.testing.assert_close(
        midway, path.alpha(s) * POINT + path.sigma(s) * eps, rtol=0, atol=1e-5
    )
    many = last(ddim(ExactDenoiser(path, mixture), x, time_grid(t, s, 7)))
    torch.testing.assert_close(many, midway, rtol=0, atol=1e-5)


@every_path
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_last_step_to_the_data_is_the_denoised_point(
    path: GaussianPath, eta: float
) -> None:
    denoiser = ExactDenoiser(path, three_gaussians())
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    t = 0.4 * path.t_max
    end = last(ddim(denoiser, x, [t, 0.0], eta, seeded()))
    torch.testing.assert_close(end, denoiser.x0(x, t))


# What a run does


def test_eta_zero_converges_to_the_flow_with_order_one() -> None:
    path = VariancePreserving()
    denoiser = ExactDenoiser(path, three_gaussians())
    x = torch.tensor([[0.8, -0.4], [-1.1, 0.3]], dtype=torch.float64)

    def velocity(t: float, state: np.ndarray) -> np.ndarray:
        x_t = torch.from_numpy(state.reshape(2, 2))
        return denoiser.velocity(x_t, t).numpy().ravel()

    flow = scipy.integrate.solve_ivp(
        velocity, (0.9, 0.1), x.numpy().ravel(), rtol=1e-8, atol=1e-8
    )
    truth = torch.from_numpy(flow.y[:, -1].reshape(2, 2))
    counts = [25, 50, 100]
    errors = [
        float((last(ddim(denoiser, x, time_grid(0.9, 0.1, n))) - truth).abs().max())
        for n in counts
    ]
    assert order(counts, errors) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_many_steps_sample_the_data(eta: float) -> None:
    path, mixture, n = VariancePreserving(), three_gaussians(), 1000
    generator = seeded(9)
    x = path.marginal(mixture, 1.0).sample(n, generator)
    times = time_grid(1.0, 0.0, 100, power=2.0)
    samples = last(ddim(ExactDenoiser(path, mixture), x, times, eta, generator))
    distance = energy_distance(samples, mixture.sample(n, generator))
    floor = sampling_floor(energy_distance, mixture.sample, n, 8, generator)
    # spread of one distance about the floor's mean, plus a bias of 100 steps
    spread = floor.standard_error * math.sqrt(8)
    assert distance.value <= floor.value + 5 * spread + 0.005


# Generators


def test_the_start_is_yielded_first_and_then_a_state_per_step() -> None:
    denoiser = ExactDenoiser(Cosine(), three_gaussians())
    x = torch.ones(3, 2, dtype=torch.float64)
    for eta in (0.0, 1.0):
        states = list(ddim(denoiser, x, [0.9, 0.5, 0.2, 0.1], eta, seeded()))
        assert len(states) == 4
        assert torch.equal(states[0], x)
        again = list(ddim(denoiser, x, [0.9, 0.5, 0.2, 0.1], eta, seeded()))
        assert all(torch.equal(a, b) for a, b in zip(states, again, strict=True))


def test_eta_zero_uses_no_noise() -> None:
    denoiser = ExactDenoiser(Cosine(), three_gaussians())
    generator = seeded()
    before = generator.get_state()
    last(ddim(denoiser, torch.ones(3, 2).double(), [0.9, 0.5], 0.0, generator))
    assert torch.equal(generator.get_state(), before)


def test_last_and_trajectory_keep_what_they_say() -> None:
    states = [torch.full((2, 3), float(i)) for i in range(4)]
    assert torch.equal(last(iter(states)), states[3])
    kept = trajectory(iter(states))
    assert kept.shape == (4, 2, 3)
    assert all(torch.equal(kept[i], states[i]) for i in range(4))


# Langevin dynamics: the unadjusted chain

CENTRE = torch.tensor([1.3, -0.6], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.1, 0.45], [0.45, 0.7]], dtype=torch.float64)
GAUSSIAN = GaussianMixture([1.0], CENTRE[None], COVARIANCE[None])


def biased(covariance: Tensor, h: float) -> Tensor:
    """The fixed point of V = A V Aᵀ + h I, A = I − (h/2) Σ⁻¹, by iteration."""
    identity = torch.eye(2, dtype=torch.float64)
    A = identity - 0.5 * h * torch.linalg.inv(covariance)
    V = covariance
    for _ in range(500):
        V = A @ V @ A.T + h * identity
    return V


@pytest.mark.parametrize("h", [0.1, 0.8])
def test_the_unadjusted_chain_settles_at_its_own_law(h: float) -> None:
    """Mean m and eigenvalues λ/(1 − h/(4λ)), from a start that is neither."""
    truth = biased(COVARIANCE, h)
    Lam, Q = torch.linalg.eigh(COVARIANCE)
    torch.testing.assert_close(truth, Q @ torch.diag(Lam / (1 - h / (4 * Lam))) @ Q.T)
    n, steps = 10_000, int(20 / h)
    start = torch.tensor([3.0, 3.0], dtype=torch.float64).expand(n, 2)
    x = last(langevin(GAUSSIAN.score, start, h, steps, seeded(20)))
    assert_mean(x, CENTRE)
    assert_mean(products(x), truth)
    if h == 0.8:  # the bias is not a matter of noise
        gap = products(x).mean(0) - COVARIANCE
        error = products(x).std(0) / math.sqrt(n)
        assert float(gap[1, 1]) > 10 * float(error[1, 1])


def test_for_a_unit_gaussian_the_bias_is_one_over_one_minus_a_quarter_step() -> None:
    x = torch.randn(40_000, 1, generator=seeded(21), dtype=torch.float64)
    x = last(langevin(torch.neg, x * math.sqrt(4 / 3), 1.0, 1, seeded(22)))
    assert_mean(x.square(), 4 / 3)  # kept by a step, so by any number of them
    # and a step of 4 is unstable: |1 − h/2| = 1
    far = last(langevin(torch.neg, torch.ones(500, 1).double(), 4.5, 60, seeded(23)))
    assert float(far.square().mean()) > 1e6


def test_a_step_is_half_the_score_and_the_root_of_the_noise() -> None:
    n, h = 40_000, 0.3
    point = torch.tensor([0.4, -0.9], dtype=torch.float64)
    states = list(langevin(GAUSSIAN.score, point.expand(n, 2), h, 1, seeded(24)))
    assert torch.equal(states[0], point.expand(n, 2))
    drift = torch.linalg.solve(COVARIANCE, CENTRE - point)
    assert_mean(states[1], point + 0.5 * h * drift)
    assert_mean(products(states[1]), h * torch.eye(2, dtype=torch.float64))


def test_langevin_yields_its_start_and_a_state_per_step() -> None:
    x = torch.ones(3, 2, dtype=torch.float64)
    runs = [
        lambda: langevin(GAUSSIAN.score, x, 0.1, 4, seeded()),
        lambda: metropolis_langevin(
            GAUSSIAN.log_prob, GAUSSIAN.score, x, 0.1, 4, seeded()
        ),
    ]
    for run in runs:
        states = trajectory(run())
        assert states.shape == (5, 3, 2)
        assert torch.equal(states[0], x)
        assert not torch.equal(states[3], states[4])
        assert torch.equal(states, trajectory(run()))


# The adjusted chain


def test_the_adjusted_chain_keeps_the_law_where_the_unadjusted_does_not() -> None:
    h, n = 0.8, 20_000
    start = GAUSSIAN.sample(n, seeded(25))
    states = trajectory(
        metropolis_langevin(GAUSSIAN.log_prob, GAUSSIAN.score, start, h, 25, seeded(26))
    )
    assert_mean(states[-1], CENTRE)
    assert_mean(products(states[-1]), COVARIANCE)
    moved = (states[1:] != states[:-1]).any(-1).double().mean()
    assert 0.5 < float(moved) < 0.95
    # from elsewhere it comes to the same law
    start = torch.tensor([3.0, 3.0], dtype=torch.float64).expand(n, 2)
    x = last(
        metropolis_langevin(GAUSSIAN.log_prob, GAUSSIAN.score, start, h, 50, seeded(27))
    )
    assert_mean(x, CENTRE)
    assert_mean(products(x), COVARIANCE)
    # at this step the unadjusted chain is off by much more than noise
    assert float((biased(COVARIANCE, h) / COVARIANCE).max()) > 1.3


def test_the_adjusted_chain_keeps_a_mixture() -> None:
    """E h(x) for h that feel the modes, their width and their weights."""
    mixture, n = three_gaussians_1d(), 20_000
    x = mixture.sample(n, seeded(28))
    for h in (0.02, 0.2):
        end = last(
            metropolis_langevin(mixture.log_prob, mixture.score, x, h, 20, seeded(29))
        )
        grid = lattice(mixture, 4000)
        p = torch_mixture(mixture).log_prob(grid).exp() * cell(grid)
        for function in (torch.sin, torch.square, lambda x: (3 * x).cos(), torch.tanh):
            assert_mean(function(end), p @ function(grid))
        biased = last(langevin(mixture.score, x, h, 20, seeded(29)))
    values = biased.square()
    error = float(values.std()) / math.sqrt(n)
    assert abs(float(values.mean() - p @ grid.square())) > 20 * error


@pytest.mark.parametrize("start", [-1.0, 0.35, 2.2])
def test_a_move_is_accepted_with_the_ratio_of_the_two_ways(start: float) -> None:
    """The kernel of one step by quadrature over proposals, densities by SciPy."""
    mixture, h, n = three_gaussians_1d(), 0.15, 60_000
    p = torch_mixture(mixture)
    y = torch.linspace(start - 6, start + 6, 8001, dtype=torch.float64)[:, None]
    x = torch.tensor([[start]], dtype=torch.float64)

    def way(a: Tensor, b: Tensor) -> Tensor:
        """log q(b | a), the slope of log p by a difference."""
        slope = (p.log_prob(a + 1e-6) - p.log_prob(a - 1e-6)) / 2e-6
        mean = a[:, 0] + 0.5 * h * slope
        return torch.from_numpy(scipy.stats.norm.logpdf(b[:, 0], mean, math.sqrt(h)))

    log_ratio = p.log_prob(y) + way(y, x) - p.log_prob(x) - way(x, y)
    accepted = way(x, y).exp() * log_ratio.exp().clamp(max=1) * cell(y)
    chance = float(accepted.sum())
    assert 0.05 < chance < 0.95
    chain = metropolis_langevin(
        mixture.log_prob, mixture.score, x.expand(n, 1), h, 1, seeded(30)
    )
    end = last(chain)
    assert_mean((end != start).double(), chance)
    for function in (torch.sin, torch.square):
        truth = accepted @ function(y) + (1 - chance) * function(x[0])
        assert_mean(function(end), truth)


def test_the_constant_of_the_density_does_not_matter() -> None:
    mixture = three_gaussians()
    x = mixture.sample(50, seeded(31))
    one, other = (
        trajectory(
            metropolis_langevin(
                lambda x, c=c: mixture.log_prob(x) + c,
                mixture.score,
                x,
                0.3,
                9,
                seeded(),
            )
        )
        for c in (0.0, 7.0)
    )
    assert torch.equal(one, other)


# Annealed Langevin dynamics


def test_noise_levels_mend_the_weights_of_far_modes() -> None:
    """.2 and .8, within .02; without the ladder half of the points in each."""
    mixture, path, n = two_gaussians(), VarianceExploding(0.01, 25.0), 6000
    denoiser = ExactDenoiser(path, mixture)

    def share(x: Tensor) -> float:
        return float((x.sum(1) > 0).double().mean())

    wide = 20 * torch.randn(n, 2, generator=seeded(32), dtype=torch.float64)
    times = noise_ladder(path, 20.0, 0.5, 25)
    rule = variance_rule(path, 0.5)
    x = last(annealed_langevin(denoiser, wide, times, rule, 40, seeded(33)))
    assert share(x) == pytest.approx(0.8, abs=0.02)
    # and the law within a mode is that of the last level, with the bias of h = .125
    upper = x[x.sum(1) > 0]
    assert_mean(upper, torch.tensor([5.0, 5.0]).double())
    assert_mean((upper - 5) ** 2, 1.25 / (1 - 0.125 / 5))
    plain = last(langevin(mixture.score, wide, 0.1, 300, seeded(34)))
    assert share(plain) == pytest.approx(0.5, abs=0.03)


@every_path
def test_between_levels_the_signal_is_rescaled(path: GaussianPath) -> None:
    """With steps of no length, x at time t is α_t/α_T x."""
    denoiser = ExactDenoiser(path, three_gaussians())
    x = torch.randn(4, 2, generator=seeded(35), dtype=torch.float64)
    times = [0.9 * path.t_max, 0.5 * path.t_max, 0.1 * path.t_max]
    still = variance_rule(path, 1e-20)
    states = list(annealed_langevin(denoiser, x, times, still, 2, seeded()))
    assert len(states) == 1 + 3 * 2
    assert torch.equal(states[0], x)
    for i, t in enumerate(times):
        ratio = float(path.alpha(t)) / float(path.alpha(times[0]))
        for state in states[1 + 2 * i : 3 + 2 * i]:
            torch.testing.assert_close(state, ratio * x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("path", [VariancePreserving(), VarianceExploding()])
def test_every_level_has_its_own_score_and_step(path: GaussianPath) -> None:
    """One Langevin step on p_t after another, with the law of each by moments."""
    n, times, relative = 40_000, [0.6, 0.4, 0.3], 0.4
    denoiser = ExactDenoiser(path, GAUSSIAN)
    start = torch.tensor([0.5, -0.2], dtype=torch.float64)
    rule = variance_rule(path, relative)
    x = last(
        annealed_langevin(denoiser, start.expand(n, 2), times, rule, 2, seeded(36))
    )
    mean, V = start, torch.zeros(2, 2, dtype=torch.float64)
    identity, before = torch.eye(2, dtype=torch.float64), times[0]
    for t in times:
        alpha, variance = float(path.alpha(t)), float(path.variance(t))
        ratio = alpha / float(path.alpha(before))
        mean, V, before = ratio * mean, ratio**2 * V, t
        h = relative * variance
        precision = torch.linalg.inv(alpha**2 * COVARIANCE + variance * identity)
        A = identity - 0.5 * h * precision
        for _ in range(2):
            mean = mean + 0.5 * h * precision @ (alpha * CENTRE - mean)
            V = A @ V @ A.T + h * identity
    assert_mean(x, mean)
    assert_mean(products(x), V)


def test_the_step_rules_are_what_they_say() -> None:
    path = VariancePreserving()
    t = torch.tensor(0.4, dtype=torch.float64)
    score, z = torch.randn(2, 30, 2, generator=seeded(37), dtype=torch.float64)
    variance = 1 - math.exp(-(0.1 * 0.4 + 0.5 * 19.9 * 0.4**2))
    h = variance_rule(path, 0.3)(t, score, z)
    assert float(h) == pytest.approx(0.3 * variance)
    h = float(snr_rule(0.17)(t, score, z))
    drift, noise = 0.5 * h * score, math.sqrt(h) * z
    lengths = [float(v.square().sum(1).sqrt().mean()) for v in (drift, noise)]
    assert lengths[0] / lengths[1] == pytest.approx(0.17)


def test_the_snr_rule_drives_the_ladder_too() -> None:
    """At every level: the drift 0.2 times the noise, as long as noise dominates."""
    mixture, path = three_gaussians(), VariancePreserving()
    denoiser, heights = ExactDenoiser(path, mixture), []
    rule = snr_rule(0.2)

    def noted(t: Tensor, score: Tensor, z: Tensor) -> Tensor:
        heights.append(float(rule(t, score, z)))
        return rule(t, score, z)

    x = torch.randn(2000, 2, generator=seeded(38), dtype=torch.float64)
    times = noise_ladder(path, 20.0, 0.05, 40)
    end = last(annealed_langevin(denoiser, x, times, noted, 10, seeded(39)))
    assert len(heights) == 40 * 10
    # ‖s‖ is about 1/σ: so is the step about σ²
    assert heights[0] > 4 * heights[-1]
    alpha, sigma = float(path.alpha(times[-1])), float(path.sigma(times[-1]))
    law = noised(mixture, alpha, sigma)
    # the mean squared length, to some per cent of the steps' bias
    size = float((law.variance + law.mean**2).sum())
    assert float(end.square().sum(1).mean()) == pytest.approx(size, rel=0.15)


@every_path
def test_the_ladder_is_geometric_in_the_noise_to_signal_ratio(
    path: GaussianPath,
) -> None:
    times = noise_ladder(path, 5.0, 0.05, 7)
    assert times.shape == (7,)
    assert (times.diff() < 0).all()
    ratios = path.sigma(times) / path.alpha(times)
    truth = [5.0 * 0.01 ** (i / 6) for i in range(7)]
    assert ratios.tolist() == pytest.approx(truth, rel=1e-9)
