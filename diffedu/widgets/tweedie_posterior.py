"""One noisy point and everything that is known of where it came from."""

import math
from typing import Any

import torch
import traitlets

from diffedu.mixture import GaussianMixture, three_gaussians
from diffedu.path import GaussianPath, OrnsteinUhlenbeck
from diffedu.widgets._base import Array, Flag, Real, StateError, Text
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._mixture_widget import MixtureWidget
from diffedu.widgets._picture import (
    COMPONENTS,
    FAINT,
    Picture,
    Plane,
    reach,
    view_extent,
)

NARROW = "#0072b2"
DEVIATIONS = 2.0
SHOWN = 0.01  # weight of a component that is worth an ellipse
MOST_NOISE = 1e3  # τ/a beyond which the narrow Gaussian and xₜ/a are off every view


class TweediePosterior(MixtureWidget):
    """A noisy point x_t under the pointer, and the law of x_0, or x_s, given it.

    That law is a mixture. Beside it are the two Gaussians with its mean,
    (x_t + τ²∇log p_t)/a, that stand for it: one with its covariance
    (τ²/a²)(I + τ²∇²log p_t), one with (τ²/a²) I. For s = 0, a = α_t and τ = σ_t; for
    0 < s < t, x_t = a x_s + τ ε is one step of the noising process.

    Args:
        mixture: the law of x_0, in the plane.
        path: how it is noised.
        t: time of the noisy point, in (0, path.t_max].
        s: what is asked about, in [0, t): 0 is the data.
        x_t: the noisy point, two numbers.
        follow: x_t follows the pointer; otherwise it stays where it is put.
        title, caption: text around the figure.

    All are traits: `widget.x_t = (0.5, 1.0)` moves the point,
    `widget.observe(handler, "x_t")` follows the reader's hand.

    Raises:
        ValueError: an argument is out of range, or the mixture is not in the plane.
    """

    _name = "tweedie_posterior"
    _esm = bundle_module(_name)
    _css = stylesheet()

    title = Text("What a noisy point knows")
    caption = Text(
        "Left: the density pₜ and a noisy point xₜ in it; point at a place to take it "
        "there, click to leave it. Right: the law of where it came from. Ellipses are "
        "two standard deviations. Both Gaussians have the exact mean, which is "
        "Tweedie's; one also has the exact covariance."
    )
    t = Real(0.5, least=0.0)
    s = Real(0.0, least=0.0)
    x_t = Array()
    follow = Flag(True)

    def __init__(
        self,
        mixture: GaussianMixture | None = None,
        path: GaussianPath | None = None,
        t: float | int = 0.5,
        s: float | int = 0.0,
        x_t: Any = (1.0, -0.3),
        follow: bool = True,
        **text: str,
    ) -> None:
        super().__init__(
            three_gaussians() if mixture is None else mixture,
            path=OrnsteinUhlenbeck() if path is None else path,
            x_t=x_t,
            follow=follow,
            **text,
        )
        self.t = t  # after the path, whose t_max it is held against
        self.s = s  # after t, which it is held against

    @traitlets.validate("t")
    def _validate_t(self, proposal: dict) -> float:
        """An earlier t takes an s that it would not exceed along."""
        t = proposal["value"]
        if not 0 < t <= self.path.t_max:
            raise StateError(f"t must lie in (0, {self.path.t_max:g}], got {t:g}")
        if self.s >= t:
            self.s = self.s * t / self.t
        return t

    @traitlets.validate("s")
    def _validate_s(self, proposal: dict) -> float:
        if proposal["value"] >= self.t:
            raise StateError(
                f"s must lie in [0, t) with t = {self.t:g}, got {proposal['value']:g}"
            )
        return proposal["value"]

    @traitlets.validate("path")
    def _validate_path(self, proposal: dict) -> Any:
        """A shorter path brings t back within it."""
        self.t = min(self.t, proposal["value"].t_max)
        return proposal["value"]

    @traitlets.validate("x_t")
    def _validate_x_t(self, proposal: dict) -> tuple:
        x_t = proposal["value"]
        pair = isinstance(x_t, tuple) and len(x_t) == 2
        if not pair or not all(isinstance(x, float) and math.isfinite(x) for x in x_t):
            raise StateError(f"x_t must be two finite numbers, got {x_t!r}")
        return x_t

    def _description(self) -> str:
        x, y = self.x_t
        return (
            f"x_t = ({x:.3g}, {y:.3g}), t = {self.t:.3g}, s = {self.s:.3g}, "
            f"{super()._description()}"
        )

    def _pictures(self) -> list[Picture]:
        mixture, path, t, s = self.mixture, self.path, self.t, self.s
        noised = path.marginal(mixture, t)
        x_t = torch.tensor(self.x_t, dtype=torch.float64)
        a, tau = between(path, s, t)
        law = posterior(mixture, path, x_t, s, t)
        mean, covariance = law.mean, law.covariance

        left = Plane(view_extent(mixture, path, t), size=366)
        left.density(noised)
        left.arrow(x_t, a * mean, FAINT)
        left.discs(mixture, size=13.0)
        left.points(x_t[None], FAINT, radius=4.5, alpha=1.0)
        left.axes.plot(*x_t, "o", markersize=16, markerfacecolor="none", color=FAINT)
        left.heading(f"pₜ at t = {t:.3g}")

        near = s > 0  # a step is too small to be seen beside the data
        extent = zoom(law, a, tau) if near else reach(mixture)
        centre = tuple(mean.tolist()) if near else (0.0, 0.0)
        right = Plane(extent, size=366, centre=centre)
        right.density(law)
        for k in range(law.n_components):
            if law.weights[k] > SHOWN:
                style = {"deviations": DEVIATIONS, "width": 1.2}
                colour = COMPONENTS[k % len(COMPONENTS)]
                right.ellipse(law.means[k], law.covariances[k], colour, **style)
        right.ellipse(mean, covariance, FAINT, DEVIATIONS, width=1.8)
        if tau < MOST_NOISE * a:
            narrow = (tau / a) ** 2 * torch.eye(2, dtype=torch.float64)
            right.ellipse(mean, narrow, NARROW, DEVIATIONS, width=1.8, dash=(5.0, 3.0))
            right.arrow(x_t / a, mean, FAINT)
        right.points(mean[None], FAINT, radius=4.0, alpha=1.0)
        right.heading(f"xₛ given xₜ, s = {s:.3g}" if near else "x₀ given xₜ")
        return [left, right]


