"""Hypothesis strategies for records, and a batch made of them."""

from __future__ import annotations

from hypothesis import strategies as st

from dynlog.batch import Batch, BatchBuilder
from dynlog.codec import decode_records, encode_records
from dynlog.record import Control, Mark, Record

MARKS = st.builds(
    Mark,
    producer_id=st.sampled_from(["p", "q", "worker:1", "ü" * 100]),
    epoch=st.integers(0, 2**63 - 1) | st.integers(0, 3),
    sequence=st.integers(0, 2**63 - 1) | st.integers(0, 5),
)
RECORDS = st.builds(
    Record,
    parts=st.lists(st.binary(max_size=40), max_size=4).map(tuple),
    key=st.none() | st.binary(max_size=20),
    headers=st.dictionaries(st.text(max_size=10), st.binary(max_size=10), max_size=3),
    control=st.none() | st.sampled_from(Control),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1) | st.just(0),
    mark=st.none() | MARKS,
)


def counting(length: int, sequence: int, at: int) -> list[Record]:
    """Records of one producer whose sequences count up, so that their marks make a run."""
    return [Record(parts=(f"{at}/{i}".encode(),), mark=Mark("run", 1, sequence + i)) for i in range(length)]


LISTS = st.lists(
    st.lists(RECORDS, min_size=1, max_size=4) | st.builds(counting, st.integers(1, 5), st.integers(0, 9), st.just(0)),
    min_size=1,
    max_size=5,
).map(lambda lists: [record for part in lists for record in part])
"""Records some of whose marks are runs."""


def batch_of(appends: list[list[Record]], hole: int = 0) -> Batch:
    """What a read of those appends returns, with ``hole`` offsets left out between them."""
    builder, at = BatchBuilder(), 0
    for number, records in enumerate(appends):
        builder.add(decode_records(encode_records(records)), range(at, at + len(records)), 1000 + number)
        at += len(records) + hole
    return builder.build("t", "inc", 3, at, at + 7)
