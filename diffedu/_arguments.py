"""What public functions demand of their arguments, said once.

Values are inspected only where they lie on the CPU: reading a number back from an
accelerator stalls its stream, and inside a captured graph it is an error.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64)


def readable(x: Tensor) -> bool:
    """Whether the values of x may be looked at without stalling anything."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def float_tensor(name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """`value` as a float32 or float64 tensor; Python numbers and lists become float64.

    With `like`, dtype and device are those of that tensor.

    Raises:
        ValueError: it holds no numbers, or has another dtype.
    """
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{name} must be a number, a nested list or a tensor of numbers, "
                f"got {type(value).__name__}: {error}"
            ) from None
    if value.dtype not in FLOATS:
        raise ValueError(f"{name} must be float32 or float64, got {value.dtype}")
    return value if like is None else value.to(dtype=like.dtype, device=like.device)


def extent(x: Tensor) -> tuple[float, float]:
    """The smallest and the largest value of x, which is not empty; NaN if it has one.

    A single number is read as it is: a solver asks this at every step.
    """
    if x.numel() == 1:
        value = x.item()
        return value, value
    low, high = x.detach().aminmax()
    return low.item(), high.item()


def require_finite(name: str, x: Tensor) -> None:
    """Raise ValueError when x holds NaN or an infinity."""
    if readable(x) and x.numel() and not all(map(math.isfinite, extent(x))):
        bad = int((~x.isfinite()).sum())
        raise ValueError(
            f"{name} must be finite, got {bad} NaN or infinite of {x.numel()} values"
        )


def require_floats(name: str, x: Any) -> None:
    """Raise ValueError unless x is a float32 or float64 tensor."""
    if not isinstance(x, Tensor) or x.dtype not in FLOATS:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a float32 or float64 tensor, got {got}")


def require_points(name: str, x: Any, dim: int | None = None) -> None:
    """Raise ValueError unless x is a float tensor of at least one point (n, d)."""
    require_floats(name, x)
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(
            f"{name} must hold at least one point, shape (n, d), got {tuple(x.shape)}"
        )
    if dim is not None and x.shape[-1] != dim:
        raise ValueError(
            f"{name} must be points of dimension {dim}, got shape {tuple(x.shape)}"
        )
    require_finite(name, x)


def require_count(name: str, n: Any, at_least: int = 1) -> None:
    """Raise ValueError unless n is a whole number >= at_least."""
    if not isinstance(n, int) or isinstance(n, bool) or n < at_least:
        raise ValueError(f"{name} must be a whole number >= {at_least}, got {n!r}")


def require_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ValueError unless value is one of the choices."""
    if value not in (choices := tuple(choices)):
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}"
        )


def require_positive(name: str, value: Any, or_zero: bool = False) -> None:
    """Raise ValueError unless value is a finite number > 0 (>= 0 with `or_zero`)."""
    bound = ">= 0" if or_zero else "> 0"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 < value < float("inf") or (or_zero and value == 0)):
        raise ValueError(f"{name} must be a finite number {bound}, got {value!r}")


def time_tensor(
    times: Any, domain: tuple[float, float] = (-math.inf, math.inf)
) -> Tensor:
    """A grid of times, shape (steps + 1,), strictly increasing or decreasing.

    Raises:
        ValueError: fewer than two times, not finite, not strictly monotone, or not in
            the domain.
    """
    times = float_tensor("times", times)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(
            "times must be a list of at least two times, "
            f"got shape {tuple(times.shape)}"
        )
    require_finite("times", times)
    steps = times.diff()
    if readable(times) and not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            "times must be strictly increasing (noising) or strictly decreasing "
            f"(denoising), got steps between {steps.min():.3g} and {steps.max():.3g}"
        )
    low, high = domain
    if readable(times) and not (low <= times.min() and times.max() <= high):
        raise ValueError(
            f"times must lie in [{low:g}, {high:g}], got {times.min():.6g} to "
            f"{times.max():.6g}"
        )
    return times
