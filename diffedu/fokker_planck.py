"""The Fokker–Planck equation of an SDE, solved on a grid in one or two dimensions.

∂p/∂t = −∇·(f p) + ½ ∇·(G ∇p),  G = g gᵀ, for dx = f(x, t) dt + g(t) dw.

In space, G is written as Σ_e λ_e (e∘h)(e∘h)ᵀ with λ_e > 0 and e a few steps of the grid
(h is the size of a cell): the axes where G is diagonal. Between the centres of cells i
and i + e, the flux is that of a constant current (Scharfetter and Gummel 1969; Chang
and Cooper 1970),

    J = ½ λ_e (B(−w) p_i − B(w) p_{i+e}),  B(z) = z / (e^z − 1),  w = 2 ∫ G⁻¹f·dl.

So the equation becomes that of a Markov chain which jumps between cells at positive
rates. Mass is kept, to rounding, and where f = ½ G ∇log π the chain is in detailed
balance with π at the centres of the cells, as exactly as 4-point quadrature integrates
∇log π between them. In time, each direction takes Crank–Nicolson steps along its
chains of cells, and Strang splitting joins the directions: order 2 in h and in Δt.

Two limits. The split step keeps a stationary state in detailed balance exactly, and one
with a current to O(Δt²). And where G is not diagonal, steps askew that would leave the
box are left out along a wall: mass that reaches it is moved with order 1 only.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice, pairwise, product
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import get_lapack_funcs
from scipy.sparse import coo_array, csc_array, csr_array, eye_array, sparray
from scipy.sparse.linalg import splu
from scipy.special import exprel
from torch import Tensor

from diffedu._arguments import require_count, require_finite, time_tensor
from diffedu.sde import SDE, Times

Density = Callable[[Tensor], Tensor]
"""A probability density: points (n, d) to (n,)."""

Step = Callable[[ndarray], ndarray]
"""Densities to densities, as flat arrays of all cells."""

NODES, WEIGHTS = np.polynomial.legendre.leggauss(4)
NODES, WEIGHTS = 0.5 * (NODES + 1), 0.5 * WEIGHTS
"""Gauss–Legendre quadrature on [0, 1]."""

_factor, _substitute = get_lapack_funcs(("gttrf", "gttrs"))  # tridiagonal, float64

TINY = np.finfo(float).tiny

ROUNDING = 1e-12  # relative: below it a number is an artefact of float64

AHEAD = 8192  # so many cells are stepped in a run before their densities are looked at

MOST_ATTEMPTS = 1000  # at one step, whole and in parts, before it is refused


_NOT_AN_SDE = "sde must be an SDE, whose diffusion depends on t alone, got {}"


class Axis(NamedTuple):
    """One axis of a grid."""

    low: float
    high: float
    cells: int
    periodic: bool


@dataclass(frozen=True)
class Grid:
    """A box in one or two dimensions, cut into equal cells.

    Densities on it are float64 tensors of shape `shape`, one average per cell.

    Args:
        low, high: the ends of every axis; numbers in one dimension.
        cells: how many cells along every axis, at least 3.
        periodic: whether the ends of an axis are joined; for all axes, or one by one.
            An axis that is not has walls through which nothing flows.

    Raises:
        ValueError: not one or two dimensions, low >= high, or too few cells.
    """

    low: float | Sequence[float]
    high: float | Sequence[float]
    cells: int | Sequence[int]
    periodic: bool | Sequence[bool] = False

    def __post_init__(self) -> None:
        dims = [len(_tuple(v)) for v in (self.low, self.high, self.cells)]
        if len(set(dims)) > 1 or dims[0] not in (1, 2):
            raise ValueError(
                "low, high and cells must speak of the same one or two axes, got "
                f"{self.low}, {self.high} and {self.cells}"
            )
        if len(_tuple(self.periodic)) not in (1, dims[0]):
            raise ValueError(
                f"periodic must speak of all axes at once or of each of the {dims[0]}, "
                f"got {self.periodic}"
            )
        for axis in self.axes:
            require_count("cells", axis.cells, at_least=3)
            if not -math.inf < axis.low < axis.high < math.inf:
                raise ValueError(
                    f"low must be less than high, got {axis.low} and {axis.high}"
                )

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Ends, cells and kind of every axis."""
        low, high, cells = _tuple(self.low), _tuple(self.high), _tuple(self.cells)
        periodic = _tuple(self.periodic)
        if len(periodic) < len(low):
            periodic = periodic * len(low)
        return tuple(map(Axis, low, high, cells, periodic))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Cells along every axis."""
        return tuple(axis.cells for axis in self.axes)

    @property
    def dim(self) -> int:
        """1 or 2."""
        return len(self.axes)

    @cached_property
    def spacing(self) -> tuple[float, ...]:
        """The size h of a cell along every axis."""
        return tuple((axis.high - axis.low) / axis.cells for axis in self.axes)

    @cached_property
    def volume(self) -> float:
        """Length or area of a cell."""
        return math.prod(self.spacing)

    @property
    def centers(self) -> Float[Tensor, "*shape d"]:
        """The middle of every cell, float64."""
        return torch.from_numpy(self._centers).clone()

    @cached_property
    def _centers(self) -> ndarray:
        middles = [
            axis.low + h * (np.arange(axis.cells) + 0.5)
            for axis, h in zip(self.axes, self.spacing, strict=True)
        ]
        return np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1)

    @cached_property
    def _wall_volume(self) -> ndarray:
        """The volume of every cell that touches a wall, 0 for the others; flat."""
        volume = np.zeros(self.shape)
        for k, axis in enumerate(self.axes):
            if not axis.periodic:
                np.moveaxis(volume, k, 0)[[0, -1]] = self.volume
        return volume.reshape(-1)

    def average(self, density: Density) -> Float[Tensor, "*shape"]:
        """The mean of a density over every cell, by 4-point quadrature per axis.

        Raises:
            ValueError: the density is not one finite number per point.
        """
        mean = torch.zeros(self.shape, dtype=torch.float64)
        # a line of nodes at a time
        for line in product(range(len(NODES)), repeat=self.dim - 1):
            nodes = [(*line, k) for k in range(len(NODES))]
            offsets = (NODES[nodes] - 0.5) * self.spacing
            x = self._centers.reshape(-1, self.dim) + offsets[:, None, :]
            values = density(torch.from_numpy(x.reshape(-1, self.dim)))
            if values.shape != (x.shape[0] * x.shape[1],):
                raise ValueError(
                    "density must give one number per point, shape "
                    f"({x.shape[0] * x.shape[1]},), got {tuple(values.shape)}"
                )
            values = values.detach().cpu().double()
            require_finite("density", values)
            values = values.reshape(-1, *self.shape)
            weights = torch.from_numpy(WEIGHTS[nodes].prod(axis=1))
            mean += torch.tensordot(weights, values, dims=1)
        return mean

    def mass(self, p: Float[Tensor, "*shape"]) -> float:
        """∫ p, the sum of p over the cells times their volume."""
        return float(p.sum()) * self.volume

    def refined(self) -> "Grid":
        """The same box with every cell halved along every axis."""
        cells = [2 * n for n in self.shape]
        return replace(
            self, cells=cells if isinstance(self.cells, Sequence) else cells[0]
        )


def _tuple(value: Any) -> tuple:
    return tuple(value) if isinstance(value, Sequence) else (value,)


# Space: a Markov chain on the cells


def bernoulli(z: ndarray) -> ndarray:
    """B(z) = z / (e^z − 1), the Scharfetter–Gummel weight."""
    return 1 / exprel(z)


class _Edges(NamedTuple):
    """Every step i → i + e of the grid, for one e, in the order of its chains.

    `cells` lists the cells chain after chain; None where that is their own order.
    Steps are from position `tail` to position `head` of that list. They are consecutive
    unless a chain is closed into a ring.
    """

    cells: ndarray | None
    tail: ndarray
    head: ndarray
    ring: bool


class _Rates(NamedTuple):
    """Jump rates along edges: up from tail to head, down from head to tail.

    Their ratio is e^w; where w is large one of them is 0 in float64, and w is not.
    """

    edges: _Edges
    up: ndarray
    down: ndarray
    w: ndarray


@lru_cache(maxsize=64)
def _edges(
    shape: tuple[int, ...], periodic: tuple[bool, ...], step: tuple[int, ...]
) -> _Edges:
    index = np.indices(shape).reshape(len(shape), -1)
    moved = index + np.array(step)[:, None]
    size = np.array(shape)[:, None]
    wraps = np.array(periodic)[:, None]
    inside = (wraps | ((moved >= 0) & (moved < size))).all(0)
    tail = np.flatnonzero(inside)
    head = np.asarray(np.ravel_multi_index(tuple(moved[:, inside] % size), shape))
    if any(p and s for p, s in zip(periodic, step, strict=True)):
        return _Edges(None, tail, head, ring=True)
    # cells of a chain follow each other; its first cell has no predecessor
    behind = [
        (i if s > 0 else n - 1 - i) // abs(s)
        for i, n, s in zip(index, shape, step, strict=True)
        if s
    ]
    place = np.min(behind, axis=0)
    first = np.ravel_multi_index(tuple(index - place * np.array(step)[:, None]), shape)
    cells = np.lexsort((place, first))
    position = np.argsort(cells)
    order = np.argsort(position[tail])
    tail, head = position[tail[order]], position[head[order]]
    natural = bool((cells == np.arange(cells.size)).all())
    return _Edges(None if natural else cells, tail, head, ring=False)


def _lattice_directions(D: ndarray) -> list[tuple[tuple[int, ...], float]]:
    """Steps e of the grid and λ_e > 0 with D = Σ λ_e e eᵀ, at most three in the plane.

    Source: Selling 1874; Fehrenbach and Mirebeau 2014.
    """
    if len(D) == 1:
        return [((1,), float(D[0, 0]))]
    base = [np.array([1, 0]), np.array([0, 1]), np.array([-1, -1])]
    pairs = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    tiny = ROUNDING * np.trace(D)
    # a superbase, three steps with sum 0, is made obtuse: no two at an acute angle
    while acute := [(i, j) for i, j, _ in pairs if base[i] @ D @ base[j] > tiny]:
        i, j = acute[0]
        base = [base[i] - base[j], -base[i], base[j]]
    weighted = [
        ((-base[k][1], base[k][0]), -base[i] @ D @ base[j]) for i, j, k in pairs
    ]
    return [
        (tuple(int(s) for s in e), float(weight))
        for e, weight in weighted
        if weight > tiny
    ]


def _noise_covariance(sde: SDE, dim: int, t: float) -> ndarray:
    """G = g gᵀ at t, (d, d)."""
    if sde.diffusion is None:
        raise ValueError("sde must have a diffusion: an ODE only moves a density")
    g = sde.diffusion(torch.tensor(t, dtype=torch.float64))
    g = torch.as_tensor(g, dtype=torch.float64).detach().cpu().numpy()
    if g.shape not in ((), (dim, dim)):
        raise ValueError(
            f"diffusion must be a number or a ({dim}, {dim}) matrix, got {g.shape}"
        )
    G = g @ g.T if g.ndim else g**2 * np.eye(dim)
    spectrum = np.linalg.eigvalsh(G) if np.isfinite(G).all() else np.array([np.nan])
    if not spectrum[0] > ROUNDING * spectrum[-1]:
        raise ValueError(
            f"diffusion must be finite and g gᵀ positive definite, got {g.tolist()} at "
            f"t = {t:g}"
        )
    return G


def _edge_drift(sde: SDE, start: ndarray, move: ndarray, t: float) -> ndarray:
    """∫₀¹ f(start + s · move, t) ds for every start, (n, d)."""
    points = (start + NODES[:, None, None] * move).reshape(-1, start.shape[1])
    with torch.no_grad():
        f = sde.drift(torch.from_numpy(points), torch.tensor(t, dtype=torch.float64))
    if f.shape != points.shape:
        raise ValueError(
            f"drift must have the shape of its points, {points.shape}, "
            f"got {tuple(f.shape)}"
        )
    f = f.cpu().double()
    require_finite("drift", f)
    f = f.numpy().reshape(len(NODES), -1)
    return (WEIGHTS @ f).reshape(start.shape)


def _jump_rates(
    sde: SDE,
    grid: Grid,
    t: float,
    bernoulli: Callable[[ndarray], ndarray] = bernoulli,
    clock: int = 1,
) -> list[_Rates]:
    """The rates along every direction; `clock` −1 for an SDE run in decreasing time."""
    if not isinstance(sde, SDE):
        raise ValueError(_NOT_AN_SDE.format(type(sde).__name__))
    G = _noise_covariance(sde, grid.dim, t)
    h = np.array(grid.spacing)
    centers = grid._centers.reshape(-1, grid.dim)
    rates = []
    for step, weight in _lattice_directions(G / np.outer(h, h)):
        if any(abs(s) >= n for s, n in zip(step, grid.shape, strict=True)):
            raise ValueError(
                f"diffusion is too elongated for the grid: its flux would reach over "
                f"{step} cells of {grid.shape}"
            )
        edges = _edges(grid.shape, tuple(a.periodic for a in grid.axes), step)
        tail = edges.tail if edges.cells is None else edges.cells[edges.tail]
        move = np.array(step) * h
        f = clock * _edge_drift(sde, centers[tail], move, t)
        # B(z) is 0 beyond z = 710; an infinite rate is refused below
        with np.errstate(over="ignore", divide="ignore"):
            w = 2 * f @ np.linalg.solve(G, move)
            up, down = 0.5 * weight * bernoulli(-w), 0.5 * weight * bernoulli(w)
        if not (np.isfinite(up).all() and np.isfinite(down).all()):
            raise ValueError("drift is too large for float64 on this grid")
        rates.append(_Rates(edges, up, down, w))
    return rates


def generator_matrix(
    sde: SDE,
    grid: Grid,
    t: float = 0.0,
    bernoulli: Callable[[ndarray], ndarray] = bernoulli,
) -> csr_array:
    """A of the semi-discrete equation dp/dt = A p, cells in C order.

    Its columns sum to 0, and A_ij >= 0 is the rate of jumps from cell j to cell i.

    Args:
        sde: an `SDE` with a diffusion.
        grid: a `Grid` of the same dimension.
        t: the time at which drift and diffusion are taken.
        bernoulli: the weight B of the flux. 1 − z/2 gives central differences instead,
            1 + max(−z, 0) upwind differences.

    Raises:
        ValueError: no diffusion, one that depends on x or with singular g gᵀ, or a
            drift that is not finite on the grid.
    """
    n = math.prod(grid.shape)
    A = csr_array((n, n))
    for edges, up, down, _ in _jump_rates(sde, grid, t, bernoulli):
        A = A + _chain_matrix(edges, up, down, n)
    return A


def _chain_matrix(edges: _Edges, up: ndarray, down: ndarray, n: int) -> csr_array:
    cells = np.arange(n) if edges.cells is None else edges.cells
    i, j = cells[edges.tail], cells[edges.head]
    rows = np.concatenate([j, i, i, j])
    columns = np.concatenate([i, i, j, j])
    values = np.concatenate([up, -up, down, -down])
    return coo_array((values, (rows, columns)), (n, n)).tocsr()


def stationary_density(sde: SDE, grid: Grid, t: float = 0.0) -> Float[Tensor, "*shape"]:
    """The density that the equation with coefficients frozen at t leaves as it is.

    In one dimension between walls no current flows, and p_{i+1} / p_i = e^w. Otherwise
    the null vector of `generator_matrix`, by inverse iteration.

    Raises:
        ValueError: as `generator_matrix`, or the iteration does not settle because
            parts of the grid hardly exchange mass.
    """
    if grid.dim == 1 and not grid.axes[0].periodic:
        ((_, _, _, w),) = _jump_rates(sde, grid, t)
        log_p = np.concatenate([[0.0], np.cumsum(w)])
        p = np.exp(log_p - log_p.max())
        return torch.from_numpy(p / (p.sum() * grid.volume))
    A = generator_matrix(sde, grid, t)
    n = math.prod(grid.shape)
    long = 1e8 / abs(A.diagonal()).max()
    solve = _sparse_solver(eye_array(n) - long * A)
    p = np.full(n, 1 / (n * grid.volume))
    for _ in range(100):
        previous, p = p, solve(p)
        p = p / (p.sum() * grid.volume)
        if abs(p - previous).max() <= ROUNDING * p.max():
            return torch.from_numpy(p.reshape(grid.shape))
    raise ValueError("grid has parts that hardly exchange mass: no single stationary p")


# Time: Crank–Nicolson steps along the chains


def _sparse_solver(M: sparray) -> Step:
    """M⁻¹ for an M-matrix; pivots on the diagonal keep its signs, so M⁻¹p >= 0."""
    order, diagonal = "MMD_AT_PLUS_A", {"SymmetricMode": True}
    factors = splu(
        csc_array(M), permc_spec=order, diag_pivot_thresh=0.0, options=diagonal
    )
    return factors.solve


def _backward_euler(rates: _Rates, n: int, tau: float) -> Step:
    """p ↦ (I − τA)⁻¹ p for the A of one direction, factored here.

    The columns of I − τA sum to 1 and its other entries are <= 0, so elimination needs
    no pivoting and substitution only adds: p >= 0 stays so, to the last digit.
    """
    edges, up, down, _ = rates
    if edges.ring:
        A = _chain_matrix(edges, up, down, n)
        return _sparse_solver(eye_array(n) - tau * A)
    diagonal = np.ones(n)
    diagonal[edges.tail] += tau * up
    diagonal[edges.head] += tau * down
    lower, upper = np.zeros(n - 1), np.zeros(n - 1)
    lower[edges.tail] = -tau * up
    upper[edges.tail] = -tau * down
    *factors, _ = _factor(lower, diagonal, upper)
    cells = edges.cells
    if cells is None:
        return lambda p: _substitute(*factors, p)[0]

    def solve(p: ndarray) -> ndarray:
        q = np.empty_like(p)
        q[cells] = _substitute(*factors, p[cells])[0]
        return q

    return solve


def _stepper(rates: list[_Rates], n: int, tau: float) -> Step:
    """One step of Δt = τ: Crank–Nicolson for a direction, Strang splitting for all.

    A Crank–Nicolson step is a backward Euler step q of half its length, extrapolated:
    (I − ½τA)⁻¹ (I + ½τA) p = 2q − p.
    """
    *others, last = rates
    half = [_backward_euler(direction, n, 0.25 * tau) for direction in others]
    sweeps = [*half, _backward_euler(last, n, 0.5 * tau), *reversed(half)]

    def step(p: ndarray) -> ndarray:
        for solve in sweeps:
            p = 2 * solve(p) - p
        return p

    return step


def solve_fokker_planck(
    sde: SDE,
    p_0: Density | Float[Tensor, "*shape"],
    grid: Grid,
    times: Times,
    mass_tolerance: float = 1e-6,
    wall_mass: float = 1e-5,
) -> Iterator[Float[Tensor, "*shape"]]:
    """Densities p_t >= 0 on the grid at every one of the times, from p_0 at the first.

    One step from each time to the next: order 2 in the step and in the size of the
    cells (order 1 beside walls that mass reaches, where G is not diagonal). A step that
    would make the density negative somewhere is taken as two halves, and so on: a step
    below 2 / (rate at which a cell is left) never does. Decreasing times solve the
    equation of the SDE run in decreasing time, as the simulators do with `reverse`.
    Coefficients are taken in the middle of a step; those of an autonomous SDE are
    computed and factored once.

    Args:
        sde: drift and diffusion; g gᵀ positive definite.
        p_0: a density (n, d) to (n,), or its averages over the cells.
        grid: a `Grid` of the same dimension.
        times: strictly monotone, in the domain of the SDE.
        mass_tolerance: how far the mass of p_0 on the grid may be from 1.
        wall_mass: how much mass the outermost cells along walls may hold: more says
            that the grid cuts the law off (finer cells hold less of the same density).
            math.inf for walls that are meant.

    Raises:
        ValueError: an argument is out of range; p_0 is negative or has another mass;
            drift or diffusion is not finite, or g gᵀ singular; mass gathers at a wall;
            1000 attempts at a step, whole and in parts, do not reach its end.

    Source: Chang and Cooper 1970; Crank and Nicolson 1947; Strang 1968.
    """
    if not isinstance(sde, SDE):
        raise ValueError(_NOT_AN_SDE.format(type(sde).__name__))
    instants = time_tensor(times, sde.domain).tolist()
    p = _start(p_0, grid, mass_tolerance)
    for ends, states in _runs(_steps(sde, grid, instants), p, instants):
        mass = states @ grid._wall_volume
        crowded = np.flatnonzero(mass > wall_mass)
        clear = crowded[0] if crowded.size else len(states)
        yield from torch.from_numpy(states[:clear].reshape(-1, *grid.shape).copy())
        if crowded.size:
            raise ValueError(
                f"grid is too small: at t = {ends[clear]:g} the cells along its walls "
                f"hold the mass {mass[clear]:.3g}, more than wall_mass = {wall_mass:g}"
            )


def _runs(
    step: Callable[[float, float], Step],
    p: ndarray,
    times: list[float],
) -> Iterator[tuple[list[float], ndarray]]:
    """The times and the states (times, cells), first p alone, then run by run.

    Looking at many small states at once costs less than looking at each.
    """
    yield times[:1], p[None]
    length = max(1, AHEAD // p.size)
    for k in range(0, len(times) - 1, length):
        ends = times[k : k + length + 1]
        states = _run(step, p, ends)
        p = states[-1]
        yield ends[1:], states


def _steps(sde: SDE, grid: Grid, times: list[float]) -> Callable[[float, float], Step]:
    """(t, s) to the step from t to s; an autonomous SDE is factored only once."""
    start = times[0]
    clock = 1 if times[-1] > start else -1

    @lru_cache(maxsize=1)
    def rates(t: float) -> list[_Rates]:
        return _jump_rates(sde, grid, t, clock=clock)

    @lru_cache(maxsize=16)
    def stepper(t: float, tau: float) -> Step:
        return _stepper(rates(t), math.prod(grid.shape), tau)

    def step(t: float, s: float) -> Step:
        # the steps of a uniform grid of times differ by rounding alone
        tau = float(f"{abs(s - t):.12e}")
        return stepper(start if sde.autonomous else 0.5 * (t + s), tau)

    return step


def _run(
    step: Callable[[float, float], Step],
    p: ndarray,
    times: list[float],
) -> ndarray:
    """The states after p, one for each of the later times, (steps, cells)."""
    states = np.empty((len(times) - 1, p.size))
    q = p
    for k, (t, s) in enumerate(pairwise(times)):
        states[k] = q = step(t, s)(q)
    if states.min() < 0:
        for k, (t, s) in enumerate(pairwise(times)):
            states[k] = p = _advance(step, p, t, s)
    return states


def _advance(
    step: Callable[[float, float], Step],
    p: ndarray,
    t: float,
    s: float,
) -> ndarray:
    """p_s >= 0 from p_t, in one step from t to s, or in halves of it where needed."""
    now, ends = t, [s]
    for _ in range(MOST_ATTEMPTS):
        end = ends[-1]
        p_end = step(now, end)(p)
        lowest = p_end.min()
        if lowest <= -TINY:
            ends.append(0.5 * (now + end))
            continue
        # so small a negative number has lost its digits
        p = p_end if lowest >= 0 else np.maximum(p_end, 0)
        now = ends.pop()
        if not ends:
            return p
    raise ValueError(
        f"times are too far apart: from {t:g} to {s:g} the density would stay "
        f"positive only in many short steps ({MOST_ATTEMPTS} attempts made)"
    )


def _start(p_0: Density | Tensor, grid: Grid, mass_tolerance: float) -> ndarray:
    if callable(p_0):
        p = grid.average(p_0)
    else:
        p = torch.as_tensor(p_0).detach().cpu().double()
        if p.shape != grid.shape:
            raise ValueError(f"p_0 must have shape {grid.shape}, got {tuple(p.shape)}")
        require_finite("p_0", p)
    if (p < 0).any():
        raise ValueError(f"p_0 must not be negative, got {float(p.min()):.3g}")
    mass = grid.mass(p)
    if not abs(mass - 1) <= mass_tolerance:
        raise ValueError(
            f"p_0 must have mass 1 on the grid, within {mass_tolerance:g}, got "
            f"{mass:.8g}; a larger or finer grid may hold it"
        )
    return p.numpy().reshape(-1).copy()


def richardson(
    sde: SDE,
    p_0: Density,
    grid: Grid,
    times: Times,
    mass_tolerance: float = 1e-6,
    wall_mass: float = 1e-5,
) -> Iterator[Float[Tensor, "*shape"]]:
    """Densities p_t as `solve_fokker_planck` yields, of order 4 where p is smooth.

    The problem is also solved with cells and steps halved, and log p extrapolated,
    log p = (4 log p_fine − log p_coarse) / 3, which keeps p positive; p is then scaled
    to its mass. It costs about 5 times as much in one dimension, 9 times in two.

    Args:
        p_0: a density (n, d) to (n,), which both grids average.

    Raises:
        ValueError: as `solve_fokker_planck`, or p_0 is not a function.

    Source: Richardson 1911.
    """
    if not callable(p_0):
        raise ValueError("p_0 must be a density to average on two grids, got averages")
    times = time_tensor(times).double()
    half = times[:-1] + 0.5 * times.diff()
    fine_times = torch.cat([torch.stack([times[:-1], half], 1).flatten(), times[-1:]])
    fine_grid = grid.refined()
    fine_p_0 = fine_grid.average(p_0)
    coarse_p_0 = torch.from_numpy(_pooled(fine_p_0.numpy()))
    limits = mass_tolerance, wall_mass
    coarse = solve_fokker_planck(sde, coarse_p_0, grid, times, *limits)
    fine = solve_fokker_planck(sde, fine_p_0, fine_grid, fine_times, *limits)
    for p, q in zip(coarse, islice(fine, 0, None, 2), strict=True):
        p, q = p.numpy(), _pooled(q.numpy())
        ratio = np.divide(q, p, out=np.ones_like(q), where=p > 0)
        extrapolated = q * np.cbrt(ratio)
        yield torch.from_numpy(extrapolated * (p.sum() / extrapolated.sum()))


def _pooled(p: ndarray) -> ndarray:
    """Averages over pairs of cells along every axis."""
    pairs = p.reshape([k for n in p.shape for k in (n // 2, 2)])
    return pairs.mean(axis=tuple(range(1, 2 * p.ndim, 2)))
