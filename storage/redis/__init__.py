"""The Redis log: one stream per partition, one entry per append, everything decided by Lua inside one hash slot.

An entry's id is ``<offset behind its last record>-<log time>``, so a read from an offset is a range of ids.
"""
