"""The four losses against quadrature, their constants, optima and variances."""

import itertools
import math
from collections.abc import Callable

import pytest
import scipy.integrate
import torch
from torch import Tensor, nn

from diffedu.denoiser import ExactDenoiser, NeuralDenoiser
from diffedu.losses import (
    LogUniformRatio,
    UniformTime,
    denoising_loss,
    denoising_score_matching,
    explicit_loss,
    explicit_score_matching,
    fisher_information,
    gaussian,
    implicit_loss,
    implicit_score_matching,
    rademacher,
    relative_score_error,
    score_errors,
    sliced_loss,
    sliced_score_matching,
    sliced_score_matching_original,
    spherical,
    target_variance,
)
from diffedu.mixture import GaussianMixture, three_gaussians, three_gaussians_1d
from diffedu.nets import MLP
from diffedu.path import (
    Cosine,
    GaussianPath,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
)
from tests.package.cases import every_path, every_target
from tests.package.oracles import (
    assert_mean,
    bayes,
    cell,
    derivative,
    gauss_hermite,
    gradient,
    jacobian,
    lattice,
    noised,
    random_mixture,
    torch_mixture,
)

every_mixture = pytest.mark.parametrize(
    "mixture",
    [three_gaussians_1d(), three_gaussians(), random_mixture(2, 2, seed=5)],
    ids=["line", "plane", "random"],
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


class Field:
    """s(x) = W tanh(U x + b) + A x with random entries: nobody's gradient."""

    def __init__(self, dim: int, seed: int = 0, hidden: int = 7) -> None:
        self.U, self.W = normal(hidden, dim, seed=seed), normal(dim, hidden, seed=seed)
        self.b, self.A = normal(hidden, seed=seed + 1), normal(dim, dim, seed=seed + 1)

    def __call__(self, x: Tensor) -> Tensor:
        return (x @ self.U.T + self.b).tanh() @ self.W.T + x @ self.A.T

    def jacobian(self, x: Tensor) -> Tensor:
        """∂s_i/∂x_j = Σ_h W_ih (1 − tanh²)_h U_hj + A_ij, by hand."""
        slope = 1 - (x @ self.U.T + self.b).tanh() ** 2
        return torch.einsum("ih,nh,hj->nij", self.W, slope, self.U) + self.A


def random_net(dim: int, seed: int = 3) -> nn.Module:
    """An MLP in float64 that answers numbers of order one."""
    net = MLP(dim, hidden=12, depth=2, features=4, generator=seeded(seed)).double()
    with torch.no_grad():
        net.layers[-1].weight.copy_(normal(dim, 12, seed=seed))
        net.layers[-1].bias.copy_(normal(dim, seed=seed))
    return net.requires_grad_(False)


def expectation(mixture: GaussianMixture, values: Tensor, x: Tensor) -> float:
    """E[values] under the mixture, by quadrature on the lattice x."""
    p = torch_mixture(mixture).log_prob(x).exp()
    return float((p * values.detach()).sum()) * cell(x)


# One noise level: each loss is what it says


def test_the_losses_are_their_formulas_point_by_point() -> None:
    field, x, nu = Field(3), normal(9, 3, seed=1), normal(9, 3, seed=2)
    s, J = field(x), field.jacobian(x)
    square, true = s.square().sum(1), normal(9, 3, seed=3)
    trace = J.diagonal(dim1=1, dim2=2).sum(1)
    along = torch.einsum("ni,nij,nj->n", nu, J, nu)
    close = torch.testing.assert_close
    close(explicit_score_matching(field, x, true), (s - true).square().sum(1))
    close(implicit_score_matching(field, x), square + 2 * trace)
    close(sliced_score_matching(field, x, nu), square + 2 * along)
    slope = (nu * s).sum(1)
    close(sliced_score_matching_original(field, x, nu), slope**2 + 2 * along)
    noisy = 0.7 * x + 0.4 * nu
    conditional = (noisy - 0.7 * x) / 0.4**2
    close(
        denoising_score_matching(field, x, nu, 0.4, 0.7),
        (field(noisy) + conditional).square().sum(1),
    )
    close(
        denoising_score_matching(field, x, nu, 0.4),
        (field(x + 0.4 * nu) + nu / 0.4).square().sum(1),
    )


def test_a_score_that_does_not_depend_on_the_point_has_no_divergence() -> None:
    x, nu = normal(5, 2, seed=1), normal(5, 2, seed=2)
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    for score in (lambda x: torch.ones_like(x), lambda x: weight.expand_as(x)):
        for loss in (
            implicit_score_matching(score, x),
            sliced_score_matching(score, x, nu),
        ):
            torch.testing.assert_close(loss.detach(), torch.full((5,), 2.0).double())


def test_the_losses_are_differentiable_in_the_parameters_of_the_score() -> None:
    """d/da of a²‖x‖² + 2 a d at s = a x, and the graph stays off x."""
    x, nu = normal(6, 2, seed=1), rademacher(normal(6, 2, seed=2), seeded())
    for loss in (
        implicit_score_matching,
        lambda s, x: sliced_score_matching(s, x, nu),
    ):
        a = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
        loss(lambda x, a=a: a * x, x).mean().backward()
        truth = (2 * a * x.square().sum(1).mean() + 2 * 2).detach()
        torch.testing.assert_close(a.grad, truth)
    assert x.grad is None
    assert not x.requires_grad


def test_values_without_gradients_are_the_same() -> None:
    field, x = Field(2), normal(5, 2, seed=1)
    with torch.no_grad():
        quiet = implicit_score_matching(field, x)
    torch.testing.assert_close(quiet, implicit_score_matching(field, x))


# The constants, at random fields and not only at the truth


@every_mixture
@pytest.mark.parametrize("seed", [0, 1])
def test_explicit_is_implicit_plus_the_fisher_information(
    mixture: GaussianMixture, seed: int
) -> None:
    """Integration by parts, by quadrature."""
    field = Field(mixture.dim, seed)
    x = lattice(mixture, 2000 if mixture.dim == 1 else 160)
    true = gradient(torch_mixture(mixture).log_prob, x)
    square = (field(x) - true).square().sum(1)
    explicit = expectation(mixture, square, x)
    got = expectation(mixture, explicit_score_matching(field, x, true), x)
    assert got == pytest.approx(explicit, rel=1e-12)
    implicit = expectation(mixture, implicit_score_matching(field, x), x)
    constant = expectation(mixture, true.square().sum(1), x)
    assert implicit + constant == pytest.approx(explicit, rel=1e-8)
    fisher = expectation(mixture, fisher_information(mixture, x), x)
    assert fisher == pytest.approx(constant, rel=1e-10)
    # at the truth the implicit loss is minus the constant
    at_truth = expectation(mixture, implicit_score_matching(mixture.score, x), x)
    assert at_truth == pytest.approx(-constant, rel=1e-8)


def test_the_fisher_information_of_a_gaussian_is_the_trace_of_its_precision() -> None:
    mixture = random_mixture(1, 3, seed=2)
    x = mixture.sample(40_000, seeded())
    truth = float(torch.linalg.inv(mixture.covariances[0]).trace())
    assert_mean(fisher_information(mixture, x), truth)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.3), (0.7, 0.4), (0.3, 1.1)])
