"""What the guest end of a guest emulation transport asks of the host.

Source: openvmm ``vm/devices/get/get_protocol/src/lib.rs``.  Those without a body here are their header alone (TIME,
VMGS_GET_DEVICE_INFO, VMGS_FLUSH, GUEST_STATE_PROTECTION_BY_ID, DEVICE_PLATFORM_SETTINGS_V2, UNMAP_FRAMEBUFFER).
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.get.notifications import LogTrace
from vmbus.wire.get.values import (
    ActivityClass,
    ActivityOpCode,
    EventId,
    GetVersion,
    GspExtendedStatus,
    HostRequest,
    RamRangeFlags,
    SaveRestoreStatus,
    VmgsWriteFlags,
    VpciControlCode,
)
from vmbus.wire.schema import Format, array, blob, guid, nested, raw, rest, u8, u16, u32, u64, variant


class GetVersionRequest(Format):
    """The version that the guest wants."""

    version: GetVersion = u32(GetVersion)


class BiosBootFinalizeRequest(Format):
    """The firmware is done; version 1.0 only."""

    value: int = u8()
    padding: int = u8(default=0)


class VmgsReadRequest(Format):
    """Read from the guest state file."""

    flags: int = u32(default=0)
    sector_offset: int = u64(unit="sectors")
    sector_count: int = u32(unit="sectors")
    padding: int = u32(default=0)


class VmgsWriteRequest(Format):
    """Write to the guest state file."""

    flags: VmgsWriteFlags = u32(VmgsWriteFlags, default=0)
    sector_offset: int = u64(unit="sectors")
    sector_count: int = u32(unit="sectors")
    padding: int = u32(default=0)
    payload: bytes = rest(payload=True)


class IgvmAttestRequest(Format):
    """Attest; the answer, which is large, goes into pages that the guest shares."""

    number_gpa: int = u32(doc="valid in shared_gpa")
    shared_gpa: tuple[int, ...] = array(u64(), 16)
    agent_data_length: int = u32(unit="bytes")
    report_length: int = u32(unit="bytes")
    agent_data: bytes = raw(2048)
    report: bytes = raw(4096)


class ActivityTraceStartRequest(Format):
    """An activity begins."""

    activity_class: ActivityClass = u32(ActivityClass)
    related_activity_id: UUID = guid()
    size: int = u32(unit="bytes")
    message: bytes = blob(length="size", text="utf-16-le")


class ActivityTraceOpRequest(Format):
    """Something happened to an activity."""

    activity_class: ActivityClass = u32(ActivityClass)
    activity_id: UUID = guid()
    related_activity_id: UUID = guid()
    op_code: ActivityOpCode = u32(ActivityOpCode)
    size: int = u32(unit="bytes")
    message: bytes = blob(length="size", text="utf-16-le")


class EventTraceRequest(Format):
    """Something happened."""

    event: EventId = u32(EventId)
    size: int = u32(unit="bytes")
    message: bytes = blob(length="size", text="utf-16-le")


class GspCleartext(Format):
    """A secret in the clear."""

    length: int = u32(unit="bytes")
    buffer: bytes = raw(64)


class GspCiphertext(Format):
    """A secret that is encrypted."""

    length: int = u32(unit="bytes")
    buffer: bytes = raw(512)


class GuestStateProtectionRequest(Format):
    """Encrypt a new key, decrypt the old ones."""

    new_gsp: GspCleartext = nested(GspCleartext)
    encrypted_gsp: tuple[GspCiphertext, ...] = array(GspCiphertext, 2)
    extended_status_support_flags: GspExtendedStatus = u32(GspExtendedStatus, default=0)


class SaveStatePart(Format):
    """A part of VTL2's state."""

    save_status: SaveRestoreStatus = u16(SaveRestoreStatus)
    state: bytes = rest(payload=True)


class RestoreStateRequest(Format):
    """The next part of VTL2's state, please."""

    restore_status: SaveRestoreStatus = u16(SaveRestoreStatus)


class VpciDeviceControlRequest(Format):
    """Offer, revoke or reset a vPCI device."""

    code: VpciControlCode = u32(VpciControlCode)
    bus_instance_id: UUID = guid()


class VpciBindingChangeRequest(Format):
    """VTL2 took a vPCI device, or let go of it."""

    bus_instance_id: UUID = guid()
    binding_state: int = u8(doc="1: taken")


class VgaPciReadRequest(Format):
    """Read the configuration space of the host's VGA device."""

    offset: int = u16(unit="bytes")


class VgaPciWriteRequest(Format):
    """Write to it."""

    value: int = u32()
    offset: int = u16(unit="bytes")


class CreateRamRangeRequest(Format):
    """Make a range of guest memory."""

    slot: int = u32()
    gpa_start: int = u64(unit="pages")
    gpa_count: int = u64(unit="pages")
    gpa_offset: int = u64(unit="pages")
    flags: RamRangeFlags = u64(RamRangeFlags, default=0)


class ResetRamRangeRequest(Format):
    """Take it away."""

    slot: int = u32()


class LoadFirmwareRequest(Format):
    """Load firmware into VTL0's memory."""

    firmware_token: int = u64(doc="which one; opaque")


class MapFramebufferRequest(Format):
    """Map the frame buffer (not in Hyper-V)."""

    gpa: int = u64()


class HostRequestBody(Format):
    """The rest of a HOST_REQUEST."""

    message_id: HostRequest = u16(HostRequest)
    body: Format | bytes = variant(
        on="message_id",
        cases={
            HostRequest.VERSION: GetVersionRequest,
            HostRequest.BIOS_BOOT_FINALIZE: BiosBootFinalizeRequest,
            HostRequest.VMGS_READ: VmgsReadRequest,
            HostRequest.VMGS_WRITE: VmgsWriteRequest,
            HostRequest.IGVM_ATTEST: IgvmAttestRequest,
            HostRequest.LOG_TRACE: LogTrace,
            HostRequest.ACTIVITY_TRACE_START: ActivityTraceStartRequest,
            HostRequest.ACTIVITY_TRACE_OP: ActivityTraceOpRequest,
            HostRequest.EVENT_TRACE: EventTraceRequest,
            HostRequest.GUEST_STATE_PROTECTION: GuestStateProtectionRequest,
            HostRequest.VPCI_DEVICE_CONTROL: VpciDeviceControlRequest,
            HostRequest.SAVE_GUEST_VTL2_STATE: SaveStatePart,
            HostRequest.RESTORE_GUEST_VTL2_STATE: RestoreStateRequest,
            HostRequest.VPCI_DEVICE_BINDING_CHANGE: VpciBindingChangeRequest,
            HostRequest.VGA_PROXY_PCI_READ: VgaPciReadRequest,
            HostRequest.VGA_PROXY_PCI_WRITE: VgaPciWriteRequest,
            HostRequest.CREATE_RAM_GPA_RANGE: CreateRamRangeRequest,
            HostRequest.RESET_RAM_GPA_RANGE: ResetRamRangeRequest,
            HostRequest.LOAD_FIRMWARE: LoadFirmwareRequest,
            HostRequest.MAP_FRAMEBUFFER: MapFramebufferRequest,
        },
    )
