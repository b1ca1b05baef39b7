"""Whether what concurrent clients of a bucket saw can be explained by one order of their operations.

`history` is what clients write down, `model` says what one key may answer, `checker` decides; none of them knows
dynlog.  `client` is the program that works and writes, `campaign` strikes at clients and servers meanwhile.
"""
