"""A chapter far from the repository: an empty folder, the wheel, and Jupyter.

The environment's other packages are reused; `make newcomer` does the same with a fresh
environment, and for every chapter.
"""

import json
import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tools import notebooks

RUN = """\
import sys, nbformat
from nbclient import NotebookClient
nb = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(nb, timeout=600, extra_arguments=["--log-level=ERROR"]).execute()
nbformat.write(nb, sys.argv[1])
"""

# Stands for pip in Colab: writes down what it was asked for, and unpacks the wheel
# where Python looks.
STUB_PIP = """\
import json, os, sys, zipfile
from pathlib import Path
here = Path(os.environ["STUB"])
(here / "asked.json").write_text(json.dumps(sys.argv[1:]))
zipfile.ZipFile(here / "diffedu.whl").extractall(here / "installed")
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the package."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    offline = ["--no-build-isolation", "--wheel-dir", folder, str(ROOT)]
    subprocess.run([*build, *offline], check=True, timeout=300)
    (built,) = folder.glob("diffedu-*.whl")
    return built


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory) -> Path:
    """A Python that has this environment's packages, but no diffedu."""
    folder = tmp_path_factory.mktemp("python")
    create = [sys.executable, "-m", "venv", "--without-pip", folder]
    subprocess.run(create, check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    # The folders alone: what their own .pth files add, such as this repository, is not
    # read through another .pth file.
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin" / "python"


def environment(*folders: Path, **more: str) -> dict[str, str]:
    """The environment variables of a process that sees only these folders."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP"))}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, folders))} | more


def cells(*sources: str) -> dict:
    """A notebook with code cells."""
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": notebooks.NOTEBOOK_METADATA,
        "cells": [
            {
                "id": f"cell-{i}",
                "cell_type": "code",
                "source": source,
                "metadata": {},
                "outputs": [],
                "execution_count": None,
            }
            for i, source in enumerate(sources)
        ],
    }


def run(python: Path, path: Path, variables: dict[str, str]):
    """Execute a notebook in place, from its own folder."""
    command = [python, "-c", RUN, path.name]
    return subprocess.run(
        command, cwd=path.parent, env=variables, capture_output=True, text=True
    )


def first_chapter() -> str:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return toc["parts"][0]["chapters"][0]["file"]


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"diffedu", "diffedu-0.1.0.dist-info"}
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "diffedu").rglob("*")
        if path.suffix in (".py", ".js", ".css")
    }
    assert source <= set(names)


def test_a_chapter_alone_with_the_wheel(wheel, elsewhere, tmp_path):
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    folder = tmp_path / "empty"
    folder.mkdir()
    stored = ROOT / f"{first_chapter()}.ipynb"
    nb = json.loads(stored.read_text(encoding="utf-8"))
    where = "import diffedu; print(diffedu.__file__)"
    nb["cells"] += cells(where)["cells"]
    path = folder / stored.name
    path.write_text(json.dumps(nb), encoding="utf-8")
    done = run(elsewhere, path, environment(installed))
    assert done.returncode == 0, done.stderr[-3000:]
    last = json.loads(path.read_text(encoding="utf-8"))["cells"][-1]
    assert "".join(last["outputs"][0]["text"]).startswith(str(installed))


@pytest.fixture
def stubs(wheel, tmp_path) -> Path:
    """A folder with a stub pip, and the wheel that it installs."""
    folder = tmp_path / "stubs"
    (folder / "pip").mkdir(parents=True)
    (folder / "pip" / "__init__.py").write_text("")
    (folder / "pip" / "__main__.py").write_text(STUB_PIP)
    (folder / "diffedu.whl").write_bytes(wheel.read_bytes())
    (folder / "installed").mkdir()
    return folder


def test_in_colab_the_first_cell_installs(elsewhere, stubs, tmp_path):
    (stubs / "google" / "colab").mkdir(parents=True)
    (stubs / "google" / "colab" / "__init__.py").write_text("")
    path = tmp_path / "colab.ipynb"
    show = "from diffedu.widgets import DissolvingMixture\nDissolvingMixture()"
    nb = cells(notebooks.install_cell()["source"], show)
    path.write_text(json.dumps(nb), encoding="utf-8")
    variables = environment(stubs, stubs / "installed", STUB=str(stubs))
    done = run(elsewhere, path, variables)
    assert done.returncode == 0, done.stderr[-3000:]

    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    url, branch = config["repository"]["url"], config["repository"]["branch"]
    asked = json.loads((stubs / "asked.json").read_text())
    assert asked == ["install", "--quiet", f"diffedu @ git+{url}@{branch}"]

    # One thing for Colab's front end to show: the live widget.
    shown = json.loads(path.read_text(encoding="utf-8"))["cells"][1]["outputs"][0]
    assert notebooks.WIDGET_VIEW in shown["data"]
    assert "text/html" not in shown["data"]


@pytest.mark.parametrize("google", [False, True])
def test_elsewhere_the_first_cell_does_nothing(elsewhere, stubs, tmp_path, google):
    """Not even with other packages of Google's installed."""
    if google:
        (stubs / "google").mkdir()
        (stubs / "google" / "__init__.py").write_text("")
    path = tmp_path / "elsewhere.ipynb"
    nb = cells(notebooks.install_cell()["source"])
    path.write_text(json.dumps(nb), encoding="utf-8")
    variables = environment(stubs, stubs / "installed", STUB=str(stubs))
    done = run(elsewhere, path, variables)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (stubs / "asked.json").exists()
    assert json.loads(path.read_text(encoding="utf-8"))["cells"][0]["outputs"] == []
