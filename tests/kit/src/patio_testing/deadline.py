"""How long a test waits for what has to come. Only a test that fails waits so long."""

DEADLINE = 240.0
"""Seconds: long enough for a machine that has three times as much to do as it can."""
