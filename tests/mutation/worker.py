"""What runs in the process of each mutant, with the slow imports it starts from.

None of them is the package or its tests: those must come from the mutant's folder.
"""

import json
import os
import sys
from pathlib import Path

import beartype  # noqa: F401
import jaxtyping  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pytest
import scipy.integrate  # noqa: F401
import scipy.linalg  # noqa: F401
import scipy.optimize  # noqa: F401
import scipy.stats  # noqa: F401
import torch
import torchdiffeq  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]

torch.set_num_threads(1)
# PyTorch loads what forward-mode differentiation needs at its first use
torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


class CheapFirst:
    """Runs the tests in the order of the seconds they took when all of them passed."""

    def __init__(self, module: str) -> None:
        self.file = Path(f"seconds_{module}.json")
        self.known = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.known.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == 0:
            self.file.write_text(json.dumps(self.seconds))


def run_tests(folder: str, module: str) -> None:
    """In a process of its own: pytest in the folder, its exit code as the process's."""
    os.chdir(folder)
    # this file came from the original; everything else must come from the copy
    sys.path[:] = [folder] + [p for p in sys.path if p not in ("", str(ROOT))]
    for name in list(sys.modules):
        if name.split(".")[0] in ("tests", "diffedu"):
            del sys.modules[name]
    # bytecode is told apart by the second, in which several mutants can be made
    sys.dont_write_bytecode = True
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    options = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", folder]
    arguments = [*options, f"tests/package/test_{module}.py"]
    code = pytest.main(arguments, plugins=[CheapFirst(module)])
    here = Path(sys.modules["diffedu"].__file__).is_relative_to(folder)
    os._exit(int(code) if here else 100)
