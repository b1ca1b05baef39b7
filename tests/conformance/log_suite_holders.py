"""Holders and truncation: record-exact, never past who needs the log, unless forced, and then with an event."""

from __future__ import annotations

import os

import pytest

from dynlog.errors import ConfigurationError, OffsetTruncated, PartitionNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.timing import ManualClock
from dynlog.topics import EPHEMERAL_EXPIRY_S, NAMED_EXPIRY_S, Holder, HolderKind
from tests.conformance.backend import TOPIC, LogBackend, bodies, bounds, fill, kept_alive, numbered, records, stored

KINDS = list(HolderKind)


def holder(name: str, at: int, kind: HolderKind = HolderKind.NAMED) -> Holder:
    return Holder(name, kind, {0: at})


class TruncationSuite(LogBackend):
    async def test_truncation_is_record_exact_inside_an_append(self, log: Log) -> None:
        await fill(log, 6)
        await log.append(TOPIC, 0, records("r6", "r7"))
        for before in (1, 2, 5, 6, 7):
            done = await log.truncate(TOPIC, 0, before)
            assert (done.partition, done.earliest, done.requested, done.blocked_by) == (0, before, before, ())
            assert await bounds(log) == (before, 8)
            assert [item.offset for item in await stored(log)] == list(range(before, 8))

    async def test_a_read_below_the_start_names_the_earliest_offset(self, log: Log) -> None:
        await fill(log, 6)
        position = await log.position(TOPIC, 0)
        await log.truncate(TOPIC, 0, 4)
        for offset in (0, 3):
            with pytest.raises(OffsetTruncated) as caught:
                await log.read(position._replace(offset=offset), wait=5)
            assert (caught.value.topic, caught.value.partition) == (TOPIC, 0)
            assert (caught.value.offset, caught.value.earliest) == (offset, 4)
        assert list((await log.read(position._replace(offset=4))).offsets) == [4, 5]

    async def test_truncation_to_the_end_empties_and_offsets_go_on(self, log: Log) -> None:
        await fill(log, 4)
        assert (await log.truncate(TOPIC, 0, 4)).earliest == 4
        assert await bodies(log) == []
        assert await bounds(log) == (4, 4)
        assert (await log.append(TOPIC, 0, records("next"))).offsets == (4,)
        assert await bodies(log) == ["next"]

    async def test_a_start_and_an_end_survive_reopening_of_an_emptied_partition(self, log_url: str) -> None:
        async with kept_alive(log_url):
            async with open_log(log_url) as log:
                await fill(log, 4)
                await log.truncate(TOPIC, 0, 4)
            async with open_log(log_url) as log:
                assert await bounds(log) == (4, 4)
                assert (await log.append(TOPIC, 0, records("next"))).offsets == (4,)

    async def test_truncation_below_the_start_changes_nothing(self, log: Log) -> None:
        await fill(log, 6)
        await log.truncate(TOPIC, 0, 3)
        for before in (0, 2, 3):
            assert (await log.truncate(TOPIC, 0, before)).earliest == 3
        assert await bounds(log) == (3, 6)

    async def test_truncation_of_one_partition_leaves_the_others(self, log: Log) -> None:
        await fill(log, 3, partitions=2)
        await log.append(TOPIC, 1, numbered(3))
        await log.truncate(TOPIC, 0, 2)
        assert (await bounds(log), await bounds(log, TOPIC, 1)) == ((2, 3), (0, 3))

    async def test_truncation_gives_back_what_the_records_took(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        for _ in range(10):
            await log.append(TOPIC, 0, [Record(parts=(os.urandom(50_000),))])
        before = (await log.partitions(TOPIC))[0].bytes
        await log.truncate(TOPIC, 0, 9)
        after = (await log.partitions(TOPIC))[0].bytes
        assert before >= 500_000
        assert 50_000 <= after <= 60_000

    async def test_a_truncation_is_seen_through_another_handle(self, log: Log, log_url: str) -> None:
        await fill(log, 4)
        async with open_log(log_url) as other:
            position = await other.position(TOPIC, 0, 1)
            await other.read(position)
            await log.truncate(TOPIC, 0, 3)
            with pytest.raises(OffsetTruncated):
                await other.read(position)


class HoldersSuite(LogBackend):
    @pytest.mark.parametrize("kind", KINDS)
    async def test_truncation_stops_at_a_holder_and_names_it(self, log: Log, kind: HolderKind) -> None:
        await fill(log, 6)
        await log.hold(TOPIC, holder("h", 3, kind))
        done = await log.truncate(TOPIC, 0, 5)
        assert (done.earliest, done.requested, done.blocked_by) == (3, 5, ("h",))
        assert await bodies(log) == ["r3", "r4", "r5"]

    async def test_truncation_stops_at_the_slowest_of_many_holders(self, log: Log) -> None:
        await fill(log, 6)
        await log.hold(TOPIC, holder("fast", 6))
        await log.hold(TOPIC, holder("slow", 2))
        done = await log.truncate(TOPIC, 0, 5)
        assert done.earliest == 2
        assert "slow" in done.blocked_by
        assert "fast" not in done.blocked_by

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_holder_that_moves_lets_truncation_go_on(self, log: Log, kind: HolderKind) -> None:
        await fill(log, 6)
        await log.hold(TOPIC, holder("h", 1, kind))
        await log.hold(TOPIC, holder("h", 4, kind))
        assert (await log.truncate(TOPIC, 0, 6)).earliest == 4

    async def test_a_holder_may_move_back_to_what_is_still_there(self, log: Log) -> None:
        await fill(log, 6)
        await log.hold(TOPIC, holder("h", 5))
        await log.hold(TOPIC, holder("h", 2))
        assert (await log.truncate(TOPIC, 0, 6)).earliest == 2
        with pytest.raises(OffsetTruncated):
            await log.hold(TOPIC, holder("h", 1))

    async def test_a_released_holder_holds_nothing_and_releasing_it_again_is_harmless(self, log: Log) -> None:
        await fill(log, 6)
        await log.hold(TOPIC, holder("h", 1))
        await log.release(TOPIC, "h")
        await log.release(TOPIC, "h")
        await log.release(TOPIC, "never there")
        assert await log.holders(TOPIC) == []
        assert (await log.truncate(TOPIC, 0, 6)).blocked_by == ()
        assert await log.events(TOPIC) == []

    async def test_partitions_that_a_holder_does_not_name_are_not_held(self, log: Log) -> None:
        await fill(log, 3, partitions=2)
        await log.append(TOPIC, 1, numbered(3))
        await log.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: 1, 1: 1}))
        assert (await log.truncate(TOPIC, 1, 3)).earliest == 1
        await log.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: 1}))
        assert (await log.truncate(TOPIC, 1, 3)).earliest == 3
        assert (await log.truncate(TOPIC, 0, 3)).earliest == 1

    async def test_a_holder_below_the_start_is_refused_and_holds_nothing(self, log: Log) -> None:
        await fill(log, 6, partitions=2)
        await log.append(TOPIC, 1, numbered(3))
        await log.truncate(TOPIC, 0, 3)
        with pytest.raises(OffsetTruncated) as caught:
            await log.hold(TOPIC, Holder("h", HolderKind.PINNED, {1: 1, 0: 2}))
        assert (caught.value.partition, caught.value.offset, caught.value.earliest) == (0, 2, 3)
        assert await log.holders(TOPIC) == []
        await log.hold(TOPIC, holder("h", 3))

    async def test_a_holder_of_a_partition_out_of_range_or_an_illegal_name_is_refused(self, log: Log) -> None:
        await fill(log, 1)
        with pytest.raises(PartitionNotFound):
            await log.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: 0, 1: 0}))
        with pytest.raises(ConfigurationError):
            await log.hold(TOPIC, holder("not a name", 0))
        assert await log.holders(TOPIC) == []

    async def test_holders_are_listed_by_name_with_lag_and_last_heartbeat(self, timed: Log, clock: ManualClock) -> None:
        await fill(timed, 6, partitions=2)
        await timed.append(TOPIC, 1, numbered(4))
        pinned = Holder("snapshot", HolderKind.PINNED, {0: 6, 1: 4}, expires_after_s=None)
        follower = Holder("a.follower", HolderKind.EPHEMERAL, {0: 2, 1: 3}, expires_after_s=5.5, max_lag_bytes=10**9)
        await timed.hold(TOPIC, pinned)
        clock.advance(3)
        await timed.hold(TOPIC, follower)
        first, second = await timed.holders(TOPIC)
        assert (first.holder, second.holder) == (follower, pinned)
        assert (first.lag_records, second.lag_records) == (5, 0)
        assert (first.expired, second.expired) == (False, False)
        assert (first.last_seen_ms, second.last_seen_ms) == (clock.time_ms(), clock.time_ms() - 3000)

    async def test_a_holder_is_known_through_another_handle_and_after_reopening(self, log_url: str) -> None:
        async with kept_alive(log_url):
            async with open_log(log_url) as log, open_log(log_url) as other:
                await fill(log, 6)
                await log.hold(TOPIC, holder("h", 2, HolderKind.PINNED))
                assert (await other.truncate(TOPIC, 0, 6)).earliest == 2
            async with open_log(log_url) as log:
                assert (await log.truncate(TOPIC, 0, 6)).blocked_by == ("h",)
                assert [state.holder for state in await log.holders(TOPIC)] == [holder("h", 2, HolderKind.PINNED)]

    @pytest.mark.parametrize(
        ("kind", "told", "lives_s"),
        [
            (HolderKind.EPHEMERAL, None, EPHEMERAL_EXPIRY_S),
            (HolderKind.NAMED, None, NAMED_EXPIRY_S),
            (HolderKind.EPHEMERAL, 5.0, 5.0),
            (HolderKind.NAMED, 30 * 86_400.0, 30 * 86_400.0),
        ],
    )
    async def test_a_holder_blocks_until_it_expires_and_each_heartbeat_counts(
        self, timed: Log, clock: ManualClock, kind: HolderKind, told: float | None, lives_s: float
    ) -> None:
        await fill(timed, 6)
        mine = Holder("h", kind, {0: 2}, expires_after_s=told)
        await timed.hold(TOPIC, mine)
        clock.advance(lives_s - 1)
        await timed.hold(TOPIC, mine)
        clock.advance(lives_s - 1)
        assert (await timed.truncate(TOPIC, 0, 4)).blocked_by == ("h",)
        assert not (await timed.holders(TOPIC))[0].expired
        clock.advance(2)
        assert all(state.expired for state in await timed.holders(TOPIC))
        done = await timed.truncate(TOPIC, 0, 4)
        assert (done.earliest, done.blocked_by) == (4, ())

    async def test_a_pinned_holder_never_expires(self, timed: Log, clock: ManualClock) -> None:
        await fill(timed, 6)
        await timed.hold(TOPIC, holder("h", 2, HolderKind.PINNED))
        clock.advance(10 * 365 * 86_400.0)
        await timed.append(TOPIC, 0, records("much later"))
        await timed.enforce_retention(TOPIC)
        assert (await timed.truncate(TOPIC, 0, 6)).blocked_by == ("h",)
        assert [state.expired for state in await timed.holders(TOPIC)] == [False]

    async def test_an_expired_holder_is_dropped_with_an_event_and_its_next_read_is_told(
        self, timed: Log, clock: ManualClock
    ) -> None:
        await fill(timed, 6)
        position = await timed.position(TOPIC, 0, 2)
        await timed.hold(TOPIC, holder("lazy.router", 2, HolderKind.EPHEMERAL))
        clock.advance(EPHEMERAL_EXPIRY_S + 1)
        await timed.enforce_retention(TOPIC)
        assert await timed.holders(TOPIC) == []
        (event,) = await timed.events(TOPIC)
        assert "lazy.router" in event.detail
        assert (event.topic, event.time_ms) == (TOPIC, clock.time_ms())
        assert len(await timed.read(position)) == 4, "an expelled holder may read what was not truncated"
        await timed.truncate(TOPIC, 0, 4)
        with pytest.raises(OffsetTruncated):
            await timed.read(position)

    async def test_a_holder_that_keeps_more_than_its_bound_is_expelled_with_an_event(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, records("first"))
        bounded = Holder("slow", HolderKind.NAMED, {0: 0}, max_lag_bytes=100_000)
        await log.hold(TOPIC, bounded)
        await log.hold(TOPIC, Holder("patient", HolderKind.NAMED, {0: 1}, max_lag_bytes=10**9))
        await log.enforce_retention(TOPIC)
        assert [state.holder.name for state in await log.holders(TOPIC)] == ["patient", "slow"]
        for _ in range(4):
            await log.append(TOPIC, 0, [Record(parts=(os.urandom(50_000),))])
        await log.enforce_retention(TOPIC)
        assert [state.holder.name for state in await log.holders(TOPIC)] == ["patient"]
        assert "slow" in (await log.events(TOPIC))[0].detail
        assert (await log.truncate(TOPIC, 0, 5)).earliest == 1

    async def test_a_forced_truncation_goes_past_every_holder_and_leaves_an_event(
        self, timed: Log, clock: ManualClock
    ) -> None:
        await fill(timed, 6)
        position = await timed.position(TOPIC, 0, 2)
        await timed.hold(TOPIC, holder("h", 2, HolderKind.PINNED))
        done = await timed.truncate(TOPIC, 0, 5, force=True)
        assert (done.earliest, done.requested) == (5, 5)
        assert await bodies(timed) == ["r5"]
        events = await timed.events(TOPIC)
        assert events
        assert {(event.topic, event.time_ms) for event in events} == {(TOPIC, clock.time_ms())}
        assert any("h" in event.detail for event in events)
        with pytest.raises(OffsetTruncated):
            await timed.read(position)

    async def test_a_start_never_moves_back_to_a_holder_that_a_forced_truncation_went_past(self, log: Log) -> None:
        await fill(log, 6)
        await log.hold(TOPIC, holder("overrun", 2, HolderKind.PINNED))
        await log.truncate(TOPIC, 0, 4, force=True)
        assert (await log.truncate(TOPIC, 0, 5)).earliest in (4, 5)
        assert (await bounds(log))[0] in (4, 5)
        assert len(await bodies(log)) in (1, 2)

    async def test_truncation_drops_expired_holders_with_an_event_each(self, timed: Log, clock: ManualClock) -> None:
        await fill(timed, 6)
        for name in ("gone.a", "gone.b"):
            await timed.hold(TOPIC, holder(name, 1, HolderKind.EPHEMERAL))
        await timed.hold(TOPIC, holder("stays", 3))
        clock.advance(EPHEMERAL_EXPIRY_S + 1)
        done = await timed.truncate(TOPIC, 0, 6)
        assert (done.earliest, done.blocked_by) == (3, ("stays",))
        assert [state.holder.name for state in await timed.holders(TOPIC)] == ["stays"]
        events = sorted(event.detail for event in await timed.events(TOPIC))
        assert len(events) == 2
        assert "gone.a" in events[0]
        assert "gone.b" in events[1]

    async def test_events_are_kept_newest_thousand_oldest_first(self, timed: Log, clock: ManualClock) -> None:
        await fill(timed, 2)
        for number in range(1010):
            lives_s = 50.0 if number < 20 else 100.0 if number < 1000 else 150.0
            await timed.hold(TOPIC, Holder(f"h{number:04}", HolderKind.EPHEMERAL, {0: 0}, expires_after_s=lives_s))
        for _ in range(3):
            clock.advance(55)
            await timed.enforce_retention(TOPIC)
        events = await timed.events(TOPIC)
        assert [event.time_ms for event in events] == sorted(event.time_ms for event in events)
        assert len(events) == 1000
        assert all(any(f"h{number:04}" in event.detail for number in range(20)) for event in events[:10])
        assert all(any(f"h{number:04}" in event.detail for number in range(1000, 1010)) for event in events[-10:])
