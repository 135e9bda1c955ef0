"""Learning a score: `diffedu.train.learn` beside a plain loop and other packages.

The measure is the relative score error: the mean over 20 log-spaced noise-to-signal
ratios in [0.02, 10] of E‖ε_θ − ε*‖², relative to that of E‖ε*‖², with ε* exact.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import training_peers as peers
from benchmarks.report import duration, error, table, times
from benchmarks.timing import interleave, time_to_error
from diffedu.denoiser import Denoiser, ExactDenoiser, NeuralDenoiser
from diffedu.losses import (
    Levels,
    LogUniformRatio,
    UniformTime,
    denoising_loss,
    relative_score_error,
)
from diffedu.mixture import GaussianMixture, ring, three_gaussians
from diffedu.nets import MLP
from diffedu.path import GaussianPath, Time, VarianceExploding, VariancePreserving
from diffedu.train import (
    ExponentialMovingAverage,
    constant,
    learn,
    noisy_batches,
    train,
    warmup_cosine,
)

MIXTURES = {"ring(8)": ring(), "three_gaussians()": three_gaussians()}
TARGETS = (1e-1, 3e-2, 1e-2, 3e-3)


def measure(denoiser: Denoiser, mixture: GaussianMixture) -> float:
    """The relative score error on points that are the same for all."""
    exact = ExactDenoiser(denoiser.path, mixture)
    points = torch.Generator().manual_seed(1)
    return relative_score_error(denoiser, exact, n=1000, generator=points)


# Beside others


@dataclass(frozen=True)
class Learned(Denoiser):
    """A peer's function of standardised points, as a denoiser of the data."""

    function: peers.Eps
    mean: Tensor
    scale: float

    def eps(self, x_t: Tensor, t: Time) -> Tensor:
        """ε_θ at α = 1 and σ(t)."""
        ratio = (self.path.sigma(t) / self.scale).expand(len(x_t)).float()
        return self.function(((x_t - self.mean) / self.scale).float(), ratio).to(x_t)

    def x0(self, x_t: Tensor, t: Time) -> Tensor:
        """x_t − σ ε_θ."""
        return x_t - self.path.sigma(t) * self.eps(x_t, t)


Train = Callable[[GaussianMixture, int], Denoiser]


def ours(mixture: GaussianMixture, steps: int) -> Denoiser:
    """One call of `learn`."""
    return learn(mixture, VarianceExploding(), steps, device="cpu", progress=False)


def peer(function: Callable[..., peers.Eps]) -> Train:
    """A peer, with the data standardised for it."""

    def train_peer(mixture: GaussianMixture, steps: int) -> Denoiser:
        mean = mixture.mean
        scale = float(mixture.covariance.diagonal().mean().sqrt())
        x_0 = mixture.sample(100_000, torch.Generator().manual_seed(0))
        points = ((x_0 - mean) / scale).float()
        low, high = 0.02 / scale, 10.0 / scale
        learned = function(points, low, high, steps, seed=0)
        return Learned(VarianceExploding(), learned, mean, scale)

    return train_peer


OURS = "diffedu `learn`"
CONTENDERS: dict[str, Train] = {
    OURS: ours,
    "the same recipe in plain torch": peer(peers.plain),
    "azula's denoiser in that loop": peer(peers.azula_tuned),
    "azula's README": peer(peers.azula_readme),
}
LADDER = (25, 50, 100, 200, 400, 1000, 3000)


def beside(name: str) -> str:
    """Time of a step, and time to each error, on one mixture."""
    mixture = MIXTURES[name]
    short, long = 20, 100  # their difference leaves out what happens once
    timings = interleave(
        {
            f"{who}: {n}": partial(call, mixture, n)
            for who, call in CONTENDERS.items()
            for n in (short, long)
        },
        rounds=7,
        least=0.0,
        slow=math.inf,
    )
    each = {
        who: [
            (b - a) / (long - short)
            for a, b in zip(
                timings[f"{who}: {short}"].seconds,
                timings[f"{who}: {long}"].seconds,
                strict=True,
            )
        ]
        for who in CONTENDERS
    }
    rows = []
    for who, call in CONTENDERS.items():
        step = statistics.median(each[who])
        ratio = statistics.median(
            a / b for a, b in zip(each[who], each[OURS], strict=True)
        )
        errors = [measure(call(mixture, n), mixture) for n in LADDER]
        points = [(e, n * step) for e, n in zip(errors, LADDER, strict=True)]
        rows.append(
            [
                who,
                duration(step),
                times(ratio),
                *(_reach(points, target) for target in TARGETS),
                error(errors[-1]),
            ]
        )
    levels = [f"to {error(target)}" for target in TARGETS]
    header = ["", "a step", "× ours", *levels, f"after {LADDER[-1]} steps"]
    return f"### Time to an error: `{name}`\n\n{table(header, rows)}"


def _reach(points: list[tuple[float, float]], target: float) -> str:
    seconds = time_to_error(points, target)
    if seconds is not None:
        return duration(seconds)
    first_error, first = points[0]
    return f"< {duration(first)}" if first_error < target else "—"


