"""The bent potential: its numbers beside Python's, and its page."""

import base64
import io
import math
import re

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from scipy.interpolate import CubicSpline

from diffedu.fokker_planck import (
    Grid,
    generator_matrix,
    solve_fokker_planck,
    stationary_density,
)
from diffedu.metrics import grid_kl
from diffedu.sde import SDE, euler_maruyama
from diffedu.widgets import BentPotential, _picture
from tests.widgets.helpers import (
    FRAMES,
    assert_same,
    broken,
    every_control_changes_the_numbers,
    middle,
    normals,
    says,
    slide,
    times_while_playing,
)

NAME = "bent_potential"
KNOTS = np.linspace(-2.4, 2.4, 7)
GRID = Grid(-3.22, 3.22, 161)
WALLS = math.inf  # the widget's walls are meant
HEIGHTS = {
    "quadratic": 0.5 * KNOTS**2,
    "wells": np.array([3.0, 0.2, 1.4, 0.1, 1.9, -0.3, 2.2]),
    "steep": np.array([-2.0, 6.0, -2.0, 6.0, -2.0, 6.0, -2.0]),
}
SETUP = """
    const U = new fokker_planck.Potential(fokker_planck.KNOTS, floats(heights));
    const grid = fokker_planck.GRID;
    const chain = new fokker_planck.JumpProcess((x) => U.drift(x), 2 * theta, grid);
"""
RUN = (
    SETUP
    + """
    let p = fokker_planck.bump(grid, start);
    const run = [p];
    for (let k = 0; k < steps; k++) run.push((p = chain.advance(p, tau)));
"""
)


def potential(heights: np.ndarray):
    """U and U′ beyond the knots too, where U″ = 1."""
    spline = CubicSpline(KNOTS, heights, bc_type=((2, 1.0), (2, 1.0)))
    ends = spline.derivative()(KNOTS[[0, -1]])

    def U(x):
        left, right = np.minimum(x - KNOTS[0], 0), np.maximum(x - KNOTS[-1], 0)
        beyond = ends[0] * left + ends[1] * right + 0.5 * (left**2 + right**2)
        return spline(np.clip(x, KNOTS[0], KNOTS[-1])) + beyond

    def slope(x):
        left, right = np.minimum(x - KNOTS[0], 0), np.maximum(x - KNOTS[-1], 0)
        return spline.derivative()(np.clip(x, KNOTS[0], KNOTS[-1])) + left + right

    return U, slope


def dynamics(heights: np.ndarray, theta: float) -> SDE:
    _, slope = potential(heights)
    return SDE(
        lambda x, t: torch.from_numpy(-slope(x.numpy())),
        lambda t: torch.tensor(math.sqrt(2 * theta), dtype=torch.float64),
        autonomous=True,
    )


def bump(start: float) -> torch.Tensor:
    p = GRID.average(lambda x: torch.exp(-0.5 * ((x[:, 0] - start) / 0.2) ** 2))
    return p / GRID.mass(p)


# What the page computes is what Python computes


@pytest.mark.parametrize("shape", HEIGHTS)
def test_the_potential_is_the_spline(javascript, shape):
    x = np.linspace(-3.3, 3.3, 331)
    value, drift = javascript(
        SETUP + "return [U.value(x), U.drift(x)].map(list);",
        heights=HEIGHTS[shape].tolist(),
        theta=1.0,
        x=x.tolist(),
    )
    U, slope = potential(HEIGHTS[shape])
    np.testing.assert_allclose(value, U(x), rtol=0, atol=1e-12)
    np.testing.assert_allclose(drift, -slope(x), rtol=0, atol=1e-12)


def test_the_quadratic_heights_make_a_parabola(javascript):
    x = np.linspace(-3.2, 3.2, 65)
    value = javascript(
        SETUP + "return list(U.value(x));",
        heights=HEIGHTS["quadratic"].tolist(),
        theta=1.0,
        x=x.tolist(),
    )
    np.testing.assert_allclose(value, 0.5 * x**2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["quadratic", "double well", "tilted"])
