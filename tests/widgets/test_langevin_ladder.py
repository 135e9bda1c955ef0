"""Plain and annealed Langevin: the page runs what the package does, and shows it."""

import base64
import io
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from diffedu.denoiser import ExactDenoiser
from diffedu.mixture import GaussianMixture, ring
from diffedu.path import (
    Cosine,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
)
from diffedu.samplers import (
    annealed_langevin,
    langevin,
    metropolis_langevin,
    noise_ladder,
    trajectory,
    variance_rule,
)
from diffedu.widgets import LangevinLadder
from diffedu.widgets._mixture_widget import _path_to_json
from tests.widgets.helpers import (
    FRAMES,
    assert_same,
    broken,
    middle,
    normals,
    plays_by_keyboard,
    says,
    slide,
)

NAME = "langevin_ladder"
N = 7
PATHS = [
    VarianceExploding(),
    VarianceExploding(sigma_min=0.1, sigma_max=4.0),
    OrnsteinUhlenbeck(),
    OrnsteinUhlenbeck(beta=0.0, diffusion=2.0),
    VariancePreserving(),
    Cosine(),
    Straight(),
]


def random_mixture(seed: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    K = 1 + seed % 4
    weights = 0.1 + torch.rand(K, generator=generator, dtype=torch.float64)
    means = 2 * torch.randn(K, 2, generator=generator, dtype=torch.float64)
    A = torch.randn(K, 2, 2, generator=generator, dtype=torch.float64)
    covariances = 0.3 * A @ A.mT + 0.2 * torch.eye(2, dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, covariances)


# What the page computes


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize(("high", "low", "levels"), [(3.0, 0.2, 16), (1.7, 0.01, 2)])
def test_noise_ladders(javascript, path, high, low, levels):
    found = javascript(
        """const { noise_ladder } = langevin_dynamics;
        return list(noise_ladder(core.make_path(state), high, low, levels));""",
        state=_path_to_json(path, None),
        high=high,
        low=low,
        levels=levels,
    )
    assert_same(found, noise_ladder(path, high, low, levels))


def drawn(seed: int, steps: int) -> tuple[torch.Generator, torch.Tensor]:
    """A generator, and the normals (steps, 2 N) that a sampler will draw from it."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, N, 2, generator=generator, dtype=torch.float64)
    z = torch.stack([draw().flatten() for _ in range(steps)])
    return generator.manual_seed(seed), z


def same_states(found, expected) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, scale=max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("steps", [1, 60])
@pytest.mark.parametrize("seed", range(4))
def test_langevin(javascript, seed, steps):
    """One step, and a whole trajectory, on the same noise."""
    p, h = random_mixture(seed), 0.02 + 0.05 * seed
    x, (generator, z) = 4 * normals(N, 2, seed=seed), drawn(seed, steps)
    found = javascript(
        """const score = (x) => law(p).score(x);
        const { langevin } = langevin_dynamics;
        return states(langevin(score, floats(x), h, steps, replay(z)));""",
        p=p,
        x=x.flatten(),
        h=h,
        steps=steps,
        z=z,
    )
    same_states(found, trajectory(langevin(p.score, x, h, steps, generator)))


@pytest.mark.parametrize("seed", range(4))
def test_metropolis_langevin(javascript, seed):
    """The same proposals, accepted by the same uniform numbers."""
    p, h, steps = random_mixture(seed), 0.2 + 0.4 * seed, 60
    x, generator = 3 * normals(N, 2, seed=seed), torch.Generator().manual_seed(seed)
    z, u = [], []
    for _ in range(steps):
        z.append(torch.randn(N, 2, generator=generator, dtype=x.dtype).flatten())
        u.append(torch.rand(N, generator=generator, dtype=x.dtype))
    found = javascript(
        """const [q, { metropolis_langevin }] = [law(p), langevin_dynamics];
        let k = 0;
        const noise = { ...replay(z), uniform: () => floats(u[k++]) };
        const [log_p, score] = [(x) => q.log_prob(x), (x) => q.score(x)];
        const run = metropolis_langevin(log_p, score, floats(x), h, steps, noise);
        return states(run);""",
        p=p,
        x=x.flatten(),
        h=h,
        steps=steps,
        z=torch.stack(z),
        u=torch.stack(u),
    )
    generator.manual_seed(seed)
    run = metropolis_langevin(p.log_prob, p.score, x, h, steps, generator)
    expected = trajectory(run)
    same_states(found, expected)
    stayed = (expected[1:] == expected[:-1]).all(-1).double().mean()
    assert 0.02 < stayed < 0.9


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_annealed_langevin(javascript, path):
    seed, steps = PATHS.index(path), 6
    p, times = random_mixture(seed), noise_ladder(path, 2.5, 0.1, 5)
    x = path.marginal(p, times[0]).sample(N, torch.Generator().manual_seed(seed))
    generator, z = drawn(seed, 5 * steps)
    found = javascript(
        """const [path, mixture] = [core.make_path(state), law(p)];
        const { annealed_langevin, variance_rule } = langevin_dynamics;
        const score = core.exact_score(mixture, path);
        const rule = variance_rule(path, 0.4);
        const start = floats(x);
        return states(
            annealed_langevin(score, path, start, times, rule, steps, replay(z)));""",
        state=_path_to_json(path, None),
        p=p,
        x=x.flatten(),
        times=times,
        steps=steps,
        z=z,
    )
    denoiser, rule = ExactDenoiser(path, p), variance_rule(path, 0.4)
    run = annealed_langevin(denoiser, x, times, rule, steps, generator)
    same_states(found, trajectory(run))


def test_shares_of_an_exact_sample_are_the_weights(javascript):
    p = random_mixture(3)
    x = p.sample(4000, torch.Generator().manual_seed(1))
    found = javascript(
        "return list(langevin_dynamics.shares(law(p), floats(x)));",
        p=p,
        x=x.flatten(),
    )
    r = p.responsibilities(x)
    assert_same(found, r.mean(0))
    error = r.std(0) / math.sqrt(len(x))
    assert ((torch.tensor(found) - p.weights).abs() < 5 * error).all()


# The state, and the picture


def test_the_picture_runs_the_samplers_of_the_package(monkeypatch):
    """Given the page's normals, they yield the states that are drawn."""
    path = VariancePreserving()
    widget = LangevinLadder(path=path, levels=4, steps=3, n_particles=9, k=11)
    x, noise = widget._noise()
    p, total = widget.mixture, 12

    def replayed(run) -> torch.Tensor:
        z = iter(noise)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *_, **__: next(z))
            return trajectory(run)[:total]

    plain = langevin(p.score, x, widget.step, total)
    same_states(widget._plain(x, noise).tolist(), replayed(plain))
    times = noise_ladder(path, widget.highest, widget.lowest, 4)
    rule = variance_rule(path, widget.relative)
    annealed = annealed_langevin(ExactDenoiser(path, p), x, times, rule, 3)
    same_states(widget._annealed(x, noise).tolist(), replayed(annealed))


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_both_starts_have_the_same_variance(start):
    x, _ = LangevinLadder(start=start, spread=3.0, n_particles=4000)._noise()
    # the variance of x² is 4/5 of 3² for the uniform law, and 2 · 3² for the Gaussian
    error = math.sqrt({"uniform": 0.8, "gaussian": 2.0}[start] * 9 / x.numel())
    assert abs(float(x.square().mean()) - 3) < 5 * error
    assert (x.abs().max() <= 3) == (start == "uniform")


