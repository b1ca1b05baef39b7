"""Which blocks of README.md are run, and how.

A fenced block is run if the line before it is the comment ``<!-- run -->``: ```bash under ``bash -euo pipefail``,
```python under this environment's python.  The blocks run in the order of the page, in one empty folder that they
share, with this environment's commands (``dynlog``) first on PATH; each must exit 0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MARKER = "<!-- run -->"
_FENCE = re.compile(r"^```(\w*)\s*$")


class Block(NamedTuple):
    """A block that is run; ``line`` is that of its first line of code."""

    language: str
    line: int
    text: str


class MarkerError(Exception):
    """A marker that runs nothing: it says that something is tested that is not."""


def runnable_blocks(page: str) -> list[Block]:
    """The marked blocks in order; raises MarkerError for a marker without a bash or python block right after it."""
    lines = page.splitlines()
    blocks = []
    for index, line in enumerate(lines):
        if line.strip() != MARKER:
            continue
        fence = _FENCE.match(lines[index + 1]) if index + 1 < len(lines) else None
        if fence is None or fence[1] not in ("bash", "python"):
            raise MarkerError(f"line {index + 1}: {MARKER} is followed by no ```bash or ```python block")
        start = index + 2
        end = next((at for at in range(start, len(lines)) if lines[at].rstrip() == "```"), None)
        if end is None:
            raise MarkerError(f"line {start}: the block never ends")
        blocks.append(Block(fence[1], start + 1, "\n".join(lines[start:end]) + "\n"))
    return blocks
