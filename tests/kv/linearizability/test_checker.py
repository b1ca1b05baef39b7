"""The checker finds every class of anomaly, accuses no sound history, and agrees with brute force on any small one."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kv.linearizability import checker
from tests.kv.linearizability.brute_force import linearizable
from tests.kv.linearizability.checker import Undecided, check, check_key
from tests.kv.linearizability.history import Kind, Operation, Outcome, Recorder, read_history

GET, PUT, CREATE, UPDATE, DELETE = Kind
OK, EXISTS, CONFLICT, ABSENT, FAILED, UNKNOWN = Outcome


def op(
    kind: Kind,
    invoked: int,
    returned: int | None,
    outcome: Outcome,
    value: str | None = None,
    *,
    at: int | None = None,
    expected: int | None = None,
) -> Operation:
    return Operation("p", "k", kind, invoked, returned, outcome, value, expected, at)


SOUND = {
    "nothing happened": [],
    "one after the other": [
        op(GET, 0, 1, ABSENT),
        op(CREATE, 2, 3, OK, "a", at=0),
        op(UPDATE, 4, 5, OK, "b", at=1, expected=0),
        op(GET, 6, 7, OK, "b", at=1),
        op(DELETE, 8, 9, OK, at=2),
        op(GET, 10, 11, ABSENT),
        op(CREATE, 12, 13, OK, "c", at=7),
    ],
    "a read beside a write sees the old value or the new": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(UPDATE, 2, 9, OK, "b", at=4, expected=0),
        op(GET, 3, 8, OK, "a", at=0),
        op(GET, 4, 7, OK, "b", at=4),
    ],
    "two creators, one wins": [op(CREATE, 0, 5, OK, "a", at=3), op(CREATE, 1, 4, EXISTS, "b")],
    "a create that overlaps a delete may win or lose": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(DELETE, 2, 6, OK, at=2),
        op(CREATE, 3, 5, EXISTS, "b"),
        op(CREATE, 3, 7, OK, "c", at=3),
    ],
    "an unknown write may never happen": [op(CREATE, 0, None, UNKNOWN, "a"), op(GET, 5, 6, ABSENT)],
    "an unknown write may happen long after": [
        op(CREATE, 0, None, UNKNOWN, "a"),
        op(GET, 5, 6, ABSENT),
        op(GET, 7, 8, OK, "a", at=3),
    ],
    "an unknown delete explains that the key is gone": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(DELETE, 2, None, UNKNOWN),
        op(GET, 5, 6, OK, "a", at=0),
        op(GET, 7, 8, ABSENT),
    ],
    "the revision of an unknown write is learned by reading": [
        op(CREATE, 0, None, UNKNOWN, "a"),
        op(UPDATE, 1, 2, CONFLICT, "b", expected=4),
        op(GET, 3, 4, OK, "a", at=7),
        op(UPDATE, 5, 6, OK, "c", at=8, expected=7),
    ],
    "an update loses to a change, and where there is no key": [
        op(UPDATE, 0, 1, CONFLICT, "x", expected=0),
        op(CREATE, 2, 3, OK, "a", at=1),
        op(UPDATE, 4, 5, CONFLICT, "x", expected=0),
        op(DELETE, 6, 7, CONFLICT, expected=0),
    ],
}

ANOMALIES = {
    "stale read": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(UPDATE, 2, 3, OK, "b", at=1, expected=0),
        op(GET, 4, 5, OK, "a", at=0),
    ],
    "a read that goes back beside a write": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(UPDATE, 2, 9, OK, "b", at=1, expected=0),
        op(GET, 3, 4, OK, "b", at=1),
        op(GET, 5, 6, OK, "a", at=0),
    ],
    "lost update: two replaced the same revision": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(UPDATE, 2, 5, OK, "b", at=1, expected=0),
        op(UPDATE, 3, 6, OK, "c", at=2, expected=0),
    ],
    "lost update: acknowledged, and gone": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(UPDATE, 2, 3, OK, "b", at=1, expected=0),
        op(UPDATE, 4, 5, CONFLICT, "c", expected=1),
    ],
    "double create": [op(CREATE, 0, 5, OK, "a", at=0), op(CREATE, 1, 4, OK, "b", at=1)],
    "resurrected key": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(DELETE, 2, 3, OK, at=1),
        op(GET, 4, 5, OK, "a", at=0),
    ],
    "resurrected by a delete that happened twice": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(DELETE, 2, 3, OK, at=1),
        op(DELETE, 4, 5, OK, at=2),
    ],
    "vanished key": [op(CREATE, 0, 1, OK, "a", at=0), op(GET, 2, 3, ABSENT)],
    "refused create where nothing is": [op(CREATE, 0, 1, EXISTS, "a")],
    "refused update of the present revision": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(UPDATE, 2, 3, CONFLICT, "b", expected=0),
    ],
    "a value that nobody wrote": [op(CREATE, 0, 1, OK, "a", at=0), op(GET, 2, 3, OK, "z", at=0)],
    "a revision that goes back": [
        op(CREATE, 0, 1, OK, "a", at=5),
        op(DELETE, 2, 3, OK, at=6),
        op(CREATE, 4, 5, OK, "b", at=3),
    ],
    "a value under two revisions": [
        op(CREATE, 0, None, UNKNOWN, "a"),
        op(GET, 1, 2, OK, "a", at=3),
        op(GET, 3, 4, OK, "a", at=4),
    ],
    "an unknown write that happened twice": [
        op(PUT, 0, None, UNKNOWN, "a"),
        op(GET, 1, 2, OK, "a", at=1),
        op(PUT, 3, 4, OK, "b", at=2),
        op(GET, 5, 6, OK, "a", at=3),
    ],
    "an unknown write before it was asked for": [
        op(GET, 0, 1, OK, "a", at=0),
        op(CREATE, 2, None, UNKNOWN, "a"),
    ],
    "no room for the revision of an unknown write": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(PUT, 2, None, UNKNOWN, "b"),
        op(GET, 3, 4, OK, "b"),
        op(PUT, 5, 6, OK, "c", at=1),
    ],
    "no room for the revision of a delete": [
        op(CREATE, 0, 1, OK, "a", at=0),
        op(DELETE, 2, 3, OK),
        op(CREATE, 4, 5, OK, "b", at=1),
    ],
    "an update refused under the revision that was there": [
        op(CREATE, 0, None, UNKNOWN, "a"),
        op(GET, 1, 2, OK, "a"),
        op(UPDATE, 3, 4, CONFLICT, "b", expected=4),
        op(GET, 5, 6, OK, "a", at=4),
    ],
    "an unknown write that can only have had a revision that it had not": [
        op(CREATE, 0, None, UNKNOWN, "a"),
        op(GET, 1, 2, OK, "a"),
        op(UPDATE, 3, 4, CONFLICT, "b", expected=0),
        op(PUT, 5, 6, OK, "c", at=1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_history_is_not_accused(name: str) -> None:
    assert check(SOUND[name]) == []


@pytest.mark.parametrize("name", ANOMALIES)
def test_an_anomaly_is_found(name: str) -> None:
    (anomaly,) = check(ANOMALIES[name])
    assert "is not linearizable" in str(anomaly)
    assert anomaly.stuck


@pytest.mark.parametrize("name", SOUND)
def test_brute_force_says_the_same_of_what_is_sound(name: str) -> None:
    assert linearizable(SOUND[name])


@pytest.mark.parametrize("name", ANOMALIES)
def test_brute_force_says_the_same_of_anomalies(name: str) -> None:
    assert not linearizable(ANOMALIES[name])


def test_keys_are_judged_one_by_one_and_what_failed_says_nothing() -> None:
    stale = [replace(each, key="bad") for each in ANOMALIES["stale read"]]
    fine = [replace(each, key="fine") for each in SOUND["one after the other"]]
    failed = op(CREATE, 0, 1, FAILED, "never")
    assert [anomaly.key for anomaly in check([*fine, *stale, failed])] == ["bad"]


@st.composite
def simulated(draw: st.DrawFn, most: int = 5) -> list[Operation]:
    """What clients of a sound store saw: each operation takes effect at its moment, or its outcome stays unknown."""
    value, revision, number = None, -1, -1
    history = []
    for moment in range(10, 10 * draw(st.integers(1, most)) + 1, 10):
        kind = draw(st.sampled_from(list(Kind)))
        expected = draw(st.integers(max(0, number - 1), max(0, number))) if kind is UPDATE else None
        if kind is DELETE and draw(st.booleans()):
            expected = draw(st.integers(0, max(0, number)))
        begun, ended = moment - draw(st.integers(0, 25)), moment + draw(st.integers(0, 25))
        new = draw(st.sampled_from("ab"))
        hits = value is not None and expected in (None, revision)
        wins = {PUT: True, CREATE: value is None, UPDATE: hits, DELETE: hits}.get(kind)
        number += draw(st.integers(1, 2))
        told: Outcome
        seen, at = (value, revision) if kind is GET else (None if kind is DELETE else new, number)
        if kind is GET:
            told = ABSENT if value is None else OK
        elif wins:
            told, value, revision = OK, None if kind is DELETE else new, number
        else:
            told = EXISTS if kind is CREATE else ABSENT if kind is DELETE and expected is None else CONFLICT
        if told is not OK:
            at = None  # type: ignore[assignment]
            seen = new if kind in (CREATE, UPDATE) else None
        if kind is not GET and draw(st.integers(0, 3)) == 0:
            history.append(op(kind, begun, None, UNKNOWN, None if kind is DELETE else new, expected=expected))
        else:
            history.append(op(kind, begun, ended, told, seen, at=at, expected=expected))
    return history


@settings(max_examples=300, deadline=None)
@given(simulated(most=40))
def test_whatever_clients_of_a_sound_store_see_is_never_accused(history: list[Operation]) -> None:
    assert check(history) == []


@st.composite
def damaged(draw: st.DrawFn) -> list[Operation]:
    """A sound history with one thing in it told wrong."""
    history = draw(simulated(most=5))
    index = draw(st.integers(0, len(history) - 1))
    told = history[index]
    match draw(st.sampled_from(["value", "revision", "expected", "time", "lost", "unknown"])):
        case "value" if told.value is not None:
            told = replace(told, value="b" if told.value == "a" else "a")
        case "revision" if told.revision is not None:
            told = replace(told, revision=max(0, told.revision + draw(st.sampled_from([-2, -1, 1, 2]))))
        case "expected" if told.expected is not None:
            told = replace(told, expected=max(0, told.expected + draw(st.sampled_from([-1, 1]))))
        case "time" if told.returned is not None:
            told = replace(told, invoked=told.invoked + 30, returned=told.returned + 30)
        case "unknown" if told.kind is not GET:
            told = replace(told, returned=None, outcome=UNKNOWN, revision=None)
        case _:
            return [each for each in history if each is not told]
    return [*history[:index], told, *history[index + 1 :]]


@settings(max_examples=400, deadline=None)
@given(damaged())
def test_the_checker_agrees_with_brute_force(history: list[Operation]) -> None:
    assert (check(history) == []) == linearizable(history)


def test_a_long_history_with_many_unknown_writes_is_decided() -> None:
    dice = random.Random(1)
    history, number, value = [op(PUT, 0, 1, OK, "0", at=0)], 0, "0"
    for turn in range(1, 1500):
        moment = 10 * turn
        if dice.random() < 0.02:
            history.append(op(UPDATE, moment, None, UNKNOWN, f"u{turn}", expected=number + dice.randrange(2)))
        elif dice.random() < 0.5:
            history.append(op(GET, moment - dice.randrange(40), moment + dice.randrange(40), OK, value, at=number))
        else:
            value = str(turn)
            begun, ended = moment - dice.randrange(40), moment + dice.randrange(40)
            history.append(op(UPDATE, begun, ended, OK, value, at=number + 1, expected=number))
            number += 1
    assert check(history) == []
    stale = op(GET, 10**6, 10**6 + 1, OK, "0", at=0)
    (anomaly,) = check([*history, stale])
    assert anomaly.stuck[-1] == stale or stale in anomaly.stuck


def test_a_search_that_grows_over_its_bound_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "MOST_STATES", 3)
    history = [op(PUT, 0, 100, OK, str(n)) for n in range(8)]
    with pytest.raises(Undecided, match="9 operations"):
        check_key("k", [*history, op(GET, 101, 102, OK, "never written")])


def test_what_is_written_down_is_read_again_and_a_torn_line_is_an_operation_that_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "history"
    with Recorder(path) as recorder:
        number = recorder.invoke("p", CREATE, "k", value="ä\n")
        recorder.ended(number, OK, revision=3)
        number = recorder.invoke("p", GET, "k")
        recorder.ended(number, OK, value="ä\n", revision=3)
        number = recorder.invoke("p", UPDATE, "k", value="b", expected=3)
        recorder.ended(number, UNKNOWN)
        recorder.invoke("p", DELETE, "k", expected=3)
        recorder.ended(recorder.invoke("p", GET, "k"), ABSENT)
    path.write_bytes(path.read_bytes()[:-5])
    create, get, update, delete, torn = read_history(path)
    assert (create.outcome, create.value, create.revision) == (OK, "ä\n", 3)
    assert create.returned is not None
    assert create.returned >= create.invoked
    assert (get.value, get.revision) == ("ä\n", 3)
    assert (update.returned, update.outcome, update.expected) == (None, UNKNOWN, 3)
    assert (delete.returned, torn.returned, torn.outcome) == (None, None, UNKNOWN)
    assert check([create, get, update, delete, torn]) == []
