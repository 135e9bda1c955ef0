"""Samplers: generators that yield every state on the way from noise to data.

Each steps from t to s over consecutive pairs of decreasing times, and takes any
denoiser, exact or learned. `last` keeps the end of a run, `trajectory` all of it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import require_points, require_positive, time_tensor
from diffedu.denoiser import Denoiser
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
        x_0, eps = denoiser.x0(x, t), denoiser.eps(x, t)
        x = alpha_s * x_0 + (sigma_s**2 - varsigma**2).sqrt() * eps
        if eta > 0:
            z = torch.randn(
                x.shape, generator=generator, dtype=x.dtype, device=x.device
            )
            x = x + varsigma * z
        yield x