def test_denoising_is_explicit_plus_a_constant(alpha: float, sigma: float) -> None:
    """d/σ² − E‖∇log p_t‖², by quadrature over x_0 and ε on the line."""
    mixture, field = three_gaussians_1d(), Field(1, seed=4)
    x_0 = lattice(mixture, 600)
    eps = torch.linspace(-9, 9, 301, dtype=torch.float64)[:, None]
    pairs = x_0.repeat_interleave(len(eps), 0), eps.repeat(len(x_0), 1)
    weight = torch_mixture(mixture).log_prob(pairs[0]).exp() * cell(x_0)
    weight = weight * (-0.5 * pairs[1][:, 0] ** 2).exp() / math.sqrt(2 * math.pi) * 0.06
    values = denoising_score_matching(field, *pairs, sigma, alpha)
    denoising = float((weight * values).sum())
    law = noised(mixture, alpha, sigma)
    x_t = torch.linspace(-16, 16, 6001, dtype=torch.float64)[:, None]
    p = law.log_prob(x_t).exp() * cell(x_t)
    true = gradient(law.log_prob, x_t)
    explicit = float((p * (field(x_t) - true)[:, 0] ** 2).sum())
    constant = 1 / sigma**2 - float((p * true[:, 0] ** 2).sum())
    assert denoising - explicit == pytest.approx(constant, rel=1e-7)
    assert constant > 0.05


