"""Something else listens where the S3 server should: named, with what to change, within the time of opening."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from dynlog.errors import ConfigurationError, ObjectStoreUnavailable
from dynlog.open import open_objects


async def opened(endpoint: str) -> None:
    async with open_objects(f"s3://u:p@bucket?endpoint={endpoint}"):
        pass


async def test_an_answer_without_words_and_without_a_request_id_is_not_taken_for_a_missing_bucket() -> None:
    async with speaking(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as endpoint:
        with pytest.raises(ConfigurationError, match="does not answer as an S3 server"):
            await opened(endpoint)


async def test_what_does_not_speak_http_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynlog.storage.s3.work.PERSISTENCE_S", 0.2)
    async with speaking(b"SSH-2.0-OpenSSH_9.2\r\n") as endpoint:
        with pytest.raises(ObjectStoreUnavailable, match="does not speak HTTP: correct endpoint="):
            await opened(endpoint)


async def test_a_server_that_takes_connections_and_says_nothing_is_named_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dynlog.storage.s3_objects.OPEN_TIMEOUT_S", 0.5)
    async with speaking(b"") as endpoint:
        with pytest.raises(ObjectStoreUnavailable, match=r"did not answer for 0.5 s.*TLS \(endpoint=https"):
            await opened(endpoint)


async def test_a_file_without_certificates_is_refused_as_the_option_that_names_it() -> None:
    with pytest.raises(ConfigurationError, match=r"option ca=.*certificates in PEM is needed"):
        async with open_objects(f"s3://u:p@bucket?endpoint=https://127.0.0.1:1&ca={__file__}"):
            pass


@asynccontextmanager
async def speaking(answer: bytes) -> AsyncIterator[str]:
    """The endpoint of a server that says one thing to whatever it is asked."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with suppress(ConnectionError):
                while await reader.read(1 << 16):
                    writer.write(answer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
        if serving:
            await asyncio.wait(serving, timeout=5)
