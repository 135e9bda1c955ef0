"""JavaScript and Python compute the same things, to 1e-5 of their scale.

The DOM-free `core.js` runs in the browser of the other tests, on random mixtures,
paths, times and steps, with the same noise handed to both sides.
"""

import math

import numpy as np
import pytest
import torch

from diffedu.denoiser import ExactDenoiser
from diffedu.metrics import sliced_wasserstein
from diffedu.mixture import GaussianMixture
from diffedu.path import (
    TARGETS,
    Cosine,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from diffedu.samplers import ddim, trajectory
from diffedu.sde import euler_maruyama, forward, heun, reverse
from diffedu.widgets import _picture
from diffedu.widgets._base import _array_to_json
from diffedu.widgets._mixture_widget import _path_to_json
from tests.widgets.helpers import TOLERANCE, assert_same, normals

N = 7

PATHS = [
    OrnsteinUhlenbeck(),
    OrnsteinUhlenbeck(beta=0.7, diffusion=1.1, horizon=2.0),
    OrnsteinUhlenbeck(beta=0.0, diffusion=0.8, horizon=4.0),
    VariancePreserving(),
    VariancePreserving(beta_min=0.3, beta_max=9.0),
    VarianceExploding(),
    VarianceExploding(sigma_min=0.1, sigma_max=4.0),
    Cosine(),
    Straight(),
]
SINGULAR = (Cosine, Straight)  # f and g are infinite at t_max


def start(path):
    return 0.95 * path.t_max if isinstance(path, SINGULAR) else path.t_max


def random_mixture(seed: int, d: int = 2) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    K = 1 + seed % 4
    weights = 0.1 + torch.rand(K, generator=generator, dtype=torch.float64)
    means = 2 * torch.randn(K, d, generator=generator, dtype=torch.float64)
    A = torch.randn(K, d, d, generator=generator, dtype=torch.float64)
    covariances = 0.3 * A @ A.mT + 0.05 * torch.eye(d, dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, covariances)


# Mixture


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_density_score_and_responsibilities(javascript, seed, d):
    mixture, x = random_mixture(seed, d), 3 * normals(N, d, seed=seed)
    found = javascript(
        """const [p, at] = [law(mixture), floats(x)];
        return [p.log_prob(at), p.score(at), p.responsibilities(at),
            p.mean, p.covariance].map(list);""",
        mixture=mixture,
        x=x.flatten(),
    )
    expected = (
        mixture.log_prob(x),
        mixture.score(x),
        mixture.responsibilities(x),
        mixture.mean,
        mixture.covariance,
    )
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(
    ("alpha", "sigma"), [(0.9, 0.2), (0.3, 1.4), (1.0, 3.0), (0.0, 1.0), (0.7, 1e-3)]
)
def test_noised_law_and_posterior(javascript, alpha, sigma, d):
    mixture = random_mixture(3, d)
    x_t = mixture.noised(alpha, sigma).sample(N, torch.Generator().manual_seed(1))
    found = javascript(
        """const [p, at] = [law(mixture), floats(x_t)];
        const noised = p.noised(alpha, sigma);
        const given = p.posterior(at.subarray(0, d), alpha, sigma);
        return [noised.weights, noised.means, noised.covariances,
            p.posterior_mean(at, alpha, sigma),
            p.posterior_covariance(at, alpha, sigma),
            given.weights, given.means, given.covariances].map(list);""",
        mixture=mixture,
        x_t=x_t.flatten(),
        alpha=alpha,
        sigma=sigma,
        d=d,
    )
    noised = mixture.noised(alpha, sigma)
    given = mixture.posterior(x_t[:1], alpha, sigma)
    expected = (
        noised.weights,
        noised.means,
        noised.covariances,
        mixture.posterior_mean(x_t, alpha, sigma),
        mixture.posterior_covariance(x_t, alpha, sigma),
        given.weights,
        given.means,
        given.covariances,
    )
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_posterior_without_noise_is_the_point(javascript):
    mixture, x = random_mixture(2), normals(N, 2)
    mean, covariance = javascript(
        """return [law(mixture).posterior_mean(floats(x), 0.5, 0),
            law(mixture).posterior_covariance(floats(x), 0.5, 0)].map(list);""",
        mixture=mixture,
        x=x.flatten(),
    )
    assert_same(mean, 2 * x)
    assert np.abs(covariance).max() < 1e-9


# Path


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("fraction", [1e-4, 0.03, 0.4, 0.8, 0.95])
def test_every_quantity_of_every_path(javascript, path, fraction):
    t = fraction * path.t_max
    names = ["alpha", "sigma", "alpha_dot", "sigma_dot", "f", "g", "log_snr"]
    found = javascript(
        """const path = core.make_path(state);
        return [path.t_max, ...names.map((name) => path[name](t))];""",
        state=_path_to_json(path, None),
        names=names,
        t=t,
    )
    expected = [path.t_max, *(float(getattr(path, name)(t)) for name in names)]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=TOLERANCE, abs=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_conversions_between_targets(javascript, path):
    t = 0.37 * path.t_max
    x_t, prediction = normals(N, 2, seed=1), normals(N, 2, seed=2)
    for source in TARGETS:
        for target in TARGETS:
            found = javascript(
                """return list(core.make_path(state).convert(
                    floats(prediction), floats(x_t), t, source, target));""",
                state=_path_to_json(path, None),
                prediction=prediction.flatten(),
                x_t=x_t.flatten(),
                t=t,
                source=source,
                target=target,
            )
            assert_same(found, path.convert(prediction, x_t, t, source, target))


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_time_grid(javascript, power):
    found = javascript("return list(core.time_grid(3, 0, 17, power));", power=power)
    assert_same(found, time_grid(3.0, 0.0, 17, power))


# One step and whole trajectories, on the same noise


def compare_runs(javascript, expression, path, mixture, times, x, noise, run) -> None:
    """`expression` yields the states in JavaScript, `run(increment)` in Python."""
    found = javascript(
        f"""const [path, mixture] = [core.make_path(state), law(p)];
        const score = core.exact_score(mixture, path);
        const noising = core.forward(path);
        const noise = replay(z);
        return states({expression});""",
        state=_path_to_json(path, None),
        p=mixture,
        x=x.flatten(),
        times=times,
        z=noise.flatten(1),
    )
    z = iter(noise)
    states = trajectory(run(lambda t, s: (s - t).abs().sqrt() * next(z)))
    assert len(found) == len(states)
    for one, other in zip(found, states, strict=True):
        assert_same(one, other, scale=max(1.0, float(other.abs().max())))


RUNS = {
    "forward": "core.{}(noising, floats(x), times, noise)",
    "naive": "core.{}(noising, floats(x), times, noise)",
    "flow": "core.{}(core.reverse(noising, score, 0), floats(x), times, noise)",
    "between": "core.{}(core.reverse(noising, score, 0.3), floats(x), times, noise)",
    "anderson": "core.{}(core.reverse(noising, score, 1), floats(x), times, noise)",
}
ETA = {"flow": 0.0, "between": 0.3, "anderson": 1.0}


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("solver", [euler_maruyama, heun])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_trajectories(javascript, path, solver, kind):
    seed = PATHS.index(path)
    mixture = random_mixture(seed)
    steps, power = 5 + 9 * seed, 1.0 + seed % 3
    times = time_grid(start(path), 0.01 * path.t_max, steps, power)
    if kind == "forward":
        times = times.flip(0)
    x = path.marginal(mixture, times[0]).sample(N, torch.Generator().manual_seed(seed))
    noising = forward(path)
    score = ExactDenoiser(path, mixture).score
    sde = reverse(noising, score, ETA[kind]) if kind in ETA else noising
    compare_runs(
        javascript,
        RUNS[kind].format(solver.__name__),
        path,
        mixture,
        times,
        x,
        normals(steps, N, 2, seed=seed),
        lambda increment: solver(sde, x, times, increment=increment),
    )


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_ddim(javascript, path, eta):
    seed, steps = PATHS.index(path), 12
    mixture = random_mixture(seed + 1)
    times = time_grid(start(path), 0.0, steps, 2.0)
    x = path.marginal(mixture, times[0]).sample(N, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.stack(
        [torch.randn(N, 2, generator=generator, dtype=x.dtype) for _ in range(steps)]
    )
    compare_runs(
        javascript,
        f"core.ddim(mixture, path, floats(x), times, {eta}, noise)",
        path,
        mixture,
        times,
        x,
        noise,
        lambda _: ddim(
            ExactDenoiser(path, mixture),
            x,
            times,
            eta,
            torch.Generator().manual_seed(seed),
        ),
    )


# What else both sides compute


def test_sliced_wasserstein_and_total_variance(javascript):
    x, y = normals(300, 2, seed=1), 1.3 * normals(300, 2, seed=2) + 0.4
    distance, variance = javascript(
        """const lines = (points) => core.projections(floats(points), 16);
        return [
            core.sliced_wasserstein(lines(x), lines(y)),
            core.total_variance(floats(x)),
        ];""",
        x=x.flatten(),
        y=y.flatten(),
    )
    assert_same([distance], [sliced_wasserstein(x, y, directions=16).value])
    assert_same([variance], [x.var(0).sum()])


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_random_numbers_of_the_picture_are_those_of_the_page(javascript, seed):
    uniform, normal = javascript(
        """const generator = new core.Generator(seed);
        return [list(generator.uniform(9)), list(generator.normal(11))];""",
        seed=seed,
    )
    generator = _picture.Generator(seed)
    assert uniform == generator.uniform(9).tolist()
    assert_same(normal, generator.normal(11))


def test_normals_are_standard_normal():
    """Kolmogorov–Smirnov at n = 10⁵: the 1e-3 quantile of √n D is 1.95."""
    z = _picture.Generator(7).normal(100_000)
    cdf = 0.5 * (1 + np.vectorize(math.erf)(np.sort(z) / math.sqrt(2)))
    n = len(z)
    distance = np.abs(cdf - (np.arange(n) + 0.5) / n).max()
    assert distance * math.sqrt(n) < 1.95
    assert abs(np.corrcoef(z[::2], z[1::2])[0, 1]) < 5 / math.sqrt(n / 2)


def test_placed_particles_are_the_same(javascript):
    mixture = random_mixture(3)
    generator = _picture.Generator(5)
    u, z = generator.uniform(50), generator.normal(100)
    x, component = _picture.place(mixture, u, z)
    found = javascript(
        """const placed = law(mixture).place(floats(u), floats(z));
        return [list(placed.x), list(placed.component)];""",
        mixture=mixture,
        u=u.tolist(),
        z=z.tolist(),
    )
    assert_same(found[0], x)
    assert found[1] == component.tolist()


def test_arrays_survive_the_wire(javascript):
    value = (((0.1, -2.5), (3e-9, 1e30)),)
    encoded = _array_to_json(value, None)
    decoded, again = javascript(
        """const x = core.decode(encoded);
        return [list(x), core.encode(x, encoded.shape)];""",
        encoded=encoded,
    )
    assert_same(decoded, torch.tensor(value), scale=1e30)
    assert decoded == torch.tensor(value, dtype=torch.float32).flatten().tolist()
    assert again == encoded
