"""The first frame of a widget, drawn with matplotlib from the package's own objects.

Same margins, ranges and colours as the canvas that takes its place (`figure.js`), and
the same particles: the page's random numbers are drawn here as there. The paper is
transparent and the ink mid-grey, so that one picture serves light and dark pages.
"""

import base64
import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import NullFormatter
from PIL import Image

from diffedu.mixture import GaussianMixture
from diffedu.path import GaussianPath

FAINT = "#767676"
DENSITY = (0, 90, 156)
COMPONENTS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6bbe")
DENSITY_CELLS = 72
LEVELS = 24  # per channel: a third of the bytes of 256, and no difference to the eye
PIXELS_PER_POINT = 72 / 100


class Generator:
    """The page's random numbers: mulberry32 and Box–Muller."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def uniform(self, count: int) -> np.ndarray:
        """`count` numbers uniform on (0, 1)."""
        with np.errstate(over="ignore"):
            index = np.arange(1, count + 1, dtype=np.uint32)
            state = np.uint32(self.state) + index * np.uint32(0x6D2B79F5)
            a = (state ^ (state >> np.uint32(15))) * (state | np.uint32(1))
            a ^= a + (a ^ (a >> np.uint32(7))) * (a | np.uint32(61))
            a ^= a >> np.uint32(14)
        self.state = (self.state + count * 0x6D2B79F5) % 2**32
        return (a + 0.5) / 2**32

    def normal(self, count: int) -> np.ndarray:
        """`count` standard normals."""
        u = self.uniform(count + count % 2)
        radius = np.sqrt(-2 * np.log(u[::2]))
        angle = 2 * np.pi * u[1::2]
        z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
        return z.ravel()[:count]


def place(
    mixture: GaussianMixture, u: np.ndarray, z: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """The draws that u (n,) and z (2n,) stand for, and their components."""
    edges = mixture.weights.cumsum(0)[:-1]
    component = torch.searchsorted(edges, torch.from_numpy(u), right=True)
    L = torch.linalg.cholesky(mixture.covariances)[component]
    x = mixture.means[component]
    x = x + (L @ torch.from_numpy(z).reshape(-1, 2, 1))[..., 0]
    return x, component


def reach(law: GaussianMixture) -> float:
    """How far from the origin p reaches: every mean and 2.7 deviations around it."""
    major = torch.linalg.eigvalsh(law.covariances)[:, -1].sqrt()
    return float((law.means.norm(dim=-1) + 2.7 * major).max())


def view_extent(mixture: GaussianMixture, path: GaussianPath, t: float) -> float:
    """Half the width of the view at t: fixed if p_t stays near, else growing."""
    start = reach(mixture)
    times = [i / 32 * path.t_max for i in range(33)]
    most = max(reach(path.marginal(mixture, time)) for time in times)
    return max(start, min(most, 1.5 * start), reach(path.marginal(mixture, t)))


@contextmanager
def default_style() -> Iterator[None]:
    """matplotlib as it comes: a picture does not depend on the notebook's style."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


class Picture:
    """One pair of axes in a picture of width × height pixels, within `margins`.

    The margins are the pixels left, right, above and below of the frame.
    """

    def __init__(
        self, width: int, height: int, margins: tuple[int, int, int, int]
    ) -> None:
        left, right, top, bottom = margins
        self.width, self.height = width, height
        self.inner_height = height - top - bottom
        self.figure = Figure((width / 100, height / 100), dpi=100)
        box = (
            left / width,
            bottom / height,
            1 - (left + right) / width,
            1 - (top + bottom) / height,
        )
        self.figure.patch.set_alpha(0)
        self.axes = self.figure.add_axes(box, facecolor="none")
        self.axes.tick_params(
            colors=FAINT, labelsize=11 * PIXELS_PER_POINT, length=4 * PIXELS_PER_POINT
        )
        self.axes.tick_params(which="minor", colors=FAINT, length=2 * PIXELS_PER_POINT)
        for spine in self.axes.spines.values():
            spine.set_color(FAINT)

    def heading(self, text: str, left: bool = True) -> None:
        """Text above the frame."""
        self.axes.text(
            0 if left else 1,
            1 + 5 / self.inner_height,
            text,
            transform=self.axes.transAxes,
            ha="left" if left else "right",
            color=FAINT,
            fontsize=11 * PIXELS_PER_POINT,
        )

    def points(
        self,
        x: torch.Tensor | np.ndarray,
        colours: list[str] | str,
        radius: float = 1.8,
        alpha: float = 0.8,
    ) -> None:
        """Points (n, 2) as discs of `radius` pixels."""
        area = (2 * radius * PIXELS_PER_POINT) ** 2
        x = np.asarray(x)
        self.axes.scatter(*x.T, s=area, c=colours, alpha=alpha, linewidths=0)

    def line(
        self,
        x: np.ndarray,
        colour: str,
        alpha: float = 1.0,
        width: float = 1.0,
        dash: tuple[float, ...] = (),
    ) -> None:
        """A path through points (k, 2), `width` pixels wide; `dash` in pixels too."""
        self.axes.plot(
            *np.asarray(x).T,
            color=colour,
            alpha=alpha,
            linewidth=width * PIXELS_PER_POINT,
            linestyle=(0, tuple(d / width for d in dash)) if dash else "-",
            dash_capstyle="butt",
        )

    def base64(self) -> str:
        """The picture as PNG: the same bytes for the same state."""
        canvas = FigureCanvasAgg(self.figure)
        self.figure.set_dpi(125)
        canvas.draw()
        levels = np.linspace(0, 255, LEVELS).round().astype(np.uint8)
        nearest = (np.arange(256) * (LEVELS - 1) / 255).round().astype(int)
        pixels = levels[nearest][np.asarray(canvas.buffer_rgba())]
        pixels[pixels[..., 3] == 0] = 0
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png", optimize=True)
        return base64.b64encode(buffer.getvalue()).decode()


