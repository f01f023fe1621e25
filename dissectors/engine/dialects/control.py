"""The control plane: which format a control message has, the line that sums it up, and what it tells about channels.

The variant of a message follows from its size, as it does in all implementations; only InitiateContact changed its
meaning without changing its size, and its version says which it is (openvmm ``vmbus_core/src/protocol.rs``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from uuid import UUID

from dissectors.engine.dialect import Dialect
from dissectors.engine.layers import Layer
from vmbus.wire import control as c
from vmbus.wire import guids
from vmbus.wire.control_values import MessageType, Version
from vmbus.wire.guids import interface_name
from vmbus.wire.offer import OfferChannel, OfferChannelPre7
from vmbus.wire.schema import Buffer, Format, WireError
from vmbus.wire.tail import choose
from vmbus.wire.vstor import IdeOfferProperties

if TYPE_CHECKING:
    from dissectors.engine.decoded import Decoded

HEADER_SIZE = c.MessageHeader.SIZE
TAIL_PADDING = 7
"""Bytes after a message that are only there because its structure ends with padding."""

CONTACT_CASES: dict[int, type[Format] | tuple[type[Format], ...]] = {
    0: c.InitiateContact,
    1: (c.InitiateContact5, c.InitiateContact6),
}
"""InitiateContact before 5.0, and from 5.0 on."""

BODY_CASES: dict[int, type[Format] | tuple[type[Format], ...]] = {
    MessageType.OFFER_CHANNEL: (OfferChannel, OfferChannelPre7),
    MessageType.RESCIND_CHANNEL_OFFER: c.RescindChannelOffer,
    MessageType.REQUEST_OFFERS: c.RequestOffers,
    MessageType.ALL_OFFERS_DELIVERED: c.AllOffersDelivered,
    MessageType.OPEN_CHANNEL: (c.OpenChannel, c.OpenChannel2),
    MessageType.OPEN_CHANNEL_RESULT: c.OpenResult,
    MessageType.CLOSE_CHANNEL: c.CloseChannel,
    MessageType.GPADL_HEADER: c.GpadlHeader,
    MessageType.GPADL_BODY: c.GpadlBody,
    MessageType.GPADL_CREATED: c.GpadlCreated,
    MessageType.GPADL_TEARDOWN: c.GpadlTeardown,
    MessageType.GPADL_TORNDOWN: c.GpadlTorndown,
    MessageType.REL_ID_RELEASED: c.RelIdReleased,
    MessageType.VERSION_RESPONSE: (c.VersionResponse, c.VersionResponse2, c.VersionResponse3),
    MessageType.UNLOAD: c.Unload,
    MessageType.UNLOAD_COMPLETE: c.UnloadComplete,
    MessageType.OPEN_RESERVED_CHANNEL: c.OpenReservedChannel,
    MessageType.CLOSE_RESERVED_CHANNEL: c.CloseReservedChannel,
    MessageType.CLOSE_RESERVED_RESPONSE: c.CloseReservedResponse,
    MessageType.TL_CONNECT_REQUEST: (c.TlConnectRequest, c.TlConnectRequest2),
    MessageType.MODIFY_CHANNEL: c.ModifyChannel,
    MessageType.TL_CONNECT_RESULT: c.TlConnectResult,
    MessageType.MODIFY_CHANNEL_RESPONSE: c.ModifyChannelResponse,
    MessageType.MODIFY_CONNECTION: c.ModifyConnection,
    MessageType.MODIFY_CONNECTION_RESPONSE: c.ModifyConnectionResponse,
    MessageType.PAUSE: c.Pause,
    MessageType.PAUSE_RESPONSE: c.PauseResponse,
    MessageType.RESUME: c.Resume,
}
"""Bodies by message type; of several, the largest that fits."""

OFFER_PROPERTIES: dict[UUID, type[Format]] = {guids.IDE: IdeOfferProperties}
"""What an offer's user-defined bytes hold that are neither a pipe's nor a socket's, by interface id."""

_TYPE = struct.Struct("<I")
_WITH_CHANNEL = frozenset(
    {
        MessageType.RESCIND_CHANNEL_OFFER, MessageType.OPEN_CHANNEL, MessageType.OPEN_CHANNEL_RESULT,
        MessageType.CLOSE_CHANNEL, MessageType.GPADL_HEADER, MessageType.GPADL_CREATED, MessageType.GPADL_TEARDOWN,
        MessageType.REL_ID_RELEASED, MessageType.OPEN_RESERVED_CHANNEL, MessageType.CLOSE_RESERVED_CHANNEL,
        MessageType.CLOSE_RESERVED_RESPONSE, MessageType.MODIFY_CHANNEL, MessageType.MODIFY_CHANNEL_RESPONSE,
    }
)  # fmt: skip
"""Messages whose body starts with a channel id."""
_CHANNEL_ID_AT = {MessageType.OFFER_CHANNEL: HEADER_SIZE + 176}
"""Of other messages: where the channel id stands, from the message's start."""


