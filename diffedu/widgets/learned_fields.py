"""Four trainings of one network: the learned fields beside the exact one."""

import base64
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import traitlets
from numpy import ndarray
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from diffedu.denoiser import ExactDenoiser, NeuralDenoiser
from diffedu.mixture import GaussianMixture, three_gaussians
from diffedu.nets import MLP
from diffedu.path import GaussianPath, OrnsteinUhlenbeck
from diffedu.widgets._base import (
    Checked,
    OneOf,
    Real,
    StateError,
    Text,
    Whole,
)
from diffedu.widgets._bundle import bundle_module, stylesheet
from diffedu.widgets._mixture_widget import MixtureWidget
from diffedu.widgets._picture import (
    COMPONENTS,
    FAINT,
    Chart,
    Generator,
    Picture,
    Plane,
    place,
    view_extent,
)

RECORDING = Path(__file__).parent / "recordings" / "learned_fields.npz"
LOW, HIGH = 0.02, 10.0  # least and greatest noise-to-signal ratio of the measure
RATIOS = torch.logspace(math.log10(LOW), math.log10(HIGH), 20, dtype=torch.float64)
ARROWS = 12  # along each side of a panel
HALF = 0.2  # relative error at which an arrow of the error has half its full length
ROOM = 1.25  # beyond the first and the last step


@dataclass(frozen=True)
class Training:
    """What one training went through: its network at some steps.

    Args:
        label: its name.
        steps: after how many steps the network was kept.
        seconds: of CPU time until then; empty if unknown.
        target, mean, scale: how the network is read (`NeuralDenoiser`).
        widths: of its layers, inputs first.
        space, time: the frequencies of its Fourier features.
        weights: for every step, the parameters of its layers, one after another.
    """

    label: str
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    target: str
    mean: tuple[float, ...]
    scale: float
    widths: tuple[int, ...]
    space: tuple[tuple[float, ...], ...]
    time: tuple[float, ...]
    weights: tuple[bytes, ...]

    @classmethod
    def of(
        cls,
        label: str,
        denoisers: dict[int, NeuralDenoiser],
        seconds: tuple[float, ...] = (),
    ) -> "Training":
        """What denoisers with one kind of network, by their steps, went through.

        Raises:
            ValueError: one is not a `NeuralDenoiser` of an `MLP` in the plane, or has
                weights that are not finite.
        """
        for denoiser in denoisers.values():
            _require_planar_mlp(denoiser)
        one = next(iter(denoisers.values()))
        net: Any = one.net
        weights = tuple(
            parameters_to_vector(denoiser.net.parameters())
            .detach()
            .to("cpu", torch.float32)
            .numpy()
            .astype("<f4")
            .tobytes()
            for denoiser in denoisers.values()
        )
        layers = list(net.layers)
        return cls(
            label,
            tuple(denoisers),
            seconds,
            one.target,
            tuple(torch.as_tensor(one.mean).double().expand(2).tolist()),
            float(one.scale),
            (layers[0].in_features, *(layer.out_features for layer in layers)),
            tuple(map(tuple, net.space.frequencies.tolist())),
            tuple(net.time.frequencies[0].tolist()),
            weights,
        )

    def denoisers(self, path: GaussianPath) -> list[NeuralDenoiser]:
        """The denoiser at each of the steps, in float64."""
        mean = torch.tensor(self.mean, dtype=torch.float64)
        return [
            NeuralDenoiser(path, self._net(weights), self.target, mean, self.scale)
            for weights in self.weights
        ]

    def _net(self, weights: bytes) -> MLP:
        start = torch.Generator()  # so that the reader's random numbers stay theirs
        depth = len(self.widths) - 2
        net = MLP(2, self.widths[1], depth, len(self.time), generator=start)
        vector = np.frombuffer(weights, dtype="<f4").astype(np.float32)
        vector_to_parameters(torch.from_numpy(vector), net.parameters())
        net.space.frequencies.copy_(torch.tensor(self.space))
        net.time.frequencies.copy_(torch.tensor([self.time]))
        return net.double().requires_grad_(False)

    def to_json(self) -> dict:
        """As the page receives it."""
        flat = np.frombuffer(b"".join(self.weights), dtype="<f4")
        return {
            "label": self.label,
            "steps": self.steps,
            "seconds": self.seconds,
            "target": self.target,
            "mean": self.mean,
            "scale": self.scale,
            "widths": self.widths,
            "space": _encode(np.array(self.space)),
            "time": _encode(np.array(self.time)),
            "weights": _encode(flat.reshape(len(self.steps), -1)),
        }


