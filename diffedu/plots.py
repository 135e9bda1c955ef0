"""Figures in one style: axes in, artists out.

Colours are those of Okabe and Ito, which survive colour blindness; densities use the
sequential map of `DENSITY`. Figures have an opaque light ground, so that they read the
same on a light and on a dark page.
"""

from collections.abc import Callable, Sequence

import matplotlib as mpl
import torch
from cycler import cycler
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.quiver import Quiver
from torch import Tensor

from diffedu._arguments import require_count
from diffedu.metrics import Estimate
from diffedu.mixture import GaussianMixture

BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILLION, PURPLE, SKY, INK = "#D55E00", "#CC79A7", "#56B4E9", "#222222"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DENSITY = LinearSegmentedColormap.from_list(
    "density", ["#ffffff", "#d3e4f1", "#8fbbd9", "#3f86ba", "#12507f"]
)
PLANE = (-3.5, 3.5, -3.5, 3.5)
"""Left, right, bottom, top of the plane on which the book draws its mixtures."""

Extent = tuple[float, float, float, float]


def use_style() -> None:
    """Set the book's matplotlib style for the rest of the session."""
    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 3.4),
            "figure.dpi": 100,
            "savefig.dpi": 144,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#666666",
            "axes.labelcolor": INK,
            "axes.titlesize": "medium",
            "axes.grid": False,
            "axes.prop_cycle": cycler(color=CYCLE),
            "font.size": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "xtick.color": "#444444",
            "ytick.color": "#444444",
            "svg.hashsalt": "diffedu",
        }
    )


def plane(ax: Axes, extent: Extent = PLANE) -> Axes:
    """Make ax a map of the plane: equal scales, limits, labels x₁ and x₂."""
    ax.set(xlim=extent[:2], ylim=extent[2:], xlabel="$x_1$", ylabel="$x_2$")
    ax.set_aspect("equal")
    return ax


def grid(extent: Extent, points: int) -> Float[Tensor, "points points 2"]:
    """Grid points (row = x₂ from below, column = x₁), float64.

    Raises:
        ValueError: points is not a whole number >= 2.
    """
    require_count("points", points, at_least=2)
    left, right, bottom, top = extent
    x_1 = torch.linspace(left, right, points, dtype=torch.float64)
    x_2 = torch.linspace(bottom, top, points, dtype=torch.float64)
    return torch.stack(torch.meshgrid(x_1, x_2, indexing="xy"), -1)


def plot_density(
    ax: Axes,
    log_prob: Callable[[Tensor], Tensor],
    extent: Extent = PLANE,
    points: int = 160,
) -> AxesImage:
    """exp(log_prob) on the plane as an image, white where it vanishes."""
    plane(ax, extent)
    density = log_prob(grid(extent, points).reshape(-1, 2)).exp()
    return ax.imshow(
        density.reshape(points, points).cpu().numpy(),
        origin="lower",
        extent=extent,
        cmap=DENSITY,
        vmin=0,
        interpolation="bilinear",
        zorder=0,
    )


def plot_density_1d(
    ax: Axes,
    log_prob: Callable[[Tensor], Tensor],
    limits: tuple[float, float] = (-3.5, 3.5),
    points: int = 400,
    color: str = BLUE,
    label: str | None = None,
    linestyle: str = "-",
) -> Line2D:
    """exp(log_prob) on the line."""
    x = torch.linspace(*limits, points, dtype=torch.float64)
    ax.set(xlim=limits, xlabel="$x$")
    density = log_prob(x[:, None]).exp().cpu()
    return ax.plot(x, density, color=color, label=label, linestyle=linestyle)[0]


def plot_field(
    ax: Axes,
    field: Callable[[Tensor], Tensor],
    extent: Extent = PLANE,
    arrows: int = 18,
    color: str = INK,
) -> Quiver:
    """A vector field on the plane; lengths are compressed to √‖v‖, directions kept."""
    plane(ax, extent)
    left, right, bottom, top = extent
    margin_1, margin_2 = (right - left) / arrows / 2, (top - bottom) / arrows / 2
    inside = (left + margin_1, right - margin_1, bottom + margin_2, top - margin_2)
    x = grid(inside, arrows).reshape(-1, 2)
    v = field(x)
    length = v.norm(dim=1, keepdim=True)
    v = torch.where(length > 0, v / length.sqrt(), v).cpu()
    scale = None if length.any() else 1.0  # matplotlib divides by the mean length
    return ax.quiver(
        *x.T, *v.T, color=color, angles="xy", width=0.004, scale=scale, zorder=3
    )


def plot_samples(
    ax: Axes,
    x: Float[Tensor, "n 2"],
    color: str = BLUE,
    size: float = 4,
    alpha: float = 1.0,
    label: str | None = None,
) -> PathCollection:
    """Points on the plane."""
    dots = ax.scatter(*x.cpu().T, s=size, color=color, alpha=alpha, label=label)
    dots.set(linewidths=0, zorder=4)
    return dots


def plot_trajectories(
    ax: Axes,
    states: Float[Tensor, "steps n 2"],
    color: str = VERMILLION,
    width: float = 0.8,
    alpha: float = 0.7,
) -> list[Artist]:
    """The way of every point: a line, a ring where it starts, a dot where it ends."""
    states = states.cpu()
    ways = LineCollection(
        list(states.movedim(1, 0).numpy()), colors=color, linewidths=width, alpha=alpha
    )
    ways.set_zorder(5)
    ax.add_collection(ways)
    start = ax.scatter(
        *states[0].T, s=14, facecolors="white", edgecolors=color, linewidths=1, zorder=6
    )
    end = ax.scatter(*states[-1].T, s=14, color=color, linewidths=0, zorder=7)
    return [ways, start, end]


def plot_ellipses(
    ax: Axes, mixture: GaussianMixture, color: str = INK, stds: float = 1.0
) -> list[Ellipse]:
    """The ellipse of every component, `stds` standard deviations from its mean."""
    ellipses = []
    for mean, covariance in zip(mixture.means, mixture.covariances, strict=True):
        Lam, Q = torch.linalg.eigh(covariance.cpu())
        width, height = 2 * stds * Lam.sqrt()
        angle = torch.rad2deg(torch.atan2(Q[1, 0], Q[0, 0]))
        ellipse = Ellipse(
            (float(mean[0]), float(mean[1])),
            float(width),
            float(height),
            angle=float(angle),
            fill=False,
            edgecolor=color,
            linewidth=1.4,
            zorder=5,
        )
        ax.add_patch(ellipse)
        ellipses.append(ellipse)
    return ellipses


def plot_convergence(
    ax: Axes,
    steps: Sequence[float],
    errors: Sequence[float | Estimate],
    label: str | None = None,
    color: str = BLUE,
    order: float | None = None,
) -> list[Artist]:
    """Error against step, both logarithmic, with bars of ±2 standard errors.

    `order` adds a dashed guide of that slope through the error of the smallest step.
    """
    estimates = [Estimate.of(error) for error in errors]
    values = [error.value for error in estimates]
    bars = [2 * error.standard_error for error in estimates]
    ax.set(xscale="log", yscale="log")
    container = ax.errorbar(
        steps, values, yerr=bars, fmt="o-", color=color, label=label, ms=4, capsize=2
    )
    artists: list[Artist] = [container.lines[0]]
    if order is not None:
        least = min(range(len(values)), key=lambda i: steps[i])
        guide = [values[least] * (h / steps[least]) ** order for h in steps]
        artists += ax.plot(steps, guide, "--", color=color, alpha=0.6, lw=1)
    return artists
