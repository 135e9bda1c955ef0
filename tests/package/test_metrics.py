"""Distances against closed forms, brute force, optimal assignment and repetition."""

import itertools
import math
import re

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

from diffedu.metrics import (
    Estimate,
    convergence_order,
    energy_distance,
    grid_kl,
    sampling_floor,
    sliced_wasserstein,
)
from diffedu.mixture import three_gaussians


def normal(n: int, d: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64)


def mean_distance(m: float, std: float) -> float:
    """E|Z| of Z ~ N(m, std²)."""
    return float(
        std * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * std**2))
        + m * (1 - 2 * scipy.stats.norm.cdf(-m / std))
    )


# Energy distance


def energy_of_gaussians(m: float, s: float) -> float:
    """Between N(0, 1) and N(m, s²), from folded normal means."""
    across = mean_distance(m, math.sqrt(1 + s**2))
    return 2 * across - mean_distance(0, math.sqrt(2)) * (1 + s)


@pytest.mark.parametrize(("m", "s"), [(1.0, 1.0), (0.3, 2.0), (0.0, 0.5)])
def test_energy_distance_of_gaussians_on_the_line(m: float, s: float) -> None:
    x, y = normal(3000, 1, 1), m + s * normal(4000, 1, 2)
    estimate = energy_distance(x, y)
    truth = energy_of_gaussians(m, s)
    assert abs(estimate.value - truth) <= 5 * estimate.standard_error
    # the same law by 2∫(F − G)²
    cdf = scipy.stats.norm.cdf
    squared = scipy.integrate.quad(lambda u: (cdf(u) - cdf(u, m, s)) ** 2, -9, 12)
    assert truth == pytest.approx(2 * squared[0], rel=1e-6)


def test_energy_distance_is_the_unbiased_sum_over_pairs() -> None:
    x, y = normal(7, 3, 1), 0.5 + normal(9, 3, 2)
    across = [math.dist(a, b) for a in x.tolist() for b in y.tolist()]
    within = [
        np.mean([math.dist(a, b) for a, b in itertools.permutations(z.tolist(), 2)])
        for z in (x, y)
    ]
    truth = 2 * np.mean(across) - sum(within)
    assert energy_distance(x, y).value == pytest.approx(truth)
    assert energy_distance(y, x) == pytest.approx(energy_distance(x, y))


def test_energy_distance_is_the_same_in_blocks() -> None:
    # 1500 points are more than one block of rows
    x, y = normal(1500, 2, 1), normal(1300, 2, 2) + 0.2
    across = torch.cdist(x, y).mean()
    within = torch.cdist(x, x).sum() / (1500 * 1499)
    within = within + torch.cdist(y, y).sum() / (1300 * 1299)
    assert energy_distance(x, y).value == pytest.approx(float(2 * across - within))


def test_energy_distance_of_one_law_averages_to_zero() -> None:
    values = [
        energy_distance(normal(60, 2, seed), normal(80, 2, 1000 + seed)).value
        for seed in range(200)
    ]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values)) <= 5 * error
    assert min(values) < 0 < max(values)


def test_energy_distance_is_measured_in_units_of_the_data() -> None:
    x, y = normal(50, 2, 1), normal(60, 2, 2) + 1
    assert energy_distance(10 * x, 10 * y) == pytest.approx(
        tuple(10 * z for z in energy_distance(x, y))
    )


# Sliced Wasserstein


@pytest.mark.parametrize("directions", [3, 64])
def test_a_shift_in_the_plane_has_distance_its_length_over_root_two(
    directions: int,
) -> None:
    # the mean of cos² over 3 or more equally spaced directions is ½ exactly
    x, shift = normal(50, 2, 1), torch.tensor([0.6, -1.1], dtype=torch.float64)
    estimate = sliced_wasserstein(x, x + shift, directions)
    assert estimate.value == pytest.approx(float(shift.norm()) / math.sqrt(2))


