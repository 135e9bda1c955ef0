"""What the widgets about a mixture share: the mixture and its path, as traits."""

from dataclasses import asdict
from typing import Any

import torch
import traitlets

from diffedu.mixture import GaussianMixture
from diffedu.path import (
    Cosine,
    GaussianPath,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
)
from diffedu.widgets._base import Array, Checked, StateError, Widget

PATHS = {
    path.__name__: path
    for path in (
        OrnsteinUhlenbeck,
        VariancePreserving,
        VarianceExploding,
        Cosine,
        Straight,
    )
}

ROUNDING = 1e-5  # relative; what comes from the page, or from a float32 mixture


class Path(Checked):
    """A `GaussianPath` that the page knows."""

    def __init__(self) -> None:
        super().__init__(OrnsteinUhlenbeck())
        self.tag(to_json=_path_to_json, from_json=_path_from_json)

    def validate(self, obj: Any, value: Any) -> GaussianPath:
        if type(value) not in PATHS.values():
            self.refuse(f"a path, one of {', '.join(PATHS)}", value)
        return value


def _path_to_json(value: GaussianPath, widget: Any) -> dict:
    return {"name": type(value).__name__, **asdict(value)}


def _path_from_json(value: dict, widget: Any) -> GaussianPath:
    parameters = dict(value)
    return PATHS[parameters.pop("name")](**parameters)


class MixtureWidget(Widget):
    """A widget about a mixture in the plane and a path that noises it.

    `weights` (K,), `means` (K, 2), `covariances` (K, 2, 2) and `path` are traits;
    assigning to `mixture` sets the first three at once.

    Raises:
        ValueError: a trait is assigned something that it cannot be.
    """

    weights = Array()
    means = Array()
    covariances = Array()
    path = Path()

    def __init__(self, mixture: GaussianMixture, **traits: Any) -> None:
        super().__init__(**_parameters(mixture), **traits)

    @property
    def mixture(self) -> GaussianMixture:
        """The mixture that the traits describe; assign one to set all three."""
        return _mixture(self.weights, self.means, self.covariances)

    @mixture.setter
    def mixture(self, mixture: GaussianMixture) -> None:
        parameters = _parameters(mixture)
        with self.hold_sync(), self.hold_trait_notifications():
            for name, value in parameters.items():
                setattr(self, name, value)

    @traitlets.validate("weights", "means", "covariances")
    def _validate_mixture(self, proposal: dict) -> tuple:
        parts = {
            name: getattr(self, name) for name in ("weights", "means", "covariances")
        }
        parts[proposal["trait"].name] = proposal["value"]
        try:
            _mixture(**parts)
        except ValueError as error:
            raise StateError(str(error)) from None
        return proposal["value"]

    def _description(self) -> str:
        return f"{self.mixture.n_components} components, {self.path}"


def require_mixture(mixture: GaussianMixture, dim: int) -> None:
    """Raise ValueError unless it is one mixture, on the line or in the plane."""
    if not isinstance(mixture, GaussianMixture):
        raise ValueError(
            f"mixture must be a GaussianMixture, got {type(mixture).__name__}"
        )
    if mixture.batch_shape or mixture.dim != dim:
        where = "on the line" if dim == 1 else "in the plane"
        shape = tuple(mixture.means.shape)
        raise ValueError(
            f"mixture must be one mixture {where}, got means of shape {shape}"
        )


def _parameters(mixture: GaussianMixture) -> dict:
    require_mixture(mixture, dim=2)
    return {
        "weights": mixture.weights,
        "means": mixture.means,
        "covariances": mixture.covariances,
    }


def _mixture(weights: tuple, means: tuple, covariances: tuple) -> GaussianMixture:
    """The mixture in float64, from numbers that may have been rounded to float32."""
    w = torch.tensor(weights, dtype=torch.float64)
    if w.ndim == 1 and abs(float(w.sum()) - 1) < ROUNDING:
        w = w / w.sum()
    C = torch.tensor(covariances, dtype=torch.float64)
    if C.ndim == 3 and torch.allclose(C, C.mT, rtol=ROUNDING, atol=0):
        C = 0.5 * (C + C.mT)
    mixture = GaussianMixture(w, means, C)
    if mixture.dim != 2:
        raise ValueError(f"means must have shape (K, 2), got {(*mixture.means.shape,)}")
    return mixture
