"""The blocks of a pcapng file that our captures use, as bytes: section, interface, packet, statistics.

Written little-endian, with nanosecond time stamps. Source: draft-ietf-opsawg-pcapng, sections 3 and 4 (block
structure, options, SHB, IDB, EPB, ISB). Reading is in ``vmbus.capture.walk``; it takes both byte orders and other
writers' files.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterable
from typing import Literal

from vmbus.wire.capture import LINK_TYPE

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
PACKET = 2
SIMPLE_PACKET = 3
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6

BYTE_ORDER_MAGIC = 0x1A2B3C4D

OPT_END = 0
OPT_COMMENT = 1
SHB_HARDWARE, SHB_OS, SHB_USERAPPL = 2, 3, 4
IF_NAME, IF_DESCRIPTION, IF_TSRESOL, IF_TSOFFSET = 2, 3, 9, 14
EPB_FLAGS, EPB_DROPCOUNT = 2, 4
ISB_STARTTIME, ISB_ENDTIME, ISB_IFRECV, ISB_IFDROP = 2, 3, 4, 5

NANOSECONDS = b"\x09"

APPLICATION = "vmbus"

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_OPTION = struct.Struct("<HH")
_EPB_HEAD = struct.Struct("<7I")
_TIME = struct.Struct("<II")

EPB_OVERHEAD = _EPB_HEAD.size + 4
"""Bytes of an enhanced packet block without packet data and options."""


def option(code: int, value: bytes) -> bytes:
    """One option, padded to 32 bits; a value of more than 65535 bytes is cut."""
    value = value[:0xFFFF]
    return _OPTION.pack(code, len(value)) + value + bytes(-len(value) & 3)


def options(pairs: Iterable[tuple[int, bytes]]) -> bytes:
    """A list of options with its end mark; nothing at all when there are none."""
    encoded = b"".join(option(code, value) for code, value in pairs)
    return encoded + b"\0\0\0\0" if encoded else b""


def block(block_type: int, body: bytes, order: Literal["little", "big"] = "little") -> bytes:
    """A whole block around a body whose length is a multiple of 4."""
    total = (len(body) + 12).to_bytes(4, order)
    return block_type.to_bytes(4, order) + total + body + total


def section_header(comments: Iterable[str] = ()) -> bytes:
    """A section of unknown length that says which machine and program wrote it."""
    described = [(OPT_COMMENT, comment.encode()) for comment in comments]
    described += [
        (SHB_HARDWARE, platform.machine().encode()),
        (SHB_OS, f"{platform.system()} {platform.release()}".encode()),
        (SHB_USERAPPL, APPLICATION.encode()),
    ]
    return block(SECTION_HEADER, struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1) + options(described))


def interface_description(name: str, description: str = "", comment: str = "", link_type: int = LINK_TYPE) -> bytes:
    """An interface with nanosecond time stamps and no snap length."""
    described = [(IF_NAME, name.encode())]
    if description:
        described.append((IF_DESCRIPTION, description.encode()))
    described.append((IF_TSRESOL, NANOSECONDS))
    if comment:
        described.append((OPT_COMMENT, comment.encode()))
    return block(INTERFACE_DESCRIPTION, struct.pack("<HHI", link_type, 0, 0) + options(described))


def enhanced_packet(
    interface: int,
    time_ns: int,
    data: bytes,
    original_length: int | None = None,
    direction: int = 0,
    comments: Iterable[str] = (),
    dropped: int = 0,
) -> bytes:
    """A packet with its direction (1 in, 2 out, 0 unknown), remarks, and how many were lost just before it."""
    pairs = [(OPT_COMMENT, comment.encode()) for comment in comments]
    if direction:
        pairs.append((EPB_FLAGS, _U32.pack(direction)))
    if dropped:
        pairs.append((EPB_DROPCOUNT, _U64.pack(dropped)))
    tail = bytes(-len(data) & 3) + options(pairs)
    length = len(data) if original_length is None else original_length
    total = EPB_OVERHEAD + len(data) + len(tail)
    head = _EPB_HEAD.pack(
        ENHANCED_PACKET, total, interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), min(length, 0xFFFFFFFF)
    )
    return b"".join((head, data, tail, _U32.pack(total)))


def interface_statistics(interface: int, time_ns: int, start_ns: int, received: int, dropped: int) -> bytes:
    """What an interface recorded from ``start_ns`` to ``time_ns``; ``received`` counts the lost records too."""
    high, low = time_ns >> 32, time_ns & 0xFFFFFFFF
    pairs = [
        (ISB_STARTTIME, _TIME.pack(start_ns >> 32, start_ns & 0xFFFFFFFF)),
        (ISB_ENDTIME, _TIME.pack(high, low)),
        (ISB_IFRECV, _U64.pack(received)),
        (ISB_IFDROP, _U64.pack(dropped)),
    ]
    return block(INTERFACE_STATISTICS, struct.pack("<III", interface, high, low) + options(pairs))
