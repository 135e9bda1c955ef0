"""Every widget on a static page without a kernel or a network, in a real browser."""

import re

import pytest

from diffedu.widgets import WIDGETS, DissolvingMixture, bundle_classic
from diffedu.widgets._mixture_widget import MixtureWidget
from tests.widgets.helpers import (
    FRAMES,
    PAINTED,
    broken,
    every_control_changes_the_numbers,
    middle,
    plays_by_keyboard,
    says,
    slide,
    times_while_playing,
)

DISSOLVING, REVERSE = "dissolving_mixture", "reverse_trajectories"
LADDER, TWEEDIE = "langevin_ladder", "tweedie_posterior"
LEARNED = "learned_fields"
NAMES = [kind._name for kind in WIDGETS]
OF_MIXTURES = [kind._name for kind in WIDGETS if issubclass(kind, MixtureWidget)]

# It comes alive


# Seconds from navigation to the first frame of the figure that came alive last.
LAST_ALIVE = """() => Math.max(
  ...performance.getEntriesByName("diffedu-live").map((mark) => mark.startTime / 1000),
)"""


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_hydrates_within_two_seconds(visit, site_over_file, name):
    """By the page's own clock, from navigation to the figure's first frame.

    At best of three, because a busy machine is not the page's doing.
    """
    selector = f'figure[data-widget="{name}"][data-state="live"]'
    times = []
    while len(times) < 3 and min(times, default=9) > 2:
        seen = visit(f"{site_over_file}/{name}.html", offline=True)
        seen.page.wait_for_selector(selector)
        times.append(seen.page.evaluate(LAST_ALIVE))
    assert min(times) < 2


@pytest.mark.parametrize("source", ["file", "http"])
def test_all_figures_hydrate_on_one_page(visit, request, source):
    address = request.getfixturevalue(f"site_over_{source}")
    seen = visit(f"{address}/index.html", offline=source == "file")
    for name in NAMES:
        selector = f'figure[data-widget="{name}"][data-state="live"]'
        seen.page.wait_for_selector(selector)
    for canvas in seen.page.locator("figure canvas").all():
        share, colours = canvas.evaluate(PAINTED)
        assert share > 0.02
        assert colours > 20
    seen.clean()


def test_the_script_asks_for_nothing_and_evaluates_nothing():
    script = bundle_classic()
    for word in (r"fetch\(", r"import\(", r"\beval\b", "Function\\(", "XMLHttpRequest"):
        assert not re.search(word, script), word
    assert not re.search(r"https?://", script)


@pytest.mark.parametrize("width", [390, 640, 1280])
def test_nothing_moves_when_it_comes_alive(visit, site_over_file, width):
    """The text after the figures is where it was before the script ran."""
    tops = []
    for name in ("unscripted", "index"):
        page = visit(f"{site_over_file}/{name}.html", width=width).page
        page.evaluate(FRAMES, 5)
        tops.append(page.locator("#after").bounding_box()["y"])
    assert tops[1] == pytest.approx(tops[0], abs=30)


@pytest.mark.parametrize("name", NAMES)
def test_two_readers_see_the_same(open_widget, name):
    first, _ = open_widget(name)
    second, _ = open_widget(name)
    first.settle()
    second.settle()
    assert first.pictures() == second.pictures()
    assert first.numbers() == second.numbers()


def test_without_script_the_pictures_are_there(visit, site_over_file):
    page = visit(f"{site_over_file}/index.html", javascript=False).page
    for picture in page.locator("figure.diffedu-widget img").all():
        assert picture.is_visible()
        assert picture.evaluate("e => e.complete && e.naturalWidth > 200")
        assert picture.bounding_box()["width"] > 200
    for figure in page.locator("figure.diffedu-widget").all():
        title = figure.locator(".diffedu-title").text_content()
        assert figure.locator("img").first.get_attribute("alt").startswith(title)


# Time


