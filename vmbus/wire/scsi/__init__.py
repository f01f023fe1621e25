"""SCSI: commands, what they send and what they return, and sense data; one file for each subject.

The tables here say which format a command block has (:func:`cdb_format`), which one the data has that it returns
(:func:`response_format`) or sends (:func:`parameter_format`), and how sense data lies (:func:`sense_format`).
"""

from __future__ import annotations

from vmbus.wire.schema import Buffer, Format
from vmbus.wire.scsi import block, capacity, disc, inquiry, mmc, mode, primary, reservation
from vmbus.wire.scsi.opcodes import (
    Cdb,
    DeviceType,
    MaintenanceAction,
    MmcOpcode,
    Opcode,
    OtherCdb6,
    OtherCdb10,
    OtherCdb12,
    OtherCdb16,
    ServiceActionIn,
)  # fmt: skip
from vmbus.wire.scsi.reservation import ReserveIn
from vmbus.wire.scsi.sense import AdditionalSense, FixedSense, SenseKey, sense_format

__all__ = [
    "CDB_FORMATS", "MMC_CDB_FORMATS", "AdditionalSense", "Cdb", "DeviceType", "FixedSense", "Opcode", "SenseKey",
    "cdb_format", "cdb_length", "parameter_format", "response_format", "sense_format",
]  # fmt: skip

CDB_FORMATS: dict[int, type[Cdb]] = {
    Opcode.TEST_UNIT_READY: primary.TestUnitReady,
    Opcode.REQUEST_SENSE: primary.RequestSense,
    Opcode.FORMAT_UNIT: block.FormatUnit,
    Opcode.READ_6: block.Transfer6,
    Opcode.WRITE_6: block.Transfer6,
    Opcode.SEEK_6: block.Seek6,
    Opcode.INQUIRY: inquiry.Inquiry,
    Opcode.MODE_SELECT_6: mode.ModeSelect6,
    Opcode.RESERVE_6: primary.Reserve6,
    Opcode.RELEASE_6: primary.Reserve6,
    Opcode.MODE_SENSE_6: mode.ModeSense6,
    Opcode.START_STOP_UNIT: primary.StartStopUnit,
    Opcode.RECEIVE_DIAGNOSTIC: primary.ReceiveDiagnostic,
    Opcode.SEND_DIAGNOSTIC: primary.SendDiagnostic,
    Opcode.PREVENT_ALLOW: primary.PreventAllow,
    Opcode.READ_FORMAT_CAPACITIES: capacity.ReadFormatCapacities,
    Opcode.READ_CAPACITY_10: capacity.ReadCapacity10,
    Opcode.READ_10: block.Transfer10,
    Opcode.WRITE_10: block.Transfer10,
    Opcode.SEEK_10: block.Seek10,
    Opcode.WRITE_AND_VERIFY_10: block.Verify10,
    Opcode.VERIFY_10: block.Verify10,
    Opcode.PRE_FETCH_10: block.Cache10,
    Opcode.SYNCHRONIZE_CACHE_10: block.Cache10,
    Opcode.WRITE_BUFFER: primary.Buffer10,
    Opcode.READ_BUFFER: primary.Buffer10,
    Opcode.WRITE_SAME_10: block.WriteSame10,
    Opcode.UNMAP: block.Unmap,
    Opcode.READ_TOC: mmc.ReadToc,
    Opcode.GET_CONFIGURATION: mmc.GetConfiguration,
    Opcode.GET_EVENT_STATUS: mmc.GetEventStatus,
    Opcode.LOG_SELECT: primary.LogSelect,
    Opcode.LOG_SENSE: primary.LogSense,
    Opcode.READ_DISC_INFORMATION: disc.ReadDiscInformation,
    Opcode.READ_TRACK_INFORMATION: disc.ReadTrackInformation,
    Opcode.MODE_SELECT_10: mode.ModeSelect10,
    Opcode.RESERVE_10: primary.Reserve10,
    Opcode.RELEASE_10: primary.Reserve10,
    Opcode.MODE_SENSE_10: mode.ModeSense10,
    Opcode.READ_BUFFER_CAPACITY: disc.ReadBufferCapacity,
    Opcode.PERSISTENT_RESERVE_IN: reservation.PersistentReserveIn,
    Opcode.PERSISTENT_RESERVE_OUT: reservation.PersistentReserveOut,
    Opcode.ATA_PASS_THROUGH_16: primary.AtaPassThrough16,
    Opcode.READ_16: block.Transfer16,
    Opcode.COMPARE_AND_WRITE: block.CompareAndWrite,
    Opcode.WRITE_16: block.Transfer16,
    Opcode.WRITE_AND_VERIFY_16: block.Verify16,
    Opcode.VERIFY_16: block.Verify16,
    Opcode.PRE_FETCH_16: block.Cache16,
    Opcode.SYNCHRONIZE_CACHE_16: block.Cache16,
    Opcode.WRITE_SAME_16: block.WriteSame16,
    Opcode.WRITE_ATOMIC_16: block.WriteAtomic16,
    Opcode.SERVICE_ACTION_IN_16: capacity.ServiceActionIn16,
    Opcode.REPORT_LUNS: capacity.ReportLuns,
    Opcode.ATA_PASS_THROUGH_12: primary.AtaPassThrough12,
    Opcode.SECURITY_PROTOCOL_IN: primary.SecurityProtocol,
    Opcode.MAINTENANCE_IN: primary.MaintenanceIn,
    Opcode.READ_12: block.Transfer12,
    Opcode.WRITE_12: block.Transfer12,
    Opcode.GET_PERFORMANCE: disc.GetPerformance,
    Opcode.READ_DVD_STRUCTURE: disc.ReadDvdStructure,
    Opcode.WRITE_AND_VERIFY_12: block.Verify12,
    Opcode.VERIFY_12: block.Verify12,
    Opcode.SECURITY_PROTOCOL_OUT: primary.SecurityProtocol,
    Opcode.SET_STREAMING: disc.SetStreaming,
    Opcode.SET_CD_SPEED: disc.SetCdSpeed,
    Opcode.MECHANISM_STATUS: disc.MechanismStatus,
    Opcode.READ_CD: disc.ReadCd,
}
"""The command block of each operation code; service actions share their operation's block."""

