"""Opening: a file is a sound log, a new log, or refused by name, and a refusal changes nothing on the disk.

The first look is a read-only connection: SQLite then neither checkpoints nor deletes the write-ahead log of a database
that turns out to be damaged, so that a repair finds what there is.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dynlog.errors import ConfigurationError, LogCorrupt, LogUnavailable, NotALog, UnsupportedLogVersion
from dynlog.storage.sqlite import bell, rows
from dynlog.storage.sqlite.failures import BUSY, code_of, ours
from dynlog.storage.sqlite.options import Settings

APPLICATION_ID = 0x444C4F47
FORMAT = 1
PATIENCE_S = 10.0
"""How long opening waits for other processes."""
CHECKPOINT_BYTES = 16 << 20
WAL_KEPT_BYTES = 64 << 20

TABLES = (
    "CREATE TABLE docs (key TEXT PRIMARY KEY, frame BLOB) WITHOUT ROWID",
    "CREATE TABLE batches (topic INTEGER, partition INTEGER, base INTEGER, next INTEGER, log_time_ms INTEGER,"
    " before INTEGER, frame BLOB, PRIMARY KEY (topic, partition, base))",
)
SET_ASIDE = (
    "CREATE TABLE IF NOT EXISTS quarantine"
    " (time_ms INTEGER, reason TEXT, key TEXT, topic INTEGER, partition INTEGER, base INTEGER, next INTEGER,"
    " log_time_ms INTEGER, before INTEGER, frame BLOB)"
)
"""What a repair could not leave in place."""

Mode = Literal["ro", "rw", "rwc"]


def connect(path: Path, mode: Mode, settings: Settings) -> sqlite3.Connection:
    """A connection for one thread at a time; transactions are explicit.  Raises sqlite3.Error."""
    db = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=PATIENCE_S
    )
    try:
        if settings.repair:
            # Else SQLite refuses every statement on a file that has fewer pages than its header counts.
            db.execute("PRAGMA writable_schema = ON")
        # Debian's SQLite overwrites freed pages with zeros, which costs as much as writing them did.
        db.execute("PRAGMA secure_delete = OFF")
        db.execute(f"PRAGMA synchronous = {settings.synchronous}")
        if mode == "ro":
            db.execute("PRAGMA query_only = ON")
    except BaseException:
        db.close()
        raise
    return db


def connect_writer(path: Path, settings: Settings) -> sqlite3.Connection:
    """The writer's connection; it waits for locks by itself.  Raises sqlite3.Error, LogCorrupt.

    For a repair it cannot write either: closing it would move what is left of the write-ahead log into the database.
    """
    db = connect(path, "ro" if settings.repair else "rw", settings)
    try:
        page_size: int = db.execute("PRAGMA page_size").fetchone()[0]
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_BYTES // page_size}")
        db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        db.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        db.close()
        raise
    return db


@contextlib.contextmanager
def opened(path: Path, settings: Settings) -> Iterator[tuple[str, sqlite3.Connection]]:
    """Checks or creates the log; gives its identity and a reader's connection, which is closed if the block fails.

    Further connections are made within the block, so that a write-ahead log is recovered only once.

    Raises ConfigurationError, NotALog, UnsupportedLogVersion, LogCorrupt, LogUnavailable.
    """
    # The bell is read before the database: a running writer commits first and rings then.
    reading = bell.look(path)
    with _plainly(path, reading, settings):
        if _is_new(path, reading, settings):
            _create(path, settings)
            reading = bell.look(path)
        with contextlib.ExitStack() as stack:
            db = stack.enter_context(contextlib.closing(connect(path, "ro", settings)))
            if not _tables(db) and not _application(db):
                _check_emptied(path, reading, settings)
                _create(path, settings)
                reading = bell.look(path)
            if isinstance(reading, bell.Broken):
                reading = bell.look(path)  # another process may have made it since
            yield _check(db, path, reading, settings), db
            stack.pop_all()


@contextlib.contextmanager
def _plainly(path: Path, reading: bell.Reading | bell.Broken, settings: Settings) -> Iterator[None]:
    """SQLite's errors as ours; what keeps a log from being opened even for a repair is not sent to the repair."""
    try:
        with ours(path):
            yield
    except NotALog:
        if not isinstance(reading, bell.Reading):
            raise
        raise LogCorrupt(
            f"{path} has a bell but is no database any more: it is damaged, truncated or was replaced, and nothing can "
            "be salvaged; restore a backup"
        ) from None
    except LogCorrupt as error:
        if rows.ADVICE not in str(error):
            raise  # it has an advice of its own
        cut = truncation(path, settings)
        reason = rows.reason_of(error) if cut is None else f"{path} is damaged: {cut}"
        if settings.repair:
            own = cut is not None and not isinstance(error.__cause__, sqlite3.Error)
            inside = f" ({rows.reason_of(error)})" if own else ""
            raise LogCorrupt(f"{reason}{inside}, and nothing can be salvaged; restore a backup") from error
        if cut is None:
            raise
        raise LogCorrupt(f"{reason}; {rows.ADVICE}") from error


