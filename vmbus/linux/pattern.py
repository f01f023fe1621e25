"""The deterministic bytes that the guest's test program (``guest/pattern.c``) writes and expects."""

from __future__ import annotations

from vmbus.inet.pattern import pattern

__all__ = ["pattern"]
