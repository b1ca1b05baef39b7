"""The bytes of a session: what a frame begins with, how records lie in a batch, what the numbers mean.

All numbers are unsigned and big-endian.  A length is compared with what is there before anything is made of it.
`docs/protocol.md` is the same in prose; `docs/protocol-vectors.json` holds examples that both must agree on.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from dynlog.call_errors import ProtocolError

MAGIC = b"dynlog"
VERSION = 1
"""The only version of the protocol so far."""


class FrameKind(IntEnum):
    """The first byte of every frame; from IGNORABLE on, a kind that is not known is skipped."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    BATCH = 4
    PING = 5
    PONG = 6
    BYE = 7


class RecordKind(IntEnum):
    """What a record in a batch is; from IGNORABLE on, a kind that is not known is skipped, and counts as received."""

    OPEN = 1
    DATA = 2
    END = 3
    ERROR = 4
    CANCEL = 5
    CREDIT = 6
    GOAWAY = 7
    EVENT = 8


IGNORABLE = 0x80

END_FLAG = 0x01
"""OPEN, DATA: the sender's direction ends with this message."""
MORE_FLAG = 0x02
"""OPEN, DATA, EVENT: the message goes on in the next DATA of the stream."""
EMPTY_FLAG = 0x04
"""OPEN: there is no first message."""
CRITICAL_FLAGS = 0x0F
"""A receiver that does not know one of these must fail; the upper four are hints and may be ignored."""


class Code(IntEnum):
    """Why a stream failed: what ERROR carries."""

    FAILED = 1
    """The handler raised."""
    CANCELLED = 2
    """Whoever serves ended the call."""
    DEADLINE = 3
    """The deadline passed there."""
    OVERLOADED = 4
    """Not begun: too much to do there."""
    DRAINING = 5
    """Not begun: no further calls are taken there."""
    NO_SUCH_TOPIC = 6
    TOO_LARGE = 7
    """A message, or the reply, is over the limit."""
    EXPIRED = 8
    """Answered long ago; the reply is no longer kept."""
    NOT_BEGUN = 9
    """Not begun, for another reason."""
    UNKNOWN_OUTCOME = 10
    """Zero or one times, not known."""


BATCH = Struct(">BIQQ")
"""BATCH: kind, count of records, number of the first, number of the next record that its sender waits for."""
RECORD = Struct(">IBBQ")
"""Record: length of its body, kind, flags, stream."""
OPEN = Struct(">IHHH")
"""OPEN: remaining ms (NO_DEADLINE: none), attempt, lengths of correlation id and msgpack'd meta, which follow; then the
first message."""
EVENT = Struct(">16sB")
"""EVENT: id of the target, length of the topic that follows, before the message."""
CREDIT = Struct(">II")
"""CREDIT: messages, bytes."""
ERROR = Struct(">HBH")
"""ERROR: code, length of the kind, length of the text; both follow in UTF-8."""
PING = Struct(">BQ")
"""PING, PONG: kind, token of whoever asked."""
BYE = Struct(">BBH")
"""BYE: kind, 1 if the other end broke the protocol else 0, length of the reason that follows in UTF-8."""

NO_DEADLINE = 0xFFFFFFFF
MAX_META_BYTES = 24 << 10
MAX_TEXT = 1024
"""Of the caller and of the correlation id, in bytes."""
MAX_REASON_BYTES = 1 << 10
MAX_ERROR_KIND_BYTES = 255
MAX_ERROR_TEXT_BYTES = 4 << 10


class Violation(ProtocolError):
    """The peer said what no peer may say, in a whole frame: another channel would not help, so the session ends."""


def damaged(what: str, have: int, need: int) -> ProtocolError:
    """The error for bytes that end too early or too late."""
    return ProtocolError(f"{what}: {have} bytes are there and {need} are needed")
