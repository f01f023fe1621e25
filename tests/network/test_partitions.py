"""A card over the whole stack: a host, a Python guest, several processors, and a card that comes and goes."""

from __future__ import annotations

from typing import Any

import pytest

from vmbus.devices.network import NetworkProvider
from vmbus.devices.network.backends.embedded import EmbeddedNetwork
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.inet.pattern import pattern
from vmbus.testing.partitions import PartitionPair
from vmbus.wire.control_values import ALL_VERSIONS, Version

GATEWAY = "10.7.0.1"


class FourQueues(NetworkDriver):
    """A driver that wants four channels."""

    def __init__(self) -> None:
        super().__init__(queues=4)


def provider(**options: Any) -> NetworkProvider:
    return NetworkProvider(EmbeddedNetwork(), mac=bytes.fromhex("00155d0a0b0c"), **options)


def card_of(pair: PartitionPair, kind: type[NetworkDriver] = NetworkDriver) -> NetworkCard:
    driver: NetworkDriver = pair.guest.driver(kind)
    pair.guest.bus.wait(driver.ready, 60)
    return NetworkCard(pair.guest.bus, driver, "10.7.0.2")


@pytest.mark.parametrize("version", ALL_VERSIONS[2:], ids=lambda version: version.name)
def test_a_card_works_over_every_version_of_vmbus(version: Version) -> None:
    with PartitionPair([provider()], [NetworkDriver], versions=[version]) as pair:
        assert card_of(pair).ping(GATEWAY, 1400) < 30


def test_a_stream_crosses_two_partitions_and_back() -> None:
    with PartitionPair([provider()], [NetworkDriver]) as pair:
        data = pattern(8, 8_000_000)
        assert card_of(pair).connect(GATEWAY, 7).exchange(data) == data


def test_four_channels_share_the_traffic_of_many_streams() -> None:
    device = provider(queues=4)
    with PartitionPair([device], [FourQueues], vp_count=4) as pair:
        card = card_of(pair, FourQueues)
        assert len(card.driver.queues) == 4
        streams = [card.connect(GATEWAY, 7) for _ in range(16)]
        for number, stream in enumerate(streams):
            assert stream.exchange(pattern(number, 200_000)) == pattern(number, 200_000)
        busy = [queue.channel.counters.packets_in for queue in card.driver.queues]
        assert sum(count > 20 for count in busy) >= 3
        assert card.driver.send_table != ()


def test_a_guest_that_wants_more_channels_than_there_are_gets_one() -> None:
    with PartitionPair([provider(queues=1)], [FourQueues], vp_count=4) as pair:
        card = card_of(pair, FourQueues)
        assert len(card.driver.queues) == 1
        assert card.ping(GATEWAY) < 30


def test_a_card_can_be_taken_away_in_the_middle_of_a_stream_and_given_back() -> None:
    device = provider()
    with PartitionPair([device], [NetworkDriver]) as pair:
        card = card_of(pair)
        stream = card.connect(GATEWAY, 7)
        stream.send(bytes(500_000))
        bus = device.bus
        assert bus is not None
        pair.in_host(bus.rescind)
        pair.guest.loop.run(lambda: not pair.guest.drivers, timeout=60)
        assert pair.guest.drivers == []
        with pytest.raises(DriverError):
            card.ping(GATEWAY, timeout=0.1)
        pair.in_host(bus.reoffer)
        pair.guest.loop.run(lambda: bool(pair.guest.drivers), timeout=60)
        assert card_of(pair).ping(GATEWAY) < 30
        assert pair.in_host(lambda: device.inspect())["session"]["queues"].keys() == {"0"}


def test_the_next_guest_gets_the_card_of_one_that_vanished() -> None:
    device = provider()
    with PartitionPair([device], [NetworkDriver]) as pair:
        card_of(pair).connect(GATEWAY, 7).send(bytes(100_000))
        pair.guest.close()
        pair.new_guest().boot()
        assert card_of(pair).ping(GATEWAY) < 30
