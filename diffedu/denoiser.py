"""Denoisers: E[x_0 | x_t], and the same knowledge read in five ways.

A denoiser knows two conditional means, of x_0 and of ε given x_t = α x_0 + σ ε. The
score, v and the velocity of the probability flow are rows of the target table over
those two. Every sampler takes a denoiser and does not ask where it comes from.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import require_choice
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

    def score(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """∇log p_t(x_t) = −E[ε | x_t] / σ."""
        return -self.eps(x_t, t) / expand(self.path.sigma(t), x_t)

    def v(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """α E[ε | x_t] − σ E[x_0 | x_t] (Salimans and Ho 2022)."""
        alpha = expand(self.path.alpha(t), x_t)
        sigma = expand(self.path.sigma(t), x_t)
        return alpha * self.eps(x_t, t) - sigma * self.x0(x_t, t)

    def velocity(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """α̇ E[x_0 | x_t] + σ̇ E[ε | x_t], the drift of the probability flow."""
        alpha_dot = expand(self.path.alpha_dot(t), x_t)
        sigma_dot = expand(self.path.sigma_dot(t), x_t)
        return alpha_dot * self.x0(x_t, t) + sigma_dot * self.eps(x_t, t)

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

    def velocity(self, x_t: Float[Tensor, "n d"], t: Time) -> Float[Tensor, "n d"]:
        """α̇ E[x_0 | x_t] − ½(σ²)˙ ∇log p_t(x_t), finite at t = 0 where σ̇ is not."""
        alpha_dot = expand(self.path.alpha_dot(t), x_t)
        half_variance_dot = 0.5 * expand(self.path.variance_dot(t), x_t)
        return alpha_dot * self.x0(x_t, t) - half_variance_dot * self.score(x_t, t)
