"""What the services of the integration components share: header values and versions.

Sources: openvmm ``vm/devices/hyperv_ic_protocol/src/lib.rs``; Linux 6.12 ``include/linux/hyperv.h`` (``icmsg_hdr``) and
``include/uapi/linux/hyperv.h`` (``HV_*`` status codes).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, u16

MAX_MESSAGE_SIZE = 13312


class IcMessageType(OpenEnum):
    """Which service a message belongs to; the same channel also carries the negotiation."""

    VERSION_NEGOTIATION = 0
    HEARTBEAT = 1
    KVP_EXCHANGE = 2
    SHUTDOWN = 3
    TIME_SYNC = 4
    VSS = 5
    RDV = 6
    GUEST_INTERFACE = 7
    VM_SESSION = 8


class IcStatus(OpenEnum):
    """How the guest fared, as an HRESULT; 0 in requests."""

    SUCCESS = 0
    FAIL = 0x80004005
    NOT_FOUND = 0x80041002
    NOT_SUPPORTED = 0x80070032
    ALREADY_EXISTS = 0x80070050
    INVALID_ARGUMENT = 0x80070057
    DISK_FULL = 0x80070070
    NO_MORE_ITEMS = 0x80070103
    DEVICE_NOT_CONNECTED = 0x8007048F
    MACHINE_LOCKED = 0x800704F7


class IcFlags(OpenFlags):
    """Whether a message wants an answer or is one."""

    TRANSACTION = 1
    REQUEST = 2
    RESPONSE = 4


class IcVersion(Format):
    """A version of the framework or of a service."""

    major: int = u16()
    minor: int = u16(default=0)
