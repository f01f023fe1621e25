"""Signals through monitor pages: a guest that makes no hypercall is heard, within its latency, and so is the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from vmbus.control.events import MonitorPages
from vmbus.devices.catalog import make_devices
from vmbus.drivers.network import NetworkDriver
from vmbus.drivers.network.card import NetworkCard
from vmbus.drivers.storage import StorageDriver
from vmbus.guest.program import Workload
from vmbus.host.monitor import IDLE_NANOSECONDS, PATIENCE, Monitored, PageMonitor
from vmbus.loop import Loop
from vmbus.memory import PAGE_SIZE, GuestMemory, OutsideGuestMemory
from vmbus.monitor_page import MAX_LATENCY, MonitorPageView
from vmbus.testing.partitions import PartitionPair
from vmbus.transport.client import HostConnection
from vmbus.wire.control_values import ALL_VERSIONS, Version
from vmbus.wire.hypervisor import MonitorPage

TO_GUEST, TO_HOST = 4 * PAGE_SIZE, 5 * PAGE_SIZE
PAGES = MonitorPages(TO_GUEST, TO_HOST)


@dataclass
class Served:
    """A page monitor with the guest's view of its two pages."""

    loop: Loop
    memory: GuestMemory
    monitor: PageMonitor
    to_guest: MonitorPageView
    to_host: MonitorPageView
    heard: list[str] = field(default_factory=list)

    def channel(self, name: str, latency: int = 1000, connection_id: int = 7) -> Monitored:
        return Monitored(
            latency,
            connection_id,
            lambda: self.heard.append(f"{name} to host"),
            lambda: self.heard.append(f"{name} to guest"),
        )

    def run(self, until: Callable[[], bool] = lambda: False, timeout: float = 60.0) -> bool:
        return self.loop.run(until, timeout=timeout)


@pytest.fixture
def served() -> Iterator[Served]:
    loop, memory = Loop(), GuestMemory.create(1 << 20)
    monitor = PageMonitor(loop)
    views = MonitorPageView.at(memory, TO_GUEST), MonitorPageView.at(memory, TO_HOST)
    yield Served(loop, memory, monitor, *views)
    monitor.close()
    for view in views:
        view.release()
    memory.close()
    loop.close()


def test_a_pending_bit_signals_its_channel_once_and_is_cleared(served: Served) -> None:
    served.monitor.use(served.memory, PAGES)
    served.monitor.watch(37, served.channel("a"))
    served.monitor.watch(100, served.channel("b"))
    assert served.to_host.set(37) and not served.to_host.set(37)
    assert served.run(lambda: bool(served.heard))
    assert served.heard == ["a to host"] and served.to_host.take() == 0


def test_what_a_channel_answers_at_once_reaches_the_guest_in_the_same_look(served: Served) -> None:
    served.monitor.use(served.memory, PAGES)
    answering = served.channel("a")._replace(signal_host=lambda: served.monitor.signal_guest(3))
    served.monitor.watch(3, answering)
    served.to_host.set(3)
    assert served.run(lambda: bool(served.heard))
    assert served.heard == ["a to guest"] and served.monitor.looks - served.monitor.signals_to_guest < 100


def test_bits_of_no_channel_and_of_closed_ones_are_ignored(served: Served) -> None:
    served.monitor.use(served.memory, PAGES)
    served.monitor.watch(1, served.channel("a"))
    served.monitor.watch(2, served.channel("b"))
    served.monitor.unwatch(2)
    for monitor_id in (2, 0, 127, 1):
        served.to_host.set(monitor_id)
    assert served.run(lambda: bool(served.heard))
    assert served.heard == ["a to host"]


def test_the_pages_say_how_late_and_what_a_notification_signals(served: Served) -> None:
    served.monitor.use(served.memory, PAGES)
    served.monitor.watch(33, served.channel("a", latency=1000, connection_id=0x2001))
    served.monitor.watch(2, served.channel("b", latency=1 << 20))
    page = MonitorPage.parse(served.memory.read(TO_HOST, PAGE_SIZE))
    assert page.latency[33] == 1000 and page.parameters[33].connection_id == 0x2001
    assert page.latency[2] == MAX_LATENCY and page.group_enable == 0b11


def test_nobody_looks_while_there_are_no_channels_or_no_pages(served: Served) -> None:
    served.monitor.use(served.memory, PAGES)
    served.run(timeout=0.05)
    assert served.monitor.looks == 0 and served.monitor.inspect()["interval_us"] == 0
    served.monitor.watch(0, served.channel("a"))
    served.monitor.use(served.memory, None)
    before = served.monitor.looks
    served.run(timeout=0.05)
    assert served.monitor.looks == before
    served.monitor.signal_guest(0)
    assert served.heard == ["a to guest"], "without pages the guest is signalled at once"


