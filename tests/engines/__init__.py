"""One program, unchanged but for a URL: what must come out the same on every engine and store."""
