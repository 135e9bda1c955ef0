"""Bounds against plain linear algebra, SciPy's integrals and torch.distributions.

Where mean and noise of every step are linear, all of x_0 … x_T is one Gaussian, and the
bound, log p_θ and the KL between them are determinants and quadratic forms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

import diffedu.bounds
from diffedu.bounds import (
    GaussHermite,
    LinearVAE,
    MonteCarlo,
    Over,
    angle_flow,
    continuous_elbo,
    denoising_rate,
    divergence_rate,
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
from diffedu.ddpm import VarianceSchedule, discretised_log_prob
from diffedu.denoiser import Denoiser, ExactDenoiser, NeuralDenoiser, ScoreDenoiser
from diffedu.losses import gaussian, rademacher
from diffedu.metrics import Estimate
from diffedu.mixture import (
    GaussianMixture,
    ring,
    three_gaussians,
    three_gaussians_1d,
)
from diffedu.nets import MLP
from diffedu.path import (
    Cosine,
    GaussianPath,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from tests.package.oracles import (
    assert_mean,
    cell,
    derivative,
    gauss_hermite,
    gradient,
    jacobian,
    lattice,
    noised,
    order,
    random_mixture,
    torch_mixture,
    unrolled,
)

LINE, PLANE = three_gaussians_1d(), three_gaussians()
VP = VariancePreserving()
SHARES = [0.0, 0.5, 1.0]
every_share = pytest.mark.parametrize("share", SHARES, ids=["β̃", "between", "β"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def between(schedule: VarianceSchedule, share: float) -> Tensor:
    """ς² from β̃ (0) to β (1)."""
    tilde, beta = map(schedule.sampler_variance, ("beta_tilde", "beta"))
    return torch.lerp(tilde, beta, share)


def gaussian_mixture(mean: Tensor, covariance: Tensor) -> GaussianMixture:
    return GaussianMixture([1.0], mean[None], covariance[None])


def p_at(mixture: GaussianMixture, path: GaussianPath, t: float):
    return noised(mixture, path.alpha(t), path.sigma(t))


def averaged(mixture: GaussianMixture, points: int = 160):
    """x and weights of E over the mixture, by sums on a lattice."""
    x = lattice(mixture, points, reach=7.0)
    return x, torch_mixture(mixture).log_prob(x).exp() * cell(x)


def kl_to_prior(mixture: GaussianMixture, path: GaussianPath) -> float:
    """KL(p_T ‖ N(0, I)) on a lattice."""
    law = p_at(mixture, path, path.t_max)
    x, weight = averaged(path.marginal(mixture, path.t_max))
    standard = Normal(0.0, 1.0).log_prob(x).sum(-1)
    return float((weight * (law.log_prob(x) - standard)).sum())


# Expectations


@pytest.mark.parametrize("d", [1, 2, 3])
def test_quadrature_is_exact_for_polynomials_up_to_its_degree(d: int) -> None:
    nodes, weights = GaussHermite(4).nodes(d)
    assert nodes.shape == (4**d, d)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-14)
    moments = [1, 0, 1, 0, 3, 0, 15, 0]  # of N(0, 1), up to degree 7
    for k, moment in enumerate(moments):
        # x_1^k times a square along the last axis
        for power, second in ((0, 1), (2, 1 if d > 1 else None)):
            if second is None:
                continue
            value = (weights * nodes[:, 0] ** k * nodes[:, -1] ** power).sum()
            assert float(value) == pytest.approx(moment * second, abs=1e-11)


def test_one_node_is_the_mean() -> None:
    nodes, weights = GaussHermite(1).nodes(2)
    assert torch.equal(nodes, torch.zeros(1, 2).double())
    assert torch.equal(weights, torch.ones(1).double())


@pytest.mark.parametrize("mixture", [LINE, PLANE, random_mixture(2, 3)])
def test_the_nodes_of_a_mixture_have_its_moments(mixture: GaussianMixture) -> None:
    x, weight = mixture_nodes(mixture, 6)
    law = torch_mixture(mixture)
    assert float(weight.sum()) == pytest.approx(1, abs=1e-13)
    torch.testing.assert_close(weight @ x, law.mean)
    centred = x - law.mean
    covariance = torch.einsum("n,ni,nj->ij", weight, centred, centred)
    torch.testing.assert_close(covariance.diagonal(), law.variance)
    torch.testing.assert_close(covariance, mixture.covariance)


def test_an_expectation_over_a_mixture_is_the_integral() -> None:
    x, weight = mixture_nodes(PLANE, 24)
    y, density = averaged(PLANE, 120)
    for f in (lambda x: x[:, 0].sin() * x[:, 1], lambda x: (-x.square().sum(1)).exp()):
        truth = float((density * f(y)).sum())
        assert float((weight * f(x)).sum()) == pytest.approx(truth, abs=1e-8)


def test_chunks_do_not_change_the_bound(monkeypatch, generator) -> None:
    schedule = VarianceSchedule.linear(3, 0.1, 0.5)
    mean, x_0 = reverse_mean(schedule, ExactDenoiser(VP, PLANE)), normal(3, 2)
    varsigma_squared = between(schedule, 0.5)

    def terms(chunk: int, over: Over):
        monkeypatch.setattr(diffedu.bounds, "CHUNK", chunk)
        return elbo_terms(schedule, mean, x_0, varsigma_squared, over)

    whole = terms(200_000, GaussHermite(10))
    pieces = terms(11 * 3, GaussHermite(10))
    torch.testing.assert_close(pieces.elbo, whole.elbo, rtol=1e-12, atol=1e-12)
    # draws in chunks that do not divide their number
    drawn = terms(30 * 3, MonteCarlo(400, generator))
    error = (drawn.elbo - whole.elbo).abs()
    assert (error < 5 * drawn.standard_error).all()
    assert (drawn.standard_error > 0).all()


# Latent variables


W = torch.tensor([[0.8, -0.3], [0.1, 0.9], [1.2, 0.4]], dtype=torch.float64)
B = torch.tensor([0.2, -0.5, 0.1], dtype=torch.float64)
LINEAR = LinearVAE(W, B, 0.7)
NARROW = LinearVAE(W[:1, :1], B[:1], 0.7)


def latent_joint(model: LinearVAE) -> MultivariateNormal:
    """The law of (z, x), from x = W z + b + σ ε."""
    d, k = model.W.shape
    root = torch.zeros(k + d, k + d).double()
    root[:k, :k], root[k:, :k] = torch.eye(k), model.W
    root[k:, k:] = model.sigma * torch.eye(d).double()
    mean = torch.cat([torch.zeros(k).double(), model.b])
    return MultivariateNormal(mean, root @ root.mT)


def conditioned(
    law: MultivariateNormal, x: Tensor, at: slice, of: slice
) -> MultivariateNormal:
    """The law of the part `of` of a Gaussian vector, given that the part `at` is x."""
    mean, C = law.loc, law.covariance_matrix
    gain = torch.linalg.solve(C[at, at], C[at, of]).mT
    covariance = C[of, of] - gain @ C[at, of]
    covariance = 0.5 * (covariance + covariance.mT)
    return MultivariateNormal(mean[of] + (x - mean[at]) @ gain.mT, covariance)


def some_law(n: int, k: int, seed: int = 3) -> MultivariateNormal:
    """Another correlated Gaussian for every point."""
    root = torch.tril(0.3 * normal(n, k, k, seed=seed)) + 0.6 * torch.eye(k).double()
    return MultivariateNormal(normal(n, k, seed=seed + 1), scale_tril=root)


@pytest.mark.parametrize("model", [LINEAR, NARROW], ids=["3 from 2", "1 from 1"])
def test_the_linear_model_is_one_joint_gaussian(model: LinearVAE) -> None:
    d, k = model.W.shape
    x, z = normal(4, d), normal(6, 4, k, seed=1)
    joint = latent_joint(model)
    truth = joint.log_prob(torch.cat([z, x.expand(6, 4, d)], -1))
    torch.testing.assert_close(model.log_joint(x, z), truth)
    latent, data = slice(0, k), slice(k, k + d)
    marginal = MultivariateNormal(
        joint.loc[data], joint.covariance_matrix[data, data]
    ).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), marginal)
    posterior, got = conditioned(joint, x, data, latent), model.posterior(x)
    torch.testing.assert_close(got.loc, posterior.loc)
    shape = (4, k, k)
    torch.testing.assert_close(
        got.covariance_matrix, posterior.covariance_matrix.expand(shape)
    )
    prior = model.prior(4)
    torch.testing.assert_close(prior.loc, torch.zeros(4, k).double())
    identity = torch.eye(k).double().expand(shape)
    torch.testing.assert_close(prior.covariance_matrix, identity)


@pytest.mark.parametrize("model", [LINEAR, NARROW], ids=["3 from 2", "1 from 1"])
def test_log_p_is_the_bound_plus_the_kl_to_the_posterior(model: LinearVAE) -> None:
    d, k = model.W.shape
    x = normal(5, d)
    joint = latent_joint(model)
    posterior = conditioned(joint, x, slice(k, k + d), slice(0, k))
    marginal = joint.covariance_matrix[k:, k:]
    log_p = MultivariateNormal(model.b, marginal).log_prob(x)
    # log-joint and log q are quadratic: three nodes along each axis are exact
    for q in (some_law(5, k), model.prior(5)):
        bound = elbo(model.log_joint, q, x, GaussHermite(3))
        gap = kl_divergence(q, posterior)
        torch.testing.assert_close(bound.value + gap, log_p, rtol=0, atol=1e-10)
        assert float(gap.min()) > 0.1
        assert float(bound.standard_error.abs().max()) == 0
    tight = elbo(model.log_joint, model.posterior(x), x, GaussHermite(3))
    torch.testing.assert_close(tight.value, log_p, rtol=0, atol=1e-10)


def bent(x: Tensor, z: Tensor) -> Tensor:
    """log N(z; 0, 1) + log N(x; sin 2z, 0.3²)."""
    return (Normal(0.0, 1.0).log_prob(z) + Normal((2 * z).sin(), 0.3).log_prob(x)).sum(
        -1
    )


def test_the_bound_of_a_bent_model_is_an_integral() -> None:
    x, q = column(0.7), scipy.stats.norm(0.4, 0.5)

    def log_joint(z: float) -> float:
        decoder = scipy.stats.norm(np.sin(2 * z), 0.3)
        return scipy.stats.norm.logpdf(z) + decoder.logpdf(0.7)

    def integrand(z: float) -> float:
        return q.pdf(z) * (log_joint(z) - q.logpdf(z))

    truth, _ = scipy.integrate.quad(integrand, -4, 5, epsabs=1e-12)
    law = MultivariateNormal(column(0.4), torch.full((1, 1, 1), 0.25).double())
    got = elbo(bent, law, x, GaussHermite(40))
    assert float(got.value) == pytest.approx(truth, abs=1e-9)
    evidence, _ = scipy.integrate.quad(lambda z: math.exp(log_joint(z)), -8, 8)
    assert truth < math.log(evidence)


def repeated(q: MultivariateNormal, n: int) -> MultivariateNormal:
    k = q.event_shape[0]
    return MultivariateNormal(
        q.loc.expand(n, k), scale_tril=q.scale_tril.expand(n, k, k)
    )


def test_monte_carlo_is_unbiased_and_knows_its_error(generator) -> None:
    n, x = 4000, normal(1, 3)
    q = some_law(1, 2)
    truth = elbo(LINEAR.log_joint, q, x, GaussHermite(3)).value
    over = MonteCarlo(8, generator)
    got = elbo(LINEAR.log_joint, repeated(q, n), x.expand(n, 3), over)
    assert_mean(got.value, truth)
    assert_mean(got.standard_error**2, got.value.var(), 0.1 * float(got.value.var()))
    estimate = got.mean()
    assert estimate.value == pytest.approx(float(got.value.mean()))
    spread = float(got.value.std()) / math.sqrt(n)
    assert estimate.standard_error == pytest.approx(spread)


def test_a_law_that_is_not_gaussian_is_sampled() -> None:
    """q Laplace: E_q by an integral."""
    x = column(0.7)
    location, scale = 0.4, 0.3

    def integrand(z: float) -> float:
        q = scipy.stats.laplace(location, scale)
        value = float(bent(x, column(z)[None])) - q.logpdf(z)
        return q.pdf(z) * value

    truth = sum(
        scipy.integrate.quad(integrand, *ends)[0] for ends in ((-6, 0.4), (0.4, 7))
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        q = Independent(Laplace(column(location), scale), 1)
        got = elbo(bent, q, x, MonteCarlo(20_000))
        assert abs(float(got.value) - truth) < 5 * float(got.standard_error)
        # and the weighted bound of many draws is log p
        weighted = importance_log_prob(bent, q, x, 200_000)
    z, weights = gauss_hermite(200)
    likelihood = Normal((2 * z).sin(), 0.3).log_prob(torch.tensor(0.7)).exp()
    log_p = float((weights * likelihood).sum().log())
    assert float(weighted) == pytest.approx(log_p, abs=0.02)


@pytest.mark.parametrize("draws", [1, 2])
def test_the_importance_weighted_bound_of_few_draws_is_an_integral(
    draws: int, generator
) -> None:
    """E log ½(w_1 + w_2) over two draws from q, by quadrature in the plane."""
    n, x = 60_000, column(1.1)
    z, weight = gauss_hermite(60)
    w = Normal(NARROW.W * z + NARROW.b, 0.7).log_prob(x)[0].exp()
    truth = weight @ w.log()
    if draws == 2:
        truth = weight @ (0.5 * (w[:, None] + w)).log() @ weight
    got = importance_log_prob(
        NARROW.log_joint, NARROW.prior(n), x.expand(n, 1), draws, generator
    )
    assert_mean(got, truth)


def test_the_naive_estimate_is_biased_by_its_variance_over_twice_the_draws(
    generator,
) -> None:
    n, draws, x = 20_000, 32, column(1.1)
    z, weight = gauss_hermite(60)
    w = Normal(NARROW.W * z + NARROW.b, 0.7).log_prob(x)[0].exp()
    p = weight @ w
    central = [float(weight @ (w / p - 1) ** k) for k in (2, 3)]
    bias = -central[0] / (2 * draws)
    # what the expansion of the logarithm leaves
    left = (abs(central[1]) / 3 + 0.75 * central[0] ** 2) / draws**2
    got = importance_log_prob(
        NARROW.log_joint, NARROW.prior(n), x.expand(n, 1), draws, generator
    )
    assert_mean(got, p.log() + bias, allowance=left)
    error = float(got.std()) / math.sqrt(n)
    assert left < abs(bias) / 5
    assert abs(bias) > 5 * error
    # from the posterior every weight is p(x)
    exact = importance_log_prob(NARROW.log_joint, NARROW.posterior(x), x, 3, generator)
    torch.testing.assert_close(exact, NARROW.log_prob(x))


def test_more_draws_give_a_better_bound(generator) -> None:
    n, x = 4000, column(1.1)
    means = [
        importance_log_prob(
            NARROW.log_joint, NARROW.prior(n), x.expand(n, 1), draws, generator
        ).mean()
        for draws in (1, 4, 16)
    ]
    assert means[0] < means[1] < means[2] < NARROW.log_prob(x)


# The chain on linear Gaussian ground


@dataclass
class LinearChain:
    """μ_θ(x, t) = A_t x + b_t and ς_t² I, and what plain linear algebra says of it."""

    schedule: VarianceSchedule
    A: Tensor
    b: Tensor
    varsigma_squared: Tensor

    def mean(self, x: Tensor, t: int) -> Tensor:
        return x @ self.A[t].mT + self.b[t]

    def model(self) -> MultivariateNormal:
        """The law of (x_0 … x_T) under p_θ, every x_t an affine map of the noise."""
        T, d = self.schedule.T, self.b.shape[1]
        shift = torch.zeros(T + 1, d).double()
        root = torch.zeros(T + 1, d, T + 1, d).double()
        root[T, :, T] = identity = torch.eye(d).double()
        for t in range(T, 0, -1):
            shift[t - 1] = self.A[t] @ shift[t] + self.b[t]
            root[t - 1] = torch.einsum("ij,jsk->isk", self.A[t], root[t])
            root[t - 1, :, t - 1] = self.varsigma_squared[t].sqrt() * identity
        root = root.reshape((T + 1) * d, (T + 1) * d)
        return MultivariateNormal(shift.flatten(), root @ root.mT)

    def noising(self, x_0: Tensor) -> MultivariateNormal:
        """The law of (x_1 … x_T) given x_0 (n, d)."""
        d = x_0.shape[1]
        a, root = unrolled(self.schedule.beta)
        mean = torch.einsum("t,ni->nti", a[1:], x_0).flatten(1)
        C = root[1:] @ root[1:].mT
        return MultivariateNormal(mean, torch.kron(C, torch.eye(d).double()))

    def elbo(self, x_0: Tensor) -> Tensor:
        """E_q[log p_θ(x_0 … x_T) − log q(x_1 … x_T | x_0)]: a quadratic form."""
        d, model, q = x_0.shape[1], self.model(), self.noising(x_0)
        at = torch.cat([x_0, q.loc], 1)
        spread = torch.zeros_like(model.covariance_matrix)
        spread[d:, d:] = q.covariance_matrix[0]
        precision = torch.linalg.inv(model.covariance_matrix)
        return model.log_prob(at) - 0.5 * (precision * spread).sum() + q.entropy()

    def log_prob(self, x_0: Tensor) -> Tensor:
        d, model = x_0.shape[1], self.model()
        covariance = model.covariance_matrix[:d, :d]
        return MultivariateNormal(model.loc[:d], covariance).log_prob(x_0)

    def kl_of_paths(self, x_0: Tensor) -> Tensor:
        """KL(q(x_1 … x_T | x_0) ‖ p_θ(x_1 … x_T | x_0))."""
        d = x_0.shape[1]
        posterior = conditioned(self.model(), x_0, slice(0, d), slice(d, None))
        return kl_divergence(self.noising(x_0), posterior)


BETAS = {1: [0.4], 2: [0.3, 0.7], 5: [0.1, 0.35, 0.2, 0.6, 0.8]}


def linear_chain(T: int, d: int, share: float) -> LinearChain:
    schedule = VarianceSchedule(torch.tensor([0.0, *BETAS[T]], dtype=torch.float64))
    A = 0.8 * torch.eye(d).double() + 0.2 * normal(T + 1, d, d, seed=1)
    return LinearChain(
        schedule, A, 0.3 * normal(T + 1, d, seed=2), between(schedule, share)
    )


@every_share
@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("T", [1, 2, 5])
def test_the_terms_of_a_linear_chain_sum_to_its_bound(
    T: int, d: int, share: float
) -> None:
    chain = linear_chain(T, d, share)
    x_0 = 1.5 * normal(4, d, seed=3)
    # every term is quadratic in ε: two nodes along each axis are exact
    terms = elbo_terms(
        chain.schedule, chain.mean, x_0, chain.varsigma_squared, GaussHermite(2)
    )
    brute_force = chain.elbo(x_0)
    torch.testing.assert_close(terms.elbo, brute_force, rtol=0, atol=1e-10)
    gap = chain.log_prob(x_0) - terms.elbo
    torch.testing.assert_close(gap, chain.kl_of_paths(x_0), rtol=0, atol=1e-10)
    assert float(gap.min()) > 1e-3
    assert terms.denoising.shape == (4, T + 1)
    assert float(terms.denoising[:, :2].abs().max()) == 0
    assert float(terms.standard_error.abs().max()) == 0


@every_share
@pytest.mark.parametrize("d", [1, 2])
def test_with_the_exact_mean_the_gap_is_the_kl_of_the_two_chains(
    d: int, share: float
) -> None:
    """E[log p_0 − ELBO] = KL(q(x_0 … x_T) ‖ p_θ(x_0 … x_T)) for Gaussian data."""
    m, C_0 = normal(d), 0.4 * torch.eye(d).double() + 0.3
    data = gaussian_mixture(m, C_0)
    schedule = VarianceSchedule.from_path(VP, time_grid(0.0, 1.0, 3))
    a, root = unrolled(schedule.beta)
    C = torch.kron(a[:, None] * a, C_0)
    C = C + torch.kron(root @ root.mT, torch.eye(d).double())
    q = MultivariateNormal(torch.kron(a, m), C)
    A, b = torch.zeros(4, d, d).double(), torch.zeros(4, d).double()
    for t in (1, 2, 3):  # E[x_{t−1} | x_t] = A_t x_t + b_t
        later, earlier = slice(t * d, t * d + d), slice(t * d - d, t * d)
        b[t] = conditioned(q, torch.zeros(d).double(), later, earlier).loc
        for i, e in enumerate(torch.eye(d).double()):
            A[t, :, i] = conditioned(q, e, later, earlier).loc - b[t]
    chain = LinearChain(schedule, A, b, between(schedule, share))
    mean = reverse_mean(schedule, ExactDenoiser(VP, data))
    x = normal(4, d, seed=7)
    for t in (1, 2, 3):
        torch.testing.assert_close(mean(x, t), chain.mean(x, t))
    x_0, weight = mixture_nodes(data, 3)
    terms = elbo_terms(schedule, mean, x_0, chain.varsigma_squared, GaussHermite(2))
    log_p_0 = MultivariateNormal(m, C_0).log_prob(x_0)
    gap = float((weight * (log_p_0 - terms.elbo)).sum())
    truth = float(kl_divergence(q, chain.model()))
    assert gap == pytest.approx(truth, abs=1e-10)
    # at a point the model may be above the data, and then so may the bound
    assert (terms.elbo <= chain.log_prob(x_0)).all()


def test_the_model_on_the_line_is_the_marginal_of_its_chain() -> None:
    chain, x = linear_chain(5, 1, 0.5), column(-1.0, 0.3, 2.0)
    grid = torch.linspace(-12, 12, 800, dtype=torch.float64)
    got = model_log_prob(chain.schedule, chain.mean, chain.varsigma_squared, x, grid)
    torch.testing.assert_close(got, chain.log_prob(x), rtol=0, atol=1e-9)


def bend(x: Tensor, t: int) -> Tensor:
    return 1.3 * torch.tanh(2 * x) + 0.1 * t


def test_the_model_on_the_line_is_an_integral_over_latents() -> None:
    schedule = VarianceSchedule(torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64))
    varsigma_squared = torch.tensor([0.0, 0.3, 0.4], dtype=torch.float64)
    x = 0.6

    def joint(x_2: float, x_1: float) -> float:
        first = scipy.stats.norm.pdf(x, 1.3 * np.tanh(2 * x_1) + 0.1, math.sqrt(0.3))
        second = scipy.stats.norm.pdf(x_1, 1.3 * np.tanh(2 * x_2) + 0.2, math.sqrt(0.4))
        return first * second * scipy.stats.norm.pdf(x_2)

    truth = math.log(sum_on_squares(joint, 9.0, 300))
    grid = torch.linspace(-9, 9, 400, dtype=torch.float64)
    got = model_log_prob(schedule, bend, varsigma_squared, column(x), grid)
    assert float(got) == pytest.approx(truth, abs=1e-8)
    everywhere = model_log_prob(schedule, bend, varsigma_squared, grid[:, None], grid)
    assert float(everywhere.exp().sum() * grid.diff()[0]) == pytest.approx(1, abs=1e-9)
    terms = elbo_terms(schedule, bend, column(x), varsigma_squared, GaussHermite(40))
    assert float(terms.elbo) < truth


def sum_on_squares(f: Callable, reach: float, points: int) -> float:
    """∫∫ f by the trapezoidal rule."""
    axis = np.linspace(-reach, reach, points)
    return float(f(axis[None], axis[:, None]).sum() * (axis[1] - axis[0]) ** 2)


# The chain on mixtures


@pytest.mark.parametrize("mixture", [LINE, PLANE], ids=["line", "plane"])
def test_the_reverse_mean_is_the_mean_of_the_step_given_the_noisier_point(
    mixture: GaussianMixture,
) -> None:
    """x_t = √(1 − β_t) x_{t−1} + √β_t ε, so Tweedie gives E[x_{t−1} | x_t]."""
    schedule = VarianceSchedule.linear(6, 0.05, 0.5)
    mean = reverse_mean(schedule, ExactDenoiser(VP, mixture))
    x_t = 1.5 * normal(5, mixture.dim)
    a, root = unrolled(schedule.beta)
    for t in range(1, 7):
        law = noised(mixture, a[t], (root @ root.mT)[t, t].sqrt())
        beta = schedule.beta[t]
        truth = (x_t + beta * gradient(law.log_prob, x_t)) / (1 - beta).sqrt()
        torch.testing.assert_close(mean(x_t, t), truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "path",
    [OrnsteinUhlenbeck(0.8, 1.1, 6.0), VarianceExploding(), Straight(), Cosine()],
    ids=lambda path: type(path).__name__,
)
def test_a_denoiser_of_another_path_gives_the_same_terms(path: GaussianPath) -> None:
    schedule = VarianceSchedule.linear(6, 0.05, 0.5)
    x_0, over = 1.2 * normal(3, 2), GaussHermite(8)
    varsigma_squared = between(schedule, 0.5)
    terms = [
        elbo_terms(
            schedule,
            reverse_mean(schedule, ExactDenoiser(path, PLANE)),
            x_0,
            varsigma_squared,
            over,
        )
        for path in (VP, path)
    ]
    for name in ("reconstruction", "denoising", "prior"):
        first, second = (getattr(t, name) for t in terms)
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("path", [Straight(), Cosine()])
def test_where_no_signal_is_left_the_reverse_mean_knows_the_mean_alone(
    path: GaussianPath,
) -> None:
    schedule = VarianceSchedule(torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64))
    denoiser = ExactDenoiser(path, PLANE)
    mean, x = reverse_mean(schedule, denoiser), normal(4, 2)
    # q(x_1 | x_2, x_0) = q(x_1 | x_0)
    truth = math.sqrt(0.7) * torch_mixture(PLANE).mean
    torch.testing.assert_close(mean(x, 2), truth.expand(4, 2), rtol=1e-7, atol=1e-7)
    terms = elbo_terms(schedule, mean, x, schedule.sampler_variance(), GaussHermite(4))
    assert terms.elbo.isfinite().all()
    assert float(terms.prior.abs().max()) == 0


@every_share
def test_the_gap_of_another_mean_is_its_squared_error_over_twice_the_variance(
    share: float,
) -> None:
    """On average over the data; the widget predicts the gap in this way."""
    schedule = VarianceSchedule.from_path(VP, time_grid(0.0, 1.0, 4))
    varsigma_squared = between(schedule, share)
    exact = reverse_mean(schedule, ExactDenoiser(VP, LINE))
    x_0, weight = averaged(LINE)

    def bent(x: Tensor, t: int) -> Tensor:
        return 0.3 * torch.sin(2 * x) / t

    def gap(mean) -> float:
        terms = elbo_terms(schedule, mean, x_0, varsigma_squared, GaussHermite(40))
        return float((weight * (torch_mixture(LINE).log_prob(x_0) - terms.elbo)).sum())

    a, root = unrolled(schedule.beta)
    predicted = 0.0
    for t in range(1, 5):
        law = LINE.noised(a[t], (root @ root.mT)[t, t].sqrt())
        x_t, density = averaged(law)
        square = (density * bent(x_t, t)[:, 0] ** 2).sum()
        predicted += float(square / (2 * varsigma_squared[t]))
    smallest = gap(exact)
    assert smallest > 0.1
    got = gap(lambda x, t: exact(x, t) + bent(x, t)) - smallest
    assert got == pytest.approx(predicted, rel=1e-6)


def test_the_bound_may_lie_above_the_data_but_not_above_the_model() -> None:
    schedule = VarianceSchedule.from_path(VP, time_grid(0.0, 1.0, 4))
    varsigma_squared = schedule.sampler_variance()
    mean = reverse_mean(schedule, ExactDenoiser(VP, LINE))
    x_0, weight = averaged(LINE)
    terms = elbo_terms(schedule, mean, x_0, varsigma_squared, GaussHermite(40))
    grid = torch.linspace(-9, 9, 600, dtype=torch.float64)
    model = model_log_prob(schedule, mean, varsigma_squared, x_0, grid)
    data = torch_mixture(LINE).log_prob(x_0)
    assert (terms.elbo < model).all()
    assert (terms.elbo > data).any()
    assert float((weight * (data - terms.elbo)).sum()) > float(
        (weight * (data - model)).sum()
    )
    assert terms.mean() == Estimate.mean(terms.elbo)


def test_monte_carlo_terms_are_unbiased_and_know_their_error(generator) -> None:
    schedule = VarianceSchedule.from_path(VP, time_grid(0.0, 1.0, 4))
    mean, n = reverse_mean(schedule, ExactDenoiser(VP, LINE)), 3000
    x_0, varsigma_squared = column(0.4), between(schedule, 0.5)
    exact = elbo_terms(schedule, mean, x_0, varsigma_squared, GaussHermite(80))
    over = MonteCarlo(6, generator)
    got = elbo_terms(schedule, mean, x_0.expand(n, 1), varsigma_squared, over)
    assert_mean(got.elbo, exact.elbo, allowance=1e-5)
    assert_mean(got.reconstruction, exact.reconstruction, allowance=1e-5)
    for t in (2, 3, 4):
        assert_mean(got.denoising[:, t], exact.denoising[:, t], allowance=1e-5)
    spread = float(got.elbo.var())
    assert_mean(got.standard_error**2, spread, allowance=0.15 * spread)


def test_the_bins_give_a_bound_on_masses() -> None:
    """On data that take 65 values Σ_x exp(ELBO(x)) <= 1, for masses sum to 1."""
    schedule = VarianceSchedule.from_path(VP, time_grid(0.0, 1.0, 30, power=2.0))
    mixture = gaussian_mixture(column(0.1)[0], 0.09 * torch.eye(1).double())
    mean = reverse_mean(schedule, ExactDenoiser(VP, mixture))
    x_0 = torch.linspace(-1, 1, 65, dtype=torch.float64)[:, None]
    varsigma_squared = schedule.sampler_variance()

    def bins(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return discretised_log_prob(x, mean, variance, bins=65)

    arguments = schedule, mean, x_0, varsigma_squared, GaussHermite(20)
    masses, density = elbo_terms(*arguments, bins).elbo, elbo_terms(*arguments).elbo
    assert 0.8 < float(masses.exp().sum()) < 1
    # inside, a mass is a density times the width of a bin
    inner = slice(16, 52)
    difference = masses[inner] - density[inner] - math.log(2 / 64)
    assert float(difference.abs().max()) < 0.1


def test_the_gap_closes_like_one_over_the_steps() -> None:
    """T (E[log p_0 − ELBO] − KL(p_T ‖ N(0, I))) with ς² = β, T → ∞ by Richardson."""
    x_0, weight = averaged(LINE, 130)
    data = torch_mixture(LINE).log_prob(x_0)
    counts, gaps = [50, 100, 200], []
    for T in counts:
        schedule = VarianceSchedule.from_path(VP, time_grid(0.0, 1.0, T))
        mean = reverse_mean(schedule, ExactDenoiser(VP, LINE))
        terms = elbo_terms(
            schedule, mean, x_0, schedule.sampler_variance(), GaussHermite(24)
        )
        gap = float((weight * (data - terms.elbo)).sum())
        gaps.append(gap - kl_to_prior(LINE, VP))
    assert order(counts, gaps) == pytest.approx(1, abs=0.06)
    first, second, third = (T * gap for T, gap in zip(counts, gaps, strict=True))
    limit = (8 * third - 6 * second + first) / 3
    predicted = first_order_gap(VP, LINE)
    assert predicted == pytest.approx(4.807, abs=5e-4)
    assert limit == pytest.approx(predicted, rel=1e-3)


@pytest.mark.parametrize("d", [1, 2])
def test_the_first_order_gap_of_a_gaussian_is_an_integral(d: int) -> None:
    """I + ∇²log p_t = I − (α²C + σ²I)⁻¹ whatever x_t."""
    path = OrnsteinUhlenbeck(1.0, math.sqrt(2), 2.0)
    C = 0.4 * torch.eye(d).double() + 0.3
    eigenvalues = torch.linalg.eigvalsh(C).numpy()

    def integrand(t: float) -> float:
        left = math.exp(-2 * t)
        variances = left * eigenvalues + 1 - left
        return 0.25 * 2.0**2 * float(((1 - 1 / variances) ** 2).sum())

    truth = 2.0 * scipy.integrate.quad(integrand, 0, 2.0, epsabs=1e-12)[0]
    got = first_order_gap(path, gaussian_mixture(normal(d), C))
    assert got == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("d", [1, 2])
def test_with_beta_tilde_the_gap_stays_at_half_of_eulers_constant(d: int) -> None:
    """Σ_{t>=2} ½ (1/(t − 1) − log(t/(t − 1))) = γ/2, per dimension, however many T."""
    path = OrnsteinUhlenbeck()  # with uniform steps every β_t is the same
    m, v = normal(d), 2.0
    data = gaussian_mixture(m, v * torch.eye(d).double())
    x_0, weight = mixture_nodes(data, 3)
    log_p_0 = Normal(m, math.sqrt(v)).log_prob(x_0).sum(1)
    at_end = Normal(math.exp(-3) * m, math.sqrt(1 + math.exp(-6) * (v - 1)))
    prior = float(kl_divergence(at_end, Normal(0.0 * m, 1.0)).sum())
    rest = []
    for T in (150, 300):
        schedule = VarianceSchedule.from_path(path, time_grid(0.0, 3.0, T))
        a, root = unrolled(schedule.beta)
        cross = torch.outer(a, a) * v + root @ root.mT  # Cov(x_s, x_t)

        def mean(x: Tensor, t: int, a: Tensor = a, cross: Tensor = cross) -> Tensor:
            """E[x_{t−1} | x_t] of the joint Gaussian."""
            return a[t - 1] * m + cross[t - 1, t] / cross[t, t] * (x - a[t] * m)

        tilde = schedule.sampler_variance("beta_tilde")
        terms = elbo_terms(schedule, mean, x_0, tilde, GaussHermite(2))
        rest.append(float((weight * (log_p_0 - terms.elbo)).sum()) - prior)
    limit = 2 * rest[1] - rest[0]
    assert limit / d == pytest.approx(np.euler_gamma / 2, abs=2e-4)


# Continuous time


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_the_nodes_in_time_integrate_powers_of_root_time(start: float) -> None:
    path = OrnsteinUhlenbeck(horizon=2.0)
    t, weight = time_nodes(path, start, 12)
    assert t.min() > start
    assert t.max() < 2
    length = 2 - start
    for power in (0, 0.5, 1, 3, 7.5, 11):
        truth = length ** (power + 1) / (power + 1)
        got = float((weight * (t - start) ** power).sum())
        assert got == pytest.approx(truth, rel=1e-11)


CONTINUOUS = [
    (VP, divergence_rate),
    (VP, denoising_rate),
    (OrnsteinUhlenbeck(), divergence_rate),
    (OrnsteinUhlenbeck(), denoising_rate),
    (VarianceExploding(), divergence_rate),
    (VarianceExploding(), denoising_rate),
    (Cosine(), denoising_rate),
    (Straight(), divergence_rate),
]


@pytest.mark.parametrize(("path", "rate"), CONTINUOUS)
def test_with_the_exact_score_the_bound_is_log_p_at_every_point(
    path: GaussianPath, rate
) -> None:
    x_0 = column(-1.5, 0.2)
    prior = p_at(LINE, path, path.t_max).log_prob
    exact = ExactDenoiser(path, LINE)
    got = continuous_elbo(exact, x_0, prior, GaussHermite(80), rate, times=128)
    truth = torch_mixture(LINE).log_prob(x_0)
    torch.testing.assert_close(got.elbo, truth, rtol=0, atol=1e-7)
    assert got.rates.shape == (2, 128)
    assert float(got.reconstruction.abs().max()) == 0
    assert float(got.standard_error.abs().max()) == 0


def test_in_the_plane_too() -> None:
    path, x_0 = OrnsteinUhlenbeck(), torch.tensor([[0.4, -0.6]], dtype=torch.float64)
    exact = ExactDenoiser(path, PLANE)
    prior = p_at(PLANE, path, 3.0).log_prob
    got = continuous_elbo(exact, x_0, prior, GaussHermite(32), times=48)
    truth = torch_mixture(PLANE).log_prob(x_0)
    torch.testing.assert_close(got.elbo, truth, rtol=0, atol=1e-4)


def shifted(exact: ExactDenoiser, c: Tensor) -> ScoreDenoiser:
    return ScoreDenoiser(exact.path, lambda x, t: exact.score(x, t) + c)


def scaled(exact: ExactDenoiser, c: float) -> ScoreDenoiser:
    return ScoreDenoiser(exact.path, lambda x, t: (1 + c) * exact.score(x, t))


WRONG: dict[str, Callable[[ExactDenoiser], Denoiser]] = {
    "shifted": lambda exact: shifted(exact, torch.tensor([0.2]).double()),
    "scaled": lambda exact: scaled(exact, 0.3),
    "bent": lambda exact: ScoreDenoiser(
        exact.path, lambda x, t: exact.score(x, t) + torch.sin(x + t)
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_both_rates_are_the_same_bound_with_a_wrong_score(name: str) -> None:
    denoiser = WRONG[name](ExactDenoiser(VP, LINE))
    x_0 = column(-1.5, 0.2)
    by_divergence, by_denoising = (
        continuous_elbo(
            denoiser, x_0, standard_log_prob, GaussHermite(80), rate, times=12
        )
        for rate in (divergence_rate, denoising_rate)
    )
    # Stein's identity holds at every time
    torch.testing.assert_close(
        by_divergence.rates, by_denoising.rates, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(by_divergence.prior, by_denoising.prior)
    assert by_divergence.mean() == Estimate.mean(by_divergence.elbo)


@pytest.mark.parametrize("name", WRONG)
def test_the_gap_on_the_line_is_the_score_gap_and_the_prior(name: str) -> None:
    """E[log p_0 − ELBO] = ½∫g² E‖s_θ − s‖² dt + KL(p_T ‖ π)."""
    path = OrnsteinUhlenbeck(horizon=0.7)
    exact = ExactDenoiser(path, LINE)
    denoiser = WRONG[name](exact)
    x_0, weight = averaged(LINE)
    got = continuous_elbo(
        denoiser, x_0, standard_log_prob, GaussHermite(48), denoising_rate, times=48
    )
    gap = float((weight * (torch_mixture(LINE).log_prob(x_0) - got.elbo)).sum())
    predicted = score_gap(denoiser, exact, times=48)
    prior = kl_to_prior(LINE, path)
    assert prior > 1e-4
    assert gap == pytest.approx(predicted + prior, abs=2e-5)
    assert gap > 0.02


CORRELATED = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("path", "rate"),
    [
        (VP, divergence_rate),
        (OrnsteinUhlenbeck(0.8, 1.1, 1.0), denoising_rate),
        (VarianceExploding(0.1, 2.0), divergence_rate),
    ],
    ids=["VP", "OU", "VE"],
)
@pytest.mark.parametrize("kind", ["constant", "factor"])
def test_the_gap_in_the_plane_is_a_closed_form_on_a_gaussian(
    path: GaussianPath, rate, kind: str
) -> None:
    """½‖c‖² ∫g² for s + c, and ½c² ∫g² tr(α²C + σ²I)⁻¹ for (1 + c) s."""
    m, c = normal(2), torch.tensor([0.2, -0.4], dtype=torch.float64)
    data = gaussian_mixture(m, CORRELATED)
    exact = ExactDenoiser(path, data)
    denoiser = shifted(exact, c) if kind == "constant" else scaled(exact, 0.3)
    eigenvalues = torch.linalg.eigvalsh(CORRELATED).numpy()

    def integrand(t: float) -> float:
        alpha, variance = float(path.alpha(t)), float(path.variance(t))
        # g² = (σ²)˙ − 2 (α̇/α) σ², by differences
        h = 1e-5
        before, after = max(t - h, 0.0), min(t + h, path.t_max)
        slopes = [
            float(f(after) - f(before)) / (after - before)
            for f in (path.variance, path.alpha)
        ]
        g_squared = slopes[0] - 2 * slopes[1] / alpha * variance
        if kind == "constant":
            return 0.5 * float(c @ c) * g_squared
        information = (1 / (alpha**2 * eigenvalues + variance)).sum()
        return 0.5 * 0.3**2 * g_squared * float(information)

    truth = scipy.integrate.quad(integrand, 0, path.t_max, epsabs=1e-10)[0]
    assert score_gap(denoiser, exact, points=3) == pytest.approx(truth, rel=1e-6)
    # rates are quadratic in x_0 and ε: three nodes along each axis are exact
    x_0, weight = mixture_nodes(data, 3)
    end = path.marginal(data, path.t_max)
    prior = torch_mixture(end).log_prob
    got = continuous_elbo(denoiser, x_0, prior, GaussHermite(3), rate)
    log_p_0 = MultivariateNormal(m, CORRELATED).log_prob(x_0)
    gap = float((weight * (log_p_0 - got.elbo)).sum())
    assert gap == pytest.approx(truth, rel=1e-6)


def test_a_constant_mistake_of_a_fifth_costs_a_fifth_of_a_nat() -> None:
    """½ 0.2² ∫β = 0.201 for β from 0.1 to 20, whatever the data."""
    for mixture in (LINE, PLANE):
        exact = ExactDenoiser(VP, mixture)
        c = 0.2 * torch.eye(mixture.dim).double()[0]
        gap = score_gap(shifted(exact, c), exact, points=4, times=16)
        assert gap == pytest.approx(0.201, abs=1e-9)
        late = score_gap(shifted(exact, c), exact, 4, start=0.5, times=16)
        integral = 0.5 * 0.1 + 0.5 * 19.9 * (1 - 0.25)
        assert late == pytest.approx(0.5 * 0.04 * integral, rel=1e-9)


def test_the_score_gap_of_a_mixture_is_a_sum_on_a_lattice() -> None:
    path = OrnsteinUhlenbeck(horizon=1.0)
    exact = ExactDenoiser(path, PLANE)
    denoiser = scaled(exact, 0.5)

    def at(t: float) -> float:
        x, weight = averaged(path.marginal(PLANE, t), 90)
        score = gradient(p_at(PLANE, path, t).log_prob, x)
        return 0.5 * 2 * 0.25 * float((weight * score.square().sum(1)).sum())

    # t = u², for the integrand is steep where there is little noise
    node, weight = np.polynomial.legendre.leggauss(24)
    u = 0.5 * (1 + node)
    truth = sum(w * v * at(v**2) for v, w in zip(u, weight, strict=True))
    assert score_gap(denoiser, exact) == pytest.approx(truth, rel=1e-5)


def test_in_the_plane_the_gap_of_a_mixture_comes_true_by_monte_carlo(
    generator,
) -> None:
    """Exact and wrong score on the same noise: their difference is the score's gap."""
    path, n = OrnsteinUhlenbeck(horizon=1.0), 1500
    exact = ExactDenoiser(path, PLANE)
    denoiser = scaled(exact, 0.5)
    x_0 = PLANE.sample(n, generator)
    bounds = []
    for each in (exact, denoiser):
        over = MonteCarlo(2, generator.manual_seed(5))
        bounds.append(
            continuous_elbo(
                each, x_0, standard_log_prob, over, denoising_rate, times=24
            )
        )
    assert_mean(bounds[0].elbo - bounds[1].elbo, score_gap(denoiser, exact, times=24))


