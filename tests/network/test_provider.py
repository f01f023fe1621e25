"""The provider's rules, one message at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmbus.gpadl import GpaRange
from vmbus.testing.kept_frames import KeptFrames
from vmbus.testing.network import Wire
from vmbus.testing.raw_card import RawCard, frame_message
from vmbus.wire.ndis import NdisObjectHeader, NdisObjectType, NdisOffload3, NdisStatus
from vmbus.wire.nvsp import (
    ChannelType,
    DataPath,
    NvspInit,
    NvspInitComplete,
    NvspMessageType,
    NvspOidQueryEx,
    NvspOidQueryExComplete,
    NvspStatus,
    NvspSubchannelComplete,
    NvspSubchannelRequest,
    NvspSwitchDataPath,
    NvspVersion,
    SubchannelOperation,
)
from vmbus.wire.nvsp_pd import NvspPdComplete, NvspPdRequest, PdConfigurationRequest, PdOperation
from vmbus.wire.rndis import (
    RndisHalt,
    RndisIndicateStatus,
    RndisKeepalive,
    RndisKeepaliveComplete,
    RndisMessageType,
    RndisPacket,
    RndisQuery,
    RndisQueryComplete,
    RndisReceivedPacket,
    RndisReset,
    RndisResetComplete,
    RndisSetComplete,
    build_message,
)
from vmbus.wire.rndis_oid import Oid
from vmbus.wire.rndis_oid_formats import OidList
from vmbus.wire.rndis_ppi import ChecksumRequest, LargeSend, PerPacketInfo, PpiType, VlanTag

MakeWire = Callable[..., Wire]
MAC = bytes.fromhex("00155d0a0b0c")
FRAME = MAC + bytes.fromhex("020000000001") + b"\x08\x00" + bytes(range(60))


@pytest.fixture
def backend() -> KeptFrames:
    return KeptFrames()


@pytest.fixture
def card(make_wire: MakeWire, backend: KeptFrames) -> RawCard:
    return RawCard(make_wire(backend, queues=4))


def query(card: RawCard, oid: Oid) -> RndisQueryComplete:
    card.messages.clear()
    card.rndis(build_message(RndisMessageType.QUERY, RndisQuery(request_id=9, oid=oid)))
    answer = card.answers()[-1].body
    assert isinstance(answer, RndisQueryComplete) and answer.request_id == 9
    return answer


def test_an_unknown_version_is_refused_and_another_may_follow(card: RawCard) -> None:
    answer = card.ask(
        NvspMessageType.INIT, NvspInit(protocol_version=NvspVersion(0x70000), protocol_version2=NvspVersion(0x70000))
    )
    assert isinstance(answer, NvspInitComplete) and answer.status == NvspStatus.NONE
    card.bring_up()
    assert card.failure is None


def test_messages_have_the_size_of_the_version(card: RawCard) -> None:
    transaction = card.send(b"\x01\0\0\0" + (0x60001).to_bytes(4, "little") * 2 + bytes(4))
    assert len(card.completions[transaction]) == 40


def test_the_receive_buffer_is_divided_for_the_frame_size(card: RawCard) -> None:
    card.negotiate()
    card.lend_buffers()
    session = card.wire.provider.session
    assert session is not None and session.receive_buffer is not None
    assert session.receive_buffer.size >= 256 + 1514 + 36
    assert session.receive_buffer.count == 64 * 4096 // session.receive_buffer.size


def test_no_frame_comes_before_a_packet_filter_is_set_nor_after_it_is_cleared(
    card: RawCard, backend: KeptFrames
) -> None:
    card.negotiate()
    card.lend_buffers()
    card.initialize(filter_=0)
    assert backend.deliver is None
    card.set_filter(1)
    assert backend.deliver is not None
    deliver = backend.deliver
    card.set_filter(0)
    assert backend.deliver is None
    card.messages.clear()
    assert deliver([FRAME]) == 1
    card.pair.pump()
    assert card.messages == []


def test_frames_arrive_several_to_a_packet_and_whole(card: RawCard, backend: KeptFrames) -> None:
    card.bring_up()
    card.messages.clear()
    card.received.clear()
    assert backend.deliver is not None and backend.deliver([FRAME, FRAME[:20], FRAME + bytes(1000)]) == 3
    card.pair.pump()
    bodies = [message.body for message in card.answers()]
    assert all(isinstance(body, RndisReceivedPacket) for body in bodies)
    assert [body.frame for body in bodies] == [FRAME, FRAME[:20], FRAME + bytes(1000)]  # type: ignore[union-attr]
    assert len(card.received) == 1


@pytest.mark.parametrize(("filter_", "kept"), [(0x01, [0]), (0x09, [0, 1]), (0x05, [0, 2]), (0x20, [0, 1, 2, 3])])
def test_the_packet_filter_decides_what_arrives(
    card: RawCard, backend: KeptFrames, filter_: int, kept: list[int]
) -> None:
    card.bring_up()
    card.set_filter(filter_)
    card.messages.clear()
    frames = [to + FRAME[6:] for to in (MAC, b"\xff" * 6, b"\x33\x33\0\0\0\1", b"\x02\0\0\0\0\x09")]
    assert backend.deliver is not None and backend.deliver(frames) == 4
    card.pair.pump()
    assert [body.body.frame for body in card.answers()] == [frames[index] for index in kept]  # type: ignore[union-attr]


def test_a_full_receive_buffer_stops_the_backend_until_packets_are_completed(
    card: RawCard, backend: KeptFrames
) -> None:
    card.bring_up()
    card.auto_complete = False
    card.received.clear()
    assert backend.deliver is not None
    taken = backend.deliver([FRAME] * 1000)
    assert 64 < taken < 1000 and backend.deliver([FRAME]) == 0
    card.pair.pump()
    for packet in card.received:
        card.complete(packet.transaction_id)
    card.pair.pump()
    assert backend.resumed > 0
    assert backend.deliver([FRAME]) == 1


def test_frames_of_one_section_reach_the_backend_in_order(card: RawCard, backend: KeptFrames) -> None:
    card.bring_up()
    frames = [FRAME + bytes((number,)) * (8 * number) for number in range(5)]
    transaction = card.rndis(
        b"".join(frame_message(frame) for frame in frames), section=3, channel_type=ChannelType.DATA
    )
    assert backend.frames == frames
    assert card.completions[transaction][4:8] == b"\1\0\0\0"


def test_headers_that_cross_pages_are_read_as_one(card: RawCard, backend: KeptFrames) -> None:
    card.bring_up()
    message = frame_message(FRAME)
    first, second = card.pair.pages.allocate(2, scattered=True)
    memory = card.pair.memory
    memory.write((first << 12) + 4096 - 21, message[:21])
    memory.write(second << 12, message[21:])
    card.direct([GpaRange(len(message), 4096 - 21, (first, second))])
    assert backend.frames == [FRAME]


def test_a_header_in_a_section_and_a_frame_in_pages_are_one_message(card: RawCard, backend: KeptFrames) -> None:
    card.bring_up()
    message = frame_message(FRAME)
    (page,) = card.pair.pages.allocate(1)
    card.pair.memory.write((page << 12) + 100, message[44:])
    card.write_section(2, message[:44])
    card.direct([GpaRange(len(FRAME), 100, (page,))], section=2, size=44)
    assert backend.frames == [FRAME]


def with_info(frame: bytes, *items: PerPacketInfo) -> bytes:
    size = sum(len(item.build()) for item in items)
    body = RndisPacket(
        data_offset=36 + size,
        data_length=len(frame),
        per_packet_info_offset=36,
        per_packet_info_length=size,
        per_packet_info=items,
        frame=frame,
    )
    return build_message(RndisMessageType.PACKET, body)


def test_what_the_guest_leaves_to_do_reaches_the_backend(card: RawCard, backend: KeptFrames) -> None:
    card.bring_up()
    checksum = ChecksumRequest(is_ipv4=1, tcp_checksum=1, tcp_header_offset=34)
    large = LargeSend(mss=1460, tcp_header_offset=34)
    card.rndis(
        with_info(FRAME, PerPacketInfo(info_type=PpiType.TCP_IP_CHECKSUM, value=checksum)),
        channel_type=ChannelType.DATA,
    )
    card.rndis(
        with_info(FRAME, PerPacketInfo(info_type=PpiType.LARGE_SEND, value=large)), channel_type=ChannelType.DATA
    )
    first, second = backend.offloads
    assert first is not None and (first.is_tcp, first.transport_offset, first.segment_size) == (True, 34, 0)
    assert second is not None and (second.segment_size, second.fill_ipv4) == (1460, True)


def test_a_vlan_tag_beside_the_frame_is_put_into_it(card: RawCard, backend: KeptFrames) -> None:
    card.bring_up()
    tag = VlanTag(priority=5, vlan_id=0x123)
    card.rndis(with_info(FRAME, PerPacketInfo(info_type=PpiType.IEEE_8021Q, value=tag)), channel_type=ChannelType.DATA)
    assert backend.frames == [FRAME[:12] + b"\x81\x00\xa1\x23" + FRAME[12:]]


def test_the_offload_answer_is_one_that_linux_accepts(card: RawCard) -> None:
    card.bring_up()
    answer = query(card, Oid.TCP_OFFLOAD_HARDWARE_CAPABILITIES)
    offload = NdisOffload3.parse(answer.information)
    assert (offload.header.object_type, offload.header.size) == (0xA7, len(answer.information))
    assert offload.checksum_ipv4_transmit & 0x14 == 0x14 and offload.lso_v2_ipv4_encapsulation == 2


def test_every_oid_of_the_supported_list_can_be_asked_or_set(card: RawCard) -> None:
    card.bring_up()
    listed = OidList.parse(query(card, Oid.GEN_SUPPORTED_LIST).information).oids
    assert len(listed) > 30
    asked = {oid: query(card, oid).status for oid in listed}
    assert set(asked.values()) <= {NdisStatus.SUCCESS, NdisStatus.NOT_SUPPORTED}
    assert sum(status == NdisStatus.SUCCESS for status in asked.values()) > 30


def test_an_unknown_oid_is_refused_and_the_card_goes_on(card: RawCard) -> None:
    card.bring_up()
    assert query(card, Oid(0x12345678)).status == NdisStatus.NOT_SUPPORTED
    assert query(card, Oid.IEEE_802_3_CURRENT_ADDRESS).information == MAC


def test_the_address_can_be_changed_by_its_registry_name(card: RawCard, backend: KeptFrames) -> None:
    card.bring_up()
    name, value = "NetworkAddress".encode("utf-16-le"), "020000000077".encode("utf-16-le")
    words = (20, len(name), 2, 20 + len(name), len(value))
    card.set(Oid.GEN_RNDIS_CONFIG_PARAMETER, b"".join(word.to_bytes(4, "little") for word in words) + name + value)
    assert query(card, Oid.IEEE_802_3_CURRENT_ADDRESS).information.hex() == "020000000077"


def test_keepalive_reset_and_halt(card: RawCard, backend: KeptFrames) -> None:
    card.bring_up()
    card.messages.clear()
    card.rndis(build_message(RndisMessageType.KEEPALIVE, RndisKeepalive(request_id=5)))
    card.rndis(build_message(RndisMessageType.RESET, RndisReset()))
    card.rndis(build_message(RndisMessageType.HALT, RndisHalt(request_id=6)))
    alive, reset = (message.body for message in card.answers())
    assert isinstance(alive, RndisKeepaliveComplete) and alive.request_id == 5
    assert isinstance(reset, RndisResetComplete) and reset.addressing_reset
    assert backend.deliver is None


def test_the_guest_is_told_when_the_cable_goes_out_and_in(card: RawCard, backend: KeptFrames) -> None:
    card.bring_up()
    card.messages.clear()
    card.wire.provider.set_link(False)
    assert backend.deliver is None
    card.wire.provider.set_link(True)
    card.pair.pump()
    told = [message.body.status for message in card.answers() if isinstance(message.body, RndisIndicateStatus)]
    assert told == [NdisStatus.MEDIA_DISCONNECT, NdisStatus.LINK_SPEED_CHANGE, NdisStatus.MEDIA_CONNECT]


def test_a_data_path_switch_gets_the_empty_answer_that_linux_waits_for(card: RawCard) -> None:
    card.bring_up()
    assert card.ask(NvspMessageType.SWITCH_DATA_PATH, NvspSwitchDataPath(active_data_path=DataPath.SYNTHETIC)) == b""
    assert card.failure is None


def test_what_is_not_offered_is_refused_politely(card: RawCard) -> None:
    card.bring_up()
    asked = NvspOidQueryEx(
        header=NdisObjectHeader(object_type=NdisObjectType.OID_REQUEST, size=4), oid=Oid.GEN_LINK_STATE
    )
    answer = card.ask(NvspMessageType.OID_QUERY_EX, asked)
    assert isinstance(answer, NvspOidQueryExComplete) and answer.status == NdisStatus.NOT_SUPPORTED
    direct = NvspPdRequest(
        operation=PdOperation.CONFIGURATION,
        parameters=PdConfigurationRequest(mmio_physical_address=0, mmio_length=0, num_pd_queues=1),
    )
    refused = card.ask(NvspMessageType.PD_API, direct)
    assert isinstance(refused, NvspPdComplete) and refused.status == NdisStatus.NOT_SUPPORTED


@pytest.mark.parametrize(("wanted", "granted"), [(1, 1), (3, 3), (4, 0), (0, 0)])
def test_subchannels_are_granted_up_to_the_cards_limit(card: RawCard, wanted: int, granted: int) -> None:
    card.bring_up()
    request = NvspSubchannelRequest(operation=SubchannelOperation.ALLOCATE, num_sub_channels=wanted)
    answer = card.ask(NvspMessageType.SUBCHANNEL, request)
    assert isinstance(answer, NvspSubchannelComplete) and answer.num_sub_channels == granted
    assert card.wire.offered == granted


def test_offloads_that_were_set_are_confirmed_by_an_indication(card: RawCard) -> None:
    card.bring_up()
    card.messages.clear()
    card.set(
        Oid.TCP_OFFLOAD_PARAMETERS, bytes.fromhex("80011400 0104 0404 0400 0002 0200 0000 0000 0000".replace(" ", ""))
    )
    complete, indication = (message.body for message in card.answers())
    assert isinstance(complete, RndisSetComplete) and complete.status == NdisStatus.SUCCESS
    assert isinstance(indication, RndisIndicateStatus)
    assert isinstance(indication.status_buffer, NdisOffload3)
    assert indication.status_buffer.lso_v2_ipv4_encapsulation == 2


def test_a_version_1_guest_gets_short_messages_and_no_later_ones(card: RawCard) -> None:
    card.negotiate(NvspVersion.V1)
    card.lend_buffers()
    card.initialize()
    assert {len(payload) for payload in card.completions.values() if payload} <= {28, 32, 40}
    request = NvspSubchannelRequest(operation=SubchannelOperation.ALLOCATE, num_sub_channels=1)
    card.ask(NvspMessageType.SUBCHANNEL, request)
    assert "does not have it" in str(card.failure)
