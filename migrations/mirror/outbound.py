"""A record as a message for a subject that was given: what NATS has no place for goes into headers of our own.

A record that was a message goes out as that message; any other gets headers (`dynlog.migrations.mirror.inbound`) out of
which the record can be made again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from dynlog.batch import StoredRecord
from dynlog.errors import ConfigurationError, MalformedRecord
from dynlog.migrations.mirror.inbound import CONTROL, HEADERS, KEY, OWN, PARTS, SOURCE, SUBJECT, TIME
from dynlog.migrations.mirror.path import PATH, longer, path_of_headers, write_path
from dynlog.record import Record

MESSAGE_ID = "Nats-Msg-Id"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TOKEN = re.compile(r"[^\x00-\x20\x7f.*>]+")
_NATS_OWN = "nats-"
"""Headers that begin so command the server (expected sequences, rollups, TTLs) and are not passed on as they are."""


class Outgoing(NamedTuple):
    """A message to be published."""

    subject: str
    headers: dict[str, str]
    payload: bytes

    @property
    def size(self) -> int:
        """What it takes of the server's ``max_payload``, from above: headers count."""
        return len(self.payload) + 12 + sum(len(k) + len(v.encode()) + 4 for k, v in self.headers.items())


def to_message(stored: StoredRecord, place: str, incarnation: str, subject: str) -> Outgoing:
    """The message for ``subject``, under the id ``incarnation/partition/offset``."""
    record = stored.record
    headers = _headers(record, subject)
    headers[PATH] = write_path(longer(path_of_headers(record.headers), place))
    headers[MESSAGE_ID] = message_id(incarnation, stored.partition, stored.offset)
    return Outgoing(subject, headers, b"".join(record.parts))


def message_id(incarnation: str, partition: int, offset: int) -> str:
    """By this NATS knows a repeat, within the stream's duplicate window."""
    return f"{incarnation}/{partition}/{offset}"


def read_message_id(text: str, incarnation: str) -> tuple[int, int] | None:
    """Partition and offset of an id of that incarnation; None for any other id."""
    said, _, rest = text.partition("/")
    partition, _, offset = rest.partition("/")
    if said != incarnation or not (partition.isdigit() and offset.isdigit()):
        return None
    return int(partition), int(offset)


def _headers(record: Record, subject: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    odd: dict[str, bytes] = {}
    for name, value in record.headers.items():
        if name in OWN or name in (SOURCE, SUBJECT):
            continue
        text = _plain(value)
        if text is None or not _NAME.fullmatch(name) or name.lower().startswith(_NATS_OWN):
            odd[name] = value
        else:
            headers[name] = text
    if odd:
        headers[HEADERS] = base64.b64encode(msgpack.packb(odd)).decode()
    if record.key != subject.encode():
        headers[KEY] = "-" if record.key is None else base64.b64encode(record.key).decode()
    if len(record.parts) != 1:
        headers[PARTS] = ",".join(str(len(bytes(part))) for part in record.parts) or "-"
    if record.control is not None:
        headers[CONTROL] = record.control.name
    headers[TIME] = str(record.timestamp_ms)
    return headers


def _plain(value: bytes) -> str | None:
    """The value as NATS carries it unchanged, or None."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text == text.strip() and text.isprintable() else None


class Subjects:
    """The subjects to which a mirror may write: one, or patterns that a record's own subject has to match."""

    def __init__(self, given: Sequence[str]) -> None:
        if not given:
            raise ConfigurationError(
                "outwards a mirror writes only to subjects that are given: name one with --subject"
            )
        self.given = tuple(given)
        self._patterns = [_pattern(subject) for subject in given]
        self._only = given[0] if len(given) == 1 and not is_pattern(given[0]) else None

    def of(self, record: Record) -> str:
        """The subject of a record: the one that was given, or its own (its key's, if it never was a message).

        Raises MalformedRecord if that is none of those given.
        """
        if self._only is not None:
            return self._only
        said = record.headers.get(SUBJECT, record.key)
        if said is None:
            raise MalformedRecord("the record has no key that could say which of the subjects is meant")
        subject = said.decode("utf-8", "replace")
        if is_pattern(subject) or not all(_TOKEN.fullmatch(token) for token in subject.split(".")):
            raise MalformedRecord(f"the key {subject[:100]!r} is no subject")
        if not any(pattern.fullmatch(subject) for pattern in self._patterns):
            raise MalformedRecord(f"the subject {subject!r} is none of those given ({', '.join(self.given)})")
        return subject


def is_pattern(subject: str) -> bool:
    """Whether it has wildcards."""
    return any(token in ("*", ">") for token in subject.split("."))


def check_subject(subject: str) -> str:
    """A subject or pattern; raises ConfigurationError for what is none, and for a server's own."""
    tokens = subject.split(".")
    legal = all(token == "*" or _TOKEN.fullmatch(token) or (token == ">" and i == len(tokens) - 1)
                for i, token in enumerate(tokens))  # fmt: skip
    if not legal or subject.startswith(("$", "_INBOX")):
        raise ConfigurationError(
            f"{subject!r} is no subject for a mirror: words with dots between them, * for one and > for all the rest, "
            "and none of the server's own ($..., _INBOX...)"
        )
    return subject


def _pattern(subject: str) -> re.Pattern[str]:
    words = {"*": r"[^.]+", ">": r".+"}
    return re.compile(r"\.".join(words.get(token) or re.escape(token) for token in check_subject(subject).split(".")))
