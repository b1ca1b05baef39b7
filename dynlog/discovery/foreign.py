"""What is imported keeps its value byte for byte; what else is to be known of it lies in a mark beside it."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dynlog.errors import MalformedRecord

FOREIGN = "foreign/"
"""A mark's key is this and the key that it is about."""


class ForeignMark(BaseModel):
    """Where an imported key comes from, and on what it hangs *there*: here it hangs on the lease of the import."""

    model_config = ConfigDict(frozen=True)

    source: str
    """The URL, without secrets."""
    mod_revision: int
    """Of the key in the source."""
    lease: int = 0
    """The lease in the source that it is bound to; 0 for none."""
    lease_left_s: int | None = None
    """What that lease had left when it was read; None if it had ended, or for a key without one."""

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """What was stored; raises MalformedRecord."""
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            raise MalformedRecord(f"no mark of an imported key: {error.errors()[0]['msg']}") from None
