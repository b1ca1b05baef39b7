"""Every error that dynlog raises on purpose, in one tree.

    DynlogError
     ├─ ConfigurationError        what the caller wrote cannot work: URL, option, retention, permission
     │   ├─ UnknownScheme         no engine or store goes by that URL scheme
     │   ├─ MissingDependency     the engine exists, its extra is not installed
     │   ├─ UnsupportedLocation   e.g. SQLite on a network filesystem
     │   └─ ObjectStoreForbidden  this user may not do this there
     ├─ DeadlineExceeded          the time that the caller gave is over; nothing else is known to be wrong
     ├─ Closed                    the log, store, producer or reader was closed
     ├─ MalformedRecord           bytes that no released dynlog wrote, or a value over a bound of the codec
     ├─ MalformedEvent            a foreign event that fits no profile
     ├─ LogError                  (topic, partition, offset)
     │   ├─ TopicNotFound, TopicExists, PartitionNotFound
     │   ├─ BatchTooLarge         refused whole, never split
     │   ├─ OffsetTruncated       below the start; names the earliest offset that is left
     │   ├─ LogDiverged           another incarnation, or a position beyond the end
     │   ├─ LogCorrupt            damage that a checksum or a chain found
     │   ├─ LogUnavailable        the server or file cannot be reached now; may pass by itself
     │   │   └─ LogFull           no space left
     │   ├─ OffsetConflict        somebody appended before an append that expects the end to be where it was
     │   ├─ OutcomeUnknown        an append that may or may not have been stored
     │   ├─ ProducerFenced        a newer epoch of the same producer exists
     │   ├─ CommitFenced          a newer generation of the same group exists
     │   ├─ GroupBusy             members of the group are alive
     │   ├─ NotALog               the file is something else
     │   └─ UnsupportedLogVersion a newer dynlog wrote it
     ├─ ObjectError               (bucket or folder, key)
     │   ├─ ObjectNotFound, ObjectCorrupt, ObjectStoreUnavailable, ObjectExists
     ├─ KvError                   (bucket, key)
     │   ├─ BucketNotFound        there is none of that name, or it was deleted under whoever used it
     │   ├─ BucketExists          there is one already, or one with other settings
     │   ├─ KeyNotFound           no such key in the bucket
     │   ├─ KeyExists             a creation, and somebody was there before
     │   ├─ RevisionConflict      the key has another revision than the one that was named, or is gone
     │   ├─ EntryTooLarge         a key or value over the bucket's limits
     │   ├─ LeaseLost             the lease has ended: nothing can be bound to it, and its holder must stop
     │   └─ EntityFenced          a later life of the same entity is there: this one must stop
     ├─ SourceError               (a foreign system that is read from, such as an etcd)
     │   ├─ SourceUnavailable     it cannot be reached now, or what it says is no answer; may pass by itself
     │   ├─ SourceRefused         it wants another user, password, certificate or permission
     │   ├─ SourceNotFound        it has nothing of that name
     │   ├─ SourceChanged         what was being read was deleted or replaced meanwhile
     │   └─ SourceDamaged         what it has is not whole, or not what its own checksum says
     └─ SnapshotError
         ├─ SnapshotCorrupt       the body does not verify; an older one may
         └─ StateUnrecoverable    neither a snapshot nor the log reaches back far enough

Each message says what happened, where, and what to do. On the command line it is the one line that is printed.
"""

from __future__ import annotations


class DynlogError(Exception):
    """Base of all errors that dynlog raises on purpose."""


class ConfigurationError(DynlogError):
    """What the caller wrote cannot work; retrying the same call cannot help."""


class UnknownScheme(ConfigurationError):
    """No engine or object store goes by that URL scheme."""


class MissingDependency(ConfigurationError):
    """The engine exists but the optional package that it stands on is not installed."""


class UnsupportedLocation(ConfigurationError):
    """The place cannot keep the engine's promises (for example SQLite on a network filesystem)."""


class ObjectStoreForbidden(ConfigurationError):
    """The object store does not let this user do it, as it may let him do it elsewhere in the store."""


class DeadlineExceeded(DynlogError):
    """The caller's time is over."""


class Closed(DynlogError):
    """The log, store, producer or reader was closed before or during the call."""


class MalformedRecord(DynlogError):
    """Bytes that no released dynlog wrote, or a record over one of the codec's bounds."""


class MalformedEvent(DynlogError):
    """A foreign event that fits no profile; the message names the field."""


class LogError(DynlogError):
    """Base of what a log engine raises; says where."""

    def __init__(
        self, message: str, *, topic: str | None = None, partition: int | None = None, offset: int | None = None
    ) -> None:
        place = [
            f"{name} {value!r}" if isinstance(value, str) else f"{name} {value}"
            for name, value in (("topic", topic), ("partition", partition), ("offset", offset))
            if value is not None
        ]
        super().__init__(f"{message} ({', '.join(place)})" if place else message)
        self.topic = topic
        self.partition = partition
        self.offset = offset


class TopicNotFound(LogError):
    """No topic of that name; nothing creates one by accident."""


class TopicExists(LogError):
    """A topic of that name exists already, or exists with other settings."""


class PartitionNotFound(LogError):
    """The topic has fewer partitions."""


class BatchTooLarge(LogError):
    """The append is over ``max_batch_bytes``; it was refused whole and nothing of it was stored."""


