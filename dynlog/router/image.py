"""The state as bytes: a point-in-time image taken run by run while the fold goes on.

Whoever is about to change a run that the image still lacks keeps it first, so the parts show the state at the moment
when the image was begun, however long it takes to write them.

    part 0   msgpack {"schema", "next_run", "next_lane", "runs", "counters", "ranks": [rank, ...]}
             rank: [worker_id, dp_rank, last event id or nil, [[tier, domain, lane number], ...]]
    part n   runs one after another, in any order:
             number u64, parent u64 (0 = root), at u32, blocks u32, holders u32, gaps u32          (little-endian)
             tokens_hashes u64 * blocks, block_hashes u64 * blocks
             holders: (lane u32, prefix u32) * holders;  gaps: (lane u32, length u32, bitmask, length bytes) * gaps

Every part ends with the CRC-32C of the part's number and content.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import google_crc32c
import msgpack

from dynlog.errors import SnapshotCorrupt
from dynlog.router.counters import Counters
from dynlog.router.index import KvIndex
from dynlog.router.lanes import Rank, places, select
from dynlog.router.lanes import pack as pack_hashes
from dynlog.router.runs import Run

SCHEMA = "dynlog.router/1"
PART_BYTES = 256 << 10
_RUN = struct.Struct("<QQIIII")
_PAIR = struct.Struct("<II")
_CRC = struct.Struct("<I")


class RunImage:
    """Gives the runs as they were when it was made; see `Forest.watch`."""

    def __init__(self, index: KvIndex) -> None:
        self._waiting = dict(index.forest.runs)
        self._kept: list[bytes] = []

    def keep(self, run: Run) -> None:
        """Takes the run as it is now, unless the image has it already or began before there was such a run."""
        if self._waiting.pop(run.number, None) is not None:
            self._kept.append(encode_run(run))

    def take(self, size: int) -> bytes:
        """About ``size`` further bytes of runs; nothing once there are no more."""
        taken: list[bytes] = []
        length = 0
        while length < size and (self._kept or self._waiting):
            piece = self._kept.pop() if self._kept else encode_run(self._waiting.popitem()[1])
            taken.append(piece)
            length += len(piece)
        return b"".join(taken)


def encode_run(run: Run) -> bytes:
    """One run with all who hold of it."""
    parent = run.parent.number if run.parent is not None else 0
    gaps = run.gaps or {}
    column = [_RUN.pack(run.number, parent, run.at, len(run), len(run.holders), len(gaps)), run.tokens, run.hashes]
    column += [_PAIR.pack(lane, prefix) for lane, prefix in run.holders.items()]
    for lane, bits in gaps.items():
        mask = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
        column += (_PAIR.pack(lane, len(mask)), mask)
    return b"".join(column)


def write_image(index: KvIndex) -> Iterator[bytes]:
    """The parts of the state at the moment of this call; folding may go on between any two steps."""
    head = {
        "schema": SCHEMA,
        "next_run": index.forest.next_number,
        "next_lane": index.next_lane,
        "runs": len(index.forest.runs),
        "counters": index.counters.as_dict(),
        "ranks": [
            [*key, rank.last_event_id, [[*slot, lane.number] for slot, lane in rank.lanes.items()]]
            for key, rank in index.ranks.items()
        ],
    }
    image = RunImage(index)
    index.forest.watch(image)
    return _parts(image, head)


def _parts(image: RunImage, head: dict[str, Any]) -> Iterator[bytes]:
    yield _seal(0, msgpack.packb(head))
    number = 1
    while content := image.take(PART_BYTES):
        yield _seal(number, content)
        number += 1


def _seal(number: int, content: bytes) -> bytes:
    crc = google_crc32c.extend(google_crc32c.value(number.to_bytes(4, "little")), content)
    return content + _CRC.pack(crc)


def _open(number: int, part: bytes) -> bytes:
    content = part[:-4]
    if len(part) < 4 or part != _seal(number, content):
        raise SnapshotCorrupt(f"part {number} of the router's snapshot does not have its checksum")
    return content


class _Found(NamedTuple):
    number: int
    parent: int
    at: int
    tokens: bytes
    hashes: bytes
    holders: list[tuple[int, int]]
    gaps: list[tuple[int, int]]


def read_image(parts: Iterable[bytes]) -> KvIndex:
    """A new index in the state of the image.

    Raises SnapshotCorrupt for parts that are missing, cut, damaged, of another schema or that contradict themselves.
    """
    source = iter(parts)
    first = next(source, None)
    if first is None:
        raise SnapshotCorrupt("the router's snapshot is empty")
    try:
        index, runs = _read_head(_open(0, first))
        waiting: list[_Found] = []
        for number, part in enumerate(source, 1):
            waiting.extend(_read_runs(_open(number, part)))
        for found in sorted(waiting):  # a parent has a lower number than its children
            _add(index, found)
    except (KeyError, IndexError, TypeError, ValueError, struct.error, msgpack.UnpackException) as error:
        raise SnapshotCorrupt(f"the router's snapshot contradicts itself: {error!r}") from None
    if len(index.forest.runs) != runs:
        raise SnapshotCorrupt(f"the router's snapshot is cut: {len(index.forest.runs)} of its {runs} runs are there")
    return index


def _read_head(content: bytes) -> tuple[KvIndex, int]:
    head = msgpack.unpackb(content)
    if head["schema"] != SCHEMA:
        raise SnapshotCorrupt(f"the snapshot's schema is {head['schema']!r}; this router reads {SCHEMA!r}")
    index = KvIndex()
    index.forest.next_number = head["next_run"]
    index.next_lane = head["next_lane"]
    index.counters = Counters(**head["counters"])
    for worker_id, dp_rank, last_event_id, lanes in head["ranks"]:
        rank = index.ranks[worker_id, dp_rank] = Rank((worker_id, dp_rank))
        rank.last_event_id = last_event_id
        for tier, domain, number in lanes:
            index.add_lane(rank, number, tier, domain)
    return index, head["runs"]


def _read_runs(content: bytes) -> Iterator[_Found]:
    at = 0
    while at < len(content):
        number, parent, branch, blocks, holders, gaps = _RUN.unpack_from(content, at)
        at += _RUN.size
        tokens, hashes = content[at : at + 8 * blocks], content[at + 8 * blocks : at + 16 * blocks]
        at += 16 * blocks
        held = [_PAIR.unpack_from(content, at + 8 * nth) for nth in range(holders)]
        at += 8 * holders
        beyond = []
        for _ in range(gaps):
            lane, length = _PAIR.unpack_from(content, at)
            at += 8 + length
            beyond.append((lane, int.from_bytes(content[at - length : at], "little")))
        yield _Found(number, parent, branch, tokens, hashes, held, beyond)


def _add(index: KvIndex, found: _Found) -> None:
    forest = index.forest
    parent = forest.runs[found.parent] if found.parent else forest.root
    run = Run(found.number, parent, found.at, found.tokens, found.hashes)
    if not run.tokens or len(run.tokens) != len(run.hashes) or found.at > len(parent) or run.number in forest.runs:
        raise ValueError(f"run {run.number} cannot stand behind {found.at} blocks of run {found.parent}")
    forest.link(run)
    run.holders = dict(found.holders)
    run.gaps = dict(found.gaps) or None
    for number, prefix in run.holders.items():
        lane = index.lanes[number]
        lane.gain(run, range(prefix), run.hashes[: 8 * prefix])
        if run.gaps and (beyond := places(run.gaps.get(number, 0))):
            lane.gain(run, beyond, pack_hashes(select(run.hashes, beyond)))
        if prefix:
            lane.hint(run.hashes[8 * prefix - 8 : 8 * prefix], run, prefix - 1)
