"""Records as pcapng packet blocks, built as quickly as Python can: one ``pack`` and one ``join`` for each.

What a host records with every request has a twin in C, with the same results: ``quick_packets``, ``quick_external`` and
``quick_signal`` are those of the optional extension ``vmbus.capture._records`` where it is there.

The layouts are those of ``vmbus.wire.capture``; the tests compare the two. In the blocks made here the interface
field holds the *channel id*: whoever writes the file knows which interface that channel has there, and puts it in its
place (``vmbus.capture.writer``). Every block ends with a flags option and the end mark, so that one more option can
be added.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import cast

from vmbus import native
from vmbus.capture.blocks import ENHANCED_PACKET, EPB_DROPCOUNT, EPB_FLAGS
from vmbus.ring.packet import OutgoingPacket, RingPacket
from vmbus.tap import Bytes
from vmbus.wire.capture import HEADER_SIZE, VERSION, NoteKind, RecordKind

_BLOCK = "<7I"
_COMMON = "BBHBBHII"
_TAIL = struct.Struct("<HHIII")
_LOSSY_TAIL = struct.Struct("<HHIHHQII")
_MESSAGE = struct.Struct(_BLOCK + _COMMON + "4I")
_SIGNAL = struct.Struct(_BLOCK + _COMMON + "2I8x")
_PACKET = struct.Struct("<7I20s3IHHHHQ")
_PACKET_CONSTANT = struct.Struct("<" + _COMMON + "I")
_EXTERNAL = struct.Struct(_BLOCK + _COMMON + "QII")
_REGISTER = struct.Struct(_BLOCK + _COMMON + "2IQ")
_NOTE = struct.Struct(_BLOCK + _COMMON + "I12x")

_DESCRIPTOR_SIZE = 16
_FOOTER_SIZE = 8
_OVERHEAD = 28 + HEADER_SIZE + _TAIL.size
"""Bytes of a block around a body."""

_PLAIN = attrgetter("packet_type", "flags", "transaction_id", "extension", "payload")

_PADDING = tuple(bytes(length) for length in range(8))

# Plain integers: members of an enumeration cost more, and these are used for every record.
_MESSAGE_KIND, _SIGNAL_KIND, _PACKET_KIND = int(RecordKind.MESSAGE), int(RecordKind.SIGNAL), int(RecordKind.PACKET)
_EXTERNAL_KIND, _REGISTER_KIND, _NOTE_KIND = int(RecordKind.EXTERNAL), int(RecordKind.REGISTER), int(RecordKind.NOTE)

KIND_OFFSET, FLAGS_OFFSET, CHANNEL_OFFSET, NOTE_KIND_OFFSET, BODY_OFFSET = 29, 34, 36, 44, 28 + HEADER_SIZE
"""Where in one of these blocks the record's kind, flags, channel id, note kind and body are."""


_LONGEST_KEPT_TAIL = 4096
_tails: dict[int, bytes] = {}


def _tail(direction: int, total: int) -> bytes:
    """What ends a block of ``total`` bytes; kept, because there are few of them and a lookup is quicker."""
    key = total << 2 | direction
    tail = _tails.get(key)
    if tail is None:
        tail = _TAIL.pack(EPB_FLAGS, 4, direction, 0, total)
        if total <= _LONGEST_KEPT_TAIL:
            _tails[key] = tail
    return tail


def message(
    time_ns: int,
    direction: int,
    vp: int,
    sint: int,
    connection_id: int,
    message_type: int,
    payload: Bytes,
    flags: int = 0,
) -> bytes:
    """A hypervisor message."""
    size = len(payload)
    pad = -size & 3
    total = _OVERHEAD + size + pad
    head = _MESSAGE.pack(
        ENHANCED_PACKET, total, 0, time_ns >> 32, time_ns & 0xFFFFFFFF, HEADER_SIZE + size, HEADER_SIZE + size,
        VERSION, _MESSAGE_KIND, HEADER_SIZE, direction, 0, flags, 0, 0,
        vp, sint, connection_id, message_type,
    )  # fmt: skip
    return b"".join((head, payload, _PADDING[pad], _tail(direction, total)))


def signal(time_ns: int, direction: int, channel_id: int, connection_id: int, flag: int) -> bytes:
    """An event."""
    head = _SIGNAL.pack(
        ENHANCED_PACKET, _OVERHEAD, channel_id, time_ns >> 32, time_ns & 0xFFFFFFFF, HEADER_SIZE, HEADER_SIZE,
        VERSION, _SIGNAL_KIND, HEADER_SIZE, direction, 0, 0, channel_id, 0,
        connection_id, flag,
    )  # fmt: skip
    return head + _tail(direction, _OVERHEAD)


