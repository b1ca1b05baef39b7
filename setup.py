"""What pyproject.toml cannot say: with ``DYNLOG_COMPILE=1`` in the environment some modules are compiled by mypyc.

Without it the wheel is pure Python.  Compiled or not, each module does the same: the .py files are in either wheel, and
`scripts/compiled.sh` runs tests on the compiled ones.  mypyc comes with mypy, so such a build needs both it and a C
compiler: ``DYNLOG_COMPILE=1 python -m build --wheel --no-isolation``.
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

COMPILED = {
    # What every reply passes.
    "dynlog": "prompt",
    # What every message passes: frames, streams, credit and the link's writes.  A fifth off the CPU of a call.
    "dynlog.network": (
        "deadlines frames link link_io outgoing session session_channels session_handshake session_inbox "
        "session_meta session_outbox session_sending session_stream session_streams"
    ),
    # Where a router spends its time while it replays a log: about half the CPU of a block, and a third of a find.
    "dynlog.router": "fold forest index matching runs stretch",
    # What every change of a key passes, written or followed: about 20 % off the CPU of a put.
    "dynlog.kv": "fold recent records rows table",
}
"""Modules by package.  Only what was measured to gain is here; async generators cannot be."""


def compiled_modules() -> list[str]:
    """Their full names."""
    return [f"{package}.{name}" for package, names in COMPILED.items() for name in names.split()]


def extensions() -> list[Extension]:
    """One library per package, so that they are built side by side."""
    try:
        from mypyc.build import mypycify
    except ImportError:
        sys.exit("DYNLOG_COMPILE=1 needs mypy where setup.py runs: pip install mypy, and build with --no-isolation")
    groups: list[tuple[list[str], str | None]] = [
        ([f"{package.replace('.', '/')}/{name}.py" for name in names.split()], package.replace(".", "_"))
        for package, names in COMPILED.items()
    ]
    paths = [path for group, _ in groups for path in group]
    # What mypy takes for unreachable mypyc leaves out, even where a call in between changed what mypy had concluded.
    made: list[Extension] = mypycify(["--warn-unreachable", *paths], separate=groups, opt_level="2", debug_level="0")
    return made


if __name__ == "__main__":
    setup(
        ext_modules=extensions() if os.environ.get("DYNLOG_COMPILE") == "1" else [],
        options={"build_ext": {"parallel": os.cpu_count()}},
    )
