"""Run every notebook as a newcomer would: far from the repository.

    python tools/newcomer.py

Builds the wheel, makes a fresh environment with the wheel and Jupyter and nothing else
(pip chooses the newest releases that the wheel admits), and executes each notebook,
alone in an empty folder.  Slow, and it downloads torch: a weekly check, not a test.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

EXECUTE = [
    *("-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--inplace"),
    "--ExecutePreprocessor.timeout=600",
]


def run(*command: object, cwd: Path | None = None) -> bool:
    """Run a command without this repository on Python's path; whether it succeeded."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run([*map(str, command)], cwd=cwd, env=kept).returncode == 0


def versions(python: Path) -> str:
    """The packages that decide what a notebook prints."""
    listed = subprocess.check_output([python, "-m", "pip", "list", "--format=json"])
    wanted = ("torch", "numpy", "scipy", "matplotlib", "ipywidgets", "anywidget")
    packages = json.loads(listed)
    return ", ".join(
        f"{p['name']} {p['version']}" for p in packages if p["name"] in wanted
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pip = [sys.executable, "-m", "pip"]
        if not run(*pip, "wheel", "-q", "--no-deps", "-w", folder, ROOT):
            return 1
        (wheel,) = folder.glob("diffedu-*.whl")
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / "bin" / "python"
        packages = [wheel, "jupyter-core", "nbconvert", "ipykernel"]
        if not run(python, "-m", "pip", "install", "-q", *packages):
            return 1
        print(versions(python), flush=True)
        failed = []
        for notebook in sorted((ROOT / "book").glob("*.ipynb")):
            alone = folder / notebook.stem
            alone.mkdir()
            shutil.copy(notebook, alone)
            started = time.perf_counter()
            if not run(python, *EXECUTE, notebook.name, cwd=alone):
                failed.append(notebook.name)
            seconds = time.perf_counter() - started
            print(f"{notebook.name}: {seconds:.0f} s", flush=True)
    print(f"{len(failed)} failed {' '.join(failed)}".strip())
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
