"""The options of a ``sqlite://`` URL, each checked; an option that is not known is refused."""

from __future__ import annotations

from typing import NamedTuple

from dynlog.codec import MAX_BATCH_BYTES, MAX_PAYLOAD_BYTES
from dynlog.url import Url, positive, read_options


class Settings(NamedTuple):
    """``synchronous`` full or normal (fsync at each commit or not); ``repair`` opens a log that lost its tail."""

    synchronous: str = "full"
    max_batch_bytes: int = MAX_BATCH_BYTES
    create: bool = True
    repair: bool = False
    page_size: int = 4096


def settings_of(url: Url) -> Settings:
    """The settings of a URL; raises ConfigurationError."""
    return Settings(**read_options(url, _OPTIONS))


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false is needed")
    return text == "true"


def _synchronous(text: str) -> str:
    if text not in ("full", "normal"):
        raise ValueError("full (survives a power loss) or normal (survives a killed process) is needed")
    return text


def _page_size(text: str) -> int:
    value = int(text)
    if value not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
        raise ValueError("a power of two from 512 to 65536 is needed")
    return value


def _batch_bytes(text: str) -> int:
    value = positive(text)
    if value > MAX_PAYLOAD_BYTES:
        raise ValueError(f"at most {MAX_PAYLOAD_BYTES}")
    return value


_OPTIONS = {
    "synchronous": _synchronous,
    "max_batch_bytes": _batch_bytes,
    "create": _flag,
    "repair": _flag,
    "page_size": _page_size,
}
