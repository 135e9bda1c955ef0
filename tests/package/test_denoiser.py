"""The five readings against Bayes on a lattice, each other and simulation."""

import math

import pytest
import torch
from torch import Tensor, nn

from diffedu.denoiser import (
    NETWORK_TARGETS,
    Denoiser,
    ExactDenoiser,
    NeuralDenoiser,
    ScoreDenoiser,
)
from diffedu.mixture import GaussianMixture, three_gaussians, three_gaussians_1d
from diffedu.nets import MLP, EnergyMLP
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
from tests.package.cases import every_target
from tests.package.oracles import (
    bayes,
    derivative,
    gradient,
    jacobian,
    noised,
    random_mixture,
)

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


@every_path
def test_the_divergence_of_a_score_is_the_trace_of_its_jacobian(
    path: GaussianPath,
) -> None:
    """In closed form, and by differentiation for a denoiser that states x0 and eps."""
    t, x_t = 0.3 * path.t_max, points(random_mixture(3, 2))
    for denoiser in (ExactDenoiser(path, random_mixture(3, 2)), Stated(path)):
        score, divergence = denoiser.score_and_divergence(x_t, t)
        torch.testing.assert_close(score, denoiser.score(x_t, t), rtol=1e-9, atol=1e-9)
        J = jacobian(lambda x, denoiser=denoiser: denoiser.score(x, t), x_t)
        trace = J.diagonal(dim1=1, dim2=2).sum(1)
        torch.testing.assert_close(divergence, trace, rtol=1e-8, atol=1e-8)
        assert not score.requires_grad


@every_path
@every_mixture
def test_the_gaussian_of_an_exact_denoiser_has_the_moments_of_p_t(
    path: GaussianPath, mixture: GaussianMixture
) -> None:
    t = 0.4 * path.t_max
    d, denoiser = mixture.dim, ExactDenoiser(path, mixture)
    got = denoiser.gaussian(t, d)
    alpha, variance = float(path.alpha(t)), float(path.variance(t))
    law = noised(mixture, 1.0, 0.0)
    assert got.n_components == 1
    torch.testing.assert_close(got.mean, alpha * law.mean)
    centred = mixture.means - law.mean
    between = torch.einsum("k,ki,kj->ij", mixture.weights, centred, centred)
    within = torch.einsum("k,kij->ij", mixture.weights, mixture.covariances)
    covariance = alpha**2 * (between + within) + variance * torch.eye(d).double()
    torch.testing.assert_close(got.covariance, covariance)
    mean, of_data = denoiser.moments(d)
    torch.testing.assert_close(mean, law.mean)
    torch.testing.assert_close(of_data, between + within)


def test_where_the_data_are_unknown_their_gaussian_is_standard() -> None:
    got = Stated(OrnsteinUhlenbeck(0.8, 1.1)).gaussian(0.5, 3)
    alpha = math.exp(-0.4)
    variance = alpha**2 + 1.1**2 / 1.6 * (1 - alpha**2)
    torch.testing.assert_close(got.mean, torch.zeros(3).double())
    torch.testing.assert_close(got.covariance, variance * torch.eye(3).double())


# Denoisers made of a score


@every_path
@every_target
def test_a_score_makes_the_denoiser_that_it_came_from(
    path: GaussianPath, target: str
) -> None:
    exact = ExactDenoiser(path, random_mixture(3, 2))
    made = ScoreDenoiser(path, exact.score)
    x_t = points(random_mixture(3, 2))
    for t in (0.2 * path.t_max, 0.9 * path.t_max):
        got, truth = (d.read(target, x_t, t) for d in (made, exact))
        torch.testing.assert_close(got, truth, rtol=1e-8, atol=1e-8)


@every_path
@every_target
def test_any_score_makes_readings_that_belong_together(
    path: GaussianPath, target: str
) -> None:
    """One field, three conversions: x_t = α x̂_0 + σ ε̂ at every point."""
    denoiser = ScoreDenoiser(path, lambda x, t: torch.sin(x) + t)
    x_t, t = points(three_gaussians()), 0.3 * path.t_max
    s = torch.sin(x_t) + t
    alpha, sigma = path.alpha(t), path.sigma(t)
    x_0, eps = (x_t + sigma**2 * s) / alpha, -sigma * s
    torch.testing.assert_close(alpha * x_0 + sigma * eps, x_t)
    a, b = path.row(target, t)
    truth = a * x_0 + b * eps
    got = denoiser.read(target, x_t, t)
    torch.testing.assert_close(got, truth, rtol=1e-9, atol=1e-9)


