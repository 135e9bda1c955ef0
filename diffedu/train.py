"""Training: a generator that takes one step at a time and yields what it saw.

    average = ExponentialMovingAverage(net)
    draw = noisy_batches(data, LogUniformRatio(path))
    loss = partial(denoising_loss, denoiser)
    for progress in train(net, draw, loss, steps=1000, average=average):
        ...

Data and noise are drawn afresh at every step, on the device of the network. A run can
be interrupted and resumed: what was learned is in the network at every moment, and a
checkpoint holds all that the next step depends on.
"""

import copy
import dataclasses
import io
import math
import os
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from diffedu._arguments import require_count, require_points, require_positive
from diffedu.denoiser import NeuralDenoiser
from diffedu.losses import Levels, LogUniformRatio, denoising_loss
from diffedu.mixture import GaussianMixture
from diffedu.nets import MLP
from diffedu.path import GaussianPath

Draw = Callable[[torch.Generator], tuple[Tensor, ...]]
Loss = Callable[..., Float[Tensor, "n"]]
Schedule = Callable[[int], float]


def default_device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Progress(NamedTuple):
    """One step of a training.

    `step` counts from 1; `loss` is the mean over the batch, before the step;
    `gradient_norm` is that of all gradients together, before clipping.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float


class ExponentialMovingAverage:
    """θ̄ ← θ̄ + (1 − r)(θ − θ̄) after every step, with r = min(decay, (1 + k)/(10 + k)).

    The ramp lets the average forget its start: after k steps it spans about k/10 of
    them, until that is 1/(1 − decay).

    Args:
        net: what is averaged; `module` is the averaged copy.
        decay: in [0, 1).

    Raises:
        ValueError: decay is out of range.

    Source: Polyak and Juditsky 1992; the ramp of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, net: nn.Module, decay: float = 0.999) -> None:
        require_positive("decay", decay, or_zero=True)
        if decay >= 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(net).requires_grad_(False)
        self._averaged: list[Tensor] = list(self.module.parameters())
        self._current: list[Tensor] = list(net.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the network as it is now."""
        self.updates += 1
        rate = min(self.decay, (1 + self.updates) / (10 + self.updates))
        move = get_ema_multi_avg_fn(rate)
        move(self._averaged, self._current, self.updates)


def constant(step: int) -> float:
    """1: the learning rate stays as it is."""
    return 1.0


def warmup_cosine(steps: int, warmup: int = 50) -> Schedule:
    """A factor that rises linearly over `warmup` steps and falls to 0 as a half cosine.

    Raises:
        ValueError: a count is out of range.

    Source: Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    require_count("steps", steps)
    require_count("warmup", warmup, at_least=0)

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (warmup + 1))
        return rise * 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))

    return factor


