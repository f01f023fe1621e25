"""Reads the records of a capture: a file of any age and origin, a pipe, or the live stream of a running host.

::

    for record in read_records("traffic.pcapng"):
        print(record.time_ns, record.interface.name, record.kind, record.header)

Every packet block becomes a :class:`Record`; one that is not ours (another link type, an unknown version, cut short)
has a ``problem`` that says why and no header. Bytes that are no blocks are reported as ``Damage``. What a peer sent
is in ``body``, and what it means is for the dissectors to say.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from vmbus.capture import blocks
from vmbus.capture.walk import KNOWN_TYPES, Block, BlockWalker, ByteSource, Damage, NotACapture, open_source
from vmbus.errors import VmbusError
from vmbus.wire.capture import LINK_TYPE, RECORD_FORMATS, VERSION, Direction, RecordFlags, RecordHeader, RecordKind
from vmbus.wire.schema import WireError

__all__ = [
    "CannotOpen",
    "CaptureReader",
    "Damage",
    "Interface",
    "NotACapture",
    "Record",
    "parse_record",
    "read_records",
]

PACKET_BLOCKS = frozenset({blocks.ENHANCED_PACKET, blocks.SIMPLE_PACKET, blocks.PACKET})

LOCAL_USE = 0x8000_0000
"""Block types with this bit are other programs' own."""


class CannotOpen(VmbusError):
    """The capture cannot be opened."""


@dataclass(slots=True)
class Interface:
    """An interface of a section: the control plane (number 0), or a channel."""

    number: int
    link_type: int
    name: str = ""
    description: str = ""
    comments: tuple[str, ...] = ()
    resolution: int = 6
    """``if_tsresol``: a negative power of 10, or of 2 with the highest bit set."""
    offset_seconds: int = 0
    offset: int = 0
    """Where in the file it is described, in bytes."""

    def nanoseconds(self, ticks: int) -> int:
        """A time stamp of this interface in nanoseconds since 1970; one that 64 bits cannot hold is the nearest."""
        exponent = self.resolution & 0x7F
        if self.resolution & 0x80:
            scaled = ticks * 1_000_000_000 >> exponent
        elif exponent <= 9:
            scaled = ticks * 10 ** (9 - exponent)
        else:
            scaled = ticks // 10 ** (exponent - 9)
        return max(-(2**63), min(scaled + self.offset_seconds * 1_000_000_000, 2**63 - 1))

    @property
    def is_as_we_write_it(self) -> bool:
        """Whether its link type is ours and its time stamps are nanoseconds since 1970."""
        return self.link_type == LINK_TYPE and self.resolution == 9 and not self.offset_seconds


@dataclass(slots=True)
class Record:
    """One record. ``number`` counts from 1, as Wireshark's frame numbers do."""

    number: int
    offset: int
    """Where its block starts in the file, in bytes."""
    time_ns: int
    interface: Interface
    header: RecordHeader | None
    """The pseudo-header, of the format that its kind has; None if there is no sound one."""
    body: bytes
    original_length: int
    """Bytes of pseudo-header and body before the body was cut to a snap length."""
    block_direction: Direction = Direction.NONE
    dropped: int = 0
    """So many records were lost between this and the last one."""
    comments: tuple[str, ...] = ()
    problem: str = ""

    @property
    def kind(self) -> RecordKind | None:
        return self.header.kind if self.header else None

    @property
    def direction(self) -> Direction:
        return self.header.direction if self.header else self.block_direction

    @property
    def channel_id(self) -> int:
        return self.header.channel_id if self.header else 0

    @property
    def is_snapshot(self) -> bool:
        return self.header is not None and bool(self.header.flags & RecordFlags.SNAPSHOT)

    @property
    def missing(self) -> int:
        """Bytes of the body that were not captured."""
        header_size = self.header.header_size if self.header else 0
        return max(0, self.original_length - header_size - len(self.body))


