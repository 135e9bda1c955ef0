"""The terms of the bound as bars: their numbers beside Python's, and their page."""

import base64
import itertools
import math

import numpy as np
import pytest
import torch

from diffedu.bounds import (
    first_order_gap,
    mixture_nodes,
    model_log_prob,
    reverse_mean,
    score_gap,
)
from diffedu.ddpm import VARIANCES, denoising_kl, prior_kl, reconstruction
from diffedu.denoiser import ExactDenoiser, ScoreDenoiser
from diffedu.mixture import GaussianMixture, three_gaussians, three_gaussians_1d
from diffedu.path import Cosine, OrnsteinUhlenbeck, VariancePreserving
from diffedu.widgets import BoundBars
from diffedu.widgets._mixture_widget import _path_to_json
from diffedu.widgets.bound_bars import latest_end
from tests.widgets.helpers import (
    FRAMES,
    TOLERANCE,
    assert_same,
    broken,
    every_control_changes_the_numbers,
    middle,
    plays_by_keyboard,
    says,
    slide,
)

NAME = "bound_bars"
PATHS = [VariancePreserving(), Cosine(), VariancePreserving(0.0, 8.0)]
ERRORS = [("constant", 0.0), ("constant", 0.3), ("factor", -0.4)]
SHARP = GaussianMixture(
    [0.3, 0.3, 0.4], [[-2.0], [0.0], [1.0]], [[[0.01]], [[0.04]], [[0.6]]]
)
SETUP = """
    const path = core.make_path(state);
    const chain = new elbo.Chain(path, T, end);
    const p = law(mixture);
    const average = elbo.average_moments(p, chain);
    const second = elbo.second_moment(p);
    const all = (moments, second, variance, error) => {
        const terms = elbo.elbo_terms(chain, moments, second, variance, error);
        const { reconstruction, denoising, prior, total } = terms;
        return [reconstruction, ...denoising, prior, total, terms.elbo];
    };
"""


def told(widget: BoundBars) -> dict:
    """What the page is told of a widget's state."""
    return {
        "mixture": widget.mixture,
        "state": _path_to_json(widget.path, None),
        "T": widget.steps,
        "end": widget.end,
        "variance": widget.variance,
        "error": {"kind": widget.perturbation, "size": widget.size},
    }


