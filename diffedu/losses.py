"""Score matching: four losses with one minimiser, and what lies between their values.

At one noise level a loss takes a score s, a function from points (n, d) to (n, d);
over all noise levels it takes a `Denoiser`. Every loss returns one value per point,
shape (n,), and its mean over the points is the estimate. There is no ½ anywhere.

The constants by which the losses differ are here too, so that all four report the same
number at the same network:

    explicit = implicit + E‖∇log p‖²                      (`fisher_information`)
    explicit = denoising − E tr Cov[target | x_t]         (`target_variance`)
    E[sliced | x] = implicit, for directions ν with E ννᵀ = I
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import require_count, require_positive
from diffedu.denoiser import Denoiser, ExactDenoiser
from diffedu.mixture import GaussianMixture
from diffedu.path import GaussianPath, Time, expand

Points = Float[Tensor, "n d"]
Values = Float[Tensor, "n"]
Score = Callable[[Tensor], Tensor]
Weight = Callable[[Tensor], Tensor]


# One noise level


def explicit_score_matching(score: Score, x: Points, true_score: Points) -> Values:
    """‖s(x) − ∇log p(x)‖² at x ~ p: its mean is the Fisher divergence.

    Source: Hyvärinen 2005, equation 2 (twice it).
    """
    return _square(score(x) - true_score)


def implicit_score_matching(score: Score, x: Points) -> Values:
    """‖s(x)‖² + 2 ∇·s(x) at x ~ p, the divergence by d backward passes.

    Explicit score matching less E‖∇log p‖².

    Source: Hyvärinen 2005, theorem 1 (twice it).
    """
    x, s = _with_graph(score, x)
    units = torch.eye(x.shape[1]).to(x)
    slopes = [_gradient(s, e.expand_as(x), x)[:, i] for i, e in enumerate(units)]
    return _square(s) + 2 * torch.stack(slopes).sum(0)


def sliced_score_matching(score: Score, x: Points, nu: Points) -> Values:
    """‖s(x)‖² + 2 νᵀ∇(νᵀs(x)) at x ~ p: the divergence by Hutchinson's estimator.

    Equal to implicit score matching in the mean over directions ν with E ννᵀ = I.

    Source: Song, Garg, Shi and Ermon 2020, equation 8 (variance-reduced; twice it).
    """
    x, s = _with_graph(score, x)
    return _square(s) + 2 * (nu * _gradient(s, nu, x)).sum(-1)


def sliced_score_matching_original(score: Score, x: Points, nu: Points) -> Values:
    """(νᵀs(x))² + 2 νᵀ∇(νᵀs(x)): both terms estimated along ν, E ννᵀ = I.

    Source: Song, Garg, Shi and Ermon 2020, equation 7 (twice it).
    """
    x, s = _with_graph(score, x)
    return (nu * s).sum(-1) ** 2 + 2 * (nu * _gradient(s, nu, x)).sum(-1)


def denoising_score_matching(
    score: Score,
    x_0: Points,
    eps: Points,
    sigma: float | Tensor,
    alpha: float | Tensor = 1.0,
) -> Values:
    """‖s(x_t) + ε/σ‖² at x_t = α x_0 + σ ε, where −ε/σ = ∇log p(x_t | x_0).

    Explicit score matching of the law of x_t plus d/σ² − E‖∇log p_t‖².

    Source: Vincent 2011, equation 9 (twice it).
    """
    return _square(score(alpha * x_0 + sigma * eps) + eps / sigma)


# Directions ν for the sliced losses, all with E ννᵀ = I


def rademacher(x: Points, generator: torch.Generator | None = None) -> Points:
    """ν_i = ±1: the variance of νᵀAν is 2 Σ_{i≠j} S_ij², S = ½(A + Aᵀ)."""
    sign = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
    return (2 * sign - 1).to(x.dtype)


def gaussian(x: Points, generator: torch.Generator | None = None) -> Points:
    """ν ~ N(0, I): the variance of νᵀAν is 2 ‖S‖_F², never less than that of ±1."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def spherical(x: Points, generator: torch.Generator | None = None) -> Points:
    """ν uniform on the sphere of radius √d.

    The variance of νᵀAν is 2d/(d + 2) (‖S‖_F² − (tr S)²/d): 0 for a multiple of I. On
    the unit sphere E ννᵀ = I/d, and the loss learns 1/d of the score.
    """
    z = gaussian(x, generator)
    return math.sqrt(x.shape[1]) * z / z.norm(dim=-1, keepdim=True)


