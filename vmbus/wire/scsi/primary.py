"""SCSI primary commands that carry little or no data: readiness, power, locking, diagnostics, logs, maintenance.

Sources: openvmm ``scsi_defs/src/lib.rs`` (``StartStop``, ``CdbMediaRemoval``, ``SendDiagnostic``, ``CdbRequestSense``);
Linux 6.12 ``drivers/scsi/scsi_ioctl.c``, ``sd.c``, ``scsi.c`` (``scsi_report_opcode``); bit names as in T10's SPC-4.
"""

from __future__ import annotations

from vmbus.wire.schema import Format, be16, be24, be32, bits, items, pad, u8
from vmbus.wire.scsi.opcodes import Cdb, MaintenanceAction, Opcode


class TestUnitReady(Cdb):
    """TEST UNIT READY."""

    __test__ = False  # not a test class

    reserved: bytes = pad(4, default=b"")
    control: int = u8(default=0)


class RequestSense(Cdb):
    """REQUEST SENSE."""

    reserved: int = bits(7, of=8, msb=True, default=0)
    descriptor_format: int = bits(1, default=0)
    reserved2: bytes = pad(2, default=b"")
    allocation_length: int = u8(unit="bytes")
    control: int = u8(default=0)


class StartStopUnit(Cdb):
    """START STOP UNIT: spin up or down, load or eject."""

    reserved: int = bits(7, of=8, msb=True, default=0)
    immediate: int = bits(1, default=0)
    reserved2: int = u8(default=0)
    reserved3: int = bits(4, of=8, msb=True, default=0)
    power_condition_modifier: int = bits(4, default=0)
    power_condition: int = bits(4, of=8, msb=True, default=0)
    reserved4: int = bits(1, default=0)
    no_flush: int = bits(1, default=0)
    load_eject: int = bits(1, default=0)
    start: int = bits(1, default=0)
    control: int = u8(default=0)


class PreventAllow(Cdb):
    """PREVENT ALLOW MEDIUM REMOVAL."""

    reserved: bytes = pad(3, default=b"")
    reserved2: int = bits(6, of=8, msb=True, default=0)
    persistent: int = bits(1, default=0)
    prevent: int = bits(1, default=0)
    control: int = u8(default=0)


class Reserve6(Cdb):
    """RESERVE (6), RELEASE (6)."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    third_party: int = bits(1, default=0)
    third_party_id: int = bits(3, default=0)
    extent: int = bits(1, default=0)
    reservation_id: int = u8(default=0)
    extent_list_length: int = be16(unit="bytes", default=0)
    control: int = u8(default=0)


class Reserve10(Cdb):
    """RESERVE (10), RELEASE (10)."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    third_party: int = bits(1, default=0)
    reserved2: int = bits(2, default=0)
    long_id: int = bits(1, default=0)
    extent: int = bits(1, default=0)
    reservation_id: int = u8(default=0)
    third_party_id: int = u8(default=0)
    reserved3: bytes = pad(3, default=b"")
    list_length: int = be16(unit="bytes", default=0)
    control: int = u8(default=0)


class SendDiagnostic(Cdb):
    """SEND DIAGNOSTIC."""

    self_test_code: int = bits(3, of=8, msb=True, default=0)
    page_format: int = bits(1, default=0)
    reserved: int = bits(1, default=0)
    self_test: int = bits(1, default=0)
    device_offline: int = bits(1, default=0)
    unit_offline: int = bits(1, default=0)
    reserved2: int = u8(default=0)
    list_length: int = be16(unit="bytes", default=0)
    control: int = u8(default=0)


class ReceiveDiagnostic(Cdb):
    """RECEIVE DIAGNOSTIC RESULTS."""

    reserved: int = bits(7, of=8, msb=True, default=0)
    page_code_valid: int = bits(1, default=0)
    page_code: int = u8(default=0)
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class LogSense(Cdb):
    """LOG SENSE."""

    reserved: int = bits(6, of=8, msb=True, default=0)
    parameter_pointer_control: int = bits(1, default=0)
    save: int = bits(1, default=0)
    page_control: int = bits(2, of=8, msb=True, default=0)
    page_code: int = bits(6)
    subpage_code: int = u8(default=0)
    reserved2: int = u8(default=0)
    parameter_pointer: int = be16(default=0)
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class LogSelect(Cdb):
    """LOG SELECT."""

    reserved: int = bits(6, of=8, msb=True, default=0)
    parameter_code_reset: int = bits(1, default=0)
    save: int = bits(1, default=0)
    page_control: int = bits(2, of=8, msb=True, default=0)
    page_code: int = bits(6, default=0)
    subpage_code: int = u8(default=0)
    reserved2: bytes = pad(3, default=b"")
    list_length: int = be16(unit="bytes", default=0)
    control: int = u8(default=0)


