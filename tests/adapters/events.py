"""Strategies for KV events as Dynamo can say them."""

from __future__ import annotations

from hypothesis import strategies as st

from dynlog.kvevents import Domain, Kind, KvEvent, Tier, pack_hashes

U64 = st.integers(0, 2**64 - 1)
HASHES = st.lists(U64, max_size=20, unique=True)


@st.composite
def kv_events(draw: st.DrawFn) -> KvEvent:
    """Any well-formed event."""
    kind = draw(st.sampled_from(Kind))
    blocks = draw(HASHES) if kind in (Kind.STORED, Kind.REMOVED) else []
    stored = kind is Kind.STORED
    return KvEvent(
        worker_id=draw(U64),
        kind=kind,
        block_hashes=pack_hashes(blocks),
        tokens_hashes=pack_hashes([draw(U64) for _ in blocks]) if stored else b"",
        parent_hash=draw(st.none() | U64.filter(lambda parent: parent not in blocks)) if stored else None,
        dp_rank=draw(st.integers(0, 2**32 - 1)),
        event_id=draw(U64),
        tier=draw(st.sampled_from(Tier)),
        domain=draw(st.sampled_from(Domain)),
        start_position=draw(st.none() | st.integers(0, 2**32 - 1)) if stored else None,
    )
