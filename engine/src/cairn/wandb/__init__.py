"""Loggers that go on with their history after a resume."""
