"""Execute the book's notebooks and store them in one normal form.

    python tools/notebooks.py [FILE ...]         execute, normalise, write
    python tools/notebooks.py --check            say what is not in the normal form
    python tools/notebooks.py --install-cells    only rewrite the install cells
    python tools/notebooks.py --copy-with-threads N FOLDER
                                                 copies that run torch on N threads

Without file names: every notebook in book/.  In the normal form the first cell installs
`diffedu` in Colab from the address in `_config.yml`; cell ids follow from the contents;
nothing is stored that differs from run to run (timestamps, the state and the views of
widgets whose kernel is gone).  A file is written beside its old version and then
renamed, so that an interrupted run leaves the old one whole.
"""

import argparse
import copy
import hashlib
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent

CELL_TIMEOUT = 600  # seconds
LARGEST = 2 * 2**20  # bytes of a stored notebook
KEPT_CELL_METADATA = ("tags", "mystnb")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
NOTEBOOK_METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
ADDRESS_IN_MEMORY = re.compile(r"\bat 0x[0-9a-f]{6,}")

INSTALL_CELL = '''\
# In Colab, install the package of this book; anywhere else, do nothing.
from importlib.util import find_spec

if find_spec("diffedu") is None and find_spec("google") and find_spec("google.colab"):
    %pip install --quiet "diffedu @ git+{url}@{branch}"'''


def install_cell(root: Path = ROOT) -> nbformat.NotebookNode:
    """Cell 1 of every notebook, with the address of the repository."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    repository = config["repository"]
    source = INSTALL_CELL.format(url=repository["url"], branch=repository["branch"])
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["remove-cell"]})
    cell["id"] = "install"
    return cell


def with_install_cell(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the current install cell, put in or brought up to date."""
    nb, cell = copy.deepcopy(nb), install_cell()
    if nb.cells and nb.cells[0].get("id") == "install":
        nb.cells[0].source, nb.cells[0].metadata = cell.source, cell.metadata
    else:
        nb.cells.insert(0, cell)
    return nb


def normalised(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without anything that differs from run to run."""
    nb = copy.deepcopy(nb)
    nb.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    nb.nbformat, nb.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA}
        )
        if cell.get("id") != "install":
            cell["id"] = _stable_id(cell, seen)
        if cell.cell_type == "code":
            cell.outputs = _kept_outputs(cell.outputs)
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    return nb


def _stable_id(cell: nbformat.NotebookNode, seen: dict[str, int]) -> str:
    """An id from the cell's contents; cells that are equal are counted."""
    content = f"{cell.cell_type}\n{cell.source}".encode()
    digest = hashlib.sha256(content).hexdigest()[:12]
    seen[digest] = seen.get(digest, 0) + 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def _kept_outputs(outputs: list) -> list:
    """Outputs without views of dead widgets, streams of one name in one piece."""
    kept = []
    for output in outputs:
        if "data" in output:
            output.data.pop(WIDGET_VIEW, None)
            output.metadata = nbformat.from_dict(
                {k: v for k, v in output.metadata.items() if k in output.data}
            )
            if not output.data:
                continue
        last = kept[-1] if kept else None
        if (
            output.output_type == "stream"
            and last is not None
            and last.output_type == "stream"
            and last.name == output.name
        ):
            last.text += output.text
        else:
            kept.append(output)
    return kept


def complaints(nb: nbformat.NotebookNode, size: int = 0) -> list[str]:
    """What is wrong with a stored notebook, in words; nothing when it is normal."""
    found = []
    if not nb.cells or nb.cells[0].get("id") != "install":
        found.append("the first cell is not the install cell")
    elif with_install_cell(nb) != nb:
        found.append("the install cell is not that of _config.yml's repository.url")
    if normalised(nb) != nb:
        found.append("not in the normal form")
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("not executed from top to bottom in one kernel")
    for cell in code:
        for output in cell.outputs:
            where = f"cell {cell.id}"
            if output.output_type == "error":
                found.append(f"{where}: a stored error, {output.ename}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{where}: output on stderr: {output.text[:200]!r}")
            if any(ADDRESS_IN_MEMORY.search(text) for text in _texts(output)):
                found.append(f"{where}: an address in memory, which no other run has")
    if size > LARGEST:
        found.append(f"{size / 2**20:.1f} MiB, more than {LARGEST / 2**20:.0f} MiB")
    return found


def _texts(output: nbformat.NotebookNode) -> list[str]:
    if output.output_type == "stream":
        return [output.text]
    data = output.get("data", {})
    return [data[mime] for mime in ("text/plain", "text/html") if mime in data]


def execute(nb: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, from a fresh kernel that runs in `folder`.

    Raises:
        CellExecutionError: a cell raised.
    """
    nb = copy.deepcopy(nb)
    NotebookClient(
        nb,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return nb


def write(nb: nbformat.NotebookNode, path: Path) -> None:
    """Write beside, then rename."""
    nbformat.validate(nb)
    beside = path.with_name(f".{path.name}.new")
    nbformat.write(nb, beside)
    beside.replace(path)


def run(path: Path) -> list[str]:
    """Execute and store one notebook; what is wrong with it."""
    started = time.perf_counter()
    nb = with_install_cell(nbformat.read(path, as_version=4))
    try:
        nb = normalised(execute(nb, path.parent))
    except CellExecutionError as error:
        return [f"a cell failed; the file is left as it was\n{error}"]
    write(nb, path)
    print(f"{path.name}: executed in {time.perf_counter() - started:.1f} s", flush=True)
    return complaints(nb, path.stat().st_size)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: book/*.ipynb")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="only say what is wrong")
    mode.add_argument("--install-cells", action="store_true", help="no execution")
    mode.add_argument("--copy-with-threads", nargs=2, metavar=("N", "FOLDER"))
    options = parser.parse_args(arguments)
    files = options.files or sorted((ROOT / "book").glob("*.ipynb"))

    # One thread and no progress bars, before the kernels start: they inherit both.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    failed = False
    for path in files:
        nb = nbformat.read(path, as_version=4)
        found: list[str] = []
        if options.check:
            found = complaints(nb, path.stat().st_size)
        elif options.install_cells:
            write(with_install_cell(nb), path)
        elif options.copy_with_threads:
            threads, folder = options.copy_with_threads
            copy_with_threads(nb, int(threads), Path(folder) / path.name)
        else:
            found = run(path)
        for complaint in found:
            print(f"{path}: {complaint}", file=sys.stderr)
        failed |= bool(found)
    return int(failed)


def copy_with_threads(nb: nbformat.NotebookNode, threads: int, target: Path) -> None:
    """Store a copy, outputs and all, whose code asks torch for other threads."""
    for cell in nb.cells:
        one, other = "set_num_threads(1)", f"set_num_threads({threads})"
        cell.source = cell.source.replace(one, other)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, target)


if __name__ == "__main__":
    sys.exit(main())
