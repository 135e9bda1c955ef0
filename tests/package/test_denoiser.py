"""The five readings against Bayes on a lattice, each other and simulation."""

import math

import pytest
import torch
from torch import Tensor

from diffedu.denoiser import Denoiser, ExactDenoiser
from diffedu.mixture import GaussianMixture, three_gaussians, three_gaussians_1d
from diffedu.path import (
    TARGETS,
    Cosine,
    GaussianPath,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
)
from diffedu.sde import forward, reverse
from tests.package.oracles import bayes, derivative, gradient, noised, random_mixture

PATHS = [
    OrnsteinUhlenbeck(),
    OrnsteinUhlenbeck(0.8, 1.1, 2.0),
    OrnsteinUhlenbeck(0.0, 1.3),
    VariancePreserving(),
    Cosine(),
    VarianceExploding(),
    Straight(),
]
every_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
every_target = pytest.mark.parametrize("target", TARGETS)
every_mixture = pytest.mark.parametrize(
    "mixture",
    [three_gaussians(), three_gaussians_1d(), random_mixture(1, 2, seed=1)],
    ids=["plane", "line", "one component"],
)


def points(mixture: GaussianMixture, n: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(2)
    return 1.2 * torch.randn(n, mixture.dim, generator=g, dtype=torch.float64)


def meaning(path: GaussianPath, target: str, x_0: Tensor, x_t: Tensor, t: float):
    """The target of one pair (x_0, x_t), from what it means."""
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    eps = (x_t - alpha * x_0) / sigma
    h = min(t, path.t_max - t) / 40
    alpha_dot = float(derivative(path.alpha, t, h))
    sigma_dot = float(derivative(path.sigma, t, h))
    return {
        "x0": x_0,
        "eps": eps,
        "score": -(x_t - alpha * x_0) / sigma**2,
        "v": alpha * eps - sigma * x_0,
        "velocity": alpha_dot * x_0 + sigma_dot * eps,
    }[target]


@every_path
@every_target
@pytest.mark.parametrize("mixture", [three_gaussians(), three_gaussians_1d()])
def test_every_reading_is_the_mean_of_its_target_given_the_noisy_point(
    path: GaussianPath, target: str, mixture: GaussianMixture
) -> None:
    t = 0.6 * path.t_max
    x_t = points(mixture, n=3)
    x_0, p = bayes(mixture, x_t, path.alpha(t), path.sigma(t), points=250)
    values = meaning(path, target, x_0[None], x_t[:, None], t)
    truth = torch.einsum("np,npd->nd", p, values)
    got = getattr(ExactDenoiser(path, mixture), target)(x_t, t)
    torch.testing.assert_close(got, truth, rtol=1e-7, atol=1e-8)


@every_path
@every_mixture
def test_the_score_is_the_gradient_of_the_noised_density(
    path: GaussianPath, mixture: GaussianMixture
) -> None:
    x_t = points(mixture)
    for t in (1e-3, 0.37 * path.t_max, 0.999 * path.t_max):
        law = noised(mixture, path.alpha(t), path.sigma(t))
        score = ExactDenoiser(path, mixture).score(x_t, t)
        torch.testing.assert_close(
            score, gradient(law.log_prob, x_t), rtol=1e-9, atol=1e-9
        )


@every_path
@every_mixture
def test_the_readings_are_conversions_of_each_other(
    path: GaussianPath, mixture: GaussianMixture
) -> None:
    denoiser, x_t = ExactDenoiser(path, mixture), points(mixture)
    for t in (1e-2 * path.t_max, 0.37 * path.t_max, 0.99 * path.t_max):
        readings = {target: denoiser.read(target, x_t, t) for target in TARGETS}
        for source in TARGETS:
            for target in TARGETS:
                got = path.convert(readings[source], x_t, t, source, target)
                # dividing by alpha or sigma, 1e-2 at the ends, loses up to four digits
                scale = float(readings[target].abs().max())
                torch.testing.assert_close(
                    got, readings[target], rtol=1e-8, atol=1e-8 * scale + 1e-10
                )


@every_path
def test_the_velocity_is_the_drift_of_the_probability_flow(path: GaussianPath) -> None:
    mixture = three_gaussians()
    denoiser, x_t = ExactDenoiser(path, mixture), points(mixture)
    flow = reverse(forward(path), denoiser.score, eta=0.0)
    for t in (1e-3, 0.37 * path.t_max, 0.999 * path.t_max):
        time = torch.tensor(t, dtype=torch.float64)
        got, truth = denoiser.velocity(x_t, t), flow.drift(x_t, time)
        # f and g² are 1000 near the end of Straight and Cosine, and cancel
        torch.testing.assert_close(got, truth, rtol=1e-8, atol=1e-8)


@every_path
def test_at_time_zero_the_readings_are_their_limits(path: GaussianPath) -> None:
    mixture = three_gaussians()
    denoiser, x = ExactDenoiser(path, mixture), points(mixture)
    data_score = gradient(noised(mixture, 1.0, 0.0).log_prob, x)
    torch.testing.assert_close(denoiser.x0(x, 0.0), x)
    torch.testing.assert_close(denoiser.eps(x, 0.0), torch.zeros_like(x))
    torch.testing.assert_close(denoiser.score(x, 0.0), data_score)
    torch.testing.assert_close(denoiser.v(x, 0.0), torch.zeros_like(x))
    velocity = denoiser.velocity(x, 0.0)
    drift = path.f(0.0) * x - 0.5 * path.g(0.0) ** 2 * data_score
    torch.testing.assert_close(velocity, drift)
    # the readings vary like t, with slopes below 1e4 (VE)
    near = denoiser.velocity(x, 1e-9)
    torch.testing.assert_close(near, velocity, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", [Straight(), Cosine()])
def test_without_signal_only_the_mean_of_the_data_is_known(path: GaussianPath) -> None:
    mixture = three_gaussians()
    denoiser, x = ExactDenoiser(path, mixture), points(mixture)
    mean = torch.tensor([-0.23, 0.02], dtype=torch.float64).expand_as(x)
    # cos(π/2) is 6e-17 in floating point
    close = {"rtol": 0.0, "atol": 1e-12}
    torch.testing.assert_close(denoiser.x0(x, 1.0), mean, **close)
    torch.testing.assert_close(denoiser.eps(x, 1.0), x, **close)
    torch.testing.assert_close(denoiser.v(x, 1.0), -mean, **close)
    speed = x - mean if isinstance(path, Straight) else -0.5 * math.pi * mean
    torch.testing.assert_close(denoiser.velocity(x, 1.0), speed, **close)


@every_target
def test_no_other_guess_has_a_smaller_squared_error(target: str) -> None:
    """The reading is the regression: its residual is orthogonal to functions of x_t."""
    path, mixture, t, n = VariancePreserving(), three_gaussians(), 0.3, 40_000
    g = torch.Generator().manual_seed(4)
    x_0 = mixture.sample(n, g)
    x_t = path.perturb(x_0, torch.randn(n, 2, generator=g, dtype=torch.float64), t)
    guess = ExactDenoiser(path, mixture).read(target, x_t, t)
    residual = meaning(path, target, x_0, x_t, t) - guess
    for function in (torch.ones_like, torch.sin, torch.tanh, lambda x: x, guess.mul):
        products = residual * function(x_t)
        error = products.std(0) / math.sqrt(n)
        assert (products.mean(0).abs() <= 5 * error).all()


@every_target
def test_one_time_per_point_is_a_loop_over_points(target: str) -> None:
    path, mixture = Cosine(), three_gaussians()
    denoiser, x_t = ExactDenoiser(path, mixture), points(mixture, n=4)
    t = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64)
    batch = denoiser.read(target, x_t, t)
    for i in range(4):
        one = denoiser.read(target, x_t[i : i + 1], float(t[i]))
        torch.testing.assert_close(batch[i], one[0])


class Stated(Denoiser):
    """A denoiser that states only x0 and eps, as a learned one does."""

    def x0(self, x_t: Tensor, t: float) -> Tensor:
        return torch.tanh(x_t)

    def eps(self, x_t: Tensor, t: float) -> Tensor:
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        return (x_t - alpha * torch.tanh(x_t)) / sigma


@every_path
@every_target
def test_a_denoiser_that_states_x0_and_eps_gets_the_other_readings(
    path: GaussianPath, target: str
) -> None:
    t, x_t = 0.6 * path.t_max, points(three_gaussians())
    got = Stated(path).read(target, x_t, t)
    truth = meaning(path, target, torch.tanh(x_t), x_t, t)
    torch.testing.assert_close(got, truth, rtol=1e-7, atol=1e-9)


@every_target
def test_float32_agrees_with_float64(target: str) -> None:
    path, mixture = VariancePreserving(), three_gaussians()
    x_t = points(mixture)
    double = ExactDenoiser(path, mixture).read(target, x_t, 0.2)
    single = ExactDenoiser(path, mixture.to(torch.float32)).read(
        target, x_t.float(), torch.tensor(0.2)
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