# Sliced: unbiased over the directions, and how noisy


def directions(kind: str) -> tuple[Tensor, Tensor]:
    """Nodes and weights that average quadratic forms over ν in the plane, exactly."""
    if kind == "rademacher":
        nu = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)))
        return nu.double(), torch.full((4,), 1 / 4).double()
    if kind == "spherical":
        angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
        nu = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1)
        return nu, torch.full((8,), 1 / 8).double()
    z, w = gauss_hermite(6)
    return torch.cartesian_prod(z, z), torch.cartesian_prod(w, w).prod(1)


KINDS = {"rademacher": rademacher, "gaussian": gaussian, "spherical": spherical}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_sliced = pytest.mark.parametrize(
    "sliced", [sliced_score_matching, sliced_score_matching_original]
)


@every_kind
@every_sliced
def test_the_mean_over_directions_is_the_implicit_loss(
    kind: str, sliced: Callable
) -> None:
    """Over all directions at once, without chance."""
    field, x = Field(2, seed=6), normal(7, 2, seed=1)
    nodes, weights = directions(kind)
    every = torch.stack([sliced(field, x, nu.expand_as(x)) for nu in nodes])
    truth = implicit_score_matching(field, x)
    torch.testing.assert_close(weights @ every, truth, rtol=1e-10, atol=1e-10)
    # not so for directions of unit length
    short = torch.stack([sliced(field, x, nu.expand_as(x) / 2**0.5) for nu in nodes])
    assert ((weights @ short - truth).abs() > 0.05).all()


@every_kind
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_directions_have_the_identity_as_second_moment(kind: str, dim: int) -> None:
    like = torch.zeros(40_000, dim, dtype=torch.float64)
    nu = KINDS[kind](like, seeded(8))
    assert nu.shape == like.shape
    assert nu.dtype == like.dtype
    outer = nu[:, :, None] * nu[:, None, :]
    identity = torch.eye(dim, dtype=torch.float64)
    # what does not vary, such as the squares of ±1, differs by rounding
    assert_mean(outer, identity, allowance=1e-12)
    assert_mean(nu, 0.0)
    if kind == "rademacher":
        assert (nu.abs() == 1).all()
    if kind == "spherical":
        norm = nu.norm(dim=1)
        torch.testing.assert_close(norm, torch.full_like(norm, math.sqrt(dim)))
    assert torch.equal(nu, KINDS[kind](like, seeded(8)))
    single = KINDS[kind](like.float(), seeded(8))
    assert single.dtype == torch.float32


@every_kind
def test_the_variance_of_the_trace_estimate(kind: str) -> None:
    """Of νᵀAν for a random A, d = 6, and what orders the three."""
    d, n = 6, 60_000
    A = normal(d, d, seed=9)
    S = 0.5 * (A + A.T)
    square, trace = float(S.square().sum()), float(S.trace())
    variance = {
        "gaussian": 2 * square,
        "rademacher": 2 * (square - float(S.diagonal().square().sum())),
        "spherical": d / (d + 2) * (trace**2 + 2 * square) - trace**2,
    }
    nu = KINDS[kind](torch.zeros(n, d, dtype=torch.float64), seeded(10))
    point = normal(1, d, seed=11)
    values = sliced_score_matching(lambda x: x @ A.T, point.expand(n, d), nu)
    estimate = 0.5 * (values - (point @ A.T).square().sum())
    assert_mean(estimate, trace)
    assert_mean((estimate - trace) ** 2, variance[kind])
    assert variance["rademacher"] < variance["gaussian"]
    assert variance["spherical"] < variance["gaussian"]


