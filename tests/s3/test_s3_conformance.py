"""The S3 store keeps the contract on a real MinIO."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynlog.testing.minio import MinioServer
from tests.conformance.object_suite import ObjectSuite
from tests.conformance.object_suite_races import BoundedMemorySuite
from tests.s3.conftest import BUCKET


class TestS3Objects(ObjectSuite, BoundedMemorySuite):
    @pytest.fixture(autouse=True)
    def _server(self, minio: MinioServer, prefix: str) -> None:
        self._url = minio.url(BUCKET, prefix)

    def url(self, tmp_path: Path) -> str:
        return self._url

    @pytest.fixture
    def store_url(self, _server: None, tmp_path: Path) -> str:
        return self._url