def test_one_time_per_point_of_a_score() -> None:
    path, x_t = VariancePreserving(), points(three_gaussians(), 4)
    exact = ExactDenoiser(path, three_gaussians())
    made, t = ScoreDenoiser(path, exact.score), torch.tensor([0.1, 0.3, 0.6, 1.0])
    for target in TARGETS:
        torch.testing.assert_close(
            made.read(target, x_t, t.double()),
            exact.read(target, x_t, t.double()),
            rtol=1e-8,
            atol=1e-8,
        )


@pytest.mark.parametrize("mean", [0.4, torch.tensor([0.4, -0.7], dtype=torch.float64)])
def test_stated_moments_are_those_of_the_gaussian(mean: float | Tensor) -> None:
    path = OrnsteinUhlenbeck(0.8, 1.1)
    net = MLP(hidden=4, depth=1, features=2, generator=torch.Generator().manual_seed(0))
    alpha = math.exp(-0.4)
    variance = alpha**2 * 1.3**2 + 1.1**2 / 1.6 * (1 - alpha**2)
    for denoiser in (
        ScoreDenoiser(path, lambda x, t: -x, mean, 1.3),
        NeuralDenoiser(path, net, "v", mean, 1.3),
    ):
        got = denoiser.gaussian(0.5, 2)
        truth = alpha * torch.as_tensor(mean, dtype=torch.float64).expand(2)
        torch.testing.assert_close(got.mean, truth)
        torch.testing.assert_close(got.covariance, variance * torch.eye(2).double())
    # where nothing is stated
    plain = ScoreDenoiser(path, lambda x, t: -x).moments(2)
    torch.testing.assert_close(plain[0], torch.zeros(2).double())
    torch.testing.assert_close(plain[1], torch.eye(2).double())


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


# Learned denoisers


MEAN, SCALE = torch.tensor([0.4, -0.7], dtype=torch.float64), 1.3
every_network_target = pytest.mark.parametrize("target", NETWORK_TARGETS)


class Waves(nn.Module):
    """A network without weights that depends on all it reads."""

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        return torch.sin(1.7 * u.flip(1) + 0.5 * c[:, None]) + 0.3 * u


class Zero(nn.Module):
    """A network that answers 0."""

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        return torch.zeros_like(u)


class Converted(nn.Module):
    """`net`, which predicts `source`, as a network that predicts `target`.

    For the standardised pair cos φ x̄_0 + sin φ ε = u, with log tan(φ/2) = c.
    """

    def __init__(self, net: nn.Module, source: str, target: str) -> None:
        super().__init__()
        self.net, self.source, self.target = net, source, target

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        phi = 2 * torch.atan(c.exp())[:, None]
        cos, sin = phi.cos(), phi.sin()
        F, zero, one = self.net(u, c), torch.zeros_like(phi), torch.ones_like(phi)
        rows = {
            "x0": (one, zero),
            "eps": (zero, one),
            "score": (zero, -1 / sin),
            "v": (-sin, cos),
        }
        a, b = rows[self.source]
        both = torch.stack([torch.cat([cos, sin], 1), torch.cat([a, b], 1)], 1)
        x_0, eps = torch.linalg.solve(both, torch.stack([u, F], 1)).unbind(1)
        a, b = rows[self.target]
        return a * x_0 + b * eps


@every_path
def test_a_zero_network_that_predicts_v_knows_one_gaussian(path: GaussianPath) -> None:
    """N(m, s²I): x_0 by the regression of x_0 on x_t, ε by that of ε."""
    x_t = points(three_gaussians())
    denoiser = NeuralDenoiser(path, Zero(), "v", MEAN, SCALE)
    for t in (0.05 * path.t_max, 0.37 * path.t_max, 0.95 * path.t_max):
        alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
        total = alpha**2 * SCALE**2 + sigma**2
        residual = (x_t - alpha * MEAN) / total
        x_0, eps = denoiser.predict(x_t, t)
        torch.testing.assert_close(x_0, MEAN + alpha * SCALE**2 * residual)
        torch.testing.assert_close(eps, sigma * residual)
        torch.testing.assert_close(denoiser.score(x_t, t), -residual)
        torch.testing.assert_close(denoiser.x0(x_t, t), x_0)
        torch.testing.assert_close(denoiser.eps(x_t, t), eps)
    exact = ExactDenoiser(
        path,
        GaussianMixture([1.0], MEAN[None], SCALE**2 * torch.eye(2).double()[None]),
    )
    for target in TARGETS:
        got, truth = (d.read(target, x_t, t) for d in (denoiser, exact))
        torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-8)