def test_an_idle_guest_is_looked_at_seldom_and_a_signal_ends_that(served: Served) -> None:
    served.monitor.use(served.memory, PAGES)
    served.monitor.watch(0, served.channel("a"))
    idle = IDLE_NANOSECONDS / 1000
    assert served.run(lambda: served.monitor.inspect()["interval_us"] == idle)
    before = served.monitor.looks
    served.run(timeout=0.5)
    assert served.monitor.looks - before <= 0.5e9 / IDLE_NANOSECONDS + 2
    served.to_host.set(0)
    assert served.run(lambda: bool(served.heard))
    assert served.monitor.inspect()["interval_us"] == 100
    assert served.run(lambda: served.monitor.looks > before + PATIENCE)


def test_pending_signals_survive_a_change_of_pages(served: Served) -> None:
    served.monitor.use(served.memory, PAGES)
    served.monitor.watch(5, served.channel("a"))
    served.to_host.set(5)
    served.monitor.use(served.memory, MonitorPages(8 * PAGE_SIZE, 9 * PAGE_SIZE))
    assert served.heard == ["a to host"]
    assert MonitorPage.parse(served.memory.read(9 * PAGE_SIZE, PAGE_SIZE)).latency[5] == 1000


def test_pages_outside_memory_are_refused_and_none_are_served(served: Served) -> None:
    with pytest.raises(OutsideGuestMemory):
        served.monitor.use(served.memory, MonitorPages(TO_GUEST, 1 << 20))
    assert not served.monitor.has_pages


@pytest.fixture
def disk(tmp_path: object) -> str:
    path = f"{tmp_path}/disk.img"
    with open(path, "wb") as file:
        file.truncate(8 << 20)
    return path


@pytest.mark.parametrize("version", ALL_VERSIONS[2:])
@pytest.mark.parametrize("host_pages", [True, False])
def test_disk_and_network_of_a_python_guest_work_through_monitor_pages(
    disk: str, version: Version, host_pages: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = make_devices(disks=[disk], nics=["embedded"], monitor_latency=1000)
    drivers = (StorageDriver, NetworkDriver)
    with PartitionPair(devices, drivers, versions=[version], host_pages=host_pages) as pair:
        hypercalls: list[object] = []
        partition = pair.host.partition
        assert partition is not None
        monkeypatch.setattr(HostConnection, "signal_event", lambda *arguments: hypercalls.append(arguments))
        workload = Workload(pair.guest)
        workload.run_round()
        assert not hypercalls, "the guest signals by bits alone"
        assert partition.monitor.signals_to_host > 10 and partition.monitor.signals_to_guest > 10
        provided = pair.guest.control.host_monitor_pages
        assert provided == (host_pages and version >= Version.V6_0)
        assert provided == bool(partition.control.info and partition.control.info.host_monitor_pages)


def test_a_guest_without_monitor_pages_is_served_by_hypercalls(disk: str) -> None:
    with PartitionPair(make_devices(disks=[disk], monitor_latency=1000), [StorageDriver]) as pair:
        partition = pair.host.partition
        assert partition is not None
        Workload(pair.guest).run_round()
        pair.in_host(lambda: partition.monitor.use(pair.guest.memory, None))  # takes what is pending
        before = partition.monitor.signals_to_host
        pair.guest._drop_pages()
        Workload(pair.guest, seed=2)
        assert partition.monitor.signals_to_host == before


def test_a_guest_that_leaves_ends_the_looking(disk: str) -> None:
    with PartitionPair(make_devices(disks=[disk], monitor_latency=1000), [StorageDriver]) as pair:
        partition = pair.host.partition
        assert partition is not None
        Workload(pair.guest).run_round()
        pair.guest.unload()
        looks = pair.in_host(lambda: partition.monitor.looks)
        time.sleep(0.05)
        assert partition.monitor.looks == looks


def test_a_card_keeps_its_latency_in_the_tree(disk: str) -> None:
    with PartitionPair(make_devices(nics=["embedded"], monitor_latency=2500), [NetworkDriver]) as pair:
        from vmbus.host.inspection import inspect_host

        driver: NetworkDriver = pair.guest.driver(NetworkDriver)
        pair.guest.bus.wait(driver.ready)
        NetworkCard(pair.guest.bus, driver, "10.7.0.2").ping("10.7.0.1", 56)
        tree = pair.in_host(lambda: inspect_host(pair.host))
        (channel,) = tree["channels"].values()
        assert channel["monitor"] == {"id": 0, "latency_100ns": 2500}
        assert tree["connection"]["monitor_pages"]["signals_to_host"] > 0