def test_shifted_gaussians_in_the_plane() -> None:
    m = torch.tensor([1.0, 0.5], dtype=torch.float64)
    estimate = sliced_wasserstein(normal(4000, 2, 1), m + normal(4000, 2, 2))
    truth = float(m.norm()) / math.sqrt(2)
    assert abs(estimate.value - truth) <= 5 * estimate.standard_error


@pytest.mark.parametrize(("m", "s"), [(1.0, 1.0), (0.5, 2.0), (0.0, 0.5)])
def test_gaussians_on_the_line(m: float, s: float) -> None:
    # W₂² = m² + (1 − s)²
    estimate = sliced_wasserstein(normal(4000, 1, 1), m + s * normal(4000, 1, 2))
    truth = math.hypot(m, 1 - s)
    assert abs(estimate.value - truth) <= 5 * estimate.standard_error


def test_a_shift_in_five_dimensions() -> None:
    # E(u·m)² = |m|²/5 over random directions; 4000 of them, variance of (u·e)² known
    m = torch.tensor([1.0, -2.0, 0.5, 0.0, 1.5], dtype=torch.float64)
    x = normal(20, 5, 1)
    g = torch.Generator().manual_seed(3)
    estimate = sliced_wasserstein(x, x + m, 4000, generator=g)
    squared, n = float(m.square().sum()), 4000
    error = squared * math.sqrt((3 / 35 - 1 / 25) / n)
    assert abs(estimate.value**2 - squared / 5) <= 5 * error
    again = sliced_wasserstein(x, x + m, 4000, torch.Generator().manual_seed(3))
    assert again == estimate


def test_one_direction_is_the_optimal_assignment() -> None:
    x, y = normal(30, 1, 1), 0.4 + 1.5 * normal(30, 1, 2)
    cost = (x - y.mT).square().numpy()
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    truth = math.sqrt(cost[rows, columns].mean())
    assert sliced_wasserstein(x, y).value == pytest.approx(truth)


def test_directions_average_squared_assignments_over_the_half_circle() -> None:
    x, y = normal(12, 2, 1), 1.5 * normal(12, 2, 2) + 0.5
    squares = []
    for k in range(5):
        angle = math.pi * k / 5
        u = torch.tensor([math.cos(angle), math.sin(angle)]).double()
        cost = ((x @ u)[:, None] - (y @ u)[None]).square().numpy()
        rows, columns = scipy.optimize.linear_sum_assignment(cost)
        squares.append(cost[rows, columns].mean())
    truth = math.sqrt(np.mean(squares))
    # the directions are float32-accurate here only
    assert sliced_wasserstein(x, y, 5).value == pytest.approx(truth, rel=1e-6)


def test_a_sample_is_at_distance_zero_from_itself_in_any_order() -> None:
    x = normal(40, 2, 1)
    estimate = sliced_wasserstein(x, x[torch.randperm(40, generator=_seeded())])
    assert estimate == Estimate(0.0, 0.0)


def test_a_quarter_turn_of_both_samples_changes_nothing() -> None:
    # the equally spaced directions are mapped onto each other, up to sign
    x, y = normal(40, 2, 1), 1.5 * normal(40, 2, 2) + 0.5
    R = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
    turned = sliced_wasserstein(x @ R, y @ R)
    assert turned == pytest.approx(sliced_wasserstein(x, y))


def test_sliced_wasserstein_is_measured_in_units_of_the_data() -> None:
    x, y = normal(50, 2, 1), normal(50, 2, 2) + 1
    assert sliced_wasserstein(10 * x, 10 * y) == pytest.approx(
        tuple(10 * z for z in sliced_wasserstein(x, y))
    )
    assert sliced_wasserstein(y, x) == pytest.approx(sliced_wasserstein(x, y))


# Standard errors


