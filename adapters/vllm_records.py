"""One batch of an engine becomes one record (or few), under marks that any ingest makes again for the same batch.

    producer id   vllm-<worker>-<rank>-<incarnation>          sequence: the batch's ZMQ sequence
                  ...the same + "+1", "+2", ...               further parts of a batch that is too large for one record
                  ...the same + "-end"                        the clear at the end of a lineage, at its last sequence
                  ...the same + "-gone"                       the removal of the worker by whoever runs the ingest

The last record of a batch carries ``zmq-digest``, so the tail of the topic says how far each lineage was stored whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dynlog.adapters.event_groups import event_groups
from dynlog.adapters.vllm_lineage import Known
from dynlog.kvevents import Kind, KvEvent, encode_events, worker_key
from dynlog.record import Mark, Record

DIGEST_HEADER = "zmq-digest"
NO_LINEAGE = "none"
_PRODUCER = re.compile(r"vllm-(\d+)-(\d+)-([0-9a-f]{16}|" + NO_LINEAGE + r")(\+\d+|-end|-gone)?")


class Rank(NamedTuple):
    """One data-parallel rank of a worker: what one source speaks for."""

    worker_id: int
    dp_rank: int


class Trace(NamedTuple):
    """What a stored mark says; ``suffix`` is empty, ``+N``, ``-end`` or ``-gone``."""

    rank: Rank
    incarnation: str
    suffix: str


def producer_of(rank: Rank, incarnation: str, suffix: str = "") -> str:
    """The producer id of a lineage."""
    return f"vllm-{rank.worker_id}-{rank.dp_rank}-{incarnation}{suffix}"


def trace_of(producer_id: str) -> Trace | None:
    """Reads a producer id back; None if another kind of source made it."""
    match = _PRODUCER.fullmatch(producer_id)
    if match is None:
        return None
    worker_id, dp_rank, incarnation, suffix = match.groups()
    return Trace(Rank(int(worker_id), int(dp_rank)), incarnation, suffix or "")


def batch_records(rank: Rank, known: Known, events: Sequence[KvEvent], timestamp_ms: int) -> list[Record]:
    """The records of the batch ``known.last``; one without events leaves an empty record, so it is known as taken."""
    groups = event_groups(events)
    records = []
    for part, group in enumerate(groups):
        mark = Mark(producer_of(rank, known.incarnation, f"+{part}" if part else ""), 0, known.last)
        headers = {DIGEST_HEADER: known.digest} if part == len(groups) - 1 else {}
        columns = encode_events(group).parts if group else (b"", b"", b"")
        records.append(Record(columns, worker_key(rank.worker_id), headers, timestamp_ms=timestamp_ms, mark=mark))
    return records


def clear_record(rank: Rank, known: Known, event_id: int) -> Record:
    """Ends a lineage: what that rank holds is dropped."""
    event = KvEvent(rank.worker_id, Kind.CLEARED, dp_rank=rank.dp_rank, event_id=event_id)
    return encode_events([event], mark=Mark(producer_of(rank, known.incarnation, "-end"), 0, known.last))


def gone_record(rank: Rank, known: Known | None, event_id: int, *, whole_worker: bool) -> Record:
    """The rank, or with it the whole worker, was taken out of the fleet."""
    kind = Kind.WORKER_REMOVED if whole_worker else Kind.CLEARED
    event = KvEvent(rank.worker_id, kind, dp_rank=rank.dp_rank, event_id=event_id)
    producer = producer_of(rank, known.incarnation if known else NO_LINEAGE, "-gone")
    return encode_events([event], mark=Mark(producer, 0, known.last if known else 0))
