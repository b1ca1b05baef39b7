"""The test vectors of the protocol: a conversation, frame by frame, and frames that must be refused.

``docs/protocol-vectors.json`` holds what each end does, the bytes that it then sends, and what the other end makes of
them.  ``python -m tests.network.session_vectors`` writes bytes and meanings anew for what the ends do there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack

from dynlog.call_errors import ProtocolError
from dynlog.network.session import Session
from dynlog.network.session_events import ChannelFailed, Event, Opened, SessionOver
from dynlog.network.session_handshake import (
    Hello,
    Identity,
    Refusal,
    read_answer,
    read_hello,
    write_hello,
    write_refusal,
)
from dynlog.network.session_settings import Limits, Settings
from dynlog.network.session_stream import Stream

PATH = Path(__file__).parents[2] / "docs" / "protocol-vectors.json"
Json = dict[str, Any]
FRAME_BYTES = 1 << 20
RECORDS = {1: "OPEN", 2: "DATA", 3: "END", 4: "ERROR", 5: "CANCEL", 6: "CREDIT", 7: "GOAWAY", 8: "EVENT"}


class Talk:
    """Two sessions that do what the vectors say, on one channel."""

    def __init__(self, given: Json) -> None:
        self.given = given
        self.now = 50.0
        self.sessions: dict[str, Session] = {}
        self.streams: dict[tuple[str, int], Stream] = {}
        said = given["dialler"]
        self.sessions["dialler"] = Session.dialler(
            _identity(said),
            _settings(said),
            bytes.fromhex(given["session"]),
            self.now,
            wanted=bytes.fromhex(given["acceptor"]["entity"]),
            token=bytes.fromhex(said["token"]),
        )
        self.hello: Hello | None = None

    def step(self, step: Json) -> tuple[bytes, list[Json]]:
        """What one end does: the frame that it sends, and the events at the other."""
        by = step["by"]
        other = "acceptor" if by == "dialler" else "dialler"
        self.now += step.get("after_ms", 0) / 1000
        frame = self._frame(by, step["does"])
        if frame[0] == 1:
            self.hello = read_hello(frame)
            said = self.given["acceptor"]
            self.sessions["acceptor"] = Session.acceptor(_identity(said), _settings(said), self.hello, self.now)
            return frame, []
        return frame, [self._told(other, event) for event in self.sessions[other].receive(1, frame, self.now)]

    def _frame(self, by: str, does: list[Json]) -> bytes:
        if does == [{"attach": {}}]:
            return self.sessions[by].attach(1, FRAME_BYTES, self.now)
        if does == [{"accept": {}}]:
            assert self.hello is not None
            return self.sessions[by].accept(1, self.hello, FRAME_BYTES, self.now)[0]
        session = self.sessions[by]
        for deed in does:
            for name, said in deed.items():
                self._act(by, session, name, said)
        session.tick(self.now)
        (frame,) = session.take(1 << 20)
        return b"".join(frame)

    def _act(self, by: str, session: Session, name: str, said: Json) -> None:
        stream = self.streams.get((by, said.get("stream", 0)))
        body = said.get("body")
        raw = None if body is None else body.encode()
        if name == "open":
            ms = said["remaining_ms"]
            deadline = None if ms is None else self.now + ms / 1000 + 1e-6
            opened = session.open(
                bytes.fromhex(said["target"]), said["topic"], said["caller"], said["correlation_id"], said["attempt"],
                said["headers"], deadline, raw, said["end"], self.now,
            )  # fmt: skip
            assert opened is not None
            self.streams[by, opened.id] = opened
        elif name == "push":
            assert session.push(bytes.fromhex(said["target"]), said["topic"], raw or b"")
        elif name == "goaway":
            session.goaway(said["reason"])
        elif name == "close":
            session.close(said["reason"], self.now)
        elif name == "ping":
            session.ping(self.now)
        elif name == "grant_push":
            session.grant_push(said["messages"], said["bytes"])
        elif stream is not None and name == "send":
            assert session.send(stream, raw or b"", said["end"])
        elif stream is not None and name == "finish":
            session.finish(stream)
        elif stream is not None and name == "fail":
            session.fail(stream, said["code"], said["kind"], said["text"])
        elif stream is not None and name == "cancel":
            session.cancel(stream, said["reason"])
        elif stream is not None and name == "grant":
            session.grant(stream, said["messages"], said["bytes"])
        else:
            assert name == "nothing", f"{name} is not done by anybody"

    def _told(self, end: str, event: Event) -> Json:
        said: Json = {"event": type(event).__name__}
        for name, value in event._asdict().items():
            if isinstance(value, Stream):
                said[name] = value.id
            elif isinstance(value, bytes):
                said[name] = value.hex() if name == "target" else value.decode()
            elif isinstance(value, Exception):
                said[name] = str(value)
            elif name == "meta":
                said[name] = {**value._asdict(), "target": value.target.hex(), "headers": dict(value.headers)}
            elif name != "seconds":
                said[name] = value
        if isinstance(event, Opened):
            stream = event.stream
            self.streams[end, stream.id] = stream
            said["remaining_ms"] = None if stream.deadline is None else round((stream.deadline - self.now) * 1000)
        return said


def refused(bad: Json, given: Json) -> Json:
    """What becomes of a bad frame: which of handshake, channel and session ends, and what the error says."""
    frame = bytes.fromhex(bad["hex"])
    if bad["as"] == "handshake":
        try:
            read_hello(frame)
        except ProtocolError as error:
            return {"ends": "handshake", "error": str(error)}
    else:
        talk = Talk(given)
        for step in given["frames"][:2]:
            talk.step(step)
        opened = talk.step(given["frames"][2])
        assert opened[1]
        for event in talk.sessions["acceptor"].receive(1, frame, talk.now):
            if isinstance(event, ChannelFailed):
                return {"ends": "channel", "error": str(event.error)}
            if isinstance(event, SessionOver):
                return {"ends": "session", "error": str(event.error)}
    return {"ends": "nothing", "error": ""}


def explained(frame: bytes) -> list[list[str]]:
    """The frame field by field, as hex and what it is: a second reading, independent of the library's."""
    at = 0
    parts: list[list[str]] = []

    def take(size: int, what: str) -> bytes:
        nonlocal at
        raw = frame[at : at + size]
        assert len(raw) == size
        parts.append([raw.hex(), what])
        at += size
        return raw

    def number(size: int, what: str) -> int:
        value = int.from_bytes(frame[at : at + size], "big")
        take(size, f"{what} {value}")
        return value

    kind = frame[0]
    if kind in (1, 2, 3):
        take(1, {1: "HELLO", 2: "WELCOME", 3: "REFUSED"}[kind])
        take(6, "magic")
        number(2, "lowest version")
        number(2, "highest version")
        said = msgpack.unpackb(frame[at:])
        take(len(frame) - at, f"msgpack {_shown(said)}")
    elif kind in (5, 6):
        take(1, "PING" if kind == 5 else "PONG")
        number(8, "token")
    elif kind == 7:
        take(1, "BYE")
        number(1, "why")
        take(number(2, "length of reason"), "reason")
    else:
        take(1, "BATCH")
        count = number(4, "records")
        first = number(8, "number of the first")
        number(8, "acknowledged: every record below")
        for n in range(count):
            length = number(4, f"record {first + n}: length")
            record = RECORDS[number(1, "kind")]
            parts[-1][1] = record
            number(1, "flags")
            number(8, "stream")
            end = at + length
            if record == "OPEN":
                number(4, "remaining ms")
                number(2, "attempt")
                name, meta = number(2, "length of correlation id"), number(2, "length of meta")
                take(name, "correlation id")
                take(meta, f"msgpack {_shown(msgpack.unpackb(frame[at : at + meta]))}")
            elif record == "EVENT":
                take(16, "target")
                take(number(1, "length of topic"), "topic")
            elif record == "CREDIT":
                number(4, "messages")
                number(4, "bytes")
            elif record == "ERROR":
                number(2, "code")
                what, said = number(1, "length of kind"), number(2, "length of text")
                take(what, "kind")
                take(said, "text")
            if at < end:
                take(end - at, "reason" if record in ("CANCEL", "GOAWAY") else "message")
    assert at == len(frame)
    return parts


