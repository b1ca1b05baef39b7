"""How a stored record is shown: as JSON it is exact, as text it is for reading.

In JSON a buffer (key, header value, part of the body) is a string if it is printable UTF-8, and ``{"base64": "..."}``
otherwise: a string is therefore always the text itself, and nothing is lost either way.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from dynlog.batch import StoredRecord
from dynlog.cli.output import human_time
from dynlog.record import Buffer

SHOWN_BYTES = 48
"""How much of a buffer that is no text is shown to people."""

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_SPACES = str.maketrans("", "", "\t\r\n")


def printable(data: Buffer) -> str | None:
    """The buffer as text, or None unless it is UTF-8 without control characters (tab and line breaks are fine)."""
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() or text.translate(_SPACES).isprintable() else None


def buffer_json(data: Buffer) -> str | dict[str, str]:
    """The buffer as a JSON value, exactly."""
    text = printable(data)
    return text if text is not None else {"base64": base64.b64encode(data).decode()}


def record_json(stored: StoredRecord) -> dict[str, Any]:
    """Every field is always there; ``timestamp`` is the producer's clock, null if it gave none."""
    record = stored.record
    return {
        "partition": stored.partition,
        "offset": stored.offset,
        "log_time": human_time(stored.log_time_ms),
        "timestamp": human_time(record.timestamp_ms) if record.timestamp_ms else None,
        "key": None if record.key is None else buffer_json(record.key),
        "headers": {name: buffer_json(value) for name, value in record.headers.items()},
        "control": None if record.control is None else record.control.name.lower(),
        "mark": None if record.mark is None else record.mark._asdict(),
        "parts": [buffer_json(part) for part in record.parts],
    }


def json_line(stored: StoredRecord) -> bytes:
    """One line of JSON."""
    return _dumps(record_json(stored)).encode() + b"\n"


def text_line(stored: StoredRecord) -> bytes:
    """One line for people: partition, offset, log time, then what the record has."""
    record = stored.record
    words = [f"{stored.partition} {stored.offset}", human_time(stored.log_time_ms)]
    if record.control is not None:
        words.append(record.control.name)
    if record.key is not None:
        words.append(f"key={_shown(record.key)}")
    words += [f"{name}={_shown(value)}" for name, value in record.headers.items()]
    words.append(" | ".join(map(_shown, record.parts)))
    return "  ".join(words).rstrip(" ").encode() + b"\n"


def _shown(data: Buffer) -> str:
    text = printable(data)
    if text is None:
        more = "..." if len(data) > SHOWN_BYTES else ""
        return f"<{len(data)} bytes {bytes(data[:SHOWN_BYTES]).hex()}{more}>"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
