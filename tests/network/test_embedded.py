"""The embedded network: DHCP, echo, discard, source and digest, over a card's rings."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address

import pytest

from vmbus.devices.device import DeviceError
from vmbus.devices.network import open_backend
from vmbus.devices.network.backends.embedded import EmbeddedNetwork
from vmbus.devices.network.dhcp import read_options, write_options
from vmbus.devices.network.services import SOURCE_BYTES, SOURCE_SEED
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.inet.pattern import pattern
from vmbus.testing.network import Wire
from vmbus.wire.inet import Dhcp, DhcpOperation, DhcpOption, DhcpType

GATEWAY = "10.7.0.1"


@pytest.mark.parametrize("large_sends", [False, True], ids=["single frames", "large sends"])
def test_a_tcp_stream_is_echoed_whole(wire: Wire, large_sends: bool) -> None:
    card = wire.card(NetworkDriver(large_sends=large_sends))
    data = pattern(3, 4_000_003)
    echoed = card.connect(GATEWAY, 7).exchange(data)
    assert hashlib.sha256(echoed).digest() == hashlib.sha256(data).digest()


def test_the_source_sends_64_mebibytes_of_its_pattern(wire: Wire) -> None:
    stream = wire.card().connect(GATEWAY, 19)
    received, digest, expected = 0, hashlib.sha256(), hashlib.sha256()
    while data := stream.receive(1 << 20):
        digest.update(data)
        expected.update(pattern(SOURCE_SEED, len(data), received))
        received += len(data)
    assert received == SOURCE_BYTES
    assert digest.digest() == expected.digest()


def test_64_mebibytes_to_the_digest_server_arrive_whole(wire: Wire) -> None:
    data = pattern(5, 1 << 20) * 64
    answer = wire.card().connect(GATEWAY, 90).exchange(data)
    assert answer.decode() == hashlib.sha256(data).hexdigest()


def test_discard_answers_nothing_and_closes(wire: Wire) -> None:
    assert wire.card().connect(GATEWAY, 9).exchange(bytes(300_000)) == b""


def test_a_stream_outlives_a_pulled_cable(wire: Wire) -> None:
    stream = wire.card().connect(GATEWAY, 7)
    wire.provider.set_link(False)
    stream.send(b"sent into the void, and again later")
    wire.loop.run(timeout=0.1)
    wire.provider.set_link(True)
    assert stream.receive() == b"sent into the void, and again later"


def test_many_connections_at_once_keep_their_bytes_apart(wire: Wire) -> None:
    card = wire.card()
    streams = [card.connect(GATEWAY, 7) for _ in range(20)]
    for number, stream in enumerate(streams):
        stream.send(pattern(number, 100_000))
    for number, stream in enumerate(streams):
        got = bytearray()
        while len(got) < 100_000:
            got += stream.receive()
        assert bytes(got) == pattern(number, 100_000)


def test_a_port_where_nobody_listens_refuses(wire: Wire) -> None:
    with pytest.raises(DriverError, match="refused"):
        wire.card().connect(GATEWAY, 8)


def test_an_address_that_nobody_has_does_not_answer(wire: Wire) -> None:
    with pytest.raises(DriverError, match="no answer"):
        wire.card().ping("10.7.0.77", timeout=0.2)


def test_datagrams_come_back_to_their_port(wire: Wire) -> None:
    card = wire.card()
    got: list[bytes] = []
    card.host.listen_udp(4000, lambda address, port, data: got.append(data))
    for size in (0, 1, 1472):
        card.host.send_udp(IPv4Address(GATEWAY).packed, 7, 4000, pattern(1, size))
    wire.loop.run(lambda: len(got) == 3, timeout=60)
    assert got == [pattern(1, size) for size in (0, 1, 1472)]


def ask_for_address(card: NetworkCard, wire: Wire, kind: DhcpType, options: dict[DhcpOption, bytes]) -> Dhcp:
    answers: list[bytes] = []
    card.host.listen_udp(68, lambda address, port, data: answers.append(data))
    card.host.address = bytes(4)
    request = Dhcp(
        operation=DhcpOperation.REQUEST,
        transaction_id=7,
        client_mac=card.driver.mac,
        options=write_options({DhcpOption.MESSAGE_TYPE: bytes((kind,)), **options}),
    )
    card.host.send_udp(b"\xff" * 4, 67, 68, request.build())
    wire.loop.run(lambda: bool(answers), timeout=60)
    return Dhcp.parse(answers[0])


def test_dhcp_offers_the_second_address_and_confirms_it(wire: Wire) -> None:
    card = wire.card()
    offer = ask_for_address(card, wire, DhcpType.DISCOVER, {})
    options = read_options(offer.options)
    assert (offer.your_ip, options[DhcpOption.MESSAGE_TYPE][0]) == (IPv4Address("10.7.0.2").packed, DhcpType.OFFER)
    assert options[DhcpOption.ROUTER] == IPv4Address(GATEWAY).packed
    wanted = {DhcpOption.REQUESTED_ADDRESS: offer.your_ip}
    confirmed = ask_for_address(card, wire, DhcpType.REQUEST, wanted)
    assert read_options(confirmed.options)[DhcpOption.MESSAGE_TYPE][0] == DhcpType.ACK


def test_dhcp_refuses_an_address_that_is_not_to_be_had(wire: Wire) -> None:
    wanted = {DhcpOption.REQUESTED_ADDRESS: bytes((192, 168, 0, 9))}
    refused = ask_for_address(wire.card(), wire, DhcpType.REQUEST, wanted)
    assert read_options(refused.options)[DhcpOption.MESSAGE_TYPE][0] == DhcpType.NAK


def test_the_network_can_be_chosen() -> None:
    backend = open_backend("embedded:net=192.168.9.0/24")
    assert isinstance(backend, EmbeddedNetwork)
    assert backend.gateway == bytes((192, 168, 9, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("embedded:net=10.7.0.0/33", "not an IPv4 network"),
        ("embedded:net=10.7.0.0/30", "too small"),
        ("embedded:speed=9", "one parameter"),
        ("none:x", "no parameters"),
        ("wifi", "there are embedded, none, tap"),
    ],
)
def test_what_no_backend_is_gets_one_line(text: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        open_backend(text)
