"""Stochastic differential equations as values, and the solvers that run them.

dx = drift(x, t) dt + diffusion(t) dw, or diffusion(x, t) where the noise depends on the
state. Time is always the clock of the noising process: a solver given increasing times
adds noise, one given decreasing times removes it. The reverse SDE is therefore written
as in Anderson (1982), with dt < 0 when it is run.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
import torchdiffeq
from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import (
    readable,
    require_choice,
    require_count,
    require_points,
    require_positive,
    time_tensor,
)
from diffedu._autodiff import with_divergence, with_slope
from diffedu.path import GaussianPath, expand

Field = Callable[[Tensor, Tensor], Tensor]
"""A vector field: (x (n, d), t ()) to (n, d)."""

Increment = Callable[[Tensor, Tensor], Tensor]
"""The Brownian increment Δw over a step: (t (), s ()) to (n, d); see `BrownianPath`."""

Times = Sequence[float] | Float[Tensor, "times"]


@dataclass(frozen=True)
class SDE:
    """dx = drift(x, t) dt + diffusion(t) dw.

    Args:
        drift: (x, t) to (n, d), for x of shape (n, d) and t of shape ().
        diffusion: t to a number g or a matrix g of shape (d, d); None for an ordinary
            differential equation.
        domain: the times at which it is defined; solvers refuse others.
        autonomous: says that neither drift nor diffusion depends on t.
        drift_and_divergence: (x, t) to the drift (n, d) and its divergence (n,), where
            a closed form is cheaper than automatic differentiation.
    """

    drift: Field
    diffusion: Callable[[Tensor], Tensor] | None = None
    domain: tuple[float, float] = (-math.inf, math.inf)
    autonomous: bool = False
    drift_and_divergence: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = (
        None
    )

    def noise(self, x: Tensor, t: Tensor, dw: Tensor) -> Tensor:
        """g(t) Δw, one row per point."""
        if self.diffusion is None:
            return torch.zeros_like(x)
        return _times(_coefficient(self.diffusion(t), x), dw)


@dataclass(frozen=True)
class MultiplicativeSDE:
    """dx = drift(x, t) dt + diffusion(x, t) dw in the sense of Itô.

    Args:
        drift: (x, t) to (n, d), for x of shape (n, d) and t of shape ().
        diffusion: (x, t) to (n, d), the diagonal of g at every point, or to the matrix
            g itself, (n, d, d).
        domain: the times at which it is defined; solvers refuse others.
    """

    drift: Field
    diffusion: Field
    domain: tuple[float, float] = (-math.inf, math.inf)

    def noise(self, x: Tensor, t: Tensor, dw: Tensor) -> Tensor:
        """g(x, t) Δw, one row per point.

        Raises:
            ValueError: the diffusion has neither of the two shapes.
        """
        g = self.diffusion(x, t)
        if g.shape == x.shape:
            return g * dw
        if g.shape == (*x.shape, x.shape[-1]):
            return (g @ dw[..., None]).squeeze(-1)
        diagonal, matrix = tuple(x.shape), (*x.shape, x.shape[-1])
        raise ValueError(
            f"diffusion must have shape {diagonal}, a diagonal per point, or {matrix}, "
            f"a matrix per point, got {tuple(g.shape)}"
        )


def forward(path: GaussianPath) -> SDE:
    """dx = f(t) x dt + g(t) dw, whose marginals are those of the path."""
    domain = (0.0, path.t_max)
    return SDE(lambda x, t: expand(path.f(t), x) * x, path.g, domain, path.autonomous)


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
    return SDE(drift, lambda t: eta * diffusion(t), sde.domain)


def langevin(score: Callable[[Tensor], Tensor]) -> SDE:
    """dx = ½ ∇log p(x) dt + dw, whose stationary law is p.

    One Euler–Maruyama step of size ε is the unadjusted Langevin update,
    x + (ε/2) ∇log p(x) + √ε z.
    """
    return SDE(lambda x, t: 0.5 * score(x), torch.ones_like, autonomous=True)


def _coefficient(g: Tensor | float, x: Tensor) -> Tensor:
    """The diffusion coefficient in the dtype and on the device of x."""
    return torch.as_tensor(g, dtype=x.dtype, device=x.device)


def _times(g: Tensor, v: Tensor) -> Tensor:
    """g v for every row v, with g a number or a (d, d) matrix."""
    return v @ g.mT if g.ndim == 2 else g * v


def _start(sde: SDE | MultiplicativeSDE, x: Tensor, times: Times) -> Tensor:
    require_points("x", x)
    return time_tensor(times, sde.domain)


@dataclass(frozen=True)
class BrownianPath:
    """Brownian motion known at a grid of times; path(t, s) is its increment w_s − w_t.

    Passed as `increment` to a solver, it drives runs with different steps by one path.

    Args:
        times: strictly increasing, shape (m,), float64.
        w: the path at these times, shape (m, n, d): n independent paths.

    Raises:
        ValueError: the times do not increase, or w has another shape.
    """

    times: Float[Tensor, "m"]
    w: Float[Tensor, "m n d"]

    def __post_init__(self) -> None:
        times = time_tensor(self.times)
        if times[0] > times[-1]:
            raise ValueError("times must increase")
        if self.w.ndim != 3 or len(self.w) != len(times):
            raise ValueError(
                f"w must have shape ({len(times)}, n, d), one state per time, "
                f"got {tuple(self.w.shape)}"
            )

    @cached_property
    def _tolerance(self) -> float:
        """A grid of times computed in another way may differ in the last digits."""
        return 1e-6 * float(self.times.diff().min())

    def at(self, t: Tensor) -> Float[Tensor, "n d"]:
        """w_t.

        Raises:
            ValueError: t is not one of the times; `refined` adds the midpoints.
        """
        index = int((self.times - t).abs().argmin())
        if abs(float(self.times[index] - t)) > self._tolerance:
            raise ValueError(
                f"t must be one of the path's {len(self.times)} times, got {float(t)!r}"
            )
        return self.w[index]

    def __call__(self, t: Tensor, s: Tensor) -> Float[Tensor, "n d"]:
        """The increment w_s − w_t."""
        return self.at(s) - self.at(t)

    def refined(self, generator: torch.Generator | None = None) -> "BrownianPath":
        """The same path, known at the midpoints too: w_m = ½(w_t + w_s) + ½√(s − t) z.

        Source: Lévy's construction; Karatzas and Shreve 1991, section 2.3.
        """
        left, right = self.w[:-1], self.w[1:]
        z = torch.randn(
            left.shape, generator=generator, dtype=left.dtype, device=left.device
        )
        deviation = 0.5 * self.times.diff().sqrt().to(left)[:, None, None]
        times = torch.cat([self.times, self.times[:-1] + 0.5 * self.times.diff()])
        w = torch.cat([self.w, 0.5 * (left + right) + deviation * z])
        times, order = times.sort()
        return BrownianPath(times, w[order.to(w.device)])


def brownian_path(
    times: Times,
    n: int,
    d: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> BrownianPath:
    """n Brownian paths in R^d at increasing times, from w = 0 at the first of them.

    They live on the device of the generator.

    Raises:
        ValueError: the times are fewer than two or do not increase, or n or d < 1.
    """
    times = time_tensor(times).double()
    require_count("n", n)
    require_count("d", d)
    device = torch.device("cpu") if generator is None else generator.device
    z = torch.randn((len(times), n, d), generator=generator, dtype=dtype, device=device)
    z[0] = 0.0
    steps = times.diff(prepend=times[:1]).to(z)
    return BrownianPath(times, (steps.abs().sqrt()[:, None, None] * z).cumsum(0))


def euler_maruyama(
    sde: SDE | MultiplicativeSDE,
    x: Float[Tensor, "n d"],
    times: Times,
    generator: torch.Generator | None = None,
    increment: Increment | None = None,
) -> Iterator[Float[Tensor, "n d"]]:
    """x_s = x_t + f (s − t) + g √|s − t| z, for each t → s, with f, g at (x_t, t).

    Yields x itself, then the state after every step: len(times) states of shape (n, d).
    The noise √|s − t| z is drawn from the generator, or is `increment(t, s)`: runs with
    different steps can so share one `BrownianPath`, and different SDEs the same noise.
    Weak order 1; strong order 1 where g does not depend on x, and ½ where it does.

    Raises:
        ValueError: (at the first state) x is not finite points, or times are fewer than
            two, not strictly monotone, or outside the domain of the SDE.

    Source: Kloeden and Platen 1992, section 10.2.
    """
    times = _start(sde, x, times)
    yield x
    for t, s in pairwise(times):
        x_s = x + sde.drift(x, t) * (s - t)
        if sde.diffusion is not None:
            x_s = x_s + sde.noise(x, t, _dw(x, t, s, generator, increment))
        x = x_s
        yield x


def milstein(
    sde: MultiplicativeSDE,
    x: Float[Tensor, "n d"],
    times: Times,
    generator: torch.Generator | None = None,
    increment: Increment | None = None,
) -> Iterator[Float[Tensor, "n d"]]:
    """x_s = x_t + f h + g Δw + ½ g g′ (Δw² − |h|), h = s − t: strong order 1.

    For diagonal noise: g_i is a function of x_i and t alone, g′_i = ∂g_i/∂x_i (by
    automatic differentiation), and products are taken by component. Yields as
    `euler_maruyama`.

    Raises:
        ValueError: as `euler_maruyama`, or (at the second state) the noise is not
            diagonal: g has another shape than x, or g_i depends on another x_j.

    Source: Milstein 1975; Kloeden and Platen 1992, section 10.3.
    """
    times = _start(sde, x, times)
    yield x
    for k, (t, s) in enumerate(pairwise(times)):
        g, g_prime = _diagonal_noise(sde, x, t, verify=k == 0)
        dw = _dw(x, t, s, generator, increment)
        correction = 0.5 * g * g_prime * (dw**2 - (s - t).abs())
        x = x + sde.drift(x, t) * (s - t) + g * dw + correction
        yield x


def _diagonal_noise(
    sde: MultiplicativeSDE, x: Tensor, t: Tensor, verify: bool
) -> tuple[Tensor, Tensor]:
    """g_i and ∂g_i/∂x_i at every point, each (n, d)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        g = sde.diffusion(x, t)
        if g.shape != x.shape:
            raise ValueError(
                f"diffusion must be diagonal, shape {tuple(x.shape)}, for Milstein's "
                f"scheme, got {tuple(g.shape)}; euler_maruyama takes matrices"
            )
        if not g.requires_grad:  # g does not depend on x
            return g, torch.zeros_like(g)
        if verify and x.shape[1] > 1:
            _require_own_component(g, x)
        # row i of the Jacobian has its diagonal entry alone
        g_prime = torch.autograd.grad(g.sum(), x)[0]
    return g.detach(), g_prime


