"""Which key an object of a bucket gets: its own name wherever that is legal, and always one that leads back to it.

``<prefix>/<bucket>/<name>``, where ``%``, a backslash, control characters, a slash that would leave an empty segment
and the dots of ``.`` and ``..`` are percent-encoded (RFC 3986); so is the first letter of the name that a folder's
manifest has.  A name that is too long for a key becomes ``%~`` and
its SHA-256, which no encoded name can be; the name itself is then in the object's metadata.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote

from dynlog.folders import MANIFEST
from dynlog.objects import check_key

OBJECTS = "nats"
"""Prefix of buckets that are copied object by object."""
MODELS = "models"
"""Prefix of buckets that become model folders."""
DETAILS = "nats-details"
"""Prefix of what is known of an object and is too much for its metadata."""
MAX_NAME_BYTES = 600
HASHED = "%~"

_ESCAPED = re.compile(r"[%\\\x00-\x1f\x7f\U0010ffff]|(?<![^/])/|/$|(?:(?<=/)|^)\.{1,2}(?=/|$)")


def encode_name(name: str) -> str:
    """The name as the end of a key; see `decode_name`."""
    encoded = _ESCAPED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8")), name)
    if name == MANIFEST:
        return f"%{ord(name[0]):02X}{name[1:]}"
    if not name or len(encoded.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES or not _is_text(name):
        return HASHED + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return encoded


def decode_name(encoded: str) -> str | None:
    """The name that was encoded; None for one that only the object's metadata knows."""
    return None if encoded.startswith(HASHED) else unquote(encoded)


def key_of(prefix: str, bucket: str, name: str) -> str:
    """The object's key; raises ConfigurationError for a bucket that can be no segment of a key."""
    return check_key(f"{prefix}/{bucket}/{encode_name(name)}")


def details_key(key: str) -> str:
    """Where the details of the object with that key lie."""
    return check_key(f"{DETAILS}/{key}")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
