"""A machine with VMBus devices in a sysfs of its own, and a device file over shared memory with a host behind it.

The host's end of each channel runs in the same loop as the driver's, over the same memory, with the rings the other way
round. Signals and interrupts are counted.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from vmbus.atomics import full_fence
from vmbus.channel import Channel, ChannelIdentity
from vmbus.devices.device import Device
from vmbus.devices.echo import Echo
from vmbus.gpadl import Gpadl, GpaRange
from vmbus.guest.uio import UioBus
from vmbus.loop import Loop
from vmbus.memory import PAGE_SIZE, GuestMemory, Mapping
from vmbus.ring.incoming import IncomingRing
from vmbus.ring.memory import RingMemory
from vmbus.ring.outgoing import OutgoingRing
from vmbus.ring.pair import RingPair
from vmbus.tap import Direction, Tap
from vmbus.transport.uio import DeviceGone, SysfsDevice, UioMap, find_device

RING_PAGES = 4
"""Data pages of each ring: few, so that everything wraps often."""


class Machine:
    """A sysfs tree under ``root``; ``add`` puts devices on its bus."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bus = root / "bus/vmbus"
        (self.bus / "devices").mkdir(parents=True)
        for driver in ("hv_netvsc", "uio_hv_generic"):
            (self.bus / "drivers" / driver).mkdir(parents=True)

    def add(
        self,
        interface: UUID,
        instance: UUID,
        *,
        driver: str = "uio_hv_generic",
        channel_id: int = 7,
        monitor_id: int | None = None,
        uio: str = "uio0",
        maps: dict[int, tuple[str, int]] | None = None,
    ) -> SysfsDevice:
        """A device with that driver (none if empty), and with its maps' names and sizes."""
        device = self.bus / "devices" / str(instance)
        channel = device / "channels" / str(channel_id)
        channel.mkdir(parents=True)
        attributes = {"class_id": f"{{{interface}}}", "device_id": f"{{{instance}}}", "id": str(channel_id)}
        if monitor_id is not None:
            attributes["monitor_id"] = str(monitor_id)
            (channel / "monitor_id").write_text(f"{monitor_id}\n")
        (channel / "subchannel_id").write_text("0\n")
        for name, text in attributes.items():
            (device / name).write_text(f"{text}\n")
        if driver:
            (device / "driver").symlink_to(self.bus / "drivers" / driver)
        if driver == "uio_hv_generic":
            for number, (name, size) in (maps or {0: ("txrx_rings", 10 * PAGE_SIZE)}).items():
                entry = device / "uio" / uio / "maps" / f"map{number}"
                entry.mkdir(parents=True)
                (entry / "name").write_text(f"{name}\n")
                (entry / "size").write_text(f"{size:#x}\n")
        return find_device(instance, self.root)


class FakeFile:
    """A :class:`~vmbus.transport.uio.ChannelFile` of which a :class:`FakeHost` has the other side."""

    def __init__(self) -> None:
        self.areas: dict[Any, mmap.mmap] = {}
        self.gpadls = {UioMap.RECEIVE_BUFFER: 0xE1E10, UioMap.SEND_BUFFER: 0xE1E11}
        self.on_signal: Callable[[], None] = lambda: None
        self.signals = 0
        self.is_gone = False
        self._interrupt = os.eventfd(0, os.EFD_NONBLOCK)

    def area(self, which: object, size: int) -> mmap.mmap:
        """The memory behind a map; made when it is first asked for."""
        if which not in self.areas:
            self.areas[which] = mmap.mmap(-1, size)
        return self.areas[which]

    def fileno(self) -> int:
        return self._interrupt

    def map(self, which: UioMap) -> Mapping:
        return SharedMapping(self.areas[which])

    def map_subchannel(self, subchannel: SysfsDevice) -> Mapping:
        return SharedMapping(self.areas[subchannel.channel_id])

    def gpadl(self, which: UioMap) -> int:
        return self.gpadls[which]

    def take_interrupts(self) -> None:
        if self.is_gone:
            raise DeviceGone(os.strerror(errno.EIO))
        os.eventfd_read(self._interrupt)

    def signal(self) -> None:
        if self.is_gone:
            raise DeviceGone(os.strerror(errno.EIO))
        self.signals += 1
        self.on_signal()

    def interrupt(self) -> None:
        """What the kernel does when the host has interrupted."""
        os.eventfd_write(self._interrupt, 1)

    def take_away(self) -> None:
        """What the kernel does when the host has rescinded the device."""
        self.is_gone = True
        self.interrupt()

    def close(self) -> None:
        os.close(self._interrupt)