# All noise levels


def denoising_loss(
    denoiser: Denoiser,
    x_0: Points,
    t: Time,
    eps: Points,
    target: str = "eps",
    weight: Weight | None = None,
) -> Values:
    """w(t) ‖target_θ(x_t, t) − (a x_0 + b ε)‖² at x_t = α x_0 + σ ε.

    Args:
        denoiser: what is trained.
        x_0, eps: data and noise, shape (n, d).
        t: a number, or one per point, with σ(t) > 0.
        target: a row (a, b) of the target table, one of `path.TARGETS`.
        weight: w; 1 by default.

    Raises:
        ValueError: unknown target, or t out of range.

    Source: Ho et al. 2020, equation 14 (target eps, w = 1); Vincent 2011 (score).
    """
    path = denoiser.path
    x_t = path.perturb(x_0, eps, t)
    a, b = (expand(z, x_0) for z in path.row(target, t))
    error = _square(denoiser.read(target, x_t, t) - (a * x_0 + b * eps))
    return _weighted(error, path, t, weight)


def explicit_loss(
    denoiser: Denoiser,
    exact: Denoiser,
    x_t: Points,
    t: Time,
    target: str = "eps",
    weight: Weight | None = None,
) -> Values:
    """w(t) ‖target_θ(x_t, t) − E[target | x_t]‖² at x_t ~ p_t; arguments as above."""
    error = denoiser.read(target, x_t, t) - exact.read(target, x_t, t)
    return _weighted(_square(error), denoiser.path, t, weight)


def implicit_loss(
    denoiser: Denoiser, x_t: Points, t: Time, weight: Weight | None = None
) -> Values:
    """w(t) (‖s_θ‖² + 2 ∇·s_θ) at x_t ~ p_t."""
    loss = implicit_score_matching(lambda x: denoiser.score(x, t), x_t)
    return _weighted(loss, denoiser.path, t, weight)


def sliced_loss(
    denoiser: Denoiser,
    x_t: Points,
    t: Time,
    nu: Points,
    weight: Weight | None = None,
) -> Values:
    """w(t) (‖s_θ‖² + 2 νᵀ∇(νᵀs_θ)) at x_t ~ p_t, for directions ν with E ννᵀ = I."""
    loss = sliced_score_matching(lambda x: denoiser.score(x, t), x_t, nu)
    return _weighted(loss, denoiser.path, t, weight)


# The constants between them


def fisher_information(mixture: GaussianMixture, x: Points) -> Values:
    """‖∇log p(x)‖² at x ~ p: explicit = implicit + its mean."""
    return _square(mixture.score(x))


def target_variance(
    exact: ExactDenoiser, x_t: Points, t: Time, target: str = "eps"
) -> Values:
    """tr Cov[target | x_t]: denoising loss = explicit loss + w(t) times its mean.

    With ε = (x_t − α x_0)/σ the target a x_0 + b ε is (a − bα/σ) x_0 plus what x_t
    fixes. For the score the mean is d/σ² − E‖∇log p_t‖².

    Raises:
        ValueError: unknown target, or t out of range.
    """
    path = exact.path
    alpha, sigma = path.alpha(t), path.sigma(t)
    a, b = path.row(target, t)
    covariance = exact.mixture.posterior_covariance(x_t, alpha, sigma)
    return (a - b * alpha / sigma) ** 2 * covariance.diagonal(0, -2, -1).sum(-1)


# Which noise levels, how often


@dataclass(frozen=True)
class Levels(ABC):
    """A law of the times at which a loss is taken; a subclass states the two below."""

    path: GaussianPath

    @abstractmethod
    def quantile(self, fraction: Tensor) -> Tensor:
        """The time below which t lies with this probability."""

    @abstractmethod
    def density(self, t: Time) -> Tensor:
        """The density of t: w(t)/density(t) weighs every level by w."""

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Values:
        """One time from each of n equally probable slices, on the generator's device.

        Raises:
            ValueError: n is not a whole number >= 1.
        """
        require_count("n", n)
        device = torch.device("cpu") if generator is None else generator.device
        within = torch.rand(n, generator=generator, dtype=dtype, device=device)
        slices = torch.arange(n, dtype=dtype, device=device)
        return self.quantile((slices + within) / n)


