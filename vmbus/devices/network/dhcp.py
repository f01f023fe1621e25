"""A DHCP server with one address to give, for the guest of an embedded network (RFC 2131)."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Final

from vmbus.inet.host import InetHost
from vmbus.wire.inet import Dhcp, DhcpOperation, DhcpOption, DhcpType
from vmbus.wire.schema import WireError

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
LEASE_SECONDS: Final = 24 * 3600
_MAGIC: Final = 0x63825363
_BROADCAST: Final = b"\xff\xff\xff\xff"


class DhcpServer:
    """Gives every client the same address: there is only one guest on the wire."""

    def __init__(self, host: InetHost, network: IPv4Network, address: bytes) -> None:
        self._host = host
        self._address = address
        self._common = {
            DhcpOption.SERVER_IDENTIFIER: host.address,
            DhcpOption.LEASE_TIME: LEASE_SECONDS.to_bytes(4, "big"),
            DhcpOption.SUBNET_MASK: network.netmask.packed,
            DhcpOption.ROUTER: host.address,
        }
        host.listen_udp(SERVER_PORT, self._receive)

    def _receive(self, source: bytes, port: int, datagram: bytes) -> None:
        try:
            message = Dhcp.parse(datagram)
        except WireError:
            return
        options = read_options(message.options)
        wanted = options.get(DhcpOption.MESSAGE_TYPE, b"")[:1]
        if message.operation != DhcpOperation.REQUEST or message.magic != _MAGIC or not wanted:
            return
        if wanted[0] == DhcpType.DISCOVER:
            self._answer(message, DhcpType.OFFER)
        elif wanted[0] == DhcpType.REQUEST:
            if options.get(DhcpOption.SERVER_IDENTIFIER, self._host.address) != self._host.address:
                return
            asked = options.get(DhcpOption.REQUESTED_ADDRESS, message.client_ip)
            self._answer(message, DhcpType.ACK if asked == self._address else DhcpType.NAK)

    def _answer(self, request: Dhcp, kind: DhcpType) -> None:
        options = {DhcpOption.MESSAGE_TYPE: bytes((kind,)), **(self._common if kind != DhcpType.NAK else {})}
        answer = Dhcp(
            operation=DhcpOperation.REPLY,
            transaction_id=request.transaction_id,
            flags=request.flags,
            your_ip=self._address if kind != DhcpType.NAK else b"",
            server_ip=self._host.address,
            client_mac=request.client_mac,
            options=write_options(options),
        )
        # The client has no address yet, so the answer is for everybody.
        self._host.send_udp(_BROADCAST, CLIENT_PORT, SERVER_PORT, answer.build().ljust(300, b"\0"))


def read_options(data: bytes) -> dict[int, bytes]:
    """The options of a DHCP message; a list that is cut short gives those before the cut."""
    options: dict[int, bytes] = {}
    at = 0
    while at + 1 < len(data) and data[at] != DhcpOption.END:
        if data[at] == DhcpOption.PAD:
            at += 1
            continue
        length = data[at + 1]
        value = data[at + 2 : at + 2 + length]
        if len(value) < length:
            break
        options[data[at]] = value
        at += 2 + length
    return options


def write_options(options: dict[DhcpOption, bytes]) -> bytes:
    """Options as they lie in a message."""
    listed = b"".join(bytes((code, len(value))) + value for code, value in options.items())
    return listed + bytes((DhcpOption.END,))