@dataclass(slots=True)
class Section:
    """What a section says about itself, and its interfaces."""

    hardware: str = ""
    operating_system: str = ""
    application: str = ""
    comments: tuple[str, ...] = ()
    interfaces: list[Interface] = field(default_factory=list)
    is_as_we_write_it: bool = True
    """Whether all its interfaces are."""
    dropped: dict[int, int] = field(default_factory=dict)
    """Records lost, by interface number, from the statistics at the section's end."""

    @classmethod
    def parse(cls, block: Block) -> Self:
        """What a section header block says."""
        section = cls()
        for code, value in _options(block, 16):
            text = value.decode("utf-8", "replace")
            match code:
                case blocks.SHB_HARDWARE:
                    section.hardware = text
                case blocks.SHB_OS:
                    section.operating_system = text
                case blocks.SHB_USERAPPL:
                    section.application = text
                case blocks.OPT_COMMENT:
                    section.comments += (text,)
        return section

    def follow(self, block: Block) -> None:
        """Take in a block that is no packet; ``struct.error`` if it is too short."""
        if block.block_type == blocks.INTERFACE_DESCRIPTION:
            self._add_interface(block)
        elif block.block_type == blocks.INTERFACE_STATISTICS:
            (number,) = struct.unpack_from(block.order + "I", block.body)
            for code, value in _options(block, 12):
                if code == blocks.ISB_IFDROP and len(value) == 8:
                    (self.dropped[number],) = struct.unpack(block.order + "Q", value)

    def _add_interface(self, block: Block) -> None:
        (link_type,) = struct.unpack_from(block.order + "H", block.body)
        interface = Interface(len(self.interfaces), link_type, offset=block.offset)
        self.interfaces.append(interface)
        for code, value in _options(block, 8):
            match code:
                case blocks.IF_NAME:
                    interface.name = value.decode("utf-8", "replace")
                case blocks.IF_DESCRIPTION:
                    interface.description = value.decode("utf-8", "replace")
                case blocks.OPT_COMMENT:
                    interface.comments += (value.decode("utf-8", "replace"),)
                case blocks.IF_TSRESOL if len(value) == 1:
                    interface.resolution = value[0]
                case blocks.IF_TSOFFSET if len(value) == 8:
                    (interface.offset_seconds,) = struct.unpack(block.order + "q", value)
        self.is_as_we_write_it &= interface.is_as_we_write_it


def parse_record(data: bytes, link_type: int = LINK_TYPE) -> tuple[RecordHeader | None, bytes, str]:
    """The pseudo-header, the body and the problem of one packet's data; never raises."""
    if link_type != LINK_TYPE:
        return None, data, f"link type {link_type} is not that of VMBus records ({LINK_TYPE})"
    try:
        header = RecordHeader.parse(data)
        if header.version != VERSION:
            return None, data, f"record version {header.version} is not known here, only {VERSION}"
        form = RECORD_FORMATS.get(header.kind)
        if form is not None:
            header = form.parse(data)
    except WireError as error:
        return None, data, str(error)
    size = header.header_size
    if size < (form.SIZE if form else RecordHeader.SIZE) or size > len(data) or size & 3:
        return None, data, f"the record's header says that it has {size} of the record's {len(data)} bytes"
    return header, data[size:], "" if form else f"unknown kind of record, {int(header.kind)}"


