"""Bad input gets a ValueError that names the argument, what came and what is allowed.

The checks of shapes that run in the other tests are off here, as they are for users.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from diffedu.bounds import (
    GaussHermite,
    LinearVAE,
    MonteCarlo,
    angle_flow,
    continuous_elbo,
    elbo,
    elbo_terms,
    first_order_gap,
    flow_log_prob,
    importance_log_prob,
    mixture_nodes,
    model_log_prob,
    reverse_mean,
    score_gap,
    standard_log_prob,
    time_nodes,
)
from diffedu.ddpm import (
    VarianceSchedule,
    denoising_kl,
    discretised_log_prob,
    prior_kl,
    reconstruction,
)
from diffedu.denoiser import ExactDenoiser, NeuralDenoiser, ScoreDenoiser
from diffedu.fokker_planck import (
    Grid,
    generator_matrix,
    richardson,
    solve_fokker_planck,
    stationary_density,
)
from diffedu.losses import (
    LogUniformRatio,
    UniformTime,
    denoising_loss,
    explicit_loss,
    implicit_loss,
    score_errors,
    target_variance,
)
from diffedu.metrics import (
    Estimate,
    energy_distance,
    sampling_floor,
    sliced_wasserstein,
)
from diffedu.mixture import GaussianMixture, ring, three_gaussians, two_moons_like
from diffedu.nets import MLP, VAE, EnergyMLP, FourierFeatures, TimeEmbedding
from diffedu.path import (
    Cosine,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
    expand,
    time_grid,
)
from diffedu.plots import grid
from diffedu.samplers import (
    annealed_langevin,
    ddim,
    langevin,
    last,
    metropolis_langevin,
    noise_ladder,
    snr_rule,
    trajectory,
    variance_rule,
)
from diffedu.sde import (
    SDE,
    BrownianPath,
    MultiplicativeSDE,
    brownian_path,
    euler_maruyama,
    forward,
    heun,
    log_likelihood,
    milstein,
    reverse,
)
from diffedu.train import (
    ExponentialMovingAverage,
    learn,
    noisy_batches,
    train,
    warmup_cosine,
)

pytestmark = pytest.mark.usefixtures("no_shape_checks")

NAN, INF = math.nan, math.inf
MEANS = [[0.0, 0.0], [1.0, 1.0]]
IDENTITIES = [[[1.0, 0.0], [0.0, 1.0]]] * 2
G3 = three_gaussians()
X = torch.ones(3, 2, dtype=torch.float64)
OU = OrnsteinUhlenbeck()
NOISING = forward(OU)
FLOW = reverse(NOISING, lambda x, t: -x, eta=0.0)
DENOISER = ExactDenoiser(OU, G3)
GEOMETRIC = MultiplicativeSDE(lambda x, t: 0.1 * x, lambda x, t: 0.2 * x, (0.0, 3.0))
PATH = BrownianPath(torch.tensor([0.0, 0.5, 1.0]).double(), torch.zeros(3, 3, 2))
LINE = Grid(-4.0, 4.0, 40)
PLANE = Grid((-4.0, -4.0), (4.0, 4.0), (20, 20))
UNIFORM = torch.full((40,), 1 / 8, dtype=torch.float64)

VE = VarianceExploding()
SCHEDULE = VarianceSchedule(torch.tensor([0.0, 0.1, 0.2, 0.4], dtype=torch.float64))
LINEAR = LinearVAE(torch.ones(2, 1).double(), torch.zeros(2).double(), 0.5)
GRID = torch.linspace(-5.0, 5.0, 101, dtype=torch.float64)


def schedule(*beta: float) -> VarianceSchedule:
    return VarianceSchedule(torch.tensor(beta, dtype=torch.float64))


def shrink(x: torch.Tensor, t: int) -> torch.Tensor:
    return 0.9 * x


def terms(x_0: Any = X, variances: Any = SCHEDULE.beta) -> Any:
    return elbo_terms(SCHEDULE, shrink, x_0, variances, GaussHermite(2))


def on_the_line(
    x: Any = X[:, :1], grid: Any = GRID, variances: Any = SCHEDULE.beta
) -> torch.Tensor:
    return model_log_prob(SCHEDULE, shrink, variances, x, grid)


def bound(q: Any, x: Any = X) -> Any:
    return elbo(LINEAR.log_joint, q, x, GaussHermite(2))


def continuous(x_0: Any = X, **options: Any) -> Any:
    return continuous_elbo(
        DENOISER, x_0, standard_log_prob, GaussHermite(2), times=2, **options
    )


def likely(probes: Any) -> torch.Tensor:
    return log_likelihood(FLOW, X, [0.0, 1.0], G3.log_prob, probes=probes)


LEARNED = NeuralDenoiser(VE, MLP(hidden=4, depth=1, features=2))


def trained(net: Any = LEARNED.net, steps: Any = 1, **options: Any) -> list:
    draw = noisy_batches(G3, LogUniformRatio(VE), 4)
    loss = partial(denoising_loss, LEARNED)
    return list(train(net, draw, loss, steps, progress=False, **options))


def annealed(times: Any, steps: Any = 1, x: Any = X, path: Any = VE) -> torch.Tensor:
    denoiser = ExactDenoiser(path, G3)
    rule = variance_rule(path, 0.1)
    return last(annealed_langevin(denoiser, x, times, rule, steps))


def normal(x: torch.Tensor) -> torch.Tensor:
    """The density of N(0, I/4)."""
    return (-2 * x.square()).exp().prod(1) * (2 / math.pi) ** (x.shape[1] / 2)


def solved(
    sde: Any = NOISING,
    p_0: Any = normal,
    grid: Any = LINE,
    times: Any = (0.0, 0.1),
    **options: Any,
) -> list[torch.Tensor]:
    return list(solve_fokker_planck(sde, p_0, grid, times, **options))


def with_noise(g: Any) -> SDE:
    return SDE(lambda x, t: -x, lambda t: g)


def mixture(
    weights: Any = (0.5, 0.5), means: Any = MEANS, covariances: Any = IDENTITIES
) -> GaussianMixture:
    return GaussianMixture(weights, means, covariances)


def covariance(a: float, b: float, c: float, d: float) -> list:
    return [[[1.0, 0.0], [0.0, 1.0]], [[a, b], [c, d]]]


def refused(call: Callable[[], Any], message: str) -> None:
    """The call raises a ValueError (not a subclass) whose message matches."""
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert error.type is ValueError


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    # mixture: weights
    "negative weight": (
        lambda: mixture(weights=[1.2, -0.2]),
        r"weights must be >= 0, got -0\.2",
    ),
    "weights that sum to more": (
        lambda: mixture(weights=[0.5, 0.6]),
        r"weights must sum to 1, got a sum of 1\.1",
    ),
    "weights that sum to less": (
        lambda: mixture(weights=[0.5, 0.4999]),
        r"weights must sum to 1, got a sum of 0\.9999",
    ),
    "weight NaN": (
        lambda: mixture(weights=[NAN, 1.0]),
        r"weights must be finite, got 1 NaN or infinite of 2",
    ),
    "a weight too many": (
        lambda: mixture(weights=[0.5, 0.3, 0.2]),
        r"weights must have shape \(2,\).*got \(3,\)",
    ),
    "weights in words": (
        lambda: mixture(weights=["half", "half"]),
        r"weights must be a number.*got list",
    ),
    "weights None": (lambda: mixture(weights=None), "weights must be a number"),
    "float16": (
        lambda: mixture(means=torch.zeros(2, 2, dtype=torch.float16)),
        r"means must be float32 or float64, got torch\.float16",
    ),
    "integer tensor": (
        lambda: mixture(means=torch.zeros(2, 2, dtype=torch.int64)),
        r"means must be float32 or float64, got torch\.int64",
    ),
    "complex": (
        lambda: mixture(
            covariances=torch.eye(2, dtype=torch.complex64).expand(2, 2, 2)
        ),
        r"covariances must be float32 or float64, got torch\.complex64",
    ),
    # mixture: points
    "points in a list": (
        lambda: mixture().score([[0.0, 0.0]]),
        r"x must be a float32 or float64 tensor, got list",
    ),
    "integer points": (
        lambda: mixture().log_prob(torch.zeros(3, 2, dtype=torch.int64)),
        r"x must be a float32 or float64 tensor, got torch\.int64",
    ),
    "five points at four noise levels": (
        lambda: mixture().noised(1.0, torch.ones(4)).score(torch.zeros(5, 2)),
        r"x must hold one point for each of \(4,\) laws.*got shape \(5, 2\)",
    ),
    # mixture: means and covariances
    "means of no dimension": (
        lambda: mixture(means=[0.0, 1.0]),
        r"means must have shape \(K, d\).*got \(2,\)",
    ),
    "no component": (
        lambda: mixture([], torch.zeros(0, 2), torch.zeros(0, 2, 2)),
        r"means must have shape \(K, d\) with at least one component.*got \(0, 2\)",
    ),
    "ragged means": (
        lambda: mixture(means=[[0.0], [1.0, 2.0]]),
        "means must be a number, a nested list or a tensor",
    ),
    "mean infinite": (
        lambda: mixture(means=[[0.0, INF], [0.0, 0.0]]),
        "means must be finite, got 1 NaN or infinite of 4",
    ),
    "covariances of another shape": (
        lambda: mixture(covariances=[[1.0, 1.0], [1.0, 1.0]]),
        r"covariances must have shape \(2, 2, 2\).*got \(2, 2\)",
    ),
    "covariance NaN": (
        lambda: mixture(covariances=covariance(NAN, 0.0, 0.0, 1.0)),
        "covariances must be finite",
    ),
    "covariance asymmetric": (
        lambda: mixture(covariances=covariance(1.0, 0.5, 0.2, 1.0)),
        r"covariances must be symmetric.*differ by 0\.3",
    ),
    "covariance indefinite": (
        lambda: mixture(covariances=covariance(1.0, 2.0, 2.0, 1.0)),
        "covariances must be positive definite, got a smallest eigenvalue of -1",
    ),
    "covariance singular": (
        lambda: mixture(covariances=covariance(1.0, 1.0, 1.0, 1.0)),
        "covariances must be positive definite",
    ),
    "covariance zero": (
        lambda: mixture(covariances=covariance(0.0, 0.0, 0.0, 0.0)),
        "covariances must be positive definite, got a smallest eigenvalue of 0",
    ),
    # mixture: points and levels
    "log_prob in another dimension": (
        lambda: G3.log_prob(torch.ones(3, 3)),
        r"x must be points of dimension 2, got shape \(3, 3\)",
    ),
    "score in another dimension": (
        lambda: G3.score(torch.ones(3, 1)),
        "x must be points of dimension 2",
    ),
    "posterior in another dimension": (
        lambda: G3.posterior_mean(torch.ones(3, 3), 0.5, 0.5),
        "must be points of dimension 2",
    ),
    "negative sigma": (lambda: G3.noised(1.0, -0.1), r"sigma must be >= 0, got -0\.1"),
    "sigma NaN": (lambda: G3.noised(1.0, NAN), "sigma must be finite"),
    "alpha infinite": (lambda: G3.noised(INF, 1.0), "alpha must be finite"),
    "neither signal nor noise": (
        lambda: G3.noised(0.0, 0.0),
        "alpha and sigma must not both be 0",
    ),
    "posterior without noise": (
        lambda: G3.posterior(X, 1.0, 0.0),
        "sigma must be > 0",
    ),
    "sample of zero points": (
        lambda: G3.sample(0),
        "n must be a whole number >= 1, got 0",
    ),
    "sample of a negative number": (
        lambda: G3.sample(-5),
        "n must be a whole number >= 1, got -5",
    ),
    "sample of half a point": (
        lambda: G3.sample(2.5),
        r"n must be a whole number >= 1, got 2\.5",
    ),
    "sample of True": (lambda: G3.sample(True), "n must be a whole number >= 1"),
    "ring of no component": (lambda: ring(0), "n must be a whole number >= 1, got 0"),
    "moons of one component": (
        lambda: two_moons_like(1),
        "n must be a whole number >= 2, got 1",
    ),
    # path
    "t negative": (
        lambda: OU.alpha(-0.1),
        r"t must lie in \[0, 3\], got -0\.1",
    ),
    "t past the end": (
        lambda: Cosine().sigma(1.5),
        r"t must lie in \[0, 1\], got 1\.5",
    ),
    "t NaN": (lambda: OU.alpha(NAN), r"t must lie in \[0, 3\]"),
    "some t outside": (
        lambda: OU.g(torch.tensor([0.5, 4.0])),
        r"t must lie in \[0, 3\], got 0\.5 to 4",
    ),
    "t an integer tensor": (
        lambda: OU.alpha(torch.tensor(1)),
        r"t must be float32 or float64, got torch\.int64",
    ),
    "t in words": (lambda: OU.alpha("now"), "t must be a number"),
    "t per point of another number": (
        lambda: OU.perturb(X, X, torch.tensor([0.1, 0.2])),
        r"t must have shape \(\) or \(3,\), one per point, got \(2,\)",
    ),
    "t a matrix": (
        lambda: expand(torch.ones(3, 1), X),
        r"t must have shape \(\) or \(3,\).*got \(3, 1\)",
    ),
    "unknown target": (
        lambda: OU.row("noise", 0.5),
        "target must be one of 'x0', 'eps', 'score', 'v', 'velocity', got 'noise'",
    ),
    "unknown source": (
        lambda: OU.convert(X, X, 0.5, "noise", "eps"),
        "must be one of 'x0', 'eps', 'score', 'v', 'velocity', got 'noise'",
    ),
    "unknown target of a conversion": (
        lambda: OU.convert(X, X, 0.5, "eps", "drift"),
        "target must be one of .*'velocity', got 'drift'",
    ),
    "beta negative": (
        lambda: OrnsteinUhlenbeck(beta=-1.0),
        r"beta must be a finite number >= 0, got -1\.0",
    ),
    "diffusion zero": (
        lambda: OrnsteinUhlenbeck(diffusion=0.0),
        r"diffusion must be a finite number > 0, got 0\.0",
    ),
    "horizon infinite": (
        lambda: OrnsteinUhlenbeck(horizon=INF),
        "horizon must be a finite number > 0, got inf",
    ),
    "beta_min NaN": (
        lambda: VariancePreserving(beta_min=NAN),
        "beta_min must be a finite number >= 0, got nan",
    ),
    "beta_max below beta_min": (
        lambda: VariancePreserving(2.0, 1.0),
        r"beta_max must be >= beta_min = 2\.0, got 1\.0",
    ),
    "sigma_min zero": (
        lambda: VarianceExploding(0.0, 1.0),
        "sigma_min must be a finite number > 0",
    ),
    "sigma_max not above sigma_min": (
        lambda: VarianceExploding(1.0, 1.0),
        r"sigma_max must be > sigma_min = 1\.0, got 1\.0",
    ),
    # grids
    "no step": (
        lambda: time_grid(0.0, 1.0, 0),
        "steps must be a whole number >= 1, got 0",
    ),
    "start negative": (
        lambda: time_grid(-1.0, 1.0, 5),
        r"start must be a finite number >= 0, got -1\.0",
    ),
    "stop NaN": (lambda: time_grid(0.0, NAN, 5), "stop must be a finite number >= 0"),
    "start equals stop": (
        lambda: time_grid(1.0, 1.0, 5),
        r"start and stop must differ, got 1\.0",
    ),
    "power zero": (
        lambda: time_grid(0.0, 1.0, 5, 0.0),
        r"power must be a finite number > 0, got 0\.0",
    ),
    # sde
    "eta of a reversal negative": (
        lambda: reverse(NOISING, G3.score, eta=-0.5),
        r"eta must be a finite number >= 0, got -0\.5",
    ),
    "eta NaN": (
        lambda: reverse(NOISING, G3.score, eta=NAN),
        "eta must be a finite number >= 0, got nan",
    ),
    "reversal of an ode": (
        lambda: reverse(SDE(lambda x, t: -x), G3.score),
        "sde must have a diffusion",
    ),
    "likelihood along an sde": (
        lambda: log_likelihood(NOISING, X, [0.0, 1.0], G3.log_prob),
        "flow must be an ODE",
    ),
    "likelihood towards the data": (
        lambda: log_likelihood(FLOW, X, [1.0, 0.0], G3.log_prob),
        "times must increase",
    ),
    "likelihood by an unknown method": (
        lambda: log_likelihood(FLOW, X, [0.0, 1.0], G3.log_prob, method="euler"),
        "method must be one of 'dopri5', 'dopri8', 'rk4', got 'euler'",
    ),
    "likelihood of no tolerance": (
        lambda: log_likelihood(FLOW, X, [0.0, 1.0], G3.log_prob, tolerance=0.0),
        "tolerance must be a finite number > 0",
    ),
    # ddpm
    "a schedule of no step": (
        lambda: schedule(0.0),
        r"beta must have shape \(T \+ 1,\) with T >= 1.*got \(1,\)",
    ),
    "an empty schedule": (lambda: schedule(), r"beta must have shape.*got \(0,\)"),
    "a schedule in a matrix": (
        lambda: VarianceSchedule(torch.zeros(2, 2)),
        r"beta must have shape.*got \(2, 2\)",
    ),
    "beta NaN": (
        lambda: schedule(0.0, NAN),
        "beta must be finite, got 1 NaN or infinite of 2",
    ),
    "beta without the entry of the data": (
        lambda: schedule(0.1, 0.2),
        r"beta must start with 0, the entry of the data, got 0\.1",
    ),
    "beta zero": (
        lambda: schedule(0.0, 0.1, 0.0),
        r"beta must lie in \(0, 1\] from index 1 on, got 0 to 0\.1",
    ),
    "beta of a step negative": (
        lambda: schedule(0.0, -0.1, 0.2),
        r"beta must lie in \(0, 1\] from index 1 on, got -0\.1 to 0\.2",
    ),
    "beta above one": (
        lambda: schedule(0.0, 0.1, 1.5),
        r"beta must lie in \(0, 1\] from index 1 on, got 0\.1 to 1\.5",
    ),
    "beta in float16": (
        lambda: VarianceSchedule(torch.tensor([0.0, 0.5]).half()),
        "beta must be float32 or float64, got torch.float16",
    ),
    "a linear schedule of no step": (
        lambda: VarianceSchedule.linear(0),
        "T must be a whole number >= 1, got 0",
    ),
    "a linear schedule from zero": (
        lambda: VarianceSchedule.linear(10, 0.0),
        r"first must be a finite number > 0, got 0\.0",
    ),
    "a linear schedule to NaN": (
        lambda: VarianceSchedule.linear(10, 0.1, NAN),
        "last must be a finite number > 0, got nan",
    ),
    "a linear schedule above one": (
        lambda: VarianceSchedule.linear(10, 0.1, 1.1),
        r"beta must lie in \(0, 1\]",
    ),
    "a cosine schedule of half a step": (
        lambda: VarianceSchedule.cosine(0.5),
        r"T must be a whole number >= 1, got 0\.5",
    ),
    "a cosine schedule with a negative offset": (
        lambda: VarianceSchedule.cosine(10, -0.1),
        r"offset must be a finite number >= 0, got -0\.1",
    ),
    "a chain of a path that explodes": (
        lambda: VarianceSchedule.from_path(VE, torch.tensor([0.0, 1.0])),
        r"path must keep alpha² \+ sigma² = 1.*got VarianceExploding",
    ),
    "a chain that starts late": (
        lambda: VarianceSchedule.from_path(OU, torch.tensor([0.1, 1.0])),
        r"times must increase from 0, where the data are, got 0\.1 to 1",
    ),
    "a chain that runs backwards": (
        lambda: VarianceSchedule.from_path(OU, torch.tensor([1.0, 0.0])),
        "times must increase from 0, where the data are, got 1 to 0",
    ),
    "a chain past the end": (
        lambda: VarianceSchedule.from_path(OU, torch.tensor([0.0, 4.0])),
        r"times must lie in \[0, 3\], got 0 to 4",
    ),
    "an unknown sampler variance": (
        lambda: SCHEDULE.sampler_variance("small"),
        "kind must be one of 'beta', 'beta_tilde', got 'small'",
    ),
    "noise of a step past the end": (
        lambda: SCHEDULE.perturb(X, X, 4),
        "t must be a step up to T = 3, got 4",
    ),
    "noise of a negative step": (
        lambda: SCHEDULE.perturb(X, X, -1),
        "t must be a whole number >= 0, got -1",
    ),
    "posterior of the data": (
        lambda: SCHEDULE.posterior_mean(X, X, 0),
        "t must be a whole number >= 1, got 0",
    ),
    "posterior of a time": (
        lambda: SCHEDULE.posterior_mean(X, X, 1.5),
        r"t must be a whole number >= 1, got 1\.5",
    ),
    "one bin": (
        lambda: discretised_log_prob(X, X, torch.tensor(1.0), bins=1),
        "bins must be a whole number >= 2, got 1",
    ),
    "bins from high to low": (
        lambda: discretised_log_prob(X, X, torch.tensor(1.0), low=1.0, high=0.0),
        r"high must be > low = 1\.0, got 0\.0",
    ),
    "prior term of no point": (
        lambda: prior_kl(SCHEDULE, X[:0]),
        "x_0 must hold at least one point",
    ),
    "denoising term of the first step": (
        lambda: denoising_kl(SCHEDULE, shrink, X, X, 1, SCHEDULE.beta),
        "t must be a whole number >= 2, got 1",
    ),
    "denoising term past the end": (
        lambda: denoising_kl(SCHEDULE, shrink, X, X, 4, SCHEDULE.beta),
        "t must be a step up to T = 3, got 4",
    ),
    "reconstruction by a point mass": (
        lambda: reconstruction(SCHEDULE, shrink, X, X, SCHEDULE.beta_tilde),
        "varsigma_squared must be > 0 at t = 1, got 0: sampler_variance sets it",
    ),
    # bounds
    "quadrature of no node": (
        lambda: GaussHermite(0),
        "points must be a whole number >= 1, got 0",
    ),
    "one draw": (lambda: MonteCarlo(1), "draws must be a whole number >= 2, got 1"),
    "a mixture by no node": (
        lambda: mixture_nodes(G3, 0),
        "points must be a whole number >= 1, got 0",
    ),
    "a bound at no point": (
        lambda: bound(LINEAR.prior(1), X[:0]),
        "x must hold at least one point",
    ),
    "a bound at NaN": (
        lambda: bound(LINEAR.prior(3), X * NAN),
        "x must be finite, got 6 NaN or infinite of 6",
    ),
    "a law for another number of points": (
        lambda: bound(LINEAR.prior(2)),
        r"q must have batch shape \(3,\).*got \(2,\) and \(1,\)",
    ),
    "a law without an axis": (
        lambda: bound(torch.distributions.Normal(torch.zeros(3), 1.0)),
        r"q must have batch shape \(3,\).*got \(3,\) and \(\)",
    ),
    "quadrature over a law that is not Gaussian": (
        lambda: bound(
            torch.distributions.Independent(
                torch.distributions.Laplace(X[:, :1], 1.0), 1
            )
        ),
        "q must be a MultivariateNormal for quadrature, got Independent: use Monte",
    ),
    "no weight": (
        lambda: importance_log_prob(LINEAR.log_joint, LINEAR.prior(3), X, 0),
        "draws must be a whole number >= 1, got 0",
    ),
    "weights of another law": (
        lambda: importance_log_prob(LINEAR.log_joint, LINEAR.prior(2), X, 4),
        r"q must have batch shape \(3,\)",
    ),
    "weights at NaN": (
        lambda: importance_log_prob(LINEAR.log_joint, LINEAR.prior(3), X * NAN, 4),
        "x must be finite",
    ),
    "a decoder without noise": (
        lambda: LinearVAE(torch.ones(2, 1), torch.zeros(2), 0.0),
        r"sigma must be a finite number > 0, got 0\.0",
    ),
    "a decoder of another shape": (
        lambda: LinearVAE(torch.ones(2, 1), torch.zeros(3), 1.0),
        r"W must have shape \(d, k\) and b shape \(d,\), got \(2, 1\) and \(3,\)",
    ),
    "terms at no point": (lambda: terms(X[:0]), "x_0 must hold at least one point"),
    "terms at NaN": (lambda: terms(X * NAN), "x_0 must be finite"),
    "terms in float16": (
        lambda: terms(X.half()),
        "x_0 must be a float32 or float64 tensor, got torch.float16",
    ),
    "a variance too few": (
        lambda: terms(variances=SCHEDULE.beta[1:]),
        r"varsigma_squared must have shape \(4,\), one per step and index 0, got \(3,",
    ),
    "a variance of zero": (
        lambda: terms(variances=SCHEDULE.beta_tilde),
        "varsigma_squared must be > 0 from index 1 on, got 0",
    ),
    "a path without the noise of the chain": (
        lambda: reverse_mean(
            VarianceSchedule.linear(), ExactDenoiser(OrnsteinUhlenbeck(1.0, 1.0), G3)
        )(X, 1000),
        r"ratio must lie in \[0,",
    ),
    "the model of the chain in the plane": (
        lambda: on_the_line(X),
        r"x must be points of dimension 1, got shape \(3, 2\)",
    ),
    "a grid that is not equidistant": (
        lambda: on_the_line(grid=GRID**3),
        r"grid must be increasing and equidistant, shape \(m,\)",
    ),
    "a grid that decreases": (
        lambda: on_the_line(grid=GRID.flip(0)),
        "grid must be increasing and equidistant",
    ),
    "a grid in a column": (
        lambda: on_the_line(grid=GRID[:, None]),
        "grid must be increasing and equidistant",
    ),
    "a grid of one point": (
        lambda: on_the_line(grid=GRID[:1]),
        "grid must be increasing and equidistant",
    ),
    "a coarse grid": (
        lambda: on_the_line(grid=GRID[::5]),
        r"grid must have steps below 0\.316.*got 0\.5",
    ),
    "the model of the chain with another variance": (
        lambda: on_the_line(variances=SCHEDULE.beta[1:]),
        "varsigma_squared must have shape",
    ),
    "the first order by no node": (
        lambda: first_order_gap(OU, G3, points=0),
        "points must be a whole number >= 1, got 0",
    ),
    "the first order at no time": (
        lambda: first_order_gap(OU, G3, times=0),
        "times must be a whole number >= 1, got 0",
    ),
    "no node in time": (
        lambda: time_nodes(OU, times=0),
        "times must be a whole number >= 1, got 0",
    ),
    "nodes from a negative time": (
        lambda: time_nodes(OU, -0.1),
        r"start must be a finite number >= 0, got -0\.1",
    ),
    "nodes from the end": (
        lambda: time_nodes(OU, 3.0),
        r"start must lie in \[0, 3\), got 3",
    ),
    "a continuous bound at no point": (
        lambda: continuous(X[:0]),
        "x_0 must hold at least one point",
    ),
    "a continuous bound at NaN": (
        lambda: continuous(X * NAN),
        "x_0 must be finite",
    ),
    "a continuous bound from the end": (
        lambda: continuous(start=3.0),
        r"start must lie in \[0, 3\), got 3",
    ),
    "a score's gap at no time": (
        lambda: score_gap(DENOISER, DENOISER, times=0),
        "times must be a whole number >= 1, got 0",
    ),
    "a score's gap by no node": (
        lambda: score_gap(DENOISER, DENOISER, points=0),
        "points must be a whole number >= 1, got 0",
    ),
    "a flow to before its start": (
        lambda: angle_flow(DENOISER, 2, 0.5, 0.4),
        r"end must lie in \(0\.5, 3\], after start, got 0\.4",
    ),
    "a flow past the end": (
        lambda: flow_log_prob(DENOISER, X, end=4.0),
        r"end must lie in \(0, 3\], after start, got 4",
    ),
    "a flow from before the data": (
        lambda: flow_log_prob(DENOISER, X, start=-0.1),
        "start must be a finite number >= 0",
    ),
    "a flow to no signal": (
        lambda: flow_log_prob(ExactDenoiser(Straight(), G3), X),
        "end must be a time with signal, got alpha = 0 at 1",
    ),
    "a flow at no point": (
        lambda: flow_log_prob(DENOISER, X[:0]),
        "x must hold at least one point",
    ),
    "a flow at NaN": (lambda: flow_log_prob(DENOISER, X * NAN), "x must be finite"),
    "a flow by an unknown method": (
        lambda: flow_log_prob(DENOISER, X, method="euler"),
        "method must be one of 'dopri5', 'dopri8', 'rk4', got 'euler'",
    ),
    "a flow of no tolerance": (
        lambda: flow_log_prob(DENOISER, X, tolerance=0.0),
        "tolerance must be a finite number > 0",
    ),
    "a network's flow from the data": (
        lambda: flow_log_prob(LEARNED, X),
        "t must be a time with noise",
    ),
    "probes without an axis of their own": (
        lambda: likely(X),
        r"probes must have shape \(m, 3, 2\).*got \(3, 2\)",
    ),
    "probes for other points": (
        lambda: likely(X[None, :2]),
        r"probes must have shape \(m, 3, 2\).*got \(1, 2, 2\)",
    ),
    "no probe": (
        lambda: likely(X[None][:0]),
        r"probes must have shape \(m, 3, 2\).*got \(0, 3, 2\)",
    ),
    "a score of scale zero": (
        lambda: ScoreDenoiser(OU, lambda x, t: -x, scale=0.0),
        r"scale must be a finite number > 0, got 0\.0",
    ),
    "the mean of one value": (
        lambda: Estimate.mean(X[:1, 0]),
        r"values must hold at least two numbers, shape \(n,\), got \(1,\)",
    ),
    "the mean of a matrix": (
        lambda: Estimate.mean(X),
        r"values must hold at least two numbers, shape \(n,\), got \(3, 2\)",
    ),
    "the mean of NaN": (
        lambda: Estimate.mean(X[:, 0] * NAN),
        "values must be finite, got 3 NaN or infinite of 3",
    ),
    "the mean of whole numbers": (
        lambda: Estimate.mean(torch.arange(3)),
        "values must be a float32 or float64 tensor, got torch.int64",
    ),
    "an autoencoder of no dimension": (
        lambda: VAE(dim=0),
        "dim must be a whole number >= 1, got 0",
    ),
    "an autoencoder of no latent": (
        lambda: VAE(latent=0),
        "latent must be a whole number >= 1, got 0",
    ),
    "an autoencoder of half a unit": (
        lambda: VAE(hidden=0.5),
        r"hidden must be a whole number >= 1, got 0\.5",
    ),
    "an autoencoder of no depth": (
        lambda: VAE(depth=0),
        "depth must be a whole number >= 1, got 0",
    ),
    "an autoencoder of another dimension": (
        lambda: VAE(dim=3, hidden=4).encode(X.float()),
        r"x must have shape \(n, 3\), got \(3, 2\)",
    ),
    "heun with noise of the state": (
        lambda: last(heun(GEOMETRIC, X, [0.0, 1.0])),
        "sde must be an SDE, whose diffusion depends on t alone: for state-dependent",
    ),
    "diffusion of another shape": (
        lambda: last(
            euler_maruyama(
                MultiplicativeSDE(lambda x, t: x, lambda x, t: x[:, :1]), X, [0.0, 1.0]
            )
        ),
        r"diffusion must have shape \(3, 2\), a diagonal per point, or \(3, 2, 2\), a "
        r"matrix per point, got \(3, 1\)",
    ),
    "milstein with a matrix": (
        lambda: last(
            milstein(
                MultiplicativeSDE(lambda x, t: x, lambda x, t: x[:, :, None] * x[0]),
                X,
                [0.0, 1.0],
            )
        ),
        r"diffusion must be diagonal, shape \(3, 2\), for Milstein.*got \(3, 2, 2\)",
    ),
    "milstein with components that mix": (
        lambda: last(
            milstein(
                MultiplicativeSDE(
                    lambda x, t: x, lambda x, t: torch.stack([x[:, 0], x.sum(1)], 1)
                ),
                X,
                [0.0, 1.0],
            )
        ),
        "diffusion must be diagonal: component 1 of g depends on other components",
    ),
    "brownian path backwards": (
        lambda: BrownianPath(torch.tensor([1.0, 0.0]), torch.zeros(2, 3, 2)),
        "times must increase",
    ),
    "brownian path of another length": (
        lambda: BrownianPath(torch.tensor([0.0, 1.0]), torch.zeros(3, 3, 2)),
        r"w must have shape \(2, n, d\), one state per time, got \(3, 3, 2\)",
    ),
    "brownian path without points": (
        lambda: BrownianPath(torch.tensor([0.0, 1.0]), torch.zeros(2, 3)),
        r"w must have shape \(2, n, d\), one state per time, got \(2, 3\)",
    ),
    "a time between those of a path": (
        lambda: PATH(torch.tensor(0.0).double(), torch.tensor(0.25).double()),
        r"t must be one of the path's 3 times, got 0\.25",
    ),
    "a step past the end of a path": (
        lambda: last(euler_maruyama(NOISING, X, [0.0, 2.0], increment=PATH)),
        r"t must be one of the path's 3 times, got 2\.0",
    ),
    "brownian path in decreasing times": (
        lambda: brownian_path([1.0, 0.0], 3, 2),
        "times must increase",
    ),
    "brownian path at one time": (
        lambda: brownian_path([1.0], 3, 2),
        "times must be a list of at least two times",
    ),
    "no brownian path": (
        lambda: brownian_path([0.0, 1.0], 0, 2),
        "n must be a whole number >= 1, got 0",
    ),
    "brownian path in no dimension": (
        lambda: brownian_path([0.0, 1.0], 3, 0),
        "d must be a whole number >= 1, got 0",
    ),
    # fokker_planck
    "grid of three axes": (
        lambda: Grid((0.0,) * 3, (1.0,) * 3, (5,) * 3),
        "low, high and cells must speak of the same one or two axes",
    ),
    "grid of two minds": (
        lambda: Grid((0.0, 0.0), (1.0, 1.0), 5),
        "low, high and cells must speak of the same one or two axes",
    ),
    "grid of two cells": (
        lambda: Grid((0.0, 0.0), (1.0, 1.0), (5, 2)),
        "cells must be a whole number >= 3, got 2",
    ),
    "grid of half a cell": (
        lambda: Grid(0.0, 1.0, 7.5),
        r"cells must be a whole number >= 3, got 7\.5",
    ),
    "grid without length": (
        lambda: Grid(1.0, 1.0, 5),
        r"low must be less than high, got 1\.0 and 1\.0",
    ),
    "grid to infinity": (
        lambda: Grid((0.0, 0.0), (1.0, INF), (5, 5)),
        r"low must be less than high, got 0\.0 and inf",
    ),
    "grid from NaN": (lambda: Grid(NAN, 1.0, 5), "low must be less than high, got nan"),
    "grid periodic in three ways": (
        lambda: Grid((0.0, 0.0), (1.0, 1.0), (5, 5), (True, False, True)),
        "periodic must speak of all axes at once or of each of the 2",
    ),
    "averages of a column": (
        lambda: LINE.average(lambda x: x),
        r"density must give one number per point, shape \(\d+,\), got \(\d+, 1\)",
    ),
    "averages of NaN": (
        lambda: PLANE.average(lambda x: x[:, 0] * NAN),
        r"density must be finite, got \d+ NaN or infinite of \d+",
    ),
    "fokker-planck of an ode": (
        lambda: solved(SDE(lambda x, t: -x)),
        "sde must have a diffusion: an ODE only moves a density",
    ),
    "fokker-planck of noise of the state": (
        lambda: solved(GEOMETRIC),
        "sde must be an SDE, whose diffusion depends on t alone, got MultiplicativeSDE",
    ),
    "generator of noise of the state": (
        lambda: generator_matrix(GEOMETRIC, LINE),
        "sde must be an SDE, whose diffusion depends on t alone, got MultiplicativeSDE",
    ),
    "stationary density of an ode": (
        lambda: stationary_density(SDE(lambda x, t: -x), PLANE),
        "sde must have a diffusion",
    ),
    "noise in one direction": (
        lambda: solved(with_noise(torch.tensor([[1.0, 0.0], [1.0, 0.0]])), grid=PLANE),
        r"diffusion must be finite and g gᵀ positive definite, got \[\[1\.0, 0\.0\]",
    ),
    "no noise": (
        lambda: solved(with_noise(0.0)),
        r"diffusion must be finite and g gᵀ positive definite, got 0\.0 at t = 0\.05",
    ),
    "noise NaN": (
        lambda: generator_matrix(with_noise(NAN), LINE, 0.3),
        r"diffusion must be finite and g gᵀ positive definite, got nan at t = 0\.3",
    ),
    "noise of another dimension": (
        lambda: solved(with_noise(torch.eye(2))),
        r"diffusion must be a number or a \(1, 1\) matrix, got \(2, 2\)",
    ),
    "noise of any shape": (
        lambda: stationary_density(with_noise(torch.ones(2)), PLANE),
        r"diffusion must be a number or a \(2, 2\) matrix, got \(2,\)",
    ),
    "noise too elongated": (
        lambda: solved(
            with_noise(torch.tensor([[1.0, 0.0], [0.97, 0.01]])), grid=PLANE
        ),
        r"diffusion is too elongated for the grid: its flux would reach over \(",
    ),
    "drift NaN": (
        lambda: solved(SDE(lambda x, t: x * NAN, lambda t: 1.0)),
        "drift must be finite, got 156 NaN or infinite of 156",
    ),
    "drift infinite somewhere": (
        lambda: generator_matrix(SDE(lambda x, t: 1 / (x > 0), lambda t: 1.0), LINE),
        "drift must be finite",
    ),
    "drift of another shape": (
        lambda: solved(SDE(lambda x, t: x[:, 0], lambda t: 1.0)),
        r"drift must have the shape of its points, \(156, 1\), got \(156,\)",
    ),
    "drift past float64": (
        lambda: solved(SDE(lambda x, t: 0 * x + 1e308, lambda t: 1.0)),
        "drift is too large for float64 on this grid",
    ),
    "p_0 negative": (
        lambda: solved(p_0=UNIFORM - 0.2 * (torch.arange(40) == 7)),
        r"p_0 must not be negative, got -0\.075",
    ),
    "p_0 of mass 2": (
        lambda: solved(p_0=2 * UNIFORM),
        r"p_0 must have mass 1 on the grid, within 1e-06, got 2; a larger or finer",
    ),
    "p_0 cut off": (
        lambda: solved(p_0=normal, grid=Grid(-1.0, 4.0, 40)),
        r"p_0 must have mass 1 on the grid, within 1e-06, got 0\.9772",
    ),
    "p_0 NaN": (
        lambda: solved(p_0=UNIFORM * NAN),
        "p_0 must be finite, got 40 NaN or infinite of 40",
    ),
    "p_0 of another shape": (
        lambda: solved(p_0=UNIFORM[:-1]),
        r"p_0 must have shape \(40,\), got \(39,\)",
    ),
    "p_0 as a function of NaN": (
        lambda: solved(p_0=lambda x: x[:, 0] * NAN),
        "density must be finite",
    ),
    "p_0 at the walls": (
        lambda: solved(p_0=UNIFORM),
        r"grid is too small: at t = 0 the cells along its walls hold the mass 0\.05, "
        "more than wall_mass = 1e-05",
    ),
    "extrapolation of averages": (
        lambda: list(richardson(NOISING, UNIFORM, LINE, [0.0, 0.1])),
        "p_0 must be a density to average on two grids, got averages",
    ),
    # denoiser and samplers
    "reading of another name": (
        lambda: DENOISER.read("noise", X, 0.5),
        "target must be one of .*, got 'noise'",
    ),
    "denoising at a time outside": (
        lambda: DENOISER.x0(X, 3.5),
        r"t must lie in \[0, 3\], got 3\.5",
    ),
    "ddim eta above one": (
        lambda: last(ddim(DENOISER, X, [1.0, 0.5], eta=1.5)),
        r"eta must lie in \[0, 1\], got 1\.5",
    ),
    "ddim eta negative": (
        lambda: last(ddim(DENOISER, X, [1.0, 0.5], eta=-0.1)),
        r"eta must be a finite number >= 0, got -0\.1",
    ),
    "ddim towards noise": (
        lambda: last(ddim(DENOISER, X, [0.5, 1.0])),
        "times must decrease",
    ),
    "last of nothing": (lambda: last([]), "states must hold at least one state"),
    "trajectory of nothing": (
        lambda: trajectory([]),
        "states must hold at least one state",
    ),
    "langevin step of zero": (
        lambda: last(langevin(G3.score, X, 0.0, 5)),
        r"step must be a finite number > 0, got 0\.0",
    ),
    "langevin of no step": (
        lambda: last(langevin(G3.score, X, 0.1, 0)),
        "steps must be a whole number >= 1, got 0",
    ),
    "langevin from nowhere": (
        lambda: last(langevin(G3.score, X * NAN, 0.1, 5)),
        "x must be finite",
    ),
    "adjusted langevin with a negative step": (
        lambda: last(metropolis_langevin(G3.log_prob, G3.score, X, -0.1, 5)),
        r"step must be a finite number > 0, got -0\.1",
    ),
    "adjusted langevin with half a step": (
        lambda: last(metropolis_langevin(G3.log_prob, G3.score, X, 0.1, 0.5)),
        r"steps must be a whole number >= 1, got 0\.5",
    ),
    "annealing towards noise": (
        lambda: annealed([0.2, 0.5]),
        "times must decrease, from noise to data",
    ),
    "annealing down to no noise": (
        lambda: annealed([0.5, 0.0]),
        r"times must end where sigma\(t\) > 0",
    ),
    "annealing outside the path": (
        lambda: annealed([1.5, 0.5]),
        r"t must lie in \[0, 1\]",
    ),
    "annealing at one level": (
        lambda: annealed([0.5]),
        "times must be a list of at least two times",
    ),
    "annealing without steps": (
        lambda: annealed([0.5, 0.2], 0),
        "steps must be a whole number >= 1, got 0",
    ),
    "annealing a list": (
        lambda: annealed([0.5, 0.2], x=[[0.0, 0.0]]),
        "x must be a float32 or float64 tensor, got list",
    ),
    "step rule of no length": (
        lambda: variance_rule(VE, 0.0),
        "relative must be a finite number > 0",
    ),
    "signal-to-noise rule of no ratio": (
        lambda: snr_rule(NAN),
        "ratio must be a finite number > 0, got nan",
    ),
    "ladder upwards": (
        lambda: noise_ladder(VE, 0.1, 1.0, 5),
        r"low must be < high = 0\.1, got 1\.0",
    ),
    "ladder of one rung": (
        lambda: noise_ladder(VE, 1.0, 0.1, 1),
        "levels must be a whole number >= 2, got 1",
    ),
    "ladder down to zero": (
        lambda: noise_ladder(VE, 1.0, 0.0, 5),
        "low must be a finite number > 0",
    ),
    "ladder out of reach": (
        lambda: noise_ladder(VE, 100.0, 0.1, 5),
        r"ratio must lie in \[0, 9\.99",
    ),
    # networks and learned denoisers
    "features of no dimension": (
        lambda: FourierFeatures(0, 4, 1.0),
        "dim must be a whole number >= 1, got 0",
    ),
    "no features": (
        lambda: TimeEmbedding(0, 1.0),
        "features must be a whole number >= 1, got 0",
    ),
    "features of no scale": (
        lambda: FourierFeatures(2, 4, 0.0),
        "scale must be a finite number > 0",
    ),
    "network without width": (
        lambda: MLP(hidden=0),
        "hidden must be a whole number >= 1, got 0",
    ),
    "network without layers": (
        lambda: EnergyMLP(depth=0),
        "depth must be a whole number >= 1, got 0",
    ),
    "network of no answer": (
        lambda: MLP(outputs=0),
        "outputs must be a whole number >= 1, got 0",
    ),
    "points of another dimension": (
        lambda: LEARNED.net(torch.ones(3, 3), torch.ones(3)),
        r"u must have shape \(n, 2\), got \(3, 3\)",
    ),
    "network target": (
        lambda: NeuralDenoiser(VE, LEARNED.net, "velocity"),
        "target must be one of 'v', 'eps', 'x0', 'score', got 'velocity'",
    ),
    "data of no scale": (
        lambda: NeuralDenoiser(VE, LEARNED.net, "v", 0.0, 0.0),
        "scale must be a finite number > 0",
    ),
    "denoiser for one point": (
        lambda: NeuralDenoiser.for_data(VE, LEARNED.net, X[:1]),
        "x_0 must hold at least two different points",
    ),
    "denoiser for the same point": (
        lambda: NeuralDenoiser.for_data(VE, LEARNED.net, X),
        "x_0 must hold at least two different points",
    ),
    "learned reading without noise": (
        lambda: LEARNED.score(X, 0.0),
        "t must be a time with noise",
    ),
    # losses
    "loss of an unknown target": (
        lambda: denoising_loss(DENOISER, X, 0.5, X, "noise"),
        "target must be one of .*, got 'noise'",
    ),
    "explicit loss of an unknown target": (
        lambda: explicit_loss(DENOISER, DENOISER, X, 0.5, "noise"),
        "target must be one of .*, got 'noise'",
    ),
    "variance of an unknown target": (
        lambda: target_variance(DENOISER, X, 0.5, "noise"),
        "target must be one of .*, got 'noise'",
    ),
    "loss at a time outside": (
        lambda: implicit_loss(DENOISER, X, 3.5),
        r"t must lie in \[0, 3\], got 3\.5",
    ),
    "ratios upside down": (
        lambda: LogUniformRatio(VE, 1.0, 0.5),
        r"high must be > low = 1\.0, got 0\.5",
    ),
    "ratio of zero": (
        lambda: LogUniformRatio(VE, 0.0, 0.5),
        "low must be a finite number > 0",
    ),
    "ratio out of reach": (
        lambda: LogUniformRatio(VE, 0.1, 20.0),
        r"ratio must lie in \[0, 9\.99",
    ),
    "no level": (
        lambda: LogUniformRatio(VE).sample(0),
        "n must be a whole number >= 1, got 0",
    ),
    "times past the end": (
        lambda: UniformTime(VE, 0.1, 1.5),
        r"high must lie in \(0\.1, 1\], got 1\.5",
    ),
    "times of no length": (
        lambda: UniformTime(VE, 0.3, 0.3),
        r"high must lie in \(0\.3, 1\], got 0\.3",
    ),
    "times before the start": (
        lambda: UniformTime(VE, -0.1),
        r"low must be a finite number >= 0, got -0\.1",
    ),
    "errors of no point": (
        lambda: score_errors(DENOISER, DENOISER, n=0),
        "n must be a whole number >= 1, got 0",
    ),
    # training
    "no training step": (
        lambda: trained(steps=0),
        "steps must be a whole number >= 1, got 0",
    ),
    "rate of zero": (
        lambda: trained(learning_rate=0.0),
        "learning_rate must be a finite number > 0",
    ),
    "clipping to zero": (
        lambda: trained(clip=0.0),
        "clip must be a finite number > 0",
    ),
    "saving never": (
        lambda: trained(save_every=0),
        "save_every must be a whole number >= 1, got 0",
    ),
    "no thread": (
        lambda: trained(threads=0),
        "threads must be a whole number >= 1, got 0",
    ),
    "nothing to train": (
        lambda: trained(net=FourierFeatures(2, 2, 1.0)),
        "net must have parameters that require gradients, got none",
    ),
    "a CUDA graph on the CPU": (
        lambda: trained(capture=True),
        "capture must be False on cpu",
    ),
    "average that never moves": (
        lambda: ExponentialMovingAverage(LEARNED.net, 1.0),
        r"decay must lie in \[0, 1\), got 1\.0",
    ),
    "average that runs away": (
        lambda: ExponentialMovingAverage(LEARNED.net, -0.1),
        r"decay must be a finite number >= 0, got -0\.1",
    ),
    "schedule of no step": (
        lambda: warmup_cosine(0),
        "steps must be a whole number >= 1, got 0",
    ),
    "schedule of negative warm-up": (
        lambda: warmup_cosine(5, -1),
        "warmup must be a whole number >= 0, got -1",
    ),
    "empty batches": (
        lambda: noisy_batches(G3, LogUniformRatio(VE), 0),
        "batch must be a whole number >= 1, got 0",
    ),
    "odd antithetic batches": (
        lambda: noisy_batches(G3, LogUniformRatio(VE), 3),
        "batch must be even when antithetic, got 3",
    ),
    "batches of a list": (
        lambda: noisy_batches([[0.0]], LogUniformRatio(VE), 4),
        "data must be a float32 or float64 tensor, got list",
    ),
    "batches of no point": (
        lambda: noisy_batches(X[:0], LogUniformRatio(VE), 4),
        "data must hold at least one point",
    ),
    "learning from a list": (
        lambda: learn([[0.0]], VE, 1),
        "data must be a float32 or float64 tensor, got list",
    ),
    "learning from NaN": (lambda: learn(X * NAN, VE, 1), "data must be finite"),
    # metrics
    "one point": (
        lambda: energy_distance(X[:1], X),
        "x must hold at least two points, got 1",
    ),
    "one other point": (
        lambda: sliced_wasserstein(X, X[:1]),
        "y must hold at least two points, got 1",
    ),
    "samples of two dimensions": (
        lambda: energy_distance(X, torch.ones(3, 1).double()),
        r"y must be points of dimension 2, got shape \(3, 1\)",
    ),
    "samples of two sizes": (
        lambda: sliced_wasserstein(X, X[:2]),
        "x and y must have the same size, got 3 and 2",
    ),
    "sample with NaN": (
        lambda: energy_distance(X, X * NAN),
        "y must be finite, got 6 NaN or infinite of 6",
    ),
    "integer sample": (
        lambda: energy_distance(X.long(), X),
        r"x must be a float32 or float64 tensor, got torch\.int64",
    ),
    "sample as a list": (
        lambda: energy_distance([[0.0], [1.0]], X),
        "x must be a float32 or float64 tensor, got list",
    ),
    "no direction": (
        lambda: sliced_wasserstein(X, X, directions=0),
        "directions must be a whole number >= 1, got 0",
    ),
    "floor of one point": (
        lambda: sampling_floor(energy_distance, G3.sample, 1),
        "n must be a whole number >= 2, got 1",
    ),
    "floor of one pair": (
        lambda: sampling_floor(energy_distance, G3.sample, 10, repeats=1),
        "repeats must be a whole number >= 2, got 1",
    ),
    # plots
    "grid of one point": (
        lambda: grid((0.0, 1.0, 0.0, 1.0), 1),
        "points must be a whole number >= 2, got 1",
    ),
}


@pytest.mark.parametrize(("call", "message"), CASES.values(), ids=CASES.keys())
def test_bad_input_is_refused_with_a_reason(
    call: Callable[[], Any], message: str
) -> None:
    refused(call, message)


RUNS: dict[str, Callable[[Any, Any], Any]] = {
    "euler_maruyama": lambda x, times: last(euler_maruyama(NOISING, x, times)),
    "heun": lambda x, times: last(heun(NOISING, x, times)),
    "milstein": lambda x, times: last(milstein(GEOMETRIC, x, times)),
    "ddim": lambda x, times: last(ddim(DENOISER, x, times)),
    "log_likelihood": lambda x, times: log_likelihood(FLOW, x, times, G3.log_prob),
}
every_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())


@every_run
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], r"times must be a list of at least two times, got shape \(0,\)"),
        ([1.0], r"times must be a list of at least two times, got shape \(1,\)"),
        ([[1.0, 0.5]], r"at least two times, got shape \(1, 2\)"),
        (1.0, r"at least two times, got shape \(\)"),
        ([1.0, 0.5, 0.7], "strictly increasing .* or strictly decreasing"),
        ([0.1, 0.5, 0.3], "strictly increasing .* or strictly decreasing"),
        ([1.0, 0.5, 0.5], "strictly increasing .* or strictly decreasing"),
        ([1.0, NAN, 0.5], "times must be finite, got 1 NaN or infinite of 3"),
        ("later", "times must be a number, a nested list or a tensor"),
        (torch.tensor([1, 0]), "times must be float32 or float64, got torch.int64"),
    ],
)
def test_runs_refuse_bad_times(run, times: Any, message: str) -> None:
    refused(lambda: run(X, times), message)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], r"times must be a list of at least two times, got shape \(0,\)"),
        ([0.1], r"times must be a list of at least two times, got shape \(1,\)"),
        ([0.0, 0.2, 0.1], "times must be strictly increasing"),
        ([0.0, NAN], "times must be finite, got 1 NaN or infinite of 2"),
        ([0.0, 4.0], r"times must lie in \[0, 3\], got 0 to 4"),
        ([0.2, -0.1], r"times must lie in \[0, 3\], got -0\.1 to 0\.2"),
        (torch.tensor([0.0, 0.1]).half(), "times must be float32 or float64"),
        ("later", "times must be a number, a nested list or a tensor"),
    ],
)
def test_densities_refuse_bad_times(times: Any, message: str) -> None:
    refused(lambda: solved(times=times), message)
    refused(lambda: list(richardson(NOISING, normal, LINE, times)), message)


def test_a_tolerance_of_mass_and_of_walls_may_be_given() -> None:
    cut = Grid(-1.0, 4.0, 40)
    refused(lambda: solved(grid=cut, mass_tolerance=0.2), "grid is too small")
    *_, p = solved(grid=cut, mass_tolerance=0.2, wall_mass=0.1)
    assert cut.mass(p) == pytest.approx(0.97725, abs=1e-5)


@every_run
@pytest.mark.parametrize("times", [[4.0, 0.5], [-0.5, 1.0], [0.5, -0.5], [0.5, 4.0]])
def test_runs_refuse_times_outside_the_process(run, times: list[float]) -> None:
    # whichever end is wrong, or the direction where only one is possible
    refused(lambda: run(X, times), r"t must lie in \[0, 3\]|times must")


@every_run
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:0], r"x must hold at least one point, shape \(n, d\), got \(0, 2\)"),
        (X[0], r"x must hold at least one point, shape \(n, d\), got \(2,\)"),
        (X * NAN, "x must be finite, got 6 NaN or infinite of 6"),
        (X.half(), "x must be a float32 or float64 tensor, got torch.float16"),
        (X.long(), "x must be a float32 or float64 tensor, got torch.int64"),
        ([[1.0, 1.0]], "x must be a float32 or float64 tensor, got list"),
    ],
)
def test_runs_refuse_bad_points(run, x: Any, message: str) -> None:
    times = [0.5, 1.0] if run is RUNS["log_likelihood"] else [1.0, 0.5]
    refused(lambda: run(x, times), message)


def test_one_step_is_enough() -> None:
    for name, run in RUNS.items():
        times = [0.5, 1.0] if name == "log_likelihood" else [1.0, 0.5]
        assert run(X, times).isfinite().all()


def test_a_failed_construction_changes_nothing() -> None:
    means = torch.zeros(2, 2, dtype=torch.float64)
    refused(lambda: mixture(weights=[2.0, -1.0], means=means), "weights")
    assert torch.equal(means, torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_ends_of_the_range_are_allowed(t: float) -> None:
    for path in (VariancePreserving(), Cosine(), VarianceExploding(), Straight()):
        assert path.alpha(t).isfinite()
        assert path.sigma(t).isfinite()


def test_weights_may_miss_one_by_rounding() -> None:
    # ten times .1 is not 1 in binary, in float32 still less
    ten = torch.eye(1).expand(10, 1, 1)
    for dtype in (torch.float32, torch.float64):
        GaussianMixture(
            torch.full((10,), 0.1, dtype=dtype),
            torch.zeros(10, 1, dtype=dtype),
            ten.to(dtype),
        )