class SharedMapping(Mapping):
    """One of several views of an area that lives on."""

    def close(self) -> None:
        self.view.release()

    @property
    def closed(self) -> bool:
        return False


class FakeHost:
    """A device of ours at the other end of a :class:`FakeFile`, in the loop of the bus."""

    def __init__(self, device: Device, file: FakeFile, loop: Loop, *, pages: int = RING_PAGES, start: int = 0) -> None:
        """Both rings begin ``start`` bytes into their data, as if much had crossed already."""
        self.file = file
        self.loop = loop
        self.memory = GuestMemory.create(4 << 20)
        self.gpadls: dict[int, Gpadl] = {}
        half = (1 + pages) * PAGE_SIZE
        area = memoryview(file.area(UioMap.RINGS, 2 * half))
        rings = [RingMemory.from_view(area[at : at + half], mirrored=False) for at in (0, half)]
        for ring in rings:
            ring.words[0] = ring.words[1] = start
        self.channel = Channel(
            ChannelIdentity(7, device.interface_id, device.instance_id),
            rings=RingPair(IncomingRing(rings[0]), OutgoingRing(rings[1]), ()),
            memory=self.memory,
            loop=loop,
            signal=file.interrupt,
            receives=Direction.GUEST_TO_HOST,
            gpadls=self.gpadls,
        )
        file.on_signal = lambda: loop.call_soon(self.channel.on_signal)
        self.notes: list[str] = []
        device.attach(self)  # type: ignore[arg-type]
        self.channel.handler = device.open(self.channel)
        self.channel.service()

    def offer_subchannels(self, count: int) -> None:
        raise NotImplementedError

    def note(self, text: str) -> None:
        self.notes.append(text)

    def lend(self, which: UioMap, pages: int) -> None:
        """Share a buffer: pages of the guest's memory for the host, a map of the same file for the driver."""
        pfns = tuple(range(1, 1 + pages)) if which is UioMap.RECEIVE_BUFFER else tuple(range(512, 512 + pages))
        self.file.areas[which] = mmap.mmap(
            self.memory.fd, pages * PAGE_SIZE, mmap.MAP_SHARED, offset=pfns[0] * PAGE_SIZE
        )
        gpadl_id = self.file.gpadls[which]
        self.gpadls[gpadl_id] = Gpadl(gpadl_id, [GpaRange(pages * PAGE_SIZE, 0, pfns)], self.memory)

    def close(self) -> None:
        full_fence()
        self.channel.close()
        self.memory.close()


OpenBus = Callable[..., tuple[UioBus, FakeHost]]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "sys")


@pytest.fixture
def open_bus(machine: Machine) -> Iterator[OpenBus]:
    """``open_bus(Echo())``: a bus with the device's other end behind it."""
    opened: list[tuple[UioBus, FakeHost]] = []

    def make(
        device: Device | None = None,
        *,
        pages: int = RING_PAGES,
        start: int = 0,
        monitor_id: int | None = None,
        pure: bool = False,
        tap: Tap | None = None,
    ) -> tuple[UioBus, FakeHost]:
        device = device or Echo()
        found = machine.add(device.interface_id, device.instance_id, monitor_id=monitor_id)
        file, loop = FakeFile(), Loop()
        file.area(UioMap.MONITOR_PAGE, PAGE_SIZE)
        host = FakeHost(device, file, loop, pages=pages, start=start)
        bus = UioBus(found, file, loop=loop, pure=pure, tap=tap)
        opened.append((bus, host))
        return bus, host

    yield make
    for bus, host in opened:
        bus.shut()
        host.close()
        bus.loop.close()
