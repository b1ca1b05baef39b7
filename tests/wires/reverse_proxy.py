"""An ordinary reverse proxy for HTTP: it maps a prefix, has connections and timeouts of its own, and fails as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn

PREFIX = "/edge"
_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade", b"host", b"content-length"}


class ReverseProxy:
    """``/edge/...`` at its port is ``/...`` at the target."""

    def __init__(self, target: str) -> None:
        self.port = 0
        self.gets = self.posts = 0
        self.cut_gets_after = 1 << 60
        """Bytes of a response to a GET, behind which its connection is closed."""
        self.every_post = 1
        """As often as this is each POST delivered to the target."""
        self.lose_answer_of: Callable[[int], bool] = lambda number: False
        """Which POSTs reach the target and are answered by a 502."""
        self.away = False
        """All is answered by a 503."""
        self._target = target
        self._client = httpx.AsyncClient(trust_env=False, timeout=30)

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if self.away:
            await _say(send, 503, [])
            return
        get = scope["method"] == "GET"
        self.gets, self.posts = self.gets + get, self.posts + (not get)
        lose, times = not get and self.lose_answer_of(self.posts), 1 if get else self.every_post
        headers = [pair for pair in scope["headers"] if pair[0] not in _HOP_BY_HOP]
        url = f"{self._target}{scope['path'].removeprefix(PREFIX)}?{scope['query_string'].decode()}"
        for left in reversed(range(times)):
            request = self._client.build_request(scope["method"], url, headers=headers, content=body)
            answer = await self._client.send(request, stream=True)
            try:
                if left:
                    await answer.aread()
                elif lose:
                    await answer.aread()
                    await _say(send, 502, [])
                else:
                    await self._pass_on(answer, send, self.cut_gets_after if get else 1 << 60)
            finally:
                await answer.aclose()

    async def _pass_on(
        self, answer: httpx.Response, send: Callable[[MutableMapping[str, Any]], Awaitable[None]], most: int
    ) -> None:
        await _say(
            send, answer.status_code, [pair for pair in answer.headers.raw if pair[0].lower() not in _HOP_BY_HOP], True
        )
        async for piece in answer.aiter_raw():
            await send({"type": "http.response.body", "body": piece[:most], "more_body": True})
            most -= len(piece)
            if most <= 0:
                break
        await send({"type": "http.response.body", "body": b""})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ReverseProxy]:
        """Listens on a port of loopback."""
        config = uvicorn.Config(
            self, host="127.0.0.1", port=0, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        self.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.should_exit = True
            await server.shutdown()
            await self._client.aclose()
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)


async def _say(
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    status: int,
    headers: list[tuple[bytes, bytes]],
    more: bool = False,
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if not more:
        await send({"type": "http.response.body", "body": b""})
