"""The columns' values: gathered from many blocks at once, or taken from one record. Both say the same.

``gather`` sees the file as 32-bit little-endian words, and reads the same word of every block in one step. The places
are those of pcapng's enhanced packet block and of ``vmbus.wire.capture``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmbus.capture.columns import RecordMark
from vmbus.capture.reader import Interface, Record, Section
from vmbus.wire.capture import (
    HEADER_SIZE,
    LINK_TYPE,
    VERSION,
    ExternalRecord,
    NoteRecord,
    RecordFlags,
    RecordHeader,
    RecordKind,
)
from vmbus.wire.ring import PacketDescriptor, PacketFlags

Words = NDArray[np.uint32]

_PLAIN_BLOCK = 32 + 12  # bytes beside the data of a block whose options are the direction flags and the end mark
_HEADER = 7  # where a block's record begins, in words
_SNAPSHOT, _HAS_OPTIONS = np.uint16(RecordMark.SNAPSHOT), np.uint16(RecordMark.HAS_OPTIONS)
_PROBLEM, _WANTS_COMPLETION = np.uint16(RecordMark.PROBLEM), np.uint16(RecordMark.WANTS_COMPLETION)


def gather(
    words: Words, index: NDArray[np.int64], section: Section, described: NDArray[np.int64] | int, base: int = 0
) -> dict[str, NDArray[Any] | int]:
    """The columns of the enhanced packet blocks that start at ``index`` in ``words``.

    The blocks have been checked: whole, with two equal lengths. ``described`` is how many interfaces the ``section``
    had described before each of them. ``base`` is where in the file the words start.
    """
    last = len(words) - 1
    # A short block at the file's end must not make us look beyond it; what is read there is masked out below.
    is_near_the_end = int(index[-1]) + _HEADER + HEADER_SIZE // 4 + PacketDescriptor.SIZE // 4 > last

    def word(at: NDArray[np.int64]) -> Words:
        return words[np.minimum(at, last)] if is_near_the_end else words[at]

    def two_words(at: NDArray[np.int64]) -> NDArray[np.uint64]:
        return word(at).astype(np.uint64) | (word(at + 1).astype(np.uint64) << np.uint64(32))

    length, number, stated = word(index + 1), word(index + 2), word(index + 5)
    captured = np.minimum(stated, np.maximum(length, 32) - 32)
    ticks = (word(index + 3).astype(np.uint64) << np.uint64(32)) | word(index + 4)
    first, second = word(index + _HEADER), word(index + _HEADER + 1)
    kind = first >> 8 & 0xFF
    header_size = (first >> 16).astype(np.int64)
    is_known_kind = (kind >= RecordKind.MESSAGE) & (kind <= RecordKind.NOTE)
    is_described: NDArray[np.bool_] = number < described
    unusual = [] if section.is_as_we_write_it else _unusual(number[is_described], section)
    foreign = [other.number for other in unusual if other.link_type != LINK_TYPE]
    is_sound = (
        ~(is_described & np.isin(number, foreign))
        & (captured >= RecordHeader.SIZE)
        & (first & 0xFF == VERSION)
        & (header_size <= captured)
        & (header_size & 3 == 0)
        & (header_size >= np.where(is_known_kind, HEADER_SIZE, RecordHeader.SIZE))
    )
    flags = np.where(is_sound & is_known_kind & is_described & (stated == captured), np.uint16(0), _PROBLEM)
    flags[is_sound & (second >> 16 & RecordFlags.SNAPSHOT != 0)] |= _SNAPSHOT
    flags[length > _PLAIN_BLOCK + (captured + 3 & ~np.uint32(3))] |= _HAS_OPTIONS

    transaction_id = np.zeros(len(index), np.uint64)
    subtype = np.zeros(len(index), np.uint16)
    body = index + _HEADER + (header_size >> 2)
    body_length = captured - header_size
    packet = np.flatnonzero(is_sound & (kind == RecordKind.PACKET) & (body_length >= PacketDescriptor.SIZE))
    subtype[packet] = word(body[packet]) & 0xFFFF
    transaction_id[packet] = two_words(body[packet] + 2)
    wants = word(body[packet] + 1) >> 16 & PacketFlags.COMPLETION_REQUESTED != 0
    flags[packet[wants]] |= _WANTS_COMPLETION
    external = np.flatnonzero(is_sound & (kind == RecordKind.EXTERNAL))
    transaction_id[external] = two_words(index[external] + _HEADER + 4)
    message = np.flatnonzero(is_sound & (kind == RecordKind.MESSAGE) & (body_length >= 4))
    subtype[message] = word(body[message]) & 0xFFFF
    note = np.flatnonzero(is_sound & (kind == RecordKind.NOTE))
    subtype[note] = word(index[note] + _HEADER + 4) & 0xFFFF
    return {
        "offset": (index.astype(np.uint64) << np.uint64(2)) + np.uint64(base),
        "time": _times(ticks, ((other, is_described & (number == other.number)) for other in unusual)),
        "transaction_id": transaction_id,
        "channel": np.where(is_sound, word(index + _HEADER + 2), 0),
        "length": captured,
        "original_length": word(index + 6),
        "kind": np.where(is_sound, kind, 0),
        "direction": np.where(is_sound, second & 0xFF, 0),
        "subtype": subtype,
        "flags": flags,
    }


def _unusual(number: Words, section: Section) -> list[Interface]:
    """The interfaces of some records that are not as we write them: of another link type, or with another clock."""
    found = [section.interfaces[place] for place in np.unique(number).tolist()]
    return [interface for interface in found if not interface.is_as_we_write_it]


def _times(ticks: NDArray[np.uint64], unusual: Iterable[tuple[Interface, NDArray[np.bool_]]]) -> NDArray[np.int64]:
    """Time stamps in nanoseconds; ``unusual`` are interfaces with other clocks, and which records are theirs."""
    times = np.minimum(ticks, np.uint64(2**63 - 1)).astype(np.int64)
    for interface, mine in unusual:
        times[mine] = [interface.nanoseconds(int(tick)) for tick in ticks[mine]]
    return times


def describe(record: Record) -> dict[str, NDArray[Any] | int]:
    """The columns of one record."""
    header, body = record.header, record.body
    flags = RecordMark(0)
    if header is None or record.problem:
        flags |= RecordMark.PROBLEM
    if record.comments or record.dropped:
        flags |= RecordMark.HAS_OPTIONS
    values: dict[str, NDArray[Any] | int] = {
        "offset": record.offset,
        "time": record.time_ns,
        "length": len(body) + (header.header_size if header else 0),
        "original_length": record.original_length,
    }
    if header is not None:
        values |= {"channel": header.channel_id, "kind": int(header.kind), "direction": int(header.direction)}
        flags |= RecordMark.SNAPSHOT if record.is_snapshot else RecordMark(0)
        if header.kind is RecordKind.PACKET and len(body) >= PacketDescriptor.SIZE:
            descriptor = PacketDescriptor.parse(body)
            values |= {"subtype": int(descriptor.packet_type), "transaction_id": descriptor.transaction_id}
            if descriptor.flags & PacketFlags.COMPLETION_REQUESTED:
                flags |= RecordMark.WANTS_COMPLETION
        elif header.kind is RecordKind.MESSAGE and len(body) >= 4:
            values["subtype"] = int.from_bytes(body[:2], "little")
        elif isinstance(header, ExternalRecord):
            values["transaction_id"] = header.transaction_id
        elif isinstance(header, NoteRecord):
            values["subtype"] = int(header.note_kind) & 0xFFFF
    values["flags"] = int(flags)
    return values
