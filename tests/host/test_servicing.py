"""A host is stopped or killed, and another takes its guest over: channels, devices that changed, damaged files.

The guest is ours, which does not reconnect by itself: the test makes it say hello again.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vmbus.cli import main
from vmbus.devices.catalog import make_devices, stand_in
from vmbus.devices.device import Device
from vmbus.devices.network import NetworkProvider
from vmbus.devices.network.backends.embedded import EmbeddedNetwork
from vmbus.drivers.disk import Disk
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.drivers.storage import FIRST_UNIT, StorageDriver
from vmbus.guest import Guest
from vmbus.host import Host
from vmbus.host.journal import HEADER_SIZE
from vmbus.host.servicing import Servicing
from vmbus.loop import LoopThread
from vmbus.transport.client import HostConnection, HostRefused
from vmbus.wire.control_values import VMBUS_SINT

SOAK = os.environ.get("VMBUS_SOAK", "0") not in ("", "0")


class FourQueues(NetworkDriver):
    def __init__(self) -> None:
        super().__init__(queues=4)


class FourChannels(StorageDriver):
    def __init__(self) -> None:
        super().__init__(subchannels=3)


class Restarts:
    """Hosts that follow each other, with devices from ``make``, and one guest with four processors."""

    def __init__(self, state: Path, make: Callable[[], Sequence[Device]]) -> None:
        self.state = state
        self.make = make
        self._is_running = False
        self._start()
        self.guest = Guest(self._connect(), drivers=[FourChannels, FourQueues], vp_count=4)
        self.guest.boot()

    def _start(self) -> None:
        self.host = Host(self.make(), servicing=Servicing(self.state, stand_in))
        self._thread = LoopThread(self.host.loop, "vmbus-host")
        self._thread.start()
        self._is_running = True

    def _connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._thread.call(lambda: self.host.accept(theirs))
        return ours

    def in_host(self, work: Callable[[], Any]) -> Any:
        return self._thread.call(work)

    def end(self, *, kill: bool) -> None:
        """Stop the host in good order, or leave everything as it is at this moment."""
        self._thread.stop()
        if kill:
            self.host.servicing = None
            for slot in self.host.slots:
                slot.device.close = lambda: None  # type: ignore[method-assign]
        self.guest.loop.unwatch(self.guest._connection.fileno())
        self.host.close()
        self._is_running = False

    def start(self) -> None:
        """Start the next host, and have the guest say hello to it, as one that was started with ``--reconnect``."""
        self._start()
        connection = HostConnection(self._connect())
        connection._sequence = self.guest._connection._sequence
        self.guest._connection.close()
        self.guest._connection = connection
        connection.hello(self.guest.memory, self.guest._interrupts, self.guest._guest_id)
        for vp in self.guest._vps:
            vp.enable(VMBUS_SINT)
        self.guest.loop.watch(connection.fileno(), self.guest._host_spoke)

    def restart(self, *, kill: bool) -> None:
        self.end(kill=kill)
        self.start()

    def disk(self, number: int = 0) -> Disk:
        link = self.guest.bus.wait(self.guest.driver(FourChannels, number).ready, 10)
        return Disk(link, self.guest.pages, self.guest.bus.wait, FIRST_UNIT).open()

    def card(self) -> NetworkCard:
        driver = self.guest.driver(FourQueues)
        self.guest.bus.wait(driver.ready, 10)
        return NetworkCard(self.guest.bus, driver, "10.7.0.2")

    def close(self) -> None:
        self.guest.close()
        if self._is_running:
            self._thread.stop()
            self.host.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "disk"
    image.write_bytes(bytes(4 << 20))
    return image


@pytest.fixture
def restarts(tmp_path: Path, image: Path) -> Iterator[Callable[..., Restarts]]:
    made: list[Restarts] = []

    def make(*more: Device, monitor_latency: int | None = None) -> Restarts:
        def devices() -> list[Device]:
            disks = make_devices(disks=[str(image), "memory:1M,controller=1"], monitor_latency=monitor_latency)
            card = NetworkProvider(EmbeddedNetwork(), mac=bytes.fromhex("00155d0a0b0c"), queues=4)
            return [*disks, card, *more]

        made.append(Restarts(tmp_path / "state", devices))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("latency", [None, 1000], ids=["hypercalls", "monitor pages"])
def test_two_controllers_a_card_and_their_subchannels_go_on(
    restarts: Callable[..., Restarts], kill: bool, latency: int | None
) -> None:
    bus = restarts(monitor_latency=latency)
    disk, second, card = bus.disk(), bus.disk(1), bus.card()
    channels = bus.guest.driver(FourChannels).link.channels
    assert bus.guest.loop.run(lambda: len(channels) == 4 and len(card.driver.queues) == 4, timeout=10)
    for round_number in range(3):
        disk.write(8 * round_number, bytes([round_number]) * 4096)
        bus.restart(kill=kill)
        for _ in range(8):  # more than there are channels
            assert disk.read(8 * round_number, 8) == bytes([round_number]) * 4096
        assert second.blocks == 2048
        assert card.ping("10.7.0.1", 1400) < 5
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
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=10)
    bus.restart(kill=kill)
    assert disk.read(0, 1) == bytes(512) and len(bus.guest.drivers) == 2
    bus.in_host(bus.host.slots[2].reoffer)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 3, timeout=10)
    assert bus.card().ping("10.7.0.1") < 5


def test_a_device_that_was_about_to_be_taken_back_goes_when_it_is_at_rest(restarts: Callable[..., Restarts]) -> None:
    bus = restarts()
    bus.card()
    slot = bus.host.slots[2]

    def never(done: Callable[[], None]) -> None:
        pass

    slot.device.retire = never  # type: ignore[method-assign]
    bus.in_host(slot.rescind)
    bus.restart(kill=True)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=10)
    assert not bus.host.slots[2].is_offered


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_host_may_come_back_with_a_device_more_or_less(restarts: Callable[..., Restarts], kill: bool) -> None:
    bus = restarts()
    before = bus.make
    disk = bus.disk()
    bus.end(kill=kill)
    bus.make = lambda: [*before(), *make_devices(disks=["memory:3M,controller=2"])]
    bus.start()
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 4, timeout=10)
    assert bus.disk(2).blocks == 6144 and disk.read(0, 1) == bytes(512)
    bus.end(kill=kill)
    bus.make = before
    bus.start()
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 3, timeout=10)
    assert disk.read(0, 1) == bytes(512)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that cannot work says: one line."""
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("{", "is not the state of a host"),
        ("[]", "is not the state of a host"),
        ('{"format": "a shopping list", "version": 1}', "is not the state of a host, but 'a shopping list'"),
        ('{"format": "vmbus host state", "version": 1}', "is a state of version 1, and this is version 2"),
        ('{"format": "vmbus host state", "version": 2}', "is not the state of a host: 'guest_id'"),
        (b"\xff\xfe", "cannot read the state"),
    ],
)
def test_a_file_that_is_no_state_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str | bytes, complaint: str
) -> None:
    state = tmp_path / "state"
    state.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert complaint in refusal(["host", f"unix:{tmp_path}/bus", "--state", str(state)], capsys)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "cannot read the journal"),
        (lambda path: path.write_bytes(b""), "is not a host's journal"),
        (lambda path: path.write_bytes(b"VMBJ\1\0\0\0" + bytes(8192)), "is a journal of version 1, and this is"),
    ],
    ids=["missing", "empty", "of version 1"],
)
def test_a_state_without_its_journal_is_refused_in_one_line(
    restarts: Callable[..., Restarts],
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    complaint: str,
) -> None:
    bus = restarts()
    bus.end(kill=True)
    damage(bus.state.with_name("state.journal"))
    said = refusal(["host", f"unix:{bus.state}.bus", "--state", str(bus.state)], capsys)
    assert complaint in said


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def damaged(document: Any, chance: random.Random) -> Any:
    copy = json.loads(json.dumps(document))
    *way, last = chance.choice([path for path in leaves(copy) if path[0] not in ("format", "version", "guest_id")])
    place = copy
    for key in way:
        place = place[key]
    if chance.random() < 0.2:
        del place[last]
    else:
        place[last] = chance.choice([None, -1, 0, 1 << 70, "x", "", [], {}, [[]], True, 3.5])
    return copy


