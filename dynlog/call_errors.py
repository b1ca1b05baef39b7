"""What goes wrong between peers: the branch of the tree of errors that wires, sessions and calls raise.

DynlogError
 └─ NetworkError              (peer)
     ├─ WireUnavailable       the place cannot be reached or taken now; the same call may go through later
     ├─ WireBroken            a channel ended, or brought bytes that are no frames
     ├─ ProtocolError         the peer said what the protocol forbids; the session ends
     ├─ HandshakeRefused      the peer will not talk: version, token, entity or incarnation
     └─ CallError             (peer, topic, correlation id): how one call ended
         ├─ NotSent           it never left, or the peer says that it did not begin: safe to make again
         │   ├─ Overloaded    the peer, or this side, has its hands full
         │   └─ Draining      the peer takes no further calls
         ├─ CallOutcomeUnknown  it left and no answer came: it was made zero or one times
         ├─ Cancelled         whoever called, or the peer, ended it before its reply
         ├─ NoSuchTopic       nobody serves that topic there
         ├─ HandlerFailed     the handler raised; carries the name of its error and its text
         ├─ MessageTooLarge   over the limit: put the body into an object store and send its key
         └─ Expired           it was answered long ago, and its reply is no longer kept
"""

from __future__ import annotations

from dynlog.errors import DynlogError


class NetworkError(DynlogError):
    """Base of what wires, sessions and calls raise; says with whom."""

    def __init__(self, message: str, *, peer: str | None = None) -> None:
        super().__init__(f"{message} (peer {peer})" if peer else message)
        self.peer = peer


class WireUnavailable(NetworkError):
    """The place cannot be reached or taken now; the same call may go through later."""


class WireBroken(NetworkError):
    """The channel ended without a word, or brought bytes that are no frames of it."""


class ProtocolError(NetworkError):
    """The peer said what the protocol forbids; nothing further of it is believed."""


class HandshakeRefused(NetworkError):
    """The peer will not talk to this one; ``code`` says why: version, token, entity, incarnation, resume."""

    def __init__(self, message: str, *, code: str, peer: str | None = None) -> None:
        super().__init__(message, peer=peer)
        self.code = code


class CallError(NetworkError):
    """How one call ended without its reply."""

    def __init__(
        self, message: str, *, peer: str | None = None, topic: str | None = None, correlation_id: str | None = None
    ) -> None:
        place = [f"{what} {value}" for what, value in (("topic", topic), ("call", correlation_id)) if value is not None]
        super().__init__(f"{message} ({', '.join(place)})" if place else message, peer=peer)
        self.topic = topic
        self.correlation_id = correlation_id


class NotSent(CallError):
    """The call was not begun by anybody: it is safe to make it again."""


class Overloaded(NotSent):
    """The peer, or this side, has as much to do as it may have; nothing was begun."""


class Draining(NotSent):
    """The peer finishes what it has and takes no further calls."""


class CallOutcomeUnknown(CallError):
    """The call left and its answer did not come: its handler ran zero or one times."""


class Cancelled(CallError):
    """The call was ended by its caller or by the peer before there was a reply."""


class NoSuchTopic(CallError):
    """Nobody serves that topic of that entity there."""


class HandlerFailed(CallError):
    """The handler raised; ``kind`` is the name of its error and ``text`` what it said, at most 4 KiB."""

    def __init__(
        self,
        kind: str,
        text: str,
        *,
        peer: str | None = None,
        topic: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        super().__init__(f"the handler raised {kind}: {text}", peer=peer, topic=topic, correlation_id=correlation_id)
        self.kind = kind
        self.text = text


class MessageTooLarge(CallError):
    """A message over the limit; put its body into an object store and send the key."""


class Expired(CallError):
    """The call was answered long ago and its reply is no longer kept; its handler did not run again."""
