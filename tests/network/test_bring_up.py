"""A card comes up: negotiation, buffers, RNDIS, and the first packets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmbus.drivers.network import NetworkDriver
from vmbus.testing.network import Wire
from vmbus.wire.nvsp import NvspVersion

MakeWire = Callable[..., Wire]


def test_the_newest_version_is_agreed_on_and_the_card_has_its_address(wire: Wire) -> None:
    card = wire.card()
    assert card.driver.version == NvspVersion.V61
    assert card.driver.mac.hex() == "00155d0a0b0c"
    assert card.driver.link_up
    assert card.driver.mtu == 1500


@pytest.mark.parametrize("version", list(NvspVersion), ids=lambda version: version.name)
def test_every_version_carries_a_ping(make_wire: MakeWire, version: NvspVersion) -> None:
    wire = make_wire(newest_version=version)
    card = wire.card()
    assert card.driver.version == version
    assert card.ping("10.7.0.1") < 30


@pytest.mark.parametrize("size", [0, 1, 56, 1400, 1472])
def test_pings_of_every_size_come_back_whole(wire: Wire, size: int) -> None:
    assert wire.card().ping("10.7.0.1", size) < 30


def test_a_guest_that_asks_for_an_older_version_gets_it(wire: Wire) -> None:
    card = wire.card(NetworkDriver(newest_version=NvspVersion.V4))
    assert card.driver.version == NvspVersion.V4
    assert card.ping("10.7.0.1") < 30


def test_a_card_that_was_shut_down_leaves_nothing_mapped(wire: Wire) -> None:
    card = wire.card()
    free = wire.pages.free_pages
    card.driver.shut_down()
    wire.pair.pump()
    assert wire.provider.session is None
    assert wire.pages.free_pages > free
