"""Results follow the dtype and device of the tensors that go in."""

import pytest
import torch
from torch import Tensor

from diffedu.bounds import (
    GaussHermite,
    LinearVAE,
    MonteCarlo,
    continuous_elbo,
    denoising_rate,
    divergence_rate,
    elbo,
    elbo_terms,
    flow_log_prob,
    importance_log_prob,
    mixture_nodes,
    model_log_prob,
    reverse_mean,
    score_gap,
    standard_log_prob,
)
from diffedu.ddpm import VarianceSchedule, denoising_kl, discretised_log_prob, prior_kl
from diffedu.denoiser import ExactDenoiser, NeuralDenoiser, ScoreDenoiser
from diffedu.fokker_planck import (
    Grid,
    richardson,
    solve_fokker_planck,
    stationary_density,
)
from diffedu.losses import (
    LogUniformRatio,
    UniformTime,
    denoising_loss,
    explicit_loss,
    gaussian,
    implicit_loss,
    rademacher,
    score_errors,
    sliced_loss,
    spherical,
    target_variance,
)
from diffedu.metrics import energy_distance, sampling_floor, sliced_wasserstein
from diffedu.mixture import (
    GaussianMixture,
    ring,
    three_gaussians,
    three_gaussians_1d,
    two_gaussians,
    two_moons_like,
)
from diffedu.nets import MLP, VAE, EnergyMLP
from diffedu.path import (
    TARGETS,
    Cosine,
    GaussianPath,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from diffedu.samplers import (
    annealed_langevin,
    ddim,
    last,
    metropolis_langevin,
    noise_ladder,
    snr_rule,
    trajectory,
    variance_rule,
)
from diffedu.samplers import langevin as langevin_chain
from diffedu.sde import (
    MultiplicativeSDE,
    brownian_path,
    euler_maruyama,
    forward,
    heun,
    langevin,
    log_likelihood,
    milstein,
    reverse,
)

PATHS = [
    OrnsteinUhlenbeck(),
    OrnsteinUhlenbeck(0.0, 1.3),
    VariancePreserving(),
    Cosine(),
    VarianceExploding(),
    Straight(),
]
every_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def assert_like(x: Tensor, shape: tuple[int, ...], dtype, device) -> None:
    assert tuple(x.shape) == shape
    assert x.dtype == dtype
    assert x.device.type == torch.device(device).type


@every_dtype
def test_mixture_follows_its_parameters(dtype, device) -> None:
    mixture = three_gaussians(dtype, device)
    g = torch.Generator(device).manual_seed(0)
    x = mixture.sample(5, g)
    alpha = torch.linspace(0.2, 0.9, 5, dtype=dtype, device=device)
    assert_like(x, (5, 2), dtype, device)
    for law in (mixture, mixture.noised(0.5, 0.5), mixture.noised(alpha, alpha)):
        assert_like(law.log_prob(x), (5,), dtype, device)
        assert_like(law.score(x), (5, 2), dtype, device)
        assert_like(law.hessian(x), (5, 2, 2), dtype, device)
        assert_like(law.responsibilities(x), (5, 3), dtype, device)
    posterior = mixture.posterior(x, alpha, alpha)
    assert_like(posterior.mean, (5, 2), dtype, device)
    assert_like(posterior.covariance, (5, 2, 2), dtype, device)
    assert_like(posterior.sample(7, g), (7, 5, 2), dtype, device)


@every_dtype
def test_named_examples_are_made_where_they_are_wanted(dtype, device) -> None:
    for make in (
        three_gaussians,
        three_gaussians_1d,
        two_gaussians,
        ring,
        two_moons_like,
    ):
        mixture = make(dtype=dtype, device=device)
        assert mixture.dtype == dtype
        assert mixture.device.type == device.type


@every_path
@every_dtype
def test_paths_follow_the_time(path: GaussianPath, dtype, device) -> None:
    for shape in ((), (4,)):
        t = torch.full(shape, 0.3, dtype=dtype, device=device)
        for name in (
            "alpha",
            "sigma",
            "variance",
            "alpha_dot",
            "sigma_dot",
            "variance_dot",
            "f",
            "g",
            "log_snr",
        ):
            assert_like(getattr(path, name)(t), shape, dtype, device)
        for target in TARGETS:
            for weight in path.row(target, t):
                assert_like(weight, shape, dtype, device)


@every_path
@every_dtype
def test_denoisers_follow_the_points(path: GaussianPath, dtype, device) -> None:
    denoiser = ExactDenoiser(path, three_gaussians(dtype, device))
    x = torch.ones(4, 2, dtype=dtype, device=device)
    for t in (0.3, torch.full((4,), 0.3, dtype=torch.float64, device=device)):
        for target in TARGETS:
            assert_like(denoiser.read(target, x, t), (4, 2), dtype, device)
            same = path.convert(denoiser.eps(x, t), x, t, "eps", target)
            assert_like(same, (4, 2), dtype, device)


@every_dtype
def test_runs_follow_the_points(dtype, device) -> None:
    path, mixture = OrnsteinUhlenbeck(), three_gaussians(dtype, device)
    denoiser = ExactDenoiser(path, mixture)
    x = torch.ones(4, 2, dtype=dtype, device=device)
    g = torch.Generator(device).manual_seed(0)
    times = time_grid(1.0, 0.1, 3)
    flow = reverse(forward(path), denoiser.score, eta=0.0)
    for sde in (
        forward(path),
        flow,
        reverse(forward(path), denoiser.score, eta=0.7),
        langevin(mixture.score),
    ):
        for solver in (euler_maruyama, heun):
            states = trajectory(solver(sde, x, times, g))
            assert_like(states, (4, 4, 2), dtype, device)
    for eta in (0.0, 0.5):
        assert_like(last(ddim(denoiser, x, times, eta, g)), (4, 2), dtype, device)
    for method in ("dopri5", "rk4"):
        value = log_likelihood(
            flow, x, times.flip(0), mixture.log_prob, method, tolerance=1e-3
        )
        assert_like(value, (4,), dtype, device)


GEOMETRIC = MultiplicativeSDE(lambda x, t: 0.1 * x, lambda x, t: (0.2 * x) ** 2)
MATRIX = MultiplicativeSDE(
    lambda x, t: 0.1 * x, lambda x, t: x[:, :, None] * x[:, None, :]
)


@every_dtype
def test_noise_of_the_state_follows_the_points(dtype, device) -> None:
    x = torch.ones(4, 2, dtype=dtype, device=device)
    g = torch.Generator(device).manual_seed(0)
    times = time_grid(0.1, 1.0, 3)
    path = brownian_path(times, 4, 2, g, dtype)
    assert_like(path.w, (4, 4, 2), dtype, device)
    fine = path.refined(g)
    assert_like(fine.w, (7, 4, 2), dtype, device)
    runs = [
        (euler_maruyama, GEOMETRIC),
        (euler_maruyama, MATRIX),
        (milstein, GEOMETRIC),
    ]
    for solver, sde in runs:
        for increment in (None, path, fine):
            states = trajectory(solver(sde, x, times, g, increment))
            assert_like(states, (4, 4, 2), dtype, device)


@every_dtype
def test_densities_are_float64_on_the_cpu_wherever_the_law_is(dtype, device) -> None:
    mixture, times = three_gaussians_1d(dtype, device), [0.0, 0.01]
    grid, exact = Grid(-6.0, 6.0, 200), three_gaussians_1d()

    def density(mixture: GaussianMixture):
        return lambda x: mixture.log_prob(x.to(mixture.device, mixture.dtype)).exp()

    for solve in (solve_fokker_planck, richardson):
        *_, p = solve(forward(OrnsteinUhlenbeck()), density(mixture), grid, times)
        *_, q = solve(forward(OrnsteinUhlenbeck()), density(exact), grid, times)
        assert_like(p, (200,), torch.float64, "cpu")
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
    sde = langevin(lambda x: mixture.score(x.to(mixture.device, mixture.dtype)))
    p = stationary_density(sde, grid)
    assert_like(p, (200,), torch.float64, "cpu")
    q = stationary_density(langevin(exact.score), grid)
    torch.testing.assert_close(p, q, rtol=0, atol=1e-4)
    *_, p = solve_fokker_planck(sde, q.to(device, dtype), grid, times)
    torch.testing.assert_close(p, q, rtol=0, atol=1e-4)


def test_metrics_give_numbers_wherever_the_samples_are(device) -> None:
    mixture = three_gaussians(device=device)
    g = torch.Generator(device).manual_seed(0)
    x, y = mixture.sample(50, g), mixture.sample(50, g)
    for metric in (energy_distance, sliced_wasserstein):
        estimate = metric(x, y)
        on_cpu = metric(x.cpu(), y.cpu())
        assert tuple(estimate) == pytest.approx(tuple(on_cpu))
        assert sampling_floor(metric, mixture.sample, 50, 2, g).value < 1


def learned(path: GaussianPath, make: type, dtype, device) -> NeuralDenoiser:
    """A denoiser whose network answers something."""
    g = torch.Generator().manual_seed(1)
    net = make(hidden=8, depth=1, features=4, generator=g)
    layers = (net.scalar if make is EnergyMLP else net).layers
    with torch.no_grad():
        layers[-1].weight.normal_(0, 0.5, generator=g)
    mean = torch.tensor([0.3, -0.2])
    return NeuralDenoiser(path, net.to(device, dtype), "v", mean, 1.2)


@every_path
@every_dtype
@pytest.mark.parametrize("make", [MLP, EnergyMLP])
def test_learned_denoisers_and_losses_follow_the_points(
    path: GaussianPath, make: type, dtype, device
) -> None:
    """And agree with the CPU in float64 to the rounding of their dtype."""
    g = torch.Generator().manual_seed(2)
    data = torch.randn(3, 4, 2, generator=g, dtype=torch.float64)
    time = path.t_max * torch.tensor([0.1, 0.3, 0.5, 0.8], dtype=torch.float64)
    results = []
    for where, kind in (("cpu", torch.float64), (device, dtype)):
        denoiser = learned(path, make, kind, where)
        exact = ExactDenoiser(path, three_gaussians(kind, where))
        x_0, eps, nu = data.to(where, kind)
        t = time.to(where, kind)
        values = [
            denoising_loss(denoiser, x_0, t, eps, "v", path.variance),
            explicit_loss(denoiser, exact, x_0, t),
            implicit_loss(denoiser, x_0, t, path.variance),
            sliced_loss(denoiser, x_0, t, nu, path.variance),
            target_variance(exact, x_0, t, "x0"),
        ]
        for value in values:
            assert_like(value, (4,), kind, where)
        for target in TARGETS:
            reading = denoiser.read(target, x_0, t)
            assert_like(reading, (4, 2), kind, where)
            values.append(reading[:, 0])
        results.append(torch.stack([v.detach().cpu().double() for v in values]))
    # differences of a few float32 roundings, times the steepness of the net
    close = 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(results[1], results[0], rtol=close, atol=close)


@every_dtype
def test_levels_directions_and_errors_are_drawn_where_the_generator_is(
    dtype, device
) -> None:
    path, g = Cosine(), torch.Generator(device).manual_seed(0)
    for levels in (LogUniformRatio(path), UniformTime(path, 0.1)):
        t = levels.sample(5, g, dtype)
        assert_like(t, (5,), dtype, device)
        assert_like(levels.density(t), (5,), dtype, device)
    x = torch.ones(4, 2, dtype=dtype, device=device)
    for directions in (rademacher, gaussian, spherical):
        assert_like(directions(x, g), (4, 2), dtype, device)
    exact = ExactDenoiser(path, three_gaussians(dtype, device))
    for values in score_errors(learned(path, MLP, dtype, device), exact, n=5)[1:]:
        assert_like(values, (20,), dtype, device)


@every_dtype
def test_langevin_follows_the_points(dtype, device) -> None:
    path, mixture = VarianceExploding(), three_gaussians(dtype, device)
    x = torch.ones(4, 2, dtype=dtype, device=device)
    g = torch.Generator(device).manual_seed(0)
    chain = langevin_chain(mixture.score, x, 0.1, 2, g)
    assert_like(trajectory(chain), (3, 4, 2), dtype, device)
    chain = metropolis_langevin(mixture.log_prob, mixture.score, x, 0.1, 2, g)
    assert_like(trajectory(chain), (3, 4, 2), dtype, device)
    times = noise_ladder(path, 5.0, 0.1, 3)
    for rule in (variance_rule(path, 0.1), snr_rule(0.2)):
        chain = annealed_langevin(ExactDenoiser(path, mixture), x, times, rule, 2, g)
        assert_like(trajectory(chain), (7, 4, 2), dtype, device)


SCHEDULE = VarianceSchedule.linear(4, 0.05, 0.5)


@every_dtype
def test_a_schedule_keeps_its_dtype_and_its_values_go_where_the_points_are(
    dtype, device
) -> None:
    beta = torch.tensor([0.0, 0.1, 0.2], dtype=dtype, device=device)
    schedule = VarianceSchedule(beta)
    for values in (
        schedule.alpha_bar,
        schedule.noise_variance,
        schedule.beta_tilde,
        schedule.sampler_variance("beta_tilde"),
    ):
        assert_like(values, (3,), dtype, device)
    x = torch.ones(4, 2, dtype=dtype, device=device)
    assert_like(SCHEDULE.perturb(x, x, 2), (4, 2), dtype, device)
    assert_like(SCHEDULE.posterior_mean(x, x, 2), (4, 2), dtype, device)
    assert_like(prior_kl(SCHEDULE, x), (4,), dtype, device)
    bins = discretised_log_prob(x, x, beta[1])
    assert_like(bins, (4,), dtype, device)


@every_dtype
def test_bounds_follow_the_points(dtype, device) -> None:
    path, g = OrnsteinUhlenbeck(), torch.Generator(device).manual_seed(0)
    mixture = three_gaussians(dtype, device)
    exact, x = ExactDenoiser(path, mixture), mixture.sample(4, g)
    wrong = ScoreDenoiser(path, lambda x, t: exact.score(x, t) + 0.1)
    variances = SCHEDULE.sampler_variance()
    for over in (GaussHermite(3), MonteCarlo(3, g)):
        terms = elbo_terms(SCHEDULE, reverse_mean(SCHEDULE, exact), x, variances, over)
        assert_like(terms.denoising, (4, 5), dtype, device)
        for value in (terms.elbo, terms.prior, terms.standard_error):
            assert_like(value, (4,), dtype, device)
        for rate in (divergence_rate, denoising_rate):
            for denoiser, start in ((wrong, 0.0), (exact, 0.1)):
                bound = continuous_elbo(
                    denoiser, x, standard_log_prob, over, rate, start, times=3
                )
                assert_like(bound.elbo, (4,), dtype, device)
                assert_like(bound.rates, (4, 3), dtype, device)
                assert_like(bound.standard_error, (4,), dtype, device)
    assert score_gap(wrong, exact, points=3, times=3) > 0
    nodes, weights = mixture_nodes(mixture, 3)
    assert_like(nodes, (27, 2), dtype, device)
    assert_like(weights, (27,), dtype, device)
    line = torch.linspace(-6, 6, 101, dtype=dtype, device=device)
    narrow = ExactDenoiser(path, three_gaussians_1d(dtype, device))
    mean = reverse_mean(SCHEDULE, narrow)
    density = model_log_prob(SCHEDULE, mean, variances, line[:3, None], line)
    assert_like(density, (3,), dtype, device)
    for denoiser in (exact, wrong):
        for nu in (None, rademacher(x, g)[None]):
            value = flow_log_prob(denoiser, x, tolerance=1e-3, probes=nu)
            assert_like(value, (4,), dtype, device)
    assert_like(exact.gaussian(0.5, 2).log_prob(x), (4,), dtype, device)


@every_dtype
def test_latent_variables_follow_the_points(dtype, device) -> None:
    g = torch.Generator(device).manual_seed(0)
    x = torch.ones(4, 2, dtype=dtype, device=device)
    vae = VAE(hidden=4, depth=1).to(device, dtype)
    linear = LinearVAE(x[:2, :1], x[0], 0.5)
    assert_like(linear.log_prob(x), (4,), dtype, device)
    laws = [(vae, vae.encode(x)), (vae, vae.prior(4))]
    laws += [(linear, linear.posterior(x)), (linear, linear.prior(4))]
    for model, q in laws:
        assert_like(q.mean, (4, 1), dtype, device)
        for over in (GaussHermite(3), MonteCarlo(3, g)):
            bound = elbo(model.log_joint, q, x, over)
            assert_like(bound.value, (4,), dtype, device)
            assert_like(bound.standard_error, (4,), dtype, device)
        weighted = importance_log_prob(model.log_joint, q, x, 3, g)
        assert_like(weighted, (4,), dtype, device)


def meta_mixture() -> GaussianMixture:
    return GaussianMixture(
        torch.empty(3, device="meta"),
        torch.empty(3, 2, device="meta"),
        torch.empty(3, 2, 2, device="meta"),
    )


@every_path
def test_no_formula_reads_a_value_back(path: GaussianPath) -> None:
    """On `meta` there are no values: reading one would raise."""
    mixture = meta_mixture()
    x, t = torch.empty(4, 2, device="meta"), torch.empty(4, device="meta")
    denoiser = ExactDenoiser(path, mixture)
    for target in TARGETS:
        assert_like(denoiser.read(target, x, t), (4, 2), torch.float32, "meta")
        for source in TARGETS:
            converted = path.convert(x, x, t, source, target)
            assert_like(converted, (4, 2), torch.float32, "meta")
    alpha, sigma = path.alpha(t), path.sigma(t)
    posterior = mixture.posterior(x, alpha, sigma)
    assert_like(posterior.covariance, (4, 2, 2), torch.float32, "meta")
    assert_like(path.marginal(mixture, t).hessian(x), (4, 2, 2), torch.float32, "meta")
    assert_like(path.perturb(x, x, t), (4, 2), torch.float32, "meta")


def test_no_solver_reads_a_value_back() -> None:
    path, mixture = OrnsteinUhlenbeck(), meta_mixture()
    x, times = torch.empty(4, 2, device="meta"), torch.empty(3, device="meta")
    denoiser = ExactDenoiser(path, mixture)
    sde = reverse(forward(path), denoiser.score)
    for solver in (euler_maruyama, heun):
        assert_like(last(solver(sde, x, times)), (4, 2), torch.float32, "meta")
    for solver, sde in (
        (euler_maruyama, GEOMETRIC),
        (euler_maruyama, MATRIX),
        (milstein, GEOMETRIC),
    ):
        assert_like(last(solver(sde, x, times)), (4, 2), torch.float32, "meta")


def test_no_bound_reads_a_value_back() -> None:
    path, mixture = OrnsteinUhlenbeck(), meta_mixture()
    x = torch.empty(4, 2, device="meta")
    exact, variances = ExactDenoiser(path, mixture), SCHEDULE.sampler_variance()
    mean = reverse_mean(SCHEDULE, exact)
    for over in (GaussHermite(2), MonteCarlo(2)):
        terms = elbo_terms(SCHEDULE, mean, x, variances, over)
        assert_like(terms.elbo, (4,), torch.float32, "meta")
        for rate in (divergence_rate, denoising_rate):
            bound = continuous_elbo(
                exact, x, standard_log_prob, over, rate, 0.1, times=2
            )
            assert_like(bound.elbo, (4,), torch.float32, "meta")
    value = denoising_kl(SCHEDULE, mean, x, x, 2, variances)
    assert_like(value, (4,), torch.float32, "meta")
    variance = torch.empty((), device="meta")
    assert_like(discretised_log_prob(x, x, variance), (4,), torch.float32, "meta")
    schedule = VarianceSchedule(torch.empty(3, device="meta"))
    assert_like(schedule.posterior_mean(x, x, 2), (4, 2), torch.float32, "meta")
    assert_like(schedule.sampler_variance(), (3,), torch.float32, "meta")
