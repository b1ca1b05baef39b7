"""The leases of a bucket, as a fold: who holds which, when it was last heard of, and which keys live only with it.

* A lease's **fencing token** is the offset of its grant: of two that were ever given out, the later has the higher.
* **Expiry is a record** that names the last heartbeat its author saw; it is void if a newer one is ahead of it in the
  log.  There is no clock here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgpack

from dynlog.kv.records import Beat, Expire, Grant


class Lease(NamedTuple):
    """A lease that lives; ``beat`` is the offset of the record by which it was last heard of."""

    id: str
    token: int
    owner: str
    ttl_ms: int
    beat: int
    granted_ms: int


class LeaseFold:
    """The table of leases, and the keys bound to each."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._bound: dict[str, set[str]] = {}
        self._news: set[str] = set()

    @property
    def leases(self) -> Mapping[str, Lease]:
        """The leases that live, by id."""
        return self._leases

    def keys_of(self, lease: str) -> frozenset[str]:
        """The keys that live only with it."""
        return frozenset(self._bound.get(lease, ()))

    def heard_of(self) -> set[str]:
        """The leases that were granted or heard of since the last call; the caller's."""
        news, self._news = self._news, set()
        return news

    def grant(self, fact: Grant, offset: int, time_ms: int) -> bool:
        """Whether the lease began."""
        if fact.lease in self._leases:
            return False
        self._leases[fact.lease] = Lease(fact.lease, offset, fact.owner, fact.ttl_ms, offset, time_ms)
        self._news.add(fact.lease)
        return True

    def beat(self, fact: Beat, offset: int) -> None:
        """The leases named were heard of."""
        for id in fact.leases:
            lease = self._leases.get(id)
            if lease is not None:
                self._leases[id] = lease._replace(beat=offset)
                self._news.add(id)

    def is_expired_by(self, fact: Expire) -> bool:
        """Whether that expiry counts."""
        lease = self._leases.get(fact.lease)
        return lease is not None and lease.beat <= fact.beat

    def end(self, lease: str) -> list[str] | None:
        """The lease ends: the keys that lived with it, in order; None if it did not live."""
        if self._leases.pop(lease, None) is None:
            return None
        self._news.discard(lease)  # so that it is bounded, whether anybody asks for it or not
        return sorted(self._bound.get(lease, ()))

    def bind(self, key: str, lease: str) -> None:
        """The key lives only with the lease."""
        self._bound.setdefault(lease, set()).add(key)

    def unbind(self, key: str, lease: str) -> None:
        """The key no longer does."""
        bound = self._bound[lease]
        bound.discard(key)
        if not bound:
            del self._bound[lease]

    def replace(self, after: str, upto: str, leases: Iterable[Lease]) -> None:
        """The leases above ``after`` up to ``upto`` ("" is the end of all) are these; what is bound stays bound."""
        for id in [id for id in self._leases if id > after and (not upto or id <= upto)]:
            del self._leases[id]
        self.load(leases)

    def load(self, leases: Iterable[Lease]) -> None:
        """Takes leases that are new to it."""
        self._leases.update((lease.id, lease) for lease in leases)


def pack_leases(leases: Iterable[Lease]) -> bytes:
    """Leases as bytes."""
    packed: bytes = msgpack.packb(list(leases))
    return packed


def unpack_leases(body: bytes) -> Iterator[Lease]:
    """The leases; raises ValueError for anything that `pack_leases` does not make."""
    try:
        rows = [Lease(*row) for row in msgpack.unpackb(body)]
    except (TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"not leases of a bucket: {error!r}") from None
    for row in rows:
        if tuple(map(type, row)) != (str, int, str, int, int, int):
            raise ValueError(f"not a lease: {row!r:.80}")
    return iter(rows)