def answer_to(bus: Restarts) -> str:
    """What a host with this state says to the guest that it is of; afterwards it serves another guest."""
    host = Host(bus.make(), servicing=Servicing(bus.state, stand_in))
    thread = LoopThread(host.loop, "vmbus-host")
    thread.start()
    problems: list[object] = []
    host.loop.on_error = problems.append
    ours, theirs = socket.socketpair()
    thread.call(lambda: host.accept(theirs))
    connection = HostConnection(ours)
    try:
        connection.hello(bus.guest.memory, bus.guest._interrupts, bus.guest._guest_id)
        answer = "goes on"
    except HostRefused as error:
        answer = str(error)
    connection.close()
    ours, theirs = socket.socketpair()
    thread.call(lambda: host.accept(theirs))
    with_new = Guest(ours, drivers=[FourChannels], vp_count=2)
    try:
        with_new.boot(10)
        link = with_new.bus.wait(with_new.driver(FourChannels).ready, 10)
        assert Disk(link, with_new.pages, with_new.bus.wait, FIRST_UNIT).open().read(0, 1) == bytes(512)
    finally:
        with_new.close()
        thread.stop()
        host.close()
    assert problems == []
    return answer


@pytest.mark.soak
@pytest.mark.parametrize("what", ["document", "journal"])
def test_a_guest_of_a_damaged_state_is_refused_and_the_next_one_served(
    restarts: Callable[..., Restarts], what: str
) -> None:
    bus = restarts()
    bus.disk().read(0, 8)
    bus.card()
    bus.end(kill=True)
    journal = bus.state.with_name("state.journal")
    document, entries = json.loads(bus.state.read_text()), journal.read_bytes()
    used = int.from_bytes(entries[16:24], "little")
    chance = random.Random(4)
    answers = set()
    for _ in range(150 if SOAK else 12):
        data = bytearray(entries)
        if what == "journal":
            for _ in range(3):
                data[chance.choice([*range(8, 32), *range(HEADER_SIZE, HEADER_SIZE + used)])] = chance.randrange(256)
        bus.state.write_text(json.dumps(damaged(document, chance) if what == "document" else document))
        journal.write_bytes(data)
        answers.add(answer_to(bus))
    refused = "the host refused this guest: unknown guest"
    assert refused in answers and answers <= {"goes on", refused}
    bus.state.write_text(json.dumps(document))
    journal.write_bytes(entries)
    bus.start()
