"""A potential that the reader bends, with particles and their density in it."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import traitlets
from numpy import ndarray
from scipy.interpolate import CubicSpline
from torch import Tensor

from diffedu.fokker_planck import Grid, solve_fokker_planck, stationary_density
from diffedu.metrics import grid_kl
from diffedu.sde import SDE, euler_maruyama
from diffedu.widgets._base import Array, Real, StateError, Text, Whole, Widget
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._picture import (
    COMPONENTS,
    DENSITY,
    FAINT,
    Chart,
    Generator,
    Picture,
)

KNOTS = 0.8 * np.arange(-3, 4)
CURVATURE = 1.0  # of the potential from the outermost knots on
GRID = Grid(-3.22, 3.22, 161)  # a cell on every knot: between centres U is one cubic
START_WIDTH = 0.2  # standard deviation of the start law
HEIGHTS = -2.0, 6.0  # least and most of U at a knot
BINS = 46
PILE = 0.4  # height of the heap of particles, in units of U
BAR = 2.9  # where a bar of height θ stands, to measure barriers by


def _double_well(x: ndarray) -> ndarray:
    return 1.5 * ((x / 1.6) ** 2 - 1) ** 2


POTENTIALS = {
    "quadratic": 0.5 * KNOTS**2,
    "double well": _double_well(KNOTS),
    "tilted": _double_well(KNOTS) + 0.56 - 0.35 * KNOTS,
}


class BentPotential(Widget):
    """dx = −U′(x) dt + √(2θ) dw in a potential U bent by its heights at seven knots.

    Particles by Euler–Maruyama, their density p_t by finite volumes, the Gibbs density
    ∝ e^(−U/θ), and KL(p_t ‖ Gibbs) against t. U is the cubic spline through the heights
    at −2.4, −1.6, …, 2.4, with U″ = 1 at its ends, and the parabolas that continue it;
    at ±3.22 walls reflect what comes so far. The heights of the quadratic potential
    make it x²/2 everywhere.

    Args:
        potential: "quadratic", "double well" or "tilted".
        heights: U at the knots, from −2 to 6, instead of a potential by name.
        temperature: θ, from 0.1 to 2.
        start: mean of x_0 ~ N(start, 0.2²), from −2.8 to 2.8.
        t: the time shown, from 0 to 60.
        time_step: Δt of particles and density.
        n_particles: how many particles.
        seed: of the particles.
        title, caption: text around the figure.

    All are traits, but for `potential`, a property that sets the heights and names
    them. Heights and temperature act on the density and the particles as they are;
    particles in another number are drawn anew from the density.

    Raises:
        ValueError: an argument is out of range.
    """

    _name = "bent_potential"
    _esm = bundle_module(_name)
    _css = stylesheet()

    title = Text("A potential to bend")
    caption = Text(
        "Drag the blue discs to bend the potential U, and the disc x₀ to start "
        "elsewhere. While U is left alone, the divergence of pₜ from the Gibbs density "
        "falls, however slowly a barrier lets mass through; when you bend U it jumps, "
        "because the Gibbs density is then another one. The dots are particles under "
        "the same dynamics, heaped on U. A long time step shows in their histogram "
        "first."
    )
    heights = Array()
    temperature = Real(0.5, least=0.1, most=2.0)
    start = Real(-1.6, least=-2.8, most=2.8)
    t = Real(0.0, least=0.0, most=60.0)
    time_step = Real(0.02, least=0.001, most=0.2)
    n_particles = Whole(800, least=2, most=20_000)

    def __init__(
        self,
        potential: str = "double well",
        heights: Any = None,
        temperature: float | int = 0.5,
        start: float | int = -1.6,
        t: float | int = 0.0,
        time_step: float | int = 0.02,
        n_particles: int = 800,
        seed: int = 0,
        **text: str,
    ) -> None:
        super().__init__(
            heights=_preset(potential) if heights is None else heights,
            temperature=temperature,
            start=start,
            t=t,
            time_step=time_step,
            n_particles=n_particles,
            seed=seed,
            **text,
        )

    @property
    def potential(self) -> str:
        """The name that the heights have, or "bent"; assign one of the names."""
        same = (
            name
            for name, heights in POTENTIALS.items()
            if np.allclose(heights, self.heights, rtol=0, atol=1e-6)
        )
        return next(same, "bent")

    @potential.setter
    def potential(self, name: str) -> None:
        self.heights = _preset(name)

    @traitlets.validate("heights")
    def _validate_heights(self, proposal: dict) -> tuple:
        heights = np.array(proposal["value"], dtype=float)
        least, most = HEIGHTS
        within = ((heights >= least) & (heights <= most)).all()
        if heights.shape != KNOTS.shape or not within:
            raise StateError(
                f"heights must be {len(KNOTS)} numbers from {least:g} to {most:g}, "
                f"got {proposal['value']!r}"
            )
        return proposal["value"]

    # The picture

    def _description(self) -> str:
        return (
            f"{self.potential} potential, temperature {self.temperature:.3g}, "
            f"t = {self.t:.3g}"
        )

    def _sde(self) -> SDE:
        """The dynamics in the present potential."""
        U = _potential(np.array(self.heights))

        def drift(x: Tensor, t: Tensor) -> Tensor:
            return x.new_tensor(-U(x.numpy(), 1))

        g = torch.tensor(math.sqrt(2 * self.temperature), dtype=torch.float64)
        return SDE(drift, lambda t: g, autonomous=True)

    def _times(self) -> list[float]:
        """Steps of `time_step` up to t; a last shorter one where it does not fit."""
        steps = math.floor(self.t / self.time_step + 1e-9)
        times = [k * self.time_step for k in range(steps + 1)]
        return [*times, self.t] if self.t - times[-1] > 1e-9 else times

    def _densities(self, sde: SDE, times: list[float]) -> list[Tensor]:
        p = GRID.average(
            lambda x: torch.exp(-0.5 * ((x[:, 0] - self.start) / START_WIDTH) ** 2)
        )
        p = p / GRID.mass(p)
        if len(times) == 1:
            return [p]
        return list(solve_fokker_planck(sde, p, GRID, times, wall_mass=math.inf))

    def _particles(self, sde: SDE, times: list[float]) -> tuple[ndarray, ndarray]:
        """Where they are at the last time, and how high each lies in the heap."""
        generator, n = Generator(self.seed), self.n_particles
        x = _reflect(self.start + START_WIDTH * generator.normal(n))
        pile = generator.uniform(n)
        for t, s in pairwise(times):
            dw = math.sqrt(s - t) * torch.from_numpy(generator.normal(n))[:, None]
            x = torch.from_numpy(x)[:, None]
            _, x = euler_maruyama(sde, x, [t, s], increment=lambda *_, dw=dw: dw)
            x = _reflect(x[:, 0].numpy())
        return x, pile

    def _pictures(self) -> list[Picture]:
        sde, times = self._sde(), self._times()
        U = _potential(np.array(self.heights))
        centers = GRID.centers[:, 0].numpy()
        gibbs = stationary_density(sde, GRID)
        densities = self._densities(sde, times)
        x, pile = self._particles(sde, times)
        view = GRID.axes[0].low, GRID.axes[0].high
        blue = "#{:02x}{:02x}{:02x}".format(*DENSITY)
        heights = np.array(self.heights)

        low, high = min(-0.8, heights.min()) - 0.1, max(4.5, heights.max()) + 0.1
        upper = Chart(view, (low, high), name_y="potential U(x)", height=232)
        upper.fill(centers, U(centers), FAINT, alpha=0.12)
        upper.points(np.stack([x, U(x) + PILE * pile], -1), COMPONENTS[0], alpha=0.6)
        upper.curve(centers, U(centers), FAINT, width=1.8)
        bar = np.array([(BAR, 0.0), (BAR, self.temperature)])
        upper.line(bar, FAINT, width=3.0)
        upper.text(BAR, self.temperature / 2, "θ", FAINT)
        upper.points(np.stack([KNOTS, heights], -1), COMPONENTS[4], radius=8.0)
        setting = f"θ = {self.temperature:.2f}, Δt = {self.time_step:#.2g}"
        upper.heading(setting, left=False)

        p = densities[-1].numpy()
        top = 1.12 * max(p.max(), float(gibbs.max()))
        middle = Chart(view, (0.0, top), name_y="density", height=191)
        middle.fill(centers, p, blue, alpha=0.35)
        counts, edges = np.histogram(x, BINS, view, density=True)
        middle.bars(edges, counts, COMPONENTS[0], alpha=0.45)
        middle.curve(centers, p, blue, width=1.8)
        middle.curve(centers, gibbs.numpy(), COMPONENTS[1], width=1.8, dash=(6.0, 4.0))
        middle.heading(f"t = {self.t:.2f}", left=False)

        kl = np.array([grid_kl(p, gibbs, GRID.volume) for p in densities])
        kl = np.maximum(kl, 1e-12)
        lower = Chart(
            (0.0, max(10.0, 1.25 * self.t)),
            _round_range(kl),
            name_x="t",
            name_y="KL(pₜ ‖ Gibbs)",
            log_y=True,
            height=163,
        )
        lower.curve(np.array(times), kl, blue, width=1.8)
        lower.points(np.array([[self.t, kl[-1]]]), blue, radius=3.5)
        return [upper, middle, lower]


def _preset(name: str) -> ndarray:
    if name not in POTENTIALS:
        choices = ", ".join(map(repr, POTENTIALS))
        raise ValueError(
            f"potential must be one of {choices}, or heights given, got {name!r}"
        )
    return POTENTIALS[name]


def _potential(heights: ndarray) -> Callable[..., ndarray]:
    """U(x), and U(x, 1) for U′: a cubic spline, continued by parabolas."""
    ends: Any = ((2, CURVATURE), (2, CURVATURE))  # U″ there
    spline = CubicSpline(KNOTS, heights, bc_type=ends)

    def U(x: ndarray, order: int = 0) -> ndarray:
        inside = np.clip(x, KNOTS[0], KNOTS[-1])
        beyond = x - inside
        slope = spline(inside, 1)
        if order == 1:
            return slope + CURVATURE * beyond
        return spline(inside) + beyond * (slope + 0.5 * CURVATURE * beyond)

    return U


def _round_range(values: ndarray) -> tuple[float, float]:
    """1, 2 or 5 times a power of ten around the values, a power apart at least."""
    least, most = 0.7 * float(values.min()), 1.2 * float(values.max())
    power = 10.0 ** math.floor(math.log10(most))
    high = next(m * power for m in (1, 2, 5, 10) if m * power >= most)
    below = 10.0 ** math.floor(math.log10(least))
    low = next(m * below for m in (5, 2, 1) if m * below <= least)
    return min(low, high / 10), high


def _reflect(x: ndarray) -> ndarray:
    """Points that went through the walls, mirrored back between them."""
    low, high = GRID.axes[0].low, GRID.axes[0].high
    along = (x - low) % (2 * (high - low))
    inside = (x >= low) & (x <= high)
    return np.where(inside, x, low + np.minimum(along, 2 * (high - low) - along))
