"""When an observer takes a lease for abandoned, and when a holder stops: by clocks that the test turns."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.errors import ConfigurationError, LeaseLost
from dynlog.kv import Bucket, HeldLease, Leases, open_kv
from dynlog.kv.lease_fold import Lease
from dynlog.kv.lease_holder import HolderClock, margin
from dynlog.kv.lease_silence import AGAIN_S, Silence
from dynlog.open import open_log
from dynlog.timing import ManualClock


def lease(id: str, ttl_s: float = 3.0) -> Lease:
    return Lease(id, 0, "somebody", round(ttl_s * 1000), 0, 0)


LIVES = {"a": lease("a"), "b": lease("b")}


def looks(silence: Silence, start: float, stop: float, *news: str) -> list[str]:
    """Looks ten times a second, and whom that accuses; the news come with the first look."""
    found: list[str] = []
    for tenth in range(round(start * 10), round(stop * 10)):
        found += [one.id for one in silence.look(tenth / 10, news, LIVES)]
        news = ()
    return found


def test_a_lease_is_silent_once_nothing_was_heard_of_it_for_its_ttl_and_not_before() -> None:
    silence = Silence(0.0, LIVES.values())
    assert looks(silence, 0.1, 2.0, "a", "b") == []
    assert looks(silence, 2.0, 3.1, "b") == []
    assert looks(silence, 3.1, 3.2) == ["a"]
    assert looks(silence, 3.2, 5.0, "a") == []
    assert looks(silence, 5.0, 5.1) == ["b"]


def test_a_lease_that_still_lives_after_it_was_accused_is_accused_again() -> None:
    silence = Silence(0.0, LIVES.values())
    found = looks(silence, 0.1, 3.0 + 2 * AGAIN_S + 0.2)
    assert sorted(found) == ["a", "a", "a", "b", "b", "b"]


@pytest.mark.parametrize("pause", [1.1, 4.0, 3600.0])
def test_an_observer_that_was_stopped_hears_a_full_ttl_of_silence_before_it_accuses(pause: float) -> None:
    silence = Silence(0.0, LIVES.values())
    assert looks(silence, 0.1, 2.9) == []
    awake = 2.8 + pause
    assert looks(silence, awake, awake + 2.95) == []
    assert sorted(looks(silence, awake + 3.0, awake + 3.2)) == ["a", "b"]


def test_a_pause_that_is_short_for_a_lease_does_not_delay_its_expiry() -> None:
    long = {"long": lease("long", 30.0)}
    silence = Silence(0.0, long.values())
    found = [at for at in range(0, 60, 2) if silence.look(float(at), (), long)]
    assert found[0] == 30, "an observer that looks every 2 s only still accuses"


def test_what_is_remembered_is_bounded_by_the_leases_that_live() -> None:
    silence = Silence(0.0)
    for n in range(10_000):
        one = lease(f"l{n}", 86_400.0)
        silence.look(n / 1000, [one.id], {one.id: one})
    assert len(silence) < 200


# The holder's clock


@pytest.mark.parametrize("ttl_s", [0.2, 1.0, 3.0, 10.0, 60.0, 3600.0])
def test_the_margin_covers_clocks_that_part_as_fast_as_clocks_may(ttl_s: float) -> None:
    slow, fast = 1 - 600e-6, 1 + 600e-6  # the holder's clock and the observer's, against true time
    assert (ttl_s - margin(ttl_s)) / slow + min(ttl_s / 11, 0.45) < ttl_s / fast
    assert margin(ttl_s) < ttl_s / 3, "two heartbeats may be lost"


def test_the_holders_clock_goes_on_while_the_machine_sleeps() -> None:
    import time

    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this system has no such clock")
    assert abs(HolderClock().monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1.0


class Scene:
    """A holder on a clock of its own."""

    def __init__(self, bucket: Bucket, leases: Leases, clock: ManualClock) -> None:
        self.bucket, self.leases, self.clock = bucket, leases, clock

    async def grant(self, ttl_s: float = 9.0) -> HeldLease:
        return await self.leases.grant(ttl_s, "me")


@pytest.fixture
async def scene():  # type: ignore[no-untyped-def]
    clock = ManualClock()
    async with open_log("memory://") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create("things")
        async with Leases(bucket, clock=clock) as leases:
            yield Scene(bucket, leases, clock)


async def test_a_holder_stops_before_its_ttl_is_over_and_for_good(scene: Scene) -> None:
    held = await scene.grant(9.0)
    stop = 9.0 - margin(9.0)
    scene.clock.advance(stop - 0.001)
    assert held.held
    assert 0 < held.remaining <= 0.0011
    scene.clock.advance(0.002)
    assert held.remaining == 0
    with pytest.raises(LeaseLost, match="no heartbeat was acknowledged"):
        held.check()
    assert held.lost.is_set()
    held.renewed(scene.clock.monotonic())
    assert not held.held, "what the log says later changes nothing"
    assert held.id in scene.bucket.leases, "and in the log it still lives, until somebody says otherwise"


async def test_the_time_counts_from_the_send_of_a_heartbeat_not_from_its_answer(scene: Scene) -> None:
    held = await scene.grant(9.0)
    held.renewed(5.0)  # sent at 5, answered at 8
    scene.clock.advance(8.0)
    assert held.remaining == pytest.approx(5.0 + 9.0 - margin(9.0) - 8.0)


async def test_a_wall_clock_that_jumps_changes_nothing_for_a_holder(scene: Scene) -> None:
    held = await scene.grant(9.0)
    before = held.remaining
    scene.clock.advance(-86_400.0)
    assert held.remaining == before


async def test_a_ttl_that_nobody_could_keep_is_refused(scene: Scene) -> None:
    for ttl_s in (0.0, -1.0, 0.1, float("nan"), 1e12):
        with pytest.raises(ConfigurationError, match="ttl_s"):
            await scene.grant(ttl_s)
    assert scene.bucket.leases == {}


async def test_nothing_runs_on_behind_leases_that_were_closed() -> None:
    async with open_log("memory://") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create("things")
        before = asyncio.all_tasks()
        async with Leases(bucket) as leases:
            held = await leases.grant(5.0)
        assert asyncio.all_tasks() <= before | {asyncio.current_task()}
        assert held.lost.is_set()
        assert bucket.leases == {}
