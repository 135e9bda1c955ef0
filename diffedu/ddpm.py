"""The chain of Ho, Jain and Abbeel 2020, and the terms of its bound on log p.

Letters are theirs, with one exception: the factor of one step is written out as
1 − β_t, so that α is always the amplitude, √ᾱ_t. t = 1 … T is a step, index 0 is data:
arrays have T + 1 entries, β_0 = 0 and ᾱ_0 = 1.

    q(x_t | x_{t−1}) = N(√(1 − β_t) x_{t−1}, β_t I)
    q(x_t | x_0)     = N(√ᾱ_t x_0, (1 − ᾱ_t) I)
    q(x_{t−1} | x_t, x_0) = N(μ̃_t(x_t, x_0), β̃_t I)
    p_θ(x_{t−1} | x_t)    = N(μ_θ(x_t, t), ς_t² I),   p(x_T) = N(0, I)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import (
    float_tensor,
    readable,
    require_choice,
    require_count,
    require_finite,
    require_points,
    require_positive,
    time_tensor,
)
from diffedu.path import GaussianPath

# "t": one entry for each of t = 0 … T
Points = Float[Tensor, "n d"]
Values = Float[Tensor, "n"]
Mean = Callable[[Tensor, int], Tensor]
"""μ_θ: from x_t, shape (n, d), and the step t to the mean of x_{t−1}, (n, d)."""

Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]
"""log p(x_0 | x_1) from x_0 (n, d), the mean (n, d) and the variance () to (n,)."""

VARIANCES = ("beta", "beta_tilde")


@dataclass(frozen=True, eq=False)
class VarianceSchedule:
    """β_1 … β_T, the variance that each step adds.

    Args:
        beta: shape (T + 1,), T >= 1, with β_0 = 0 and 0 < β_t <= 1.

    Raises:
        ValueError: beta is not as above.

    Source: Ho et al. 2020, section 2.
    """

    beta: Float[Tensor, "t"]

    def __post_init__(self) -> None:
        beta = float_tensor("beta", self.beta)
        object.__setattr__(self, "beta", beta)
        if beta.ndim != 1 or len(beta) < 2:
            raise ValueError(
                "beta must have shape (T + 1,) with T >= 1, its first entry for the "
                f"data, got {tuple(beta.shape)}"
            )
        require_finite("beta", beta)
        if readable(beta) and beta[0] != 0:
            raise ValueError(
                f"beta must start with 0, the entry of the data, got {float(beta[0]):g}"
            )
        low, high = beta[1:].min(), beta[1:].max()
        if readable(beta) and not (low > 0 and high <= 1):
            raise ValueError(
                f"beta must lie in (0, 1] from index 1 on, got {float(low):.3g} to "
                f"{float(high):.3g}"
            )

    @classmethod
    def linear(
        cls, T: int = 1000, first: float = 1e-4, last: float = 0.02
    ) -> "VarianceSchedule":
        """β_t from `first` to `last` in equal steps.

        Raises:
            ValueError: T < 1, or a variance is not in (0, 1].

        Source: Ho et al. 2020, section 4.
        """
        require_count("T", T)
        require_positive("first", first)
        require_positive("last", last)
        beta = torch.linspace(first, last, T, dtype=torch.float64)
        return cls(torch.cat([torch.zeros(1, dtype=torch.float64), beta]))

    @classmethod
    def cosine(cls, T: int = 1000, offset: float = 0.008) -> "VarianceSchedule":
        """ᾱ_t = h(t)/h(0), h(t) = cos²(π/2 (t/T + offset)/(1 + offset)); β_t <= 0.999.

        Raises:
            ValueError: T < 1 or offset < 0.

        Source: Nichol and Dhariwal 2021, equation 17.
        """
        require_count("T", T)
        require_positive("offset", offset, or_zero=True)
        t = torch.arange(T + 1, dtype=torch.float64) / T
        alpha_bar = (0.5 * math.pi * (t + offset) / (1 + offset)).cos().square()
        beta = torch.zeros_like(t)
        beta[1:] = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
        return cls(beta)

    @classmethod
    def from_path(
        cls, path: GaussianPath, times: Float[Tensor, "t"]
    ) -> "VarianceSchedule":
        """The chain that a path makes at the times 0 = t_0 < … < t_T.

        β_k = 1 − α(t_k)²/α(t_{k−1})².

        Raises:
            ValueError: the path does not keep α² + σ² = 1, or the times do not
                increase from 0 within its range.
        """
        times = time_tensor(times, (0.0, path.t_max)).double()
        if times[0] != 0 or times[1] < 0:
            raise ValueError(
                f"times must increase from 0, where the data are, got {times[0]:g} "
                f"to {times[-1]:g}"
            )
        alpha, variance = path.alpha(times), path.variance(times)
        if ((alpha**2 + variance - 1).abs() > 1e-9).any():
            raise ValueError(
                "path must keep alpha² + sigma² = 1 for a chain of variances, got "
                f"{type(path).__name__}"
            )
        # α_s² − α_t² = σ_t² − σ_s², without the cancellation where α is near 1
        beta = torch.zeros_like(times)
        beta[1:] = variance.diff() / alpha[:-1] ** 2
        return cls(beta.clamp(max=1.0))

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.beta) - 1

    @cached_property
    def alpha_bar(self) -> Float[Tensor, "t"]:
        """ᾱ_t = ∏_{s=1}^t (1 − β_s); ᾱ_0 = 1."""
        return self._log_alpha_bar.exp()

    @cached_property
    def noise_variance(self) -> Float[Tensor, "t"]:
        """1 − ᾱ_t, without the cancellation where ᾱ_t is near 1."""
        return 0 - torch.expm1(self._log_alpha_bar)  # +0 at t = 0

    @cached_property
    def _log_alpha_bar(self) -> Tensor:
        return torch.log1p(-self.beta).cumsum(0)

    @cached_property
    def beta_tilde(self) -> Float[Tensor, "t"]:
        """β̃_t = (1 − ᾱ_{t−1})/(1 − ᾱ_t) β_t; β̃_1 = 0, for x_0 is then known.

        Source: Ho et al. 2020, equation 7.
        """
        beta_tilde = torch.zeros_like(self.beta)
        ratio = self.noise_variance[:-1] / self.noise_variance[1:]
        beta_tilde[1:] = ratio * self.beta[1:]
        return beta_tilde

    def sampler_variance(self, kind: str = "beta") -> Float[Tensor, "t"]:
        """ς_t² = β_t ("beta") or β̃_t ("beta_tilde"), and ς_1² = β_1 for both.

        β̃_1 = 0 would make p_θ(x_0 | x_1) a point mass, whose bound is −∞.

        Raises:
            ValueError: another kind.

        Source: Ho et al. 2020, section 3.2.
        """
        require_choice("kind", kind, VARIANCES)
        if kind == "beta":
            return self.beta
        variance = self.beta_tilde.clone()
        variance[1] = self.beta[1]
        return variance

    def perturb(self, x_0: Points, eps: Points, t: int) -> Points:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε.

        Raises:
            ValueError: t is not a step 0 … T.
        """
        self._require_step(t, at_least=0)
        alpha = self.alpha_bar[t].sqrt().to(x_0)
        return alpha * x_0 + self.noise_variance[t].sqrt().to(x_0) * eps

    def posterior_mean(self, x_t: Points, x_0: Points, t: int) -> Points:
        """μ̃_t = √ᾱ_{t−1} β_t/(1 − ᾱ_t) x_0 + √(1 − β_t)(1 − ᾱ_{t−1})/(1 − ᾱ_t) x_t.

        The mean of q(x_{t−1} | x_t, x_0); with a prediction x̂_0 for x_0, the mean of
        p_θ(x_{t−1} | x_t).

        Raises:
            ValueError: t is not a step 1 … T.

        Source: Ho et al. 2020, equation 7.
        """
        self._require_step(t)
        beta, alpha_bar, noise = self.beta, self.alpha_bar, self.noise_variance
        of_x_0 = alpha_bar[t - 1].sqrt() * beta[t] / noise[t]
        of_x_t = (1 - beta[t]).sqrt() * noise[t - 1] / noise[t]
        return of_x_0.to(x_t) * x_0 + of_x_t.to(x_t) * x_t

    def _require_step(self, t: int, at_least: int = 1) -> None:
        require_count("t", t, at_least)
        if t > self.T:
            raise ValueError(f"t must be a step up to T = {self.T}, got {t}")


