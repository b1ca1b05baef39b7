"""Credit and room: nothing is taken without them, whoever waited is told, and what ends a stream always fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynlog.network.frames import BATCH, RECORD, Code, FrameKind, RecordKind
from dynlog.network.session_events import Failed, Message, Opened, Pushed, SessionOver, Writable
from dynlog.network.session_meta import write_meta
from dynlog.network.session_stream import Stream
from tests.network.session_pair import ACCEPTOR, DIALLER, SMALL, TARGET, Pair

LIMITS = SMALL.limits


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.connect()
    pair.clear()
    return pair


def fill(pair: Pair, stream: Stream, body: bytes, end: int = DIALLER) -> int:
    """Sends until it is not taken; how many were."""
    for taken in range(1000):
        if not pair.session(end).send(stream, body, False):
            return taken
        pair.settle()
    raise AssertionError("there is no bound")


def test_a_writer_waits_after_as_many_messages_as_the_reader_allows(pair: Pair) -> None:
    stream = pair.open(b"", end=False)
    assert fill(pair, stream, b"") == LIMITS.window_messages - 1  # the first message of the call counts


def test_a_writer_waits_once_its_bytes_are_used_up_and_the_last_message_may_go_beyond(pair: Pair) -> None:
    stream = pair.open(b"x" * 299, end=False)
    pair.settle()
    assert fill(pair, stream, b"y" * 1000) == 1
    pair.settle()
    assert sum(map(len, pair.unread(ACCEPTOR))) == 1299 < LIMITS.window_bytes + LIMITS.max_message_bytes


def test_a_reader_that_reads_lets_the_writer_go_on(pair: Pair) -> None:
    stream = pair.open(b"x" * 300, end=False)
    pair.settle()
    there = pair.served()
    assert not pair.dialler.send(stream, b"y", False)
    pair.session(ACCEPTOR).grant(there, 1, 300)
    pair.settle()
    assert pair.events[DIALLER] == [Writable(stream)]
    assert pair.dialler.send(stream, b"y", False)


def test_no_message_is_too_long_for_its_credit(pair: Pair) -> None:
    stream = pair.open(b"x" * LIMITS.max_message_bytes, end=False)
    for _ in range(5):
        pair.settle()
        there = pair.served()
        assert not pair.dialler.send(stream, b"z", False)
        pair.session(ACCEPTOR).grant(there, 1, LIMITS.max_message_bytes)
        pair.settle()
        assert pair.dialler.send(stream, b"x" * LIMITS.max_message_bytes, False)


def test_credit_is_told_only_when_half_of_the_window_was_read(pair: Pair) -> None:
    pair.open(b"", end=False)
    pair.settle()
    there = pair.served()
    pair.session(ACCEPTOR).grant(there, 1, 0)
    assert not pair.session(ACCEPTOR).wants_write
    pair.session(ACCEPTOR).grant(there, 1, 0)
    assert pair.session(ACCEPTOR).wants_write


def test_streams_do_not_use_up_each_others_credit(pair: Pair) -> None:
    slow = pair.open(b"x" * 300, end=False, name="slow")
    assert not pair.dialler.send(slow, b"y", False)
    pair.open(b"x" * 300, end=False, name="quick")
    assert pair.dialler.push(TARGET, "t", b"z")


def test_pushed_messages_wait_for_their_reader(pair: Pair) -> None:
    for _ in range(LIMITS.push_messages):
        assert pair.dialler.push(TARGET, "t", b"")
    assert not pair.dialler.push(TARGET, "t", b"")
    pair.settle()
    assert pair.events[ACCEPTOR] == [Pushed(TARGET, "t", b"")] * LIMITS.push_messages
    pair.session(ACCEPTOR).grant_push(LIMITS.push_messages, 0)
    pair.settle()
    assert pair.events[DIALLER] == [Writable(None)]
    assert pair.dialler.push(TARGET, "t", b"")


def test_when_the_resend_buffer_is_full_nothing_new_is_taken_and_whoever_waits_is_told(roomy: Pair) -> None:
    pair = roomy
    stream = pair.open(b"", end=False)
    pair.settle()
    pair.cut(pair.wires[1])
    pair.clear()
    assert fill_up(pair, DIALLER)
    assert not pair.dialler.send(stream, b"", False)
    assert not pair.dialler.push(TARGET, "t", b"")
    assert SMALL.resend_bytes <= pair.dialler.stats().unacknowledged_bytes < SMALL.resend_bytes + 200
    pair.connect()
    pair.wait(1)
    pair.settle()
    assert pair.of(DIALLER, Writable) == [Writable(None), Writable(stream)]
    assert pair.dialler.send(stream, b"", False)


def test_the_ends_of_streams_fit_into_a_full_buffer(roomy: Pair) -> None:
    pair = roomy
    streams = [pair.open(b"", end=False, name=str(n)) for n in range(3)]
    pair.settle()
    there = [event.stream for event in pair.events[ACCEPTOR] if isinstance(event, Opened)]
    pair.cut(pair.wires[1])
    assert fill_up(pair, ACCEPTOR)
    session = pair.session(ACCEPTOR)
    session.fail(there[0], Code.FAILED, "E", "no")
    session.cancel(there[1], "enough")
    session.finish(there[2])
    pair.connect()
    assert pair.of(DIALLER, Failed) == [Failed(streams[0], Code.FAILED, "E", "no")]
    assert streams[1].over
    assert not streams[2].receiving


@pytest.fixture
def roomy() -> Pair:
    """Streams enough to fill the resend buffer."""
    pair = Pair(replace(SMALL, limits=replace(LIMITS, max_streams=100)))
    pair.connect()
    return pair


def fill_up(pair: Pair, end: int) -> int:
    """Opens calls until none is taken; how many were."""
    session = pair.session(end)
    for taken in range(100):
        if session.open(TARGET, "t", "", str(taken), 1, {}, None, b"x" * 60, True, pair.now) is None:
            return taken
    raise AssertionError("there is no bound")


def test_a_peer_that_sends_without_credit_ends_the_session(pair: Pair) -> None:
    pair.open(b"x" * 300, end=False)
    pair.settle()
    record = RECORD.pack(1, RecordKind.DATA, 0, 1) + b"y"
    number = pair.session(ACCEPTOR).stats().records_received
    pair.arrive(pair.wires[1], ACCEPTOR, BATCH.pack(FrameKind.BATCH, 1, number, 0) + record)
    event = pair.events[ACCEPTOR][-1]
    assert isinstance(event, SessionOver)
    assert "no credit" in str(event.error)


def test_a_message_in_pieces_that_never_ends_ends_the_session(pair: Pair) -> None:
    pair.open(b"", end=False)
    pair.settle()
    number = 1
    while pair.session(ACCEPTOR).active is not None:
        record = RECORD.pack(100, RecordKind.DATA, 2, 1) + b"y" * 100
        pair.arrive(pair.wires[1], ACCEPTOR, BATCH.pack(FrameKind.BATCH, 1, number, 0) + record)
        number += 1
        assert number <= LIMITS.max_message_bytes / 100 + 2
    event = pair.events[ACCEPTOR][-1]
    assert isinstance(event, SessionOver)
    assert "1100 bytes or more, of 1000 allowed" in str(event.error)


def test_a_peer_over_max_streams_is_told_that_nothing_was_begun(pair: Pair) -> None:
    """Ours refuses by itself, so the sixth OPEN is written by hand."""
    for n in range(LIMITS.max_streams):
        pair.open(b"", name=str(n))
    pair.move(DIALLER)
    frame = pair.wires[1].under_way[ACCEPTOR][-1]
    pair.settle()
    length = RECORD.unpack_from(frame, BATCH.size)[0]
    record = frame[BATCH.size + RECORD.size : BATCH.size + RECORD.size + length]
    sixth = RECORD.pack(length, RecordKind.OPEN, 1, 11) + record
    pair.arrive(pair.wires[1], ACCEPTOR, BATCH.pack(FrameKind.BATCH, 1, 5, 0) + sixth)
    assert len(pair.of(ACCEPTOR, Opened)) == LIMITS.max_streams
    (frames,) = pair.session(ACCEPTOR).take(1 << 20)
    answer = b"".join(frames)
    assert RECORD.unpack_from(answer, BATCH.size)[1:] == (RecordKind.ERROR, 0, 11)
    assert b"5 calls are open" in answer


def test_a_peer_that_acknowledges_nothing_is_given_up(pair: Pair) -> None:
    number = 0
    while pair.session(ACCEPTOR).active is not None and number < 10_000:
        body = write_meta(TARGET, "t", "", "c", 1, {}, None)
        record = RECORD.pack(len(body), RecordKind.OPEN, 1, 2 * number + 1) + body
        pair.arrive(pair.wires[1], ACCEPTOR, BATCH.pack(FrameKind.BATCH, 1, number, 0) + record)
        event = pair.events[ACCEPTOR][-1]
        if isinstance(event, Opened):
            pair.session(ACCEPTOR).fail(event.stream, Code.FAILED, "E", "no")
        number += 1
    event = pair.events[ACCEPTOR][-1]
    assert isinstance(event, SessionOver)
    assert "acknowledges nothing" in str(event.error)


def test_message_events_carry_what_was_sent_with_half_a_window_read_each_time(pair: Pair) -> None:
    stream = pair.open(b"", end=False)
    sent, got = 0, 0
    pair.settle()
    there = pair.served()
    pair.session(ACCEPTOR).grant(there, 1, 0)
    while sent < 200:
        if pair.dialler.send(stream, b"%d" % sent, False):
            sent += 1
        else:
            pair.settle()
            bodies = [event.body for event in pair.events[ACCEPTOR] if isinstance(event, Message)]
            assert bodies == [b"%d" % n for n in range(len(bodies))]
            pair.session(ACCEPTOR).grant(there, len(bodies) - got, sum(map(len, bodies[got:])))
            got = len(bodies)
            pair.settle()