def _encode(array: ndarray) -> dict:
    """An array as the page's `decode` reads it."""
    data = base64.b64encode(array.astype("<f4").tobytes()).decode()
    return {"shape": list(array.shape), "data": data}


def _require_planar_mlp(denoiser: Any) -> None:
    if not isinstance(denoiser, NeuralDenoiser) or not isinstance(denoiser.net, MLP):
        kind = type(getattr(denoiser, "net", denoiser)).__name__
        raise ValueError(f"denoiser must be a NeuralDenoiser of an MLP, got {kind}")
    net: Any = denoiser.net
    if net.dim != 2 or net.layers[-1].out_features != 2:
        raise ValueError(f"denoiser must be one in the plane, got dim {net.dim}")
    if not all(bool(weight.isfinite().all()) for weight in net.parameters()):
        raise ValueError("denoiser must have finite weights")


class Trainings(Checked):
    """A tuple of `Training`."""

    def __init__(self) -> None:
        super().__init__(())
        self.tag(to_json=lambda value, _: [one.to_json() for one in value])

    def validate(self, obj: Any, value: Any) -> tuple:
        several = isinstance(value, list | tuple)
        if not several or not all(isinstance(one, Training) for one in value):
            self.refuse("a list of trainings", value)
        return tuple(value)


