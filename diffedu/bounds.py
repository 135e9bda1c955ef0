"""Lower bounds on log p(x), term by term, each to be set beside the exact number.

Latent variables: log p(x) = L(q) + KL(q ‖ p(z | x)), so L(q) is a bound for any q.
A chain of T latents with a fixed q is a diffusion model, and L a sum of T + 1 terms;
as T grows it becomes an integral. Every expectation over Gaussian noise is taken as the
caller says: by quadrature, where the dimension allows, or by Monte Carlo with a
standard error. All numbers are in nats.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from diffedu._arguments import (
    readable,
    require_count,
    require_points,
    require_positive,
)
from diffedu.ddpm import (
    Decoder,
    Mean,
    VarianceSchedule,
    denoising_kl,
    gaussian_log_prob,
    prior_kl,
    reconstruction,
)
from diffedu.denoiser import Denoiser, ExactDenoiser
from diffedu.metrics import Estimate
from diffedu.mixture import GaussianMixture
from diffedu.path import GaussianPath, expand
from diffedu.sde import SDE, log_likelihood

Points = Float[Tensor, "n d"]
Values = Float[Tensor, "n"]


# Expectations over ε ~ N(0, I)


@dataclass(frozen=True)
class GaussHermite:
    """E over ε ~ N(0, I) by quadrature, `points` nodes along each axis.

    Exact for polynomials of degree 2 points − 1 in each coordinate. Costs points^d
    evaluations.

    Args:
        points: >= 1.

    Raises:
        ValueError: points < 1.
    """

    points: int = 40

    def __post_init__(self) -> None:
        require_count("points", self.points)

    def nodes(self, d: int) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m"]]:
        """Nodes and weights, float64; the weights sum to 1."""
        node, weight = _hermite(self.points)
        nodes = torch.cartesian_prod(*d * [node]).reshape(-1, d)
        weights = torch.cartesian_prod(*d * [weight]).reshape(-1, d).prod(1)
        return nodes, weights


@cache
def _hermite(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E f(z), z ~ N(0, 1)."""
    node, weight = (torch.from_numpy(z) for z in hermegauss(points))
    return node, weight / weight.sum()


@dataclass(frozen=True, eq=False)
class MonteCarlo:
    """E over ε ~ N(0, I) by `draws` fresh draws for each point and each term.

    Args:
        draws: >= 2, so that a standard error can be told.
        generator: where they come from.

    Raises:
        ValueError: draws < 2.
    """

    draws: int = 16
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        require_count("draws", self.draws, at_least=2)


Over = GaussHermite | MonteCarlo

CHUNK = 200_000  # points evaluated at once: some tens of megabytes


