"""Files and pipes of events, one a line, as items: a file that is read again makes the very same records.

A regular file's marks are (``file:`` + SHA-256 of its bytes, 0, line number), and its lines are grouped in fixed
chunks, so an ingest that was killed, or that runs twice, changes nothing.  A file that grew or changed is another file:
all of it is appended again (events repeat harmlessly).  A pipe has no identity; what comes through one twice is stored
twice, with marks of this run.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import select
import stat
import uuid
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from dynlog.errors import ConfigurationError, MalformedEvent
from dynlog.ingest_items import Item, Refused, Taken
from dynlog.kvevents import HEAD, KvEvent, encode_events
from dynlog.record import Mark

CHUNK_LINES = 256
"""Part of the marks: with another number here a file would be stored a second time."""
READ_BYTES = 1 << 20
RECORD_BYTES = 256 << 10
"""Columns of one record; what is more goes into the next one."""
MAX_LINE_BYTES = 4 << 20
STDIN = "-"

Decode = Callable[[bytes], KvEvent]


async def line_items(path: str, decode: Decode) -> AsyncGenerator[Item, None]:
    """The events of a file (``.gz`` is unpacked) or, for ``-``, of standard input.

    A line that ``decode`` refuses with MalformedEvent is handed on as Refused.  Raises ConfigurationError if the file
    cannot be read or changes meanwhile, MalformedEvent naming the line where a ``.gz`` breaks off.
    """
    if path == STDIN and not stat.S_ISREG(os.fstat(0).st_mode):
        pieces: AsyncGenerator[bytes, None] = _pipe_pieces()
        producer, whole_chunks = f"pipe:{uuid.uuid4().hex}", False
    else:
        file = await asyncio.to_thread(_open, path)
        producer, whole_chunks = f"file:{file.digest}", True
        pieces = _file_pieces(file)
    number, events = 1, 0
    async with aclosing(_chunks(pieces, whole=whole_chunks)) as chunks:
        try:
            async for chunk in chunks:
                for item in _items(path, producer, number, chunk, decode):
                    yield item
                    events += item.events if isinstance(item, Taken) else 0
                number += len(chunk)
        except _BrokenOffError as error:
            raise MalformedEvent(
                f"{path}: breaks off {error}; the {events} events of its first {number - 1} lines were taken. The good "
                "file is another one, by another digest: all of it is appended, those events once more, which does no "
                "harm; only the same file again changes nothing"
            ) from None


class _BrokenOffError(Exception):
    """A file's content cannot be read further; says after how much, and why."""


async def _chunks(pieces: AsyncGenerator[bytes, None], *, whole: bool) -> AsyncGenerator[list[bytes], None]:
    """The lines, CHUNK_LINES at a time; a chunk that is not ``whole`` does not wait for the rest of it."""
    chunk: list[bytes] = []
    splitter = _Splitter()
    async with aclosing(pieces):
        async for piece in pieces:
            for line in splitter.feed(piece):
                chunk.append(line)
                if len(chunk) == CHUNK_LINES:
                    yield chunk
                    chunk = []
            if chunk and not whole:
                yield chunk
                chunk = []
            await asyncio.sleep(0)
    yield chunk + splitter.rest()


class _Group:
    """Events of one worker that stand in one chunk."""

    __slots__ = ("events", "line", "room")

    def __init__(self, line: int) -> None:
        self.line = line
        self.events: list[KvEvent] = []
        self.room = RECORD_BYTES


def _items(path: str, producer: str, first_line: int, lines: Sequence[bytes], decode: Decode) -> list[Item]:
    """Refusals first, then a record for each worker, in the order of their first lines (so that marks count up)."""
    items: list[Item] = []
    groups: list[_Group] = []
    current: dict[int, _Group] = {}
    for number, line in enumerate(lines, first_line):
        if not line.strip():
            continue
        try:
            event = decode(line)
        except MalformedEvent as error:
            items.append(Refused(path, f"line {number}", str(error), line, Mark(producer, 0, number)))
            continue
        cost = HEAD.size + len(event.block_hashes) + len(event.tokens_hashes)
        group = current.get(event.worker_id)
        if group is None or group.room < cost:
            group = current[event.worker_id] = _Group(number)
            groups.append(group)
        group.events.append(event)
        group.room -= cost
    for group in groups:
        blocks = sum(len(event.block_hashes) for event in group.events) // 8
        record = encode_events(group.events, mark=Mark(producer, 0, group.line))
        items.append(Taken(record, len(group.events), blocks))
    return items


class _Splitter:
    """Pieces to lines; of a line that is too long only the beginning is kept, long enough to be refused."""

    def __init__(self) -> None:
        self._carry = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        lines = piece.split(b"\n")
        if len(lines) == 1:
            self._extend(piece)
            return []
        self._extend(lines[0])
        first, self._carry = bytes(self._carry), bytearray()
        self._extend(lines[-1])
        return [first, *lines[1:-1]]

    def rest(self) -> list[bytes]:
        """The last line, if nothing ended it."""
        return [bytes(self._carry)] if self._carry else []

    def _extend(self, part: bytes) -> None:
        self._carry += part[: MAX_LINE_BYTES + 1 - len(self._carry)]


class _File(NamedTuple):
    path: str
    raw: BufferedReader
    digest: str
    state: os.stat_result


def _open(path: str) -> _File:
    try:
        raw: BufferedReader = os.fdopen(os.dup(0), "rb") if path == STDIN else Path(path).open("rb")  # noqa: SIM115
        state = os.fstat(raw.fileno())
        if not stat.S_ISREG(state.st_mode):
            raw.close()
            raise ConfigurationError(f"{path}: not a regular file; pipe it into '-' to read it once")
        raw.seek(0)
        digest = hashlib.file_digest(raw, "sha256").hexdigest()[:32]
        raw.seek(0)
        return _File(path, raw, digest, state)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None


async def _file_pieces(file: _File) -> AsyncGenerator[bytes, None]:
    body: gzip.GzipFile | BufferedReader = file.raw
    if file.path.endswith(".gz"):
        body = gzip.GzipFile(fileobj=file.raw)
    done = 0
    try:
        while True:
            try:
                piece = await asyncio.to_thread(body.read, READ_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                raise _BrokenOffError(f"after {done} bytes of content ({error})") from None
            if not piece:
                break
            done += len(piece)
            yield piece
        now = os.fstat(file.raw.fileno())
        if (now.st_size, now.st_mtime_ns) != (file.state.st_size, file.state.st_mtime_ns):
            raise ConfigurationError(
                f"{file.path}: changed while it was being read; ingest it again once it is complete"
            )
    finally:
        file.raw.close()


async def _pipe_pieces() -> AsyncGenerator[bytes, None]:
    fd = os.dup(0)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    try:
        while True:
            # Asked first, because the event loop cannot watch what is always ready (/dev/null) and would wait for ever.
            if not poll.poll(0):
                await _readable(fd)
            piece = os.read(fd, READ_BYTES)
            if not piece:
                return
            yield piece
    finally:
        os.close(fd)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
