"""Fokker–Planck: `diffedu.fokker_planck` beside SciPy, py-pde and FiPy.

The Ornstein–Uhlenbeck process dx = −x dt + g dw from a Gaussian mixture, whose law at t
is a Gaussian mixture. Errors are ∫|p − p_exact| over averages of cells.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from benchmarks import fokker_planck_peers as peers
from benchmarks.report import duration, error, table, times
from benchmarks.timing import Timing, interleave, time_to_error
from diffedu.fokker_planck import (
    Grid,
    generator_matrix,
    richardson,
    solve_fokker_planck,
)
from diffedu.mixture import GaussianMixture, three_gaussians, three_gaussians_1d
from diffedu.sde import SDE

OURS, OURS_RICHARDSON = "diffedu `solve_fokker_planck`", "diffedu `richardson`"
PLAIN = "plain Crank–Nicolson, LAPACK"
PLAIN_RICHARDSON = "plain Crank–Nicolson, Richardson"
BARE = "the barest loop, LAPACK"
BARE_RICHARDSON = "the barest loop, Richardson"

Solve = Callable[[], ndarray]


@dataclass(frozen=True)
class Problem:
    """dx = −x dt + g dw on [low, high]^d, `cells` per axis, from 0 to t_end."""

    mixture: GaussianMixture
    g: Tensor
    low: float
    high: float
    t_end: float
    cells: int
    steps: int

    @property
    def sde(self) -> SDE:
        """The process, for our solver."""
        return SDE(lambda x, t: -x, lambda t: self.g, autonomous=True)

    @property
    def grid(self) -> Grid:
        """The cells, for our solver."""
        if self.mixture.dim == 1:
            return Grid(self.low, self.high, self.cells)
        return Grid((self.low,) * 2, (self.high,) * 2, (self.cells,) * 2)

    @property
    def G(self) -> ndarray:
        """g gᵀ."""
        return (self.g @ self.g.mT).numpy()

    @property
    def times(self) -> Tensor:
        """Uniform, ends included."""
        return torch.linspace(0, self.t_end, self.steps + 1, dtype=torch.float64)

    @cached_property
    def edges(self) -> ndarray:
        """The ends of the cells along an axis."""
        return np.linspace(self.low, self.high, self.cells + 1)

    def density(self, x: Tensor) -> Tensor:
        """p_0."""
        return self.mixture.log_prob(x).exp()

    @cached_property
    def start(self) -> ndarray:
        """Averages of p_0 over the cells."""
        return self.grid.average(self.density).numpy()

    @cached_property
    def exact(self) -> ndarray:
        """Averages of p at t_end: x_t = e^{−t} x_0 + N(0, ½ (1 − e^{−2t}) G)."""
        m, a = self.mixture, math.exp(-self.t_end)
        noise = 0.5 * (1 - a * a) * self.g @ self.g.mT
        end = GaussianMixture(m.weights, a * m.means, a * a * m.covariances + noise)
        return self.grid.average(lambda x: end.log_prob(x).exp()).numpy()

    def error(self, p: ndarray) -> float:
        """∫|p − p_exact|."""
        return float(abs(p - self.exact).sum()) * self.grid.volume

    def refined(self, factor: float) -> "Problem":
        """The same law with cells and steps multiplied."""
        cells, steps = round(factor * self.cells), round(factor * self.steps)
        return replace(self, cells=cells, steps=steps)

    def averages(self, edges: ndarray) -> ndarray:
        """Averages of p_0 on the line from differences of its distribution function."""
        m = self.mixture
        scale = math.sqrt(2) * m.covariances[:, 0, 0].sqrt().numpy()
        z = (edges[:, None] - m.means[:, 0].numpy()) / scale
        below = 0.5 * torch.erf(torch.from_numpy(z)).numpy() @ m.weights.numpy()
        return np.diff(below) / np.diff(edges)


def _line(low: float, high: float, t_end: float) -> Problem:
    g = torch.tensor([[math.sqrt(2)]], dtype=torch.float64)
    return Problem(three_gaussians_1d(), g, low, high, t_end, cells=200, steps=50)


def _plane(*g: list[float]) -> Problem:
    matrix = torch.tensor(g, dtype=torch.float64)
    return Problem(three_gaussians(), matrix, -5.0, 5.0, 0.5, cells=128, steps=50)


SHORT = _line(-8.0, 8.0, 0.25)
LONG = _line(-5.0, 5.0, 1.0)
DIAGONAL = _plane([1.2, 0.0], [0.0, 0.9])
FULL = _plane([1.2, 0.4], [0.2, 0.9])


def ours(problem: Problem) -> Solve:
    """Every density is made; the last one is returned."""
    start, grid, ts = torch.from_numpy(problem.start), problem.grid, problem.times
    sde = problem.sde

    def run() -> ndarray:
        (p,) = deque(solve_fokker_planck(sde, start, grid, ts), maxlen=1)
        return p.numpy()

    return run


def ours_richardson(problem: Problem) -> Solve:
    """The same; the averages of p_0 on the two grids are made inside the clock."""
    grid, ts, sde = problem.grid, problem.times, problem.sde

    def run() -> ndarray:
        (p,) = deque(richardson(sde, problem.density, grid, ts), maxlen=1)
        return p.numpy()

    return run


def bare(problem: Problem, solve: Callable[..., ndarray]) -> Solve:
    """One of the peers' Crank–Nicolson loops on the line."""
    args = (problem.start, problem.edges, problem.t_end, problem.steps)
    return partial(solve, *args)


