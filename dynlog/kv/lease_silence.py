"""Of whom nothing was heard for too long, judged by one observer's monotonic clock; numbers in, leases out.

* Silence begins when the observer *reads* the last heartbeat, which is after its holder sent it.
* **Whoever could not listen accuses nobody**: after a pause of more than a third of a lease's TTL (and of a second) its
  silence begins anew, so an observer that was stopped first hears a full TTL of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from dynlog.kv.lease_fold import Lease

PAUSE_S = 1.0
"""A shorter pause of the observer is no pause."""
AGAIN_S = 1.0
"""So long after it was given out is a lease that still lives given out again."""


class Silence:
    """When each lease was last heard of."""

    def __init__(self, now: float, leases: Iterable[Lease] = ()) -> None:
        self._looked = now
        self._heard: dict[str, float] = {}
        self._due: list[tuple[float, str]] = []
        """One for each lease in ``_heard``; heartbeats since only show when its time has come."""
        for lease in leases:
            self._listen(lease, now)

    def __len__(self) -> int:
        """How much it remembers."""
        return len(self._due)

    def look(self, now: float, news: Iterable[str], leases: Mapping[str, Lease]) -> list[Lease]:
        """Leases of which nothing was heard for their TTL; ``news`` are those heard of since the last look."""
        pause, self._looked = now - self._looked, now
        if pause > PAUSE_S:
            for lease in leases.values():
                if pause > lease.ttl_ms / 3000:
                    self._listen(lease, now)
        for id in news:
            if id in leases:
                self._listen(leases[id], now)
        if len(self._due) > 2 * len(leases) + 64:  # mostly of leases that were revoked
            self._heard = {id: at for id, at in self._heard.items() if id in leases}
            self._due = [(at + leases[id].ttl_ms / 1000, id) for id, at in self._heard.items()]
            heapq.heapify(self._due)
        return self._silent(now, leases)

    def _listen(self, lease: Lease, now: float) -> None:
        if lease.id not in self._heard:
            heapq.heappush(self._due, (now + lease.ttl_ms / 1000, lease.id))
        self._heard[lease.id] = now

    def _silent(self, now: float, leases: Mapping[str, Lease]) -> list[Lease]:
        found: list[Lease] = []
        while self._due and self._due[0][0] <= now:
            _, id = heapq.heappop(self._due)
            lease = leases.get(id)
            if lease is None:
                self._heard.pop(id, None)
                continue
            due = self._heard[id] + lease.ttl_ms / 1000
            if due <= now:
                found.append(lease)
                due = now + AGAIN_S
            heapq.heappush(self._due, (due, id))
        return found
