"""What a bucket is besides its keys: a topic of one partition whose label says how it is to be folded.

The settings lie in one label, as JSON, set when the topic is created; so whoever folds the bucket folds it alike.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from dynlog.errors import ConfigurationError, UnsupportedLogVersion
from dynlog.kv.fold import MAX_HISTORY
from dynlog.kv.records import MAX_KEY_BYTES, MAX_LEASE_BYTES
from dynlog.topics import Topic

LABEL = "dynlog.kv"
PREFIX = "dynlog.kv."
VERSION = 1
MAX_VALUE_BYTES = 1 << 20
OVERHEAD_BYTES = 4 * MAX_KEY_BYTES + MAX_LEASE_BYTES + 1024
"""So much of an append may be other things than the value: the key, the lease, marks, headers; and in a compaction's
picture the keys at both ends of its range, too."""
MAX_TTL_S = 10 * 365 * 24 * 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """How a bucket keeps its keys; fixed when it is created.

    ``history`` changes per key are kept (1 to 64, the present one counted); of a key that was bound to a lease nothing
    is kept once it is gone.  ``max_value_bytes`` is at most what the
    log takes in one append; None is 1 MiB or that.  ``ttl_s`` is the time to live of values that bring neither one
    nor a lease.
    """

    history: int = 1
    max_key_bytes: int = MAX_KEY_BYTES
    max_value_bytes: int | None = None
    ttl_s: float | None = None

    def __post_init__(self) -> None:
        if type(self.history) is not int or not 1 <= self.history <= MAX_HISTORY:
            raise ConfigurationError(f"history={self.history}: a bucket keeps 1 to {MAX_HISTORY} changes per key")
        if type(self.max_key_bytes) is not int or not 1 <= self.max_key_bytes <= MAX_KEY_BYTES:
            raise ConfigurationError(f"max_key_bytes={self.max_key_bytes}: 1 to {MAX_KEY_BYTES} are possible")
        if self.max_value_bytes is not None and (type(self.max_value_bytes) is not int or self.max_value_bytes < 0):
            raise ConfigurationError(f"max_value_bytes={self.max_value_bytes}: a number from 0 on is needed, or None")
        if self.ttl_s is not None:
            ttl_ms(self.ttl_s)


def ttl_ms(ttl_s: float | None) -> int:
    """The time to live in milliseconds, 0 for none; raises ConfigurationError."""
    if ttl_s is None:
        return 0
    if not (is_number(ttl_s) and 0.001 <= ttl_s <= MAX_TTL_S):
        raise ConfigurationError(f"ttl_s={ttl_s!r:.80}: a time to live is a number of seconds, 0.001 to {MAX_TTL_S:g}")
    return round(ttl_s * 1000)


def is_number(value: object) -> bool:
    """Whether it can be compared with a bound: text would raise TypeError there, and a bool is a slip."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def topic_of(bucket: str) -> str:
    """The topic of a bucket of that name; raises ConfigurationError naming the rule."""
    if not isinstance(bucket, str) or not _NAME.fullmatch(bucket):
        raise ConfigurationError(
            f"bucket name {bucket!r}: 1 to 200 characters of A-Z a-z 0-9 . _ : - are allowed, the first a letter or "
            "digit"
        )
    return PREFIX + bucket


def is_bucket(topic: Topic) -> bool:
    """Whether the topic is a key-value bucket's."""
    return LABEL in topic.labels and topic.name.startswith(PREFIX)


def bucket_of(topic: Topic) -> str:
    """The bucket's name."""
    return topic.name.removeprefix(PREFIX)


def labels_of(settings: BucketSettings) -> dict[str, str]:
    """The labels of a new bucket's topic."""
    return {LABEL: json.dumps({"version": VERSION, **asdict(settings)})}


def settings_of(topic: Topic) -> BucketSettings:
    """What the label says; raises UnsupportedLogVersion for a newer dynlog's, ConfigurationError for no bucket."""
    try:
        said = json.loads(topic.labels[LABEL])
        version = said.pop("version")
        if version == VERSION:
            return BucketSettings(**said)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"topic {topic.name!r} is no key-value bucket: its label {LABEL}: {error!r}") from None
    raise UnsupportedLogVersion(f"a bucket of version {version}: this dynlog reads {VERSION}", topic=topic.name)


def value_limit(settings: BucketSettings, max_batch_bytes: int) -> int:
    """How long a value may be; raises ConfigurationError if the log takes less than what the settings ask for."""
    most = max_batch_bytes - OVERHEAD_BYTES
    if settings.max_value_bytes is None:
        return min(MAX_VALUE_BYTES, most)
    if settings.max_value_bytes > most:
        raise ConfigurationError(
            f"max_value_bytes={settings.max_value_bytes}: this log takes {most} at most (max_batch_bytes is "
            f"{max_batch_bytes}); put large values into an object store and their names here"
        )
    return settings.max_value_bytes
