"""What a guest can do wrong on a network channel. Each closes the channel that it happened on, and nothing else."""

from __future__ import annotations

from vmbus.errors import VmbusError


class NetworkViolation(VmbusError):
    """The guest broke a rule of NVSP or RNDIS."""


class UnexpectedMessage(NetworkViolation):
    """An NVSP or RNDIS message that the negotiated version does not have, or that cannot come at this point."""


class MalformedMessage(NetworkViolation):
    """A message that is shorter than its format, or whose lengths and offsets point outside of it."""


class BadNetworkBuffer(NetworkViolation):
    """A receive or send buffer that is empty, too small, or not what its GPADL must be."""


class BadSection(NetworkViolation):
    """A send section outside the send buffer, or no send buffer at all."""


class UnknownTransaction(NetworkViolation):
    """A completion of something that is not under way: never sent, or completed already."""


class TooMuchWaits(NetworkViolation):
    """The guest sends control messages and never takes the answers."""
