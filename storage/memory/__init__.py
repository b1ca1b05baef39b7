"""The memory log: plain data behind one lock, decided by the same rules as every engine (`dynlog.storage.ledger`).

It is the reference for what the contract means: simple enough to be obviously right.
"""
