"""The way off NATS: what a deployment keeps in JetStream becomes topics, buckets, objects and snapshots of dynlog.

`plan` says what would happen, `apply` does it and can be killed at any instant, `verify` compares, `rollback` removes
what was made here.  The source is only ever read.  Each kind of thing has a mover (`dynlog.migrations.nats.movers`).
"""
