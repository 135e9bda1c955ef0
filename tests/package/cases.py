"""The cases that several test modules go through: paths and targets."""

import pytest

from diffedu.path import (
    TARGETS,
    Cosine,
    OrnsteinUhlenbeck,
    Straight,
    VarianceExploding,
    VariancePreserving,
)

PATHS = [
    OrnsteinUhlenbeck(0.8, 1.1),
    VariancePreserving(),
    Cosine(),
    VarianceExploding(),
    Straight(),
]
every_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
every_target = pytest.mark.parametrize("target", TARGETS)