@pytest.mark.parametrize("k", [0, 1, 7, 12])
@pytest.mark.parametrize("metropolis", [False, True])
def test_every_state_has_three_pictures(k, metropolis):
    small = {"levels": 4, "steps": 3, "n_particles": 20, "metropolis": metropolis}
    html = LangevinLadder(ring(5), Cosine(), k=k, **small)._repr_html_()
    assert html.count("data:image/png") == 3


def test_it_says_what_it_shows():
    widget = LangevinLadder(levels=5, steps=4, k=3)
    assert repr(widget) == (
        "LangevinLadder(step 3 of 20, 5 levels from 3 to 0.2, 2 components, "
        "VarianceExploding(sigma_min=0.01, sigma_max=10.0))"
    )


def test_a_shorter_run_brings_the_step_back():
    widget = LangevinLadder(levels=8, steps=10)
    assert widget.k == 80
    widget.steps = 5
    assert widget.k == 40
    widget.levels = 2
    assert widget.k == 10


def test_path_and_ladder_can_change_together():
    widget, short = LangevinLadder(), VarianceExploding(sigma_max=1.5)
    with pytest.raises(ValueError, match="lowest < highest <= 1.5, which is all"):
        widget.path = short
    assert widget.path == VarianceExploding()
    with widget.hold_trait_notifications():
        widget.path, widget.highest = short, 1.4
    assert (widget.path, widget.highest) == (short, 1.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 1}, "levels must be a whole number from 2"),
        ({"steps": 0}, "steps must be a whole number from 1"),
        ({"highest": 0.1}, "lowest < highest <= 10, which is all"),
        ({"highest": 11.0}, "lowest < highest <= 10"),
        ({"lowest": 0.0}, "lowest must be a number from 0.001"),
        ({"lowest": 3.0}, "got 3 and 3"),
        ({"path": VarianceExploding(sigma_max=0.1)}, "lowest < highest <= 0.0995"),
        ({"step": 0.0}, "step must be a number from 0.0001"),
        ({"relative": math.nan}, "relative must be a number from 0.0001"),
        ({"metropolis": 1}, "metropolis must be True or False"),
        ({"start": "far"}, "start must be one of 'uniform', 'gaussian'"),
        ({"spread": -1}, "spread must be a number from 0.1"),
        ({"k": 401}, r"k must lie in \[0, levels \* steps = 400\], got 401"),
        ({"n_particles": 1}, "n_particles must be a whole number from 2"),
    ],
)
def test_bad_arguments(no_shape_checks, arguments, message):
    with pytest.raises(ValueError, match=message):
        LangevinLadder(**arguments)


