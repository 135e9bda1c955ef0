"""Results follow the dtype and device of the tensors that go in."""

import pytest
import torch
from torch import Tensor

from diffedu.denoiser import ExactDenoiser
from diffedu.fokker_planck import (
    Grid,
    richardson,
    solve_fokker_planck,
    stationary_density,
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
from diffedu.samplers import ddim, last, trajectory
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
