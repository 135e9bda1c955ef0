"""What every test of the package shares: a seeded generator, devices."""

from collections.abc import Iterator

import pytest
import torch

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine that holds values."""
    return torch.device(request.param)


@pytest.fixture
def generator() -> Iterator[torch.Generator]:
    """A generator with a fixed seed; the global one must not be touched."""
    before = torch.get_rng_state()
    yield torch.Generator().manual_seed(20)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