def _normal_nodes(x: Points, over: Over) -> Iterator[tuple[Tensor, Tensor | float]]:
    """ε of shape (m, n, d) and their weights, in chunks that fit into memory."""
    n, d = x.shape
    rows = max(1, CHUNK // n)
    if isinstance(over, GaussHermite):
        nodes, weights = (z.to(x) for z in over.nodes(d))
        for eps, weight in zip(nodes.split(rows), weights.split(rows), strict=True):
            yield eps[:, None].expand(-1, n, -1), weight[:, None]
        return
    for start in range(0, over.draws, rows):
        shape = (min(rows, over.draws - start), n, d)
        yield (
            torch.randn(
                shape, generator=over.generator, dtype=x.dtype, device=x.device
            ),
            1 / over.draws,
        )


def _expectation(
    function: Callable[[Tensor, Tensor], Tensor], x: Points, over: Over
) -> tuple[Values, Values]:
    """E function(x, ε) at every point, and the variance of that estimate.

    The variance is 0 for quadrature.
    """
    d = x.shape[1]
    mean = square = torch.zeros_like(x[:, 0])
    for eps, weight in _normal_nodes(x, over):
        repeated = x.expand(eps.shape).reshape(-1, d)
        value = function(repeated, eps.reshape(-1, d)).reshape(eps.shape[:2])
        mean = mean + (weight * value).sum(0)
        square = square + (weight * value**2).sum(0)
    if isinstance(over, GaussHermite):
        return mean, torch.zeros_like(mean)
    return mean, (square - mean**2).clamp(min=0) / (over.draws - 1)


def mixture_nodes(
    mixture: GaussianMixture, points: int = 40
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m"]]:
    """x and weights with E f(x) ≈ Σ weight · f(x) for x ~ the mixture.

    Gauss–Hermite nodes of every component, points^d of them each.

    Raises:
        ValueError: points < 1.
    """
    nodes, weights = (
        z.to(mixture.means) for z in GaussHermite(points).nodes(mixture.dim)
    )
    root = torch.linalg.cholesky(mixture.covariances)
    x = mixture.means[:, None] + nodes @ root.mT
    return x.flatten(0, 1), (mixture.weights[:, None] * weights).flatten()


# Latent variables


@dataclass(frozen=True, eq=False)
class Bound:
    """A bound at n points, with the standard error of each value (0 by quadrature)."""

    value: Values
    standard_error: Values

    def mean(self) -> Estimate:
        """The mean over the points, and its standard error as draws from the data."""
        return Estimate.mean(self.value)


LogJoint = Callable[[Tensor, Tensor], Tensor]
"""log p(x, z) from x (n, d) and z (m, n, k) to (m, n)."""


def elbo(log_joint: LogJoint, q: Distribution, x: Points, over: Over) -> Bound:
    """L(q) = E_q[log p(x, z) − log q(z)] <= log p(x).

    The difference is KL(q ‖ p(z | x)), so the bound is an equality at the posterior.

    Args:
        log_joint: the model, from x (n, d) and z (m, n, k) to (m, n).
        q: one law per point, batch shape (n,) and event shape (k,).
        x: shape (n, d).
        over: how E_q is taken; `GaussHermite` needs q to be a MultivariateNormal.

    Raises:
        ValueError: the shapes do not agree, or q is not Gaussian where it has to be.

    Source: Jordan et al. 1999; Kingma and Welling 2014, equation 2.
    """
    require_points("x", x)
    _require_latent_law(q, x)
    if isinstance(over, MonteCarlo):
        z = _draws(q, over.draws, over.generator)
        value = log_joint(x, z) - q.log_prob(z)
        return Bound(value.mean(0), value.std(0) / math.sqrt(over.draws))
    if not isinstance(q, MultivariateNormal):
        raise ValueError(
            "q must be a MultivariateNormal for quadrature, got "
            f"{type(q).__name__}: use MonteCarlo"
        )
    nodes, weights = (part.to(q.loc) for part in over.nodes(q.loc.shape[1]))
    z = _located(q, nodes[:, None].expand(-1, *q.loc.shape))
    value = (weights[:, None] * (log_joint(x, z) - q.log_prob(z))).sum(0)
    return Bound(value, torch.zeros_like(value))


def _draws(q: Distribution, draws: int, generator: torch.Generator | None) -> Tensor:
    """z ~ q, shape (draws, n, k), by z = μ + L ε where q is Gaussian.

    Other laws draw from torch's own generator, without a gradient.
    """
    if not isinstance(q, MultivariateNormal):
        return q.sample(torch.Size([draws]))
    like = {"dtype": q.loc.dtype, "device": q.loc.device}
    eps = torch.randn((draws, *q.loc.shape), generator=generator, **like)
    return _located(q, eps)


def _located(q: MultivariateNormal, eps: Float[Tensor, "m n k"]) -> Tensor:
    """z = μ + L ε."""
    return q.loc + (q.scale_tril @ eps[..., None]).squeeze(-1)


def _require_latent_law(q: Distribution, x: Points) -> None:
    if tuple(q.batch_shape) != (len(x),) or len(q.event_shape) != 1:
        raise ValueError(
            f"q must have batch shape ({len(x)},), one law per point, and event shape "
            f"(k,), got {tuple(q.batch_shape)} and {tuple(q.event_shape)}"
        )


def importance_log_prob(
    log_joint: LogJoint,
    q: Distribution,
    x: Points,
    draws: int,
    generator: torch.Generator | None = None,
) -> Values:
    """log (1/S) Σ_s p(x, z_s)/q(z_s), z_s ~ q: the importance-weighted bound.

    With S = 1 a draw of the evidence lower bound; with q the prior the naive estimate
    of log p(x). Its mean rises to log p(x) with S, from below: to leading order the
    bias is −Var(p(x, z)/q(z)) / (2 S p(x)²).

    Args:
        log_joint, q, x: as in `elbo`.
        draws: S >= 1.
        generator: for a MultivariateNormal q; other laws draw from torch's own.

    Raises:
        ValueError: draws < 1, or the shapes do not agree.

    Source: Burda, Grosse and Salakhutdinov 2016, equation 8.
    """
    require_points("x", x)
    require_count("draws", draws)
    _require_latent_law(q, x)
    z = _draws(q, draws, generator)
    log_ratio = log_joint(x, z) - q.log_prob(z)
    return log_ratio.logsumexp(0) - math.log(draws)


@dataclass(frozen=True, eq=False)
class LinearVAE:
    """z ~ N(0, I), x | z ~ N(W z + b, σ² I): likelihood and posterior are Gaussian.

    Args:
        W: shape (d, k).
        b: shape (d,).
        sigma: σ > 0.

    Raises:
        ValueError: a shape or σ is not as above.

    Source: Tipping and Bishop 1999, section 3 (probabilistic principal components).
    """

    W: Float[Tensor, "d k"]
    b: Float[Tensor, "d"]
    sigma: float

    def __post_init__(self) -> None:
        require_positive("sigma", self.sigma)
        if self.W.ndim != 2 or self.b.shape != self.W.shape[:1]:
            raise ValueError(
                "W must have shape (d, k) and b shape (d,), got "
                f"{tuple(self.W.shape)} and {tuple(self.b.shape)}"
            )

    def log_joint(self, x: Points, z: Float[Tensor, "m n k"]) -> Float[Tensor, "m n"]:
        """log N(z; 0, I) + log N(x; W z + b, σ² I)."""
        return standard_log_prob(z) + gaussian_log_prob(
            x, z @ self.W.mT + self.b, self._variance
        )

    def log_prob(self, x: Points) -> Values:
        """log p(x) = log N(x; b, W Wᵀ + σ² I)."""
        identity = torch.eye(len(self.W)).to(self.W)
        covariance = self.W @ self.W.mT + self._variance * identity
        return MultivariateNormal(self.b, covariance).log_prob(x)

    def posterior(self, x: Points) -> MultivariateNormal:
        """p(z | x) = N(M⁻¹ Wᵀ (x − b), σ² M⁻¹) with M = WᵀW + σ² I."""
        k = self.W.shape[1]
        M = self.W.mT @ self.W + self._variance * torch.eye(k).to(self.W)
        mean = torch.linalg.solve(M, self.W.mT @ (x - self.b).mT).mT
        covariance = self._variance * torch.linalg.inv(M)
        return MultivariateNormal(mean, covariance.expand(len(x), k, k))

    def prior(self, n: int) -> MultivariateNormal:
        """N(0, I), once per point: the q of the naive estimate."""
        k = self.W.shape[1]
        return MultivariateNormal(
            torch.zeros(n, k).to(self.W), torch.eye(k).to(self.W).expand(n, k, k)
        )

    @property
    def _variance(self) -> Tensor:
        return torch.tensor(self.sigma**2, dtype=self.W.dtype, device=self.W.device)


def standard_log_prob(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
    """log N(x; 0, I)."""
    return gaussian_log_prob(x, torch.zeros_like(x), torch.ones(()).to(x))


# A chain of T latents: the diffusion model


@dataclass(frozen=True, eq=False)
class ElboTerms:
    """The terms of the bound at n points, and their sum.

    Args:
        reconstruction: E log p_θ(x_0 | x_1), shape (n,).
        denoising: L_{t−1} = E KL(q(x_{t−1} | x_t, x_0) ‖ p_θ), shape (n, T + 1) with
            index t; entries 0 and 1 are zero.
        prior: L_T = KL(q(x_T | x_0) ‖ N(0, I)), shape (n,).
        standard_error: of the sum at each point; 0 by quadrature.
    """

    reconstruction: Values
    denoising: Float[Tensor, "n t"]
    prior: Values
    standard_error: Values

    @property
    def elbo(self) -> Values:
        """reconstruction − Σ_{t=2}^T L_{t−1} − L_T."""
        return self.reconstruction - self.denoising.sum(1) - self.prior

    def mean(self) -> Estimate:
        """The bound averaged over the points, and its standard error."""
        return Estimate.mean(self.elbo)


def reverse_mean(schedule: VarianceSchedule, denoiser: Denoiser) -> Mean:
    """μ_θ(x_t, t) = μ̃_t(x_t, x̂_0): what a denoiser of any path means on the chain.

    A denoiser knows x_0 at a noise level, and the level is σ/α. So it is asked at the
    time of its own path where σ/α is that of the chain, with x_t scaled to that path.

    Raises:
        ValueError: (when called) the path does not reach the noise of the chain.
    """
    path = denoiser.path
    ratios = (schedule.noise_variance / schedule.alpha_bar).sqrt()

    def mean(x_t: Points, t: int) -> Points:
        time = path.time_at(ratios[t])
        scale = (path.alpha(time) ** 2 + path.variance(time)).sqrt().to(x_t)
        return schedule.posterior_mean(x_t, denoiser.x0(scale * x_t, time), t)

    return mean


def elbo_terms(
    schedule: VarianceSchedule,
    mean: Mean,
    x_0: Points,
    varsigma_squared: Float[Tensor, "t"],
    over: Over,
    decoder: Decoder = gaussian_log_prob,
) -> ElboTerms:
    """E log p_θ(x_0 | x_1) − Σ_{t=2}^T E KL(q(x_{t−1} | x_t, x_0) ‖ p_θ) − L_T.

    At every x_0, a lower bound on log p_θ(x_0). On average over the data also one on
    the negative entropy E log p_0, which it misses by the KL between the two chains.
    Gradients reach a network behind `mean`; under `torch.no_grad()` its graph, T times
    that of a batch, is not kept.

    Args:
        schedule: the chain q.
        mean: μ_θ; `reverse_mean` makes one of a denoiser.
        x_0: shape (n, d).
        varsigma_squared: ς_t², shape (T + 1,), such as `schedule.sampler_variance()`.
        over: how the expectations over ε are taken.
        decoder: log p(x_0 | x_1), a density or the mass of a bin.

    Raises:
        ValueError: x_0 is not finite points, or varsigma_squared is not T + 1 positive
            numbers (index 0 aside).

    Source: Ho et al. 2020, equation 5; Sohl-Dickstein et al. 2015, appendix B.
    """
    require_points("x_0", x_0)
    _require_sampler_variance(schedule, varsigma_squared)

    def recovered(x: Points, eps: Points) -> Values:
        return reconstruction(schedule, mean, x, eps, varsigma_squared, decoder)

    first, variance = _expectation(recovered, x_0, over)
    denoising = x_0.new_zeros(len(x_0), schedule.T + 1)
    for t in range(2, schedule.T + 1):

        def step(x: Points, eps: Points, t: int = t) -> Values:
            return denoising_kl(schedule, mean, x, eps, t, varsigma_squared)

        denoising[:, t], added = _expectation(step, x_0, over)
        variance = variance + added
    return ElboTerms(first, denoising, prior_kl(schedule, x_0), variance.sqrt())


def _require_sampler_variance(
    schedule: VarianceSchedule, varsigma_squared: Tensor
) -> None:
    """Raise ValueError unless there are T + 1 variances, positive from index 1 on."""
    if varsigma_squared.shape != schedule.beta.shape:
        raise ValueError(
            f"varsigma_squared must have shape ({schedule.T + 1},), one per step and "
            f"index 0, got {tuple(varsigma_squared.shape)}"
        )
    if readable(varsigma_squared) and not (varsigma_squared[1:] > 0).all():
        raise ValueError(
            "varsigma_squared must be > 0 from index 1 on, got "
            f"{float(varsigma_squared[1:].min()):.3g}"
        )


def model_log_prob(
    schedule: VarianceSchedule,
    mean: Mean,
    varsigma_squared: Float[Tensor, "t"],
    x: Float[Tensor, "n 1"],
    grid: Float[Tensor, "m"],
) -> Values:
    """log p_θ(x) of the model chain on the line, all latents integrated out.

    p_θ(x_{t−1}) = ∫ N(x_{t−1}; μ_θ(x_t, t), ς_t²) p_θ(x_t) dx_t, by sums on a grid.

    Args:
        schedule, mean, varsigma_squared: as in `elbo_terms`.
        x: shape (n, 1).
        grid: increasing and equidistant, with steps below the smallest ς_t and room
            for p_θ at both ends.

    Raises:
        ValueError: the points are not on the line, the grid is not equidistant, or its
            step exceeds the smallest ς_t.
    """
    require_points("x", x, dim=1)
    _require_sampler_variance(schedule, varsigma_squared)
    steps = grid.diff()
    step = steps.mean()
    rounding = 4 * torch.finfo(grid.dtype).eps * grid.abs().max()
    even = ((steps - step).abs() <= 1e-6 * step + rounding).all()
    if grid.ndim != 1 or not (even and step > 0):
        raise ValueError("grid must be increasing and equidistant, shape (m,)")
    narrowest = varsigma_squared[1:].min().sqrt()
    if step > narrowest:
        raise ValueError(
            f"grid must have steps below {float(narrowest):.3g}, the smallest "
            f"deviation of a step of the chain, got {float(step):.3g}"
        )
    points = grid[:, None].to(x)
    density = standard_log_prob(points).exp()
    for t in range(schedule.T, 0, -1):
        target = points if t > 1 else x
        log_kernel = gaussian_log_prob(
            target[:, None], mean(points, t), varsigma_squared[t].to(x)
        )
        density = log_kernel.exp() @ density * step
    return density.log()


def first_order_gap(
    path: GaussianPath, mixture: GaussianMixture, points: int = 40, times: int = 64
) -> float:
    """lim T (E log p_0 − E ELBO_T − KL(p_T ‖ N(0, I))) for the exact mean and ς² = β_t.

    = ¼ ∫ b(t)² E‖I + ∇²log p_t‖_F² dt · t_max, on the uniform grid t_k = t_max k/T of a
    path with α² + σ² = 1 and b = g²: β_t = b t_max/T + O(1/T²). Every step's reverse
    law has covariance β_t (I + β_t (I + ∇²log p_t)) to first order, and the Gaussian of
    variance β_t misses it by ¼ β_t² ‖I + ∇²log p_t‖_F².

    Args:
        path: variance preserving, with bounded g.
        mixture: the law of x_0.
        points, times: nodes of the quadrature, along each axis and in time.

    Raises:
        ValueError: a count is < 1.
    """
    identity = torch.eye(mixture.dim).to(mixture.means)

    def excess(x_t: Points, law: GaussianMixture, time: Tensor) -> Values:
        square = (identity + law.hessian(x_t)).square().sum((-2, -1))
        return 0.25 * path.g(time) ** 4 * square

    return path.t_max * _over_time(path, mixture, excess, points, 0.0, times)


def _over_time(
    path: GaussianPath,
    mixture: GaussianMixture,
    integrand: Callable[[Tensor, GaussianMixture, Tensor], Tensor],
    points: int,
    start: float,
    times: int,
) -> float:
    """∫ E integrand(x_t, p_t, t) dt from start to t_max, x_t ~ p_t, by quadrature."""
    t, weights = time_nodes(path, start, times)
    means = torch.zeros_like(t)
    for k, time in enumerate(t.to(mixture.means)):
        law = path.marginal(mixture, time)
        x_t, weight = mixture_nodes(law, points)
        means[k] = (weight * integrand(x_t, law, time).detach()).sum()
    return float((weights * means).sum())


# Continuous time

Rate = Callable[[Denoiser, Tensor, Tensor, Tensor], Tensor]
"""From a denoiser, x_0 and ε (n, d) and t () to the integrand of the bound, (n,)."""


def divergence_rate(denoiser: Denoiser, x_0: Points, eps: Points, t: Tensor) -> Values:
    """½ g² ‖s_θ‖² + g² ∇·s_θ − d f at x_t = α x_0 + σ ε.

    Source: Huang, Lim and Courville 2021, theorem 3 (their a is g s_θ).
    """
    path = denoiser.path
    x_t = path.perturb(x_0, eps, t)
    score, divergence = denoiser.score_and_divergence(x_t, t)
    rate = path.g(t) ** 2 * (0.5 * score.square().sum(-1) + divergence)
    return rate - x_0.shape[1] * path.f(t)


def denoising_rate(denoiser: Denoiser, x_0: Points, eps: Points, t: Tensor) -> Values:
    """½ g² (‖s_θ − ∇log p_{t|0}‖² − ‖∇log p_{t|0}‖²) − d f at x_t = α x_0 + σ ε.

    ∇log p_{t|0} = −ε/σ. The two squares diverge as σ → 0 and their difference does not,
    so it is taken as ‖s_θ‖² + 2 s_θ·ε/σ. Equal to `divergence_rate` in the mean over ε,
    by Stein's identity, and without a derivative.

    Source: Song, Durkan, Murray and Ermon 2021, theorem 3.
    """
    path = denoiser.path
    x_t = path.perturb(x_0, eps, t)
    score = denoiser.score(x_t, t)
    cross = (score * eps).sum(-1) / expand(path.sigma(t), x_0)
    rate = path.g(t) ** 2 * (0.5 * score.square().sum(-1) + cross)
    return rate - x_0.shape[1] * path.f(t)


@dataclass(frozen=True, eq=False)
class ContinuousElbo:
    """The parts of the continuous-time bound at n points.

    Args:
        prior: E[log π(x_T) | x_0], shape (n,).
        rates: E[rate | x_0] at the times, shape (n, m).
        times, weights: nodes of ∫ dt, shape (m,).
        reconstruction: what the decoder adds between x_0 and x_start; 0 at start = 0.
        standard_error: of the sum at each point; 0 by quadrature.
    """

    prior: Values
    rates: Float[Tensor, "n m"]
    times: Float[Tensor, "m"]
    weights: Float[Tensor, "m"]
    reconstruction: Values
    standard_error: Values

    @property
    def elbo(self) -> Values:
        """prior − Σ weights · rates + reconstruction."""
        return self.prior - self.rates @ self.weights + self.reconstruction

    def mean(self) -> Estimate:
        """The bound averaged over the points, and its standard error."""
        return Estimate.mean(self.elbo)


def time_nodes(
    path: GaussianPath, start: float = 0.0, times: int = 64
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
    """Nodes and weights of ∫ dt from start to t_max: Gauss–Legendre in √(t − start).

    Dense near the start, where the score changes fastest; never at an end.

    Raises:
        ValueError: times < 1, or start is not in [0, t_max).
    """
    require_count("times", times)
    require_positive("start", start, or_zero=True)
    if start >= path.t_max:
        raise ValueError(f"start must lie in [0, {path.t_max:g}), got {start:g}")
    node, weight = (torch.from_numpy(z) for z in leggauss(times))
    u = 0.5 * (1 + node)
    length = path.t_max - start
    return start + length * u**2, length * u * weight


def continuous_elbo(
    denoiser: Denoiser,
    x_0: Points,
    prior_log_prob: Callable[[Tensor], Tensor],
    over: Over = GaussHermite(),
    rate: Rate = divergence_rate,
    start: float = 0.0,
    times: int = 64,
) -> ContinuousElbo:
    """E[log π(x_T) − ∫ rate(x_t, t) dt | x_0] <= log p_θ(x_0), the SDE's density.

    p_θ is the law at t = 0 of the reverse SDE with s_θ for the score, from π at t_max.
    With the exact score and π = p_T the bound is log p_0(x_0) at every x_0.

    With start > 0, for denoisers that were not trained down to σ = 0, the model is the
    reverse SDE down to x_start and the decoder N(x̂_0(x_start), (σ/α)² I) from there.

    Args:
        denoiser: what gives s_θ, exact or learned, on any path.
        x_0: shape (n, d).
        prior_log_prob: log π, from (n, d) to (n,).
        over: how the expectations over ε are taken.
        rate: `divergence_rate` or `denoising_rate`.
        start: where the reverse SDE stops, in [0, t_max).
        times: nodes of the quadrature in time.

    Raises:
        ValueError: x_0 is not finite points, or a number is out of range.

    Source: Huang, Lim and Courville 2021; Song, Durkan, Murray and Ermon 2021.
    """
    require_points("x_0", x_0)
    path = denoiser.path
    t, weights = time_nodes(path, start, times)
    end = torch.tensor(path.t_max, dtype=t.dtype)

    def at_end(x: Points, eps: Points) -> Values:
        return prior_log_prob(path.perturb(x, eps, end.to(x)))

    prior, variance = _expectation(at_end, x_0, over)
    rates = []
    for time, weight in zip(t.to(x_0), weights.to(x_0), strict=True):

        def integrand(x: Points, eps: Points, time: Tensor = time) -> Values:
            return rate(denoiser, x, eps, time)

        value, added = _expectation(integrand, x_0, over)
        rates.append(value)
        variance = variance + weight**2 * added
    first = torch.zeros_like(prior)
    if start > 0:
        first, added = _expectation(_decoded(denoiser, start), x_0, over)
        variance = variance + added
    return ContinuousElbo(
        prior,
        torch.stack(rates, 1).detach(),
        t,
        weights.to(x_0),
        first,
        variance.sqrt(),
    )


def _decoded(denoiser: Denoiser, start: float) -> Callable[[Tensor, Tensor], Tensor]:
    """log N(x_0; x̂_0(x_s), (σ/α)² I) − log q(x_s | x_0) at s = start."""
    path = denoiser.path

    def value(x: Points, eps: Points) -> Values:
        s = torch.tensor(start, dtype=x.dtype, device=x.device)
        x_0 = denoiser.x0(path.perturb(x, eps, s), s)
        variance = path.variance(s)
        decoded = gaussian_log_prob(x, x_0, variance / path.alpha(s) ** 2)
        encoded = gaussian_log_prob(path.sigma(s) * eps, torch.zeros_like(x), variance)
        return (decoded - encoded).detach()

    return value


def score_gap(
    denoiser: Denoiser,
    exact: ExactDenoiser,
    points: int = 40,
    start: float = 0.0,
    times: int = 64,
) -> float:
    """½ ∫ g² E‖s_θ − ∇log p_t‖² dt: what the score's error costs the bound on average.

    E[log p_0 − ELBO] is this and KL(p_T ‖ π).

    Args:
        denoiser: s_θ.
        exact: the truth, of the same path.
        points, times: nodes of the quadrature, along each axis and in time.
        start: where the integral begins, in [0, t_max).

    Raises:
        ValueError: a number is out of range.

    Source: Song, Durkan, Murray and Ermon 2021, theorem 1.
    """
    path = exact.path

    def loss(x_t: Points, law: GaussianMixture, time: Tensor) -> Values:
        error = (denoiser.score(x_t, time) - law.score(x_t)).square().sum(-1)
        return 0.5 * path.g(time) ** 2 * error

    return _over_time(path, exact.mixture, loss, points, start, times)


# The probability flow, whose likelihood is exact


@dataclass(frozen=True, eq=False)
class _Standard:
    """y = (x − α m)/ρ with ρ² = α²s² + σ²: mean 0 and variance 1 at every time."""

    path: GaussianPath
    mean: Float[Tensor, "d"]
    scale: Float[Tensor, ""]

    @classmethod
    def of(cls, denoiser: Denoiser, d: int) -> "_Standard":
        """With the mean and the standard deviation that the denoiser knows."""
        mean, covariance = denoiser.moments(d)
        return cls(denoiser.path, mean, covariance.diagonal().mean().sqrt())

    def at(self, t: float | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """α m and ρ, in the dtype and on the device of `like`."""
        alpha = self.path.alpha(t)
        scaled = alpha * self.scale.to(alpha)
        rho = torch.sqrt(scaled.square() + self.path.variance(t))
        return alpha.to(like) * self.mean.to(like), rho.to(like)

    def time(self, theta: Tensor) -> Tensor:
        """The time at which tan θ = σ/(α s)."""
        return self.path.time_at(self.scale.to(theta) * theta.tan())

    def angle(self, t: float) -> float:
        """θ at a time."""
        scaled = self.path.alpha(t) * self.scale.double()
        return float(torch.atan2(self.path.sigma(t), scaled))


def angle_flow(denoiser: Denoiser, d: int, start: float, end: float) -> SDE:
    """dy/dθ = −tan θ (y + ρ s_θ): the probability flow, standardised, by the angle.

    With mean m and standard deviation s per coordinate of the data, y = (x − α m)/ρ
    where ρ² = α²s² + σ², and tan θ = σ/(α s). y has mean 0 and variance 1 throughout;
    the drift is what a network predicts as v, and stays of order 1 from data to noise.

    Raises:
        ValueError: start and end do not increase in the range of the path, or α is 0
            at the end.

    Source: the preconditioning of Karras et al. 2022, section 5, as a clock.
    """
    path = denoiser.path
    require_positive("start", start, or_zero=True)
    if not start < end <= path.t_max:
        raise ValueError(
            f"end must lie in ({start:g}, {path.t_max:g}], after start, got {end:g}"
        )
    if not path.alpha(end) > 0:
        raise ValueError(f"end must be a time with signal, got alpha = 0 at {end:g}")
    standard = _Standard.of(denoiser, d)

    def original(y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, t and ρ."""
        t = standard.time(theta)
        shift, rho = standard.at(t, y)
        return shift + rho * y, t, rho

    def drift(y: Tensor, theta: Tensor) -> Tensor:
        x, t, rho = original(y, theta)
        return -theta.tan() * (y + rho * denoiser.score(x, t))

    def drift_and_divergence(y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        x, t, rho = original(y, theta)
        score, divergence = denoiser.score_and_divergence(x, t)
        tan = theta.tan()
        return -tan * (y + rho * score), -tan * (d + rho.square() * divergence)

    domain = (standard.angle(start), standard.angle(end))
    return SDE(drift, None, domain, drift_and_divergence=drift_and_divergence)


def flow_log_prob(
    denoiser: Denoiser,
    x: Points,
    prior_log_prob: Callable[[Tensor], Tensor] | None = None,
    tolerance: float = 1e-6,
    probes: Float[Tensor, "m n d"] | None = None,
    start: float = 0.0,
    end: float | None = None,
    method: str = "dopri5",
) -> Values:
    """log p_start(x) of the probability flow: `log_likelihood` along `angle_flow`.

    Measured on 1,000 points each of six mixtures in the plane with their exact score
    (benchmarks/likelihood.py): by default 130 evaluations and a root mean square error
    of 1e-6 to 2e-5 nats; at tolerance 1e-5, 90 and 3e-5 to 5e-4; at 1e-7, 190 and below
    1e-6. Ten points in the thousand carry most of the squared error.

    Args:
        denoiser: exact or learned; a network needs start > 0.
        x: points at time `start`, shape (n, d).
        prior_log_prob: log π at time `end`; by default the Gaussian with the mean and
            the covariance of p_end, as far as the denoiser knows them.
        tolerance, probes, method: as in `sde.log_likelihood`.
        start, end: times; end is t_max by default.

    Raises:
        ValueError: an argument is out of range, or the path has no signal at the end.

    Source: Song et al. 2021, section 4.3 and appendix D.2.
    """
    require_points("x", x)
    d = x.shape[1]
    end = denoiser.path.t_max if end is None else end
    flow = angle_flow(denoiser, d, start, end)
    standard = _Standard.of(denoiser, d)
    shift, rho = standard.at(start, x)
    shift_end, rho_end = standard.at(end, x)
    log_prior = (
        prior_log_prob or denoiser.gaussian(end, d).to(x.dtype, x.device).log_prob
    )

    def prior(y: Tensor) -> Tensor:
        return log_prior(shift_end + rho_end * y) + d * (rho_end / rho).log()

    y = (x - shift) / rho
    return log_likelihood(flow, y, flow.domain, prior, method, tolerance, probes)
