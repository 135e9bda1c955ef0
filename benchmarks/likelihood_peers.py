"""What `diffedu.flow_log_prob` is measured beside, each in its shortest honest form.

All integrate the probability flow of the variance-preserving SDE in its own time t,
dx = v dt with v = −½β(t)(x + ∇log p_t), and log p along with it; all get the same exact
score, and differentiate v by automatic differentiation.
"""

from collections.abc import Callable

import torch
import torchdiffeq
from scipy.integrate import solve_ivp
from torch import Tensor
from zuko.transforms import FreeFormJacobianTransform

Field = Callable[[Tensor, Tensor], Tensor]
LogProb = Callable[[Tensor], Tensor]

START, END = 1e-5, 1.0
"""Where the published code starts, to keep away from σ = 0, and where it ends."""


def flow(score: Field, beta_min: float = 0.1, beta_max: float = 20.0) -> Field:
    """v(x, t)."""

    def v(x: Tensor, t: Tensor) -> Tensor:
        t = t.clamp(max=END)  # solvers look past the end and interpolate
        beta = beta_min + t * (beta_max - beta_min)
        return -0.5 * beta * (x + score(x, t))

    return v


def rates(v: Field, x: Tensor, t: Tensor, probe: Tensor | None) -> tuple:
    """v and its divergence: exact by d backward passes, or by one probe."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = v(x, t)
        if probe is not None:
            slope = torch.autograd.grad((value * probe).sum(), x)[0]
            return value.detach(), (slope * probe).sum(-1)
        divergence = torch.zeros_like(x[:, 0])
        for i in range(x.shape[1]):
            row = torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)[0]
            divergence += row[:, i]
    return value.detach(), divergence


def scipy_rk45(
    v: Field,
    x: Tensor,
    prior: LogProb,
    tolerance: float = 1e-5,
    probe: Tensor | None = None,
) -> Tensor:
    """`solve_ivp`, as in the code published with Song et al. 2021."""
    n, d = x.shape

    def packed(t, state):
        points = torch.from_numpy(state[: n * d]).reshape(n, d)
        value, change = rates(v, points, torch.tensor(t), probe)
        return torch.cat([value.reshape(-1), change]).numpy()

    first = torch.cat([x.reshape(-1), torch.zeros(n).to(x)]).numpy()
    solution = solve_ivp(
        packed, (START, END), first, method="RK45", rtol=tolerance, atol=tolerance
    )
    last = torch.from_numpy(solution.y[:, -1].copy())
    return prior(last[: n * d].reshape(n, d)) + last[n * d :]


def torchdiffeq_dopri5(
    v: Field,
    x: Tensor,
    prior: LogProb,
    tolerance: float = 1e-5,
    probe: Tensor | None = None,
) -> Tensor:
    """`odeint` with its default method."""
    path, change = torchdiffeq.odeint(
        lambda t, state: rates(v, state[0], t, probe),
        (x, torch.zeros_like(x[:, 0])),
        torch.tensor([START, END]).to(x),
        rtol=tolerance,
        atol=tolerance,
    )
    return prior(path[-1]) + change[-1]


def zuko_free_form(
    v: Field, x: Tensor, prior: LogProb, tolerance: float = 1e-5, exact: bool = True
) -> Tensor:
    """zuko's transform for continuous flows; at 1e-5 its tolerances are its own."""
    transform = FreeFormJacobianTransform(
        lambda t, x: v(x, t),
        torch.tensor(START).to(x),
        torch.tensor(END).to(x),
        atol=0.1 * tolerance,
        rtol=tolerance,
        exact=exact,
    )
    end, change = transform.call_and_ladj(x)
    return prior(end) + change
