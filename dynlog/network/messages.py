"""What applications send is bytes or pydantic models; what travels is bytes, JSON for a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from dynlog.call_errors import HandlerFailed
from dynlog.network.calls import Handler, Request
from dynlog.record import Buffer

Message: TypeAlias = Buffer | bytearray | str | BaseModel
M = TypeVar("M", bound=BaseModel)


def to_bytes(message: Message) -> bytes:
    """A message as it travels; raises TypeError for anything else than bytes, text or a model."""
    match message:
        case bytes():
            return message
        case bytearray() | memoryview():
            return bytes(message)
        case str():
            return message.encode()
        case BaseModel():
            return message.model_dump_json().encode()
    raise TypeError(f"a message is bytes, text or a pydantic model, not {type(message).__name__}")


def of_model(model: type[M], function: Callable[[M], Awaitable[Message | None]]) -> Handler:
    """A handler of a function from a model to a model; a request that does not fit is the handler's ValueError."""

    async def handler(request: Request) -> Buffer | None:
        reply = await function(read_model(model, request.body))
        return None if reply is None else to_bytes(reply)

    return handler


def read_model(model: type[M], body: Buffer) -> M:
    """A message as the model; raises ValueError naming the first field that does not fit."""
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"no {model.__name__}: {where}: {first['msg']}") from None


def read_reply(model: type[M], body: Buffer, topic: str) -> M:
    """A reply as the model; raises HandlerFailed if the handler gave something else."""
    try:
        return read_model(model, body)
    except ValueError as error:
        raise HandlerFailed("WrongReply", str(error), topic=topic) from None