@every_path
@every_network_target
def test_both_predictions_always_add_up_to_the_noisy_point(
    path: GaussianPath, target: str
) -> None:
    x_t = points(three_gaussians())
    denoiser = NeuralDenoiser(path, Waves(), target, MEAN, SCALE)
    for t in (0.02 * path.t_max, 0.37 * path.t_max, 0.9 * path.t_max):
        x_0, eps = denoiser.predict(x_t, t)
        torch.testing.assert_close(path.perturb(x_0, eps, t), x_t)


@every_path
@every_network_target
def test_the_network_predicts_its_target_of_the_standardised_pair(
    path: GaussianPath, target: str
) -> None:
    """Every row of the table for α = cos φ and σ = sin φ, tan φ = σ/(αs)."""
    x_t, t = points(three_gaussians()), 0.3 * path.t_max
    denoiser = NeuralDenoiser(path, Waves(), target, MEAN, SCALE)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    phi = math.atan2(sigma, alpha * SCALE)
    rho = math.hypot(alpha * SCALE, sigma)
    u = (x_t - alpha * MEAN) / rho
    c = torch.full((len(x_t),), math.log(math.tan(phi / 2))).double()
    x_0, eps = denoiser.predict(x_t, t)
    x_0 = (x_0 - MEAN) / SCALE
    truth = {
        "x0": x_0,
        "eps": eps,
        "score": -eps / math.sin(phi),
        "v": math.cos(phi) * eps - math.sin(phi) * x_0,
    }[target]
    torch.testing.assert_close(Waves()(u, c), truth, rtol=1e-6, atol=1e-8)


@every_path
def test_what_the_network_reads_has_unit_size_at_every_level(
    path: GaussianPath,
) -> None:
    """E u = 0 and E‖u‖² = d for data of mean m and deviation s; c falls towards 0."""
    seen = []

    class Reader(nn.Module):
        def forward(self, u: Tensor, c: Tensor) -> Tensor:
            seen.append((u, float(c[0])))
            return u

    g = torch.Generator().manual_seed(5)
    mixture = three_gaussians()
    x_0 = mixture.sample(20_000, g)
    eps = torch.randn(20_000, 2, generator=g, dtype=torch.float64)
    denoiser = NeuralDenoiser.for_data(path, Reader(), x_0)
    for t in (0.02 * path.t_max, 0.4 * path.t_max, 0.9 * path.t_max):
        denoiser.predict(path.perturb(x_0, eps, t), t)
        u, _ = seen[-1]
        error = u.std(0) / math.sqrt(len(u))
        assert (u.mean(0).abs() <= 5 * error).all()
        size = u.square().sum(1)
        assert abs(float(size.mean()) - 2) <= 5 * float(size.std()) / math.sqrt(20_000)
    coordinates = [c for _, c in seen]
    assert coordinates == sorted(coordinates)
    assert coordinates[-1] < 0


@pytest.mark.parametrize("path", [Straight(), Cosine()])
def test_the_noise_coordinate_is_zero_where_no_signal_is_left(
    path: GaussianPath,
) -> None:
    seen = []

    class Reader(nn.Module):
        def forward(self, u: Tensor, c: Tensor) -> Tensor:
            seen.append(c)
            return torch.zeros_like(u)

    x = points(three_gaussians())
    denoiser = NeuralDenoiser(path, Reader(), "v", MEAN, SCALE)
    x_0, eps = denoiser.predict(x, 1.0)
    torch.testing.assert_close(seen[0], torch.zeros(len(x)).double())
    torch.testing.assert_close(x_0, MEAN.expand_as(x))
    torch.testing.assert_close(eps, x)


@every_path
@every_network_target
def test_converted_networks_are_the_same_denoiser(
    path: GaussianPath, target: str
) -> None:
    x_t = points(three_gaussians())
    t = path.t_max * torch.tensor([0.05, 0.2, 0.4, 0.6, 0.9]).double()
    first = NeuralDenoiser(path, Waves(), "v", MEAN, SCALE)
    net = Converted(Waves(), "v", target)
    second = NeuralDenoiser(path, net, target, MEAN, SCALE)
    for reading in TARGETS:
        torch.testing.assert_close(
            second.read(reading, x_t, t), first.read(reading, x_t, t)
        )


