"""A test session's servers: each is started when a test first wants it, and all are gone when the session ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import pytest

from dynlog.open import open_log
from dynlog.testing.kinds import RunningServer
from dynlog.testing.loop_thread import LoopThread
from dynlog.testing.namespaces import bucket_url, server_log_url
from dynlog.testing.options import Settings
from dynlog.testing.process import ServerNotAvailable
from dynlog.testing.provisioning import provided

EMPTY_TIMEOUT_S = 20.0


class ServerSession:
    """A context manager, owned by the session-scoped fixture ``dynlog_servers``."""

    def __init__(self, settings: Settings, folders: pytest.TempPathFactory, started: list[str]) -> None:
        self._settings, self._folders, self._started = settings, folders, started
        self._stack = ExitStack()
        self._loop = LoopThread()

    def server(self, kind: str) -> RunningServer:
        """Starts the server; fails the test (or skips it, if asked to) when it cannot be had."""
        folder = self._folders.mktemp(kind)
        try:
            server = self._stack.enter_context(provided(kind, self._settings, folder, self._loop))
        except ServerNotAvailable as error:
            missing = str(error)
        else:
            self._started.append(f"{kind} at {server.address}: {server.source}")
            return server
        if self._settings.skip_missing:
            pytest.skip(missing)
        pytest.fail(f"{missing}\n  --dynlog-skip-missing skips such tests instead", pytrace=False)

    @contextmanager
    def log_namespace(self, server: RunningServer, namespace: str) -> Iterator[str]:
        """The URL of a log of its own on the server, whose topics are deleted after the block."""
        url = server_log_url(server, namespace)
        yield url
        self._loop.run(_delete_topics(url), timeout=2 * EMPTY_TIMEOUT_S)

    @contextmanager
    def bucket(self, server: RunningServer, bucket: str) -> Iterator[str]:
        """The URL of an object store over a bucket of its own, which is removed after the block."""
        from minio import Minio

        client = Minio(server.address, access_key=server.user, secret_key=server.password, secure=False)
        client.make_bucket(bucket)
        yield bucket_url(server, bucket)
        for item in client.list_objects(bucket, recursive=True):
            client.remove_object(bucket, item.object_name)
        client.remove_bucket(bucket)

    def __enter__(self) -> Self:
        self._stack.enter_context(self._loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


async def _delete_topics(url: str) -> None:
    async with asyncio.timeout(EMPTY_TIMEOUT_S), open_log(url) as log:
        for topic in await log.topics():
            await log.delete_topic(topic.name)
