"""etcd's JSON gateway over HTTP, as far as reading needs it: every call ends by its deadline and leaves no socket open.

Where an etcd is, who we are and what we believe is read from a URL, and where that does not say it from the variables
with which Dynamo itself is told: ``ETCD_AUTH_USERNAME``, ``ETCD_AUTH_PASSWORD``, ``ETCD_AUTH_CA``,
``ETCD_AUTH_CLIENT_CERT`` and ``ETCD_AUTH_CLIENT_KEY``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynlog.errors import ConfigurationError, DeadlineExceeded, SourceError, SourceRefused, SourceUnavailable
from dynlog.url import Url, parse_url, read_options

DEFAULT_PORT = 2379
MAX_ANSWER_BYTES = 32 << 20
_CONNECT_S = 5.0
"""Of several endpoints one that is dead may take no more than this from the others."""
_HEAD_BYTES = 64 << 10
_UNAUTHENTICATED, _PERMISSION_DENIED, _OUT_OF_RANGE = 16, 7, 11
_CERTIFICATE_ALERT = re.compile(r"ALERT.*CERTIFICATE|ALERT_UNKNOWN_CA")
_REFUSALS = ("authentication failed", "user name is empty", "invalid auth token", "permission denied")


class AnswerTooLarge(SourceError):
    """The answer is larger than `MAX_ANSWER_BYTES`; a smaller page fits."""


class Compacted(SourceError):
    """The revision at which pages are read is gone: etcd compacted meanwhile; reading anew starts at a newer one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an etcd answers and how it is spoken to."""

    shown: str
    """For messages, without secrets."""
    endpoints: tuple[tuple[str, int], ...]
    tls: ssl.SSLContext | None
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def etcd_place(text: str, environment: Mapping[str, str] | None = None) -> Place:
    """The place that a URL names: ``http://host:port``, ``https://user:password@host1:port,host2:port?tls_ca=FILE``.

    Several URLs may stand behind each other with commas between, as in Dynamo's ``ETCD_ENDPOINTS``.  Options are
    ``tls_ca``, ``tls_cert``, ``tls_key`` (files) and ``tls_verify=false``.  Raises ConfigurationError.
    """
    environment = os.environ if environment is None else environment
    if "://" not in text:  # as etcdctl takes it; what stands there may be a password, and is not repeated
        raise ConfigurationError("an etcd is named by a URL: write http://host:2379 instead of host:2379")
    url = parse_url(_as_one_url(text))
    if url.scheme not in ("http", "https"):
        raise ConfigurationError(f"{url} is no etcd: its clients' URL begins with http:// or https://")
    if url.path not in ("", "/"):
        raise ConfigurationError(
            f"{url}: an etcd's URL ends with its port; a path like {url.path!r} means nothing to it"
        )
    endpoints = tuple((host, port or DEFAULT_PORT) for host, port in url.places)
    if not endpoints or not all(host for host, _ in endpoints):
        raise ConfigurationError(f"{url} names no host: {url.scheme}://host:{DEFAULT_PORT}")
    user, password = url.user, url.password
    if user is None:
        user, password = environment.get("ETCD_AUTH_USERNAME"), environment.get("ETCD_AUTH_PASSWORD")
    if user is not None and password is None:
        raise ConfigurationError(f"{url}: the user {user!r} has no password; write {url.scheme}://user:password@host")
    return Place(str(url), endpoints, _context(url, environment), user, password)


def _as_one_url(text: str) -> str:
    """``http://a:1,http://b:2`` is ``http://a:1,b:2``."""
    first, *others = text.split(",http")
    scheme = first.partition("://")[0]
    for other in others:
        if not f"http{other}".startswith(f"{scheme}://"):
            raise ConfigurationError("the endpoints of an etcd are all http:// or all https://")
    if not others:
        return text
    return ",".join([first.rstrip("/"), *(other.partition("://")[2].rstrip("/") for other in others)])


def _context(url: Url, environment: Mapping[str, str]) -> ssl.SSLContext | None:
    options = read_options(url, {"tls_ca": str, "tls_cert": str, "tls_key": str, "tls_verify": _flag})
    if url.scheme == "http":
        if options:
            raise ConfigurationError(
                f"{', '.join(sorted(options))} in {url}: TLS is asked for by https://, not http://"
            )
        return None
    ca = options.get("tls_ca") or environment.get("ETCD_AUTH_CA")
    chain = options.get("tls_cert") or environment.get("ETCD_AUTH_CLIENT_CERT")
    key = options.get("tls_key") or environment.get("ETCD_AUTH_CLIENT_KEY")
    named = f"tls_ca={ca}"
    try:
        context = ssl.create_default_context(cafile=ca)
        if chain is not None:
            named = f"tls_cert={chain} with tls_key={key}"
            context.load_cert_chain(chain, key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"{url}: {named} cannot be used: {error}") from None
    if options.get("tls_verify") is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false is needed")
    return text == "true"