class Plane(Picture):
    """The plane: `size` pixels square, centred on the origin or on `centre`."""

    def __init__(
        self,
        extent: float,
        size: int = 440,
        centre: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__(size, size, margins=(34, 8, 16, 26))
        self.extent = extent
        self.centre = torch.tensor(centre, dtype=torch.float64)
        x, y = ((middle - extent, middle + extent) for middle in centre)
        self.sides = (*x, *y)
        self.axes.set(xlim=x, ylim=y)
        step = _nice_step(2 * extent)
        self.axes.set_xticks(_linear_ticks(x, step))
        self.axes.set_yticks(_linear_ticks(y, step))

    def density(self, law: GaussianMixture) -> None:
        """The density as shading, √(p / max p)."""
        n = DENSITY_CELLS
        centres = self.extent * ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1)
        points = torch.cartesian_prod(centres, centres).reshape(n, n, 2).transpose(0, 1)
        points = self.centre + points
        log_p = law.log_prob(points.reshape(-1, 2)).reshape(n, n)
        image = np.zeros((n, n, 4), dtype=np.uint8)
        image[..., :3] = DENSITY
        image[..., 3] = (165 * torch.exp(0.5 * (log_p - log_p.max()))).numpy()
        self.axes.imshow(
            image,
            extent=self.sides,
            origin="lower",
            interpolation="bilinear",
        )

    def arrows(self, law: GaussianMixture, count: int = 20) -> None:
        """The score; its length saturates at one cell."""
        self.field(law.score, count)

    def field(
        self,
        field: Callable[[torch.Tensor], torch.Tensor],
        count: int = 20,
        colour: str = FAINT,
        alpha: float = 0.7,
        width: float = 0.0028,
    ) -> None:
        """A field as arrows, `width` of the frame thick; length as for the score."""
        cell = 2 * self.extent / count
        line = torch.arange(count, dtype=torch.float64)
        centres = self.extent * ((2 * line + 1) / count - 1)
        points = self.centre + torch.cartesian_prod(centres, centres)
        v = field(points)
        size = v.norm(dim=-1, keepdim=True)
        arrow = 0.85 * cell * v / (size + 1 / cell)
        self.axes.quiver(
            *points.T.numpy(),
            *arrow.T.numpy(),
            angles="xy",
            scale_units="xy",
            scale=1,
            pivot="mid",
            color=colour,
            alpha=alpha,
            width=width,
            headwidth=3.5,
            headlength=4,
        )

    def ellipse(
        self,
        mean: torch.Tensor,
        covariance: torch.Tensor,
        colour: str,
        deviations: float = 1.0,
        **style: Any,
    ) -> None:
        """The ellipse of `deviations` standard deviations; `style` as for `line`."""
        Lam, Q = torch.linalg.eigh(covariance)
        angle = torch.linspace(0, 2 * math.pi, 61, dtype=covariance.dtype)
        circle = torch.stack([angle.cos(), angle.sin()])
        around = mean[:, None] + deviations * Q @ (Lam.sqrt()[:, None] * circle)
        self.line(around.mT.numpy(), colour, **style)

    def arrow(self, tail: torch.Tensor, tip: torch.Tensor, colour: str) -> None:
        """An arrow from one place to another."""
        (x, y), (x_tail, y_tail) = tip.tolist(), tail.tolist()
        self.axes.annotate(
            "",
            (x, y),
            (x_tail, y_tail),
            arrowprops={
                "arrowstyle": "->",
                "color": colour,
                "linewidth": 1.5 * PIXELS_PER_POINT,
                "shrinkA": 0,
                "shrinkB": 0,
                "mutation_scale": 8,
            },
        )

    def handles(self, mixture: GaussianMixture) -> None:
        """The numbered discs that can be dragged, and the first component's ellipse."""
        Lam, Q = torch.linalg.eigh(mixture.covariances[0])
        angle = math.degrees(math.atan2(Q[1, 1], Q[0, 1]))
        self.axes.add_patch(
            Ellipse(
                tuple(mixture.means[0].tolist()),
                4 * math.sqrt(Lam[1]),
                4 * math.sqrt(Lam[0]),
                angle=angle,
                fill=False,
                edgecolor=FAINT,
                linestyle=(0, (4, 3)),
            )
        )
        self.discs(mixture)

    def discs(self, mixture: GaussianMixture, size: float | int = 17) -> None:
        """The numbered discs that can be dragged, `size` points across."""
        disc = {"markersize": size, "markeredgecolor": "white", "markeredgewidth": 1.4}
        for k, (x, y) in enumerate(mixture.means.tolist()):
            self.axes.plot(x, y, "o", color=COMPONENTS[k % len(COMPONENTS)], **disc)
            label = {"ha": "center", "va": "center_baseline", "fontsize": 9 * size / 17}
            self.axes.text(x, y, str(k + 1), **label)


