"""The tiny IPv4 host: what comes in is answered or handed to a socket, what goes out finds its neighbour by ARP.

Frames go in through :meth:`InetHost.receive`, one at a time, and :meth:`InetHost.flush` then sends everything that
they led to in one list, so that a batch of segments costs one acknowledgement. A frame that the carrier cannot take
now is kept, and connections stop producing until :meth:`InetHost.resume`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from struct import Struct
from typing import TYPE_CHECKING, Final

from vmbus.inet.checksum import checksum, pseudo_header, word_sum
from vmbus.inet.frame import ETHERNET_SIZE, IPV4_SIZE, InetError, OutgoingFrame
from vmbus.inet.tcp import TcpStack
from vmbus.wire.inet import BROADCAST, Arp, ArpOperation, EtherType, IcmpEcho, IcmpType, IpProtocol, Udp

if TYPE_CHECKING:
    from vmbus.loop import Loop

_IPV4: Final = Struct(">BBHHHBBH4s4s")  # wire.inet.Ipv4
_ARP_TYPE: Final = int(EtherType.ARP).to_bytes(2, "big")
_IPV4_TYPE: Final = int(EtherType.IPV4).to_bytes(2, "big")
_DONT_FRAGMENT: Final = 0x4000
_MOST_NEIGHBOURS: Final = 1024
_MOST_WAITING: Final = 16


UdpHandler = Callable[[bytes, int, bytes], None]
"""Called with the sender's address, its port and the payload."""

EchoHandler = Callable[[bytes, int, int, bytes], None]
"""Called with the sender's address, the identifier, the sequence number and the payload."""


