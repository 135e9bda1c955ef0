"""Paths against moment equations, quadrature, finite differences and their SDEs."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor
from torch.distributions import Normal

from diffedu.mixture import three_gaussians
from diffedu.path import (
    TARGETS,
    Cosine,
    GaussianPath,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
    expand,
    time_grid,
)
from tests.package.oracles import derivative, gradient, noised

PATHS = {
    "OU": OrnsteinUhlenbeck(),
    "OU general": OrnsteinUhlenbeck(beta=0.8, diffusion=1.1, horizon=2.0),
    "Brownian": OrnsteinUhlenbeck(beta=0.0, diffusion=1.3, horizon=1.5),
    "VP": VariancePreserving(),
    "VP from zero": VariancePreserving(0.0, 4.0),
    "Cosine": Cosine(),
    "VE": VarianceExploding(),
    "VE general": VarianceExploding(0.2, 5.0),
    "Straight": Straight(),
}
FRACTIONS = [1e-3, 0.37, 0.999]
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
every_fraction = pytest.mark.parametrize("fraction", FRACTIONS)


def number(x: Tensor) -> float:
    return float(x)


# α and σ


@every_path
def test_every_path_starts_at_the_data(path: GaussianPath) -> None:
    assert path.alpha(0.0) == 1
    assert path.variance(0.0) == path.sigma(0.0) == 0


@every_path
def test_f_and_g_drive_the_moments_to_alpha_and_sigma(path: GaussianPath) -> None:
    """ṁ = f m and V̇ = 2 f V + g², integrated by SciPy from m = 1, V = 0."""

    def rates(t: float, state: np.ndarray) -> list[float]:
        m, V = state
        f, g = number(path.f(t)), number(path.g(t))
        return [f * m, 2 * f * V + g**2]

    times = [fraction * path.t_max for fraction in FRACTIONS]
    solution = scipy.integrate.solve_ivp(
        rates,
        (0, times[-1]),
        [1.0, 0.0],
        method="DOP853",
        t_eval=times,
        rtol=1e-11,
        atol=1e-13,
    )
    # rtol accumulates over some hundred steps, and f grows to 1/(1-t) = 1000
    t = torch.tensor(times, dtype=torch.float64)
    alpha, variance = path.alpha(t), path.variance(t)
    np.testing.assert_allclose(alpha, solution.y[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(variance, solution.y[1], rtol=1e-6, atol=1e-9)


@every_path
def test_sigma_is_the_root_of_the_variance(path: GaussianPath) -> None:
    t = torch.linspace(0, path.t_max, 9, dtype=torch.float64)
    torch.testing.assert_close(path.sigma(t) * path.sigma(t), path.variance(t))


@pytest.mark.parametrize(
    "path",
    [OrnsteinUhlenbeck(), VariancePreserving(), VariancePreserving(0.0, 4.0), Cosine()],
)
def test_variance_preserving_paths_keep_a_unit_variance(path: GaussianPath) -> None:
    t = torch.linspace(0, path.t_max, 9, dtype=torch.float64)
    total = path.alpha(t) ** 2 + path.variance(t)
    torch.testing.assert_close(total, torch.ones_like(t))


def test_ornstein_uhlenbeck_settles_at_the_balance_of_decay_and_noise() -> None:
    # Lyapunov: 0 = −2βV + g²
    path = OrnsteinUhlenbeck(beta=0.8, diffusion=1.1, horizon=60.0)
    stationary = path.stationary_std**2
    assert stationary == pytest.approx(1.1**2 / (2 * 0.8))
    assert float(path.variance(60.0)) == pytest.approx(stationary)
    assert OrnsteinUhlenbeck(beta=0.0).stationary_std == math.inf


def test_brownian_motion_is_the_limit_of_slow_decay() -> None:
    slow, none = (OrnsteinUhlenbeck(beta=b, diffusion=1.3) for b in (1e-9, 0.0))
    t = torch.linspace(0, 3, 7, dtype=torch.float64)
    # the relative difference is of order beta t
    torch.testing.assert_close(slow.variance(t), none.variance(t), rtol=1e-8, atol=0)
    torch.testing.assert_close(slow.alpha(t), none.alpha(t), rtol=1e-8, atol=0)


def test_variance_preserving_is_ornstein_uhlenbeck_on_another_clock() -> None:
    """τ(t) = ½∫₀ᵗβ by quadrature, with β(0) and β(1) as constructed."""
    path, unit = VariancePreserving(0.3, 7.0), OrnsteinUhlenbeck(horizon=10.0)
    assert path.beta(0.0) == pytest.approx(0.3)
    assert path.beta(1.0) == pytest.approx(7.0)
    for t in (0.05, 0.5, 1.0):
        tau, _ = scipy.integrate.quad(lambda s: 0.5 * float(path.beta(s)), 0, t)
        assert float(path.alpha(t)) == pytest.approx(float(unit.alpha(tau)))
        assert float(path.variance(t)) == pytest.approx(float(unit.variance(tau)))
        assert float(path.log_alpha(t)) == pytest.approx(-tau)


def test_variance_exploding_noise_grows_geometrically_between_its_ends() -> None:
    # σ² + σ_min² is geometric from σ_min² to σ_max²
    path = VarianceExploding(0.2, 5.0)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    total = (path.variance(t) + 0.2**2).sqrt()
    torch.testing.assert_close(total, torch.from_numpy(np.geomspace(0.2, 5.0, 9)))
    assert (path.alpha(t) == 1).all()


def test_cosine_and_straight_end_without_signal() -> None:
    for path in (Cosine(), Straight()):
        assert float(path.alpha(1.0)) == pytest.approx(0, abs=1e-15)
        assert float(path.sigma(1.0)) == pytest.approx(1)
    # on the circle α + iσ the cosine path has constant speed π/2; the straight path
    # has constant velocity ε − x_0
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    angle = torch.atan2(Cosine().sigma(t), Cosine().alpha(t))
    torch.testing.assert_close(angle, 0.5 * math.pi * t)
    torch.testing.assert_close(Straight().alpha(t) + Straight().sigma(t), 1 + 0 * t)
    torch.testing.assert_close(Straight().sigma(t), t)


# Derived quantities


@every_path
@every_fraction
def test_time_derivatives_by_finite_differences(
    path: GaussianPath, fraction: float
) -> None:
    t = fraction * path.t_max
    # near t = 0 the step must resolve the root: 8th order at h = t/40 leaves ~1e-9
    h = min(t, path.t_max - t) / 40
    # rounding leaves about eps/h, 1e-11 of the value
    for name in ("alpha", "variance", "sigma"):
        truth = derivative(getattr(path, name), t, h)
        assert float(getattr(path, f"{name}_dot")(t)) == pytest.approx(
            float(truth), rel=1e-7, abs=1e-9
        )


@every_path
@every_fraction
def test_closed_forms_agree_with_what_is_derived_from_alpha_and_sigma(
    path: GaussianPath, fraction: float
) -> None:
    t = fraction * path.t_max
    for name in ("sigma", "alpha_dot", "variance_dot", "sigma_dot", "f", "g"):
        derived = getattr(GaussianPath, name)(path, t)
        torch.testing.assert_close(
            getattr(path, name)(t), derived, rtol=1e-9, atol=1e-12
        )


@every_path
@every_fraction
def test_log_snr_falls_at_the_rate_of_noise_over_variance(
    path: GaussianPath, fraction: float
) -> None:
    """d log SNR/dt = −g²/σ²: scaling x leaves it alone, only added noise lowers it."""
    t = fraction * path.t_max
    h = min(t, path.t_max - t) / 40
    rate = -(number(path.g(t)) ** 2) / number(path.sigma(t)) ** 2
    assert float(derivative(path.log_snr, t, h)) == pytest.approx(rate, rel=1e-7)


@every_path
@every_fraction
def test_log_snr_is_the_log_of_signal_power_over_noise_power(
    path: GaussianPath, fraction: float
) -> None:
    t = fraction * path.t_max
    ratio = number(path.alpha(t)) / number(path.sigma(t))
    assert float(path.log_snr(t)) == pytest.approx(math.log(ratio**2), rel=1e-9)


@every_path
def test_float32_keeps_its_digits_at_small_times(path: GaussianPath) -> None:
    # sqrt(1 − exp(·)) loses .6 % here; what is used loses units in the last place
    t = 1e-5 * path.t_max
    single = torch.tensor(t, dtype=torch.float32)
    for name in ("alpha", "sigma", "variance", "log_snr", "sigma_dot", "g"):
        value = getattr(path, name)(single)
        truth = getattr(path, name)(single.double())
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(float(truth), rel=2e-6)


def test_the_naive_form_loses_its_digits_in_float32() -> None:
    # the trap that the test above would notice: sqrt(1 - exp(-∫β)) for the VP path
    t = torch.tensor(1e-5)
    path = VariancePreserving()
    naive = (1 - torch.exp(2 * path.log_alpha(t))).sqrt()
    assert abs(float(naive / path.sigma(t.double())) - 1) > 0.005


@every_path
def test_time_keeps_its_dtype_and_shape(path: GaussianPath) -> None:
    t = torch.linspace(0.1, 0.9, 5) * path.t_max
    for name in ("alpha", "sigma", "alpha_dot", "sigma_dot", "f", "g", "log_snr"):
        per_point = getattr(path, name)(t)
        assert (per_point.dtype, per_point.shape) == (torch.float32, (5,))
        alone = [getattr(path, name)(t[i]) for i in range(5)]
        # forward-mode differentiation of one and of many may round differently
        torch.testing.assert_close(per_point, torch.stack(alone))
        assert getattr(path, name)(0.3).dtype == torch.float64


# The time of a ratio


@every_path
def test_time_at_is_the_inverse_of_the_ratio(path: GaussianPath) -> None:
    for fraction in (1e-6, 1e-3, 0.1, 0.37, 0.8, 0.999):
        t = fraction * path.t_max
        ratio = number(path.sigma(t)) / number(path.alpha(t))
        assert number(path.time_at(ratio)) == pytest.approx(t, rel=1e-9)
    t = path.t_max * torch.linspace(0.01, 0.99, 7, dtype=torch.float64)
    there = path.time_at(path.sigma(t) / path.alpha(t))
    torch.testing.assert_close(there, t, rtol=1e-9, atol=1e-12)
    assert path.time_at(0.0) == 0


@every_path
def test_time_at_keeps_its_dtype_and_stays_within_the_path(path: GaussianPath) -> None:
    greatest = path.sigma(path.t_max) / path.alpha(path.t_max)
    # float32 rounds the greatest ratio upwards as often as not
    for ratio in (greatest, greatest.float(), greatest * (1 + 5e-7)):
        t = path.time_at(ratio)
        assert t.dtype == ratio.dtype
        assert t <= path.t_max
        assert number(t) == pytest.approx(path.t_max, rel=1e-6)
    half = path.time_at(torch.tensor([0.0, 0.5]))
    assert (half.dtype, half[0]) == (torch.float32, 0)
    truth = number(path.time_at(0.5))
    assert number(half[1]) == pytest.approx(truth, rel=1e-5)


class Bent(GaussianPath):
    """α = 1 − t³/2 and σ = sin t, t in [0, 2]: a path without a closed inverse."""

    @property
    def t_max(self) -> float:
        return 1.2

    def alpha(self, t: float | Tensor) -> Tensor:
        return 1 - self.time(t) ** 3 / 2

    def variance(self, t: float | Tensor) -> Tensor:
        return self.time(t).sin() ** 2


def test_a_path_without_a_closed_inverse_is_bisected() -> None:
    path = Bent()
    t = torch.tensor([0.0, 1e-5, 0.3, 0.77, 1.1999, 1.2], dtype=torch.float64)
    ratio = path.sigma(t) / path.alpha(t)
    torch.testing.assert_close(path.time_at(ratio), t, rtol=1e-12, atol=1e-14)
    assert number(path.time_at(number(ratio[2]))) == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 6\.8"):
        path.time_at(7.0)


@every_path
def test_time_at_refuses_ratios_that_are_not_reached(path: GaussianPath) -> None:
    without_signal = isinstance(path, Cosine | Straight)
    ratio = path.sigma(path.t_max) / path.alpha(path.t_max)
    greatest = math.inf if without_signal else number(ratio)
    for ratio in (-0.1, math.nan, 1.01 * greatest):
        if ratio == math.inf:
            assert path.time_at(ratio) == 1  # no signal is left at t = 1
            continue
        with pytest.raises(ValueError, match="ratio must lie in"):
            path.time_at(ratio)


# Noising


@every_path
@every_fraction
def test_marginal_is_the_law_of_the_noised_data(
    path: GaussianPath, fraction: float
) -> None:
    t, mixture = fraction * path.t_max, three_gaussians()
    law = noised(mixture, number(path.alpha(t)), number(path.sigma(t)))
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(path.marginal(mixture, t).log_prob(x), law.log_prob(x))


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (4, 3, 5)])
def test_perturb_weighs_data_and_noise_of_each_point_by_its_time(
    shape: tuple[int, ...],
) -> None:
    path = OrnsteinUhlenbeck(0.8, 1.1)
    x_0, eps = torch.randn(
        2, *shape, generator=torch.Generator().manual_seed(1)
    ).double()
    t = torch.tensor([0.0, 0.1, 1.0, 3.0], dtype=torch.float64)
    x_t = path.perturb(x_0, eps, t)
    for i, time in enumerate(t.tolist()):
        alpha, sigma = number(path.alpha(time)), number(path.sigma(time))
        torch.testing.assert_close(x_t[i], alpha * x_0[i] + sigma * eps[i])
        torch.testing.assert_close(path.perturb(x_0, eps, time)[i], x_t[i])


# The target table


def pair() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x_0, eps = torch.randn(2, 6, 2, generator=g, dtype=torch.float64)
    return x_0, eps


def targets(path: GaussianPath, t: float) -> dict[str, Tensor]:
    """Every target for one pair (x_0, ε), each from what it means."""
    x_0, eps = pair()
    alpha, sigma = number(path.alpha(t)), number(path.sigma(t))
    x_t = alpha * x_0 + sigma * eps

    def conditional(x: Tensor) -> Tensor:
        return Normal(alpha * x_0, sigma).log_prob(x).sum(-1)

    def way(s: Tensor) -> Tensor:
        return path.alpha(s) * x_0 + path.sigma(s) * eps

    def turned(angle: Tensor) -> Tensor:
        return math.hypot(alpha, sigma) * (angle.cos() * x_0 + angle.sin() * eps)

    h = min(t, path.t_max - t) / 40
    return {
        "x_t": x_t,
        "x0": x_0,
        "eps": eps,
        "score": gradient(conditional, x_t),
        "v": derivative(turned, math.atan2(sigma, alpha), 1e-2),
        "velocity": derivative(way, t, h),
    }


@every_path
@every_fraction
@pytest.mark.parametrize("target", TARGETS)
def test_row_gives_each_target_its_meaning(
    path: GaussianPath, fraction: float, target: str
) -> None:
    """Score: of the transition density; v: along the circle; velocity: along time."""
    t = fraction * path.t_max
    a, b = path.row(target, t)
    x_0, eps = pair()
    # finite differences leave 1e-8 of the largest velocity
    truth = targets(path, t)[target]
    scale = float(truth.abs().max())
    torch.testing.assert_close(
        a * x_0 + b * eps, truth, rtol=1e-7, atol=1e-8 * scale + 1e-10
    )


@every_path
@every_fraction
def test_every_target_is_converted_into_every_other_and_back(
    path: GaussianPath, fraction: float
) -> None:
    t = fraction * path.t_max
    x_0, eps = pair()
    x_t = path.perturb(x_0, eps, t)
    rows = {name: path.row(name, t) for name in TARGETS}
    exact = {name: a * x_0 + b * eps for name, (a, b) in rows.items()}
    # dividing by alpha or sigma, 1e-3 at the ends, loses three to six digits
    scale = {name: float(value.abs().max()) for name, value in exact.items()}
    for source, target in itertools.product(TARGETS, TARGETS):
        there = path.convert(exact[source], x_t, t, source, target)
        back = path.convert(there, x_t, t, target, source)
        torch.testing.assert_close(
            there, exact[target], rtol=1e-8, atol=1e-8 * scale[target]
        )
        torch.testing.assert_close(
            back, exact[source], rtol=1e-6, atol=1e-6 * scale[source]
        )


def test_conversion_takes_one_time_per_point() -> None:
    path, t = Cosine(), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    x_0, eps = pair()
    x_t = path.perturb(x_0, eps, t)
    torch.testing.assert_close(path.convert(x_0, x_t, t, "x0", "eps"), eps)
    for i in range(6):
        score = path.convert(eps, x_t, t, "eps", "score")[i]
        torch.testing.assert_close(score, -eps[i] / path.sigma(t[i]))


@every_path
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("x0", "eps"),  # at t = 0, x_t = x_0 says nothing of ε
        ("x0", "score"),
        ("x0", "v"),
        ("eps", "score"),  # the score of a point mass
        ("score", "x0"),
    ],
)
def test_conversion_refuses_what_is_unknown_without_noise(
    path: GaussianPath, source: str, target: str
) -> None:
    x = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"'{source}' does not determine.*'{target}'"):
        path.convert(x, x, 0.0, source, target)


@pytest.mark.parametrize(("source", "target"), [("eps", "x0"), ("eps", "v")])
def test_conversion_refuses_what_is_unknown_without_signal(
    source: str, target: str
) -> None:
    # Straight: α(1) is 0 exactly
    x = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"'{source}' does not determine.*'{target}'"):
        Straight().convert(x, x, 1.0, source, target)


def test_conversion_at_the_ends_gives_what_is_known() -> None:
    x_0, eps = pair()
    for path in (Straight(), Cosine(), OrnsteinUhlenbeck()):
        # at t = 0, v = α ε − σ x_0 is ε, and ε leaves x_0 = x_t alone
        torch.testing.assert_close(path.convert(eps, x_0, 0.0, "v", "eps"), eps)
        torch.testing.assert_close(path.convert(eps, x_0, 0.0, "eps", "x0"), x_0)
    velocity = eps - x_0
    there = Straight().convert(velocity, eps, 1.0, "velocity", "x0")
    torch.testing.assert_close(there, x_0)


# Broadcasting and grids


def test_expand_lines_times_up_with_points() -> None:
    t = torch.tensor([1.0, 2.0, 3.0])
    assert expand(torch.tensor(2.0), torch.ones(3, 2)).ndim == 0
    for shape in ((3,), (3, 2), (3, 4, 5)):
        product = expand(t, torch.ones(shape)) * torch.ones(shape)
        assert product.shape == shape
        for i in range(3):
            assert (product[i] == t[i]).all()


def test_expand_takes_the_dtype_of_the_points() -> None:
    t = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert expand(t, torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("power", [1.0, 2.0, 7.0])
def test_time_grid_is_uniform_in_the_root_of_time(power: float) -> None:
    for start, stop in ((0.0, 3.0), (3.0, 0.0), (0.01, 1.0), (2.5, 0.1)):
        times = time_grid(start, stop, 12, power)
        assert (len(times), times.dtype) == (13, torch.float64)
        assert (times[0], times[-1]) == (start, stop)
        steps = (times ** (1 / power)).diff()
        torch.testing.assert_close(steps, steps[0].expand(12), rtol=1e-7, atol=1e-9)


def test_quadratic_grid_is_the_squares() -> None:
    truth = [(i / 5) ** 2 for i in range(6)]
    assert time_grid(0.0, 1.0, 5, power=2.0).tolist() == pytest.approx(truth)


def test_one_step_is_a_grid() -> None:
    assert time_grid(1.0, 0.0, 1).tolist() == [1.0, 0.0]
