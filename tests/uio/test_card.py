"""A network card over the two buffers that a kernel has shared: no page of our own, no large sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmbus.devices.network import device_from
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.guest.uio import UioBus
from vmbus.transport.uio import UioError, UioMap

if TYPE_CHECKING:
    from conftest import OpenBus


def card_of(open_bus: OpenBus) -> tuple[UioBus, NetworkDriver]:
    """A card that is ready over a receive and a send buffer of the kernel's."""
    bus, host = open_bus(device_from("embedded"), pages=16)
    host.lend(UioMap.RECEIVE_BUFFER, 256)
    host.lend(UioMap.SEND_BUFFER, 128)
    driver = NetworkDriver()
    bus.attach(driver)
    bus.wait(driver.ready)
    return bus, driver


def test_frames_cross_through_the_buffers_that_are_there(open_bus: OpenBus) -> None:
    bus, driver = card_of(open_bus)
    assert not bus.can_name_pages and driver.largest_send == 0, "the host may cut only what lies in pages of ours"
    card = NetworkCard(bus, driver, "10.7.0.2")
    assert card.ping("10.7.0.1", 1400) > 0
    data = bytes(range(256)) * 1000
    assert card.connect("10.7.0.1", 7).exchange(data) == data
    driver.shut_down()
    assert not bus.channels and bus.gone is None


def test_pages_of_a_buffer_that_the_host_receives_into_are_nobodys_to_name(open_bus: OpenBus) -> None:
    bus, _ = card_of(open_bus)
    with pytest.raises(UioError, match="in use as such"):
        _ = bus.pages
