"""Stochastic differential equations as values, and the solvers that run them.

dx = drift(x, t) dt + diffusion(t) dw. Time is always the clock of the noising process:
a solver given increasing times adds noise, one given decreasing times removes it. The
reverse SDE is therefore written as in Anderson (1982), with dt < 0 when it is run.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torchdiffeq
from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import (
    require_choice,
    require_points,
    require_positive,
    time_tensor,
)
from diffedu.path import GaussianPath, expand

Field = Callable[[Tensor, Tensor], Tensor]
"""A vector field: (x (n, d), t ()) to (n, d)."""

Increment = Callable[[Tensor, Tensor], Tensor]
"""The Brownian increment Δw over a step: (t (), s ()) to (n, d)."""

Times = Sequence[float] | Float[Tensor, "times"]


@dataclass(frozen=True)
class SDE:
    """dx = drift(x, t) dt + diffusion(t) dw.

    Args:
        drift: (x, t) to (n, d), for x of shape (n, d) and t of shape ().
        diffusion: t to a number g or a matrix g of shape (d, d); None for an ordinary
            differential equation.
        domain: the times at which it is defined; solvers refuse others.
    """

    drift: Field
    diffusion: Callable[[Tensor], Tensor] | None = None
    domain: tuple[float, float] = (-math.inf, math.inf)


def forward(path: GaussianPath) -> SDE:
    """dx = f(t) x dt + g(t) dw, whose marginals are those of the path."""
    return SDE(lambda x, t: expand(path.f(t), x) * x, path.g, (0.0, path.t_max))


def reverse(sde: SDE, score: Field, eta: float = 1.0) -> SDE:
    """dx = (f − ½(1 + η²) g gᵀ ∇log p_t) dt + η g dw̄, to be run with decreasing times.

    Every η >= 0 has the marginals p_t of `sde`. η = 1 is Anderson's time reversal,
    which has its path law too; η = 0 is the probability flow, an ordinary
    differential equation.

    Args:
        sde: the noising process; must have a diffusion.
        score: (x, t) to ∇log p_t(x), shape (n, d).
        eta: η >= 0, the amount of noise relative to the noising process.

    Raises:
        ValueError: η < 0, or there is no diffusion to reverse.

    Source: Anderson 1982; Song et al. 2021, equations 6 and 13; Zhang and Chen 2023
    (equation 4, with λ for η).
    """
    require_positive("eta", eta, or_zero=True)
    diffusion = sde.diffusion
    if diffusion is None:
        raise ValueError(
            "sde must have a diffusion; an ODE is reversed by decreasing times alone"
        )

    def drift(x: Tensor, t: Tensor) -> Tensor:
        g = _coefficient(diffusion(t), x)
        g_squared = g @ g.mT if g.ndim == 2 else g**2
        return sde.drift(x, t) - 0.5 * (1 + eta**2) * _times(g_squared, score(x, t))

    if eta == 0:
        return SDE(drift, None, sde.domain)
    return SDE(drift, lambda t: eta * torch.as_tensor(diffusion(t)), sde.domain)


def langevin(score: Callable[[Tensor], Tensor]) -> SDE:
    """dx = ½ ∇log p(x) dt + dw, whose stationary law is p.

    One Euler–Maruyama step of size ε is the unadjusted Langevin update,
    x + (ε/2) ∇log p(x) + √ε z.
    """
    return SDE(lambda x, t: 0.5 * score(x), torch.ones_like)


def _coefficient(g: Tensor | float, x: Tensor) -> Tensor:
    """The diffusion coefficient in the dtype and on the device of x."""
    return torch.as_tensor(g).to(dtype=x.dtype, device=x.device)


def _times(g: Tensor, v: Tensor) -> Tensor:
    """g v for every row v, with g a number or a (d, d) matrix."""
    return v @ g.mT if g.ndim == 2 else g * v


def _start(sde: SDE, x: Tensor, times: Times) -> Tensor:
    require_points("x", x)
    return time_tensor(times, sde.domain)


def euler_maruyama(
    sde: SDE,
    x: Float[Tensor, "n d"],
    times: Times,
    generator: torch.Generator | None = None,
    increment: Increment | None = None,
) -> Iterator[Float[Tensor, "n d"]]:
    """x_s = x_t + drift(x_t, t) (s − t) + diffusion(t) √|s − t| z, for each t → s.

    Yields x itself, then the state after every step: len(times) states of shape (n, d).
    The noise √|s − t| z is drawn from the generator, or is `increment(t, s)`: runs with
    different steps can so share one Brownian path, and different SDEs the same noise.
    Strong and weak order 1 for the diffusions here, whose g does not depend on x.

    Raises:
        ValueError: (at the first state) x is not finite points, or times are fewer than
            two, not strictly monotone, or outside the domain of the SDE.

    Source: Kloeden and Platen 1992, section 10.2.
    """
    times = _start(sde, x, times)
    yield x
    for t, s in pairwise(times):
        dx = sde.drift(x, t) * (s - t)
        if sde.diffusion is not None:
            g = _coefficient(sde.diffusion(t), x)
            dx = dx + _times(g, _dw(x, t, s, generator, increment))
        x = x + dx
        yield x


def heun(
    sde: SDE,
    x: Float[Tensor, "n d"],
    times: Times,
    generator: torch.Generator | None = None,
    increment: Increment | None = None,
) -> Iterator[Float[Tensor, "n d"]]:
    """Euler–Maruyama predicts x_s; the step averages drift and diffusion at both ends.

    x̃ = x_t + f h + g Δw,   x_s = x_t + ½ (f + f̃) h + ½ (g + g̃) Δw,   h = s − t, with
    f̃, g̃ at (x̃, s). Order 2 without noise; weak order 2 for linear drift and additive
    noise. Two evaluations of the drift per step. Yields as `euler_maruyama`.

    Raises:
        ValueError: as `euler_maruyama`.

    Source: Kloeden and Platen 1992, section 15.1.
    """
    times = _start(sde, x, times)
    yield x
    for t, s in pairwise(times):
        h = s - t
        drift = sde.drift(x, t)
        if sde.diffusion is None:
            x = x + 0.5 * (drift + sde.drift(x + drift * h, s)) * h
        else:
            g = _coefficient(sde.diffusion(t), x)
            g_next = _coefficient(sde.diffusion(s), x)
            dw = _dw(x, t, s, generator, increment)
            predicted = x + drift * h + _times(g, dw)
            drift_mean = 0.5 * (drift + sde.drift(predicted, s))
            x = x + drift_mean * h + _times(0.5 * (g + g_next), dw)
        yield x


def _dw(
    x: Tensor,
    t: Tensor,
    s: Tensor,
    generator: torch.Generator | None,
    increment: Increment | None,
) -> Tensor:
    """Δw ~ N(0, |s − t| I), one increment per point, drawn or given."""
    if increment is not None:
        return increment(t, s)
    z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return (s - t).abs().sqrt() * z


def divergence(
    drift: Field, x: Float[Tensor, "n d"], t: Tensor
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"]]:
    """drift(x, t) and its exact divergence Σ_i ∂drift_i/∂x_i, by d backward passes."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        velocity = drift(x, t)
        diagonal = [
            torch.autograd.grad(velocity[:, i].sum(), x, retain_graph=True)[0][:, i]
            for i in range(x.shape[1])
        ]
    return velocity.detach(), torch.stack(diagonal).sum(0)