def test_the_exact_square_lowers_the_variance_of_the_sliced_loss() -> None:
    """At s = A x with A = −I: Var νᵀAν is 0 for ν = ±1, that of (νᵀs)² is not."""
    x, n = torch.tensor([[0.8, -1.3]], dtype=torch.float64), 20_000
    nu = rademacher(torch.zeros(n, 2, dtype=torch.float64), seeded(12))
    reduced = sliced_score_matching(torch.neg, x.expand(n, 2), nu)
    original = sliced_score_matching_original(torch.neg, x.expand(n, 2), nu)
    assert float(reduced.detach().std()) < 1e-12
    # (νᵀs)² = ‖s‖² + 2 ν_1 ν_2 s_1 s_2
    assert_mean((original - original.mean()) ** 2, (2 * 0.8 * 1.3) ** 2, 1e-3)


# The optimum, reached


WEIGHT, CENTRES, VARIANCES = 0.35, [[-0.8, 0.2], [0.9, -0.5]], [0.25, 0.4]
TRUTH = GaussianMixture(
    [WEIGHT, 1 - WEIGHT],
    CENTRES,
    torch.stack([v * torch.eye(2).double() for v in VARIANCES]),
)
ALPHA, SIGMA = 0.8, 0.5


def family(theta: Tensor) -> Callable[[Tensor], Tensor]:
    """θ_0 times the score of two round Gaussians: weight, centres, variances."""
    gain, logit, log_v = theta[0], theta[1], theta[2:4]
    centres = theta[4:].reshape(2, 2)

    def score(x: Tensor) -> Tensor:
        away = centres - x[:, None]
        log_w = torch.stack([nn.functional.logsigmoid(z) for z in (logit, -logit)])
        log_joint = log_w - log_v - 0.5 * away.square().sum(-1) / log_v.exp()
        r = log_joint.softmax(-1)
        return gain * ((r / log_v.exp())[..., None] * away).sum(1)

    return score


