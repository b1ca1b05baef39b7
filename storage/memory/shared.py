"""Names that handles of one process share: what is under a name lives while somebody has it open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Counts who has each name open; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[T, int]] = {}

    def enter(self, name: str, make: Callable[[], T], check: Callable[[T], None]) -> T:
        """What is under the name, made if nobody has it open; `check` may refuse it by raising."""
        with self._lock:
            shared, handles = self._open.get(name) or (make(), 0)
            check(shared)
            self._open[name] = shared, handles + 1
            return shared

    def leave(self, name: str) -> None:
        """Gives the name up; the last one to leave drops what is under it."""
        with self._lock:
            shared, handles = self._open.pop(name)
            if handles > 1:
                self._open[name] = shared, handles - 1
