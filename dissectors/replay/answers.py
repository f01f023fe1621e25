"""A replayed host's answers to control messages: the recorded ones for a live guest, and what the recording lacks."""

from __future__ import annotations

from vmbus.wire import control as c
from vmbus.wire.control_values import MessageType, Status
from vmbus.wire.offer import OfferChannel, OfferChannelPre7
from vmbus.wire.schema import Format

_NUMBERS: dict[type[Format], MessageType] = {
    c.VersionResponse: MessageType.VERSION_RESPONSE,
    c.AllOffersDelivered: MessageType.ALL_OFFERS_DELIVERED,
    c.OpenResult: MessageType.OPEN_CHANNEL_RESULT,
    c.GpadlCreated: MessageType.GPADL_CREATED,
    c.GpadlTorndown: MessageType.GPADL_TORNDOWN,
    c.UnloadComplete: MessageType.UNLOAD_COMPLETE,
    c.ModifyChannelResponse: MessageType.MODIFY_CHANNEL_RESPONSE,
    c.ModifyConnectionResponse: MessageType.MODIFY_CONNECTION_RESPONSE,
    c.TlConnectResult: MessageType.TL_CONNECT_RESULT,
    c.PauseResponse: MessageType.PAUSE_RESPONSE,
    c.CloseReservedResponse: MessageType.CLOSE_RESERVED_RESPONSE,
}


def whole_message(body: Format) -> bytes:
    """One of the messages that a host answers with, its header in front."""
    return c.MessageHeader(message_type=_NUMBERS[type(body)]).build() + body.build()


def unrecorded_answer(body: Format) -> Format | None:
    """What lets a guest go on that asks for something the recorded one did not ask for."""
    match body:
        case c.InitiateContact() | c.InitiateContact5():
            return c.VersionResponse(version_supported=0)
        case c.ModifyChannel():
            return c.ModifyChannelResponse(channel_id=body.channel_id, status=Status.SUCCESS)
        case c.TlConnectRequest():
            return c.TlConnectResult(
                endpoint_id=body.endpoint_id, service_id=body.service_id, status=Status.UNSUCCESSFUL
            )
        case c.CloseReservedChannel():
            return c.CloseReservedResponse(channel_id=body.channel_id)
        case c.Pause():
            return c.PauseResponse()
    return None


def readdressed(reply: Format, asked: Format) -> Format:
    """A recorded answer with the ids that the live guest chose."""
    match reply, asked:
        case c.OpenResult(), c.OpenChannel():
            return reply.replace(open_id=asked.open_id)
        case ((c.GpadlCreated() | c.GpadlTorndown()), (c.GpadlCreated() | c.GpadlTeardown())):
            return reply.replace(gpadl_id=asked.gpadl_id)
        case c.TlConnectResult(), c.TlConnectRequest():
            return reply.replace(endpoint_id=asked.endpoint_id)
        case ((OfferChannel() | OfferChannelPre7()), c.TlConnectRequest()):
            return reply.replace(instance_id=asked.endpoint_id)
    return reply
