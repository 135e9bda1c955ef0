"""The learned fields: the recording, parity of its networks, and the widget's face."""

import base64
import json

import numpy as np
import pytest
import torch

from diffedu.denoiser import NETWORK_TARGETS, ExactDenoiser, NeuralDenoiser
from diffedu.losses import relative_score_error
from diffedu.mixture import ring, three_gaussians
from diffedu.nets import MLP, EnergyMLP
from diffedu.path import (
    Cosine,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
)
from diffedu.widgets import LearnedFields
from diffedu.widgets._mixture_widget import _path_to_json
from diffedu.widgets.learned_fields import (
    HIGH,
    LOW,
    RATIOS,
    RECORDING,
    Training,
    _Measure,
    load,
    recorded,
)
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
from tools import record_trainings

NAME = "learned_fields"
LABELS = ["explicit", "implicit", "sliced", "denoising"]
PATHS = [
    OrnsteinUhlenbeck(),
    VariancePreserving(),
    VarianceExploding(),
    Cosine(),
    Straight(),
]


def network(seed: int = 0, hidden: int = 7, depth: int = 2, features: int = 3) -> MLP:
    """A random one, whose last layer is not zero."""
    generator = torch.Generator().manual_seed(seed)
    net = MLP(2, hidden, depth, features, generator=generator)
    for parameter in net.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.3 * noise
    return net


def denoiser(seed: int = 0, target: str = "v", **sizes: int) -> NeuralDenoiser:
    net = network(seed, **sizes)
    return NeuralDenoiser(
        OrnsteinUhlenbeck(), net, target, torch.tensor([0.3, -1]), 1.4
    )


# The recording


def test_the_recording_is_data():
    """Arrays only: nothing in it could be run."""
    with np.load(RECORDING, allow_pickle=False) as file:
        kinds = {file[name].dtype.kind for name in file.files}
    assert kinds <= set("fiU")


def test_a_record_is_written_whole_and_read_back(tmp_path):
    file = tmp_path / "new" / "record.npz"
    record_trainings.save(list(recorded()), file)
    assert load(file) == recorded()
    assert list(file.parent.iterdir()) == [file]


def test_four_trainings_of_one_network():
    trainings = recorded()
    assert [one.label for one in trainings] == LABELS
    shared = {(one.steps, one.widths, one.space, one.time) for one in trainings}
    assert len(shared) == 1
    assert len({weights for one in trainings for weights in one.weights}) == 28
    for one in trainings:
        assert list(one.seconds) == sorted(one.seconds)


def test_the_recorded_errors_are_those_of_the_books_measure():
    """The page's 256 points per level beside 2,000 others: Monte Carlo apart, and the
    order in which the losses have learned."""
    widget = LearnedFields()
    path, mixture = widget.path, widget.mixture
    exact = ExactDenoiser(path, mixture)
    measure = _Measure(mixture, path, RATIOS, *widget._draws())
    last = {}
    for one in recorded():
        errors = []
        for learned in one.denoisers(path):
            generator = torch.Generator().manual_seed(3)
            error = relative_score_error(learned, exact, generator=generator)
            shown = measure.errors(learned).sum() / measure.norms.sum()
            assert shown == pytest.approx(error, rel=0.35)
            errors.append(error)
        assert errors == sorted(errors, reverse=True)
        last[one.label] = errors[-1]
    assert last["explicit"] < last["denoising"] < last["implicit"] < last["sliced"]


def test_the_state_is_small():
    widget = LearnedFields()
    assert len(json.dumps(widget._state())) < 400_000
    assert len(widget._repr_html_()) < 600_000


