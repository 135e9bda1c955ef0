"""The page of results: tables in Markdown, versions, and the file they go to."""

import os
import platform
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
COMMAND = "make bench"
PACKAGES = (
    "torch",
    "torchdiffeq",
    "numpy",
    "scipy",
    "numba",
    "py-pde",
    "fipy",
    "azula",
    "zuko",
)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column to the left and the others to the right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def duration(seconds: float) -> str:
    """Three digits, in milliseconds below a second."""
    if seconds < 0.9995:
        return f"{1e3 * seconds:#.3g} ms".replace(". ", " ")
    return f"{seconds:#.3g} s".replace(". ", " ")


def error(value: float) -> str:
    """Two digits, in powers of ten."""
    return f"{value:.1e}".replace("e-0", "e-").replace("e+00", "")


def times(ratio: float) -> str:
    """A ratio in two digits, or whole from 10 on."""
    return f"{ratio:.2g}" if ratio < 9.95 else f"{ratio:.0f}"


def machine() -> str:
    """The machine in general words."""
    return (
        f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, one thread"
    )


def page(parts: Iterable[str]) -> str:
    """The whole of RESULTS.md."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    head = [
        "# Benchmarks",
        f"Written by `{COMMAND}`, which runs everything below in one process with the "
        "repetitions interleaved: each round times every contender once. Times are "
        "processor time on one thread, medians over the rounds; a ratio is the median "
        "of the ratios within a round. Do not edit by hand.",
        f"- Machine: {machine()}\n- Versions: {versions}",
    ]
    return "\n\n".join([*head, *parts]) + "\n"


def write(text: str, path: Path = RESULTS) -> str:
    """Write the page beside its place, then rename it: never half a page.

    Returns the name of the file.
    """
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False
    ) as beside:
        beside.write(text)
    Path(beside.name).chmod(0o644)
    Path(beside.name).replace(path)
    return path.name
