"""What every test shares: checked shapes, one thread, a browser and the built book."""

import functools
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import jaxtyping
import matplotlib
import pytest

from tests import browser as browsers

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"

# Shapes and types in the signatures of the package are checked, as long as the tests
# run. This has to come before the first import of the package.
jaxtyping.install_import_hook("diffedu", "beartype.beartype")
matplotlib.use("agg")

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """Without the checks of shapes, so that bad input meets the package's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Without a browser


@functools.cache
def browser_path() -> str | None:
    return browsers.find()


def pytest_collection_modifyitems(config, items) -> None:
    """Outside CI and without a browser, leave out the tests that need one."""
    if browsers.IN_CI:
        return
    needing = [item for item in items if "browser" in getattr(item, "fixturenames", ())]
    if needing and browser_path() is None:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def pytest_terminal_summary(terminalreporter) -> None:
    """Say what was left out, and how to run it."""
    left_out = terminalreporter.stats.get("deselected", [])
    if left_out and browser_path() is None:
        terminalreporter.section(f"{len(left_out)} tests were left out")
        terminalreporter.write_line(browsers.HOW_TO_GET_ONE)


# The browser, and pages in it


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium or Chrome; a failure, not a skip, where there is none."""
    if browser_path() is None:
        pytest.fail(browsers.HOW_TO_GET_ONE, pytrace=False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=browser_path(), args=browsers.ARGUMENTS
        )
        yield running
        running.close()


@dataclass
class Visit:
    """An open page, and what went wrong on it so far."""

    page: Any
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def clean(self) -> None:
        """Fail if the page asked another host or reported an error."""
        assert not self.foreign, f"requests to another host: {self.foreign}"
        assert not self.errors, f"errors on the page: {self.errors}"


def _is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in (
        "127.0.0.1",
        "localhost",
    )


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Visit]]:
    """visit(url, theme="light", width=1280, height=900, javascript=True) -> Visit.

    Nothing but this machine can be reached; what was asked for is in `Visit.foreign`.
    `theme` is what the page is told the reader prefers. Further keywords go to
    Playwright's `new_context` (`has_touch`, `reduced_motion`, …).
    """
    contexts = []

    def open_page(
        url: str,
        theme: str = "light",
        width: int = 1280,
        height: int = 900,
        javascript: bool = True,
        **options: Any,
    ) -> Visit:
        context = browser.new_context(
            color_scheme=theme,
            viewport={"width": width, "height": height},
            java_script_enabled=javascript,
            **options,
        )
        contexts.append(context)
        seen = Visit(context.new_page())

        def route(route) -> None:
            if _is_foreign(route.request.url):
                seen.foreign.append(route.request.url)
                route.abort()
            else:
                route.continue_()

        context.route("**/*", route)
        page = seen.page
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                seen.errors.append(f"{message.text} ({message.location.get('url')})")
                if message.type == "error"
                else None
            ),
        )
        page.on(
            "requestfailed",
            lambda request: seen.errors.append(f"{request.url}: {request.failure}"),
        )
        page.on(
            "response",
            lambda response: (
                seen.errors.append(f"{response.url}: {response.status}")
                if response.status >= 400
                else None
            ),
        )
        page.goto(url, wait_until="load")
        return seen

    yield open_page
    for context in contexts:
        context.close()


# The built book, over file:// and http


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Requests are not logged."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *arguments: Any) -> None:
        """A page that is closed while it loads breaks its connections: no matter."""


def serve_folder(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; yields the address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def built_book() -> Path:
    """The folder of the built book."""
    if not (HTML / "index.html").is_file():
        pytest.fail("the book is not built: make book", pytrace=False)
    return HTML


@pytest.fixture(scope="session")
def book_over_http(built_book) -> Iterator[str]:
    """Address of the built book on a local server, without a trailing slash."""
    yield from serve_folder(built_book)


@pytest.fixture(scope="session")
def book_over_file(built_book, tmp_path_factory) -> str:
    """Address of a copy of the built book in a folder that needs escaping."""
    copy = tmp_path_factory.mktemp("stick") / "a copy, 50% off"
    shutil.copytree(built_book, copy)
    return "file://" + quote(str(copy))


@pytest.fixture(params=["file", "http"])
def book_url(request) -> str:
    """The address of the built book, once as file:// and once over http."""
    return request.getfixturevalue(f"book_over_{request.param}")
