"""A page with every widget and no kernel, as the built book serves them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from diffedu.mixture import GaussianMixture
from diffedu.widgets import WIDGETS, _bundle, bundle_classic, stylesheet
from tests.conftest import serve_folder
from tests.widgets.helpers import Shown

PAGE = """<!doctype html>
<html data-theme="light"><head><meta charset="utf-8"><title>Widgets</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
  body {{ max-width: 48rem; margin: 0 auto; padding: 0 1rem; font-family: sans-serif; }}
  html[data-theme="dark"] body {{ background: #14181e; color: #e8edf2; }}
</style>
<link rel="stylesheet" href="widgets.css">{script}</head>
<body>{body}<p id="after">After the figures.</p></body></html>"""
SCRIPT = '<script defer src="widgets.js"></script>'
# The modules that only compute
DOM_FREE = (
    "brownian",
    "core",
    "elbo",
    "fokker_planck",
    "langevin_dynamics",
    "learned",
    "tweedie",
)


@pytest.fixture(scope="session")
def figures() -> dict[str, str]:
    """The HTML face of every widget, at its defaults, by name."""
    return {kind._name: kind()._repr_html_() for kind in WIDGETS}


@pytest.fixture(scope="session")
def site(tmp_path_factory, figures) -> Path:
    folder = tmp_path_factory.mktemp("site") / "50% static"
    folder.mkdir()
    (folder / "widgets.js").write_text(bundle_classic(), encoding="utf-8")
    (folder / "widgets.css").write_text(stylesheet(), encoding="utf-8")
    everything = "\n".join(figures.values())
    pages = {"index": everything, "unscripted": everything, **figures}
    for name, body in pages.items():
        script = "" if name == "unscripted" else SCRIPT
        page = PAGE.format(script=script, body=body)
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def site_over_http(site) -> Iterator[str]:
    yield from serve_folder(site)


@pytest.fixture(scope="session")
def site_over_file(site) -> str:
    return "file://" + quote(str(site))


@pytest.fixture
def write_page(site, site_over_file) -> Callable[[str], str]:
    """write_page(body) -> the address of a page with that body."""

    def write(body: str) -> str:
        page = PAGE.format(script=SCRIPT, body=body)
        (site / "other.html").write_text(page, encoding="utf-8")
        return f"{site_over_file}/other.html"

    return write


@pytest.fixture
def open_widget(visit, site_over_file):
    """open_widget(name, **options) -> (Shown, Visit) on its own page over file://."""

    def open_it(name: str, **options):
        seen = visit(f"{site_over_file}/{name}.html", **options)
        seen.page.wait_for_selector(f'figure[data-widget="{name}"][data-state="live"]')
        return Shown(seen.page, name), seen

    return open_it


@pytest.fixture(scope="session")
def javascript(browser):
    """javascript(body, **arguments): run with the modules and arguments in scope."""
    page = browser.new_page()
    page.add_script_tag(
        content=_bundle.modules(*DOM_FREE)
        + """
        const floats = (x) => Float64Array.from(x);
        const law = (parts) => new core.GaussianMixture(...parts.map(floats));
        const list = (x) => Array.from(x);
        const states = (run) => Array.from(run, list);
        const replay = (noise) => {
          let k = 0;
          return { normal: () => floats(noise[k++]) };
        };
        """
    )

    def plain(value):
        if isinstance(value, GaussianMixture):
            parts = (value.weights, value.means, value.covariances)
            return [part.flatten().tolist() for part in parts]
        return value.tolist() if isinstance(value, torch.Tensor) else value

    def run(body: str, **arguments):
        names = ", ".join(arguments)
        values = {name: plain(value) for name, value in arguments.items()}
        return page.evaluate(f"({{ {names} }}) => {{ {body} }}", values)

    yield run
    page.close()
