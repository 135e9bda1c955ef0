"""What README.md and CONTRIBUTING.md tell a reader to do can be done."""

import re
import textwrap
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

GUIDES = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}


def test_the_example_samples_the_mixture():
    """The code of the README, as it stands: 1000 samples with the data's mean."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDES["README.md"], re.DOTALL)
    names: dict = {}
    exec(textwrap.dedent(code), names)
    data, samples = names["data"], names["samples"]
    error = (samples.mean(0) - data.mean).abs()
    standard_error = (data.covariance.diagonal() / len(samples)).sqrt()
    assert (error < 5 * standard_error).all()


@pytest.mark.parametrize("name", GUIDES)
def test_commands_and_files_exist(name):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", GUIDES[name])) <= targets
    linked = re.findall(r"\]\(([^)#:]+)\)", GUIDES[name])
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_the_pins_fall_in_the_ranges():
    """What is tested is what pyproject.toml admits, and every dependency is pinned."""
    pins = {}
    files = ROOT / "requirements.txt", ROOT / "benchmarks" / "requirements.txt"
    for line in "\n".join(file.read_text() for file in files).splitlines():
        pin = line.split("#")[0].strip()
        if pin and not pin.startswith("-r "):
            requirement = Requirement(pin)
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            pins[requirement.name.lower().replace("_", "-")] = specifier.version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        ranges += extra
    for wanted in map(Requirement, ranges):
        assert pins[wanted.name.lower()] in wanted.specifier, wanted
