"""The parts of the SQLite engine, each a rule: where it may lie, how rows are protected, how the bell proves the end.

`dynlog.storage.sqlite_log` puts them together; nothing else imports them.
"""
