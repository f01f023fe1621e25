"""TCP segments that come as one frame: the card's pieces of it, and a Linux guest that takes them from a TAP."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vmbus.devices.network import NetworkProvider, open_backend
from vmbus.devices.network.buffers import LARGE_SUBALLOCATION
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network import NetworkDriver
from vmbus.drivers.network.receive import frames_of
from vmbus.inet.pattern import pattern
from vmbus.linux.launch import ExitStatus
from vmbus.testing.hosts import RunningHost
from vmbus.testing.kept_frames import KeptFrames
from vmbus.testing.linux import StartGuest
from vmbus.testing.network import Wire
from vmbus.testing.raw_card import RawCard
from vmbus.wire.ndis import NdisObjectHeader, NdisObjectType, NdisOffloadParameters3, OffloadChecksum, OffloadSwitch
from vmbus.wire.nvsp import NdisCapabilities, NvspMessageType, NvspRevokeReceiveBuffer
from vmbus.wire.rndis import RndisMessageType, RndisReceivedMessage, RndisReceivedPacket, build_message
from vmbus.wire.rndis_oid import Oid
from vmbus.wire.rndis_ppi import ChecksumResult, PacketId, PacketIdFlags, PpiType, ReceivedPacketInfo

MakeWire = Callable[..., Wire]
RunIp = Callable[..., object]
MAC = bytes.fromhex("00155d0a0b0c")
HEAD = MAC + bytes.fromhex("020000000001") + b"\x08\x00"
PROTOCOLS = ("tcp_ipv4_checksum", "udp_ipv4_checksum", "tcp_ipv6_checksum", "udp_ipv6_checksum")
ALL_CHECKSUMS = dict.fromkeys(PROTOCOLS, OffloadChecksum.TX_RX_ENABLED)
LARGE = HEAD + bytes(range(256)) * 100


@pytest.fixture
def backend() -> KeptFrames:
    return KeptFrames()


@pytest.fixture
def card(make_wire: MakeWire, backend: KeptFrames) -> RawCard:
    """A card that is up and wants segments over IPv4 coalesced."""
    card = RawCard(make_wire(backend))
    card.capabilities = NdisCapabilities.RSC_OVER_VMBUS
    card.bring_up()
    switch(card, OffloadSwitch.ENABLED, **ALL_CHECKSUMS)
    card.messages.clear()
    card.received.clear()
    return card


def switch(
    card: RawCard,
    ipv4: OffloadSwitch = OffloadSwitch.NO_CHANGE,
    ipv6: OffloadSwitch = OffloadSwitch.NO_CHANGE,
    **checksums: OffloadChecksum,
) -> None:
    header = NdisObjectHeader(object_type=NdisObjectType.DEFAULT, revision=3, size=NdisOffloadParameters3.SIZE)
    parameters = NdisOffloadParameters3(header=header, rsc_ipv4=ipv4, rsc_ipv6=ipv6)
    card.set(Oid.TCP_OFFLOAD_PARAMETERS, parameters.replace(**checksums).build())


def deliver(card: RawCard, backend: KeptFrames, frames: list[bytes], checked: list[bool]) -> int:
    assert backend.deliver is not None
    taken = backend.deliver(frames, checked)
    card.pair.pump()
    return taken


def packet(message: RndisReceivedMessage) -> RndisReceivedPacket:
    assert isinstance(message.body, RndisReceivedPacket)
    return message.body


def test_a_long_frame_comes_in_pieces_of_one_packet_that_say_which_they_are(card: RawCard, backend: KeptFrames) -> None:
    assert backend.coalescing == (True, False)
    assert deliver(card, backend, [LARGE, HEAD + b"small"], [True, False]) == 2
    assert len(card.received) == 1
    *pieces, small = [packet(message) for message in card.answers()]
    assert b"".join(piece.frame for piece in pieces) == LARGE
    ids = [[item.value for item in piece.per_packet_info] for piece in pieces]
    first, last, several = PacketIdFlags.FIRST_FRAGMENT, PacketIdFlags.LAST_FRAGMENT, PacketIdFlags.MULTI_SUBALLOCATION
    assert [one[0].flags for one in ids] == [several | first, *[several] * (len(pieces) - 2), several | last]
    assert all(isinstance(one[0], PacketId) for one in ids) and isinstance(ids[0][1], ChecksumResult)
    assert small.frame == HEAD + b"small" and not small.per_packet_info


def test_the_guest_may_change_its_mind(card: RawCard, backend: KeptFrames) -> None:
    switch(card, OffloadSwitch.DISABLED)
    assert backend.coalescing == (False, False)
    card.messages.clear()
    assert deliver(card, backend, [LARGE], [False]) == 1
    assert card.messages == [] and card.wire.provider.card.dropped == 1


def test_ipv6_is_switched_by_itself(card: RawCard, backend: KeptFrames) -> None:
    switch(card, OffloadSwitch.DISABLED, OffloadSwitch.ENABLED)
    assert backend.coalescing == (False, True)
    card.messages.clear()
    large = LARGE[:12] + b"\x86\xdd" + LARGE[14:]
    assert deliver(card, backend, [large], [True]) == 1
    assert b"".join(packet(message).frame for message in card.answers()) == large


def test_nothing_is_coalesced_for_a_guest_that_did_not_say_it_can(make_wire: MakeWire, backend: KeptFrames) -> None:
    card = RawCard(make_wire(backend)).bring_up()
    switch(card, OffloadSwitch.ENABLED, **ALL_CHECKSUMS)
    assert backend.coalescing == (False, False)


def test_nothing_is_coalesced_into_a_buffer_that_was_taken_back(card: RawCard, backend: KeptFrames) -> None:
    card.ask(NvspMessageType.REVOKE_RECEIVE_BUFFER, NvspRevokeReceiveBuffer(id=0xCAFE))
    assert backend.coalescing == (False, False)


def test_nothing_is_coalesced_into_a_buffer_that_could_not_hold_it(make_wire: MakeWire, backend: KeptFrames) -> None:
    card = RawCard(make_wire(backend), receive_pages=16)
    card.capabilities = NdisCapabilities.RSC_OVER_VMBUS
    card.bring_up()
    switch(card, OffloadSwitch.ENABLED, **ALL_CHECKSUMS)
    assert backend.coalescing == (False, False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_coalesced_for_a_guest_that_computes_checksums_itself(
    card: RawCard, backend: KeptFrames, protocol: str
) -> None:
    switch(card, **{protocol: OffloadChecksum.TX_ENABLED_RX_DISABLED})
    assert backend.coalescing == (False, False)
    switch(card, **{protocol: OffloadChecksum.RX_ENABLED_TX_DISABLED})
    assert backend.coalescing == (True, False)


def test_a_guest_that_takes_coalesced_frames_gets_larger_suballocations(make_wire: MakeWire) -> None:
    sizes = []
    for capabilities in (NdisCapabilities(0), NdisCapabilities.RSC_OVER_VMBUS):
        card = RawCard(make_wire(KeptFrames()), receive_pages=2560)
        card.capabilities = capabilities
        card.bring_up()
        session = card.wire.provider.session
        assert session is not None and session.receive_buffer is not None
        sizes.append(session.receive_buffer.size)
    assert sizes == [1856, LARGE_SUBALLOCATION]


def test_a_frame_waits_until_all_its_pieces_have_room(card: RawCard, backend: KeptFrames) -> None:
    card.auto_complete = False
    frames = [LARGE] * 16
    taken = deliver(card, backend, frames, [False] * 16)
    assert 0 < taken < 16
    for received in card.received:
        card.complete(received.transaction_id)
    card.pair.pump()
    assert backend.resumed and deliver(card, backend, frames[taken:], [False] * 16)
    assert b"".join(packet(message).frame for message in card.answers())[: len(LARGE)] == LARGE


@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "not wanted"])
def test_our_own_guest_asks_for_coalesced_frames(make_wire: MakeWire, backend: KeptFrames, wanted: bool) -> None:
    wire = make_wire(backend)
    card = wire.card(NetworkDriver(coalescing=wanted))
    arrived: list[bytes] = []
    card.on_frame = arrived.append
    assert backend.coalescing == (wanted, False) and backend.deliver is not None
    assert backend.deliver([LARGE, HEAD + b"small"], [True, False]) == 2
    wire.pair.pump()
    assert arrived == ([LARGE, HEAD + b"small"] if wanted else [HEAD + b"small"])


def message(frame: bytes, *info: ReceivedPacketInfo) -> bytes:
    items = b"".join(one.build() for one in info)
    body = RndisReceivedPacket(
        data_offset=36 + len(items), data_length=len(frame), per_packet_info_length=len(items),
        per_packet_info_offset=36 if items else 0, per_packet_info=info, frame=frame,
    )  # fmt: skip
    return build_message(RndisMessageType.PACKET, body)


def test_a_host_that_sends_pieces_without_their_frame_is_found_out() -> None:
    first, middle, last = (
        ReceivedPacketInfo(info_type=PpiType.PACKET_ID, value=PacketId(flags=PacketIdFlags(1 | place)))
        for place in (PacketIdFlags.FIRST_FRAGMENT, 0, PacketIdFlags.LAST_FRAGMENT)
    )
    checked = ReceivedPacketInfo(info_type=PpiType.TCP_IP_CHECKSUM, value=ChecksumResult(tcp_checksum_succeeded=1))
    pieces = [message(b"one", first, checked), message(b"two", middle), message(b"three", last)]
    assert frames_of([*pieces, message(b"four")]) == [(b"onetwothree", True), (b"four", False)]
    with pytest.raises(DriverError, match="not its first one"):
        frames_of(pieces[1:])
    with pytest.raises(DriverError, match="without its last"):
        frames_of(pieces[:2])
    with pytest.raises(DriverError, match="an item of per-packet information"):
        frames_of([pieces[0].replace(first.build(), b"\xff" * 16)])


@pytest.mark.linux
@pytest.mark.tap
def test_linux_takes_a_stream_from_a_tap_in_coalesced_frames(
    ip: RunIp, linux_guest: StartGuest, tmp_path: Path
) -> None:
    backend = open_backend("tap:tap0")
    ip("addr", "add", "10.9.0.1/24", "dev", "tap0")
    size, seed = 24 << 20, 11
    server = socket.create_server(("10.9.0.1", 5000))
    digests: list[bytes] = []

    def send() -> None:
        connection, _ = server.accept()
        with connection, server:
            connection.settimeout(240)
            connection.sendall(pattern(seed, size))
            connection.shutdown(socket.SHUT_WR)
            digests.append(connection.makefile("rb").read())

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    provider = NetworkProvider(backend, mac=MAC)
    receive = f"stream-receive tcp:10.9.0.1:5000 {size} {seed}"
    with RunningHost(tmp_path / "bus", [provider]) as host:
        guest = linux_guest(host.address, ["wait-path /sys/class/net/eth0 120", "ifup eth0 10.9.0.2/24", receive])
        assert guest.wait(240) == ExitStatus.DONE
    thread.join(60)
    assert hashlib.sha256(pattern(seed, size)).hexdigest().encode() in digests[0]
    assert provider.card.frames_received < size / 1448 / 4
