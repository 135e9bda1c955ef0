"""The three faces of a widget, and its state as seen from Python."""

import base64
import importlib.util
import io
import json
import re
import subprocess
import sys
import types

import matplotlib
import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from diffedu.mixture import GaussianMixture, ring, three_gaussians, three_gaussians_1d
from diffedu.path import (
    Cosine,
    OrnsteinUhlenbeck,
    VarianceExploding,
    VariancePreserving,
)
from diffedu.widgets import (
    WIDGETS,
    DissolvingMixture,
    ReverseTrajectories,
    _bundle,
)
from diffedu.widgets._base import StateError
from diffedu.widgets._mixture_widget import MixtureWidget

OF_MIXTURES = [kind for kind in WIDGETS if issubclass(kind, MixtureWidget)]
JSON = r'<script type="application/json">(.*)</script>'
VIEW = "application/vnd.jupyter.widget-view+json"


def state_of(html: str) -> dict:
    return json.loads(re.search(JSON, html)[1])


# Faces


@pytest.mark.parametrize("kind", WIDGETS)
def test_three_faces_of_one_state(kind):
    data, _ = kind()._repr_mimebundle_()
    assert set(data) == {VIEW, "text/html", "text/plain"}
    assert data[VIEW]["model_id"] not in data["text/html"] + data["text/plain"]
    assert data["text/plain"].startswith(f"{kind.__name__}(")
    assert "0x" not in data["text/plain"]
    state = state_of(data["text/html"])
    assert set(state) == set(kind().traits(state=True))


@pytest.mark.parametrize("kind", OF_MIXTURES)
def test_the_state_of_a_mixture(kind):
    widget = kind()
    mixture = widget.mixture
    assert f"{mixture.n_components} components" in repr(widget)
    state = state_of(widget._repr_html_())
    assert state["path"]["name"] == type(widget.path).__name__
    assert state["weights"]["shape"] == [mixture.n_components]
    numbers = np.frombuffer(base64.b64decode(state["means"]["data"]), dtype="<f4")
    assert numbers == pytest.approx(mixture.means.flatten().numpy())


def test_the_html_face_is_the_same_in_another_process(figures):
    command = (
        "from diffedu.widgets import WIDGETS;"
        "print(*(kind()._repr_html_() for kind in WIDGETS))"
    )
    found = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", command],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    assert found.stdout == " ".join(figures.values()) + "\n"


def test_the_picture_does_not_depend_on_the_style_of_the_notebook(figures):
    style = {"font.size": 20, "figure.constrained_layout.use": True, "axes.grid": True}
    with matplotlib.rc_context(style):
        for kind in WIDGETS:
            assert kind()._repr_html_() == figures[kind._name]


@pytest.mark.parametrize("kind", WIDGETS)
def test_text_cannot_end_the_script_or_start_a_tag(kind):
    title = "</script><!--<script>&"
    html = kind(title=title, caption="<i>")._repr_html_()
    assert html.count("</script>") == html.count("<script") == 1
    assert "<!--" not in html
    assert "<i>" not in html
    assert state_of(html)["title"] == title


@pytest.mark.parametrize("kind", WIDGETS)
def test_colab_is_shown_the_live_widget_only(kind, monkeypatch):
    google, colab = types.ModuleType("google"), types.ModuleType("google.colab")
    google.colab = colab
    monkeypatch.setitem(sys.modules, "google", google)
    widget = kind()
    assert "text/html" in widget._repr_mimebundle_()[0]
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    data, _ = widget._repr_mimebundle_()
    assert set(data) == {VIEW, "text/plain"}


def test_the_picture_shows_the_particles_where_they_are():
    """Pixels in the colours of the components, near the means at t = 0."""
    html = DissolvingMixture()._repr_html_()
    png = base64.b64decode(re.search(r"data:image/png;base64,([^\"]*)", html)[1])
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(int)
    orange = np.abs(image[..., :3] - [213, 94, 0]).sum(-1) + (image[..., 3] < 200) * 999
    y, x = np.nonzero(orange < 60)
    assert len(x) > 500
    scale = image.shape[0] / 440
    extent = 3.2466
    to_data = 2 * extent / (398 * scale)
    centre = ((34 + 199) * scale, (16 + 199) * scale)
    mean = (x.mean() - centre[0]) * to_data, -(y.mean() - centre[1]) * to_data
    assert mean == pytest.approx((-1.5, 0.0), abs=0.15)


@pytest.mark.parametrize("solver", ["euler_maruyama", "heun"])
@pytest.mark.parametrize("path", [VariancePreserving(), VarianceExploding(), Cosine()])
def test_every_state_has_a_picture(path, solver):
    html = ReverseTrajectories(ring(5), path, steps=6, k=3, solver=solver)._repr_html_()
    assert html.count("data:image/png") == 3
    assert DissolvingMixture(ring(7), path, t=0.5)._repr_html_().count("image/png") == 1


# The state from Python


def test_assignment_and_observation():
    widget, heard = DissolvingMixture(), []
    widget.observe(lambda change: heard.append(change.new), ["t", "means", "path"])
    widget.t = 0.7
    widget.means = torch.zeros(3, 2)
    widget.path = OrnsteinUhlenbeck(beta=0.5)
    assert heard == [0.7, ((0.0, 0.0),) * 3, OrnsteinUhlenbeck(beta=0.5)]
    assert widget.mixture.means.abs().max() == 0


def test_a_mixture_is_assigned_at_once():
    widget = ReverseTrajectories()
    widget.mixture = ring(8)
    assert widget.mixture.n_components == 8
    assert torch.equal(widget.mixture.means, ring(8).means)


