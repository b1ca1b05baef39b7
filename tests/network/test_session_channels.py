"""Sessions outlive their channels: what was under way when one broke comes once on the next, and old ones are deaf."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynlog.call_errors import HandshakeRefused, ProtocolError, WireBroken
from dynlog.errors import Closed, ConfigurationError
from dynlog.network.frames import BATCH, PING, RECORD, FrameKind, RecordKind
from dynlog.network.session import Session
from dynlog.network.session_events import (
    Answered,
    Attached,
    ChannelFailed,
    Lost,
    Message,
    Opened,
    Pushed,
    Released,
    SessionOver,
)
from dynlog.network.session_handshake import Hello, Identity, Refusal, judge, read_answer, read_hello, write_hello
from dynlog.network.session_settings import MIN_FRAME_BYTES, Limits, Settings
from tests.network.session_pair import ACCEPTOR, DIALLER, HERE, SMALL, TARGET, THERE, Pair


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.connect()
    pair.clear()
    return pair


def topics(pair: Pair, end: int = ACCEPTOR) -> list[bytes]:
    return [event.body for event in pair.events[end] if isinstance(event, Pushed)]


# Resumption


def test_what_was_under_way_when_the_channel_broke_comes_once_on_the_next(pair: Pair) -> None:
    pair.dialler.push(TARGET, "t", b"arrived")
    pair.move(DIALLER)
    pair.deliver(pair.wires[1], ACCEPTOR)
    pair.dialler.push(TARGET, "t", b"lost")
    pair.move(DIALLER)
    pair.cut(pair.wires[1])
    pair.dialler.push(TARGET, "t", b"made meanwhile")
    pair.connect()
    assert topics(pair) == [b"arrived", b"lost", b"made meanwhile"]
    assert pair.dialler.stats().resent == 1


def test_a_call_survives_the_loss_of_its_channel_at_any_step(pair: Pair) -> None:
    stream = pair.open()
    pair.cut(pair.wires[1])
    pair.dial()
    pair.settle()
    pair.session(ACCEPTOR).send(pair.served(), b"answer", True)
    pair.move(ACCEPTOR)
    pair.cut(pair.wires[2])
    pair.connect()
    assert pair.of(DIALLER, Message) == [Message(stream, b"answer", True)]
    assert len(pair.of(ACCEPTOR, Opened)) == 1


def test_frames_that_come_again_are_dropped_and_counted(pair: Pair) -> None:
    pair.dialler.push(TARGET, "t", b"once")
    pair.settle()
    frame = pair.wires[1].came[ACCEPTOR][-1]
    pair.arrive(pair.wires[1], ACCEPTOR, frame)
    assert topics(pair) == [b"once"]
    assert pair.session(ACCEPTOR).stats().repeats == 1


def test_frames_of_an_old_channel_are_ignored_once_another_carries(pair: Pair) -> None:
    pair.dialler.push(TARGET, "t", b"one")
    pair.move(DIALLER)
    late = pair.wires[1].under_way[ACCEPTOR].popleft()
    pair.connect()
    pair.arrive(pair.wires[1], ACCEPTOR, late)
    assert topics(pair) == [b"one"]
    assert pair.session(ACCEPTOR).stats().old_frames == 1


def test_a_gap_ends_the_channel_and_not_the_session(pair: Pair) -> None:
    for body in (b"one", b"two"):
        pair.dialler.push(TARGET, "t", body)
        pair.move(DIALLER)
    pair.wires[1].under_way[ACCEPTOR].popleft()
    pair.deliver(pair.wires[1], ACCEPTOR)
    (event,) = pair.events[ACCEPTOR]
    assert isinstance(event, ChannelFailed)
    assert isinstance(event.error, ProtocolError)
    assert "begins with record 1: 0 is needed" in str(event.error)
    pair.connect()
    assert topics(pair) == [b"one", b"two"]


def test_a_batch_that_breaks_off_counts_as_far_as_it_came(pair: Pair) -> None:
    for body in (b"one", b"two"):
        pair.dialler.push(TARGET, "t", body)
    pair.move(DIALLER)
    frame = pair.wires[1].under_way[ACCEPTOR].popleft()
    pair.arrive(pair.wires[1], ACCEPTOR, frame[:-1])
    assert topics(pair) == [b"one"]
    pair.connect()
    assert topics(pair) == [b"one", b"two"]
    assert pair.session(ACCEPTOR).stats().repeats == 0


def test_three_damaged_channels_in_a_row_end_the_session(pair: Pair) -> None:
    for n in range(3):
        assert not pair.session(ACCEPTOR).over
        pair.arrive(pair.wires[n + 1], ACCEPTOR, b"\x7f")
        pair.dial()
        pair.settle()
    assert pair.session(ACCEPTOR).over
    assert pair.dialler.over


def test_a_session_that_is_not_resumed_in_time_ends_and_says_what_was_sent(pair: Pair) -> None:
    sent = pair.open(name="sent")
    pair.settle()
    pair.cut(pair.wires[1])
    unsent = pair.open(name="unsent")
    pair.wait(SMALL.resume_within - 0.1)
    assert not pair.dialler.over
    pair.wait(0.2)
    assert pair.events[DIALLER][:2] == [Lost(sent, True), Lost(unsent, False)]
    event = pair.events[DIALLER][2]
    assert isinstance(event, SessionOver)
    assert isinstance(event.error, WireBroken)
    assert pair.events[ACCEPTOR][-2:-1] == [Lost(pair.served(), True)]
    assert pair.session(ACCEPTOR).over


def test_a_call_that_was_handed_over_before_a_resumption_counts_as_sent(pair: Pair) -> None:
    stream = pair.open()
    pair.move(DIALLER)
    pair.cut(pair.wires[1])
    pair.told(DIALLER, pair.dialler.close("", pair.now))
    assert pair.events[DIALLER][0] == Lost(stream, True)


# Moving while the old channel works


def test_a_channel_goes_on_until_the_next_is_welcomed(pair: Pair) -> None:
    wire = pair.dial()
    pair.dialler.push(TARGET, "t", b"on the old one")
    pair.move(DIALLER)
    pair.deliver(pair.wires[1], ACCEPTOR)
    assert topics(pair) == [b"on the old one"]
    pair.dialler.push(TARGET, "t", b"too late for it")
    pair.move(DIALLER)
    pair.deliver(wire, ACCEPTOR)
    pair.deliver(wire, DIALLER)
    pair.settle()
    assert pair.events[DIALLER] == [Released(1), Attached(2, True)]
    assert Released(1) in pair.events[ACCEPTOR]
    assert pair.dialler.active == pair.session(ACCEPTOR).active == wire.generation
    assert topics(pair) == [b"on the old one", b"too late for it"]


def test_nothing_is_lost_if_the_new_channel_breaks_before_its_welcome_arrives(pair: Pair) -> None:
    wire = pair.dial()
    pair.deliver(wire, ACCEPTOR)
    pair.cut(wire)
    pair.dialler.push(TARGET, "t", b"on a channel to which nobody listens")
    pair.settle()
    assert pair.dialler.active is None
    pair.connect()
    assert topics(pair) == [b"on a channel to which nobody listens"]


def test_a_hello_that_was_overtaken_by_a_later_one_is_refused_as_stale(pair: Pair) -> None:
    early = pair.dial()
    late = pair.dial()
    assert pair.events[DIALLER] == [Released(early.generation)]
    pair.deliver(late, ACCEPTOR)
    pair.deliver(late, DIALLER)
    early.held[DIALLER] = True
    pair.deliver(early, ACCEPTOR)
    event = pair.events[ACCEPTOR][-1]
    assert isinstance(event, ChannelFailed)
    assert isinstance(event.error, HandshakeRefused)
    assert event.error.code == "stale"
    assert pair.session(ACCEPTOR).active == late.generation


def test_a_hello_that_says_to_have_what_was_never_sent_is_refused(pair: Pair) -> None:
    pair.arrive_hello(Hello(b"s" * 16, 2, True, 99, HERE, SMALL.limits))
    event = pair.events[ACCEPTOR][-1]
    assert isinstance(event, ChannelFailed)
    assert "99 records were received, it says, of 0 sent" in str(event.error)
    assert pair.session(ACCEPTOR).active == 1


@pytest.mark.parametrize("stranger", [Identity(b"x" * 16, 3), replace(HERE, incarnation=4)])
def test_a_session_is_resumed_only_by_the_same_life_of_the_same_entity(pair: Pair, stranger: Identity) -> None:
    pair.arrive_hello(Hello(b"s" * 16, 2, True, 0, stranger, SMALL.limits))
    event = pair.events[ACCEPTOR][-1]
    assert isinstance(event, ChannelFailed)
    assert "is another entity's" in str(event.error)
    assert pair.session(ACCEPTOR).active == 1


# Acknowledgements and signs of life


def test_what_came_is_acknowledged_after_a_short_time_if_nothing_is_said_before(pair: Pair) -> None:
    pair.dialler.push(TARGET, "t", b"x")
    pair.settle()
    assert pair.dialler.stats().unacknowledged_records == 1
    session = pair.session(ACCEPTOR)
    assert session.next_timeout() == pytest.approx(pair.now + SMALL.ack_delay)
    pair.wait(SMALL.ack_delay)
    pair.settle()
    assert pair.dialler.stats().unacknowledged_records == 0
    assert pair.dialler.stats().unacknowledged_bytes == 0


def test_an_acknowledgement_rides_on_a_reply(pair: Pair) -> None:
    pair.open()
    pair.settle()
    pair.session(ACCEPTOR).send(pair.served(), b"", True)
    pair.settle()
    assert pair.dialler.stats().unacknowledged_records == 0
    assert pair.session(ACCEPTOR).stats().batches_sent == 1


def test_many_records_are_acknowledged_at_once() -> None:
    pair = Pair(replace(SMALL, limits=replace(SMALL.limits, push_messages=100)))
    pair.connect()
    for _ in range(SMALL.limits.ack_records):
        pair.dialler.push(TARGET, "t", b"")
    pair.settle()
    assert pair.dialler.stats().unacknowledged_records == 0


def test_a_silent_channel_is_asked_for_a_sign_of_life_and_given_up_without(pair: Pair) -> None:
    pair.wait(SMALL.ping_after)
    pair.move(DIALLER)
    pair.move(ACCEPTOR)
    pair.wires[1].under_way[DIALLER].clear()
    pair.wait(SMALL.dead_after - SMALL.ping_after)
    event = pair.events[DIALLER][-1]
    assert isinstance(event, ChannelFailed)
    assert "nothing came for 15.0 s" in str(event.error)
    assert pair.dialler.active is None
    assert not pair.dialler.over


def test_a_sign_of_life_keeps_the_channel_and_tells_the_way_there_and_back(pair: Pair) -> None:
    for _ in range(10):
        pair.wait(SMALL.ping_after)
        pair.settle()
    assert pair.dialler.active == 1
    assert pair.of(DIALLER, ChannelFailed) == []
    pair.dialler.ping(pair.now)
    pair.move(DIALLER)
    pair.now += 0.25
    pair.settle()
    assert pair.events[DIALLER][-1] == Answered(0.25)
    assert pair.dialler.stats().round_trip == 0.25


def test_a_loop_that_stood_still_asks_before_it_gives_up(pair: Pair) -> None:
    pair.wait(SMALL.dead_after * 4)
    assert pair.of(DIALLER, ChannelFailed) == []
    pair.settle()
    assert isinstance(pair.events[DIALLER][-1], Answered)


def test_many_pings_get_one_answer_and_fill_no_memory(pair: Pair) -> None:
    for n in range(1000):
        pair.arrive(pair.wires[1], ACCEPTOR, PING.pack(FrameKind.PING, n))
    frames = pair.session(ACCEPTOR).take(1 << 20)
    assert [b"".join(frame) for frame in frames] == [PING.pack(FrameKind.PONG, 999)]


def test_whoever_does_not_read_does_not_take_silence_for_death(pair: Pair) -> None:
    pair.dialler.reading(False, pair.now)
    pair.told(DIALLER, pair.dialler.tick(pair.now + 100))
    assert pair.events[DIALLER] == []
    pair.dialler.reading(True, pair.now + 100)
    assert pair.dialler.next_timeout() == pair.now + 100 + SMALL.ping_after


def test_a_handshake_without_an_answer_is_given_up() -> None:
    pair = Pair()
    pair.dial()
    pair.wait(SMALL.handshake_within)
    (event,) = pair.events[DIALLER]
    assert isinstance(event, ChannelFailed)
    assert "no answer to the handshake within 5.0 s" in str(event.error)


def test_the_time_of_the_next_tick_is_never_later_than_what_is_due(pair: Pair) -> None:
    assert pair.dialler.next_timeout() == pair.now + SMALL.ping_after
    pair.cut(pair.wires[1])
    assert pair.dialler.next_timeout() == pair.now + SMALL.resume_within
    pair.dial()
    assert pair.dialler.next_timeout() == pair.now + SMALL.handshake_within
    pair.told(DIALLER, pair.dialler.close("", pair.now))
    assert pair.dialler.next_timeout() == float("inf")
    with pytest.raises(Closed):
        pair.dialler.attach(9, MIN_FRAME_BYTES, pair.now)


# Handshake


def test_both_ends_learn_who_the_other_is(pair: Pair) -> None:
    assert pair.dialler.peer == THERE
    assert pair.session(ACCEPTOR).peer == HERE


def test_a_wrong_token_is_refused_and_ends_the_session() -> None:
    pair = Pair(token=b"secret")
    pair.token = b"other"
    pair.dial()
    pair.settle()
    failed, over = pair.events[DIALLER]
    assert isinstance(failed, ChannelFailed)
    assert isinstance(failed.error, HandshakeRefused)
    assert failed.error.code == "token"
    assert over == SessionOver(failed.error, "the token is missing or wrong")


HELLO = Hello(b"s" * 16, 1, False, 0, HERE, Limits(), wanted=THERE.entity, token=b"secret")


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (HELLO, None),
        (replace(HELLO, token=b"secres"), "token"),
        (replace(HELLO, token=None), "token"),
        (replace(HELLO, wanted=b"z" * 16), "entity"),
        (replace(HELLO, wanted=None), None),
        (replace(HELLO, identity=replace(HERE, incarnation=2)), "incarnation"),
        (replace(HELLO, identity=replace(HERE, incarnation=4)), None),
        (replace(HELLO, resume=True), "resume"),
        (replace(HELLO, lowest_version=2, highest_version=3), "version"),
        (replace(HELLO, lowest_version=1, highest_version=9), None),
    ],
)
def test_an_acceptor_says_why_it_refuses(hello: Hello, code: str | None) -> None:
    read = read_hello(write_hello(hello))
    refusal = judge(read, THERE, token=b"secret", newest_incarnation=3)
    assert (None if refusal is None else refusal.code) == code


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(HELLO)


def test_a_hello_of_a_later_version_is_read_as_far_as_its_versions() -> None:
    frame = bytearray(write_hello(replace(HELLO, lowest_version=2, highest_version=3)))
    del frame[30:]
    refusal = judge(read_hello(bytes(frame)), THERE)
    assert refusal == Refusal("version", "versions 2 to 3 are offered and 1 is spoken here")


def test_what_is_not_known_in_a_handshake_is_ignored() -> None:
    frame = write_hello(HELLO)
    at = 11
    assert frame[at] == 0xDE or frame[at] & 0xF0 == 0x80
    more = frame[:at] + bytes([frame[at] + 1]) + b"\xa3new\x07" + frame[at + 1 :]
    assert read_hello(more) == HELLO


def test_a_session_needs_channels_with_frames_of_a_certain_size(pair: Pair) -> None:
    with pytest.raises(ConfigurationError, match=str(MIN_FRAME_BYTES)):
        pair.dialler.attach(7, MIN_FRAME_BYTES - 1, pair.now)


def test_a_session_id_has_16_bytes() -> None:
    with pytest.raises(ConfigurationError, match="16 random"):
        Session.dialler(HERE, Settings(), b"short", 0.0)


def test_frames_fit_the_smallest_channel() -> None:
    pair = Pair(Settings(), frame_bytes=MIN_FRAME_BYTES)
    pair.connect()
    pair.dialler.open(TARGET, "t", "", "c", 1, {"k": "v" * 16_000}, None, b"x" * (64 << 10), True, pair.now)
    for n in range(3):
        pair.open(b"y" * (1 << 20), name=str(n))
    pair.settle()
    assert max(len(frame) for frame in pair.wires[1].came[ACCEPTOR]) <= MIN_FRAME_BYTES
    assert len(pair.of(ACCEPTOR, Opened)) == 4


def test_a_session_moves_to_a_channel_with_shorter_frames() -> None:
    pair = Pair(Settings())
    pair.connect()
    for n in range(4):
        pair.open(b"y" * (64 << 10), name=str(n))
    pair.move(DIALLER)
    pair.cut(pair.wires[1])
    pair.frame_bytes = MIN_FRAME_BYTES
    pair.connect()
    assert max(len(frame) for frame in pair.wires[2].came[ACCEPTOR]) <= MIN_FRAME_BYTES
    assert len(pair.of(ACCEPTOR, Opened)) == 4


# What later versions may say


def test_records_and_frames_that_may_be_ignored_are(pair: Pair) -> None:
    record = RECORD.pack(3, 0x80, 0xFF, 77) + b"new"
    event = RECORD.pack(19, RecordKind.EVENT, 0xF0, 0) + TARGET + b"\x01tx"
    pair.arrive(pair.wires[1], ACCEPTOR, b"\x80 a new frame")
    pair.arrive(pair.wires[1], ACCEPTOR, BATCH.pack(FrameKind.BATCH, 2, 0, 0) + record + event)
    assert pair.events[ACCEPTOR] == [Pushed(TARGET, "t", b"x")]


@pytest.mark.parametrize(
    "record",
    [
        RECORD.pack(0, 0x7F, 0, 0),
        RECORD.pack(18, RecordKind.EVENT, 0x08, 0) + TARGET + b"\x01t",
        RECORD.pack(0, RecordKind.GOAWAY, 0x01, 0),
    ],
    ids=["kind", "flag of an event", "flag of a control record"],
)
def test_records_that_may_not_be_ignored_end_the_session(pair: Pair, record: bytes) -> None:
    pair.arrive(pair.wires[1], ACCEPTOR, BATCH.pack(FrameKind.BATCH, 1, 0, 0) + record)
    event = pair.events[ACCEPTOR][-1]
    assert isinstance(event, SessionOver)
    assert "not known" in str(event.error)
    (answer,) = pair.session(ACCEPTOR).take(1 << 20)
    pair.arrive(pair.wires[1], DIALLER, b"".join(answer))
    told = pair.events[DIALLER][-1]
    assert isinstance(told, SessionOver)
    assert isinstance(told.error, ProtocolError)
    assert "not known" in str(told.error)


def test_an_answer_that_is_no_answer_fails_the_channel() -> None:
    pair = Pair()
    wire = pair.dial()
    pair.arrive(wire, DIALLER, b"HTTP/1.1 400 Bad Request\r\n")
    (event,) = pair.events[DIALLER]
    assert isinstance(event, ChannelFailed)
    assert "this is not a peer that speaks dynlog" in str(event.error)
    assert not pair.dialler.over


def test_an_answer_of_the_acceptor_is_read_back_as_written() -> None:
    pair = Pair()
    wire = pair.dial()
    pair.deliver(wire, ACCEPTOR)
    answer = read_answer(wire.under_way[DIALLER][0])
    assert not isinstance(answer, Refusal)
    assert (answer.attempt, answer.received, answer.identity, answer.limits) == (1, 0, THERE, SMALL.limits)
