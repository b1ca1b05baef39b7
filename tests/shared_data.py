"""Data that is too large for the repository: it lies in ``shared/`` beside it, or where DYNLOG_SHARED says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.house.repository import REPOSITORY


def shared_file(*name: str) -> Path:
    """A file below ``data`` there; without it the test fails and says where it was looked for."""
    file = Path(os.environ.get("DYNLOG_SHARED") or REPOSITORY.parent / "shared").joinpath("data", *name)
    if not file.is_file():
        pytest.fail(f"no {file}: shared/ lies beside the repository, or DYNLOG_SHARED names it", pytrace=False)
    return file
