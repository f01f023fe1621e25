"""Message numbers, status codes and flags of the guest emulation transport.

Source: openvmm ``vm/devices/get/get_protocol/src/lib.rs``.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags

MAX_MESSAGE_SIZE = 12288
MAX_PAYLOAD_SIZE = 8192
TRACE_MESSAGE_BYTES = 512


class GetVersion(OpenEnum):
    """Major version in the high half, minor in the low one."""

    INVALID = 0
    RS5 = 0x00010000
    IRON = 0x00030000
    NICKEL_REV2 = 0x00040002


class GetHeaderVersion(OpenEnum):
    """Version of the header itself."""

    INVALID = 0
    HEADER_VERSION_1 = 1


class GetMessageType(OpenEnum):
    """Which way a message goes and whether it wants an answer; also the scope of its ``message_id``."""

    INVALID = 0
    HOST_NOTIFICATION = 1
    HOST_REQUEST = 2
    HOST_RESPONSE = 3
    GUEST_NOTIFICATION = 4


class GuestNotification(OpenEnum):
    """From the host, unanswered."""

    INVALID = 0
    UPDATE_GENERATION_ID = 1
    SAVE_GUEST_VTL2_STATE = 2
    RESERVED_3 = 3
    VPCI_DEVICE_NOTIFICATION = 4
    MODIFY_VTL2_SETTINGS = 5
    MODIFY_VTL2_SETTINGS_REV1 = 6
    BATTERY_STATUS = 7
    INJECT_DEBUG_INTERRUPT = 8
    NOTIFY_POST_LIVE_MIGRATION = 9


class HostNotification(OpenEnum):
    """From the guest, unanswered."""

    INVALID = 0
    POWER_OFF = 1
    RESET = 2
    EVENT_LOG = 3
    LOG_TRACE = 4
    RESTORE_GUEST_VTL2_STATE_COMPLETED = 5
    MODIFY_VTL2_SETTINGS_COMPLETED = 6
    START_VTL0_COMPLETED = 7
    VTL_CRASH = 8
    TRIPLE_FAULT = 9


class HostRequest(OpenEnum):
    """From the guest; the host's answer has the same number, but for 18, which is answered by 27."""

    INVALID = 0
    VERSION = 1
    TIME = 2
    BIOS_BOOT_FINALIZE = 3
    VMGS_GET_DEVICE_INFO = 4
    VMGS_READ = 5
    VMGS_WRITE = 6
    VMGS_FLUSH = 7
    IGVM_ATTEST = 8
    GUEST_STATE_PROTECTION_BY_ID = 9
    VMGS_KEYS_READ = 10
    LOG_TRACE = 11
    ACTIVITY_TRACE_START = 12
    ACTIVITY_TRACE_OP = 13
    EVENT_TRACE = 14
    DEVICE_PLATFORM_SETTINGS = 15
    ADVISORY_PLATFORM_SETTINGS = 16
    GUEST_STATE_PROTECTION = 17
    DEVICE_PLATFORM_SETTINGS_V2 = 18
    VPCI_DEVICE_CONTROL = 19
    SAVE_GUEST_VTL2_STATE = 20
    RESTORE_GUEST_VTL2_STATE = 21
    VPCI_DEVICE_BINDING_CHANGE = 22
    VGA_PROXY_PCI_READ = 23
    VGA_PROXY_PCI_WRITE = 24
    RESERVED_25 = 25
    RESERVED_26 = 26
    DEVICE_PLATFORM_SETTINGS_V2_REV1 = 27
    CREATE_RAM_GPA_RANGE = 28
    RESET_RAM_GPA_RANGE = 29
    LOAD_FIRMWARE = 30
    UNMAP_FRAMEBUFFER = 0xFFFE
    MAP_FRAMEBUFFER = 0xFFFF


class LargePayloadState(OpenEnum):
    """Whether more messages of the same payload follow."""

    END = 0
    MORE = 1


