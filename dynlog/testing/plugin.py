"""The pytest plugin: logs and object stores on real servers, each test in a namespace of its own.

=================================================  =====================================================================
fixture                                            what
=================================================  =====================================================================
dynlog_log                                         an open `dynlog.Log`, new for the test
dynlog_objects                                     an open `dynlog.ObjectStore`, new for the test
dynlog_log_url, dynlog_objects_url                 the URLs of these, for programs under test and tests without async
dynlog_engine, dynlog_store                        the names of engine and store that the test runs on
dynlog_namespace                                   a name that no other test has: for subjects, topics, groups
kafka_server, redis_server, minio_server,          a `RunningServer` (``url``, ``host``, ``port``), one per session, or
nats_server, etcd_server                           per worker under pytest-xdist
=================================================  =====================================================================

**On which engines** a test runs it says by ``@pytest.mark.dynlog_engines("memory", "redis")`` (and ``dynlog_stores``);
one that does not say it runs on those of the ini file, else on memory and sqlite (memory and file).  The command line
narrows what marks say and replaces what the ini file says.  ``parametrize("dynlog_engine", [...])`` works as well.

**A server that cannot be had is an error** that names what would provide it, never a skip, unless
``--dynlog-skip-missing`` says so.  See `dynlog.testing.options` for where servers come from.

**Async fixtures** (dynlog_log and dynlog_objects) run under pytest-asyncio, in either mode, on the loop that
``asyncio_default_fixture_loop_scope`` names, or under anyio's plugin; all others are plain and need neither.

This module is imported in every pytest run of every project that has dynlog installed: it imports nothing but pytest.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dynlog.testing.options import Settings, add_options, asked_for, checked, chosen, read_settings

if TYPE_CHECKING:
    from dynlog.testing.kinds import RunningServer
    from dynlog.testing.session import ServerSession

AXES = {"dynlog_engine": "engines", "dynlog_store": "stores"}
"""Which fixture runs over which choice."""
SETTINGS = pytest.StashKey[Settings]()
STARTED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(trylast=True)  # only then is it known which async plugin there is
def pytest_configure(config: pytest.Config) -> None:
    from dynlog.testing.async_fixtures import async_fixtures

    config.addinivalue_line("markers", "dynlog_engines(*names): the log engines on which the test runs")
    config.addinivalue_line("markers", "dynlog_stores(*names): the object stores on which the test runs")
    config.stash[SETTINGS], config.stash[STARTED] = read_settings(config), []
    config.pluginmanager.register(async_fixtures(config.pluginmanager), "dynlog-async-fixtures")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, what in AXES.items():
        by_hand = any(fixture in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
        if fixture in metafunc.fixturenames and not by_hand:
            mark = metafunc.definition.get_closest_marker(f"dynlog_{what}")
            names = chosen(metafunc.config, what) if mark is None else checked(mark.args, what)
            metafunc.parametrize(fixture, names, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The command line narrows what marks say; what is left out is deselected, not skipped."""
    for fixture, what in AXES.items():
        wanted = asked_for(config, what)
        unwanted = {item for item in items if wanted and _choice(item, fixture) not in (None, *wanted)}
        if unwanted:
            config.hook.pytest_deselected(items=list(unwanted))
            items[:] = [item for item in items if item not in unwanted]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[STARTED]:
        terminalreporter.write_line(f"dynlog had {line}")


def _choice(item: pytest.Item, fixture: str) -> str | None:
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return str(params[fixture]) if fixture in params else None


@pytest.fixture(scope="session")
def dynlog_servers(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerSession]:
    """What starts the session's servers; tests use the fixtures that are named after a server."""
    from dynlog.testing.session import ServerSession

    with ServerSession(pytestconfig.stash[SETTINGS], tmp_path_factory, pytestconfig.stash[STARTED]) as session:
        yield session


@pytest.fixture(scope="session")
def kafka_server(dynlog_servers: ServerSession) -> RunningServer:
    """A Kafka broker (KRaft) for the session."""
    return dynlog_servers.server("kafka")


@pytest.fixture(scope="session")
def redis_server(dynlog_servers: ServerSession) -> RunningServer:
    """A Redis for the session, whose appends are on disk when acknowledged."""
    return dynlog_servers.server("redis")


@pytest.fixture(scope="session")
def minio_server(dynlog_servers: ServerSession) -> RunningServer:
    """A MinIO for the session; ``user`` and ``password`` are its access key and secret."""
    return dynlog_servers.server("minio")


@pytest.fixture(scope="session")
def nats_server(dynlog_servers: ServerSession) -> RunningServer:
    """A NATS server with JetStream for the session."""
    return dynlog_servers.server("nats")


@pytest.fixture(scope="session")
def etcd_server(dynlog_servers: ServerSession) -> RunningServer:
    """An etcd for the session, with its JSON gateway; a test's keys begin with its ``dynlog_namespace``."""
    return dynlog_servers.server("etcd")


@pytest.fixture
def dynlog_namespace(request: pytest.FixtureRequest) -> str:
    """A name that no other test has, of a-z 0-9 and -, at most 50 characters."""
    readable = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:30].strip("-")
    return f"t-{uuid.uuid4().hex[:12]}-{readable or 'test'}"


@pytest.fixture
def dynlog_engine(request: pytest.FixtureRequest) -> str:
    """The log engine that the test runs on: memory, sqlite, redis or kafka."""
    return str(request.param)


@pytest.fixture
def dynlog_store(request: pytest.FixtureRequest) -> str:
    """The object store that the test runs on: memory, file or s3."""
    return str(request.param)


@pytest.fixture
def dynlog_log_url(
    request: pytest.FixtureRequest, dynlog_engine: str, dynlog_namespace: str, tmp_path: Path
) -> Iterator[str]:
    """The URL of a log that is new for the test and emptied after it."""
    if dynlog_engine not in ("redis", "kafka"):
        from dynlog.testing.namespaces import embedded_log_url

        yield embedded_log_url(dynlog_engine, dynlog_namespace, tmp_path)
        return
    server: RunningServer = request.getfixturevalue(f"{dynlog_engine}_server")
    session: ServerSession = request.getfixturevalue("dynlog_servers")
    with session.log_namespace(server, dynlog_namespace) as url:
        yield url


@pytest.fixture
def dynlog_objects_url(
    request: pytest.FixtureRequest, dynlog_store: str, dynlog_namespace: str, tmp_path: Path
) -> Iterator[str]:
    """The URL of an object store that is new for the test and emptied after it."""
    if dynlog_store != "s3":
        from dynlog.testing.namespaces import embedded_objects_url

        yield embedded_objects_url(dynlog_store, dynlog_namespace, tmp_path)
        return
    server: RunningServer = request.getfixturevalue("minio_server")
    session: ServerSession = request.getfixturevalue("dynlog_servers")
    with session.bucket(server, dynlog_namespace) as url:
        yield url