@pytest.mark.parametrize(("name", "clock"), [(DISSOLVING, "t"), (REVERSE, "k")])
def test_playing_moves_it_and_stops_at_the_end(open_widget, name, clock):
    widget, seen = open_widget(name)
    widget.settle()
    widget.set(**{clock: 0})
    widget.settle()
    before = widget.pictures()
    widget.button("Play").click()
    widget.page.wait_for_timeout(400)
    assert widget.get(clock) > 0
    widget.button("Pause").click()
    paused = widget.get(clock)
    assert widget.pictures() != before
    widget.page.wait_for_timeout(200)
    assert widget.get(clock) == paused
    widget.button("Step").click()
    assert widget.get(clock) > paused
    end = widget.get("steps") if clock == "k" else 3.0
    widget.set(**{clock: end * 0.98 if clock == "t" else end - 1})
    widget.button("Play").click()
    widget.page.wait_for_timeout(600)
    assert widget.get(clock) == pytest.approx(end)
    assert widget.get("playing") is False
    widget.button("Reset").click()
    assert widget.get(clock) == (0 if clock == "t" else end)
    seen.clean()


@pytest.mark.parametrize(("name", "clock"), [(DISSOLVING, "t"), (REVERSE, "k")])
def test_nothing_runs_off_screen(open_widget, name, clock):
    widget, _ = open_widget(name, height=300)
    page = widget.page
    page.evaluate("document.body.style.paddingBottom = '6000px'")
    widget.set(**{clock: 0, "playing": True})
    page.wait_for_timeout(300)
    assert widget.get(clock) > 0
    page.evaluate("scrollTo(0, 5500)")
    # the figure is told between two frames, and frames are slow on a busy machine
    page.wait_for_timeout(1000)
    hidden = widget.get(clock)
    page.wait_for_timeout(300)
    assert widget.get(clock) == hidden
    page.evaluate("scrollTo(0, 0)")
    widget.figure.scroll_into_view_if_needed()
    page.wait_for_timeout(400)
    assert widget.get(clock) > hidden


def test_reduced_motion_jumps(open_widget):
    widget, _ = open_widget(DISSOLVING, reduced_motion="reduce")
    assert 2 <= times_while_playing(widget) <= 5


# Controls


SLIDERS = {
    DISSOLVING: [
        ("time t", 0.6),
        ("rate β", 0.8),
        ("diffusion g", 0.9),
        ("weight", 0.9),
        ("width", 0.9),
        ("elongation", 0.6),
        ("angle", 0.1),
    ],
    REVERSE: [
        ("step", 0.5),
        ("noise η", 0.1),
        ("steps in all", 0.3),
        ("grid power", 0.7),
    ],
    LADDER: [
        ("step", 0.5),
        ("levels", 0.6),
        ("highest noise", 0.3),
        ("steps on each", 0.2),
        ("step h/σ²", 0.4),
        ("step h", 0.3),
        ("weight", 0.7),
    ],
    LEARNED: [("training step", 0.8), ("noise σ/α", 0.7)],
    TWEEDIE: [("time t", 0.4)],
}
CHOICES = {
    DISSOLVING: [
        ("process", "VariancePreserving"),
        ("process", "VarianceExploding"),
        ("process", "Cosine"),
        ("process", "Straight"),
        ("particles", "simulated"),
    ],
    REVERSE: [
        ("solver", "heun"),
        ("process", "VariancePreserving"),
        ("process", "VarianceExploding"),
        ("process", "Cosine"),
        ("process", "Straight"),
    ],
    LADDER: [("start", "gaussian")],
    LEARNED: [],  # its choices change pictures only
    TWEEDIE: [
        ("process", "VariancePreserving"),
        ("process", "VarianceExploding"),
        ("process", "Cosine"),
        ("process", "Straight"),
        ("the law of", "step"),
    ],
}


@pytest.mark.parametrize("name", OF_MIXTURES)
def test_every_control_changes_the_numbers(open_widget, name):
    widget, seen = open_widget(name)
    if name == DISSOLVING:
        widget.set(t=0.5)
    every_control_changes_the_numbers(widget, SLIDERS[name], CHOICES[name])
    if name == DISSOLVING:
        before = widget.numbers()
        slide(widget, "steps to T", 0.02)
        widget.settle()
        assert widget.numbers() != before
    seen.clean()


@pytest.mark.parametrize("name", NAMES)
def test_every_switch_changes_the_picture(open_widget, name):
    widget, seen = open_widget(name)
    widget.settle()
    for switch in widget.figure.get_by_role("checkbox").all():
        before = widget.pictures()
        switch.click()
        widget.page.evaluate(FRAMES, 3)
        assert widget.pictures() != before
    seen.clean()


@pytest.mark.parametrize("process", ["VariancePreserving", "VarianceExploding"])
def test_sliders_of_the_other_processes(open_widget, process):
    widget, _ = open_widget(DISSOLVING)
    widget.set(path={"name": process}, t=0.5)
    label = {"VariancePreserving": "β at t = 1", "VarianceExploding": "σ at t = 1"}
    widget.settle()
    before = widget.numbers()
    slide(widget, label[process], 0.2)
    widget.settle()
    assert widget.numbers() != before


