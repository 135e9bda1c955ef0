"""One Brownian path, refined under the reader's hand, and what steps along it cost."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from diffedu import sde
from diffedu.sde import SDE, BrownianPath, MultiplicativeSDE
from diffedu.widgets._base import Flag, OneOf, Real, Text, Whole, Widget
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._picture import COMPONENTS, FAINT, Chart, Generator

FINEST = 11  # level k is the grid of step 2⁻ᵏ; the path is known at this level
END = 1.08  # of the axis of time: room beyond 1 for the errors there
DOTTED = 7  # no dots on finer levels than this
COARSE, FINE, SECOND = COMPONENTS[:3]  # step h, step h/2, Milstein's scheme


class PathRefinement(Widget):
    """One Brownian path at steps h = 2^−level and h/2, Euler–Maruyama driven by both.

    Beside them the exact solution on the same path, and the strong error
    E|X_h(1) − X(1)|, measured over many paths, against h. `process` says where the
    noise meets the state: dx = μ x dt + ν x dw (multiplicative: geometric Brownian
    motion, strong order ½) or dx = μ x dt + ν dw (additive: Ornstein–Uhlenbeck with
    β = −μ and g = ν, strong order 1). The state starts at 1 and runs over [0, 1].

    Args:
        process: "multiplicative" or "additive".
        level: h = 2^−level, from 0 to 10.
        paths: how many paths the strong error is averaged over; the first is drawn.
        seed: of the paths.
        mu: μ, the rate of the drift.
        nu: ν, the strength of the noise.
        milstein: whether Milstein's scheme is shown too.
        title, caption: text around the figure.

    All are traits: `widget.level = 5` refines, `widget.observe(handler, "level")`
    follows the reader's hand.

    Raises:
        ValueError: an argument is out of range.
    """

    _name = "path_refinement"
    _esm = bundle_module(_name)
    _css = stylesheet()

    title = Text("One Brownian path, two step sizes")
    caption = Text(
        "A Brownian path w known at steps h (orange) and h/2 (green); refining adds "
        "midpoints and moves no value. Euler–Maruyama along these points, beside the "
        "exact solution on the same path (grey). The error at time 1 against the step, "
        "averaged over many paths; bars reach two standard errors either way."
    )
    process = OneOf("multiplicative", "additive")
    level = Whole(3, least=0, most=FINEST - 1)
    paths = Whole(400, least=10, most=2000)
    mu = Real(-0.5, least=-2.0, most=2.0)
    nu = Real(1.0, least=0.05, most=1.5)
    milstein = Flag(False)

    def __init__(
        self,
        process: str = "multiplicative",
        level: int = 3,
        paths: int = 400,
        seed: int = 0,
        mu: float | int = -0.5,
        nu: float | int = 1.0,
        milstein: bool = False,
        **text: str,
    ) -> None:
        super().__init__(
            process=process,
            level=level,
            paths=paths,
            seed=seed,
            mu=mu,
            nu=nu,
            milstein=milstein,
            **text,
        )

    @property
    def equation(self) -> SDE | MultiplicativeSDE:
        """The equation that the traits describe."""
        mu, nu = self.mu, self.nu
        if self.process == "additive":
            return SDE(lambda x, t: mu * x, lambda t: nu, autonomous=True)
        return MultiplicativeSDE(lambda x, t: mu * x, lambda x, t: nu * x)

    def _description(self) -> str:
        return (
            f"{self.process} noise, h = {_step(self.level)}, mu = {self.mu:.3g}, "
            f"nu = {self.nu:.3g}, {self.paths} paths"
        )

    def _pictures(self) -> list[Chart]:
        path, rest = draw_paths(self.seed, self.paths)
        x = exact(self.process, self.mu, self.nu, path, rest)
        runs = [simulate(sde.euler_maruyama, self.equation, path)]
        if self.milstein:
            runs.append(simulate(sde.milstein, self.equation, path))
        return [
            self._picture_of_path(path.w[:, 0, 0]),
            self._picture_of_solutions(x[:, 0, 0], runs),
            self._picture_of_errors([strong_errors(run, x[-1]) for run in runs]),
        ]

    def _picture_of_path(self, w: Tensor) -> Chart:
        picture = _chart(_extent(w), "", "Brownian path w")
        _curve(picture, w, FAINT, alpha=0.6, width=0.7)
        for level, colour in ((self.level + 1, FINE), (self.level, COARSE)):
            _polygon(picture, w[:: 2 ** (FINEST - level)], colour)
        steps = 2**self.level
        picture.heading(f"steps: {steps} and {2 * steps}", left=False)
        return picture

    def _picture_of_solutions(self, x: Tensor, runs: list[list[Tensor]]) -> Chart:
        first = [[states[:, 0, 0] for states in run] for run in runs]
        view = _extent(torch.cat([x, *(states for run in first for states in run)]))
        picture = _chart(view, "time t", "solution x")
        _curve(picture, x, FAINT, width=1.2)
        shown = [
            (first[0][self.level + 1], FINE, 1.02),
            (first[0][self.level], COARSE, 1.04),
        ]
        if self.milstein:
            shown.insert(0, (first[1][self.level], SECOND, 1.06))
        for states, colour, t in shown:
            _polygon(picture, states, colour)
            ends = np.array([[t, x[-1]], [t, states[-1]]])
            picture.line(ends, colour, width=4.0)
        picture.heading("bars at the end: the errors", left=False)
        return picture

    def _picture_of_errors(self, errors: list[Tensor]) -> Chart:
        means = [one.mean(1) for one in errors]
        # half decades, as on the page
        low = math.floor(2 * math.log10(0.7 * torch.cat(means).min())) / 2
        high = math.ceil(2 * math.log10(1.5 * torch.cat(means).max())) / 2
        steps = 0.5 ** np.arange(FINEST + 1)
        picture = Chart(
            (steps[-1] / 1.5, 1.5),
            (10**low, 10**high),
            "step h",
            "E|Xₕ(1) − X(1)|",
            log_x=True,
            log_y=True,
            width=390,
            height=390,
        )
        marked = range(0, FINEST + 1, 3)
        picture.axes.set_xticks(steps[::3], [_step(level) for level in marked])
        picture.axes.set_xticks(steps, minor=True)
        for order, text in ((0.5, "slope ½"), (1.0, "slope 1")):
            guide = float(means[0][-1]) * (steps / steps[-1]) ** order
            picture.curve(steps, guide, FAINT, dash=(5.0, 4.0))
            # beside the line, at h = 1/8 or before it leaves the frame
            k = max(3, int((guide > 10**high).sum()) + 1)
            picture.text(steps[k], guide[k] / 1.3, text, FAINT)
        for one, mean, colour in zip(errors, means, (FAINT, SECOND), strict=False):
            bar = 2 * one.std(1) / math.sqrt(one.shape[1])
            for h, middle, half in zip(steps, mean, bar, strict=True):
                ends = np.array([[h, middle - half], [h, middle + half]])
                picture.line(ends, colour, width=1.5)
            picture.points(
                torch.stack([torch.from_numpy(steps), mean], -1), colour, 2.5
            )
        for level, colour in ((self.level + 1, FINE), (self.level, COARSE)):
            here = steps[level], float(means[0][level])
            picture.axes.plot(*here, "o", color=colour, markersize=7, zorder=3)
        return picture


def draw_paths(seed: int, n: int) -> tuple[BrownianPath, Tensor]:
    """The first n paths of the page for a seed, and one more normal for each, (n,).

    Each path is made of 2^FINEST normals by Lévy's construction: w_1 = z_0, then level
    after level w_m = ½(w_t + w_s) + ½√(s − t) z at the midpoints, from left to right.
    """
    steps = 2**FINEST
    z = Generator(seed).normal(n * (steps + 2)).reshape(n, steps + 2)
    z = torch.from_numpy(z).T  # of every path, one for `rest` and one that is not used
    w = torch.zeros(steps + 1, n, dtype=torch.float64)
    w[steps] = z[0]
    for level in range(FINEST):
        stride = steps >> level
        left, right = w[:-1:stride], w[stride::stride]
        deviation = 0.5 * 2 ** (-0.5 * level)
        z_level = z[2**level : 2 ** (level + 1)]
        w[stride // 2 :: stride] = 0.5 * (left + right) + deviation * z_level
    times = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
    return BrownianPath(times, w[:, :, None]), z[steps]


def at_level(path: BrownianPath, level: int) -> BrownianPath:
    """The path as it is known at a level."""
    stride = (len(path.times) - 1) >> level
    return BrownianPath(path.times[::stride], path.w[::stride])


def exact(
    process: str, mu: float, nu: float, path: BrownianPath, rest: Tensor
) -> Tensor:
    """The exact solution from x_0 = 1 at the times of the path, (m, n, 1).

    Multiplicative: x_t = exp((μ − ½ν²) t + ν w_t). Additive: x_t = e^{μt} + ν ξ_t with
    ξ_t = ∫₀ᵗ e^{μ(t−s)} dw_s. Over a step h, ξ gains ∫₀ʰ e^{μ(h−s)} dw_s, of variance
    v = (e^{2μh} − 1)/(2μ); its mean given the step's Δw is c Δw, c = (e^{μh} − 1)/(μh),
    and the remainder has variance q = v − c² h. By t = 1 the remainders add up to a
    normal number of variance r = q (e^{2μ} − 1)/(e^{2μh} − 1), here √r `rest`: x_1 is
    exact. Before t = 1 the mean given `rest` is returned, nearer to x_t than √r.
    """
    t, w = path.times[:, None, None], path.w
    if process == "multiplicative":
        return torch.exp((mu - 0.5 * nu**2) * t + nu * w)
    h = float(path.times[1])
    c = _integral(mu, h) / h
    q = max(0.0, _integral(2 * mu, h) - c**2 * h)
    r = q * _integral(2 * mu, 1.0) / _integral(2 * mu, h)
    known = torch.zeros_like(w)
    known[1:] = torch.cumsum(torch.exp(-mu * t[1:]) * c * w.diff(dim=0), 0)
    share = torch.sinh(mu * t) / math.sinh(mu) if mu else t
    xi = torch.exp(mu * t) * known + math.sqrt(r) * rest[None, :, None] * share
    return torch.exp(mu * t) + nu * xi


def _integral(a: float, h: float) -> float:
    """∫₀ʰ e^{at} dt."""
    return math.expm1(a * h) / a if a else h


def simulate(
    scheme: Callable[..., Iterator[Tensor]],
    equation: SDE | MultiplicativeSDE,
    path: BrownianPath,
) -> list[Tensor]:
    """Level by level, every state of the scheme from x_0 = 1, (2^level + 1, n, 1)."""
    if isinstance(equation, SDE):
        scheme = sde.euler_maruyama  # and Milstein's scheme: g′ = 0
    x_0 = torch.ones_like(path.w[0])
    runs = []
    for level in range(FINEST + 1):
        known = at_level(path, level)
        dw = iter(known.w.diff(dim=0))  # faster than to look up its times step by step
        states = scheme(
            equation, x_0, known.times, increment=lambda t, s, dw=dw: next(dw)
        )
        runs.append(torch.stack(list(states)))
    return runs


def strong_errors(runs: list[Tensor], end: Tensor) -> Tensor:
    """|X_h(1) − X(1)| for every level and path, (levels, n)."""
    return torch.stack([(states[-1] - end).abs()[:, 0] for states in runs])


def _step(level: int) -> str:
    return "1" if level == 0 else f"1/{2**level}"


def _extent(values: Tensor) -> tuple[float, float]:
    """A range around the values, and around 0."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    room = 0.06 * (high - low)
    return low - room, high + room


def _chart(view: tuple[float, float], name_x: str, name_y: str) -> Chart:
    return Chart((0.0, END), view, name_x, name_y, width=390, height=195)


def _curve(picture: Chart, values: Tensor, colour: str, **style: float) -> None:
    """A line through values at equal steps of [0, 1]."""
    picture.curve(np.linspace(0.0, 1.0, len(values)), values.numpy(), colour, **style)


def _polygon(picture: Chart, values: Tensor, colour: str) -> None:
    """The same and, where there is room, dots."""
    level = round(math.log2(len(values) - 1))
    _curve(picture, values, colour, width=1.5 if level <= DOTTED else 0.8)
    if level <= DOTTED:
        times = torch.linspace(0.0, 1.0, len(values), dtype=values.dtype)
        picture.points(torch.stack([times, values], -1), colour, 3.4 - 0.35 * level)
