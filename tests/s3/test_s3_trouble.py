"""Wrong URLs, users, hosts and servers: a clear error that names what to change, soon, and never a hang."""

from __future__ import annotations

import asyncio
import datetime
import logging
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dynlog.errors import ConfigurationError, ObjectCorrupt, ObjectExists, ObjectNotFound, ObjectStoreUnavailable
from dynlog.open import open_objects
from dynlog.testing.minio import MinioServer
from dynlog.testing.process import free_port
from dynlog.testing.programs import find_program
from tests.conformance.object_backend import PATIENCE_S, keys
from tests.s3.conftest import BUCKET

OWN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION",
       "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE")  # fmt: skip


@pytest.fixture(autouse=True)
def _no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


async def opened(url: str) -> None:
    """Opens the store and closes it."""
    async with asyncio.timeout(PATIENCE_S), open_objects(url):
        pass


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("s3://", "bucket"),
        ("s3:///path", "bucket"),
        ("s3://bucket:9000/x", "bucket"),
        ("s3://user@bucket/x", "password"),
        ("s3://bucket/x?endpont=http://localhost", "endpont"),
        ("s3://bucket/x?endpoint=localhost:9000", "http://host:port"),
        ("s3://bucket/x?endpoint=http://h/path", "http://host:port"),
        ("s3://b/x?endpoint=http://localhost:1", "invalid bucket name"),
        ("s3://bucket/x?endpoint=http://localhost:1&region=a b", "region"),
        ("s3://bucket/x?ca=/nowhere.pem", "PEM"),
        ("s3://bucket/a/../b", "segments"),
    ],
)
async def test_a_url_that_cannot_work_is_refused_before_anything_is_sent(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        await opened(url)


async def test_a_bucket_that_is_not_there_is_named_with_what_to_do(minio: MinioServer) -> None:
    with pytest.raises(ConfigurationError, match=r"create it.*NoSuchBucket.*request \w+.*bucket 'nobodys'"):
        await opened(minio.url("nobodys"))


async def test_a_wrong_user_and_a_wrong_password_are_told_apart_and_not_printed(minio: MinioServer) -> None:
    right = minio.url(BUCKET)
    with pytest.raises(ConfigurationError, match="does not know this user") as caught:
        await opened(right.replace(f"{minio.user}:", "nobody:"))
    assert minio.password not in str(caught.value)
    with pytest.raises(ConfigurationError, match="password") as caught:
        await opened(right.replace(minio.password, "wrong-secret"))
    assert "wrong-secret" not in str(caught.value)


async def test_without_credentials_each_call_says_that_access_is_denied(minio: MinioServer) -> None:
    async with open_objects(f"s3://{BUCKET}?endpoint={minio.endpoint}") as store:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.put("k", b"x"), lambda: store.get_bytes("k"), lambda: keys(store), lambda: store.delete("k"),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(ConfigurationError, match=r"forbids.*without user and password.*bucket 'objects'"):
                await call()


async def test_the_environment_says_what_the_url_leaves_out(
    minio: MinioServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.user)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio.password)
    monkeypatch.setenv("AWS_ENDPOINT_URL", minio.endpoint)
    async with open_objects(f"s3://{BUCKET}/{prefix}") as store:
        await store.put("k", b"x")
    async with open_objects(minio.url(BUCKET, prefix)) as store:
        assert await store.get_bytes("k") == b"x"


async def test_credentials_are_found_where_the_aws_tools_keep_them(
    minio: MinioServer, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id={minio.user}\naws_secret_access_key={minio.password}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    async with open_objects(f"s3://{BUCKET}/{prefix}?endpoint={minio.endpoint}") as store:
        await store.put("k", b"x")
        assert await keys(store) == ["k"]


async def test_a_host_without_an_address_is_named(minio: MinioServer) -> None:
    with pytest.raises(ObjectStoreUnavailable, match=r"nowhere\.invalid"):
        await opened(minio.url(BUCKET, endpoint="http://nowhere.invalid:9000"))


async def test_a_port_at_which_nothing_listens_is_tried_for_a_while_and_named(minio: MinioServer) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ObjectStoreUnavailable, match=f"nothing listens at {endpoint}"):
        await opened(minio.url(BUCKET, endpoint=endpoint))


