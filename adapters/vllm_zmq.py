"""One vLLM engine over ZMQ: its batches as items for the ingest, each once, in order, without a silent gap.

The SUB socket brings live batches, its monitor says when the engine was reached or lost, and a DEALER asks the engine's
ROUTER for replays; `Lineage` decides.  A message can be older than the connection that it is read after, so the monitor
is always read after the messages and before they are judged.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

import zmq

from dynlog.adapters.reach import Reach
from dynlog.adapters.source_memory import SourceMemory
from dynlog.adapters.sources import ZmqSource
from dynlog.adapters.vllm_events import EventBatch, decode_batch
from dynlog.adapters.vllm_lineage import Action, Ask, Clear, Lineage, Take, Tell
from dynlog.adapters.vllm_records import Rank, batch_records, clear_record, producer_of
from dynlog.adapters.zmq_wait import BURST, connection_changes, harden, monitor, receive, wait_readable
from dynlog.errors import ConfigurationError, MalformedEvent
from dynlog.ingest_items import Item, Noticed, NoticeKind, Refused, Taken
from dynlog.log import Log
from dynlog.record import Mark

REPLAY_TIMEOUT_S = 5.0
"""Silence of the replay socket after which a request counts as unanswered."""
HEARTBEAT_S = 5.0
FIRST_PROBE_S, LAST_PROBE_S = 0.5, 30.0
"""Silence of an engine after which its replay is probed, doubling: a lost last batch has no successor to betray it."""
LIVE_HWM = 4096
REPLAY_HWM = 1 << 14
"""Above the engine's 10,000: its ROUTER drops what does not fit here."""
END: Final = b"\xff" * 8
BLOCK_SIZE_LABEL = "block_size"
_SEQUENCE = struct.Struct(">Q")


class TopicBlockSize:
    """The one block size of a topic, kept as its label ``block_size``: the first engine that stores decides."""

    def __init__(self, log: Log, topic: str, value: int | None) -> None:
        self._log = log
        self._topic = topic
        self.value = value

    @classmethod
    async def open(cls, log: Log, topic: str) -> TopicBlockSize:
        """As the topic has it now; raises ConfigurationError if its label is no number."""
        label = (await log.topic(topic)).labels.get(BLOCK_SIZE_LABEL)
        if label is not None and not label.isdecimal():
            raise ConfigurationError(f"topic {topic!r} has the label {BLOCK_SIZE_LABEL}={label!r}, which is no number")
        return cls(log, topic, None if label is None else int(label))

    async def claim(self, size: int) -> int:
        """The topic's block size; it is ``size`` from now on if it had none."""
        if self.value is None:
            self.value = int(await self._log.label_topic(self._topic, BLOCK_SIZE_LABEL, str(size)))
        return self.value


