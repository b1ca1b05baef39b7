"""Peers addressed by id: requests, streams and events that do not know their transport.

`manager` is what applications use; `session` is the protocol sans I/O; `calls` says what a call is on every path.
"""
