"""The mixture against quadrature, torch.distributions, SciPy and Bayes on a lattice."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import logsumexp
from torch import Tensor

from diffedu.mixture import (
    GaussianMixture,
    ring,
    three_gaussians,
    three_gaussians_1d,
    two_gaussians,
    two_moons_like,
)
from tests.package.oracles import (
    assert_mean,
    bayes,
    cell,
    gauss_hermite,
    gradient,
    hessian,
    lattice,
    noised,
    products,
    random_mixture,
    torch_mixture,
)

MIXTURES = {
    "plane": three_gaussians(),
    "far modes": two_gaussians(),
    "line": three_gaussians_1d(),
    "ring": ring(),
    "moons": two_moons_like(),
    "five dimensions": random_mixture(4, 5),
    "one component": random_mixture(1, 2, seed=1),
    "one component on the line": random_mixture(1, 1, seed=2),
}
SMALL = {"plane": three_gaussians(), "line": three_gaussians_1d()}
LEVELS = [(0.9, 0.3), (0.4, 0.8), (1.0, 2.0), (0.05, 1.0)]


def every(mixtures: dict[str, GaussianMixture]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "mixture", [pytest.param(m, id=name) for name, m in mixtures.items()]
    )


def points(mixture: GaussianMixture, n: int = 12, spread: float = 2.5) -> Tensor:
    """Points around the mixture, some of them where its density is low."""
    g = torch.Generator().manual_seed(5)
    return spread * torch.randn(n, mixture.dim, generator=g, dtype=torch.float64)


# Density


@every({k: m for k, m in MIXTURES.items() if m.dim <= 2})
def test_density_integrates_to_one(mixture: GaussianMixture) -> None:
    # the lattice resolves the narrowest deviation, .1 over a span of 20, three times
    x = lattice(mixture, 700)
    assert float(mixture.log_prob(x).exp().sum()) * cell(x) == pytest.approx(
        1, abs=1e-9
    )


@every(MIXTURES)
def test_log_prob_agrees_with_torch_distributions(mixture: GaussianMixture) -> None:
    x = points(mixture)
    truth = torch_mixture(mixture).log_prob(x)
    torch.testing.assert_close(mixture.log_prob(x), truth, rtol=1e-10, atol=1e-10)


@every(MIXTURES)
def test_log_prob_agrees_with_scipy(mixture: GaussianMixture) -> None:
    x = points(mixture)
    terms = [
        np.log(float(w)) + scipy.stats.multivariate_normal(m, S).logpdf(x.numpy())
        for w, m, S in zip(
            mixture.weights,
            mixture.means.numpy(),
            mixture.covariances.numpy(),
            strict=True,
        )
    ]
    np.testing.assert_allclose(
        mixture.log_prob(x).numpy(), logsumexp(terms, axis=0), rtol=1e-10, atol=1e-10
    )


@every(MIXTURES)
def test_score_is_the_gradient_of_the_log_density(mixture: GaussianMixture) -> None:
    x = points(mixture)
    truth = gradient(torch_mixture(mixture).log_prob, x)
    torch.testing.assert_close(mixture.score(x), truth, rtol=1e-9, atol=1e-9)


@every(MIXTURES)
def test_hessian_is_the_second_derivative_of_the_log_density(
    mixture: GaussianMixture,
) -> None:
    x = points(mixture, n=6)
    truth = hessian(torch_mixture(mixture).log_prob, x)
    torch.testing.assert_close(mixture.hessian(x), truth, rtol=1e-8, atol=1e-8)


@every(MIXTURES)
def test_score_and_divergence_are_gradient_and_trace_of_the_hessian(
    mixture: GaussianMixture,
) -> None:
    x = points(mixture, n=6)
    law = torch_mixture(mixture)
    score, divergence = mixture.score_and_divergence(x)
    torch.testing.assert_close(score, gradient(law.log_prob, x), rtol=1e-9, atol=1e-9)
    trace = hessian(law.log_prob, x).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(divergence, trace, rtol=1e-8, atol=1e-8)


def test_score_and_divergence_of_one_law_per_point() -> None:
    mixture, x = three_gaussians(), points(three_gaussians(), n=4)
    alpha, sigma = torch.linspace(0.9, 0.2, 4), torch.linspace(0.3, 0.9, 4)
    score, divergence = mixture.noised(alpha, sigma).score_and_divergence(x)
    for i in range(4):
        alone = mixture.noised(float(alpha[i]), float(sigma[i]))
        one = alone.score_and_divergence(x[i : i + 1])
        torch.testing.assert_close(score[i], one[0][0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(divergence[i], one[1][0], rtol=1e-6, atol=1e-6)


def test_responsibilities_sum_to_one_to_the_last_digit() -> None:
    mixture = random_mixture(5, 2)
    x = 30 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(1)).double()
    r = mixture.responsibilities(x)
    assert float((r.sum(-1) - 1).abs().max()) < 5e-16
    assert (r >= 0).all()


def test_nearly_singular_covariances_keep_score_and_posterior() -> None:
    """A line of width 1e-6 in the plane: SciPy and Bayes within it."""
    thin, c, s = 1e-12, math.cos(0.7), math.sin(0.7)
    Q = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    C = Q @ torch.diag(torch.tensor([1.0, thin], dtype=torch.float64)) @ Q.mT
    mixture = GaussianMixture([1.0], [[0.3, -0.2]], C[None])
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64) + 1.5 * Q[:, 0]
    score, divergence = mixture.score_and_divergence(x)
    assert float(score @ Q[:, 0]) == pytest.approx(-1.5, rel=1e-3)
    assert float(divergence) == pytest.approx(-1 / thin, rel=1e-3)
    assert mixture.posterior_mean(x, 0.5, 0.5).isfinite().all()
    covariance = mixture.posterior_covariance(x, 0.5, 0.5)[0]
    along = 1 / (1 + 0.5**2 / 0.5**2)
    assert float(Q[:, 0] @ covariance @ Q[:, 0]) == pytest.approx(along, rel=1e-6)
    assert 0 < float(Q[:, 1] @ covariance @ Q[:, 1]) < 1e-11


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_noised_and_posterior_covariances_by_matrix_algebra(dim: int) -> None:
    """α²Σ + σ²I and (Σ⁻¹ + α²/σ² I)⁻¹, without an eigenvector."""
    mixture, alpha, sigma = random_mixture(3, dim), 0.6, 0.5
    identity, C = torch.eye(dim).double(), mixture.covariances
    noised = alpha**2 * C + sigma**2 * identity
    torch.testing.assert_close(mixture.noised(alpha, sigma).covariances, noised)
    precision = torch.linalg.inv(C) + alpha**2 / sigma**2 * identity
    posterior = mixture.posterior(torch.zeros(1, dim).double(), alpha, sigma)
    torch.testing.assert_close(posterior.covariances[0], torch.linalg.inv(precision))
    single = mixture.to(torch.float32).covariances
    torch.testing.assert_close(single.double(), C, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (1, 4)])
def test_points_may_lie_along_any_number_of_axes(shape: tuple[int, ...]) -> None:
    """Every function of a point is the same, point by point, with one law or many."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
    mixture = random_mixture(3, 2)
    laws = [mixture]
    if shape:
        alpha, sigma = torch.linspace(0.9, 0.2, 4), torch.linspace(0.3, 0.9, 4)
        laws.append(mixture.noised(alpha, sigma))
    for law in laws:
        for name in (
            "log_prob",
            "score",
            "hessian",
            "responsibilities",
            "score_and_divergence",
        ):
            got = getattr(law, name)(x)
            got = got if isinstance(got, tuple) else (got,)
            for index in itertools.product(*map(range, shape)):
                alone = law
                if law.batch_shape:
                    k = index[-1]
                    alone = mixture.noised(float(alpha[k]), float(sigma[k]))
                truth = getattr(alone, name)(x[index][None])
                truth = truth if isinstance(truth, tuple) else (truth,)
                for a, b in zip(got, truth, strict=True):
                    torch.testing.assert_close(a[index], b[0], rtol=1e-6, atol=1e-6)
    for moment in (mixture.posterior_mean, mixture.posterior_covariance):
        got = moment(x, 0.6, 0.5)
        for index in itertools.product(*map(range, shape)):
            truth = moment(x[index][None], 0.6, 0.5)[0]
            torch.testing.assert_close(got[index], truth)


