"""inotify(7) on one file, by way of libc: an event means "look again", nothing more."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

IN_MODIFY = 0x2


class Watch:
    """One inotify descriptor with at most one watch; `arm` before looking, and no change is missed."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the system has no inotify, or no more instances."""
        if not sys.platform.startswith("linux"):
            raise OSError("inotify is Linux's")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._path = os.fsencode(path)
        self._armed: int | None = None
        self.fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def arm(self) -> None:
        """Reports changes from now on.  Raises OSError."""
        if self._armed is None:
            descriptor = self._libc.inotify_add_watch(self.fd, self._path, IN_MODIFY)
            if descriptor < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch")
            self._armed = descriptor

    def disarm(self) -> None:
        """Reports nothing any more; a busy log then costs nothing here."""
        if self._armed is not None:
            self._libc.inotify_rm_watch(self.fd, self._armed)
            self._armed = None
            self.drain()

    def drain(self) -> None:
        """Takes all events that are there."""
        try:
            while os.read(self.fd, 4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self.fd)