def parameters(gain: float, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
    variances = [alpha**2 * v + sigma**2 for v in VARIANCES]
    return torch.tensor(
        [gain, math.log(WEIGHT / (1 - WEIGHT)), *map(math.log, variances)]
        + [alpha * m for centre in CENTRES for m in centre],
        dtype=torch.float64,
    )


def minimise(loss: Callable[[Callable], Tensor], near: Tensor) -> Tensor:
    """The minimum by L-BFGS, from a start some way off."""
    theta = near + 0.25 * normal(8, seed=13)
    theta.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=80,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(family(theta))
        value.backward()
        return value

    optimizer.step(closure)
    return theta.detach()


def on_a_lattice(values: Callable[[Tensor], Tensor]) -> Tensor:
    x = lattice(TRUTH, 44, reach=6.0)
    p = torch_mixture(TRUTH).log_prob(x).exp() * cell(x)
    return (p * values(x)).sum()


def over_directions(s: Callable, x: Tensor, sliced: Callable, length: float) -> Tensor:
    """The mean over ν = length · (±1, ±1)."""
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    values = [sliced(s, x, length * nu.expand_as(x)) for nu in signs]
    return torch.stack(values).mean(0)


ONE_LEVEL = {
    "explicit": lambda s, x: explicit_score_matching(s, x, TRUTH.score(x)),
    "implicit": implicit_score_matching,
    "sliced": lambda s, x: over_directions(s, x, sliced_score_matching, 1.0),
    "original": lambda s, x: over_directions(s, x, sliced_score_matching_original, 1.0),
}


@pytest.mark.parametrize("name", ONE_LEVEL)
def test_the_optimum_is_the_true_score(name: str) -> None:
    truth = parameters(1.0)
    best = minimise(lambda s: on_a_lattice(lambda x: ONE_LEVEL[name](s, x)), truth)
    torch.testing.assert_close(best, truth, rtol=0, atol=1e-4)


def test_the_optimum_of_denoising_is_the_score_of_the_noised_law() -> None:
    truth = parameters(1.0, ALPHA, SIGMA)
    z, w = gauss_hermite(10)
    nodes = torch.cartesian_prod(z, z, z, z)
    weights = torch.cartesian_prod(w, w, w, w).prod(1)
    heavy = weights > 1e-9
    nodes, weights = nodes[heavy], weights[heavy]
    shares = torch.tensor([WEIGHT, 1 - WEIGHT]).double()
    x_0 = torch.cat(
        [
            torch.tensor(m).double() + math.sqrt(v) * nodes[:, :2]
            for m, v in zip(CENTRES, VARIANCES, strict=True)
        ]
    )
    eps, mass = nodes[:, 2:].repeat(2, 1), (shares[:, None] * weights).flatten()
    best = minimise(
        lambda s: mass @ denoising_score_matching(s, x_0, eps, SIGMA, ALPHA), truth
    )
    torch.testing.assert_close(best, truth, rtol=0, atol=1e-3)


def test_with_directions_of_unit_length_the_optimum_is_one_over_d_of_the_score() -> (
    None
):
    slipped = parameters(0.5)

    def loss(s: Callable) -> Tensor:
        return on_a_lattice(
            lambda x: over_directions(s, x, sliced_score_matching, math.sqrt(0.5))
        )

    best = minimise(loss, slipped)
    torch.testing.assert_close(best, slipped, rtol=0, atol=1e-4)


# All noise levels


def learned(path: GaussianPath, dim: int, target: str = "v") -> NeuralDenoiser:
    return NeuralDenoiser(path, random_net(dim), target, 0.2, 0.9)


def rate(path: GaussianPath, target: str, t: float) -> float:
    """By what factor the error of the target is that of ε, up to a sign.

    At a given x_t an error e of ε is −(σ/α) e of x_0.
    """
    h = min(t, path.t_max - t) / 40
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    alpha_dot = float(derivative(path.alpha, t, h))
    sigma_dot = float(derivative(path.sigma, t, h))
    return {
        "x0": sigma / alpha,
        "eps": 1.0,
        "score": 1 / sigma,
        "v": (alpha**2 + sigma**2) / alpha,
        "velocity": sigma_dot - alpha_dot * sigma / alpha,
    }[target]


@every_path
@every_target
def test_every_target_is_the_noise_loss_with_another_weight(
    path: GaussianPath, target: str
) -> None:
    denoiser = learned(path, 2)
    x_0, eps = normal(2, 5, 2, seed=1)
    times = [0.05, 0.2, 0.4, 0.6, 0.8]
    t = path.t_max * torch.tensor(times).double()
    # Straight and Cosine move σ̇ in seconds; finite differences leave 1e-9 of it
    factor = torch.tensor([rate(path, target, float(s)) ** 2 for s in t])
    noise = (denoiser.eps(path.perturb(x_0, eps, t), t) - eps).square().sum(1)
    got = denoising_loss(denoiser, x_0, t, eps, target)
    torch.testing.assert_close(got, factor * noise, rtol=1e-6, atol=1e-9)
    weighted = denoising_loss(denoiser, x_0, t, eps, target, lambda t: 2 + t.sin())
    torch.testing.assert_close(weighted, (2 + t.sin()) * got)
    # explicit: against the exact field, where the same factors hold
    exact = ExactDenoiser(path, three_gaussians())
    x_t = path.perturb(x_0, eps, t)
    noise = (denoiser.eps(x_t, t) - exact.eps(x_t, t)).square().sum(1)
    got = explicit_loss(denoiser, exact, x_t, t, target)
    torch.testing.assert_close(got, factor * noise, rtol=1e-6, atol=1e-9)
    weighted = explicit_loss(denoiser, exact, x_t, t, target, lambda t: 2 + t.sin())
    torch.testing.assert_close(weighted, (2 + t.sin()) * got)


@every_path
@every_target
def test_denoising_is_explicit_plus_the_variance_of_the_target(
    path: GaussianPath, target: str
) -> None:
    """At one level, by quadrature over x_0 and ε on the line."""
    mixture, t = three_gaussians_1d(), 0.4 * path.t_max
    denoiser, exact = learned(path, 1), ExactDenoiser(path, mixture)
    x_0 = lattice(mixture, 400, reach=8.0)
    eps = torch.linspace(-8, 8, 200, dtype=torch.float64)[:, None]
    pairs = x_0.repeat_interleave(len(eps), 0), eps.repeat(len(x_0), 1)
    mass = torch_mixture(mixture).log_prob(pairs[0]).exp() * cell(x_0) * cell(eps)
    mass = mass * (-0.5 * pairs[1][:, 0] ** 2).exp() / math.sqrt(2 * math.pi)
    x_t = path.perturb(*pairs, t)
    denoising = mass @ denoising_loss(denoiser, pairs[0], t, pairs[1], target)
    explicit = mass @ explicit_loss(denoiser, exact, x_t, t, target)
    constant = mass @ target_variance(exact, x_t, t, target)
    assert float(denoising) == pytest.approx(float(explicit + constant), rel=1e-8)
    assert float(constant) > 1e-3 * float(denoising)


@every_path
@every_target
def test_the_variance_of_the_target_by_bayes_rule(
    path: GaussianPath, target: str
) -> None:
    mixture = three_gaussians()
    times = path.t_max * torch.tensor([0.3, 0.5, 0.8]).double()
    x_t = normal(3, 2, seed=2)
    got = target_variance(ExactDenoiser(path, mixture), x_t, times, target)
    for i, t in enumerate(times.tolist()):
        alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
        x_0, p = bayes(mixture, x_t[i : i + 1], alpha, sigma, points=250)
        # at a given x_t, a change of x_0 by 1 is one of ε by −α/σ
        y = x_0 * rate(path, target, t) * alpha / sigma
        mean = p[0] @ y
        truth = p[0] @ (y - mean).square().sum(1)
        assert float(got[i]) == pytest.approx(float(truth), rel=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_mean_variance_of_the_conditional_score(sigma: float) -> None:
    """d/σ² − E‖∇log p_t‖², by quadrature."""
    mixture, path = three_gaussians(), VarianceExploding()
    t = float(path.time_at(sigma))
    law = noised(mixture, 1.0, sigma)
    x = lattice(mixture, 150, reach=9.0 + 12 * sigma)
    p = law.log_prob(x).exp() * cell(x)
    constant = p @ target_variance(ExactDenoiser(path, mixture), x, t, "score")
    fisher = p @ gradient(law.log_prob, x).square().sum(1)
    assert float(constant) == pytest.approx(2 / sigma**2 - float(fisher), rel=1e-6)


@every_path
def test_implicit_and_sliced_over_all_levels(path: GaussianPath) -> None:
    """w (‖s‖² + 2 ∇·s), with the Jacobian of every point on its own."""
    denoiser = learned(path, 2)
    x_t, nu = normal(2, 4, 2, seed=1)
    t = path.t_max * torch.tensor([0.1, 0.3, 0.5, 0.9]).double()
    trace, along = [], []
    for i in range(4):
        J = jacobian(lambda x, i=i: denoiser.score(x, t[i]), x_t[i : i + 1])[0]
        trace.append(J.trace())
        along.append(nu[i] @ J @ nu[i])
    square = denoiser.score(x_t, t).square().sum(1)
    implicit = square + 2 * torch.stack(trace)
    sliced = square + 2 * torch.stack(along)
    torch.testing.assert_close(implicit_loss(denoiser, x_t, t), implicit)
    torch.testing.assert_close(sliced_loss(denoiser, x_t, t, nu), sliced)
    torch.testing.assert_close(
        implicit_loss(denoiser, x_t, t, path.variance), path.variance(t) * implicit
    )
    torch.testing.assert_close(
        sliced_loss(denoiser, x_t, t, nu, path.variance), path.variance(t) * sliced
    )


@every_path
def test_all_four_report_the_same_number_at_the_same_network(
    path: GaussianPath,
) -> None:
    """σ²-weighted, over random levels: explicit, and what the others lack of it."""
    mixture, n = three_gaussians(), 8000
    denoiser, exact = learned(path, 2), ExactDenoiser(path, mixture)
    levels = LogUniformRatio(path, 0.1, 5.0)
    g = seeded(14)
    t = levels.sample(n, g)
    x_0, eps = mixture.sample(n, g), gaussian(torch.zeros(n, 2).double(), g)
    x_t = path.perturb(x_0, eps, t)
    weight = path.variance
    explicit = explicit_loss(denoiser, exact, x_t, t, "score", weight)
    noise = denoising_loss(denoiser, x_0, t, eps, "score", weight)
    variance = weight(t) * target_variance(exact, x_t, t, "score")
    assert_mean(noise - variance - explicit, 0.0)
    fisher = weight(t) * exact.score(x_t, t).square().sum(1)
    implicit = implicit_loss(denoiser, x_t, t, weight)
    assert_mean(implicit + fisher - explicit, 0.0)
    nu = rademacher(x_t, g)
    sliced = sliced_loss(denoiser, x_t, t, nu, weight)
    assert_mean(sliced + fisher - explicit, 0.0)


def test_a_number_a_scalar_and_a_vector_of_times_agree() -> None:
    path = VariancePreserving()
    denoiser, exact = learned(path, 2), ExactDenoiser(path, three_gaussians())
    x_0, eps, nu = normal(3, 4, 2, seed=1)
    scalar = torch.tensor(0.3, dtype=torch.float64)
    times = [0.3, scalar, scalar.expand(4)]
    weight = path.variance
    for loss in (
        lambda t: denoising_loss(denoiser, x_0, t, eps, "v", weight),
        lambda t: explicit_loss(denoiser, exact, x_0, t, "v", weight),
        lambda t: implicit_loss(denoiser, x_0, t, weight),
        lambda t: sliced_loss(denoiser, x_0, t, nu, weight),
        lambda t: target_variance(exact, x_0, t, "v"),
    ):
        first, *others = [loss(t) for t in times]
        for other in others:
            torch.testing.assert_close(other, first)


# Which noise levels


@every_path
@pytest.mark.parametrize("kind", [LogUniformRatio, UniformTime])
def test_the_density_of_times_is_that_of_the_sample(
    path: GaussianPath, kind: type
) -> None:
    """∫ density = 1, and its integral up to each sample is its rank."""
    low, high = (0.02, 9.0) if kind is LogUniformRatio else (0.1, 0.7)
    levels = kind(path, low, high)
    ends = low, high
    if kind is LogUniformRatio:
        ends = float(path.time_at(low)), float(path.time_at(high))

    def share(a: float, b: float) -> float:
        # the substitution t = s² tames 1/t
        density = scipy.integrate.quad(
            lambda s: 2 * s * float(levels.density(s * s)),
            math.sqrt(a),
            math.sqrt(b),
            epsabs=1e-10,
            epsrel=1e-9,
            limit=200,
        )
        return density[0]

    assert share(*ends) == pytest.approx(1, abs=1e-7)
    t = levels.sample(10, seeded(15))
    for i, time in enumerate(t.tolist()):
        # stratified: the i-th of ten lies in the i-th tenth
        assert i / 10 - 1e-9 <= share(ends[0], time) <= (i + 1) / 10 + 1e-9


def test_ratios_are_log_uniform() -> None:
    path = Cosine()
    levels = LogUniformRatio(path, 0.05, 4.0)
    t = torch.cat([levels.sample(1, seeded(i)) for i in range(800)])
    log_ratio = (torch.tan(0.5 * math.pi * t).log() - math.log(0.05)) / math.log(80)
    assert_mean(log_ratio, 0.5)
    assert_mean((log_ratio - 0.5) ** 2, 1 / 12)


def test_uniform_time_ends_where_the_path_does() -> None:
    levels = UniformTime(OrnsteinUhlenbeck(horizon=2.5))
    t = levels.sample(1000, seeded())
    assert 0 <= float(t.min()) < 0.0025
    assert 2.4975 <= float(t.max()) <= 2.5
    torch.testing.assert_close(levels.density(t), torch.full_like(t, 0.4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_are_drawn_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    for levels in (LogUniformRatio(Cosine()), UniformTime(Cosine(), 0.1)):
        t = levels.sample(5, seeded(), dtype)
        assert t.dtype == levels.density(t).dtype == dtype
        assert torch.equal(t, levels.sample(5, seeded(), dtype))


def test_importance_sampling_keeps_the_mean_and_lowers_the_variance() -> None:
    """∫ E‖score loss‖² dt on [δ, 1] at a network: w/density, by both densities.

    The loss is like 1/σ² near the data: log-uniform levels go where it is large.
    """
    path, mixture = VariancePreserving(), three_gaussians_1d()
    denoiser = learned(path, 1, "eps")
    low = float(path.time_at(0.02))
    uniform = UniformTime(path, low)
    ratio = LogUniformRatio(path, 0.02, float(path.sigma(1.0) / path.alpha(1.0)))
    g, estimates = seeded(16), {}
    for levels in (uniform, ratio):
        values, density = [], levels.density
        for _ in range(100):
            t = levels.sample(32, g)
            x_0 = mixture.sample(32, g)
            eps = gaussian(x_0, g)
            loss = denoising_loss(
                denoiser, x_0, t, eps, "score", lambda t, p=density: 1 / p(t)
            )
            values.append(loss.mean())
        estimates[type(levels)] = torch.stack(values)
    by_time, by_ratio = estimates[UniformTime], estimates[LogUniformRatio]
    error = (by_time.var() / 100 + by_ratio.var() / 100).sqrt()
    assert abs(float(by_time.mean() - by_ratio.mean())) <= 5 * float(error)
    assert float(by_time.var()) > 4 * float(by_ratio.var())


# The measure of a field


def test_score_errors_between_two_gaussians() -> None:
    """ε of N(0, s²I) is σ x_t/(α²s² + σ²): error and norm in closed form."""
    path, d, s, q, n = VariancePreserving(), 2, 1.3, 0.8, 4000

    def law(std: float) -> GaussianMixture:
        return GaussianMixture([1.0], [[0.0] * d], std**2 * torch.eye(d).double()[None])

    exact, other = ExactDenoiser(path, law(s)), ExactDenoiser(path, law(q))
    ratios, error, norm = score_errors(other, exact, n=n, generator=seeded(17))
    torch.testing.assert_close(
        ratios, torch.logspace(math.log10(0.02), 1, 20, dtype=torch.float64)
    )
    alpha2, sigma2 = 1 / (1 + ratios**2), ratios**2 / (1 + ratios**2)
    total, off = alpha2 * s**2 + sigma2, alpha2 * q**2 + sigma2
    true_error = sigma2 * d * total * (1 / off - 1 / total) ** 2
    true_norm = sigma2 * d / total
    # ‖x_t‖² is χ² with n d degrees of freedom
    spread = 5 * math.sqrt(2 / (n * d))
    assert ((error / true_error - 1).abs() <= spread).all()
    assert ((norm / true_norm - 1).abs() <= spread).all()
    relative = relative_score_error(other, exact, n=n, generator=seeded(17))
    assert relative == pytest.approx(float(error.sum() / norm.sum()))
    truth = float(true_error.mean() / true_norm.mean())
    assert relative == pytest.approx(truth, rel=2 * spread)
    assert relative_score_error(exact, exact, generator=seeded()) == 0


def test_score_errors_at_chosen_ratios() -> None:
    path = Straight()
    exact = ExactDenoiser(path, three_gaussians())
    chosen = torch.tensor([0.5, 2.0]).double()
    zero = NeuralDenoiser(path, random_net(2), "eps")
    ratios, error, norm = score_errors(zero, exact, chosen, 500, seeded())
    assert torch.equal(ratios, chosen)
    assert (error > 0).all()
    # E‖ε*‖² = σ² E‖∇log p_t‖²
    for ratio, value in zip(chosen.tolist(), norm, strict=True):
        alpha, sigma = 1 / (1 + ratio), ratio / (1 + ratio)
        law = noised(three_gaussians(), alpha, sigma)
        x = lattice(three_gaussians(), 150, reach=9.0 + 6 * sigma)
        fisher = law.log_prob(x).exp() @ gradient(law.log_prob, x).square().sum(1)
        truth = sigma**2 * float(fisher) * cell(x)
        assert float(value) == pytest.approx(truth, rel=0.25)
    again = score_errors(zero, exact, chosen, 500, seeded())
    assert torch.equal(again[1], error)