class VllmSource:
    """Reads one engine; `bursts` runs until it is closed.

    A new engine, or a gap that nothing fills, clears the worker's rank in the log and begins anew with what the replay
    still offers.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        source: ZmqSource,
        memory: SourceMemory,
        block_size: TopicBlockSize,
        *,
        owner: str = "",
        replay_timeout_s: float = REPLAY_TIMEOUT_S,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        if source.worker_id is None:
            raise ConfigurationError(f"source {source}: worker_id=N is needed, a vLLM engine does not know its own")
        self.rank = Rank(source.worker_id, source.dp_rank)
        self._source = source
        self._memory = memory
        self._block_size = block_size
        self._owner = owner
        self._replay_timeout = replay_timeout_s
        self._sockets = _EngineSockets(context, source, heartbeat_s)
        self._reach = Reach(source, f"worker {source.worker_id}")
        self._next_event_id = 0

    async def bursts(self) -> AsyncGenerator[list[Item], None]:
        """Its batches, refusals and notices, as many together as one look at the sockets brings; raises what the log
        raises."""
        remembered = await self._memory.recall(self.rank, self._owner)
        self._next_event_id = remembered.next_event_id
        has_replay = self._source.replay is not None
        lineage = Lineage(remembered.known, has_replay=has_replay, ended=remembered.ended)
        timer = _Timer(self._replay_timeout)
        with self._sockets as sockets:
            yield [self._reach.waiting()]
            while True:
                burst: list[Item] = []
                busy = False
                for action in self._turn(lineage, timer):
                    busy = True
                    if isinstance(action, Ask):
                        sockets.ask(action.start)
                        timer.heard(live=False)
                    elif isinstance(action, Refused | Noticed):
                        burst.append(action)
                    else:
                        burst += await self._perform(action)
                if (unreached := await self._reach.overdue()) is not None:
                    burst.append(unreached)
                if burst:
                    yield burst
                if busy:
                    await asyncio.sleep(0)
                else:
                    await sockets.wait(min(timer.left(asking=sockets.asking), self._reach.left))

    def _turn(self, lineage: Lineage, timer: _Timer) -> Iterator[Action | Refused | Noticed]:
        """What one look at all sockets brings; lazily, so that an `Ask` takes effect before the next reply is read."""
        sockets = self._sockets
        live = sockets.live()
        for connected in sockets.connection_changes():
            if (notice := self._reach.changed(connected=connected)) is not None:
                yield notice
            if connected:
                yield from lineage.connected()
            else:
                sockets.stop_asking()
                lineage.disconnected()
        if live:
            timer.heard()
        for frames in live:
            if len(frames) != 3 or len(frames[1]) != 8 or frames[1][0] & 0x80:
                shape = [len(frame) for frame in frames]
                reason = f"a message of frames {shape}: [topic, sequence below 2^63, payload] is needed"
                yield Refused(str(self._source), "live", reason, b"".join(frames), None)
                continue
            yield from lineage.live(_SEQUENCE.unpack(frames[1])[0], frames[2])
        for _ in range(BURST):
            reply = sockets.reply()
            if reply is None:
                break
            timer.heard(live=False)
            # [b"", topic, sequence, payload], or [b"", sequence, payload] of older engines
            sequence = reply[-2] if len(reply) in (3, 4) else b""
            if sequence == END:
                sockets.stop_asking()
                yield from lineage.replay_ended()
            elif len(sequence) != 8 or sequence[0] & 0x80:
                yield Refused(str(self._source), "replay", f"a reply of {len(reply)} frames", b"".join(reply), None)
            else:
                yield from lineage.replayed(_SEQUENCE.unpack(sequence)[0], reply[-1])
        if timer.left(asking=sockets.asking) <= 0:
            asking = sockets.asking
            timer.fired(asking=asking)
            sockets.stop_asking()
            yield from lineage.replay_failed() if asking else lineage.probe()

    async def _perform(self, action: Take | Clear | Tell) -> Sequence[Item]:
        name = str(self._source)
        if isinstance(action, Take):
            return await self._take(action)
        if isinstance(action, Tell):
            return [Noticed(action.kind, name, action.detail, action.times)]
        record = clear_record(self.rank, action.known, self._next_event_id)
        self._next_event_id += 1
        notice = Noticed(NoticeKind.CLEAR, name, f"worker {self.rank.worker_id} is cleared: {action.reason}")
        return [notice, Taken(record, 1, 0, partial(self._memory.stored, self.rank, None, self._next_event_id))]

    async def _take(self, action: Take) -> Sequence[Item]:
        known, items = action.known, list[Item]()
        events, timestamp_ms = [], 0
        try:
            batch = await self._decode(action.payload)
            events = batch.events
            timestamp_ms = int(batch.timestamp * 1000) if 0 <= batch.timestamp < 1e12 else 0
            if batch.refused:
                items.append(self._refusal(action, "; ".join(batch.refused[:8]), len(batch.refused)))
        except MalformedEvent as error:
            items.append(self._refusal(action, str(error), 1))
        self._next_event_id += len(events)
        records = batch_records(self.rank, known, events, timestamp_ms)
        blocks = sum([len(event.block_hashes) for event in events]) // 8
        stored = partial(self._memory.stored, self.rank, known, self._next_event_id)
        items += [Taken(record, 0, 0) for record in records[:-1]]
        items.append(Taken(records[-1], len(events), blocks, stored))
        return items

    def _refusal(self, action: Take, reason: str, events: int) -> Refused:
        known = action.known
        mark = Mark(producer_of(self.rank, known.incarnation), 0, known.last)
        return Refused(str(self._source), f"batch {known.last}", reason, action.payload, mark, events)

    async def _decode(self, payload: bytes) -> EventBatch:
        size = self._block_size.value
        worker_id, dp_rank = self.rank
        batch = decode_batch(payload, worker_id, dp_rank, size, self._next_event_id)
        if size is None and batch.block_size is not None:
            agreed = await self._block_size.claim(batch.block_size)
            if agreed != batch.block_size:
                return decode_batch(payload, worker_id, dp_rank, agreed, self._next_event_id)
        return batch


class _Timer:
    """When silence means something: an unanswered replay, or an engine that ought to be probed."""

    def __init__(self, replay_timeout_s: float) -> None:
        self._replay_timeout = replay_timeout_s
        self._probe = FIRST_PROBE_S
        self._since = time.monotonic()

    def heard(self, *, live: bool = True) -> None:
        """Something came."""
        self._since = time.monotonic()
        if live:
            self._probe = FIRST_PROBE_S

    def fired(self, *, asking: bool) -> None:
        """The time was over and something was done about it."""
        self._since = time.monotonic()
        if not asking:
            self._probe = min(self._probe * 2, LAST_PROBE_S)

    def left(self, *, asking: bool) -> float:
        """Seconds until silence means something."""
        return self._since + (self._replay_timeout if asking else self._probe) - time.monotonic()


class _EngineSockets:
    """The sockets of one engine; a context manager that closes them all."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], source: ZmqSource, heartbeat_s: float) -> None:
        self._context = context
        self._source = source
        self._heartbeat = heartbeat_s
        self._dealer: zmq.Socket[bytes] | None = None

    def __enter__(self) -> Self:
        self._sub: zmq.Socket[bytes] = self._context.socket(zmq.SUB)
        harden(self._sub, heartbeat_s=self._heartbeat, receive_hwm=LIVE_HWM)
        self._sub.setsockopt(zmq.SUBSCRIBE, self._source.topic.encode())
        self._monitor = monitor(self._sub)
        self._sub.connect(self._source.connect_to)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_asking()
        self._sub.disable_monitor()
        self._monitor.close(linger=0)
        self._sub.close(linger=0)

    @property
    def asking(self) -> bool:
        """Whether a replay is under way."""
        return self._dealer is not None

    def ask(self, start: int) -> None:
        """Requests a replay over a new socket, so that no reply to an older request can be taken for one to this."""
        self.stop_asking()
        assert self._source.replay_at is not None
        self._dealer = self._context.socket(zmq.DEALER)
        harden(self._dealer, heartbeat_s=self._heartbeat, receive_hwm=REPLAY_HWM)
        self._dealer.connect(self._source.replay_at)
        self._dealer.send_multipart([b"", _SEQUENCE.pack(start)], zmq.NOBLOCK)

    def stop_asking(self) -> None:
        """Gives up the request under way, if there is one."""
        if self._dealer is not None:
            self._dealer.close(linger=0)
            self._dealer = None

    def live(self) -> list[list[bytes]]:
        """A burst of what was published."""
        burst: list[list[bytes]] = []
        while len(burst) < BURST and (frames := receive(self._sub)) is not None:
            burst.append(frames)
        return burst

    def reply(self) -> list[bytes] | None:
        """The next reply of the replay, if there is one."""
        return None if self._dealer is None else receive(self._dealer)

    def connection_changes(self) -> Iterator[bool]:
        """True for each time that the engine was reached, False for each time that it was lost."""
        return connection_changes(self._monitor)

    async def wait(self, timeout: float) -> None:
        """Until one of them has something to read, or the time is over."""
        dealer = [] if self._dealer is None else [self._dealer]
        await wait_readable([self._sub, self._monitor, *dealer], max(timeout, 0.0))
