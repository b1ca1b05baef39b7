"""Entities: their names and models, lists and watches of them, registrations under leases, and the import from etcd."""
