"""What a handler did, as it is said to its caller: the body of a reply, or the code, kind and text of an error."""

from __future__ import annotations

from dynlog.call_errors import CallError, HandlerFailed, MessageTooLarge
from dynlog.errors import DeadlineExceeded
from dynlog.network.frames import Code
from dynlog.record import Buffer


def failure(error: Exception) -> tuple[int, str, str]:
    """Code, kind and text that a caller is told of what a handler raised."""
    if isinstance(error, HandlerFailed):  # of a call that the handler made: the kind is the origin's
        return Code.FAILED, error.kind, error.text
    if isinstance(error, MessageTooLarge):
        return Code.TOO_LARGE, "", str(error)
    if isinstance(error, DeadlineExceeded) and not isinstance(error, CallError):
        return Code.FAILED, "DeadlineExceeded", str(error)
    return Code.FAILED, type(error).__name__, str(error)


def as_body(result: object) -> Buffer:
    """The bytes of a handler's result; raises TypeError for anything else than bytes."""
    if isinstance(result, bytes | bytearray | memoryview):
        return bytes(result)
    raise TypeError(f"the handler gave {type(result).__name__}: bytes are needed (or a model, where one was named)")


def body_of(result: object) -> Buffer:
    """The body of the one reply that a handler returned, None being an empty one; raises as `as_body`."""
    if type(result) is bytes:
        return result
    return b"" if result is None else as_body(result)
