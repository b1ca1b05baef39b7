"""A log lies on a local filesystem: SQLite's locks and shared memory do not hold across machines, others are refused.

The rule is by name of the filesystem, from the kernel's table of mounts (proc(5), mountinfo); where there is no such
table nothing is refused.
"""

from __future__ import annotations

import re
from pathlib import Path

from dynlog.errors import ConfigurationError, UnsupportedLocation
from dynlog.topics import Durability, DurabilityLevel
from dynlog.url import Url

MOUNTINFO = Path("/proc/self/mountinfo")
NETWORK_FILESYSTEMS = frozenset(
    """9p afs beegfs ceph cifs coda davfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs smb smb2 smb3 smbfs
    fuse.blobfuse2 fuse.ceph-fuse fuse.davfs fuse.gcsfuse fuse.glusterfs fuse.goofys fuse.juicefs fuse.mount-s3
    fuse.rclone fuse.s3fs fuse.sshfs""".split()  # noqa: SIM905, a table of thirty names
)


def path_of(url: Url) -> Path:
    """The file that ``sqlite:///path`` names (``sqlite:///./path`` from the working folder); ConfigurationError."""
    if url.host or url.user or url.port:
        raise ConfigurationError(f"{url}: a SQLite log has no host; write sqlite:///path/events.db, with three slashes")
    text = url.path[1:] if url.path.startswith("/./") else "/" + url.path.lstrip("/")
    if text == "/" or text.endswith("/") or "\0" in text:
        raise ConfigurationError(f"{url} names no file; write sqlite:///path/events.db")
    try:
        # As SQLite does, so that its files, and the bell, lie beside the log itself, however it is called.
        return Path(text).resolve()
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"{url}: the path cannot be followed: {error}") from None


def check_location(path: Path, mountinfo: Path = MOUNTINFO) -> str | None:
    """The type of the filesystem there, None if the system does not say.

    Raises ConfigurationError unless the folder exists, UnsupportedLocation if it lies on a network filesystem.
    """
    folder = path.parent
    if not folder.is_dir():
        raise ConfigurationError(f"the folder {folder} of the log {path.name} does not exist; create it first")
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder; a SQLite log is a file in one")
    try:
        table = mountinfo.read_text()
    except OSError:
        return None
    kind = filesystem_of(path.resolve(), table)
    if kind in NETWORK_FILESYSTEMS:
        raise UnsupportedLocation(
            f"{path} lies on a network filesystem ({kind}), where SQLite cannot lock: put the log on a local disk"
        )
    return kind


def durability_of(filesystem: str | None, synchronous: str) -> Durability:
    """What an acknowledged append survives there: without fsync, or in memory, a killed process but no power loss."""
    safe = synchronous == "full" and filesystem not in ("tmpfs", "ramfs")
    return Durability(DurabilityLevel.DISK if safe else DurabilityLevel.PROCESS)


def filesystem_of(path: Path, table: str) -> str | None:
    """The type of the filesystem with the longest mount point above ``path``; the last mounted wins."""
    within = f"{path}/"
    longest, kind = 0, None
    for line in table.splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        if len(fields) < 5 or not tail:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]).rstrip("/") + "/"
        if len(point) >= longest and within.startswith(point):
            longest, kind = len(point), tail.split(" ")[0]
    return kind
