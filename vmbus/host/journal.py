"""The journal: which packets a host has taken and not answered, in a mapped file that outlives the process.

A packet goes into the journal before its read index is committed, and its completion before the write index is.  With
the two indices as they stand in the guest's memory a later process knows exactly what is still owed:

- every entry of a channel but the newest was followed by its commit, and counts;
- if the newest one is TAKEN, it counts unless the ring's read index still is where it was before that batch; then the
  packets are in the ring, and are read again;
- if the newest one is SENT, it counts unless the ring's write index still is where it was before it; then the answers
  are not in the ring, and are made again.

The host's own packets that lend the guest memory (a card's receive buffer) are remembered in the same way, from SENT
until the guest's completion is TAKEN.

The file is a header page and two halves.  Entries are appended to the active half; when it has had its turn, what is
still owed is written into the other one, which then becomes active.  One word in the header says how much of a half is
valid and what its checksum is (CRC-32 of all its entries, each begun with the one before), and is stored in one piece
after the entry: what is damaged, torn or cut is recognised wherever it is (``journal_reader``).
docs/state-format.md is the specification.  Journals of version 2 had no checksums, and are read.
"""

from __future__ import annotations

import mmap
import os
import struct
import weakref
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmbus.errors import VmbusError
from vmbus.ring.packet import COMPLETION, TRANSFER_PAGES, OutgoingPacket, RingPacket

MAGIC, VERSION = 0x4A424D56, 3
WITHOUT_CHECKSUMS = 2
"""The version before, which is read and not written."""
HEADER_SIZE = 4096
HALF_SIZE = 16 << 20
TURN_SIZE = 1 << 20
"""A half is left for the other one when so much is in it, if what is owed allows that: pages that were written lately
are cheap to write, and new ones are not."""

TAKEN, SENT, CLOSED = 1, 2, 3

HEADER = struct.Struct("<II")
ENTRY = struct.Struct("<IHHII")  # length, kind, reserved, channel id, count
TAKEN_HEAD = struct.Struct("<IIQII")  # read index before and after, packets taken so far, completions, reserved
SENT_HEAD = struct.Struct("<IIQII")  # write index before and after, packets sent so far, loans, reserved
_HEAD = struct.Struct("<IHHII IIQII")
"""An entry's head with that of its body."""
_ONE_TAKEN = struct.Struct("<IHHII IIQII HHIIIQ")
_ONE_SENT = struct.Struct("<IHHII IIQII Q")
"""The whole of an entry for one packet: a guest that sends the next one when it has the answer waits for both."""
LOAN = struct.Struct("<QII")  # transaction id, bytes of the transfer-page ranges, reserved
PACKET = struct.Struct("<HHIIIQ")  # type, flags, bytes of extension, bytes of payload, reserved, transaction id
ACTIVE_WORD, USED_WORD = 1, 2
"""Where the active half's number and the halves' lengths lie in the header, in 64-bit words: the value in the low 32
bits, a checksum in the high ones (of the number itself; of what is in the half)."""

WANTS_COMPLETION = 1


class JournalError(VmbusError):
    """The journal cannot be used."""


@dataclass(slots=True)
class ChannelDebt:
    """What a channel owes its guest: packets by transaction id, in the order in which they came."""

    owed: dict[int, list[RingPacket]] = field(default_factory=dict)
    lent: dict[int, bytes] = field(default_factory=dict)
    """Transfer-page ranges that the guest has not given back, by the transaction id of the packet that named them."""
    taken_total: int = 0
    sent_total: int = 0
    to_skip: int = 0
    """Packets that are in the ring still, and that the state has the effect and the answers of."""

    def take(self, packets: Iterable[RingPacket], given_back: Iterable[int], total: int) -> None:
        self.taken_total = total
        for packet in packets:
            self.owed.setdefault(packet.transaction_id, []).append(packet)
        for transaction_id in given_back:
            self.lent.pop(transaction_id, None)

    def settle(self, answered: Iterable[int], loans: Iterable[tuple[int, bytes]], total: int) -> None:
        self.sent_total = total
        self.lent.update(loans)
        owed = self.owed
        for transaction_id in answered:
            waiting = owed.get(transaction_id)
            if waiting is not None:
                if len(waiting) > 1:
                    waiting.pop(0)
                else:
                    del owed[transaction_id]

    def packets(self) -> list[RingPacket]:
        """The packets that are owed an answer."""
        return [packet for waiting in self.owed.values() for packet in waiting]


