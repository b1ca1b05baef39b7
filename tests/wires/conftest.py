"""What several modules of the wires' tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wires.certificates import make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority and certificates of it."""
    return make_certificates(tmp_path_factory.mktemp("tls") / "ours")
