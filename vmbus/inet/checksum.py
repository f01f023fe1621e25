"""The Internet checksum (RFC 1071), at a speed that Python can reach: one big integer modulo 65535.

A one's complement sum of big-endian 16-bit words is the whole taken as one number, modulo 65535.
"""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def word_sum(data: Buffer) -> int:
    """The sum of the 16-bit words, modulo 65535; an odd last byte counts as the high half of a word."""
    number = int.from_bytes(data, "big")
    return (number << 8 if len(data) & 1 else number) % 65535


def checksum(total: int) -> int:
    """The checksum for a sum of words: what makes the whole sum up to a multiple of 65535."""
    rest = total % 65535
    return 65535 - rest if rest else 0


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum over the pseudo header that UDP and TCP over IPv4 include."""
    return int.from_bytes(source + destination, "big") % 65535 + protocol + length
