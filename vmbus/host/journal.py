"""The journal: which packets a host has taken and not answered, in a mapped file that outlives the process.

A packet goes into the journal before its read index is committed, and its completion before the write index is.  With
the two indices as they stand in the guest's memory a later process knows exactly what is still owed:

- every entry of a channel but the newest was followed by its commit, and counts;
- if the newest one is TAKEN, it counts unless the ring's read index still is where it was before that batch; then the
  packets are in the ring, and are read again;
- if the newest one is SENT, it counts unless the ring's write index still is where it was before it; then the answers
  are not in the ring, and are made again.

The file is a header page and two halves.  Entries are appended to the active half; when it is full, what is still
owed is written into the other one, which then becomes active.  A word in the header says how much of a half is valid,
and is stored after the entry.  docs/state-format.md is the specification.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmbus.errors import VmbusError
from vmbus.ring.packet import COMPLETION, OutgoingPacket, RingPacket

MAGIC, VERSION = 0x4A424D56, 1
HEADER_SIZE = 4096
HALF_SIZE = 16 << 20

TAKEN, SENT, CLOSED = 1, 2, 3

_HEADER = struct.Struct("<II")
_ENTRY = struct.Struct("<IHHII")  # length, kind, reserved, channel id, count
_TAKEN = struct.Struct("<II")  # read index before and after
_SENT = struct.Struct("<IIQ")  # write index before and after, packets sent on the channel so far
_PACKET = struct.Struct("<HHIIIQ")  # type, flags, bytes of extension, bytes of payload, reserved, transaction id
_ACTIVE, _USED = 1, 2
"""Where the active half's number and the halves' lengths lie in the header, in 64-bit words."""

WANTS_COMPLETION = 1


class JournalError(VmbusError):
    """The journal cannot be used."""


@dataclass(slots=True)
class ChannelDebt:
    """What a channel owes its guest: packets by transaction id, in the order in which they came."""

    owed: dict[int, list[bytes]] = field(default_factory=dict)
    sent_total: int = 0

    def take(self, packets: Iterable[tuple[int, bytes]]) -> None:
        for transaction_id, encoded in packets:
            self.owed.setdefault(transaction_id, []).append(encoded)

    def settle(self, transaction_ids: Iterable[int]) -> None:
        for transaction_id in transaction_ids:
            waiting = self.owed.get(transaction_id)
            if waiting:
                waiting.pop(0)
                if not waiting:
                    del self.owed[transaction_id]

    def packets(self) -> list[RingPacket]:
        """The packets that are owed an answer."""
        return [_decode(encoded)[0] for waiting in self.owed.values() for encoded in waiting]


Debts = dict[int, ChannelDebt]
Indices = Callable[[int], tuple[int, int] | None]
"""From a channel id to its incoming ring's read index and its outgoing ring's write index; None if it is not open."""


def _encode(packet: RingPacket) -> bytes:
    head = _PACKET.pack(
        packet.packet_type, packet.flags, len(packet.extension), len(packet.payload), 0, packet.transaction_id
    )
    return head + packet.extension + packet.payload


def _decode(data: bytes, at: int = 0) -> tuple[RingPacket, int]:
    packet_type, flags, extension, payload, _, transaction_id = _PACKET.unpack_from(data, at)
    start = at + _PACKET.size
    middle, end = start + extension, start + extension + payload
    if end > len(data):
        raise JournalError("the journal is damaged: a packet runs over the end of its entry")
    return RingPacket(packet_type, flags, transaction_id, data[start:middle], data[middle:end], 0), end


class Journal:
    """The journal of one host, open for writing; ``debts`` is what it says at this moment."""

    def __init__(self, path: Path, *, half_size: int = HALF_SIZE) -> None:
        """Start an empty journal at ``path``; raises ``JournalError`` when the file cannot be made."""
        self.debts: Debts = {}
        self._half_size = half_size
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"cannot write the journal {path}: {error.strerror}") from None
        try:
            os.ftruncate(fd, 0)
            os.ftruncate(fd, HEADER_SIZE + 2 * half_size)
            self._map = mmap.mmap(fd, HEADER_SIZE + 2 * half_size)
        finally:
            os.close(fd)
        self._view = memoryview(self._map)
        self._words = self._view[:HEADER_SIZE].cast("Q")
        self._view[:8] = _HEADER.pack(MAGIC, VERSION)
        self._active = 0
        self._used = 0

    def taken(self, channel_id: int, before: int, after: int, packets: Sequence[RingPacket]) -> None:
        """A batch is about to be handled; what wants no completion is not remembered."""
        listed = [(packet.transaction_id, _encode(packet)) for packet in packets if packet.flags & WANTS_COMPLETION]
        self._append(TAKEN, channel_id, len(listed), _TAKEN.pack(before, after), *(encoded for _, encoded in listed))
        self.debts.setdefault(channel_id, ChannelDebt()).take(listed)

    def sent(self, channel_id: int, before: int, after: int, packets: Sequence[OutgoingPacket]) -> None:
        """Packets are about to be shown to the guest."""
        debt = self.debts.setdefault(channel_id, ChannelDebt())
        answered = [packet[2] for packet in packets if packet[0] == COMPLETION]
        total = debt.sent_total + len(packets)
        ids = struct.pack(f"<{len(answered)}Q", *answered)
        self._append(SENT, channel_id, len(answered), _SENT.pack(before, after, total), ids)
        debt.sent_total = total
        debt.settle(answered)

    def closed(self, channel_id: int) -> None:
        """Nothing is owed on a channel any more."""
        if channel_id in self.debts:
            self._append(CLOSED, channel_id, 0)
            del self.debts[channel_id]

    def adopt(self, debts: Debts) -> None:
        """Go on with what an earlier process owed."""
        self.debts = debts
        self._rewrite()

    def close(self) -> None:
        self._words.release()
        self._view.release()
        self._map.close()

    def _append(self, kind: int, channel_id: int, count: int, *parts: bytes) -> None:
        body = b"".join(parts)
        length = _ENTRY.size + len(body) + 7 & ~7
        if self._used + length > self._half_size:
            self._rewrite()  # everything before this entry was committed, and is in the debts
            if self._used + length > self._half_size:
                raise JournalError("the guest is owed more answers than the journal can hold")
        self._put(_ENTRY.pack(length, kind, 0, channel_id, count) + body, length)

    def _put(self, entry: bytes, length: int) -> None:
        start = HEADER_SIZE + self._active * self._half_size + self._used
        self._view[start : start + len(entry)] = entry
        self._used += length
        self._words[_USED + self._active] = self._used

    def _rewrite(self) -> None:
        """Write what is owed into the other half, and make that the active one."""
        other = 1 - self._active
        self._words[_USED + other] = 0
        self._active, self._used = other, 0
        for channel_id, debt in self.debts.items():
            listed = [encoded for waiting in debt.owed.values() for encoded in waiting]
            for kind, count, body in (
                (TAKEN, len(listed), _TAKEN.pack(_NO_INDEX, _NO_INDEX) + b"".join(listed)),
                (SENT, 0, _SENT.pack(_NO_INDEX, _NO_INDEX, debt.sent_total)),
            ):
                length = _ENTRY.size + len(body) + 7 & ~7
                if self._used + length > self._half_size:
                    raise JournalError("the guest is owed more answers than the journal can hold")
                self._put(_ENTRY.pack(length, kind, 0, channel_id, count) + body, length)
        self._words[_ACTIVE] = other


_NO_INDEX = 0xFFFFFFFF
"""In entries that are no batch but a summary: they always count."""


def read_journal(path: Path, indices: Indices) -> Debts:
    """What the journal of a host that has ended says is owed, given the rings as they stand.

    Raises ``JournalError`` when the file is missing or is no journal.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(f"cannot read the journal {path}: {error.strerror}") from None
    if len(data) < HEADER_SIZE or _HEADER.unpack_from(data) != (MAGIC, VERSION):
        raise JournalError(f"{path} is not a journal of this version")
    half_size = (len(data) - HEADER_SIZE) // 2
    active, *used = struct.unpack_from("<QQQ", data, 8 * _ACTIVE)
    if active > 1 or used[active] > half_size:
        raise JournalError(f"{path} is damaged: its header makes no sense")
    start = HEADER_SIZE + active * half_size
    return _replay(data[start : start + used[active]], indices)


