"""dynlog: the log is the truth, state is a fold over the log, and transports are only wires.

`open_log` and `open_objects` give engines by URL; `Producer` writes, `Reader` follows, `Replayer` and `LiveProjection`
rebuild state; `dynlog.router.RouterState` is a KV router that comes back from its log.
"""

from dynlog.batch import Batch, Position, StoredRecord
from dynlog.errors import DynlogError
from dynlog.live import LiveProjection
from dynlog.log import Log
from dynlog.objects import ObjectStore
from dynlog.open import open_log, open_objects
from dynlog.producer import Producer, Ticket
from dynlog.projection import Projection
from dynlog.reader import Reader
from dynlog.record import Control, Mark, Record
from dynlog.replay import Replayer
from dynlog.snapshots import SnapshotPolicy, Snapshots
from dynlog.topics import Holder, HolderKind, Retention

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Control",
    "DynlogError",
    "Holder",
    "HolderKind",
    "LiveProjection",
    "Log",
    "Mark",
    "ObjectStore",
    "Position",
    "Producer",
    "Projection",
    "Reader",
    "Record",
    "Replayer",
    "Retention",
    "SnapshotPolicy",
    "Snapshots",
    "StoredRecord",
    "Ticket",
    "__version__",
    "open_log",
    "open_objects",
]