# Without one ingredient


@dataclass(frozen=True)
class IndependentRatio(LogUniformRatio):
    """Log-uniform σ/α without strata."""

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Independent times."""
        fraction = torch.rand(n, generator=generator, dtype=dtype)
        return self.path.time_at(self.low * (self.high / self.low) ** fraction)


@dataclass(frozen=True)
class Recipe:
    """What `learn` does, with an ingredient replaced at a time."""

    target: str = "v"
    loss: str = "eps"
    waves_of_u: bool = True
    waves_of_c: bool = True
    levels: Callable[[GaussianPath], Levels] = LogUniformRatio
    antithetic: bool = True
    averaged: bool = True
    cosine: bool = True
    warmup: bool = True
    batch: int = 1024
    rate: float | None = None

    def run(self, mixture: GaussianMixture, steps: int, seed: int) -> Denoiser:
        """The trained denoiser."""
        path, data = VariancePreserving(), mixture.to(torch.float32)
        net = MLP(generator=torch.Generator().manual_seed(seed))
        if not self.waves_of_u:  # cos 0 and sin 0: nothing of u is left in them
            net.space.frequencies.zero_()
        if not self.waves_of_c:
            net.time.frequencies.zero_()
        generator = torch.Generator().manual_seed(seed)
        x_0 = data.sample(10_000, generator)
        denoiser = NeuralDenoiser.for_data(path, net, x_0, self.target)
        average = ExponentialMovingAverage(net)
        warmup = min(50, steps // 10) if self.warmup else 0
        rising = warmup_cosine(steps, warmup)
        if not self.cosine:
            rising = (
                (lambda k: min(1.0, (k + 1) / (warmup + 1))) if warmup else constant
            )
        draw = noisy_batches(data, self.levels(path), self.batch, self.antithetic)
        for _ in train(
            net,
            draw,
            partial(denoising_loss, denoiser, target=self.loss),
            steps,
            learning_rate=self.rate or min(0.02, 0.01 * math.sqrt(1000 / steps)),
            schedule=rising,
            average=average,
            generator=generator,
            progress=False,
        ):
            pass
        return replace(denoiser, net=average.module) if self.averaged else denoiser


def uniform_time(path: GaussianPath) -> UniformTime:
    """Uniform in t, from the smallest noise that is measured to all there is."""
    return UniformTime(path, low=float(path.time_at(0.02)))


RECIPES = {
    "`learn`": Recipe(),
    "the network predicts ε instead of v": Recipe(target="eps"),
    "the network predicts x_0 instead of v": Recipe(target="x0"),
    "no Fourier features of u": Recipe(waves_of_u=False),
    "no Fourier features of c": Recipe(waves_of_c=False),
    "t uniform instead of log σ/α": Recipe(levels=uniform_time),
    "levels not stratified": Recipe(levels=IndependentRatio),
    "noise not antithetic, as many points": Recipe(antithetic=False),
    "loss of v instead of ε": Recipe(loss="v"),
    "weights not averaged": Recipe(averaged=False),
    "rate constant after the warm-up": Recipe(cosine=False),
    "rate constant, weights not averaged": Recipe(cosine=False, averaged=False),
    "no warm-up": Recipe(warmup=False),
    "rate 0.001": Recipe(rate=1e-3),
    "batches of 256": Recipe(batch=256),
}


def ablation(steps: int = 300, seed: int = 0) -> str:
    """One ingredient replaced at a time, error after equally many steps."""
    found = {
        name: [
            measure(recipe.run(mixture, steps, seed), mixture)
            for mixture in MIXTURES.values()
        ]
        for name, recipe in RECIPES.items()
    }
    whole = found["`learn`"]
    rows = [
        [
            name,
            *(
                cell
                for e, w in zip(errors, whole, strict=True)
                for cell in (error(e), times(e / w))
            ),
        ]
        for name, errors in found.items()
    ]
    header = ["", *(z for name in MIXTURES for z in (f"`{name}`", "× `learn`"))]
    return (
        f"### One ingredient replaced: error after {steps} steps\n\n"
        "One run each: factors near 1 are within what another seed changes.\n\n"
        f"{table(header, rows)}"
    )


def run() -> Iterator[str]:
    """The parts of the page."""
    yield (
        "## Learning a score\n\n"
        "A network of three hidden layers of 64, batches of 1024, one thread. "
        "The relative score error is the mean of E‖ε_θ − ε*‖² over 20 log-spaced "
        "noise-to-signal ratios in [0.02, 10], relative to that of E‖ε*‖². Every run "
        f"starts afresh and has {', '.join(map(str, LADDER[:-1]))} or {LADDER[-1]} "
        "steps; times are steps times the median time of a step, interpolated on "
        "log–log scales; < where the shortest run does better, — where no run reaches "
        "the error."
    )
    for name in MIXTURES:
        yield beside(name)
    yield ablation()
