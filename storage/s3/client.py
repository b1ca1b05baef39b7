"""The S3 requests that the store makes: signed by minio-py's signer, sent over urllib3; every method here blocks.

minio-py's own `Minio` has neither conditional requests nor a deadline per request, so its parts are used, not it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote_plus, urlunsplit
from xml.etree import ElementTree

import urllib3
from minio import time as amazon_time
from minio.signer import sign_v4_s3

from dynlog.errors import ConfigurationError
from dynlog.storage.s3.connection import connections
from dynlog.storage.s3.failures import NO_ANSWER, Refused, Unreached, refused
from dynlog.storage.s3.location import Location

MOST_READ = 1 << 24
"""No answer that is read as a whole is longer: pages of a listing, descriptions, errors."""
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


Query = dict[str, str | list[str] | tuple[str]]
"""What minio-py takes for headers and queries."""


class Page(NamedTuple):
    """A page of a listing: names with sizes, and what to ask on with."""

    entries: list[tuple[str, int]]
    token: str | None


class Answer(NamedTuple):
    """Headers, in which case does not matter, and the whole body."""

    headers: Mapping[str, str]
    body: bytes


class Client:
    """Requests to one bucket; used by several threads at once."""

    def __init__(self, location: Location, threads: int) -> None:
        self.location = location
        self._http = connections(threads, location.authorities)

    def close(self) -> None:
        """Closes the connections that nobody uses."""
        self._http.clear()

    def head(self, name: str) -> Mapping[str, str]:
        """The headers of an object."""
        return self._ask("HEAD", name).headers

    def read(self, name: str) -> Answer:
        """A small object."""
        return self._ask("GET", name)

    def open(self, name: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """An object whose body is still to be read; whoever gets it closes it."""
        return self.send("GET", name, headers=headers)

    def put(self, name: str, body: bytes | memoryview, headers: Mapping[str, str]) -> None:
        """Stores an object."""
        self._ask("PUT", name, headers=headers, body=body)

    def delete(self, name: str, headers: Mapping[str, str] | None = None) -> None:
        """Removes an object; harmless if there is none."""
        self._ask("DELETE", name, headers=headers)

    def page(self, prefix: str, token: str | None, most: int = 1000) -> Page:
        """Names that begin with the prefix, in their order."""
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(most), "encoding-type": "url"}
        if token is not None:
            query["continuation-token"] = token
        root = self._xml(self._ask("GET", None, query=query))
        encoded = root.findtext("{*}EncodingType") == "url"
        entries = []
        for found in root.iterfind("{*}Contents"):
            name = found.findtext("{*}Key") or ""
            entries.append((unquote_plus(name) if encoded else name, int(found.findtext("{*}Size") or 0)))
        more = root.findtext("{*}IsTruncated") == "true"
        return Page(entries, root.findtext("{*}NextContinuationToken") if more else None)

    def start_multipart(self, name: str, headers: Mapping[str, str]) -> str:
        """Begins a multipart upload and returns its id."""
        found = self._xml(self._ask("POST", name, query={"uploads": ""}, headers=headers)).findtext("{*}UploadId")
        if not found:
            raise Refused(200, "", "an upload without an id", "")
        return found

    def put_part(self, name: str, upload: str, number: int, body: bytes | memoryview) -> str:
        """Stores a part and returns its ETag."""
        query = {"partNumber": str(number), "uploadId": upload}
        return self._ask("PUT", name, query=query, body=body).headers.get("etag", "")

    def copy_part(self, name: str, upload: str, number: int, source: str, etag: str) -> str:
        """Makes an object, as long as it has that ETag, a part, and returns the part's ETag."""
        query = {"partNumber": str(number), "uploadId": upload}
        headers = {
            "x-amz-copy-source": quote(f"/{self.location.bucket}/{source}"),
            "x-amz-copy-source-if-match": etag,
        }
        root = self._xml(self._ask("PUT", name, query=query, headers=headers))
        return root.findtext("{*}ETag") or ""

    def complete(self, name: str, upload: str, etags: Mapping[int, str], headers: Mapping[str, str]) -> None:
        """Makes the parts the object."""
        root = ElementTree.Element("CompleteMultipartUpload")
        for number, etag in sorted(etags.items()):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = etag
        body = ElementTree.tostring(root)
        self._xml(self._ask("POST", name, query={"uploadId": upload}, headers=headers, body=body))

    def abort(self, name: str, upload: str) -> None:
        """Forgets a multipart upload; raises Refused if there is none."""
        self._ask("DELETE", name, query={"uploadId": upload})

    def _ask(
        self, method: str, name: str | None, *, query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, body: bytes | memoryview = b"",
    ) -> Answer:  # fmt: skip
        """A request and its whole answer."""
        response = self.send(method, name, query=query, headers=headers, body=body)
        try:
            return Answer(response.headers, _whole(response))
        finally:
            response.close()

    def send(
        self, method: str, name: str | None, *, query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, body: bytes | memoryview = b"",
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        """A request and the beginning of its answer; raises Refused and Unreached."""
        url, signed = self._signed(method, name, dict(query or {}), dict(headers or {}), body)
        try:
            response = self._http.urlopen(
                method, urlunsplit(url), body=body or None, headers=signed, preload_content=False, redirect=False,
                retries=False,
            )  # fmt: skip
        except NO_ANSWER as error:
            raise Unreached(error) from error
        if response.status in (200, 204, 206):
            return response
        try:
            raise refused(response, _whole(response), head=method == "HEAD", of_object=name is not None)
        finally:
            response.close()

    def _signed(
        self, method: str, name: str | None, query: Query, headers: Query, body: bytes | memoryview
    ) -> tuple[SplitResult, Query]:
        location = self.location
        url = location.base.build(
            method=method, region=location.region, bucket_name=location.bucket, object_name=name,
            query_params=query,
        )  # fmt: skip
        digest = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        date = amazon_time.utcnow()
        headers |= {"Host": url.netloc, "x-amz-content-sha256": digest, "x-amz-date": amazon_time.to_amz_date(date)}
        if body or method in ("PUT", "POST"):
            headers["Content-Length"] = str(len(body))
        if location.credentials is not None:
            try:
                credentials = location.credentials.retrieve()
            except ValueError as error:
                raise ConfigurationError(f"no credentials for bucket {location.bucket!r}: {error}") from None
            if credentials.session_token:
                headers["X-Amz-Security-Token"] = credentials.session_token
            sign_v4_s3(
                method=method, url=url, region=location.region, headers=headers, credentials=credentials,
                content_sha256=digest, date=date,
            )  # fmt: skip
        return url, headers

    def _xml(self, answer: Answer) -> ElementTree.Element:
        """The document; raises Refused for an error that comes with status 200, as S3 does after a long wait."""
        try:
            root = ElementTree.fromstring(answer.body)
        except ElementTree.ParseError:
            raise Refused(200, "", "not XML", answer.headers.get("x-amz-request-id", "")) from None
        if root.tag.rpartition("}")[2] == "Error":
            raise Refused(
                200, root.findtext("{*}Code") or "", root.findtext("{*}Message") or "",
                answer.headers.get("x-amz-request-id", ""),
            )  # fmt: skip
        return root


def _whole(response: urllib3.BaseHTTPResponse) -> bytes:
    try:
        body = response.read(MOST_READ)
        # A connection goes back to the pool only once its answer was read to the end.
        return body if not response.read(1) else b""
    except NO_ANSWER as error:
        raise Unreached(error) from error