class OffsetTruncated(LogError):
    """The offset lies below the start of the partition; ``earliest`` is the first one that can be read."""

    def __init__(self, message: str, *, topic: str, partition: int, offset: int, earliest: int) -> None:
        super().__init__(message, topic=topic, partition=partition, offset=offset)
        self.earliest = earliest


class LogDiverged(LogError):
    """The position belongs to another incarnation of the log or topic, or lies beyond its end."""


class OffsetConflict(LogError):
    """The partition did not end at ``expected``, so nothing of the append is there for any reader.

    ``end`` is where it ended when this was found out: read on up to there, and decide again.
    """

    def __init__(self, *, topic: str, partition: int, expected: int, end: int) -> None:
        super().__init__(
            f"the append expects the end to be {expected} but it is {end}; read what lies between and decide again",
            topic=topic,
            partition=partition,
        )
        self.expected = expected
        self.end = end


class LogCorrupt(LogError):
    """Stored bytes fail a checksum or break the chain; ``dynlog log verify`` names every damage."""


class LogUnavailable(LogError):
    """The server or file cannot be reached now; the same call may go through later."""


class LogFull(LogUnavailable):
    """No space is left where the log lies; nothing of the append was stored."""


class OutcomeUnknown(LogError):
    """The append may or may not have been stored; repeating it under the same mark is safe."""


class ProducerFenced(LogError):
    """A newer epoch of the same producer exists; this instance must stop writing."""


class CommitFenced(LogError):
    """A newer generation of the same group exists; this member must stop committing."""


class GroupBusy(LogError):
    """Members of the group are alive: stop them first, or force it and they start over."""


class NotALog(LogError):
    """The file is not a dynlog log."""


class UnsupportedLogVersion(LogError):
    """A newer dynlog wrote this log."""


class ObjectError(DynlogError):
    """Base of what an object store raises; says where."""

    def __init__(self, message: str, *, store: str | None = None, key: str | None = None) -> None:
        place = [f"{name} {value!r}" for name, value in (("store", store), ("key", key)) if value is not None]
        super().__init__(f"{message} ({', '.join(place)})" if place else message)
        self.reason = message.partition(";")[0]
        """What happened, without the place and without what stands behind a semicolon: what to do about the object."""
        self.store = store
        self.key = key


class ObjectNotFound(ObjectError):
    """No object under that key."""


class ObjectExists(ObjectError):
    """An object lies under that key already and the call asked to create it."""


class ObjectCorrupt(ObjectError):
    """The bytes that were read do not have the checksum under which they were stored."""


class ObjectStoreUnavailable(ObjectError):
    """The store cannot be reached, or refuses, now."""


class KvError(DynlogError):
    """Base of what a key-value bucket raises; says where."""

    def __init__(self, message: str, *, bucket: str, key: str | None = None) -> None:
        place = f"bucket {bucket!r}" if key is None else f"bucket {bucket!r}, key {key!r}"
        super().__init__(f"{message} ({place})")
        self.bucket = bucket
        self.key = key


class BucketNotFound(KvError):
    """No bucket of that name, or it was deleted under whoever used it; nothing creates one by accident."""


class BucketExists(KvError):
    """A bucket of that name exists already, or exists with other settings."""


class KeyNotFound(KvError):
    """The bucket has no such key."""


class KeyExists(KvError):
    """The key was there before the creation; ``revision`` is what stands there.  Nothing was changed."""

    def __init__(self, message: str, *, bucket: str, key: str, revision: int) -> None:
        super().__init__(message, bucket=bucket, key=key)
        self.revision = revision


class RevisionConflict(KvError):
    """The key is not at the revision that was named; ``revision`` is what stands there, None if it is gone.

    Nothing was changed: read it, and decide again.
    """

    def __init__(self, message: str, *, bucket: str, key: str, revision: int | None) -> None:
        super().__init__(message, bucket=bucket, key=key)
        self.revision = revision


class EntryTooLarge(KvError):
    """The key or the value is over the bucket's limits; nothing was written."""


class LeaseLost(KvError):
    """The lease has ended, by revocation or expiry, or never began; ``lease`` is its id."""

    def __init__(self, message: str, *, bucket: str, lease: str, key: str | None = None) -> None:
        super().__init__(message, bucket=bucket, key=key)
        self.lease = lease


class EntityFenced(KvError):
    """A later life of the same entity is there; ``incarnation`` is its number.  This one must stop."""

    def __init__(self, message: str, *, bucket: str, key: str, incarnation: int) -> None:
        super().__init__(message, bucket=bucket, key=key)
        self.incarnation = incarnation


class SourceError(DynlogError):
    """Base of what a foreign system that is read from raises."""


class SourceUnavailable(SourceError):
    """The foreign system cannot be reached now, or what it says is no answer; the same call may go through later."""


class SourceRefused(SourceError):
    """The foreign system wants another user, password, certificate or permission."""


class SourceNotFound(SourceError):
    """The foreign system has nothing of that name."""


class SourceChanged(SourceError):
    """What was being read was deleted or replaced meanwhile; look again at what is there."""


class SourceDamaged(SourceError):
    """What the foreign system has is not whole, or not what its own checksum says; nobody can read it from there."""


class SnapshotError(DynlogError):
    """Base of what snapshots raise."""


class SnapshotCorrupt(SnapshotError):
    """The snapshot's body is missing or does not verify; an older snapshot may."""


class StateUnrecoverable(SnapshotError):
    """Neither a snapshot nor the log reaches back far enough to rebuild the state; says what is missing."""