def _require_own_component(g: Tensor, x: Tensor) -> None:
    for i in range(x.shape[1]):
        row = torch.autograd.grad(g[:, i].sum(), x, retain_graph=True)[0]
        others = torch.cat([row[:, :i], row[:, i + 1 :]], dim=1)
        if readable(others) and (others != 0).any():
            raise ValueError(
                f"diffusion must be diagonal: component {i} of g depends on other "
                f"components of x, and Milstein's scheme then needs more than Δw"
            )


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
        ValueError: as `euler_maruyama`, or the noise depends on the state: the average
            would then converge to the solution in the sense of Stratonovich.

    Source: Kloeden and Platen 1992, section 15.1.
    """
    if not isinstance(sde, SDE):
        raise ValueError(
            "sde must be an SDE, whose diffusion depends on t alone: for state-"
            "dependent noise Heun's step solves the Stratonovich equation, not Itô's"
        )
    times = _start(sde, x, times)
    yield x
    for t, s in pairwise(times):
        h = s - t
        drift = sde.drift(x, t)
        if sde.diffusion is None:
            x = x + 0.5 * (drift + sde.drift(x + drift * h, s)) * h
        else:
            dw = _dw(x, t, s, generator, increment)
            noise, noise_next = sde.noise(x, t, dw), sde.noise(x, s, dw)
            predicted = x + drift * h + noise
            drift_mean = 0.5 * (drift + sde.drift(predicted, s))
            x = x + drift_mean * h + 0.5 * (noise + noise_next)
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
    return with_divergence(lambda x: drift(x, t), x)


METHODS = ("dopri5", "dopri8", "rk4")


def log_likelihood(
    flow: SDE,
    x: Float[Tensor, "n d"],
    times: Times,
    prior_log_prob: Callable[[Tensor], Tensor],
    method: str = "dopri5",
    tolerance: float = 1e-7,
    probes: Float[Tensor, "m n d"] | None = None,
) -> Float[Tensor, "n"]:
    """log p_0(x) = log p_T(x_T) + ∫₀ᵀ ∇·v(x_t, t) dt along the flow dx = v dt from x.

    The divergence is the flow's closed form where it states one, else exact by d
    backward passes. With probes ν it is estimated by the mean of νᵀ(∂v/∂x)ν, the same ν
    all along the path: unbiased when E ννᵀ = I, with one backward pass per probe.

    Args:
        flow: an ODE, such as `reverse(sde, score, eta=0)`.
        x: points, shape (n, d).
        times: increasing, from the time of x to the time of the prior. A fixed-step
            method steps exactly through them; an adaptive one uses the two ends.
        prior_log_prob: log p_T, from (n, d) to (n,). A p_T that is not the law at the
            end, such as N(0, I), biases the answer by log π − log p_T at x_T, however
            small the steps.
        method: "dopri5" or "dopri8" (adaptive), or "rk4" (fixed steps), of torchdiffeq.
        tolerance: absolute and relative tolerance of the adaptive methods.
        probes: directions, shape (m, n, d); `losses.rademacher` and `losses.gaussian`
            draw them.

    Raises:
        ValueError: the flow has a diffusion, the times decrease, the probes have
            another shape, or as above.

    Source: Chen et al. 2018, equation 8; Grathwohl et al. 2019, section 3.1 (probes);
    Song et al. 2021, equation 39.
    """
    require_choice("method", method, METHODS)
    require_positive("tolerance", tolerance)
    times = _start(flow, x, times)
    if flow.diffusion is not None:
        raise ValueError("flow must be an ODE (diffusion None): reverse(..., eta=0)")
    if times[0] > times[-1]:
        raise ValueError("times must increase, from the data to the prior")
    if probes is not None:
        _require_probes(probes, x)
    times = times.to(dtype=x.dtype, device=x.device)
    adaptive = method != "rk4"
    if adaptive:
        times = times[[0, -1]]

    def rates(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        t = t.clamp(times[0], times[-1])  # stages may round past the end
        if probes is not None:
            return with_slope(lambda x: flow.drift(x, t), state[0], probes)
        if flow.drift_and_divergence is not None:
            return flow.drift_and_divergence(state[0], t)
        return divergence(flow.drift, state[0], t)

    path, change = torchdiffeq.odeint(
        rates,
        (x, torch.zeros_like(x[:, 0])),
        times,
        method=method,
        rtol=tolerance,
        atol=tolerance,
        # else an adaptive step reaches past the prior's time and is interpolated
        options={"step_t": times[1:]} if adaptive else None,
    )
    return prior_log_prob(path[-1]) + change[-1]


def _require_probes(probes: Tensor, x: Tensor) -> None:
    if probes.ndim != 3 or probes.shape[1:] != x.shape or not len(probes):
        raise ValueError(
            f"probes must have shape (m, {x.shape[0]}, {x.shape[1]}), m directions for "
            f"every point, got {tuple(probes.shape)}"
        )
