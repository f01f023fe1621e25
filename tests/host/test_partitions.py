"""A Python guest and a host, the whole stack between them: offers, channels, rescind, guests that come and go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from vmbus.channel import Channel, ChannelHandler
from vmbus.devices.echo import ECHO_INTERFACE, Echo
from vmbus.drivers.driver import ChannelOffer, Driver, DriverBus
from vmbus.drivers.promise import Promise
from vmbus.errors import VmbusError
from vmbus.ring import RingPacket
from vmbus.testing.descriptors import open_descriptors
from vmbus.testing.partitions import PartitionPair
from vmbus.testing.waiting import until
from vmbus.transport.client import HostGone, HostRefused
from vmbus.wire.control_values import ALL_VERSIONS, Version


class EchoDriver(Driver, ChannelHandler):
    interface_ids = (ECHO_INTERFACE,)

    def attach(self, bus: DriverBus, offer: ChannelOffer) -> None:
        self.bus = bus
        self.answers: dict[int, Promise[bytes]] = {}
        self.detached = False
        self.opened = bus.open(offer, 4, 4)
        self.opened.then(self._opened)

    def _opened(self, opened: Promise[Channel]) -> None:
        with suppress(VmbusError):  # the guest may end before the channel is open
            self.channel = opened.result()
            self.channel.handler = self

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            self.answers.pop(packet.transaction_id).resolve(packet.payload)

    def ask(self, payload: bytes, transaction_id: int) -> Promise[bytes]:
        answer: Promise[bytes] = Promise()
        self.answers[transaction_id] = answer
        self.channel.send_in_band(payload, transaction_id=transaction_id, completion_requested=True)
        return answer

    def detach(self) -> None:
        self.detached = True


def driver_of(pair: PartitionPair) -> EchoDriver:
    driver: EchoDriver = pair.guest.driver(EchoDriver)
    pair.guest.bus.wait(driver.opened)
    return driver


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_guest_of_every_version_gets_its_packets_back(version: Version) -> None:
    with PartitionPair([Echo()], [EchoDriver], versions=[version]) as pair:
        driver = driver_of(pair)
        answers = [driver.ask(number.to_bytes(8, "little"), number) for number in range(1, 200)]
        assert [pair.guest.bus.wait(answer) for answer in answers] == [n.to_bytes(8, "little") for n in range(1, 200)]
        assert pair.guest.control.version == version


def test_a_rescinded_device_is_detached_and_attached_again_when_it_is_offered_again() -> None:
    with PartitionPair([Echo()], [EchoDriver]) as pair:
        driver = driver_of(pair)
        slot = pair.host.slots[0]
        pair.in_host(slot.rescind)
        assert pair.guest.loop.run(lambda: driver.detached, timeout=60)
        pair.in_host(slot.reoffer)
        assert pair.guest.loop.run(lambda: bool(pair.guest.drivers), timeout=60)
        answer = driver_of(pair).ask(b"again!!!", 1)
        assert pair.guest.bus.wait(answer) == b"again!!!"


def test_a_device_is_offered_again_when_the_guest_has_let_go_of_its_old_channel_and_not_before() -> None:
    with PartitionPair([Echo()], [EchoDriver]) as pair:
        driver = driver_of(pair)
        slot = pair.host.slots[0]
        pair.in_host(slot.rescind)
        assert until(lambda: not pair.in_host(lambda: slot.channel_ids))
        pair.in_host(slot.reoffer)
        assert pair.in_host(lambda: (len(slot.channels), slot.channel_ids)) == (1, {})
        assert pair.guest.loop.run(lambda: driver.detached and bool(pair.guest.drivers), timeout=60)
        assert pair.guest.bus.wait(driver_of(pair).ask(b"again!!!", 1)) == b"again!!!"


def test_unload_ends_in_good_order() -> None:
    with PartitionPair([Echo()], [EchoDriver]) as pair:
        driver_of(pair)
        pair.guest.unload()
        assert not pair.guest.control.is_connected


def test_a_guest_that_breaks_its_ring_loses_that_channel_and_the_host_serves_on() -> None:
    other = Echo()
    other.instance_id = ECHO_INTERFACE
    with PartitionPair([Echo(), other], [EchoDriver]) as pair:
        first, second = pair.guest.driver(EchoDriver, 0), pair.guest.driver(EchoDriver, 1)
        for driver in (first, second):
            pair.guest.bus.wait(driver.opened)
        first.channel.outgoing.memory.words[0] = 0xFFFFFFF0
        pair.guest.signal(pair.guest.control.channels[first.channel.channel_id].connection_id)
        assert pair.guest.loop.run(lambda: first.detached, timeout=60)
        assert pair.guest.bus.wait(second.ask(b"alive!!!", 9)) == b"alive!!!"


def test_guests_come_and_go_and_nothing_is_left() -> None:
    with PartitionPair([Echo()], [EchoDriver]) as pair:
        driver_of(pair)

        def held() -> tuple[int, int]:
            maps = Path("/proc/self/maps").read_text().count("memfd:vmbus")
            return len(open_descriptors()), maps

        def next_guest() -> None:
            pair.guest.close()
            pair.new_guest().boot()
            driver_of(pair)

        next_guest()
        pair.in_host(lambda: None)
        before = held()
        for _ in range(10):
            next_guest()
        pair.in_host(lambda: None)
        assert until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
        assert pair.in_host(lambda: pair.host.guests_served) == 12


def test_a_second_guest_is_told_that_the_host_is_busy() -> None:
    with PartitionPair([Echo()], [EchoDriver]) as pair:
        first = pair.guest
        with pytest.raises(HostRefused, match="busy"):
            pair.new_guest().boot()
        assert first.gone is None


def test_a_guest_notices_when_its_host_goes() -> None:
    with PartitionPair([Echo()], [EchoDriver]) as pair:
        driver = driver_of(pair)
        answer = driver.ask(b"x" * 8, 1)
        pair.guest.bus.wait(answer)
        pair.in_host(lambda: pair.host.disconnect_guest("test"))
        assert pair.guest.loop.run(lambda: pair.guest.gone is not None, timeout=60)
        with pytest.raises(HostGone):
            pair.guest.bus.wait(Promise[None]())


def test_a_memory_file_that_could_be_sealed_and_is_not_is_refused() -> None:
    import fcntl

    pair = PartitionPair([Echo()], [EchoDriver]).start()
    try:
        guest = pair.new_guest()
        fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, guest.memory.size)
        assert not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        os.dup2(fd, guest.memory.fd)
        os.close(fd)
        with pytest.raises(HostRefused, match="bad memory"):
            guest.boot()
        guest.close()
        pair.new_guest().boot()
    finally:
        pair.close()


def test_shrinking_the_memory_of_a_guest_is_impossible_once_it_is_accepted() -> None:
    with PartitionPair([Echo()], [EchoDriver]) as pair, pytest.raises(PermissionError):
        os.ftruncate(pair.guest.memory.fd, 4096)


def test_a_guest_whose_memory_file_is_smaller_than_it_says_is_refused() -> None:
    pair = PartitionPair([Echo()], [EchoDriver]).start()
    try:
        guest = pair.new_guest()
        guest.memory.size *= 2
        with pytest.raises(VmbusError, match="bad memory"):
            guest.boot()
    finally:
        pair.close()
