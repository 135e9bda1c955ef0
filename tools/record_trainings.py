"""Record the four trainings that the widget LearnedFields shows.

    python tools/record_trainings.py

The same network from the same start, on the same draws of x_0, t and ε, for as many
steps, with each of the four losses over all noise levels, weighted by σ(t)²: the
weights of the averaged network at steps spaced logarithmically, and the CPU time until
then. Takes a few minutes, and writes diffedu/widgets/recordings/learned_fields.npz.
"""

import copy
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffedu.denoiser import ExactDenoiser, NeuralDenoiser
from diffedu.losses import (
    LogUniformRatio,
    denoising_loss,
    explicit_loss,
    implicit_loss,
    rademacher,
    relative_score_error,
    sliced_loss,
)
from diffedu.mixture import three_gaussians
from diffedu.nets import MLP
from diffedu.path import OrnsteinUhlenbeck
from diffedu.train import (
    ExponentialMovingAverage,
    noisy_batches,
    train,
    warmup_cosine,
)
from diffedu.widgets.learned_fields import RECORDING, Training

STEPS = (10, 30, 100, 300, 1000, 3000, 10_000)  # when the network is kept
BATCH = 512
LOSSES = ("explicit", "implicit", "sliced", "denoising")

path = OrnsteinUhlenbeck()
mixture = three_gaussians(dtype=torch.float32)
exact = ExactDenoiser(path, mixture)
batches = noisy_batches(mixture, LogUniformRatio(path), BATCH)


def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
    """x_0, t, ε and directions ν: the same for every loss."""
    x_0, t, eps = batches(generator)
    return x_0, t, eps, rademacher(eps, generator)


def losses(denoiser: NeuralDenoiser) -> dict[str, Callable[..., Tensor]]:
    """The four, each equal to E‖ε_θ − ε*‖² and a constant."""
    w = path.variance

    def explicit(x_0: Tensor, t: Tensor, eps: Tensor, nu: Tensor) -> Tensor:
        return explicit_loss(denoiser, exact, path.perturb(x_0, eps, t), t)

    def implicit(x_0: Tensor, t: Tensor, eps: Tensor, nu: Tensor) -> Tensor:
        return implicit_loss(denoiser, path.perturb(x_0, eps, t), t, w)

    def sliced(x_0: Tensor, t: Tensor, eps: Tensor, nu: Tensor) -> Tensor:
        return sliced_loss(denoiser, path.perturb(x_0, eps, t), t, nu, w)

    def denoising(x_0: Tensor, t: Tensor, eps: Tensor, nu: Tensor) -> Tensor:
        return denoising_loss(denoiser, x_0, t, eps)

    return {
        "explicit": explicit,
        "implicit": implicit,
        "sliced": sliced,
        "denoising": denoising,
    }


class Run:
    """One training on its way, and what it went through so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        net = MLP(2, hidden=32, depth=2, features=8, generator=_seeded(0))
        mean = mixture.mean
        scale = float(mixture.covariance.diagonal().mean().sqrt())
        self.denoiser = NeuralDenoiser(path, net, mean=mean, scale=scale)
        self.average = ExponentialMovingAverage(net)
        self.steps = train(
            net,
            draw,
            losses(self.denoiser)[name],
            STEPS[-1],
            learning_rate=1e-2,
            schedule=warmup_cosine(STEPS[-1]),
            average=self.average,
            clip=1.0,
            generator=_seeded(1),
            progress=False,
        )
        self.elapsed = 0.0
        self.kept: dict[int, NeuralDenoiser] = {}
        self.seconds: list[float] = []

    def advance(self) -> None:
        """One step, timed."""
        start = time.process_time()
        progress = next(self.steps)
        self.elapsed += time.process_time() - start
        if progress.step in STEPS:
            net = copy.deepcopy(self.average.module)
            kept = dataclasses.replace(self.denoiser, net=net)
            error = relative_score_error(kept, exact, generator=_seeded(2))
            print(f"{self.name:>9} {progress.step:6} {self.elapsed:7.2f} s {error:.2e}")
            self.kept[progress.step] = kept
            self.seconds.append(round(self.elapsed, 3))

    def training(self) -> Training:
        """The record."""
        return Training.of(self.name, self.kept, tuple(self.seconds))


def record() -> list[Training]:
    """All four, step by step in turn: a busy machine slows them alike."""
    for run in map(Run, LOSSES):  # what torch does at its first steps is not timed
        for _ in range(9):
            run.advance()
    runs = [Run(name) for name in LOSSES]
    for _ in range(STEPS[-1]):
        for run in runs:
            run.advance()
    return [run.training() for run in runs]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def save(trainings: list[Training], file: Path) -> None:
    """Write beside the file, then rename: it is whole, or as it was."""
    one = trainings[0]
    weights = [[np.frombuffer(w, "<f4") for w in each.weights] for each in trainings]
    file.parent.mkdir(exist_ok=True)
    beside = file.with_name(f".{os.getpid()}.npz")
    try:
        np.savez(
            beside,
            labels=np.array([each.label for each in trainings]),
            steps=np.array(one.steps),
            seconds=np.array([each.seconds for each in trainings]),
            target=np.array(one.target),
            mean=np.array(one.mean),
            scale=np.array(one.scale),
            widths=np.array(one.widths),
            space=np.array(one.space),
            time=np.array(one.time),
            weights=np.array(weights),
        )
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    save(record(), RECORDING)
    print(f"{RECORDING}: {RECORDING.stat().st_size / 1e3:.0f} kB")