def message_type(item: Decoded) -> int:
    """The number of a control message; 0 if the record is too short to hold one."""
    at = item.body_at
    return int(_TYPE.unpack_from(item.data, at)[0]) if len(item.data) >= at + HEADER_SIZE else 0


def body_format(number: int, data: bytes | bytearray | memoryview, start: int, stop: int) -> type[Format] | None:
    """The format of a body at ``data[start:stop]``; None for a message that nobody knows or that is too short."""
    if number == MessageType.INITIATE_CONTACT:
        if stop - start < 4:
            return None
        is_new = _TYPE.unpack_from(data, start)[0] >= Version.V5_0
        return choose(CONTACT_CASES, int(is_new), stop - start)
    return choose(BODY_CASES, number, stop - start)


def parse_body(item: Decoded) -> Format | None:
    """The body of a control message as a typed object; None if it has no known format or is malformed."""
    start, stop = item.body_at + HEADER_SIZE, len(item.data)
    fmt = body_format(message_type(item), item.data, start, stop)
    if fmt is None:
        return None
    try:
        return fmt.parse(item.data, start, stop)
    except WireError:
        return None


def named_channel(item: Decoded) -> int:
    """The id of the channel that a control message is about; 0 if it is about none."""
    number = message_type(item)
    at = _CHANNEL_ID_AT.get(MessageType(number), HEADER_SIZE if number in _WITH_CHANNEL else 0)
    if not at or len(item.data) < item.body_at + at + 4:
        return 0
    return int(_TYPE.unpack_from(item.data, item.body_at + at)[0])


_OFFERS = (OfferChannel, OfferChannelPre7)


def _properties(data: Buffer, at: int) -> tuple[tuple[str, type[Format]], ...]:
    """The format of an offer's user-defined bytes, where only its interface id tells."""
    found = OFFER_PROPERTIES.get(UUID(bytes_le=bytes(data[at : at + 16])))
    return () if found is None else (("user_defined", found),)


class ControlPlane(Dialect):
    """Hypervisor messages that carry VMBus's control messages."""

    name = "control"

    def message_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        if stop - start < HEADER_SIZE:
            return [Layer(c.MessageHeader, start, stop)]
        found = [Layer(c.MessageHeader, start, stop)]
        at = start + HEADER_SIZE
        fmt = body_format(message_type(item), item.data, at, stop)
        if fmt is None:
            return [*found, Layer(None, at, stop, "unknown")] if at < stop else found
        found.append(Layer(fmt, at, stop, within=_properties(item.data, at) if fmt in _OFFERS else ()))
        try:
            end = fmt.parse_prefix(item.data, at, stop)[1]
        except WireError:
            return found
        if end < stop:
            found.append(Layer(None, end, stop, "padding" if stop - end <= TAIL_PADDING else "unknown"))
        return found

    def message_summary(self, item: Decoded) -> str:
        number = message_type(item)
        if not number:
            return f"hypervisor message, {len(item.data) - item.body_at} bytes"
        return f"{MessageType(number)}{_details(parse_body(item))}"


def _details(body: Format | None) -> str:
    """The few values of a message that tell it from others of its kind."""
    match body:
        case None:
            return ""
        case OfferChannel() | OfferChannelPre7():
            sub = f" subchannel {body.subchannel_index}" if body.subchannel_index else ""
            return f" channel {body.channel_id} {interface_name(body.interface_id)}{sub} {body.instance_id}"
        case c.InitiateContact() | c.InitiateContact5():
            return f" version {body.version.number}"
        case c.VersionResponse():
            return " accepted" if body.version_supported else " refused"
        case c.OpenResult() | c.ModifyChannelResponse():
            return f" channel {body.channel_id} {body.status}"
        case c.OpenChannel():
            return f" channel {body.channel_id} rings in GPADL {body.ring_gpadl_id:#x}, VP {body.target_vp}"
        case c.GpadlHeader():
            return f" channel {body.channel_id} GPADL {body.gpadl_id:#x}, {body.range_bytes} bytes of ranges"
        case c.GpadlCreated():
            return f" channel {body.channel_id} GPADL {body.gpadl_id:#x} {body.status}"
        case c.GpadlTeardown():
            return f" channel {body.channel_id} GPADL {body.gpadl_id:#x}"
        case c.GpadlBody() | c.GpadlTorndown():
            return f" GPADL {body.gpadl_id:#x}"
        case c.ModifyChannel():
            return f" channel {body.channel_id} VP {body.target_vp}"
        case c.TlConnectRequest():
            return f" service {interface_name(body.service_id)} endpoint {body.endpoint_id}"
        case c.TlConnectResult():
            return f" service {interface_name(body.service_id)} {body.status}"
        case c.ModifyConnectionResponse():
            return f" {body.connection_state}"
    channel_id = getattr(body, "channel_id", None)
    return "" if channel_id is None else f" channel {channel_id}"
