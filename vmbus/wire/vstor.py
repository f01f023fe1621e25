"""VSTOR: the storage protocol in the packets of a SCSI controller's or an IDE accelerator's channel.

A request is an in-band or GPA-direct packet, :class:`VstorRequest`; its body is chosen by the operation. The host
answers each with a completion packet of operation COMPLETE_IO, whose body depends on the operation that it answers
(:data:`COMPLETION_FORMATS`). Both are padded to the largest packet of the negotiated version, because Windows guests
check the size. Unsolicited packets of the host (REMOVE_DEVICE, ENUMERATE_BUS) are :class:`VstorRequest` too.

Sources: openvmm ``vm/devices/storage/storvsp_protocol/src/lib.rs`` and ``scsi_defs/src/srb.rs``; Linux 6.12
``drivers/scsi/storvsc_drv.c`` (``vstor_packet``, ``vmscsi_request``, ``hv_fc_wwn_packet``). Commands, sense data and
what they carry are in :mod:`vmbus.wire.scsi`.
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, bits, nested, pad, raw, rest, u8, u16, u32, variant

SCSI_INTERFACE_ID = UUID("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f")
IDE_INTERFACE_ID = UUID("32412632-86cb-44a2-9b5c-50d1417354f5")


class VstorVersion(OpenEnum):
    """Protocol versions, major in the high byte; named after the Windows that brought them."""

    WIN6 = 0x0200
    WIN7 = 0x0402
    WIN8 = 0x0501
    WIN8_1 = 0x0600
    WIN10 = 0x0602


class VstorOperation(OpenEnum):
    """What a packet asks for or answers."""

    COMPLETE_IO = 1
    REMOVE_DEVICE = 2
    EXECUTE_SRB = 3
    RESET_LUN = 4
    RESET_ADAPTER = 5
    RESET_BUS = 6
    BEGIN_INITIALIZATION = 7
    END_INITIALIZATION = 8
    QUERY_PROTOCOL_VERSION = 9
    QUERY_PROPERTIES = 10
    ENUMERATE_BUS = 11
    FC_HBA_DATA = 12
    CREATE_SUB_CHANNELS = 13
    EVENT_NOTIFICATION = 14


class VstorFlags(OpenFlags):
    """Flags of a packet."""

    REQUEST_COMPLETION = 1


class VstorStatus(OpenEnum):
    """NTSTATUS of the whole operation."""

    SUCCESS = 0x0000_0000
    BUFFER_OVERFLOW = 0x8000_0005
    DEVICE_BUSY = 0x8000_0011
    UNSUCCESSFUL = 0xC000_0001
    INVALID_PARAMETER = 0xC000_000D
    INVALID_DEVICE_REQUEST = 0xC000_0010
    REVISION_MISMATCH = 0xC000_0059
    DEVICE_NOT_CONNECTED = 0xC000_009D
    IO_TIMEOUT = 0xC000_00B5
    DEVICE_DOES_NOT_EXIST = 0xC000_00C0
    CANCELLED = 0xC000_0120
    INVALID_DEVICE_STATE = 0xC000_0184
    IO_DEVICE_ERROR = 0xC000_0185


class SrbStatus(OpenEnum):
    """How the request block ended, in 6 bits."""

    PENDING = 0x00
    SUCCESS = 0x01
    ABORTED = 0x02
    ABORT_FAILED = 0x03
    ERROR = 0x04
    BUSY = 0x05
    INVALID_REQUEST = 0x06
    INVALID_PATH_ID = 0x07
    NO_DEVICE = 0x08
    TIMEOUT = 0x09
    SELECTION_TIMEOUT = 0x0A
    COMMAND_TIMEOUT = 0x0B
    MESSAGE_REJECTED = 0x0D
    BUS_RESET = 0x0E
    PARITY_ERROR = 0x0F
    REQUEST_SENSE_FAILED = 0x10
    NO_HBA = 0x11
    DATA_OVERRUN = 0x12
    UNEXPECTED_BUS_FREE = 0x13
    PHASE_SEQUENCE_FAILURE = 0x14
    BAD_SRB_BLOCK_LENGTH = 0x15
    REQUEST_FLUSHED = 0x16
    INVALID_LUN = 0x20
    INVALID_TARGET_ID = 0x21
    BAD_FUNCTION = 0x22
    ERROR_RECOVERY = 0x23
    NOT_POWERED = 0x24
    LINK_DOWN = 0x25
    INTERNAL_ERROR = 0x30


class ScsiStatus(OpenEnum):
    """The status byte of a SCSI command (SAM). Source: Linux ``include/scsi/scsi_proto.h``, openvmm ``scsi_defs``."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    INTERMEDIATE = 0x10
    INTERMEDIATE_CONDITION_MET = 0x14
    RESERVATION_CONFLICT = 0x18
    COMMAND_TERMINATED = 0x22
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40


class DataDirection(OpenEnum):
    """Which way the data of a request goes (Linux ``storvsc_request_type``)."""

    OUT = 0
    IN = 1
    NONE = 2