# Gaussians


def gaussian_kl(
    mean_q: Points, variance_q: Tensor, mean_p: Points, variance_p: Tensor
) -> Values:
    """KL(N(m_q, v_q I) ‖ N(m_p, v_p I)), in nats.

    ‖m_q − m_p‖²/(2 v_p) + ½ d (v_q/v_p − 1 − log(v_q/v_p)): the second term vanishes
    only where the variances are equal.

    Args:
        mean_q, mean_p: shape (n, d).
        variance_q, variance_p: > 0, shape ().
    """
    d = mean_q.shape[-1]
    ratio = variance_q / variance_p
    spread = 0.5 * d * (ratio - 1 - ratio.log())
    return (mean_q - mean_p).square().sum(-1) / (2 * variance_p) + spread


def gaussian_log_prob(
    x: Float[Tensor, "... d"], mean: Float[Tensor, "... d"], variance: Tensor
) -> Float[Tensor, "..."]:
    """log N(x; mean, variance I), for shapes that broadcast and variance > 0, ()."""
    d = x.shape[-1]
    log_normaliser = 0.5 * d * torch.log(2 * math.pi * variance)
    return -(x - mean).square().sum(-1) / (2 * variance) - log_normaliser


def discretised_log_prob(
    x: Points,
    mean: Points,
    variance: Tensor,
    bins: int = 256,
    low: float = -1.0,
    high: float = 1.0,
) -> Values:
    """log of the mass that N(mean, variance I) puts into the bin of x.

    Along each axis `bins` values from low to high, each with the interval that is
    nearest to it; the first and the last interval are open, so the masses sum to 1.
    Use with `functools.partial` as a decoder.

    Args:
        x: values among the bins, shape (n, d).

    Raises:
        ValueError: bins < 2, or not low < high.

    Source: Ho et al. 2020, equation 13.
    """
    require_count("bins", bins, at_least=2)
    if not low < high:
        raise ValueError(f"high must be > low = {low}, got {high}")
    half = 0.5 * (high - low) / (bins - 1)
    std = variance.sqrt()
    infinity = torch.full_like(x, math.inf)
    left = torch.where(x <= low + half, -infinity, (x - half - mean) / std)
    right = torch.where(x >= high - half, infinity, (x + half - mean) / std)
    # in the lower tail, where the distribution function keeps its digits
    left, right = (
        torch.where(left > 0, -right, left),
        torch.where(left > 0, -left, right),
    )
    log_left = torch.special.log_ndtr(left)
    log_right = torch.special.log_ndtr(right)
    return (log_right + torch.log1p(-(log_left - log_right).exp())).sum(-1)


