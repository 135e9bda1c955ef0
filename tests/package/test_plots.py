"""Figures hold the numbers they should: array values, limits, geometry."""

import math
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from diffedu import plots
from diffedu.metrics import Estimate
from diffedu.mixture import three_gaussians, three_gaussians_1d
from tests.package.oracles import torch_mixture

EXTENT = (-2.0, 3.0, -1.0, 2.5)


@pytest.fixture
def ax() -> Iterator[Axes]:
    figure, axes = plt.subplots()
    yield axes
    figure.canvas.draw()  # what cannot be drawn fails here
    plt.close(figure)


def test_density_image_has_the_density_at_the_place_of_each_pixel(ax: Axes) -> None:
    mixture = three_gaussians()
    image = plots.plot_density(ax, mixture.log_prob, EXTENT, points=21)
    shown = np.asarray(image.get_array())
    x_1, x_2 = np.linspace(-2, 3, 21), np.linspace(-1, 2.5, 21)
    place = torch.tensor([[x_1[4], x_2[15]]])
    truth = float(torch_mixture(mixture).log_prob(place).exp())
    assert shown[15, 4] == pytest.approx(truth)  # row = x₂ from below, column = x₁
    assert image.origin == "lower"
    assert image.get_extent() == pytest.approx(EXTENT)
    assert image.get_clim()[0] == 0
    assert (*ax.get_xlim(), *ax.get_ylim()) == pytest.approx(EXTENT)
    assert ax.get_aspect() == 1


def test_density_line_has_the_density(ax: Axes) -> None:
    mixture = three_gaussians_1d()
    line = plots.plot_density_1d(ax, mixture.log_prob, (-2.0, 2.0), 41, label="p")
    x, y = line.get_data()
    truth = torch_mixture(mixture).log_prob(torch.tensor(x)[:, None]).exp()
    np.testing.assert_allclose(x, np.linspace(-2, 2, 41), atol=1e-12)
    np.testing.assert_allclose(y, truth)
    assert (ax.get_xlim(), line.get_label()) == ((-2, 2), "p")


def test_field_arrows_point_along_the_field_with_root_lengths(ax: Axes) -> None:
    def field(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 1], -4 * x[:, 0]], 1)

    quiver = plots.plot_field(ax, field, EXTENT, arrows=6)
    x, y = np.asarray(quiver.get_offsets()).T
    assert len(x) == 36
    assert -2 < x.min() < x.max() < 3
    assert -1 < y.min() < y.max() < 2.5
    length = np.hypot(y, 4 * x)
    np.testing.assert_allclose(quiver.U, y / np.sqrt(length))
    np.testing.assert_allclose(quiver.V, -4 * x / np.sqrt(length))


def test_field_of_zeros_has_arrows_of_length_zero(ax: Axes) -> None:
    quiver = plots.plot_field(ax, torch.zeros_like, EXTENT, arrows=3)
    assert (quiver.U == 0).all()
    assert (quiver.V == 0).all()


def test_samples_are_drawn_where_they_are(ax: Axes) -> None:
    x = three_gaussians().sample(30, torch.Generator().manual_seed(1))
    dots = plots.plot_samples(ax, x, size=9.0)
    np.testing.assert_allclose(dots.get_offsets(), x)
    assert dots.get_sizes() == [9]


def test_trajectories_are_lines_with_a_start_and_an_end(ax: Axes) -> None:
    states = torch.arange(24, dtype=torch.float64).reshape(4, 3, 2)
    ways, start, end = plots.plot_trajectories(ax, states)
    segments = ways.get_segments()
    assert len(segments) == 3
    for i, segment in enumerate(segments):
        np.testing.assert_allclose(segment, states[:, i])
    np.testing.assert_allclose(start.get_offsets(), states[0])
    np.testing.assert_allclose(end.get_offsets(), states[-1])


@pytest.mark.parametrize("stds", [1.0, 2.0])
def test_ellipses_are_the_points_at_a_mahalanobis_distance(
    ax: Axes, stds: float
) -> None:
    mixture = three_gaussians()
    ellipses = plots.plot_ellipses(ax, mixture, stds=stds)
    assert len(ellipses) == 3
    for ellipse, mean, S in zip(
        ellipses, mixture.means.numpy(), mixture.covariances.numpy(), strict=True
    ):
        angle = math.radians(ellipse.angle)
        for turn in np.linspace(0, 2 * np.pi, 7):
            a, b = ellipse.width / 2 * np.cos(turn), ellipse.height / 2 * np.sin(turn)
            out = np.array(
                [
                    a * np.cos(angle) - b * np.sin(angle),
                    a * np.sin(angle) + b * np.cos(angle),
                ]
            )
            assert out @ np.linalg.solve(S, out) == pytest.approx(stds**2)
        np.testing.assert_allclose(ellipse.center, mean)


def test_grid_runs_over_rows_from_below() -> None:
    grid = plots.grid(EXTENT, 5)
    assert grid.shape == (5, 5, 2)
    assert grid[0, 0].tolist() == [-2, -1]
    assert grid[0, -1].tolist() == [3, -1]
    assert grid[-1, 0].tolist() == [-2, 2.5]


def test_the_style_has_an_opaque_ground_and_no_colour_twice() -> None:
    with plt.rc_context():
        plots.use_style()
        assert plt.rcParams["figure.facecolor"] == "white"
        colours = [c["color"] for c in plt.rcParams["axes.prop_cycle"]]
    assert len(set(colours)) == len(colours) == 6


def test_convergence_has_bars_of_two_standard_errors_and_a_guide(ax: Axes) -> None:
    steps = [0.1, 0.2, 0.4]
    errors = [Estimate(0.3, 0.01), Estimate(0.5, 0.02), 0.9]
    line, guide = plots.plot_convergence(ax, steps, errors, order=2.0)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    np.testing.assert_allclose(line.get_xydata().T, [steps, [0.3, 0.5, 0.9]])
    # through the error of the smallest step, with slope 2
    np.testing.assert_allclose(guide.get_xydata().T, [steps, [0.3, 1.2, 4.8]])
    (bars,) = ax.containers[0].lines[2]
    heights = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, [0.04, 0.08, 0.0], atol=1e-12)
