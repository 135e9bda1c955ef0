"""A claim, its number, and the bound it is held to: printed, and asserted."""

from types import EllipsisType
from typing import Any

from torch import Tensor


class CheckFailed(AssertionError):
    """A printed claim that does not hold."""


def check(
    claim: str,
    value: Any,
    *,
    below: float | None = None,
    above: float | None = None,
    near: float | None = None,
    within: float | None = None,
) -> None:
    """Print the claim with its number; raise when the number is not as claimed.

    Args:
        claim: what is claimed, in words.
        value: the measured number: a float, a one-element tensor, or an estimate with
            `value` (its standard error is printed).
        below, above: strict bounds; either or both.
        near, within: |value − near| <= within; given together.

    Raises:
        CheckFailed: the claim does not hold (a NaN holds nothing).
        ValueError: no bound is given, or `near` without `within` or the reverse.
    """
    measured, holds, bound = _judge(value, below, above, near, within)
    if not holds:
        raise CheckFailed(f"✗ {claim}: measured {measured}, not {bound}")
    print(f"✓ {claim}: measured {measured}, {bound}")


def attempt(
    exercise: str,
    answer: Any,
    *,
    below: float | None = None,
    above: float | None = None,
    near: float | None = None,
    within: float | None = None,
) -> None:
    """Say how an exercise stands: `...` is not attempted yet. Never raises for it.

    Args and bounds are those of `check`.
    """
    if isinstance(answer, EllipsisType):
        print(f"○ {exercise}: not attempted yet")
        return
    try:
        measured, holds, bound = _judge(answer, below, above, near, within)
    except TypeError as error:
        print(f"✗ {exercise}: not a number yet ({error})")
        return
    print(
        f"✓ {exercise}: measured {measured}, {bound}"
        if holds
        else f"✗ {exercise}: measured {measured}, not {bound} yet"
    )


def _judge(
    value: Any,
    below: float | None,
    above: float | None,
    near: float | None,
    within: float | None,
) -> tuple[str, bool, str]:
    """The number in words, whether it is as claimed, and the bound in words."""
    if (near is None) != (within is None):
        raise ValueError("near and within must be given together")
    if below is None and above is None and near is None:
        raise ValueError("give a bound: below, above, or near with within")
    error = getattr(value, "standard_error", None)
    number = float(getattr(value, "value", value))
    holds, bounds = True, []
    if above is not None:
        holds &= number > above
        bounds.append(f"above {_text(above)}")
    if below is not None:
        holds &= number < below
        bounds.append(f"below {_text(below)}")
    if near is not None and within is not None:
        holds &= abs(number - near) <= within
        bounds.append(f"within {_text(within)} of {_text(near)}")
    measured = _text(number) if error is None else f"{_text(number)} ± {error:.1g}"
    return measured, bool(holds), " and ".join(bounds)


def _text(number: float | Tensor) -> str:
    return f"{float(number):.4g}"
