"""The chain against joint Gaussians, products, SciPy and torch.distributions."""

import math
from functools import partial

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from diffedu.ddpm import (
    VarianceSchedule,
    denoising_kl,
    discretised_log_prob,
    gaussian_kl,
    gaussian_log_prob,
    prior_kl,
    reconstruction,
)
from diffedu.path import (
    Cosine,
    GaussianPath,
    OrnsteinUhlenbeck,
    VariancePreserving,
    time_grid,
)
from tests.package.oracles import gradient, unrolled

BETA = torch.tensor([0.0, 0.15, 0.4, 0.05, 0.6], dtype=torch.float64)
UNEVEN = VarianceSchedule(BETA)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def isotropic(mean: Tensor, variance: Tensor) -> MultivariateNormal:
    return MultivariateNormal(mean, variance * torch.eye(mean.shape[-1]).double())


# The schedule


def test_the_marginals_are_those_of_the_unrolled_steps() -> None:
    a, B = unrolled(BETA)
    torch.testing.assert_close(UNEVEN.alpha_bar, a**2)
    torch.testing.assert_close(UNEVEN.noise_variance, (B @ B.mT).diagonal())
    assert UNEVEN.T == 4
    assert UNEVEN.alpha_bar[0] == 1
    assert UNEVEN.noise_variance[0] == 0


@pytest.mark.parametrize("t", [1, 2, 3, 4])
def test_the_posterior_is_a_joint_gaussian_conditioned(t: int) -> None:
    """q(x_{t−1} | x_t, x_0) from the covariance of (x_{t−1}, x_t) given x_0."""
    a, B = unrolled(BETA)
    C = B @ B.mT
    gain = C[t - 1, t] / C[t, t]
    x_0, x_t = normal(5, 2), normal(5, 2, seed=1)
    mean = a[t - 1] * x_0 + gain * (x_t - a[t] * x_0)
    torch.testing.assert_close(UNEVEN.posterior_mean(x_t, x_0, t), mean)
    variance = C[t - 1, t - 1] - gain * C[t, t - 1]
    # conditioning cancels, where the package does not
    torch.testing.assert_close(UNEVEN.beta_tilde[t], variance, rtol=1e-12, atol=1e-15)


def test_a_step_backwards_from_the_marginal_is_the_marginal() -> None:
    """q(x_{t−1} | x_t, x_0) averaged over q(x_t | x_0) is q(x_{t−1} | x_0)."""
    schedule, x_0 = VarianceSchedule.cosine(12), normal(3, 2)
    zero, one = torch.zeros_like(x_0), torch.ones_like(x_0)
    for t in range(1, 13):
        here = schedule.posterior_mean(schedule.perturb(x_0, zero, t), x_0, t)
        moved = schedule.posterior_mean(schedule.perturb(x_0, one, t), x_0, t)
        torch.testing.assert_close(here, schedule.perturb(x_0, zero, t - 1))
        spread = (moved - here) ** 2 + schedule.beta_tilde[t]
        torch.testing.assert_close(
            spread, (schedule.perturb(x_0, one, t - 1) - here) ** 2
        )


def test_the_noise_of_tiny_steps_keeps_its_digits() -> None:
    beta = [0.0, 1e-14, 3e-13, 2e-9]
    schedule = VarianceSchedule(torch.tensor(beta, dtype=torch.float64))
    with mpmath.workdps(50):
        left = mpmath.mpf(1)
        for t, b in enumerate(beta):
            left *= 1 - mpmath.mpf(b)
            truth = float(1 - left)
            got = float(schedule.noise_variance[t])
            assert got == pytest.approx(truth, rel=1e-14, abs=0)


def test_perturbed_points_have_the_mean_and_the_noise_of_the_marginal() -> None:
    x_0, eps = normal(6, 2), normal(6, 2, seed=1)
    a, B = unrolled(BETA)
    for t in range(5):
        truth = a[t] * x_0 + B[t].norm() * eps
        torch.testing.assert_close(UNEVEN.perturb(x_0, eps, t), truth)
    assert torch.equal(UNEVEN.perturb(x_0, eps, 0), x_0)


