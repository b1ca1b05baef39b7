"""The sample is read from a real server once for all tests of this folder."""

from __future__ import annotations

import pytest
import pytest_asyncio

from tests.migrations.dynamo_sample import Sample, read_sample


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """What Dynamo 0.7.1 left on NATS."""
    return await read_sample(tmp_path_factory.mktemp("dynamo"))
