"""Independent truths: nothing here calls a formula of the package."""

import math
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from diffedu.mixture import GaussianMixture


def random_mixture(
    n_components: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> GaussianMixture:
    """A mixture without symmetry: unequal weights, correlated components."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(n_components, generator=g, dtype=dtype) + 0.2
    means = 1.5 * torch.randn(n_components, dim, generator=g, dtype=dtype)
    A = torch.randn(n_components, dim, dim, generator=g, dtype=dtype)
    covariances = A @ A.mT / dim + 0.2 * torch.eye(dim, dtype=dtype)
    return GaussianMixture(weights / weights.sum(), means, covariances)


def torch_mixture(mixture: GaussianMixture) -> MixtureSameFamily:
    """The same law from torch.distributions."""
    return noised(mixture, 1.0, 0.0)


def noised(mixture: GaussianMixture, alpha: float, sigma: float) -> MixtureSameFamily:
    """The law of α x_0 + σ ε from torch.distributions."""
    identity = torch.eye(mixture.dim, dtype=mixture.dtype)
    components = MultivariateNormal(
        float(alpha) * mixture.means,
        float(alpha) ** 2 * mixture.covariances + float(sigma) ** 2 * identity,
    )
    return MixtureSameFamily(Categorical(mixture.weights), components)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∇ of a pointwise function (n, d) to (n,), by automatic differentiation."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def hessian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∇² of a pointwise function (n, d) to (n,), by automatic differentiation."""

    def single(point: Tensor) -> Tensor:
        return function(point[None])[0]

    return torch.stack([torch.autograd.functional.hessian(single, p) for p in x])


def jacobian(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∂field_i/∂x_j at each point, shape (n, d, d), by automatic differentiation."""

    def single(point: Tensor) -> Tensor:
        return field(point[None])[0]

    return torch.stack([torch.autograd.functional.jacobian(single, p) for p in x])


def derivative(function: Callable[[Tensor], Tensor], t: float, h: float) -> Tensor:
    """d function/dt by the central difference of order 8."""
    weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
    at = [torch.tensor(t + k * h, dtype=torch.float64) for k in range(-4, 5)]
    return sum(
        w * (function(at[4 + k]) - function(at[4 - k]))
        for k, w in enumerate(weights, start=1)
    ) / (h * 1.0)


def linear_transition(
    A: Tensor, g: Tensor, t: float, b: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """dx = (A x + b) dt + g dw: x_t given x_0 is N(F x_0 + s, C); F, s, C.

    By exponentials of block matrices (Van Loan 1978).
    """
    d = len(A)
    b = torch.zeros(d, dtype=torch.float64) if b is None else b
    noise = np.block(
        [[-A.numpy(), (g @ g.mT).numpy()], [np.zeros((d, d)), A.numpy().T]]
    )
    blocks = scipy.linalg.expm(noise * t)
    flow = blocks[d:, d:].T
    affine = np.zeros((d + 1, d + 1))
    affine[:d, :d], affine[:d, d] = A.numpy(), b.numpy()
    shift = scipy.linalg.expm(affine * t)[:d, d]
    return tuple(map(torch.from_numpy, (flow, shift, flow @ blocks[:d, d:])))


def transported(
    mixture: GaussianMixture, A: Tensor, g: Tensor, t: float, b: Tensor | None = None
) -> MixtureSameFamily:
    """The law at t of dx = (A x + b) dt + g dw from the mixture."""
    flow, shift, spread = linear_transition(A, g, t, b)
    components = MultivariateNormal(
        mixture.means @ flow.mT + shift, flow @ mixture.covariances @ flow.mT + spread
    )
    return MixtureSameFamily(Categorical(mixture.weights), components)


def lattice(mixture: GaussianMixture, points: int, reach: float = 9.0) -> Tensor:
    """Quadrature points of equal weight, `reach` deviations past every mean.

    The trapezoidal rule converges faster than any power on functions that decay like a
    Gaussian, so `points` per axis need only resolve the narrowest component.
    """
    std = mixture.covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    low = (mixture.means - reach * std).amin(0)
    high = (mixture.means + reach * std).amax(0)
    axes = [
        torch.linspace(float(a), float(b), points, dtype=torch.float64)
        for a, b in zip(low, high, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def cell(lattice_points: Tensor) -> float:
    """The volume that one point of a lattice stands for."""
    steps = [axis.unique().diff()[0] for axis in lattice_points.mT]
    return float(torch.stack(steps).prod())


def bayes(
    mixture: GaussianMixture, x_t: Tensor, alpha: float, sigma: float, points: int
) -> tuple[Tensor, Tensor]:
    """x_0 on a lattice (N, d), and P(x_0 | x_t) there (n, N), by Bayes' rule alone."""
    x_0 = lattice(mixture, points)
    log_prior = torch_mixture(mixture).log_prob(x_0)
    distance = (x_t[:, None] - float(alpha) * x_0).square().sum(-1)
    return x_0, (log_prior - distance / (2 * float(sigma) ** 2)).softmax(-1)


def assert_mean(values: Tensor, truth: Tensor | float, allowance: float = 0.0) -> None:
    """The mean over the first axis is the truth, within 5 computed standard errors.

    `allowance` is a known bias, such as that of a finite step.
    """
    error = values.std(0) / math.sqrt(len(values))
    gap = (values.mean(0) - truth).abs()
    assert (gap <= 5 * error + allowance).all(), (gap / error).max()


def products(x: Tensor, y: Tensor | None = None) -> Tensor:
    """x_i y_j of centred samples: their mean is the (cross-)covariance."""
    y = x if y is None else y
    return (x - x.mean(0))[:, :, None] * (y - y.mean(0))[:, None, :]


def order(steps: list[int], errors: list[float]) -> float:
    """The order of convergence: minus the slope of log error against log steps."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def gauss_hermite(points: int = 60) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E[f(z)] for z ~ N(0, 1)."""
    nodes, weights = hermegauss(points)
    weights = weights / weights.sum()
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def unrolled(beta: Tensor) -> tuple[Tensor, Tensor]:
    """a, B of (x_0 … x_T) = a x_0 + B (ε_1 … ε_T), from the law of one step alone."""
    T = len(beta) - 1
    a, B = torch.zeros(T + 1).double(), torch.zeros(T + 1, T).double()
    a[0] = 1.0
    for t in range(1, T + 1):
        a[t], B[t] = (1 - beta[t]).sqrt() * a[t - 1], (1 - beta[t]).sqrt() * B[t - 1]
        B[t, t - 1] = beta[t].sqrt()
    return a, B
