"""Reading a request's body: never more than the bound in memory, and a client that sends more still gets its answer."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from dynlog.router.http_errors import HttpProblem

DRAIN_S = 2.0
"""For so long what is over the bound is read and thrown away: a client that is cut off while it sends sees a broken
connection instead of the answer."""


async def read_body(request: Request, most: int) -> bytes:
    """The whole body; raises HttpProblem 413 beyond ``most`` bytes, 415 for a compressed one, and ClientDisconnect.

    How long a body may take is the server's business (`dynlog.router.http_server`).
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HttpProblem(415, f"content-encoding {ascii(encoding)[1:-1]}: send the body uncompressed", close=True)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        if "expect" not in request.headers:  # who asks first has not sent anything yet
            await _drain(request.receive)
        raise _too_large(most, f"a body of {declared} bytes")
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message["body"])
        size += len(message["body"])
        if size > most:
            if message["more_body"]:
                await _drain(request.receive)
            raise _too_large(most, "the body")
        if not message["more_body"]:
            return b"".join(pieces)


def _too_large(most: int, what: str) -> HttpProblem:
    return HttpProblem(
        413, f"{what} is over the bound of {most} bytes (--max-body); send fewer prompts at once", close=True
    )


async def _drain(receive: Receive) -> None:
    try:
        async with asyncio.timeout(DRAIN_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message["more_body"]:
                    return
    except TimeoutError:
        return
