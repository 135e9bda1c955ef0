"""What a noisy point knows: its numbers beside Python's, and its page."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from diffedu.denoiser import ExactDenoiser
from diffedu.metrics import grid_kl
from diffedu.mixture import GaussianMixture, ring, three_gaussians, two_moons_like
from diffedu.path import (
    Cosine,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
)
from diffedu.widgets import TweediePosterior
from diffedu.widgets._mixture_widget import _path_to_json
from diffedu.widgets.tweedie_posterior import between, posterior, zoom
from tests.widgets.helpers import (
    FRAMES,
    TOLERANCE,
    assert_same,
    broken,
    middle,
    normals,
    says,
    slide,
)

NAME = "tweedie_posterior"
PATHS = [
    OrnsteinUhlenbeck(),
    OrnsteinUhlenbeck(beta=0.0, diffusion=0.8, horizon=4.0),
    VariancePreserving(),
    VarianceExploding(sigma_min=0.1, sigma_max=4.0),
    Cosine(),
    Straight(),
]
# share of t_max, s as a share of t
LEVELS = [(0.02, 0.0), (0.3, 0.0), (0.8, 0.0), (0.3, 0.1), (0.3, 0.99), (0.9, 0.6)]
MIXTURES = [three_gaussians(), ring(5, std=0.3), two_moons_like(4, std=0.2)]
SETUP = """
    const path = core.make_path(state);
    const [a, tau] = path.between(s, t);
    const noised = path.marginal(law(mixture), t);
    const given = path.marginal(law(mixture), s).posterior(floats(x_t), a, tau);
    const narrow = tweedie.narrowing(noised, floats(x_t), a, tau, given.covariance);
