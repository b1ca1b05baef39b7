"""The suites that every engine passes; an engine's own test file subclasses one and adds a URL.

Each scenario proves one sentence of the contract in its docstrings, and its name says which.
"""