def test_there_are_no_steps_past_the_last() -> None:
    x = normal(3, 2)
    for use in (UNEVEN.perturb, UNEVEN.posterior_mean):
        use(x, x, 4)
        with pytest.raises(ValueError, match="t must be a step up to T = 4, got 5"):
            use(x, x, 5)


def test_the_linear_schedule_has_the_numbers_of_its_paper() -> None:
    schedule = VarianceSchedule.linear()
    assert schedule.T == 1000
    assert float(schedule.beta[1]) == pytest.approx(1e-4)
    assert float(schedule.beta[-1]) == pytest.approx(0.02)
    steps = schedule.beta[1:].diff()
    torch.testing.assert_close(steps, torch.full_like(steps, (0.02 - 1e-4) / 999))
    truth = np.prod(1 - np.linspace(1e-4, 0.02, 1000))
    assert truth == pytest.approx(4.036e-5, rel=1e-4)
    assert float(schedule.alpha_bar[-1]) == pytest.approx(truth, rel=1e-10)
    ratios = (schedule.beta_tilde / schedule.beta)[1:4]
    assert ratios.tolist() == pytest.approx([0, 0.455, 0.611], abs=5e-4)
    short = VarianceSchedule.linear(3, 0.1, 0.5)
    assert short.beta.tolist() == pytest.approx([0, 0.1, 0.3, 0.5])
    assert VarianceSchedule.linear(1).beta.tolist() == pytest.approx([0, 1e-4])


def test_the_cosine_schedule_has_squared_cosines_until_it_is_cut() -> None:
    T, s = 50, 0.008
    schedule = VarianceSchedule.cosine(T)
    t = np.arange(T + 1)
    h = np.cos((t / T + s) / (1 + s) * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alpha_bar[:-1], (h / h[0])[:-1], rtol=1e-10)
    assert float(schedule.beta[-1]) == 0.999
    assert (schedule.beta[1:-1] < 0.999).all()
    # without an offset x_T would be pure noise, were it not for the cut
    whole = VarianceSchedule.cosine(T, 0.0)
    np.testing.assert_allclose(
        whole.alpha_bar[:-1], np.cos(np.pi * t / 2 / T)[:-1] ** 2, rtol=1e-10
    )
    assert float(whole.beta[-1]) == 0.999


@pytest.mark.parametrize(
    ("path", "power"),
    [
        (VariancePreserving(), 1.0),
        (OrnsteinUhlenbeck(horizon=2.0), 3.0),
        (OrnsteinUhlenbeck(0.5, 1.0, 4.0), 1.0),
        (Cosine(), 1.0),
    ],
    ids=["VP", "OU", "slow OU", "Cosine"],
)
def test_a_path_makes_a_chain_with_its_marginals(
    path: GaussianPath, power: float
) -> None:
    times = time_grid(0.0, path.t_max, 20, power)
    schedule = VarianceSchedule.from_path(path, times)
    assert schedule.T == 20
    # 1 − β_T is rounded where no signal is left
    torch.testing.assert_close(
        schedule.alpha_bar, path.alpha(times) ** 2, rtol=1e-10, atol=1e-16
    )
    torch.testing.assert_close(
        schedule.noise_variance, path.variance(times), rtol=1e-12, atol=0
    )


def test_the_first_step_of_a_path_keeps_its_digits() -> None:
    times = torch.tensor([0.0, 1e-9, 1.0], dtype=torch.float64)
    schedule = VarianceSchedule.from_path(OrnsteinUhlenbeck(), times)
    truth = -math.expm1(-2e-9)
    assert float(schedule.beta[1]) == pytest.approx(truth, rel=1e-14, abs=0)
    # float32 times are read as the numbers that they are
    single = VarianceSchedule.from_path(OrnsteinUhlenbeck(), times.float())
    assert single.beta.dtype == torch.float64
    assert float(single.beta[1]) == pytest.approx(truth, rel=1e-6, abs=0)


