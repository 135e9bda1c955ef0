"""Gaussian paths: x_t = α(t) x_0 + σ(t) ε from data (t = 0) to noise (t = t_max).

A path states α(t) and σ²(t), and the SDE dx = f(t) x dt + g(t) dw with those marginals
follows: f = α̇/α and g² = (σ²)˙ − 2 f σ² (Song et al. 2021, section 3.4; Karras et al.
2022, appendix B). σ² is stated rather than σ because it is smooth at t = 0, where σ is
like √t. Subclasses override the derived quantities with the closed forms that the
literature prints, and the tests hold the two against each other.

Letters: α is the amplitude; Ho et al. 2020 and DDIM write √ᾱ for it. t is continuous.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import (
    extent,
    float_tensor,
    readable,
    require_choice,
    require_count,
    require_positive,
)
from diffedu.mixture import GaussianMixture

Time = float | int | Float[Tensor, "*n"]
"""Time on the noising clock: a number, or one per point, shape () or (n,)."""

TARGETS = ("x0", "eps", "score", "v", "velocity")


def expand(t: Float[Tensor, "*n"], x: Tensor) -> Tensor:
    """t of shape () or (n,), with the axes that broadcast it over points (n, ...).

    Raises:
        ValueError: t has another shape.
    """
    if t.ndim == 0:
        return t
    if t.ndim != 1 or t.shape[0] != x.shape[0]:
        raise ValueError(
            f"t must have shape () or ({x.shape[0]},), one per point, "
            f"got {tuple(t.shape)}"
        )
    return t.reshape(-1, *(1,) * (x.ndim - 1)).to(x.dtype)


def time_grid(
    start: float, stop: float, steps: int, power: float = 1.0
) -> Float[Tensor, "{steps}+1"]:
    """Times from start to stop, uniform in t^(1/power): power 2 is the quadratic grid.

    A power above 1 makes the steps small near t = 0, where the score changes fastest.

    Raises:
        ValueError: a time is negative or not finite, start equals stop, steps < 1,
            or power <= 0.
    """
    require_positive("start", start, or_zero=True)
    require_positive("stop", stop, or_zero=True)
    require_positive("power", power)
    require_count("steps", steps)
    if start == stop:
        raise ValueError(f"start and stop must differ, got {start!r} for both")
    a, b = start ** (1 / power), stop ** (1 / power)
    times = torch.linspace(a, b, steps + 1, dtype=torch.float64) ** power
    times[0], times[-1] = start, stop
    return times


@dataclass(frozen=True)
class GaussianPath(ABC):
    """x_t = α(t) x_0 + σ(t) ε; a subclass states `alpha` and `variance`."""

    @property
    def t_max(self) -> float:
        """The largest time; t lies in [0, t_max]."""
        return 1.0

    @property
    def autonomous(self) -> bool:
        """Whether f and g do not depend on t."""
        return False

    def time(self, t: Time) -> Tensor:
        """t as a tensor; a Python number becomes float64.

        Raises:
            ValueError: t is not in [0, t_max].
        """
        t = float_tensor("t", t)
        if readable(t) and t.numel():
            low, high = extent(t)
            if not (low >= 0 and high <= self.t_max):  # NaN included
                got = f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
                raise ValueError(f"t must lie in [0, {self.t_max:g}], got {got}")
        return t

    @abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """Amplitude α(t)."""

    @abstractmethod
    def variance(self, t: Time) -> Tensor:
        """σ(t)²."""

    # What follows from the two

    def sigma(self, t: Time) -> Tensor:
        """Standard deviation σ(t) of the noise."""
        return self.variance(t).sqrt()

    def alpha_dot(self, t: Time) -> Tensor:
        """dα/dt."""
        return _derivative(self.alpha, self.time(t))

    def variance_dot(self, t: Time) -> Tensor:
        """dσ²/dt = 2 σ σ̇, finite where σ̇ is not."""
        return _derivative(self.variance, self.time(t))

    def sigma_dot(self, t: Time) -> Tensor:
        """dσ/dt; infinite at t = 0 where σ is like √t."""
        return self.variance_dot(t) / (2 * self.sigma(t))

    def f(self, t: Time) -> Tensor:
        """Drift rate f = α̇ / α of dx = f(t) x dt + g(t) dw."""
        return self.alpha_dot(t) / self.alpha(t)

    def g(self, t: Time) -> Tensor:
        """Diffusion g, from g² = (σ²)˙ − 2 f σ²."""
        return (self.variance_dot(t) - 2 * self.f(t) * self.variance(t)).sqrt()

    def log_snr(self, t: Time) -> Tensor:
        """log(α²/σ²)."""
        return 2 * self.alpha(t).log() - self.variance(t).log()

    def time_at(self, ratio: Time) -> Tensor:
        """The t at which σ(t)/α(t), the noise-to-signal ratio, is `ratio`.

        Raises:
            ValueError: the ratio is not in [0, σ(t_max)/α(t_max)].
        """
        ratio = float_tensor("ratio", ratio)
        if readable(ratio) and ratio.numel():
            low, high = extent(ratio)
            if not (low >= 0 and high <= self._greatest_ratio * (1 + 1e-6)):
                raise ValueError(
                    f"ratio must lie in [0, {self._greatest_ratio:.6g}], "
                    f"got {low:.6g} to {high:.6g}"
                )
        return self._time_at(ratio).clamp(max=self.t_max)

    @cached_property
    def _greatest_ratio(self) -> float:
        """σ/α at t_max; infinite where α is 0."""
        return float(self.sigma(self.t_max) / self.alpha(self.t_max))

    def _time_at(self, ratio: Tensor) -> Tensor:
        """The inverse of σ/α, which grows with t, by bisection."""
        low, high = torch.zeros_like(ratio), torch.full_like(ratio, self.t_max)
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = self.sigma(middle) < ratio * self.alpha(middle)
            low = torch.where(below, middle, low)
            high = torch.where(below, high, middle)
        return 0.5 * (low + high)

    def perturb(
        self, x_0: Float[Tensor, "n *d"], eps: Float[Tensor, "n *d"], t: Time
    ) -> Float[Tensor, "n *d"]:
        """x_t = α(t) x_0 + σ(t) ε."""
        return expand(self.alpha(t), x_0) * x_0 + expand(self.sigma(t), x_0) * eps

    def marginal(self, mixture: GaussianMixture, t: Time) -> GaussianMixture:
        """p_t, the law of x_t when x_0 is the mixture."""
        return mixture.noised(self.alpha(t), self.sigma(t))

    # The target table: each prediction is a row a x_0 + b ε

    def row(self, target: str, t: Time) -> tuple[Tensor, Tensor]:
        """(a, b) such that the target is a x_0 + b ε.

        x0 (1, 0) · eps (0, 1) · score (0, −1/σ) · v (−σ, α) · velocity (α̇, σ̇).

        Raises:
            ValueError: the target is none of `TARGETS`.
        """
        require_choice("target", target, TARGETS)
        t = self.time(t)
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        if target == "x0":
            return one, zero
        if target == "eps":
            return zero, one
        if target == "score":
            return zero, -1 / self.sigma(t)
        if target == "v":
            return -self.sigma(t), self.alpha(t)
        return self.alpha_dot(t), self.sigma_dot(t)

    def convert(
        self,
        prediction: Float[Tensor, "n *d"],
        x_t: Float[Tensor, "n *d"],
        t: Time,
        source: str,
        target: str,
    ) -> Float[Tensor, "n *d"]:
        """The prediction of `source` at x_t, read as a prediction of `target`.

        Solves α x_0 + σ ε = x_t, a x_0 + b ε = prediction for (x_0, ε).

        Raises:
            ValueError: unknown name, or a time at which the source says nothing about
                the target (x0 where σ = 0, eps where α = 0).
        """
        a, b = self.row(source, t)
        c, d = self.row(target, t)
        if source == target:
            return prediction
        alpha, sigma = self.alpha(t), self.sigma(t)
        determinant = alpha * b - sigma * a
        known = (
            determinant.isfinite() & (determinant != 0) & c.isfinite() & d.isfinite()
        )
        if readable(known) and not known.all():
            raise ValueError(
                f"source {source!r} does not determine target {target!r} at this t, "
                f"where alpha = {float(alpha.min()):.3g} and "
                f"sigma = {float(sigma.min()):.3g}"
            )
        alpha, sigma, a, b, c, d, determinant = (
            expand(z, x_t) for z in (alpha, sigma, a, b, c, d, determinant)
        )
        x_0 = (b * x_t - sigma * prediction) / determinant
        eps = (alpha * prediction - a * x_t) / determinant
        return c * x_0 + d * eps


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """d function / dt at every t, by automatic differentiation."""
    return torch.func.grad(lambda t: function(t).sum())(t)


@dataclass(frozen=True)
class OrnsteinUhlenbeck(GaussianPath):
    """dx = −β x dt + g dw:  α = e^{−βt},  σ² = g²/(2β) (1 − e^{−2βt}).

    β = 0 is Brownian motion, α = 1 and σ² = g² t: the variance-exploding process with
    constant g.

    Args:
        beta: rate β >= 0, per unit time.
        diffusion: g > 0; √2 with β = 1 makes N(0, I) stationary.
        horizon: t_max > 0.

    Raises:
        ValueError: a number is out of range.
    """

    beta: float = 1.0
    diffusion: float = math.sqrt(2)
    horizon: float = 3.0

    def __post_init__(self) -> None:
        require_positive("beta", self.beta, or_zero=True)
        require_positive("diffusion", self.diffusion)
        require_positive("horizon", self.horizon)

    @property
    def t_max(self) -> float:
        """The horizon."""
        return self.horizon

    @property
    def autonomous(self) -> bool:
        """True."""
        return True

    @property
    def stationary_std(self) -> float:
        """g / √(2β), the standard deviation of the stationary law; ∞ at β = 0."""
        return self.diffusion / math.sqrt(2 * self.beta) if self.beta else math.inf

    def alpha(self, t: Time) -> Tensor:
        """e^{−βt}."""
        return torch.exp(-self.beta * self.time(t))

    def variance(self, t: Time) -> Tensor:
        """g²/(2β) (1 − e^{−2βt}); g² t at β = 0."""
        t = self.time(t)
        if self.beta == 0:
            return self.diffusion**2 * t
        return -(self.stationary_std**2) * torch.expm1(-2 * self.beta * t)

    def _time_at(self, ratio: Tensor) -> Tensor:
        """σ²/α² = g²/(2β) (e^{2βt} − 1)."""
        scaled = (ratio / self.diffusion) ** 2
        if self.beta == 0:
            return scaled
        return torch.log1p(2 * self.beta * scaled) / (2 * self.beta)

    def f(self, t: Time) -> Tensor:
        """−β."""
        return torch.full_like(self.time(t), -self.beta)

    def g(self, t: Time) -> Tensor:
        """The constant g."""
        return torch.full_like(self.time(t), self.diffusion)


@dataclass(frozen=True)
class VariancePreserving(GaussianPath):
    """dx = −½β(t) x dt + √β(t) dw with β(t) linear, t in [0, 1]; α² + σ² = 1.

    Song et al. 2021, equation 32. It is the Ornstein–Uhlenbeck process with β = 1 and
    g = √2 on the clock τ(t) = ½∫₀ᵗβ.

    Args:
        beta_min, beta_max: β(0) >= 0 and β(1) >= β(0), with β(1) > 0.

    Raises:
        ValueError: a number is out of range.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        require_positive("beta_min", self.beta_min, or_zero=True)
        require_positive("beta_max", self.beta_max)
        if self.beta_max < self.beta_min:
            raise ValueError(
                f"beta_max must be >= beta_min = {self.beta_min}, got {self.beta_max}"
            )

    def beta(self, t: Time) -> Tensor:
        """β(t) = β_min + t (β_max − β_min)."""
        return self.beta_min + self.time(t) * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Time) -> Tensor:
        """log α = −½∫₀ᵗβ = −½ (β_min t + ½ (β_max − β_min) t²)."""
        t = self.time(t)
        return -0.5 * t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def alpha(self, t: Time) -> Tensor:
        """exp(−½∫₀ᵗβ)."""
        return self.log_alpha(t).exp()

    def variance(self, t: Time) -> Tensor:
        """1 − α², without the cancellation at small t."""
        return -torch.expm1(2 * self.log_alpha(t))

    def _time_at(self, ratio: Tensor) -> Tensor:
        """σ²/α² = e^{∫β} − 1: the root of ½ (β_max − β_min) t² + β_min t = ∫β."""
        integral = ratio.square().log1p()
        slope = self.beta_max - self.beta_min
        root = (self.beta_min**2 + 2 * slope * integral).sqrt()
        time = 2 * integral / (self.beta_min + root)
        return torch.where(integral > 0, time, 0.0)  # 0/0 where β_min = 0

    def f(self, t: Time) -> Tensor:
        """−½β(t)."""
        return -0.5 * self.beta(t)

    def g(self, t: Time) -> Tensor:
        """√β(t)."""
        return self.beta(t).sqrt()


