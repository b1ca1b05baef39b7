"""Reading an etcd: one revision whatever is written meanwhile, bytes as they are, and every trouble by its name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dynlog.adapters import etcd_http
from dynlog.adapters.etcd import EtcdImage, read_etcd
from dynlog.adapters.etcd_http import Gateway, etcd_place
from dynlog.errors import ConfigurationError, DeadlineExceeded, SourceError, SourceRefused, SourceUnavailable
from dynlog.testing.etcd import EtcdServer
from dynlog.testing.kinds import RunningServer
from dynlog.testing.process import free_port
from tests.adapters.etcd_writer import EtcdWriter
from tests.testing.certificates import make_certificates

NOTHING: Mapping[str, str] = {}


async def read(url: str, *prefixes: str | bytes, page: int = 1_000, timeout: float = 20) -> EtcdImage:
    wanted = [each.encode() if isinstance(each, str) else each for each in prefixes]
    return await read_etcd(etcd_place(url, NOTHING), wanted, page=page, timeout=timeout)


def strike_after_page(monkeypatch: pytest.MonkeyPatch, number: int, strike: Any) -> None:
    """Calls ``strike`` once, between the page of that number and the next one."""
    true_call, pages = Gateway.call, iter(range(1, 10_000))

    async def call(self: Gateway, path: str, request: Mapping[str, Any], *, timeout: float) -> Any:
        answer = await true_call(self, path, request, timeout=timeout)
        if path == "/v3/kv/range" and next(pages) == number:
            await strike()
        return answer

    monkeypatch.setattr(Gateway, "call", call)


async def test_what_is_written_between_two_pages_is_not_seen(
    etcd_server: RunningServer, dynlog_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = f"{dynlog_namespace}/a/", f"{dynlog_namespace}/b/"
    async with EtcdWriter(etcd_server.url) as etcd:
        for number in range(7):
            await etcd.put(f"{a}{number}".encode(), b"old")
            await etcd.put(f"{b}{number}".encode(), b"old")

        async def strike() -> None:
            for number in range(9):
                await etcd.put(f"{a}{number}".encode(), b"new")
                await etcd.put(f"{b}{number}".encode(), b"new")

        strike_after_page(monkeypatch, 1, strike)
        image = await read(etcd_server.url, a, b, page=3)
    assert [entry.key.decode() for entry in image.entries] == [f"{p}{n}" for p in (a, b) for n in range(7)]
    assert {entry.value for entry in image.entries} == {b"old"}
    assert max(entry.mod_revision for entry in image.entries) == image.revision


async def test_a_compaction_between_two_pages_makes_it_begin_anew_at_a_newer_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EtcdServer(tmp_path) as server, EtcdWriter(server.url) as etcd:
        for number in range(4):
            await etcd.put(f"k/{number}".encode(), b"old")

        async def strike() -> None:
            for number in range(4):
                await etcd.put(f"k/{number}".encode(), b"new")
            await etcd.compact()

        strike_after_page(monkeypatch, 1, strike)
        image = await read(server.url, "k/", page=2)
    assert [entry.value for entry in image.entries] == [b"new"] * 4


async def test_bytes_come_as_they_are_and_a_prefix_ends_where_it_ends(tmp_path: Path) -> None:
    within = {b"p\xff": b"", b"p\xff\x00": b"\x00\xff", b"p\xff\xff\xfe": "ä".encode(), b"p\xffz": b"x" * 100_000}
    outside = {b"p": b"1", b"p\xfe\xff": b"2", b"q": b"3"}
    async with EtcdServer(tmp_path) as server, EtcdWriter(server.url) as etcd:
        for key, value in {**within, **outside}.items():
            await etcd.put(key, value)
        assert {e.key: e.value for e in (await read(server.url, b"p\xff", page=1)).entries} == within
        assert {e.key: e.value for e in (await read(server.url, b"", page=2)).entries} == {**within, **outside}
        assert (await read(server.url, b"none")).entries == ()


async def test_what_hangs_on_a_living_lease_is_marked_with_the_time_that_it_has(
    etcd_server: RunningServer, dynlog_namespace: str
) -> None:
    async with EtcdWriter(etcd_server.url) as etcd:
        living, revoked = await etcd.grant(600), await etcd.grant(600)
        for name, lease in (("free", 0), ("living", living), ("revoked", revoked)):
            await etcd.put(f"{dynlog_namespace}/{name}".encode(), b"x", lease=lease)
        await etcd.revoke(revoked)
        image = await read(etcd_server.url, dynlog_namespace)
    assert {entry.key.decode().rpartition("/")[2]: entry.lease for entry in image.entries} == {
        "free": 0,
        "living": living,
    }
    assert image.leases.keys() == {living}
    assert 500 < image.leases[living] <= 600


async def test_a_lease_that_ends_while_it_is_asked_about_is_not_called_alive(
    etcd_server: RunningServer, dynlog_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EtcdWriter(etcd_server.url) as etcd:
        lease = await etcd.grant(600)
        await etcd.put(dynlog_namespace.encode(), b"x", lease=lease)
        strike_after_page(monkeypatch, 1, lambda: etcd.revoke(lease))
        image = await read(etcd_server.url, dynlog_namespace)
    assert [entry.lease for entry in image.entries] == [lease]
    assert image.leases == {}


async def test_values_too_large_for_one_answer_come_in_smaller_pages(
    etcd_server: RunningServer, dynlog_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EtcdWriter(etcd_server.url) as etcd:
        for number in range(20):
            await etcd.put(f"{dynlog_namespace}/{number:02}".encode(), bytes([number]) * 10_000)
    monkeypatch.setattr(etcd_http, "MAX_ANSWER_BYTES", 40_000)
    image = await read(etcd_server.url, dynlog_namespace)
    assert [entry.value[0] for entry in image.entries] == list(range(20))
    monkeypatch.setattr(etcd_http, "MAX_ANSWER_BYTES", 1_000)
    with pytest.raises(SourceError, match="an answer is over"):
        await read(etcd_server.url, dynlog_namespace)


async def test_an_etcd_that_wants_a_password_gets_it_and_says_who_may_not(tmp_path: Path) -> None:
    async with EtcdServer(tmp_path) as server:
        async with EtcdWriter(server.url) as etcd:
            await etcd.put(b"k", b"v")
            await etcd.want_passwords()
        there, reader = server.url.removeprefix("http://"), "root"
        assert [e.value for e in (await read(f"http://{reader}:right@{there}", "k")).entries] == [b"v"]
        told = {"ETCD_AUTH_USERNAME": "root", "ETCD_AUTH_PASSWORD": "right"}
        assert len((await read_etcd(etcd_place(server.url, told), [b"k"])).entries) == 1
        for who, why in (
            ("", "user name is empty"),
            ("root:wrong@", "authentication failed"),
            ("nobody:right@", "denied"),
        ):
            with pytest.raises(SourceRefused, match=why) as refused:
                await read(f"http://{who}{there}", "k")
            assert "wrong" not in str(refused.value)


async def test_tls_works_with_the_right_authority_and_every_other_way_is_explained(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    async with EtcdServer(tmp_path / "server", tls=tmp_path) as server:
        assert (await read(f"{server.url}?tls_ca={tmp_path / 'ca.crt'}", "k")).entries == ()
        assert (await read(f"{server.url}?tls_verify=false", "k")).entries == ()
        told = {"ETCD_AUTH_CA": str(tmp_path / "ca.crt"), "ETCD_AUTH_CLIENT_CERT": str(tmp_path / "client.crt")}
        told["ETCD_AUTH_CLIENT_KEY"] = str(tmp_path / "client.key")
        assert (await read_etcd(etcd_place(server.url, told), [b"k"])).entries == ()
        with pytest.raises(ConfigurationError, match=r"not believed .*tls_ca"):
            await read(server.url, "k")
        with pytest.raises(SourceUnavailable, match=r"is it http\?"):
            await read(server.url.replace("https", "http"), "k")


async def test_https_to_an_etcd_without_tls_is_explained(etcd_server: RunningServer) -> None:
    with pytest.raises(SourceUnavailable, match=r"is it https\?"):
        await read(etcd_server.url.replace("http", "https"), "k")


async def test_an_etcd_that_stops_answering_costs_no_more_than_the_deadline_and_leaves_nothing(tmp_path: Path) -> None:
    async with EtcdServer(tmp_path) as server:
        server.pause()
        before = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"127\.0\.0\.1"):
            await read(server.url, "k", timeout=0.5)
        assert time.monotonic() - before < 5
        reading = asyncio.create_task(read(server.url, "k"))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        server.resume()
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_dead_endpoint_is_passed_over_and_if_all_are_dead_each_is_named(etcd_server: RunningServer) -> None:
    dead, other = free_port(), free_port()
    place = etcd_server.url.removeprefix("http://")
    for url in (f"http://127.0.0.1:{dead},{place}", f"http://127.0.0.1:{dead},http://{place}/"):
        assert (await read(url, "no-such-key")).revision > 0
    with pytest.raises(SourceUnavailable, match=rf"127.0.0.1:{dead}: .*127.0.0.1:{other}: "):
        await read(f"http://127.0.0.1:{dead},127.0.0.1:{other}", "k")


@asynccontextmanager
async def somebody(answer: bytes) -> AsyncIterator[str]:
    """A server that answers whatever it is asked with these bytes, and ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