def test_the_mean_and_scale_are_those_of_the_sample() -> None:
    x_0 = three_gaussians().sample(500, torch.Generator().manual_seed(1))
    denoiser = NeuralDenoiser.for_data(Cosine(), Zero(), x_0, "eps")
    torch.testing.assert_close(denoiser.mean, x_0.sum(0) / 500)
    centred = x_0 - x_0.sum(0) / 500
    variance = float(centred.square().sum()) / (2 * 499)
    assert denoiser.scale == pytest.approx(math.sqrt(variance))
    assert isinstance(denoiser.scale, float)
    assert (denoiser.target, denoiser.path) == ("eps", Cosine())


@pytest.mark.parametrize("mean", [0.4, torch.tensor(0.4), torch.tensor([0.4, 0.4])])
def test_a_mean_is_a_number_or_a_point(mean: float | Tensor) -> None:
    x_t = points(three_gaussians())
    got = NeuralDenoiser(Cosine(), Waves(), "v", mean, SCALE).x0(x_t, 0.3)
    full = torch.full((2,), 0.4).to(x_t)
    truth = NeuralDenoiser(Cosine(), Waves(), "v", full, SCALE).x0(x_t, 0.3)
    torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-6)


def trained_like(make: type, seed: int = 3) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    net = make(hidden=12, depth=2, features=4, generator=g)
    layers = (net.scalar if make is EnergyMLP else net).layers
    with torch.no_grad():
        layers[-1].weight.normal_(0, 0.3, generator=g)
    return net


@pytest.mark.parametrize("make", [MLP, EnergyMLP])
@every_target
def test_a_network_runs_in_its_dtype_and_answers_in_that_of_the_points(
    make: type, target: str
) -> None:
    path, net = Cosine(), trained_like(make)
    x_t = points(three_gaussians())
    single = NeuralDenoiser(path, net, "v", MEAN, SCALE).read(target, x_t, 0.3)
    assert single.dtype == torch.float64
    low = NeuralDenoiser(path, net, "v", MEAN, SCALE).read(target, x_t.float(), 0.3)
    assert low.dtype == torch.float32
    copy = trained_like(make).double()
    double = NeuralDenoiser(path, copy, "v", MEAN, SCALE).read(target, x_t, 0.3)
    both = NeuralDenoiser(path, copy, "v", MEAN, SCALE).read(target, x_t.float(), 0.3)
    assert both.dtype == torch.float32
    torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(low.double(), double, rtol=1e-4, atol=1e-5)
    assert next(net.parameters()).dtype == torch.float32


@every_target
def test_a_learned_denoiser_takes_one_time_per_point(target: str) -> None:
    denoiser = NeuralDenoiser(Cosine(), Waves(), "v", MEAN, SCALE)
    x_t = points(three_gaussians(), n=4)
    t = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64)
    batch = denoiser.read(target, x_t, t)
    for i in range(4):
        one = denoiser.read(target, x_t[i : i + 1], float(t[i]))
        torch.testing.assert_close(batch[i], one[0])


@every_path
def test_the_score_of_an_energy_network_is_a_gradient(path: GaussianPath) -> None:
    """Its Jacobian is symmetric, also as the score of a denoiser."""
    net = trained_like(EnergyMLP).double()
    denoiser = NeuralDenoiser(path, net, "v", MEAN, SCALE)
    t = 0.3 * path.t_max
    J = jacobian(lambda x: denoiser.score(x, t), points(three_gaussians()))
    torch.testing.assert_close(J, J.mT)
    free = trained_like(MLP).double()
    denoiser = NeuralDenoiser(path, free, "v", MEAN, SCALE)
    J = jacobian(lambda x: denoiser.score(x, t), points(three_gaussians()))
    assert float((J - J.mT).abs().max()) > 1e-3


@every_path
def test_without_noise_a_network_has_nothing_to_say(path: GaussianPath) -> None:
    denoiser, x = NeuralDenoiser(path, Zero()), points(three_gaussians())
    for t in (0.0, torch.tensor([0.1, 0.2, 0.0, 0.3, 0.4]).double()):
        for target in TARGETS:
            with pytest.raises(ValueError, match="t must be a time with noise"):
                denoiser.read(target, x, t)
