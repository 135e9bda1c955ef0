"""python -m tests.mutation [module ...]: does a test notice each one-symbol mistake?

Copies the package and its tests to temporary folders, makes each mistake of `MUTANTS`
there in turn and runs the tests of that module, quick ones first, until one fails.
Exits with 1 when a mutant survives, and when a snippet no longer occurs exactly once.
"""

import multiprocessing
import queue
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.mutants import MUTANTS
from tests.mutation.worker import ROOT, run_tests

PROCESSES = 2
TIMEOUT = 300  # seconds; a mutant that makes the tests hang is noticed


def copy_to(folder: Path) -> None:
    """The package and its tests, without compiled files."""
    ignore = shutil.ignore_patterns("__pycache__", "widgets", "book")
    for name in ("diffedu", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)


def tests_pass(processes, folder: Path, module: str) -> bool:
    """Whether the tests of the module pass in the folder.

    Raises:
        RuntimeError: pytest could not run them.
    """
    process = processes.Process(target=run_tests, args=(str(folder), module))
    process.start()
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        process.join()
        return False
    # 0 all pass, 1 a test fails or the module cannot be imported (then 2 or a crash)
    if process.exitcode > 2:
        raise RuntimeError(f"pytest ended with {process.exitcode}")
    return process.exitcode == 0


def stale() -> list[str]:
    """Mutants whose snippet does not occur exactly once."""
    lines = []
    for module, mutants in MUTANTS.items():
        source = (ROOT / "diffedu" / f"{module}.py").read_text(encoding="utf-8")
        for old, new in mutants:
            if (n := source.count(old)) != 1:
                lines.append(f"{module}: occurs {n} times: {old!r}")
            if old == new:
                lines.append(f"{module}: changes nothing: {old!r}")
    return lines


def main() -> int:
    """Try every mutant; report the survivors."""
    if lines := stale():
        print("\n".join(lines))
        return 1
    # processes are forked from one that has the slow imports behind it
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.mutation.worker"])
    chosen = sys.argv[1:] or list(MUTANTS)
    jobs = [(m, old, new) for m in chosen for old, new in MUTANTS[m]]
    folders: queue.Queue[Path] = queue.Queue()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary).resolve()
        for i in range(PROCESSES):
            folder = temporary / str(i)
            copy_to(folder)
            folders.put(folder)

        def unchanged(module: str) -> bool:
            """Try the tests where there is no mistake; share how long each took."""
            folder = folders.get()
            try:
                fine = tests_pass(processes, folder, module)
            finally:
                folders.put(folder)
            for other in temporary.iterdir():
                if fine and other != folder:
                    shutil.copy(folder / f"seconds_{module}.json", other)
            return fine

        def survives(job: tuple[str, str, str]) -> bool:
            module, old, new = job
            folder = folders.get()
            file = folder / "diffedu" / f"{module}.py"
            source = file.read_text(encoding="utf-8")
            file.write_text(source.replace(old, new), encoding="utf-8")
            try:
                alive = tests_pass(processes, folder, module)
            finally:
                file.write_text(source, encoding="utf-8")
                folders.put(folder)
            word = "SURVIVES" if alive else "killed"
            print(f"{word:8} {module}: {old!r} -> {new!r}", flush=True)
            return alive

        with ThreadPoolExecutor(PROCESSES) as pool:
            for module, fine in zip(chosen, pool.map(unchanged, chosen), strict=True):
                if not fine:
                    print(f"{module}: the tests fail on the unchanged package")
                    return 1
            survivors = sum(pool.map(survives, jobs))
    seconds = time.monotonic() - start
    print(f"{len(jobs)} mutants, {survivors} survive, {seconds:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
