"""Key-value buckets on the log: a bucket is one partition, a revision is an offset, and the state is a fold.

`records` says what is written, `fold` what follows from it; everything else brings the two together.
"""

from dynlog.kv.bucket import Bucket, BucketStatus
from dynlog.kv.compaction import Compacted, CompactionPolicy
from dynlog.kv.election import Election, Leader, Leadership
from dynlog.kv.fold import KvFold, Outcome, Verdict
from dynlog.kv.lease_fold import Lease
from dynlog.kv.lease_holder import HeldLease
from dynlog.kv.leases import Leases
from dynlog.kv.lock import Lock
from dynlog.kv.rows import Entry, Op
from dynlog.kv.settings import BucketSettings
from dynlog.kv.store import BucketInfo, KeyValue, open_kv
from dynlog.kv.typed import TypedBucket, TypedEntry
from dynlog.kv.watch import Changed, Event, Present, Ready, Resync, Watch

__all__ = [
    "Bucket",
    "BucketInfo",
    "BucketSettings",
    "BucketStatus",
    "Changed",
    "Compacted",
    "CompactionPolicy",
    "Election",
    "Entry",
    "Event",
    "HeldLease",
    "KeyValue",
    "KvFold",
    "Leader",
    "Leadership",
    "Lease",
    "Leases",
    "Lock",
    "Op",
    "Outcome",
    "Present",
    "Ready",
    "Resync",
    "TypedBucket",
    "TypedEntry",
    "Verdict",
    "Watch",
    "open_kv",
]
