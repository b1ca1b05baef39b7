"""The fold of replies: the first outcome is the answer, what is gone is expired, and the law of projections."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlog.batch import Batch
from dynlog.codec import Columns
from dynlog.errors import SnapshotCorrupt
from dynlog.network.frames import Code
from dynlog.network.log_records import (
    BARRIER,
    CREDIT,
    DATA,
    END,
    ERROR,
    GOAWAY,
    KEPT_MS,
    TOMBSTONE,
    ident_of,
    pack,
)
from dynlog.network.reply_cache import BY_CALLER, Known, ReplyCache
from dynlog.projection import Projection
from dynlog.record import Control

ME, OTHER = b"m" * 16, b"o" * 16
CALLERS = [b"a" * 16, b"b" * 16]


class Fact(NamedTuple):
    control: Control
    key: bytes
    meta: tuple[Any, ...] | list[Any] | None
    effects: bytes | None = None
    later_ms: int = 0


def batch_of(facts: list[Fact], first: int = 0, time_ms: int = 1000) -> Batch:
    times: list[int] = []
    for fact in facts:
        time_ms += fact.later_ms
        times.append(time_ms)
    bodies: list[list[bytes]] = []
    for fact in facts:
        head = b"\xc1noise" if fact.meta is None else pack(fact.meta)
        bodies.append([head, b"reply", fact.effects] if fact.effects is not None else [head, b"reply"])
    columns = Columns([fact.key for fact in facts], bodies, None, bytes(fact.control for fact in facts), None, [])
    end = first + len(facts)
    return Batch("t.replies", "i", 0, list(range(first, end)), times, columns, end, end)


def said(name: str, request: int = 0, *, deadline_ms: int = 5000, target: bytes = ME, later_ms: int = 0) -> Fact:
    return Fact(END, CALLERS[0], (target, name, request, deadline_ms, False), None, later_ms)


def folded(*facts: Fact) -> ReplyCache:
    cache = ReplyCache(ME)
    cache.apply(batch_of(list(facts)))
    return cache


def ident(name: str) -> bytes:
    return ident_of(CALLERS[0], name)


NAMES, OFFSETS = st.sampled_from(["x", "y", "z"]), st.integers(0, 30)
KEYS, TARGETS = st.sampled_from(CALLERS), st.sampled_from([ME, ME, ME, OTHER])
LATER = st.sampled_from([0, 0, 1, 61_000, KEPT_MS])
DEADLINES = st.integers(0, 3 * KEPT_MS)
FACTS = st.one_of(
    st.builds(
        lambda t, n, r, d, k, e, late: Fact(END, k, (t, n, r, d, False), e, late),
        TARGETS, NAMES, OFFSETS, DEADLINES, KEYS, st.sampled_from([None, b"effects"]), LATER,
    ),
    st.builds(
        lambda t, n, r, d, c, k, late: Fact(ERROR, k, (t, n, r, d, c[0], c[1], "text"), None, late),
        TARGETS, NAMES, OFFSETS, DEADLINES,
        st.sampled_from([(Code.FAILED, "E"), (Code.OVERLOADED, ""), (Code.CANCELLED, BY_CALLER)]), KEYS, LATER,
    ),
    st.builds(lambda t, n, r, d, k: Fact(DATA, k, (t, n, r, d, 0)), TARGETS, NAMES, OFFSETS, DEADLINES, KEYS),
    st.builds(lambda k, ns: Fact(TOMBSTONE, k, [(ME, n) for n in ns]), KEYS, st.lists(NAMES, max_size=3)),
    st.builds(lambda t, o: Fact(BARRIER, t, (t, o)), TARGETS, OFFSETS),
    st.builds(lambda t, o: Fact(GOAWAY, t, (t, o)), TARGETS, OFFSETS),
    st.builds(lambda t, o, a: Fact(CREDIT, t, (t, o, a)), TARGETS, OFFSETS, OFFSETS),
    st.builds(lambda k: Fact(END, k, None), KEYS),
)  # fmt: skip


def seen(cache: ReplyCache) -> list[bytes]:
    return list(cache.snapshot())


def test_it_is_a_projection() -> None:
    assert isinstance(ReplyCache(ME), Projection)


@settings(max_examples=400, deadline=None)
@given(facts=st.lists(FACTS, max_size=40), cut=st.integers(0, 40), again=st.integers(0, 9), data=st.data())
def test_restoring_a_snapshot_and_folding_the_rest_equals_folding_all(
    facts: list[Fact], cut: int, again: int, data: Any
) -> None:
    facts = facts + facts[:again]  # what is said once more
    everything = batch_of(facts)
    whole, live, restored = ReplyCache(ME), ReplyCache(ME), ReplyCache(ME)
    whole.apply(everything)
    cut = min(cut, len(facts))
    live.apply(everything.slice(0, cut))
    begun, parts = live.snapshot(), []
    for number in range(cut, len(facts)):  # the fold goes on while the snapshot is being written
        if data.draw(st.booleans()) and (part := next(begun, None)) is not None:
            parts.append(part)
        live.apply(everything.slice(number, number + 1))
    restored.restore([*parts, *begun])
    restored.apply(everything.slice(cut, len(facts)))
    assert seen(restored) == seen(live) == seen(whole)


def test_the_first_outcome_is_the_answer_and_only_its_effects_are() -> None:
    first = said("x", 3)._replace(effects=b"first")
    cache = folded(first, said("x", 3)._replace(effects=b"second"), said("x", 7))
    known, answer = cache.find(ident("x"), 9)
    assert known is Known.ANSWERED
    assert answer is not None
    assert (answer.request, answer.first, answer.last) == (3, 0, 0)
    assert cache.effects == {0: b"first"}


def test_replies_of_another_target_are_none_of_its() -> None:
    assert folded(said("x", target=OTHER)).find(ident("x"), 1) == (Known.NEW, None)


def test_an_acknowledged_reply_is_expired() -> None:
    cache = folded(said("x", 3), Fact(TOMBSTONE, CALLERS[0], [(ME, "x")]))
    assert cache.find(ident("x"), 9)[0] is Known.EXPIRED
    assert cache.find(ident("x"), 3)[0] is Known.ANSWERED  # the same request, read again: nothing is to be said


def test_what_is_said_after_an_acknowledgement_revives_nothing() -> None:
    cache = folded(said("x", 3), Fact(TOMBSTONE, CALLERS[0], [(ME, "x")]), said("x", 3)._replace(effects=b"late"))
    assert cache.find(ident("x"), 9)[0] is Known.EXPIRED
    assert not cache.effects


def test_nobody_acknowledges_for_another_caller() -> None:
    cache = folded(said("x", 3), Fact(TOMBSTONE, CALLERS[1], [(ME, "x")]))
    assert cache.find(ident("x"), 9)[0] is Known.ANSWERED


@pytest.mark.parametrize(("later_ms", "known"), [(KEPT_MS - 1, Known.ANSWERED), (KEPT_MS + 1, Known.EXPIRED)])
def test_a_reply_lives_for_an_hour_of_log_time_past_its_deadline(later_ms: int, known: Known) -> None:
    cache = folded(said("x", 3, deadline_ms=1000), said("y", 4, later_ms=later_ms))
    assert cache.find(ident("x"), 9)[0] is known


def test_a_call_that_was_refused_is_a_new_one_when_it_is_made_again() -> None:
    refused = Fact(ERROR, CALLERS[0], (ME, "x", 3, 5000, int(Code.OVERLOADED), "", ""))
    cache = folded(refused)
    assert cache.find(ident("x"), 9)[0] is Known.NEW
    assert cache.find(ident("x"), 3)[0] is Known.ANSWERED
    cache.apply(batch_of([said("x", 9)], first=1))
    assert cache.find(ident("x"), 10)[0] is Known.ANSWERED


def test_a_stream_without_its_end_is_broken() -> None:
    assert folded(Fact(DATA, CALLERS[0], (ME, "x", 3, 5000, 0))).find(ident("x"), 3)[0] is Known.BROKEN


def test_a_request_may_have_been_begun_by_each_owner_that_could_have_read_it() -> None:
    cache = folded(Fact(BARRIER, ME, (ME, 5)))
    assert cache.begun(3) == 0  # nobody served before the first owner
    cache.apply(batch_of([Fact(BARRIER, ME, (ME, 10)), Fact(BARRIER, ME, (ME, 20))], first=1))
    assert [cache.begun(offset) for offset in (3, 9, 10, 19, 20)] == [2, 2, 1, 1, 0]


def test_an_owner_that_said_where_it_stopped_has_begun_nothing_behind_that() -> None:
    cache = folded(Fact(BARRIER, ME, (ME, 0)), Fact(GOAWAY, ME, (ME, 4)), Fact(BARRIER, ME, (ME, 10)))
    assert [cache.begun(offset) for offset in (3, 4, 9)] == [1, 0, 0]


def test_effects_are_kept_until_they_are_said_to_be_appended() -> None:
    cache = folded(said("x")._replace(effects=b"1"), said("y")._replace(effects=b"2"))
    cache.apply(batch_of([Fact(CREDIT, ME, (ME, 1, 0))], first=2))
    assert cache.effects == {1: b"2"}


def test_a_snapshot_of_another_target_or_a_damaged_one_is_refused_and_leaves_nothing() -> None:
    parts = list(folded(said("x")).snapshot())
    for wrong in ([], [b"\xc1"], parts[:1], [parts[0], b"\x90"]):
        cache = folded(said("y"))
        with pytest.raises(SnapshotCorrupt):
            cache.restore(wrong)
        assert seen(cache) == seen(ReplyCache(ME))
    with pytest.raises(SnapshotCorrupt):
        ReplyCache(OTHER).restore(parts)