def on_the_line(
    mixture: GaussianMixture, step: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x and weights with E f(x) ≈ Σ weight · f(x), finer than Gauss–Hermite nodes."""
    x = torch.arange(-8.0, 8.0, step, dtype=torch.float64)[:, None]
    return x, step * mixture.log_prob(x).exp()


def weighed(terms, weights: torch.Tensor) -> torch.Tensor:
    """Reconstruction, denoising by t, prior, sum of the denoising and bound."""
    return torch.cat(
        [
            weights @ part.reshape(len(weights), -1)
            for part in (
                terms.reconstruction,
                terms.denoising,
                terms.prior,
                terms.denoising.sum(1),
                terms.elbo,
            )
        ]
    )


# What the page computes is what Python computes


@pytest.mark.parametrize("T", [1, 2, 10, 100, 1000])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_chain(javascript, path, T):
    widget = BoundBars(path=path, steps=T)
    found = javascript(
        """const chain = new elbo.Chain(core.make_path(state), T, end);
        return [chain.alpha_bar, chain.noise_variance, chain.beta,
            chain.sampler_variance("beta_tilde")].map(list);""",
        **told(widget),
    )
    schedule = widget.schedule
    expected = (
        schedule.alpha_bar,
        schedule.noise_variance,
        schedule.beta,
        schedule.sampler_variance("beta_tilde"),
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=0)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("T", [1, 2, 10, 100])
def test_the_terms_at_a_point(no_shape_checks, javascript, path, T):
    for variance, (kind, size), x in zip(
        itertools.cycle(VARIANCES), ERRORS, (0.5, -1.2, 2.4), strict=False
    ):
        widget = BoundBars(None, path, T, variance, "at x", x, kind, size)
        found = javascript(
            SETUP + "return all(elbo.moments_at(p, chain, x), x * x, variance, error);",
            x=x,
            **told(widget),
        )
        at = torch.tensor([[x]], dtype=torch.float64)
        expected = weighed(widget.terms(at, points=120), torch.ones(1).double())
        assert_same(found, expected, scale=1.0 + abs(float(expected[-1])))


def test_a_thousand_terms_at_a_point(no_shape_checks, javascript):
    widget = BoundBars(None, None, 1000, "beta_tilde", "at x", 0.9, "factor", 0.1)
    found = javascript(
        SETUP + "return all(elbo.moments_at(p, chain, 0.9), 0.81, variance, error);",
        **told(widget),
    )
    at = torch.tensor([[0.9]], dtype=torch.float64)
    expected = weighed(widget.terms(at, points=60), torch.ones(1).double())
    assert_same(found, expected, scale=1.0)


@pytest.mark.parametrize("T", [1, 2, 10])
@pytest.mark.parametrize("path", PATHS[:2], ids=repr)
def test_the_average_terms(no_shape_checks, javascript, path, T):
    """The page needs one integral over p_t; Python takes x_0 and ε one by one."""
    x_0, weights = mixture_nodes(three_gaussians_1d(), 40)
    for variance, (kind, size) in itertools.product(VARIANCES, ERRORS[1:]):
        widget = BoundBars(None, path, T, variance, perturbation=kind, size=size)
        found = javascript(
            SETUP + "return all(average, second, variance, error);", **told(widget)
        )
        expected = weighed(widget.terms(x_0, points=100), weights)
        assert_same(found, expected, scale=1.0 + abs(float(expected[-1])))


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize(("path", "T"), [(Cosine(), 100), (VariancePreserving(), 1000)])
def test_some_average_terms_of_many(no_shape_checks, javascript, path, T, variance):
    widget = BoundBars(None, path, T, variance, perturbation="factor", size=0.3)
    found = javascript(
        SETUP + "return all(average, second, variance, error);", **told(widget)
    )
    schedule = widget.schedule
    mean = reverse_mean(schedule, widget.denoiser)
    varsigma_squared = schedule.sampler_variance(variance)
    x_0, weight = mixture_nodes(widget.mixture, 60)
    normal = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
    eps, share = mixture_nodes(normal, 150)
    n, m = len(x_0), len(eps)
    pairs = x_0.repeat_interleave(m, 0), eps.repeat(n, 1)
    weights = torch.outer(weight, share).flatten()
    for t in (2, 3, T // 30, T // 3, T):
        kl = denoising_kl(schedule, mean, *pairs, t, varsigma_squared)
        assert found[1 + t] == pytest.approx(float(weights @ kl), abs=TOLERANCE)
    first = reconstruction(schedule, mean, *pairs, varsigma_squared)
    assert found[0] == pytest.approx(float(weights @ first), abs=TOLERANCE)
    prior = float(weight @ prior_kl(schedule, x_0))
    assert found[T + 2] == pytest.approx(prior, abs=TOLERANCE)
    assert found[-1] == pytest.approx(found[0] - sum(found[1 : T + 3]), abs=1e-9)


@pytest.mark.parametrize(
    "mixture", [three_gaussians_1d(), SHARP], ids=["three", "sharp"]
)
def test_what_is_averaged_over_the_data(javascript, mixture):
    entropy, fisher, second = javascript(
        """const p = law(mixture);
        return [elbo.negative_entropy(p), elbo.fisher_information(p),
            elbo.second_moment(p)];""",
        mixture=mixture,
    )
    x, weights = on_the_line(mixture, 0.002)
    expected = float(weights @ mixture.log_prob(x))
    assert entropy == pytest.approx(expected, abs=TOLERANCE)
    expected = float(weights @ mixture.score(x)[:, 0].square())
    assert fisher == pytest.approx(expected, rel=TOLERANCE)
    assert second == pytest.approx(float(weights @ x[:, 0].square()), rel=1e-9)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize(("kind", "size"), ERRORS[1:])
@pytest.mark.parametrize(
    "mixture", [three_gaussians_1d(), SHARP], ids=["three", "sharp"]
)
def test_the_predicted_gap_is_the_gap(javascript, mixture, variance, kind, size):
    """E[log p_0(x) − bound at x] over p_0, the bound taken at one x after another, is
    the average gap with the exact score and the cost of the error."""
    widget = BoundBars(
        mixture, steps=6, variance=variance, perturbation=kind, size=size
    )
    x, weights = on_the_line(mixture, 0.02)
    bounds, cost, unperturbed = javascript(
        SETUP
        + """const exact = { ...error, size: 0 };
        return [
            x.map((x) => all(
                elbo.moments_at(p, chain, x), x * x, variance, error).at(-1)),
            elbo.cost_of_error(chain, average, variance, error),
            elbo.negative_entropy(p) - all(average, second, variance, exact).at(-1),
        ];""",
        x=x[:, 0],
        **told(widget),
    )
    gap = float(weights @ (mixture.log_prob(x) - torch.tensor(bounds).double()))
    assert gap == pytest.approx(unperturbed + cost, abs=TOLERANCE)
    assert cost > 10 * TOLERANCE


@pytest.mark.parametrize(("kind", "size"), ERRORS)
@pytest.mark.parametrize("path", [VariancePreserving(), VariancePreserving(2.0, 5.0)])
def test_the_limit_is_the_integral_of_the_error(javascript, path, kind, size):
    widget = BoundBars(None, path, 4, perturbation=kind, size=size)
    found = javascript(
        SETUP + 'return elbo.limit_of_gap(p, path, chain, "beta", error);',
        **told(widget),
    )
    exact = ExactDenoiser(path, widget.mixture)
    last = path.marginal(widget.mixture, path.t_max)
    x, weights = mixture_nodes(last, 100)
    standard = -0.5 * (x[:, 0].square() + math.log(2 * math.pi))
    prior = float(weights @ (last.log_prob(x) - standard))
    expected = prior + score_gap(widget.denoiser, exact, times=100)
    assert found == pytest.approx(expected, abs=TOLERANCE)


def test_the_gap_tends_to_its_limit(javascript):
    """Like 1/T with the coefficient of Python's, for ς² = β and the exact score."""
    path, mixture = VariancePreserving(2.0, 5.0), three_gaussians_1d()
    rest = []
    for T in (250, 1000):
        widget = BoundBars(mixture, path, T, size=0.0)
        gap, limit = javascript(
            SETUP
            + """return [elbo.negative_entropy(p),
                elbo.limit_of_gap(p, path, chain, "beta", error)].map((number, i) =>
                i ? number : number - all(average, second, "beta", error).at(-1));""",
            **told(widget),
        )
        rest.append(T * (gap - limit))
    coefficient = first_order_gap(path, mixture)
    assert rest[1] == pytest.approx(coefficient, rel=0.02)
    assert abs(rest[1] - coefficient) < 0.4 * abs(rest[0] - coefficient)


@pytest.mark.parametrize("path", [VariancePreserving(4.0, 9.0), Cosine()], ids=repr)
def test_the_smaller_variance_costs_as_much_for_every_T(javascript, path):
    """γ/2 where noise starts at a rate, γ + π²/12 where the rate starts from 0."""
    widget = BoundBars(path=path, size=0.0)
    gaps, limits = javascript(
        SETUP
        + """const each = (f) => ["beta", "beta_tilde"].map(f);
        return [each((kind) => -all(average, second, kind, error).at(-1)),
            each((kind) => elbo.limit_of_gap(p, path, chain, kind, error))];""",
        **(told(widget) | {"T": 20_000}),
    )
    steps = np.arange(2, 10**6)
    growth = (steps / (steps - 1)) ** (2 if isinstance(path, Cosine) else 1)
    more = 0.5 * (growth - 1 - np.log(growth)).sum()
    assert limits[1] - limits[0] == pytest.approx(more, abs=1e-5)
    assert gaps[1] - gaps[0] == pytest.approx(more, abs=0.01)


@pytest.mark.parametrize(("kind", "size"), ERRORS)
def test_the_density_of_the_perturbed_score(javascript, kind, size):
    mixture = three_gaussians_1d()
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    found = javascript(
        "return list(elbo.density_of_score(law(mixture), error, floats(x)));",
        mixture=mixture,
        error={"kind": kind, "size": size},
        x=x,
    )
    density = torch.tensor(found, dtype=torch.float64)
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-6)
    slope = torch.gradient(density.log(), spacing=(x,))[0][1000:3000]
    score = mixture.score(x[:, None])[1000:3000, 0]
    wrong = score + size if kind == "constant" else (1 + size) * score
    torch.testing.assert_close(slope, wrong, rtol=0, atol=5e-3)