def test_reset_brings_everything_back(open_widget):
    widget, _ = open_widget(DISSOLVING)
    widget.settle()
    before = [widget.get(name) for name in ("weights", "means", "covariances", "path")]
    for label, fraction in SLIDERS[DISSOLVING]:
        slide(widget, label, fraction)
    widget.button("Reset").click()
    after = [widget.get(name) for name in ("weights", "means", "covariances", "path")]
    assert after == before
    assert widget.get("t") == 0


# Hands


def test_a_component_follows_the_mouse(open_widget):
    widget, seen = open_widget(DISSOLVING)
    widget.set(t=0.4)
    widget.settle()
    handle = widget.figure.locator(".diffedu-handle").nth(1)
    before = widget.numbers()
    x, y = middle(handle)
    mouse = widget.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x - 60, y + 45, steps=4)
    mouse.up()
    widget.settle()
    moved = middle(handle)
    assert moved == pytest.approx((x - 60, y + 45), abs=2)
    assert widget.numbers() != before
    assert "is-selected" in handle.get_attribute("class")
    seen.clean()


def test_a_component_follows_a_finger(open_widget):
    widget, seen = open_widget(DISSOLVING, width=390, has_touch=True)
    widget.settle()
    handle = widget.figure.locator(".diffedu-handle").first
    x, y = middle(handle)
    scrolled = widget.page.evaluate("scrollY")
    touch = widget.page.context.new_cdp_session(widget.page)
    for kind, points in (
        ("touchStart", [(x, y)]),
        ("touchMove", [(x + 20, y - 15)]),
        ("touchMove", [(x + 40, y - 30)]),
        ("touchEnd", []),
    ):
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]},
        )
    widget.page.evaluate(FRAMES, 3)
    assert middle(handle) == pytest.approx((x + 40, y - 30), abs=2)
    assert widget.page.evaluate("scrollY") == scrolled
    seen.clean()


def test_everything_works_from_the_keyboard(open_widget):
    widget, seen = open_widget(DISSOLVING)
    widget.settle()
    handle = widget.figure.locator(".diffedu-handle").nth(2)
    handle.focus()
    x, y = middle(handle)
    for _ in range(5):
        widget.page.keyboard.press("ArrowRight")
    widget.page.keyboard.press("ArrowUp")
    widget.page.evaluate(FRAMES, 3)
    moved_x, moved_y = middle(handle)
    assert moved_x > x + 5
    assert moved_y < y - 1
    assert "mean at" in handle.get_attribute("aria-label")
    slider = widget.figure.get_by_role("slider", name="time t", exact=True)
    slider.focus()
    widget.page.keyboard.press("ArrowRight")
    assert widget.get("t") > 0
    plays_by_keyboard(widget)
    seen.clean()


def test_pointing_at_the_plane_shows_the_posterior(open_widget):
    widget, _ = open_widget(DISSOLVING)
    widget.set(t=0.5)
    widget.settle()
    before = widget.pictures()
    x, y = middle(widget.figure.locator("canvas"))
    widget.page.mouse.move(x + 40, y - 20)
    widget.page.evaluate(FRAMES, 3)
    number = widget.figure.locator('[data-number="posterior"]').text_content()
    assert re.fullmatch(r"\(−?\d+\.\d\d, −?\d+\.\d\d\)", number)
    assert widget.pictures() != before


# The page around it


@pytest.mark.parametrize("name", NAMES)
def test_it_follows_width_and_theme(open_widget, name):
    widget, seen = open_widget(name)
    widget.settle()
    page, light = widget.page, widget.pictures()
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.evaluate(FRAMES, 4)
    dark = widget.pictures()
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert widget.figure.get_attribute("data-colours") == "dark"
    page.set_viewport_size({"width": 390, "height": 800})
    page.evaluate(FRAMES, 4)
    for canvas in widget.figure.locator("canvas").all():
        share, _ = canvas.evaluate(PAINTED)
        assert share > 0.02
        ratio = canvas.evaluate("c => c.width / c.clientWidth / devicePixelRatio")
        assert ratio == pytest.approx(1, abs=0.02)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    seen.clean()


