"""Calls on a session: whoever opened a stream is told of its answers and of its end, once."""

from __future__ import annotations

import pytest

from dynlog.call_errors import Draining, MessageTooLarge, Overloaded
from dynlog.errors import Closed, ConfigurationError
from dynlog.network.frames import Code
from dynlog.network.session_events import (
    CancelledByPeer,
    Drained,
    Ended,
    Failed,
    GoingAway,
    Lost,
    Message,
    Meta,
    Opened,
    Pushed,
    SessionOver,
    Writable,
)
from dynlog.network.session_settings import Settings
from tests.network.session_pair import ACCEPTOR, DIALLER, SMALL, TARGET, Pair


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.connect()
    pair.clear()
    return pair


def test_a_call_and_its_reply_take_one_record_each(pair: Pair) -> None:
    stream = pair.open(b"ask", name="c1")
    pair.settle()
    there = pair.served()
    meta = Meta(TARGET, "topic", "", "c1", 1, {"tenant": "x"})
    assert pair.events[ACCEPTOR] == [Opened(there, meta, b"ask", True)]
    assert pair.session(ACCEPTOR).send(there, b"answer", True)
    pair.settle()
    assert pair.events[DIALLER] == [Message(stream, b"answer", True)]
    assert stream.over
    assert there.over
    assert [pair.session(end).stats().records_sent for end in (DIALLER, ACCEPTOR)] == [1, 1]
    assert [pair.session(end).stats().streams for end in (DIALLER, ACCEPTOR)] == [0, 0]


def test_either_end_opens_streams(pair: Pair) -> None:
    stream = pair.open(by=ACCEPTOR)
    pair.settle()
    pair.dialler.send(pair.served(DIALLER), b"yes", True)
    pair.settle()
    assert pair.of(ACCEPTOR, Message) == [Message(stream, b"yes", True)]


def test_what_is_ready_leaves_in_one_frame(pair: Pair) -> None:
    for n in range(5):
        pair.open(name=str(n))
    assert pair.move(DIALLER) == 1
    pair.settle()
    assert len(pair.of(ACCEPTOR, Opened)) == 5


def test_a_deadline_travels_as_what_is_left(pair: Pair) -> None:
    pair.open(within=2.0)
    pair.settle()
    assert pair.served().deadline == pytest.approx(pair.now + 2.0, abs=0.01)


def test_a_deadline_shrinks_while_the_call_waits_for_a_channel(pair: Pair) -> None:
    pair.cut(pair.wires[1])
    pair.open(within=2.0)
    pair.wait(1.5)
    pair.connect()
    assert pair.served().deadline == pytest.approx(pair.now + 0.5, abs=0.01)


def test_a_call_without_a_deadline_has_none_there(pair: Pair) -> None:
    pair.dialler.open(TARGET, "t", "", "c", 1, {}, None, b"", True, pair.now)
    pair.settle()
    assert pair.served().deadline is None


def test_directions_end_by_themselves(pair: Pair) -> None:
    stream = pair.open(b"1", end=False)
    pair.settle()
    there = pair.served()
    assert pair.session(ACCEPTOR).send(there, b"a", True)
    assert pair.dialler.send(stream, b"2", False)
    pair.settle()
    assert pair.dialler.send(stream, b"3", False)
    pair.dialler.finish(stream)
    pair.settle()
    assert pair.events[DIALLER] == [Message(stream, b"a", True)]
    assert pair.events[ACCEPTOR][1:] == [Message(there, b"2", False), Message(there, b"3", False), Ended(there)]
    assert stream.over
    assert there.over


def test_a_request_without_any_message_is_told_from_an_empty_one(pair: Pair) -> None:
    pair.open(None, name="none")
    pair.open(b"", name="empty")
    pair.settle()
    assert [(event.meta.correlation_id, event.body, event.end) for event in opened(pair)] == [
        ("none", None, True),
        ("empty", b"", True),
    ]


def opened(pair: Pair) -> list[Opened]:
    return [event for event in pair.events[ACCEPTOR] if isinstance(event, Opened)]


def test_an_error_ends_the_stream_at_both_ends(pair: Pair) -> None:
    stream = pair.open(b"1", end=False)
    pair.settle()
    there = pair.served()
    pair.session(ACCEPTOR).fail(there, Code.FAILED, "ValueError", "no such müsli")
    pair.settle()
    assert pair.events[DIALLER] == [Failed(stream, Code.FAILED, "ValueError", "no such müsli")]
    assert stream.over
    assert there.over