class CaptureReader:
    """Iterates over the records of ``source``: a path, ``-``, ``unix:PATH``, or a binary file object.

    ``on_damage`` is called for what cannot be read. With ``follow`` the reader waits for more at the end of a file.
    ``section`` describes the section that the last record came from.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | ByteSource,
        *,
        follow: bool = False,
        on_damage: Callable[[Damage], None] | None = None,
    ) -> None:
        if isinstance(source, (str, os.PathLike)):
            name = os.fspath(source)
            try:
                self._file: ByteSource = open_source(name)
            except OSError as error:
                raise CannotOpen(f"cannot open {name}: {error.strerror or error}") from error
            self._is_ours = True
        else:
            name, self._file, self._is_ours = "the capture", source, False
        self._walker = BlockWalker(self._file, "standard input" if name == "-" else name, follow=follow)
        self._on_damage = on_damage
        self._number = 0
        self.section = Section()

    def stop(self) -> None:
        """End the iteration at the end of what is there, also with ``follow``."""
        self._walker.stop()

    def __iter__(self) -> Iterator[Record]:
        try:
            for item in self._walker:
                if isinstance(item, Damage):
                    self._report(item)
                    continue
                try:
                    record = self._read(item)
                except (struct.error, IndexError, ArithmeticError):
                    self._report(Damage(item.offset, len(item.body) + 12, "a block is too short for its type"))
                    continue
                if record is not None:
                    yield record
        except OSError as error:
            raise CannotOpen(f"cannot read the capture: {error.strerror or error}") from error
        finally:
            if self._is_ours:
                self._file.close()

    def _report(self, damage: Damage) -> None:
        if self._on_damage is not None:
            self._on_damage(damage)

    def _read(self, block: Block) -> Record | None:
        if block.block_type in PACKET_BLOCKS:
            record = packet_record(block, self.section.interfaces, self._number + 1)
            self._number += 1
            return record
        if block.block_type == blocks.SECTION_HEADER:
            self.section = Section.parse(block)
        elif block.block_type not in KNOWN_TYPES and not block.block_type & LOCAL_USE:
            self._report(unknown_block(block))
        else:
            self.section.follow(block)
        return None


def unknown_block(block: Block) -> Damage:
    """What is said about a block whose type nobody knows."""
    return Damage(block.offset, len(block.body) + 12, f"unknown block type {block.block_type:#x}")


def packet_record(block: Block, interfaces: Sequence[Interface], number: int) -> Record:
    """The record in a packet block of any kind; ``struct.error`` if the block is too short for its kind."""
    match block.block_type:
        case blocks.SIMPLE_PACKET:
            (original,) = struct.unpack_from(block.order + "I", block.body)
            interface, ticks, start, captured = 0, None, 4, original
        case blocks.PACKET:
            interface, _, high, low, captured, original = struct.unpack_from(block.order + "HHIIII", block.body)
            ticks, start = high << 32 | low, 20
        case _:
            interface, high, low, captured, original = struct.unpack_from(block.order + "5I", block.body)
            ticks, start = high << 32 | low, 20
    problem = block.remark
    if interface < len(interfaces) and interfaces[interface].offset <= block.offset:
        described = interfaces[interface]
    else:
        # Its description was damaged or is missing: in a capture of ours it was one of ours.
        described = Interface(interface, LINK_TYPE, f"interface {interface}", resolution=9)
        problem = problem or f"interface {interface} is not described"
    data = block.body[start : start + captured]
    header, body, wrong = parse_record(data, described.link_type)
    if len(data) < captured and block.block_type != blocks.SIMPLE_PACKET:
        wrong = wrong or f"the block holds {len(data)} of the record's {captured} bytes"
    record = Record(
        number, block.offset, 0 if ticks is None else described.nanoseconds(ticks), described, header, body, original,
        problem=wrong or problem,
    )  # fmt: skip
    if block.block_type == blocks.ENHANCED_PACKET:
        _add_options(record, block, start + (captured + 3 & ~3))
    return record


def _add_options(record: Record, block: Block, at: int) -> None:
    for code, value in _options(block, at):
        if code == blocks.OPT_COMMENT:
            record.comments += (value.decode("utf-8", "replace"),)
        elif code == blocks.EPB_FLAGS and len(value) == 4:
            record.block_direction = Direction(struct.unpack(block.order + "I", value)[0] & 3)
        elif code == blocks.EPB_DROPCOUNT and len(value) == 8:
            (record.dropped,) = struct.unpack(block.order + "Q", value)


def _options(block: Block, at: int) -> Iterator[tuple[int, bytes]]:
    """The options of a block from a place in its body on, as far as they are sound."""
    head = struct.Struct(block.order + "HH")
    body = block.body
    while at + 4 <= len(body):
        code, length = head.unpack_from(body, at)
        if code == blocks.OPT_END or at + 4 + length > len(body):
            return
        yield code, body[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)


def read_records(
    source: str | os.PathLike[str] | ByteSource,
    *,
    follow: bool = False,
    on_damage: Callable[[Damage], None] | None = None,
) -> Iterator[Record]:
    """The records of a capture, in its order; see :class:`CaptureReader`."""
    return iter(CaptureReader(source, follow=follow, on_damage=on_damage))