class SrbFlags(OpenFlags):
    """Flags of a request block (Linux ``SRB_FLAGS_*``; the special-behaviour bit from openvmm ``scsi_defs``)."""

    QUEUE_ACTION_ENABLE = 0x2
    DISABLE_DISCONNECT = 0x4
    DISABLE_SYNCH_TRANSFER = 0x8
    BYPASS_FROZEN_QUEUE = 0x10
    DISABLE_AUTOSENSE = 0x20
    DATA_IN = 0x40
    DATA_OUT = 0x80
    NO_QUEUE_FREEZE = 0x100
    ADAPTER_CACHE_ENABLE = 0x200
    FREE_SENSE_BUFFER = 0x400
    D3_PROCESSING = 0x800
    SPECIAL_BEHAVIOR = 0x8000
    IS_ACTIVE = 0x1_0000
    ALLOCATED_FROM_ZONE = 0x2_0000
    SGLIST_FROM_POOL = 0x4_0000
    BYPASS_LOCKED_QUEUE = 0x8_0000
    NO_KEEP_AWAKE = 0x10_0000
    PORT_DRIVER_ALLOCSENSE = 0x20_0000
    PORT_DRIVER_SENSEHASPORT = 0x40_0000
    DONT_START_NEXT_PACKET = 0x80_0000


class PropertyFlags(OpenFlags):
    """Flags of :class:`ChannelProperties`."""

    SUPPORTS_MULTI_CHANNEL = 1
    EMULATED_IDE = 2


CDB_SIZE = 16
SENSE_SIZE = 20


class _SrbHead(Format):
    length: int = u16(default=0x34, unit="bytes", doc="of the request block: 0x34, or 0x24 before 5.1")
    autosense_valid: int = bits(1, of=8, msb=True, default=0)
    queue_frozen: int = bits(1, default=0)
    srb_status: SrbStatus = bits(6, SrbStatus, default=0)
    scsi_status: ScsiStatus = u8(ScsiStatus, default=0)
    port: int = u8(default=0)
    path: int = u8(default=0)
    target: int = u8(default=0)
    lun: int = u8(default=0)
    cdb_length: int = u8(default=CDB_SIZE, unit="bytes")
    sense_length: int = u8(default=SENSE_SIZE, unit="bytes")
    direction: DataDirection = u8(DataDirection, default=2)
    properties: int = u8(default=0)
    data_length: int = u32(default=0, unit="bytes", doc="to move, or moved")


class ScsiRequestV1(_SrbHead):
    """A SCSI command on its way to the host, before 5.1 (0x24 bytes)."""

    cdb: bytes = raw(CDB_SIZE, doc="the command; see vmbus.wire.scsi.CDB_FORMATS")
    cdb_padding: bytes = pad(4, default=b"", doc="the sense data is longer than the command")


class ScsiRequest(ScsiRequestV1):
    """A SCSI command on its way to the host (0x34 bytes, since 5.1)."""

    reserved: int = u16(default=0)
    queue_tag: int = u8(default=0)
    queue_action: int = u8(default=0)
    srb_flags: SrbFlags = u32(SrbFlags, default=0)
    timeout: int = u32(default=0, unit="s")
    queue_sort_key: int = u32(default=0)


class ScsiResultV1(_SrbHead):
    """How a SCSI command ended, before 5.1 (0x24 bytes)."""

    sense: bytes = raw(SENSE_SIZE, default=b"", doc="valid if autosense_valid; see vmbus.wire.scsi.sense_format")


class ScsiResult(ScsiResultV1):
    """How a SCSI command ended (0x34 bytes, since 5.1)."""

    reserved: int = u16(default=0)
    queue_tag: int = u8(default=0)
    queue_action: int = u8(default=0)
    srb_flags: SrbFlags = u32(SrbFlags, default=0)
    timeout: int = u32(default=0, unit="s")
    queue_sort_key: int = u32(default=0)


class ProtocolVersion(Format):
    """The version that a guest proposes and the host accepts."""

    version: VstorVersion = u16(VstorVersion)
    revision: int = u16(default=0)


class ChannelProperties(Format):
    """What the controller can do; also the user data of storvsc's open message, zeroed."""

    reserved: int = u32(default=0)
    max_subchannels: int = u16(default=0)
    reserved2: int = u16(default=0)
    flags: PropertyFlags = u32(PropertyFlags, default=0)
    max_transfer: int = u32(default=0, unit="bytes")
    reserved3: bytes = pad(8, default=b"")


class SubchannelCount(Format):
    """How many subchannels the guest wants."""

    count: int = u16()


class FibreChannelNames(Format):
    """World-wide names of a virtual fibre channel adapter (Linux ``hv_fc_wwn_packet``)."""

    primary_active: int = u8(default=0)
    reserved: bytes = pad(3, default=b"")
    primary_port: bytes = raw(8, default=b"")
    primary_node: bytes = raw(8, default=b"")
    secondary_port: bytes = raw(8, default=b"")
    secondary_node: bytes = raw(8, default=b"")


