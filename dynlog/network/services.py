"""Who serves what: one handler per entity and topic; how many calls it has at once is bounded, and so is who waits.

A call over both bounds is refused as `Overloaded` before anything of it was begun.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError
from dynlog.network.calls import MAX_TOPIC_BYTES, Handler


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """At most ``max_running`` calls of a handler run at once and ``max_waiting`` more wait for their turn."""

    max_running: int = 512
    max_waiting: int = 1024

    def __post_init__(self) -> None:
        if self.max_running < 1 or self.max_waiting < 0:
            raise ConfigurationError(f"{self}: at least one call has to run")


class Service:
    """One handler with what it has in hands; made by `Services.add`."""

    __slots__ = (
        "failed", "handler", "idle", "open", "prompt", "refused", "running", "served", "settings", "streaming",
        "target", "topic", "waiting",
    )  # fmt: skip

    def __init__(self, target: DynamoEntityID, topic: str, handler: Handler, settings: ServiceSettings) -> None:
        self.target, self.topic, self.handler, self.settings = target, topic, handler, settings
        self.streaming = inspect.isasyncgenfunction(_function(handler))
        """Whether it gives many replies."""
        self.prompt = False
        """Whether the last call of it was done without waiting for anything."""
        self.running = 0
        self.waiting: deque[Callable[[], None]] = deque()
        self.open = True
        self.idle = asyncio.Event()
        self.idle.set()
        self.served = self.failed = self.refused = 0

    def begin(self, start: Callable[[], None]) -> bool:
        """Calls ``start`` now, or when it is its turn; False if the service has its hands full or is over."""
        if not self.open:
            return False
        if self.running < self.settings.max_running:
            if not self.running:
                self.idle.clear()
            self.running += 1
            start()
            return True
        if len(self.waiting) >= self.settings.max_waiting:
            self.refused += 1
            return False
        self.waiting.append(start)
        return True

    def end(self, *, failed: bool = False) -> None:
        """One call is over; whoever waits longest is next."""
        self.running -= 1
        self.served += 1
        self.failed += failed
        if self.waiting and self.running < self.settings.max_running:
            self.running += 1
            self.waiting.popleft()()
        elif not self.running:
            self.idle.set()


class Services:
    """What is served in this process; every session and the log serve from the same."""

    def __init__(self) -> None:
        self._services: dict[tuple[bytes, str], Service] = {}

    def add(
        self, target: DynamoEntityID, topic: str, handler: Handler, settings: ServiceSettings | None = None
    ) -> Service:
        """From now on the handler serves the topic of that entity; raises ConfigurationError if another does."""
        check_topic(topic)
        function = _function(handler)
        if not (inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function)):
            raise ConfigurationError(
                f"the handler of {topic!r} is {handler!r}: an async function or an async generator function is needed, "
                f"since one that blocks would hold up every other call"
            )
        key = (target.key, topic)
        if key in self._services:
            raise ConfigurationError(f"{target} serves {topic!r} already: remove that service first")
        service = self._services[key] = Service(target, topic, handler, settings or ServiceSettings())
        return service

    def find(self, target: bytes, topic: str) -> Service | None:
        """Who serves the topic of the entity with that key."""
        return self._services.get((target, topic))

    async def remove(self, service: Service, *, grace: float = 10.0) -> bool:
        """Takes no further call and waits for those that run, at most ``grace`` seconds; whether all are over."""
        self._services.pop((service.target.key, service.topic), None)
        service.open = False
        try:
            async with asyncio.timeout(grace):
                await service.idle.wait()
        except TimeoutError:
            return False
        return True

    def __iter__(self) -> Iterator[Service]:
        return iter(list(self._services.values()))


def check_topic(topic: str) -> None:
    """Raises ConfigurationError unless the text can be a topic."""
    if not isinstance(topic, str) or not topic or not topic.isprintable() or len(topic.encode()) > MAX_TOPIC_BYTES:
        raise ConfigurationError(
            f"topic {str(topic)[:60]!r}: 1 to {MAX_TOPIC_BYTES} bytes of printable text are needed"
        )


def _function(handler: Handler) -> object:
    """What says whether it is asynchronous: the function itself, or what an object is called by."""
    while hasattr(handler, "func"):  # functools.partial
        handler = handler.func
    if inspect.isroutine(handler):
        return handler
    return type(handler).__call__ if callable(handler) else handler
