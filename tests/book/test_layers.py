"""Imports in the package run one way: from a layer only to the layers below it."""

import ast
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "diffedu"

LAYERS = (
    {"_arguments", "_autodiff"},
    {"mixture", "nets", "metrics", "check"},
    {"path"},
    {"sde", "denoiser", "ddpm"},
    {"fokker_planck", "losses", "samplers", "bounds"},
    {"train"},
    {"plots", "widgets"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

NUMERICAL = {"torch", "numpy", "scipy", "jaxtyping"}
SOLVERS = NUMERICAL | {"torchdiffeq"}
MAY_IMPORT = {
    "_arguments": NUMERICAL,
    "sde": SOLVERS,
    "train": NUMERICAL | {"tqdm"},
    "plots": NUMERICAL | {"matplotlib", "cycler"},
    # google: only to ask whether this is Colab.
    "widgets": NUMERICAL | {"matplotlib", "PIL", "anywidget", "traitlets", "google"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, in full."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found.add(node.module)
            if node.module == "diffedu":
                found |= {f"diffedu.{alias.name}" for alias in node.names}
    return found


def module_of(path: Path) -> str:
    """The name of a layer's entry that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(p for p in PACKAGE.rglob("*.py") if module_of(p) != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    module = module_of(path)
    assert module in LEVEL, f"{module} has no layer yet: give it one in LAYERS"
    for name in imports(path):
        head, *rest = name.split(".")
        if head == "diffedu" and rest and rest[0] != module:
            assert LEVEL[rest[0]] < LEVEL[module], f"{module} imports {rest[0]}"
        elif head != "diffedu" and head not in sys.stdlib_module_names:
            assert head in MAY_IMPORT.get(module, NUMERICAL), f"{module}: {head}"


def test_the_package_itself_imports_nothing():
    """`import diffedu` is instant; every name has one address."""
    assert imports(PACKAGE / "__init__.py") == set()
