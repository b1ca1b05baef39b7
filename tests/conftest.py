"""What tests of several folders ask for."""

from __future__ import annotations

import random

import pytest

from tests.rounds import dice_of


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Chance for this test, from a seed that is printed and that DYNLOG_SEED sets (tests/rounds.py)."""
    return dice_of(request.node.name)