def test_a_long_error_is_cut_to_4_kib(pair: Pair) -> None:
    pair.open()
    pair.settle()
    pair.session(ACCEPTOR).fail(pair.served(), Code.FAILED, "E" * 1000, "ü" * 5000)
    pair.settle()
    (event,) = pair.events[DIALLER]
    assert isinstance(event, Failed)
    assert (event.kind, event.text) == ("E" * 255, "ü" * 2048)


def test_a_cancel_reaches_the_handler(pair: Pair) -> None:
    stream = pair.open()
    pair.settle()
    pair.dialler.cancel(stream, "nobody waits")
    pair.settle()
    there = pair.served()
    assert pair.events[ACCEPTOR][-1] == CancelledByPeer(there, "nobody waits")
    assert there.over


def test_a_call_that_is_cancelled_before_it_left_never_leaves(pair: Pair) -> None:
    stream = pair.open(name="taken back")
    pair.open(name="kept")
    pair.dialler.cancel(stream, "")
    pair.settle()
    assert [event.meta.correlation_id for event in opened(pair)] == ["kept"]
    assert pair.of(ACCEPTOR, CancelledByPeer) == []


def test_a_long_call_that_is_cancelled_halfway_is_never_heard_of() -> None:
    pair = Pair(Settings())
    pair.connect()
    pair.clear()
    stream = pair.open(b"x" * (1 << 20))
    assert pair.move(DIALLER, 1) == 1
    pair.dialler.cancel(stream, "")
    pair.settle()
    assert pair.events[ACCEPTOR] == []
    assert pair.session(ACCEPTOR).stats().streams == 0


def test_an_answer_after_the_cancel_is_dropped_and_counted(pair: Pair) -> None:
    stream = pair.open()
    pair.settle()
    pair.session(ACCEPTOR).send(pair.served(), b"too late", True)
    pair.dialler.cancel(stream, "")
    pair.settle()
    assert pair.events[DIALLER] == []
    assert pair.dialler.stats().late == 1


def test_what_is_sent_on_a_stream_that_is_over_is_dropped_and_counted(pair: Pair) -> None:
    pair.open()
    pair.settle()
    there, session = pair.served(), pair.session(ACCEPTOR)
    session.send(there, b"answer", True)
    assert session.send(there, b"second answer", True)
    session.fail(there, 1, "", "")
    session.cancel(there, "")
    session.finish(there)
    pair.settle()
    assert len(pair.events[DIALLER]) == 1
    assert session.stats().late == 1


def test_nothing_can_be_sent_after_the_end_of_a_direction(pair: Pair) -> None:
    stream = pair.open(end=False)
    pair.dialler.finish(stream)
    with pytest.raises(ConfigurationError, match="was finished"):
        pair.dialler.send(stream, b"more", False)


def test_a_message_over_the_limit_is_refused_here_and_names_the_object_store(pair: Pair) -> None:
    most = SMALL.limits.max_message_bytes
    stream = pair.open(b"x" * most, end=False)
    with pytest.raises(MessageTooLarge, match="object store"):
        pair.open(b"x" * (most + 1))
    with pytest.raises(MessageTooLarge, match=f"{most + 1} bytes"):
        pair.dialler.send(stream, b"x" * (most + 1), False)
    with pytest.raises(MessageTooLarge):
        pair.dialler.push(TARGET, "t", b"x" * (most + 1))


def test_more_streams_than_the_peer_takes_are_refused_here(pair: Pair) -> None:
    streams = [pair.open(b"", name=str(n)) for n in range(SMALL.limits.max_streams)]
    with pytest.raises(Overloaded, match="5 calls are open"):
        pair.open(b"")
    pair.dialler.cancel(streams[0], "")
    pair.open(b"")


def test_a_message_in_pieces_arrives_whole_whatever_kind_of_buffer_it_was(pair: Pair) -> None:
    body = bytes(range(250)) * 4
    stream = pair.open(memoryview(body).cast("H"), end=False)
    pair.settle()
    there = pair.served()
    pair.session(ACCEPTOR).grant(there, 1, len(body))
    pair.settle()
    assert pair.dialler.send(stream, memoryview(bytearray(body)), True)
    pair.settle()
    assert opened(pair)[0].body == body
    assert pair.of(ACCEPTOR, Message) == [Message(there, body, True)]


def test_short_messages_pass_between_the_pieces_of_long_ones() -> None:
    pair = Pair(Settings())
    pair.connect()
    pair.open(b"x" * (8 << 20), name="long")
    pair.move(DIALLER, 256 << 10)
    pair.open(b"y", name="short")
    pair.settle()
    assert [event.meta.correlation_id for event in opened(pair)] == ["short", "long"]


