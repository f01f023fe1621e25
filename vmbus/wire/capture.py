"""The record of our captures: a pseudo-header of 32 bytes, then what was recorded, exactly as it crossed.

This is a format of our own; docs/capture-format.md is its specification, and its tables are made from these
declarations. A record is the packet data of a pcapng enhanced packet block of link type USER0 (147). The first 16 bytes
are the same in every record; the other 16 depend on ``kind``. A later version may make the header longer: whoever
reads a record finds its body at ``header_size`` and skips what it does not know.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.hypervisor import Msr
from vmbus.wire.schema import Format, pad, u8, u16, u32, u64

LINK_TYPE = 147
"""LINKTYPE_USER0, the first of those set aside for private use."""

VERSION = 1


class Direction(OpenEnum):
    """Which way something crossed. The numbers are also those of the direction bits in a pcapng block's flags."""

    NONE = 0
    GUEST_TO_HOST = 1
    HOST_TO_GUEST = 2


class RecordKind(OpenEnum):
    """What a record holds."""

    MESSAGE = 1
    SIGNAL = 2
    PACKET = 3
    EXTERNAL = 4
    REGISTER = 5
    NOTE = 6


class RecordFlags(OpenFlags):
    """What is special about a record."""

    SNAPSHOT = 1
    """It did not cross now: it repeats what led to the state in which this capture starts."""


class NoteKind(OpenEnum):
    """Who says what a note says."""

    TEXT = 0
    CONSOLE = 1
    KERNEL_LOG = 2
    PROBLEM = 3


class RecordHeader(Format):
    """What every record begins with."""

    version: int = u8(default=VERSION, doc="of this format; another number means another layout behind it")
    kind: RecordKind = u8(RecordKind)
    header_size: int = u16(default=32, unit="bytes", doc="from the record's start to its body")
    direction: Direction = u8(Direction, default=Direction.NONE)
    reserved: int = u8(default=0)
    flags: RecordFlags = u16(RecordFlags, default=RecordFlags(0))
    channel_id: int = u32(default=0, doc="0: the control plane, or unknown")
    reserved2: int = u32(default=0)


class MessageRecord(RecordHeader):
    """A hypervisor message. The body is its payload: a control message of VMBus."""

    vp: int = u32(default=0, doc="the virtual processor that it was delivered to")
    sint: int = u32(default=0, doc="the synthetic interrupt source that it was delivered to")
    connection_id: int = u32(default=0, doc="the connection that it was posted on")
    message_type: int = u32(default=1, doc="1: VMBus")


class SignalRecord(RecordHeader):
    """An event. There is no body."""

    connection_id: int = u32(default=0, doc="the connection that the guest signalled")
    flag: int = u32(default=0, doc="the event flag that was set")
    reserved3: bytes = pad(8, default=b"")


class PacketRecord(RecordHeader):
    """A ring packet. The body is its descriptor, extension and payload, without the footer of 8 bytes."""

    ring_size: int = u32(default=0, unit="bytes", doc="of the ring's data; 0: unknown")
    offset: int = u32(default=0, unit="bytes", doc="where in the ring the packet starts")
    read_index: int = u32(default=0, unit="bytes", doc="as it stood when the packet was taken out or put in")
    write_index: int = u32(default=0, unit="bytes", doc="as it stood when the packet was taken out or put in")


class ExternalRecord(RecordHeader):
    """Data outside the ring that a packet pointed at. The body is its bytes, cut to the snap length."""

    transaction_id: int = u64(default=0, doc="of the packet that points at the data")
    total_length: int = u32(default=0, unit="bytes", doc="of all the packet's ranges together")
    data_offset: int = u32(default=0, unit="bytes", doc="where in all that data the body starts")


class RegisterRecord(RecordHeader):
    """The guest wrote a synthetic register. There is no body."""

    vp: int = u32(default=0)
    number: Msr = u32(Msr, default=Msr(0), doc="the MSR's number in the TLFS")
    value: int = u64(default=0)


class NoteRecord(RecordHeader):
    """A remark on the time line. The body is UTF-8 text."""

    note_kind: NoteKind = u32(NoteKind, default=NoteKind.TEXT)
    reserved3: bytes = pad(12, default=b"")


RECORD_FORMATS: dict[int, type[RecordHeader]] = {
    RecordKind.MESSAGE: MessageRecord,
    RecordKind.SIGNAL: SignalRecord,
    RecordKind.PACKET: PacketRecord,
    RecordKind.EXTERNAL: ExternalRecord,
    RecordKind.REGISTER: RegisterRecord,
    RecordKind.NOTE: NoteRecord,
}
"""The format of each kind's header."""

HEADER_SIZE = MessageRecord.SIZE
