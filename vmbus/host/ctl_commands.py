"""What ``vmbus ctl`` can ask of a host: look, offer and rescind devices, change media, leave a note, dump.

Each command is a method that returns what the client is told, or a :class:`Slow` when part of it may block (opening a
disk on another machine, writing a file) and has to be done in a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from vmbus.devices.catalog import make_devices
from vmbus.devices.device import Device
from vmbus.devices.network import NetworkProvider
from vmbus.devices.storage.backend import open_backend, parse_size
from vmbus.devices.storage.controller import StorageController, UnitAddress
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.file import FileBackend
from vmbus.devices.storage.media import MediaUnit
from vmbus.devices.storage.spec import parse_disk_option
from vmbus.errors import VmbusError
from vmbus.host.bus import DeviceSlot
from vmbus.host.inspection import inspect_host, part_of
from vmbus.tap import NoteKind

if TYPE_CHECKING:
    from vmbus.host.server import Host

MAX_NOTE = 4096


class CtlError(VmbusError):
    """A request that cannot be carried out."""


@dataclass(frozen=True, slots=True)
class Slow:
    """A command whose ``work`` may block; ``finish`` gets what that returned, in the loop, and gives the answer."""

    work: Callable[[], Any]
    finish: Callable[[Any], Any]


class Arguments:
    """A request's values, which come from outside: each is checked when it is asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def text(self, name: str, default: str | None = None) -> str:
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise CtlError(f"the request needs {name!r}, a text")
        return value

    def texts(self, name: str) -> list[str]:
        value = self._values.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise CtlError(f"the request needs {name!r}, a list of texts")
        return cast("list[str]", value)

    def flag(self, name: str) -> bool:
        return self._values.get(name) is True