MMC_CDB_FORMATS: dict[int, type[Cdb]] = {MmcOpcode.READ_SUB_CHANNEL: disc.ReadSubChannel}
"""Codes that mean something else to a DVD."""

_BY_GROUP: tuple[type[Cdb], ...] = (
    OtherCdb6, OtherCdb10, OtherCdb10, OtherCdb16, OtherCdb16, OtherCdb12, OtherCdb16, OtherCdb16,
)  # fmt: skip


def cdb_format(cdb: Buffer, device_type: int = DeviceType.DISK) -> type[Cdb]:
    """The format of a command block: its own, or else one of the length that its code's group has (SPC-4 4.2.5.1)."""
    opcode = cdb[0] if cdb else 0
    if device_type == DeviceType.DVD and opcode in MMC_CDB_FORMATS:
        return MMC_CDB_FORMATS[opcode]
    return CDB_FORMATS.get(opcode) or _BY_GROUP[opcode >> 5]


def cdb_length(cdb: Buffer) -> int:
    """The bytes of a command block that mean something."""
    return cdb_format(cdb).SIZE


def _inquiry_format(command: inquiry.Inquiry) -> type[Format]:
    if not command.vpd:
        return inquiry.StandardInquiry if command.allocation_length >= 36 else inquiry.InquiryHead
    if command.allocation_length <= inquiry.VpdHeader.SIZE:
        return inquiry.VpdHeader
    return inquiry.VPD_FORMATS.get(command.page, inquiry.OtherVpd)


def _head_or(whole: type[Format], head: type[Format], room: int) -> type[Format]:
    return whole if room > head.SIZE else head


