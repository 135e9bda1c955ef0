"""One Brownian path, refined under the reader's hand, and what steps along it cost."""

import math
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from diffedu.metrics import Estimate
from diffedu.sde import SDE, BrownianPath, MultiplicativeSDE, euler_maruyama, milstein
from diffedu.widgets._base import Flag, OneOf, Real, Whole, Text, Widget
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._picture import COMPONENTS, FAINT, Chart, Generator

FINEST = 11  # the path is known at steps of 2⁻¹¹
FITTED = 3  # the order is fitted over the levels from here on: h ≤ 1/8
X_0 = 1.0
COARSE, FINE, SECOND = COMPONENTS[:3]  # step h, step h/2, Milstein


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
        "Above: a Brownian path, known at steps h and h/2; refining adds midpoints and "
        "moves no value. Below: Euler–Maruyama along those points, beside the exact "
        "solution on the same path. Right: the error at time 1, averaged over many "
        "paths (bars: two standard errors either way), against the step."
    )
    process = OneOf("multiplicative", "additive")
    level = Whole(3, least=0, most=FINEST - 1)
    paths = Whole(400, least=10, most=2000)
    mu = Real(-1.0, least=-2.0, most=2.0)
    nu = Real(1.0, least=0.05, most=1.5)
    milstein = Flag(False)

    def __init__(
        self,
        process: str = "multiplicative",
        level: int = 3,
        paths: int = 400,
        seed: int = 0,
        mu: float | int = -1.0,
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
    def sde(self) -> SDE | MultiplicativeSDE:
        """The equation that the traits describe."""
        mu, nu = self.mu, self.nu
        if self.process == "additive":
            return SDE(lambda x, t: mu * x, lambda t: nu, autonomous=True)
        return MultiplicativeSDE(lambda x, t: mu * x, lambda x, t: nu * x)

    def _description(self) -> str:
        return (
            f"{self.process} noise, h = {_step(self.level)}, "
            f"mu = {self.mu:.3g}, nu = {self.nu:.3g}, {self.paths} paths"
        )

    def _pictures(self) -> list[Chart]:
        path, rest = draw_paths(self.seed, self.paths)
        drawn = BrownianPath(path.times, path.w[:, :1])
        schemes = [(euler_maruyama, "Euler–Maruyama")]
        if self.milstein and self.process == "multiplicative":
            schemes.append((milstein, "Milstein"))
        exact_x = exact(self.process, self.mu, self.nu, path, rest)
        return [
            self._path_picture(drawn),
            self._solution_picture(drawn, exact_x[:, 0], schemes),
            self._error_picture(path, exact_x[-1], schemes),
        ]
