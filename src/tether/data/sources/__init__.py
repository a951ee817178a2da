"""Readers of data that somebody else wrote; each is a ``core.protocols.Source``."""