def test_monte_carlo_in_continuous_time_knows_its_error(generator) -> None:
    n, x_0, over = 1500, column(0.4), MonteCarlo(4, generator)
    exact = ExactDenoiser(VP, LINE)
    prior = p_at(LINE, VP, 1.0).log_prob
    got = continuous_elbo(exact, x_0.expand(n, 1), prior, over, times=24, start=0.02)
    truth = continuous_elbo(exact, x_0, prior, GaussHermite(60), times=24, start=0.02)
    assert_mean(got.elbo, truth.elbo)
    spread = float(got.elbo.var())
    assert_mean(got.standard_error**2, spread, allowance=0.2 * spread)


def test_a_start_after_zero_adds_a_decoder_and_an_entropy() -> None:
    """E[log p_s(x_s) + log N(x_0; x̂_0(x_s), (σ/α)²) − log q(x_s | x_0)]."""
    start, x_0 = 0.1, 0.2
    alpha, sigma = float(VP.alpha(start)), float(VP.sigma(start))
    law, decoder = p_at(LINE, VP, start), Normal(0.0, sigma / alpha)
    z, weight = gauss_hermite(120)
    x_s = alpha * x_0 + sigma * z[:, None]
    # Tweedie's formula
    guess = (x_s + sigma**2 * gradient(law.log_prob, x_s)) / alpha
    decoded = decoder.log_prob(x_0 - guess)[:, 0]
    encoded = Normal(alpha * x_0, sigma).log_prob(x_s)[:, 0]
    first = float(weight @ (decoded - encoded))
    got = continuous_elbo(
        ExactDenoiser(VP, LINE),
        column(x_0),
        p_at(LINE, VP, 1.0).log_prob,
        GaussHermite(80),
        times=96,
        start=start,
    )
    assert float(got.reconstruction) == pytest.approx(first, abs=1e-7)
    rest = float(weight @ law.log_prob(x_s))
    assert float(got.elbo) == pytest.approx(first + rest, abs=1e-6)
    # the decoder is not the posterior, so the bound is no longer tight
    assert float(got.elbo) < float(torch_mixture(LINE).log_prob(column(x_0))) - 1e-3