class EventLogId(OpenEnum):
    """What the host is to write into its event log."""

    INVALID_ID = 0
    BOOT_SUCCESS = 1
    BOOT_SUCCESS_SECURE_BOOT_FAILED = 2
    BOOT_FAILURE = 3
    BOOT_FAILURE_SECURE_BOOT_FAILED = 4
    NO_BOOT_DEVICE = 5
    ATTESTATION_FAILED = 6
    VMGS_FILE_CLEAR = 7
    VMGS_INIT_FAILED = 8
    VMGS_INVALID_FORMAT = 9
    VMGS_CORRUPT_FORMAT = 10
    KEY_NOT_RELEASED = 11
    DEK_DECRYPTION_FAILED = 12
    WATCHDOG_TIMEOUT_RESET = 13
    BOOT_ATTEMPT = 14
    VMGS_ACCESS_FAILED = 15
    CERTIFICATE_RENEWAL_FAILED = 16
    TPM_INVALID_STATE = 17
    TPM_IDENTITY_CHANGE_FAILED = 18
    WRAPPED_KEY_REQUIRED_BUT_INVALID = 19
    DEK_HARDWARE_SEALING_INVALID_KEY = 20
    DEK_HARDWARE_SEALING_FAILED = 21
    DEK_HARDWARE_UNSEALING_SKIPPED = 23


class LogLevel(OpenEnum):
    """How serious a trace message is."""

    INVALID = 0
    CRITICAL = 1
    ERROR = 2
    WARNING = 3
    INFORMATION = 4
    VERBOSE = 5


class SaveRestoreStatus(OpenEnum):
    """How a transfer of VTL2 state stands."""

    SUCCESS = 0
    FAILURE = 1
    MORE_DATA = 2
    REQUEST_DATA = 3


class TripleFaultType(OpenEnum):
    """What led to the fault."""

    UNRECOVERABLE_EXCEPTION = 1


class VmgsIoStatus(OpenEnum):
    """How an access to the guest state file ended."""

    SUCCESS = 0
    INVALID_COMMAND = 1
    DEVICE_ERROR = 2
    RETRY = 3


class VmgsWriteFlags(OpenFlags):
    """How a write is done."""

    WRITE_THROUGH = 1


class ActivityClass(OpenEnum):
    """What an activity is about."""

    INVALID = 0
    VMGS_INITIALIZE_DEVICE = 1
    VMGS_INITIALIZE_STORE = 2
    VMGS_OPEN_STORE = 3
    VMGS_FORMAT = 4
    VMGS_SEND_RECEIVE = 5
    VMGS_DEVICE_READ = 6
    VMGS_DEVICE_WRITE = 7
    VMGS_DEVICE_FLUSH = 8


class ActivityOpCode(OpenEnum):
    """What happens to an activity."""

    INFO = 0
    START = 1
    STOP = 2


class EventId(OpenEnum):
    """What a traced event is."""

    INVALID = 0
    VMGS_INFO = 1
    VMGS_WARNING = 2
    VMGS_ERROR = 3
    VMGS_CRITICAL = 4


class GspExtendedStatus(OpenFlags):
    """Guest state protection: what either end can do or saw."""

    STATE_REFRESH_REQUEST = 1
    NO_REGISTRY_FILE = 2
    NO_RPC_SERVER = 4
    ALLOW_AK_CERT_RENEWAL = 8
    REQUIRES_RPC_SERVER = 16


class SaveStateFlags(OpenFlags):
    """What may stay alive while VTL2 is serviced."""

    ENABLE_NVME_KEEPALIVE = 1
    ENABLE_MANA_KEEPALIVE = 2


class VpciControlCode(OpenEnum):
    """What the host is to do with a vPCI device."""

    UNDEFINED = 0
    OFFER = 1
    REVOKE = 2
    RESET = 3


class VpciControlStatus(OpenEnum):
    """How it went."""

    SUCCESS = 0
    INVALID_REQUEST = 1
    DEVICE_NOT_FOUND = 2
    INVALID_DEVICE_STATE = 3
    GENERIC_FAILURE = 4


class VpciNotificationCode(OpenEnum):
    """What happened to a vPCI device."""

    UNDEFINED = 0
    ENUMERATED = 1
    PREPARE_FOR_REMOVAL = 2


class Outcome(OpenEnum):
    """Whether something worked."""

    SUCCESS = 0
    FAILURE = 1


class BatteryFlags(OpenFlags):
    """State of the host's battery."""

    AC_ONLINE = 1
    BATTERY_PRESENT = 2
    CHARGING = 4
    DISCHARGING = 8


class RamRangeFlags(OpenFlags):
    """How a range of memory is made."""

    ROM_MB = 2


class RamRangeStatus(OpenEnum):
    """How making it went."""

    SUCCESS = 0
    SLOT_OUT_OF_BOUNDS = 1
    SLOT_OCCUPIED = 2
    INVALID_FLAG = 3
    INVALID_GPA = 4
    FAILED = 5


class LoadFirmwareStatus(OpenEnum):
    """How loading firmware went."""

    SUCCESS = 0
    INVALID_TOKEN = 1
    FAILED = 2
