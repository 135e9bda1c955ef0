"""DDIM against joint-Gaussian conditioning, the flow's ODE and point masses."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor

from diffedu.denoiser import Denoiser, ExactDenoiser
from diffedu.metrics import energy_distance, sampling_floor
from diffedu.mixture import GaussianMixture, three_gaussians
from diffedu.path import (
    Cosine,
    GaussianPath,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from diffedu.samplers import ddim, last, trajectory
from tests.package.oracles import assert_mean, order, products

PATHS = [
    OrnsteinUhlenbeck(0.8, 1.1),
    VariancePreserving(),
    Cosine(),
    VarianceExploding(),
    Straight(),
]
every_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
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
