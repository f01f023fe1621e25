"""The two buffers that a guest lends: sections that it sends from, and suballocations in which it receives.

Both are GPADLs mapped as one piece of memory. The host divides the receive buffer into suballocations of one size,
and each belongs to the host until it is named in a transfer-page packet, and then to the guest until it completes
that packet. A guest that takes coalesced frames gets larger ones, because each piece of a frame costs both ends
a message; Linux wants no piece longer than what it was told here.

Sources: openvmm ``netvsp/src/buffers.rs`` (``sub_allocation_size_for_mtu``), ``rx_bufs.rs``; Linux 6.12
``drivers/net/hyperv/netvsc.c`` (``netvsc_init_buf``, ``netvsc_receive``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

from vmbus.devices.network.errors import BadNetworkBuffer, BadSection, UnknownTransaction
from vmbus.gpadl import Gpadl
from vmbus.ring.ranges import parse_transfer_pages

SECTION_SIZE: Final = 6144
"""Bytes of a send section: what every host says."""

HEADROOM: Final = 256
"""Bytes of a suballocation for the RNDIS headers."""

TAG: Final = 4
"""Bytes by which an 802.1Q tag may lengthen a frame."""

FOOTROOM: Final = 36
"""Bytes at the end of a suballocation that newer Windows guests overwrite (openvmm ``BROKEN_CO_NETVSC_FOOTER_LEN``)."""

MOST_SHOWN: Final = 16
"""Outstanding packets that are shown to people one by one."""

LARGE_SUBALLOCATION: Final = 33 << 10
"""Bytes of a suballocation for coalesced frames: the longest has two pieces."""

ENOUGH: Final = 256
"""Suballocations that are left at least when they are made larger: a short frame takes a whole one too."""

RESERVED: Final = 16
"""Suballocations that are kept for control messages, so that a flood of frames does not stop them."""


def suballocation_size(frame_size: int) -> int:
    """The bytes of a suballocation for frames of up to ``frame_size`` bytes."""
    return (HEADROOM + frame_size + FOOTROOM + 63) & ~63


def large_suballocation_size(frame_size: int, buffer_size: int) -> int:
    """The same for frames that may be coalesced, in a buffer of ``buffer_size`` bytes."""
    return max(suballocation_size(frame_size), min(LARGE_SUBALLOCATION, buffer_size // ENOUGH & ~63))


class SendBuffer:
    """The guest's send buffer."""

    __slots__ = ("_mapping", "_view", "gpadl_id")

    def __init__(self, gpadl: Gpadl) -> None:
        """Map it; the mapping lives until :meth:`close`."""
        self.gpadl_id = gpadl.gpadl_id
        if gpadl.byte_count < SECTION_SIZE:
            raise BadNetworkBuffer(f"a send buffer of {gpadl.byte_count} bytes has no section of {SECTION_SIZE} bytes")
        self._mapping = gpadl.map()
        self._view = self._mapping.view

    def section(self, index: int, size: int) -> memoryview:
        """The first ``size`` bytes of a section; the guest can change them at any moment."""
        start = index * SECTION_SIZE
        if not 0 < size <= SECTION_SIZE or start + size > len(self._view):
            raise BadSection(f"{size} bytes in section {index} are not in a send buffer of {len(self._view)} bytes")
        return self._view[start : start + size]

    def close(self) -> None:
        """Unmap it; no slice may be held."""
        self._view = memoryview(b"")
        self._mapping.close()


def next_epoch() -> int:
    """A transaction id beyond all that hosts before this one can have given to packets of the same session."""
    return time.time_ns() >> 10 << 8


