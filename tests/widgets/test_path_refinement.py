"""One Brownian path refined: the page computes what the package does, and shows it."""

import base64
import io
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from diffedu import sde
from diffedu.metrics import convergence_order
from diffedu.sde import BrownianPath
from diffedu.widgets import PathRefinement
from diffedu.widgets._picture import Generator
from diffedu.widgets.path_refinement import (
    FINEST,
    at_level,
    draw_paths,
    exact,
    simulate,
    strong_errors,
)
from tests.widgets.helpers import (
    FRAMES,
    assert_same,
    broken,
    every_control_changes_the_numbers,
    plays_by_keyboard,
    says,
    slide,
)

NAME = "path_refinement"
PROCESSES = ["multiplicative", "additive"]
PARAMETERS = [(-0.5, 1.0), (0.8, 0.3), (-1.7, 1.4), (0.0, 0.7), (1e-6, 1.0)]
SCHEMES = {"euler_maruyama": sde.euler_maruyama, "milstein": sde.milstein}
STANDARD_ERRORS = 5  # that a Monte Carlo estimate may be off


def equation(process, mu, nu):
    return PathRefinement(process, mu=mu, nu=nu).equation


# The path


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_page_draws_the_paths_of_the_package(javascript, seed):
    found = javascript(
        """const paths = new brownian.Paths(seed);
        const last = paths.at(2); // drawn first, the same path
        return [0, 1, 2].map((i) => {
            const { w, rest } = paths.at(i);
            return [list(w), rest, last.rest];
        });""",
        seed=seed,
    )
    path, rest = draw_paths(seed, 3)
    for i, (w, z, last) in enumerate(found):
        assert_same(w, path.w[:, i])
        assert_same([z, last], [rest[i], rest[2]])


@pytest.mark.parametrize("seed", [0, 5])
def test_each_level_is_the_refinement_of_the_one_before(monkeypatch, seed):
    """`BrownianPath.refined`, given the page's normals, inserts its midpoints."""
    path, _ = draw_paths(seed, 1)
    z = torch.from_numpy(Generator(seed).normal(2**FINEST))
    known = at_level(path, 0)
    assert float(known.w[1]) == float(z[0])
    for level in range(FINEST):
        fresh = z[2**level : 2 ** (level + 1)].reshape(-1, 1, 1)
        monkeypatch.setattr(torch, "randn", lambda *_, fresh=fresh, **__: fresh)
        known = known.refined()
        assert_same(known.w.flatten().tolist(), at_level(path, level + 1).w)


@pytest.mark.parametrize("level", [0, 4, FINEST])
def test_refining_moves_no_value(javascript, level):
    """The path made of the first 2^level normals is the finest path at that level."""
    coarse, fine = javascript(
        """const z = new core.Generator(3).normal(2 ** brownian.FINEST);
        return [
            brownian.levy_path(z.subarray(0, 2 ** level)),
            brownian.at_level(brownian.levy_path(z), level),
        ].map(list);""",
        level=level,
    )
    assert coarse == fine
    assert len(coarse) == 2**level + 1


def test_the_paths_are_brownian():
    """E w_s w_t = min(s, t), within its standard errors, over 4,000 paths."""
    path, rest = draw_paths(9, 4000)
    w = at_level(path, 3).w[1:, :, 0]
    times = torch.arange(1, 9, dtype=w.dtype) / 8
    products = w[:, None] * w[None]
    error = products.mean(-1) - torch.minimum(times[:, None], times)
    assert (error.abs() < STANDARD_ERRORS * products.std(-1) / math.sqrt(4000)).all()
    unrelated = (w * rest).mean(-1) / (w * rest).std(-1) * math.sqrt(4000)
    assert unrelated.abs().max() < STANDARD_ERRORS
    assert abs(float(rest.var()) - 1) < STANDARD_ERRORS * math.sqrt(2 / 4000)


def test_variations(javascript):
    """The page's sums are the package's; that of squares has mean 1, variance 2h."""
    path, _ = draw_paths(4, 1000)
    for level in (0, 3, 8, FINEST):
        variation = at_level(path, level).w.diff(dim=0).square().sum(0)[:, 0]
        found = javascript(
            """const paths = new brownian.Paths(4);
            return [0, 1].map((i) =>
                [1, 2].map((p) => brownian.variation(paths.at(i).w, level, p)));""",
            level=level,
        )
        length = at_level(path, level).w.diff(dim=0).abs().sum(0)[:, 0]
        assert_same(found, torch.stack([length, variation], -1)[:2])
        z = (variation - 1) / math.sqrt(2 / 2**level)
        assert abs(float(z.mean())) < STANDARD_ERRORS / math.sqrt(1000)
        kurtosis = 3 + 12 / 2**level  # of a χ² with 2^level degrees of freedom
        spread = STANDARD_ERRORS * math.sqrt((kurtosis - 1) / 1000)
        assert abs(float(z.square().mean()) - 1) < spread


