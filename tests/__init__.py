"""Tests read as a specification: given, when, then; every name is a claim."""