"""


def told(path, share, back):
    t = share * path.t_max
    return {"state": _path_to_json(path, None), "t": t, "s": back * t}


def quadrature_kl(law: GaussianMixture, mean, covariance) -> float:
    """KL(law ‖ N(mean, covariance)) on a fine grid of the plane."""
    major = torch.linalg.eigvalsh(law.covariances)[:, -1].sqrt()
    low = (law.means - 7.5 * major[:, None]).amin(0)
    high = (law.means + 7.5 * major[:, None]).amax(0)
    n = 900
    x, y = (
        torch.linspace(float(a), float(b), n, dtype=torch.float64)
        for a, b in zip(low, high, strict=True)
    )
    points = torch.cartesian_prod(x, y)
    gaussian = MultivariateNormal(mean, covariance)
    p, q = law.log_prob(points).exp(), gaussian.log_prob(points).exp()
    return grid_kl(p, q, float((x[1] - x[0]) * (y[1] - y[0])))


# What the page computes is what Python computes


def test_the_hessian(javascript):
    mixture, x = ring(3, std=0.6), normals(7, 2)
    found = javascript(
        "return list(law(mixture).hessian(floats(x)));", mixture=mixture, x=x.flatten()
    )
    assert_same(found, mixture.hessian(x))


@pytest.mark.parametrize("level", LEVELS, ids=str)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_law_of_where_it_came_from(javascript, path, level):
    mixture, x_t = three_gaussians(), torch.tensor([0.6, -0.4], dtype=torch.float64)
    times = told(path, *level)
    found = javascript(
        SETUP
        + """const gaussians = tweedie.tweedie(noised, floats(x_t), a, tau);
        return [[a, tau], given.weights, given.means, given.covariances,
            given.mean, given.covariance, gaussians.mean, gaussians.covariance,
            gaussians.narrow].map(list);""",
        mixture=mixture,
        x_t=x_t,
        **times,
    )
    s, t = times["s"], times["t"]
    given = posterior(mixture, path, x_t, s, t)
    a, tau = between(path, s, t)
    moments = given.mean, given.covariance
    narrow = (tau / a) ** 2 * torch.eye(2)
    expected = (
        torch.tensor([a, tau]),
        given.weights,
        given.means,
        given.covariances,
        *moments,
        *moments,  # Tweedie's formulas, from the score and the Hessian of p_t
        narrow,
    )
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    if s == 0:
        exact = ExactDenoiser(path, mixture).x0(x_t[None], torch.tensor(t))
        assert_same(found[4], exact)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_step_and_the_rest_of_the_way_make_the_whole(path):
    """x_t = a x_s + τ ε has the law p_t, for the law p_s of x_s."""
    s, t = 0.3 * path.t_max, 0.7 * path.t_max
    a, tau = between(path, s, t)
    found = path.marginal(three_gaussians(), s).noised(a, tau)
    expected = path.marginal(three_gaussians(), t)
    torch.testing.assert_close(found.means, expected.means)
    torch.testing.assert_close(found.covariances, expected.covariances)


@pytest.mark.parametrize("mixture", MIXTURES, ids=["three", "ring", "moons"])
@pytest.mark.parametrize("level", [(0.02, 0.0), (0.2, 0.0), (0.9, 0.0), (0.3, 0.4)])
def test_the_divergences(javascript, mixture, level):
    path, x_t = OrnsteinUhlenbeck(), torch.tensor([0.5, 0.2], dtype=torch.float64)
    times = told(path, *level)
    matched, more = javascript(
        SETUP
        + """return [
            tweedie.kl_divergence(given, tweedie.moment_matched(given)),
            narrow.exact,
        ];""",
        mixture=mixture,
        x_t=x_t,
        **times,
    )
    given = posterior(mixture, path, x_t, times["s"], times["t"])
    a, tau = between(path, times["s"], times["t"])
    narrow = (tau / a) ** 2 * torch.eye(2, dtype=torch.float64)
    expected = quadrature_kl(given, given.mean, given.covariance)
    assert matched == pytest.approx(expected, abs=TOLERANCE)
    expected = quadrature_kl(given, given.mean, narrow)
    assert matched + more == pytest.approx(expected, abs=TOLERANCE)
    between_gaussians = kl_divergence(
        MultivariateNormal(given.mean, given.covariance),
        MultivariateNormal(given.mean, narrow),
    )
    assert more == pytest.approx(float(between_gaussians), rel=TOLERANCE)


def test_the_narrow_gaussian_is_right_to_fourth_order(javascript):
    """KL(law ‖ N(mean, (τ²/a²) I)) = ¼‖τ²∇²log p_t‖² (1 + O(τ)), and matched, less."""
    x_t = torch.tensor([0.5, 0.2], dtype=torch.float64)
    ratios = []
    for back in (0.99, 0.999):
        matched, exact, leading = javascript(
            SETUP
            + """return [tweedie.kl_divergence(given, tweedie.moment_matched(given)),
                narrow.exact, narrow.leading];""",
            mixture=three_gaussians(),
            x_t=x_t,
            **told(OrnsteinUhlenbeck(), 0.1, back),
        )
        assert 0 <= matched < 0.1 * exact
        ratios.append(abs((matched + exact) / leading - 1))
    assert ratios[0] < 0.1
    assert ratios[1] < 0.2 * ratios[0]


@pytest.mark.parametrize(
    ("level", "x_t", "peaks"),
    [
        ((0.2, 0.0), (0.1, 0.1), 3),
        ((0.02, 0.0), (-1.0, 0.0), 1),
        ((0.2, 0.95), (0.1, 0.1), 1),
        ((0.05, 0.02), (-0.2, 0.9), 2),
    ],
)
def test_the_peaks(javascript, level, x_t, peaks):
    """As many as a fine grid has local maxima, at the same places."""
    path, x_t = OrnsteinUhlenbeck(), torch.tensor(x_t, dtype=torch.float64)
    times = told(path, *level)
    found = javascript(
        SETUP + "return tweedie.modes(given);",
        mixture=three_gaussians(),
        x_t=x_t,
        **times,
    )
    given = posterior(three_gaussians(), path, x_t, times["s"], times["t"])
    n, extent = 601, 3.0
    line = torch.linspace(-extent, extent, n, dtype=torch.float64)
    log_p = given.log_prob(torch.cartesian_prod(line, line)).reshape(1, n, n)
    around = torch.nn.functional.max_pool2d(log_p, 3, 1, 1)
    highest = (log_p == around) & (log_p > log_p.max() + math.log(0.01))
    where = highest[0].nonzero()
    assert len(found) == len(where) == peaks
    for i, j in where.tolist():
        at = torch.tensor([line[i], line[j]])
        distance = (torch.tensor(found, dtype=torch.float64) - at).norm(dim=-1)
        assert distance.min() <= 1.5 * float(line[1] - line[0])


# Its state and its picture


def test_s_stays_before_t_and_t_within_the_path():
    widget = TweediePosterior(t=0.8, s=0.6)
    widget.t = 0.4
    assert widget.s == pytest.approx(0.3)
    widget.t = 3.0
    assert widget.s == pytest.approx(0.3)
    widget.path = VariancePreserving()
    assert (widget.t, widget.s) == (1.0, pytest.approx(0.3))
    assert repr(widget).startswith("TweediePosterior(x_t = (1, -0.3), t = 1, s = 0.3,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": 0.0}, r"t must lie in \(0, 3\], got 0"),
        ({"t": 3.5}, r"t must lie in \(0, 3\], got 3.5"),
        ({"s": 0.5}, r"s must lie in \[0, t\) with t = 0.5, got 0.5"),
        ({"s": -0.1}, "s must be a number from 0"),
        ({"x_t": (0.0, float("nan"))}, "x_t must be two finite numbers"),
        ({"x_t": (0.0, 1.0, 2.0)}, "x_t must be two finite numbers"),
        ({"x_t": ((0.0,), (1.0,))}, "x_t must be two finite numbers"),
        ({"follow": 1}, "follow must be True or False"),
    ],
)
def test_bad_arguments(no_shape_checks, arguments, message):
    with pytest.raises(ValueError, match=message):
        TweediePosterior(**arguments)


@pytest.mark.parametrize("s", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_every_state_has_two_pictures(path, s):
    widget = TweediePosterior(ring(6), path, t=path.t_max, s=s * path.t_max)
    assert widget._repr_html_().count("data:image/png") == 2


def test_the_close_view_shows_the_law():
    """All but a hundredth of the mass, for wide steps and narrow ones."""
    path, x_t = OrnsteinUhlenbeck(), torch.tensor([0.3, 0.1], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for s in (0.01, 0.3, 0.499):
        a, tau = between(path, s, 0.5)
        given = posterior(three_gaussians(), path, x_t, s, 0.5)
        extent = zoom(given, a, tau)
        away = (given.sample(2000, generator) - given.mean).abs().amax(-1)
        assert (away > extent).double().mean() < 0.02
        assert extent < 2.5 * away.quantile(0.99)


# Its page


def number(widget, key: str) -> str:
    return widget.figure.locator(f'[data-number="{key}"]').text_content()


def at(widget) -> list[float]:
    """The noisy point, as the model has it."""
    return widget.figure.evaluate(
        """figure => {
            const { data } = figure.diffedu.get("x_t");
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            return [...new Float32Array(bytes.buffer)];
        }"""
    )


def test_the_point_follows_the_pointer_until_it_is_left(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    mouse, page = widget.page.mouse, widget.page
    x, y = middle(widget.figure.locator("canvas").first)
    before = widget.pictures()
    mouse.move(x + 60, y + 40)
    page.evaluate(FRAMES, 3)
    moved = at(widget)
    assert moved != pytest.approx([1.0, -0.3], abs=0.05)
    assert widget.pictures() != before
    law = posterior(
        three_gaussians(), OrnsteinUhlenbeck(), torch.tensor(moved).double(), 0.0, 0.5
    )
    mean = ", ".join(f"{m:.2f}" for m in law.mean.tolist()).replace("-", "−")
    assert number(widget, "mean") == f"({mean})"
    assert number(widget, "trace") == f"{float(law.covariance.trace()):#.3g}"

    mouse.down()
    mouse.up()
    left = at(widget)
    assert widget.get("follow") is False
    mouse.move(x - 90, y - 70)
    page.evaluate(FRAMES, 3)
    assert at(widget) == left
    point = widget.figure.locator(".diffedu-handle.is-point")
    grip = middle(point)
    mouse.move(*grip)
    mouse.down()
    mouse.move(grip[0] - 30, grip[1] - 20)
    mouse.up()
    page.evaluate(FRAMES, 3)
    assert middle(point) == pytest.approx((grip[0] - 30, grip[1] - 20), abs=2)
    widget.figure.get_by_label("xₜ follows the pointer").click()
    mouse.move(x, y)
    page.evaluate(FRAMES, 3)
    assert at(widget) != left
    seen.clean()


def test_the_point_moves_by_keyboard_and_by_touch(open_widget):
    widget, seen = open_widget(NAME, width=390, has_touch=True)
    widget.settle()
    point = widget.figure.locator(".diffedu-handle.is-point")
    point.focus()
    before = at(widget)
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowUp"):
        widget.page.keyboard.press(key)
    widget.page.evaluate(FRAMES, 3)
    after = at(widget)
    assert after[0] > before[0]
    assert after[1] > before[1]
    assert "Noisy point at (" in point.get_attribute("aria-label")
    x, y = middle(widget.figure.locator("canvas").first)
    widget.page.touchscreen.tap(x - 50, y - 50)
    widget.page.evaluate(FRAMES, 3)
    assert middle(point) == pytest.approx((x - 50, y - 50), abs=2)
    seen.clean()


def test_a_component_moves_and_reset_brings_all_back(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    before = widget.numbers()
    widget.figure.locator(".diffedu-handle").nth(1).focus()
    for _ in range(5):
        widget.page.keyboard.press("Shift+ArrowLeft")
    slide(widget, "time t", 0.9)
    widget.settle()
    assert widget.numbers() != before
    widget.button("Reset").click()
    widget.settle()
    assert widget.numbers() == before
    seen.clean()


def test_a_narrow_step_back_is_gaussian_and_a_wide_one_is_not(open_widget):
    widget, seen = open_widget(NAME)
    widget.figure.get_by_role("combobox", name="the law of").select_option("step")
    widget.settle()
    assert widget.get("s") == pytest.approx(0.45)
    divergences = []
    for fraction in (1.0, 0.0):
        slide(widget, "step t − s", fraction)
        widget.settle()
        divergences.append((number(widget, "matched"), number(widget, "modes")))
    (wide, many), (narrow, one) = divergences
    assert float(wide) > 0.3
    assert many in ("2", "3")
    assert one == "1"
    assert "10⁻" in narrow
    slide(widget, "time t", 1.0)
    assert widget.get("s") == pytest.approx(3 * 0.999)
    seen.clean()


def test_time_plays_to_its_end(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    widget.button("Play").click()
    widget.page.wait_for_function(
        "figure => figure.diffedu.get('t') > 0.55", arg=widget.figure.element_handle()
    )
    widget.button("Pause").click()
    widget.set(t=2.95, playing=True)
    widget.page.wait_for_function(
        "figure => figure.diffedu.get('t') === 3", arg=widget.figure.element_handle()
    )
    assert widget.get("playing") is False
    seen.clean()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"t": 0}, "t must lie in (0, 3]"),
        ({"t": 3.5}, "t must lie in [0, 3]"),
        ({"s": 0.5}, "s must lie in [0, 0.5)"),
        ({"s": -1}, "s must lie in [0, 0.5]"),
        ({"x_t": [None, 0]}, "x_t must be two finite numbers"),
        ({"x_t": [0]}, "x_t must be two finite numbers"),
    ],
)
def test_bad_state_is_said_in_the_figure(visit, write_page, figures, state, message):
    seen = visit(write_page(broken(figures[NAME], **state)))
    says(seen.page, message)
    seen.clean()


@pytest.mark.parametrize("path", ["Straight", "Cosine"])
def test_where_no_signal_is_left_the_law_is_that_of_the_data(open_widget, path):
    widget, seen = open_widget(NAME)
    widget.set(path={"name": path}, t=1)
    widget.settle()
    assert widget.figure.get_attribute("data-state") == "live"
    mean = ", ".join(f"{m:.2f}" for m in three_gaussians().mean.tolist())
    assert number(widget, "mean") == f"({mean})".replace("-", "−")
    if path == "Straight":
        assert number(widget, "small") == "∞"
    else:  # in floating point, α(1) is 6e-17
        a, tau = between(Cosine(), 0.0, 1.0)
        law = three_gaussians()
        more = -1 - math.log((a / tau) ** 2) - 0.5 * float(law.covariance.logdet())
        expected = float(number(widget, "matched")) + more
        assert float(number(widget, "small")) == pytest.approx(expected, abs=0.06)
    seen.clean()
