"""The ``file://`` object store: bodies as plain files under their own names, everything else in the folder ``.dynlog``.

`layout` says where what lies, `sidecar` what is written beside a body, `vault` how an object comes to be and to go.
"""