def _shown(said: Any) -> str:
    return json.dumps(said, default=lambda value: value.hex(), ensure_ascii=False)


def _identity(said: Json) -> Identity:
    return Identity(bytes.fromhex(said["entity"]), said["incarnation"], said["name"], frozenset(said["features"]))


def _settings(said: Json) -> Settings:
    return Settings(limits=Limits(**said["limits"]), chunk_bytes=said["chunk_bytes"])


def read_vectors() -> Json:
    vectors: Json = json.loads(PATH.read_text())
    return vectors


def other_frames(vectors: Json) -> list[tuple[str, bytes, bytes]]:
    """Handshake frames outside the conversation: name, the bytes in the file, the bytes that are written from it."""
    found = []
    for one in vectors["handshakes"]:
        frame = bytes.fromhex(one["hex"])
        if one["means"].get("code"):
            again = write_refusal(Refusal(one["means"]["code"], one["means"]["text"]))
            assert read_answer(frame) == Refusal(one["means"]["code"], one["means"]["text"])
        else:
            again = write_hello(read_hello(frame))
        found.append((one["name"], frame, again))
    return found


def main() -> None:
    vectors = read_vectors()
    talk = Talk(vectors)
    for step in vectors["frames"]:
        frame, events = talk.step(step)
        step["hex"], step["parts"], step["events"] = frame.hex(), explained(frame), events
    for bad in vectors["bad"]:
        bad.update(refused(bad, vectors))
    PATH.write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
