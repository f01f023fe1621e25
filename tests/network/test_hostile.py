"""A guest that breaks the rules loses its channel with a typed error; the host, and other cards, live."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmbus.devices.network.backend import GuestFrame
from vmbus.devices.network.errors import (
    BadNetworkBuffer,
    BadSection,
    MalformedMessage,
    NetworkViolation,
    TooMuchWaits,
    UnexpectedMessage,
    UnknownTransaction,
)
from vmbus.devices.network.netvsp import NetworkProvider
from vmbus.devices.network.transmit import PacketParser
from vmbus.errors import VmbusError
from vmbus.gpadl import GpaRange
from vmbus.testing.kept_frames import KeptFrames
from vmbus.testing.network import Wire
from vmbus.testing.raw_card import RawCard, frame_message
from vmbus.wire.nvsp import (
    NO_SECTION,
    ChannelType,
    NvspInit,
    NvspMessageType,
    NvspSendNdisConfig,
    NvspSendReceiveBuffer,
    NvspSendSendBuffer,
    NvspVersion,
)
from vmbus.wire.rndis import RndisKeepalive, RndisMessageType, build_message

MakeWire = Callable[..., Wire]
FRAME = bytes(14) + bytes(range(60))
MESSAGE = frame_message(FRAME)


@pytest.fixture
def backend() -> KeptFrames:
    return KeptFrames()


@pytest.fixture
def card(make_wire: MakeWire, backend: KeptFrames) -> RawCard:
    return RawCard(make_wire(backend)).bring_up()


@pytest.fixture
def new_card(make_wire: MakeWire, backend: KeptFrames) -> RawCard:
    return RawCard(make_wire(backend))


@pytest.mark.parametrize(
    ("section", "size"), [(32, 100), (0x7FFFFFFF, 1), (0, 6145), (0, 0xFFFFFFFF), (21, 6144), (0, 0)]
)
def test_a_section_outside_the_send_buffer(card: RawCard, section: int, size: int) -> None:
    card.packet(section, size)
    assert isinstance(card.failure, BadSection)


def test_a_packet_with_neither_section_nor_pages(card: RawCard) -> None:
    card.packet(NO_SECTION, 0)
    assert isinstance(card.failure, BadSection)


def test_a_completion_of_nothing(card: RawCard) -> None:
    card.complete(0x1234)
    card.pair.pump()
    assert isinstance(card.failure, UnknownTransaction)


def test_a_completion_that_comes_twice(card: RawCard, backend: KeptFrames) -> None:
    assert backend.deliver is not None
    card.received.clear()
    backend.deliver([bytes.fromhex("00155d0a0b0c") + FRAME])
    card.pair.pump()
    card.complete(card.received[0].transaction_id)
    card.pair.pump()
    assert isinstance(card.failure, UnknownTransaction)


def test_a_completion_that_says_nothing_sensible(card: RawCard) -> None:
    card.complete(1, b"\x01\0\0\0" + bytes(36))
    card.pair.pump()
    assert isinstance(card.failure, MalformedMessage)


@pytest.mark.parametrize("payload", [b"", bytes(8), b"\x6b\0\0\0" + bytes(8)])
def test_a_message_that_is_too_short(card: RawCard, payload: bytes) -> None:
    card.send(payload)
    assert isinstance(card.failure, NetworkViolation)


@pytest.mark.parametrize("kind", [0, 2, 3, 99, 102, 108, 109, 128, 134, 136, 137, 0xFFFFFFFF])
def test_a_message_that_is_not_for_a_host(card: RawCard, kind: int) -> None:
    card.send(kind.to_bytes(4, "little") + bytes(36))
    assert isinstance(card.failure, NetworkViolation)


def test_a_message_before_the_negotiation(new_card: RawCard) -> None:
    new_card.send(b"\x64\0\0\0" + bytes(36))
    assert isinstance(new_card.failure, UnexpectedMessage)


def test_a_negotiation_after_the_negotiation(card: RawCard) -> None:
    card.ask(NvspMessageType.INIT, NvspInit(protocol_version=NvspVersion.V5, protocol_version2=NvspVersion.V5))
    assert isinstance(card.failure, UnexpectedMessage)


def test_an_rndis_packet_before_the_buffers(new_card: RawCard) -> None:
    new_card.negotiate()
    new_card.packet(NO_SECTION, 0)
    assert isinstance(new_card.failure, UnexpectedMessage)


@pytest.mark.parametrize("kind", [NvspMessageType.SEND_RECEIVE_BUFFER, NvspMessageType.SEND_SEND_BUFFER])
def test_a_buffer_of_pages_that_were_never_shared(new_card: RawCard, kind: NvspMessageType) -> None:
    new_card.negotiate()
    body = NvspSendReceiveBuffer if kind == NvspMessageType.SEND_RECEIVE_BUFFER else NvspSendSendBuffer
    new_card.ask(kind, body(gpadl_handle=0x999, id=1))
    assert "0x999" in str(new_card.failure)


def test_a_buffer_that_is_not_whole_pages_in_one_range(new_card: RawCard) -> None:
    new_card.negotiate()
    new_card.pair.add_gpadl(7, new_card.receive_pages, byte_count=len(new_card.receive_pages) * 4096 - 8)
    new_card.ask(NvspMessageType.SEND_RECEIVE_BUFFER, NvspSendReceiveBuffer(gpadl_handle=7, id=1))
    assert isinstance(new_card.failure, BadNetworkBuffer)


def test_a_send_buffer_without_room_for_a_section(new_card: RawCard) -> None:
    new_card.negotiate()
    new_card.pair.add_gpadl(7, new_card.send_pages[:1])
    new_card.ask(NvspMessageType.SEND_SEND_BUFFER, NvspSendSendBuffer(gpadl_handle=7, id=1))
    assert isinstance(new_card.failure, BadNetworkBuffer)


def test_a_longest_frame_that_is_named_when_the_buffer_is_divided(new_card: RawCard) -> None:
    init = NvspInit(protocol_version=NvspVersion.V61, protocol_version2=NvspVersion.V61)
    new_card.ask(NvspMessageType.INIT, init)
    new_card.lend_buffers()
    new_card.ask(NvspMessageType.SEND_NDIS_CONFIG, NvspSendNdisConfig(mtu=9014, capabilities=new_card.capabilities))
    assert isinstance(new_card.failure, UnexpectedMessage)


def test_a_second_buffer_beside_the_first(card: RawCard) -> None:
    card.ask(NvspMessageType.SEND_SEND_BUFFER, NvspSendSendBuffer(gpadl_handle=card.SEND_GPADL, id=1))
    assert isinstance(card.failure, UnexpectedMessage)


def words(**changes: int) -> bytes:
    """The head of a sound packet message, with some words changed by index."""
    head = list(struct.unpack("<11I", MESSAGE[:44]))
    for index, value in changes.items():
        head[int(index[1:])] = value
    return struct.pack("<11I", *head) + MESSAGE[44:]


@pytest.mark.parametrize(
    "message",
    [
        words(w1=0),
        words(w1=7),
        words(w1=43),
        words(w1=len(MESSAGE) + 1),
        words(w1=0xFFFFFFFF),
        words(w2=0),
        words(w2=len(MESSAGE)),
        words(w2=0xFFFFFFFF),
        words(w3=0),
        words(w3=0xFFFFFFFF),
        words(w4=8),
        words(w5=8),
        words(w6=1),
        words(w7=36, w8=0xFFFFFFFF),
        words(w7=0xFFFFFFFF, w8=16),
        words(w7=36, w8=8),
        words(w9=1),
        MESSAGE[:20],
        MESSAGE + MESSAGE[:20],
        MESSAGE + b"\x08" + bytes(80),
    ],
    ids=lambda message: message[4:44].hex(" ", 4)[:60],
)
def test_a_packet_message_with_impossible_numbers(card: RawCard, backend: KeptFrames, message: bytes) -> None:
    card.rndis(message, channel_type=ChannelType.DATA)
    assert isinstance(card.failure, NetworkViolation)


@pytest.mark.parametrize(
    "message", [b"\x04\0\0\0", bytes(8), b"\x04\0\0\0\xff\0\0\0" + bytes(20), b"\x04\0\0\0\x10" + bytes(11)]
)
def test_a_control_message_with_impossible_lengths(card: RawCard, message: bytes) -> None:
    card.rndis(message)
    assert isinstance(card.failure, NetworkViolation)


def test_an_information_buffer_outside_its_message(card: RawCard) -> None:
    card.rndis(struct.pack("<7I", 5, 28, 1, 0x0001010E, 0xFFFFFFF0, 20, 0))
    assert isinstance(card.failure, MalformedMessage)


def test_pages_outside_the_guests_memory(card: RawCard) -> None:
    card.direct([GpaRange(200, 0, (0xFFFFFFFF,))])
    assert isinstance(card.failure, VmbusError)


def test_more_pages_than_any_frame_has(card: RawCard) -> None:
    card.direct([GpaRange(4096, 0, (page,)) for page in card.receive_pages])
    assert isinstance(card.failure, MalformedMessage)


def test_a_guest_that_asks_for_ever_and_takes_no_answer(card: RawCard) -> None:
    card.auto_complete = False
    alive = build_message(RndisMessageType.KEEPALIVE, RndisKeepalive(request_id=1))
    for _ in range(10_000):
        card.rndis(alive)
        if card.failure:
            break
    assert isinstance(card.failure, TooMuchWaits)


def test_the_card_can_be_opened_again_after_a_violation(make_wire: MakeWire, backend: KeptFrames) -> None:
    wire = make_wire(backend)
    bad = RawCard(wire).bring_up()
    bad.packet(99, 1)
    assert bad.failure is not None and wire.provider.session is None
    again = make_wire(backend)
    assert isinstance(again.provider, NetworkProvider)
    assert RawCard(again).bring_up().failure is None


hostile = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@hostile
@given(st.data())
def test_changed_packet_messages_give_frames_inside_the_message_or_a_typed_error(data: st.DataObject) -> None:
    message = bytearray(MESSAGE * 3)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(message) - 4))
        value = data.draw(st.one_of(st.integers(0, 300), st.integers(0, 0xFFFFFFFF)))
        message[at & ~3 : (at & ~3) + 4] = value.to_bytes(4, "little")
    frames: list[GuestFrame] = []
    try:
        PacketParser().parse(memoryview(bytes(message)), frames)
    except NetworkViolation:
        return
    assert all(14 <= len(frame) <= len(message) for frame, _ in frames)


@hostile
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("bytes"), st.binary(max_size=64)),
            st.tuples(st.just("rndis"), st.binary(min_size=1, max_size=200)),
            st.tuples(st.just("complete"), st.integers(0, 40)),
            st.tuples(st.just("frames"), st.integers(1, 5)),
            st.tuples(st.just("filter"), st.integers(0, 0x3F)),
        ),
        max_size=12,
    )
)
def test_whatever_a_guest_does_only_its_channel_ends(actions: list[tuple[str, bytes | int]]) -> None:
    backend = KeptFrames()
    provider = NetworkProvider(backend, mac=bytes.fromhex("00155d0a0b0c"))
    wire = Wire(provider, ring_pages=4, memory_size=4 << 20)
    card = RawCard(wire).bring_up()
    try:
        for what, value in actions:
            if card.failure:
                break
            if what == "bytes" and isinstance(value, bytes):
                card.send(value)
            elif what == "rndis" and isinstance(value, bytes):
                card.rndis(value)
            elif what == "complete" and isinstance(value, int):
                card.complete(value)
                card.pair.pump()
            elif what == "frames" and isinstance(value, int) and backend.deliver is not None:
                backend.deliver([FRAME] * value)
                card.pair.pump()
            elif isinstance(value, int) and what == "filter":
                card.set_filter(value)
        assert card.failure is None or isinstance(card.failure, VmbusError)
        if card.failure:
            assert provider.session is None and backend.deliver is None
    finally:
        wire.shut()
