"""Getting in: what is refused is said with what it wants, nothing waits without end, and no secret is printed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from dynlog.adapters.nats.access import NatsAccess, open_nats
from dynlog.adapters.nats.streams import list_streams, read_stream, stream_info
from dynlog.errors import ConfigurationError, DynlogError, MissingDependency, SourceRefused, SourceUnavailable
from dynlog.testing.kinds import RunningServer
from dynlog.testing.process import free_port
from tests.nats_source.source import Configured, all_of, writing
from tests.wires.certificates import make_certificates

SECRET = "s3cret"


@asynccontextmanager
async def served(folder: Path, lines: str, *, jetstream: bool = True) -> AsyncIterator[Configured]:
    server = Configured(folder / "nats")
    server.lines, server.jetstream = lines, jetstream
    async with server:
        yield server


async def refused(access: NatsAccess, **settings: Any) -> DynlogError:
    """What opening raises; no secret stands in it."""
    with pytest.raises(DynlogError) as raised:
        async with open_nats(access, **settings):
            pass
    assert SECRET not in str(raised.value)
    return raised.value


async def test_a_user_comes_in_by_any_way_of_saying_so_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    async with served(tmp_path, f"authorization {{ user: u, password: {SECRET} }}") as server:
        place = f"127.0.0.1:{server.port}"
        for access in (
            NatsAccess(f"nats://u:{SECRET}@{place}"), NatsAccess(server.url, user="u", password=SECRET),
            NatsAccess(f"nats://x:wrong@{place}", user="u", password=SECRET),
        ):  # fmt: skip
            assert SECRET not in repr(access)
            assert access.shown == server.url
            async with open_nats(access) as source:
                assert await list_streams(source) == []
        for wrong in (
            NatsAccess(server.url), NatsAccess(f"nats://u:wrong@{place}"), NatsAccess(server.url, token=SECRET),
        ):  # fmt: skip
            error = await refused(wrong)
            assert isinstance(error, SourceRefused)
            assert f"{server.url} does not let this user in" in str(error)


async def test_a_token_is_taken_from_the_url_or_beside_it(tmp_path: Path) -> None:
    async with served(tmp_path, f"authorization {{ token: {SECRET} }}") as server:
        for access in (
            NatsAccess(f"nats://{SECRET}@127.0.0.1:{server.port}"), NatsAccess(server.url, token=SECRET),
        ):  # fmt: skip
            async with open_nats(access) as source:
                assert source.version >= (2, 11, 0)
        assert isinstance(await refused(NatsAccess(server.url, token="wrong")), SourceRefused)


async def test_with_tls_both_ends_are_known_or_nothing_is_said(tmp_path: Path, nats_server: RunningServer) -> None:
    ours, theirs = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "theirs")
    lines = (
        f'tls {{ cert_file: "{ours}/server.crt", key_file: "{ours}/server.key", ca_file: "{ours}/ca.crt", '
        "verify: true }"
    )
    client: dict[str, Any] = {"cert": ours / "client.crt", "key": ours / "client.key"}
    async with served(tmp_path, lines) as server:
        async with open_nats(NatsAccess(server.url, ca=ours / "ca.crt", **client)) as source:
            assert await list_streams(source) == []
        stranger = await refused(NatsAccess(server.url, ca=theirs / "ca.crt", **client))
        assert isinstance(stranger, SourceRefused)
        assert "its certificate is not believed" in str(stranger)
        assert "its certificate is not believed" in str(await refused(NatsAccess(server.url)))
        nobody = await refused(NatsAccess(server.url, ca=ours / "ca.crt"))
        assert isinstance(nobody, SourceRefused)
        assert "wants to see a certificate of ours" in str(nobody)
        others: dict[str, Any] = {"cert": theirs / "client.crt", "key": theirs / "client.key"}
        assert "does not believe our certificate" in str(
            await refused(NatsAccess(server.url, ca=ours / "ca.crt", **others))
        )
    clear = NatsAccess(f"tls://u:{SECRET}@127.0.0.1:{nats_server.port}", ca=ours / "ca.crt")
    assert "does not ask for TLS" in str(await refused(clear))


async def test_a_missing_permission_is_named_with_its_subject(tmp_path: Path) -> None:
    lines = """authorization { users: [
        { user: all, password: p },
        { user: some, password: p, permissions: {
            publish: ["$JS.API.STREAM.INFO.*"], subscribe: "_INBOX.>" } },
        { user: deaf, password: p, permissions: { publish: ">", subscribe: "nothing" } } ] }"""
    async with served(tmp_path, lines) as server:
        async with writing(server.url, user="all", password="p") as writer:
            await writer.stream("Mixed")
            await writer.fill("Mixed", 3)
        async with open_nats(NatsAccess(server.url, user="some", password="p")) as source:
            with pytest.raises(SourceRefused, match=r"does not let this user ask '\$JS\.API\.STREAM\.LIST'"):
                await list_streams(source)
            info = await stream_info(source, "Mixed")
            with pytest.raises(SourceRefused, match=r"does not let this user ask '\$JS\.API\.DIRECT\.GET\.Mixed'"):
                await all_of(read_stream(source, info, first=1, last=3))
        async with open_nats(NatsAccess(server.url, user="deaf", password="p")) as source:
            begun = monotonic()
            with pytest.raises(SourceRefused, match="does not let this user listen at"):
                await list_streams(source)
            assert monotonic() - begun < 5
        async with open_nats(NatsAccess(server.url, user="deaf", password="p"), timeout=5) as source:
            for _ in range(2):  # by then it is known, before anything is asked
                await source.client.flush()
            begun = monotonic()
            with pytest.raises(SourceRefused, match=r"permission to subscribe to '_INBOX\.>'"):
                await list_streams(source)
            assert monotonic() - begun < 5


async def test_a_server_without_jetstream_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    async with served(tmp_path, "", jetstream=False) as server, open_nats(NatsAccess(server.url)) as source:
        with pytest.raises(SourceRefused, match="JetStream is off"):
            await list_streams(source)


async def test_where_nobody_answers_or_somebody_else_does_it_is_said_in_time(tmp_path: Path) -> None:
    nobody = f"nats://127.0.0.1:{free_port()}"
    for url in (nobody, nobody.replace("127.0.0.1", "localhost"), f"{nobody},127.0.0.1:{free_port()}"):
        assert isinstance(error := await refused(NatsAccess(url)), SourceUnavailable)
        assert str(error) == f"NATS at {url}: nothing listens there: start it, or correct host and port"
    assert "the host name is not known" in str(await refused(NatsAccess("nats://no-such-host.invalid:4222")))
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as stranger:
        port = stranger.sockets[0].getsockname()[1]
        error = await refused(NatsAccess(f"nats://127.0.0.1:{port}"))
        assert "what listens there does not greet as NATS does" in str(error)
    held: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0) as deaf:
        port = deaf.sockets[0].getsockname()[1]
        begun = monotonic()
        error = await refused(NatsAccess(f"nats://127.0.0.1:{port}"), timeout=0.3)
        assert isinstance(error, SourceUnavailable)
        assert monotonic() - begun < 5
        for writer in held:
            writer.close()


async def test_of_several_servers_one_that_is_there_is_enough(nats_server: RunningServer) -> None:
    access = NatsAccess(f"nats://127.0.0.1:{free_port()},127.0.0.1:{nats_server.port}")
    for _ in range(3):  # which is tried first is chance
        async with open_nats(access) as source:
            await source.api("INFO")


@pytest.mark.parametrize(
    ("access", "said"),
    [
        (NatsAccess("127.0.0.1:4222"), "is not a URL"),
        (NatsAccess("http://127.0.0.1:4222"), "is no NATS server"),
        (NatsAccess("nats://127.0.0.1:4222/x"), "is no NATS server"),
        (NatsAccess("nats://127.0.0.1:4222?a=b"), "a"),
        (NatsAccess("nats://127.0.0.1:4222", ca=Path("/nowhere/ca")), "ca: there is no file /nowhere/ca"),
        (NatsAccess("nats://127.0.0.1:4222", creds=Path("/nowhere/creds")), "creds: there is no file /nowhere/creds"),
        (NatsAccess("nats://127.0.0.1:4222", cert=Path(__file__)), "give both"),
        (NatsAccess("nats://127.0.0.1:4222", ca=Path(__file__)), "the certificates cannot be used"),
    ],
)
async def test_what_cannot_work_is_said_before_anything_is_tried(access: NatsAccess, said: str) -> None:
    error = await refused(access)
    assert isinstance(error, ConfigurationError)
    assert said in str(error)


async def test_a_creds_file_without_its_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynlog.adapters.nats.access.find_spec", lambda name: None)
    error = await refused(NatsAccess("nats://127.0.0.1:4222", creds=Path(__file__)))
    assert isinstance(error, MissingDependency)
