"""A widget in JupyterLab with a live kernel: shown, driven from Python, and heard."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import TimeoutError

from tests.conftest import ROOT
from tests.widgets.helpers import FRAMES, PAINTED

TRAINING = """
import torch
from functools import partial
from diffedu.denoiser import NeuralDenoiser
from diffedu.losses import LogUniformRatio, denoising_loss
from diffedu.nets import MLP
from diffedu.train import noisy_batches, train
net = MLP(2, 16, 2, 4, generator=torch.Generator().manual_seed(0))
denoiser = NeuralDenoiser(w.path, net)
draw = noisy_batches(w.mixture, LogUniformRatio(w.path), 256)
loss = partial(denoising_loss, denoiser)
for progress in train(net, draw, loss, 100, learning_rate=1e-2, progress=False):
    if progress.step in (1, 100):
        w.show(denoiser, "mine", progress.step)
        shown = w.live[0].steps[0]
"""

NOTEBOOKS = {
    "bound": [
        "from diffedu.widgets import BoundBars\nw = BoundBars()\nw",
        "from diffedu.mixture import GaussianMixture\nw.steps = 100\n"
        "w.mixture = GaussianMixture("
        "[0.5, 0.5], [[-1.0], [1.0]], [[[0.1]], [[0.1]]])",
        "print(f'{w.mode} {w.x:.2f}, T = {w.schedule.T}, '\n"
        "      f'{w.mixture.n_components} components, c = {w.size:.2f}')",
    ],
    "ladder": [
        "from diffedu.widgets import LangevinLadder\nw = LangevinLadder()\nw",
        "w.k = 100\nw.means = [[-2.0, 0.0], [2.0, 0.0]]",
        "print(f'step {w.k}, {w.levels} levels, modes at {w.means[0][0]:+.1f}')",
    ],
    "learned": [
        "from diffedu.mixture import ring\nfrom diffedu.widgets import LearnedFields\n"
        "w = LearnedFields(ring(5))\nw",
        TRAINING,
        "print(f'{shown} steps shown at {w.ratio:.2f}')",
    ],
    "mixture": [
        "from diffedu.widgets import DissolvingMixture\nw = DissolvingMixture()\nw",
        "w.t = 1.5",
        "from diffedu.mixture import ring\nw.mixture = ring(5)",
        "print(f't is now {w.t:.2f}, {w.mixture.n_components} components')",
    ],
    "path": [
        "from diffedu.widgets import PathRefinement\nw = PathRefinement(paths=50)\nw",
        "w.level = 6",
        "print(f'level is now {w.level}')",
    ],
    "potential": [
        "from diffedu.widgets import BentPotential\nw = BentPotential()\nw",
        "w.t = 1.0\nw.potential = 'tilted'",
        "print(f'{w.potential} at {w.t:.2f}, {len(w.heights)} heights')",
    ],
}


@dataclass
class Lab:
    """A running server and the folder that it shows."""

    address: str
    token: str


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """JupyterLab on this machine, with its own settings and the notebooks."""
    home = tmp_path_factory.mktemp("jupyter")
    (home / "files").mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, sources in NOTEBOOKS.items():
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in sources],
            metadata={"kernelspec": kernel},
        )
        nbformat.write(notebook, home / "files" / f"{name}.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    folders = {
        f"JUPYTER_{name}_DIR": str(home / name.lower())
        for name in ("CONFIG", "DATA", "RUNTIME")
    }
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    options = {
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": home / "files",
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": token,
        "LabApp.news_url": "",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    log = (home / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1"]
        + [f"--{name}={value}" for name, value in options.items()],
        env={
            **os.environ,
            **folders,
            "IPYTHONDIR": str(home / "ipython"),
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
        },
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(f"{address}/api/status?token={token}", server, home / "log")
        yield Lab(address, token)
    finally:
        server.terminate()
        server.wait(timeout=20)
        log.close()


def wait_for_server(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                json.load(answer)
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}", pytrace=False)


PROMPT = """([number, pattern]) => {
    const cell = document.querySelectorAll(".jp-Notebook .jp-CodeCell")[number];
    const prompt = cell?.querySelector(".jp-InputArea-prompt")?.textContent ?? "";
    return new RegExp(pattern).test(prompt);
}"""


def run_cell(page, number: int) -> None:
    """Run a cell and wait until its execution count is shown.

    The notebook may still be settling when the keys arrive, so they are pressed again
    until the cell says that it is running.
    """
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(number)
    for _ in range(5):
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        try:
            page.wait_for_function(PROMPT, arg=[number, r"\[(\*|\d+)\]"], timeout=3000)
            break
        except TimeoutError:
            continue
    page.wait_for_function(PROMPT, arg=[number, r"\[\d+\]"], timeout=60_000)


@pytest.fixture
def open_notebook(visit, lab):
    """open_notebook(name) -> its page, with an idle kernel."""

    def open_it(name: str):
        url = f"{lab.address}/doc/tree/{name}.ipynb?token={lab.token}"
        page = visit(url, width=1100, height=1400).page
        # a slow server has not said yet which kernels there are, and the page asks
        choose = page.locator("dialog .jp-mod-accept")
        page.add_locator_handler(choose, lambda button: button.click())
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        page.wait_for_selector('[data-status="idle"]', state="attached", timeout=60_000)
        return page

    return open_it


def printed(page, number: int) -> str:
    """What a cell printed."""
    output = page.locator(".jp-CodeCell").nth(number).locator(".jp-OutputArea-output")
    output.wait_for(timeout=10_000)
    return output.text_content()


def test_python_drives_the_widget_and_hears_it(open_notebook):
    page = open_notebook("mixture")
    figure = shown_by_first_cell(page, "dissolving_mixture")
    assert page.locator("figure.diffedu-widget").count() == 1
    share, colours = figure.locator("canvas").evaluate(PAINTED)
    assert share > 0.1
    assert colours > 20

    clock = figure.get_by_role("slider", name="time t", exact=True)
    assert clock.get_attribute("aria-valuetext") == "0.00"
    picture = figure.locator("canvas").evaluate("c => c.toDataURL()")
    run_cell(page, 1)
    page.wait_for_selector('figure input[aria-valuetext="1.50"]', timeout=10_000)
    page.evaluate(FRAMES, 3)
    assert figure.locator("canvas").evaluate("c => c.toDataURL()") != picture

    run_cell(page, 2)
    page.wait_for_function(
        "document.querySelectorAll('.diffedu-handle').length === 5", timeout=10_000
    )

    clock.evaluate(
        """input => {
            input.value = 0.75;
            input.dispatchEvent(new Event("input", { bubbles: true }));
        }"""
    )
    page.wait_for_timeout(500)
    run_cell(page, 3)
    assert re.search(r"t is now 0\.75, 5 components", printed(page, 3))


def shown_by_first_cell(page, name: str):
    """The live figure that the first cell of a notebook shows."""
    run_cell(page, 0)
    figure = page.locator(f'figure[data-widget="{name}"]')
    figure.wait_for(timeout=30_000)
    live = f'figure[data-widget="{name}"][data-state="live"]'
    page.wait_for_selector(live, timeout=10_000)
    return figure


def test_python_refines_the_path_and_hears_the_reader_refine_it(open_notebook):
    page = open_notebook("path")
    figure = shown_by_first_cell(page, "path_refinement")
    assert figure.locator("canvas").count() == 3
    run_cell(page, 1)
    page.wait_for_selector('figure input[aria-valuetext="1/64"]', timeout=10_000)
    figure.get_by_role("button", name="Refine", exact=True).click()
    page.wait_for_selector('figure input[aria-valuetext="1/128"]', timeout=10_000)
    page.wait_for_timeout(500)
    run_cell(page, 2)
    assert "level is now 7" in printed(page, 2)


def test_python_bends_the_potential_and_hears_the_reader_bend_it(open_notebook):
    page = open_notebook("potential")
    figure = shown_by_first_cell(page, "bent_potential")
    run_cell(page, 1)
    page.wait_for_function(
        "document.querySelector('figure select').value === 'tilted'", timeout=10_000
    )
    right = figure.locator('[data-number="right"]')
    page.wait_for_timeout(500)
    assert 0 < float(right.text_content()) < 0.5
    figure.locator(".diffedu-handle").first.focus()
    page.keyboard.press("ArrowUp")
    figure.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_timeout(1500)
    figure.get_by_role("button", name="Pause", exact=True).click()
    page.wait_for_timeout(500)
    run_cell(page, 2)
    shown = re.search(r"bent at (\d+\.\d\d), 7 heights", printed(page, 2))
    assert float(shown[1]) > 1.2


def test_python_moves_the_modes_and_hears_the_reader_climb_the_ladder(open_notebook):
    page = open_notebook("ladder")
    figure = shown_by_first_cell(page, "langevin_ladder")
    assert figure.locator("canvas").count() == 3
    run_cell(page, 1)
    page.wait_for_selector('figure input[aria-valuetext="100 of 400"]', timeout=10_000)
    disc = figure.locator(".diffedu-handle").first
    assert "mean at (-2.00, 0.00)" in disc.get_attribute("aria-label")
    figure.get_by_role("button", name="Step", exact=True).click()
    disc.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(500)
    run_cell(page, 2)
    assert "step 101, 16 levels, modes at -2.1" in printed(page, 2)


def test_python_shows_a_network_that_it_trains(open_notebook):
    page = open_notebook("learned")
    figure = shown_by_first_cell(page, "learned_fields")
    assert figure.locator("tbody tr").count() == 0
    run_cell(page, 1)
    panel = figure.locator('canvas[aria-label*="“mine” after 100 steps"]')
    panel.wait_for(timeout=10_000)
    assert figure.locator("tbody tr").count() == 1
    number = figure.locator('[data-number="all-0"]')
    assert 0 < float(number.text_content()) < 0.25  # 0.4 before training
    noise = figure.get_by_role("slider", name="noise σ/α", exact=True)
    noise.evaluate(
        """input => {
            input.value = Math.log10(0.5);
            input.dispatchEvent(new Event("input", { bubbles: true }));
        }"""
    )
    page.wait_for_timeout(500)
    run_cell(page, 2)
    assert "100 steps shown at 0.50" in printed(page, 2)


def test_python_adds_steps_and_hears_the_reader_move_the_point(open_notebook):
    page = open_notebook("bound")
    figure = shown_by_first_cell(page, "bound_bars")
    run_cell(page, 1)
    page.wait_for_selector('figure input[aria-valuetext="100"]', timeout=10_000)
    handles = figure.locator(".diffedu-handle")
    page.wait_for_function(
        "document.querySelectorAll('.diffedu-handle').length === 3", timeout=10_000
    )
    handles.last.focus()
    page.keyboard.press("ArrowRight")
    error = figure.get_by_role("slider", name="error c", exact=True)
    error.evaluate(
        """input => {
            input.value = -0.3;
            input.dispatchEvent(new Event("input", { bubbles: true }));
        }"""
    )
    page.wait_for_timeout(500)
    run_cell(page, 2)
    assert "at x 0.35, T = 100, 2 components, c = -0.30" in printed(page, 2)
