"""The import from a real etcd: bytes as they are, leases marked, nothing of ours written over, run again at will."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynlog.adapters.etcd import read_etcd
from dynlog.adapters.etcd_http import etcd_place
from dynlog.discovery.directory import Directory
from dynlog.discovery.foreign import FOREIGN, ForeignMark
from dynlog.discovery.importing import ROOTS, ForeignKey, Imported, import_keys
from dynlog.discovery.models import Entity
from dynlog.discovery.names import ModelName
from dynlog.discovery.tree import tree_lines
from dynlog.errors import DeadlineExceeded
from dynlog.kv import Bucket, BucketSettings, open_kv
from dynlog.open import open_log
from dynlog.testing.etcd import EtcdServer
from tests.adapters.etcd_writer import EtcdWriter
from tests.cli.process import dynlog
from tests.discovery.backend import FoldLease, directory, dynamo_card, dynamo_instance, name


async def import_from(url: str, there: Directory) -> Imported:
    """As the command does it."""
    place = etcd_place(url, {})
    image = await read_etcd(place, [root.encode() for root in ROOTS])
    keys = [ForeignKey(e.key, e.value, e.mod_revision, e.lease, image.leases.get(e.lease)) for e in image.entries]
    return await import_keys(there.bucket, place.shown, keys)


def foreign(value: bytes = b"", key: str | bytes = "", revision: int = 1) -> ForeignKey:
    key = key or name().key
    return ForeignKey(key if isinstance(key, bytes) else key.encode(), value or dynamo_instance(name()), revision)


def counts(done: Imported) -> tuple[int, int, int, int]:
    return done.added, done.changed, done.unchanged, done.removed


async def test_a_fleet_in_etcd_is_taken_over_as_it_is_and_followed_by_running_it_again(tmp_path: Path) -> None:
    card = ModelName(name(), "lora-a")
    async with EtcdServer(tmp_path) as server, EtcdWriter(server.url) as etcd, directory() as there:
        lease = await etcd.grant(600)
        await etcd.put(name().key.encode(), dynamo_instance(name()), lease=lease)
        await etcd.put(name(5).key.encode(), dynamo_instance(name(5)))
        await etcd.put(card.key.encode(), dynamo_card(card), lease=lease)
        await etcd.put(b"v1/event_channels/x", b"not asked for")

        done = await import_from(server.url, there)
        assert counts(done) == (3, 0, 0, 0)
        assert (done.leased, done.kept, done.refused) == (2, {}, {})
        for key, value in ((name().key, dynamo_instance(name())), (card.key, dynamo_card(card))):
            entry = await there.bucket.get(key)
            assert entry is not None
            assert (entry.value, entry.lease) == (value, ""), "byte for byte, and on no lease of ours"
        listing = await there.list()
        marked, free = listing.entities[1], listing.entities[0]
        assert marked.foreign is not None
        assert (marked.foreign.source, marked.foreign.lease) == (server.url, lease)
        assert marked.foreign.lease_left_s is not None
        assert free.foreign is not None
        assert (free.foreign.lease, free.foreign.lease_left_s) == (0, None)
        assert [found.entity.foreign for found in listing.entities] == [True, True]

        revision = there.bucket.revision
        assert counts(await import_from(server.url, there)) == (0, 0, 3, 0)
        assert there.bucket.revision == revision, "nothing at all"

        await etcd.put(name(5).key.encode(), dynamo_instance(name(5), "10.0.0.9:1"))
        await etcd.put(name(6).key.encode(), dynamo_instance(name(6)))
        await etcd.revoke(lease)
        assert counts(await import_from(server.url, there)) == (1, 1, 0, 2)
        assert [found.name.instance_id for found in (await there.list()).entities] == [5, 6]
        assert {e.key for e in await there.bucket.entries(FOREIGN)} == {FOREIGN + name(5).key, FOREIGN + name(6).key}


async def test_what_was_registered_or_written_here_or_comes_from_elsewhere_is_not_written_over_nor_removed() -> None:
    async with directory() as there:
        lease = await FoldLease.grant(there.bucket)
        await there.bucket.put(name(2).key, dynamo_instance(name(2), "by hand"))
        await import_keys(there.bucket, "http://other:2379", [foreign(dynamo_instance(name(3)), name(3).key)])
        async with there.register(Entity.of(name(1)), lease):
            keys = [foreign(dynamo_instance(name(n), "etcd's"), name(n).key) for n in (1, 2, 3)]
            done = await import_keys(there.bucket, "http://etcd:2379", keys)
            assert counts(done) == (0, 0, 0, 0)
            assert done.kept == {
                name(1).key: "registered here",
                name(2).key: "written here by somebody",
                name(3).key: "imported from http://other:2379",
            }
            assert counts(await import_keys(there.bucket, "http://etcd:2379", [])) == (0, 0, 0, 0)
            assert len((await there.list()).entities) == 3
            assert [entry.key for entry in await there.bucket.entries(FOREIGN)] == [FOREIGN + name(3).key]


async def test_who_registers_in_the_place_of_an_imported_entity_is_not_undone_by_the_next_import() -> None:
    async with directory() as there:
        await import_keys(there.bucket, "etcd", [foreign()])
        async with there.register(Entity.of(name()), await FoldLease.grant(there.bucket)):
            assert await there.bucket.get(FOREIGN + name().key) is None
            assert (await import_keys(there.bucket, "etcd", [foreign(revision=2)])).kept.keys() == {name().key}
            assert counts(await import_keys(there.bucket, "etcd", [])) == (0, 0, 0, 0)
            found = await there.get(name())
            assert found is not None
            assert not found.entity.foreign


async def test_a_mark_that_was_left_beside_a_registration_says_nothing_of_it() -> None:
    async with directory() as there, there.register(Entity.of(name()), await FoldLease.grant(there.bucket)):
        await there.bucket.put(FOREIGN + name().key, ForeignMark(source="etcd", mod_revision=1).to_bytes())
        (found,) = (await there.list()).entities
        assert found.foreign is None


async def test_that_a_lease_ended_over_there_is_noted_and_its_passing_seconds_are_not() -> None:
    async with directory() as there:
        key = replace(foreign(), lease=7, lease_left_s=9)
        await import_keys(there.bucket, "etcd", [key])
        assert counts(await import_keys(there.bucket, "etcd", [replace(key, lease_left_s=8)])) == (0, 0, 1, 0)
        assert counts(await import_keys(there.bucket, "etcd", [replace(key, lease_left_s=None)])) == (0, 1, 0, 0)
        (line,) = [line for line in tree_lines(await there.list()) if "foreign" in line]
        assert line.endswith("(from etcd, lease 7 there, which had ended)")


async def test_what_cannot_be_taken_over_is_named_and_the_rest_is() -> None:
    async with directory() as there:
        keys = [
            foreign(),
            foreign(key=b"v1/instances/\xff/c/e/1"),
            foreign(key="v1/instances/n/c/e/not-hex"),
            foreign(b"x" * (2 << 20), key=name(7).key),
        ]
        done = await import_keys(there.bucket, "etcd", keys)
        assert done.added == 1
        assert sorted(done.refused) == ["v1/instances/\\xff/c/e/1", name(7).key, "v1/instances/n/c/e/not-hex"]
        assert [found.name for found in (await there.list()).entities] == [name()]
        assert await there.bucket.get(FOREIGN + name(7).key) is None


async def test_a_key_for_whose_mark_there_is_no_room_is_refused_and_the_rest_is_taken_over() -> None:
    long = name(0xFFFF_FFFF).key
    async with open_log("memory://") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create("discovery", BucketSettings(max_key_bytes=len(long)))
        keys = [foreign(dynamo_instance(name(0xFFFF_FFFF)), long), foreign(b"{}", "v1/instances/n/c/e/1")]
        done = await import_keys(bucket, "etcd", keys)
        assert counts(done) == (1, 0, 0, 0)
        assert list(done.refused) == [long]
        assert "cannot be marked" in done.refused[long]
        assert await bucket.get(long) is None


async def test_two_keys_that_spell_one_id_are_not_both_taken_over() -> None:
    async with directory() as there:
        padded = name().key.replace("4d2", "04D2")
        done = await import_keys(there.bucket, "etcd", [foreign(), foreign(key=padded)])
        assert (done.added, list(done.refused)) == (1, [padded])
        assert [found.name for found in (await there.list()).entities] == [name()]


@pytest.mark.parametrize("leased", [False, True])
async def test_what_somebody_writes_in_the_moment_of_the_import_is_not_taken_over_by_the_next_one(
    leased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ModelName(name())
    source, ours = [foreign(dynamo_card(card, "theirs"), card.key)], dynamo_card(card, "ours")
    async with directory() as there:
        lease = (await FoldLease.grant(there.bucket)).id if leased else ""
        create = Bucket.create

        async def beaten(self: Bucket, key: str, value: bytes, **rest: Any) -> int:
            await self.put(key, ours)
            return await create(self, key, value, **rest)

        with monkeypatch.context() as patched:
            patched.setattr(Bucket, "create", beaten)
            done = await import_keys(there.bucket, "etcd", source, lease=lease)
            assert done.kept == {card.key: "written by somebody in the same moment"}
        for keys, kept in ((source, {card.key: "written here by somebody"}), ([], {})):
            assert (await import_keys(there.bucket, "etcd", keys, lease=lease)).kept == kept
            entry = await there.bucket.get(card.key)
            assert entry is not None
            assert entry.value == ours
        assert await there.bucket.entries(FOREIGN) == []


async def test_of_two_imports_of_one_source_at_once_the_slower_one_leaves_the_mark_of_the_faster_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with directory() as there:
        lease = (await FoldLease.grant(there.bucket)).id
        create = Bucket.create

        async def beaten(self: Bucket, key: str, value: bytes, **rest: Any) -> int:
            await self.put(key, dynamo_instance(name(), "newer:1"), lease=lease)
            return await create(self, key, value, **rest)

        with monkeypatch.context() as patched:
            patched.setattr(Bucket, "create", beaten)
            await import_keys(there.bucket, "etcd", [foreign()], lease=lease)
        assert await there.bucket.get(FOREIGN + name().key) is not None
        assert counts(await import_keys(there.bucket, "etcd", [], lease=lease)) == (0, 0, 0, 1)


async def test_an_imported_value_that_grows_over_the_limit_stays_as_it_was_and_stays_the_imports() -> None:
    async with directory() as there:
        await import_keys(there.bucket, "etcd", [foreign()])
        assert (await import_keys(there.bucket, "etcd", [foreign(b"x" * (2 << 20), revision=2)])).refused.keys() == {
            name().key
        }
        entry = await there.bucket.get(name().key)
        assert entry is not None
        assert entry.value == dynamo_instance(name())
        assert counts(await import_keys(there.bucket, "etcd", [foreign(b"{}", revision=3)])) == (0, 1, 0, 0)


async def test_an_import_that_was_killed_behind_a_mark_is_completed_by_the_next_one() -> None:
    async with directory() as there:
        done = await import_keys(there.bucket, "etcd", [foreign()])
        await there.bucket.delete(name().key)  # as if the value had never been written
        done = await import_keys(there.bucket, "etcd", [foreign()])
        assert counts(done) == (1, 0, 0, 0)
        await there.bucket.delete(name().key)
        assert counts(await import_keys(there.bucket, "etcd", [])) == (0, 0, 0, 0)
        assert await there.bucket.entries() == []


async def test_an_import_of_thousands_shares_appends_and_has_a_deadline() -> None:
    async with directory() as there:
        keys = [foreign(dynamo_instance(name(n)), name(n).key) for n in range(3_000)]
        assert (await import_keys(there.bucket, "etcd", keys)).added == 3_000
        assert len((await there.list()).entities) == 3_000
        with pytest.raises(DeadlineExceeded):
            await import_keys(there.bucket, "etcd", [], timeout=0.0)


async def test_the_commands_import_and_show_the_tree(tmp_path: Path) -> None:
    log = f"sqlite://{tmp_path}/fleet.db"
    async with EtcdServer(tmp_path / "etcd") as server, EtcdWriter(server.url) as etcd:
        lease = await etcd.grant(600)
        await etcd.put(name().key.encode(), dynamo_instance(name()), lease=lease)
        await etcd.put(ModelName(name()).key.encode(), dynamo_card(ModelName(name())))
        done = await dynlog("discovery", "import", "etcd", server.url, "--log", log, "--json")
        assert done.status == 0, done.err
        said = json.loads(done.out)
        assert (said["added"], said["leased"], said["source"], said["refused"]) == (2, 1, server.url, {})

        shown = await dynlog("entities", "--log", log)
        assert shown.out.splitlines() == [
            "dynamo",
            "  backend",
            "    generate",
            f"      4d2 (1234)  tcp=10.0.0.7:5555/x  foreign (from {server.url}, lease {lease:x} there)",
            "        model Qwen/Qwen3-0.6B",
        ]
        as_json = json.loads((await dynlog("entities", "--log", log, "--namespace", "dynamo", "--json")).out)
        assert as_json["entities"][0]["origin"]["lease"] == lease
        assert (await dynlog("entities", "--log", log, "--namespace", "other")).out == "no entities\n"

        await etcd.put(b"v1/instances/n/c/e/not-hex", b"{}")
        partly = await dynlog("discovery", "import", "etcd", server.url, "--log", log)
        assert partly.status == 3
        assert "unchanged        2" in partly.out
        assert "not-hex" in partly.err
    for arguments, status, says in (
        (("discovery", "import", "etcd", server.url, "--log", log), 1, "cannot be reached"),
        (("discovery", "import", "etcd", "ftp://x", "--log", log), 2, "begins with http"),
        (("discovery", "import", "etcd", server.url, "--log", log, "--timeout", "0s"), 2, "leaves no time"),
        (("entities", "--log", log, "--bucket", "none"), 1, "nobody has registered"),
        (("entities", "--log", log, "--bucket", "none", "--component", "c"), 2, "within its namespace"),
        (("entities", "--log", log, "--timeout", "0s"), 2, "leaves no time"),
        (("entities", "--log", log, "--component", "c"), 2, "within its namespace"),
    ):
        failed = await dynlog(*arguments)
        assert failed.status == status, failed.err
        assert says in failed.err
        assert len(failed.err.splitlines()) == 1
