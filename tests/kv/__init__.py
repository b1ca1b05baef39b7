"""The key-value store, on every engine."""
