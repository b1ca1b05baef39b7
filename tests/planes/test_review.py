"""Promises of live projections, rebuilds and snapshots that a hostile review once found broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import dynlog
from dynlog import Batch, LiveProjection, Retention, SnapshotPolicy, Snapshots
from dynlog.errors import MalformedEvent
from dynlog.objects import ObjectStore
from dynlog.replay import STATE_SECTION, Replayer
from dynlog.timing import ManualClock
from tests.planes.tally import Tally
from tests.planes.test_live import MANUAL, until
from tests.planes.test_replay import places, rebuild, say, snapshot


class Raises(Tally):
    """Raises once, half-way through a batch."""

    error: ClassVar[Exception | None] = None

    def apply(self, batch: Batch) -> None:
        for stored in batch:
            text = bytes(stored.record.parts[0]).decode()
            if text == "bad" and type(self).error is not None:
                error, type(self).error = type(self).error, None
                assert error is not None
                raise error
            self.seen.setdefault(batch.partition, []).append(text)


async def test_a_dynlog_error_out_of_a_fold_skips_no_record(tmp_path: Path) -> None:
    class Once(Raises):
        error: ClassVar[Exception | None] = MalformedEvent("field x")

    async with places(tmp_path) as (log, _, _clock), LiveProjection.open(log, "t", Once, "n", policy=MANUAL) as live:
        await live.ready(10)
        await say(log, 0, "a", "bad", "c")
        await until(lambda: Once.error is None)
        await say(log, 0, "d")
        await until(lambda: "d" in live.state.seen.get(0, []))
        assert live.state.seen == {0: ["a", "bad", "c", "d"]}, live.status()


async def test_no_snapshot_is_written_of_a_half_applied_batch(tmp_path: Path) -> None:
    class Once(Raises):
        error: ClassVar[Exception | None] = RuntimeError("a bug in the fold")

    async with places(tmp_path) as (log, objects, _clock):
        async with LiveProjection.open(log, "t", Once, "n", policy=MANUAL, objects=objects) as live:
            await live.ready(10)
            await say(log, 0, "a", "bad", "c")
            await until(lambda: Once.error is None)
            await live.snapshot()  # by hand, or because one was due
        rebuilt = await Replayer(log, "t", Once, snapshots=Snapshots(log, "t", objects, "n")).rebuild()
        await rebuilt.reader.close()
        assert rebuilt.state.seen == {0: ["a", "bad", "c"]}, rebuilt.report


async def test_caught_up_means_the_topic_that_is_there_now(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, _, _clock), LiveProjection.open(log, "t", Tally, "n", policy=MANUAL) as live:
        await live.ready(10)
        await say(log, 0, *"abcdef")
        await live.caught_up(10)
        await log.delete_topic("t")
        await log.create_topic("t", partitions=2)
        await say(log, 0, "new")
        await live.caught_up(10)
        assert live.state.seen == {0: ["new"]}


async def test_a_snapshot_writer_survives_an_error_that_is_not_ours(tmp_path: Path) -> None:
    class Once(Tally):
        broken = True

        def snapshot(self) -> Iterator[bytes]:
            if type(self).broken:
                type(self).broken = False
                raise OSError("the disk hiccuped")
            return super().snapshot()

    policy = SnapshotPolicy(every_records=1, every_bytes=None, every_s=None)
    async with (
        places(tmp_path) as (log, objects, _clock),
        LiveProjection.open(log, "t", Once, "n", policy=policy, objects=objects) as live,
    ):
        await live.ready(10)
        await say(log, 0, "a")
        await until(lambda: not Once.broken)
        await say(log, 0, "b")
        await until(lambda: live.status().snapshots > 0)


async def test_gc_spares_the_snapshots_of_another_log_in_the_same_store(tmp_path: Path) -> None:
    """Two hosts, a SQLite log each, one bucket: what the design calls the usual deployment."""
    clock = ManualClock()
    async with (
        dynlog.open_log("memory://", clock=clock) as one,
        dynlog.open_log("memory://", clock=clock) as two,
        dynlog.open_objects(f"file://{tmp_path}/objects", clock=clock) as objects,
    ):
        for log in (one, two):
            await log.create_topic("t", partitions=2)
            await say(log, 0, "a", "b")
        await snapshot(one, objects, clock)
        await one.truncate("t", 0, 2, force=True)
        clock.advance(25 * 3600)  # a quiet day on host one: nothing to snapshot
        await snapshot(two, objects, clock)
        await Snapshots(two, "t", objects, "tally", clock=clock).gc()
        assert (await rebuild(one, objects)).state.seen == {0: ["a", "b"]}


class Meddling:
    """An object store during whose first get somebody else does something."""

    def __init__(self, objects: ObjectStore, meddle: Any) -> None:
        self._objects, self._meddle = objects, meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    async def get(self, key: str, **options: Any) -> AsyncIterator[bytes]:
        meddle, self._meddle = self._meddle, None
        if meddle is not None:
            await meddle()
        async for piece in self._objects.get(key, **options):
            yield piece


async def test_a_cold_router_is_not_told_unrecoverable_because_others_snapshotted_meanwhile(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a")
        await snapshot(log, objects, clock)

        async def others() -> None:
            for text in "bcde":
                await say(log, 0, text)
                await snapshot(log, objects, clock)
            await Snapshots(log, "t", objects, "tally", clock=clock).gc()
            await log.truncate("t", 0, 4)

        cold = Snapshots(log, "t", Meddling(objects, others), "tally", clock=clock)  # type: ignore[arg-type]
        rebuilt = await Replayer(log, "t", Tally, snapshots=cold).rebuild()
        await rebuilt.reader.close()
        assert rebuilt.state.seen == {0: list("abcde")}


async def test_a_load_so_slow_that_its_holder_expired_ends_in_the_right_state_with_a_holder(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        dynlog.open_log("memory://", clock=clock) as log,
        dynlog.open_objects("memory://", clock=clock) as objects,
    ):
        await log.create_topic("t", partitions=2, retention=Retention(max_age_s=60))
        await say(log, 0, "a")
        await snapshot(log, objects, clock)

        async def ten_minutes() -> None:
            for _ in range(21):  # the others' life goes on
                clock.advance(30)
                await say(log, 0, "x")
                await asyncio.sleep(0.001)
            await snapshot(log, objects, clock)
            await snapshot(log, objects, clock)
            await log.enforce_retention("t")

        cold = Replayer(log, "t", Tally, snapshots=Snapshots(log, "t", Meddling(objects, ten_minutes), "tally"))  # type: ignore[arg-type]
        rebuilt = await cold.rebuild()
        await rebuilt.reader.close()
        assert rebuilt.state.seen[0] == (["a"] + ["x"] * 21)[: rebuilt.reader.positions[0].offset]
        assert cold.holder in [state.holder.name for state in await log.holders("t")]


async def test_a_snapshot_part_over_the_bound_never_counts_as_verified(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a")
        rebuilt = await rebuild(log, objects)
        store = Snapshots(log, "t", objects, "tally", clock=clock)
        try:
            await store.write({STATE_SECTION: iter([bytes((64 << 20) + 1)])}, "tally/1", rebuilt.reader.positions)
        except dynlog.DynlogError:
            return
        assert not [state for state in await store.known() if state.verified]


async def test_a_retention_is_refused_if_snapshots_by_records_are_the_only_cadence(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        policy = SnapshotPolicy(keep=0)
        try:
            policy.check(Retention())
        except dynlog.DynlogError:
            return
        for text in "abcde":
            await say(log, 0, text)
            await snapshot(log, objects, clock)
        store = Snapshots(log, "t", objects, "tally", clock=clock)
        await store.gc(keep=policy.keep)
        assert len(list(await store.known())) <= 1, "keep=0 keeps everything, for ever"
