"""Processes that contend for a lock and are killed, stopped and cut off: never two whose writes both count."""