class Notification(Format):
    """Which unit an EVENT_NOTIFICATION is about (openvmm ``NotificationPacket``)."""

    lun: int = u8()
    target: int = u8()
    path: int = u8()
    flags: int = u8(default=0)


class NoBody(Format):
    """Nothing: the operation says it all."""


class VstorHeader(Format):
    """Heads every VSTOR packet, 12 bytes."""

    operation: VstorOperation = u32(VstorOperation)
    flags: VstorFlags = u32(VstorFlags, default=0)
    status: VstorStatus = u32(VstorStatus, default=0)


_SRB: tuple[type[Format], ...] = (ScsiRequestV1, ScsiRequest)

REQUEST_BODIES: dict[int, type[Format] | tuple[type[Format], ...]] = {
    VstorOperation.REMOVE_DEVICE: NoBody,
    VstorOperation.EXECUTE_SRB: _SRB,
    VstorOperation.RESET_LUN: (NoBody, *_SRB),
    VstorOperation.RESET_ADAPTER: (NoBody, *_SRB),
    VstorOperation.RESET_BUS: (NoBody, *_SRB),
    VstorOperation.BEGIN_INITIALIZATION: NoBody,
    VstorOperation.END_INITIALIZATION: NoBody,
    VstorOperation.QUERY_PROTOCOL_VERSION: ProtocolVersion,
    VstorOperation.QUERY_PROPERTIES: NoBody,
    VstorOperation.ENUMERATE_BUS: NoBody,
    VstorOperation.FC_HBA_DATA: NoBody,
    VstorOperation.CREATE_SUB_CHANNELS: SubchannelCount,
    VstorOperation.EVENT_NOTIFICATION: Notification,
}
"""The body of a packet by its operation; of several, the largest that fits."""


class VstorRequest(VstorHeader):
    """A packet that is not a completion, from either end."""

    body: Format | bytes = variant(on="operation", cases=REQUEST_BODIES)
    padding: bytes = rest(default=b"", doc="up to the largest packet of the negotiated version")


class PlainCompletion(VstorHeader):
    """Answers an operation that has no result but its status."""

    padding: bytes = rest(default=b"")


class ScsiCompletionV1(VstorHeader):
    """Answers EXECUTE_SRB, before 5.1."""

    result: ScsiResultV1 = nested(ScsiResultV1)
    padding: bytes = rest(default=b"")


class ScsiCompletion(VstorHeader):
    """Answers EXECUTE_SRB."""

    result: ScsiResult = nested(ScsiResult)
    padding: bytes = rest(default=b"")


class VersionCompletion(VstorHeader):
    """Answers QUERY_PROTOCOL_VERSION: the version that was asked for; ``status`` says whether it is accepted."""

    result: ProtocolVersion = nested(ProtocolVersion)
    padding: bytes = rest(default=b"")


class PropertiesCompletion(VstorHeader):
    """Answers QUERY_PROPERTIES."""

    result: ChannelProperties = nested(ChannelProperties)
    padding: bytes = rest(default=b"")


class NamesCompletion(VstorHeader):
    """Answers FC_HBA_DATA."""

    result: FibreChannelNames = nested(FibreChannelNames)
    padding: bytes = rest(default=b"")


COMPLETION_FORMATS: dict[int, tuple[type[VstorHeader], ...]] = {
    VstorOperation.EXECUTE_SRB: (PlainCompletion, ScsiCompletionV1, ScsiCompletion),
    VstorOperation.QUERY_PROTOCOL_VERSION: (PlainCompletion, VersionCompletion),
    VstorOperation.QUERY_PROPERTIES: (PlainCompletion, PropertiesCompletion),
    VstorOperation.FC_HBA_DATA: (PlainCompletion, NamesCompletion),
}
"""The packet that completes an operation; operations that are not here are completed by :class:`PlainCompletion`."""


def completion_format(operation: int, length: int) -> type[VstorHeader]:
    """The format of a completion of ``length`` bytes for a request of that operation."""
    formats = COMPLETION_FORMATS.get(operation, (PlainCompletion,))
    return max((fmt for fmt in formats if length >= fmt.SIZE), key=lambda fmt: fmt.SIZE, default=formats[0])


class IdeOfferProperties(Format):
    """User-defined bytes of an IDE accelerator's offer; old Windows drivers find the disk by them."""

    reserved: int = u16(default=0)
    path: int = u8()
    target: int = u8()
    reserved2: int = u32(default=0)
    flags: PropertyFlags = u32(PropertyFlags, default=2)
    reserved3: bytes = pad(12, default=b"")


MAX_REQUEST_V1 = ScsiRequestV1.SIZE
MAX_REQUEST = ScsiRequest.SIZE


def request_size(version: int) -> int:
    """The bytes after the header in every packet of that version."""
    return MAX_REQUEST if version >= VstorVersion.WIN8 else MAX_REQUEST_V1
