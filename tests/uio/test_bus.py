"""A channel over the maps of a device file: packets both ways, wrap, signals, the end. No Linux guest is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from vmbus.cli.uio import Listener
from vmbus.devices.echo import Echo
from vmbus.drivers.echo import EchoDriver, EchoLoad, exchange
from vmbus.drivers.errors import DriverError
from vmbus.memory import PAGE_SIZE
from vmbus.monitor_page import MonitorPageView
from vmbus.ring.errors import InvalidRingPointer
from vmbus.testing.partitions import PartitionPair
from vmbus.transport.uio import DeviceGone, UioMap

if TYPE_CHECKING:
    from conftest import OpenBus

LOAD = EchoLoad(packets=400, largest=3000, window=20)


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("start", [0, 8, PAGE_SIZE * 4 - 8, PAGE_SIZE * 4 - 24])
def test_every_byte_comes_back_wherever_the_rings_wrap(open_bus: OpenBus, pure: bool, start: int) -> None:
    bus, host = open_bus(pure=pure, start=start)
    driver = EchoDriver()
    bus.attach(driver)
    assert exchange(bus, driver, LOAD) > 400_000
    assert driver.exchanged == LOAD.packets and host.channel.counters.packets_in == LOAD.packets


def test_the_kernel_signals_a_host_that_has_given_no_monitor_id(open_bus: OpenBus) -> None:
    bus, host = open_bus()
    driver = EchoDriver()
    bus.attach(driver)
    exchange(bus, driver, EchoLoad(packets=10, window=1))
    assert 10 <= host.file.signals <= 20 and host.channel.counters.signals_out == 10


def test_a_monitor_id_is_signalled_by_its_bit_and_by_nothing_else(open_bus: OpenBus) -> None:
    bus, host = open_bus(monitor_id=37)
    driver = EchoDriver()
    bus.attach(driver)
    answer = driver.send(b"packet", completion_requested=True)
    page = MonitorPageView(memoryview(host.file.areas[UioMap.MONITOR_PAGE]))
    bus.loop.run(lambda: host.channel.incoming.available > 0, timeout=60)
    assert page.take() == 1 << 37 and host.file.signals == 0
    host.channel.on_signal()
    assert bus.wait(answer, 60) == b"packet\0\0"
    page.release()


def test_a_device_that_is_taken_back_ends_with_a_clear_error(open_bus: OpenBus) -> None:
    bus, host = open_bus()
    driver = EchoDriver()
    bus.attach(driver)
    host.file.on_signal = lambda: None
    answer = driver.send(b"never answered", completion_requested=True)
    assert bus.loop.run(lambda: host.file.signals > 0, timeout=60), "nothing else will find that it is gone"
    host.file.take_away()
    with pytest.raises(DeviceGone):
        bus.wait(answer, 60)
    assert bus.gone is not None and not bus.channels
    with pytest.raises(DriverError, match="not open"):
        driver.send(b"too late", completion_requested=True)


def test_a_signal_that_fails_ends_it_too(open_bus: OpenBus) -> None:
    bus, host = open_bus()
    driver = EchoDriver()
    bus.attach(driver)
    host.file.is_gone = True
    with pytest.raises(DeviceGone):
        bus.wait(driver.send(b"packet", completion_requested=True), 60)


def test_a_host_that_writes_a_bad_index_fails_its_channel(open_bus: OpenBus) -> None:
    bus, host = open_bus()
    driver = EchoDriver()
    bus.attach(driver)
    bus.wait(driver.ready)
    answer = driver.send(b"packet", completion_requested=False)
    host.file.on_signal = lambda: None
    host.channel.outgoing.memory.words[0] = 0x7FFF_FFF8
    host.file.interrupt()
    with pytest.raises(InvalidRingPointer):
        bus.wait(answer, 60)
    assert bus.gone is None


def test_the_same_driver_works_in_a_guest_of_our_own(partition_pair: Callable[..., PartitionPair]) -> None:
    assert EchoDriver.interface_ids == (Echo.interface_id,)
    pair = partition_pair([Echo()], [EchoDriver])
    driver = pair.guest.driver(EchoDriver)
    pair.guest.bus.wait(driver.ready)
    exchange(pair.guest.bus, driver, LOAD)
    assert driver.exchanged == LOAD.packets


def test_memory_of_our_own_cannot_be_shared(open_bus: OpenBus) -> None:
    bus, _ = open_bus()
    driver = EchoDriver()
    bus.attach(driver)
    with pytest.raises(DriverError, match="user space"):
        bus.wait(bus.create_gpadl(bus.wait(driver.ready), [1, 2]))


def test_what_the_host_says_by_itself_can_be_listened_to(open_bus: OpenBus, capsys: pytest.CaptureFixture[str]) -> None:
    bus, host = open_bus()
    listener = Listener()
    bus.attach(listener)
    host.channel.send_in_band(b"hello", transaction_id=5, completion_requested=True)
    bus.loop.run(lambda: listener.packets == 1, timeout=60)
    assert capsys.readouterr().out == "IN_BAND 0x5, 8 bytes, wants a completion: 68 65 6c 6c 6f 00 00 00\n"