@pytest.mark.parametrize("target", NETWORK_TARGETS)
def test_a_network_survives_the_record(target):
    original = denoiser(1, target, hidden=5, depth=3, features=4)
    training = Training.of("one", {10: original})
    assert training.steps == (10,)
    [again] = training.denoisers(original.path)
    x, t = normals(20, 2), torch.tensor(0.4, dtype=torch.float64)
    expected = original.predict(x, t)
    for one, other in zip(again.predict(x, t), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


# From Python


def test_showing_a_network_adds_or_replaces_it():
    widget = LearnedFields()
    heard = []
    widget.observe(lambda change: heard.append(len(change.new)), "live")
    widget.show(denoiser(1), step=10)
    widget.show(denoiser(2), "other")
    widget.show(denoiser(3), step=20)
    assert heard == [1, 2, 2]
    assert [one.label for one in widget.live] == ["live", "other"]
    assert widget.live[0].steps == (20,)
    assert repr(widget).startswith(f"LearnedFields({', '.join(LABELS)}, live, other;")
    widget.show(denoiser(4), "denoising")
    assert len(widget._shown()) == 6
    assert widget._repr_html_().count("image/png") == 8


def test_another_mixture_starts_without_recordings():
    widget = LearnedFields(ring(5), VariancePreserving())
    assert widget.trainings == ()
    assert "no networks" in repr(widget)
    assert widget._repr_html_().count("image/png") == 3
    widget.show(denoiser())
    assert widget._repr_html_().count("image/png") == 3


@pytest.mark.parametrize("arrows", ["learned", "error"])
@pytest.mark.parametrize("against", ["steps", "seconds"])
def test_every_state_has_pictures(arrows, against):
    widget = LearnedFields(arrows=arrows, against=against, ratio=HIGH, checkpoint=6)
    widget.show(denoiser(), step=50)
    assert len(widget._pictures()) == 7


def test_showing_leaves_the_readers_random_numbers_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    LearnedFields()._repr_html_()
    assert torch.equal(torch.get_rng_state(), before)


def test_fewer_checkpoints_bring_the_checkpoint_back():
    widget = LearnedFields(checkpoint=6)
    widget.trainings = [Training.of("one", {1: denoiser(), 2: denoiser(1)})]
    assert widget.checkpoint == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint": 7}, r"checkpoint must lie in \[0, 6\], got 7"),
        ({"checkpoint": 1.5}, "checkpoint must be a whole number"),
        ({"ratio": 0.01}, "ratio must be a number from 0.02 to 10"),
        ({"arrows": "none"}, "arrows must be one of 'learned', 'error'"),
        ({"against": "epochs"}, "against must be one of 'steps', 'seconds'"),
        ({"n_points": 1}, "n_points must be a whole number"),
        ({"path": OrnsteinUhlenbeck(beta=0.0)}, "path must reach sigma/alpha = 10"),
        ({"mixture": "ring"}, "mixture must be a GaussianMixture"),
    ],
)
def test_bad_arguments(no_shape_checks, arguments, message):
    with pytest.raises(ValueError, match=message):
        LearnedFields(**arguments)


def diverged() -> NeuralDenoiser:
    one = denoiser()
    one.net.layers[0].weight.data[0, 0] = float("nan")
    return one


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (
            lambda: ExactDenoiser(OrnsteinUhlenbeck(), three_gaussians()),
            "must be a NeuralDenoiser of an MLP, got ExactDenoiser",
        ),
        (
            lambda: NeuralDenoiser(OrnsteinUhlenbeck(), EnergyMLP(2, 4)),
            "must be a NeuralDenoiser of an MLP, got EnergyMLP",
        ),
        (
            lambda: NeuralDenoiser(OrnsteinUhlenbeck(), MLP(3, 4)),
            "must be one in the plane, got dim 3",
        ),
        (diverged, "must have finite weights"),
    ],
)
def test_only_networks_of_the_plane_are_shown(no_shape_checks, one, message):
    widget = LearnedFields()
    with pytest.raises(ValueError, match=message):
        widget.show(one())
    assert widget.live == ()


def test_trainings_are_trainings():
    with pytest.raises(ValueError, match="trainings must be a list of trainings"):
        LearnedFields().trainings = ["explicit"]


# Parity


