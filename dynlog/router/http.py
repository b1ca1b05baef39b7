"""The HTTP face of a router: a frontend asks it who holds how much of a prompt.

It answers from memory whatever the state of the log, says in each answer since when it is stale, and is *ready* only
once the replay has reached the end that it saw at its start, and while it is not stale beyond the bound.  What a client
sends is checked field by field; a client that is wrong gets a 4xx with one line that names the field.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import FastAPI, Request
from prometheus_client import exposition
from starlette.responses import HTMLResponse, Response, StreamingResponse

from dynlog.router.dump_text import live_dump_text
from dynlog.router.http_body import read_body
from dynlog.router.http_docs import docs_page
from dynlog.router.http_errors import HttpProblem, install_handlers
from dynlog.router.http_match import MatchRequest, parse_match
from dynlog.router.http_models import Answer, Answers, Health, Workers, problems, request_body
from dynlog.router.metrics import CountAnswers, RouterMetrics
from dynlog.router.prompts import rank_matches
from dynlog.router.state import RouterState

SLICE_S = 0.003
"""Long answers give the event loop back after about so many seconds."""
DESCRIPTION = (
    "Who of a fleet of inference workers holds how much of a prompt in its KV cache, from an index that is a fold over "
    "a log of the fleet's cache events. Errors are 4xx (or 503) with `{error, field}`."
)


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """``block_size`` is the topic's, in tokens, if it is known."""

    max_staleness_s: float = 30.0
    max_body: int = 1 << 20
    block_size: int | None = None


class RebuildProgress:
    """How far the replay is; give it to `RouterState.open` as ``progress``."""

    def __init__(self) -> None:
        self.done = self.total = 0

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total


class _Service:
    """The endpoints."""

    def __init__(self, router: RouterState, settings: HttpSettings, progress: RebuildProgress) -> None:
        self._router = router
        self._settings = settings
        self._progress = progress
        self._dumping = asyncio.Lock()
        self.metrics = RouterMetrics(router)

    async def match(self, request: Request) -> Response:
        """Per prompt, which workers hold how many blocks of it from its first on, the longest match first."""
        body = await read_body(request, self._settings.max_body)
        begun = time.perf_counter()
        asked = parse_match(body, self._settings.block_size)
        results = await self._find(asked)
        answer: dict[str, Any] = {"results": results} if asked.batch else results[0]
        status = self._router.status()
        answer["ready"], answer["stale_since_ms"] = status.ready, status.stale_since_ms
        response = _json(answer)
        self.metrics.match_seconds.observe(time.perf_counter() - begun)
        return response

    async def _find(self, asked: MatchRequest) -> list[dict[str, Any]]:
        options, results = asked.options, []
        begun = slice_begun = time.perf_counter()
        for prompt in asked.prompts:
            found = self._router.find_matches(prompt, tier=options.tier, early_exit=options.early_exit)
            now = time.perf_counter()
            self.metrics.find_seconds.observe(now - begun)
            results.append({"blocks": len(prompt) // 8, "matches": rank_matches(found, options.limit)})
            begun = time.perf_counter()
            if begun - slice_begun > SLICE_S:
                await asyncio.sleep(0)
                begun = slice_begun = time.perf_counter()
        return results

    async def workers(self) -> Response:
        """Every rank that the router knows, and how many blocks it holds over all tiers."""
        held = sorted(self._router.workers().items())
        return _json(
            {
                "workers": [
                    {"worker_id": worker, "worker_id_str": str(worker), "dp_rank": dp_rank, "blocks": blocks}
                    for (worker, dp_rank), blocks in held
                ]
            }
        )

    async def dump(self, format: Literal["json", "jsonl"] = "json") -> Response:
        """The state of one moment as Dynamo RouterEvents in one canonical order: a JSON list, or one event a line.

        One dump at a time: it takes a copy of the state, so a second one meanwhile gets 503.
        """
        if self._dumping.locked():
            raise HttpProblem(503, "another dump is under way; ask again once it is through")
        media = "application/json" if format == "json" else "application/x-ndjson"
        return StreamingResponse(self._dump(lines=format == "jsonl"), media_type=media)

    async def _dump(self, *, lines: bool) -> AsyncIterator[bytes]:
        async with self._dumping, aclosing(live_dump_text(self._router.index, lines=lines)) as pieces:
            async for piece in pieces:
                yield piece

    async def healthz(self) -> Response:
        """200 as long as the process answers at all."""
        return _json({"alive": True})

    async def readyz(self) -> Response:
        """200 if the answers are to be trusted, else 503 with the reason."""
        status, now = self._router.status(), time.time()
        stale = 0.0 if status.stale_since_ms is None else max(now - status.stale_since_ms / 1000, 0.0)
        reason = None
        if not status.ready:
            reason = f"rebuilding: {self._progress.done} of {self._progress.total} records"
            if status.last_error is not None:
                reason += f"; last error: {' '.join(status.last_error.split())}"
        elif stale > self._settings.max_staleness_s:
            reason = f"stale for {stale:.1f} s, over the bound of {self._settings.max_staleness_s:g} s"
            reason += f": {' '.join((status.last_error or 'the log cannot be read').split())}"
        answer = {
            "ready": reason is None,
            "reason": reason,
            "phase": status.phase.value,
            "stale_seconds": round(stale, 3),
            "lag_records": status.lag,
            "blocks": self._router.index.blocks_held,
            "last_error": status.last_error,
        }
        return _json(answer, 200 if reason is None else 503)

    async def prometheus(self, request: Request) -> Response:
        """Metrics for Prometheus, all with the prefix ``dynlog_router_``."""
        encode, media = exposition.choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.metrics.registry), headers={"content-type": media})


def create_app(
    router: RouterState, settings: HttpSettings | None = None, progress: RebuildProgress | None = None
) -> FastAPI:
    """The ASGI application of a router that is open; it opens and closes nothing."""
    from dynlog import __version__

    service = _Service(router, settings or HttpSettings(), progress or RebuildProgress())
    app = FastAPI(title="dynlog KV router", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    install_handlers(app)
    bad = problems(
        s400="The body is not JSON",
        s408="The body did not come in time",
        s413="The body is over the bound",
        s415="The body is compressed",
        s422="A field does not fit",
    )
    app.add_api_route(
        "/match", service.match, methods=["POST"], summary="Match prompts", openapi_extra=request_body(),
        responses={200: {"model": Answer | Answers}, **bad},
    )  # fmt: skip
    app.add_api_route("/workers", service.workers, summary="Workers and their blocks", responses=_ok(Workers))
    app.add_api_route(
        "/dump",
        service.dump,
        summary="The state",
        responses=problems(s422="A parameter does not fit", s503="Another dump is under way"),
    )
    app.add_api_route("/healthz", service.healthz, summary="Alive")
    app.add_api_route(
        "/readyz", service.readyz, summary="Ready",
        responses={**_ok(Health), 503: {"model": Health, "description": "Not ready, with the reason"}},
    )  # fmt: skip
    app.add_api_route("/metrics", service.prometheus, summary="Metrics", response_class=Response)

    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/", docs, include_in_schema=False)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(CountAnswers, counter=service.metrics.answers, paths=paths)
    return app


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value).encode() + b"\n", status, media_type="application/json")


def _ok(model: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}}
