"""The host end of RNDIS's control channel: requests in, completions and indications out; no channel, no buffers.

Sources: MS-RNDIS 3.2; openvmm ``netvsp/src/lib.rs`` (``handle_rndis_control_message``).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from vmbus.devices.network.errors import MalformedMessage, UnexpectedMessage
from vmbus.devices.network.oids import CardState, OidError, offload_object, query, set_value
from vmbus.wire.ndis import NdisStatus
from vmbus.wire.rndis import (
    HEADER_SIZE,
    DeviceFlags,
    LinkSpeedChange,
    RndisHalt,
    RndisIndicateStatus,
    RndisInitialize,
    RndisInitializeComplete,
    RndisKeepalive,
    RndisKeepaliveComplete,
    RndisMessage,
    RndisMessageType,
    RndisQuery,
    RndisQueryComplete,
    RndisReset,
    RndisResetComplete,
    RndisSet,
    RndisSetComplete,
    build_message,
)
from vmbus.wire.rndis_oid import Medium, Oid, PacketFilter
from vmbus.wire.schema import Format, WireError

PACKETS_PER_MESSAGE: Final = 8
"""Packet messages that a guest may put behind each other."""

ALIGNMENT: Final = 3
"""Each of them starts at a multiple of 2 to this power."""

LARGEST_TRANSFER: Final = 0xEFFFFFFF
LARGEST_CONTROL: Final = 4096
"""Bytes of a control message that we look at; the longest, a set of receive side scaling, has about 600."""


class RndisState(Enum):
    """Where the conversation is."""

    UNINITIALIZED = "uninitialized"
    OPERATIONAL = "operational"
    HALTED = "halted"


class RndisResponder:
    """Answers a guest's control messages, and changes the card's state by them."""

    def __init__(self, card: CardState) -> None:
        self.card = card
        self.state = RndisState.UNINITIALIZED

    def respond(self, data: bytes) -> list[bytes]:
        """The messages that answer one control message, in order.

        Raises :class:`MalformedMessage` or :class:`UnexpectedMessage`. What is merely refused is answered.
        """
        if len(data) < HEADER_SIZE or not HEADER_SIZE <= int.from_bytes(data[4:8], "little") <= len(data):
            raise MalformedMessage(f"an RNDIS control message whose length does not fit the {len(data)} bytes of it")
        try:
            message = RndisMessage.parse(data[: int.from_bytes(data[4:8], "little")])
        except WireError as error:
            raise MalformedMessage(f"an RNDIS control message: {error}") from None
        return self._answer(message.body, message.message_type)

    def _answer(self, body: Format | bytes, message_type: RndisMessageType) -> list[bytes]:
        match body:
            case RndisInitialize():
                return [self._initialize(body)]
            case RndisHalt():
                self.state = RndisState.HALTED
                self.card.filter = PacketFilter(0)
                return []
            case RndisReset():
                self.card.filter = PacketFilter(0)
                complete = RndisResetComplete(status=NdisStatus.SUCCESS, addressing_reset=1)
                return [build_message(RndisMessageType.RESET_COMPLETE, complete)]
            case RndisKeepalive():
                alive = RndisKeepaliveComplete(request_id=body.request_id, status=NdisStatus.SUCCESS)
                return [build_message(RndisMessageType.KEEPALIVE_COMPLETE, alive)]
            case RndisQuery() if self.state is RndisState.OPERATIONAL:
                return [self._query(body)]
            case RndisSet() if self.state is RndisState.OPERATIONAL and message_type == RndisMessageType.SET:
                return self._set(body)
        if isinstance(body, Format):
            raise UnexpectedMessage(f"RNDIS {message_type} while the card is {self.state.value}")
        raise MalformedMessage(f"RNDIS {message_type} of {HEADER_SIZE + len(body)} bytes")

    def _initialize(self, request: RndisInitialize) -> bytes:
        if self.state is RndisState.OPERATIONAL:
            raise UnexpectedMessage("RNDIS INITIALIZE while the card is operational")
        self.state = RndisState.OPERATIONAL
        complete = RndisInitializeComplete(
            request_id=request.request_id,
            status=NdisStatus.SUCCESS,
            device_flags=DeviceFlags.CONNECTIONLESS,
            medium=Medium.IEEE_802_3,
            max_packets_per_message=PACKETS_PER_MESSAGE,
            max_transfer_size=LARGEST_TRANSFER,
            packet_alignment_factor=ALIGNMENT,
        )
        return build_message(RndisMessageType.INITIALIZE_COMPLETE, complete)

    def _query(self, request: RndisQuery) -> bytes:
        status, answer = NdisStatus.SUCCESS, b""
        try:
            answer = query(self.card, request.oid)
        except OidError as error:
            status = error.status
        complete = RndisQueryComplete(
            request_id=request.request_id,
            status=status,
            information_buffer_length=len(answer),
            information=answer,
        )
        return build_message(RndisMessageType.QUERY_COMPLETE, complete)

    def _set(self, request: RndisSet) -> list[bytes]:
        status = NdisStatus.SUCCESS
        try:
            set_value(self.card, request.oid, request.information)
        except OidError as error:
            status = error.status
        complete = RndisSetComplete(request_id=request.request_id, status=status)
        answers = [build_message(RndisMessageType.SET_COMPLETE, complete)]
        if request.oid == Oid.TCP_OFFLOAD_PARAMETERS and status == NdisStatus.SUCCESS:
            current = offload_object(self.card.enabled)
            answers.append(indicate(NdisStatus.TASK_OFFLOAD_CURRENT_CONFIG, current))
        return answers

    def link_changed(self) -> list[bytes]:
        """What the guest is told when the card's link goes up or down."""
        if self.state is not RndisState.OPERATIONAL:
            return []
        if not self.card.link_up:
            return [indicate(NdisStatus.MEDIA_DISCONNECT)]
        speed = LinkSpeedChange(speed=min(self.card.link_speed // 100, 0xFFFFFFFF))
        return [indicate(NdisStatus.LINK_SPEED_CHANGE, speed), indicate(NdisStatus.MEDIA_CONNECT)]


def indicate(status: NdisStatus, buffer: Format | None = None) -> bytes:
    """An indication, as a message."""
    if buffer is None:
        return build_message(RndisMessageType.INDICATE_STATUS, RndisIndicateStatus(status=status))
    size = len(buffer.build())
    body = RndisIndicateStatus(
        status=status, status_buffer_length=size, status_buffer_offset=RndisIndicateStatus.SIZE, status_buffer=buffer
    )
    return build_message(RndisMessageType.INDICATE_STATUS, body)