def test_a_chain_may_end_without_signal() -> None:
    schedule = VarianceSchedule(torch.tensor([0.0, 0.3, 1.0]))
    assert schedule.alpha_bar[-1] == 0
    assert schedule.noise_variance[-1] == 1
    x_0, x_t = torch.ones(1, 1), torch.full((1, 1), 3.0)
    assert torch.equal(prior_kl(schedule, x_0), torch.zeros(1))
    # then x_T says nothing: q(x_1 | x_2, x_0) = q(x_1 | x_0)
    got = schedule.posterior_mean(x_t, x_0, 2)
    torch.testing.assert_close(got, math.sqrt(0.7) * x_0)
    torch.testing.assert_close(schedule.beta_tilde[2], torch.tensor(0.3))


def test_the_two_sampler_variances_share_the_first_step() -> None:
    for schedule in (UNEVEN, VarianceSchedule.linear(7), VarianceSchedule.linear(1)):
        beta, tilde = map(schedule.sampler_variance, ("beta", "beta_tilde"))
        assert torch.equal(beta, schedule.beta)
        assert torch.equal(tilde[2:], schedule.beta_tilde[2:])
        assert tilde[1] == schedule.beta[1] > 0
        assert torch.equal(schedule.sampler_variance(), beta)
        # what is asked for is a copy: β̃_1 itself stays 0
        assert schedule.beta_tilde[1] == 0


def test_the_sampler_variances_are_exact_for_noise_and_for_a_point() -> None:
    """Var[x_{t−1} | x_t] is β_t for x_0 ~ N(0, I) and β̃_t for x_0 known."""
    a, B = unrolled(BETA)
    for t in range(2, 5):
        for spread, kind in ((1.0, "beta"), (0.0, "beta_tilde")):
            C = spread * a[:, None] * a + B @ B.mT
            variance = C[t - 1, t - 1] - C[t - 1, t] ** 2 / C[t, t]
            torch.testing.assert_close(UNEVEN.sampler_variance(kind)[t], variance)


# Gaussians


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize(("v", "w"), [(0.3, 1.7), (1.7, 0.3), (0.8, 0.8)])
def test_the_kl_of_gaussians_is_that_of_torch(d: int, v: float, w: float) -> None:
    m, n = normal(6, d), normal(6, d, seed=1)
    v, w = number(v), number(w)
    truth = kl_divergence(isotropic(m, v), isotropic(n, w))
    torch.testing.assert_close(gaussian_kl(m, v, n, w), truth, rtol=1e-12, atol=1e-13)
    assert float(gaussian_kl(m, v, m, v).abs().max()) == 0


def test_the_kl_of_gaussians_is_an_integral() -> None:
    p, q = scipy.stats.norm(-0.4, 1.3), scipy.stats.norm(0.7, 0.6)

    def integrand(x: float) -> float:
        return q.pdf(x) * (q.logpdf(x) - p.logpdf(x))

    truth, _ = scipy.integrate.quad(integrand, -10, 10, epsabs=0, epsrel=1e-12)
    got = gaussian_kl(
        number(0.7)[None, None],
        number(0.36),
        number(-0.4)[None, None],
        number(1.69),
    )
    assert float(got) == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_gaussian_density_is_that_of_scipy(d: int) -> None:
    x, mean, variance = normal(4, d), normal(4, d, seed=1), 0.37
    truth = [
        scipy.stats.multivariate_normal(m, variance * np.eye(d)).logpdf(z)
        for z, m in zip(x.numpy(), mean.numpy(), strict=True)
    ]
    np.testing.assert_allclose(gaussian_log_prob(x, mean, number(variance)), truth)
    # every point with every mean
    table = gaussian_log_prob(x[:, None], mean, number(variance))
    assert table.shape == (4, 4)
    np.testing.assert_allclose(table.diagonal(), truth)


# The decoder of bins


