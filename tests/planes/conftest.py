"""Every test of the planes runs on every engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.planes import test_replay


@pytest.fixture(autouse=True, params=["memory", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """The engine behind `places` where a test does not name one."""
    test_replay.DEFAULT_LOG = "memory://" if request.param == "memory" else f"sqlite://{tmp_path}/log.db"
    yield
    test_replay.DEFAULT_LOG = "memory://"
