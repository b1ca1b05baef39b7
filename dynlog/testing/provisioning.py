"""A server for tests: from a container when a Docker daemon answers, else a native program, else an error that helps.

`provided` yields a server that answers, or raises ServerNotAvailable saying for each way why it was not taken and what
would provide the server.  Whatever was started is gone when the block ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from dynlog.testing.containers import container, docker_problem
from dynlog.testing.kinds import RunningServer, ServerKind, server_kind
from dynlog.testing.loop_thread import LoopThread
from dynlog.testing.options import Settings, Source
from dynlog.testing.process import STOP_TIMEOUT_S, ServerNotAvailable

ANSWER_TIMEOUT_S = 120.0
"""A Kafka on a machine that is busy with something else takes most of a minute."""
_POLL_S = 0.1
_MARGIN_S = 30.0
"""What a call on the loop's thread may take beyond its own deadline."""


@contextmanager
def provided(name: str, settings: Settings, folder: Path, loop: LoopThread) -> Iterator[RunningServer]:
    """A running server of that kind; its data lies in the folder or in the container, both its own."""
    kind = server_kind(name)
    ways: list[AbstractContextManager[RunningServer]] = []
    if settings.source is not Source.NATIVE:
        ways.append(_in_container(kind, settings.images.get(name, kind.image), loop))
    if settings.source is not Source.CONTAINERS:
        ways.append(_native(kind, folder, loop))
    with ExitStack() as stack:
        yield _first_that_starts(stack, name, ways)


def _first_that_starts(
    stack: ExitStack, name: str, ways: Sequence[AbstractContextManager[RunningServer]]
) -> RunningServer:
    reasons: list[str] = []
    for way in ways:
        try:
            return stack.enter_context(way)
        except ServerNotAvailable as error:
            reasons.append("\n    ".join([str(error), *getattr(error, "__notes__", ())]))
    raise ServerNotAvailable(f"no {name} server for the tests:\n" + "\n".join(f"  - {reason}" for reason in reasons))


@contextmanager
def _in_container(kind: ServerKind, image: str, loop: LoopThread) -> Iterator[RunningServer]:
    if problem := docker_problem():
        raise ServerNotAvailable(f"no container: {problem}; start Docker to have {image}")
    with container(kind, image) as running:
        loop.run(_until_it_answers(kind, running), timeout=ANSWER_TIMEOUT_S + _MARGIN_S)
        yield running


async def _until_it_answers(kind: ServerKind, running: RunningServer) -> None:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while not await kind.probe(running.host, running.port):  # noqa: ASYNC110  (nobody sets an event)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise ServerNotAvailable(
            f"{running.source} does not answer at {running.address} after {ANSWER_TIMEOUT_S:g} s"
        ) from None


@contextmanager
def _native(kind: ServerKind, folder: Path, loop: LoopThread) -> Iterator[RunningServer]:
    server = kind.native_server(folder)
    try:
        loop.run(server.start(timeout=ANSWER_TIMEOUT_S), timeout=ANSWER_TIMEOUT_S + _MARGIN_S)
        source = f"process {server.pid} over {folder}"
        running = RunningServer(kind.name, "127.0.0.1", server.port, source, server.user, server.password)
        loop.run(_until_it_answers(kind, running), timeout=ANSWER_TIMEOUT_S + _MARGIN_S)
        yield running
    finally:
        loop.run(server.stop(), timeout=STOP_TIMEOUT_S + _MARGIN_S)
