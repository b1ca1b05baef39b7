"""Reads a NATS server without changing it: streams, objects, key-value buckets, statistics; and Dynamo's names there.

No JetStream consumer is made, not even an ephemeral one: messages are fetched by their sequences.
"""
