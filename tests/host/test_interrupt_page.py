"""Guests of VMBus before 2.4: one event for all channels, and a page that says which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.drivers.disk import Disk
from vmbus.drivers.network import NetworkDriver
from vmbus.drivers.network.card import NetworkCard
from vmbus.drivers.storage import StorageDriver
from vmbus.guest import Guest
from vmbus.interrupt_page import InterruptPageView
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.synic import SynicVp
from vmbus.testing.partitions import PartitionPair
from vmbus.testing.servicing import Restarts
from vmbus.wire.control_values import ALL_VERSIONS, EVENT_CONNECTION_ID, Version

OLD = [version for version in ALL_VERSIONS if version < Version.V2_4]


def pair_of(version: Version) -> PartitionPair:
    devices = make_devices(disks=["memory:1M"], nics=["embedded"])
    return PartitionPair(devices, [StorageDriver, NetworkDriver], versions=[version], vp_count=2)


def use_both(guest: Guest) -> None:
    """A disk and a card, each on a channel of its own."""
    disk = Disk(guest.bus.wait(guest.driver(StorageDriver).ready), guest.pages, guest.bus.wait).open()
    driver = guest.driver(NetworkDriver)
    guest.bus.wait(driver.ready)
    card = NetworkCard(guest.bus, driver, "10.7.0.2")
    for number in range(8):
        disk.write(number, bytes([number]) * 512)
        assert disk.read(number, 1) == bytes([number]) * 512
        assert card.ping("10.7.0.1", 100) < 30


def test_a_half_of_the_page_is_set_at_one_end_and_taken_at_the_other() -> None:
    memory = GuestMemory.create(1 << 20)
    host, guest = (InterruptPageView.at(memory, PAGE_SIZE) for _ in range(2))
    for flag in (0, 1, 63, 64, 2047):
        host.to_guest.set(flag)
        guest.to_host.set(flag + 1 & 2047)
    assert guest.to_guest.take() == [0, 1, 63, 64, 2047] and guest.to_guest.take() == []
    assert host.to_host.take() == [0, 1, 2, 64, 65]
    assert memory.read(PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)
    host.release()
    guest.release()
    memory.close()


@pytest.mark.parametrize("version", OLD)
def test_the_only_event_flag_is_the_shared_one(version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    flags: Counter[tuple[int, int]] = Counter()
    signal = SynicVp.signal_event

    def counted(vp: SynicVp, sint: int, flag: int) -> bool:
        flags[vp.index, flag] += 1
        return signal(vp, sint, flag)

    monkeypatch.setattr(SynicVp, "signal_event", counted)
    with pair_of(version) as pair:
        use_both(pair.guest)
        assert set(flags) == {(0, 0)}
        assert len({channel_id for _, channel_id in pair.guest.flags_seen}) == 2


@pytest.mark.parametrize("version", OLD)
def test_a_guest_of_0_13_signals_the_shared_connection_and_one_of_1_1_the_channels_own(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pair_of(version) as pair:
        used: Counter[int] = Counter()
        signal = pair.guest._connection.signal_event

        def counted(vp: int, connection_id: int, flag: int = 0) -> None:
            used[connection_id] += 1
            signal(vp, connection_id, flag)

        monkeypatch.setattr(pair.guest._connection, "signal_event", counted)
        use_both(pair.guest)
        assert (set(used) == {EVENT_CONNECTION_ID}) == (version < Version.V1_1)


def test_bits_of_channels_that_are_not_open_mean_nothing() -> None:
    with pair_of(Version.V0_13) as pair:
        guest = pair.guest
        assert guest.interrupt_page is not None
        for flag in range(2048):
            guest.interrupt_page.to_host.set(flag)
        guest.signal(EVENT_CONNECTION_ID)
        use_both(guest)


def test_newer_guests_have_no_such_page_and_nothing_listens_at_the_shared_connection() -> None:
    with pair_of(Version.V2_4) as pair:
        pair.guest.signal(EVENT_CONNECTION_ID)
        use_both(pair.guest)
        assert pair.guest.interrupt_page is None
        assert pair.host.partition is not None and pair.host.partition.interrupt_page is None


@pytest.mark.parametrize("version", OLD)
def test_the_page_is_let_go_of_with_the_connection(version: Version) -> None:
    with pair_of(version) as pair:
        use_both(pair.guest)
        partition = pair.host.partition
        assert partition is not None and partition.interrupt_page is not None
        pair.guest.unload()
        assert pair.in_host(lambda: partition.interrupt_page) is None


@pytest.mark.parametrize("version", OLD)
def test_the_page_is_used_on_by_the_next_host(
    restarts: Callable[..., Restarts], version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmbus.testing.servicing.Guest", partial(Guest, versions=[version]))
    bus = restarts()
    disk = bus.disk()
    for kill in (False, True):
        disk.write(0, b"x" * 512)
        bus.restart(kill=kill)
        assert disk.read(0, 1) == b"x" * 512
