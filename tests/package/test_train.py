"""Training: it learns, and it can be stopped, resumed and interrupted at any moment."""

import math
import os
import pickle
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diffedu.train
from diffedu.denoiser import ExactDenoiser, NeuralDenoiser
from diffedu.losses import (
    LogUniformRatio,
    UniformTime,
    denoising_loss,
    relative_score_error,
    sliced_loss,
)
from diffedu.mixture import ring, three_gaussians, three_gaussians_1d
from diffedu.nets import MLP, EnergyMLP
from diffedu.path import Cosine, VarianceExploding, VariancePreserving
from diffedu.train import (
    ExponentialMovingAverage,
    Progress,
    constant,
    default_device,
    learn,
    noisy_batches,
    train,
    warmup_cosine,
)

PATH = Cosine()
LEVELS = LogUniformRatio(PATH)


def seeded(seed: int = 0, device: Any = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


class Run:
    """A small training, made afresh each time: net, average and their train()."""

    def __init__(self, averaged: bool = False, hidden: int = 8) -> None:
        self.net = MLP(2, hidden, depth=1, features=2, generator=seeded(1))
        self.average = ExponentialMovingAverage(self.net, 0.9) if averaged else None
        self.denoiser = NeuralDenoiser(PATH, self.net)

    def steps(self, steps: int, **options: Any):
        options = {"progress": False, "average": self.average} | options
        loss = options.pop("loss", partial(denoising_loss, self.denoiser))
        draw = options.pop("draw", noisy_batches(three_gaussians(), LEVELS, 32))
        return train(self.net, draw, loss, steps, **options)

    def state(self) -> list[Tensor]:
        nets = [self.net] if self.average is None else [self.net, self.average.module]
        return [p.detach().clone() for net in nets for p in net.parameters()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Learning


@pytest.mark.parametrize("path", [Cosine(), VariancePreserving(), VarianceExploding()])
def test_the_default_training_learns_a_mixture_it_was_not_tuned_on(path) -> None:
    mixture = three_gaussians()
    denoiser = learn(mixture, path, steps=300, batch=256, progress=False, device="cpu")
    error = relative_score_error(
        denoiser, ExactDenoiser(path, mixture), n=500, generator=seeded(2)
    )
    untrained = relative_score_error(
        NeuralDenoiser.for_data(path, Zero(), mixture.sample(500, seeded())),
        ExactDenoiser(path, mixture),
        n=500,
        generator=seeded(2),
    )
    assert error < 0.05
    assert untrained > 0.1
    assert not any(p.requires_grad for p in denoiser.net.parameters())


class Zero(nn.Module):
    """A network that answers 0."""

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        return torch.zeros_like(u)


def test_learning_is_reproducible_and_the_seed_matters() -> None:
    weights = []
    for seed in (0, 0, 1):
        denoiser = learn(ring(3), PATH, 5, batch=16, seed=seed, progress=False)
        weights.append([p.cpu() for p in denoiser.net.parameters()])
    assert equal(weights[0], weights[1])
    assert not equal(weights[0], weights[2])


def test_learning_from_points_standardises_by_them() -> None:
    points = three_gaussians_1d().sample(64, seeded()) * 3 + 5
    denoiser = learn(points, PATH, 3, batch=16, hidden=6, depth=1, progress=False)
    assert float(denoiser.mean) == pytest.approx(float(points.mean()), rel=1e-5)
    assert denoiser.scale == pytest.approx(float(points.std()), rel=1e-5)
    assert denoiser.net.dim == 1
    assert [layer.weight.shape[0] for layer in denoiser.net.layers] == [6, 1]


def test_a_step_is_one_of_adam_on_the_mean_loss() -> None:
    """By hand, with Adam's moments and bias corrections, over four steps."""
    run, rates = Run(), [0.02, 0.01, 0.03, 0.005]
    batches = [batch(seeded(k)) for k in range(4)]
    feed = iter(batches)
    seen = list(
        run.steps(
            4,
            draw=lambda g: next(feed),
            learning_rate=0.1,
            schedule=lambda k: rates[k] / 0.1,
        )
    )
    by_hand = Run()
    parameters = list(by_hand.net.parameters())
    m = [torch.zeros_like(p) for p in parameters]
    v = [torch.zeros_like(p) for p in parameters]
    for k, (x_0, t, eps) in enumerate(batches):
        loss = denoising_loss(by_hand.denoiser, x_0, t, eps).mean()
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        assert seen[k].step == k + 1
        assert seen[k].loss == pytest.approx(float(loss.detach()), rel=1e-5)
        assert seen[k].learning_rate == pytest.approx(rates[k])
        assert seen[k].gradient_norm == pytest.approx(norm, rel=1e-4)
        for i, g in enumerate(gradients):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            m_hat, v_hat = m[i] / (1 - 0.9 ** (k + 1)), v[i] / (1 - 0.999 ** (k + 1))
            with torch.no_grad():
                parameters[i] -= rates[k] * m_hat / (v_hat.sqrt() + 1e-8)
    for got, truth in zip(run.state(), by_hand.state(), strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-5)


def batch(generator: torch.Generator) -> tuple[Tensor, ...]:
    return noisy_batches(three_gaussians(), LEVELS, 32)(generator)


def test_other_losses_and_networks_train_too() -> None:
    """Sliced score matching with an energy network: the loss falls."""
    net = EnergyMLP(2, 16, depth=1, features=4, generator=seeded(1))
    path = Cosine()
    levels = LogUniformRatio(path, 0.3, 3.0)
    denoiser = NeuralDenoiser(path, net, "eps")

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x_0, t, eps = noisy_batches(three_gaussians(), levels, 128)(generator)
        nu = torch.randn(x_0.shape, generator=generator)
        return path.perturb(x_0, eps, t), t, nu

    loss = partial(sliced_loss, denoiser, weight=path.variance)
    values = [p.loss for p in train(net, draw, loss, 80, progress=False)]
    assert sum(values[-20:]) < sum(values[:20]) - 20 * 0.1


# Averages and schedules


def test_the_average_is_its_recursion() -> None:
    net = MLP(2, 4, depth=1, features=2, generator=seeded(1))
    average = ExponentialMovingAverage(net, decay=0.7)
    truth = [p.detach().clone() for p in net.parameters()]
    assert equal(truth, list(average.module.parameters()))
    for k in range(1, 40):
        with torch.no_grad():
            for i, p in enumerate(net.parameters()):
                p.add_(torch.randn(p.shape, generator=seeded(100 * k + i)))
        average.update()
        rate = min(0.7, (1 + k) / (10 + k))
        for i, p in enumerate(net.parameters()):
            truth[i] = truth[i] + (1 - rate) * (p.detach() - truth[i])
        for got, value in zip(average.module.parameters(), truth, strict=True):
            torch.testing.assert_close(got, value, rtol=1e-5, atol=1e-5)
    assert (average.updates, rate) == (39, 0.7)
    assert not any(p.requires_grad for p in average.module.parameters())
    # a copy: the network may go on without it
    assert average.module is not net


def test_without_decay_the_average_is_the_network() -> None:
    run = Run()
    run.average = ExponentialMovingAverage(run.net, 0.0)
    for _ in run.steps(3):
        assert equal(
            list(run.average.module.parameters()),
            [p.detach() for p in run.net.parameters()],
        )


def test_the_average_is_updated_at_every_step() -> None:
    run = Run(averaged=True)
    follower = ExponentialMovingAverage(run.net, 0.9)
    for _ in run.steps(4):
        follower.update()
    assert run.average.updates == 4
    assert equal(
        list(run.average.module.parameters()), list(follower.module.parameters())
    )


def test_averaging_lowers_the_error_of_a_constant_rate() -> None:
    """Small batches and a large rate: the network jitters, its average less."""
    mixture, errors = three_gaussians(), {}
    net = MLP(2, 24, depth=2, features=8, generator=seeded(1))
    average = ExponentialMovingAverage(net, 0.98)
    denoiser = NeuralDenoiser.for_data(PATH, net, mixture.sample(2000, seeded()))
    draw = noisy_batches(mixture, LEVELS, 32)
    loss = partial(denoising_loss, denoiser)
    for _ in train(
        net, draw, loss, 300, learning_rate=1e-2, average=average, progress=False
    ):
        pass
    for name, module in (("raw", net), ("averaged", average.module)):
        learned = NeuralDenoiser(PATH, module, "v", denoiser.mean, denoiser.scale)
        exact = ExactDenoiser(PATH, mixture)
        errors[name] = relative_score_error(learned, exact, n=300, generator=seeded())
    assert errors["averaged"] < 0.8 * errors["raw"]


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    factor = warmup_cosine(200, warmup=40)
    assert factor(0) == pytest.approx(1 / 41)
    # halfway through the cosine, a half; at three quarters, sin²(π/8)
    assert factor(100) == pytest.approx(0.5)
    assert factor(150) == pytest.approx(math.sin(math.pi / 8) ** 2)
    assert factor(199) > factor(200) == pytest.approx(0, abs=1e-15)
    assert factor(500) == pytest.approx(0, abs=1e-15)
    rise = [factor(k) / (1 + math.cos(math.pi * k / 200)) for k in range(42)]
    steps = [b - a for a, b in zip(rise, rise[1:], strict=False)]
    assert steps[:40] == pytest.approx([0.5 / 41] * 40)
    assert steps[40] == pytest.approx(0)
    assert warmup_cosine(10, warmup=0)(0) == 1
    assert constant(0) == constant(10**6) == 1


# Stopping and resuming


def test_progress_is_counted_and_every_run_is_the_same(
    generator: torch.Generator,
) -> None:
    one, other = Run(), Run()
    first, second = list(one.steps(6)), list(other.steps(6))
    assert first == second
    assert [p.step for p in first] == [1, 2, 3, 4, 5, 6]
    assert all(isinstance(p, Progress) for p in first)
    assert equal(one.state(), other.state())


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"averaged": True},
    "schedule and clip": {"schedule": warmup_cosine(9, 3), "clip": 0.5},
    "all": {"averaged": True, "schedule": warmup_cosine(9, 3), "save_every": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("stop", [1, 4, 8])
def test_stopping_and_resuming_is_like_not_stopping(
    options: dict[str, Any], stop: int, tmp_path: Path
) -> None:
    """Bit for bit: weights, averages and what was reported."""
    options = dict(options)
    averaged = options.pop("averaged", False)
    whole = Run(averaged)
    seen = list(whole.steps(9, generator=seeded(5), **options))

    file = tmp_path / "deep" / "run.pt"
    stopped = Run(averaged)
    parts = []
    for progress in stopped.steps(9, generator=seeded(5), checkpoint=file, **options):
        parts.append(progress)
        if progress.step == stop:
            break
    # from another start: all that matters is in the file
    resumed = Run(averaged)
    with torch.no_grad():
        for p in resumed.net.parameters():
            p.add_(1.0)
    parts += resumed.steps(9, generator=seeded(77), checkpoint=file, **options)
    assert parts == seen
    assert equal(resumed.state(), whole.state())
    if averaged:
        assert resumed.average.updates == 9
    assert list(file.parent.iterdir()) == [file]


def test_a_run_may_be_prolonged_and_a_finished_one_takes_no_step(
    tmp_path: Path,
) -> None:
    file = tmp_path / "run.pt"
    first = Run()
    assert len(list(first.steps(3, checkpoint=file))) == 3
    written = file.read_bytes()
    again = Run()
    assert list(again.steps(3, checkpoint=str(file))) == []
    assert equal(again.state(), first.state())
    assert file.read_bytes() == written
    assert [p.step for p in Run().steps(5, checkpoint=file)] == [4, 5]


def test_it_is_saved_every_few_steps(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    kept = []
    for progress in Run().steps(5, checkpoint=file, save_every=2):
        step = torch.load(file, weights_only=True)["step"] if file.exists() else 0
        kept.append((progress.step, step))
    assert kept == [(1, 0), (2, 2), (3, 2), (4, 4), (5, 4)]
    assert torch.load(file, weights_only=True)["step"] == 5


def test_an_error_in_the_loop_loses_nothing(tmp_path: Path) -> None:
    file, run = tmp_path / "run.pt", Run()

    def divide() -> None:
        for progress in run.steps(9, checkpoint=file):
            1 / (progress.step - 3)

    with pytest.raises(ZeroDivisionError):
        divide()
    continued = list(Run().steps(9, checkpoint=file))
    assert [p.step for p in continued] == [4, 5, 6, 7, 8, 9]


# Ctrl-C


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("where", ["draw", "loss", "schedule"])
def test_ctrl_c_during_a_step_ends_the_run_after_it(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The loop ends without an error, at a whole step, with everything saved."""
    file, run, calls = tmp_path / "run.pt", Run(averaged=True), {"n": 0}

    def interrupting(function: Callable) -> Callable:
        def wrapped(*arguments: Any) -> Any:
            calls["n"] += 1
            if calls["n"] == 3:
                press_ctrl_c()
            return function(*arguments)

        return wrapped

    options: dict[str, Any] = {
        "draw": noisy_batches(three_gaussians(), LEVELS, 32),
        "loss": partial(denoising_loss, run.denoiser),
        "schedule": constant,
    }
    options[where] = interrupting(options[where])
    before = signal.getsignal(signal.SIGINT)
    seen = list(run.steps(9, checkpoint=file, **options))
    assert signal.getsignal(signal.SIGINT) is before
    assert "interrupted after step 3 of 9" in capsys.readouterr().out
    assert [p.step for p in seen] == [1, 2]

    whole = Run(averaged=True)
    for _ in whole.steps(3):
        pass
    assert equal(run.state(), whole.state())
    resumed = Run(averaged=True)
    assert [p.step for p in resumed.steps(9, checkpoint=file)] == [4, 5, 6, 7, 8, 9]
    for _ in (undisturbed := Run(averaged=True)).steps(9):
        pass
    assert equal(resumed.state(), undisturbed.state())


def test_ctrl_c_in_the_loop_interrupts_it_and_everything_is_kept(
    tmp_path: Path,
) -> None:
    file, run = tmp_path / "run.pt", Run()

    def interrupted() -> None:
        for progress in run.steps(9, checkpoint=file):
            if progress.step == 4:
                press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.load(file, weights_only=True)["step"] == 4
    for _ in (whole := Run()).steps(4):
        pass
    assert equal(run.state(), whole.state())
    for _ in (resumed := Run()).steps(9, checkpoint=file):
        pass
    for _ in (undisturbed := Run()).steps(9):
        pass
    assert equal(resumed.state(), undisturbed.state())


def test_a_second_ctrl_c_does_not_wait() -> None:
    run = Run()

    def loss(*batch: Tensor) -> Tensor:
        press_ctrl_c()
        press_ctrl_c()
        return denoising_loss(run.denoiser, *batch)

    before, at_start = signal.getsignal(signal.SIGINT), run.state()
    with pytest.raises(KeyboardInterrupt):
        list(run.steps(3, loss=loss))
    assert signal.getsignal(signal.SIGINT) is before
    assert equal(run.state(), at_start)


def test_training_outside_the_main_thread_leaves_signals_alone() -> None:
    run, seen = Run(), []
    thread = threading.Thread(target=lambda: seen.extend(run.steps(3)))
    thread.start()
    thread.join()
    for _ in (whole := Run()).steps(3):
        pass
    assert [p.step for p in seen] == [1, 2, 3]
    assert equal(run.state(), whole.state())


# What goes wrong


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(
    bad: float, tmp_path: Path
) -> None:
    file, run, calls = tmp_path / "run.pt", Run(averaged=True), {"n": 0}

    def loss(*batch: Tensor) -> Tensor:
        calls["n"] += 1
        value = denoising_loss(run.denoiser, *batch)
        return value * bad if calls["n"] == 3 else value

    with pytest.raises(FloatingPointError, match=r"loss (nan|inf).*step 3 of 9"):
        list(run.steps(9, loss=loss, checkpoint=file))
    for _ in (whole := Run(averaged=True)).steps(2):
        pass
    assert equal(run.state(), whole.state())
    assert run.average.updates == 2
    assert torch.load(file, weights_only=True)["step"] == 2


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    run = Run()

    def loss(*batch: Tensor) -> Tensor:
        # |z|^½ at 0: the value is finite, its slope is not
        return (run.net.layers[-1].bias * 0).abs().sum().sqrt().expand(4)

    at_start = run.state()
    with pytest.raises(FloatingPointError, match=r"gradient of norm (nan|inf)"):
        list(run.steps(2, loss=loss))
    assert equal(run.state(), at_start)


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


def checkpoint_with_code(file: Path, mark: Path, contents: dict) -> None:
    torch.save(contents | {"step": Bomb(mark)}, file)


def test_a_damaged_checkpoint_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    """Truncated anywhere, a flipped bit, garbage, another's file, code."""
    file, mark = tmp_path / "run.pt", tmp_path / "code ran"
    for _ in Run(averaged=True).steps(2, checkpoint=file):
        pass
    good = file.read_bytes()
    contents = torch.load(file, weights_only=True)
    flipped = bytearray(good)
    # in the numbers of the first tensor, which are stored as they are
    raw = contents["net"]["layers.0.weight"].numpy().tobytes()
    flipped[good.index(raw) + 3] ^= 1
    cases = {f"cut at {n}": good[:n] for n in range(0, len(good), len(good) // 23)}
    cases |= {"one byte short": good[:-1], "a flipped bit": bytes(flipped)}
    cases |= {"text": b"hello\n", "noise": bytes(range(256)) * 9}
    cases |= {"a pickle": pickle.dumps({"step": 3}), "code": pickle.dumps(Bomb(mark))}
    for name, thing in {
        "a list": [1, 2],
        "a tensor": torch.ones(3),
        "half of it": {"step": 1},
        "no network": contents | {"net": 3},
    }.items():
        torch.save(thing, file)
        cases[name] = file.read_bytes()
    checkpoint_with_code(file, mark, contents)
    cases["code in an archive"] = file.read_bytes()

    for name, data in cases.items():
        file.write_bytes(data)
        run, g = Run(averaged=True), seeded(5)
        at_start, drawn = run.state(), g.get_state()
        with pytest.raises(ValueError, match="damaged or not a checkpoint") as error:
            next(run.steps(4, checkpoint=file, generator=g))
        assert str(file) in str(error.value), name
        assert equal(run.state(), at_start), name
        assert torch.equal(g.get_state(), drawn), name
        assert run.average.updates == 0, name
        assert file.read_bytes() == data, name
        assert sorted(tmp_path.iterdir()) == [file], name


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    for _ in Run(averaged=True).steps(2, checkpoint=file):
        pass
    contents = torch.load(file, weights_only=True)
    for run, message in (
        (Run(averaged=True, hidden=9), "of another network"),
        (Run(averaged=False), "written with an average"),
    ):
        at_start = run.state()
        with pytest.raises(ValueError, match=message):
            next(run.steps(4, checkpoint=file))
        assert equal(run.state(), at_start)
    # a GPU's generator has a state of 16 bytes
    torch.save(contents | {"generator": torch.zeros(16, dtype=torch.uint8)}, file)
    run = Run(averaged=True)
    at_start = run.state()
    with pytest.raises(ValueError, match="another kind of device"):
        next(run.steps(4, checkpoint=file))
    assert equal(run.state(), at_start)
    torch.save(contents | {"average": None, "updates": None}, file)
    with pytest.raises(ValueError, match="written without an average"):
        next(Run(averaged=True).steps(4, checkpoint=file))


def test_a_failed_write_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.pt"
    for _ in Run().steps(2, checkpoint=file):
        pass
    good = file.read_bytes()

    def full_disk(contents: Any, stream: Any) -> None:
        stream.write(b"half of it")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(diffedu.train.torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            list(Run().steps(4, checkpoint=file))
    assert file.read_bytes() == good
    assert list(tmp_path.iterdir()) == [file]
    assert [p.step for p in Run().steps(4, checkpoint=file)] == [3, 4]


# Clipping


def test_the_gradient_is_clipped_to_the_bound() -> None:
    bound, norms = 1e-3, []
    run = Run()
    for progress in run.steps(3, clip=bound):
        parts = [p.grad.square().sum() for p in run.net.parameters()]
        norms.append(float(torch.stack(parts).sum().sqrt()))
        # what is reported is the norm before
        assert progress.gradient_norm > 10 * bound
    assert norms == pytest.approx([bound] * 3, rel=1e-2)
    # a bound out of reach changes nothing
    free, loose = Run(), Run()
    assert list(free.steps(3)) == list(loose.steps(3, clip=1e9))
    assert equal(free.state(), loose.state())


# Surroundings


def test_one_thread_meanwhile_and_as_many_as_before_afterwards() -> None:
    meanwhile, between = [], []
    run = Run()

    def loss(*batch: Tensor) -> Tensor:
        meanwhile.append(torch.get_num_threads())
        return denoising_loss(run.denoiser, *batch)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for _ in run.steps(2, loss=loss):
            between.append(torch.get_num_threads())
        for _ in run.steps(1, loss=loss, threads=2):
            pass
        with pytest.raises(RuntimeError):
            next(run.steps(1, loss=failing))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert meanwhile == [1, 1, 2]
    assert between == [2, 2]


def failing(*batch: Tensor) -> Tensor:
    raise RuntimeError("no")


def test_the_bar_is_drawn_only_where_it_is_wanted(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    for _ in Run().steps(2, progress=False):
        pass
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("", "")
    for _ in Run().steps(2, progress=True):
        pass
    assert "/2" in "".join(capsys.readouterr())
    monkeypatch.setenv("TQDM_DISABLE", "1")
    for _ in Run().steps(2, progress=True):
        pass
    assert "".join(capsys.readouterr()) == ""


def test_frozen_parameters_stay() -> None:
    run = Run()
    run.net.layers[0].requires_grad_(False)
    before = run.state()
    for _ in run.steps(3):
        pass
    after = run.state()
    assert equal(before[:2], after[:2])
    assert not equal(before[2:], after[2:])


@pytest.mark.usefixtures("no_shape_checks")  # they cannot be compiled
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own
def test_compiling_changes_nothing() -> None:
    """Up to rounding in another order. A small loss: kernels take seconds each."""
    states = []
    for compile in (False, True):
        net = nn.Linear(2, 2)
        nn.init.eye_(net.weight)
        nn.init.zeros_(net.bias)

        def loss(x_0: Tensor, t: Tensor, eps: Tensor, net: nn.Module = net) -> Tensor:
            return (net(x_0).tanh() + t[:, None] * eps).square().sum(1)

        draw = noisy_batches(three_gaussians(), LEVELS, 32)
        run = train(net, draw, loss, 5, compile=compile, progress=False)
        states.append(([p.loss for p in run], list(net.parameters())))
    (plain, weights), (compiled, others) = states
    assert compiled == pytest.approx(plain, rel=1e-5)
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_the_default_device_is_one_of_this_machine() -> None:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    assert default_device().type == kind


# Batches


@pytest.mark.parametrize("data", [three_gaussians(), ring(4, std=0.1)])
def test_batches_are_data_levels_and_noise(data) -> None:
    draw = noisy_batches(data, UniformTime(PATH, 0.1, 0.9), 4096, dtype=torch.float64)
    x_0, t, eps = draw(seeded(3))
    assert x_0.shape == eps.shape == (4096, 2)
    half = 2048
    # antithetic: every pair (x_0, t) with ε and −ε
    assert torch.equal(x_0[:half], x_0[half:])
    assert torch.equal(t[:half], t[half:])
    assert torch.equal(eps[:half], -eps[half:])
    # stratified: one time in each slice
    slices = ((t[:half] - 0.1) / 0.8 * half).floor()
    assert slices.sort().values.tolist() == list(range(half))
    for values, truth in (
        (x_0[:half], data.mean),
        (eps[:half], torch.zeros(2)),
        (eps[:half] ** 2, torch.ones(2)),
        ((x_0[:half] - data.mean) ** 2, data.covariance.diagonal()),
        (eps[:half] * x_0[:half], torch.zeros(2)),
    ):
        error = values.std(0) / math.sqrt(half)
        assert ((values.mean(0) - truth).abs() <= 5 * error).all()
    # nothing repeats from one draw to the next
    g = seeded(3)
    first, second = draw(g), draw(g)
    assert all(torch.equal(a, b) for a, b in zip(first, (x_0, t, eps), strict=True))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[2], second[2])


def test_batches_need_not_be_antithetic() -> None:
    draw = noisy_batches(three_gaussians(), LEVELS, 7, antithetic=False)
    x_0, t, eps = draw(seeded())
    assert (len(x_0), len(t), len(eps)) == (7, 7, 7)
    assert len(x_0.unique(dim=0)) == len(t.unique()) == len(eps.unique(dim=0)) == 7


def test_points_are_drawn_with_replacement() -> None:
    points = torch.arange(5.0)[:, None].expand(5, 2) + torch.tensor([0.0, 10.0])
    draw = noisy_batches(points, LEVELS, 4000, antithetic=False)
    x_0, _, _ = draw(seeded())
    assert x_0.dtype == torch.float32
    assert torch.equal(x_0[:, 1], x_0[:, 0] + 10)
    counts = torch.bincount(x_0[:, 0].long(), minlength=5).double()
    # binomial: √(n p (1 − p)) = 25
    assert ((counts - 800).abs() <= 5 * 25.3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_have_the_dtype_and_device_asked_for(dtype, device) -> None:
    points = three_gaussians().sample(10, seeded())
    for data in (three_gaussians(), points):
        draw = noisy_batches(data, LEVELS, 6, dtype=dtype)
        for values in draw(seeded(1, device)):
            assert values.dtype == dtype
            assert values.device.type == device.type


# Every device


def test_training_agrees_on_every_device(device) -> None:
    """Same batches, float64: 20 steps differ by rounding, which Adam amplifies."""
    batches = [
        noisy_batches(three_gaussians(), LEVELS, 32, dtype=torch.float64)(seeded(k))
        for k in range(20)
    ]
    states = []
    for where in ("cpu", device):
        net = MLP(2, 8, depth=1, features=2, generator=seeded(1)).double().to(where)
        denoiser = NeuralDenoiser(PATH, net)
        feed = iter(batches)
        loss = partial(denoising_loss, denoiser)
        for _ in train(
            net,
            lambda g, feed=feed, where=where: tuple(z.to(where) for z in next(feed)),
            loss,
            20,
            progress=False,
        ):
            pass
        states.append([p.detach().cpu() for p in net.parameters()])
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_resuming_works_on_every_device(device, tmp_path: Path) -> None:
    results = []
    for stops in ([6], [3, 6]):
        file = tmp_path / f"{len(stops)}.pt"
        for steps in stops:
            net = MLP(2, 8, depth=1, features=2, generator=seeded(1)).to(device)
            loss = partial(denoising_loss, NeuralDenoiser(PATH, net))
            draw = noisy_batches(three_gaussians(), LEVELS, 32)
            for _ in train(net, draw, loss, steps, checkpoint=file, progress=False):
                pass
        results.append([p.detach().cpu() for p in net.parameters()])
    assert equal(*results)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_captured_graph_takes_the_same_steps() -> None:
    """Kernels in another order may round differently."""
    states = []
    for capture in (False, True):
        net = MLP(2, 8, depth=1, features=2, generator=seeded(1)).cuda()
        loss = partial(denoising_loss, NeuralDenoiser(PATH, net))
        draw = noisy_batches(three_gaussians(), LEVELS, 32)
        for _ in train(net, draw, loss, 10, capture=capture, progress=False):
            pass
        states.append([p.detach().cpu() for p in net.parameters()])
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
