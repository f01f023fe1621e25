"""The vocabulary of the control plane: message numbers, versions, feature flags, statuses and connection ids.

Sources: openvmm ``vm/devices/vmbus/vmbus_core/src/protocol.rs`` (``vmbus_messages!``, ``Version``,
``FeatureFlags``, ``ConnectionState``, ``ConnectionId``) and ``vmbus_server/src/lib.rs``
(``get_child_message_connection_id``); Linux 6.12 ``include/linux/hyperv.h`` and ``drivers/hv/hyperv_vmbus.h``;
mu_msvm ``MsvmPkg/VmbusDxe/ChannelMessages.h``.  The messages are in ``control`` and ``offer``; what each version
knows is the table in ``vmbus.control.messages``.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags

VMBUS_SINT = 2
"""The synthetic interrupt source that VMBus uses unless it is redirected (openvmm ``VMBUS_SINT``)."""
REDIRECT_SINT = 7
REDIRECT_VTL = 2
"""Where a paravisor takes the messages and interrupts that the host redirects to it (openvmm ``REDIRECT_SINT``)."""

SYNIC_MESSAGE_TYPE = 1
"""The hypervisor message type that carries control messages."""

MESSAGE_CONNECTION_ID = 1
"""Where a guest posts before 5.0."""
MULTICLIENT_CONNECTION_ID = 4
"""Where a guest posts InitiateContact from 5.0 on: the host then looks at the SINT and VTL that it names."""
REDIRECT_MESSAGE_CONNECTION_ID = 0x800074
"""Where VTL 2 posts when the host redirects: connection 4 with SINT 7 and VTL 2."""
EVENT_CONNECTION_ID = 2
"""The one event of guests that share an interrupt page (before 2.4)."""

MAX_MESSAGE_SIZE = 240
"""Bytes that a hypervisor message can carry."""
MAX_CHANNEL_ID = 2047
"""Channel ids are event flags; a SINT has 2,048 of them, and flag 0 is the legacy shared one."""
MAX_USER_DEFINED = 120
"""Bytes that a device and a guest can give each other in an offer and an open request."""
INTERRUPTS_DISABLED = 0xFFFFFFFF
"""As a target processor: the guest polls and wants no interrupts (openvmm ``VP_INDEX_DISABLE_INTERRUPT``)."""
NO_MONITOR = 0xFF
"""As a monitor id: the channel is signalled by hypercall (openvmm ``MonitorId::INVALID``)."""


class MessageType(OpenEnum):
    """Which control message this is."""

    OFFER_CHANNEL = 1
    RESCIND_CHANNEL_OFFER = 2
    REQUEST_OFFERS = 3
    ALL_OFFERS_DELIVERED = 4
    OPEN_CHANNEL = 5
    OPEN_CHANNEL_RESULT = 6
    CLOSE_CHANNEL = 7
    GPADL_HEADER = 8
    GPADL_BODY = 9
    GPADL_CREATED = 10
    GPADL_TEARDOWN = 11
    GPADL_TORNDOWN = 12
    REL_ID_RELEASED = 13
    INITIATE_CONTACT = 14
    VERSION_RESPONSE = 15
    UNLOAD = 16
    UNLOAD_COMPLETE = 17
    OPEN_RESERVED_CHANNEL = 18
    CLOSE_RESERVED_CHANNEL = 19
    CLOSE_RESERVED_RESPONSE = 20
    TL_CONNECT_REQUEST = 21
    MODIFY_CHANNEL = 22
    TL_CONNECT_RESULT = 23
    MODIFY_CHANNEL_RESPONSE = 24
    MODIFY_CONNECTION = 25
    MODIFY_CONNECTION_RESPONSE = 26
    PAUSE = 27
    PAUSE_RESPONSE = 28
    RESUME = 29


class Version(OpenEnum):
    """A protocol version: major in the high half, minor in the low half. The comment names the Windows it came with."""

    V0_13 = 0x0000000D  # Server 2008
    V1_1 = 0x00010001  # 7, Server 2008 R2
    V2_4 = 0x00020004  # 8, Server 2012
    V3_0 = 0x00030000  # 8.1, Server 2012 R2
    V4_0 = 0x00040000  # 10
    V4_1 = 0x00040001  # 10 RS3, early
    V5_0 = 0x00050000  # 10 RS3
    V5_1 = 0x00050001  # 10 RS4
    V5_2 = 0x00050002  # 10 RS5, Server 2019
    V5_3 = 0x00050003  # Iron, Server 2022
    V6_0 = 0x00060000  # Copper

    @property
    def number(self) -> str:
        """As people write it: ``5.3``."""
        return f"{self >> 16}.{self & 0xFFFF}"


ALL_VERSIONS = tuple(Version)
"""Every version there is, oldest first."""


class FeatureFlags(OpenFlags):
    """What both ends of a 6.0 connection agree on beside the version; older versions have none."""

    GUEST_SPECIFIED_SIGNAL_PARAMETERS = 0x1
    CHANNEL_INTERRUPT_REDIRECTION = 0x2
    MODIFY_CONNECTION = 0x4
    CLIENT_ID = 0x8
    CONFIDENTIAL_CHANNELS = 0x10
    PAUSE_RESUME = 0x20
    SERVER_SPECIFIED_MONITOR_PAGES = 0x40
    GPA_PINNING = 0x80


ALL_FEATURES = FeatureFlags(0xFF)


class ConnectionState(OpenEnum):
    """How a connection or its modification went."""

    SUCCESSFUL = 0
    FAILED_LOW_RESOURCES = 1
    FAILED_UNKNOWN_FAILURE = 2


class Status(OpenEnum):
    """The NTSTATUS of an answer. Negative as a signed integer means failure; Linux takes anything but 0 as one."""

    SUCCESS = 0
    UNSUCCESSFUL = 0x8000FFFF
    CONNECTION_REFUSED = 0xC0000236

    @property
    def succeeded(self) -> bool:
        return self < 0x80000000


class OpenChannelFlags(OpenFlags):
    """How a channel is opened (6.0 with CHANNEL_INTERRUPT_REDIRECTION)."""

    REDIRECT_INTERRUPT = 1


def signal_connection_id(channel_id: int, *, sint: int = VMBUS_SINT, vtl: int = 0) -> int:
    """The connection that a guest signals to wake the host's end of a channel (openvmm ``ConnectionId::new``)."""
    return channel_id | sint << 12 | vtl << 16


def message_connection_id(*, vp: int = 0, sint: int = VMBUS_SINT, vtl: int = 0) -> int:
    """The connection for messages of a client on another SINT or VTL (openvmm ``get_child_message_connection_id``)."""
    return MULTICLIENT_CONNECTION_ID | vtl << 22 | vp << 8 | sint << 4
