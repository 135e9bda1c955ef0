"""log p of points under the probability flow, beside what a user would write.

The score is exact, so log p is known and what is left is the error of the method: of
the solver, of the prior, and of the probe where there is one.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from benchmarks import likelihood_peers as peers
from benchmarks.report import duration, error, table, times
from benchmarks.timing import interleave, time_to_error
from diffedu.bounds import flow_log_prob
from diffedu.denoiser import ExactDenoiser
from diffedu.losses import rademacher
from diffedu.mixture import GaussianMixture, ring, three_gaussians
from diffedu.path import Time, VariancePreserving

POINTS = 1000
TARGETS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def drawn(seed: int, components: int = 6) -> GaussianMixture:
    """A random mixture in the plane.

    Weights in proportion to 0.2 + U(0, 1), means 2 z, covariances 0.09 A Aᵀ + 0.02 I,
    with z and the entries of A standard normal.
    """
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    weights = 0.2 + torch.rand(components, **options)
    means = 2 * torch.randn(components, 2, **options)
    A = torch.randn(components, 2, 2, **options)
    covariances = 0.09 * A @ A.mT + 0.02 * torch.eye(2).double()
    return GaussianMixture(weights / weights.sum(), means, covariances)


MIXTURES = [three_gaussians(), ring(), *map(drawn, range(4))]


@dataclass(frozen=True)
class Counted(ExactDenoiser):
    """The exact denoiser, which counts how often it is asked."""

    calls: list[None] = field(default_factory=list)

    def score(self, x_t: Tensor, t: Time) -> Tensor:
        """The score."""
        self.calls.append(None)
        return super().score(x_t, t)

    def score_and_divergence(self, x_t: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The score and its divergence."""
        self.calls.append(None)
        return super().score_and_divergence(x_t, t)


@dataclass(frozen=True)
class Case:
    """A mixture, points of it and what is known about them."""

    denoiser: Counted
    x: Tensor
    log_p: Tensor
    probe: Tensor

    @classmethod
    def of(cls, mixture: GaussianMixture) -> "Case":
        """The points are a sample of the mixture."""
        x = mixture.sample(POINTS, torch.Generator().manual_seed(0))
        probe = rademacher(
            torch.zeros(1, *x.shape).to(x), torch.Generator().manual_seed(1)
        )
        return cls(
            Counted(VariancePreserving(), mixture), x, mixture.log_prob(x), probe
        )


CASES = [Case.of(mixture) for mixture in MIXTURES]
Method = Callable[[Case], Tensor]


def standard_normal(x: Tensor) -> Tensor:
    """log N(x; 0, I)."""
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)


def ours(case: Case, tolerance: float = 1e-6, **options: str) -> Tensor:
    """`flow_log_prob`; with a tolerance alone, everything else by default."""
    return flow_log_prob(case.denoiser, case.x, tolerance=tolerance, **options)


def ours_probe(case: Case, tolerance: float) -> Tensor:
    """With one Rademacher probe for the divergence."""
    return flow_log_prob(case.denoiser, case.x, tolerance=tolerance, probes=case.probe)


def ours_standard(case: Case, tolerance: float) -> Tensor:
    """With the prior N(0, I)."""
    return flow_log_prob(case.denoiser, case.x, standard_normal, tolerance)


def peer(
    solve: Callable[..., Tensor], matched: bool = False, probe: bool = False
) -> Callable[[Case, float], Tensor]:
    """A peer, with N(0, I) or the Gaussian of the same moments as p_T for prior."""

    def call(case: Case, tolerance: float) -> Tensor:
        end = case.denoiser.gaussian(peers.END, case.x.shape[1])
        prior = end.log_prob if matched else standard_normal
        v = peers.flow(case.denoiser.score)
        extra = {"probe": case.probe[0]} if probe else {}
        return solve(v, case.x, prior, tolerance, **extra)

    return call


