"""Networks and servers that fail: a TCP proxy with faults, and campaigns with real servers and an outside oracle."""
