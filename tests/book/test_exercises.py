"""Every exercise says that it is not attempted yet; every solution passes its check."""

import copy
import re
from dataclasses import dataclass

import nbformat
import pytest

from tests.conftest import ROOT
from tools import notebooks

FENCE = r"^(?P<fence>`{3,}|:{3,})"
EXERCISE = re.compile(
    FENCE + r"\{exercise\}[^\n]*\n(?:[ ]*:[^\n]*\n)*?[ ]*:label:[ ]*(?P<label>\S+)",
    re.MULTILINE,
)
SOLUTION = re.compile(
    FENCE + r"\{solution\}[ ]+(?P<label>\S+)[ ]*\n(?P<body>.*?)^(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
PYTHON = re.compile(r"^```\{?(?:code-block\} )?python\n(.*?)^```", re.M | re.DOTALL)
PLACEHOLDER = re.compile(r"^\w+(?:\s*:[^=]+)?\s*=\s*\.\.\.\s*(?:#.*)?$")


@dataclass
class Exercise:
    """An exercise: its code cell, and the code of its solution."""

    label: str
    cell: int
    solution: str

    def solved(self, source: str) -> str:
        """The cell with the solution in the place of its placeholders."""
        rest = [line for line in source.splitlines() if not PLACEHOLDER.match(line)]
        return "\n".join([self.solution.rstrip(), *rest])


def exercises(nb: nbformat.NotebookNode) -> list[Exercise]:
    """The exercises of a notebook, in order.

    Fails where a statement has no cell or no solution, or one is found without the
    others.
    """
    statements, cells, solutions = [], {}, {}
    for index, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            statements += [m["label"] for m in EXERCISE.finditer(cell.source)]
            for match in SOLUTION.finditer(cell.source):
                code = PYTHON.findall(match["body"])
                assert len(code) == 1, f"{match['label']}: one python block is needed"
                solutions[match["label"]] = code[0]
        elif "exercise" in cell.metadata.get("tags", []):
            assert statements, "an exercise cell before the first statement"
            assert statements[-1] not in cells, f"{statements[-1]}: two cells"
            cells[statements[-1]] = index
    assert len(set(statements)) == len(statements), "two exercises share a label"
    assert set(statements) == set(cells) == set(solutions)
    return [Exercise(label, cells[label], solutions[label]) for label in statements]


STORED = {
    path.stem: nbformat.read(path, as_version=4)
    for path in sorted((ROOT / "book").glob("*.ipynb"))
}
WITH_EXERCISES = [
    name
    for name, nb in STORED.items()
    if any("{exercise}" in cell.source for cell in nb.cells)
]


def printed(cell: nbformat.NotebookNode) -> str:
    """What a code cell printed."""
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


@pytest.mark.parametrize("name", WITH_EXERCISES)
def test_an_exercise_waits_to_be_attempted(name):
    nb = STORED[name]
    found = exercises(nb)
    assert len(found) >= 6
    for exercise in found:
        lines = printed(nb.cells[exercise.cell]).splitlines()
        assert lines, f"{exercise.label} prints nothing"
        for line in lines:
            assert re.fullmatch(r"○ .+: not attempted yet", line), exercise.label


@pytest.mark.parametrize("name", WITH_EXERCISES)
def test_every_solution_passes_its_own_check(name):
    nb = copy.deepcopy(STORED[name])
    found = exercises(nb)
    attempts = {e.label: len(printed(nb.cells[e.cell]).splitlines()) for e in found}
    for exercise in found:
        cell = nb.cells[exercise.cell]
        cell.source = exercise.solved(cell.source)
    nb = notebooks.execute(nb, ROOT / "book")
    for exercise in found:
        lines = printed(nb.cells[exercise.cell]).splitlines()
        passed = [line for line in lines if line.startswith("✓")]
        assert len(passed) == attempts[exercise.label], (exercise.label, lines)
        assert not [line for line in lines if line.startswith(("✗", "○"))]


def test_a_solution_takes_the_place_of_the_placeholder():
    exercise = Exercise("e", 0, "import math\nhalf_life = math.log(2)\n")
    source = "half_life = ...  # your answer\nattempt('e', half_life, below=1)"
    assert exercise.solved(source).splitlines() == [
        "import math",
        "half_life = math.log(2)",
        "attempt('e', half_life, below=1)",
    ]
