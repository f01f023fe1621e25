"""What ends one channel, or one request on it, and nothing else."""

from __future__ import annotations

from vmbus.errors import VmbusError


class ChannelError(VmbusError):
    """Something that ends one channel."""


class BacklogFull(ChannelError):
    """The peer does not take its packets out of the ring: too many are waiting."""


class UnknownGpadl(ChannelError):
    """The peer named a GPADL that is not there."""


class NoSuchRanges(ChannelError):
    """A packet without page ranges came where one with ranges was needed."""
