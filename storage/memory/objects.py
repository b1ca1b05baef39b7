"""Objects in memory: plain data behind one lock, shared by every handle of a name."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dynlog.errors import ObjectExists, ObjectNotFound, ObjectStoreUnavailable
from dynlog.objects import Collected, ObjectInfo
from dynlog.uploads import Part


class StoredObject(NamedTuple):
    """An object; replaced whole, never changed."""

    info: ObjectInfo
    body: bytes


class Description(NamedTuple):
    """What is said of an object beside its body."""

    key: str
    metadata: Mapping[str, str]
    expires_after_s: float | None


@dataclass(slots=True)
class StoredUpload:
    """An upload that was begun."""

    description: Description
    touched_ms: int
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryBucket:
    """All objects and uploads of one memory store; every method is atomic and none blocks."""

    def __init__(self, store: str, max_bytes: int) -> None:
        self._store = store
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._objects: dict[str, StoredObject] = {}
        self._uploads: dict[str, StoredUpload] = {}

    def check_room(self, size: int, key: str) -> None:
        """Raises ObjectStoreUnavailable unless ``size`` more bytes fit."""
        with self._lock:
            self._check_room(size, key)

    def _check_room(self, size: int, key: str) -> None:
        taken = sum(len(stored.body) for stored in self._objects.values())
        taken += sum(len(data) for upload in self._uploads.values() for _, data in upload.parts.values())
        if taken + size > self.max_bytes:
            raise ObjectStoreUnavailable(
                f"{taken} of {self.max_bytes} bytes taken, {size} more do not fit: delete objects, or open the store "
                "with a larger max_bytes",
                store=self._store,
                key=key,
            )

    def put(self, description: Description, body: bytes, now_ms: int, *, if_absent: bool = False) -> ObjectInfo:
        """Stores the object."""
        key, metadata, expires_after_s = description
        digest = hashlib.sha256(body).hexdigest()
        expires_ms = None if expires_after_s is None else now_ms + round(expires_after_s * 1000)
        info = ObjectInfo(key, len(body), digest, now_ms, metadata, expires_ms)
        with self._lock:
            found = self._objects.get(key)
            if if_absent and found is not None and not has_expired(found.info, now_ms):
                raise ObjectExists("an object is there already", store=self._store, key=key)
            self._check_room(len(body) - (len(found.body) if found else 0), key)
            self._objects[key] = StoredObject(info, body)
        return info

    def get(self, key: str, now_ms: int) -> StoredObject:
        """The object; raises ObjectNotFound."""
        with self._lock:
            found = self._objects.get(key)
        if found is None or has_expired(found.info, now_ms):
            raise ObjectNotFound("no such object", store=self._store, key=key)
        return found

    def list_from(self, prefix: str, after: str, count: int, now_ms: int) -> list[ObjectInfo]:
        """The first ``count`` objects with the prefix behind the key ``after``."""
        with self._lock:
            keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
            infos = (self._objects[key].info for key in keys)
            return [info for info in infos if not has_expired(info, now_ms)][:count]

    def delete(self, key: str) -> None:
        """Removes the object."""
        with self._lock:
            self._objects.pop(key, None)

    def gc(self, now_ms: int, older_than_ms: int) -> Collected:
        """Removes expired objects and forgotten uploads."""
        with self._lock:
            expired = [self._objects.pop(k) for k, o in list(self._objects.items()) if has_expired(o.info, now_ms)]
            forgotten = [
                self._uploads.pop(upload_id)
                for upload_id, upload in list(self._uploads.items())
                if now_ms - upload.touched_ms > older_than_ms
            ]
        size = sum(len(stored.body) for stored in expired)
        size += sum(part.size for upload in forgotten for part, _ in upload.parts.values())
        return Collected(len(expired), len(forgotten), size)

    # Uploads

    def start_upload(self, description: Description, now_ms: int) -> str:
        """Begins an upload."""
        upload_id = uuid.uuid4().hex
        with self._lock:
            self._uploads[upload_id] = StoredUpload(description, now_ms)
        return upload_id

    def parts(self, key: str, upload_id: str) -> list[Part]:
        """The parts of an upload that was begun, by number; raises ObjectNotFound."""
        with self._lock:
            return [part for _, (part, _) in sorted(self._upload(key, upload_id).parts.items())]

    def _upload(self, key: str, upload_id: str) -> StoredUpload:
        found = self._uploads.get(upload_id)
        if found is None or found.description.key != key:
            raise ObjectNotFound(
                f"no upload {upload_id!r}: it was completed, aborted or collected", store=self._store, key=key
            )
        return found

    def put_part(self, key: str, upload_id: str, number: int, data: bytes, now_ms: int) -> Part:
        """Stores a part."""
        part = Part(number, len(data), hashlib.sha256(data).hexdigest())
        with self._lock:
            upload = self._upload(key, upload_id)
            self._check_room(len(data), key)
            upload.parts[number] = part, data
            upload.touched_ms = now_ms
        return part

    def complete(self, key: str, upload_id: str, sha256: str | None, now_ms: int) -> ObjectInfo | None:
        """Makes the parts the object; None if they do not have that checksum."""
        with self._lock:
            upload = self._upload(key, upload_id)
            body = b"".join(data for _, (_, data) in sorted(upload.parts.items()))
            if sha256 is not None and hashlib.sha256(body).hexdigest() != sha256:
                return None
            del self._uploads[upload_id]
        return self.put(upload.description, body, now_ms)

    def drop_upload(self, upload_id: str) -> None:
        """Forgets an upload."""
        with self._lock:
            self._uploads.pop(upload_id, None)


def has_expired(info: ObjectInfo, now_ms: int) -> bool:
    """Whether the object is no longer there for anybody."""
    return info.expires_ms is not None and info.expires_ms <= now_ms