Debts = dict[int, ChannelDebt]
_Parts = list[bytes]
"""The pieces of an entry's body behind its head."""


def _taken_parts(given_back: Sequence[int], listed: Sequence[RingPacket]) -> _Parts:
    parts = [struct.pack(f"<{len(given_back)}Q", *given_back)] if given_back else []
    for packet in listed:
        extension, payload = packet.extension, packet.payload
        head = PACKET.pack(packet.packet_type, packet.flags, len(extension), len(payload), 0, packet.transaction_id)
        parts += (head, extension, payload)
    return parts


def _sent_parts(answered: Sequence[int], loans: Iterable[tuple[int, bytes]]) -> _Parts:
    parts = [struct.pack(f"<{len(answered)}Q", *answered)] if answered else []
    for key, ranges in loans:
        parts += (LOAN.pack(key, len(ranges), 0), ranges)
    return parts


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
            os.posix_fallocate(fd, 0, HEADER_SIZE)
            self._map = mmap.mmap(fd, HEADER_SIZE + 2 * half_size)
        except OSError as error:
            os.close(fd)
            raise JournalError(f"cannot write the journal {path}: {error.strerror}") from None
        self._close_file = weakref.finalize(self, os.close, fd)
        self._path, self._fd = path, fd
        self._reserved = [0, 0]
        """Bytes of each half that the disk has room for: to write to others would end the process, if it is full."""
        self._view = memoryview(self._map)
        self._words = self._view[:HEADER_SIZE].cast("Q")
        self._view[:8] = HEADER.pack(MAGIC, VERSION)
        self._active = 0
        self._used = 0
        self._checksum = 0
        self._turn_at = min(TURN_SIZE, half_size)
        self._words[ACTIVE_WORD] = checked(self._active)
        for half in (0, 1):
            self._reserve(half, self._turn_at)

    def _reserve(self, half: int, size: int) -> None:
        """Have room on the disk for so much of a half, and some more.  Raises ``JournalError``."""
        if size <= self._reserved[half]:
            return
        whole = min(-(-size // TURN_SIZE) * TURN_SIZE, self._half_size)
        try:
            os.posix_fallocate(self._fd, HEADER_SIZE + half * self._half_size, whole)
        except OSError as error:
            raise JournalError(f"cannot write the journal {self._path}: {error.strerror}") from None
        self._reserved[half] = whole

    def taken(self, channel_id: int, before: int, after: int, packets: Sequence[RingPacket]) -> None:
        """A batch is about to be handled; what wants no completion is not remembered."""
        debt = self.debts.get(channel_id) or self._new_debt(channel_id)
        total = debt.taken_total + len(packets)
        packet = packets[0]
        if len(packets) == 1 and packet.flags & WANTS_COMPLETION and packet.packet_type != COMPLETION:
            extension, payload = packet.extension, packet.payload
            length = _ONE_TAKEN.size + len(extension) + len(payload) + 7 & ~7
            entry = _ONE_TAKEN.pack(
                *(length, TAKEN, 0, channel_id, 1, before, after, total, 0, 0),
                *(packet.packet_type, packet.flags, len(extension), len(payload), 0, packet.transaction_id),
            )
            self._append(length, entry + extension + payload)
            debt.take(packets, (), total)
            return
        listed = [packet for packet in packets if packet.flags & WANTS_COMPLETION]
        given_back = [packet.transaction_id for packet in packets if packet.packet_type == COMPLETION]
        parts = _taken_parts(given_back, listed)
        length = _length(parts)
        head = (length, TAKEN, 0, channel_id, len(listed), before, after, total, len(given_back), 0)
        self._append(length, b"".join((_HEAD.pack(*head), *parts)))
        debt.take(listed, given_back, total)

    def sent(self, channel_id: int, before: int, after: int, packets: Sequence[OutgoingPacket]) -> None:
        """Packets are about to be shown to the guest."""
        debt = self.debts.get(channel_id) or self._new_debt(channel_id)
        total = debt.sent_total + len(packets)
        if len(packets) == 1 and packets[0][0] == COMPLETION:
            key = packets[0][2]
            length = _ONE_SENT.size
            self._append(length, _ONE_SENT.pack(length, SENT, 0, channel_id, 1, before, after, total, 0, 0, key))
            debt.settle((key,), (), total)
            return
        answered = [packet[2] for packet in packets if packet[0] == COMPLETION]
        loans = [(packet[2], bytes(packet[3])) for packet in packets if packet[0] == TRANSFER_PAGES]
        parts = _sent_parts(answered, loans)
        length = _length(parts)
        head = (length, SENT, 0, channel_id, len(answered), before, after, total, len(loans), 0)
        self._append(length, b"".join((_HEAD.pack(*head), *parts)))
        debt.settle(answered, loans, total)

    def _new_debt(self, channel_id: int) -> ChannelDebt:
        debt = self.debts[channel_id] = ChannelDebt()
        return debt

    def closed(self, channel_id: int) -> None:
        """Nothing is owed on a channel any more."""
        if channel_id in self.debts:
            self._append(ENTRY.size, ENTRY.pack(ENTRY.size, CLOSED, 0, channel_id, 0))
            del self.debts[channel_id]

    def adopt(self, debts: Debts) -> None:
        """Go on with what an earlier process owed."""
        self.debts = debts
        self._rewrite()

    def close(self) -> None:
        self._words.release()
        self._view.release()
        self._map.close()
        self._close_file()

    def _append(self, length: int, entry: bytes) -> None:
        if self._used + length > self._turn_at:
            self._rewrite()  # everything before this entry was committed, and is in the debts
        self._put(length, entry)

    def _put(self, length: int, entry: bytes) -> None:
        """Add an entry, which zeros fill up to ``length``."""
        used = self._used + length
        if used > self._half_size:
            raise JournalError(_TOO_MUCH)
        if used > self._reserved[self._active]:
            self._reserve(self._active, used)
        if len(entry) < length:
            entry = entry.ljust(length, b"\0")
        end = HEADER_SIZE + self._active * self._half_size + used
        self._map[end - length : end] = entry
        self._used = used
        self._checksum = checksum = zlib.crc32(entry, self._checksum)
        self._words[USED_WORD + self._active] = checksum << 32 | used

    def _rewrite(self) -> None:
        """Write what is owed into the other half, and make that the active one."""
        entries: list[tuple[int, bytes]] = []
        for channel_id, debt in self.debts.items():
            listed = debt.packets()
            for kind, count, total, more, parts in (
                (TAKEN, len(listed), debt.taken_total, 0, _taken_parts((), listed)),
                (SENT, 0, debt.sent_total, len(debt.lent), _sent_parts((), debt.lent.items())),
            ):
                length = _length(parts)
                head = _HEAD.pack(length, kind, 0, channel_id, count, _NO_INDEX, _NO_INDEX, total, more, 0)
                entries.append((length, b"".join((head, *parts))))
        if sum(length for length, _ in entries) > self._half_size:
            raise JournalError(_TOO_MUCH)
        other = 1 - self._active
        self._words[USED_WORD + other] = 0
        self._active, self._used, self._checksum = other, 0, 0
        for entry in entries:
            self._put(*entry)
        self._turn_at = min(max(TURN_SIZE, 4 * self._used), self._half_size)
        self._words[ACTIVE_WORD] = checked(other)


_TOO_MUCH = "the guest is owed more answers than the journal can hold"


def _length(parts: _Parts) -> int:
    """The bytes of an entry of these parts."""
    return _HEAD.size + sum(map(len, parts)) + 7 & ~7


def checked(number: int) -> int:
    """The word of the header that says which half is active."""
    return zlib.crc32(number.to_bytes(4, "little")) << 32 | number


_NO_INDEX = 0xFFFFFFFF
"""In entries that are no batch but a summary: they always count."""
