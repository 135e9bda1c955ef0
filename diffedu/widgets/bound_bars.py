"""The bound of a diffusion model on the line, one bar per term, beside exact log p."""

import math

import numpy as np
import torch
import traitlets
from matplotlib.collections import PolyCollection
from torch import Tensor

from diffedu.bounds import (
    ElboTerms,
    GaussHermite,
    elbo_terms,
    mixture_nodes,
    reverse_mean,
)
from diffedu.ddpm import VarianceSchedule
from diffedu.denoiser import Denoiser, ExactDenoiser, ScoreDenoiser
from diffedu.mixture import GaussianMixture, three_gaussians_1d
from diffedu.path import Cosine, GaussianPath, Time, VariancePreserving, time_grid
from diffedu.widgets._base import Array, OneOf, Real, StateError, Text, Whole, Widget
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._mixture_widget import ROUNDING, Path, require_mixture
from diffedu.widgets._picture import COMPONENTS, DENSITY, FAINT, Chart, Picture

MOST_COMPONENTS = 6
FARTHEST = 6.0  # of the means and of x from 0
WIDTHS = 0.05, 2.0  # least and most standard deviation of a component
LEAST_SIGNAL = 1e-5  # of ᾱ_T: a score says nothing of x_0 where ᾱ is 0
LEAST_END = 0.2
BLUE = "#{:02x}{:02x}{:02x}".format(*DENSITY)
GAP, RECONSTRUCTION, PRIOR, EXACT, DISC, POINT = COMPONENTS
NODES = 16  # of the quadratures: enough for what a picture shows
DASH = 5.0, 3.0
TICKS = (1, 10, 100, 1000, 2, 5, 20, 50, 200, 500)  # by how much they are wanted
APART = 22  # pixels from tick to tick


