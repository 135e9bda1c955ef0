"""A page with both widgets and no kernel, as the built book serves them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from diffedu.widgets import (
    DissolvingMixture,
    ReverseTrajectories,
    bundle_classic,
    stylesheet,
)
from tests.conftest import serve_folder

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


@pytest.fixture(scope="session")
def figures() -> list[str]:
    """The HTML face of both widgets, at their defaults."""
    return [DissolvingMixture()._repr_html_(), ReverseTrajectories()._repr_html_()]


@pytest.fixture(scope="session")
def site(tmp_path_factory, figures) -> Path:
    folder = tmp_path_factory.mktemp("site") / "50% static"
    folder.mkdir()
    (folder / "widgets.js").write_text(bundle_classic(), encoding="utf-8")
    (folder / "widgets.css").write_text(stylesheet(), encoding="utf-8")
    for name, script in (("index", SCRIPT), ("unscripted", "")):
        page = PAGE.format(script=script, body="\n".join(figures))
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