class LearnedFields(MixtureWidget):
    """The score fields that four losses taught one network, and their errors.

    By default four recorded trainings on `three_gaussians()` with all noise levels:
    the same network, initialisation, draws and number of steps for the explicit, the
    implicit, the sliced and the denoising loss. Each panel has a learned field at one
    checkpoint over the exact p_t and the exact field; the charts have the relative
    error E‖ε_θ − ε*‖² / E‖ε*‖² at each noise level, and overall against steps or CPU
    time. The networks are evaluated where the widget is shown. In a kernel,
    `show(denoiser)` adds one, or follows it as it trains.

    Args:
        mixture: the law of x_0, in the plane; with one given, the widget starts
            without the recorded trainings.
        path: how it is noised; reaches σ/α = 10. A network is read along any path.
        checkpoint: which of those recorded, from 0; an early one by default.
        ratio: the noise level as σ/α, from 0.02 to 10.
        arrows: "learned", or "error" for learned less exact, enlarged.
        against: "steps" or "seconds" (of CPU time), the axis of the overall error.
        n_points: how many points per noise level an error is the mean over.
        seed: of those points.
        title, caption: text around the figure.

    All are traits: `widget.ratio = 1.0` moves it, `widget.observe(handler, "ratio")`
    follows the reader's hand. `trainings` are those with checkpoints, `live` those
    that were shown.

    Raises:
        ValueError: an argument is out of range, or the mixture is not in the plane.
    """

    _name = "learned_fields"
    _esm = bundle_module(_name)
    _css = stylesheet()

    title = Text("Four losses learn one field")
    caption = Text(
        "One small network, taught four times from the same start on the same draws. "
        "Coloured arrows: its score field after this many steps; grey arrows: the "
        "exact one; shading: the exact density pₜ. Errors are E‖ε̂ − ε*‖² / E‖ε*‖², ε̂ "
        "learned and ε* exact, at each noise level and over all of them. Play, and see "
        "at which levels each loss is slow to learn."
    )
    trainings = Trainings()
    live = Trainings()
    checkpoint = Whole(0, least=0, most=1000)
    ratio = Real(0.1, least=LOW, most=HIGH)
    arrows = OneOf("learned", "error")
    against = OneOf("steps", "seconds")
    n_points = Whole(256, least=2, most=20_000)

    def __init__(
        self,
        mixture: GaussianMixture | None = None,
        path: GaussianPath | None = None,
        checkpoint: int | None = None,
        ratio: float | int = 0.1,
        arrows: str = "learned",
        against: str = "steps",
        n_points: int = 256,
        seed: int = 0,
        **text: str,
    ) -> None:
        super().__init__(
            three_gaussians() if mixture is None else mixture,
            trainings=recorded() if mixture is None else (),
            path=OrnsteinUhlenbeck() if path is None else path,
            ratio=ratio,
            arrows=arrows,
            against=against,
            n_points=n_points,
            seed=seed,
            **text,
        )
        # after the trainings that it is held against
        self.checkpoint = min(2, self._last) if checkpoint is None else checkpoint

    def show(
        self, denoiser: NeuralDenoiser, label: str = "live", step: int = 0
    ) -> None:
        """Show a network as it is now, in place of the one with this label.

        A training loop calls it now and then; the page follows, and with `step` it
        draws the error as the steps go by.

        Raises:
            ValueError: not a `NeuralDenoiser` of an `MLP` in the plane, or its weights
                are not finite.
        """
        now = Training.of(label, {int(step): denoiser})
        labels = [one.label for one in self.live]
        at = labels.index(label) if label in labels else len(labels)
        self.live = (*self.live[:at], now, *self.live[at + 1 :])

    @property
    def _last(self) -> int:
        """The last checkpoint of the longest training."""
        return max((len(one.steps) - 1 for one in self.trainings), default=0)

    @traitlets.validate("checkpoint")
    def _validate_checkpoint(self, proposal: dict) -> int:
        if proposal["value"] > self._last:
            raise StateError(
                f"checkpoint must lie in [0, {self._last}], got {proposal['value']}"
            )
        return proposal["value"]

    @traitlets.validate("trainings")
    def _validate_trainings(self, proposal: dict) -> tuple:
        """Fewer checkpoints bring the present one back among them."""
        last = max((len(one.steps) - 1 for one in proposal["value"]), default=0)
        self.checkpoint = min(self.checkpoint, last)
        return proposal["value"]

    @traitlets.validate("path")
    def _validate_path(self, proposal: dict) -> GaussianPath:
        try:
            proposal["value"].time_at(HIGH)
        except ValueError:
            raise StateError(
                f"path must reach sigma/alpha = {HIGH:g}, got {proposal['value']!r}"
            ) from None
        return proposal["value"]

    # The picture

    def _description(self) -> str:
        steps = [one.steps[-1] for one in self.trainings if one.steps]
        of = f" of {max(steps)}" if steps else ""
        shown = ", ".join(one.label for one, _ in self._shown()) or "no networks"
        return (
            f"{shown}; step {self._step()}{of}, sigma/alpha = {self.ratio:.3g}, "
            f"{super()._description()}"
        )

    def _step(self) -> int:
        """The training step of the checkpoint."""
        steps = max((one.steps for one in self.trainings), key=len, default=(0,))
        return steps[self.checkpoint]

    def _shown(self) -> list[tuple[Training, int]]:
        """Trainings, each with its checkpoint; one that is live hides its namesake."""
        live = {one.label: one for one in self.live}
        shown = [live.pop(one.label, one) for one in self.trainings] + [*live.values()]
        return [(one, min(self.checkpoint, len(one.steps) - 1)) for one in shown]

    def _draws(self) -> tuple[Tensor, Tensor]:
        """x_0 and ε, the page's own, that errors are measured on."""
        generator, n = Generator(self.seed), self.n_points
        u, z, eps = (
            generator.uniform(n),
            generator.normal(2 * n),
            generator.normal(2 * n),
        )
        return place(self.mixture, u, z)[0], torch.from_numpy(eps).reshape(n, 2)

    def _pictures(self) -> list[Picture]:
        shown = self._shown()
        measure = _Measure(self.mixture, self.path, RATIOS, *self._draws())
        errors = [
            [measure.errors(denoiser) for denoiser in one.denoisers(self.path)]
            for one, _ in shown
        ]
        return [
            self._picture_of_levels(shown, errors, measure.norms),
            self._picture_of_training(shown, errors, measure.norms),
            *(self._picture_of_field(i) for i in range(max(1, len(shown)))),
        ]

    def _picture_of_levels(self, shown: list, errors: list, norms: ndarray) -> Chart:
        relative = [[error / norms for error in one] for one in errors]
        view = _decades([value for one in relative for each in one for value in each])
        picture = _chart((LOW, HIGH), view, "σ/α", "error at each noise level")
        picture.line(np.array([[self.ratio, y] for y in view]), FAINT, dash=(4.0, 3.0))
        for i, (_, k) in enumerate(shown):
            picture.curve(RATIOS.numpy(), relative[i][k], _colour(i), width=1.6)
        return picture

    def _picture_of_training(self, shown: list, errors: list, norms: ndarray) -> Chart:
        overall = [[error.sum() / norms.sum() for error in one] for one in errors]
        along = [getattr(one, self.against) for one, _ in shown]
        times = [x for one in along for x in one if x > 0] or [1.0, 10.0]
        view_x = min(times) / ROOM, max(times) * ROOM
        view_y = _decades([y for one in overall for y in one])
        name = {"steps": "steps", "seconds": "CPU seconds"}[self.against]
        picture = _chart(view_x, view_y, name, "error over all noise levels")
        for i, (_, k) in enumerate(shown):
            x, y, colour = along[i], overall[i], _colour(i)
            if not x or x[k] <= 0:  # shown without its step
                ends = np.array([[end, y[k]] for end in view_x])
                picture.line(ends, colour, width=1.6, dash=(5.0, 3.0))
                continue
            picture.curve(np.array(x), np.array(y), colour, width=1.6)
            picture.points(np.stack([x, y], -1), colour, radius=2.0)
            picture.points(np.array([[x[k], y[k]]]), colour, radius=4.5, alpha=1.0)
        return picture

    def _picture_of_field(self, i: int) -> Plane:
        """The exact field and the learned one, where there is an i-th one."""
        shown = self._shown()
        t = self.path.time_at(self.ratio)
        law = self.path.marginal(self.mixture, t)
        extent = view_extent(self.mixture, self.path, float(t))
        picture = Plane(extent, size=440 if len(shown) < 2 else 220)
        picture.density(law)
        picture.field(law.score, ARROWS, FAINT, alpha=0.45, width=0.009)
        if not shown:
            picture.heading("exact")
            return picture
        one, k = shown[i]
        denoiser = one.denoisers(self.path)[k]
        ratio = torch.tensor([self.ratio], dtype=torch.float64)
        measure = _Measure(self.mixture, self.path, ratio, *self._draws())
        [error], [norm] = measure.errors(denoiser), measure.norms

        def field(x: Tensor) -> Tensor:
            if self.arrows == "learned":
                return denoiser.score(x, t)
            # half of the full length where it is HALF of the exact score's rms
            unit = HALF * math.sqrt(norm) * 2 * extent / ARROWS
            return self.path.sigma(t) * (denoiser.score(x, t) - law.score(x)) / unit

        picture.field(field, ARROWS, _colour(i), alpha=1.0, width=0.005)
        picture.heading(one.label)
        picture.heading(f"error {error / norm:.2g}", left=False)
        return picture


