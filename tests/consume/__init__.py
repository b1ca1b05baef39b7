"""Consumer groups, broadcast, dead letters and copies: one suite that every engine's backend subclasses."""