def test_a_model_may_exceed_the_density_but_not_its_bound():
    """Why the gap at a point may be negative."""
    widget = BoundBars(steps=30, mode="at x", size=0.3)
    x = torch.tensor([[-1.2], [1.5]], dtype=torch.float64)
    schedule = widget.schedule
    log_p_theta = model_log_prob(
        schedule,
        reverse_mean(schedule, widget.denoiser),
        schedule.sampler_variance(widget.variance),
        x,
        torch.linspace(-9.0, 9.0, 1601, dtype=torch.float64),
    )
    bound, log_p = widget.terms(x, points=100).elbo, widget.mixture.log_prob(x)
    assert (bound < log_p_theta).all()
    assert log_p_theta[1] > log_p[1]


# Its state


def test_the_state_is_objects_of_the_package():
    widget = BoundBars(steps=7, perturbation="factor", size=0.25, end=0.5)
    assert widget.schedule.T == 7
    alpha = widget.path.alpha(0.5)
    assert float(widget.schedule.alpha_bar[-1]) == pytest.approx(float(alpha**2))
    assert isinstance(widget.denoiser, ScoreDenoiser)
    x = torch.tensor([[0.4]], dtype=torch.float64)
    score = ExactDenoiser(widget.path, widget.mixture).score(x, 0.3)
    torch.testing.assert_close(widget.denoiser.score(x, 0.3), 1.25 * score)
    assert repr(widget).startswith("BoundBars(3 components, T = 7, VariancePreserving(")
    assert repr(widget).endswith("(1 + c) s with c = 0.25, average)")


