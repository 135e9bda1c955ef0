"""Run the benchmarks: `python -m benchmarks` writes benchmarks/RESULTS.md.

With names of topics, `python -m benchmarks fokker_planck`, only those run and their
tables are printed: RESULTS.md always comes whole, out of one run.
"""

import sys
from collections.abc import Callable, Iterator

import torch

from benchmarks import fokker_planck, likelihood, training
from benchmarks.report import page, write

TOPICS: dict[str, Callable[[], Iterator[str]]] = {
    "fokker_planck": fokker_planck.run,
    "training": training.run,
    "likelihood": likelihood.run,
}
"""What is measured, in the order of the page; each yields Markdown, part by part."""


def main(names: list[str]) -> int:
    if unknown := set(names) - set(TOPICS):
        print(f"no topic {', '.join(sorted(unknown))}; there are {', '.join(TOPICS)}")
        return 2
    torch.set_num_threads(1)
    parts = []
    for name in names or TOPICS:
        for part in TOPICS[name]():
            print(part, flush=True)
            parts.append(part)
    if not names:
        print(f"written: {write(page(parts))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
