"""Every answer that is not 200 is one JSON object of one line that says what was wrong and where.

``{"error": "hashes[3]: a hash is an integer ...", "field": "hashes[3]"}``; ``field`` is null where none is to blame.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from dynlog.errors import DynlogError
from dynlog.router.prompts import BadField

logger = logging.getLogger(__name__)


class HttpProblem(Exception):
    """An answer other than 200: its status, its one line, and the field to blame."""

    def __init__(self, status: int, message: str, *, field: str | None = None, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.close = close


def problem_body(message: str, field: str | None = None) -> bytes:
    """The JSON object."""
    return json.dumps({"error": message, "field": field}).encode() + b"\n"


def problem(
    status: int, message: str, field: str | None = None, *, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer."""
    return Response(problem_body(message, field), status, headers=headers, media_type="application/json")


def install_handlers(app: FastAPI) -> None:
    """Turns what the framework and dynlog raise into such answers."""

    async def own(request: Request, error: Exception) -> Response:
        assert isinstance(error, HttpProblem)
        return problem(
            error.status, error.message, error.field, headers={"connection": "close"} if error.close else None
        )

    async def of_framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = ascii(request.scope["path"])[1:-1][:200]
        match error.status_code:
            case 404:
                message = f"no page {path}; GET /docs lists what there is"
            case 405:
                allowed = (error.headers or {}).get("Allow", "another method")
                message = f"{request.method} is not for {path}; use {allowed}"
            case _:
                message = " ".join(str(error.detail).split())
        return problem(error.status_code, message, headers=error.headers)

    async def of_parameters(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return problem(422, f"{ascii(field)[1:-1]}: {first['msg']}", field)

    async def of_field(request: Request, error: Exception) -> Response:
        assert isinstance(error, BadField)
        return problem(422, str(error), error.field)

    async def of_dynlog(request: Request, error: Exception) -> Response:
        logger.warning("%s %s: %s", request.method, ascii(request.scope["path"]), error)
        return problem(503, " ".join(str(error).split()))

    async def of_client(request: Request, error: Exception) -> Response:
        return problem(499, "the client went away")  # nobody reads it; it is counted

    app.add_exception_handler(ClientDisconnect, of_client)
    app.add_exception_handler(HttpProblem, own)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(RequestValidationError, of_parameters)
    app.add_exception_handler(BadField, of_field)
    app.add_exception_handler(DynlogError, of_dynlog)
