"""Turns records as they come out of the queue into the blocks of a pcapng section.

An :class:`Assembler` gives each channel an interface, follows the connection's state, and can begin a new section at
any moment: a rotated file, a flight recorder's dump and a late attacher all get a prologue from it and then the same
bytes. Interface numbers are therefore the same in every section of a recording. 0 is the control plane; the sockets of
one service share an interface, or a host that runs for months would describe every connection there ever was.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from vmbus.capture import blocks
from vmbus.capture.encode import BODY_OFFSET, KIND_OFFSET, NOTE_KIND_OFFSET
from vmbus.capture.state import StateKeeper, offered_channel
from vmbus.wire.capture import NoteKind, RecordKind
from vmbus.wire.control import MessageHeader
from vmbus.wire.guids import INTERFACES, interface_name
from vmbus.wire.offer import OfferChannelPre7, OfferFlags

CONTROL_PLANE = "vmbus"

_LENGTH_AND_CHANNEL = struct.Struct("<II")
_INTERFACE = struct.Struct("<I")
_TIME = struct.Struct("<II")
_PACKET, _MESSAGE, _NOTE = int(RecordKind.PACKET), int(RecordKind.MESSAGE), int(RecordKind.NOTE)


class Assembled(NamedTuple):
    """What became of a batch of blocks."""

    interfaces: bytes
    """Descriptions of interfaces that are new; they have to be written first."""
    packets: bytearray
    """The packet blocks."""
    has_problem: bool = False
    """Whether one of them is a note of a problem."""


def split(chunk: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Start and end of each block in a chunk of whole blocks."""
    position, end = 0, len(chunk)
    while position < end:
        after = position + _INTERFACE.unpack_from(chunk, position + 4)[0]
        yield position, after
        position = after


class Assembler:
    """Follows one recording."""

    def __init__(self) -> None:
        self.state = StateKeeper()
        self.first_time = 0
        self.last_time = 0
        self._described = [blocks.interface_description(CONTROL_PLANE, "VMBus control plane")]
        self._counts = [0]
        self._interface_of: dict[int, int] = {0: 0}
        self._numbers: dict[bytes, int] = {}
        self._new: list[bytes] = []

    @property
    def interface_count(self) -> int:
        return len(self._described)

    def interfaces(self, since: int = 0) -> bytes:
        """The descriptions of all interfaces, or of those from number ``since`` on."""
        return b"".join(self._described[since:])

    def assemble(self, chunk: bytearray) -> Assembled:
        """Put interface numbers into a chunk of whole blocks (it is changed in place) and follow them."""
        position, end = 0, len(chunk)
        interface_of, counts, state = self._interface_of, self._counts, self.state
        if end and not self.first_time:
            self.first_time = _time_at(chunk, 0)
        last = 0
        has_problem = False
        while position < end:
            length, channel_id = _LENGTH_AND_CHANNEL.unpack_from(chunk, position + 4)
            interface = interface_of.get(channel_id)
            if interface is None:
                interface = self._add_interface(channel_id, blocks.interface_description(f"channel {channel_id}"))
            if interface:
                _INTERFACE.pack_into(chunk, position + 8, interface)
            counts[interface] += 1
            kind = chunk[position + KIND_OFFSET]
            if kind == _MESSAGE or (kind == _PACKET and channel_id in state.negotiating):
                block = bytes(chunk[position : position + length])
                if kind == _MESSAGE:
                    self._look_for_offer(block)
                state.follow(block)
            elif kind == _NOTE:
                has_problem = has_problem or chunk[position + NOTE_KIND_OFFSET] == NoteKind.PROBLEM
            last = position
            position += length
        if end:
            self.last_time = _time_at(chunk, last)
        new = b"".join(self._new)
        self._new.clear()
        return Assembled(new, chunk, has_problem)

    def prologue(self, comments: Iterable[str] = (), state: StateKeeper | None = None) -> bytes:
        """The beginning of a section: its header, all interfaces, and a snapshot.

        The snapshot is of the state of this moment, unless another is given.
        """
        snapshot = (state or self.state).blocks()
        return b"".join((blocks.section_header(comments), self.interfaces(), *snapshot))

    def epilogue(self, lost: int) -> bytes:
        """The end of a section: statistics of each interface; what was lost counts on interface 0."""
        statistics: Callable[..., bytes] = blocks.interface_statistics
        return b"".join(
            statistics(number, self.last_time, self.first_time, count + (0 if number else lost), 0 if number else lost)
            for number, count in enumerate(self._counts)
        )

    def _look_for_offer(self, block: bytes) -> None:
        channel_id = offered_channel(block)
        if channel_id is None:
            return
        described = _describe(OfferChannelPre7.parse(block, BODY_OFFSET + MessageHeader.SIZE), channel_id)
        number = self._numbers.get(described)
        if number is None:
            number = self._numbers[described] = self._add_interface(channel_id, described)
        self._interface_of[channel_id] = number

    def _add_interface(self, channel_id: int, described: bytes) -> int:
        number = len(self._described)
        self._described.append(described)
        self._new.append(described)
        self._counts.append(0)
        self._interface_of[channel_id] = number
        return number


def _describe(offer: OfferChannelPre7, channel_id: int) -> bytes:
    """The interface of an offered channel; that of a socket, of which there is no end, is the one of its service."""
    name = interface_name(offer.interface_id)
    if offer.flags & OfferFlags.TLNPI_PROVIDER:
        return blocks.interface_description(name, "sockets of this service", f"vmbus: interface={offer.interface_id}")
    name = f"{name} {offer.instance_id}"
    if offer.subchannel_index:
        name += f" sub-channel {offer.subchannel_index}"
    comment = (
        f"vmbus: channel={channel_id} interface={offer.interface_id} instance={offer.instance_id}"
        f" subchannel={offer.subchannel_index}"
    )
    known = INTERFACES.get(offer.interface_id)
    return blocks.interface_description(name, known.title if known else "", comment)


def _time_at(chunk: bytearray, position: int) -> int:
    high, low = _TIME.unpack_from(chunk, position + 12)
    return int(high << 32 | low)