# The page


def numbers(widget) -> dict[str, str]:
    return widget.figure.evaluate(
        """figure => Object.fromEntries([...figure.querySelectorAll("[data-number]")]
            .map(e => [e.dataset.number, e.textContent]))"""
    )


def test_the_page_shows_what_the_picture_shows(open_widget):
    """Shares of the last states, and steps, noise level and evaluations."""
    widget, seen = open_widget(NAME)
    widget.settle()
    shown, python = numbers(widget), LangevinLadder()
    p = python.mixture
    for name, states in (
        ("plain", python._plain(*python._noise())),
        ("annealed", python._annealed(*python._noise())),
    ):
        share = p.responsibilities(states[-1]).mean(0)
        for k in range(2):
            found = float(shown[f"{name}-share-{k}"])
            assert found == pytest.approx(float(share[k]), abs=0.0051)
        assert shown[f"{name}-evaluations"] == "400"
        assert shown[f"{name}-accepted"] == "all"
    assert [shown[f"exact-share-{k}"] for k in range(2)] == ["0.20", "0.80"]
    assert [shown[f"{name}-noise"] for name in ("plain", "annealed")] == ["0", "0.20"]
    assert [shown[f"{name}-step"] for name in ("plain", "annealed")] == [
        "0.10",
        "0.020",
    ]
    assert abs(float(shown["plain-share-0"]) - 0.5) < 0.03
    assert abs(float(shown["annealed-share-0"]) - 0.2) < 0.05
    assert float(shown["annealed-distance"]) < 0.5 * float(shown["plain-distance"])
    seen.clean()


def test_the_picture_and_the_page_agree(open_widget):
    """The middle of what is painted orange, the particles of the first mode."""
    widget, _ = open_widget(NAME, device_scale_factor=1)
    widget.settle()
    stored = re.findall(r"base64,([^\"]*)", LangevinLadder()._repr_html_())
    live = [data.split(",")[1] for data in widget.pictures()]
    for one, other in zip(stored[:2], live[:2], strict=True):
        places = []
        for data in (one, other):
            image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
            pixels = np.asarray(image).astype(int)
            orange = np.abs(pixels[..., :3] - [213, 94, 0]).sum(-1) < 80
            rows, columns = np.nonzero(orange & (pixels[..., 3] > 150))
            assert len(rows) > 100
            places += [rows.mean() / len(pixels), columns.mean() / pixels.shape[1]]
        assert places[:2] == pytest.approx(places[2:], abs=0.03)