def truncation(path: Path, settings: Settings) -> str | None:
    """What is wrong with a file that was cut off: SQLite then refuses it, unless it is told not to mind."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(path, "ro", lenient(settings))) as db:
        pages: int = db.execute("PRAGMA page_count").fetchone()[0]
        try:
            with contextlib.closing(connect(path, "ro", settings._replace(repair=False))) as strict:
                strict.execute("PRAGMA page_count").fetchone()
        except sqlite3.Error as error:
            if code_of(error) == sqlite3.SQLITE_CORRUPT:
                return (
                    f"the database file is truncated: {path.stat().st_size} bytes ({pages} pages) are left, fewer than "
                    "its header counts"
                )
    return None


def lenient(settings: Settings) -> Settings:
    """The settings under which also a truncated file can be looked at."""
    return settings._replace(repair=True)


def _is_new(path: Path, reading: bell.Reading | bell.Broken, settings: Settings) -> bool:
    """Whether nothing lies there yet; raises if something did."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        size = 0
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be looked at: {error}") from None
    if size:
        return False
    # SQLite deletes the write-ahead log of an empty database, so this has to be judged before it opens the file.
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        raise LogCorrupt(f"{path} is empty or gone but {wal.name} is not: restore a backup, or remove both")
    _check_emptied(path, reading, settings)
    return True


def _check_emptied(path: Path, reading: bell.Reading | bell.Broken, settings: Settings) -> None:
    if reading is bell.Broken.MISSING or (isinstance(reading, bell.Reading) and reading.commit <= bell.FIRST_COMMIT):
        if not settings.create:
            raise ConfigurationError(f"there is no log at {path}; create one with 'dynlog log create'")
        return
    raise LogCorrupt(
        f"{path} is empty or gone but its bell is not: acknowledged records are lost; restore a backup, or remove "
        f"{bell.bell_path(path).name} to begin anew"
    )


def _create(path: Path, settings: Settings) -> None:
    """Makes the tables unless another process is faster; database and bell become one within a transaction."""
    with contextlib.closing(connect(path, "rwc", settings)) as db:
        db.execute(f"PRAGMA page_size = {settings.page_size}")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _patiently(db, "PRAGMA journal_mode = WAL", path)
        _patiently(db, "BEGIN IMMEDIATE", path)
        if not _tables(db):
            for statement in TABLES:
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT}")
            identity = uuid.uuid4()
            for key, values in (
                ("log", [identity.hex, time.time_ns() // 1_000_000]),
                ("head", list(rows.Head(bell.FIRST_COMMIT, 0, 0, 1, 0))),
            ):
                db.execute("INSERT INTO docs VALUES (?, ?)", (key, rows.sealed(key, values)))
            try:
                bell.create(path, identity.bytes, bell.FIRST_COMMIT)
            except OSError as error:
                raise ConfigurationError(f"the bell of {path} cannot be written: {error}") from None
        db.execute("COMMIT")


def _patiently(db: sqlite3.Connection, statement: str, path: Path) -> None:
    """Runs it, again while other processes are at it: SQLite does not wait for all of its locks by itself."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            db.execute(statement).fetchall()
            return
        except sqlite3.OperationalError as error:
            if code_of(error) not in BUSY:
                raise
            if time.monotonic() > give_up:
                raise LogUnavailable(f"another process keeps {path} locked; try again") from None
            time.sleep(random.uniform(0.001, 0.01))


def _tables(db: sqlite3.Connection) -> int:
    count: int = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return count


def _application(db: sqlite3.Connection) -> int:
    application: int = db.execute("PRAGMA application_id").fetchone()[0]
    return application


def _check(db: sqlite3.Connection, path: Path, reading: bell.Reading | bell.Broken, settings: Settings) -> str:
    """The identity of a sound log."""
    if _application(db) != APPLICATION_ID:
        if isinstance(reading, bell.Reading):
            raise LogCorrupt(
                f"{path} has a bell but its header is not a log's: it is damaged or was replaced; restore a backup"
            )
        raise NotALog(f"{path} is a database of another application, not a dynlog log")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT:
        raise UnsupportedLogVersion(f"{path} is a log of version {version}, this dynlog reads up to {FORMAT}")
    if version != FORMAT or db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        raise LogCorrupt(f"the header of {path} is damaged; {rows.ADVICE}")
    identity: str = rows.get(db, "log")[0]
    head = rows.Head(*rows.get(db, "head"))
    if settings.repair:
        return identity
    if isinstance(reading, bell.Broken):
        raise LogCorrupt(
            f"the bell {bell.bell_path(path)} {reading.value}, so whether acknowledged records are lost is unknown; "
            "copy logs with 'dynlog log backup', or run 'dynlog log repair'"
        )
    if reading.identity.hex() != identity:
        raise LogCorrupt(f"the bell {bell.bell_path(path)} is another log's; put the right one back, or {rows.ADVICE}")
    if head.commit < reading.commit:
        raise LogCorrupt(
            f"{path} ends at commit {head.commit} but commit {reading.commit} was acknowledged: its tail is lost or an "
            "old copy was restored; restore a newer one, or accept the loss with 'dynlog log repair'"
        )
    return identity
