"""Who is there: entities under Dynamo's names, registered under leases in a key-value bucket of the log.

`names` and `models` say what lies under a key, `directory` lists and watches, `registration` holds a place while its
lease lives, `importing` takes over what a fleet still keeps in etcd, `following` goes on doing so.
"""
