"""Redis's errors in our tree, each saying what to change; and which of them pass by themselves."""

from __future__ import annotations

import socket
import ssl

from redis import exceptions

from dynlog.errors import ConfigurationError, DynlogError, LogFull, LogUnavailable

_NEEDS = (
    "it needs the keys ~{PREFIX* and the channels &{PREFIX*, +@all -@admin -@dangerous, +info, and +config|get to know "
    "the durability"
)
_ADVICE: tuple[tuple[str, type[DynlogError], str], ...] = (
    ("OOM", LogFull, "Redis is at its maxmemory: truncate, set a retention, or raise maxmemory"),
    ("READONLY", LogUnavailable, "this server is a read-only replica: name the primary in the URL"),
    ("MISCONF", LogUnavailable, "Redis cannot write its data to disk and refuses to change it: free disk space, or "
     "see stop-writes-on-bgsave-error and appendonly in its configuration and log"),
    ("NOREPLICAS", LogUnavailable, "fewer replicas than min-replicas-to-write are connected"),
    ("NOAUTH", ConfigurationError, "the server asks for a password: redis://user:password@host:port"),
    ("WRONGPASS", ConfigurationError, "the server refuses this user and password"),
    ("NOPERM", ConfigurationError, f"the ACL of this user does not allow it: {_NEEDS}"),
    ("MOVED", ConfigurationError, "this is a node of a Redis Cluster, which is not supported: name a single server"),
    ("CROSSSLOT", ConfigurationError, "this is a node of a Redis Cluster, which is not supported"),
    ("WRONGTYPE", ConfigurationError, "the keys under this prefix are somebody else's: choose another ?prefix="),
)  # fmt: skip
_CODES: dict[type[BaseException], str] = {
    exceptions.OutOfMemoryError: "OOM",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.NoPermissionError: "NOPERM",
    exceptions.MovedError: "MOVED",
}
"""For the redis-py that does not keep the first word aside."""
_PASSES = ("LOADING", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "BUSY")


def passes(error: BaseException) -> bool:
    """Whether the server says that it will be able to later."""
    return isinstance(error, exceptions.BusyLoadingError) or _code(error) in _PASSES


def refused(error: BaseException, server: str) -> DynlogError:
    """An error reply of the server."""
    code, text = _code(error), str(error)
    for name, kind, advice in _ADVICE:
        if code == name:
            return kind(f"{server}: {advice} ({text})")
    if isinstance(error, exceptions.AuthenticationError) or "without any password configured" in text:
        return ConfigurationError(f"{server}: the server refuses this user and password ({text})")
    if "can't run this command" in text or "can't access" in text:
        return ConfigurationError(
            f"{server}: the ACL of this user does not allow what dynlog's scripts do, for which reading is not "
            f"enough: {_NEEDS} ({text})"
        )
    if "DB index is out of range" in text:
        return ConfigurationError(f"{server}: it has no database of that number; see 'databases' in its configuration")
    return LogUnavailable(f"{server}: it refused with {text!r}")


def unreachable(error: BaseException, server: str, *, tls: bool) -> DynlogError:
    """A connection that could not be made or broke."""
    text = str(error) or type(error).__name__
    if isinstance(error, exceptions.InvalidResponse):
        said = text.removeprefix("Protocol Error: ")
        return LogUnavailable(f"{server}: what listens there is no Redis (it said {said[:80]}): correct host and port")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConfigurationError(
                f"{server}: its certificate is not believed ({cause.verify_message}): name its CA by ?tls_ca=FILE, or "
                "use the host name that the certificate is for"
            )
        if isinstance(cause, ssl.SSLError):
            return ConfigurationError(
                f"{server}: no TLS could be agreed on ({cause.reason or cause}): a server without TLS is redis://"
            )
        if isinstance(cause, socket.gaierror):
            return LogUnavailable(f"{server}: the host name is not known ({cause.strerror})")
        if isinstance(cause, ConnectionRefusedError):
            return LogUnavailable(f"{server}: nothing listens there: start it, or correct host and port")
        cause = cause.__cause__ or cause.__context__
    hint = "; a server at its maxclients hangs up" + ("" if tls else ", and so does one that speaks TLS (rediss://)")
    closed = isinstance(error, EOFError) or any(word in text.lower() for word in ("closed", "lost", "reset"))
    return LogUnavailable(f"{server}: {text}{hint if closed else ''}")


def _code(error: BaseException) -> str:
    """The first word of Redis's reply; redis-py takes it off some errors and says it aside."""
    code = getattr(error, "status_code", None) or _CODES.get(type(error))
    return code if isinstance(code, str) else str(error).split(" ", 1)[0]
