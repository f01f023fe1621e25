"""What the journal of a host that has ended says: which packets its guest is still owed an answer to.

Nothing of it is believed before its checksum has been verified, and nothing in it is taken for sound afterwards: each
length is checked against what is there.  ``journal`` has the rules, docs/state-format.md the layout.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmbus.host.journal import (
    ACTIVE_WORD,
    CLOSED,
    ENTRY,
    HEADER,
    HEADER_SIZE,
    LOAN,
    MAGIC,
    PACKET,
    SENT,
    SENT_HEAD,
    TAKEN,
    TAKEN_HEAD,
    VERSION,
    WITHOUT_CHECKSUMS,
    ChannelDebt,
    Debts,
    JournalError,
    checked,
)
from vmbus.ring.packet import MAX_BATCH, RingPacket

Totals = Mapping[int, int]
"""From a channel id to the packets that had been taken when the state was saved."""
Indices = Callable[[int], tuple[int, int] | None]
"""From a channel id to its incoming ring's read index and its outgoing ring's write index; None if it is not open."""


def _decode(data: bytes, at: int = 0) -> tuple[RingPacket, int]:
    packet_type, flags, extension, payload, _, transaction_id = PACKET.unpack_from(data, at)
    start = at + PACKET.size
    middle, end = start + extension, start + extension + payload
    if end > len(data):
        raise JournalError("the journal is damaged: a packet runs over the end of its entry")
    return RingPacket(packet_type, flags, transaction_id, data[start:middle], data[middle:end], 0), end


def check_journal(path: Path) -> None:
    """Raise ``JournalError`` if there is no journal at ``path`` that ``read_journal`` could begin to read."""
    try:
        with path.open("rb") as file:
            _check_header(path, file.read(HEADER.size), path.stat().st_size)
    except OSError as error:
        raise JournalError(f"cannot read the journal {path}: {error.strerror}") from None


def _check_header(path: Path, head: bytes, size: int) -> int:
    """The journal's version."""
    if size < HEADER_SIZE or head[:4] != MAGIC.to_bytes(4, "little"):
        raise JournalError(f"{path} is not a host's journal")
    version = int.from_bytes(head[4:8], "little")
    if not WITHOUT_CHECKSUMS <= version <= VERSION:
        raise JournalError(
            f"{path} is a journal of version {version}, and this host reads {WITHOUT_CHECKSUMS} to {VERSION}"
        )
    return version


def read_journal(path: Path, indices: Indices, saved: Totals | None = None) -> Debts:
    """What the journal of a host that has ended says is owed, given the rings as they stand.

    ``saved`` is what the state knows: a batch that was handled, but whose read index was not committed, counts if the
    state was saved after it; its packets are then to be skipped in the ring.

    Raises ``JournalError`` when the file is missing or is no journal.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(f"cannot read the journal {path}: {error.strerror}") from None
    version = _check_header(path, data[: HEADER.size], len(data))
    return _replay(_entries(path, data, has_checksums=version > WITHOUT_CHECKSUMS), indices, saved or {})


def _entries(path: Path, data: bytes, *, has_checksums: bool) -> bytes:
    """The valid part of the active half."""
    half_size = (len(data) - HEADER_SIZE) // 2
    active, *halves = struct.unpack_from("<QQQ", data, 8 * ACTIVE_WORD)
    if has_checksums and active not in (checked(0), checked(1)):
        raise JournalError(f"{path} is damaged: no half of it is the active one")
    active &= 0xFFFFFFFF
    word = halves[active] if active <= 1 else half_size + 1
    used, checksum = (word & 0xFFFFFFFF, word >> 32) if has_checksums else (word, 0)
    if used > half_size:
        raise JournalError(f"{path} is damaged: its header makes no sense")
    start = HEADER_SIZE + active * half_size
    entries = data[start : start + used]
    if has_checksums and zlib.crc32(entries) != checksum:
        raise JournalError(f"{path} is damaged: its entries and their checksum do not agree")
    return entries


@dataclass(slots=True)
class _Last:
    """The newest entry of a channel: the only one that may not have been committed."""

    kind: int
    before: int
    total: int
    packets: list[RingPacket] = field(default_factory=list)
    """Of TAKEN."""
    loans: list[tuple[int, bytes]] = field(default_factory=list)
    """Of SENT."""
    ids: Sequence[int] = ()
    """Of TAKEN: what was given back.  Of SENT: what was answered."""

    def apply(self, debt: ChannelDebt) -> None:
        if self.kind == TAKEN:
            debt.take(self.packets, self.ids, self.total)
        else:
            debt.settle(self.ids, self.loans, self.total)


def _replay(data: bytes, indices: Indices, saved: Totals) -> Debts:
    debts: Debts = {}
    newest: dict[int, _Last] = {}
    at = 0
    try:
        while at + ENTRY.size <= len(data):
            length, kind, _, channel_id, count = ENTRY.unpack_from(data, at)
            if length < ENTRY.size or length % 8 or at + length > len(data):
                raise JournalError("the journal is damaged: an entry runs over its end")
            body = data[at + ENTRY.size : at + length]
            at += length
            earlier = newest.pop(channel_id, None)
            if earlier is not None:
                earlier.apply(debts.setdefault(channel_id, ChannelDebt()))
            if kind == TAKEN:
                newest[channel_id] = _parse_taken(body, count)
            elif kind == SENT:
                newest[channel_id] = _parse_sent(body, count)
            elif kind == CLOSED:
                debts.pop(channel_id, None)
            else:
                raise JournalError(f"the journal is damaged: there is no entry of kind {kind}")
    except struct.error as error:
        raise JournalError(f"the journal is damaged: {error}") from None

    for channel_id, last in newest.items():
        stand = indices(channel_id)
        if stand is None:
            continue
        debt = debts.setdefault(channel_id, ChannelDebt())
        if last.before != stand[0 if last.kind == TAKEN else 1]:
            last.apply(debt)
        elif last.kind == TAKEN and saved.get(channel_id, 0) >= last.total:
            debt.to_skip = last.total - debt.taken_total
            if not 0 < debt.to_skip <= MAX_BATCH:
                raise JournalError(f"the journal is damaged: a batch of {debt.to_skip} packets")
            last.apply(debt)
    return {channel_id: debt for channel_id, debt in debts.items() if indices(channel_id) is not None}


def _parse_taken(body: bytes, count: int) -> _Last:
    before, _, total, given_back, _ = TAKEN_HEAD.unpack_from(body)
    last = _Last(TAKEN, before, total, ids=struct.unpack_from(f"<{given_back}Q", body, TAKEN_HEAD.size))
    position = TAKEN_HEAD.size + 8 * given_back
    for _ in range(count):
        packet, position = _decode(body, position)
        last.packets.append(packet)
    return last


def _parse_sent(body: bytes, count: int) -> _Last:
    before, _, total, loans, _ = SENT_HEAD.unpack_from(body)
    last = _Last(SENT, before, total, ids=struct.unpack_from(f"<{count}Q", body, SENT_HEAD.size))
    position = SENT_HEAD.size + 8 * count
    for _ in range(loans):
        transaction_id, size, _ = LOAN.unpack_from(body, position)
        start = position + LOAN.size
        position = start + size
        if position > len(body):
            raise JournalError("the journal is damaged: a loan runs over the end of its entry")
        last.loans.append((transaction_id, body[start:position]))
    return last