class BoundBars(Widget):
    """The terms of the discrete bound, their sum, and the exact log p, on the line.

    The chain has ᾱ_k = α(t_k)² at T equal steps of a variance-preserving path. The
    model takes its mean from the exact score with an error, s + c or (1 + c) s, so the
    bound is that of a model whose every mistake is known. On average over the data the
    gap to E log p_0 is that of the exact score, and Σ_t coefficient · E(x̂_θ − x̂)².

    Args:
        mixture: the law of x_0 on the line: six components at most, means in [−6, 6],
            standard deviations in [0.05, 2].
        path: a `VariancePreserving` or a `Cosine` path.
        steps: T, from 1 to 1000.
        variance: "beta" or "beta_tilde", the variance ς² of the model's steps;
            ς_1² = β_1 for both.
        mode: "average" over the data, or "at x".
        x: where the bound is taken then, from −6 to 6.
        perturbation: "constant", s + c, or "factor", (1 + c) s.
        size: c, from −0.5 to 0.5.
        end: where the chain ends, as a share of path.t_max: from 0.2 to 1, and no
            later than where ᾱ is 1e-5, which is the default.
        title, caption: text around the figure.

    All are traits, `weights`, `means` and `deviations` in place of `mixture`, a
    property that sets the three. `schedule`, `denoiser` and `terms()` are the objects
    of the package that the state describes.

    Raises:
        ValueError: an argument is out of range.
    """

    _name = "bound_bars"
    _esm = bundle_module(_name)
    _css = stylesheet()

    title = Text("The bound, term by term")
    caption = Text(
        "Each bar is one term of the bound, in nats: the reconstruction term from 0, "
        "then what every denoising step and the prior take away; the gap is what is "
        "left to the exact log p₀. Drag x for the bound at one point. There the gap "
        "may be negative, for the model’s density may exceed p₀ at a point, but never "
        "on average. With c ≠ 0 the score is wrong by as much, and the average gap "
        "grows by what is predicted."
    )
    weights = Array()
    means = Array()
    deviations = Array()
    path = Path()
    steps = Whole(20, least=1, most=1000)
    variance = OneOf("beta", "beta_tilde")
    mode = OneOf("average", "at x")
    x = Real(0.3, least=-FARTHEST, most=FARTHEST)
    perturbation = OneOf("constant", "factor")
    size = Real(0.2, least=-0.5, most=0.5)
    end = Real(1.0, least=LEAST_END, most=1.0)

    def __init__(
        self,
        mixture: GaussianMixture | None = None,
        path: GaussianPath | None = None,
        steps: int = 20,
        variance: str = "beta",
        mode: str = "average",
        x: float | int = 0.3,
        perturbation: str = "constant",
        size: float | int = 0.2,
        end: float | int | None = None,
        **text: str,
    ) -> None:
        super().__init__(
            **_parameters(three_gaussians_1d() if mixture is None else mixture),
            path=VariancePreserving() if path is None else path,
            steps=steps,
            variance=variance,
            mode=mode,
            x=x,
            perturbation=perturbation,
            size=size,
            **text,
        )
        self.end = latest_end(self.path) if end is None else end  # after the path

    # The state

    @property
    def mixture(self) -> GaussianMixture:
        """The law that the traits describe; assign one to set all three."""
        return _mixture(self.weights, self.means, self.deviations)

    @mixture.setter
    def mixture(self, mixture: GaussianMixture) -> None:
        parameters = _parameters(mixture)
        with self.hold_sync(), self.hold_trait_notifications():
            for name, value in parameters.items():
                setattr(self, name, value)

    @property
    def schedule(self) -> VarianceSchedule:
        """The chain."""
        times = time_grid(0.0, self.end * self.path.t_max, self.steps)
        return VarianceSchedule.from_path(self.path, times)

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser of the model: that of the score with its error."""
        exact, c = ExactDenoiser(self.path, self.mixture), self.size
        constant = self.perturbation == "constant"

        def score(x_t: Tensor, t: Time) -> Tensor:
            s = exact.score(x_t, t)
            return s + c if constant else (1 + c) * s

        return ScoreDenoiser(self.path, score)

    def terms(self, x_0: Tensor, points: int = 40) -> ElboTerms:
        """The terms of the bound at points (n, 1), by Gauss–Hermite quadrature."""
        return self._terms(self.denoiser, x_0, points)

    def _terms(self, denoiser: Denoiser, x_0: Tensor, points: int) -> ElboTerms:
        schedule = self.schedule
        return elbo_terms(
            schedule,
            reverse_mean(schedule, denoiser),
            x_0,
            schedule.sampler_variance(self.variance),
            GaussHermite(points),
        )

    @traitlets.validate("weights", "means", "deviations")
    def _validate_mixture(self, proposal: dict) -> tuple:
        parts = {
            name: getattr(self, name) for name in ("weights", "means", "deviations")
        }
        parts[proposal["trait"].name] = proposal["value"]
        try:
            _mixture(**parts)
        except ValueError as error:
            raise StateError(str(error)) from None
        return proposal["value"]

    @traitlets.validate("path")
    def _validate_path(self, proposal: dict) -> GaussianPath:
        """A path that loses its signal earlier brings the end back."""
        path = proposal["value"]
        if not isinstance(path, VariancePreserving | Cosine):
            raise StateError(
                f"path must be VariancePreserving or Cosine, got {type(path).__name__}"
            )
        latest = latest_end(path)
        if latest < LEAST_END:
            raise StateError(
                f"path must keep alpha² >= {LEAST_SIGNAL:g} up to t = "
                f"{LEAST_END * path.t_max:g}, got {path!r}"
            )
        self.end = min(self.end, latest)
        return path

    @traitlets.validate("end")
    def _validate_end(self, proposal: dict) -> float:
        latest = latest_end(self.path)
        if proposal["value"] > latest:
            raise StateError(
                f"end must be at most {latest:g}, where alpha² is still "
                f"{LEAST_SIGNAL:g}, got {proposal['value']:g}"
            )
        return proposal["value"]

    def _description(self) -> str:
        score = {"constant": "s + c", "factor": "(1 + c) s"}[self.perturbation]
        where = "average" if self.mode == "average" else f"at x = {self.x:.3g}"
        return (
            f"{len(self.weights)} components, T = {self.steps}, {self.path}, "
            f"varsigma² = {self.variance}, {score} with c = {self.size:.3g}, {where}"
        )

    # The picture

    def _pictures(self) -> list[Picture]:
        exact, error = ExactDenoiser(self.path, self.mixture), self.size != 0
        shown = self._summed(self.denoiser)
        unperturbed = self._summed(exact) if error else None
        return [
            self._picture_of_density(),
            self._picture_of_costs(shown, unperturbed),
            self._picture_of_terms(shown, unperturbed),
        ]

    def _points(self) -> tuple[Tensor, Tensor]:
        """Where the bound is taken, (n, 1), and the weight of each."""
        if self.mode == "average":
            return mixture_nodes(self.mixture, NODES)
        x = torch.tensor([[self.x]], dtype=torch.float64)
        return x, torch.ones(1, dtype=torch.float64)

    def _summed(self, denoiser: Denoiser) -> tuple[float, np.ndarray, float]:
        """Reconstruction, denoising from t = 2 on, and prior."""
        x_0, weights = self._points()
        terms = self._terms(denoiser, x_0, NODES)
        return (
            float(weights @ terms.reconstruction),
            (weights @ terms.denoising)[2:].numpy(),
            float(weights @ terms.prior),
        )

    def _picture_of_density(self) -> Chart:
        mixture, x = self.mixture, self.x
        s = mixture.covariances[:, 0, 0].sqrt()
        reach = max(float((mixture.means[:, 0].abs() + 3.2 * s).max()), abs(x) + 0.2)
        half = math.ceil(2 * reach) / 2
        line = torch.linspace(-16.0, 16.0, 6401, dtype=torch.float64)  # all the mass
        log_p = mixture.log_prob(line[:, None])
        tilt = self.size * (line if self.perturbation == "constant" else log_p)
        other = (log_p + tilt).exp()
        other = other / (other.sum() * (line[1] - line[0]))
        p = log_p.exp()
        top = 1.15 * float(torch.stack([p, other]).max())
        picture = Chart(
            (-half, half), (0.0, top), "x", "density p₀", width=390, height=223
        )
        picture.fill(line.numpy(), p.numpy(), BLUE)
        picture.curve(line.numpy(), p.numpy(), BLUE, width=1.8)
        if self.size:
            picture.curve(line.numpy(), other.numpy(), GAP, width=1.4, dash=DASH)
        at = float(mixture.log_prob(torch.tensor([[x]], dtype=torch.float64)))
        width = 1.4 if self.mode == "at x" else 0.8
        picture.line(np.array([[x, 0], [x, top]]), FAINT, width=width)
        foot = np.zeros(mixture.n_components)
        style = {"clip_on": False, "zorder": 3}
        picture.axes.plot(mixture.means[:, 0], foot, "o", color=DISC, **style)
        picture.axes.plot(x, math.exp(at), "o", color=POINT, markersize=9, **style)
        heading = f"log p₀({x:.2f}) = {at:.2f}".replace("-", "−")
        picture.heading(heading, left=False)
        return picture

    def _picture_of_costs(self, shown: tuple, unperturbed: tuple | None) -> Chart:
        T = self.steps
        edges = np.arange(T) + 1.5
        curves = [
            one[1] / np.diff(np.log(edges)) for one in (shown, unperturbed) if one
        ]
        top = 1.12 * max(float(y.max()) for y in curves) if T > 1 else 1.0
        picture = _StepChart(
            (1.5, 1.08 * max(T, 2) + 0.5),
            (0.0, top),
            "divergence per unit of log t",
            223,
        )
        picture.step_ticks(2, T)
        picture.blocks(edges, curves[0], np.zeros(T - 1), BLUE, alpha=0.55)
        if unperturbed:
            picture.stairs(edges, curves[1], EXACT)
        if T > 1:
            picture.heading(f"area {shown[1].sum():.4f} nats", left=False)
        return picture

    def _picture_of_terms(self, shown: tuple, unperturbed: tuple | None) -> Chart:
        T = self.steps
        rest, last = _waterfall(shown)
        end = T + 0.5
        slot = (2 * end) ** max(0.14, 1 / (T + 2))  # of the prior, and of the gap
        log_p = self._log_p()
        levels = [0.0, rest[0], last, log_p]
        if unperturbed:
            levels.append(_waterfall(unperturbed)[1])
        room = 0.06 * (max(levels) - min(levels))
        picture = _StepChart(
            (0.5, end * slot**2),
            (min(levels) - room, max(levels) + room),
            "nats",
            454,
        )
        named = {end * slot**0.5: "prior", end * slot**1.5: "gap"}
        picture.step_ticks(1, T, named)
        across = np.array([0.5, end * slot**2])
        picture.curve(across, np.zeros(2), FAINT)
        edges = np.arange(T + 1) + 0.5
        left = np.full(T - 1, last)
        picture.blocks(edges[1:], rest[1:], left, BLUE, alpha=0.16)
        picture.blocks(edges[1:], rest[:-1], rest[1:], BLUE, alpha=0.75)
        for left, right, high, low, colour in (
            (0.5, 1.5, rest[0], 0.0, RECONSTRUCTION),
            (edges[-1], end * slot, rest[-1], last, PRIOR),
            (end * slot, end * slot**2, log_p, last, GAP),
        ):
            along = np.array([left, right])
            picture.blocks(along, np.array([high]), np.array([low]), colour, 0.8)
        if unperturbed:
            rest, bottom = _waterfall(unperturbed)
            picture.stairs(np.append(edges, end * slot), np.append(rest, bottom), EXACT)
        picture.curve(across, np.full(2, log_p), FAINT, width=1.6)
        which = "average gap" if self.mode == "average" else "gap at x"
        gap = f"{log_p - last:.4f}".replace("-", "−")
        picture.heading(f"{which} {gap}", left=False)
        return picture

    def _log_p(self) -> float:
        """log p_0 at x, or averaged."""
        x_0, weights = self._points()
        return float(weights @ self.mixture.log_prob(x_0))


class _StepChart(Chart):
    """A chart over the steps, on a logarithmic axis on which step t takes t ± ½."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        name_y: str,
        height: int,
    ) -> None:
        super().__init__(x, y, "step t", name_y, log_x=True, width=390, height=height)
        self.per_log = (390 - 54) / math.log(x[1] / x[0])  # pixels

    def step_ticks(
        self, first: int, last: int, named: dict[float, str] | None = None
    ) -> None:
        """The last step, 1, 2, 5, 10, … where they have room, and some names."""
        ticks = dict(named or {})
        for t in (last, *TICKS):
            pixels = (abs(self.per_log * math.log(t / other)) for other in ticks)
            if first <= t <= last and min(pixels, default=math.inf) >= APART:
                ticks[t] = str(t)
        self.axes.set_xticks(list(ticks), list(ticks.values()))
        self.axes.set_xticks([], minor=True)

    def blocks(
        self,
        edges: np.ndarray,
        high: np.ndarray,
        low: np.ndarray,
        colour: str,
        alpha: float,
    ) -> None:
        """Rectangles between consecutive edges: one edge more than rectangles."""
        left, right = edges[:-1], edges[1:]
        corners = [(left, low), (right, low), (right, high), (left, high)]
        shapes = np.stack([np.stack(corner, -1) for corner in corners], 1)
        self.axes.add_collection(
            PolyCollection(list(shapes), color=colour, alpha=alpha, linewidths=0),
            autolim=False,
        )

    def stairs(self, edges: np.ndarray, heights: np.ndarray, colour: str) -> None:
        """A line over stairs: one edge more than heights."""
        x, y = np.repeat(edges, 2)[1:-1], np.repeat(heights, 2)
        self.curve(x, y, colour, width=1.4, dash=DASH)