@pytest.mark.parametrize(
    ("metric", "n", "dim", "truth"),
    [
        (energy_distance, 120, 1, energy_of_gaussians(0.8, 1.5)),
        (sliced_wasserstein, 300, 1, math.hypot(0.8, 0.5)),
        (sliced_wasserstein, 300, 2, math.sqrt(0.8**2 + 0.5**2)),
    ],
)
def test_standard_errors_are_the_spread_over_repetitions(
    metric, n: int, dim: int, truth: float
) -> None:
    """N(0, I) against N(m, 1.5²I), 200 times, with every coordinate of m at .8."""
    m = torch.full((dim,), 0.8, dtype=torch.float64)
    estimates = [
        metric(normal(n, dim, seed), m + 1.5 * normal(n, dim, 500 + seed))
        for seed in range(200)
    ]
    values = np.array([e.value for e in estimates])
    stated = np.sqrt(np.mean([e.standard_error**2 for e in estimates]))
    spread = values.std(ddof=1)
    # the spread of 200 values is known to 1/√400 = 5 %; five of these
    assert stated == pytest.approx(spread, rel=0.25)
    z = [(e.value - truth) / e.standard_error for e in estimates]
    # a fair error covers the truth 95 % of the time, known here to 1.5 %
    assert np.mean(np.abs(z) < 1.96) > 0.95 - 5 * 0.0154


def test_an_estimate_is_printed_with_its_error() -> None:
    assert str(Estimate(0.123456, 0.00456)) == "0.123 ± 0.0046"


# Floor


def test_the_floor_is_the_mean_over_pairs_of_exact_samples() -> None:
    law, generator = three_gaussians(), _seeded()
    values = [
        sliced_wasserstein(law.sample(50, generator), law.sample(50, generator)).value
        for _ in range(6)
    ]
    floor = sampling_floor(sliced_wasserstein, law.sample, 50, 6, _seeded())
    # the values are collected in float32
    assert floor.value == pytest.approx(np.mean(values), rel=1e-6)
    assert floor.standard_error == pytest.approx(
        np.std(values, ddof=1) / math.sqrt(6), rel=1e-5
    )


def test_the_floor_of_sliced_wasserstein_falls_with_the_sample_size() -> None:
    law = three_gaussians()
    floors = [
        sampling_floor(sliced_wasserstein, law.sample, n, 8, _seeded()).value
        for n in (100, 400, 1600)
    ]
    # like 1/√n, give or take the spread of eight pairs
    for ratio in np.divide(floors[:-1], floors[1:]):
        assert 1.4 < ratio < 2.8


def test_the_floor_of_the_energy_distance_is_zero_within_its_error() -> None:
    floor = sampling_floor(
        energy_distance, three_gaussians().sample, 200, 20, _seeded()
    )
    assert abs(floor.value) <= 5 * floor.standard_error
    assert re.match(r"-?[0-9.e-]+ ± [0-9.e-]+", str(floor))


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


# Densities on cells


def test_grid_kl_is_the_divergence_of_two_normals() -> None:
    x = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    p = torch.from_numpy(scipy.stats.norm(0.3, 0.8).pdf(x))
    q = torch.from_numpy(scipy.stats.norm(-0.2, 1.1).pdf(x))
    exact = math.log(1.1 / 0.8) + (0.8**2 + 0.5**2) / (2 * 1.1**2) - 0.5
    assert grid_kl(p, q, 0.01) == pytest.approx(exact, abs=1e-9)
    assert grid_kl(p, p, 0.01) == 0


def test_grid_kl_where_a_density_vanishes() -> None:
    p = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    q = torch.tensor([[0.5, 0.25], [0.0, 0.25]])
    assert grid_kl(p, q, 1.0) == pytest.approx(0.5 * math.log(2))
    assert grid_kl(p, q, 0.5) == pytest.approx(0.25 * math.log(2))
    assert grid_kl(q, p, 1.0) == math.inf


