"""What the host answers to the requests of a guest emulation transport.

Source: openvmm ``vm/devices/get/get_protocol/src/lib.rs``.  Those without a body here are their header alone
(BIOS_BOOT_FINALIZE, LOG_TRACE, ACTIVITY_TRACE_OP, EVENT_TRACE, VGA_PROXY_PCI_WRITE, RESET_RAM_GPA_RANGE).
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.get.requests import GspCiphertext, GspCleartext
from vmbus.wire.get.values import (
    GspExtendedStatus,
    HostRequest,
    LargePayloadState,
    LoadFirmwareStatus,
    Outcome,
    RamRangeStatus,
    SaveRestoreStatus,
    VmgsIoStatus,
    VpciControlStatus,
)
from vmbus.wire.schema import Format, array, blob, guid, i16, i64, nested, pad, rest, u8, u16, u32, u64, variant


class GetVersionResponse(Format):
    """Whether the host has that version."""

    version_accepted: int = u8()
    padding: int = u8(default=0)


class TimeResponse(Format):
    """The host's clock."""

    padding: int = u32(default=0)
    vm_reference_time: int = u64(unit="100 ns")
    utc: int = i64(unit="100 ns", doc="since 1601-01-01")
    time_zone: int = i16(unit="min")
    daylight_savings: int = u8(default=0)
    padding1: bytes = pad(5, default=b"")


class VmgsGetDeviceInfoResponse(Format):
    """The guest state file."""

    status: VmgsIoStatus = u32(VmgsIoStatus)
    capacity: int = u64(unit="sectors")
    bytes_per_logical_sector: int = u16(unit="bytes")
    bytes_per_physical_sector: int = u16(unit="bytes")
    maximum_transfer_size_bytes: int = u32(unit="bytes")


class VmgsReadResponse(Format):
    """Bytes of the guest state file."""

    status: VmgsIoStatus = u32(VmgsIoStatus)
    payload: bytes = rest(payload=True)


class VmgsStatusResponse(Format):
    """How a write or a flush ended."""

    status: VmgsIoStatus = u32(VmgsIoStatus)


class IgvmAttestResponse(Format):
    """How much the host wrote into the shared pages."""

    length: int = u32(unit="bytes")


class GuestStateProtectionByIdResponse(Format):
    """A key that follows from the VM's id."""

    seed: GspCleartext = nested(GspCleartext)
    extended_status_flags: GspExtendedStatus = u32(GspExtendedStatus)


class ActivityTraceStartResponse(Format):
    """The activity's id."""

    activity_id: UUID = guid()


class PlatformSettings(Format):
    """Settings of the VM's platform, as JSON."""

    size: int = u32(unit="bytes")
    settings: bytes = rest(text="utf-8")


class PlatformSettingsPart(Format):
    """The same in parts."""

    size: int = u32(unit="bytes")
    payload_state: LargePayloadState = u32(LargePayloadState)
    settings: bytes = rest(text="utf-8")


class GuestStateProtectionResponse(Format):
    """Keys, the new one encrypted and the old ones decrypted."""

    encrypted_gsp: GspCiphertext = nested(GspCiphertext)
    decrypted_gsp: tuple[GspCleartext, ...] = array(GspCleartext, 2)
    extended_status_flags: GspExtendedStatus = u32(GspExtendedStatus)


class SaveStateResponse(Format):
    """Whether the host has the part."""

    save_status: SaveRestoreStatus = u16(SaveRestoreStatus)


class RestoreStateResponse(Format):
    """A part of VTL2's state."""

    data_length: int = u32(unit="bytes")
    restore_status: SaveRestoreStatus = u16(SaveRestoreStatus)
    state: bytes = blob(length="data_length", payload=True)


class VpciDeviceControlResponse(Format):
    """How it went."""

    status: VpciControlStatus = u32(VpciControlStatus)


class VpciBindingChangeResponse(Format):
    """How it went."""

    bus_instance_id: UUID = guid()
    status: VpciControlStatus = u32(VpciControlStatus)


class VgaPciReadResponse(Format):
    """What was read."""

    value: int = u32()


class CreateRamRangeResponse(Format):
    """How it went."""

    status: RamRangeStatus = u32(RamRangeStatus)


class LoadFirmwareResponse(Format):
    """Where the firmware starts."""

    status: LoadFirmwareStatus = u32(LoadFirmwareStatus)
    entry_point_image_offset: int = u64(unit="bytes")


class FramebufferResponse(Format):
    """How mapping or unmapping went (not in Hyper-V)."""

    status: Outcome = u32(Outcome)


class HostResponseBody(Format):
    """The rest of a HOST_RESPONSE."""

    message_id: HostRequest = u16(HostRequest)
    body: Format | bytes = variant(
        on="message_id",
        cases={
            HostRequest.VERSION: GetVersionResponse,
            HostRequest.TIME: TimeResponse,
            HostRequest.VMGS_GET_DEVICE_INFO: VmgsGetDeviceInfoResponse,
            HostRequest.VMGS_READ: VmgsReadResponse,
            HostRequest.VMGS_WRITE: VmgsStatusResponse,
            HostRequest.VMGS_FLUSH: VmgsStatusResponse,
            HostRequest.IGVM_ATTEST: IgvmAttestResponse,
            HostRequest.GUEST_STATE_PROTECTION_BY_ID: GuestStateProtectionByIdResponse,
            HostRequest.ACTIVITY_TRACE_START: ActivityTraceStartResponse,
            HostRequest.GUEST_STATE_PROTECTION: GuestStateProtectionResponse,
            HostRequest.DEVICE_PLATFORM_SETTINGS_V2: PlatformSettings,
            HostRequest.DEVICE_PLATFORM_SETTINGS_V2_REV1: PlatformSettingsPart,
            HostRequest.VPCI_DEVICE_CONTROL: VpciDeviceControlResponse,
            HostRequest.SAVE_GUEST_VTL2_STATE: SaveStateResponse,
            HostRequest.RESTORE_GUEST_VTL2_STATE: RestoreStateResponse,
            HostRequest.VPCI_DEVICE_BINDING_CHANGE: VpciBindingChangeResponse,
            HostRequest.VGA_PROXY_PCI_READ: VgaPciReadResponse,
            HostRequest.CREATE_RAM_GPA_RANGE: CreateRamRangeResponse,
            HostRequest.LOAD_FIRMWARE: LoadFirmwareResponse,
            HostRequest.MAP_FRAMEBUFFER: FramebufferResponse,
            HostRequest.UNMAP_FRAMEBUFFER: FramebufferResponse,
        },
    )
