"""Clients that send too much, too slowly, or what is no HTTP: each is told or cut off, and the service goes on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dynlog.errors import ConfigurationError
from dynlog.router.http import HttpSettings
from dynlog.router.http_server import GuardedProtocol, listen, url_of
from tests.router.served import FAST, PROMPT, Served, fleet, served_router, stored

pytestmark = pytest.mark.asyncio(loop_scope="module")
MOST = 100_000
HEAD = b"POST /match HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


class Impatient(GuardedProtocol):
    """Waits for nobody."""

    request_s = 0.2
    stall_s = 0.2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    """One server for all tests that are not slow."""
    async with served_router(*fleet(), settings=HttpSettings(max_body=MOST)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient() -> AsyncIterator[Served]:
    async with served_router(*fleet(), protocol=Impatient) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _goes_on(served: Served) -> AsyncIterator[None]:
    """Whatever a test sent, the next client is served, and nothing was an internal error."""
    yield
    assert (await served.match(hashes=PROMPT))[0] == (FAST, 0, 3)
    assert 'status="500"' not in (await served.http.get("/metrics")).text


async def test_a_body_over_the_bound_is_refused_although_the_client_sends_all_of_it(served: Served) -> None:
    answer = await served.http.post("/match", content=b"[" * 10_000_000)

    assert answer.status_code == 413
    assert "10000000 bytes is over the bound of 100000" in answer.json()["error"]


async def test_the_bound_holds_for_chunked_bodies(served: Served) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    answer = await served.http.post("/match", content=chunks())

    assert answer.status_code == 413
    assert "--max-body" in answer.json()["error"]


async def test_a_body_of_exactly_the_bound_is_taken(served: Served) -> None:
    body = json.dumps({"hashes": PROMPT}).encode()

    answer = await served.http.post("/match", content=body + b" " * (MOST - len(body)))

    assert answer.status_code == 200


async def test_who_asks_first_is_refused_before_sending(served: Served) -> None:
    answer = await served.raw(HEAD + b"content-length: 900000\r\nexpect: 100-continue\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


async def test_an_endless_chunked_body_ends_with_an_answer_and_a_closed_connection(served: Served) -> None:
    async def endless() -> bytes:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        received = asyncio.create_task(reader.read())
        try:
            while not received.done():
                writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        finally:
            writer.close()
        return await received

    async with asyncio.timeout(10):
        try:
            answer = await endless()
        except ConnectionError:
            return  # cut off while it was sending: that is an end as well
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 408 "))


async def test_a_compressed_body_is_refused_by_name(served: Served) -> None:
    answer = await served.http.post("/match", content=b"x", headers={"content-encoding": "gzip"})

    assert answer.status_code == 415
    assert "gzip" in answer.json()["error"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /heal",
        HEAD,
        HEAD + b"content-length: 100\r\n\r\n{",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{",
    ],
    ids=["nothing", "half a line", "half a head", "half a body", "half a chunk"],
)
async def test_a_request_that_never_ends_is_cut_off_with_408(impatient: Served, sent: bytes) -> None:
    answer = await impatient.raw(sent)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"] == "the request was not complete within 0.2 s"


async def test_a_second_request_on_a_connection_may_not_dawdle_either(impatient: Served) -> None:
    answer = await impatient.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /he")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


async def test_a_connection_that_is_kept_may_be_idle_for_longer_than_a_request_may_take(impatient: Served) -> None:
    reader, writer = await asyncio.open_connection(*impatient.address)
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    try:
        for _ in range(2):
            writer.write(request)
            assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200 ")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 3 * Impatient.request_s)
    finally:
        writer.close()


async def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_error(served: Served) -> None:
    _, writer = await asyncio.open_connection(*served.address)
    writer.write(HEAD + b"content-length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    async with asyncio.timeout(5):
        while 'status="499"' not in (await served.http.get("/metrics")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_reader_that_takes_nothing_of_a_dump_is_cut_off() -> None:
    cut_off = asyncio.Event()

    class Watched(Impatient):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            cut_off.set()

    chain = list(range(1, 200_001))
    events = [
        stored(1, chain[at : at + 10_000], parent=chain[at - 1] + 1 if at else None) for at in range(0, 200_000, 10_000)
    ]
    async with served_router(*events, protocol=Watched) as served:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(client, served.address)
            await loop.sock_sendall(client, b"GET /dump HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.wait_for(cut_off.wait(), 10)
            assert (await served.http.get("/dump")).status_code == 200  # nothing of the first dump is left behind
        finally:
            client.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"HELLO\r\n\r\n",
        b"GET / HTTP/x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 100_000 + b"\r\n",
        b"GET /" + b"a" * 100_000,
        HEAD + b"content-length: -5\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"transfer-encoding: gzip\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[-20:]),
)
async def test_what_is_no_http_is_refused(served: Served, sent: bytes) -> None:
    try:
        answer = await served.raw(sent)
    except ConnectionResetError:
        return  # more was sent than anybody would read
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ", b"HTTP/1.1 501 ")), answer[:200]


@pytest.mark.parametrize(
    "address", ["8080", "localhost", ":80", "localhost:http", "localhost:70000", "nowhere.invalid:80"]
)
async def test_an_address_that_cannot_be_listened_at_is_named(address: str) -> None:
    with pytest.raises(ConfigurationError, match=address):
        listen(address)


async def test_a_port_that_is_taken_is_named(served: Served) -> None:
    host, port = served.address

    with pytest.raises(ConfigurationError, match=f"cannot listen at {host}:{port}: .*in use"):
        listen(f"{host}:{port}")


async def test_ipv6_addresses_are_written_in_brackets() -> None:
    with listen("[::1]:0") as listening:
        assert url_of(listening) == f"http://[::1]:{listening.getsockname()[1]}"
