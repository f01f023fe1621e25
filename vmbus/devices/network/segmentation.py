"""What a guest leaves to the host, done in software: headers of a large send, checksums, segments.

A backend whose other side does the rest needs :func:`completed_headers` alone; one that can do nothing uses
:func:`finished`.

Sources: openvmm ``netvsp/src/lib.rs`` (what the per-packet information asks for); Linux 6.12 ``netvsc_drv.c`` (what
netvsc leaves in the headers: an IP length of 0, a TCP checksum over the pseudo header without its length).
"""

from __future__ import annotations

from collections.abc import Iterator

from vmbus.devices.network.backend import Buffer, Offload
from vmbus.devices.network.errors import MalformedMessage
from vmbus.inet.checksum import checksum, word_sum

_TCP, _UDP = 6, 17


def _network_offset(frame: Buffer) -> int:
    return 18 if frame[12:14] == b"\x81\x00" else 14


def transport_offset(frame: Buffer, offload: Offload) -> int:
    """Where the TCP or UDP header starts; some guests do not say, and mean the place behind a plain IP header."""
    if offload.transport_offset:
        return offload.transport_offset
    network = _network_offset(frame)
    return network + (40 if offload.is_ipv6 else (frame[network] & 0xF) * 4)


def _pseudo_sum(head: Buffer, network: int, is_ipv6: bool, protocol: int, length: int) -> int:
    addresses = head[network + 8 : network + 40] if is_ipv6 else head[network + 12 : network + 20]
    return word_sum(addresses) + protocol + length


def completed_headers(frame: Buffer, offload: Offload) -> bytearray:
    """The first bytes of a large send, which is not cut: IP length, IPv4 checksum and pseudo-header sum filled in.

    It is a copy, and ends 20 bytes into the TCP header. Raises :class:`MalformedMessage` if the headers are not where
    the guest said.
    """
    size, transport = len(frame), transport_offset(frame, offload)
    head = bytearray(frame[: transport + 20])
    network = _network_offset(head)
    least = 40 if offload.is_ipv6 else 20
    if transport < network + least or transport + 20 > size:
        raise MalformedMessage(f"a large send of {size} bytes whose TCP header is at {transport}")
    if offload.is_ipv6:
        head[network + 4 : network + 6] = min(size - network - 40, 0xFFFF).to_bytes(2, "big")
    else:
        head[network + 2 : network + 4] = min(size - network, 0xFFFF).to_bytes(2, "big")
        head[network + 10 : network + 12] = b"\0\0"
        head[network + 10 : network + 12] = checksum(word_sum(head[network:transport])).to_bytes(2, "big")
    pseudo = _pseudo_sum(head, network, offload.is_ipv6, _TCP, size - transport) % 65535
    head[transport + 16 : transport + 18] = pseudo.to_bytes(2, "big")
    return head


def finished(frame: Buffer, offload: Offload) -> Iterator[bytes]:
    """Complete frames: checksums filled in, a large send cut into segments."""
    if not offload.segment_size:
        yield bytes(_with_checksums(bytearray(frame), offload))
        return
    whole = completed_headers(frame, offload)
    whole += frame[len(whole) :]
    network, transport = _network_offset(whole), transport_offset(whole, offload)
    head_size = transport + (whole[transport + 12] >> 4) * 4
    if not transport + 20 <= head_size <= len(whole):
        raise MalformedMessage(f"a large send whose TCP header has {head_size - transport} bytes")
    sequence = int.from_bytes(whole[transport + 4 : transport + 8], "big")
    flags = whole[transport + 13]
    for start in range(head_size, len(whole), offload.segment_size):
        payload = whole[start : start + offload.segment_size]
        is_last = start + offload.segment_size >= len(whole)
        segment = whole[:head_size] + payload
        segment[transport + 4 : transport + 8] = ((sequence + start - head_size) & 0xFFFFFFFF).to_bytes(4, "big")
        segment[transport + 13] = flags if is_last else flags & ~0x09  # FIN and PSH belong to the last one
        field = network + 4 if offload.is_ipv6 else network + 2
        counted = len(segment) - network - (40 if offload.is_ipv6 else 0)
        segment[field : field + 2] = counted.to_bytes(2, "big")
        yield bytes(_with_checksums(segment, offload))


def _with_checksums(frame: bytearray, offload: Offload) -> bytearray:
    network, transport = _network_offset(frame), transport_offset(frame, offload)
    if (offload.fill_ipv4 or offload.segment_size) and not offload.is_ipv6:
        end = network + (frame[network] & 0xF) * 4
        frame[network + 10 : network + 12] = b"\0\0"
        frame[network + 10 : network + 12] = checksum(word_sum(frame[network:end])).to_bytes(2, "big")
    if offload.fill_transport:
        where = transport + (16 if offload.is_tcp else 6)
        if where + 2 > len(frame) or transport < network + 20:
            raise MalformedMessage(f"a checksum at {where} of a frame of {len(frame)} bytes")
        frame[where : where + 2] = b"\0\0"
        protocol = _TCP if offload.is_tcp else _UDP
        length = len(frame) - transport
        total = _pseudo_sum(frame, network, offload.is_ipv6, protocol, length) + word_sum(frame[transport:])
        found = checksum(total)
        frame[where : where + 2] = (found or 0xFFFF if not offload.is_tcp else found).to_bytes(2, "big")
    return frame