def test_no_points_give_no_values() -> None:
    mixture, none = three_gaussians(), torch.zeros(0, 2, dtype=torch.float64)
    score, divergence = mixture.score_and_divergence(none)
    assert score.shape == (0, 2)
    assert divergence.shape == (0,)
    assert mixture.log_prob(none).shape == (0,)
    assert mixture.responsibilities(none).shape == (0, 3)
    assert mixture.posterior_mean(none, 0.5, 0.5).shape == (0, 2)


@every(MIXTURES)
def test_responsibilities_are_bayes_rule_over_components(
    mixture: GaussianMixture,
) -> None:
    x = points(mixture, spread=1.0)
    law = torch_mixture(mixture)
    joint = mixture.weights * law.component_distribution.log_prob(x[:, None]).exp()
    truth = joint / joint.sum(-1, keepdim=True)
    torch.testing.assert_close(mixture.responsibilities(x), truth)


def test_far_from_every_mode_nothing_overflows() -> None:
    mixture = three_gaussians()
    x = torch.tensor([[1e4, -3e4], [-2e5, 1e5]], dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(x), torch_mixture(mixture).log_prob(x))
    torch.testing.assert_close(
        mixture.score(x), gradient(torch_mixture(mixture).log_prob, x)
    )
    torch.testing.assert_close(
        mixture.responsibilities(x).sum(-1), torch.ones(2, dtype=torch.float64)
    )