def test_a_path_that_loses_its_signal_earlier_brings_the_end_back():
    widget = BoundBars()
    assert widget.end == 1.0
    widget.path = Cosine()
    assert widget.end == latest_end(Cosine()) == 0.99
    assert BoundBars(path=Cosine()).end == 0.99
    assert float(widget.schedule.alpha_bar[-1]) >= 1e-5


def test_a_mixture_is_assigned_at_once():
    widget = BoundBars()
    widget.mixture = SHARP
    assert widget.deviations == pytest.approx((0.1, 0.2, math.sqrt(0.6)))
    torch.testing.assert_close(widget.mixture.covariances, SHARP.covariances)
    widget.mixture = GaussianMixture([1.0], [[0.5]], [[[0.3]]])
    assert widget.mixture.n_components == 1
    thirds = GaussianMixture(
        torch.full((3,), 1 / 3), SHARP.means.float(), SHARP.covariances.float()
    )
    assert float(BoundBars(thirds).mixture.weights.sum()) == pytest.approx(1, abs=1e-15)


def test_what_the_page_sends_is_understood():
    widget = BoundBars()
    other = BoundBars(SHARP, Cosine(), 50, "beta_tilde", "at x", -1.5, "factor", 0.1)
    heard = []
    widget.observe(lambda change: heard.append(change.new), "steps")
    sent = other.get_state()
    names = [name for name in other.traits(state=True) if name != "seed"]
    widget.set_state({name: sent[name] for name in names})
    assert heard == [50]
    assert (widget.path, widget.end, widget.x) == (Cosine(), 0.99, -1.5)
    assert (widget.variance, widget.mode) == ("beta_tilde", "at x")
    assert (widget.perturbation, widget.size) == ("factor", 0.1)
    torch.testing.assert_close(widget.mixture.means, SHARP.means)
    widget.steps, widget.mode = 3, "average"
    assert heard == [50, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixture": "three"}, "mixture must be a GaussianMixture"),
        ({"mixture": three_gaussians()}, "mixture must be one mixture on the line"),
        ({"path": "VP"}, "path must be a path"),
        ({"path": OrnsteinUhlenbeck()}, "path must be VariancePreserving or Cosine"),
        ({"path": VariancePreserving(0.1, 2000.0)}, "path must keep alpha² >= 1e-05"),
        ({"steps": 0}, "steps must be a whole number from 1 to 1000"),
        ({"steps": 1001}, "steps must be a whole number"),
        ({"variance": "gamma"}, "variance must be one of 'beta', 'beta_tilde'"),
        ({"mode": "x"}, "mode must be one of"),
        ({"perturbation": "none"}, "perturbation must be one of"),
        ({"size": 0.6}, "size must be a number from -0.5 to 0.5"),
        ({"x": 7}, "x must be a number from -6 to 6"),
        ({"end": 0.1}, "end must be a number from 0.2 to 1"),
        ({"path": Cosine(), "end": 1.0}, "end must be at most 0.99"),
    ],
)
def test_bad_arguments(no_shape_checks, arguments, message):
    with pytest.raises(ValueError, match=message):
        BoundBars(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weights", [0.5, 0.5], "must be equally many numbers, 6 at most"),
        ("weights", [0.5, 0.5, 0.5], "weights must sum to 1"),
        ("weights", [1.5, -0.5, 0.0], "weights must be >= 0"),
        ("means", [0.0, 1.0, 6.5], r"means must lie in \[-6, 6\]"),
        ("means", [0.0, 1.0, math.nan], r"means must lie in \[-6, 6\]"),
        ("means", [[0.0], [1.0], [2.0]], "equally many numbers"),
        ("deviations", [0.2, 0.2, 0.04], r"deviations must lie in \[0.05, 2\]"),
        ("deviations", [0.2, 0.2, -1.0], "deviations must lie in"),
        ("mixture", three_gaussians(), "mixture must be one mixture on the line"),
        ("end", 0.999, None),
    ],
)
def test_bad_assignments_change_nothing(no_shape_checks, name, value, message):
    widget = BoundBars()
    if message is None:  # good for this path, bad for the other
        setattr(widget, name, value)
        widget.path, message = Cosine(), "end must be at most 0.99"
    before = widget._state()
    with pytest.raises(ValueError, match=message):
        setattr(widget, name, value)
    assert widget._state() == before


