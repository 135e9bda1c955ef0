"""Fair timings on a machine that has other things to do: interleaved repetitions.

Every round runs every contender once, so a slow minute of the machine slows them all,
and ratios are taken within a round. The clock is the processor time of the process: as
everything runs on one thread, that is what a quiet machine's wall clock would show.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Processor seconds of a call, round by round, and what it returned."""

    seconds: tuple[float, ...]
    result: Any

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.seconds)

    def ratio(self, other: "Timing") -> float:
        """The median over common rounds of this contender's time over the other's."""
        pairs = zip(self.seconds, other.seconds, strict=False)
        return statistics.median(a / b for a, b in pairs)


def interleave(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int = 15,
    least: float = 0.02,
    slow: float = 0.5,
    slow_rounds: int = 5,
) -> dict[str, Timing]:
    """Time every contender in turn, round after round.

    Args:
        contenders: what to call, by name. One call of each, not counted, comes first.
        rounds: how many rounds there are.
        least: a contender's turn repeats a quick call for so many seconds and counts
            the shortest, which other work on the machine has lengthened least.
        slow: a contender that needs more seconds than this for one call takes part in
            the first `slow_rounds` rounds only.
    """
    first = {name: _once(call) for name, call in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds):
        for name, call in contenders.items():
            if first[name][0] < slow or i < slow_rounds:
                seconds[name].append(_turn(call, least))
    return {name: Timing(tuple(seconds[name]), first[name][1]) for name in contenders}


def time_to_error(points: list[tuple[float, float]], target: float) -> float | None:
    """Seconds at which (error, seconds) reaches the target, by a line in logarithms.

    None where the target lies outside what was measured.
    """
    points = sorted(points, reverse=True)
    for (e_0, s_0), (e_1, s_1) in zip(points, points[1:], strict=False):
        if e_0 >= target >= e_1:
            share = math.log(e_0 / target) / math.log(e_0 / e_1)
            return s_0 * (s_1 / s_0) ** share
    return None


def _turn(call: Callable[[], Any], least: float) -> float:
    gc.collect()
    gc.disable()
    try:
        calls = [_once(call)[0]]
        while sum(calls) < least:
            calls.append(_once(call)[0])
    finally:
        gc.enable()
    return min(calls)


def _once(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = call()
    return time.process_time() - started, result