# The density of the SDE's model and that of its flow

SLOPE = 1.3


def wrong_line(t: float, v_0: float = 0.3) -> float:
    """λ of the score −λ x that is 1.3 times too steep for data N(0, v_0)."""
    left = math.exp(-(0.1 * t + 0.5 * 19.9 * t**2))
    return SLOPE / (left * v_0 + 1 - left)


def model_variance(strength: float):
    """V(t) of the reverse process from V(1) = 1, by its moment equation.

    In decreasing time x moves by (½β − ½(1 + strength) β λ) x and noise of strength β.
    """

    def rate(t: float, V: np.ndarray) -> np.ndarray:
        beta = 0.1 + 19.9 * t
        pull = 0.5 * beta - 0.5 * (1 + strength) * beta * wrong_line(t)
        return -(2 * pull * V + strength * beta)

    return scipy.integrate.solve_ivp(
        rate, (1, 0), [1.0], rtol=1e-11, atol=1e-13, dense_output=True
    ).sol


WRONG_LINE = ScoreDenoiser(
    VP, lambda x, t: -SLOPE * x / (1 - 0.7 * torch.exp(-(0.1 * t + 9.95 * t**2)))
)


def test_the_continuous_bound_is_that_of_the_sde_and_not_of_the_flow() -> None:
    """log p_SDE(x_0) − ELBO = ½ ∫ β (1/V − λ)² E[x_t² | x_0] dt, for linear fields."""
    sde, ode = model_variance(1.0), model_variance(0.0)
    x_0 = column(0.0, 0.3, 1.2)
    got = continuous_elbo(WRONG_LINE, x_0, standard_log_prob, GaussHermite(3), times=96)
    log_p_sde = Normal(0.0, math.sqrt(float(sde(0)[0]))).log_prob(x_0)[:, 0]

    node, weight = np.polynomial.legendre.leggauss(200)
    t = 0.5 * (1 + node)
    left = np.exp(-(0.1 * t + 9.95 * t**2))
    mistake = 1 / sde(t)[0] - np.array([wrong_line(s) for s in t])
    rate = 0.5 * (0.1 + 19.9 * t) * mistake**2
    gap = (0.5 * weight * rate * (left * x_0.numpy() ** 2 + 1 - left)).sum(1)
    np.testing.assert_allclose(log_p_sde - got.elbo, gap, rtol=1e-6, atol=1e-6)
    # the flow of the same score has another variance, and the bound does not bound it
    flow = flow_log_prob(WRONG_LINE, x_0, standard_log_prob, tolerance=1e-9)
    log_p_ode = Normal(0.0, math.sqrt(float(ode(0)[0]))).log_prob(x_0)[:, 0]
    torch.testing.assert_close(flow, log_p_ode, rtol=1e-6, atol=1e-6)
    assert (got.elbo < log_p_sde).all()
    assert (got.elbo > log_p_ode + 1).any()
    variances = [float(model(0)[0]) for model in (sde, ode)]
    assert variances == pytest.approx([0.188, 0.0103], rel=5e-3)