@pytest.mark.parametrize("size", [0.0, 0.2])
@pytest.mark.parametrize("steps", [1, 2, 40])
@pytest.mark.parametrize("mode", ["average", "at x"])
def test_every_state_has_three_pictures(mode, steps, size):
    widget = BoundBars(SHARP, Cosine(), steps, "beta_tilde", mode, size=size)
    assert widget._repr_html_().count("data:image/png") == 3


def test_the_picture_shows_the_gap_where_it_is():
    """The heading of the waterfall has the gap of the terms."""
    widget = BoundBars(steps=10)
    shown = widget._pictures()[2]
    x_0, weights = mixture_nodes(widget.mixture, 60)
    terms = widget.terms(x_0, points=60)
    gap = float(weights @ (widget.mixture.log_prob(x_0) - terms.elbo))
    [text] = [t.get_text() for t in shown.axes.texts if "gap" in t.get_text()]
    assert float(text.removeprefix("average gap ")) == pytest.approx(gap, abs=2e-3)


# Its page


def number(widget, key: str) -> float:
    text = widget.figure.locator(f'[data-number="{key}"]').text_content()
    mantissa, _, exponent = text.replace("−", "-").partition("·10")
    power = "".join("0123456789-"["⁰¹²³⁴⁵⁶⁷⁸⁹⁻".index(c)] for c in exponent)
    return float(mantissa) * 10 ** int(power or 0)


def means(widget) -> list[float]:
    data = base64.b64decode(widget.get("means")["data"])
    return np.frombuffer(data, "<f4").tolist()


CONTROLS = {
    "sliders": [("steps T", 0.6), ("ends at t", 0.4), ("error c", 0.9)],
    "choices": [
        ("schedule", "Cosine"),
        ("variance", "beta_tilde"),
        ("bound", "at x"),
        ("score read as", "factor"),
    ],
}


def test_every_control_changes_the_numbers(open_widget):
    widget, seen = open_widget(NAME)
    every_control_changes_the_numbers(widget, **CONTROLS)
    seen.clean()


