"""The bodies of control messages 2 to 29, without the 8-byte header (offers, message 1, are in ``offer``).

Each message is one hypervisor message of at most 240 bytes.  Which variant of a message a connection uses depends
on its version, its features or the message's size: the table in ``vmbus.control.messages`` says how, and parses.

Sources: openvmm ``vm/devices/vmbus/vmbus_core/src/protocol.rs``; Linux 6.12 ``include/linux/hyperv.h``; mu_msvm
``MsvmPkg/VmbusDxe/ChannelMessages.h``.
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.control_values import (
    MAX_MESSAGE_SIZE,
    MAX_USER_DEFINED,
    ConnectionState,
    FeatureFlags,
    MessageType,
    OpenChannelFlags,
    Status,
    Version,
)
from vmbus.wire.schema import NIL_GUID, Format, guid, items, pad, raw, rest, u8, u16, u32, u64


class MessageHeader(Format):
    """Heads every control message."""

    message_type: MessageType = u32(MessageType)
    padding: int = u32(default=0, doc="means nothing, and is kept")


class RescindChannelOffer(Format):
    """Rescind (2): the host takes a channel back. The guest lets go of it and says so with 13."""

    channel_id: int = u32()


class RequestOffers(Format):
    """Request offers (3)."""


class AllOffersDelivered(Format):
    """All offers delivered (4): what comes later is hot-added."""


class OpenChannel(Format):
    """Open (5): use a GPADL as the rings of a channel."""

    channel_id: int = u32()
    open_id: int = u32(default=0, doc="comes back in the result")
    ring_gpadl_id: int = u32(doc="the pages of both rings, the guest's outgoing one first")
    target_vp: int = u32(default=0, doc="processor to interrupt, from 2.4 on; 0xffffffff for none")
    downstream_page_offset: int = u32(unit="pages", doc="where in the GPADL the guest's incoming ring starts")
    user_data: bytes = raw(MAX_USER_DEFINED, default=b"", doc="for the device")


class OpenChannel2(OpenChannel):
    """Open (5) with GUEST_SPECIFIED_SIGNAL_PARAMETERS or CHANNEL_INTERRUPT_REDIRECTION."""

    connection_id: int = u32(default=0, doc="the connection the guest will signal, if it may say so")
    event_flag: int = u16(default=0, doc="the flag by which the host signals the guest, if it may say so")
    flags: OpenChannelFlags = u16(OpenChannelFlags, default=0)


class OpenResult(Format):
    """Open result (6)."""

    channel_id: int = u32()
    open_id: int = u32()
    status: Status = u32(Status)


class CloseChannel(Format):
    """Close (7); there is no answer."""

    channel_id: int = u32()


class GpadlHeader(Format):
    """GPADL header (8): announces memory, with as many of its words as fit."""

    channel_id: int = u32()
    gpadl_id: int = u32()
    range_bytes: int = u16(unit="bytes", doc="of all ranges, in this message and the bodies")
    range_count: int = u16()
    words: tuple[int, ...] = items(u64(), doc="the ranges: count and offset in one word, then page numbers")


class GpadlBody(Format):
    """GPADL body (9): more words. It names no channel, so ids of unfinished GPADLs are unique."""

    number: int = u32(default=0, doc="of no use: Linux leaves it 0, openvmm ignores it")
    gpadl_id: int = u32()
    words: tuple[int, ...] = items(u64(), doc="page numbers, continued")


class GpadlCreated(Format):
    """GPADL created (10): the answer to 8."""

    channel_id: int = u32()
    gpadl_id: int = u32()
    status: Status = u32(Status)


class GpadlTeardown(Format):
    """GPADL teardown (11)."""

    channel_id: int = u32()
    gpadl_id: int = u32()


class GpadlTorndown(Format):
    """GPADL torn down (12): the host has let go of the memory."""

    gpadl_id: int = u32()


class RelIdReleased(Format):
    """Channel id released (13): the guest has let go of a channel."""

    channel_id: int = u32()


class InitiateContact(Format):
    """Initiate contact (14) for a version below 5.0."""

    version: Version = u32(Version, doc="what the guest wants to speak")
    target_message_vp: int = u32(default=0, doc="processor that gets the host's messages, from 3.0 on")
    interrupt_page: int = u64(default=0, unit="GPA", doc="shared event flags, used below 2.4")
    parent_to_child_monitor_page: int = u64(default=0, unit="GPA")
    child_to_parent_monitor_page: int = u64(default=0, unit="GPA")


class InitiateContact5(Format):
    """Initiate contact (14) for 5.0 and newer: the interrupt page gave its place to the target."""

    version: Version = u32(Version, doc="what the guest wants to speak")
    target_message_vp: int = u32(default=0, doc="processor that gets the host's messages")
    target_sint: int = u8(default=2, doc="SINT that gets the host's messages")
    target_vtl: int = u8(default=0, doc="VTL of the server that is meant, from 5.1 on")
    padding: bytes = pad(2, default=b"")
    features: FeatureFlags = u32(FeatureFlags, default=0, doc="from 6.0 on")
    parent_to_child_monitor_page: int = u64(default=0, unit="GPA")
    child_to_parent_monitor_page: int = u64(default=0, unit="GPA")


class InitiateContact6(InitiateContact5):
    """Initiate contact (14) of a guest that says who it is (CLIENT_ID)."""

    client_id: UUID = guid(default=NIL_GUID)


class VersionResponse(Format):
    """Version response (15): the answer to 14, and the only form below 6.0 and for a refusal."""

    version_supported: int = u8(doc="0: try another version")
    connection_state: ConnectionState = u8(ConnectionState, default=0)
    padding: bytes = pad(2, default=b"")
    version_or_connection_id: int = u32(
        default=0, doc="below 5.0 the version; from 5.0 on the connection id for the guest's further messages"
    )


class VersionResponse2(VersionResponse):
    """Version response (15) from 6.0 on."""

    features: FeatureFlags = u32(FeatureFlags, default=0)


class VersionResponse3(VersionResponse2):
    """Version response (15) with SERVER_SPECIFIED_MONITOR_PAGES."""

    padding2: bytes = pad(4, default=b"")
    parent_to_child_monitor_page: int = u64(default=0, unit="GPA")
    child_to_parent_monitor_page: int = u64(default=0, unit="GPA")


class Unload(Format):
    """Unload (16): the guest is done with VMBus. Allowed at any time."""


class UnloadComplete(Format):
    """Unload complete (17)."""


class OpenReservedChannel(Format):
    """Open reserved (18): for a crash dump or hibernation, outside the life of the connection."""

    channel_id: int = u32()
    target_vp: int = u32()
    target_sint: int = u32(doc="where the answers go")
    ring_gpadl_id: int = u32()
    downstream_page_offset: int = u32(unit="pages")


class CloseReservedChannel(Format):
    """Close reserved (19)."""

    channel_id: int = u32()
    target_vp: int = u32()
    target_sint: int = u32(doc="where the answer goes")


class CloseReservedResponse(Format):
    """Close reserved response (20)."""

    channel_id: int = u32()


class TlConnectRequest(Format):
    """Transport-layer connect (21): the guest wants a Hyper-V socket to a service of the host."""

    endpoint_id: UUID = guid(doc="the guest's end; becomes the instance id of the offer")
    service_id: UUID = guid(doc="the host's listener; becomes the interface id of the offer")


class TlConnectRequest2(TlConnectRequest):
    """Transport-layer connect (21) from 5.2 on; some newer guests still send the short form."""

    silo_id: UUID = guid(default=NIL_GUID, doc="the container that asks")


class ModifyChannel(Format):
    """Modify channel (22): interrupt another processor."""

    channel_id: int = u32()
    target_vp: int = u32()


class TlConnectResult(Format):
    """Transport-layer connect result (23): only a refusal is said; success is the offer."""

    endpoint_id: UUID = guid()
    service_id: UUID = guid()
    status: Status = u32(Status)


class ModifyChannelResponse(Format):
    """Modify channel response (24)."""

    channel_id: int = u32()
    status: Status = u32(Status)


class ModifyConnection(Format):
    """Modify connection (25): other monitor pages."""

    parent_to_child_monitor_page: int = u64(default=0, unit="GPA")
    child_to_parent_monitor_page: int = u64(default=0, unit="GPA")


class ModifyConnectionResponse(Format):
    """Modify connection response (26)."""

    connection_state: ConnectionState = u8(ConnectionState)


class Pause(Format):
    """Pause (27): send nothing until I say so, so that my message slot can be drained."""


class PauseResponse(Format):
    """Pause response (28): the last message before the silence."""


class Resume(Format):
    """Resume (29); there is no answer."""


class UnknownMessage(Format):
    """The body of a message that this connection does not have."""

    content: bytes = rest()


MAX_HEADER_WORDS = (MAX_MESSAGE_SIZE - MessageHeader.SIZE - GpadlHeader.SIZE) // 8
"""Words that fit into a GPADL header: 27, of which one is a range's count and offset."""
MAX_BODY_WORDS = (MAX_MESSAGE_SIZE - MessageHeader.SIZE - GpadlBody.SIZE) // 8
"""Words that fit into a GPADL body: 28."""