class Chart(Picture):
    """A chart: x and y in these ranges, each axis linear or logarithmic.

    `name_x` is written below the ticks, `name_y` above the frame.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        name_x: str = "",
        name_y: str = "",
        log_x: bool = False,
        log_y: bool = False,
        width: int = 440,
        height: int = 244,
    ) -> None:
        margins = (42, 12, 18, 36 if name_x else 26)
        super().__init__(width, height, margins)
        inner = width - margins[0] - margins[1], self.inner_height
        for which, range_, log, room in (
            ("x", x, log_x, inner[0] / 60),
            ("y", y, log_y, inner[1] / 26),
        ):
            axis = getattr(self.axes, f"{which}axis")
            self.axes.set(**{f"{which}lim": range_})
            if log:
                self.axes.set(**{f"{which}scale": "log"})
                major, texts, minor = _log_ticks(range_)
                axis.set_ticks(major, texts)
                axis.set_ticks(minor, minor=True)
                axis.set_minor_formatter(NullFormatter())
            else:
                axis.set_ticks(
                    _linear_ticks(range_, _nice_step(range_[1] - range_[0], room))
                )
        self.heading(name_y)
        self.axes.text(
            0.5,
            -31 / self.inner_height,
            name_x,
            transform=self.axes.transAxes,
            ha="center",
            color=FAINT,
            fontsize=11 * PIXELS_PER_POINT,
        )

    def curve(self, x: np.ndarray, y: np.ndarray, colour: str, **style: Any) -> None:
        """The curve through (x_i, y_i); `style` is that of `line`."""
        self.line(np.stack([np.asarray(x), np.asarray(y)], -1), colour, **style)

    def fill(
        self, x: np.ndarray, y: np.ndarray, colour: str, alpha: float = 0.3
    ) -> None:
        """The area between the curve and the foot of the axes."""
        foot = self.axes.get_ylim()[0]
        self.axes.fill_between(x, y, foot, color=colour, alpha=alpha, linewidth=0)

    def bars(
        self, edges: np.ndarray, heights: np.ndarray, colour: str, alpha: float = 0.35
    ) -> None:
        """Bars between consecutive edges: one edge more than bars."""
        foot = self.axes.get_ylim()[0]
        self.axes.bar(
            edges[:-1],
            np.asarray(heights) - foot,
            np.diff(edges),
            bottom=foot,
            align="edge",
            color=colour,
            alpha=alpha,
            linewidth=0,
        )

    def text(self, x: float, y: float, text: str, colour: str) -> None:
        """Text to the right of a place."""
        self.axes.annotate(
            text,
            (x, y),
            (5 * PIXELS_PER_POINT, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=11 * PIXELS_PER_POINT,
        )


def _nice_step(length: float, count: float = 5.0) -> float:
    """A round step that makes about `count` of the length, and five at most."""
    rough = length / max(1.0, min(5.0, count))
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough)


def _linear_ticks(range_: tuple[float, float], step: float) -> list[float]:
    first, last = math.ceil(range_[0] / step), math.floor(range_[1] / step)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(
    range_: tuple[float, float],
) -> tuple[list[float], list[str], list[float]]:
    """Ticks with text, their texts, and ticks without, as on the page."""
    low, high = range_[0] * (1 - 1e-9), range_[1] * (1 + 1e-9)
    first = math.ceil(math.log10(range_[0]))
    last = math.floor(math.log10(range_[1]))
    every, few = max(1, math.ceil((last - first) / 5)), last - first < 1
    ticks = {
        m * 10.0**k: (m, k) for k in range(first - 1, last + 1) for m in range(1, 10)
    }
    ticks = {value: mk for value, mk in ticks.items() if low <= value <= high}
    major = [
        value
        for value, (m, k) in ticks.items()
        if (m in (1, 2, 5) if few else m == 1 and k % every == 0)
    ]
    texts = [f"{value:g}" if few else f"$10^{{{ticks[value][1]}}}$" for value in major]
    fine = [
        value
        for value, (m, _) in ticks.items()
        if value not in major and (last - first < 4 or m == 1)
    ]
    return major, texts, fine