def test_the_numbers_are_those_of_the_state(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    python = BoundBars()
    x_0, weights = mixture_nodes(python.mixture, 60)
    terms = python.terms(x_0, points=60)
    log_p = float(weights @ python.mixture.log_prob(x_0))
    rec, prior, bound = (
        float(weights @ part)
        for part in (terms.reconstruction, terms.prior, terms.elbo)
    )
    expected = {
        "reconstruction": rec,
        "denoising": rec - prior - bound,
        "elbo": bound,
        "log_p": log_p,
        "gap": log_p - bound,
        "predicted": log_p - bound,
    }
    for key, value in expected.items():
        assert number(widget, key) == pytest.approx(value, abs=1e-4), key
    assert number(widget, "prior") == pytest.approx(prior, rel=0.05)
    seen.clean()


def test_perturbing_makes_the_prediction_come_true(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    unperturbed = number(widget, "unperturbed")
    gaps = []
    for kind, fraction in (
        ("constant", 0.5),
        ("constant", 0.8),
        ("constant", 1.0),
        ("factor", 0.1),
    ):
        widget.set(perturbation=kind)
        slide(widget, "error c", fraction)
        widget.settle()
        gap, cost = number(widget, "gap"), number(widget, "error")
        assert gap == pytest.approx(number(widget, "predicted"), abs=1e-9)
        assert gap == pytest.approx(unperturbed + cost, abs=2e-4)
        assert number(widget, "unperturbed") == unperturbed
        gaps.append(gap)
    assert gaps[0] == unperturbed
    assert gaps[2] - gaps[0] == pytest.approx(
        (5 / 3) ** 2 * (gaps[1] - gaps[0]), rel=0.01
    )
    seen.clean()


def test_more_steps_close_the_gap_to_its_limit(open_widget):
    widget, seen = open_widget(NAME)
    gaps = []
    for fraction in (0.0, 1 / 3, 2 / 3, 1.0):
        slide(widget, "steps T", fraction)
        widget.settle()
        gaps.append(number(widget, "gap"))
    assert widget.get("steps") == 1000
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == pytest.approx(number(widget, "limit"), abs=0.01)
    slide(widget, "ends at t", 0.2)
    widget.settle()
    assert number(widget, "prior") > 0.05
    seen.clean()


def test_the_point_follows_the_mouse_and_shows_the_bound_there(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    handle = widget.figure.locator(".diffedu-handle").last
    x, y = middle(handle)
    mouse = widget.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 70, y + 30, steps=4)
    mouse.up()
    widget.settle()
    assert middle(handle)[0] == pytest.approx(x + 70, abs=2)
    at, mode = widget.get("x"), widget.get("mode")
    assert mode == "at x"
    python = BoundBars(mode="at x", x=at)
    point = torch.tensor([[at]], dtype=torch.float64)
    log_p = float(python.mixture.log_prob(point))
    assert number(widget, "log_p") == pytest.approx(log_p, abs=2e-4)
    bound = float(python.terms(point, points=150).elbo)
    assert number(widget, "elbo") == pytest.approx(bound, abs=2e-4)
    assert number(widget, "gap") == pytest.approx(log_p - bound, abs=2e-4)
    seen.clean()


def test_a_negative_gap_is_shown_as_one(open_widget):
    widget, seen = open_widget(NAME)
    widget.set(mode="at x", x=1.5, steps=500, size=0.1)
    widget.settle()
    assert number(widget, "gap") < 0
    assert number(widget, "predicted") > 0
    label = widget.figure.locator("canvas").last.get_attribute("aria-label")
    assert "gap at x −0." in label
    seen.clean()


def test_a_component_follows_a_finger_and_the_page_stays(open_widget):
    widget, seen = open_widget(NAME, width=390, has_touch=True)
    widget.settle()
    handle = widget.figure.locator(".diffedu-handle").first
    x, y = middle(handle)
    before, scrolled = widget.numbers(), widget.page.evaluate("scrollY")
    touch = widget.page.context.new_cdp_session(widget.page)
    for kind, points in (
        ("touchStart", [(x, y)]),
        ("touchMove", [(x + 20, y)]),
        ("touchMove", [(x + 40, y)]),
    ):
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]},
        )
    widget.page.evaluate(FRAMES, 3)
    assert middle(handle) == pytest.approx((x + 40, y), abs=2)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    widget.settle()
    assert means(widget)[0] > -1.1
    assert widget.numbers() != before
    assert widget.page.evaluate("scrollY") == scrolled
    assert widget.get("mode") == "average"
    seen.clean()


