"""Diagnostics of long-running commands: one line on stderr per event, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time

from dynlog.cli.app import one_line
from dynlog.cli.options import LogFormat


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{stamp} {record.levelname.lower():7} {one_line(record.getMessage())}{_cause(record)}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        return json.dumps(fields, ensure_ascii=False)


def _cause(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return one_line(f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}")


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


_LIBRARIES = ("aiokafka", "redis", "urllib3", "minio")
"""Engines make errors of ours of what these complain of; their own lines, with tracebacks, would only stand beside."""


def write_diagnostics(form: LogFormat, level: int = logging.INFO) -> None:
    """From now on everything logged at that level or above goes to stderr in that form."""
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.CRITICAL)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Stderr)]:
        root.removeHandler(handler)
    handler = _Stderr()
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text())
    root.addHandler(handler)
    root.setLevel(level)
