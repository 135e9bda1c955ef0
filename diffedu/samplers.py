"""Samplers: generators that yield every state on the way from noise to data.

Each steps from t to s over consecutive pairs of decreasing times, and takes any
denoiser, exact or learned; Langevin's stay at one noise level, or descend a ladder of
them. `last` keeps the end of a run, `trajectory` all of it.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import (
    require_count,
    require_points,
    require_positive,
    time_tensor,
)
from diffedu.denoiser import Denoiser
from diffedu.path import GaussianPath
from diffedu.sde import Times


def last(states: Iterable[Tensor]) -> Tensor:
    """The final state of a run.

    Raises:
        ValueError: there is no state.
    """
    end = deque(states, maxlen=1)
    if not end:
        raise ValueError("states must hold at least one state, got none")
    return end[0]


def trajectory(states: Iterable[Tensor]) -> Float[Tensor, "states n d"]:
    """All states of a run, the first at index 0.

    Raises:
        ValueError: there is no state.
    """
    states = list(states)
    if not states:
        raise ValueError("states must hold at least one state, got none")
    return torch.stack(states)


def ddim(
    denoiser: Denoiser,
    x: Float[Tensor, "n d"],
    times: Times,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "n d"]]:
    """x_s = α_s x̂_0 + √(σ_s² − ς²) ε̂ + ς z, for each t → s.

    ς = η (σ_s/σ_t) √(σ_t² − (α_t/α_s)² σ_s²) is η times the standard deviation of x_s
    given x_t and x_0, so the marginals are kept for 0 <= η <= 1. η = 0 is
    deterministic; η = 1 is ancestral sampling. Yields x itself, then the state after
    every step.

    Args:
        denoiser: exact or learned.
        x: start, a sample of p at times[0], shape (n, d).
        times: strictly decreasing; the last may be 0, where x_s = x̂_0.
        eta: η in [0, 1].

    Raises:
        ValueError: (at the first state) η is not in [0, 1], x is not finite points, or
            times do not decrease within the range of the path.

    Source: Song, Meng and Ermon 2021, equations 12 and 16.
    """
    require_positive("eta", eta, or_zero=True)
    if eta > 1:
        raise ValueError(
            f"eta must lie in [0, 1], got {eta}: beyond 1 the variance left for the "
            "predicted noise, σ_s² − ς², may be negative"
        )
    require_points("x", x)
    times = time_tensor(times)
    if times[0] < times[-1]:
        raise ValueError("times must decrease, from noise to data")
    path = denoiser.path
    yield x
    for t, s in pairwise(times):
        sigma_t, alpha_s, sigma_s = path.sigma(t), path.alpha(s), path.sigma(s)
        # σ_t² (1 − SNR_t/SNR_s) is the variance that the step s → t adds
        added = -torch.expm1(path.log_snr(t) - path.log_snr(s)) * sigma_t**2
        varsigma = eta * sigma_s / sigma_t * added.sqrt()
        x_0, eps = denoiser.predict(x, t)
        x = alpha_s * x_0 + (sigma_s**2 - varsigma**2).sqrt() * eps
        if eta > 0:
            x = x + varsigma * _normal_like(x, generator)
        yield x


# Langevin dynamics


def langevin(
    score: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n d"],
    step: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "n d"]]:
    """x ← x + (h/2) s(x) + √h z: the unadjusted Langevin algorithm.

    Its stationary law is p only as h → 0; for N(0, I) it is N(0, I/(1 − h/4)), and
    h >= 4 diverges. Yields x itself, then the state after every step.

    Args:
        score: ∇log p, from (n, d) to (n, d).
        x: start, shape (n, d).
        step: h > 0, in units of x².
        steps: how many, >= 1.

    Raises:
        ValueError: (at the first state) an argument is out of range.

    Source: Roberts and Tweedie 1996, section 1.4.1; Song and Ermon 2019, equation 4.
    """
    _require_run(x, step, steps)
    yield x
    for _ in range(steps):
        z = _normal_like(x, generator)
        x = x + 0.5 * step * score(x) + math.sqrt(step) * z
        yield x


def metropolis_langevin(
    log_prob: Callable[[Tensor], Tensor],
    score: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n d"],
    step: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "n d"]]:
    """Langevin steps as proposals y ~ q(· | x), accepted or not: p is stationary.

    y is accepted with probability min(1, p(y) q(x | y) / (p(x) q(y | x))), where
    q(y | x) = N(y; x + (h/2) s(x), h I); else x stays. Needs the density, up to a
    constant, which a score does not give. Yields as `langevin`.

    Args:
        log_prob: log p up to a constant, from (n, d) to (n,).
        score, x, step, steps: as in `langevin`.

    Raises:
        ValueError: as `langevin`.

    Source: Roberts and Tweedie 1996, section 1.4.2 (MALA).
    """
    _require_run(x, step, steps)
    yield x
    log_p, drift = log_prob(x), 0.5 * step * score(x)
    for _ in range(steps):
        y = x + drift + math.sqrt(step) * _normal_like(x, generator)
        log_p_y, drift_y = log_prob(y), 0.5 * step * score(y)
        forth = -(y - x - drift).square().sum(-1) / (2 * step)
        back = -(x - y - drift_y).square().sum(-1) / (2 * step)
        u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
        accepted = u.log() < log_p_y + back - log_p - forth
        x = torch.where(accepted[:, None], y, x)
        log_p = torch.where(accepted, log_p_y, log_p)
        drift = torch.where(accepted[:, None], drift_y, drift)
        yield x


StepRule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From t and the score and the noise z at the points to the step h, shape ()."""


