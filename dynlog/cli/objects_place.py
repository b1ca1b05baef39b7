"""Which store and which key a URL of ``dynlog objects`` means, and what is printed of an object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import typer

from dynlog.cli.output import human_time
from dynlog.errors import ConfigurationError
from dynlog.objects import ObjectInfo
from dynlog.url import parse_url, shown

MARK = ".dynlog"
"""What a folder of objects contains and other folders do not."""


class Place(NamedTuple):
    """A store and a key in it; an empty key is the whole store."""

    store: str
    key: str

    def below(self, name: str) -> Place:
        """The place, or the one of that name in it if the URL ended with a slash or named the whole store."""
        if self.key and not self.key.endswith("/"):
            return self
        return Place(self.store, self.key + name)

    @property
    def folder(self) -> str:
        """The key without a slash at its end."""
        return self.key.rstrip("/")


def place_of(text: str) -> Place:
    """Divides the URL; raises ConfigurationError.

    ``s3://bucket/model`` is the key ``model`` in the bucket, ``file:///data/objects/model`` that in the folder
    ``/data/objects``, if that is the one with the objects.  A ``//`` in the path divides where the user wants.
    """
    url = parse_url(text)
    parts = urlsplit(text)
    path, divider, key = parts.path.partition("//")
    if not divider:
        if url.scheme == "s3":
            path, key = "", parts.path.removeprefix("/")
        elif url.scheme == "file":
            path, key = _in_folder(text, parts.path)
        else:
            raise ConfigurationError(f"{url}: objects that a command can reach lie at s3://bucket/key or file:///path")
    # Not urlunsplit(): it drops the slashes of file:///a.
    store = f"{parts.scheme}://{parts.netloc}{path or '/'}" + (f"?{parts.query}" if parts.query else "")
    return Place(store, unquote(key))


def _in_folder(text: str, path: str) -> tuple[str, str]:
    """The nearest folder of objects at or above the path, and the rest of it."""
    folder = Path(unquote(path))
    for candidate in (folder, *folder.parents):
        if (candidate / MARK).is_dir():
            below = folder.relative_to(candidate).as_posix()
            key = "" if below == "." else below + "/" * path.endswith("/")
            return quote(str(candidate)), quote(key)
    raise ConfigurationError(
        f"{text}: neither this folder nor one above it holds objects; to begin one, write // where its name ends and "
        "the key begins, as in file:///data/objects//model"
    )


def described(info: ObjectInfo) -> dict[str, object]:
    """An object for ``--json``."""
    return {
        "key": info.key,
        "size": info.size,
        "sha256": info.sha256,
        "modified": human_time(info.modified_ms),
        "expires": None if info.expires_ms is None else human_time(info.expires_ms),
        "metadata": dict(info.metadata),
    }


def _a_url(text: str) -> str:
    if "://" not in text:
        raise typer.BadParameter(f"{shown(text)!r} is not a URL: write s3://bucket/key or file:///path/key")
    return text


PlaceUrl = Annotated[
    str,
    typer.Argument(
        metavar="URL", callback=_a_url, show_default=False,
        help="s3://bucket/key?endpoint=..., or file:///folder/key; // divides folder and key where they are new.",
    ),
]  # fmt: skip