def test_presets_are_the_same_on_both_sides(javascript, name):
    found = javascript(
        "return list(fokker_planck.KNOTS.map(fokker_planck.POTENTIALS[name]));",
        name=name,
    )
    widget = BentPotential(name)
    assert widget.heights == pytest.approx(found, abs=1e-12)
    assert widget.potential == name


@pytest.mark.parametrize("theta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("shape", HEIGHTS)
def test_rates_and_gibbs_density(javascript, shape, theta):
    up, down, log_pi = javascript(
        SETUP + "return [chain.up, chain.down, chain.log_pi].map(list);",
        heights=HEIGHTS[shape].tolist(),
        theta=theta,
    )
    sde = dynamics(HEIGHTS[shape], theta)
    A = generator_matrix(sde, GRID).toarray()
    np.testing.assert_allclose(up, np.diag(A, -1), rtol=1e-10)
    np.testing.assert_allclose(down, np.diag(A, 1), rtol=1e-10)
    expected = stationary_density(sde, GRID).log().numpy()
    np.testing.assert_allclose(log_pi, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("theta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("shape", HEIGHTS)
def test_detailed_balance_with_the_gibbs_density(javascript, shape, theta):
    """π_i up_i = π_{i+1} down_i with π = e^(−U/θ), from U itself."""
    up, down = javascript(
        SETUP + "return [chain.up, chain.down].map(list);",
        heights=HEIGHTS[shape].tolist(),
        theta=theta,
    )
    U, _ = potential(HEIGHTS[shape])
    log_pi = -U(GRID.centers[:, 0].numpy()) / theta
    balance = log_pi[:-1] + np.log(up) - log_pi[1:] - np.log(down)
    assert np.abs(balance).max() < 1e-11


@pytest.mark.parametrize(
    ("shape", "theta", "start", "tau", "halved"),
    [
        ("quadratic", 0.5, -1.6, 0.02, False),
        ("wells", 0.3, 0.7, 0.05, False),
        ("wells", 2.0, 2.8, 0.2, True),
        ("steep", 0.5, 0.0, 0.1, True),
        ("steep", 0.1, -2.8, 0.2, True),
    ],
)
def test_whole_trajectories_of_the_density(
    javascript, shape, theta, start, tau, halved
):
    steps = 60
    run, kl, taus = javascript(
        RUN
        + """return [run.map(list),
            run.map((p) => fokker_planck.grid_kl(p, chain.log_pi, grid.spacing)),
            chain.steppers.size];""",
        heights=HEIGHTS[shape].tolist(),
        theta=theta,
        start=start,
        tau=tau,
        steps=steps,
    )
    assert (taus > 1) == halved
    sde = dynamics(HEIGHTS[shape], theta)
    times = torch.arange(steps + 1, dtype=torch.float64) * tau
    expected = list(solve_fokker_planck(sde, bump(start), GRID, times, wall_mass=WALLS))
    pi = stationary_density(sde, GRID)
    for p, kl_p, q in zip(run, kl, expected, strict=True):
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-9)
        assert min(p) >= 0
        assert abs(sum(p) * GRID.volume - 1) < 1e-12
        assert kl_p == pytest.approx(grid_kl(q, pi, GRID.volume), rel=1e-8, abs=1e-12)


def test_a_step_that_would_go_negative_is_halved(javascript):
    """2q − p leaves the densities, and two steps of half the length do not."""
    naive, p, mass, taus = javascript(
        SETUP
        + """
        const p = fokker_planck.bump(grid, 0);
        const q = chain.backward_euler(0.5 * tau)(p);
        const next = chain.advance(p, tau);
        return [Math.min(...q.map((value, i) => 2 * value - p[i])),
            Math.min(...next), grid.mass(next), list(chain.steppers.keys())];""",
        heights=HEIGHTS["wells"].tolist(),
        theta=2.0,
        tau=0.5,
    )
    assert naive < -0.1
    assert p >= 0
    assert mass == pytest.approx(1, abs=1e-13)
    assert taus[:2] == [0.5, 0.25]


def test_mass_stays_and_the_divergence_falls(javascript):
    kl, mass, lowest, gap = javascript(
        RUN
        + """const kl = (p) => fokker_planck.grid_kl(p, chain.log_pi, grid.spacing);
        return [run.map(kl), run.map((p) => grid.mass(p)),
            Math.min(...run.map((p) => Math.min(...p))), chain.spectral_gap()];""",
        heights=HEIGHTS["quadratic"].tolist(),
        theta=0.5,
        start=-1.6,
        tau=0.02,
        steps=1000,
    )
    kl = np.array(kl)
    assert np.abs(np.array(mass) - 1).max() < 1e-12
    assert lowest >= 0
    above = kl[:-1] > 1e-12
    assert (np.diff(kl)[above] < 0).all()
    # Ornstein–Uhlenbeck: λ₁ = 1, and KL falls like e^(−2t) in the end
    assert gap == pytest.approx(1, abs=1e-3)
    assert np.log(kl[300] / kl[400]) / 2 == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("theta", [0.2, 0.5, 2.0])
@pytest.mark.parametrize("shape", HEIGHTS)
def test_the_spectral_gap(javascript, shape, theta):
    """The second eigenvalue of the symmetrised generator, by LAPACK."""
    gap = javascript(
        SETUP + "return chain.spectral_gap();",
        heights=HEIGHTS[shape].tolist(),
        theta=theta,
    )
    A = generator_matrix(dynamics(HEIGHTS[shape], theta), GRID).toarray()
    off = np.sqrt(np.diag(A, 1) * np.diag(A, -1))
    spectrum = scipy.linalg.eigvalsh_tridiagonal(-np.diag(A), -off)
    rounding = 1e-13 * spectrum[-1]  # of eigenvalues found beside the largest
    assert gap == pytest.approx(spectrum[1], rel=1e-6, abs=rounding)


def test_the_dissipation_is_the_rate_at_which_the_divergence_falls(javascript):
    p, dissipation = javascript(
        RUN + "return [list(p), chain.dissipation(p)];",
        heights=HEIGHTS["wells"].tolist(),
        theta=0.5,
        start=-1.6,
        tau=0.02,
        steps=40,
    )
    sde = dynamics(HEIGHTS["wells"], 0.5)
    pi = stationary_density(sde, GRID).numpy()
    change = generator_matrix(sde, GRID) @ np.array(p)
    rate = -(change * np.log(p / pi)).sum() * GRID.volume
    assert dissipation == pytest.approx(rate, rel=1e-9)


def test_the_divergence_keeps_its_digits_near_zero(javascript):
    """KL of p = π (1 + d) is ½ ∫ π d² to leading order, however small d is."""
    found = javascript(
        SETUP
        + """
        const pi = chain.log_pi.map(Math.exp);
        const tilt = grid.centers.map((x, i) => pi[i] * (1 + 1e-7 * x));
        return fokker_planck.grid_kl(tilt, chain.log_pi, grid.spacing);""",
        heights=HEIGHTS["quadratic"].tolist(),
        theta=1.0,
    )
    pi = stationary_density(dynamics(HEIGHTS["quadratic"], 1.0), GRID).numpy()
    x = GRID.centers[:, 0].numpy()
    assert found == pytest.approx(0.5e-14 * (pi * x**2).sum() * GRID.volume, rel=1e-6)


def test_shares_right_of_a_point(javascript):
    shares = javascript(
        """const { GRID, bump, mass_right } = fokker_planck;
        const p = bump(GRID, 0);
        return [-3.22, 0, 0.2, 3.22].map((x) => mass_right(p, GRID, x));"""
    )
    one_deviation = 0.5 * math.erfc(1 / math.sqrt(2))
    assert shares[:2] + shares[3:] == pytest.approx([1, 0.5, 0], abs=1e-12)
    assert shares[2] == pytest.approx(one_deviation, abs=2e-3)


def test_draws_from_the_density(javascript):
    """The share of p below each draw is the uniform number that it was made of."""
    u = np.linspace(1e-6, 1 - 1e-6, 41)
    x, right = javascript(
        RUN
        + """const x = fokker_planck.place(p, grid, floats(u));
        const right = x.map((at) => fokker_planck.mass_right(p, grid, at));
        return [list(x), list(right)];""",
        heights=HEIGHTS["wells"].tolist(),
        theta=0.5,
        start=0.0,
        tau=0.02,
        steps=20,
        u=u.tolist(),
    )
    assert (np.diff(x) > 0).all()
    np.testing.assert_allclose(1 - np.array(right), u, rtol=0, atol=1e-12)


def test_particles_on_the_same_noise(javascript):
    theta, tau, steps, n = 0.4, 0.03, 50, 20
    x, noise = 2 * normals(n, 1, seed=5), normals(steps, n, 1, seed=6)
    found = javascript(
        SETUP
        + """
        const sde = { drift: (x) => U.drift(x), diffusion: () => Math.sqrt(2 * theta) };
        return states(core.euler_maruyama(sde, floats(x), times, replay(noise)));""",
        heights=HEIGHTS["wells"].tolist(),
        theta=theta,
        x=x.flatten(),
        noise=noise.flatten(1),
        times=(tau * torch.arange(steps + 1)).tolist(),
    )
    z = iter(noise)
    expected = euler_maruyama(
        dynamics(HEIGHTS["wells"], theta),
        x,
        tau * torch.arange(steps + 1, dtype=torch.float64),
        increment=lambda t, s: (s - t).sqrt() * next(z),
    )
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_walls_mirror(javascript):
    found = javascript(
        "return list(fokker_planck.reflect(floats(x), -1, 1));",
        x=[0.5, 1.25, -1.5, 3.5, -7.25],
    )
    assert found == pytest.approx([0.5, 0.75, -0.5, -0.5, 0.75], abs=1e-15)


# The state from Python, and the picture


def test_heights_and_names():
    widget, heard = BentPotential(), []
    widget.observe(lambda change: heard.append(change.new), "heights")
    widget.potential = "quadratic"
    assert heard[-1] == pytest.approx(0.5 * KNOTS**2)
    widget.heights = np.zeros(7)
    assert widget.potential == "bent"
    assert "bent potential, temperature 0.5" in repr(widget)
    again = BentPotential(heights=widget.heights, temperature=1)
    assert again.heights == widget.heights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"potential": "bent"}, "potential must be one of 'quadratic', 'double well'"),
        ({"heights": [0.0] * 6}, "heights must be 7 numbers from -2 to 6"),
        ({"heights": [0.0] * 6 + [math.nan]}, "heights must be 7 numbers"),
        ({"heights": [0.0] * 6 + [7.0]}, "heights must be 7 numbers"),
        ({"heights": "low"}, "heights must be a nested list"),
        ({"temperature": 0.0}, "temperature must be a number from 0.1"),
        ({"start": 3.0}, "start must be a number from -2.8"),
        ({"t": -1.0}, "t must be a number from 0"),
        ({"time_step": 0.5}, "time_step must be a number from 0.001"),
        ({"n_particles": 1}, "n_particles must be a whole number"),
    ],
)
def test_bad_arguments(no_shape_checks, arguments, message):
    with pytest.raises(ValueError, match=message):
        BentPotential(**arguments)