class InetHost:
    """One address on one Ethernet. All of it runs in the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        mac: bytes,
        address: bytes,
        send: Callable[[Sequence[OutgoingFrame]], int],
        *,
        mtu: int = 1500,
        largest_segment: int = 0,
    ) -> None:
        """``send`` takes as many of the frames as it can and says how many. ``largest_segment`` is the TCP payload that
        may be left to the carrier to cut; 0 when it cannot."""
        self.loop = loop
        self.mac = mac
        self.address = address
        self.mtu = mtu
        self.largest_segment = largest_segment
        self.neighbours: dict[bytes, bytes] = {}
        self.tcp = TcpStack(self)
        self.on_echo_reply: EchoHandler | None = None
        self.received = self.sent = self.ignored = 0
        self._udp: dict[int, UdpHandler] = {}
        self._send = send
        self._out: deque[OutgoingFrame] = deque()
        self._blocked = False
        self._flush_is_due = False
        self._waiting: dict[bytes, list[tuple[int, bytes]]] = {}

    # In

    def receive(self, frame: bytes, *, checked: bool = False) -> None:
        """Take one frame, a copy that nobody changes. ``checked``: its TCP and UDP checksums need no look."""
        self.received += 1
        if len(frame) < ETHERNET_SIZE + IPV4_SIZE:
            self.ignored += 1
            return
        ether_type = frame[12:14]
        if ether_type == _IPV4_TYPE:
            self._receive_ipv4(frame, checked)
        elif ether_type == _ARP_TYPE:
            self._receive_arp(frame)
        else:
            self.ignored += 1

    def _receive_ipv4(self, frame: bytes, checked: bool) -> None:
        first, _, length, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(frame, ETHERNET_SIZE)
        start = ETHERNET_SIZE + (first & 0xF) * 4
        end = ETHERNET_SIZE + length
        if checked and not length:
            end = len(frame)  # a large send: its sender leaves the length to whoever cuts it
        elif word_sum(frame[ETHERNET_SIZE:start]):
            self.ignored += 1
            return
        bad_shape = first >> 4 != 4 or start < ETHERNET_SIZE + IPV4_SIZE or not start <= end <= len(frame)
        if bad_shape or fragment & 0x3FFF or not self._is_for_us(destination):
            self.ignored += 1
            return
        self._learn(source, frame[6:12])
        if protocol == IpProtocol.TCP:
            self.tcp.receive(source, frame, start, end, checked)
        elif protocol == IpProtocol.UDP:
            self._receive_udp(source, destination, frame[start:end], checked)
        elif protocol == IpProtocol.ICMP:
            self._receive_icmp(source, frame[start:end])
        else:
            self.ignored += 1

    def _is_for_us(self, destination: bytes) -> bool:
        return destination in (self.address, b"\xff\xff\xff\xff")

    def _receive_arp(self, frame: bytes) -> None:
        arp = Arp.parse(frame, ETHERNET_SIZE) if len(frame) >= ETHERNET_SIZE + Arp.SIZE else None
        if arp is None or arp.target_ip != self.address:
            self.ignored += 1
            return
        self._learn(arp.sender_ip, arp.sender_mac)
        if arp.operation == ArpOperation.REQUEST:
            self._send_arp(ArpOperation.REPLY, arp.sender_mac, arp.sender_ip)
        for protocol, payload in self._waiting.pop(arp.sender_ip, ()):
            self.send_ipv4(arp.sender_ip, protocol, payload)
        self.tcp.on_neighbour(arp.sender_ip)

    def _learn(self, address: bytes, mac: bytes) -> None:
        known = self.neighbours
        if known.get(address) != mac and address != b"\0\0\0\0":
            if len(known) >= _MOST_NEIGHBOURS:
                known.clear()
            known[address] = mac

    def _receive_udp(self, source: bytes, destination: bytes, datagram: bytes, checked: bool) -> None:
        if len(datagram) < Udp.SIZE:
            self.ignored += 1
            return
        udp = Udp.parse(datagram)
        handler = self._udp.get(udp.destination_port)
        sound = Udp.SIZE <= udp.length <= len(datagram)
        if sound and udp.checksum and not checked:
            total = pseudo_header(source, destination, IpProtocol.UDP, udp.length) + word_sum(datagram[: udp.length])
            sound = total % 65535 == 0
        if handler is None or not sound:
            self.ignored += 1
            return
        handler(source, udp.source_port, datagram[Udp.SIZE : udp.length])

    def _receive_icmp(self, source: bytes, message: bytes) -> None:
        if len(message) < IcmpEcho.SIZE or word_sum(message):
            self.ignored += 1
            return
        echo = IcmpEcho.parse(message)
        if echo.icmp_type == IcmpType.ECHO:
            self._send_icmp(source, echo.replace(icmp_type=IcmpType.ECHO_REPLY))
        elif echo.icmp_type == IcmpType.ECHO_REPLY and self.on_echo_reply is not None:
            self.on_echo_reply(source, echo.identifier, echo.sequence, echo.payload)
        else:
            self.ignored += 1

    # Out

    def listen_udp(self, port: int, handler: UdpHandler) -> None:
        """Hand datagrams to ``port`` to ``handler``."""
        self._udp[port] = handler

    def send_udp(self, destination: bytes, destination_port: int, source_port: int, payload: bytes) -> None:
        """Send a datagram."""
        udp = Udp(source_port=source_port, destination_port=destination_port, length=Udp.SIZE + len(payload))
        total = pseudo_header(self.address, destination, IpProtocol.UDP, udp.length)
        total += word_sum(udp.build()) + word_sum(payload)
        udp.checksum = checksum(total) or 0xFFFF
        self.send_ipv4(destination, IpProtocol.UDP, udp.build() + payload)

    def send_echo(self, destination: bytes, identifier: int, sequence: int, payload: bytes) -> None:
        """Send an ICMP echo request (a ping)."""
        echo = IcmpEcho(icmp_type=IcmpType.ECHO, identifier=identifier, sequence=sequence, payload=payload)
        self._send_icmp(destination, echo)

    def _send_icmp(self, destination: bytes, echo: IcmpEcho) -> None:
        echo.checksum = 0
        echo.checksum = checksum(word_sum(echo.build()))
        self.send_ipv4(destination, IpProtocol.ICMP, echo.build())

    def send_ipv4(self, destination: bytes, protocol: int, payload: bytes) -> None:
        """Send a packet, after asking who has the address if that is not known."""
        mac = BROADCAST if destination == b"\xff\xff\xff\xff" else self.neighbours.get(destination)
        if mac is None:
            waiting = self._waiting.setdefault(destination, [])
            if len(waiting) < _MOST_WAITING:
                waiting.append((protocol, payload))
            self.ask_for(destination)
            return
        self.push(OutgoingFrame(self.ethernet(mac) + self.ipv4(destination, protocol, len(payload)) + payload))

    def ethernet(self, mac: bytes) -> bytes:
        """The Ethernet header of an IPv4 frame to ``mac``."""
        return mac + self.mac + _IPV4_TYPE

    def ipv4(self, destination: bytes, protocol: int, length: int) -> bytes:
        """The IPv4 header of a packet with ``length`` bytes behind it."""
        head = _IPV4.pack(0x45, 0, IPV4_SIZE + length, 0, _DONT_FRAGMENT, 64, protocol, 0, self.address, destination)
        return head[:10] + checksum(word_sum(head)).to_bytes(2, "big") + head[12:]

    def ask_for(self, address: bytes) -> None:
        """Ask by ARP who has an address; the answer is learned."""
        self._send_arp(ArpOperation.REQUEST, BROADCAST, address)

    def _send_arp(self, operation: ArpOperation, mac: bytes, address: bytes) -> None:
        target = mac if operation == ArpOperation.REPLY else bytes(6)
        arp = Arp(
            operation=operation, sender_mac=self.mac, sender_ip=self.address, target_mac=target, target_ip=address
        )
        self.push(OutgoingFrame(mac + self.mac + _ARP_TYPE + arp.build()))

    def push(self, frame: OutgoingFrame) -> None:
        """Queue a frame for the next flush."""
        self._out.append(frame)
        self.flush_soon()

    def flush_soon(self) -> None:
        """Flush after the current callback, unless somebody flushes before."""
        if not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Let connections produce segments and send what is queued, until nothing is left or the carrier is full."""
        self._flush_is_due = False
        if self._blocked:
            return
        out = self._out
        while True:
            self.tcp.produce(out)
            if not out:
                return
            frames = list(out)
            taken = self._send(frames)
            self.sent += taken
            out.clear()
            if taken < len(frames):
                out.extend(frames[taken:])
                self._blocked = True
                return

    def resume(self) -> None:
        """The carrier has room again."""
        if self._blocked:
            self._blocked = False
            self.flush_soon()

    def drop_queued(self) -> None:
        """The carrier takes nothing for a while: drop what is queued."""
        self._out.clear()
        self._waiting.clear()
        self._blocked = False

    def forget(self) -> None:
        """The carrier is gone for good: drop what is queued, end every connection."""
        self.drop_queued()
        self.tcp.abandon()


def parse_address(text: str) -> bytes:
    """The four bytes of a dotted IPv4 address; :class:`InetError` if it is none."""
    try:
        return IPv4Address(text).packed
    except ValueError:
        raise InetError(f"{text!r} is not an IPv4 address") from None