OK_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "cannot be reached"),
        (b"-ERR wrong number of arguments\r\n\r\n", "does not speak HTTP"),
        (b"x" * 100_000, "does not speak HTTP"),
        (OK_HEAD + b"Content-Length: 100\r\n\r\n{}", "ended after 2 of 100 bytes"),
        (OK_HEAD + b"\r\n{\"kvs\": [{\"ke", "which is no JSON"),
        (OK_HEAD + b"\r\n[]", "answered /v3/kv/range with list"),
        (OK_HEAD + b"\r\n{\"kvs\": [{\"key\": \"a\"}]}", "none that we know"),
        (OK_HEAD + b"\r\n{\"kvs\": []}", "none that we know"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n404 page not found\n", "its JSON gateway is off"),
        (b"HTTP/1.0 503 Busy\r\n\r\n{\"error\": \"etcdserver: no leader\", \"code\": 14}", "503: etcdserver: no"),
    ],
)  # fmt: skip
async def test_what_is_no_answer_of_an_etcd_is_named(answer: bytes, says: str) -> None:
    async with somebody(answer) as url:
        with pytest.raises(SourceUnavailable, match=says):
            await read(url, "k")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("etcd://127.0.0.1:2379", "begins with http:// or https://"),
        ("127.0.0.1:2379", "write http://host:2379"),
        ("http://127.0.0.1:no", "is not a URL"),
        ("http://127.0.0.1:2379/v3", "ends with its port"),
        ("http://", "names no host"),
        ("http://127.0.0.1:2379?tls_ca=x", "TLS is asked for by https://"),
        ("https://127.0.0.1:2379?tls_ca=no-such-file", "tls_ca=no-such-file cannot be used"),
        ("https://127.0.0.1:2379?tls_verify=perhaps", "true or false"),
        ("https://127.0.0.1:2379?color=red", "unknown option 'color'"),
        ("http://me@127.0.0.1:2379", "has no password"),
        ("http://127.0.0.1:1,https://127.0.0.1:2", "all http:// or all https://"),
    ],
)
def test_a_url_that_names_no_etcd_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        etcd_place(url, NOTHING)


def test_no_message_and_no_traceback_shows_the_password() -> None:
    place = etcd_place("http://me:hidden@127.0.0.1:2379", NOTHING)
    assert "hidden" not in f"{place!r}{place.shown}"
    assert (place.user, place.password) == ("me", "hidden")