# The likelihood of the flow


@pytest.mark.parametrize("path", [VP, OrnsteinUhlenbeck()], ids=["VP", "OU"])
@pytest.mark.parametrize("mixture", [PLANE, ring(8)], ids=["three", "ring"])
def test_the_likelihood_of_the_flow_is_the_density_of_the_data(
    mixture: GaussianMixture, path: GaussianPath, generator
) -> None:
    x = mixture.sample(1000, generator)
    exact, end = ExactDenoiser(path, mixture), p_at(mixture, path, path.t_max)
    truth = torch_mixture(mixture).log_prob(x)
    got = flow_log_prob(exact, x, end.log_prob, tolerance=1e-6)
    assert float((got - truth).square().mean().sqrt()) < 1e-5


@pytest.mark.parametrize("prior", ["matched", "standard"])
def test_another_prior_biases_the_flow_by_its_kl(prior: str, generator) -> None:
    """E[log p̂ − log p_0] = −KL(p_T ‖ π): along the flow x_T ~ p_T."""
    path, n = OrnsteinUhlenbeck(horizon=0.5), 1500
    x = PLANE.sample(n, generator)
    law, end = p_at(PLANE, path, 0.5), path.marginal(PLANE, 0.5)
    y, weight = averaged(end, 120)
    if prior == "matched":
        # by default: the Gaussian with the mean and the covariance of p_T
        centred = y - weight @ y
        covariance = torch.einsum("n,ni,nj->ij", weight, centred, centred)
        pi, given = MultivariateNormal(weight @ y, covariance), None
    else:
        pi = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
        given = standard_log_prob
    kl = float((weight * (law.log_prob(y) - pi.log_prob(y))).sum())
    got = flow_log_prob(ExactDenoiser(path, PLANE), x, given, tolerance=1e-5)
    truth = torch_mixture(PLANE).log_prob(x)
    assert_mean(got - truth, -kl, allowance=1e-4)
    assert kl > 0.005


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
@pytest.mark.parametrize("path", [VarianceExploding(0.05, 5.0), VP, Straight()])
def test_the_flow_between_two_times_is_the_density_at_the_first(
    path: GaussianPath, method: str
) -> None:
    x = normal(6, 2)
    got = flow_log_prob(
        ExactDenoiser(path, PLANE),
        x,
        p_at(PLANE, path, 0.8).log_prob,
        tolerance=1e-7,
        start=0.2,
        end=0.8,
        method=method,
    )
    truth = p_at(PLANE, path, 0.2).log_prob(x)
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", [VP, OrnsteinUhlenbeck(0.8, 1.1)])
def test_the_angle_flow_is_the_probability_flow_in_another_clock(
    path: GaussianPath,
) -> None:
    """dx/dt = f x − ½g² s, y = (x − αm)/ρ and θ = atan2(σ, αs), by the chain rule."""
    mixture, d = random_mixture(2, 2), 2
    exact = ExactDenoiser(path, mixture)
    law = torch_mixture(mixture)
    m, s = law.mean, float(mixture.covariance.diagonal().mean().sqrt())

    def rho(t) -> Tensor:
        return torch.sqrt((path.alpha(t) * s) ** 2 + path.variance(t))

    def theta(t) -> Tensor:
        return torch.atan2(path.sigma(t), path.alpha(t) * s)

    flow = angle_flow(exact, d, 0.1, 0.9)
    assert flow.domain == pytest.approx((float(theta(0.1)), float(theta(0.9))))
    y = normal(4, 2)

    def compare(t: float) -> None:
        angle, x = theta(t), path.alpha(t) * m + rho(t) * y
        alpha_dot, rho_dot, theta_dot = (
            derivative(f, t, 1e-3) for f in (path.alpha, rho, theta)
        )
        score = gradient(p_at(mixture, path, t).log_prob, x)
        x_dot = path.f(t) * x - 0.5 * path.g(t) ** 2 * score
        truth = (x_dot - alpha_dot * m - rho_dot * y) / rho(t) / theta_dot
        close = {"rtol": 1e-8, "atol": 1e-8}
        torch.testing.assert_close(flow.drift(y, angle), truth, **close)
        drift, trace = flow.drift_and_divergence(y, angle)
        torch.testing.assert_close(drift, truth, **close)
        slopes = jacobian(lambda y: flow.drift(y, angle), y)
        truth = slopes.diagonal(dim1=1, dim2=2).sum(1)
        torch.testing.assert_close(trace, truth, **close)

    for t in (0.15, 0.4, 0.85):
        compare(t)


