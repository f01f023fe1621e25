"""Ethernet, ARP, IPv4, ICMP, UDP, TCP and DHCP, as far as our own network ends speak them; all in network byte order.

Captures are decoded by scapy and Wireshark, which know these protocols in full.

Sources: IEEE 802.3; RFC 826, 791, 792, 768, 9293, 2131 and 2132.
"""

from __future__ import annotations

from typing import Final

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, be16, be32, bits, raw, rest, u8

BROADCAST: Final = b"\xff" * 6


class EtherType(OpenEnum):
    """What an Ethernet frame carries."""

    IPV4 = 0x0800
    ARP = 0x0806
    VLAN = 0x8100
    IPV6 = 0x86DD


class Ethernet(Format):
    """Heads a frame."""

    destination: bytes = raw(6)
    source: bytes = raw(6)
    ether_type: EtherType = be16(EtherType)


class ArpOperation(OpenEnum):
    """What an ARP packet is."""

    REQUEST = 1
    REPLY = 2


class Arp(Format):
    """ARP for IPv4 over Ethernet."""

    hardware_type: int = be16(default=1)
    protocol_type: EtherType = be16(EtherType, default=0x0800)
    hardware_length: int = u8(default=6)
    protocol_length: int = u8(default=4)
    operation: ArpOperation = be16(ArpOperation)
    sender_mac: bytes = raw(6)
    sender_ip: bytes = raw(4)
    target_mac: bytes = raw(6, default=b"")
    target_ip: bytes = raw(4)


class IpProtocol(OpenEnum):
    """What an IPv4 packet carries."""

    ICMP = 1
    TCP = 6
    UDP = 17


class Ipv4(Format):
    """The IPv4 header without options."""

    version: int = bits(4, of=8, msb=True, default=4)
    header_words: int = bits(4, default=5, unit="4 bytes")
    service: int = u8(default=0)
    total_length: int = be16(unit="bytes")
    identification: int = be16(default=0)
    reserved: int = bits(1, of=16, msb=True, default=0)
    dont_fragment: int = bits(1, default=1)
    more_fragments: int = bits(1, default=0)
    fragment_offset: int = bits(13, default=0, unit="8 bytes")
    time_to_live: int = u8(default=64)
    protocol: IpProtocol = u8(IpProtocol)
    checksum: int = be16(default=0)
    source: bytes = raw(4)
    destination: bytes = raw(4)


class IcmpType(OpenEnum):
    """What an ICMP message is."""

    ECHO_REPLY = 0
    UNREACHABLE = 3
    ECHO = 8


class IcmpEcho(Format):
    """An echo request or reply."""

    icmp_type: IcmpType = u8(IcmpType)
    code: int = u8(default=0)
    checksum: int = be16(default=0)
    identifier: int = be16()
    sequence: int = be16()
    payload: bytes = rest(payload=True)


class Udp(Format):
    """The UDP header."""

    source_port: int = be16()
    destination_port: int = be16()
    length: int = be16(unit="bytes", doc="header and payload")
    checksum: int = be16(default=0, doc="0: none")


class TcpFlags(OpenFlags):
    """What a segment says besides its bytes."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80


class Tcp(Format):
    """The TCP header without options."""

    source_port: int = be16()
    destination_port: int = be16()
    sequence: int = be32()
    acknowledgement: int = be32(default=0)
    header_words: int = bits(4, of=8, msb=True, default=5, unit="4 bytes")
    reserved: int = bits(4, default=0)
    flags: TcpFlags = u8(TcpFlags)
    window: int = be16(doc="shifted left by the scale that was agreed on")
    checksum: int = be16(default=0)
    urgent: int = be16(default=0)


class DhcpOperation(OpenEnum):
    """Which way a DHCP message goes."""

    REQUEST = 1
    REPLY = 2


class DhcpType(OpenEnum):
    """Value of option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class DhcpOption(OpenEnum):
    """Options that we send or read; each is a byte of code, a byte of length, and a value."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTER = 3
    NAME_SERVER = 6
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    MESSAGE_TYPE = 53
    SERVER_IDENTIFIER = 54
    END = 255


class Dhcp(Format):
    """A DHCP (BOOTP) message; it travels in UDP from port 68 to 67 and back."""

    operation: DhcpOperation = u8(DhcpOperation)
    hardware_type: int = u8(default=1)
    hardware_length: int = u8(default=6)
    hops: int = u8(default=0)
    transaction_id: int = be32()
    seconds: int = be16(default=0)
    flags: int = be16(default=0, doc="0x8000: answer by broadcast")
    client_ip: bytes = raw(4, default=b"")
    your_ip: bytes = raw(4, default=b"")
    server_ip: bytes = raw(4, default=b"")
    gateway_ip: bytes = raw(4, default=b"")
    client_mac: bytes = raw(16)
    server_name: bytes = raw(64, default=b"")
    boot_file: bytes = raw(128, default=b"")
    magic: int = be32(default=0x63825363)
    options: bytes = rest()
