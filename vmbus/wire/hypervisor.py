"""What the hypervisor gives to both partitions: synthetic interrupts, message slots, event flags, monitor pages.

Sources: Hypervisor Top Level Functional Specification, chapters 11 (inter-partition communication) and 3
(hypercalls); Linux 6.12 ``include/asm-generic/hyperv-tlfs.h``, ``arch/x86/include/asm/hyperv-tlfs.h`` and
``drivers/hv/hyperv_vmbus.h`` (``hv_monitor_page``); openvmm ``vm/hv1/hvdef/src/lib.rs`` (``HvMessageHeader``,
``HvError``, ``hypercall::PostMessage``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, array, bits, nested, pad, raw, u8, u16, u32, u64

SINT_COUNT = 16
"""Synthetic interrupt sources of a virtual processor."""
MESSAGE_SIZE = 256
MESSAGE_PAYLOAD_SIZE = 240
MESSAGE_PAGE_SIZE = SINT_COUNT * MESSAGE_SIZE
"""The SIMP page: one message slot per SINT."""
EVENT_FLAG_COUNT = 2048
EVENT_FLAGS_SIZE = EVENT_FLAG_COUNT // 8
"""Bytes of one SINT's flags in the SIEFP page."""
VP_INDEX_SELF = 0xFFFFFFFE
ANY_VP = 0xFFFFFFFF


class HvMessageType(OpenEnum):
    """What a message in a slot is; 0 means that the slot is free."""

    NONE = 0
    VMBUS = 1
    UNMAPPED_GPA = 0x80000000
    GPA_INTERCEPT = 0x80000001
    TIMER_EXPIRED = 0x80000010
    INVALID_VP_REGISTER_VALUE = 0x80000020
    UNRECOVERABLE_EXCEPTION = 0x80000021
    UNSUPPORTED_FEATURE = 0x80000022
    EVENTLOG_BUFFER_COMPLETE = 0x80000040


class HvMessageFlags(OpenFlags):
    """Flags in a message slot."""

    MESSAGE_PENDING = 1


class HvMessageHeader(Format):
    """Heads a message slot. Writing ``message_type`` last, and clearing it first, is what hands the slot over."""

    message_type: HvMessageType = u32(HvMessageType)
    payload_size: int = u8(unit="bytes")
    flags: HvMessageFlags = u8(HvMessageFlags, default=0, doc="MESSAGE_PENDING: write EOM after freeing the slot")
    reserved: int = u16(default=0)
    sender: int = u64(default=0, doc="the port that the message came through")


class HvMessage(Format):
    """A whole slot of the SIMP page."""

    header: HvMessageHeader = nested(HvMessageHeader)
    payload: bytes = raw(MESSAGE_PAYLOAD_SIZE)


class PostMessageInput(Format):
    """Input of HvCallPostMessage."""

    connection_id: int = u32()
    padding: int = u32(default=0)
    message_type: HvMessageType = u32(HvMessageType)
    payload_size: int = u32(unit="bytes")
    payload: bytes = raw(MESSAGE_PAYLOAD_SIZE)


class SignalEventInput(Format):
    """Input of HvCallSignalEvent."""

    connection_id: int = u32()
    flag_number: int = u16(default=0)
    reserved: int = u16(default=0)