# The solutions


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("mu", "nu"), PARAMETERS[:2])
@pytest.mark.parametrize("process", PROCESSES)
def test_trajectories(javascript, process, mu, nu, scheme):
    """The page's, the package's driven by the `BrownianPath`, and the picture's."""
    levels = [0, 1, 5, 8]
    found = javascript(
        """const { w } = new brownian.Paths(2).at(0);
        const sde = new brownian.LinearSDE(process, mu, nu);
        return levels.map((level) =>
            list(brownian.simulate(brownian[`${scheme}_step`], sde, w, level)));""",
        process=process,
        mu=mu,
        nu=nu,
        scheme=scheme,
        levels=levels,
    )
    path, _ = draw_paths(2, 1)
    problem = equation(process, mu, nu)
    drawn = simulate(SCHEMES[scheme], problem, path)
    if process == "additive":  # where Milstein's step is Euler–Maruyama's
        scheme = "euler_maruyama"
    for states, level in zip(found, levels, strict=True):
        known = at_level(path, level)
        x_0 = torch.ones(1, 1, dtype=torch.float64)
        run = SCHEMES[scheme](problem, x_0, known.times, increment=known)
        run = torch.stack(list(run))
        assert torch.equal(drawn[level], run)
        assert_same(states, run)


@pytest.mark.parametrize(("mu", "nu"), PARAMETERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_exact_solutions(javascript, process, mu, nu):
    found, end = javascript(
        """const path = new brownian.Paths(2).at(1);
        const sde = new brownian.LinearSDE(process, mu, nu);
        return [list(brownian.exact(sde, path)), brownian.exact_end(sde, path)];""",
        process=process,
        mu=mu,
        nu=nu,
    )
    path, rest = draw_paths(2, 2)
    x = exact(process, mu, nu, path, rest)[:, 1]
    assert_same(found, x)
    assert_same([end], x[-1])


@pytest.mark.parametrize("mu", [-1.7, 0.0, 0.8])
def test_the_exact_additive_end_has_the_law_of_what_the_grid_leaves_open(mu):
    """Its mean and deviation over `rest`, against 4,000 refinements of one path.

    On each refinement x_1 = e^μ + ν w_1 + ν μ ∫ e^{μ(1−s)} w_s ds, by trapezoids on a
    grid 64 times as fine as the one where the path is known.
    """
    n, nu = 4000, 0.9
    generator = torch.Generator().manual_seed(1)
    known = at_level(draw_paths(6, 1)[0], 3)
    path = BrownianPath(known.times, known.w.expand(-1, n, 1).clone())
    for _ in range(6):
        path = path.refined(generator)
    weights = torch.exp(mu * (1 - path.times))[:, None, None]
    integral = torch.trapezoid(weights * path.w, path.times, dim=0)
    ends = (math.exp(mu) + nu * (path.w[-1] + mu * integral))[:, 0]

    low, middle, high = (
        float(exact("additive", mu, nu, known, torch.tensor([z]).double())[-1])
        for z in (-1.0, 0.0, 1.0)
    )
    deviation = (high - low) / 2
    error = STANDARD_ERRORS * deviation / math.sqrt(n)
    assert abs(float(ends.mean()) - middle) < error + 1e-4
    assert abs(float(ends.std()) - deviation) < error / math.sqrt(2) + 1e-4


@pytest.mark.parametrize(("mu", "nu"), [(-0.5, 1.0), (0.8, 0.3)])
@pytest.mark.parametrize("process", PROCESSES)
def test_the_exact_solution_is_the_limit_of_the_steps(process, mu, nu):
    """Steps of 2⁻¹¹ are near it all along the path, and nearer than steps of 2⁻⁵."""
    path, rest = draw_paths(8, 50)
    x = exact(process, mu, nu, path, rest)
    runs = simulate(sde.milstein, equation(process, mu, nu), path)
    far, near = (
        float((runs[level] - x[:: 2 ** (FINEST - level)]).abs().mean())
        for level in (5, FINEST)
    )
    assert near < 1e-3
    assert far / near == pytest.approx(64, rel=0.25)


# The errors


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("process", PROCESSES)
def test_strong_errors_and_orders(javascript, process, scheme):
    """Means, standard errors and slopes are those of the package's own runs.

    The slope's standard error is compared with the jackknife's over the paths.
    """
    n, mu, nu = 100, -0.5, 1.0
    means, deviations, slopes, pair = javascript(
        """const paths = new brownian.Paths(11);
        const sde = new brownian.LinearSDE(process, mu, nu);
        const step = brownian[`${scheme}_step`];
        const errors = new brownian.StrongErrors(step, sde);
        for (let i = 0; i < n; i++) errors.add(paths.at(i));
        const levels = errors.errors.map((_, k) => errors.at(k));
        const [fitted, pair] = [errors.order(4, 10), errors.order(3, 4)];
        return [
            levels.map(({ value }) => value),
            levels.map(({ standard_error }) => standard_error),
            [fitted.value, fitted.standard_error],
            [pair.value, pair.standard_error],
        ];""",
        process=process,
        mu=mu,
        nu=nu,
        scheme=scheme,
        n=n,
    )
    path, rest = draw_paths(11, n)
    end = exact(process, mu, nu, path, rest)[-1]
    errors = strong_errors(
        simulate(SCHEMES[scheme], equation(process, mu, nu), path), end
    )
    assert_same(means, errors.mean(1))
    assert_same(deviations, errors.std(1) / math.sqrt(n))

    steps = 0.5 ** torch.arange(4, 11, dtype=torch.float64)
    assert_same(slopes[:1], [convergence_order(steps, errors[4:11].mean(1)).value])
    assert_same(pair[:1], [math.log2(errors[3].mean() / errors[4].mean())])
    for first, last, (_, standard_error) in ((4, 10, slopes), (3, 4, pair)):
        without = (errors.sum(1, keepdim=True) - errors) / (n - 1)
        log_h = -np.arange(first, last + 1) * math.log(2)
        fits = np.polyfit(log_h, without[first : last + 1].log().numpy(), 1)[0]
        jackknife = math.sqrt((n - 1) * fits.var())
        assert standard_error == pytest.approx(jackknife, rel=0.05)


@pytest.mark.parametrize(
    ("process", "scheme", "order"),
    [
        ("multiplicative", "euler_maruyama", 0.5),
        ("multiplicative", "milstein", 1.0),
        ("additive", "euler_maruyama", 1.0),
        ("additive", "milstein", 1.0),
    ],
)
def test_the_order_is_a_half_and_one(javascript, process, scheme, order):
    """Within four standard errors, and 0.03 for what higher orders add."""
    value, standard_error = javascript(
        """const paths = new brownian.Paths(1);
        const sde = new brownian.LinearSDE(process, -0.5, 1);
        const step = brownian[`${scheme}_step`];
        const errors = new brownian.StrongErrors(step, sde);
        for (let i = 0; i < 1000; i++) errors.add(paths.at(i));
        const order = errors.order(5, brownian.FINEST);
        return [order.value, order.standard_error];""",
        process=process,
        scheme=scheme,
    )
    assert standard_error < 0.025
    assert abs(value - order) < 4 * standard_error + 0.03


# The state, and the faces


def test_it_says_what_it_shows():
    widget = PathRefinement("additive", level=0)
    assert repr(widget) == (
        "PathRefinement(additive noise, h = 1, mu = -0.5, nu = 1, 400 paths)"
    )
    widget.level = 5
    assert "h = 1/32" in widget._repr_html_()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("process", "both", "process must be one of 'multiplicative', 'additive'"),
        ("level", 11, "level must be a whole number from 0 to 10"),
        ("level", 2.5, "level must be a whole number"),
        ("paths", 1, "paths must be a whole number from 10 to 2000"),
        ("seed", -1, "seed must be a whole number"),
        ("mu", float("nan"), "mu must be a number from -2 to 2"),
        ("nu", 0.0, "nu must be a number from 0.05 to 1.5"),
        ("milstein", 1, "milstein must be True or False"),
    ],
)
def test_bad_arguments_and_assignments(no_shape_checks, name, value, message):
    with pytest.raises(ValueError, match=message):
        PathRefinement(**{name: value})
    widget = PathRefinement()
    before = widget._state()
    with pytest.raises(ValueError, match=message):
        setattr(widget, name, value)
    assert widget._state() == before


