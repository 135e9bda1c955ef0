"""What `check` and `attempt` print, when they hold and when they do not."""

import math

import pytest
import torch

from diffedu.check import CheckFailed, attempt, check
from diffedu.metrics import Estimate

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("bounds", "holds", "fails"),
    [
        ({"below": 0.5}, [0.4, -9.0], [0.5, 0.6]),
        ({"above": 0.5}, [0.6, 1e9], [0.5, 0.4]),
        ({"below": 2.0, "above": 1.0}, [1.5], [1.0, 2.0, 0.5, 2.5]),
        ({"near": 3.0, "within": 0.25}, [2.75, 3.25, 3.0], [2.74, 3.26, -3.0]),
    ],
)
def test_a_claim_holds_exactly_within_its_bounds(
    bounds: dict[str, float], holds: list[float], fails: list[float], capsys: Capture
) -> None:
    for value in holds:
        check("claim", value, **bounds)
        assert capsys.readouterr().out.startswith("✓ claim: measured ")
        attempt("task", value, **bounds)
        assert capsys.readouterr().out.startswith("✓ task: measured ")
    for value in [*fails, math.nan]:
        with pytest.raises(CheckFailed, match="✗ claim: measured"):
            check("claim", value, **bounds)
        assert capsys.readouterr().out == ""
        attempt("task", value, **bounds)
        assert capsys.readouterr().out.startswith("✗ task: measured ")


def test_the_line_says_the_claim_the_number_and_the_bound(capsys: Capture) -> None:
    check("distance", 0.0123, below=0.05)
    assert capsys.readouterr().out == "✓ distance: measured 0.0123, below 0.05\n"
    check("slope", 1.02, near=1.0, within=0.05)
    assert capsys.readouterr().out == "✓ slope: measured 1.02, within 0.05 of 1\n"
    check("both", 0.5, above=0.0, below=1.0)
    assert capsys.readouterr().out == "✓ both: measured 0.5, above 0 and below 1\n"
    with pytest.raises(CheckFailed) as failure:
        check("distance", 0.2, below=0.05)
    assert str(failure.value) == "✗ distance: measured 0.2, not below 0.05"


def test_tensors_and_estimates_are_numbers_too(capsys: Capture) -> None:
    check("tensor", torch.tensor([0.25]), near=0.25, within=0.0)
    assert "measured 0.25," in capsys.readouterr().out
    check("estimate", Estimate(0.25, 0.013), below=0.3)
    assert "measured 0.25 ± 0.01," in capsys.readouterr().out
    attempt("estimate", Estimate(0.25, 0.013), below=0.2)
    assert "✗ estimate: measured 0.25 ± 0.01, not below 0.2" in capsys.readouterr().out


def test_a_failed_claim_is_an_assertion_error() -> None:
    assert issubclass(CheckFailed, AssertionError)


def test_an_exercise_left_open_says_so(capsys: Capture) -> None:
    attempt("Half-life", ..., near=1.0, within=0.1)
    assert capsys.readouterr().out == "○ Half-life: not attempted yet\n"


def test_a_wrong_answer_does_not_raise_and_does_not_tell_the_right_one(
    capsys: Capture,
) -> None:
    attempt("Half-life", 3.0, below=1.0)
    line = capsys.readouterr().out
    assert line.startswith("✗ Half-life: measured 3")
    assert line.rstrip().endswith("yet")


@pytest.mark.parametrize("answer", [None, [1.0, 2.0], {"a": 1}])
def test_an_answer_that_is_no_number_does_not_raise(answer, capsys: Capture) -> None:
    attempt("Half-life", answer, below=1.0)
    assert capsys.readouterr().out.startswith("✗ Half-life: ")


@pytest.mark.parametrize("function", [check, attempt])
@pytest.mark.parametrize("bounds", [{}, {"near": 1.0}, {"within": 1.0}])
def test_a_claim_without_a_bound_is_refused(function, bounds: dict) -> None:
    with pytest.raises(ValueError, match=r"bound|together"):
        function("claim", 1.0, **bounds)
