"""Whatever bytes come: an error of ours or a meaning of theirs, never another exception, never memory without bound."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlog.call_errors import ProtocolError
from dynlog.network.frames import BATCH, ERROR, EVENT, OPEN, RECORD, Code, FrameKind, RecordKind
from dynlog.network.session_events import ChannelFailed, Message, Opened, Pushed, SessionOver
from dynlog.network.session_handshake import read_answer, read_hello
from tests.network.session_pair import ACCEPTOR, DIALLER, SMALL, TARGET, Pair


def talk() -> Pair:
    """A pair that has said something of everything; all frames are in `came` of its channel."""
    pair = Pair()
    pair.connect()
    stream = pair.open(b"ask", end=False, name="a")
    pair.settle()
    there, session = pair.served(), pair.session(ACCEPTOR)
    pair.dialler.send(stream, b"x" * 150, True)
    session.grant(there, 3, 3)
    session.send(there, b"answer", False)
    pair.settle()
    session.finish(there)
    failing = pair.open(name="b")
    pair.settle()
    session.fail(pair.served(), Code.FAILED, "ValueError", "no")
    pair.dialler.cancel(failing, "late")
    pair.dialler.push(TARGET, "news", b"pushed")
    pair.dialler.ping(pair.now)
    pair.dialler.goaway("bye")
    pair.settle()
    pair.told(ACCEPTOR, session.close("done", pair.now))
    pair.wires[1].came[DIALLER].extend(b"".join(frame) for frame in session.take(1 << 20))
    return pair


TALK = talk()
FRAMES = [(end, n, frame) for end in (DIALLER, ACCEPTOR) for n, frame in enumerate(TALK.wires[1].came[end])]
FRAME_IDS = [f"{'acceptor' if end else 'dialler'}-{n}-{frame[0]}" for end, n, frame in FRAMES]


def listening(end: int, before: int) -> Pair:
    """A pair of which that end has heard the same talk up to a frame."""
    pair = Pair()
    pair.connect()
    if end == DIALLER:
        pair.open(b"ask", end=False, name="a")
        pair.open(name="b")
        pair.move(DIALLER)
    for frame in TALK.wires[1].came[end][1:before]:
        pair.arrive(pair.wires[1], end, unacknowledging(frame))
    pair.clear()
    return pair


def unacknowledging(frame: bytes) -> bytes:
    """A batch as from a peer that has received nothing, for this end has not said the same."""
    return frame[:13] + bytes(8) + frame[21:] if frame[0] == FrameKind.BATCH else frame


def damaged_frames(frame: bytes) -> Iterator[bytes]:
    for at in range(len(frame)):
        yield frame[:at]
        for bit in range(8):
            yield frame[:at] + bytes([frame[at] ^ (1 << bit)]) + frame[at + 1 :]
        yield frame[:at] + b"\xff\xff\xff\xff" + frame[at + 4 :]
    yield frame + b"\0"


def check(pair: Pair, end: int) -> None:
    """What was told is an error of ours, or a meaning within the limits."""
    for event in pair.events[end]:
        match event:
            case ChannelFailed(_, error):
                assert isinstance(error, ProtocolError)
                assert len(str(error)) < 2000
            case SessionOver(error):
                assert error is None or isinstance(error, ProtocolError)
            case Opened(_, meta, body):
                assert isinstance(meta.topic, str)
                assert len(body or b"") <= SMALL.limits.max_message_bytes
            case Message(_, body) | Pushed(_, _, body):
                assert len(body) <= SMALL.limits.max_message_bytes


@pytest.mark.parametrize(("end", "before", "frame"), FRAMES, ids=FRAME_IDS)
def test_a_frame_damaged_at_any_byte_is_an_error_or_has_a_meaning(end: int, before: int, frame: bytes) -> None:
    if frame[0] in (FrameKind.HELLO, FrameKind.WELCOME):
        read = read_hello if frame[0] == FrameKind.HELLO else read_answer
        for bad in damaged_frames(frame):
            try:
                read(bad)
            except ProtocolError:
                continue
        return
    undamaged = listening(end, before)
    undamaged.arrive(undamaged.wires[1], end, unacknowledging(frame))
    assert undamaged.of(end, ChannelFailed) == []
    for bad in damaged_frames(unacknowledging(frame)):
        pair = listening(end, before)
        session = pair.session(end)
        pair.told(end, session.receive(1, bad, pair.now))
        check(pair, end)
        session.take(1 << 20)
        session.tick(pair.now + 1000)


def test_a_frame_cut_off_anywhere_is_no_whole_batch() -> None:
    """Every length but the whole one is an error, whatever comes before the cut."""
    pair = Pair()
    pair.connect()
    for n in range(3):
        pair.dialler.push(TARGET, "t", b"%d" % n)
    pair.move(DIALLER)
    frame = pair.wires[1].under_way[ACCEPTOR].pop()
    for cut in range(len(frame)):
        pair = Pair()
        pair.connect()
        pair.arrive(pair.wires[1], ACCEPTOR, frame[:cut])
        errors = [str(event.error) for event in pair.events[ACCEPTOR] if isinstance(event, ChannelFailed)]
        assert len(errors) == 1
        assert "bytes are there and" in errors[0]
        assert "needed" in errors[0]
        assert pair.session(ACCEPTOR).stats().records_received == len(pair.of(ACCEPTOR, Pushed))


HUGE = (1 << 32) - 1
HEAD = BATCH.pack(FrameKind.BATCH, 1, 0, 0)


@pytest.mark.parametrize(
    "frame",
    [
        BATCH.pack(FrameKind.BATCH, HUGE, 0, 0),
        BATCH.pack(FrameKind.BATCH, HUGE, HUGE, HUGE),
        HEAD + RECORD.pack(HUGE, RecordKind.DATA, 0, 1),
        HEAD + RECORD.pack(OPEN.size, RecordKind.OPEN, 1, 1) + OPEN.pack(0, 1, 0, 0xFFFF),
        HEAD + RECORD.pack(OPEN.size, RecordKind.OPEN, 1, 1) + OPEN.pack(0, 1, 0xFFFF, 0),
        HEAD + RECORD.pack(OPEN.size + 5, RecordKind.OPEN, 1, 1) + OPEN.pack(0, 1, 0, 5) + b"\xdd\xff\xff\xff\xff",
        HEAD + RECORD.pack(OPEN.size + 5, RecordKind.OPEN, 1, 1) + OPEN.pack(0, 1, 0, 5) + b"\xdf\xff\xff\xff\xff",
        HEAD + RECORD.pack(OPEN.size + 5, RecordKind.OPEN, 1, 1) + OPEN.pack(0, 1, 0, 5) + b"\xc6\xff\xff\xff\xff",
        HEAD + RECORD.pack(OPEN.size + 2000, RecordKind.OPEN, 1, 1) + OPEN.pack(0, 1, 0, 2000) + b"\x91" * 2000,
        HEAD + RECORD.pack(EVENT.size, RecordKind.EVENT, 0, 0) + EVENT.pack(TARGET, 255),
        HEAD + RECORD.pack(ERROR.size, RecordKind.ERROR, 0, 1) + ERROR.pack(1, 255, 65535),
    ],
)
def test_a_huge_length_takes_no_memory(frame: bytes) -> None:
    pair = Pair()
    pair.connect()
    tracemalloc.start()
    try:
        pair.arrive(pair.wires[1], ACCEPTOR, frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000
    assert any(isinstance(event, ChannelFailed | SessionOver) for event in pair.events[ACCEPTOR])


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 0x7F, 0x80, 0xFF]),
    flags=st.integers(0, 255),
    stream=st.sampled_from([0, 1, 2, 3, 4, 5, 1 << 40, (1 << 64) - 1]),
    body=st.binary(max_size=120),
)
def test_any_record_is_an_error_or_has_a_meaning(kind: int, flags: int, stream: int, body: bytes) -> None:
    pair = Pair()
    pair.connect()
    pair.open(b"", end=False)
    pair.open(b"", end=False, by=ACCEPTOR)
    pair.settle()
    frame = BATCH.pack(FrameKind.BATCH, 1, 1, 0) + RECORD.pack(len(body), kind, flags, stream) + body
    for end in (DIALLER, ACCEPTOR):
        if pair.session(end).active is not None:
            pair.arrive(pair.wires[1], end, frame)
            check(pair, end)


@settings(max_examples=300, deadline=None)
@given(frame=st.binary(max_size=200), magic=st.booleans())
def test_any_bytes_in_a_handshake_are_an_error_or_have_a_meaning(frame: bytes, magic: bool) -> None:
    for read, end in ((read_hello, ACCEPTOR), (read_answer, DIALLER)):
        head = TALK.wires[1].came[end][0][:11]
        with suppress(ProtocolError):
            read(head + frame if magic else frame)