class CtlCommands:
    """The commands by name; ``run`` raises a ``VmbusError`` that says in one line why it cannot be done."""

    def __init__(
        self,
        host: Host,
        *,
        dump: Callable[[str], None] | None = None,
        recording: Callable[[], dict[str, int]] | None = None,
        monitor_latency: int | None = None,
    ) -> None:
        self._host = host
        self._dump = dump
        self._recording = recording
        self._monitor_latency = monitor_latency
        self._commands: dict[str, Callable[[Arguments], Any]] = {
            "inspect": self.inspect,
            "add-scsi": self.add_scsi,
            "add-nic": self.add_nic,
            "add-device": self.add_device,
            "remove": self.remove,
            "offer": self.offer,
            "rescind": self.rescind,
            "resize": self.resize,
            "eject": self.eject,
            "insert": self.insert,
            "link": self.link,
            "note": self.note,
            "dump": self.dump,
        }

    def run(self, arguments: Arguments) -> Any:
        name = arguments.text("command")
        command = self._commands.get(name)
        if command is None:
            raise CtlError(f"there is no command {name!r}; known: {', '.join(self._commands)}")
        return command(arguments)

    # Looking

    def inspect(self, arguments: Arguments) -> Any:
        """``path``: which part of the tree."""
        tree = inspect_host(self._host)
        tree["recording"] = None if self._recording is None else self._recording()
        return part_of(tree, arguments.text("path", ""))

    def note(self, arguments: Arguments) -> None:
        """``text``, and ``kind`` ("text" or "console"): a line for the log and for the capture."""
        kinds = {"text": NoteKind.TEXT, "console": NoteKind.CONSOLE}
        kind = kinds.get(arguments.text("kind", "text"))
        if kind is None:
            raise CtlError(f"a note is of kind {' or '.join(kinds)}")
        self._host.note(arguments.text("text")[:MAX_NOTE], kind)

    def dump(self, arguments: Arguments) -> Slow:
        """``file``: where the flight recorder's contents are written."""
        file, dump = arguments.text("file"), self._dump
        if dump is None:
            raise CtlError("this host has no flight recorder")
        return Slow(lambda: dump(file), lambda _: {"file": file})

    # Devices

    def add_scsi(self, arguments: Arguments) -> Slow:
        """``disks``, each as ``--scsi`` takes it: units of a controller that is there, or of a new one."""
        disks = arguments.texts("disks")
        specs = [parse_disk_option(text) for text in disks]

        def work() -> list[MediaUnit]:
            units: list[MediaUnit] = []
            try:
                for spec in specs:
                    units.append(spec.open())
            except BaseException:
                for unit in units:
                    unit.close()
                raise
            return units

        def finish(units: list[MediaUnit]) -> list[str]:
            return self._host.inventory.add_disks(list(zip(disks, units, strict=True)), self._monitor_latency)

        return Slow(work, finish)

    def add_nic(self, arguments: Arguments) -> Slow:
        """``nic``, as ``--nic`` takes it."""
        nic = arguments.text("nic")
        return self._add("--nic", nic, lambda: make_devices(nics=[nic], monitor_latency=self._monitor_latency))

    def add_device(self, arguments: Arguments) -> Slow:
        """``device``, as ``--device`` takes it."""
        name = arguments.text("device")
        return self._add("--device", name, lambda: make_devices(others=[name], monitor_latency=self._monitor_latency))

    def _add(self, option: str, text: str, make: Callable[[], list[Device]]) -> Slow:
        return Slow(make, lambda made: self._host.inventory.add(option, text, made, self._monitor_latency))

    def remove(self, arguments: Arguments) -> None:
        """``name``: a device (label or instance id), or a unit of a controller as ``CONTROLLER/PATH:TARGET:LUN``."""
        name = arguments.text("name")
        if "/" in name:
            controller, address, _ = self._unit(name)
            self._host.inventory.remove_unit(controller, address)
        else:
            self._host.inventory.remove(self._slot(name))

    def offer(self, arguments: Arguments) -> None:
        """``name``: a device that was rescinded."""
        slot = self._slot(arguments.text("name"))
        if slot.is_offered:
            raise CtlError(f"{slot.label} is offered already")
        slot.reoffer()

    def rescind(self, arguments: Arguments) -> None:
        """``name``: a device whose offer is taken back; it stays plugged in."""
        slot = self._slot(arguments.text("name"))
        if not slot.is_offered:
            raise CtlError(f"{slot.label} is rescinded already")
        slot.rescind()

    def _slot(self, name: str) -> DeviceSlot:
        for slot in self._host.slots:
            if name in (slot.label, str(slot.device.instance_id)):
                return slot
        there = ", ".join(slot.label for slot in self._host.slots) or "nothing"
        raise CtlError(f"there is no device {name!r}: there is {there}")

    # Media

    def _unit(self, name: str) -> tuple[StorageController, UnitAddress, MediaUnit]:
        """``CONTROLLER/PATH:TARGET:LUN``, or just ``CONTROLLER`` if it has one unit only."""
        label, _, where = name.partition("/")
        controller = self._slot(label).device
        if not isinstance(controller, StorageController):
            raise CtlError(f"{label} is not a storage controller")
        for address, unit in controller.units.items():
            if where == str(address) or (not where and len(controller.units) == 1):
                return controller, address, unit
        there = ", ".join(f"{label}/{address}" for address in controller.units) or "nothing"
        raise CtlError(f"there is no unit {name!r}: there is {there}")

    def _drive(self, name: str) -> ScsiDvd:
        _, _, unit = self._unit(name)
        if not isinstance(unit, ScsiDvd):
            raise CtlError(f"{name} is not a DVD drive")
        return unit

    def resize(self, arguments: Arguments) -> dict[str, int]:
        """``unit``, and ``size`` unless the file has been resized already."""
        _, _, unit = self._unit(arguments.text("unit"))
        backend = unit.backend
        if not isinstance(backend, FileBackend):
            raise CtlError("only a disk in a file can be resized")
        size = arguments.text("size", "")
        if size:
            wanted = parse_size(size)
            if wanted < unit.block_size:
                raise CtlError(f"{size} is too small for a disk")
            backend.resize(wanted)
        else:
            backend.refresh_size()
        return {"size": backend.size}

    def eject(self, arguments: Arguments) -> None:
        """``unit``: take the disc out; ``force`` also if the guest has locked the tray."""
        self._drive(arguments.text("unit")).change_disc(None, force=arguments.flag("force"))
        self._host.inventory.changed()

    def insert(self, arguments: Arguments) -> Slow:
        """``unit`` and ``file``: put a disc in, in the place of one that is there; ``force`` as for ``eject``."""
        drive, file, force = self._drive(arguments.text("unit")), arguments.text("file"), arguments.flag("force")

        def finish(disc: Any) -> None:
            try:
                drive.change_disc(disc, file, force=force)
            except VmbusError:
                disc.close()
                raise
            self._host.inventory.changed()

        return Slow(lambda: open_backend(file, read_only=True), finish)

    def link(self, arguments: Arguments) -> None:
        """``name``: a network card; ``state``: whether its cable is plugged in, "up" or "down"."""
        name, state = arguments.text("name"), arguments.text("state")
        card = self._slot(name).device
        if not isinstance(card, NetworkProvider):
            raise CtlError(f"{name} is not a network card")
        if state not in ("up", "down"):
            raise CtlError("a link is up or down")
        card.set_link(state == "up")
