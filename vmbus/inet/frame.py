"""What the parts of the tiny host share: a frame on its way out, the sizes of headers, the error."""

from __future__ import annotations

from typing import Final, NamedTuple

from vmbus.errors import VmbusError

ETHERNET_SIZE: Final = 14
IPV4_SIZE: Final = 20
HEADERS_SIZE: Final = IPV4_SIZE + 20
"""Bytes of the IPv4 and TCP headers without options."""


class InetError(VmbusError):
    """The other end of the network did not do what was asked of it."""


class OutgoingFrame(NamedTuple):
    """A frame on its way out.

    With a ``segment_size`` above 0 whoever carries it cuts it into TCP segments of so many bytes, and fills in
    checksums.
    """

    frame: bytes
    segment_size: int = 0
