"""What `diffedu.train.learn` is measured beside, each in its shortest honest form.

All see standardised data, x̄_0 of mean 0 and variance 1, and draw their batches from the
same points. Each answers with a function (x̄, ratio) ↦ ε_θ at x̄ = x̄_0 + ratio · ε.
"""

import math
from collections.abc import Callable

import torch
from azula.denoise import KarrasDenoiser
from azula.noise import VESchedule, VPSchedule
from torch import Tensor, nn

Eps = Callable[[Tensor, Tensor], Tensor]

BATCH, HIDDEN, FEATURES = 1024, 64, 32


class WaveNet(nn.Module):
    """3 × 64 on (x, c) and random Fourier features of both: the size of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("B", 2 * torch.randn(2, FEATURES))
        self.register_buffer("w", torch.randn(1, FEATURES))
        self.body = perceptron(3 + 4 * FEATURES)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """The answer at points x (n, 2) and noise coordinates c (n,)."""
        c = c[:, None]
        p, q = x @ self.B, c * self.w
        return self.body(torch.cat([x, p.cos(), p.sin(), c, q.cos(), q.sin()], -1))


class PlainNet(nn.Module):
    """3 × 64 on (x, c) alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron(3)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """The answer at points x (n, 2) and noise coordinates c (n,)."""
        return self.body(torch.cat([x, c[:, None]], -1))


def perceptron(inputs: int) -> nn.Sequential:
    """Three hidden layers."""
    widths = [inputs, HIDDEN, HIDDEN, HIDDEN]
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, 2))


class Tuned:
    """AdamW, warm-up, cosine and averaged weights, as `learn` has them."""

    def __init__(self, net: nn.Module, average: nn.Module, steps: int) -> None:
        average.load_state_dict(net.state_dict())
        self.parameters = list(net.parameters())
        self.averaged = list(average.parameters())
        self.steps, self.done = steps, 0
        self.warmup = min(50, steps // 10)
        self.rate = min(0.02, 0.01 * math.sqrt(1000 / steps))
        self.optimizer = torch.optim.AdamW(
            self.parameters, self.rate, weight_decay=0.0, fused=True
        )

    def step(self, loss: Tensor) -> None:
        """One step down the loss."""
        k = self.done
        rise = min(1.0, (k + 1) / (self.warmup + 1))
        fall = 0.5 * (1 + math.cos(math.pi * k / self.steps))
        self.optimizer.param_groups[0]["lr"] = self.rate * rise * fall
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        decay = min(0.999, (2 + k) / (11 + k))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.parameters, 1 - decay)


def strata(n: int) -> Tensor:
    """One number from each slice of [0, 1)."""
    return (torch.arange(n) + torch.rand(n)) / n


def plain(points: Tensor, low: float, high: float, steps: int, seed: int) -> Eps:
    """The recipe of `learn` written out in torch."""
    torch.manual_seed(seed)
    net, average = WaveNet(), WaveNet()
    trainer = Tuned(net, average, steps)
    n = BATCH // 2
    for _ in range(steps):
        x_0 = points[torch.randint(len(points), (n,))]
        eps = torch.randn(n, 2)
        ratio = low * (high / low) ** strata(n)
        x_0, eps = torch.cat([x_0, x_0]), torch.cat([eps, -eps])
        ratio = torch.cat([ratio, ratio])
        sin = (ratio / torch.sqrt(1 + ratio**2))[:, None]
        cos = torch.rsqrt(1 + ratio**2)[:, None]
        v = net(cos * x_0 + sin * eps, ratio.log())
        loss = (cos * (v - (cos * eps - sin * x_0))).square().sum(-1).mean()
        trainer.step(loss)

    def predict(x: Tensor, ratio: Tensor) -> Tensor:
        cos = torch.rsqrt(1 + ratio**2)[:, None]
        u = cos * x
        return cos * (ratio[:, None] * u + average(u, ratio.log()))

    return predict


def azula_tuned(points: Tensor, low: float, high: float, steps: int, seed: int) -> Eps:
    """azula's denoiser and loss in the same loop, less the antithetic noise."""
    torch.manual_seed(seed)
    schedule = VESchedule(sigma_min=low, sigma_max=high)
    denoiser = KarrasDenoiser(WaveNet(), schedule)
    average = KarrasDenoiser(WaveNet(), schedule)
    trainer = Tuned(denoiser, average, steps)
    for _ in range(steps):
        x_0 = points[torch.randint(len(points), (BATCH,))]
        trainer.step(denoiser.loss(x_0, strata(BATCH)))

    def predict(x: Tensor, ratio: Tensor) -> Tensor:
        t = (ratio / low).log() / math.log(high / low)
        return (x - average(x, t).mean) / ratio[:, None]

    return predict


def azula_readme(points: Tensor, low: float, high: float, steps: int, seed: int) -> Eps:
    """The loop of azula's README: Adam, 0.001, t uniform on its VP schedule."""
    torch.manual_seed(seed)
    schedule = VPSchedule()
    denoiser = KarrasDenoiser(PlainNet(), schedule)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    for _ in range(steps):
        x_0 = points[torch.randint(len(points), (BATCH,))]
        loss = denoiser.loss(x_0, torch.rand(BATCH))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def predict(x: Tensor, ratio: Tensor) -> Tensor:
        # σ² = 1 − α² + σ_min² and σ = ratio · α
        alpha = torch.sqrt((1 + schedule.sigma_min**2) / (1 + ratio**2))
        t = torch.sqrt(alpha.log().clamp(max=0) / math.log(schedule.alpha_min))
        return (x - denoiser(alpha[:, None] * x, t).mean) / ratio[:, None]

    return predict