class EventFlags(Format):
    """One SINT's part of the SIEFP page: a bit for each channel, set by the sender and cleared by the receiver."""

    flags: tuple[int, ...] = array(u32(), EVENT_FLAG_COUNT // 32)


class HypercallCode(OpenEnum):
    """The hypercalls that VMBus needs."""

    POST_MESSAGE = 0x5C
    SIGNAL_EVENT = 0x5D


class Msr(OpenEnum):
    """Synthetic model-specific registers, by their x86 numbers."""

    GUEST_OS_ID = 0x40000000
    HYPERCALL = 0x40000001
    VP_INDEX = 0x40000002
    RESET = 0x40000003
    VP_RUNTIME = 0x40000010
    TIME_REF_COUNT = 0x40000020
    REFERENCE_TSC = 0x40000021
    TSC_FREQUENCY = 0x40000022
    APIC_FREQUENCY = 0x40000023
    SCONTROL = 0x40000080
    SVERSION = 0x40000081
    SIEFP = 0x40000082
    SIMP = 0x40000083
    EOM = 0x40000084
    SINT0 = 0x40000090
    SINT1 = 0x40000091
    SINT2 = 0x40000092
    SINT3 = 0x40000093
    SINT4 = 0x40000094
    SINT5 = 0x40000095
    SINT6 = 0x40000096
    SINT7 = 0x40000097
    SINT8 = 0x40000098
    SINT9 = 0x40000099
    SINT10 = 0x4000009A
    SINT11 = 0x4000009B
    SINT12 = 0x4000009C
    SINT13 = 0x4000009D
    SINT14 = 0x4000009E
    SINT15 = 0x4000009F
    STIMER0_CONFIG = 0x400000B0
    STIMER0_COUNT = 0x400000B1
    GUEST_IDLE = 0x400000F0
    CRASH_P0 = 0x40000100
    CRASH_P1 = 0x40000101
    CRASH_P2 = 0x40000102
    CRASH_P3 = 0x40000103
    CRASH_P4 = 0x40000104
    CRASH_CTL = 0x40000105


class SynicPage(Format):
    """The value of SIMP or SIEFP: where a processor's message or event flag page is."""

    enabled: int = bits(1, of=64)
    preserved: int = bits(11, default=0)
    base_pfn: int = bits(52)


class SynicControl(Format):
    """The value of SCONTROL."""

    enabled: int = bits(1, of=64)
    reserved: int = bits(63, default=0)


class SintRegister(Format):
    """The value of a SINTx register."""

    vector: int = bits(8, of=64)
    reserved1: int = bits(8, default=0)
    masked: int = bits(1)
    auto_eoi: int = bits(1, default=0)
    polling: int = bits(1, default=0)
    reserved2: int = bits(45, default=0)


class HvStatus(OpenEnum):
    """The result of a hypercall."""

    SUCCESS = 0x00
    INVALID_HYPERCALL_CODE = 0x02
    INVALID_HYPERCALL_INPUT = 0x03
    INVALID_ALIGNMENT = 0x04
    INVALID_PARAMETER = 0x05
    ACCESS_DENIED = 0x06
    INVALID_PARTITION_STATE = 0x07
    OPERATION_DENIED = 0x08
    UNKNOWN_PROPERTY = 0x09
    PROPERTY_VALUE_OUT_OF_RANGE = 0x0A
    INSUFFICIENT_MEMORY = 0x0B
    PARTITION_TOO_DEEP = 0x0C
    INVALID_PARTITION_ID = 0x0D
    INVALID_VP_INDEX = 0x0E
    NOT_FOUND = 0x10
    INVALID_PORT_ID = 0x11
    INVALID_CONNECTION_ID = 0x12
    INSUFFICIENT_BUFFERS = 0x13
    NOT_ACKNOWLEDGED = 0x14
    INVALID_VP_STATE = 0x15
    ACKNOWLEDGED = 0x16
    INVALID_SAVE_RESTORE_STATE = 0x17
    INVALID_SYNIC_STATE = 0x18
    OBJECT_IN_USE = 0x19
    NO_DATA = 0x1B
    INACTIVE = 0x1C
    NO_RESOURCES = 0x1D
    FEATURE_UNAVAILABLE = 0x1E
    INVALID_REGISTER_VALUE = 0x50
    OPERATION_FAILED = 0x71
    TIME_OUT = 0x78
    VTL_ALREADY_ENABLED = 0x86


MONITOR_GROUPS, MONITORS_PER_GROUP = 4, 32
MONITOR_COUNT = MONITOR_GROUPS * MONITORS_PER_GROUP
"""Monitored notifications of a connection: 128."""


class MonitorGroup(Format):
    """32 notifications. The guest sets a pending bit instead of making a hypercall; the host polls for it."""

    pending: int = u32(default=0)
    armed: int = u32(default=0)


class MonitorParameter(Format):
    """What the hypervisor signals for a notification."""

    connection_id: int = u32(default=0)
    flag_number: int = u16(default=0)
    reserved: int = u16(default=0)


_NO_GROUPS = (MonitorGroup(),) * MONITOR_GROUPS
_NO_PARAMETERS = (MonitorParameter(),) * MONITOR_COUNT


class MonitorPage(Format):
    """A monitor page, 4 KiB: one for each direction. Notification n is bit ``n % 32`` of group ``n // 32``."""

    group_enable: int = bits(4, of=32, default=0, doc="a bit for each group in use")
    reserved0: int = bits(28, default=0)
    reserved1: int = u32(default=0)
    groups: tuple[MonitorGroup, ...] = array(MonitorGroup, MONITOR_GROUPS, default=_NO_GROUPS)
    reserved2: bytes = pad(24, default=b"")
    next_check_time: tuple[int, ...] = array(u32(), MONITOR_COUNT, default=(0,) * MONITOR_COUNT)
    latency: tuple[int, ...] = array(
        u16(unit="100 ns"), MONITOR_COUNT, default=(0,) * MONITOR_COUNT, doc="how late a signal may be"
    )
    reserved3: bytes = pad(256, default=b"")
    parameters: tuple[MonitorParameter, ...] = array(MonitorParameter, MONITOR_COUNT, default=_NO_PARAMETERS)
    reserved4: bytes = pad(1984, default=b"")


MONITOR_PENDING_OFFSET = 8
"""Where group 0's pending word lies in a monitor page; each group takes 8 bytes."""
MONITOR_LATENCY_OFFSET = 0x240
MONITOR_PARAMETER_OFFSET = 0x440