@pytest.mark.parametrize("t", [0.0, 0.03, 1.0])
def test_three_pictures_of_every_state(t):
    html = BentPotential("tilted", t=t, time_step=0.05)._repr_html_()
    assert html.count("data:image/png") == 3
    steep = BentPotential(heights=HEIGHTS["steep"], t=t, time_step=0.05)
    assert steep._repr_html_().count("data:image/png") == 3


def test_the_picture_and_the_page_agree(visit, write_page):
    """Pixels of the middle panel, where the page draws the same density."""
    html = BentPotential("tilted", t=2.0)._repr_html_()
    seen = visit(write_page(html), device_scale_factor=1)
    seen.page.wait_for_selector('figure[data-state="live"]')
    seen.page.evaluate(FRAMES, 3)
    canvas = seen.page.locator("canvas").nth(1)
    live = canvas.evaluate("c => c.toDataURL().split(',')[1]")
    stored = re.findall(r"base64,([^\"]*)", html)[1]

    def dashed_top(data: str) -> float:
        """Height of the highest green pixel, as a share of the picture."""
        image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
        pixels = np.asarray(image).astype(int)
        green = np.abs(pixels[..., :3] - [0, 158, 115]).sum(-1) < 40
        rows, columns = np.nonzero(green & (pixels[..., 3] > 150))
        return rows.min() / len(pixels), columns.mean() / pixels.shape[1]

    assert dashed_top(live) == pytest.approx(dashed_top(stored), abs=0.03)