def between(path: GaussianPath, s: float, t: float) -> tuple[float, float]:
    """(a, τ) such that x_t = a x_s + τ ε with ε independent of x_s, for s < t."""
    added = -torch.expm1(path.log_snr(t) - path.log_snr(s))
    return float(path.alpha(t) / path.alpha(s)), float(path.sigma(t) * added.sqrt())


def posterior(
    mixture: GaussianMixture,
    path: GaussianPath,
    x_t: torch.Tensor,
    s: float,
    t: float,
) -> GaussianMixture:
    """The law of x_s given one x_t: p_s conditioned on x_t = a x_s + τ ε."""
    a, tau = between(path, s, t)
    given = path.marginal(mixture, s).posterior(x_t[None], a, tau)
    return GaussianMixture(given.weights[0], given.means[0], given.covariances[0])


def zoom(law: GaussianMixture, a: float, tau: float) -> float:
    """Half the width of a view around the mean that shows the law and both Gaussians.

    Rounded up to a quarter power of 2, so that it rests while the point moves.
    """
    major = torch.linalg.eigvalsh(law.covariances)[:, -1].sqrt()
    reaches = (law.means - law.mean).norm(dim=-1) + 2.7 * major
    most = float(reaches[law.weights > SHOWN].max())
    if tau < MOST_NOISE * a:
        most = max(most, 1.2 * DEVIATIONS * tau / a)
    return 2 ** (math.ceil(4 * math.log2(most)) / 4)