def _waterfall(terms: tuple[float, np.ndarray, float]) -> tuple[np.ndarray, float]:
    """What is left after each step t = 1 … T, and after the prior: the bound."""
    reconstruction, denoising, prior = terms
    rest = reconstruction - np.append(0.0, denoising.cumsum())
    return rest, float(rest[-1] - prior)


def latest_end(path: GaussianPath) -> float:
    """The latest end of a chain along the path, in hundredths of its t_max."""
    shares = torch.arange(101, dtype=torch.float64) / 100
    there = path.alpha(shares * path.t_max) ** 2 >= LEAST_SIGNAL
    return float(shares[there].max())


def _parameters(mixture: GaussianMixture) -> dict:
    require_mixture(mixture, dim=1)
    return {
        "weights": mixture.weights,
        "means": mixture.means[:, 0],
        "deviations": mixture.covariances[:, 0, 0].sqrt(),
    }


def _mixture(weights: tuple, means: tuple, deviations: tuple) -> GaussianMixture:
    """The mixture in float64, from numbers that may have been rounded to float32."""
    w, m, s = (
        torch.tensor(part, dtype=torch.float64) for part in (weights, means, deviations)
    )
    shapes = {tuple(part.shape) for part in (w, m, s)}
    if w.ndim != 1 or len(shapes) > 1 or not 0 < len(w) <= MOST_COMPONENTS:
        raise ValueError(
            "weights, means and deviations must be equally many numbers, "
            f"{MOST_COMPONENTS} at most, got shapes {tuple(w.shape)}, "
            f"{tuple(m.shape)} and {tuple(s.shape)}"
        )
    least, most = WIDTHS
    if not ((s >= least * (1 - ROUNDING)) & (s <= most * (1 + ROUNDING))).all():
        raise ValueError(
            f"deviations must lie in [{least:g}, {most:g}], got {deviations!r}"
        )
    if not (m.abs() <= FARTHEST).all():
        raise ValueError(
            f"means must lie in [{-FARTHEST:g}, {FARTHEST:g}], got {means!r}"
        )
    if abs(float(w.sum()) - 1) < ROUNDING:
        w = w / w.sum()
    return GaussianMixture(w, m[:, None], s.square()[:, None, None])