# The page


def numbers(widget) -> dict[str, str]:
    return {
        e.get_attribute("data-number"): e.text_content()
        for e in widget.figure.locator("[data-number]").all()
    }


def value(text: str) -> float:
    """A number as the page prints it."""
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")
    text = text.translate(digits).replace("·10", "e").split(" ")[0]
    return float(text)


def test_the_page_shows_what_python_computes(open_widget):
    widget, seen = open_widget(NAME)
    widget.set(t=1.0)
    widget.settle()
    shown = numbers(widget)
    heights = np.array(BentPotential().heights)
    sde = dynamics(heights, 0.5)
    times = torch.arange(51, dtype=torch.float64) * 0.02
    *_, p = solve_fokker_planck(sde, bump(-1.6), GRID, times, wall_mass=WALLS)
    pi = stationary_density(sde, GRID)
    assert value(shown["kl"]) == pytest.approx(grid_kl(p, pi, GRID.volume), abs=5e-4)
    right = float(p[81:].sum() + 0.5 * p[80]) * GRID.volume
    assert value(shown["right"]) == pytest.approx(right, abs=6e-4)
    assert value(shown["gibbs"]) == 0.5
    assert abs(value(shown["mass"])) < 1e-12
    share, error = map(float, shown["particles"].split(" ± "))
    assert abs(share - right) < 5 * max(error, 0.003)
    seen.clean()


