"""What the ``s3://`` object store is made of: names, descriptions, requests, and the steps of put, get, upload and gc.

Nothing outside of `dynlog.storage.s3_objects` imports from here.
"""