@pytest.mark.parametrize("kind", OF_MIXTURES)
def test_what_the_page_sends_is_understood(kind):
    """The front end's message: float32 in base64, a path by name."""
    widget, other = kind(), kind(ring(4), VariancePreserving(beta_max=11.0), title="A")
    names = ["weights", "means", "covariances", "path", "title"]
    widget.set_state({name: other.get_state()[name] for name in names})
    assert widget.path == VariancePreserving(beta_max=11.0)
    assert widget.title == "A"
    assert torch.allclose(widget.mixture.means, ring(4).means, atol=1e-6)
    assert float(widget.mixture.weights.sum()) == pytest.approx(1, abs=1e-15)


def test_a_shorter_path_brings_time_back():
    widget = DissolvingMixture(t=2.5)
    widget.path = VariancePreserving()
    assert widget.t == 1.0


def test_fewer_steps_bring_the_step_back():
    widget = ReverseTrajectories(steps=50)
    assert widget.k == 50
    widget.steps = 20
    assert widget.k == 20


BAD_ARGUMENTS = [
    (DissolvingMixture, {"mixture": "ring"}, "mixture must be a GaussianMixture"),
    (
        DissolvingMixture,
        {"mixture": three_gaussians_1d()},
        "mixture must be one mixture",
    ),
    (DissolvingMixture, {"path": "OU"}, "path must be a path"),
    (DissolvingMixture, {"t": 3.1}, r"t must lie in \[0, 3\]"),
    (DissolvingMixture, {"t": -0.1}, "t must be a number from 0"),
    (DissolvingMixture, {"t": float("nan")}, "t must be a number from 0"),
    (DissolvingMixture, {"n_particles": 0}, "n_particles must be a whole number"),
    (DissolvingMixture, {"n_particles": 2.5}, "n_particles must be a whole number"),
    (DissolvingMixture, {"seed": -1}, "seed must be a whole number"),
    (DissolvingMixture, {"simulate": 1}, "simulate must be True or False"),
    (DissolvingMixture, {"title": 3}, "title must be a str"),
    (ReverseTrajectories, {"steps": 0}, "steps must be a whole number"),
    (ReverseTrajectories, {"eta": -0.5}, "eta must be a number from 0"),
    (ReverseTrajectories, {"power": 0.0}, "power must be a number from 0.1"),
    (ReverseTrajectories, {"solver": "rk4"}, "solver must be one of 'euler_maruyama'"),
    (ReverseTrajectories, {"k": 101}, r"k must lie in \[0, steps = 100\]"),
]


@pytest.mark.parametrize(("kind", "arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments(no_shape_checks, kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("t", 9.0, r"t must lie in \[0, 3\], got 9"),
        ("means", [[0.0, 0.0]], "weights must have shape"),
        ("means", [[0.0], [1.0], [2.0]], "shape"),
        ("means", "here", "means must be a nested list"),
        (
            "means",
            [[0.0, 0.0], [1.0, float("nan")], [0.0, 0.0]],
            "means must be finite",
        ),
        ("weights", [0.5, 0.5, 0.5], "weights must sum to 1"),
        ("weights", [1.5, -0.5, 0.0], "weights must be >= 0"),
        ("covariances", [[[1.0, 2.0], [2.0, 1.0]]] * 3, "positive definite"),
        ("covariances", [[[1.0, 0.5], [0.0, 1.0]]] * 3, "symmetric"),
        ("mixture", three_gaussians_1d(), "mixture must be one mixture in the plane"),
    ],
)
def test_bad_assignments_change_nothing(no_shape_checks, name, value, message):
    widget = DissolvingMixture()
    before = widget._state()
    with pytest.raises(ValueError, match=message):
        setattr(widget, name, value)
    assert widget._state() == before


def test_the_error_is_one_that_traitlets_undoes():
    assert issubclass(StateError, traitlets.TraitError)
    assert issubclass(StateError, ValueError)


def test_float32_mixtures_are_shown():
    mixture = three_gaussians(dtype=torch.float32)
    assert DissolvingMixture(mixture).mixture.dtype == torch.float64
    thirds = GaussianMixture(
        torch.full((3,), 1 / 3), mixture.means, mixture.covariances
    )
    assert DissolvingMixture(thirds).mixture.weights.sum() == 1


# The bundle


@pytest.mark.parametrize("kind", WIDGETS)
def test_every_module_is_bundled_once_and_after_what_it_imports(kind):
    bundle = _bundle.bundle_module(kind._name)
    assert not re.search(r"^import |^export (?!default)", bundle, re.MULTILINE)
    lines = re.findall(r"^const (?:(\w+) = \(\(\) =>|\{[^}]*\} = (\w+);)", bundle, re.M)
    modules = [name for name, _ in lines if name]
    assert len(set(modules)) == len(modules)
    assert modules[-1] == kind._name
    seen = set()
    for name, needed in lines:
        assert needed in seen | {""}
        seen.add(name)


def test_every_import_in_the_javascript_is_used():
    for file in sorted(_bundle.STATIC.glob("*.js")):
        source = file.read_text(encoding="utf-8")
        for match in _bundle.IMPORT.finditer(source):
            for name in re.findall(r"\w+", match[1]):
                assert len(re.findall(rf"\b{name}\b", source)) > 1, (
                    f"{file.name}: {name}"
                )


def test_static_files_are_part_of_the_package():
    found = importlib.util.find_spec("diffedu.widgets").submodule_search_locations[0]
    assert _bundle.STATIC.samefile(f"{found}/static")
    assert {file.suffix for file in _bundle.STATIC.iterdir()} == {".js", ".css"}