@pytest.mark.parametrize("target", NETWORK_TARGETS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_readings_of_a_network(javascript, path, target):
    seed = PATHS.index(path)
    original = denoiser(seed, target, hidden=4 + seed, depth=1 + seed % 3, features=2)
    training = Training.of("one", {1: original})
    [expected] = training.denoisers(path)
    x_t = 2 * normals(11, 2, seed=seed)
    for fraction in (0.05, 0.5, 0.9):
        t = fraction * path.t_max
        found = javascript(
            """const [one] = learned.denoisers(training, core.make_path(state));
            const { x_0, eps } = one.predict(floats(x_t), t);
            return [x_0, eps, one.eps(floats(x_t), t), one.score(floats(x_t), t)]
                .map(list);""",
            training=training.to_json(),
            state=_path_to_json(path, None),
            x_t=x_t.flatten(),
            t=t,
        )
        for name, values in zip(("x0", "eps", "eps", "score"), found, strict=True):
            assert_same(values, getattr(expected, name)(x_t, t))


def test_errors_of_every_recorded_network(javascript):
    """On the page's own points: per noise level, and over all of them."""
    widget = LearnedFields(n_points=64)
    path, mixture = widget.path, widget.mixture
    found = javascript(
        """const path = core.make_path(state);
        const generator = new core.Generator(0);
        const [u, z] = [generator.uniform(64), generator.normal(128)];
        const draws = { u, z, eps: generator.normal(128) };
        const measure = new learned.Measure(law(mixture), path, draws);
        return trainings.map((training) => learned.denoisers(training, path)
            .map((one) => measure.errors(one)));""",
        trainings=[one.to_json() for one in widget.trainings],
        state=_path_to_json(path, None),
        mixture=mixture,
    )
    measure = _Measure(mixture, path, RATIOS, *widget._draws())
    for one, errors in zip(widget.trainings, found, strict=True):
        for learned, error in zip(one.denoisers(path), errors, strict=True):
            expected = measure.errors(learned)
            relative = expected / measure.norms
            assert error["relative"] == pytest.approx(relative.tolist(), rel=1e-5)
            overall = expected.sum() / measure.norms.sum()
            assert error["overall"] == pytest.approx(overall, rel=1e-5)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_times_of_noise_levels(javascript, path):
    found = javascript(
        """const path = core.make_path(state);
        return [list(learned.RATIOS),
            list(learned.RATIOS.map((ratio) => core.time_at(path, ratio)))];""",
        state=_path_to_json(path, None),
    )
    assert found[0] == pytest.approx(RATIOS.tolist(), rel=1e-12)
    assert found[1] == pytest.approx(path.time_at(RATIOS).tolist(), rel=1e-6)


# On the page


def cells(widget) -> list[list[str]]:
    """The numbers of the table."""
    rows = widget.figure.locator("tbody tr").all()
    return [row.locator("[data-number]").all_text_contents() for row in rows]


def complete(widget, count: int = 28) -> None:
    """Until every network has been evaluated."""
    widget.page.wait_for_function(
        """count => document.querySelector('figure[data-widget="learned_fields"] '
            + '[data-number="count"]').textContent === `${count} of ${count}`""",
        arg=count,
    )
    widget.page.evaluate(FRAMES, 3)


def parse(text: str) -> float:
    """A number as the page writes it."""
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    mantissa, _, power = text.partition("·10")
    return float(mantissa) * 10.0 ** float(power.translate(digits) or 0)


def test_the_numbers_are_pythons(open_widget):
    widget, seen = open_widget(NAME)
    complete(widget)
    python = LearnedFields()
    ratio = torch.tensor([python.ratio], dtype=torch.float64)
    reference = recorded()[-1].seconds[-1]
    for one, row in zip(recorded(), cells(widget), strict=True):
        learned = one.denoisers(python.path)[python.checkpoint]
        for ratios, text in ((ratio, row[0]), (RATIOS, row[1])):
            draws = python._draws()
            measure = _Measure(python.mixture, python.path, ratios, *draws)
            error = measure.errors(learned).sum() / measure.norms.sum()
            assert parse(text) == pytest.approx(error, rel=0.06)  # two digits are shown
        cost = one.seconds[-1] / reference
        assert float(row[2].removesuffix(" ×")) == pytest.approx(cost, abs=0.006)
    seen.clean()


def test_playing_trains_to_the_end(open_widget):
    widget, seen = open_widget(NAME)
    complete(widget)
    assert widget.get("checkpoint") == 2
    first, drawn = cells(widget), widget.pictures()
    widget.button("Step").click()
    assert widget.get("checkpoint") == 3
    widget.set(checkpoint=5)
    widget.button("Play").click()
    widget.page.wait_for_function(
        """() => {
            const { diffedu } = document.querySelector(
                'figure[data-widget="learned_fields"]');
            return diffedu.get("checkpoint") === 6 && !diffedu.get("playing");
        }"""
    )
    widget.page.evaluate(FRAMES, 3)
    for before, after in zip(first, cells(widget), strict=True):
        assert parse(after[1]) < 0.2 * parse(before[1])
        assert after[2] == before[2]
    widget.button("Reset").click()
    widget.page.evaluate(FRAMES, 3)
    assert cells(widget) == first
    assert widget.pictures() == drawn
    plays_by_keyboard(widget)
    seen.clean()


def test_choices_change_the_pictures(open_widget):
    widget, seen = open_widget(NAME)
    complete(widget)
    choices = {"arrows": ("error", range(2, 6)), "error against": ("seconds", [1])}
    for label, (value, changed) in choices.items():
        before = widget.pictures()
        select = widget.figure.get_by_role("combobox", name=label, exact=True)
        select.select_option(value)
        widget.page.evaluate(FRAMES, 3)
        after = widget.pictures()
        assert [i for i in range(6) if after[i] != before[i]] == list(changed), label
    seen.clean()


def test_pointing_at_a_panel_compares_all_of_them_there(open_widget):
    widget, seen = open_widget(NAME)
    complete(widget)
    before = widget.pictures()
    widget.page.mouse.move(*middle(widget.figure.locator("canvas").nth(3)))
    widget.page.evaluate(FRAMES, 3)
    after = widget.pictures()
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        *(True, True),
        *(False, False, False, False),
    ]
    seen.clean()