def bare_richardson(problem: Problem, solve: Callable[..., ndarray]) -> Solve:
    """The same extrapolated, p_0 averaged inside the clock."""
    args = (problem.averages, problem.edges, problem.t_end, problem.steps)
    return partial(peers.extrapolated, solve, *args)


def lsoda(problem: Problem, rtol: float = 1e-3) -> Solve:
    """SciPy's LSODA."""
    start, edges = problem.start, problem.edges
    return partial(peers.lsoda, start, edges, problem.t_end, rtol)


def _box(problem: Problem) -> tuple[ndarray, float, float, float]:
    return problem.start, problem.low, problem.high, problem.t_end


def fipy(problem: Problem) -> Solve:
    """FiPy's Crank–Nicolson."""
    box = _box(problem)
    return partial(peers.fipy_crank_nicolson, *box, problem.steps, problem.G)


def pypde_compiled(problem: Problem, tolerance: float = 1e-4) -> Solve:
    """py-pde's stepping, compiled here."""
    return peers.pypde_compiled(*_box(problem), problem.G, tolerance)


def _rows(
    problem: Problem, timings: Mapping[str, Timing], reference: str
) -> Iterator[list[str]]:
    for name, timing in timings.items():
        p = timing.result
        ratio = timing.ratio(timings[reference])
        yield [
            name,
            duration(timing.median),
            times(ratio),
            error(problem.error(p)),
            error(p.min()) if p.min() < 0 else "≥ 0",
            str(len(timing.seconds)),
        ]


HEADER = ["solver", "time", "× ours", "L1 error", "min p", "rounds"]


def on_the_line(problem: Problem) -> str:
    """The table of one 1-D problem."""
    box = _box(problem)
    timings = interleave(
        {
            OURS: ours(problem),
            PLAIN: bare(problem, peers.plain_crank_nicolson),
            BARE: bare(problem, peers.lapack_crank_nicolson),
            "the same with `solve_banded`": bare(problem, peers.banded_crank_nicolson),
            OURS_RICHARDSON: ours_richardson(problem),
            PLAIN_RICHARDSON: bare_richardson(problem, peers.plain_crank_nicolson),
            BARE_RICHARDSON: bare_richardson(problem, peers.lapack_crank_nicolson),
            "SciPy `solve_ivp`, LSODA, banded": lsoda(problem),
            "py-pde, default": partial(peers.pypde, *box, problem.G),
            "py-pde, its compiled stepping alone": pypde_compiled(problem),
            "py-pde, SciPy operators and LSODA": partial(peers.pypde_scipy, *box),
            "FiPy, Crank–Nicolson": fipy(problem),
        },
        slow_rounds=3,
    )
    title = (
        f"### On the line: [{problem.low:g}, {problem.high:g}], t = {problem.t_end:g}, "
        f"{problem.cells} cells, {problem.steps} steps"
    )
    rows = _rows(problem, timings, OURS)
    shares = [
        f"{times(timings[own].ratio(timings[other]))} times {other}"
        for own, other in ((OURS, PLAIN), (OURS_RICHARDSON, PLAIN_RICHARDSON))
    ]
    note = f"Our two solvers take {shares[0]} and {shares[1]}."
    return "\n\n".join([title, table(HEADER, rows), note])


