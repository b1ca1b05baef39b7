"""Wires: how frames move between two peers, one module each, all behind the contract in `dynlog.wire`.

`inproc` within a process, `uds` on a host, `tcp`, `zmq`, `nats` and `sse` anywhere.
"""