class ReceiveBuffer:
    """The guest's receive buffer, its free suballocations, and which of them are the guest's."""

    __slots__ = (
        "_first", "_mapping", "_outstanding",
        "count", "free", "gpadl_id", "longest_piece", "next_transaction", "reserved", "set_id", "size", "view",
    )  # fmt: skip

    def __init__(self, gpadl: Gpadl, set_id: int, size: int, first_transaction: int = 1) -> None:
        """Map it and divide it into suballocations of ``size`` bytes."""
        self.gpadl_id = gpadl.gpadl_id
        self.set_id = set_id
        self.size = size
        self.count = gpadl.byte_count // size
        if not self.count:
            raise BadNetworkBuffer(f"a receive buffer of {gpadl.byte_count} bytes has no suballocation of {size} bytes")
        self.longest_piece = size - HEADROOM - FOOTROOM + TAG
        """Bytes of a frame, or of a piece of one, that fit into a suballocation: an 802.1Q tag uses the headroom."""
        self.reserved = min(RESERVED, self.count // 2)
        """Suballocations that frames leave to control messages."""
        self._mapping = gpadl.map()
        self.view = self._mapping.view
        self.free = list(range(self.count - 1, -1, -1))
        """Indices of free suballocations, the next one to use last."""
        self._outstanding: dict[int, tuple[float, Sequence[int]]] = {}
        """When it was lent and which suballocations, by transaction id, the oldest first."""
        self.next_transaction = self._first = first_transaction

    @property
    def room_for_frames(self) -> int:
        """Free suballocations beyond those kept for control messages."""
        return len(self.free) - self.reserved

    @property
    def most_for_frames(self) -> int:
        """Suballocations for frames when all are free."""
        return self.count - self.reserved

    @property
    def outstanding(self) -> int:
        """Packets that the guest has not completed."""
        return len(self._outstanding)

    def lend(self, indices: Sequence[int]) -> int:
        """The suballocations go to the guest together; return the transaction id that brings them back."""
        transaction_id = self.next_transaction
        self.next_transaction += 1
        self._outstanding[transaction_id] = (time.monotonic(), indices)
        return transaction_id

    def take_back(self, transaction_id: int) -> None:
        """The guest completed that packet."""
        lent = self._outstanding.pop(transaction_id, None)
        if lent is None and 0 < transaction_id < self._first:
            return  # lent by a host that was killed, or in a buffer that the guest took back
        if lent is None:
            raise UnknownTransaction(f"transaction {transaction_id:#x} is completed, and no receive packet has that id")
        self.free += lent[1]

    def inspect(self) -> dict[str, Any]:
        """Live state for people: of what the guest has, the oldest packets."""
        now = time.monotonic()
        oldest = islice(self._outstanding.items(), MOST_SHOWN)
        return {
            "suballocations": self.count,
            "size": self.size,
            "free": len(self.free),
            "outstanding_packets": self.outstanding,
            "outstanding": [
                {"transaction_id": key, "suballocations": len(indices), "age_seconds": round(now - since, 3)}
                for key, (since, indices) in oldest
            ],
        }

    def checkpoint(self) -> dict[str, Any]:
        """Which buffer this is: what does not change with every packet."""
        return {"gpadl_id": self.gpadl_id, "set_id": self.set_id, "suballocation_size": self.size}

    def save(self) -> dict[str, Any]:
        """What another host process needs to go on with this buffer."""
        return {
            **self.checkpoint(),
            "next_transaction": self.next_transaction,
            "outstanding": {str(key): list(indices) for key, (_, indices) in self._outstanding.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the transactions of :meth:`save`; without them, those of the host before are of another epoch."""
        if "outstanding" not in state:
            self.next_transaction = self._first = next_epoch()
            return
        self.next_transaction = state["next_transaction"]
        now = time.monotonic()
        self._outstanding = {int(key): (now, indices) for key, indices in state["outstanding"].items()}
        lent = {index for _, indices in self._outstanding.values() for index in indices}
        self.free = [index for index in range(self.count - 1, -1, -1) if index not in lent]

    def adopt(self, loans: Mapping[int, bytes]) -> None:
        """A host that was killed lent these to the guest: they stay the guest's until it completes them.

        What is in them may not have been read yet, and of a frame that is said to be checked the guest computes no
        checksum: it would take for sound whatever it was overwritten with.
        """
        lent: set[int] = set()
        for transaction_id, extension in loans.items():
            ranges = parse_transfer_pages(extension, self.count * self.size).ranges
            indices = sorted({at for length, start in ranges for at in self._touched(start, length)})
            self._outstanding.setdefault(transaction_id, (time.monotonic(), indices))
            lent.update(indices)
        self.free = [index for index in self.free if index not in lent]

    def _touched(self, start: int, length: int) -> range:
        return range(start // self.size, (start + length - 1) // self.size + 1)

    def close(self) -> None:
        """Unmap it; no slice may be held."""
        self.free.clear()
        self._outstanding.clear()
        self.view = memoryview(b"")
        self._mapping.close()
