"""What one end sends on its streams: nothing is taken that has neither credit nor room.

What ends a stream (ERROR, CANCEL, END) is always taken, so that no call hangs on a full buffer.
"""

from __future__ import annotations

from collections.abc import Mapping

from dynlog.call_errors import Draining, MessageTooLarge, Overloaded
from dynlog.errors import Closed, ConfigurationError
from dynlog.network.calls import MAX_TOPIC_BYTES
from dynlog.network.frames import EMPTY_FLAG, END_FLAG, EVENT, MAX_REASON_BYTES, MORE_FLAG, RECORD, RecordKind
from dynlog.network.session_meta import write_meta
from dynlog.network.session_stream import Stream
from dynlog.network.session_streams import PUSHES, Streams, cut
from dynlog.record import Buffer

_OPEN, _DATA, _END = int(RecordKind.OPEN), int(RecordKind.DATA), int(RecordKind.END)
_pack_record = RECORD.pack


class Sending(Streams):
    """Streams, and what this end sends on them."""

    __slots__ = ()

    def open(
        self,
        target: bytes,
        topic: str,
        caller: str,
        correlation_id: str,
        attempt: int,
        headers: Mapping[str, str],
        deadline: float | None,
        body: Buffer | None,
        end: bool,
        now: float,
    ) -> Stream | None:
        """A new stream, with its first message; None: there is no room now, a `Writable` of None follows.

        ``end``: the message is the whole request.  ``body`` None: a request without any message (then ``end`` must be
        true).  Raises Draining if the peer, or this end, takes no further streams, Overloaded over the peer's
        max_streams, MessageTooLarge over its max_message_bytes, ConfigurationError for what no peer would take (an id
        that is not of 16 bytes, too long a topic, too many headers), Closed after the end of the session.
        """
        outbox = self._outbox
        theirs = self._theirs
        if theirs is None or self._going or self._peer_going or self._over or not outbox.room:
            self._not_opened(topic)
            return None
        if self._opened_here >= theirs.max_streams:
            raise Overloaded(f"{theirs.max_streams} calls are open, the most that the peer takes", topic=topic)
        head = write_meta(
            target, topic, caller, correlation_id, attempt, headers, None if deadline is None else deadline - now
        )
        stream = Stream(self._next_id, True, deadline, outbox.next, theirs, self._ours)
        flags = END_FLAG if end else 0
        size = 0
        if body is None:
            if not end:
                raise ConfigurationError(f"a call to {topic!r} without a first message cannot go on: wait for one")
            flags |= EMPTY_FLAG
            body = b""
        else:
            size = len(body) if type(body) is bytes else memoryview(body).nbytes
            if size > self._chunk_bytes:
                if size > self._max_message_bytes:
                    raise self._too_large(size, topic)
                view = memoryview(body).cast("B")
                body = view[: self._chunk_bytes]
                stream.rest, stream.rest_end, flags = view[self._chunk_bytes :], end, MORE_FLAG
                self._chunking.append(stream)
            stream.send_messages -= 1
            stream.send_bytes -= size
        if flags & END_FLAG:
            stream.sending = False
            stream.alone = True
        self._next_id += 2
        self._opened_here += 1
        self._live[stream.id] = stream
        outbox.put(b"".join((_pack_record(len(head) + len(body), _OPEN, flags, stream.id), head, body)))
        return stream

    def send(self, stream: Stream, body: Buffer, end: bool) -> bool:
        """Whether the message was taken; if not (no credit, or no room), a `Writable` of the stream follows.

        The body must not be changed afterwards.  On a stream that is over it is taken and dropped (`Stats.late`).
        Raises MessageTooLarge over the peer's max_message_bytes, and ConfigurationError after the end of this
        direction.
        """
        if not stream.sending or stream.rest_end:
            return self._not_sent(stream)
        size = len(body) if type(body) is bytes else memoryview(body).nbytes
        if size > self._max_message_bytes:
            raise self._too_large(size, None)
        outbox = self._outbox
        if not outbox.room:
            self._starved[stream] = None
            return False
        if stream.send_messages < 1 or stream.send_bytes < 1 or stream.rest is not None:
            stream.waiting = True
            return False
        stream.send_messages -= 1
        stream.send_bytes -= size
        if size > self._chunk_bytes:
            stream.rest, stream.rest_end = memoryview(body).cast("B"), end
            self._chunking.append(stream)
            return True
        outbox.put(_pack_record(size, _DATA, end, stream.id) + body)
        if end:
            stream.sending = False
            if not stream.receiving:
                self._forget(stream)
        return True

    def finish(self, stream: Stream) -> None:
        """Ends this direction; always taken."""
        if not stream.sending:
            return
        if stream.rest is not None:
            stream.rest_end, stream.waiting = True, False
            return
        self._outbox.put(_pack_record(0, _END, 0, stream.id))
        stream.sending = stream.waiting = False
        if not stream.receiving:
            self._forget(stream)

    def fail(self, stream: Stream, code: int, kind: str, text: str) -> None:
        """Ends the stream with an error; always taken; what was not sent yet of a message in pieces is dropped."""
        if not stream.over:
            self._put_error(stream.id, code, kind, text)
            self._abandon(stream)

    def cancel(self, stream: Stream, reason: str) -> None:
        """Ends the stream because nobody wants more of it; always taken.  An OPEN that has not left is taken back."""
        if stream.over:
            return
        if not (stream.alone and self._outbox.take_back(stream.number)):
            body = cut(reason, MAX_REASON_BYTES)
            self._outbox.put(_pack_record(len(body), RecordKind.CANCEL, 0, stream.id) + body)
        self._abandon(stream)

    def grant(self, stream: Stream, messages: int, size: int) -> None:
        """The reader has consumed so many messages of so many bytes together; the peer may send as many more."""
        if not stream.receiving:
            return
        stream.returned_messages += messages
        stream.returned_bytes += size
        ours = self._ours
        if stream.returned_messages * 2 >= ours.window_messages or stream.returned_bytes * 2 >= ours.window_bytes:
            self._granting[stream] = None

    def push(self, target: bytes, topic: str, body: Buffer) -> bool:
        """Whether a message that belongs to no stream was taken; if not, a `Writable` of None follows.

        ``target`` is an id of 16 bytes, ``topic`` has at most MAX_TOPIC_BYTES in UTF-8.  Raises MessageTooLarge,
        ConfigurationError, and Closed after the end of the session.
        """
        pushes = self._pushes
        size = len(body) if type(body) is bytes else memoryview(body).nbytes
        if self._over:
            raise Closed(f"the session is over: nothing is pushed on {topic!r}")
        if self._theirs is None or not self._outbox.room:
            self._starved[pushes] = None
            return False
        if size > self._max_message_bytes:
            raise self._too_large(size, topic)
        if pushes.send_messages < 1 or pushes.send_bytes < 1 or pushes.rest is not None:
            pushes.waiting = True
            return False
        name = topic.encode()
        if len(name) > MAX_TOPIC_BYTES or len(target) != 16:
            raise ConfigurationError(f"a push on a topic of {len(name)} bytes to an id of {len(target)}: see `push`")
        head = EVENT.pack(target, len(name)) + name
        flags = 0
        if size > self._chunk_bytes:
            view = memoryview(body).cast("B")
            body, pushes.rest, flags = view[: self._chunk_bytes], view[self._chunk_bytes :], MORE_FLAG
            self._chunking.append(pushes)
        pushes.send_messages -= 1
        pushes.send_bytes -= size
        length = len(head) + len(body)
        self._outbox.put(b"".join((_pack_record(length, RecordKind.EVENT, flags, PUSHES), head, body)))
        return True

    def grant_push(self, messages: int, size: int) -> None:
        """So many pushed messages of so many bytes together have been consumed."""
        pushes = self._pushes
        pushes.returned_messages += messages
        pushes.returned_bytes += size
        ours = self._ours
        if pushes.returned_messages * 2 >= ours.push_messages or pushes.returned_bytes * 2 >= ours.push_bytes:
            self._granting[pushes] = None

    def _not_opened(self, topic: str) -> None:
        if self._over:
            raise Closed(f"the session is over: no call to {topic!r} is made on it")
        if self._going or self._peer_going:
            who = "this end" if self._going else "the peer"
            raise Draining(f"{who} finishes what runs and takes no further calls", topic=topic)
        self._starved[self._pushes] = None

    def _not_sent(self, stream: Stream) -> bool:
        if stream.receiving or stream.rest_end:
            raise ConfigurationError(f"{stream} was finished: nothing more can be sent on it")
        self._late += 1
        return True

    def _too_large(self, size: int, topic: str | None) -> MessageTooLarge:
        return MessageTooLarge(
            f"a message of {size} bytes is over the {self._max_message_bytes} that the peer takes: put it into an "
            "object store and send its key",
            topic=topic,
        )
