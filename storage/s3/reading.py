"""A body that is being read: it goes on with the bytes that it began with, over broken connections, or raises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import urllib3

from dynlog.errors import Closed, ObjectCorrupt, ObjectNotFound, ObjectStoreUnavailable
from dynlog.objects import PIECE_BYTES, Progress, check_range
from dynlog.storage.s3.connection import Exchange
from dynlog.storage.s3.digest import Check
from dynlog.storage.s3.failures import NO_ANSWER, Refused, Unreached
from dynlog.storage.s3.looking import ATTEMPTS, Found, check_there, look, understand
from dynlog.storage.s3.work import BACKOFF, PERSISTENCE_S, Work
from dynlog.tasks import ended
from dynlog.timing import Deadline

READ_TOGETHER = 8
"""Pieces that a thread hands over together: that costs some 0.1 ms of processor time."""
AHEAD = 2
"""So many of these batches wait for the caller while another is read: reading and the caller's own work then go on at
once, and neither waits for a hiccup of the other."""
RUN_OF_BATCHES = 16
"""A thread that has room goes on by itself for so many, each of which the caller's deadline would allow alone."""

Pieces = list[bytes]


class OpenBody:
    """One read of one object, which has its key's name if it is not given another.

    ``open_ones`` holds it while it is under way, and `end` closes it, whatever state it is in.
    """

    def __init__(self, work: Work, key: str, open_ones: set[OpenBody], name: str = "") -> None:
        self._work = work
        self._key = key
        self._name = name
        self._open_ones = open_ones
        self._exchange = Exchange()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._check: Check | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Queue[Pieces | BaseException] = asyncio.Queue()
        self._at = 0
        self._handed = self._taken = 0
        self._went_on = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def pieces(
        self, start: int, length: int | None, progress: Progress | None, timeout: float
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of the range; a whole body is verified before its last piece is handed out."""
        self._name = self._name or self._work.names.of(self._key)
        self._open_ones.add(self)
        try:
            whole = start == 0 and length is None
            found = await (self._open_whole(timeout) if whole else self._look(timeout))
            start, stop = check_range(found.info, start, length)
            if start == 0 and stop == found.info.size:
                self._check = Check(found.info.sha256, found.xxh3)
            self._at = start
            self._reading = asyncio.ensure_future(self._read_ahead(found, stop, timeout))
            at = start
            while at < stop:
                for piece in await self._next():
                    self._work.waits.check()
                    yield piece
                    at += len(piece)
                    if progress is not None:
                        progress(at - start, stop - start)
                self._taken += 1
                self._went_on.set()
            if start == stop:
                self._verify()
        finally:
            self._open_ones.discard(self)
            await self.end()

    async def _read_ahead(self, found: Found, stop: int, timeout: float) -> None:
        """Reads as far ahead as there is room for; what it raises is raised where the caller gets to it."""
        try:
            while self._at < stop:
                while not self._has_room():
                    self._went_on.clear()
                    await self._went_on.wait()
                pieces = await self._read(found, stop, timeout)
                if self._at == stop:
                    self._verify()
                if pieces:
                    self._handed += 1
                    self._ready.put_nowait(pieces)
        except asyncio.CancelledError:
            self._ready.put_nowait(Closed("the read was closed"))
            raise
        except Exception as error:
            self._ready.put_nowait(error)

    def _has_room(self) -> bool:
        return self._handed - self._taken < AHEAD

    async def _next(self) -> Pieces:
        self._work.waits.check()
        found = await self._ready.get()
        if isinstance(found, BaseException):
            raise found
        return found

    async def _look(self, timeout: float) -> Found:
        return check_there(self._work, await look(self._work, self._name, self._key, timeout))

    async def _open_whole(self, timeout: float) -> Found:
        """Opens the body as it is now, which tells all that a look would."""
        for _ in range(ATTEMPTS):
            with self._work.translating(self._key):
                response = await self._open({}, timeout)
            found = await understand(self._work, self._key, response.headers, timeout)
            if found is not None:
                return check_there(self._work, found)
            self._drop()
        raise ObjectCorrupt(
            "its note, which holds its SHA-256, is missing or damaged: put it again",
            store=self._work.store,
            key=self._key,
        )

    async def _open(self, headers: dict[str, str], timeout: float) -> urllib3.BaseHTTPResponse:
        """Begins an answer that this body owns."""
        work = self._work

        def begin() -> None:
            self._response = work.client.open(self._name, headers)

        with work.waits.operation():
            deadline, patience = Deadline(timeout), Deadline(min(timeout, PERSISTENCE_S))
            for pause in BACKOFF:
                self._exchange = Exchange()
                async with work.waits.limit(deadline.remaining, f"get of {self._key!r}"):
                    try:
                        await work.step(self._exchange, begin)
                        break
                    except (Refused, Unreached) as error:
                        if not error.transient or patience.remaining <= pause:
                            raise
                    await asyncio.sleep(pause)
        assert self._response is not None, "begun or raised"
        return self._response

    async def _read(self, found: Found, stop: int, timeout: float) -> Pieces:
        """Has the next pieces handed over, and returns the last of them, which the caller hands over.

        Goes on over a new connection where an old one broke, as long as the body is the same.
        """
        work = self._work
        patience = Deadline(PERSISTENCE_S)
        for pause in BACKOFF:
            with work.waits.operation():
                if self._response is None:
                    await self._go_on(found, self._at, stop, timeout)
                async with work.waits.limit(timeout, f"get of {self._key!r}"):
                    began = self._at
                    try:
                        pieces = await work.step(self._exchange, self._batches, stop)
                    except Unreached as error:
                        self._drop()
                        if self._at > began:
                            return []
                        if patience.remaining <= pause:
                            raise work.translated(error, self._key) from error
                    else:
                        if self._at == stop:
                            self._finish()
                        return pieces
            await asyncio.sleep(pause)
        raise AssertionError("a backoff has no end")

    async def _go_on(self, found: Found, at: int, stop: int, timeout: float) -> None:
        headers = {"Range": f"bytes={at}-{stop - 1}", "If-Match": found.etag}
        try:
            response = await self._open(headers, timeout)
        except Refused as error:
            # Of one that was replaced by a smaller one MinIO may look at the range first (seen with an empty one).
            if not (error.conflict or error.missing or error.beyond):
                raise self._work.translated(error, self._key) from error
            if error.missing and at == 0:
                raise ObjectNotFound("no such object", store=self._work.store, key=self._key) from None
            raise ObjectStoreUnavailable(
                "it was replaced or deleted while it was being read, and the connection broke: read it again",
                store=self._work.store, key=self._key,
            ) from error  # fmt: skip
        except Unreached as error:
            raise self._work.translated(error, self._key) from error
        if response.status != 206 and (at, stop) != (0, found.info.size):
            self._drop()
            raise ObjectStoreUnavailable("the server ignores ranges", store=self._work.store, key=self._key)

    def _batches(self, stop: int) -> Pieces:
        """Reads and hands over one batch after the other while there is room, and returns the last; in a thread."""
        for _ in range(RUN_OF_BATCHES):
            pieces = self._chunk(stop - self._at)
            self._at += sum(map(len, pieces))
            if self._at == stop or self._handed + 1 - self._taken >= AHEAD:
                break
            self._handed += 1
            self._loop.call_soon_threadsafe(self._ready.put_nowait, pieces)
            pieces = []
        return pieces

    def _chunk(self, most: int) -> Pieces:
        """Reads some pieces and hashes them while they are in the processor's cache; in a thread."""
        response, check = self._response, self._check
        if response is None:
            raise Unreached(OSError("closed"))
        pieces: Pieces = []
        try:
            while len(pieces) < READ_TOGETHER and most:
                piece = response.read(min(PIECE_BYTES, most), decode_content=False)
                if not piece:
                    raise Unreached(OSError("the answer ended early"))
                most -= len(piece)
                pieces.append(piece)
                if check is not None:
                    check.update(piece)
        except (*NO_ANSWER, ValueError, AttributeError) as error:
            # The last two are what http.client says when the answer was closed under it.
            if not pieces:
                raise Unreached(error) from error
        return pieces

    def _verify(self) -> None:
        """Raises ObjectCorrupt unless what was read is what was put; parts of a body have nothing to verify them by."""
        check = self._check
        if check is not None and check.found != check.expected:
            raise ObjectCorrupt(
                f"its bytes have {check.name} {check.found}, not the {check.expected} that they were put under: put it "
                "again",
                store=self._work.store, key=self._key,
            )  # fmt: skip

    def _finish(self) -> None:
        """Gives the connection back, the answer having been read to its end."""
        response, self._response = self._response, None
        if response is not None:
            self._exchange.release()
            response.release_conn()
            response.close()

    def _drop(self) -> None:
        """Closes the connection."""
        response, self._response = self._response, None
        if response is not None:
            self._exchange.abort()
            response.close()

    async def end(self) -> None:
        """Closes it; what is being read ahead ends first."""
        reading, self._reading = self._reading, None
        try:
            if reading is not None and not reading.done():
                self._exchange.abort()
                reading.cancel()
                await ended(reading)
        finally:
            self._drop()
