"""From records to the index: columns go in as they are, and neighbours that continue one another go in as one.

An event of one block costs as much as one of a hundred.  So removed events of one lane that follow one another are
folded as one, and so are stored events each of which goes on where the one before it ended; what is odd in such a
group is folded once more, event by event, so that grouping is never visible in the state or in a counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from dynlog.kvevents import HAS_PARENT, HEAD, Kind, KvEvent
from dynlog.router.counters import Outcome
from dynlog.router.index import KvIndex
from dynlog.router.lanes import Lane, Rank

SMALL = 16  # bytes of block hashes: records of one worker that are no larger and follow one another go in as one
_STORED, _REMOVED, _CLEARED, _WORKER_REMOVED = map(int, Kind)
_SIZE_AND_ID = Struct("<I4xQ")  # of a head, from its ninth byte

Head = tuple[int, int, int, int, int, int, int, int, int]


def apply_event(index: KvIndex, event: KvEvent) -> Outcome:
    """Folds one event in; refusals are counted in ``index.counters`` and returned, never raised."""
    index.counters.events += 1
    if event.kind == Kind.WORKER_REMOVED:
        return _remove_worker(index, event.worker_id)
    rank = index.rank(event.worker_id, event.dp_rank)
    _see(index, rank, event.event_id)
    if event.kind == Kind.CLEARED:
        return _clear(index, rank)
    if not event.block_hashes:
        return Outcome.APPLIED
    lane = index.lane(rank, event.tier, event.domain)
    if event.kind == Kind.STORED:
        parent = event.parent_hash
        above = None if parent is None else parent.to_bytes(8, "little")
        return index.store(lane, rank, above, event.block_hashes, event.tokens_hashes)
    index.remove(lane, event.block_hashes)
    return Outcome.APPLIED


def fold_records(index: KvIndex, keys: Sequence[bytes | None], bodies: Sequence[Sequence[bytes]]) -> None:
    """Folds records in, in order; one whose columns do not fit together is counted and skipped whole."""
    at, count = 0, len(keys)
    counters, store, remove = index.counters, index.store, index.remove
    counters.records += count
    known = index.known
    while at < count:
        key, body = keys[at], bodies[at]
        at += 1
        if key is not None and len(body) == 3 and len(body[0]) == 32:
            # Nearly always: one event with many blocks, of a lane that was seen a moment ago.
            heads, blocks, tokens = body
            named = known.get(key + heads[:8])
            if named is not None and (
                len(blocks) > SMALL or at == count or keys[at] != key or not _alike(body, bodies[at])
            ):
                rank, lane, kind, under = named
                size, event_id = _SIZE_AND_ID.unpack_from(heads, 8)
                if size and 8 * size == len(blocks) and len(tokens) == (0 if kind else len(blocks)):
                    counters.events += 1
                    last = rank.last_event_id
                    if last is not None and event_id != last + 1:
                        _see(index, rank, event_id)
                    rank.last_event_id = event_id
                    if kind:
                        remove(lane, blocks)
                    else:
                        store(lane, rank, heads[24:] if under else None, blocks, tokens)
                    continue
        if not _fits(key, body):
            counters.rejected_records += 1
            continue
        assert key is not None
        if len(body[1]) <= SMALL and len(body[0]) == 32:
            # What is of the same form fits as well, so it is not examined.
            first, form, size, named_too = at - 1, body[0][:12], len(body[1]), len(body[2])
            while (
                at < count
                and keys[at] == key
                and len(following := bodies[at]) == 3
                and following[0][:12] == form
                and len(following[0]) == 32
                and len(following[1]) == size
                and len(following[2]) == named_too
            ):
                at += 1
            if at > first + 1:
                body = [b"".join(column) for column in zip(*bodies[first:at], strict=True)]
        heads, blocks, tokens = body
        _fold(index, int.from_bytes(key, "little"), heads, blocks, tokens)
        if len(heads) == 32 and heads[0] <= _REMOVED and blocks:
            kind, tier, domain, flags, dp_rank, *_ = HEAD.unpack(heads)
            rank = index.rank(int.from_bytes(key, "little"), dp_rank)
            known[key + heads[:8]] = rank, index.lane(rank, tier, domain), kind, flags & HAS_PARENT


def _alike(body: Sequence[bytes], following: Sequence[bytes]) -> bool:
    """Whether the next record is of the same kind and size, so that the two may go in as one."""
    return len(following) == 3 and following[0][:12] == body[0][:12]


def _fits(key: bytes | None, body: Sequence[bytes]) -> bool:
    if key is None or len(key) != 8 or len(body) != 3:
        return False
    heads, blocks, tokens = body
    if len(heads) == 32:  # nearly always: one event
        count = int.from_bytes(heads[8:12], "little")
        stored = count if heads[0] == _STORED else 0
        known = heads[0] <= _WORKER_REMOVED and heads[1] <= 3 and heads[2] <= 1
    else:
        if not heads or len(heads) % 32:
            return False
        known, count, stored = True, 0, 0
        for kind, tier, domain, _, _, size, _, _, _ in HEAD.iter_unpack(heads):
            known = known and kind <= _WORKER_REMOVED and tier <= 3 and domain <= 1
            count += size
            if kind == _STORED:
                stored += size
    return known and len(blocks) == 8 * count and len(tokens) == 8 * stored


def _fold(index: KvIndex, worker_id: int, heads: bytes, blocks: bytes, tokens: bytes) -> None:
    counters = index.counters
    parsed: list[Head] = list(HEAD.iter_unpack(heads))
    counters.events += len(parsed)
    number, total = 0, len(parsed)
    at = tokens_at = 0
    rank: Rank | None = None
    while number < total:
        kind, tier, domain, flags, dp_rank, size, _, event_id, _ = parsed[number]
        first = number
        number += 1
        if kind == _WORKER_REMOVED:
            _remove_worker(index, worker_id)
            rank = None
            at += 8 * size
            continue
        if rank is None or rank.key[1] != dp_rank:
            rank = index.rank(worker_id, dp_rank)
        last_id = rank.last_event_id
        if last_id is not None and event_id != last_id + 1:
            _see(index, rank, event_id)
        rank.last_event_id = event_id
        if kind == _CLEARED:
            _clear(index, rank)
            at += 8 * size
            continue
        end = at + 8 * size
        while number < total:
            head = parsed[number]
            if head[0] != kind or head[1] != tier or head[2] != domain or head[4] != dp_rank:
                break
            if kind == _STORED:
                tail = blocks[end - 8 : end]
                goes_on = head[3] & HAS_PARENT and end > at and tail == heads[32 * number + 24 : 32 * number + 32]
                if not goes_on or tail in blocks[end : end + 8 * head[5]]:
                    break
            if head[7] == rank.last_event_id + 1:
                rank.last_event_id = head[7]
            else:
                _see(index, rank, head[7])
            end += 8 * head[5]
            number += 1
        if end == at:
            continue
        lane = rank.lanes.get((tier, domain)) or index.lane(rank, tier, domain)
        if kind == _REMOVED:
            index.remove(lane, blocks[at:end])
            at = end
            continue
        stretch = end - at
        above = heads[32 * first + 24 : 32 * first + 32] if flags & HAS_PARENT else None
        stored, named = blocks[at:end], tokens[tokens_at : tokens_at + stretch]
        if number == first + 1:
            index.store(lane, rank, above, stored, named)
        else:
            _store_chain(index, lane, rank, above, stored, named, parsed[first:number])
        at, tokens_at = end, tokens_at + stretch


def _store_chain(
    index: KvIndex, lane: Lane, rank: Rank, parent: bytes | None, blocks: bytes, tokens: bytes, heads: Sequence[Head]
) -> None:
    counters = index.counters
    refused = counters.unknown_parents, counters.malformed
    if index.store(lane, rank, parent, blocks, tokens) is Outcome.APPLIED:
        return
    # Each event of the chain stands for itself: nothing of the whole was stored, some of its events may be fine.
    counters.unknown_parents, counters.malformed = refused
    at = 0
    for head in heads:
        end = at + 8 * head[5]
        if end > at:
            above = head[8].to_bytes(8, "little") if head[3] & HAS_PARENT else None
            index.store(lane, rank, above, blocks[at:end], tokens[at:end])
        at = end


def _see(index: KvIndex, rank: Rank, event_id: int) -> None:
    """Counts a repeat or a gap against the rank's last event; whatever it is, the event is applied."""
    last = rank.last_event_id
    if last is not None and event_id != last + 1:
        if event_id <= last:
            index.counters.event_id_repeats += 1
        else:
            index.counters.event_id_gaps += 1
    rank.last_event_id = event_id


def _clear(index: KvIndex, rank: Rank) -> Outcome:
    index.counters.cleared += 1
    index.clear_rank(rank.key)
    return Outcome.APPLIED


def _remove_worker(index: KvIndex, worker_id: int) -> Outcome:
    index.counters.workers_removed += 1
    index.remove_worker(worker_id)
    return Outcome.APPLIED