def test_everything_works_from_the_keyboard(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    page = widget.page
    handles = widget.figure.locator(".diffedu-handle")
    handles.nth(1).focus()
    for key in ("ArrowRight", "Shift+ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    page.evaluate(FRAMES, 3)
    assert means(widget) == pytest.approx([-1.2, 0.6, 1.5], abs=1e-6)
    label = handles.nth(1).get_attribute("aria-label")
    assert label == "Component 2, mean at 0.60; arrow keys move it"
    handles.last.focus()
    page.keyboard.press("ArrowLeft")
    page.evaluate(FRAMES, 3)
    assert widget.get("x") == pytest.approx(0.25)
    assert widget.get("mode") == "at x"
    assert handles.last.get_attribute("aria-label").startswith("Point at x = 0.25;")
    widget.figure.get_by_role("slider", name="steps T", exact=True).focus()
    page.keyboard.press("End")
    assert widget.get("steps") == 1000
    page.keyboard.press("Home")
    assert widget.get("steps") == 1
    plays_by_keyboard(widget)
    seen.clean()


def test_steps_play_to_their_end_and_reset_brings_all_back(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    before = widget.numbers()
    figure = widget.figure.element_handle()
    widget.button("Play").click()
    widget.page.wait_for_function(
        "figure => figure.diffedu.get('steps') > 24", arg=figure
    )
    widget.button("Pause").click()
    steps = widget.get("steps")
    widget.button("Step").click()
    assert widget.get("steps") == steps + max(1, round(steps / 5))
    widget.set(steps=980, playing=True)
    widget.page.wait_for_function(
        "figure => figure.diffedu.get('steps') === 1000", arg=figure
    )
    widget.page.wait_for_function(
        "figure => figure.diffedu.get('playing') === false", arg=figure
    )
    slide(widget, "error c", 0.1)
    widget.figure.get_by_role("combobox", name="schedule").select_option("Cosine")
    assert widget.get("end") == 0.99
    widget.button("Reset").click()
    widget.settle()
    assert widget.numbers() == before
    seen.clean()


def test_reduced_motion_jumps(open_widget):
    widget, _ = open_widget(NAME, reduced_motion="reduce")
    widget.settle()
    widget.button("Play").click()
    shown = widget.figure.evaluate(
        """async figure => {
            const seen = new Set();
            const until = performance.now() + 1800;
            while (performance.now() < until) {
                seen.add(figure.diffedu.get("steps"));
                await new Promise(requestAnimationFrame);
            }
            return [...seen];
        }"""
    )
    assert 2 <= len(shown) <= 5
    assert shown[1] > 1.2 * shown[0]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"steps": 0}, "steps must be a whole number in 1 … 1000"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"weights": [], "means": [], "deviations": []}, "at least one component"),
        ({"weights": [0.5, 0.5]}, "weights, means and deviations must be equally many"),
        ({"weights": [0.5, 0.7, 0.2]}, "weights must sum to 1"),
        ({"weights": [0.5, 0.7, -0.2]}, "weights must be ≥ 0"),
        ({"weights": [1 / 7] * 7}, "weights must be those of 6 components at most"),
        ({"means": [0, None, 1]}, "means must lie in"),
        ({"means": [0, 9, 1]}, "means must lie in [−6, 6]"),
        ({"deviations": [1, 0, 1]}, "deviations must lie in [0.05, 2]"),
        ({"deviations": [1, None, 1]}, "deviations must lie in"),
        (
            {"path": {"name": "Straight"}},
            "path must be one of VariancePreserving, Cosine",
        ),
        ({"path": None}, "path must be one of"),
        ({"path": {"name": "Cosine"}}, "end must be at most 0.99"),
        ({"end": 0}, "end must lie in [0.2, 1]"),
        ({"variance": "gamma"}, "variance must be one of beta, beta_tilde"),
        ({"mode": "x"}, "mode must be one of average, at x"),
        ({"x": None}, "x must lie in [-6, 6]"),
        ({"perturbation": 3}, "perturbation must be one of constant, factor"),
        ({"size": 2}, "size must lie in [-0.5, 0.5]"),
    ],
)
def test_bad_state_is_said_in_the_figure(visit, write_page, figures, state, message):
    seen = visit(write_page(broken(figures[NAME], **state)))
    says(seen.page, message)
    seen.clean()


def test_it_recovers_from_bad_state(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    before = widget.pictures()
    widget.set(size=7)
    widget.figure.get_by_role("alert").wait_for(timeout=10_000)
    widget.set(size=0.2)
    widget.settle()
    assert widget.figure.get_attribute("data-state") == "live"
    assert widget.pictures() == before
    seen.clean()
