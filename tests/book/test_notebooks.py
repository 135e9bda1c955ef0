"""The stored notebooks: normal, whole, and compared as strictly as is promised."""

import copy
import subprocess
import sys
import xml.etree.ElementTree as ET

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.conftest import ROOT
from tools import notebooks

BOOK = ROOT / "book"
STORED = sorted(BOOK.glob("*.ipynb"))


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_stored_in_the_normal_form(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert notebooks.complaints(nb, path.stat().st_size) == []


def test_every_notebook_is_in_the_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = {toc["root"], *(c["file"] for p in toc["parts"] for c in p["chapters"])}
    sources = {f"book/{path.stem}" for path in [*STORED, *BOOK.glob("*.md")]}
    assert listed == sources


# The tool that writes them


def normal() -> nbformat.NotebookNode:
    """A small notebook about which there is nothing to say."""
    cells = [
        notebooks.install_cell(),
        new_markdown_cell("# Title"),
        new_code_cell("print(1)"),
    ]
    for count, cell in enumerate((cells[0], cells[2]), start=1):
        cell.execution_count = count
    cells[2].outputs = [new_output("stream", name="stdout", text="1\n")]
    return notebooks.normalised(new_notebook(cells=cells))


def test_a_normal_notebook_stays_as_it_is():
    nb = normal()
    assert notebooks.complaints(nb) == []
    assert notebooks.normalised(nb) == nb
    assert notebooks.with_install_cell(nb) == nb


def other_address(nb):
    nb.cells[0].source = nb.cells[0].source.replace("git+http", "git+http://x.org/")


def no_install_cell(nb):
    del nb.cells[0]


def not_executed(nb):
    nb.cells[2].execution_count = None


def failed(nb):
    nb.cells[2].outputs.append(
        new_output("error", ename="ValueError", evalue="no", traceback=[])
    )


def warned(nb):
    nb.cells[2].outputs.append(new_output("stream", name="stderr", text="careful"))


def printed_an_address(nb):
    text = {"text/plain": "<Thing at 0x7f3a1c9d>"}
    nb.cells[2].outputs.append(new_output("display_data", data=text))


def stored_a_dead_view(nb):
    data = {"text/plain": "w", notebooks.WIDGET_VIEW: {"model_id": "abc"}}
    nb.cells[2].outputs.append(new_output("display_data", data=data))


def stored_timestamps(nb):
    nb.cells[2].metadata["execution"] = {"iopub.execute_input": "2026-01-01"}


def stored_widget_state(nb):
    nb.metadata["widgets"] = {"state": {}}


@pytest.mark.parametrize(
    "spoil",
    [
        other_address,
        no_install_cell,
        not_executed,
        failed,
        warned,
        printed_an_address,
        stored_a_dead_view,
        stored_timestamps,
        stored_widget_state,
    ],
)
def test_what_is_not_normal_is_said(spoil):
    nb = normal()
    spoil(nb)
    assert notebooks.complaints(nb) != []


def test_a_large_notebook_is_said():
    assert notebooks.complaints(normal(), size=notebooks.LARGEST + 1) != []


def test_normalising_keeps_the_html_face_alone():
    nb = normal()
    data = {
        "text/plain": "w",
        "text/html": "<figure></figure>",
        notebooks.WIDGET_VIEW: {"model_id": "abc"},
    }
    nb.cells[2].outputs = [new_output("display_data", data=data)]
    (output,) = notebooks.normalised(nb).cells[2].outputs
    assert set(output.data) == {"text/plain", "text/html"}


def test_a_failing_cell_leaves_the_file_alone(tmp_path, capsys):
    path = tmp_path / "fails.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert notebooks.main([str(path)]) == 1
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert "ZeroDivisionError" in capsys.readouterr().err


# nbval with the sanitizer of `make test`

SOURCE = """\
from IPython.display import HTML, display
print("✓ the claim: measured 0.0123, below 0.05")
print("✓ an estimate: measured 0.5 ± 0.01, within 0.1 of 0.5")
print("seven 7")
picture = "data:image/png;base64,AAAA"
display(HTML(f"<figure><img src='{picture}'><p>PT3/AA==</p></figure>"))"""


def changed(old: str, new: str):
    """A change of the stored outputs."""

    def change(nb):
        for output in nb.cells[0].outputs:
            if output.output_type == "stream":
                output.text = output.text.replace(old, new)
            else:
                html = output.data["text/html"]
                output.data["text/html"] = html.replace(old, new)

    return change


COMPARED = {
    "as it was": (changed("", ""), True),
    "measured digits": (changed("0.0123", "0.0119"), True),
    "measured error": (changed("± 0.01", "± 0.02"), True),
    "picture": (changed("base64,AAAA", "base64,BBBB"), True),
    "claim": (changed("the claim", "a claim"), False),
    "bound": (changed("below 0.05", "below 0.06"), False),
    "verdict": (changed("✓", "✗"), False),
    "printed number": (changed("seven 7", "seven 8"), False),
    "state of a widget": (changed("PT3/AA==", "PT3/AB=="), False),
    "a line less": (changed("seven 7\n", ""), False),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory) -> dict[str, bool]:
    """Which of the changed notebooks nbval lets pass."""
    folder = tmp_path_factory.mktemp("compared")
    nb = notebooks.execute(new_notebook(cells=[new_code_cell(SOURCE)]), folder)
    for name, (change, _) in COMPARED.items():
        other = copy.deepcopy(nb)
        change(other)
        nbformat.write(other, folder / f"{name}.ipynb")
    report = folder / "report.xml"
    sanitizer = ROOT / "tests" / "book" / "nbval.cfg"
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env"]
    options = ["--nbval-sanitize-with", sanitizer, "--junit-xml", report, "-q"]
    subprocess.run(
        [*command, *options, "-p", "no:cacheprovider", "-c", "/dev/null", folder],
        check=False,
        capture_output=True,
        timeout=300,
    )
    cases = ET.parse(report).iter("testcase")
    return {
        case.get("classname").rsplit("/")[-1]: case.find("failure") is None
        for case in cases
    }


@pytest.mark.parametrize("name", COMPARED)
def test_nbval_compares_what_it_should(verdicts, name):
    found = [passed for key, passed in verdicts.items() if name in key]
    assert found == [COMPARED[name][1]]