def test_a_component_of_weight_zero_contributes_nothing() -> None:
    three = three_gaussians()
    two = GaussianMixture([0.5, 0.5], three.means[:2], three.covariances[:2])
    padded = GaussianMixture([0.5, 0.5, 0.0], three.means, three.covariances)
    x = points(two)
    torch.testing.assert_close(padded.log_prob(x), two.log_prob(x))
    torch.testing.assert_close(padded.score(x), two.score(x))
    torch.testing.assert_close(padded.hessian(x), two.hessian(x))


def test_moving_the_plane_moves_the_law_with_it() -> None:
    mixture = random_mixture(3, 2, seed=4)
    angle, shift = 0.7, torch.tensor([1.5, -2.0], dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    R = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    moved = GaussianMixture(
        mixture.weights, mixture.means @ R.mT + shift, R @ mixture.covariances @ R.mT
    )
    x = points(mixture)
    there = x @ R.mT + shift
    torch.testing.assert_close(moved.log_prob(there), mixture.log_prob(x))
    torch.testing.assert_close(moved.score(there), mixture.score(x) @ R.mT)
    torch.testing.assert_close(moved.hessian(there), R @ mixture.hessian(x) @ R.mT)


def test_nan_in_one_point_stays_in_that_point() -> None:
    mixture = three_gaussians()
    x = points(mixture, n=4)
    spoiled = x.clone()
    spoiled[1, 0] = math.nan
    clean = [0, 2, 3]
    for method in (mixture.log_prob, mixture.score, mixture.hessian):
        assert method(spoiled)[1].isnan().all()
        torch.testing.assert_close(method(spoiled)[clean], method(x)[clean])


@every({k: m for k, m in MIXTURES.items() if m.dim <= 2})
def test_mean_and_covariance_by_quadrature(mixture: GaussianMixture) -> None:
    x = lattice(mixture, 700)
    p = torch_mixture(mixture).log_prob(x).softmax(0)
    mean = (p[:, None] * x).sum(0)
    centred = x - mean
    covariance = (p[:, None] * centred).mT @ centred
    torch.testing.assert_close(mixture.mean, mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(mixture.covariance, covariance, rtol=1e-8, atol=1e-8)


def test_mean_and_covariance_in_five_dimensions_by_torch_distributions() -> None:
    mixture = random_mixture(4, 5)
    torch.testing.assert_close(mixture.mean, torch_mixture(mixture).mean)
    torch.testing.assert_close(
        mixture.covariance.diagonal(), torch_mixture(mixture).variance
    )


# Noise


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_noised_density_is_the_convolution_integral(alpha: float, sigma: float) -> None:
    mixture = three_gaussians_1d()
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    x_0 = lattice(mixture, 2000)
    prior = torch_mixture(mixture).log_prob(x_0).exp()
    kernel = torch.distributions.Normal(alpha * x_0[:, 0], sigma).log_prob(x).exp()
    truth = (prior * kernel).sum(-1) * cell(x_0)
    density = mixture.noised(alpha, sigma).log_prob(x).exp()
    torch.testing.assert_close(density, truth, rtol=1e-9, atol=1e-12)


@every(MIXTURES)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_noised_log_prob_agrees_with_torch_distributions(
    mixture: GaussianMixture, alpha: float, sigma: float
) -> None:
    x = points(mixture)
    truth = noised(mixture, alpha, sigma).log_prob(x)
    torch.testing.assert_close(
        mixture.noised(alpha, sigma).log_prob(x), truth, rtol=1e-10, atol=1e-10
    )


def test_noised_moments_are_those_of_simulated_noise(
    generator: torch.Generator,
) -> None:
    mixture, alpha, sigma, n = three_gaussians(), 0.7, 0.5, 40_000
    k = torch.multinomial(mixture.weights, n, replacement=True, generator=generator)
    factor = torch.linalg.cholesky(mixture.covariances)
    z, eps = torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
    x_0 = mixture.means[k] + (factor[k] @ z[..., None])[..., 0]
    x_t = alpha * x_0 + sigma * eps
    law = mixture.noised(alpha, sigma)
    assert_mean(x_t, law.mean)
    assert_mean(products(x_t), law.covariance)
    assert_mean(
        law.log_prob(x_t) - noised(mixture, alpha, sigma).log_prob(x_t), 0, 1e-9
    )


def test_noising_twice_is_noising_once() -> None:
    mixture = random_mixture(3, 5, seed=3)
    twice = mixture.noised(0.8, 0.3).noised(0.5, 0.6)
    once = mixture.noised(0.8 * 0.5, math.hypot(0.5 * 0.3, 0.6))
    x = points(mixture)
    torch.testing.assert_close(twice.log_prob(x), once.log_prob(x))
    torch.testing.assert_close(twice.covariances, once.covariances)


def test_one_noise_level_per_point_is_a_loop_over_points() -> None:
    mixture = three_gaussians()
    x = points(mixture, n=5)
    alpha = torch.linspace(0.1, 0.95, 5, dtype=torch.float64)
    sigma = torch.linspace(1.2, 0.2, 5, dtype=torch.float64)
    batch = mixture.noised(alpha, sigma)
    posterior = mixture.posterior(x, alpha, sigma)
    assert batch.batch_shape == posterior.batch_shape == (5,)
    for i in range(5):
        a, s, here = float(alpha[i]), float(sigma[i]), x[i : i + 1]
        one = mixture.noised(a, s)
        given = mixture.posterior(here, a, s)
        pairs = [
            (batch.log_prob(x)[i], one.log_prob(here)[0]),
            (batch.score(x)[i], one.score(here)[0]),
            (batch.hessian(x)[i], one.hessian(here)[0]),
            (batch.mean[i], one.mean),
            (batch.covariance[i], one.covariance),
            (posterior.weights[i], given.weights[0]),
            (posterior.mean[i], given.mean[0]),
            (posterior.covariance[i], given.covariance[0]),
            (mixture.posterior_mean(x, alpha, sigma)[i], given.mean[0]),
            (mixture.posterior_covariance(x, alpha, sigma)[i], given.covariance[0]),
        ]
        for batched, single in pairs:
            torch.testing.assert_close(batched, single)


def test_without_noise_the_law_is_the_data() -> None:
    mixture = three_gaussians()
    x = points(mixture)
    torch.testing.assert_close(mixture.noised(1, 0).log_prob(x), mixture.log_prob(x))


# Posterior


@every(SMALL)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_posterior_density_is_bayes_rule_on_a_lattice(
    mixture: GaussianMixture, alpha: float, sigma: float
) -> None:
    x_t = points(mixture, n=4, spread=1.2)
    x_0, p = bayes(mixture, x_t, alpha, sigma, points=300)
    posterior = mixture.posterior(x_t, alpha, sigma)
    density = posterior.log_prob(x_0[:, None].expand(-1, 4, -1)).exp().mT * cell(x_0)
    torch.testing.assert_close(density, p, rtol=1e-7, atol=1e-12)


@every(SMALL)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_posterior_moments_are_bayes_rule_on_a_lattice(
    mixture: GaussianMixture, alpha: float, sigma: float
) -> None:
    x_t = points(mixture, n=4, spread=1.2)
    x_0, p = bayes(mixture, x_t, alpha, sigma, points=300)
    mean = p @ x_0
    centred = x_0 - mean[:, None]
    covariance = torch.einsum("np,npi,npj->nij", p, centred, centred)
    close = {"rtol": 1e-8, "atol": 1e-9}
    posterior = mixture.posterior(x_t, alpha, sigma)
    torch.testing.assert_close(posterior.mean, mean, **close)
    torch.testing.assert_close(posterior.covariance, covariance, **close)
    torch.testing.assert_close(mixture.posterior_mean(x_t, alpha, sigma), mean, **close)
    torch.testing.assert_close(
        mixture.posterior_covariance(x_t, alpha, sigma), covariance, **close
    )


@every(SMALL)
def test_posterior_components_are_bayes_rule_within_each_component(
    mixture: GaussianMixture,
) -> None:
    alpha, sigma = 0.6, 0.7
    x_t = points(mixture, n=4, spread=1.2)
    posterior = mixture.posterior(x_t, alpha, sigma)
    evidence = []
    for k in range(mixture.n_components):
        only = GaussianMixture(
            [1.0], mixture.means[k : k + 1], mixture.covariances[k : k + 1]
        )
        x_0, p = bayes(only, x_t, alpha, sigma, points=300)
        mean = p @ x_0
        centred = x_0 - mean[:, None]
        covariance = torch.einsum("np,npi,npj->nij", p, centred, centred)
        torch.testing.assert_close(posterior.means[:, k], mean)
        torch.testing.assert_close(posterior.covariances[:, k], covariance)
        prior = torch_mixture(only).log_prob(x_0).softmax(0)
        distance = (x_t[:, None] - alpha * x_0).square().sum(-1)
        evidence.append((-distance / (2 * sigma**2)).exp() @ prior)
    joint = mixture.weights * torch.stack(evidence, -1)
    torch.testing.assert_close(posterior.weights, joint / joint.sum(-1, keepdim=True))


@every(MIXTURES)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_posterior_moments_obey_tweedie_of_first_and_second_order(
    mixture: GaussianMixture, alpha: float, sigma: float
) -> None:
    x_t = points(mixture, n=5)
    log_prob = noised(mixture, alpha, sigma).log_prob
    mean = (x_t + sigma**2 * gradient(log_prob, x_t)) / alpha
    curvature = torch.eye(mixture.dim) + sigma**2 * hessian(log_prob, x_t)
    covariance = sigma**2 / alpha**2 * curvature
    # both sides of the second identity cancel to about sigma^2/alpha^2 (400 at most)
    torch.testing.assert_close(
        mixture.posterior_mean(x_t, alpha, sigma), mean, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        mixture.posterior_covariance(x_t, alpha, sigma),
        covariance,
        rtol=1e-8,
        atol=1e-8,
    )


def test_posterior_moments_average_to_the_prior_moments() -> None:
    # law of total expectation and variance, x_t integrated by quadrature
    mixture, alpha, sigma = three_gaussians_1d(), 0.6, 0.5
    x_t = torch.linspace(-7, 7, 4001, dtype=torch.float64)[:, None]
    p_t = noised(mixture, alpha, sigma).log_prob(x_t).softmax(0)
    mean = mixture.posterior_mean(x_t, alpha, sigma)[:, 0]
    variance = mixture.posterior_covariance(x_t, alpha, sigma)[:, 0, 0]
    total_mean = p_t @ mean
    total_variance = p_t @ variance + p_t @ (mean - total_mean) ** 2
    law = torch_mixture(mixture)
    torch.testing.assert_close(total_mean, law.mean[0])
    torch.testing.assert_close(total_variance, law.variance[0])


def test_without_noise_the_posterior_is_the_point() -> None:
    mixture = three_gaussians()
    x_t = points(mixture)
    torch.testing.assert_close(mixture.posterior_mean(x_t, 0.5, 0.0), x_t / 0.5)
    # what is left is a rounding error, squared
    assert mixture.posterior_covariance(x_t, 0.5, 0.0).abs().max() < 1e-28


def test_tiny_noise_leaves_a_posterior_of_width_sigma_over_alpha() -> None:
    # next order: Cov = (σ/α)² (I + O(σ²)), mean = x_t/α + O(σ²)
    mixture, sigma = three_gaussians(), 1e-6
    x_t = points(mixture, spread=0.5)
    cov = mixture.posterior_covariance(x_t, 0.5, sigma)
    identity = torch.eye(2, dtype=torch.float64).expand_as(cov)
    torch.testing.assert_close(cov / (sigma / 0.5) ** 2, identity, rtol=0, atol=1e-8)
    mean = mixture.posterior_mean(x_t, 0.5, sigma)
    torch.testing.assert_close(mean, x_t / 0.5, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 1e8), (0.0, 1.0)])
