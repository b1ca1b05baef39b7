"""dynlog: the log is the truth, state is a fold over the log, and transports are only wires.

`open_log` and `open_objects` give engines by URL; `Producer` writes, `Reader` follows, `Consumer` shares the work,
`Replayer` and `LiveProjection` rebuild state; `dynlog.router.RouterState` is a KV router that comes back from its log.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynlog.batch import Batch, Position, StoredRecord
    from dynlog.consumer import Consumer
    from dynlog.errors import DynlogError
    from dynlog.intake import ConsumerSettings, Guarantee
    from dynlog.live import LiveProjection
    from dynlog.log import Log
    from dynlog.objects import ObjectStore
    from dynlog.open import open_log, open_objects
    from dynlog.producer import Producer
    from dynlog.projection import Projection
    from dynlog.reader import Reader
    from dynlog.received import Delivery
    from dynlog.record import Control, Mark, Record
    from dynlog.replay import Replayer
    from dynlog.snapshots import SnapshotPolicy, Snapshots
    from dynlog.tickets import Ticket
    from dynlog.topics import Holder, HolderKind, Retention

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Consumer",
    "ConsumerSettings",
    "Control",
    "Delivery",
    "DynlogError",
    "Guarantee",
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

# A name is imported when it is first used: pydantic and what needs it take a third of a second to import, and most
# command lines and engines never touch them.
_HOMES = {
    "dynlog.batch": "Batch Position StoredRecord",
    "dynlog.consumer": "Consumer",
    "dynlog.errors": "DynlogError",
    "dynlog.intake": "ConsumerSettings Guarantee",
    "dynlog.live": "LiveProjection",
    "dynlog.log": "Log",
    "dynlog.objects": "ObjectStore",
    "dynlog.open": "open_log open_objects",
    "dynlog.producer": "Producer",
    "dynlog.projection": "Projection",
    "dynlog.reader": "Reader",
    "dynlog.received": "Delivery",
    "dynlog.record": "Control Mark Record",
    "dynlog.replay": "Replayer",
    "dynlog.snapshots": "SnapshotPolicy Snapshots",
    "dynlog.tickets": "Ticket",
    "dynlog.topics": "Holder HolderKind Retention",
}

if not TYPE_CHECKING:  # a type checker would take every name for granted

    def __getattr__(name: str) -> Any:
        for module, names in _HOMES.items():
            if name in names.split():
                value = globals()[name] = getattr(import_module(module), name)
                return value
        raise AttributeError(f"module 'dynlog' has no attribute {name!r}")