def curves(problem: Problem) -> dict[str, dict[str, tuple[Problem, Solve]]]:
    """Solvers at several settings: by solver, by setting."""
    ladder = [problem.refined(f) for f in (0.25, 0.5, 1, 2, 4, 8)]
    cn = peers.plain_crank_nicolson
    tolerances = (1e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

    def setting(p: Problem) -> str:
        return f"{p.cells} cells, {p.steps} steps"

    return {
        OURS: {setting(p): (p, ours(p)) for p in ladder},
        PLAIN: {setting(p): (p, bare(p, cn)) for p in ladder},
        OURS_RICHARDSON: {setting(p): (p, ours_richardson(p)) for p in ladder[:-1]},
        PLAIN_RICHARDSON: {
            setting(p): (p, bare_richardson(p, cn)) for p in ladder[:-1]
        },
        "SciPy `solve_ivp`, LSODA, banded": {
            f"{p.cells} cells, rtol {rtol:.0e}": (p, lsoda(p, rtol))
            for p, rtol in zip(ladder, tolerances, strict=True)
        },
        "py-pde, its compiled stepping alone": {
            f"{p.cells} cells, tolerance {tolerance:.0e}": (
                p,
                pypde_compiled(p, tolerance),
            )
            for p, tolerance in zip(ladder[2:5], (1e-4, 1e-5, 1e-6), strict=True)
        },
        "FiPy, Crank–Nicolson": {setting(p): (p, fipy(p)) for p in ladder[:3]},
    }


TARGETS = (1e-3, 1e-4, 1e-5, 1e-6)


def at_equal_error(problem: Problem) -> str:
    """Time against error, and the time that every solver takes to the same error."""
    settings = curves(problem)
    timings = interleave(
        {
            f"{solver}: {name}": solve
            for solver, ladder in settings.items()
            for name, (_, solve) in ladder.items()
        },
        rounds=9,
        slow_rounds=3,
    )
    measured = {
        solver: [
            (p.error(timing.result), timing.median, name)
            for name, (p, _) in ladder.items()
            if (timing := timings[f"{solver}: {name}"])
        ]
        for solver, ladder in settings.items()
    }
    reach = []
    for solver, points in measured.items():
        found = [time_to_error([(e, s) for e, s, _ in points], t) for t in TARGETS]
        reach.append([solver, *(duration(s) if s else "—" for s in found)])
    every = [
        [solver, name, duration(seconds), error(e)]
        for solver, points in measured.items()
        for e, seconds, name in points
    ]
    return "\n\n".join(
        [
            f"### Time to an error: [{problem.low:g}, {problem.high:g}], "
            f"t = {problem.t_end:g}",
            "Interpolated on log–log scales between the settings below; — where none "
            "of them reaches the error, or all do better.",
            table(["solver", *(f"L1 = {error(t)}" for t in TARGETS)], reach),
            "Every setting:",
            table(["solver", "setting", "time", "L1 error"], every),
        ]
    )


def in_the_plane(problem: Problem, *, compiled: bool) -> str:
    """The table of one 2-D problem; py-pde takes minutes to compile one."""
    A = generator_matrix(problem.sde, problem.grid)
    start, t_end = problem.start, problem.t_end
    crank_nicolson = peers.sparse_crank_nicolson
    contenders = {
        OURS: ours(problem),
        "SciPy `splu`, Crank–Nicolson, our matrix": partial(
            crank_nicolson, start, A, t_end, problem.steps
        ),
        "SciPy `expm_multiply`, our matrix": partial(
            peers.exponential, start, A, t_end
        ),
        "FiPy, Crank–Nicolson": fipy(problem),
    }
    notes = []
    if compiled:
        started = time.process_time()
        stepping = pypde_compiled(problem)
        stepping()
        seconds = time.process_time() - started
        contenders["py-pde, its compiled stepping alone"] = stepping
        notes = [f"py-pde's compilation took {duration(seconds)} on top."]
    timings = interleave(contenders, rounds=9, slow_rounds=2, slow=2.0)
    g = problem.g.tolist()
    title = (
        f"### In the plane: [{problem.low:g}, {problem.high:g}]², "
        f"t = {t_end:g}, {problem.cells} × {problem.cells} cells, "
        f"{problem.steps} steps, g = {g}"
    )
    rows = _rows(problem, timings, OURS)
    return "\n\n".join([title, table(HEADER, rows), *notes])


def run() -> Iterator[str]:
    """The parts of the page."""
    yield (
        "## Fokker–Planck equation\n\n"
        "The Ornstein–Uhlenbeck process dx = −x dt + g dw from a mixture of three "
        "Gaussians, `three_gaussians_1d()` with g = √2 on the line and "
        "`three_gaussians()` in the plane. The error is ∫ |p − p_exact| dx over "
        "averages of cells at the end. All start from averages made before the clock, "
        "except the two with Richardson, which make theirs on two grids. "
        "Our solvers make, check and hand out the density after every step; the others "
        "return the last one."
    )
    yield on_the_line(SHORT)
    yield on_the_line(LONG)
    yield at_equal_error(SHORT)
    yield in_the_plane(DIAGONAL, compiled=True)
    yield in_the_plane(FULL, compiled=False)