@dataclass(frozen=True)
class Cosine(GaussianPath):
    """α = cos(πt/2), σ = sin(πt/2), t in [0, 1] (Nichol and Dhariwal 2021, s = 0).

    α is 0 at t = 1: no signal is left there, and f and g are infinite.
    """

    def alpha(self, t: Time) -> Tensor:
        """cos(πt/2)."""
        return (0.5 * math.pi * self.time(t)).cos()

    def variance(self, t: Time) -> Tensor:
        """sin²(πt/2)."""
        return (0.5 * math.pi * self.time(t)).sin().square()

    def sigma(self, t: Time) -> Tensor:
        """sin(πt/2)."""
        return (0.5 * math.pi * self.time(t)).sin()

    def sigma_dot(self, t: Time) -> Tensor:
        """(π/2) cos(πt/2)."""
        return 0.5 * math.pi * self.alpha(t)

    @cached_property
    def _greatest_ratio(self) -> float:
        """∞, for α(1) is 0 but for rounding."""
        return math.inf

    def _time_at(self, ratio: Tensor) -> Tensor:
        """σ/α = tan(πt/2)."""
        return ratio.atan() / (0.5 * math.pi)

    def f(self, t: Time) -> Tensor:
        """−(π/2) tan(πt/2)."""
        return -0.5 * math.pi * (0.5 * math.pi * self.time(t)).tan()

    def g(self, t: Time) -> Tensor:
        """√(π tan(πt/2))."""
        return (math.pi * (0.5 * math.pi * self.time(t)).tan()).sqrt()


