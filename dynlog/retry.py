"""What happens to a record whose handler failed: it is tried again after a random while, and parked in the end."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dynlog.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most ``max_attempts`` in all; before each new one a pause between 0 and ``first_s * factor**n``, at most
    ``most_s`` (exponential backoff with full jitter: Brooker, "Exponential Backoff And Jitter", AWS 2015)."""

    max_attempts: int = 5
    first_s: float = 0.1
    factor: float = 2.0
    most_s: float = 30.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.first_s < 0 or self.factor < 1 or self.most_s < self.first_s:
            raise ConfigurationError(f"{self}: at least one attempt, a factor of at least 1 and first_s <= most_s")

    def pause(self, failed: int) -> float:
        """Seconds to wait after that many failed attempts."""
        # The exponent is bounded: 2.0**1100 would overflow a float.
        return random.uniform(0.0, min(self.first_s * self.factor ** min(failed - 1, 64), self.most_s))