@pytest.mark.parametrize(
    ("p", "q", "volume", "message"),
    [
        (torch.ones(3), torch.ones(4), 1.0, "p and q"),
        (torch.tensor([-1.0, 2.0]), torch.ones(2), 1.0, "p must not be negative"),
        (torch.ones(2), torch.tensor([math.nan, 1.0]), 1.0, "q must be finite"),
        (torch.ones(2).half(), torch.ones(2).half(), 1.0, "p must be a float32"),
        (torch.ones(2), torch.ones(2), 0.0, "volume"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_grid_kl_refuses(p: Tensor, q: Tensor, volume: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_kl(p, q, volume)


# Orders of convergence

STEPS = [0.4, 0.2, 0.1, 0.03]


def test_convergence_order_of_a_power_is_its_exponent() -> None:
    order = convergence_order(STEPS, [3 * h**1.7 for h in STEPS])
    assert order.value == pytest.approx(1.7, abs=1e-12)
    assert order.standard_error < 1e-12


def test_convergence_order_of_numbers_is_a_linear_regression() -> None:
    errors = [0.9, 0.31, 0.17, 0.03]
    fit = scipy.stats.linregress(np.log(STEPS), np.log(errors))
    order = convergence_order(torch.tensor(STEPS), errors)
    assert order.value == pytest.approx(fit.slope, rel=1e-6)
    assert order.standard_error == pytest.approx(fit.stderr, rel=1e-5)


def test_convergence_order_weighs_estimates_by_their_errors() -> None:
    """Repetitions with the stated errors scatter as the stated standard error says."""
    g = torch.Generator().manual_seed(4)
    truth = 2 * torch.tensor(STEPS) ** 0.5
    deviation = truth * torch.tensor([0.02, 0.01, 0.005, 0.04])
    orders = []
    for _ in range(600):
        drawn = truth + deviation * torch.randn(4, generator=g)
        pairs = zip(drawn.tolist(), deviation.tolist(), strict=True)
        orders.append(convergence_order(STEPS, [Estimate(*pair) for pair in pairs]))
    slopes = torch.tensor([order.value for order in orders])
    stated = orders[0].standard_error
    assert abs(float(slopes.mean()) - 0.5) < 5 * stated / math.sqrt(600)
    spread = float(slopes.std())
    assert spread == pytest.approx(stated, rel=5 / math.sqrt(2 * 600))
    plain = convergence_order(STEPS, truth.tolist())
    assert plain.value == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("steps", "errors", "message"),
    [
        ([0.1, 0.2], [1.0, 2.0], "at least 3"),
        ([0.1, 0.2, 0.3], [1.0, 2.0], "same length"),
        ([0.1, 0.2, 0.0], [1.0, 2.0, 3.0], "steps must be positive"),
        ([0.1, 0.2, 0.3], [1.0, 0.0, 3.0], "errors must be positive"),
        ([0.1, 0.2, 0.3], [1.0, math.nan, 3.0], "errors must be positive"),
    ],
)
def test_convergence_order_refuses(
    steps: list[float], errors: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convergence_order(steps, errors)


def test_the_standard_error_of_a_plain_number_is_zero() -> None:
    assert Estimate.of(0.25) == Estimate(0.25, 0.0)
    assert Estimate.of(Estimate(1.0, 0.5)) == Estimate(1.0, 0.5)


def test_a_mean_has_the_standard_error_of_its_sample() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    got = Estimate.mean(values)
    assert got.value == 4
    assert got.standard_error == pytest.approx(scipy.stats.sem(values.numpy()))


def test_the_standard_error_of_a_mean_is_the_scatter_of_means() -> None:
    drawn = torch.randn(4000, 25, generator=torch.Generator().manual_seed(6)).double()
    estimates = [Estimate.mean(2 + 3 * row) for row in drawn]
    values = torch.tensor([estimate.value for estimate in estimates])
    stated = torch.tensor([estimate.standard_error**2 for estimate in estimates])
    assert abs(float(values.mean()) - 2) < 5 * 0.6 / math.sqrt(4000)
    # s² has relative deviation √(2/24), a variance of 4000 means √(2/3999)
    assert float(stated.mean()) == pytest.approx(0.36, rel=5 * math.sqrt(2 / 24 / 4000))
    assert float(values.var()) == pytest.approx(0.36, rel=5 * math.sqrt(2 / 3999))