@pytest.mark.parametrize("path", [VP, VarianceExploding(), OrnsteinUhlenbeck()])
def test_the_flow_of_one_gaussian_is_straight_and_exact(path: GaussianPath) -> None:
    """A network that answers 0 is the denoiser of N(m, s²I): y does not move."""
    mean = torch.tensor([0.3, -0.7], dtype=torch.float64)
    net = MLP(hidden=4, depth=1, features=2, generator=seeded())
    denoiser = NeuralDenoiser(path, net, "v", mean, 1.4)
    x, start = normal(5, 2), 0.05
    got = flow_log_prob(denoiser, x, start=start)
    alpha, variance = float(path.alpha(start)), float(path.variance(start))
    std = math.sqrt(alpha**2 * 1.4**2 + variance)
    truth = Normal(alpha * mean, std).log_prob(x).sum(1)
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("directions", [rademacher, gaussian])
def test_probes_are_unbiased_along_the_whole_flow(directions, generator) -> None:
    path, n = OrnsteinUhlenbeck(horizon=1.0), 1500
    exact = ExactDenoiser(path, PLANE)
    x = torch.tensor([[0.4, -0.6]], dtype=torch.float64)
    many = x.expand(n, 2).contiguous()
    options = {"prior_log_prob": p_at(PLANE, path, 1.0).log_prob, "tolerance": 1e-4}
    truth = torch_mixture(PLANE).log_prob(x)
    spread = []
    for m in (1, 4):
        nu = torch.stack([directions(many, generator) for _ in range(m)])
        got = flow_log_prob(exact, many, probes=nu, **options)
        assert_mean(got, truth, allowance=1e-3)
        spread.append(float(got.var()))
    assert spread[0] > 0.05
    # the variance of a mean of four
    assert spread[1] == pytest.approx(spread[0] / 4, rel=0.25)


# Single precision


def test_bounds_in_single_precision_agree_with_double() -> None:
    schedule = VarianceSchedule.linear(8, 0.01, 0.4)
    path = OrnsteinUhlenbeck(horizon=1.0)
    results = []
    for dtype in (torch.float32, torch.float64):
        exact = ExactDenoiser(path, three_gaussians(dtype))
        x = normal(3, 2).to(dtype)
        mean = reverse_mean(schedule, ExactDenoiser(VP, three_gaussians(dtype)))
        variance = between(schedule, 0.5)
        values = [
            elbo_terms(schedule, mean, x, variance, GaussHermite(6)).elbo,
            continuous_elbo(exact, x, standard_log_prob, GaussHermite(6), times=8).elbo,
            flow_log_prob(exact, x, tolerance=1e-4),
            x.new_tensor([score_gap(scaled(exact, 0.2), exact, 6, times=8)]),
        ]
        assert all(value.dtype == dtype for value in values)
        results.append(torch.cat(values).double())
    torch.testing.assert_close(*results, rtol=2e-3, atol=2e-3)