# The terms of the bound, at given x_0 and noise


def prior_kl(schedule: VarianceSchedule, x_0: Points) -> Values:
    """L_T = KL(q(x_T | x_0) ‖ N(0, I)).

    Source: Ho et al. 2020, equation 5.
    """
    require_points("x_0", x_0)
    mean = schedule.alpha_bar[-1].sqrt().to(x_0) * x_0
    one = torch.ones((), dtype=x_0.dtype, device=x_0.device)
    variance = schedule.noise_variance[-1].to(x_0)
    return gaussian_kl(mean, variance, torch.zeros_like(mean), one)


def denoising_kl(
    schedule: VarianceSchedule,
    mean: Mean,
    x_0: Points,
    eps: Points,
    t: int,
    varsigma_squared: Float[Tensor, "t"],
) -> Values:
    """L_{t−1} = KL(q(x_{t−1} | x_t, x_0) ‖ N(μ_θ(x_t, t), ς_t² I)), t = 2 … T.

    Its expectation over x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε is the term of the bound.

    Raises:
        ValueError: t is not a step 2 … T: at t = 1 q is a point mass at x_0, the KL is
            infinite, and `reconstruction` stands in its place.

    Source: Ho et al. 2020, equations 5 and 8.
    """
    schedule._require_step(t, at_least=2)
    x_t = schedule.perturb(x_0, eps, t)
    posterior = schedule.posterior_mean(x_t, x_0, t)
    return gaussian_kl(
        posterior,
        schedule.beta_tilde[t].to(x_0),
        mean(x_t, t),
        varsigma_squared[t].to(x_0),
    )


def reconstruction(
    schedule: VarianceSchedule,
    mean: Mean,
    x_0: Points,
    eps: Points,
    varsigma_squared: Float[Tensor, "t"],
    decoder: Decoder = gaussian_log_prob,
) -> Values:
    """−L_0 = log p_θ(x_0 | x_1) at x_1 = √ᾱ_1 x_0 + √(1 − ᾱ_1) ε.

    Args:
        decoder: `gaussian_log_prob`, a density, or `discretised_log_prob`, a mass.

    Raises:
        ValueError: ς_1² is not > 0.

    Source: Ho et al. 2020, equations 5 and 13.
    """
    variance = varsigma_squared[1].to(x_0)
    if readable(variance) and not variance > 0:
        raise ValueError(
            f"varsigma_squared must be > 0 at t = 1, got {float(variance):g}: "
            "sampler_variance sets it to beta_1"
        )
    x_1 = schedule.perturb(x_0, eps, 1)
    return decoder(x_0, mean(x_1, 1), variance)