def near(image: np.ndarray, colour: str, x: float, y: float, radius: int = 4) -> bool:
    """Whether a pixel of about that colour lies around the place."""
    x, y = round(x), round(y)
    patch = image[y - radius : y + radius + 1, x - radius : x + radius + 1].astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    distance = np.abs(patch[..., :3] - wanted).sum(-1)
    return bool(((distance < 90) & (patch[..., 3] > 150)).any())


def test_picture_and_page_show_the_same_path(open_widget, figures):
    """Discs of both step sizes at the path's own values, drawn by Python and live."""
    widget, _ = open_widget(NAME)
    widget.settle()
    live = widget.figure.locator("canvas").first.evaluate("c => c.toDataURL()")
    stored = re.search(r"data:image/png;base64,[^\"]*", figures[NAME])[0]
    w = draw_paths(0, 1)[0].w.flatten()
    low, high = min(0.0, float(w.min())), max(0.0, float(w.max()))
    room = 0.06 * (high - low)
    for address in (live, stored):
        png = base64.b64decode(address.split(",")[1])
        image = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
        height, width = image.shape[:2]
        scale = width / widget.figure.locator("canvas").first.evaluate(
            "c => c.clientWidth"
        )
        if address == stored:
            scale = width / 390
        left, right, top, bottom = (scale * m for m in (42, 12, 18, 26))
        for level, colour in ((3, "#d55e00"), (4, "#009e73")):
            steps = 2**level
            for i in range(level - 3, steps + 1, 1 + level - 3):
                value = float(w[i * 2 ** (FINEST - level)])
                x = left + (width - left - right) * i / steps / 1.08
                share = (value - low + room) / (high - low + 2 * room)
                y = top + (height - top - bottom) * (1 - share)
                assert near(image, colour, x, y), (level, i)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("level", [0, 10])
