"""What runs in the process of each mutant, with the slow imports it starts from.

None of them is the package or its tests: those must come from the mutant's folder.
"""

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
    code = pytest.main([*options, f"tests/package/test_{module}.py"])
    here = Path(sys.modules["diffedu"].__file__).is_relative_to(folder)
    os._exit(int(code) if here else 100)