def test_particles_of_the_page_are_those_of_the_picture(open_widget, javascript):
    widget, _ = open_widget(NAME)
    widget.set(t=0.4)
    widget.settle()
    python = BentPotential(t=0.4)
    x, _ = python._particles(python._sde(), python._times())
    share = f"{(x > 0).mean():.3f}"
    assert numbers(widget)["particles"].startswith(share)
    generator = _picture.Generator(0)
    start = -1.6 + 0.2 * generator.normal(800)
    assert python.start == -1.6
    assert np.abs(x - start).max() > 0.1


def test_every_control_changes_the_numbers(open_widget):
    widget, seen = open_widget(NAME)
    widget.set(t=0.5)
    every_control_changes_the_numbers(
        widget,
        [
            ("temperature θ", 0.7),
            ("time step Δt", 0.9),
            ("particles", 0.9),
            ("start x₀", 0.8),
        ],
        [("potential", "tilted"), ("potential", "quadratic")],
    )
    seen.clean()


def test_time_plays_steps_restarts_and_resets(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    first = widget.numbers()
    widget.button("Play").click()
    widget.page.wait_for_timeout(500)
    widget.button("Pause").click()
    t = widget.get("t")
    assert t > 0.1
    widget.settle()
    assert value(numbers(widget)["kl"]) < value(first[0])
    widget.button("Step").click()
    assert widget.get("t") == pytest.approx(t + 0.02)
    slide(widget, "temperature θ", 0.5)
    widget.button("Restart").click()
    assert widget.get("t") == 0
    assert widget.get("temperature") == pytest.approx(1.06)
    widget.settle()
    assert widget.numbers() != first
    widget.button("Reset").click()
    widget.settle()
    assert widget.numbers() == first
    widget.set(t=59.99)
    widget.button("Play").click()
    widget.page.wait_for_timeout(800)
    assert widget.get("t") == 60
    assert widget.get("playing") is False
    widget.settle()
    assert abs(value(numbers(widget)["mass"])) < 1e-12
    seen.clean()


def drag(widget, handle, dx: float, dy: float) -> None:
    x, y = middle(handle)
    mouse = widget.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + dx, y + dy, steps=4)
    mouse.up()
    widget.settle()