class _Measure:
    """Errors E‖ε_θ − ε*‖² at noise levels σ/α, on x_t = α x_0 + σ ε."""

    def __init__(
        self,
        mixture: GaussianMixture,
        path: GaussianPath,
        ratios: Tensor,
        x_0: Tensor,
        eps: Tensor,
    ) -> None:
        exact = ExactDenoiser(path, mixture)
        times = path.time_at(ratios)
        points = [path.perturb(x_0, eps, t) for t in times]
        self.shape = len(times), len(x_0)
        self.t = times.repeat_interleave(len(x_0))
        self.x_t = torch.cat(points)
        each = zip(points, times, strict=True)
        self.eps = torch.cat([exact.eps(x_t, t) for x_t, t in each])
        self.norms = self._mean_square(self.eps)  # E‖ε*‖²

    def errors(self, denoiser: NeuralDenoiser) -> ndarray:
        """One for each level."""
        return self._mean_square(denoiser.eps(self.x_t, self.t) - self.eps)

    def _mean_square(self, v: Tensor) -> ndarray:
        return v.square().sum(-1).reshape(self.shape).mean(1).numpy()


@cache
def recorded() -> tuple[Training, ...]:
    """The trainings that come with the package."""
    return load(RECORDING)


def load(file: Path) -> tuple[Training, ...]:
    """The trainings that `tools/record_trainings.py` wrote: arrays, never code."""
    with np.load(file, allow_pickle=False) as stored:
        data = {name: stored[name] for name in stored.files}
    return tuple(
        Training(
            str(label),
            tuple(data["steps"].tolist()),
            tuple(seconds.tolist()),
            str(data["target"]),
            tuple(data["mean"].tolist()),
            float(data["scale"]),
            tuple(data["widths"].tolist()),
            tuple(map(tuple, data["space"].tolist())),
            tuple(data["time"].tolist()),
            tuple(one.tobytes() for one in weights),
        )
        for label, seconds, weights in zip(
            data["labels"], data["seconds"], data["weights"], strict=True
        )
    )


def _colour(i: int) -> str:
    return COMPONENTS[i % len(COMPONENTS)]


def _chart(
    x: tuple[float, float], y: tuple[float, float], name_x: str, name_y: str
) -> Chart:
    return Chart(x, y, name_x, name_y, log_x=True, log_y=True, width=340, height=252)


def _decades(values: list[float] | ndarray) -> tuple[float, float]:
    """Powers of ten around the positive values, at least one apart."""
    least, most = min(values, default=1.0), max(values, default=1.0)
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    return 10.0**low, 10.0 ** max(high, low + 1)
