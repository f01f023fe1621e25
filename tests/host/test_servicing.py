"""A host is stopped or killed, and another takes its guest over: channels, and devices that changed.

The guest is ours.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.testing.servicing import FourChannels, Restarts
from vmbus.testing.waiting import until


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("latency", [None, 1000], ids=["hypercalls", "monitor pages"])
def test_two_controllers_a_card_and_their_subchannels_go_on(
    restarts: Callable[..., Restarts], kill: bool, latency: int | None
) -> None:
    bus = restarts(monitor_latency=latency)
    disk, second, card = bus.disk(), bus.disk(1), bus.card()
    channels = bus.guest.driver(FourChannels).link.channels
    assert bus.guest.loop.run(lambda: len(channels) == 4 and len(card.driver.queues) == 4, timeout=60)
    for round_number in range(3):
        disk.write(8 * round_number, bytes([round_number]) * 4096)
        bus.restart(kill=kill)
        for _ in range(8):  # more than there are channels
            assert disk.read(8 * round_number, 8) == bytes([round_number]) * 4096
        assert second.blocks == 2048
        assert card.ping("10.7.0.1", 1400) < 30
        assert bus.in_host(lambda: sorted(bus.host.slots[0].channels)) == [0, 1, 2, 3]
        assert bus.in_host(lambda: sorted(bus.host.slots[2].channels)) == [0, 1, 2, 3]
    assert bus.host.partition is not None and bool(bus.host.partition.monitor.signals_to_host) == bool(latency)


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_device_that_was_taken_back_stays_away_until_it_is_offered_again(
    restarts: Callable[..., Restarts], kill: bool
) -> None:
    bus = restarts()
    disk = bus.disk()
    bus.card()
    bus.in_host(bus.host.slots[2].rescind)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=60)
    bus.restart(kill=kill)
    assert disk.read(0, 1) == bytes(512) and len(bus.guest.drivers) == 2
    bus.in_host(bus.host.slots[2].reoffer)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 3, timeout=60)
    assert bus.card().ping("10.7.0.1") < 30


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_card_whose_old_channel_the_guest_has_not_closed_yet_begins_anew(
    restarts: Callable[..., Restarts], kill: bool
) -> None:
    bus = restarts()
    before = bus.card().driver
    slot = bus.host.slots[2]
    bus.in_host(slot.rescind)
    assert until(lambda: not bus.in_host(lambda: slot.channel_ids))
    bus.end(kill=kill)
    bus.start()
    bus.in_host(bus.host.slots[2].reoffer)
    drivers = bus.guest.drivers
    assert bus.guest.loop.run(lambda: before not in drivers and len(drivers) == 3, timeout=60)
    assert bus.card().ping("10.7.0.1") < 30


def test_a_device_that_was_about_to_be_taken_back_goes_when_it_is_at_rest(restarts: Callable[..., Restarts]) -> None:
    bus = restarts()
    bus.card()
    slot = bus.host.slots[2]

    def never(done: Callable[[], None]) -> None:
        pass

    slot.device.retire = never  # type: ignore[method-assign]
    bus.in_host(slot.rescind)
    bus.restart(kill=True)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=60)
    assert not bus.host.slots[2].is_offered


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_host_may_come_back_with_a_device_more_or_less(restarts: Callable[..., Restarts], kill: bool) -> None:
    bus = restarts()
    before = bus.make
    disk = bus.disk()
    bus.end(kill=kill)
    bus.make = lambda: [*before(), *make_devices(disks=["memory:3M,controller=2"])]
    bus.start()
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 4, timeout=60)
    assert bus.disk(2).blocks == 6144 and disk.read(0, 1) == bytes(512)
    bus.end(kill=kill)
    bus.make = before
    bus.start()
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 3, timeout=60)
    assert disk.read(0, 1) == bytes(512)
