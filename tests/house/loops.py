"""Tests run on asyncio's own event loop, or on uvloop, and so does every process that they start."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

LOOPS = ("asyncio", "uvloop")
_SITE = Path(__file__).parent / "on_uvloop"


def run_on(loop: str) -> None:
    """Makes new loops of that kind, here and in processes that are started from now on; raises ImportError."""
    if loop == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_SITE), os.environ.get("PYTHONPATH")]))
