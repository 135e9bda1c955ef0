"""Distances with standard errors, and the orders at which errors shrink.

Two exact samples of one law are at a positive distance: the floor. A distance means
nothing until it is set beside the floor of the same metric at the same sample size.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import (
    float_tensor,
    require_count,
    require_finite,
    require_floats,
    require_points,
    require_positive,
)


class Estimate(NamedTuple):
    """A number from samples, with its standard error."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.standard_error:.2g}"

    @classmethod
    def mean(cls, values: Float[Tensor, "n"]) -> "Estimate":
        """The mean of independent values, with its standard error.

        Raises:
            ValueError: fewer than two values, or not finite.
        """
        require_floats("values", values)
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(
                "values must hold at least two numbers, shape (n,), "
                f"got {tuple(values.shape)}"
            )
        require_finite("values", values)
        error = values.std() / math.sqrt(len(values))
        return cls(float(values.mean()), float(error))

    @classmethod
    def of(cls, number: "float | Tensor | Estimate") -> "Estimate":
        """The estimate itself; a plain number has the standard error 0."""
        return number if isinstance(number, Estimate) else cls(float(number), 0.0)


def _require_two_samples(x: Tensor, y: Tensor) -> None:
    require_points("x", x)
    require_points("y", y, dim=x.shape[-1])
    for name, sample in (("x", x), ("y", y)):
        if len(sample) < 2:
            raise ValueError(f"{name} must hold at least two points, got {len(sample)}")


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Estimate:
    """2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖, in units of the data; 0 iff the laws agree.

    The unbiased estimate, so it may be slightly negative. The standard error is that of
    its first-order (Hájek) projection, valid where the laws differ. Time O((n + m)²),
    memory O(n + m).

    Raises:
        ValueError: a sample is not two or more finite points, or the dimensions differ.

    Source: Székely and Rizzo 2013, equation 2.5.
    """
    _require_two_samples(x, y)
    n, m = len(x), len(y)
    to_y, within_x = _distance_sums(x, y), _distance_sums(x, x)
    to_x, within_y = _distance_sums(y, x), _distance_sums(y, y)
    h_x = 2 * (to_y / m - within_x / (n - 1))
    h_y = 2 * (to_x / n - within_y / (m - 1))
    value = 2 * to_y.mean() / m - within_x.mean() / (n - 1) - within_y.mean() / (m - 1)
    error = (h_x.var() / n + h_y.var() / m).sqrt()
    return Estimate(float(value), float(error))


def _distance_sums(x: Tensor, y: Tensor, block: int = 1024) -> Float[Tensor, "n"]:
    """Σ_j ‖x_i − y_j‖ for every i, in blocks of rows."""
    exact = "donot_use_mm_for_euclid_dist"  # the fast form cancels for near points
    return torch.cat(
        [torch.cdist(rows, y, compute_mode=exact).sum(1) for rows in x.split(block)]
    )


def sliced_wasserstein(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n d"],
    directions: int = 64,
    generator: torch.Generator | None = None,
) -> Estimate:
    """√(mean over directions u of W₂²(u·X, u·Y)), in units of the data.

    In the plane the directions are equally spaced over the half circle; in more
    dimensions they are random. The standard error is that of the points: the spread of
    the Kantorovich potentials, averaged over directions (del Barrio and Loubes 2019).
    It is valid where the laws differ; where they agree, compare with `sampling_floor`.

    Args:
        x, y: samples of the same size n >= 2.
        directions: how many u.
        generator: draws the directions when d > 2.

    Raises:
        ValueError: a sample is not finite points, or the sizes or dimensions differ.

    Source: Rabin et al. 2011.
    """
    require_count("directions", directions)
    _require_two_samples(x, y)
    if len(x) != len(y):
        raise ValueError(f"x and y must have the same size, got {len(x)} and {len(y)}")
    u = _directions(x, directions, generator)
    x_sorted, x_order = (x @ u).sort(0)
    y_sorted, y_order = (y @ u).sort(0)
    squared = (x_sorted - y_sorted).square().mean()
    potential_x = _kantorovich_potential(x_sorted, y_sorted, x_order)
    potential_y = _kantorovich_potential(y_sorted, x_sorted, y_order)
    error = ((potential_x.var() + potential_y.var()) / len(x)).sqrt()
    value = squared.sqrt()
    return Estimate(float(value), float(error / (2 * value)) if value else 0.0)