def test_steps_play_and_reset(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    first = widget.numbers()
    widget.set(k=0)
    widget.settle()
    at_start = numbers(widget)
    assert at_start["plain-share-0"] == at_start["annealed-share-0"]
    assert at_start["annealed-noise"] == "3.0"
    widget.button("Step").click()
    assert widget.get("k") == 1
    widget.button("Play").click()
    widget.page.wait_for_timeout(500)
    widget.button("Pause").click()
    k = widget.get("k")
    assert 1 < k < 400
    widget.settle()
    assert numbers(widget)["plain-evaluations"] == str(k)
    assert numbers(widget)["annealed-evaluations"] == str(k)
    widget.set(k=399)
    widget.button("Play").click()
    widget.page.wait_for_function(
        "() => !document.querySelector('[data-widget=langevin_ladder]')"
        ".diffedu.get('playing')"
    )
    assert widget.get("k") == 400
    slide(widget, "weight", 0.7)
    widget.button("Reset").click()
    widget.settle()
    assert widget.numbers() == first
    plays_by_keyboard(widget)
    seen.clean()


def test_another_length_of_the_run_keeps_its_fraction(open_widget):
    widget, _ = open_widget(NAME)
    widget.set(k=200)
    slide(widget, "levels", 1.0)
    assert [widget.get(name) for name in ("levels", "k")] == [40, 500]
    slide(widget, "steps on each", 0.0)
    assert [widget.get(name) for name in ("steps", "k")] == [1, 20]


def test_metropolis_says_how_many_steps_are_accepted(open_widget):
    widget, seen = open_widget(NAME)
    widget.set(step=1.0, k=40)
    widget.settle()
    widget.figure.get_by_role("checkbox", name="Metropolis-adjusted").click()
    widget.settle()
    shown = numbers(widget)
    assert 30 < float(shown["plain-accepted"].removesuffix(" %")) < 95
    evaluations = [shown[f"{name}-evaluations"] for name in ("plain", "annealed")]
    assert evaluations == ["41", "40"]  # at the start too, before the first proposal
    assert abs(float(shown["plain-share-0"]) - 0.5) < 0.05
    seen.clean()


def test_modes_follow_mouse_and_keyboard_in_either_panel(open_widget):
    widget, seen = open_widget(NAME)
    widget.settle()
    handles = widget.figure.locator(".diffedu-handle")
    assert handles.count() == 4
    before = numbers(widget)
    (x, y), beside = middle(handles.nth(3)), middle(handles.nth(1))
    mouse = widget.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x - 40, y + 30, steps=3)
    mouse.up()
    widget.settle()
    assert middle(handles.nth(3)) == pytest.approx((x - 40, y + 30), abs=2)
    assert middle(handles.nth(1)) == pytest.approx(
        (beside[0] - 40, beside[1] + 30), abs=2
    )
    assert numbers(widget) != before
    label = "Mode 2 in the annealed panel, mean at"
    assert handles.nth(3).get_attribute("aria-label").startswith(label)
    assert float(numbers(widget)["exact-share-1"]) == 0.8
    before = numbers(widget)
    handles.first.focus()
    for _ in range(3):
        widget.page.keyboard.press("Shift+ArrowUp")
    widget.settle()
    assert numbers(widget) != before
    assert widget.get("means")["shape"] == [2, 2]
    seen.clean()


def test_a_mode_follows_a_finger(open_widget):
    widget, seen = open_widget(NAME, width=390, has_touch=True)
    widget.settle()
    handle = widget.figure.locator(".diffedu-handle").first
    handle.scroll_into_view_if_needed()
    x, y = middle(handle)
    scrolled = widget.page.evaluate("scrollY")
    touch = widget.page.context.new_cdp_session(widget.page)
    for kind, points in (
        ("touchStart", [(x, y)]),
        ("touchMove", [(x + 15, y - 15)]),
        ("touchMove", [(x + 30, y - 30)]),
        ("touchEnd", []),
    ):
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]},
        )
    widget.settle()
    assert middle(handle) == pytest.approx((x + 30, y - 30), abs=2)
    assert widget.page.evaluate("scrollY") == scrolled
    seen.clean()


def test_other_mixtures_have_rows_and_discs_of_their_own(visit, write_page):
    small = {"levels": 4, "steps": 5, "n_particles": 40}
    html = LangevinLadder(ring(5), VariancePreserving(), **small)._repr_html_()
    seen = visit(write_page(html))
    seen.page.wait_for_selector('figure[data-state="live"]')
    seen.page.evaluate(FRAMES, 3)
    assert seen.page.locator(".diffedu-handle").count() == 10
    assert seen.page.locator('[data-number^="exact-share"]').count() == 5
    seen.clean()


def test_it_is_quiet_when_motion_is_not_wanted(open_widget):
    widget, _ = open_widget(NAME, reduced_motion="reduce")
    widget.set(k=0)
    widget.button("Play").click()
    steps = widget.figure.evaluate(
        """async figure => {
            const seen = new Set();
            const until = performance.now() + 1800;
            while (performance.now() < until) {
                seen.add(figure.diffedu.get("k"));
                await new Promise(requestAnimationFrame);
            }
            return seen.size;
        }"""
    )
    assert 2 <= steps <= 5


BAD = [
    ({"levels": 1}, "levels must be a whole number in 2 … 50"),
    ({"highest": 20}, "highest must lie in"),
    ({"lowest": 5}, "lowest must lie in"),
    ({"lowest": 3}, "lowest must be below highest"),
    ({"step": 0}, "step must lie in"),
    ({"relative": None}, "relative must lie in"),
    ({"spread": 0}, "spread must lie in"),
    ({"start": "far"}, "start must be one of uniform, gaussian"),
    ({"k": -1}, "k must be a whole number"),
    ({"step": 90}, "the plain run left the range of numbers: h is too large"),
]


def test_bad_state_is_said_in_the_figure(visit, write_page, figures):
    seen = visit(
        write_page("".join(broken(figures[NAME], **state) for state, _ in BAD))
    )
    found = seen.page.locator("figure").all()
    for figure, (_, message) in zip(found, BAD, strict=True):
        says(figure, message)
    seen.clean()