def test_dragging_bends_the_potential_under_the_density(open_widget):
    """The Gibbs density and KL change; time, density and particles do not."""
    widget, seen = open_widget(NAME)
    widget.set(t=2.0)
    widget.settle()
    before, heights = numbers(widget), widget.get("heights")
    handle = widget.figure.locator(".diffedu-handle").nth(3)
    place = middle(handle)
    drag(widget, handle, 25, 30)
    after = numbers(widget)
    assert widget.get("heights") != heights
    assert middle(handle) == pytest.approx((place[0], place[1] + 30), abs=2)
    changed = {key for key in before if before[key] != after[key]}
    assert {"kl", "rate", "gap"} <= changed
    assert not {"right", "particles", "mass"} & changed
    assert widget.get("t") == 2.0
    select = widget.figure.get_by_role("combobox", name="potential", exact=True)
    assert select.input_value() == "bent"
    select.select_option("double well")
    widget.settle()
    assert numbers(widget) == before
    seen.clean()


def test_the_start_is_dragged_and_time_starts_again(open_widget):
    widget, seen = open_widget(NAME)
    widget.set(t=1.0)
    widget.settle()
    handle = widget.figure.locator(".diffedu-handle").last
    drag(widget, handle, 120, 40)
    assert widget.get("start") > 0
    assert widget.get("t") == 0
    assert value(numbers(widget)["right"]) > 0.5
    seen.clean()


def test_handles_follow_the_keyboard_and_say_where_they_are(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    before = numbers(widget)
    handle = widget.figure.locator(".diffedu-handle").nth(1)
    handle.focus()
    widget.page.keyboard.press("ArrowUp")
    widget.page.keyboard.press("Shift+ArrowUp")
    widget.settle()
    label = handle.get_attribute("aria-label")
    assert label == "Potential at x = −1.6 is 0.60; arrow keys bend it"
    assert numbers(widget)["kl"] != before["kl"]
    start = widget.figure.locator(".diffedu-handle").last
    start.focus()
    for _ in range(3):
        widget.page.keyboard.press("ArrowRight")
    widget.page.evaluate(FRAMES, 3)
    assert widget.get("start") == pytest.approx(-1.3)
    assert start.get_attribute("aria-label").startswith("Start at x = −1.3")
    seen.clean()


def test_a_finger_bends_it_and_the_page_stays(open_widget):
    widget, seen = open_widget(NAME, width=390, has_touch=True)
    widget.settle()
    handle = widget.figure.locator(".diffedu-handle").nth(2)
    x, y = middle(handle)
    scrolled = widget.page.evaluate("scrollY")
    touch = widget.page.context.new_cdp_session(widget.page)
    for kind, points in (
        ("touchStart", [(x, y)]),
        ("touchMove", [(x, y - 15)]),
        ("touchMove", [(x, y - 30)]),
        ("touchEnd", []),
    ):
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]},
        )
    widget.page.evaluate(FRAMES, 3)
    assert middle(handle) == pytest.approx((x, y - 30), abs=2)
    assert widget.page.evaluate("scrollY") == scrolled
    seen.clean()


def test_pointing_reads_the_densities(open_widget):
    widget, _ = open_widget(NAME)
    widget.settle()
    before = widget.pictures()
    x, y = middle(widget.figure.locator("canvas").nth(1))
    widget.page.mouse.move(x, y)
    widget.page.evaluate(FRAMES, 3)
    after = widget.pictures()
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_reduced_motion_jumps(open_widget):
    widget, _ = open_widget(NAME, reduced_motion="reduce")
    assert 2 <= times_while_playing(widget) <= 5


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"heights": [0, 0, 0]}, "heights must be 7 numbers in [-2, 6]"),
        ({"heights": [0, 0, 0, None, 0, 0, 0]}, "heights must be 7 numbers"),
        ({"heights": [0, 0, 0, 99, 0, 0, 0]}, "heights must be 7 numbers"),
        ({"temperature": 0}, "temperature must lie in [0.1, 2]"),
        ({"temperature": None}, "temperature must lie in"),
        ({"start": 5}, "start must lie in"),
        ({"t": -1}, "t must lie in"),
        ({"time_step": 0}, "time_step must lie in"),
        ({"n_particles": 0.5}, "n_particles must be a whole number"),
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
    widget.set(temperature=-1)
    widget.figure.get_by_role("alert").wait_for(timeout=10_000)
    widget.set(temperature=0.5)
    widget.settle()
    assert widget.figure.get_attribute("data-state") == "live"
    assert widget.pictures() == before
    seen.clean()