@dataclass(slots=True)
class _Last:
    """The newest entry of a channel: the only one that may not have been committed."""

    kind: int
    before: int
    packets: list[tuple[int, bytes]] = field(default_factory=list)
    total: int = 0
    answered: Sequence[int] = ()

    def apply(self, debt: ChannelDebt) -> None:
        if self.kind == TAKEN:
            debt.take(self.packets)
        else:
            debt.sent_total = self.total
            debt.settle(self.answered)


def _replay(data: bytes, indices: Indices) -> Debts:
    debts: Debts = {}
    newest: dict[int, _Last] = {}
    at = 0
    try:
        while at + _ENTRY.size <= len(data):
            length, kind, _, channel_id, count = _ENTRY.unpack_from(data, at)
            if length < _ENTRY.size or at + length > len(data):
                raise JournalError("the journal is damaged: an entry runs over its end")
            body = data[at + _ENTRY.size : at + length]
            at += length
            earlier = newest.pop(channel_id, None)
            if earlier is not None:
                earlier.apply(debts.setdefault(channel_id, ChannelDebt()))
            if kind == TAKEN:
                newest[channel_id] = _parse_taken(body, count)
            elif kind == SENT:
                before, _, total = _SENT.unpack_from(body)
                newest[channel_id] = _Last(
                    SENT, before, total=total, answered=struct.unpack_from(f"<{count}Q", body, _SENT.size)
                )
            elif kind == CLOSED:
                debts.pop(channel_id, None)
    except struct.error as error:
        raise JournalError(f"the journal is damaged: {error}") from None

    for channel_id, last in newest.items():
        stand = indices(channel_id)
        if stand is not None and last.before != stand[0 if last.kind == TAKEN else 1]:
            last.apply(debts.setdefault(channel_id, ChannelDebt()))
    return {channel_id: debt for channel_id, debt in debts.items() if indices(channel_id) is not None}


def _parse_taken(body: bytes, count: int) -> _Last:
    before, _ = _TAKEN.unpack_from(body)
    last, position = _Last(TAKEN, before), _TAKEN.size
    for _ in range(count):
        packet, end = _decode(body, position)
        last.packets.append((packet.transaction_id, body[position:end]))
        position = end
    return last
