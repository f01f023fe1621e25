"""The framework of the integration components: one header, one negotiation, and the services' messages behind it.

Every channel of a component is a pipe.  After opening it the host lists the versions of the framework and of the
service that it knows; the guest answers with one of each, or with none.  From then on the host sends requests, and
the guest sends each back with its answer filled in, the RESPONSE flag and a status.

Framework 3.0 (Windows Server 2008 R2 and later) and 1.0 (2008) have the same header; a guest picks 3.0 if it is
listed, and the service's version decides the layout behind the header.  In the negotiation itself both versions are
0.0 when the host sends it.

Sources: openvmm ``vm/devices/hyperv_ic_protocol/src/lib.rs`` and ``hyperv_ic/src/common.rs``; Linux 6.12
``include/linux/hyperv.h`` (``icmsg_hdr``, ``icmsg_negotiate``) and ``drivers/hv/channel_mgmt.c``
(``vmbus_prep_negotiate_resp``: at most 100 versions of each).
"""

from __future__ import annotations

from vmbus.wire.ic.fcopy import FcopyMessage
from vmbus.wire.ic.heartbeat import HeartbeatMessage
from vmbus.wire.ic.kvp import KvpMessage, KvpMessageV5
from vmbus.wire.ic.shutdown import ShutdownMessage
from vmbus.wire.ic.timesync import TimesyncMessage, TimesyncReferenceMessage
from vmbus.wire.ic.values import IcFlags, IcMessageType, IcStatus, IcVersion
from vmbus.wire.ic.vss import VssMessage
from vmbus.wire.schema import Format, items, nested, pad, rest, u8, u16, u32, variant

FRAMEWORK_1 = IcVersion(major=1, minor=0)
FRAMEWORK_3 = IcVersion(major=3, minor=0)

SERVICE_VERSIONS: dict[int, tuple[tuple[int, int], ...]] = {
    IcMessageType.HEARTBEAT: ((1, 0), (3, 0)),
    IcMessageType.KVP_EXCHANGE: ((1, 0), (3, 0), (4, 0), (5, 0)),
    IcMessageType.SHUTDOWN: ((1, 0), (3, 0), (3, 1), (3, 2)),
    IcMessageType.TIME_SYNC: ((1, 0), (3, 0), (4, 0)),
    IcMessageType.VSS: ((4, 0), (5, 0), (6, 0), (7, 0)),
    IcMessageType.GUEST_INTERFACE: ((1, 1),),
}
"""The versions of each service that a public implementation speaks, oldest first."""


class IcNegotiate(Format):
    """The versions that the host knows, or the one of each that the guest picked (none: it knows none of them)."""

    framework_version_count: int = u16()
    message_version_count: int = u16()
    reserved: int = u32(default=0)
    framework_versions: tuple[IcVersion, ...] = items(IcVersion, count="framework_version_count")
    message_versions: tuple[IcVersion, ...] = items(IcVersion, count="message_version_count")


_SINCE: dict[int, tuple[tuple[int, type[Format]], ...]] = {
    IcMessageType.VERSION_NEGOTIATION: ((0, IcNegotiate),),
    IcMessageType.HEARTBEAT: ((0, HeartbeatMessage),),
    IcMessageType.KVP_EXCHANGE: ((0, KvpMessage), (5, KvpMessageV5)),
    IcMessageType.SHUTDOWN: ((0, ShutdownMessage),),
    IcMessageType.TIME_SYNC: ((0, TimesyncMessage), (4, TimesyncReferenceMessage)),
    IcMessageType.VSS: ((0, VssMessage),),
    IcMessageType.GUEST_INTERFACE: ((0, FcopyMessage),),
}
"""Each service's layouts with the major version that brought them. RDV's and VM session's are not published."""


def ic_tag(message_type: int, major: int) -> int:
    """What chooses a body: the service and the major version of its messages."""
    return message_type + (major << 16)


IC_BODIES: dict[int, type[Format]] = {
    ic_tag(message_type, major): [fmt for since, fmt in layouts if since <= major][-1]
    for message_type, layouts in _SINCE.items()
    for major in range(8)
}
"""The body's format by :func:`ic_tag`."""


class IcMessage(Format):
    """Any message of an integration component's pipe, in either direction."""

    framework_version: IcVersion = nested(IcVersion)
    message_type: IcMessageType = u16(IcMessageType)
    message_version: IcVersion = nested(IcVersion)
    message_size: int = u16(unit="bytes", doc="of the body")
    status: IcStatus = u32(IcStatus, default=0)
    transaction_id: int = u8(default=0, doc="comes back in the response")
    flags: IcFlags = u8(IcFlags)
    reserved: bytes = pad(2, default=b"")
    body: Format | bytes = variant(on="message_type + (message_version.major << 16)", cases=IC_BODIES)
    trailing: bytes = rest()
