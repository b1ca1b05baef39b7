"""The one place where what S3, HTTP and sockets say becomes our errors, with bucket, key, request id and what to do."""

from __future__ import annotations

import errno
import ssl
from http.client import BadStatusLine

import urllib3
from urllib3 import exceptions as http

from dynlog.errors import ConfigurationError, DynlogError, ObjectNotFound, ObjectStoreForbidden, ObjectStoreUnavailable
from dynlog.storage.s3.location import Location

TRANSIENT_STATUS = {429, 500, 502, 503, 504}
TRANSIENT_CODES = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling",
    "ConditionalRequestConflict", "XMinioServerNotInitialized", "ThrottlingException",
}  # fmt: skip
FULL = {"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"}
MISSING = {"NoSuchKey", "NoSuchUpload", "NoSuchVersion"}
LOST = {"InvalidPart"}
"""A server that was killed may have lost parts that it had acknowledged; nothing is under the key then."""
FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "Forbidden"}

_ADVICE = {
    "NoSuchBucket": "there is no such bucket: create it, or correct the URL",
    "InvalidBucketName": "the server takes no such bucket name: correct the URL",
    "InvalidAccessKeyId": "the server does not know this user (access key): correct the user in the URL or environment",
    "SignatureDoesNotMatch": "the password (secret key) is wrong: correct it in the URL or environment",
    "RequestTimeTooSkewed": "this machine's clock differs from the server's by more than 15 minutes: set it (NTP)",
    "ExpiredToken": "the session's token has expired: get a new one",
    "InvalidToken": "AWS_SESSION_TOKEN does not belong to this user: correct or unset it",
    "KeyTooLongError": "the key, with the store's prefix, is longer than the server takes",
    "XMinioInvalidObjectName": "the server takes no such name",
    "EntityTooLarge": "it is larger than the server takes",
    "EntityTooSmall": "a part is smaller than the server takes",
    "NotImplemented": "the server cannot do this",
    "PermanentRedirect": "the bucket lies at another endpoint or region: set endpoint= and region=",
    "InvalidObjectState": "the object is archived: restore it first",
}  # fmt: skip


class Refused(Exception):
    """An answer that is no success; ``code`` is S3's word for it, or made from the status where there was none."""

    def __init__(self, status: int, code: str, message: str, request_id: str, region: str = "") -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.request_id = request_id
        self.region = region

    @property
    def transient(self) -> bool:
        """Whether the same request may go through later."""
        return self.code not in FULL and (self.code in TRANSIENT_CODES or self.status in TRANSIENT_STATUS)

    @property
    def missing(self) -> bool:
        """Whether it says that the object or upload is not there."""
        return self.code in MISSING

    @property
    def conflict(self) -> bool:
        """Whether a condition (If-Match, If-None-Match) did not hold."""
        return self.status == 412

    @property
    def beyond(self) -> bool:
        """Whether the object has not the bytes that were asked for."""
        return self.status == 416 or self.code == "InvalidRange"


