"""The bucket's fold: every write decided by the order of the log, against an oracle; and the law of projections."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlog.errors import SnapshotCorrupt
from dynlog.kv.fold import KvFold, Verdict
from dynlog.kv.pictures import FIRST, Place, behind, next_pictures
from dynlog.kv.records import KEYS as KEYS_SECTION
from dynlog.kv.records import Beat, Create, Delete, Expire, Fact, Grant, Lapse, Purge, Put, Revoke, Update
from dynlog.kv.rows import Op
from dynlog.projection import Projection
from tests.kv.facts import FACTS, ListLog, aim, seen, take
from tests.kv.oracle import Oracle

HISTORIES = st.sampled_from([1, 1, 2, 3])
LISTS = st.one_of(st.lists(FACTS, max_size=60), st.lists(FACTS, min_size=30, max_size=60))


def grown(facts: list[Fact | None], history: int) -> ListLog:
    log = ListLog(history)
    for number, fact in enumerate(facts):
        log.append(aim(fact, log.fold), hole=number % 7 == 6)
    return log


def test_it_is_a_projection() -> None:
    assert isinstance(KvFold(), Projection)


@settings(max_examples=400, deadline=None)
@given(facts=LISTS, history=HISTORIES)
def test_the_fold_is_what_the_oracle_says(facts: list[Fact | None], history: int) -> None:
    log, oracle = grown(facts, history), Oracle(history)
    for fact, offset, time in log.facts:
        if fact is not None:
            oracle.take(fact, offset, time)
    assert seen(log.fold) == oracle.seen()
    assert log.fold.malformed == sum(fact is None for fact in facts)


@settings(max_examples=300, deadline=None)
@given(facts=LISTS, history=HISTORIES, cut=st.integers(0, 60), again=st.integers(0, 9), data=st.data())
def test_restoring_a_snapshot_and_folding_the_rest_equals_folding_all(
    facts: list[Fact | None], history: int, cut: int, again: int, data: Any
) -> None:
    log = grown(facts, history)
    live, restored = KvFold(history), KvFold(history)
    take(live, log.records[:cut])
    begun, parts = live.snapshot(), []
    for item in log.records[cut:]:  # the fold goes on while the snapshot is being written
        if data.draw(st.booleans()) and (part := next(begun, None)) is not None:
            parts.append(part)
        live.take(*item)
    restored.restore([*parts, *begun])
    take(restored, log.records[max(cut - again, 0) :])  # redelivered from before the cut
    assert seen(restored) == seen(live) == seen(log.fold)
    take(restored, log.records)
    assert seen(restored) == seen(log.fold)
    assert list(restored.snapshot()) == list(restored.snapshot())


@settings(max_examples=300, deadline=None)
@given(
    facts=st.lists(FACTS, min_size=5, max_size=60),
    history=HISTORIES,
    seed=st.integers(0, 2**32),
    most=st.sampled_from([70, 150, 400, 100_000]),
)
def test_a_log_that_was_compacted_and_truncated_folds_to_the_same(
    facts: list[Fact | None], history: int, seed: int, most: int
) -> None:
    """Two compactors that do not know of each other, writers between their steps, some compactors killed."""
    rng = random.Random(seed)
    log, start_of_complete = ListLog(history), [0]
    passes: list[list[Any]] = []  # [start, place]
    for fact in facts:
        log.append(aim(fact, log.fold))
        if rng.random() < 0.3 and len(passes) < 2:
            passes.append([log.end, FIRST])
        for running in passes[:]:
            for _ in range(rng.randrange(3)):
                if running in passes:
                    step(log, running, most, passes, start_of_complete, rng)
    for running in passes[:]:
        while running in passes:
            step(log, running, most, passes, start_of_complete, rng)
            log.append(aim(rng.choice(facts), log.fold))
    for start in start_of_complete:
        for begin in {start, rng.randint(0, start)} if start else {0}:
            fresh = log.folded_from(begin)
            assert fresh.complete
            assert seen(fresh) == seen(log.fold)
    assert log.fold.compacted == max(start_of_complete)


def step(
    log: ListLog, running: list[Any], most: int, passes: list[list[Any]], done: list[int], rng: random.Random
) -> None:
    """The next pictures of one compactor; now and then somebody comes between two of one key, or it is killed."""
    start, place = running
    pictures = next_pictures(log.fold, start, place, most)
    for number, picture in enumerate(pictures):
        if number and rng.random() < 0.2:
            log.append(Put("a", b"in between"))
            return  # it was refused, and begins the range anew
        log.append(picture)
    running[1] = behind(pictures[-1])
    if running[1] is None:
        done.append(start)
    if running[1] is None or rng.random() < 0.05:
        passes.remove(running)


def test_a_fold_that_begins_in_the_middle_is_not_complete_before_a_compaction_has_covered_all() -> None:
    log = ListLog(1)
    for number in range(5):
        log.append(Put(f"k{number}", b"v"))
    start = log.end
    place: Place | None = FIRST
    while place is not None:
        assert not log.folded_from(start).complete
        (picture,) = next_pictures(log.fold, start, place, 150)
        log.append(picture)
        place = behind(picture)
    assert log.folded_from(start).complete
    assert not log.folded_from(start + 1).complete


def test_pictures_of_one_range_between_which_somebody_wrote_do_not_count() -> None:
    log = ListLog(3)
    for value in (b"1" * 60, b"2" * 60, b"3" * 60):
        log.append(Put("k", value))
    start = log.end
    first, *_ = next_pictures(log.fold, start, Place(KEYS_SECTION, ""), 70)
    assert first.more
    log.append(first)
    log.append(Put("k", b"4"))
    place: Place | None = FIRST
    while place is not None:
        pictures = next_pictures(log.fold, start, place, 70)
        for picture in pictures:
            log.append(picture)
        place = behind(pictures[-1])
    assert seen(log.folded_from(start)) == seen(log.fold)


def verdicts(*facts: Fact) -> list[Verdict]:
    log = ListLog(1)
    return [log.append(fact).verdict for fact in facts]


def test_whoever_creates_second_loses_and_learns_the_revision_that_stands_there() -> None:
    log = ListLog(1)
    assert log.append(Create("k", b"1")) == (Verdict.WON, 0, 0)
    assert log.append(Create("k", b"2")) == (Verdict.EXISTS, 1, 0)
    assert log.fold.get("k") == ("k", b"1", 0, 0, 1, 0, "", 0, Op.PUT)


def test_an_update_wins_only_against_the_revision_that_it_names() -> None:
    log = ListLog(1)
    assert log.append(Update("k", b"0", 0)) == (Verdict.CONFLICT, 0, -1)
    assert log.append(Put("k", b"1")) == (Verdict.WON, 1, 1)
    assert log.append(Update("k", b"2", 0)) == (Verdict.CONFLICT, 2, 1)
    assert log.append(Update("k", b"3", 1)) == (Verdict.WON, 3, 3)
    assert log.append(Delete("k", 1)) == (Verdict.CONFLICT, 4, 3)
    assert log.append(Delete("k", 3)) == (Verdict.WON, 5, -1)
    assert log.append(Delete("k")) == (Verdict.MISSING, 6, -1)


def test_a_key_is_gone_with_its_lease_and_not_before() -> None:
    won, no_lease = Verdict.WON, Verdict.NO_LEASE
    assert verdicts(Put("k", b"", "l"), Grant("l", 9, "me"), Put("k", b"", "l")) == [no_lease, won, won]
    log = ListLog(2)
    for fact in (Grant("l", 9, "me"), Put("k", b"1", "l"), Put("m", b"2", "l"), Put("m", b"3")):
        log.append(fact)
    assert log.fold.keys_of("l") == {"k"}, "a value without a lease unbinds the key"
    assert log.append(Revoke("l")).verdict is won
    assert log.fold.get("k") is None
    assert log.fold.history("k") == []
    assert log.fold.get("m") is not None
    assert log.append(Revoke("l")).verdict is Verdict.MISSING


def test_an_expiry_is_void_if_a_newer_heartbeat_is_ahead_of_it() -> None:
    won, void = Verdict.WON, Verdict.VOID
    granted, beat = Grant("l", 9, "me"), Beat("p", ("l", "unknown"))
    assert verdicts(granted, beat, Expire("l", 0), Expire("l", 1), Expire("l", 9)) == [won, won, void, won, void]


def test_a_lease_granted_anew_has_a_higher_token_and_nothing_of_the_old_one() -> None:
    log = ListLog(1)
    for fact in (Grant("l", 9, "old"), Put("k", b"", "l"), Grant("l", 9, "thief"), Revoke("l"), Grant("l", 9, "new")):
        log.append(fact)
    assert log.fold.leases["l"][:5] == ("l", 4, "new", 9, 4)
    assert log.fold.keys_of("l") == frozenset()


def test_a_time_to_live_is_over_by_log_time_and_only_for_the_revision_that_is_named() -> None:
    log = ListLog(1)
    log.append(Put("k", b"", ttl_ms=6))
    assert log.fold.next_due_ms() == 6
    assert log.append(Lapse("k", 0)).verdict is Verdict.VOID, "log time is 3"
    assert log.append(Put("k", b"", ttl_ms=6)).verdict is Verdict.WON
    assert log.append(Lapse("k", 0)).verdict is Verdict.VOID, "that revision is gone"
    assert log.fold.due(11, 9) == []
    assert log.fold.due(12, 9) == [Lapse("k", 2)]
    assert log.append(Lapse("k", 2)).verdict is Verdict.WON
    assert log.fold.next_due_ms() is None


def test_a_purge_forgets_the_past_and_a_key_that_is_gone_altogether() -> None:
    log = ListLog(3)
    for fact in (Put("k", b"1"), Put("k", b"2"), Put("m", b"1"), Delete("m"), Purge("k"), Purge("m")):
        log.append(fact)
    assert [entry.value for entry in log.fold.history("k")] == [b"2"]
    assert list(log.fold.known()) == ["k"]


def test_a_key_that_is_made_anew_counts_from_there() -> None:
    log = ListLog(1)
    for fact in (Put("k", b"1"), Put("k", b"2"), Delete("k"), Create("k", b"3"), Put("k", b"4")):
        log.append(fact)
    entry = log.fold.get("k")
    assert entry is not None
    assert (entry.created, entry.changes, entry.revision) == (3, 2, 4)


@pytest.fixture(scope="module")
def snapshot() -> list[bytes]:
    log = ListLog(2)
    for n in range(2500):
        log.append(Put(f"k{n}", b"v" * (n % 9)))
    for fact in (Grant("l", 9, "me"), Put("k0", b"", "l", 7), Delete("k1"), Put("k2", b"", ttl_ms=1)):
        log.append(fact)
    return list(log.fold.snapshot())


def test_a_snapshot_that_is_cut_mixed_up_or_of_another_schema_is_refused_and_leaves_nothing(
    snapshot: list[bytes],
) -> None:
    assert len(snapshot) > 4
    fold = KvFold(2)
    for wrong in (
        [],
        snapshot[:1],
        snapshot[1:],
        snapshot[:-1],
        snapshot[::-1],
        [*snapshot, snapshot[1]],
        [*snapshot[:-1], snapshot[-1][:-1]],
        [*snapshot[:-1], b"\x09"],
        [snapshot[0].replace(b"kv/1", b"kv/9"), *snapshot[1:]],
    ):
        with pytest.raises(SnapshotCorrupt):
            fold.restore(wrong)
        assert len(fold) == 0
        assert not fold.complete
    fold.restore(snapshot)
    assert len(fold) == 2499
    assert list(fold.snapshot())[1:] != []


def test_a_key_that_had_a_lease_is_forgotten_when_it_is_gone_whatever_the_history() -> None:
    log = ListLog(history=3)
    log.append(Grant("l", 1000, "me"))
    for key, end in (("released", Revoke("l")), ("deleted", Delete("deleted")), ("lapsed", None)):
        if key == "lapsed":
            log.append(Grant("l", 1000, "me"))
        log.append(Put(key, b"1"))
        revision = log.append(Put(key, b"2", lease="l", ttl_ms=1)).revision
        assert len(log.fold.history(key)) == 2
        log.append(end or Lapse(key, revision))
        assert log.fold.history(key) == []
        log.append(Grant("l", 1000, "me"))
    assert log.fold.known() == []
    assert log.fold.rows == 0
    log.append(Put("stays", b"1", lease="l"))
    log.append(Put("stays", b"2"))
    log.append(Delete("stays"))
    assert [entry.op for entry in log.fold.history("stays")] == [Op.PUT, Op.PUT, Op.DELETE]
