"""TCP segments as Ethernet frames: both checksums from sums that are the same in every segment of a connection."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from vmbus.inet.checksum import checksum, pseudo_header, word_sum
from vmbus.inet.frame import ETHERNET_SIZE, HEADERS_SIZE, IPV4_SIZE, InetError, OutgoingFrame
from vmbus.wire.inet import IpProtocol

if TYPE_CHECKING:
    from vmbus.inet.host import InetHost

_HEADS: Final = Struct(">14sBBHHHBBH4s4sHHIIBBHHH")  # wire.inet.Ethernet, Ipv4 and Tcp behind each other
assert _HEADS.size == ETHERNET_SIZE + HEADERS_SIZE

_PROTOCOL: Final = int(IpProtocol.TCP)


class SegmentBuilder:
    """Makes the frames of one connection; :meth:`prepare` once the neighbour's Ethernet address is known."""

    __slots__ = ("_address", "_ethernet", "_host", "_ip_sum", "_local_port", "_port", "_tcp_sum")

    def __init__(self, host: InetHost, address: bytes, port: int, local_port: int) -> None:
        self._host = host
        self._address = address
        self._port = port
        self._local_port = local_port
        self._ethernet = b""
        self._ip_sum = 0x4500 + 0x4000 + 0x4000 + _PROTOCOL + word_sum(host.address + address)
        self._tcp_sum = pseudo_header(host.address, address, _PROTOCOL, 0) + port + local_port

    def prepare(self) -> None:
        """Look the neighbour up; :class:`InetError` if nobody said which Ethernet address it has."""
        mac = self._host.neighbours.get(self._address)
        if mac is None:
            raise InetError(f"nobody said which Ethernet address {'.'.join(map(str, self._address))} has")
        self._ethernet = self._host.ethernet(mac)

    def build(
        self, sequence: int, acknowledgement: int, flags: int, window: int, payload: bytes, options: bytes, mss: int
    ) -> OutgoingFrame:
        """One segment. One with more payload than ``mss`` is left to the carrier to cut."""
        words = (20 + len(options)) << 10
        length = 20 + len(options) + len(payload)
        is_large = len(payload) > mss
        if is_large:
            # Whoever cuts it wants the sum of the pseudo header in the checksum's place.
            tcp_checksum = pseudo_header(self._host.address, self._address, _PROTOCOL, length) % 65535
        else:
            total = self._tcp_sum + (sequence >> 16) + (sequence & 0xFFFF)
            total += (acknowledgement >> 16) + (acknowledgement & 0xFFFF) + words + flags + window + length
            tcp_checksum = checksum(total + word_sum(options) + word_sum(payload))
        size = IPV4_SIZE + length
        head = _HEADS.pack(
            self._ethernet, 0x45, 0, size, 0, 0x4000, 64, _PROTOCOL, checksum(self._ip_sum + size),
            self._host.address, self._address, self._local_port, self._port, sequence, acknowledgement, words >> 8,
            flags, window, tcp_checksum, 0,
        )  # fmt: skip
        return OutgoingFrame(head + options + payload, mss if is_large else 0)
