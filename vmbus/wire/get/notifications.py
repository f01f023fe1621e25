"""What the two ends of a guest emulation transport tell each other unasked.

A *host* notification goes to the host, a *guest* notification to the guest.

Source: openvmm ``vm/devices/get/get_protocol/src/lib.rs``.  Those without a body here are their header alone
(RESET, NOTIFY_POST_LIVE_MIGRATION).
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.get.values import (
    TRACE_MESSAGE_BYTES,
    BatteryFlags,
    EventLogId,
    GuestNotification,
    HostNotification,
    LargePayloadState,
    LogLevel,
    Outcome,
    SaveRestoreStatus,
    SaveStateFlags,
    TripleFaultType,
    VpciNotificationCode,
)
from vmbus.wire.schema import Format, array, blob, guid, items, raw, rest, u8, u16, u32, u64, variant


class PowerOff(Format):
    """To the host: the guest powered itself off."""

    hibernate: int = u8(default=0)
    padding: int = u8(default=0)


class EventLog(Format):
    """To the host: write this into the event log."""

    event_log_id: EventLogId = u32(EventLogId)


class LogTrace(Format):
    """To the host: a line to trace; also a request once."""

    level: LogLevel = u32(LogLevel)
    message: bytes = raw(TRACE_MESSAGE_BYTES, text="utf-16-le")


class VtlCrash(Format):
    """To the host: a virtual trust level crashed."""

    vp_index: int = u32()
    last_vtl: int = u8()
    reserved0: int = u8(default=0)
    reserved1: int = u16(default=0)
    reserved2: int = u32(default=0)
    control: int = u64(doc="as the guest wrote it into HV_X64_MSR_CRASH_CTL")
    parameters: tuple[int, ...] = array(u64(), 5, doc="as the guest wrote them into HV_X64_MSR_CRASH_P0 to P4")


class RegisterState(Format):
    """A register of a processor."""

    name: int = u32(doc="HV_REGISTER_NAME")
    value: bytes = raw(16)


class TripleFault(Format):
    """To the host: a processor took a triple fault."""

    vp_index: int = u32()
    fault_type: TripleFaultType = u32(TripleFaultType)
    register_count: int = u32()
    registers: tuple[RegisterState, ...] = items(RegisterState, count="register_count")


class RestoreCompleted(Format):
    """To the host: VTL2 has its state back."""

    status: SaveRestoreStatus = u16(SaveRestoreStatus)


class OutcomeDocument(Format):
    """To the host: settings were changed, or VTL0 started; with what went wrong as text."""

    status: Outcome = u32(Outcome)
    result_document_size: int = u32(default=0, unit="bytes")
    result_document: bytes = blob(length="result_document_size", text="utf-8")


class UpdateGenerationId(Format):
    """To the guest: it was restored or copied."""

    padding: int = u32(default=0)
    generation_id: bytes = raw(16)


class SaveStateRequest(Format):
    """To the guest: save VTL2, which is to be serviced."""

    correlation_id: UUID = guid()
    capabilities_flags: SaveStateFlags = u64(SaveStateFlags, default=0)
    timeout_hint_secs: int = u16(unit="s")


class VpciDeviceNotification(Format):
    """To the guest: a vPCI device appeared or is about to go."""

    bus_instance_id: UUID = guid()
    code: VpciNotificationCode = u32(VpciNotificationCode)


class ModifySettings(Format):
    """To the guest: new settings for VTL2, as JSON."""

    size: int = u32(unit="bytes")
    settings: bytes = rest(text="utf-8")


class ModifySettingsPart(Format):
    """To the guest: the same in parts."""

    size: int = u32(unit="bytes")
    payload_state: LargePayloadState = u32(LargePayloadState)
    settings: bytes = rest(text="utf-8")


class BatteryStatus(Format):
    """To the guest: the host's battery."""

    flags: BatteryFlags = u32(BatteryFlags)
    max_capacity: int = u32()
    remaining_capacity: int = u32()
    rate: int = u32()


class InjectDebugInterrupt(Format):
    """To the guest: break into its debugger."""

    vtl: int = u8()
    padding: int = u8(default=0)


class HostNotificationBody(Format):
    """The rest of a HOST_NOTIFICATION."""

    message_id: HostNotification = u16(HostNotification)
    body: Format | bytes = variant(
        on="message_id",
        cases={
            HostNotification.POWER_OFF: PowerOff,
            HostNotification.EVENT_LOG: EventLog,
            HostNotification.LOG_TRACE: LogTrace,
            HostNotification.RESTORE_GUEST_VTL2_STATE_COMPLETED: RestoreCompleted,
            HostNotification.MODIFY_VTL2_SETTINGS_COMPLETED: OutcomeDocument,
            HostNotification.START_VTL0_COMPLETED: OutcomeDocument,
            HostNotification.VTL_CRASH: VtlCrash,
            HostNotification.TRIPLE_FAULT: TripleFault,
        },
    )


class GuestNotificationBody(Format):
    """The rest of a GUEST_NOTIFICATION."""

    message_id: GuestNotification = u16(GuestNotification)
    body: Format | bytes = variant(
        on="message_id",
        cases={
            GuestNotification.UPDATE_GENERATION_ID: UpdateGenerationId,
            GuestNotification.SAVE_GUEST_VTL2_STATE: SaveStateRequest,
            GuestNotification.VPCI_DEVICE_NOTIFICATION: VpciDeviceNotification,
            GuestNotification.MODIFY_VTL2_SETTINGS: ModifySettings,
            GuestNotification.MODIFY_VTL2_SETTINGS_REV1: ModifySettingsPart,
            GuestNotification.BATTERY_STATUS: BatteryStatus,
            GuestNotification.INJECT_DEBUG_INTERRUPT: InjectDebugInterrupt,
        },
    )
