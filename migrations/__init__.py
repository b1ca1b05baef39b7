"""How old data leaves NATS: readers of what Dynamo wrote there (object store, key-value buckets, streams).

Nothing here runs in a live fleet; each module reads one format, whole, and refuses what it does not know."""
