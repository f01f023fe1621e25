"""SCSI operation codes and service actions, and the shape that every command descriptor block (CDB) has.

Sources: Linux 6.12 ``include/scsi/scsi_proto.h`` and ``include/uapi/linux/cdrom.h`` (``GPCMD_*``); openvmm
``vm/devices/storage/scsi_defs/src/lib.rs`` (``ScsiOp``). A few codes mean one thing to a disk and another to a DVD:
:class:`Opcode` has the disk's names, :class:`MmcOpcode` the DVD's where they differ.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, raw, u8


class DeviceType(OpenEnum):
    """Peripheral device type of INQUIRY data."""

    DISK = 0x00
    TAPE = 0x01
    PROCESSOR = 0x03
    DVD = 0x05
    MEDIUM_CHANGER = 0x08
    ENCLOSURE = 0x0D
    NONE = 0x1F


class Opcode(OpenEnum):
    """The first byte of a CDB."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    FORMAT_UNIT = 0x04
    REASSIGN_BLOCKS = 0x07
    READ_6 = 0x08
    WRITE_6 = 0x0A
    SEEK_6 = 0x0B
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    RESERVE_6 = 0x16
    RELEASE_6 = 0x17
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    RECEIVE_DIAGNOSTIC = 0x1C
    SEND_DIAGNOSTIC = 0x1D
    PREVENT_ALLOW = 0x1E
    READ_FORMAT_CAPACITIES = 0x23
    SET_WINDOW = 0x24
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    SEEK_10 = 0x2B
    WRITE_AND_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    PRE_FETCH_10 = 0x34
    SYNCHRONIZE_CACHE_10 = 0x35
    READ_DEFECT_DATA_10 = 0x37
    WRITE_BUFFER = 0x3B
    READ_BUFFER = 0x3C
    WRITE_LONG_10 = 0x3F
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    READ_TOC = 0x43
    GET_CONFIGURATION = 0x46
    SANITIZE = 0x48
    GET_EVENT_STATUS = 0x4A
    LOG_SELECT = 0x4C
    LOG_SENSE = 0x4D
    READ_DISC_INFORMATION = 0x51
    READ_TRACK_INFORMATION = 0x52
    MODE_SELECT_10 = 0x55
    RESERVE_10 = 0x56
    RELEASE_10 = 0x57
    MODE_SENSE_10 = 0x5A
    CLOSE_TRACK_SESSION = 0x5B
    READ_BUFFER_CAPACITY = 0x5C
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    EXTENDED_COPY = 0x83
    RECEIVE_COPY_RESULTS = 0x84
    ATA_PASS_THROUGH_16 = 0x85
    READ_16 = 0x88
    COMPARE_AND_WRITE = 0x89
    WRITE_16 = 0x8A
    WRITE_AND_VERIFY_16 = 0x8E
    VERIFY_16 = 0x8F
    PRE_FETCH_16 = 0x90
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    ZBC_OUT = 0x94
    ZBC_IN = 0x95
    WRITE_ATOMIC_16 = 0x9C
    SERVICE_ACTION_IN_16 = 0x9E
    SERVICE_ACTION_OUT_16 = 0x9F
    REPORT_LUNS = 0xA0
    ATA_PASS_THROUGH_12 = 0xA1
    SECURITY_PROTOCOL_IN = 0xA2
    MAINTENANCE_IN = 0xA3
    MAINTENANCE_OUT = 0xA4
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    GET_PERFORMANCE = 0xAC
    READ_DVD_STRUCTURE = 0xAD
    WRITE_AND_VERIFY_12 = 0xAE
    VERIFY_12 = 0xAF
    SECURITY_PROTOCOL_OUT = 0xB5
    SET_STREAMING = 0xB6
    READ_CD_MSF = 0xB9
    SET_CD_SPEED = 0xBB
    MECHANISM_STATUS = 0xBD
    READ_CD = 0xBE


class MmcOpcode(OpenEnum):
    """Codes that a DVD reads otherwise than a disk."""

    READ_SUB_CHANNEL = 0x42
    PLAY_AUDIO_10 = 0x45
    PLAY_AUDIO_MSF = 0x47
    PAUSE_RESUME = 0x4B
    STOP_PLAY_SCAN = 0x4E
    BLANK = 0xA1
    SEND_KEY = 0xA3
    REPORT_KEY = 0xA4


class ServiceActionIn(OpenEnum):
    """Service actions of SERVICE ACTION IN (16)."""

    READ_CAPACITY_16 = 0x10
    GET_LBA_STATUS = 0x12
    REPORT_REFERRALS = 0x13
    GET_STREAM_STATUS = 0x16
    GET_PHYSICAL_ELEMENT_STATUS = 0x17


class MaintenanceAction(OpenEnum):
    """Service actions of MAINTENANCE IN."""

    REPORT_IDENTIFYING_INFORMATION = 0x05
    REPORT_TARGET_PORT_GROUPS = 0x0A
    REPORT_ALIASES = 0x0B
    REPORT_SUPPORTED_OPERATION_CODES = 0x0C
    REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS = 0x0D
    REPORT_PRIORITY = 0x0E
    REPORT_TIMESTAMP = 0x0F


class Cdb(Format):
    """Every command starts with its code."""

    opcode: Opcode = u8(Opcode)


class OtherCdb6(Cdb):
    """A six-byte command that has no format of its own here."""

    parameters: bytes = raw(4, default=b"")
    control: int = u8(default=0)


class OtherCdb10(Cdb):
    """A ten-byte command that has no format of its own here."""

    parameters: bytes = raw(8, default=b"")
    control: int = u8(default=0)


class OtherCdb12(Cdb):
    """A twelve-byte command that has no format of its own here."""

    parameters: bytes = raw(10, default=b"")
    control: int = u8(default=0)


class OtherCdb16(Cdb):
    """A sixteen-byte command that has no format of its own here."""

    parameters: bytes = raw(14, default=b"")
    control: int = u8(default=0)