def test_long_messages_share_the_channel_piece_by_piece() -> None:
    pair = Pair(Settings())
    pair.connect()
    pair.open(b"x" * (1 << 20), name="longer")
    pair.open(b"y" * (200 << 10), name="long")
    pair.settle()
    assert [event.meta.correlation_id for event in opened(pair)] == ["long", "longer"]


def test_pushed_messages_belong_to_no_stream_and_keep_their_order(pair: Pair) -> None:
    for body in (b"1", b"2" * 290, b"3"):
        pair.dialler.push(TARGET, "news", body)
        pair.settle()
    assert pair.events[ACCEPTOR] == [
        Pushed(TARGET, "news", b"1"),
        Pushed(TARGET, "news", b"2" * 290),
        Pushed(TARGET, "news", b"3"),
    ]
    assert pair.session(ACCEPTOR).stats().streams == 0


def test_a_peer_that_drains_takes_no_calls_and_finishes_those_that_run(pair: Pair) -> None:
    stream = pair.open(name="runs")
    pair.settle()
    late = pair.open(name="crosses")
    pair.session(ACCEPTOR).goaway("upgrade")
    pair.settle()
    assert pair.events[DIALLER] == [
        GoingAway("upgrade"),
        Failed(late, Code.DRAINING, "Draining", "no further calls are taken here"),
    ]
    with pytest.raises(Draining, match="the peer finishes"):
        pair.open()
    with pytest.raises(Draining, match="this end finishes"):
        pair.open(by=ACCEPTOR)
    assert pair.of(ACCEPTOR, Drained) == []
    pair.session(ACCEPTOR).send(pair.served(), b"done", True)
    pair.settle()
    pair.wait(1)
    pair.settle()
    assert pair.events[DIALLER][2:] == [Message(stream, b"done", True), Drained()]
    assert pair.events[ACCEPTOR][-1] == Drained()


def test_closing_ends_every_stream_at_both_ends(pair: Pair) -> None:
    stream = pair.open(name="there")
    pair.settle()
    unsent = pair.open(name="never left")
    pair.told(DIALLER, pair.dialler.close("enough", pair.now))
    assert pair.events[DIALLER] == [Lost(stream, True), Lost(unsent, False), SessionOver(None, "enough")]
    frames = pair.dialler.take(1 << 20)
    pair.arrive(pair.wires[1], ACCEPTOR, b"".join(frames[0]))
    assert pair.events[ACCEPTOR][1:] == [Lost(pair.served(), True), SessionOver(None, "enough")]
    with pytest.raises(Closed):
        pair.open()
    with pytest.raises(Closed):
        pair.dialler.push(TARGET, "t", b"")
    assert not pair.dialler.wants_write


def test_a_call_of_which_only_a_part_came_is_not_told_to_be_lost() -> None:
    pair = Pair(Settings())
    pair.connect()
    pair.clear()
    pair.open(b"x" * (1 << 20))
    pair.move(DIALLER, 1)
    pair.deliver(pair.wires[1], ACCEPTOR)
    assert pair.session(ACCEPTOR).stats().streams == 1
    pair.told(ACCEPTOR, pair.session(ACCEPTOR).close("", pair.now))
    assert pair.events[ACCEPTOR] == [SessionOver(None, "")]


def test_nothing_is_opened_before_the_first_handshake_and_whoever_waits_is_told() -> None:
    pair = Pair()
    assert pair.dialler.open(TARGET, "t", "", "c", 1, {}, None, b"", True, pair.now) is None
    pair.connect()
    assert Writable(None) in pair.events[DIALLER]


@pytest.mark.parametrize(
    ("target", "topic", "headers", "attempt"),
    [
        (TARGET, "t", {"k": "v" * 30_000}, 1),
        (TARGET, "t", {str(n): "" for n in range(65)}, 1),
        (TARGET, "t", {"k": 7}, 1),
        (TARGET, "t", {"k": "\ud800"}, 1),
        (TARGET, "t" * 250, {}, 1),
        (b"short", "t", {}, 1),
        (TARGET, "t", {}, 0),
        (TARGET, "t", {}, 1 << 16),
    ],
)
def test_a_call_that_the_peer_would_end_the_session_over_is_refused_here(
    pair: Pair, target: bytes, topic: str, headers: dict[str, str], attempt: int
) -> None:
    with pytest.raises(ConfigurationError):
        pair.dialler.open(target, topic, "", "c", attempt, headers, None, b"", True, pair.now)
    assert pair.dialler.stats().streams == 0
    assert not pair.dialler.wants_write