def log_likelihood(
    flow: SDE,
    x: Float[Tensor, "n d"],
    times: Times,
    prior_log_prob: Callable[[Tensor], Tensor],
    method: str = "dopri5",
    tolerance: float = 1e-7,
) -> Float[Tensor, "n"]:
    """log p_0(x) = log p_T(x_T) + ∫₀ᵀ ∇·v(x_t, t) dt along the flow dx = v dt from x.

    Args:
        flow: an ODE, such as `reverse(sde, score, eta=0)`.
        x: points, shape (n, d).
        times: increasing, from the time of x to the time of the prior. A fixed-step
            method steps exactly through them; an adaptive one uses the two ends.
        prior_log_prob: log p_T, from (n, d) to (n,).
        method: "dopri5" (adaptive) or "rk4" (fixed steps), of torchdiffeq.
        tolerance: absolute and relative tolerance of the adaptive method.

    Raises:
        ValueError: the flow has a diffusion, the times decrease, or as above.

    Source: Chen et al. 2018, equation 8; Song et al. 2021, equation 39.
    """
    require_choice("method", method, ("dopri5", "rk4"))
    require_positive("tolerance", tolerance)
    times = _start(flow, x, times)
    if flow.diffusion is not None:
        raise ValueError("flow must be an ODE (diffusion None): reverse(..., eta=0)")
    if times[0] > times[-1]:
        raise ValueError("times must increase, from the data to the prior")
    times = times.to(dtype=x.dtype, device=x.device)
    if method == "dopri5":
        times = times[[0, -1]]

    def rates(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        t = t.clamp(times[0], times[-1])  # stages may round past the end
        return divergence(flow.drift, state[0], t)

    path, change = torchdiffeq.odeint(
        rates,
        (x, torch.zeros_like(x[:, 0])),
        times,
        method=method,
        rtol=tolerance,
        atol=tolerance,
        # else an adaptive step reaches past the prior's time and is interpolated
        options={"step_t": times[1:]} if method == "dopri5" else None,
    )
    return prior_log_prob(path[-1]) + change[-1]