async def test_tls_where_there_is_none_says_so(minio: MinioServer) -> None:
    with pytest.raises(ConfigurationError, match="endpoint=http://"):
        await opened(minio.url(BUCKET, endpoint=minio.endpoint.replace("http:", "https:")))


def certify(folder: Path) -> None:
    """A key and a certificate of its own authority, named as MinIO wants them."""
    folder.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "private.key", "-out", "public.crt"],
        cwd=folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip


@pytest.fixture
async def with_tls(tmp_path: Path) -> AsyncIterator[tuple[MinioServer, Path]]:
    """A server that speaks TLS, and the file of the authority of its certificate."""
    certificates = tmp_path / "certificates"
    await asyncio.to_thread(certify, certificates)
    server = MinioServer(
        tmp_path / "minio",
        program=find_program("minio", provide="`make servers` provides it"),
        certificates=certificates,
    )
    async with server:
        await server.make_bucket(BUCKET)
        yield server, certificates / "public.crt"


async def test_tls_is_used_verified_and_explained(with_tls: tuple[MinioServer, Path]) -> None:
    server, authority = with_tls
    async with open_objects(f"{server.url(BUCKET)}&ca={authority}") as store:
        await store.put("k.bin", b"x" * (6 << 20))
        assert len(await store.get_bytes("k.bin")) == 6 << 20
        hanging = store.get("k.bin")
        await anext(hanging)
    with pytest.raises(ConfigurationError, match=r"not trusted.*ca="):
        await opened(server.url(BUCKET))
    with pytest.raises(ConfigurationError, match="speaks TLS: write endpoint=https://"):
        await opened(server.url(BUCKET, endpoint=server.endpoint.replace("https:", "http:")))


