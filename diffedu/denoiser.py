"""Denoisers: E[x_0 | x_t], and the same knowledge read in five ways.

A denoiser knows two conditional means, of x_0 and of ε given x_t = α x_0 + σ ε. The
score, v and the velocity of the probability flow are rows of the target table over
those two. Every sampler takes a denoiser and does not ask where it comes from.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffedu._arguments import (
    float_tensor,
    readable,
    require_choice,
    require_points,
    require_positive,
)
from diffedu._autodiff import with_divergence
from diffedu.mixture import GaussianMixture
from diffedu.path import TARGETS, GaussianPath, Time, expand


@dataclass(frozen=True)
class Denoiser(ABC):
    """What is known of x_0 and ε given x_t; a subclass states `x0` and `eps`.

    x_t has shape (n, d); t is a number, or shape () or (n,). All raise ValueError when
    t is outside the range of the path.
    """

    path: GaussianPath

    @abstractmethod
    def x0(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """E[x_0 | x_t]."""

    @abstractmethod
    def eps(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """E[ε | x_t]."""

    def predict(
        self, x_t: Float[Tensor, "n d"], t: Time
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """(E[x_0 | x_t], E[ε | x_t])."""
        return self.x0(x_t, t), self.eps(x_t, t)

    def score(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """∇log p_t(x_t) = −E[ε | x_t] / σ."""
        return -self.eps(x_t, t) / expand(self.path.sigma(t), x_t)

    def v(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """α E[ε | x_t] − σ E[x_0 | x_t] (Salimans and Ho 2022)."""
        alpha = expand(self.path.alpha(t), x_t)
        sigma = expand(self.path.sigma(t), x_t)
        x_0, eps = self.predict(x_t, t)
        return alpha * eps - sigma * x_0

    def velocity(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """α̇ E[x_0 | x_t] + σ̇ E[ε | x_t], the drift of the probability flow."""
        alpha_dot = expand(self.path.alpha_dot(t), x_t)
        sigma_dot = expand(self.path.sigma_dot(t), x_t)
        x_0, eps = self.predict(x_t, t)
        return alpha_dot * x_0 + sigma_dot * eps

    def score_and_divergence(
        self, x_t: Float[Tensor, "n d"], t: Time
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"]]:
        """The score and its divergence ∇·s = tr ∇s, by d backward passes."""
        return with_divergence(lambda x: self.score(x, t), x_t)

    def moments(self, d: int) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
        """Mean and covariance of the data in d dimensions; 0 and I where unknown."""
        return _isotropic(0.0, 1.0, d)

    def gaussian(self, t: Time, d: int) -> GaussianMixture:
        """N(α m, α² C + σ² I): the Gaussian with mean and covariance of p_t."""
        mean, covariance = self.moments(d)
        data = GaussianMixture(torch.ones_like(mean[:1]), mean[None], covariance[None])
        return self.path.marginal(data, t)

    def read(
        self, target: str, x_t: Float[Tensor, "n d"], t: Time
    ) -> Float[Tensor, "n d"]:
        """The reading named `target`, one of `path.TARGETS`.

        Raises:
            ValueError: the target has another name.
        """
        require_choice("target", target, TARGETS)
        return getattr(self, target)(x_t, t)


@dataclass(frozen=True)
class ExactDenoiser(Denoiser):
    """The denoiser of a Gaussian mixture: closed forms, no approximation.

    Args:
        path: how the data are noised.
        mixture: the law of x_0.
    """

    mixture: GaussianMixture

    def x0(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """E[x_0 | x_t]."""
        return self.mixture.posterior_mean(x_t, self.path.alpha(t), self.path.sigma(t))

    def eps(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """E[ε | x_t] = −σ ∇log p_t(x_t), which stays accurate where σ is small."""
        return -expand(self.path.sigma(t), x_t) * self.score(x_t, t)

    def score(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """∇log p_t(x_t)."""
        return self.path.marginal(self.mixture, t).score(x_t)

    def score_and_divergence(
        self, x_t: Float[Tensor, "n d"], t: Time
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"]]:
        """∇log p_t(x_t) and its divergence, in closed form."""
        return self.path.marginal(self.mixture, t).score_and_divergence(x_t)

    def moments(self, d: int) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
        """Mean and covariance of the mixture."""
        return self.mixture.mean, self.mixture.covariance

    def velocity(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """α̇ E[x_0 | x_t] − ½(σ²)˙ ∇log p_t(x_t), finite at t = 0 where σ̇ is not."""
        alpha_dot = expand(self.path.alpha_dot(t), x_t)
        half_variance_dot = 0.5 * expand(self.path.variance_dot(t), x_t)
        return alpha_dot * self.x0(x_t, t) - half_variance_dot * self.score(x_t, t)


@dataclass(frozen=True)
class ScoreDenoiser(Denoiser):
    """The denoiser that a score stands for, by Tweedie's formula.

    E[x_0 | x_t] = (x_t + σ² s)/α and E[ε | x_t] = −σ s, whatever s is: an exact score
    with a mistake added, say.

    Args:
        path: how the data are noised.
        field: s, from x_t (n, d) and t to (n, d).
        mean, scale: mean, shape () or (d,), and standard deviation per coordinate of
            the data, for `moments`.

    Raises:
        ValueError: the scale is not > 0.
    """

    field: Callable[[Tensor, Time], Tensor]
    mean: float | Float[Tensor, "*d"] = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        require_positive("scale", self.scale)

    def score(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """s(x_t, t)."""
        return self.field(x_t, t)

    def x0(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """(x_t + σ² s)/α."""
        alpha, variance = self.path.alpha(t), self.path.variance(t)
        signal = x_t + expand(variance, x_t) * self.field(x_t, t)
        return signal / expand(alpha, x_t)

    def eps(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """−σ s."""
        return -expand(self.path.sigma(t), x_t) * self.field(x_t, t)

    def moments(self, d: int) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
        """The mean and scale² I that were stated."""
        return _isotropic(self.mean, self.scale, d)


def _isotropic(
    mean: float | Tensor, scale: float, d: int
) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
    """The mean as a vector, and scale² I."""
    mean = float_tensor("mean", mean).expand(d)
    return mean, scale**2 * torch.eye(d).to(mean)


NETWORK_TARGETS = ("v", "eps", "x0", "score")


@dataclass(frozen=True)
class NeuralDenoiser(Denoiser):
    """The denoiser that a network F(u, c) stands for, with u and c standardised.

    With data of mean m and standard deviation s per coordinate, ρ² = α²s² + σ² and
    cos φ = αs/ρ, sin φ = σ/ρ,

        u = (x_t − αm)/ρ = cos φ x̄_0 + sin φ ε,   x̄_0 = (x_0 − m)/s,

    so u has mean 0 and variance 1 at every noise level. F predicts `target` of the pair
    (x̄_0, ε), a row of the target table for α = cos φ, σ = sin φ: v (−sin φ, cos φ),
    eps (0, 1), x0 (1, 0) or score (0, −1/sin φ). The noise coordinate is
    c = −asinh(αs/σ) = log tan(φ/2): like log σ where there is little noise, and 0 where
    no signal is left. A network that answers 0 makes, with target v, the exact
    denoiser of N(m, s²I).

    Args:
        path: how the data are noised.
        net: F, from (n, d) and (n,) to (n, d). It runs in its own dtype, on its device.
        target: what F predicts; "v" is the preconditioning of Karras et al.
        mean, scale: m, shape () or (d,), and s > 0.

    Raises:
        ValueError: a name or a number is not as above; when called, σ(t) is 0.

    Source: Karras et al. 2022, table 1; Salimans and Ho 2022, appendix D.
    """

    net: nn.Module
    target: str = "v"
    mean: float | Float[Tensor, "*d"] = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        require_choice("target", self.target, NETWORK_TARGETS)
        require_positive("scale", self.scale)

    @classmethod
    def for_data(
        cls,
        path: GaussianPath,
        net: nn.Module,
        x_0: Float[Tensor, "n d"],
        target: str = "v",
    ) -> "NeuralDenoiser":
        """With the mean and the standard deviation of a sample x_0, shape (n, d).

        Raises:
            ValueError: x_0 is fewer than two points, or all are equal.
        """
        require_points("x_0", x_0)
        if len(x_0) < 2 or not (spread := float(x_0.var(0).mean().sqrt())):
            raise ValueError("x_0 must hold at least two different points")
        return cls(path, net, target, x_0.mean(0), spread)

    def predict(
        self, x_t: Float[Tensor, "n d"], t: Time
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """(E[x_0 | x_t], E[ε | x_t]), from one evaluation of the network."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        if readable(sigma) and (sigma == 0).any():
            raise ValueError(
                "t must be a time with noise: at sigma(t) = 0 there is nothing to learn"
            )
        c = -torch.asinh(alpha * self.scale / sigma)
        alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
        m = self.mean.to(x_t) if isinstance(self.mean, Tensor) else self.mean
        rho = torch.sqrt((alpha * self.scale) ** 2 + sigma**2)
        cos, sin = alpha * self.scale / rho, sigma / rho

        u = (x_t - alpha * m) / rho
        F = self._network(u, c)
        if self.target == "v":
            x_0, eps = cos * u - sin * F, sin * u + cos * F
        elif self.target == "x0":
            x_0, eps = F, (u - cos * F) / sin
        else:
            eps = F if self.target == "eps" else -sin * F
            x_0 = (u - sin * eps) / cos
        return m + self.scale * x_0, eps

    def _network(self, u: Tensor, c: Tensor) -> Tensor:
        like = next(self.net.parameters(), u)
        c = c.to(like).expand(len(u))
        return self.net(u.to(like), c).to(u)

    def x0(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """E[x_0 | x_t]."""
        return self.predict(x_t, t)[0]

    def eps(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """E[ε | x_t]."""
        return self.predict(x_t, t)[1]

    def moments(self, d: int) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
        """m and s² I."""
        return _isotropic(self.mean, self.scale, d)
