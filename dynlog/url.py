"""URLs name engines and stores; every option in them is known, typed and checked, and secrets do not print."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from dynlog.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Url:
    """A parsed engine URL: ``scheme://user:password@host:port/path?option=value``."""

    scheme: str
    user: str | None
    password: str | None
    host: str
    port: int | None
    path: str
    options: Mapping[str, str]
    _split: SplitResult

    @property
    def places(self) -> list[tuple[str, int | None]]:
        """All hosts with their ports, for engines that take several: ``host:port,host:port``."""
        return _places(self._split.netloc)

    def __repr__(self) -> str:
        """Without its password too, for tracebacks and debuggers."""
        return f"Url({str(self)!r})"

    def __str__(self) -> str:
        """The URL without its password, for messages and logs."""
        split, place = self._split, self._split.netloc
        if self.password is not None:
            place = f"{self.user or ''}:***@{place.rsplit('@', 1)[-1]}"
        # Not geturl(): it drops the slashes of schemes that it does not know (sqlite:///a becomes sqlite:/a).
        return f"{split.scheme}://{place}{split.path}" + (f"?{_without_secrets(split.query)}" if split.query else "")


def parse_url(text: str) -> Url:
    """Parses; raises ConfigurationError for what is no URL, a repeated option or a port that is no number."""
    _check_characters(text)
    try:
        split = urlsplit(text)
        # With several hosts there is no one host and port: `places` has them.
        port = None if "," in split.netloc.rpartition("@")[2] else split.port
        _places(split.netloc)
    except ValueError as error:
        raise ConfigurationError(f"{shown(text)!r} is not a URL: {error}") from None
    if not split.scheme or "://" not in text:
        raise ConfigurationError(
            f"{shown(text)!r} is not a URL: it needs a scheme, as in sqlite:///path/events.db or memory://name"
        )
    options: dict[str, str] = {}
    for name, value in parse_qsl(split.query, keep_blank_values=True):
        if name in options:
            raise ConfigurationError(f"option {name!r} stands twice in {shown(text)!r}")
        options[name] = value
    return Url(
        scheme=split.scheme,
        user=unquote(split.username) if split.username else None,
        password=unquote(split.password) if split.password else None,
        host=split.hostname or "",
        port=port,
        path=unquote(split.path),
        options=options,
        _split=split,
    )


def _places(netloc: str) -> list[tuple[str, int | None]]:
    """Hosts and ports; raises ValueError for a port that is no number."""
    parts = [urlsplit(f"//{part}") for part in netloc.rpartition("@")[2].split(",") if part]
    return [(part.hostname or "", part.port) for part in parts]


def shown(text: str) -> str:
    """A text that was meant to be a URL, for messages, with whatever may be a password in it taken out."""
    # Up to the last @: where the text was cut wrongly, the password may reach into path, query or fragment.
    return _without_secrets(re.sub(r"(^[^:/@]*:/{0,2}|//).*@", r"\1***@", text))


_SECRET = re.compile(r"((?:^|[?&])[^=&]*(?:pass|secret|token|credential|auth)[^=&]*=)[^&]*", re.IGNORECASE)
_USERINFO = re.compile(r"(//|%2F%2F)[^/?#&]*(?:@|%40)", re.IGNORECASE)


def _without_secrets(query: str) -> str:
    """Options as they were written, but for the values of those that sound like passwords, and users within URLs."""
    return _USERINFO.sub(r"\1***@", _SECRET.sub(r"\1***", query))


def _check_characters(text: str) -> None:
    """Refuses what would cut the text where its writer did not mean to, above all within a password."""
    _, found, rest = text.partition("://")
    if not found:
        return
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if ":" in place and "@" not in place and "@" in rest and not place.startswith("["):
        raise ConfigurationError(
            f"{shown(text)!r} is not a URL: in a user or password write / as %2F, ? as %3F, # as %23 and @ as %40"
        )
    if "#" in rest:
        raise ConfigurationError(f"{shown(text)!r} is not a URL of dynlog's: write # as %23")


def read_options(url: Url, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The URL's options, converted; raises ConfigurationError naming an unknown option or a value that does not fit."""
    values: dict[str, Any] = {}
    for name, text in url.options.items():
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise ConfigurationError(f"unknown option {name!r} in {url}; {url.scheme}:// knows: {allowed}")
        try:
            values[name] = known[name](text)
        except ValueError as error:
            told = _without_secrets(f"{name}={text}").partition("=")[2]
            raise ConfigurationError(f"option {name}={told!r} in {url}: {error}") from None
    return values


def positive(text: str) -> int:
    """Option type: a whole number above zero."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise ValueError("a whole number above zero is needed")
    return int(text)


def copy_command(url: str, path: Path) -> str:
    """The command that copies a log into a file: the way where an engine has no backup of its own."""
    return f"dynlog log copy {url} sqlite://{path.absolute()}"
