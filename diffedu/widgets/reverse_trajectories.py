"""The same start and the same noise run backwards three ways."""

from itertools import islice
from typing import Any

import torch
import traitlets

from diffedu.denoiser import ExactDenoiser
from diffedu.mixture import GaussianMixture, three_gaussians
from diffedu.path import (
    Cosine,
    GaussianPath,
    OrnsteinUhlenbeck,
    Straight,
    time_grid,
)
from diffedu.samplers import trajectory
from diffedu.sde import euler_maruyama, forward, heun, reverse
from diffedu.widgets._base import OneOf, Real, StateError, Text, Whole
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._mixture_widget import MixtureWidget
from diffedu.widgets._picture import (
    COMPONENTS,
    FAINT,
    Generator,
    Picture,
    Plane,
    place,
    view_extent,
)

TRAILS = 12
PAIRS = 4


class ReverseTrajectories(MixtureWidget):
    """Naive reversal, probability flow and the reverse SDE of any η, side by side.

    Every panel starts from the same sample of p_T, uses the same noise and takes the
    same steps; the exact p_t lies behind the particles.

    Args:
        mixture: the law of x_0, in the plane.
        path: how it was noised.
        steps: from t_max to 0.
        eta: η >= 0 of the third panel; 1 is Anderson's time reversal.
        power: of the time grid, uniform in t^(1/power).
        solver: "euler_maruyama" or "heun".
        k: the step shown, from 0 (noise) to `steps` (data); the last by default.
        n_particles: how many particles.
        seed: of the start and the noise.
        title, caption: text around the figure.

    All are traits: assign to them and the widget follows.

    Raises:
        ValueError: an argument is out of range, or the mixture is not in the plane.
    """

    _name = "reverse_trajectories"
    _esm = bundle_module(_name)
    _css = stylesheet()

    title = Text("Running time backwards")
    caption = Text(
        "Three ways back from the same sample at time T, with the same noise and the "
        "same steps. Shading: the exact density pₜ. Lines: the ways of some particles. "
        "The naive reversal runs the noising SDE with time decreasing and no score."
    )
    steps = Whole(100, least=1, most=1000)
    n_particles = Whole(500, least=2, most=20_000)
    eta = Real(1.0, least=0.0, most=10.0)
    power = Real(1.0, least=0.1, most=10.0)
    solver = OneOf("euler_maruyama", "heun")
    k = Whole(0, least=0, most=1000)

    def __init__(
        self,
        mixture: GaussianMixture | None = None,
        path: GaussianPath | None = None,
        steps: int = 100,
        eta: float | int = 1.0,
        power: float | int = 1.0,
        solver: str = "euler_maruyama",
        k: int | None = None,
        n_particles: int = 500,
        seed: int = 0,
        **text: str,
    ) -> None:
        super().__init__(
            three_gaussians() if mixture is None else mixture,
            path=OrnsteinUhlenbeck() if path is None else path,
            steps=steps,
            eta=eta,
            power=power,
            solver=solver,
            n_particles=n_particles,
            seed=seed,
            **text,
        )
        self.k = steps if k is None else k  # after the steps that it is held against

    @traitlets.validate("k")
    def _validate_k(self, proposal: dict) -> int:
        if proposal["value"] > self.steps:
            raise StateError(
                f"k must lie in [0, steps = {self.steps}], got {proposal['value']}"
            )
        return proposal["value"]

    @traitlets.validate("steps")
    def _validate_steps(self, proposal: dict) -> Any:
        """Fewer steps bring k back among them."""
        self.k = min(self.k, proposal["value"])
        return proposal["value"]

    def _description(self) -> str:
        return (
            f"step {self.k} of {self.steps}, eta = {self.eta:.3g}, "
            f"{super()._description()}"
        )

    def _pictures(self) -> list[Picture]:
        mixture, path = self.mixture, self.path
        times = time_grid(_start(path), 0.0, self.steps, self.power)
        generator = Generator(self.seed)
        n = self.n_particles
        u, z = generator.uniform(n), generator.normal(2 * n)
        for _ in range(2 * PAIRS):  # the page draws its reference samples here
            generator.uniform(n)
            generator.normal(2 * n)
        noise = torch.from_numpy(generator.normal(2 * n * self.steps))
        noise = noise.reshape(-1, n, 2)
        start, _ = place(path.marginal(mixture, times[0]), u, z)
        solver = {"euler_maruyama": euler_maruyama, "heun": heun}[self.solver]

        noising = forward(path)
        score = ExactDenoiser(path, mixture).score
        law = path.marginal(mixture, times[self.k])
        extent = view_extent(mixture, path, float(times[self.k]))
        pictures = []
        for title, sde, colour in (
            ("Naive reversal", noising, COMPONENTS[0]),
            ("Probability flow, η = 0", reverse(noising, score, 0.0), COMPONENTS[1]),
            (_title(self.eta), reverse(noising, score, self.eta), COMPONENTS[2]),
        ):
            z = iter(noise)
            run = solver(
                sde,
                start,
                times,
                increment=lambda t, s, z=z: (s - t).abs().sqrt() * next(z),
            )
            states = trajectory(islice(run, self.k + 1))
            zoomed = max(extent, 1.1 * _spread(states[-1]))
            picture = Plane(zoomed if sde is noising else extent, size=250)
            picture.density(law)
            for i in range(min(TRAILS, n)):
                picture.line(states[:, i].numpy(), FAINT, alpha=0.5)
            picture.points(states[-1], colour)
            picture.heading(title)
            pictures.append(picture)
        return pictures


def _title(eta: float) -> str:
    return f"Reverse SDE, η = {eta:.3g}" + (" (Anderson)" if eta == 1 else "")


def _start(path: GaussianPath) -> float:
    """t_max, or just before it where f and g are infinite."""
    return 0.99 * path.t_max if isinstance(path, Cosine | Straight) else path.t_max


def _spread(x: torch.Tensor) -> float:
    """The distance from the origin that all but 3 % of the points keep."""
    distance = x.norm(dim=-1).sort().values
    return float(distance[int(0.97 * (len(distance) - 1))])
