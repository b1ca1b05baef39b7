"""What was imported ends when importer or source are gone for a TTL; while either of two importers lives, it stays."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from dynlog.adapters.etcd import read_etcd
from dynlog.adapters.etcd_http import Gateway, etcd_place
from dynlog.discovery.directory import Directory, Joined, Left, Seen
from dynlog.discovery.following import follow, import_leased
from dynlog.discovery.foreign import FOREIGN
from dynlog.discovery.importing import ROOTS, ForeignKey, Imported, import_keys
from dynlog.discovery.names import ModelName
from dynlog.errors import ConfigurationError, LeaseLost, SourceUnavailable
from dynlog.kv import Bucket, Ready
from dynlog.kv.records import Revoke
from dynlog.open import open_log
from dynlog.testing.etcd import EtcdServer
from tests.adapters.etcd_writer import EtcdWriter, b64
from tests.cli.process import Dynlog, dynlog
from tests.discovery.backend import PATIENCE_S, directory, dynamo_card, dynamo_instance, name, opened
from tests.testing.certificates import make_certificates

TTL_S = 1.5
MOST_S = TTL_S + 2.0
"""After so long everybody knows."""
LONG_S = 600.0


def instance(number: int = 0x4D2, address: str = "10.0.0.7:5555/x") -> ForeignKey:
    return ForeignKey(name(number).key.encode(), dynamo_instance(name(number), address), 1)


async def next_of(watch: AsyncIterator[Seen], kind: type[Seen]) -> Seen:
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance(event := await anext(watch), kind):
            pass
        return event


async def nobody(_: Imported) -> None:
    pass


async def test_what_was_imported_ends_with_its_mark_a_ttl_after_it_was_imported_last() -> None:
    async with directory() as there, there.watch() as watch:
        seen = aiter(watch)
        await import_leased(there.bucket, "etcd", [instance()], ttl_s=TTL_S)
        assert isinstance(await next_of(seen, Joined), Joined)
        imported = time.monotonic()
        left = await next_of(seen, Left)
        assert isinstance(left, Left)
        assert (left.name, left.lease_ended) == (name(), True)
        assert TTL_S - 0.1 < time.monotonic() - imported < MOST_S
        assert await there.bucket.entries(FOREIGN) == []


async def test_an_import_within_the_ttl_keeps_the_lease_of_the_one_before_whoever_makes_it() -> None:
    async with open_log("memory://") as log, opened(log) as one, opened(log) as other:
        await import_leased(one.bucket, "etcd", [instance()], ttl_s=LONG_S)
        before = await one.get(name())
        assert before is not None
        (lease,) = one.bucket.leases.values()
        assert (before.lease, lease.owner) == (lease.id, "import of etcd")
        done = await import_leased(other.bucket, "etcd", [instance()], ttl_s=LONG_S)
        assert (done.added, done.changed, done.unchanged) == (0, 0, 1)
        assert await one.get(name(), linearizable=True) == before
        (again,) = one.bucket.leases.values()
        assert (again.token, again.beat > lease.beat) == (lease.token, True)


async def test_what_was_imported_without_a_lease_or_under_another_ttl_moves_to_the_lease_of_the_import() -> None:
    async with directory() as there:
        await import_keys(there.bucket, "etcd", [instance()])
        for ttl_s in (LONG_S, LONG_S / 2):
            done = await import_leased(there.bucket, "etcd", [instance()], ttl_s=ttl_s)
            assert (done.changed, done.unchanged) == (1, 0)
            found, mark = await there.get(name()), await there.bucket.get(FOREIGN + name().key)
            assert found is not None
            assert mark is not None
            assert found.lease == mark.lease
            assert there.bucket.leases[found.lease].ttl_ms == ttl_s * 1000


class Revoking:
    """A bucket in which a lease ends whenever something is bound to it."""

    def __init__(self, bucket: Bucket, times: int) -> None:
        self._bucket, self.times = bucket, times

    def __getattr__(self, name: str) -> object:
        return getattr(self._bucket, name)

    async def create(self, key: str, value: bytes, *, lease: str, timeout: float) -> int:
        if self.times:
            self.times -= 1
            await self._bucket.say(Revoke(lease))
        return await self._bucket.create(key, value, lease=lease, timeout=timeout)


async def test_a_lease_that_ends_in_the_middle_is_granted_anew_and_one_that_always_does_is_an_error() -> None:
    async with directory() as there:
        once: Bucket = Revoking(there.bucket, 1)  # type: ignore[assignment]
        await import_leased(once, "etcd", [instance(1)], ttl_s=LONG_S)
        assert await there.get(name(1)) is not None
        always: Bucket = Revoking(there.bucket, 1_000)  # type: ignore[assignment]
        with pytest.raises(LeaseLost, match="longer TTL than 600 s"):
            await import_leased(always, "etcd", [instance(1), instance(2)], ttl_s=LONG_S)


async def test_an_interval_that_the_ttl_does_not_allow_and_a_first_import_that_fails_are_errors() -> None:
    async def away(_: float) -> Sequence[ForeignKey]:
        raise SourceUnavailable("it is away")

    async with directory() as there:
        for every_s in (0.0, 31.0):
            with pytest.raises(ConfigurationError, match="at least twice"):
                await follow(there.bucket, "etcd", away, nobody, ttl_s=60.0, every_s=every_s)
        with pytest.raises(SourceUnavailable):
            await follow(there.bucket, "etcd", away, nobody)


async def test_who_does_not_listen_to_the_reports_does_not_stop_the_imports_and_hears_the_newest_then() -> None:
    read_often, listens = asyncio.Event(), asyncio.Event()
    fleet: list[ForeignKey] = []
    heard: asyncio.Queue[Imported] = asyncio.Queue()

    async def growing(_: float) -> Sequence[ForeignKey]:
        fleet.append(instance(len(fleet)))
        if len(fleet) == 10:
            read_often.set()
        return fleet

    async def deaf(done: Imported) -> None:
        heard.put_nowait(done)
        await listens.wait()

    async with directory() as there, asyncio.timeout(PATIENCE_S):
        task = asyncio.create_task(follow(there.bucket, "etcd", growing, deaf, ttl_s=LONG_S, every_s=0.001))
        await read_often.wait()
        assert await there.get(name(8)) is not None
        assert (await heard.get()).unchanged == 0
        assert heard.empty()
        listens.set()
        assert (await heard.get()).unchanged >= 8
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_an_import_that_is_ended_ends_who_does_not_listen_and_one_that_cannot_report_fails() -> None:
    begun = asyncio.Event()
    ended: list[bool] = []

    async def deaf(_: Imported) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def gone(_: Imported) -> None:
        raise BrokenPipeError

    async def one(_: float) -> Sequence[ForeignKey]:
        return [instance()]

    async with directory() as there, asyncio.timeout(PATIENCE_S):
        task = asyncio.create_task(follow(there.bucket, "etcd", one, deaf))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert (task.cancelled(), ended) == (True, [True])
        with pytest.raises(BrokenPipeError):
            await follow(there.bucket, "etcd", one, gone)


@asynccontextmanager
async def following(there: Directory, url: str) -> AsyncIterator[None]:
    """An import that goes on beside the block."""
    place = etcd_place(url, {})

    async def read(timeout: float) -> Sequence[ForeignKey]:
        image = await read_etcd(place, [root.encode() for root in ROOTS], timeout=timeout)
        return [ForeignKey(e.key, e.value, e.mod_revision, e.lease, image.leases.get(e.lease)) for e in image.entries]

    work = follow(there.bucket, place.shown, read, nobody, ttl_s=TTL_S, every_s=TTL_S / 10)
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_a_fleet_whose_etcd_is_away_for_longer_than_the_ttl_is_gone_and_comes_back_with_it(
    how: str, tmp_path: Path
) -> None:
    async with EtcdServer(tmp_path) as server, directory() as there, there.watch() as watch:
        seen = aiter(watch)
        async with EtcdWriter(server.url) as etcd:
            await etcd.put(name().key.encode(), dynamo_instance(name()))
            await etcd.put(ModelName(name()).key.encode(), dynamo_card(ModelName(name())))
        async with following(there, server.url):
            assert isinstance(await next_of(seen, Joined), Joined)
            if how == "killed":
                await server.kill()
            else:
                server.pause()
            away = time.monotonic()
            left = await next_of(seen, Left)
            assert isinstance(left, Left)
            assert left.lease_ended
            assert time.monotonic() - away < MOST_S
            assert (await there.list()).models == []
            if how == "killed":
                await server.restart()
            else:
                server.resume()
            assert isinstance(await next_of(seen, Joined), Joined)


async def test_what_comes_and_goes_in_etcd_comes_and_goes_here_and_nothing_else_does(tmp_path: Path) -> None:
    async with EtcdServer(tmp_path) as server, directory() as there, there.watch() as watch:
        seen = aiter(watch)
        async with EtcdWriter(server.url) as etcd:
            lease = await etcd.grant(600)
            await etcd.put(name(1).key.encode(), dynamo_instance(name(1)), lease=lease)
            async with following(there, server.url):
                assert isinstance(await next_of(seen, Joined), Joined)
                await etcd.put(name(2).key.encode(), dynamo_instance(name(2)))
                joined = await anext(seen)
                assert isinstance(joined, Joined)
                assert joined.found.name == name(2)
                await etcd.revoke(lease)
                left = await anext(seen)
                assert isinstance(left, Left)
                assert (left.name, left.lease_ended) == (name(1), False)


async def test_an_import_that_is_killed_is_missed_within_its_ttl_and_one_started_again_in_time_is_not(
    tmp_path: Path,
) -> None:
    log = f"sqlite://{tmp_path}/fleet.db"
    async with EtcdServer(tmp_path / "etcd") as server, EtcdWriter(server.url) as etcd:
        await etcd.put(name().key.encode(), dynamo_instance(name()))
        arguments = ("discovery", "import", "etcd", server.url, "--follow", "--every", "100ms", "--ttl", "3s", "--json")
        async with open_log(log) as opened_log, opened(opened_log) as there, there.watch() as watch:
            seen = aiter(watch)
            assert isinstance(await next_of(seen, Ready), Ready)
            async with Dynlog.start(*arguments, "--log", log) as first:
                assert json.loads(await first.line())["added"] == 1
                assert isinstance(await next_of(seen, Joined), Joined)
                first.signal(signal.SIGKILL)
                await first.ended()
            async with Dynlog.start(*arguments, "--log", log) as second:
                assert json.loads(await second.line())["unchanged"] == 1, "its lease was not granted anew"
                await etcd.put(name().key.encode(), dynamo_instance(name(), "10.0.0.8:1"))
                assert json.loads(await second.line())["changed"] == 1
                changed = await next_of(seen, Joined)
                assert isinstance(changed, Joined)
                assert changed.found.entity.reached_at == {"tcp": "10.0.0.8:1"}
                second.signal(signal.SIGKILL)
                killed = time.monotonic()
                left = await next_of(seen, Left)
                assert isinstance(left, Left)
                assert left.lease_ended
                assert time.monotonic() - killed < 3.0 + 2.0


async def test_the_command_follows_until_it_is_stopped_and_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    log = f"sqlite://{tmp_path}/fleet.db"
    async with EtcdServer(tmp_path / "etcd") as server:
        async with Dynlog.start("discovery", "import", "etcd", server.url, "--follow", "--log", log) as command:
            assert (await command.line()).split() == ["source", server.url]
            command.signal(signal.SIGTERM)
            ended = await command.ended()
            assert (ended.status, ended.err) == (0, "")
        for options, says in (
            (["--every", "5s"], "--every is for --follow"),
            (["--follow", "--ttl", "6s"], "at least twice the interval"),
            (["--ttl", "0s"], "lives for at least"),
        ):
            refused = await dynlog("discovery", "import", "etcd", server.url, *options, "--log", log)
            assert (refused.status, refused.out) == (2, "")
            assert says in refused.complaint


class StrictEtcd(EtcdServer):
    """One that talks to nobody without a certificate of its authority."""

    def __init__(self, folder: Path, certificates: Path) -> None:
        super().__init__(folder, tls=certificates)
        self._certificates = certificates

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), "--client-cert-auth", "--trusted-ca-file", self._certificates / "ca.crt"]

    async def ready(self) -> bool:
        """Whether it lets in who has a certificate."""
        place = etcd_place(f"{self.url}?{client_options(self._certificates)}", {})
        try:
            await read_etcd(place, [b"x"], timeout=5.0)
        except SourceUnavailable:
            return False
        return True


def client_options(folder: Path) -> str:
    return f"tls_ca={folder / 'ca.crt'}&tls_cert={folder / 'client.crt'}&tls_key={folder / 'client.key'}"


async def test_an_etcd_that_wants_a_certificate_of_its_clients_is_imported_from_with_one(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    log = f"sqlite://{tmp_path}/fleet.db"
    async with StrictEtcd(tmp_path / "etcd", tmp_path) as server:
        url = f"{server.url}?{client_options(tmp_path)}"
        key, value = b64(name().key.encode()), b64(dynamo_instance(name()))
        await Gateway(etcd_place(url, {})).call("/v3/kv/put", {"key": key, "value": value}, timeout=PATIENCE_S)
        done = await dynlog("discovery", "import", "etcd", url, "--json", "--log", log)
        assert done.status == 0, done.err
        assert json.loads(done.out)["added"] == 1
        for nothing in (f"{server.url}?tls_ca={tmp_path / 'ca.crt'}", f"{server.url}?tls_verify=false"):
            refused = await dynlog("discovery", "import", "etcd", nothing, "--log", log)
            assert (refused.status, refused.out) == (1, "")
            assert "tls_cert" in refused.complaint