def test_a_phone_screen_gets_all_its_pixels(open_widget):
    widget, _ = open_widget(DISSOLVING, width=390, device_scale_factor=3)
    canvas = widget.figure.locator("canvas")
    assert canvas.evaluate("c => c.width") == canvas.evaluate("c => 3 * c.clientWidth")


@pytest.mark.parametrize("name", NAMES)
def test_every_input_has_a_name_and_its_value(open_widget, name):
    widget, _ = open_widget(name)
    widget.settle()
    for control in widget.figure.locator("input, select, button").all():
        assert control.get_attribute("aria-label") or control.evaluate(
            "e => (e.labels?.[0] ?? e).textContent.trim()"
        )
    for slider in widget.figure.get_by_role("slider").all():
        shown = slider.evaluate(
            "e => e.parentElement.querySelector('output').textContent"
        )
        assert shown == slider.get_attribute("aria-valuetext")
    for canvas in widget.figure.locator("canvas").all():
        assert len(canvas.get_attribute("aria-label")) > 20


# Bad state


BAD = [
    ({"means": [[-1.5, 0], [1.2, None], [0.8, -1.4]]}, "means must be finite"),
    (
        {"means": {"shape": [3, 2], "data": "AADAfwAAAAAAAAAA" * 2}},
        "means must be finite",
    ),
    ({"weights": [], "means": [], "covariances": []}, "at least one component"),
    ({"covariances": [[[1, 2], [2, 1]]] * 3}, "covariances must be positive definite"),
    ({"covariances": [[[1, 0.5], [0, 1]]] * 3}, "covariances must be symmetric"),
    ({"weights": [0.5, 0.7, -0.2]}, "weights must be ≥ 0"),
    ({"weights": [0.5, 0.7, 0.2]}, "weights must sum to 1"),
    ({"means": [[0], [1], [2]], "covariances": [[[1]]] * 3}, "points of the plane"),
    ({"path": {"name": "Elsewhere"}}, "path must be one of"),
    ({"path": {"name": "OrnsteinUhlenbeck", "beta": -1}}, "path beta must be"),
    ({"path": {"name": "VarianceExploding", "sigma_max": 0.001}}, "path sigma_max"),
    ({"path": {"name": "VariancePreserving", "beta_max": 0.01}}, "path beta_max"),
    ({"n_particles": 0}, "n_particles must be a whole number in 2"),
    ({"steps": 0}, "steps must be a whole number in 1"),
]


@pytest.mark.parametrize(("state", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_state_is_said_in_the_figure(visit, write_page, figures, state, message):
    good = DissolvingMixture()._state()
    three = {name: good[name] for name in ("weights", "means", "covariances")}
    faces = "".join(
        broken(figures[kind._name], **(three | state))
        for kind in WIDGETS
        if issubclass(kind, MixtureWidget) and all(map(kind.class_traits().get, state))
    )
    seen = visit(write_page(faces))
    for figure in seen.page.locator("figure").all():
        says(figure, message)
        assert figure.get_attribute("data-state") == "error"
    seen.clean()


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        (DISSOLVING, {"t": 3.5}, "t must lie in [0, 3]"),
        (DISSOLVING, {"t": None}, "t must lie in [0, 3]"),
        (REVERSE, {"eta": -1}, "eta must lie in"),
        (REVERSE, {"power": 0}, "power must lie in"),
        (REVERSE, {"k": -2}, "k must be"),
        (REVERSE, {"solver": "magic"}, "solver must be"),
    ],
)
def test_bad_numbers_are_said_in_the_figure(
    visit, write_page, figures, name, state, message
):
    seen = visit(write_page(broken(figures[name], **state)))
    says(seen.page, message)
    seen.clean()


def test_it_recovers_from_bad_state(open_widget):
    widget, seen = open_widget(DISSOLVING)
    good = widget.get("means")
    widget.set(means=[[None, 0], [0, 0], [0, 0]])
    widget.figure.get_by_role("alert").wait_for(timeout=10_000)
    widget.set(means=good)
    widget.page.evaluate(FRAMES, 3)
    assert widget.figure.get_attribute("data-state") == "live"
    assert widget.figure.locator("canvas").is_visible()
    seen.clean()


def test_state_that_is_not_json_leaves_the_picture(visit, write_page, figures):
    html = figures[DISSOLVING]
    start = html.index('<script type="application/json">') + 32
    seen = visit(write_page(html[:start] + "{" + html[start:]))
    says(seen.page, "cannot come to life")
    assert seen.page.locator("figure img").is_visible()
