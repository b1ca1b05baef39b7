"""Python's garbage collector and the promise that no task on the loop waits long.

A full pass of the collector walks every container there is: with a web framework imported that takes 35 to 110 ms, in
which nothing else runs, and a rebuild allocates enough to cause one.  The index keeps few containers (its dictionaries
hold plain integers), so what is walked is mostly modules, which never become garbage.
"""

from __future__ import annotations

import gc


def settle_heap() -> None:
    """Collects once and takes what is left out of the collector's sight; call it after imports, before a rebuild.

    It is for the whole process, so it is yours to call: nothing in dynlog but its command line does.
    """
    gc.collect()
    gc.freeze()
