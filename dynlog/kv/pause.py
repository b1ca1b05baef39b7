"""Whoever writes to a bucket gives way to a compaction that keeps losing to writers.

A picture must be next in the log to what it shows.  Where an append takes milliseconds and thousands of writes a second
come from other processes, there is hardly ever a moment in which it is: a compaction could go on for ever, and the log
grow.  So a compaction that lost says `Pause`, and every process that folds it holds its appends back until the picture
lies in the log, `PAUSE_S` at most.  What is held back is neither lost nor refused, it goes out together afterwards.
Heartbeats are not held back.
"""

from __future__ import annotations

import asyncio

PAUSE_S = 0.1
"""So long at most is one `Pause` heeded: a compactor that was killed costs its writers no more."""


class Pausing:
    """Whether this process gives way at the moment."""

    def __init__(self) -> None:
        self.at = -1
        """The offset of the pause that was heard of last; -1 once a picture came after it."""
        self.active = False
        self._over = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def hear(self, at: int) -> None:
        """The fold has come to a pause at that offset, or (-1) to a picture, which ends it."""
        self.at = at
        self.end()
        if at >= 0:
            self.active = True
            self._over.clear()
            self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self.end)

    def end(self) -> None:
        """Whoever waits goes on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.active = False
        self._over.set()

    async def over(self) -> None:
        """Returns once nothing is to be held back."""
        while self.active:
            await self._over.wait()