def packets(
    time_ns: int,
    direction: int,
    channel_id: int,
    batch: Sequence[RingPacket] | Sequence[OutgoingPacket],
    offset: int,
    read_index: int,
    write_index: int,
    ring_size: int,
) -> bytes:
    """Ring packets that follow each other from ``offset`` on, one block each."""
    high, low = time_ns >> 32, time_ns & 0xFFFFFFFF
    constant = _PACKET_CONSTANT.pack(
        VERSION, _PACKET_KIND, HEADER_SIZE, direction, 0, 0, channel_id, 0, ring_size
    )  # fmt: skip
    pack = _PACKET.pack
    parts: list[Bytes] = []
    # Packets that were received have names, and those of the extension module are no tuples.
    are_plain = len(batch) > 0 and type(batch[0]) is tuple
    plain = cast("Sequence[OutgoingPacket]", batch) if are_plain else map(_PLAIN, batch)
    for packet_type, packet_flags, transaction_id, extension, payload in plain:
        data_offset = _DESCRIPTOR_SIZE + len(extension)
        size = data_offset + len(payload)
        length = (size + 7) & ~7
        captured = HEADER_SIZE + length
        total = _OVERHEAD + length
        head = pack(
            ENHANCED_PACKET, total, channel_id, high, low, captured, captured, constant,
            offset, read_index, write_index, packet_type, data_offset >> 3, length >> 3, packet_flags, transaction_id,
        )  # fmt: skip
        parts += (head, extension, payload, _PADDING[length - size], _tail(direction, total))
        offset += length + _FOOTER_SIZE
        if offset >= ring_size > 0:
            offset -= ring_size
    return b"".join(parts)


def external(
    time_ns: int,
    direction: int,
    channel_id: int,
    transaction_id: int,
    total_length: int,
    data_offset: int,
    data: Iterable[Bytes],
) -> bytes:
    """Data outside the ring."""
    body = b"".join(data)
    size = len(body)
    pad = -size & 3
    total = _OVERHEAD + size + pad
    head = _EXTERNAL.pack(
        ENHANCED_PACKET, total, channel_id, time_ns >> 32, time_ns & 0xFFFFFFFF,
        HEADER_SIZE + size, HEADER_SIZE + max(size, total_length - data_offset),
        VERSION, _EXTERNAL_KIND, HEADER_SIZE, direction, 0, 0, channel_id, 0,
        transaction_id, total_length, data_offset,
    )  # fmt: skip
    return b"".join((head, body, _PADDING[pad], _tail(direction, total)))


def register(time_ns: int, vp: int, number: int, value: int) -> bytes:
    """A register that the guest wrote."""
    direction = 1
    head = _REGISTER.pack(
        ENHANCED_PACKET, _OVERHEAD, 0, time_ns >> 32, time_ns & 0xFFFFFFFF, HEADER_SIZE, HEADER_SIZE,
        VERSION, _REGISTER_KIND, HEADER_SIZE, direction, 0, 0, 0, 0,
        vp, number, value,
    )  # fmt: skip
    return head + _tail(direction, _OVERHEAD)


def note(time_ns: int, kind: NoteKind, text: str, lost: int = 0) -> bytes:
    """A remark; ``lost`` is how many records were dropped just before it."""
    body = text.encode("utf-8", "backslashreplace")[:0xFFFF]
    size = len(body)
    pad = -size & 3
    total = _OVERHEAD + size + pad + (12 if lost else 0)
    head = _NOTE.pack(
        ENHANCED_PACKET, total, 0, time_ns >> 32, time_ns & 0xFFFFFFFF, HEADER_SIZE + size, HEADER_SIZE + size,
        VERSION, _NOTE_KIND, HEADER_SIZE, 0, 0, 0, 0, 0,
        kind,
    )  # fmt: skip
    tail = _LOSSY_TAIL.pack(EPB_FLAGS, 4, 0, EPB_DROPCOUNT, 8, lost, 0, total) if lost else _tail(0, total)
    return b"".join((head, body, _PADDING[pad], tail))


_extension = native.load("vmbus.capture._records")
quick_packets = _extension.packets if _extension else packets
quick_external = _extension.external if _extension else external
quick_signal = _extension.signal if _extension else signal