def test_drowned_in_noise_the_posterior_is_the_prior(
    alpha: float, sigma: float
) -> None:
    mixture = three_gaussians()
    x_t = points(mixture)
    posterior = mixture.posterior(x_t, alpha, sigma)
    for i in range(len(x_t)):
        torch.testing.assert_close(posterior.weights[i], mixture.weights)
        torch.testing.assert_close(posterior.means[i], mixture.means)
        torch.testing.assert_close(posterior.covariances[i], mixture.covariances)


# Sampling


def test_samples_follow_the_distribution_function_on_the_line(
    generator: torch.Generator,
) -> None:
    mixture = three_gaussians_1d()
    x = mixture.sample(20_000, generator)[:, 0]

    def cdf(x: np.ndarray) -> np.ndarray:
        std = mixture.covariances[:, 0, 0].sqrt().numpy()
        below = scipy.stats.norm.cdf(x[:, None], mixture.means[:, 0].numpy(), std)
        return below @ mixture.weights.numpy()

    # 6e-7 is the two-sided tail beyond 5 standard errors
    assert scipy.stats.kstest(x.numpy(), cdf).pvalue > 6e-7


@every(MIXTURES)
def test_sample_moments_are_those_of_the_law(
    mixture: GaussianMixture, generator: torch.Generator
) -> None:
    x = mixture.sample(20_000, generator)
    assert x.shape == (20_000, mixture.dim)
    # centring at the sample mean biases the covariance by 1/n, far below its error
    assert_mean(x, mixture.mean)
    assert_mean(products(x), mixture.covariance)