def _directions(
    x: Tensor, directions: int, generator: torch.Generator | None
) -> Float[Tensor, "d directions"]:
    """Unit vectors u, as columns."""
    move = {"dtype": x.dtype, "device": x.device}
    if x.shape[1] == 1:
        return torch.ones(1, 1, **move)
    if x.shape[1] == 2:
        angle = math.pi * torch.arange(directions, **move) / directions
        return torch.stack([angle.cos(), angle.sin()])
    u = torch.randn(x.shape[1], directions, generator=generator, **move)
    return u / u.norm(dim=0)


def _kantorovich_potential(
    x_sorted: Tensor, y_sorted: Tensor, order: Tensor
) -> Float[Tensor, "n"]:
    """φ with φ'(x) = 2 (x − T(x)), T the monotone map to y, mean over directions."""
    slope = 2 * (x_sorted - y_sorted)
    rise = 0.5 * (slope[1:] + slope[:-1]) * x_sorted.diff(dim=0)
    potential = torch.cat([torch.zeros_like(rise[:1]), rise.cumsum(0)])
    potential = potential - potential.mean(0)
    return torch.zeros_like(potential).scatter_(0, order, potential).mean(1)


def sampling_floor(
    metric: Callable[[Tensor, Tensor], Estimate],
    sample: Callable[..., Tensor],
    n: int,
    repeats: int = 8,
    generator: torch.Generator | None = None,
) -> Estimate:
    """The mean distance between two exact samples of size n, over `repeats` pairs.

    Args:
        metric: such as `sliced_wasserstein`.
        sample: (n, generator=...) to (n, d), such as `GaussianMixture.sample`.

    Raises:
        ValueError: n < 2 or repeats < 2.
    """
    require_count("n", n, at_least=2)
    require_count("repeats", repeats, at_least=2)
    values = torch.tensor(
        [
            metric(sample(n, generator=generator), sample(n, generator=generator)).value
            for _ in range(repeats)
        ]
    )
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(repeats)))


def grid_kl(
    p: Float[Tensor, "*cells"], q: Float[Tensor, "*cells"], volume: float
) -> float:
    """KL(p ‖ q) = ∫ p log(p / q) of two densities given by their values on cells.

    In nats; 0 log 0 = 0, and ∞ where p has mass and q has none.

    Args:
        p, q: densities on the same cells, >= 0.
        volume: length, area or volume of a cell.

    Raises:
        ValueError: the shapes differ, or a density is negative or not finite.
    """
    require_positive("volume", volume)
    if p.shape != q.shape:
        raise ValueError(
            f"p and q must have the same shape, got {tuple(p.shape)}, {tuple(q.shape)}"
        )
    for name, density in (("p", p), ("q", q)):
        require_floats(name, density)
        require_finite(name, density)
        if (density < 0).any():
            raise ValueError(f"{name} must not be negative, got {float(density.min())}")
    return float((torch.xlogy(p, p) - torch.xlogy(p, q)).sum()) * volume


def convergence_order(
    steps: Sequence[float] | Tensor, errors: Sequence[float | Estimate] | Tensor
) -> Estimate:
    """The slope of log error against log step by least squares: error ≈ C stepᵒʳᵈᵉʳ.

    Estimates are weighted by their standard errors, which are taken as independent, and
    give the standard error of the slope; plain numbers give it by their scatter about
    the line.

    Raises:
        ValueError: fewer than three steps, another number of errors, or one of them is
            not positive.
    """
    x = float_tensor("steps", steps)
    if x.ndim != 1 or len(x) < 3 or len(errors) != len(x):
        raise ValueError(
            "steps and errors must be lists of the same length, at least 3, "
            f"got {tuple(x.shape)} and {len(errors)}"
        )
    estimates = [Estimate.of(error) for error in errors]
    y = float_tensor("errors", [error.value for error in estimates])
    spread = float_tensor("errors", [error.standard_error for error in estimates])
    for name, numbers in (("steps", x), ("errors", y)):
        if not ((numbers > 0) & numbers.isfinite()).all():
            raise ValueError(f"{name} must be positive, got {numbers.tolist()}")
    known = bool((spread > 0).all())
    w = (y / spread) ** 2 if known else torch.ones_like(y)
    x, y = x.log(), y.log()
    x = x - (w * x).sum() / w.sum()
    precision = (w * x**2).sum()
    slope = (w * x * y).sum() / precision
    residual = y - y.mean() - slope * (x - x.mean())
    variance = 1.0 if known else residual.square().sum() / (len(x) - 2)
    return Estimate(float(slope), float((variance / precision).sqrt()))
