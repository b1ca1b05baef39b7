"""Why there is no connection to a NATS server, each in one line that says what to change."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import nats.errors

from dynlog.adapters.nats.exchange import told
from dynlog.errors import SourceError, SourceRefused, SourceUnavailable

_REFUSED = re.compile(rf"\[Errno {errno.ECONNREFUSED}\]")
_ANY = re.compile(r"\[Errno -?\d+\]")


def refuses(error: BaseException) -> bool:
    """Whether the server, or we, said no: asking again changes nothing."""
    return isinstance(error, ssl.SSLError | SourceRefused) or "authorization" in str(error).lower()


def unreachable(
    failures: Sequence[BaseException], shown: str, info: Mapping[str, Any], *, certified: bool
) -> SourceError:  # fmt: skip
    """What came of every attempt, one for each server.

    ``info`` is what the server last said of itself, ``certified`` whether it was shown a certificate.
    """
    if info.get("tls_verify") and any(_is_broken(failure) for failure in failures):
        return SourceRefused(
            f"NATS at {shown} does not believe our certificate: give one of an authority that it knows (--cert, --key)"
            if certified
            else f"NATS at {shown} wants to see a certificate of ours: give one and its key (--cert, --key)"
        )
    no = next((failure for failure in failures if refuses(failure)), None)
    if no is not None:
        return SourceRefused(f"NATS at {shown}{_refusal(no)}")
    return SourceUnavailable(f"NATS at {shown}: {'; '.join(dict.fromkeys(map(why_away, failures)))}")


def _refusal(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f": its certificate is not believed ({error.verify_message}): name its CA (--ca), or use the host name "
            "that the certificate is for"
        )
    if isinstance(error, ssl.SSLError):
        return f": no TLS could be agreed on ({error.reason or error})"
    return f" does not let this user in: {told(error)}"


def why_away(error: BaseException) -> str:
    """Why there is no connection, of an error that may pass."""
    text = told(error)
    if isinstance(error, socket.gaierror):
        return f"the host name is not known ({error.strerror}): correct it"
    numbers = _ANY.findall(text)  # of a host with several addresses asyncio tells all in one text
    if isinstance(error, ConnectionRefusedError) or (numbers and len(_REFUSED.findall(text)) == len(numbers)):
        return "nothing listens there: start it, or correct host and port"
    if isinstance(error, nats.errors.Error) and "INFO" in text:
        return "what listens there does not greet as NATS does: correct host and port"
    if isinstance(error, TimeoutError):
        return "it does not answer in time: correct host and port, or look why it stands still"
    return f"it cannot be reached ({error.strerror or text})" if isinstance(error, OSError) else text


def _is_broken(error: BaseException) -> bool:
    """Whether the other end broke a TLS handshake off; in TLS 1.3 ours may have been over by then."""
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, ssl.SSLCertVerificationError)
    return isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
