"""A mixture that the reader shapes, dissolving into noise."""

from typing import Any

import traitlets

from diffedu.mixture import GaussianMixture, three_gaussians
from diffedu.path import GaussianPath, OrnsteinUhlenbeck
from diffedu.widgets._base import Flag, Real, StateError, Text, Whole
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._mixture_widget import MixtureWidget
from diffedu.widgets._picture import (
    COMPONENTS,
    Generator,
    Picture,
    Plane,
    place,
    view_extent,
)


class DissolvingMixture(MixtureWidget):
    """p_t, its score and particles x_t = α x_0 + σ ε, for a mixture to be dragged.

    Args:
        mixture: the law of x_0, in the plane.
        path: how it is noised.
        t: time, in [0, path.t_max].
        n_particles: how many particles.
        seed: of the particles' noise.
        simulate: particles follow the SDE, by Euler–Maruyama, instead of x_t itself.
        steps: of that simulation, from 0 to t_max.
        title, caption: text around the figure.

    All are traits: `widget.t = 0.7` moves it, `widget.observe(handler, "means")`
    follows the reader's hand.

    Raises:
        ValueError: an argument is out of range, or the mixture is not in the plane.
    """

    _name = "dissolving_mixture"
    _esm = bundle_module(_name)
    _css = stylesheet()

    title = Text("A mixture dissolving into noise")
    caption = Text(
        "Shading: the exact density pₜ. Arrows: the exact score. Dots: particles, "
        "coloured by the component that they came from. Drag a numbered disc to move "
        "that component of the data; point anywhere for the posterior of x₀."
    )
    t = Real(0.0, least=0.0)
    n_particles = Whole(600, least=2, most=20_000)
    simulate = Flag(False)
    steps = Whole(100, least=1, most=1000)

    def __init__(
        self,
        mixture: GaussianMixture | None = None,
        path: GaussianPath | None = None,
        t: float | int = 0.0,
        n_particles: int = 600,
        seed: int = 0,
        simulate: bool = False,
        steps: int = 100,
        **text: str,
    ) -> None:
        super().__init__(
            three_gaussians() if mixture is None else mixture,
            path=OrnsteinUhlenbeck() if path is None else path,
            n_particles=n_particles,
            seed=seed,
            simulate=simulate,
            steps=steps,
            **text,
        )
        self.t = t  # after the path, whose t_max it is held against

    @traitlets.validate("t")
    def _validate_t(self, proposal: dict) -> float:
        if proposal["value"] > self.path.t_max:
            raise StateError(
                f"t must lie in [0, {self.path.t_max:g}], got {proposal['value']:g}"
            )
        return proposal["value"]

    @traitlets.validate("path")
    def _validate_path(self, proposal: dict) -> Any:
        """A shorter path brings t back within it."""
        self.t = min(self.t, proposal["value"].t_max)
        return proposal["value"]

    def _description(self) -> str:
        return f"t = {self.t:.3g}, {super()._description()}"

    def _pictures(self) -> list[Picture]:
        mixture, path, t = self.mixture, self.path, self.t
        law = path.marginal(mixture, t)
        generator = Generator(self.seed)
        u = generator.uniform(self.n_particles)
        z, eps = (generator.normal(2 * self.n_particles) for _ in range(2))
        x_0, component = place(mixture, u, z)
        x = path.perturb(x_0, x_0.new_tensor(eps).reshape(-1, 2), t)
        picture = Plane(view_extent(mixture, path, t))
        picture.density(law)
        picture.arrows(law)
        picture.points(x, [COMPONENTS[k % len(COMPONENTS)] for k in component])
        picture.handles(mixture)
        picture.heading(f"t = {t:.2f}")
        return [picture]