class Unreached(Exception):
    """No answer, or half of one; the cause is what urllib3 raised."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause

    @property
    def transient(self) -> bool:
        """Whether the same request may go through soon; a host without an address or TLS that does not fit will not."""
        return not isinstance(self.cause, http.NameResolutionError | http.SSLError | http.LocationValueError)


NO_ANSWER = (http.HTTPError, OSError)


def translated(error: Refused | Unreached, location: Location, store: str, key: str | None) -> DynlogError:
    """Our error for it."""
    if isinstance(error, Unreached):
        return _unreached(error.cause, location, store, key)
    said = f"{error.code} ({error.message or 'no words'}), request {error.request_id or 'without id'}"
    if error.code in MISSING:
        return ObjectNotFound("no such object", store=store, key=key)
    if error.code in FULL:
        return ObjectStoreUnavailable(
            f"no space is left at {location.endpoint}; nothing of it was stored: free some and try again; {said}",
            store=store, key=key,
        )  # fmt: skip
    if error.transient:
        return ObjectStoreUnavailable(
            f"{location.endpoint} refuses for now, also after several tries: {said}", store=store, key=key
        )
    if error.code in LOST:
        return ObjectStoreUnavailable(
            f"{location.endpoint} lost parts that it had acknowledged; nothing of it was stored: put it again; {said}",
            store=store, key=key,
        )  # fmt: skip
    if error.code in FORBIDDEN:
        whose = "this user" if location.credentials is not None else "anybody without user and password"
        return ObjectStoreForbidden(
            f"bucket {location.bucket!r} forbids this to {whose}: grant it, or give other credentials; {said} "
            f"({_place(location, key)})"
        )
    if error.code == "AuthorizationHeaderMalformed" or (error.region and error.region != location.region):
        advice = f"the bucket lies in another region: set region={error.region or '...'}"
    elif error.status == 400 and "HTTPS server" in error.message:
        advice = f"the server speaks TLS: write endpoint={location.endpoint.replace('http://', 'https://')}"
    elif not error.code:
        return ConfigurationError(
            f"{location.endpoint} does not answer as an S3 server does (HTTP status {error.status}): correct endpoint= "
            f"({_place(location, key)})"
        )
    else:
        advice = _ADVICE.get(error.code, f"{location.endpoint} refuses")
    return ConfigurationError(f"{advice}; {said} ({_place(location, key)})")


def _unreached(cause: BaseException, location: Location, store: str, key: str | None) -> DynlogError:
    where = f"({_place(location, key)})"
    if isinstance(cause, http.SSLError):
        inner = cause.args[0] if cause.args else None
        if isinstance(inner, ssl.SSLCertVerificationError):
            return ConfigurationError(
                f"the certificate of {location.endpoint} is not trusted ({inner.verify_message}): name the file of its "
                f"authority with ca=/path.pem {where}"
            )
        return ConfigurationError(
            f"no TLS with {location.endpoint} ({inner or cause}): if it speaks none, write endpoint=http://... {where}"
        )
    if isinstance(cause, http.NameResolutionError):
        why = f"the host of {location.endpoint} has no address: correct endpoint= or the name service"
    elif isinstance(cause, http.NewConnectionError | ConnectionRefusedError):
        why = f"nothing listens at {location.endpoint}: start it, or correct endpoint="
    elif isinstance(cause, http.ConnectTimeoutError):
        why = f"{location.endpoint} does not take connections: correct endpoint=, or look at the network between"
    elif isinstance(cause, http.TimeoutError | TimeoutError):
        why = f"{location.endpoint} stopped answering"
    elif isinstance(cause, http.ProtocolError) and any(type(said) is BadStatusLine for said in cause.args):
        why = f"what listens at {location.endpoint} does not speak HTTP: correct endpoint="
    elif isinstance(cause, OSError) and cause.errno == errno.EMFILE:
        why = "this process has too many files open: raise its limit (ulimit -n)"
    else:
        why = f"the connection to {location.endpoint} broke ({type(cause).__name__}: {cause})"
    return ObjectStoreUnavailable(why, store=store, key=key)


def _place(location: Location, key: str | None) -> str:
    return f"bucket {location.bucket!r}" + (f", key {key!r}" if key is not None else "")


def refused(response: urllib3.BaseHTTPResponse, body: bytes, *, head: bool, of_object: bool) -> Refused:
    """The error of an answer."""
    from xml.etree import ElementTree

    code = message = ""
    if not head and body:
        try:
            element = ElementTree.fromstring(body)
            code, message = element.findtext("{*}Code") or "", element.findtext("{*}Message") or ""
        except ElementTree.ParseError:
            message = body[:200].decode(errors="replace").strip()
    if not code and (head or (not body and "x-amz-request-id" in response.headers)):
        # An answer to HEAD has no body that could say more; any other without one or an id is not S3's.
        code = {403: "AccessDenied", 404: "NoSuchKey" if of_object else "NoSuchBucket", 412: "PreconditionFailed",
                301: "PermanentRedirect", 304: "NotModified", 400: "BadRequest"}.get(response.status, "")  # fmt: skip
    headers = response.headers
    return Refused(
        response.status, code, message, headers.get("x-amz-request-id", ""), headers.get("x-amz-bucket-region", "")
    )