_RESERVE_IN: dict[int, type[Format]] = {
    ReserveIn.READ_KEYS: reservation.ReservationKeys,
    ReserveIn.READ_RESERVATION: reservation.Reservations,
    ReserveIn.READ_FULL_STATUS: reservation.FullStatusList,
}


def _reserve_in_format(command: reservation.PersistentReserveIn) -> type[Format] | None:
    if command.service_action == ReserveIn.REPORT_CAPABILITIES:
        return reservation.ReserveCapabilities
    if command.allocation_length <= reservation.ReserveInHead.SIZE:
        return reservation.ReserveInHead
    return _RESERVE_IN.get(command.service_action)


def response_format(cdb: Buffer) -> type[Format] | None:
    """The format of what a command returns; None if it returns blocks, nothing, or what has no format here.

    The allocation length may cut the data short; where it has room for the head alone, this is the head's format.
    """
    fmt = cdb_format(cdb)
    if len(cdb) < fmt.SIZE:
        return None
    command = fmt.parse(cdb)
    match command:
        case inquiry.Inquiry():
            return _inquiry_format(command)
        case primary.RequestSense():
            return sense_format(b"\x72" if command.descriptor_format else b"\x70")
        case mode.ModeSense6():
            return mode.ModeParameters6
        case mode.ModeSense10():
            return mode.ModeParameters10
        case primary.LogSense():
            return mode.LogPage
        case capacity.ReadCapacity10():
            return capacity.Capacity10
        case capacity.ServiceActionIn16(service_action=ServiceActionIn.READ_CAPACITY_16):
            return capacity.Capacity16 if command.allocation_length >= 32 else capacity.ShortCapacity16
        case capacity.ServiceActionIn16(service_action=ServiceActionIn.GET_LBA_STATUS):
            return capacity.LbaStatusList
        case capacity.ReportLuns():
            return capacity.LunList if command.allocation_length >= 16 else capacity.LunListHead
        case primary.MaintenanceIn(service_action=MaintenanceAction.REPORT_SUPPORTED_OPERATION_CODES):
            return primary.OneSupportedCommand if command.reporting_options else primary.SupportedCommands
        case reservation.PersistentReserveIn():
            return _reserve_in_format(command)
        case mmc.ReadToc():
            return mmc.Toc if command.allocation_length >= 12 else mmc.TocHead
        case disc.ReadDiscInformation():
            return _head_or(disc.DiscInformation, disc.LengthHead, command.allocation_length)
        case disc.ReadTrackInformation():
            return _head_or(disc.TrackInformation, disc.TrackInformationHead, command.allocation_length)
        case disc.ReadDvdStructure():
            return _DVD_STRUCTURES.get(command.format)
        case _:
            return _PLAIN_RESPONSES.get(cdb[0])


_PLAIN_RESPONSES: dict[int, type[Format]] = {
    Opcode.GET_CONFIGURATION: mmc.Configuration,
    Opcode.GET_EVENT_STATUS: mmc.EventStatus,
    Opcode.MECHANISM_STATUS: disc.MechanismState,
    Opcode.GET_PERFORMANCE: disc.Performance,
    Opcode.READ_BUFFER_CAPACITY: disc.BufferCapacity,
}

_DVD_STRUCTURES: dict[int, type[Format]] = {0: disc.DvdPhysical, 1: disc.DvdCopyright}

_PARAMETERS: dict[int, type[Format]] = {
    Opcode.MODE_SELECT_6: mode.ModeParameters6,
    Opcode.MODE_SELECT_10: mode.ModeParameters10,
    Opcode.UNMAP: block.UnmapList,
    Opcode.PERSISTENT_RESERVE_OUT: reservation.ReserveOutList,
    Opcode.SET_STREAMING: disc.StreamingDescriptor,
}


def parameter_format(cdb: Buffer) -> type[Format] | None:
    """The format of the parameter list that a command sends; None if it sends blocks or nothing."""
    return _PARAMETERS.get(cdb[0]) if cdb else None