@dataclass(frozen=True)
class LogUniformRatio(Levels):
    """σ/α is log-uniform on [low, high].

    Args:
        path: whose times.
        low, high: noise-to-signal ratios, 0 < low < high.

    Raises:
        ValueError: a ratio is out of range or not reached by the path.
    """

    low: float = 0.02
    high: float = 10.0

    def __post_init__(self) -> None:
        require_positive("low", self.low)
        require_positive("high", self.high)
        if self.high <= self.low:
            raise ValueError(f"high must be > low = {self.low}, got {self.high}")
        self.path.time_at(self.high)

    def quantile(self, fraction: Tensor) -> Tensor:
        """The t at which σ/α = low (high/low)^fraction."""
        log_ratio = math.log(self.high / self.low)
        return self.path.time_at(self.low * torch.exp(log_ratio * fraction))

    def density(self, t: Time) -> Tensor:
        """d log(σ/α)/dt / log(high/low)."""
        rate = 0.5 * self.path.variance_dot(t) / self.path.variance(t) - self.path.f(t)
        return rate / math.log(self.high / self.low)


@dataclass(frozen=True)
class UniformTime(Levels):
    """t is uniform on [low, high]; high is t_max by default.

    Raises:
        ValueError: a time is out of range.
    """

    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        require_positive("low", self.low, or_zero=True)
        if not self.low < self._high <= self.path.t_max:
            raise ValueError(
                f"high must lie in ({self.low:g}, {self.path.t_max:g}], "
                f"got {self._high:g}"
            )

    @property
    def _high(self) -> float:
        return self.path.t_max if self.high is None else self.high

    def quantile(self, fraction: Tensor) -> Tensor:
        """low + fraction (high − low)."""
        return self.low + (self._high - self.low) * fraction

    def density(self, t: Time) -> Tensor:
        """1/(high − low)."""
        return torch.full_like(self.path.time(t), 1 / (self._high - self.low))


# How far a field is from the true one


def score_errors(
    denoiser: Denoiser,
    exact: ExactDenoiser,
    ratios: Float[Tensor, "levels"] | None = None,
    n: int = 2000,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "levels"], Float[Tensor, "levels"], Float[Tensor, "levels"]]:
    """(σ/α, E‖ε_θ − ε*‖², E‖ε*‖²) at each noise level, x_t drawn from p_t.

    Args:
        denoiser: what is measured.
        exact: the truth ε*, of the same path.
        ratios: noise-to-signal ratios σ/α; 20 log-spaced in [0.02, 10] by default.
        n: points per level.

    Raises:
        ValueError: a ratio is not reached by the path, or n < 1.
    """
    require_count("n", n)
    if ratios is None:
        ratios = torch.logspace(math.log10(0.02), 1, 20, dtype=exact.mixture.dtype)
    errors, norms = [], []
    for t in exact.path.time_at(ratios):
        x_t = exact.path.marginal(exact.mixture, t).sample(n, generator)
        with torch.no_grad():
            eps = exact.eps(x_t, t)
            errors.append(_square(denoiser.eps(x_t, t) - eps).mean())
        norms.append(_square(eps).mean())
    return ratios, torch.stack(errors), torch.stack(norms)


def relative_score_error(
    denoiser: Denoiser,
    exact: ExactDenoiser,
    ratios: Float[Tensor, "levels"] | None = None,
    n: int = 2000,
    generator: torch.Generator | None = None,
) -> float:
    """Mean of E‖ε_θ − ε*‖² over the noise levels, relative to that of E‖ε*‖²."""
    _, error, norm = score_errors(denoiser, exact, ratios, n, generator)
    return float(error.mean() / norm.mean())


# In common


def _square(v: Points) -> Values:
    """‖v‖² of every row."""
    return v.square().sum(-1)


def _weighted(
    loss: Values, path: GaussianPath, t: Time, weight: Weight | None
) -> Values:
    return loss if weight is None else weight(path.time(t)).to(loss) * loss


def _with_graph(score: Score, x: Points) -> tuple[Points, Points]:
    """x and s(x), differentiable in x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return x, score(x)


def _gradient(s: Points, nu: Points, x: Points) -> Points:
    """∇(νᵀs) at every point, differentiable itself."""
    if not s.requires_grad:  # a score that does not depend on x
        return torch.zeros_like(x)
    options = {"create_graph": True, "materialize_grads": True}
    return torch.autograd.grad(s, x, nu, **options)[0]