def variance_rule(path: GaussianPath, relative: float) -> StepRule:
    """h = relative · σ(t)²: the same step on every level, in units of its noise.

    Raises:
        ValueError: relative <= 0.

    Source: Song and Ermon 2019, algorithm 1, where h_i = ε σ_i²/σ_L².
    """
    require_positive("relative", relative)
    return lambda t, score, z: relative * path.variance(t)


def snr_rule(ratio: float) -> StepRule:
    """h = (2 ratio ‖z‖ / ‖s‖)², norms averaged over the points.

    The drift ½ h s is then `ratio` times as long as the noise √h z.

    Raises:
        ValueError: ratio <= 0.

    Source: Song et al. 2021, algorithms 4 and 5, where the step is ε = h/2.
    """
    require_positive("ratio", ratio)

    def rule(t: Tensor, score: Tensor, z: Tensor) -> Tensor:
        return (2 * ratio * z.norm(dim=-1).mean() / score.norm(dim=-1).mean()) ** 2

    return rule


def noise_ladder(
    path: GaussianPath, high: float, low: float, levels: int
) -> Float[Tensor, "levels"]:
    """Decreasing times at which σ/α runs geometrically from high to low.

    Raises:
        ValueError: not 0 < low < high within the path's reach, or levels < 2.

    Source: Song and Ermon 2019, section 4.1.
    """
    require_positive("high", high)
    require_positive("low", low)
    require_count("levels", levels, at_least=2)
    if low >= high:
        raise ValueError(f"low must be < high = {high}, got {low}")
    log_ratios = torch.linspace(
        math.log(high), math.log(low), levels, dtype=torch.float64
    )
    return path.time_at(log_ratios.exp())


def annealed_langevin(
    denoiser: Denoiser,
    x: Float[Tensor, "n d"],
    times: Times,
    rule: StepRule,
    steps: int,
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "n d"]]:
    """`steps` Langevin steps on ∇log p_t at each level t, from noise to data.

    Between levels x is rescaled by α_s/α_t, which does nothing when the variance
    explodes. Yields x itself, then the state after every step of every level.

    Args:
        denoiser: exact or learned.
        x: start, roughly a sample of p at times[0], shape (n, d).
        times: decreasing, the last with σ > 0; `noise_ladder` makes them.
        rule: the step h on each level; `variance_rule` or `snr_rule`.
        steps: on each level, >= 1.

    Raises:
        ValueError: (at the first state) an argument is out of range.

    Source: Song and Ermon 2019, algorithm 1.
    """
    require_points("x", x)
    require_count("steps", steps)
    times = time_tensor(times)
    if times[0] < times[-1]:
        raise ValueError("times must decrease, from noise to data")
    path = denoiser.path
    if not path.sigma(times[-1]) > 0:
        raise ValueError("times must end where sigma(t) > 0: no step is left at 0")
    yield x
    alpha = path.alpha(times[0])
    for t in times:
        x, alpha = path.alpha(t) / alpha * x, path.alpha(t)
        for _ in range(steps):
            z = _normal_like(x, generator)
            score = denoiser.score(x, t)
            h = rule(t, score, z)
            x = x + 0.5 * h * score + h.sqrt() * z
            yield x


def _require_run(x: Tensor, step: float, steps: int) -> None:
    require_points("x", x)
    require_positive("step", step)
    require_count("steps", steps)


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