class Gateway:
    """Calls of one reader; remembers the token that etcd gave it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._token: str | None = None

    async def call(self, path: str, request: Mapping[str, Any], *, timeout: float) -> Any:
        """The answer to one request.

        Raises SourceUnavailable, SourceRefused, Compacted, AnswerTooLarge, ConfigurationError for TLS that does not
        fit, DeadlineExceeded.
        """
        try:
            async with asyncio.timeout(timeout):
                if self._token is None and self._place.user is not None:
                    credentials = {"name": self._place.user, "password": self._place.password}
                    self._token = str((await self._ask("/v3/auth/authenticate", credentials)).get("token", ""))
                return await self._ask(path, request)
        except TimeoutError:
            raise DeadlineExceeded(f"etcd at {self._place.shown} did not answer {path} within {timeout:g} s") from None

    async def _ask(self, path: str, request: Mapping[str, Any]) -> Any:
        reasons = []
        for host, port in self._place.endpoints:
            try:
                status, body = await self._exchange(host, port, path, json.dumps(request).encode())
            except ssl.SSLCertVerificationError as error:
                raise ConfigurationError(
                    f"etcd at {host}:{port}: its certificate is not believed ({error.verify_message}): name its CA by "
                    "?tls_ca=FILE, or use the host name that the certificate is for"
                ) from None
            except (OSError, EOFError, ValueError) as error:
                if isinstance(error, ssl.SSLError) and _CERTIFICATE_ALERT.search(error.reason or ""):
                    raise SourceRefused(
                        f"etcd at {host}:{port} wants a certificate of its clients, signed by an authority that it "
                        f"believes ({error.reason}): name one by ?tls_cert=FILE&tls_key=FILE"
                    ) from None
                reasons.append(f"{host}:{port}: {str(error) or type(error).__name__}")
                continue
            return self._answer(status, body, path)
        raise SourceUnavailable(
            f"etcd at {self._place.shown} cannot be reached ({'; '.join(reasons)}): is it there, and is it "
            f"{'https' if self._place.tls else 'http'}?"
        )

    async def _exchange(self, host: str, port: int, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body; HTTP/1.0, so that the end of the answer is the end of the connection."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(host, port, ssl=self._place.tls, limit=_HEAD_BYTES)
        except TimeoutError:
            raise OSError(f"no connection within {_CONNECT_S:g} s") from None
        try:
            head = [f"POST {path} HTTP/1.0", f"Host: {host}:{port}", "Content-Type: application/json"]
            head += [f"Content-Length: {len(body)}"]
            head += [] if self._token is None else [f"Authorization: {self._token}"]
            writer.write("\r\n".join([*head, "", ""]).encode() + body)
            status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            if not status.startswith("HTTP/1."):
                raise ValueError("what answers there does not speak HTTP")
            promised = next((int(f[15:]) for f in fields if f.lower().startswith("content-length:")), None)
            answer = await self._rest(reader)
            if promised is not None and len(answer) != promised:
                raise EOFError(f"the answer ended after {len(answer)} of {promised} bytes")
            return int(status.split(" ", 2)[1]), answer
        except asyncio.LimitOverrunError:
            raise ValueError("what answers there does not speak HTTP") from None
        finally:
            writer.transport.abort()

    async def _rest(self, reader: asyncio.StreamReader) -> bytes:
        pieces, size = [], 0
        while piece := await reader.read(1 << 18):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise AnswerTooLarge(f"etcd at {self._place.shown}: an answer is over {MAX_ANSWER_BYTES >> 20} MiB")
        return b"".join(pieces)

    def _answer(self, status: int, body: bytes, path: str) -> Any:
        where = f"etcd at {self._place.shown}"
        try:
            told = json.loads(body)
        except ValueError:
            if status == 404:
                raise SourceUnavailable(
                    f"{where} has no {path}: its JSON gateway is off, or it is older than 3.4"
                ) from None
            raise SourceUnavailable(
                f"{where} answered {path} with {status} and {body[:80]!r}, which is no JSON"
            ) from None
        if not isinstance(told, dict):
            raise SourceUnavailable(f"{where} answered {path} with {type(told).__name__}, not with an object")
        if status == 200:
            return told
        message = str(told.get("message") or told.get("error") or body[:200])
        code = told.get("code")
        if code == _OUT_OF_RANGE and "compacted" in message:
            raise Compacted(f"{where}: {message}")
        if code in (_UNAUTHENTICATED, _PERMISSION_DENIED) or any(refusal in message for refusal in _REFUSALS):
            raise SourceRefused(f"{where} refuses {path}: {message}; name a user that may read, as user:password@host")
        raise SourceUnavailable(f"{where} answered {path} with {status}: {message}")