def test_every_state_has_its_pictures(process, level):
    html = PathRefinement(process, level, 20, 3, milstein=True)._repr_html_()
    assert html.count("data:image/png") == 3


# The page


SLIDERS = [("step h", 0.6), ("noise ν", 0.2), ("drift μ", 0.9)]
CHOICES = [("equation", "additive"), ("paths", "100")]


def number(widget, key: str) -> str:
    return widget.figure.locator(f'[data-number="{key}"]').text_content()


def shown(widget, key: str) -> float:
    """The first number of a text, written with a power of ten or not."""
    text = number(widget, key).replace("−", "-")
    value = float(re.search(r"-?[\d.]+", text)[0])
    power = re.search(r"10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text)
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    return value * 10.0 ** int(power[1].translate(digits)) if power else value


@pytest.mark.parametrize("process", PROCESSES)
def test_the_numbers_are_those_of_the_package(open_widget, process):
    widget, seen = open_widget(NAME)
    widget.set(process=process, paths=100, level=4, milstein=True)
    widget.settle()
    path, rest = draw_paths(0, 100)
    end = exact(process, -0.5, 1.0, path, rest)[-1]
    problem = equation(process, -0.5, 1.0)
    errors, better = (
        strong_errors(simulate(scheme, problem, path), end)
        for scheme in (sde.euler_maruyama, sde.milstein)
    )
    coarse, fine = errors[4:6].mean(1).tolist()
    steps = 0.5 ** torch.arange(5, FINEST + 1, dtype=torch.float64)
    dw = at_level(path, 4).w[:, 0].diff(dim=0)
    expected = {
        "error_h": (coarse, 0.07),
        "error_half": (fine, 0.07),
        "ratio": (coarse / fine, 0.005),
        "fitted": (convergence_order(steps, errors[5:].mean(1)).value, 0.06),
        "milstein": (convergence_order(steps, better[5:].mean(1)).value, 0.06),
        "own": (float(errors[4, 0]), 0.05),
        "length": (float(dw.abs().sum()), 0.005),
        "quadratic": (float(dw.square().sum()), 0.005),
    }
    for key, (value, rounding) in expected.items():
        assert shown(widget, key) == pytest.approx(value, rel=rounding), key
    seen.clean()


def test_every_control_changes_the_numbers(open_widget):
    widget, seen = open_widget(NAME)
    every_control_changes_the_numbers(widget, SLIDERS, CHOICES)
    widget.figure.get_by_role("checkbox").click()
    widget.settle()
    assert number(widget, "milstein") != "—"
    assert widget.figure.get_by_text("Milstein, step h", exact=True).is_visible()
    seen.clean()


def test_buttons_refine_coarsen_and_renew_the_path(open_widget):
    widget, seen = open_widget(NAME)
    for name, trait, value in (
        ("Refine", "level", 4),
        ("Refine", "level", 5),
        ("Coarsen", "level", 4),
        ("New path", "seed", 1),
    ):
        widget.settle()
        before, drawn = widget.numbers(), widget.pictures()
        widget.button(name).click()
        widget.settle()
        assert widget.get(trait) == value
        assert widget.numbers() != before
        assert all(a != b for a, b in zip(drawn, widget.pictures(), strict=True))
    widget.button("Reset").click()
    assert (widget.get("level"), widget.get("seed")) == (3, 0)
    seen.clean()


def test_the_levels_end_at_one_step_and_at_the_finest(open_widget):
    widget, seen = open_widget(NAME)
    for button, level in (("Coarsen", 0), ("Refine", 10)):
        widget.set(level=level)
        widget.button(button).click()
        widget.settle()
        assert widget.get("level") == level
    seen.clean()


def test_playing_refines_to_the_end(open_widget):
    widget, seen = open_widget(NAME)
    widget.set(level=7)
    widget.button("Play").click()
    widget.page.wait_for_function(
        """name => document.querySelector(`figure[data-widget="${name}"]`)
            .diffedu.get("level") === 8""",
        arg=NAME,
        timeout=10_000,
    )
    widget.button("Pause").click()
    widget.page.wait_for_timeout(1600)
    assert widget.get("level") == 8
    widget.set(level=9)
    widget.button("Play").click()
    widget.button("Play").wait_for(timeout=10_000)
    assert widget.get("level") == 10
    assert widget.get("playing") is False
    widget.button("Play").click()
    assert widget.get("level") == 0
    seen.clean()


def test_nothing_runs_off_screen(open_widget):
    widget, _ = open_widget(NAME, height=300)
    widget.page.evaluate("document.body.style.paddingBottom = '6000px'")
    widget.set(level=0, playing=True)
    widget.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    widget.page.wait_for_timeout(200)
    hidden = widget.get("level")
    widget.page.wait_for_timeout(3000)
    assert widget.get("level") == hidden


def test_midpoints_appear_at_once_for_who_prefers_less_motion(open_widget):
    """Two frames after a click everything is where it stays; else it takes longer."""
    changes = []
    for preference in ("reduce", "no-preference"):
        widget, _ = open_widget(NAME, reduced_motion=preference)
        widget.settle()
        changes.append(
            widget.figure.evaluate(
                """async figure => {
                    const canvas = figure.querySelector("canvas");
                    const frame = () => new Promise(requestAnimationFrame);
                    figure.diffedu.set("level", 4);
                    await frame();
                    await frame();
                    const first = canvas.toDataURL();
                    await new Promise((done) => setTimeout(done, 1200));
                    return canvas.toDataURL() !== first;
                }"""
            )
        )
    assert changes == [False, True]


def test_it_works_from_the_keyboard(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    step = widget.figure.get_by_role("slider", name="step h", exact=True)
    step.focus()
    widget.page.keyboard.press("ArrowRight")
    assert widget.get("level") == 4
    assert step.get_attribute("aria-valuetext") == "1/16"
    widget.button("Refine").focus()
    widget.page.keyboard.press("Enter")
    assert widget.get("level") == 5
    plays_by_keyboard(widget)
    seen.clean()


def test_a_changed_parameter_is_answered_within_a_frame_or_two(open_widget):
    """With 2,000 paths: measuring goes on in slices, no frame waits for all of it."""
    widget, _ = open_widget(NAME)
    widget.set(paths=2000)
    widget.settle()
    slide(widget, "noise ν", 0.5)
    longest = widget.figure.evaluate(
        """async figure => {
            let longest = 0;
            let last = performance.now();
            for (let i = 0; i < 20; i++) {
                figure.diffedu.set("nu", 0.3 + i / 40);
                await new Promise(requestAnimationFrame);
                longest = Math.max(longest, performance.now() - last);
                last = performance.now();
            }
            return longest;
        }"""
    )
    assert longest < 250  # milliseconds, on a busy machine; about 20 on a free one


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"process": "other"}, "process must be one of multiplicative, additive"),
        ({"level": 11}, "level must be a whole number in 0 … 10"),
        ({"level": None}, "level must be a whole number"),
        ({"paths": 1}, "paths must be a whole number in 10 … 2000"),
        ({"mu": None}, "mu must lie in [-2, 2]"),
        ({"nu": 0}, "nu must lie in [0.05, 1.5]"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_state_is_said_in_the_figure(visit, write_page, figures, state, message):
    seen = visit(write_page(broken(figures[NAME], **state)))
    says(seen.page, message)
    seen.clean()


def test_it_recovers_from_bad_state(open_widget):
    widget, seen = open_widget(NAME)
    widget.set(nu=-1)
    widget.figure.get_by_role("alert").wait_for(timeout=10_000)
    widget.set(nu=0.5)
    widget.page.evaluate(FRAMES, 3)
    assert widget.figure.get_attribute("data-state") == "live"
    seen.clean()