OURS = "diffedu `flow_log_prob`"
BASELINE = "torchdiffeq dopri5 in t, exact, matched"
LADDERS: dict[str, tuple[Callable[[Case, float], Tensor], tuple[float, ...]]] = {
    OURS: (ours, (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)),
    f"{OURS}, dopri8": (partial(ours, method="dopri8"), (1e-4, 1e-6)),
    f"{OURS}, one probe": (ours_probe, (1e-6,)),
    f"{OURS}, N(0, I)": (ours_standard, (1e-6,)),
    BASELINE: (
        peer(peers.torchdiffeq_dopri5, matched=True),
        (1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
    ),
    "torchdiffeq dopri5 in t, exact, N(0, I)": (
        peer(peers.torchdiffeq_dopri5),
        (1e-5,),
    ),
    "SciPy RK45 in t, exact, N(0, I)": (peer(peers.scipy_rk45), (1e-5,)),
    "SciPy RK45 in t, exact, matched": (
        peer(peers.scipy_rk45, matched=True),
        (1e-3, 1e-5, 1e-7),
    ),
    "SciPy RK45 in t, one probe, N(0, I)": (
        peer(peers.scipy_rk45, probe=True),
        (1e-5,),
    ),
    "zuko's free-form flow in t, exact, matched": (
        peer(peers.zuko_free_form, matched=True),
        (1e-3, 1e-5, 1e-7),
    ),
}


def everything(
    call: Callable[[Case, float], Tensor], tolerance: float
) -> tuple[list[float], float]:
    """On every mixture: root mean square errors, and evaluations on average."""
    errors, calls = [], 0
    for case in CASES:
        case.denoiser.calls.clear()
        value = call(case, tolerance).detach()
        calls += len(case.denoiser.calls)
        errors.append(float((value - case.log_p).square().mean().sqrt()))
    return errors, calls / len(CASES)


def ladders(rounds: int = 3) -> Iterator[str]:
    """Every method at its tolerances, then time to an error."""
    settings = {
        (name, tolerance): partial(everything, call, tolerance)
        for name, (call, tolerances) in LADDERS.items()
        for tolerance in tolerances
    }
    timings = interleave(
        {f"{name}: {tolerance}": run for (name, tolerance), run in settings.items()},
        rounds=rounds,
        least=0.0,
        slow=math.inf,
    )
    ours_by_default = timings[f"{OURS}: {1e-6}"]
    rows, points = [], {}
    for name, tolerance in settings:
        timing = timings[f"{name}: {tolerance}"]
        errors, calls = timing.result
        seconds = timing.median / len(CASES)
        points.setdefault(name, []).append((max(errors), seconds))
        rows.append(
            [
                name,
                error(tolerance),
                f"{calls:.0f}",
                duration(seconds),
                times(timing.ratio(ours_by_default)),
                error(statistics.median(errors)),
                error(max(errors)),
            ]
        )
    header = ["", "tolerance", "evaluations", "time", "× ours", "rmse", "worst"]
    yield (
        "### Every setting\n\n"
        "Times and evaluations are means over the six mixtures; rmse in nats is the "
        "median mixture's and the worst's. × ours is relative to our default, 1.0e-6."
        f"\n\n{table(header, rows)}"
    )
    reached = [
        [name, *(_reach(points[name], target) for target in TARGETS)]
        for name in points
        if len(points[name]) > 2
    ]
    yield (
        "### Time to an error\n\n"
        "The worst mixture's rmse, interpolated on log–log scales between the settings "
        "above; < where the loosest does better, — where none reaches the error.\n\n"
        f"{table(['', *(f'to {error(target)}' for target in TARGETS)], reached)}"
    )


def _reach(points: list[tuple[float, float]], target: float) -> str:
    seconds = time_to_error(points, target)
    if seconds is not None:
        return duration(seconds)
    first_error, first = points[0]
    return f"< {duration(first)}" if first_error < target else "—"


def run() -> Iterator[str]:
    """The parts of the page."""
    yield (
        "## Likelihood by the probability flow\n\n"
        f"log p of {POINTS:,} points of each of six mixtures in the plane, in float64, "
        "by the flow of the variance-preserving SDE with the exact score, against the "
        "exact log p: `three_gaussians()`, `ring(8)` and four random mixtures of six "
        "components (weights in proportion to 0.2 + U(0, 1), means 2 z, covariances "
        "0.09 A Aᵀ + 0.02 I, standard normal z and A, seeds 0 to 3). Ours follows the "
        "angle of noise and signal with the divergence in closed form, the prior is "
        "the Gaussian with the moments of p_T (“matched”). The others run in t from "
        "1e-5 to 1 and differentiate by autograd, “exact” or along one Rademacher "
        "probe; all call the same score, and an evaluation is one call. What they miss "
        "at every tolerance comes from starting at 1e-5. SciPy's RK45 "
        "with N(0, I) and 1e-5 for both tolerances is the recipe of published code. "
        "Not here: flow_matching, whose likelihood is torchdiffeq's `odeint` with "
        "autograd, as in the rows of torchdiffeq, under a non-commercial licence."
    )
    yield from ladders()