def test_components_are_drawn_with_their_weights_and_their_own_covariance(
    generator: torch.Generator,
) -> None:
    means = torch.tensor([[-50.0, 0.0], [0.0, 50.0], [50.0, 0.0]]).double()
    mixture = GaussianMixture([0.6, 0.3, 0.1], means, three_gaussians().covariances)
    x = mixture.sample(20_000, generator)
    label = torch.cdist(x, means).argmin(1)
    for k in range(3):
        assert_mean((label == k).double(), mixture.weights[k])
        assert_mean(x[label == k], means[k])
        assert_mean(products(x[label == k]), mixture.covariances[k])


def test_every_mixture_of_a_batch_is_sampled(generator: torch.Generator) -> None:
    mixture, alpha, sigma = three_gaussians(), 0.6, 0.7
    x_t = points(mixture, n=3, spread=1.2)
    x_0, p = bayes(mixture, x_t, alpha, sigma, points=300)
    draws = mixture.posterior(x_t, alpha, sigma).sample(20_000, generator)
    assert draws.shape == (20_000, 3, 2)
    mean = p @ x_0
    centred = x_0 - mean[:, None]
    covariance = torch.einsum("np,npi,npj->nij", p, centred, centred)
    assert_mean(draws, mean)
    for i in range(3):
        assert_mean(products(draws[:, i]), covariance[i])
    # the draws of different points are independent
    assert_mean(products(draws[:, 0], draws[:, 1]), 0.0)


