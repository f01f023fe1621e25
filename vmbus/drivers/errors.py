"""The error of guest drivers."""

from __future__ import annotations

from vmbus.errors import VmbusError


class DriverError(VmbusError):
    """A driver cannot do what it was asked to, because of the host or of the one who asked."""