def test_a_live_network_is_followed(open_widget):
    """What `show` sends: a new panel and row, again and again, and then a namesake."""
    widget, seen = open_widget(NAME)
    complete(widget)
    python = LearnedFields()
    rows = cells(widget)
    for step in (5, 10):
        python.show(denoiser(step), step=step)
        widget.set(live=python._state()["live"])
        complete(widget, 29)
        assert widget.figure.locator("canvas").count() == 7
        assert cells(widget)[:4] == rows
        learned = python.live[0].denoisers(python.path)[0]
        measure = _Measure(python.mixture, python.path, RATIOS, *python._draws())
        error = measure.errors(learned).sum() / measure.norms.sum()
        assert parse(cells(widget)[4][1]) == pytest.approx(error, rel=0.06)
        assert cells(widget)[4][2] == "—"
    python.live = ()
    python.show(denoiser(), "sliced")
    widget.set(live=python._state()["live"])
    complete(widget, 22)
    assert widget.figure.locator("canvas").count() == 6
    assert [row == old for row, old in zip(cells(widget), rows, strict=True)] == [
        *(True, True, False, True)
    ]
    widget.set(live=[])
    complete(widget)
    assert cells(widget) == rows
    seen.clean()


def test_without_a_network_the_exact_field_is_shown(visit, write_page):
    seen = visit(write_page(LearnedFields(ring(5))._repr_html_()))
    figure = seen.page.locator("figure[data-state=live]")
    figure.wait_for()
    assert figure.locator("canvas").count() == 3
    assert not figure.get_by_role("slider", name="training step").is_visible()
    seen.clean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": 9}, "checkpoint must be a whole number in 0 … 6"),
        ({"ratio": 0.001}, "ratio must lie in [0.02, 10]"),
        ({"arrows": "none"}, "arrows must be one of"),
        ({"trainings": None}, "trainings and live must be lists"),
    ],
)
def test_bad_state_is_said_in_the_figure(visit, write_page, figures, change, message):
    seen = visit(write_page(broken(figures[NAME], **change)))
    says(seen.page, message)
    seen.clean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": [35, 31, 32, 2]}, "the weights of “implicit” do not fit"),
        ({"time": {"shape": [1], "data": "AACAPw=="}}, "do not fit its layers"),
        (
            {"weights": {"shape": [1, 2], "data": "AADAfwAAwH8="}, "steps": [1]},
            "the weights of “implicit” do not fit",
        ),
    ],
)
def test_bad_networks_are_said_and_recovered_from(open_widget, change, message):
    widget, seen = open_widget(NAME)
    good = widget.get("trainings")
    widget.set(trainings=[good[0], good[1] | change, *good[2:]], checkpoint=0)
    says(widget.figure, message)
    widget.set(trainings=good)
    complete(widget)
    assert widget.figure.get_attribute("data-state") == "live"
    seen.clean()


def test_weights_that_are_not_finite_are_said(open_widget):
    widget, seen = open_widget(NAME)
    one = recorded()[0].to_json()
    weights = base64.b64decode(one["weights"]["data"])
    spoilt = np.float32("nan").tobytes() + weights[4:]
    one["weights"]["data"] = base64.b64encode(spoilt).decode()
    widget.set(trainings=[one])
    says(widget.figure, "the weights of “explicit” must be finite")
    seen.clean()


def test_the_noise_level_reaches_both_ends(open_widget):
    widget, seen = open_widget(NAME)
    for fraction, ratio in ((0.0, LOW), (1.0, HIGH)):
        slide(widget, "noise σ/α", fraction)
        widget.page.evaluate(FRAMES, 3)
        assert widget.get("ratio") == pytest.approx(ratio, rel=1e-3)
        assert LearnedFields(ratio=widget.get("ratio")).ratio == widget.get("ratio")
        assert widget.figure.get_attribute("data-state") == "live"
    seen.clean()
