"""Langevin against far modes, beside Langevin down a ladder of noise levels."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from diffedu.denoiser import ExactDenoiser
from diffedu.mixture import GaussianMixture
from diffedu.path import GaussianPath, VarianceExploding
from diffedu.samplers import metropolis_langevin, noise_ladder, trajectory
from diffedu.sde import euler_maruyama, langevin
from diffedu.widgets._base import Flag, OneOf, Real, StateError, Text, Whole
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._mixture_widget import MixtureWidget
from diffedu.widgets._picture import (
    COMPONENTS,
    FAINT,
    Chart,
    Generator,
    Picture,
    Plane,
    reach,
)

PAIRS = 4
CURVE_POINTS = 100
VIEW = 1.2  # half the view, in units of half the start's square
ROUNDING = 1e-6  # by which a ratio may exceed the path's greatest


def far_modes() -> GaussianMixture:
    """Two round modes, weights 0.2 and 0.8, about eight standard deviations apart."""
    return GaussianMixture(
        torch.tensor([0.2, 0.8], dtype=torch.float64),
        torch.tensor([[-3.0, -1.0], [3.0, 1.0]], dtype=torch.float64),
        0.64 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2),
    )


class LangevinLadder(MixtureWidget):
    """Plain and annealed Langevin on modes to be dragged: same start, same noise.

    One panel takes steps x + (h/2) s(x) + √h z on the score of the data. The other
    takes as many on the scores of the data noised to `levels` levels in turn, with
    h = relative · σ². Both spend `levels` · `steps` score evaluations per particle.

    Args:
        mixture: the law of the data, in the plane; two far modes by default.
        path: how it is noised.
        levels: of noise, at which σ/α runs geometrically from `highest` to `lowest`.
        highest, lowest: those two, highest > lowest.
        steps: at each level.
        step: h of the plain run.
        relative: h/σ² of the annealed run.
        metropolis: the plain run accepts or rejects its steps (MALA).
        start: "uniform" on the square [−spread, spread]², or "gaussian" with the same
            variance.
        spread: half the side of that square.
        k: the step shown, from 0 to levels · steps; the last by default.
        n_particles: how many particles.
        seed: of the start and the noise.
        title, caption: text around the figure.

    All are traits: assign to them and the widget follows. The picture of a Metropolis
    run has other noise than the page.

    Raises:
        ValueError: an argument is out of range, or the mixture is not in the plane.
    """

    _name = "langevin_ladder"
    _esm = bundle_module(_name)
    _css = stylesheet()

    title = Text("Two far modes, and a ladder of noise between them")
    caption = Text(
        "Plain: Langevin steps on the score of the data. Annealed: as many steps, on "
        "the score of the data under less and less noise. Shaded, the density that the "
        "score belongs to. Drag the numbered discs to move the modes. The chart: the "
        "share of the particles at the selected mode after every step, beside its "
        "weight."
    )
    levels = Whole(16, least=2, most=50)
    highest = Real(3.0, least=1e-3)
    lowest = Real(0.2, least=1e-3)
    steps = Whole(25, least=1, most=1000)
    step = Real(0.1, least=1e-4, most=100.0)
    relative = Real(0.5, least=1e-4, most=100.0)
    metropolis = Flag(False)
    start = OneOf("uniform", "gaussian")
    spread = Real(6.0, least=0.1, most=100.0)
    k = Whole(0, least=0, most=50_000)
    n_particles = Whole(500, least=2, most=20_000)

    def __init__(
        self,
        mixture: GaussianMixture | None = None,
        path: GaussianPath | None = None,
        levels: int = 16,
        highest: float | int = 3.0,
        lowest: float | int = 0.2,
        steps: int = 25,
        step: float | int = 0.1,
        relative: float | int = 0.5,
        metropolis: bool = False,
        start: str = "uniform",
        spread: float | int = 6.0,
        k: int | None = None,
        n_particles: int = 500,
        seed: int = 0,
        **text: str,
    ) -> None:
        super().__init__(
            far_modes() if mixture is None else mixture,
            path=VarianceExploding() if path is None else path,
            levels=levels,
            highest=highest,
            lowest=lowest,
            steps=steps,
            step=step,
            relative=relative,
            metropolis=metropolis,
            start=start,
            spread=spread,
            n_particles=n_particles,
            seed=seed,
            **text,
        )
        self.k = levels * steps if k is None else k  # after what it is held against

    @traitlets.validate("k")
    def _validate_k(self, proposal: dict) -> int:
        total = self.levels * self.steps
        if proposal["value"] > total:
            raise StateError(
                f"k must lie in [0, levels * steps = {total}], got {proposal['value']}"
            )
        return proposal["value"]

    @traitlets.validate("levels", "steps")
    def _validate_length(self, proposal: dict) -> int:
        """A shorter run brings k back into it."""
        lengths = {"levels": self.levels, "steps": self.steps}
        lengths[proposal["trait"].name] = proposal["value"]
        self.k = min(self.k, lengths["levels"] * lengths["steps"])
        return proposal["value"]

    @traitlets.validate("path", "highest", "lowest")
    def _validate_ladder(self, proposal: dict) -> Any:
        parts = {name: getattr(self, name) for name in ("path", "highest", "lowest")}
        parts[proposal["trait"].name] = proposal["value"]
        path, highest, lowest = parts.values()
        greatest = float(path.sigma(path.t_max) / path.alpha(path.t_max))
        if not lowest < highest <= greatest * (1 + ROUNDING):
            raise StateError(
                f"lowest < highest <= {greatest:.3g}, which is all that the path "
                f"reaches, is needed, got {lowest:g} and {highest:g}"
            )
        return proposal["value"]

    def _description(self) -> str:
        return (
            f"step {self.k} of {self.levels * self.steps}, {self.levels} levels from "
            f"{self.highest:.3g} to {self.lowest:.3g}, {super()._description()}"
        )

    # The picture

    def _times(self) -> Tensor:
        return noise_ladder(self.path, self.highest, self.lowest, self.levels)

    def _noise(self) -> tuple[Tensor, Tensor]:
        """The page's start (n, 2) and the normals z of every step (steps, n, 2)."""
        generator, n = Generator(self.seed), self.n_particles
        u, z = generator.uniform(2 * n), generator.normal(2 * n)
        for _ in range(2 * PAIRS):  # the page draws its reference samples here
            generator.uniform(n)
            generator.normal(2 * n)
        noise = generator.normal(2 * n * self.levels * self.steps)
        uniform = self.start == "uniform"
        x = self.spread * (2 * u - 1 if uniform else z / math.sqrt(3))
        return (
            torch.from_numpy(x).reshape(n, 2),
            torch.from_numpy(noise).reshape(-1, n, 2),
        )

    def _plain(self, x: Tensor, noise: Tensor) -> Tensor:
        """The states up to step k."""
        p = self.mixture
        if self.metropolis:
            generator = torch.Generator().manual_seed(self.seed)
            run = metropolis_langevin(
                p.log_prob, p.score, x, self.step, len(noise), generator
            )
            return trajectory(islice(run, self.k + 1))
        return trajectory(islice(_unadjusted(p.score, x, self.step, noise), self.k + 1))

    def _annealed(self, x: Tensor, noise: Tensor) -> Tensor:
        """The states up to step k."""
        path, times = self.path, self._times()
        denoiser = ExactDenoiser(path, self.mixture)
        states, alpha = [x], path.alpha(times[0])
        for t, z in zip(times, noise.split(self.steps), strict=True):
            if len(states) > self.k:
                break
            x, alpha = path.alpha(t) / alpha * states[-1], path.alpha(t)
            h = self.relative * float(path.variance(t))
            run = _unadjusted(lambda x, t=t: denoiser.score(x, t), x, h, z)
            states.extend(islice(run, 1, None))
        return trajectory(states[: self.k + 1])

    def _pictures(self) -> list[Picture]:
        p, path, total = self.mixture, self.path, self.levels * self.steps
        start, noise = self._noise()
        times = self._times()
        level = max(0, self.k - 1) // self.steps
        t = times[level]
        sigma = float(path.sigma(t) / path.alpha(t))
        extent = max(VIEW * self.spread, reach(p))
        plain, annealed = self._plain(start, noise), self._annealed(start, noise)
        kind = "Metropolis-adjusted" if self.metropolis else "Plain"

        chart = Chart(
            (0.0, float(total)),
            (0.0, 1.0),
            name_x="score evaluations per particle",
            name_y="share at mode 1",
            width=700,
            height=241,
        )
        weight = float(p.weights[0])
        chart.line(np.array([(0, weight), (total, weight)]), FAINT, dash=(6.0, 4.0))
        pictures: list[Picture] = []
        for title, setting, law, states, colour in (
            (f"{kind} Langevin", "σ = 0", p, plain, COMPONENTS[3]),
            (
                "Annealed Langevin",
                f"level {level + 1} of {self.levels}, σ = {sigma:#.2g}",
                path.marginal(p, t),
                annealed,
                COMPONENTS[4],
            ),
        ):
            picture = Plane(extent, size=340)
            picture.density(law)
            nearest = p.responsibilities(states[-1]).argmax(-1)
            colours = [COMPONENTS[j % len(COMPONENTS)] for j in nearest]
            picture.points(states[-1], colours)
            picture.discs(p, size=12)
            picture.heading(title)
            picture.heading(setting, left=False)
            pictures.append(picture)

            shown = sorted({*range(0, self.k, -(-total // CURVE_POINTS)), self.k})
            share = [float(p.responsibilities(states[j])[:, 0].mean()) for j in shown]
            chart.curve(np.array(shown), np.array(share), colour, width=1.8)
            chart.points(np.array([[self.k, share[-1]]]), colour, radius=3.5)
        return [*pictures, chart]


def _unadjusted(
    score: Callable[[Tensor], Tensor], x: Tensor, h: float, noise: Tensor
) -> Iterator[Tensor]:
    """Langevin steps of size h on given normals, one (n, 2) per step."""
    times = h * torch.arange(len(noise) + 1, dtype=torch.float64)
    z = iter(noise)
    return euler_maruyama(
        langevin(score), x, times, increment=lambda t, s: math.sqrt(h) * next(z)
    )
