"""The same start and the same noise run backwards three ways."""

from typing import Any

import torch
import traitlets

from diffedu.mixture import GaussianMixture, three_gaussians
from diffedu.path import GaussianPath, OrnsteinUhlenbeck
from diffedu.widgets._base import MixtureWidget, OneOf, Real, StateError, Text, Whole
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._picture import COMPONENTS, Generator, Picture, place, view_extent


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
        k: the step shown, from 0 (noise) to `steps` (data).
        n_particles: how many particles.
        seed: of the start and the noise.
        title, caption: text around the figure.

    All are traits: assign to them and the widget follows.

    Raises:
        ValueError: an argument is out of range, or the mixture is not in the plane.
    """

    _name = "reverse_trajectories"
    _esm = bundle_module("core", "figure", _name)
    _css = stylesheet()

    title = Text("Running time backwards")
    caption = Text(
        "Three ways back from the same sample of p_T, with the same noise and the same "
        "steps. Shading: the exact density p_t. Lines: the way of some particles. The "
        "naive reversal runs the noising SDE with time decreasing and no score."
    )
    steps = Whole(100, least=1, most=1000)
    eta = Real(1.0, least=0, most=10)
    power = Real(1.0, least=0.1, most=10)
    solver = OneOf("euler_maruyama", "heun")
    k = Whole(0, least=0, most=1000)

    def __init__(
        self,
        mixture: GaussianMixture | None = None,
        path: GaussianPath | None = None,
        steps: int = 100,
        eta: float = 1.0,
        power: float = 1.0,
        solver: str = "euler_maruyama",
        k: int = 0,
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
            k=k,
            n_particles=n_particles,
            seed=seed,
            **text,
        )

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
        return []