def test_the_same_generator_state_gives_the_same_sample() -> None:
    mixture = three_gaussians()
    a, b, c = (
        mixture.sample(5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# Precision


@every(MIXTURES)
def test_float32_agrees_with_float64(mixture: GaussianMixture) -> None:
    single = mixture.to(torch.float32)
    x = points(mixture)
    # float32 rounds the points themselves: values up to ~1e3 times 1e-7, with margin
    close = {"rtol": 2e-4, "atol": 2e-4, "check_dtype": False}
    for alpha, sigma in LEVELS[:3]:
        a, b = single.noised(alpha, sigma), mixture.noised(alpha, sigma)
        for name in ("log_prob", "score", "hessian", "responsibilities"):
            value = getattr(a, name)(x.float())
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, getattr(b, name)(x), **close)
        torch.testing.assert_close(
            single.posterior_mean(x.float(), alpha, sigma),
            mixture.posterior_mean(x, alpha, sigma),
            **close,
        )


def test_lists_become_float64_and_tensors_keep_their_dtype() -> None:
    listed = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
    assert listed.dtype == torch.float64
    kept = GaussianMixture(
        torch.ones(1), torch.zeros(1, 1), torch.eye(1).reshape(1, 1, 1)
    )
    assert kept.dtype == torch.float32
    assert kept.to(torch.float64).dtype == torch.float64


# Examples


def test_the_plane_example_has_the_moments_of_its_definition() -> None:
    weights = np.array([0.5, 0.3, 0.2])
    means = np.array([[-1.5, 0], [1.2, 1], [0.8, -1.4]])
    traces = np.array([0.35, 0.35, 0.25])
    mean = weights @ means
    total = weights @ (traces + ((means - mean) ** 2).sum(1))
    np.testing.assert_allclose(three_gaussians().mean, mean)
    assert float(three_gaussians().covariance.trace()) == pytest.approx(total)


def test_the_line_and_far_mode_examples_have_the_moments_of_their_definition() -> None:
    line, far = three_gaussians_1d(), two_gaussians()
    assert float(line.mean) == pytest.approx(-1.2 * 0.4 + 0.3 * 0.35 + 1.5 * 0.25)
    second = 0.4 * (1.44 + 0.04) + 0.35 * (0.09 + 0.09) + 0.25 * (2.25 + 0.05)
    assert float(line.covariance) == pytest.approx(second - float(line.mean) ** 2)
    # a coin of weights .2 and .8 at ∓5: mean 3 and variance 16, plus 1 of the Gaussian
    np.testing.assert_allclose(far.mean, [3, 3])
    np.testing.assert_allclose(far.covariance, [[17, 16], [16, 17]])


def test_the_ring_is_a_ring() -> None:
    law = ring(n=6, radius=1.5, std=0.3)
    np.testing.assert_allclose(law.mean, [0, 0], atol=1e-12)
    np.testing.assert_allclose(law.means.norm(dim=1), 1.5)
    assert float(law.covariance.trace()) == pytest.approx(1.5**2 + 2 * 0.3**2)
    turn = torch.tensor(math.pi / 3)
    R = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]]).double()
    x = points(law)
    # turning by a sixth changes nothing, up to R being written in float32
    torch.testing.assert_close(
        law.log_prob(x @ R.mT), law.log_prob(x), rtol=1e-5, atol=1e-4
    )


def test_the_moons_are_each_others_reflection() -> None:
    law = two_moons_like(n=5, std=0.1)
    x = points(law)
    torch.testing.assert_close(law.log_prob(-x), law.log_prob(x))
    distance = torch.cdist(law.means[:5], law.means[5:])
    assert law.n_components == 10
    assert float(distance.min()) > 6 * 0.1  # the two chains do not touch


def test_entropy_of_one_gaussian_by_its_log_density() -> None:
    # ½ log det(2πe Σ), with E[log p] by Gauss–Hermite quadrature
    law = random_mixture(1, 1, seed=2)
    z, w = gauss_hermite()
    std = float(law.covariances.sqrt())
    x = float(law.means) + std * z[:, None]
    entropy = -float(w @ law.log_prob(x))
    assert entropy == pytest.approx(0.5 * math.log(2 * math.pi * math.e * std**2))