def noisy_batches(
    data: GaussianMixture | Float[Tensor, "m d"],
    levels: Levels,
    batch: int = 1024,
    antithetic: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Draw:
    """What `denoising_loss` needs, drawn afresh: generator ↦ (x_0, t, ε).

    Args:
        data: a mixture to sample from, or points (m, d) to draw with replacement.
        levels: which times.
        batch: points per step.
        antithetic: draw half of them and use every (x_0, t) with both ε and −ε.
        dtype: of what is drawn.

    Raises:
        ValueError: batch is not a whole number >= 1, or odd although antithetic; or
            data are neither a mixture nor points.
    """
    require_count("batch", batch)
    if antithetic and batch % 2:
        raise ValueError(f"batch must be even when antithetic, got {batch}")
    if not isinstance(data, GaussianMixture):
        require_points("data", data)
    n = batch // 2 if antithetic else batch
    at_home: dict[torch.device, Any] = {}  # data, moved once to where they are drawn

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        device = generator.device
        if device not in at_home:
            at_home[device] = data.to(dtype=dtype, device=device)
        x_0 = _sample(at_home[device], n, generator)
        t = levels.sample(n, generator, dtype)
        eps = torch.randn(x_0.shape, generator=generator, dtype=dtype, device=device)
        if antithetic:
            x_0, t = torch.cat([x_0, x_0]), torch.cat([t, t])
            eps = torch.cat([eps, -eps])
        return x_0, t, eps

    return draw


def _sample(
    data: GaussianMixture | Tensor, n: int, generator: torch.Generator
) -> Tensor:
    if isinstance(data, GaussianMixture):
        return data.sample(n, generator)
    index = torch.randint(len(data), (n,), generator=generator, device=data.device)
    return data[index]


def train(
    net: nn.Module,
    draw: Draw,
    loss: Loss,
    steps: int,
    *,
    learning_rate: float = 3e-3,
    schedule: Schedule = constant,
    average: ExponentialMovingAverage | None = None,
    clip: float | None = None,
    generator: torch.Generator | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 1000,
    progress: bool = True,
    compile: bool = False,
    capture: bool = False,
    threads: int = 1,
) -> Iterator[Progress]:
    """θ ← θ − AdamW(∇_θ mean loss(*draw)), `steps` times; yields after every step.

    Ctrl-C ends the run after the step it falls into: the loop ends as if that step had
    been the last, and the network, the average and the checkpoint hold what was
    learned. A second Ctrl-C does not wait.

    Args:
        net: trained in place; its device is where batches are drawn.
        draw: from a generator to the arguments of the loss.
        loss: from what was drawn to one value per point, shape (n,).
        steps: in all, those of a resumed checkpoint included.
        learning_rate, schedule: the rate of step k = 0, 1, … is their product.
        average: updated after every step.
        clip: the greatest norm of the gradient; longer ones are shortened to it.
        generator: of the batches, on the device of the network; seed 0 by default.
        checkpoint: a file. If it exists the run resumes from it, exactly; it is written
            every `save_every` steps and whenever the run ends, beside itself first and
            then renamed.
        progress: show a bar, unless the environment has TQDM_DISABLE.
        compile: compile the loss with torch.compile, which takes a minute at first.
        capture: replay loss and gradients as one CUDA graph, which saves the cost of
            launching many small kernels.
        threads: CPU threads meanwhile; more than one slows networks this small down.

    Raises:
        ValueError: (at the first step) an argument is out of range, or the checkpoint
            is damaged or of another network; nothing is changed then.
        FloatingPointError: the loss or its gradient is not finite. The network is as
            it was before that step.

    Source: Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2.
    """
    require_count("steps", steps)
    require_count("save_every", save_every)
    require_count("threads", threads)
    require_positive("learning_rate", learning_rate)
    if clip is not None:
        require_positive("clip", clip)
    parameters = [p for p in net.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("net must have parameters that require gradients, got none")
    device = parameters[0].device
    if capture and device.type != "cuda":
        raise ValueError(f"capture must be False on {device.type}: it is CUDA's")
    generator = generator or torch.Generator(device).manual_seed(0)
    optimizer = torch.optim.AdamW(
        parameters, learning_rate, weight_decay=0.0, fused=device.type != "meta"
    )
    state = _State(net, optimizer, average, generator)
    file = None if checkpoint is None else Path(checkpoint)
    if file is not None and file.exists():
        state.load(file)
    saved, whole = state.step, True
    gradient = _gradient(parameters, torch.compile(loss) if compile else loss, capture)

    # tqdm's own variable, which its bars in a notebook do not heed
    silent = not progress or "TQDM_DISABLE" in os.environ
    bar = tqdm(total=steps, initial=state.step, leave=False, disable=silent)
    try:
        while state.step < steps:
            with _Undisturbed(threads) as interrupt:
                rate = learning_rate * schedule(state.step)
                optimizer.param_groups[0]["lr"] = rate
                value = gradient(draw(generator))
                norm = nn.utils.clip_grad_norm_(parameters, clip or math.inf)
                number, length = torch.stack([value, norm]).tolist()
                if not math.isfinite(number) or not math.isfinite(length):
                    raise FloatingPointError(
                        f"loss {number} with a gradient of norm {length} at step "
                        f"{state.step + 1} of {steps}; the network is as it was before "
                        "this step. A smaller learning_rate or a clip may help"
                    )
                whole = False
                optimizer.step()
                if average is not None:
                    average.update()
                state.step += 1
                whole = True
                if file is not None and state.step % save_every == 0:
                    state.save(file)
                    saved = state.step
            bar.update()
            if interrupt.requested:
                print(f"interrupted after step {state.step} of {steps}; all is kept")
                return
            yield Progress(state.step, number, rate, length)
    finally:
        bar.close()
        if file is not None and whole and state.step > saved:
            state.save(file)


def learn(
    data: GaussianMixture | Float[Tensor, "m d"],
    path: GaussianPath,
    steps: int = 1000,
    *,
    batch: int = 1024,
    hidden: int = 64,
    depth: int = 3,
    learning_rate: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> NeuralDenoiser:
    """A denoiser of the data, learned: the book's own recipe in one call.

    An MLP with random Fourier features predicts v of the standardised data; noise
    levels are log-uniform and stratified, noise is antithetic, the learning rate warms
    up and falls as a cosine, and the weights are averaged. On `ring(8)` 100 steps
    reach a relative score error of 3e-2, 300 steps 1e-2 and 3000 steps 2e-3.

    Args:
        data: a mixture, or points (m, d).
        path: how they are noised.
        steps, batch, hidden, depth: of the training.
        learning_rate: the highest; 0.01 √(1000/steps), but at most 0.02, by default:
            few steps must be long ones, and many short ones average out the noise.
        seed: of the weights and the batches.
        device: the GPU when there is one, by default.
        progress: show a bar.

    Raises:
        ValueError: an argument is out of range.
        FloatingPointError: the loss is not finite.
    """
    if not isinstance(data, GaussianMixture):
        require_points("data", data)
    device = torch.device(device) if device is not None else default_device()
    generator = torch.Generator(device).manual_seed(seed)
    here = data.to(dtype=torch.float32, device=device)
    x_0 = here.sample(10_000, generator) if isinstance(here, GaussianMixture) else here
    weights = torch.Generator().manual_seed(seed)
    net = MLP(x_0.shape[1], hidden, depth, generator=weights).to(device)
    denoiser = NeuralDenoiser.for_data(path, net, x_0)
    average = ExponentialMovingAverage(net)
    if learning_rate is None:
        learning_rate = min(0.02, 0.01 * math.sqrt(1000 / steps))
    run = train(
        net,
        noisy_batches(here, LogUniformRatio(path), batch),
        partial(denoising_loss, denoiser),
        steps,
        learning_rate=learning_rate,
        schedule=warmup_cosine(steps, warmup=min(50, steps // 10)),
        average=average,
        generator=generator,
        progress=progress,
    )
    for _ in run:
        pass
    return dataclasses.replace(denoiser, net=average.module)


# What a step depends on, kept


class _State:
    """Everything that the next step depends on, as a file."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: ExponentialMovingAverage | None,
        generator: torch.Generator,
    ) -> None:
        self.net, self.optimizer = net, optimizer
        self.average, self.generator = average, generator
        self.step = 0

    def save(self, file: Path) -> None:
        """Write beside the file, then rename: it is whole, or as it was."""
        contents = {
            "step": self.step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "average": self.average and self.average.module.state_dict(),
            "updates": self.average and self.average.updates,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with beside.open("wb") as stream:
                torch.save(contents, stream)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)

    def load(self, file: Path) -> None:
        """Take over what `save` wrote; on any error nothing has changed."""
        data = io.BytesIO(file.read_bytes())
        try:
            with zipfile.ZipFile(data) as archive:
                if broken := archive.testzip():
                    raise zipfile.BadZipFile(f"{broken} does not match its checksum")
            data.seek(0)
            device = self.generator.device
            contents = torch.load(data, map_location=device, weights_only=True)
            step, updates = contents["step"], contents["updates"]
            optimizer, generator = contents["optimizer"], contents["generator"].cpu()
            net, average = contents["net"], contents["average"]
            shapes = {name: value.shape for name, value in net.items()}
        except Exception as error:  # what may lie in a file has no end
            raise ValueError(
                f"checkpoint {file} is damaged or not a checkpoint of train(): "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
        own = {name: value.shape for name, value in self.net.state_dict().items()}
        if own != shapes:
            raise ValueError(f"checkpoint {file} is of another network than net")
        if (average is None) != (self.average is None):
            raise ValueError(
                f"checkpoint {file} was written {'with' if average else 'without'} an "
                "average: resume it the same way"
            )
        if generator.shape != self.generator.get_state().shape:
            raise ValueError(
                f"checkpoint {file} was written on another kind of device than {device}"
            )
        self.optimizer.load_state_dict(optimizer)
        self.net.load_state_dict(net)
        if self.average is not None:
            self.average.module.load_state_dict(average)
            self.average.updates = updates
        self.generator.set_state(generator)
        self.step = step


class _Undisturbed:
    """A step as a whole: Ctrl-C waits for its end, and torch keeps to its threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.requested = False

    def __enter__(self) -> "_Undisturbed":
        self._threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        # Python lets only the main thread handle signals
        self._signals = threading.current_thread() is threading.main_thread()
        if self._signals:
            self._handler = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *error: object) -> None:
        if self._signals:
            signal.signal(signal.SIGINT, self._handler)
        torch.set_num_threads(self._threads)


def _gradient(
    parameters: list[nn.Parameter], loss: Loss, capture: bool
) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """From a batch to the mean loss, with its gradient left in the parameters."""

    def gradient(batch: tuple[Tensor, ...]) -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        value = loss(*batch).mean()
        value.backward()
        return value.detach()

    return _Captured(gradient) if capture else gradient


class _Captured:
    """A function of tensors, recorded on its third call and replayed from then on."""

    def __init__(self, function: Callable[[tuple[Tensor, ...]], Tensor]) -> None:
        self.function = function
        self.stream = torch.cuda.Stream()
        self.calls = 0

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor:
        self.calls += 1
        if self.calls < 3:  # warm up beside the stream, as capturing asks
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                value = self.function(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            return value
        if self.calls == 3:
            self.batch = tuple(x.clone() for x in batch)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.value = self.function(self.batch)
        for own, new in zip(self.batch, batch, strict=True):
            own.copy_(new)
        self.graph.replay()
        return self.value