async def test_a_clock_that_is_wrong_is_named(minio: MinioServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_objects(minio.url(BUCKET)) as store:
        wrong = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        monkeypatch.setattr("minio.time.utcnow", lambda: wrong)
        with pytest.raises(ConfigurationError, match="clock"):
            await keys(store)


async def test_a_key_of_2000_bytes_is_refused_naming_the_bound(minio: MinioServer, prefix: str) -> None:
    async with open_objects(minio.url(BUCKET, prefix)) as store:
        with pytest.raises(ConfigurationError, match="1000 bytes"):
            await store.put("x" * 2000, b"")
    async with open_objects(minio.url(BUCKET, "p" * 100)) as store:
        with pytest.raises(ConfigurationError, match="S3 allows 1024"):
            await store.put("x" * 1000, b"")


async def test_what_something_else_put_is_no_object_but_can_be_replaced(
    minio: MinioServer, prefix: str, own_client: Callable[..., None]
) -> None:
    await asyncio.to_thread(own_client, f"{prefix}/k.bin", b"foreign")
    async with open_objects(minio.url(BUCKET, prefix)) as store:
        assert await keys(store) == []
        with pytest.raises(ObjectCorrupt, match="put it again by dynlog"):
            await store.head("k.bin")
        await store.put("k.bin", b"ours")
        assert await store.get_bytes("k.bin") == b"ours"


async def test_a_body_that_was_changed_behind_the_stores_back_does_not_verify(
    minio: MinioServer, prefix: str, own_client: Callable[..., None]
) -> None:
    async with open_objects(minio.url(BUCKET, prefix)) as store:
        info = await store.put("k.bin", b"good")
        await asyncio.to_thread(
            own_client, f"{prefix}/k.bin", b"evil", **{"dynlog-sha256": info.sha256, "dynlog-modified": "1"}
        )
        with pytest.raises(ObjectCorrupt, match="SHA-256"):
            await store.get_bytes("k.bin")
        await store.delete("k.bin")
        with pytest.raises(ObjectNotFound):
            await store.head("k.bin")


@pytest.fixture
def own_client(minio: MinioServer) -> Callable[..., None]:
    """Puts an object by plain minio-py."""
    import io

    from minio import Minio

    client = Minio(f"127.0.0.1:{minio.port}", minio.user, minio.password, secure=False)

    def put(name: str, body: bytes, **metadata: str) -> None:
        client.put_object(BUCKET, name, io.BytesIO(body), len(body), metadata=dict(metadata))

    return put


# What MinIO cannot be made to say: a small server that says one thing


@asynccontextmanager
async def saying(
    status: str, body: str, *, times: int = 1_000_000, headers: str = ""
) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that first gives an empty listing, then ``times`` that answer, then 200; gives endpoint and requests."""
    requests: list[str] = []
    answered = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0
                )
                await reader.readexactly(length)
                first = head.split(b"\r\n")[0].decode()
                requests.append(first)
                if "list-type=2" in first and len(requests) == 1:
                    said, with_body = "200 OK", "<ListBucketResult></ListBucketResult>"
                elif answered < times:
                    answered += 1
                    said, with_body = status, body
                else:
                    said, with_body = "200 OK", ""
                writer.write(
                    f"HTTP/1.1 {said}\r\ncontent-length: {len(with_body)}\r\nx-amz-request-id: R7\r\n"
                    f"content-type: application/xml\r\n{headers}\r\n{with_body}".encode()
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"s3://u:p@bucket?endpoint=http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests
    finally:
        server.close()
        await server.wait_closed()


def error(code: str) -> str:
    return f"<Error><Code>{code}</Code><Message>words</Message></Error>"


async def test_slow_down_is_obeyed_and_goes_unnoticed_if_it_passes() -> None:
    async with saying("503 Slow Down", error("SlowDown"), times=3) as (url, requests), open_objects(url) as store:
        await store.put("k", b"x")
        assert len(requests) == 1 + 3 + 1


async def test_slow_down_without_end_is_given_up_before_the_deadline_and_said() -> None:
    async with saying("503 Slow Down", error("SlowDown")) as (url, requests), open_objects(url) as store:
        with pytest.raises(ObjectStoreUnavailable, match=r"SlowDown.*request R7"):
            await store.put("k", b"x", timeout=1.5)
        assert len(requests) > 2


async def test_a_full_disk_is_said_at_once() -> None:
    async with saying("507 Full", error("XMinioStorageFull")) as (url, requests), open_objects(url) as store:
        with pytest.raises(ObjectStoreUnavailable, match="no space is left"):
            await store.put("k", b"x")
        assert len(requests) == 2


async def test_an_error_that_comes_with_status_200_is_an_error() -> None:
    async with saying("200 OK", error("InternalError")) as (url, _), open_objects(url) as store:
        with pytest.raises(ObjectStoreUnavailable, match="InternalError"):
            await asyncio.wait_for(keys(store), PATIENCE_S)


async def test_the_right_region_is_named() -> None:
    async with (
        saying("400 Bad", error("AuthorizationHeaderMalformed"), headers="x-amz-bucket-region: eu-west-1\r\n") as (
            url,
            _,
        ),
        open_objects(url) as store,
    ):
        with pytest.raises(ConfigurationError, match="set region=eu-west-1"):
            await keys(store)


async def test_a_server_that_is_not_s3_is_named() -> None:
    async with saying("404 Not Found", "<html>nothing here</html>") as (url, _), open_objects(url) as store:
        with pytest.raises(ConfigurationError, match="does not answer as an S3 server"):
            await keys(store)


async def test_creating_is_refused_where_the_server_ignores_conditions() -> None:
    async with saying("200 OK", "") as (url, _), open_objects(url) as store:
        with pytest.raises(ConfigurationError, match="ignores If-None-Match"):
            await store.put("k", b"x", if_absent=True)


async def test_a_creation_whose_answer_was_lost_is_not_taken_for_somebody_elses(
    minio: MinioServer, prefix: str
) -> None:
    from tests.s3.proxy import Proxy

    async with Proxy(minio.port) as proxy, open_objects(minio.url(BUCKET, prefix, endpoint=proxy.endpoint)) as store:
        await store.put("first", b"x", if_absent=True)  # finds out about the server
        for number in range(6):
            # The request went through, the answer to it did not.
            proxy.cut_answer_to("PUT")
            await store.put(f"{number}", b"mine", if_absent=True)
            assert proxy.was_cut.is_set()
            with pytest.raises(ObjectExists):
                await store.put(f"{number}", b"another", if_absent=True)
            assert await store.get_bytes(f"{number}") == b"mine"


async def test_the_store_writes_no_secret_into_logs(caplog: pytest.LogCaptureFixture, minio: MinioServer) -> None:
    # A command that ran in this process before may have silenced the library.
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="urllib3"):
        await opened(minio.url(BUCKET))
    assert minio.endpoint.rpartition(":")[2] in caplog.text
    assert minio.password not in caplog.text
