"""A stream is one call: two directions that end by themselves, each with its credit in messages and bytes."""

from __future__ import annotations

from typing import Any

from dynlog.record import Buffer


class Stream:
    """One call on a session, seen from one end; made by `Session.open` or met in an `Opened` event.

    ``owner`` belongs to whoever drives the session: a future, a queue, a task.  The rest is the session's.
    """

    __slots__ = (
        "deadline",
        "id",
        "local",
        "owner",
        "parts",
        "parts_bytes",
        "receive_bytes",
        "receive_messages",
        "receiving",
        "rest",
        "rest_end",
        "returned_bytes",
        "returned_messages",
        "send_bytes",
        "send_messages",
        "sending",
        "slot",
        "taken",
        "waiting",
    )

    def __init__(self, id: int, local: bool, send: tuple[int, int], receive: tuple[int, int]) -> None:
        self.id = id
        self.local = local
        """Whether this end opened it."""
        self.owner: Any = None
        self.deadline: float | None = None
        """Monotonic time of this end; None: there is none."""
        self.sending = True
        """Whether this end may still send."""
        self.receiving = True
        """Whether the peer may still send."""
        self.send_bytes, self.send_messages = send
        self.receive_bytes, self.receive_messages = receive
        self.returned_bytes = self.returned_messages = 0
        self.waiting = False
        self.rest: Buffer | None = None
        self.rest_end = False
        self.parts: list[Buffer] | None = None
        self.parts_bytes = 0
        self.slot = 0
        self.taken = -1

    @property
    def over(self) -> bool:
        """Whether both directions have ended."""
        return not self.sending and not self.receiving

    def __repr__(self) -> str:
        return f"<Stream {self.id} {'here' if self.local else 'there'}>"