@dataclass(frozen=True)
class VarianceExploding(GaussianPath):
    """α = 1, σ² = σ_min² (r^{2t} − 1) with r = σ_max/σ_min, t in [0, 1].

    Song et al. 2021, equation 30, started from x_0 itself: σ(0) = 0.

    Args:
        sigma_min, sigma_max: 0 < σ_min < σ_max, in units of the data.

    Raises:
        ValueError: a number is out of range.
    """

    sigma_min: float = 0.01
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        require_positive("sigma_min", self.sigma_min)
        require_positive("sigma_max", self.sigma_max)
        if self.sigma_max <= self.sigma_min:
            raise ValueError(
                f"sigma_max must be > sigma_min = {self.sigma_min}, "
                f"got {self.sigma_max}"
            )

    @property
    def log_ratio(self) -> float:
        """log r = log(σ_max/σ_min)."""
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Time) -> Tensor:
        """1."""
        return torch.ones_like(self.time(t))

    def variance(self, t: Time) -> Tensor:
        """σ_min² (r^{2t} − 1)."""
        return self.sigma_min**2 * torch.expm1(2 * self.log_ratio * self.time(t))

    def _time_at(self, ratio: Tensor) -> Tensor:
        """σ² = σ_min² (r^{2t} − 1)."""
        return torch.log1p((ratio / self.sigma_min) ** 2) / (2 * self.log_ratio)

    def f(self, t: Time) -> Tensor:
        """0."""
        return torch.zeros_like(self.time(t))

    def g(self, t: Time) -> Tensor:
        """σ_min r^t √(2 log r)."""
        growth = torch.exp(self.log_ratio * self.time(t))
        return self.sigma_min * math.sqrt(2 * self.log_ratio) * growth


@dataclass(frozen=True)
class Straight(GaussianPath):
    """α = 1 − t, σ = t, t in [0, 1]: straight lines from x_0 to ε (Lipman et al. 2023).

    α is 0 at t = 1, and f and g are infinite there.
    """

    def alpha(self, t: Time) -> Tensor:
        """1 − t."""
        return 1 - self.time(t)

    def variance(self, t: Time) -> Tensor:
        """t²."""
        return self.time(t).square()

    def sigma(self, t: Time) -> Tensor:
        """t."""
        return self.time(t)

    def sigma_dot(self, t: Time) -> Tensor:
        """1."""
        return torch.ones_like(self.time(t))

    def _time_at(self, ratio: Tensor) -> Tensor:
        """σ/α = t/(1 − t), infinite at t = 1."""
        return 1 / (1 + 1 / ratio)

    def f(self, t: Time) -> Tensor:
        """−1/(1 − t)."""
        return -1 / self.alpha(t)

    def g(self, t: Time) -> Tensor:
        """√(2t/(1 − t))."""
        return (2 * self.time(t) / self.alpha(t)).sqrt()
