"""The end of a card with several channels: the guest takes its buffers back on one, and nothing orders the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from vmbus.channel import Channel, ChannelHandler
from vmbus.devices.network.errors import UnexpectedMessage, UnknownTransaction
from vmbus.gpadl import GpaRange
from vmbus.ring import RingPacket
from vmbus.testing.channels import ChannelPair
from vmbus.testing.kept_frames import KeptFrames
from vmbus.testing.network import Wire
from vmbus.testing.raw_card import RawCard, frame_message
from vmbus.wire.guids import NETWORK
from vmbus.wire.nvsp import (
    NO_SECTION,
    ChannelType,
    NvspMessageType,
    NvspRevokeReceiveBuffer,
    NvspRevokeSendBuffer,
    NvspSendRndisPacket,
    NvspSendRndisPacketComplete,
    NvspStatus,
    NvspSubchannelRequest,
    NvspVersion,
    SubchannelOperation,
    build_message,
)

MakeWire = Callable[..., Wire]
MAC = bytes.fromhex("00155d0a0b0c")
FRAME = MAC + bytes(6) + b"\x08\x00" + bytes(50)
COMPLETE = build_message(
    NvspMessageType.SEND_RNDIS_PACKET_COMPLETE,
    NvspSendRndisPacketComplete(status=NvspStatus.SUCCESS),
    NvspVersion.V61,
)


@pytest.fixture
def backend() -> KeptFrames:
    return KeptFrames()


@pytest.fixture
def card(make_wire: MakeWire, backend: KeptFrames) -> RawCard:
    card = RawCard(make_wire(backend, queues=2))
    card.negotiate()
    request = NvspSubchannelRequest(operation=SubchannelOperation.ALLOCATE, num_sub_channels=1)
    card.ask(NvspMessageType.SUBCHANNEL, request)
    return card


class Kept(ChannelHandler):
    """The transaction ids that came back."""

    def __init__(self) -> None:
        self.completed: list[int] = []

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        self.completed += [packet.transaction_id for packet in packets]


@pytest.fixture
def second(card: RawCard) -> Iterator[ChannelPair]:
    """The card's subchannel."""
    with ChannelPair(interface_id=NETWORK, instance_id=card.wire.provider.instance_id, subchannel_index=1) as pair:
        pair.host.handler = card.wire.provider.open(pair.host)
        pair.guest.handler = Kept()
        yield pair


def take_back(card: RawCard) -> None:
    card.ask(NvspMessageType.REVOKE_RECEIVE_BUFFER, NvspRevokeReceiveBuffer(id=0xCAFE))
    card.ask(NvspMessageType.REVOKE_SEND_BUFFER, NvspRevokeSendBuffer(id=0))


def lend(card: RawCard, backend: KeptFrames) -> int:
    """Lend buffers, take a frame and keep it; its transaction id."""
    card.lend_buffers()
    if not card.messages:
        card.initialize()
    card.set_filter(0x0D)
    card.auto_complete = False
    assert backend.deliver is not None and backend.deliver([FRAME]) == 1
    card.pair.pump()
    return card.received[-1].transaction_id


def send(channel: Channel, section: int, transaction_id: int) -> None:
    body = NvspSendRndisPacket(
        channel_type=ChannelType.DATA, send_buffer_section_index=section, send_buffer_section_size=60
    )
    message = build_message(NvspMessageType.SEND_RNDIS_PACKET, body, NvspVersion.V61)
    if section == NO_SECTION:
        channel.send_gpa_direct([GpaRange(60, 0, (5,))], message, transaction_id=transaction_id)
    else:
        channel.send_in_band(message, transaction_id=transaction_id, completion_requested=True)


def test_what_lay_in_a_subchannel_as_the_buffers_were_taken_back_is_no_violation(
    card: RawCard, second: ChannelPair, backend: KeptFrames
) -> None:
    received = lend(card, backend)
    take_back(card)
    second.guest.complete(received, COMPLETE)
    send(second.guest, 0, 0x51)
    send(second.guest, NO_SECTION, 0x52)
    second.pump()
    assert not second.failures and not backend.frames
    assert isinstance(second.guest.handler, Kept) and second.guest.handler.completed == [0x51, 0x52]


def test_what_comes_on_the_primary_channel_after_that_is_one(card: RawCard, backend: KeptFrames) -> None:
    received = lend(card, backend)
    take_back(card)
    card.complete(received)
    card.pair.pump()
    assert isinstance(card.failure, UnknownTransaction)


@pytest.mark.parametrize("violation", [UnknownTransaction, UnexpectedMessage])
def test_what_comes_on_a_subchannel_before_any_buffer_is_one(second: ChannelPair, violation: type[Exception]) -> None:
    if violation is UnknownTransaction:
        second.guest.complete(1, COMPLETE)
    else:
        send(second.guest, 0, 1)
    second.pump()
    assert isinstance(second.failures[0], violation)


def test_a_late_completion_frees_nothing_of_the_next_buffer(
    card: RawCard, second: ChannelPair, backend: KeptFrames
) -> None:
    earlier = lend(card, backend)
    take_back(card)
    lent = lend(card, backend)
    session = card.wire.provider.session
    assert session is not None and session.receive_buffer is not None and lent > earlier
    outstanding = session.receive_buffer.outstanding
    second.guest.complete(earlier, COMPLETE)
    second.pump()
    assert not second.failures and session.receive_buffer.outstanding == outstanding


def test_a_frame_of_a_subchannel_that_is_up_reaches_the_backend(
    card: RawCard, second: ChannelPair, backend: KeptFrames
) -> None:
    lend(card, backend)
    message = frame_message(FRAME)
    card.write_section(0, message)
    body = NvspSendRndisPacket(
        channel_type=ChannelType.DATA, send_buffer_section_index=0, send_buffer_section_size=len(message)
    )
    second.guest.send_in_band(build_message(NvspMessageType.SEND_RNDIS_PACKET, body, NvspVersion.V61))
    second.pump()
    assert backend.frames == [FRAME]