class Buffer10(Cdb):
    """READ BUFFER (10), WRITE BUFFER."""

    mode_specific: int = bits(3, of=8, msb=True, default=0)
    mode: int = bits(5, default=0)
    buffer_id: int = u8(default=0)
    buffer_offset: int = be24(default=0)
    length: int = be24(unit="bytes", default=0)
    control: int = u8(default=0)


class AtaPassThrough16(Cdb):
    """ATA PASS-THROUGH (16), which no disk here takes; smartctl and udev send it."""

    multiple_count: int = bits(3, of=8, msb=True, default=0)
    protocol: int = bits(4, default=0)
    extend: int = bits(1, default=0)
    offline: int = bits(2, of=8, msb=True, default=0)
    check_condition: int = bits(1, default=0)
    transfer_type: int = bits(1, default=0)
    direction: int = bits(1, default=0)
    byte_block: int = bits(1, default=0)
    transfer_length: int = bits(2, default=0)
    features: int = be16(default=0)
    sector_count: int = be16(default=0)
    lba_low: int = be16(default=0)
    lba_mid: int = be16(default=0)
    lba_high: int = be16(default=0)
    device: int = u8(default=0)
    command: int = u8(default=0)
    control: int = u8(default=0)


class AtaPassThrough12(Cdb):
    """ATA PASS-THROUGH (12)."""

    multiple_count: int = bits(3, of=8, msb=True, default=0)
    protocol: int = bits(4, default=0)
    reserved: int = bits(1, default=0)
    offline: int = bits(2, of=8, msb=True, default=0)
    check_condition: int = bits(1, default=0)
    transfer_type: int = bits(1, default=0)
    direction: int = bits(1, default=0)
    byte_block: int = bits(1, default=0)
    transfer_length: int = bits(2, default=0)
    features: int = u8(default=0)
    sector_count: int = u8(default=0)
    lba_low: int = u8(default=0)
    lba_mid: int = u8(default=0)
    lba_high: int = u8(default=0)
    device: int = u8(default=0)
    command: int = u8(default=0)
    reserved2: int = u8(default=0)
    control: int = u8(default=0)


class SecurityProtocol(Cdb):
    """SECURITY PROTOCOL IN and OUT."""

    protocol: int = u8()
    protocol_specific: int = be16(default=0)
    increments_of_512: int = bits(1, of=8, msb=True, default=0)
    reserved: int = bits(7, default=0)
    reserved2: int = u8(default=0)
    length: int = be32(unit="bytes")
    reserved3: int = u8(default=0)
    control: int = u8(default=0)


class MaintenanceIn(Cdb):
    """MAINTENANCE IN; for REPORT SUPPORTED OPERATION CODES also which code is asked about."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    service_action: MaintenanceAction = bits(5, MaintenanceAction)
    timeouts: int = bits(1, of=8, msb=True, default=0, doc="return command timeout descriptors too")
    reserved2: int = bits(4, default=0)
    reporting_options: int = bits(3, default=0, doc="0 all, 1 one code, 2 code and service action, 3 either")
    requested_opcode: Opcode = u8(Opcode, default=0)
    requested_service_action: int = be16(default=0)
    allocation_length: int = be32(unit="bytes")
    reserved3: int = u8(default=0)
    control: int = u8(default=0)


class CommandTimeouts(Format):
    """How long a command may take; 0 says nothing."""

    length: int = be16(default=10, unit="bytes", doc="after this field")
    reserved: int = u8(default=0)
    command_specific: int = u8(default=0)
    nominal: int = be32(default=0, unit="s")
    recommended: int = be32(default=0, unit="s")


class SupportedCommand(Format):
    """One command of the answer to REPORT SUPPORTED OPERATION CODES."""

    opcode: Opcode = u8(Opcode)
    reserved: int = u8(default=0)
    service_action: int = be16(default=0)
    reserved2: int = u8(default=0)
    reserved3: int = bits(6, of=8, msb=True, default=0)
    timeouts_present: int = bits(1, default=0)
    service_action_valid: int = bits(1, default=0)
    cdb_length: int = be16(unit="bytes")
    timeouts: tuple[CommandTimeouts, ...] = items(CommandTimeouts, count="timeouts_present")


class SupportedCommands(Format):
    """All commands that a unit takes."""

    length: int = be32(unit="bytes", doc="after this field")
    commands: tuple[SupportedCommand, ...] = items(SupportedCommand)


class OneSupportedCommand(Format):
    """Whether a unit takes one command, and which bits of its CDB it looks at."""

    reserved: int = u8(default=0)
    timeouts_present: int = bits(1, of=8, msb=True, default=0)
    reserved2: int = bits(4, default=0)
    support: int = bits(3, doc="1 not supported, 3 supported as the standard says")
    cdb_length: int = be16(unit="bytes", default=0)
    usage: tuple[int, ...] = items(u8(), count="cdb_length")
    timeouts: tuple[CommandTimeouts, ...] = items(CommandTimeouts, count="timeouts_present")