def bins_of(bins: int, low: float, high: float) -> Tensor:
    return torch.linspace(low, high, bins, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("bins", "low", "high"), [(256, -1.0, 1.0), (2, 0.0, 3.0), (7, -2.0, 0.5)]
)
@pytest.mark.parametrize("std", [0.003, 0.2, 5.0])
def test_the_masses_of_the_bins_are_differences_of_the_distribution_function(
    bins: int, low: float, high: float, std: float
) -> None:
    x = bins_of(bins, low, high)
    mean = torch.full_like(x, 0.23)
    got = discretised_log_prob(x, mean, number(std**2), bins, low, high)
    middles = 0.5 * (x[1:] + x[:-1])[:, 0].numpy()
    cdf = scipy.stats.norm(0.23, std).cdf(middles)
    truth = np.diff(cdf, prepend=0.0, append=1.0)
    np.testing.assert_allclose(got.exp(), truth, rtol=1e-10, atol=1e-15)
    assert float(got.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_the_masses_of_pixels_are_products_and_sum_to_one() -> None:
    axis = bins_of(5, -1.0, 1.0)[:, 0]
    x = torch.cartesian_prod(axis, axis)
    mean = torch.tensor([[0.3, -0.8]]).double().expand(25, 2)
    got = discretised_log_prob(x, mean, number(0.1), bins=5)
    alone = [
        discretised_log_prob(x[:, i : i + 1], mean[:, i : i + 1], number(0.1), bins=5)
        for i in range(2)
    ]
    torch.testing.assert_close(got, sum(alone))
    assert float(got.exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("mean", [-3.0, -0.99, 0.4, 3.0])
def test_far_tails_keep_their_digits(mean: float) -> None:
    """At ς = 0.01 a bin at distance 4 has log mass near −80 000."""
    std, x = 0.01, bins_of(256, -1.0, 1.0)
    got = discretised_log_prob(x, torch.full_like(x, mean), number(std**2))
    assert got.isfinite().all()
    half = mpmath.mpf(1) / 255
    for k in (0, 1, 100, 127, 128, 254, 255):
        with mpmath.workdps(30):
            middle = -1 + 2 * half * k
            left = -mpmath.inf if k == 0 else (middle - half - mean) / std
            right = mpmath.inf if k == 255 else (middle + half - mean) / std
            if left > 0:  # far up, the upper tails are what is small
                left, right = -right, -left
            # 1e-35000 is no trouble for mpmath, whose exponents are unbounded
            truth = float(mpmath.log(mpmath.ncdf(right) - mpmath.ncdf(left)))
        assert float(got[k]) == pytest.approx(truth, rel=1e-9, abs=1e-12)


def test_narrow_bins_hold_density_times_width() -> None:
    x = torch.tensor([[0.2], [0.6]]).double()
    mean, variance, bins = torch.full_like(x, 0.31), number(0.09), 100_001
    got = discretised_log_prob(x, mean, variance, bins)
    truth = gaussian_log_prob(x, mean, variance) + math.log(2 / (bins - 1))
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-8)


def test_the_decoder_of_bins_can_be_trained() -> None:
    """∂/∂mean is finite in every bin, the open ones too, and is the slope."""
    x, h = bins_of(9, -1.0, 1.0), 1e-6
    mean = torch.full_like(x, 0.3)
    decode = partial(discretised_log_prob, x, variance=number(0.04), bins=9)
    slope = (decode(mean + h) - decode(mean - h)) / (2 * h)
    got = gradient(decode, mean)
    torch.testing.assert_close(got[:, 0], slope, rtol=1e-7, atol=1e-7)


# The terms


def test_the_prior_term_is_the_kl_of_the_last_marginal() -> None:
    x_0 = normal(5, 2)
    a, B = unrolled(BETA)
    last = isotropic(a[-1] * x_0, (B @ B.mT)[-1, -1])
    standard = isotropic(torch.zeros_like(x_0), number(1.0))
    torch.testing.assert_close(prior_kl(UNEVEN, x_0), kl_divergence(last, standard))
    # the schedule of the paper leaves 2·10⁻⁵ nats per dimension at x = 1
    left = prior_kl(VarianceSchedule.linear(), torch.ones(1, 1).double())
    assert float(left) == pytest.approx(2.0e-5, abs=5e-7)


@pytest.mark.parametrize("t", [2, 3, 4])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_denoising_term_is_the_kl_of_two_conditionals(t: int, share: float) -> None:
    """With ς² = β̃, β and between, where the constant does not vanish."""
    a, B = unrolled(BETA)
    C = B @ B.mT
    x_0, eps = normal(5, 2), normal(5, 2, seed=1)
    x_t = a[t] * x_0 + C[t, t].sqrt() * eps
    gain = C[t - 1, t] / C[t, t]
    q = isotropic(
        a[t - 1] * x_0 + gain * (x_t - a[t] * x_0),
        C[t - 1, t - 1] - gain * C[t, t - 1],
    )
    varsigma_squared = torch.lerp(UNEVEN.sampler_variance("beta_tilde"), BETA, share)
    p = isotropic(torch.tanh(x_t) * t, varsigma_squared[t])
    got = denoising_kl(
        UNEVEN, lambda x, t: torch.tanh(x) * t, x_0, eps, t, varsigma_squared
    )
    torch.testing.assert_close(got, kl_divergence(q, p))
    # the best mean still leaves the constant
    exact = denoising_kl(
        UNEVEN,
        lambda x, t: UNEVEN.posterior_mean(x, x_0, t),
        x_0,
        eps,
        t,
        varsigma_squared,
    )
    ratio = q.variance[0, 0] / varsigma_squared[t]
    constant = ratio - 1 - ratio.log()  # 2 dimensions times ½
    torch.testing.assert_close(exact, constant.expand(5), rtol=1e-9, atol=1e-12)


def test_the_reconstruction_is_the_log_density_of_the_data_given_one_step() -> None:
    x_0, eps = normal(5, 2), normal(5, 2, seed=1)
    x_1 = math.sqrt(0.85) * x_0 + math.sqrt(0.15) * eps

    def mean(x: Tensor, t: int) -> Tensor:
        return torch.sin(x) + t

    varsigma_squared = torch.full((5,), 0.31).double()
    got = reconstruction(UNEVEN, mean, x_0, eps, varsigma_squared)
    truth = isotropic(torch.sin(x_1) + 1, number(0.31)).log_prob(x_0)
    torch.testing.assert_close(got, truth)
    # another decoder meets the same three arguments
    laplace = reconstruction(
        UNEVEN,
        mean,
        x_0,
        eps,
        varsigma_squared,
        lambda x, mean, variance: -(x - mean).abs().sum(1) / variance.sqrt(),
    )
    truth = -(x_0 - torch.sin(x_1) - 1).abs().sum(1) / math.sqrt(0.31)
    torch.testing.assert_close(laplace, truth)


def test_single_points_on_a_double_schedule_stay_single() -> None:
    schedule, single = VarianceSchedule.linear(10), torch.float32
    x_0, eps = normal(4, 2).float(), normal(4, 2, seed=1).float()

    def mean(x: Tensor, t: int) -> Tensor:
        return 0.9 * x

    variance = schedule.sampler_variance()
    values = {
        "perturb": lambda x, e: schedule.perturb(x, e, 3),
        "posterior": lambda x, e: schedule.posterior_mean(x, e, 3),
        "prior": lambda x, e: prior_kl(schedule, x),
        "denoising": lambda x, e: denoising_kl(schedule, mean, x, e, 3, variance),
        "reconstruction": lambda x, e: reconstruction(schedule, mean, x, e, variance),
        "bins": lambda x, e: reconstruction(
            schedule, mean, x, e, variance, discretised_log_prob
        ),
    }
    for name, value in values.items():
        got, truth = value(x_0, eps), value(x_0.double(), eps.double())
        assert got.dtype == single, name
        torch.testing.assert_close(got.double(), truth, rtol=2e-4, atol=2e-4)
