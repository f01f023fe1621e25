"""SCSI sense data: why a command failed.

Sources: openvmm ``scsi_defs/src/lib.rs`` (``SenseData``, ``SenseKey``, ``AdditionalSenseCode``); Linux 6.12
``drivers/scsi/sense_codes.h`` and ``scsi_common.c`` (``scsi_build_sense_buffer``); T10's SPC-4 for the layouts.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Buffer, Format, be16, be32, bits, blob, pad, rest, u8


class SenseKey(OpenEnum):
    """The kind of failure."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


class AdditionalSense(OpenEnum):
    """Additional sense code and its qualifier in one number: ``asc << 8 | ascq``."""

    NONE = 0x0000
    NOT_READY_BECOMING_READY = 0x0401
    NOT_READY_START_NEEDED = 0x0402
    FORMAT_IN_PROGRESS = 0x0404
    WRITE_ERROR = 0x0C00
    UNRECOVERED_READ_ERROR = 0x1100
    PARAMETER_LIST_LENGTH_ERROR = 0x1A00
    MISCOMPARE_DURING_VERIFY = 0x1D00
    INVALID_OPERATION_CODE = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_FIELD_IN_CDB = 0x2400
    LOGICAL_UNIT_NOT_SUPPORTED = 0x2500
    INVALID_FIELD_IN_PARAMETER_LIST = 0x2600
    INVALID_RELEASE_OF_RESERVATION = 0x2604
    WRITE_PROTECTED = 0x2700
    SPACE_ALLOCATION_FAILED = 0x2707
    MEDIUM_MAY_HAVE_CHANGED = 0x2800
    POWER_ON_RESET = 0x2900
    BUS_RESET_OCCURRED = 0x2902
    DEVICE_RESET_OCCURRED = 0x2903
    PARAMETERS_CHANGED = 0x2A00
    MODE_PARAMETERS_CHANGED = 0x2A01
    RESERVATIONS_PREEMPTED = 0x2A03
    RESERVATIONS_RELEASED = 0x2A04
    REGISTRATIONS_PREEMPTED = 0x2A05
    CAPACITY_DATA_CHANGED = 0x2A09
    COMMAND_SEQUENCE_ERROR = 0x2C00
    CANNOT_READ_MEDIUM = 0x3000
    INCOMPATIBLE_MEDIUM = 0x3002
    SAVING_PARAMETERS_NOT_SUPPORTED = 0x3900
    MEDIUM_NOT_PRESENT = 0x3A00
    MEDIUM_NOT_PRESENT_TRAY_CLOSED = 0x3A01
    MEDIUM_NOT_PRESENT_TRAY_OPEN = 0x3A02
    OPERATING_CONDITIONS_CHANGED = 0x3F00
    INQUIRY_DATA_CHANGED = 0x3F03
    REPORTED_LUNS_DATA_CHANGED = 0x3F0E
    INTERNAL_TARGET_FAILURE = 0x4400
    DATA_PHASE_ERROR = 0x4B00
    MEDIUM_REMOVAL_PREVENTED = 0x5302
    INSUFFICIENT_REGISTRATION_RESOURCES = 0x5504
    OPERATOR_MEDIUM_REMOVAL_REQUEST = 0x5A01
    ILLEGAL_MODE_FOR_THIS_TRACK = 0x6400


class SenseResponse(OpenEnum):
    """Which layout, and whether it is about this command or an earlier one."""

    FIXED_CURRENT = 0x70
    FIXED_DEFERRED = 0x71
    DESCRIPTOR_CURRENT = 0x72
    DESCRIPTOR_DEFERRED = 0x73


class FixedSense(Format):
    """Sense data in the fixed layout, 18 bytes."""

    information_valid: int = bits(1, of=8, msb=True, default=0)
    response: SenseResponse = bits(7, SenseResponse, default=0x70)
    segment: int = u8(default=0)
    filemark: int = bits(1, of=8, msb=True, default=0)
    end_of_medium: int = bits(1, default=0)
    incorrect_length: int = bits(1, default=0)
    reserved: int = bits(1, default=0)
    key: SenseKey = bits(4, SenseKey, default=0)
    information: int = be32(default=0, doc="the block that failed, when valid")
    additional_length: int = u8(default=10, unit="bytes")
    command_specific: int = be32(default=0)
    additional: AdditionalSense = be16(AdditionalSense, default=0)
    field_replaceable_unit: int = u8(default=0)
    key_specific_valid: int = bits(1, of=8, msb=True, default=0)
    in_command: int = bits(1, default=0, doc="the field that is wrong is in the CDB, not in the parameter list")
    reserved2: int = bits(2, default=0)
    bit_valid: int = bits(1, default=0)
    bit_pointer: int = bits(3, default=0)
    field_pointer: int = be16(default=0, unit="bytes", doc="which byte of the CDB or list is wrong")
    padding: bytes = rest(default=b"")


class DescriptorSense(Format):
    """Sense data in the descriptor layout."""

    reserved: int = bits(1, of=8, msb=True, default=0)
    response: SenseResponse = bits(7, SenseResponse, default=0x72)
    reserved2: int = bits(4, of=8, msb=True, default=0)
    key: SenseKey = bits(4, SenseKey, default=0)
    additional: AdditionalSense = be16(AdditionalSense, default=0)
    reserved3: bytes = pad(3, default=b"")
    additional_length: int = u8(default=0, unit="bytes")
    descriptors: bytes = blob(length="additional_length", default=b"")
    padding: bytes = rest(default=b"")


def sense_format(sense: Buffer) -> type[FixedSense] | type[DescriptorSense] | None:
    """The layout of sense data by its first byte; None if it is none that SPC knows."""
    match sense[0] & 0x7F if sense else 0:
        case 0x70 | 0x71:
            return FixedSense
        case 0x72 | 0x73:
            return DescriptorSense
        case _:
            return None
