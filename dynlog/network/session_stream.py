"""A stream is one call: two directions that end by themselves, each with its credit in messages and bytes.

A message may begin with credit for one message and one byte, and is then carried whole: its bytes may bring the balance
below zero, where the next waits.  So no message is too long for its credit, and a reader who takes nothing holds less
than the window and one message.
"""

from __future__ import annotations

from typing import Any

from dynlog.network.session_settings import Limits


class Stream:
    """One call on a session, seen from one end; made by `Session.open` or met in an `Opened` event.

    ``owner`` belongs to whoever drives the session: a future, a queue, a task.  The rest is the session's.
    """

    __slots__ = (
        "alone",
        "deadline",
        "id",
        "local",
        "meta",
        "number",
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
        "waiting",
    )

    def __init__(self, id: int, local: bool, deadline: float | None, number: int, theirs: Limits, ours: Limits) -> None:
        self.id = id
        self.local = local
        """Whether this end opened it."""
        self.owner: Any = None
        self.deadline = deadline
        """In the monotonic time of this end; None: there is none."""
        self.number = number
        """Of the record that opened it here."""
        self.alone = False
        """Whether that record is all that was sent on it, and the whole request."""
        self.sending = True
        """Whether this end may still send."""
        self.receiving = True
        """Whether the peer may still send."""
        self.send_bytes = theirs.window_bytes
        self.send_messages = theirs.window_messages
        self.receive_bytes = ours.window_bytes
        self.receive_messages = ours.window_messages
        self.returned_bytes = self.returned_messages = 0
        """Consumed here and not yet told to the peer."""
        self.waiting = False
        """Whether something was not taken and a `Writable` is owed."""
        self.rest: memoryview | None = None
        """What has not left yet of a message in pieces."""
        self.rest_end = False
        """Whether this direction ends with it."""
        self.parts: list[bytes] | None = None
        """The pieces that came of a message which goes on."""
        self.parts_bytes = 0
        self.meta: tuple[Any, ...] | None = None
        """What came with the first piece of a first message; nobody has heard of the stream until its last piece."""

    @property
    def over(self) -> bool:
        """Whether both directions have ended."""
        return not self.sending and not self.receiving

    def __repr__(self) -> str:
        what = "opened here" if self.local else "opened by the peer"
        return f"<Stream {self.id} {what if self.id else 'of pushed messages'}>"
