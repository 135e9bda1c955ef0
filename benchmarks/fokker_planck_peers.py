"""Other ways to solve ∂p/∂t = ∇·(x p) + ½ ∇·(G ∇p), each as its users would write it.

Every function takes averages over equal cells of a box and returns those at t_end.
"""

from collections.abc import Callable
from typing import Any

import fipy
import numpy as np
import pde
from numpy import ndarray
from scipy.integrate import solve_ivp
from scipy.linalg import lapack, solve_banded
from scipy.sparse import csc_array, eye_array
from scipy.sparse.linalg import expm_multiply, splu
from scipy.special import exprel

# One dimension with ½ G = 1


def chang_cooper(edges: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """The tridiagonal A of dp/dt = A p, below, on and above its diagonal."""
    h = edges[1] - edges[0]
    w = -edges[1:-1] * h
    up, down = 1 / exprel(-w) / h**2, 1 / exprel(w) / h**2
    diagonal = np.zeros(len(edges) - 1)
    diagonal[:-1] -= up
    diagonal[1:] -= down
    return up, diagonal, down


def plain_crank_nicolson(p: ndarray, edges: ndarray, t_end: float, steps: int):
    """Chang–Cooper fluxes, (I − τA) p_new = (I + τA) p factored once by LAPACK."""
    tau = 0.5 * t_end / steps
    below, diagonal, above = (tau * a for a in chang_cooper(edges))
    *factors, _ = lapack.dgttrf(-below, 1 - diagonal, -above)
    for _ in range(steps):
        right = (1 + diagonal) * p
        right[1:] += below * p[:-1]
        right[:-1] += above * p[1:]
        p, _ = lapack.dgttrs(*factors, right)
    return p


def lapack_crank_nicolson(p: ndarray, edges: ndarray, t_end: float, steps: int):
    """The same without the product: half a step of backward Euler, extrapolated."""
    tau = 0.5 * t_end / steps
    below, diagonal, above = chang_cooper(edges)
    *factors, _ = lapack.dgttrf(-tau * below, 1 - tau * diagonal, -tau * above)
    for _ in range(steps):
        q, _ = lapack.dgttrs(*factors, p)
        p = 2 * q - p
    return p


def banded_crank_nicolson(p: ndarray, edges: ndarray, t_end: float, steps: int):
    """The last, with SciPy's `solve_banded` at every step."""
    tau = 0.5 * t_end / steps
    below, diagonal, above = chang_cooper(edges)
    M = np.zeros((3, len(p)))
    M[0, 1:], M[1], M[2, :-1] = -tau * above, 1 - tau * diagonal, -tau * below
    for _ in range(steps):
        p = 2 * solve_banded((1, 1), M, p) - p
    return p


def extrapolated(
    solve: Callable[..., ndarray],
    averages: Callable[[ndarray], ndarray],
    edges: ndarray,
    t_end: float,
    steps: int,
) -> ndarray:
    """Richardson extrapolation of a solver, with halved cells and steps."""
    fine_edges = np.linspace(edges[0], edges[-1], 2 * len(edges) - 1)
    coarse = solve(averages(edges), edges, t_end, steps)
    fine = solve(averages(fine_edges), fine_edges, t_end, 2 * steps)
    return (4 * fine.reshape(-1, 2).mean(1) - coarse) / 3


def lsoda(p: ndarray, edges: ndarray, t_end: float, rtol: float = 1e-3):
    """SciPy's LSODA on the semi-discrete equation, told that A is tridiagonal."""
    below, diagonal, above = chang_cooper(edges)
    band = np.zeros((3, len(p)))
    band[0, 1:], band[1], band[2, :-1] = above, diagonal, below

    def rhs(t: float, p: ndarray) -> ndarray:
        rate = diagonal * p
        rate[1:] += below * p[:-1]
        rate[:-1] += above * p[1:]
        return rate

    limits: dict[str, Any] = {"rtol": rtol, "atol": 1e-3 * rtol, "lband": 1, "uband": 1}
    ends = (0, t_end)
    solution = solve_ivp(rhs, ends, p, "LSODA", ends, jac=lambda t, p: band, **limits)
    return solution.y[:, -1]


# py-pde: finite differences; its walls reflect, and hold next to nothing here

WALLS = {"derivative": 0}


def pypde_field(p: ndarray, low: float, high: float) -> pde.ScalarField:
    """Averages over the cells of a box with equal sides as py-pde's field."""
    return pde.ScalarField(pde.CartesianGrid([(low, high)] * p.ndim, p.shape), p)


def pypde_equation(G: ndarray) -> pde.PDE:
    """The equation in py-pde's words."""
    D = 0.5 * G
    if len(D) == 1:
        text = f"{D[0, 0]} * laplace(p) + d_dx(x * p)"
    else:
        text = f"{D[0, 0]} * d2_dx2(p) + {D[1, 1]} * d2_dy2(p) + d_dx(x*p) + d_dy(y*p)"
        if D[0, 1]:
            text += f" + {2 * D[0, 1]} * d_dx(d_dy(p))"
    return pde.PDE({"p": text}, bc=WALLS)


def pypde(p: ndarray, low: float, high: float, t_end: float, G: ndarray):
    """As its manual begins: adaptive Euler steps, compiled with Numba at every call."""
    field = pypde_field(p, low, high)
    return pypde_equation(G).solve(field, t_range=t_end, tracker=None).data


def pypde_compiled(
    p: ndarray, low: float, high: float, t_end: float, G: ndarray, tolerance=1e-4
) -> Callable[[], ndarray]:
    """The compiled stepping of the former alone."""
    start = pypde_field(p, low, high)
    solver = pde.EulerSolver(
        pypde_equation(G), backend="numba", adaptive=True, tolerance=tolerance
    )
    stepper = solver.make_stepper(start)

    def run() -> ndarray:
        field = start.copy()
        stepper(field, 0, t_end)
        return field.data

    return run


class _OrnsteinUhlenbeck(pde.PDEBase):
    """½ G = 1 with py-pde's SciPy operators, which compile nothing."""

    def evolution_rate(self, state: Any, t: float = 0) -> Any:
        x = state.grid.axes_coords[0]
        flow = (state * x).gradient(WALLS, backend="scipy")[0]
        return state.laplace(WALLS, backend="scipy") + flow


def pypde_scipy(p: ndarray, low: float, high: float, t_end: float):
    """py-pde without compilation, stepped by SciPy's LSODA."""
    banded = {"method": "LSODA", "lband": 1, "uband": 1}
    return (
        _OrnsteinUhlenbeck()
        .solve(
            pypde_field(p, low, high),
            t_range=t_end,
            tracker=None,
            backend="scipy",
            solver="scipy",
            **banded,
        )
        .data
    )


# FiPy


def fipy_crank_nicolson(
    p: ndarray, low: float, high: float, t_end: float, steps: int, G: ndarray
) -> ndarray:
    """Exponential convection terms; a half step backward Euler, then extrapolated."""
    h, corner = (high - low) / len(p), [[low]] * p.ndim
    make = fipy.Grid1D if p.ndim == 1 else fipy.Grid2D
    counts = dict(zip(("nx", "ny"), p.shape, strict=False))
    sizes = dict(zip(("dx", "dy"), [h] * p.ndim, strict=False))
    mesh = make(**counts, **sizes) + corner
    # FiPy counts along x first
    phi = fipy.CellVariable(mesh=mesh, value=p.ravel(order="F"), hasOld=True)
    half_G = [(0.5 * G).tolist()]
    equation = fipy.TransientTerm() == fipy.DiffusionTerm(
        half_G
    ) - fipy.ExponentialConvectionTerm(-mesh.faceCenters)
    for _ in range(steps):
        phi.updateOld()
        equation.solve(phi, dt=0.5 * t_end / steps)
        phi.setValue(2 * phi.value - phi.old.value)
    return phi.value.reshape(p.shape, order="F")


# SciPy's sparse solvers, given the matrix A


def sparse_crank_nicolson(p: ndarray, A: Any, t_end: float, steps: int) -> ndarray:
    """Crank–Nicolson with SuperLU, factored once."""
    solve = splu(csc_array(eye_array(p.size) - 0.5 * t_end / steps * A)).solve
    q = p.ravel()
    for _ in range(steps):
        q = 2 * solve(q) - q
    return q.reshape(p.shape)


def exponential(p: ndarray, A: Any, t_end: float) -> ndarray:
    """e^{t A} p by SciPy's `expm_multiply`: no error in time."""
    return expm_multiply(t_end * A, p.ravel()).reshape(p.shape)
