"""What was changed about a host's devices while it ran, so that its next process has the same ones.

A host's devices are those of its command line, less what was removed since, and with what was added (``vmbus ctl``).
Additions are remembered as somebody would write them on the command line, with the ids and addresses that they got; the
next process makes them again before it takes up anybody's state.  What its command line names already is not made
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol
from uuid import UUID

from vmbus.devices.catalog import make_devices
from vmbus.devices.device import Device
from vmbus.devices.storage.controller import StorageController, UnitAddress
from vmbus.devices.storage.media import MediaUnit
from vmbus.devices.storage.spec import DiskSpec, parse_disk_option, place
from vmbus.errors import VmbusError
from vmbus.host.bus import DeviceSlot

Name = tuple[str, str]
"""The instance id of a device; with the address of a unit, or without."""


class NotThereAgain(VmbusError):
    """What was added to the process before cannot be made again."""


@dataclass(frozen=True, slots=True)
class Addition:
    """A disk, card or other device as the command line would name it, and what it became."""

    option: str
    """``--scsi``, ``--nic`` or ``--device``."""
    text: str
    instance: str
    """The instance id of the device; of a disk, of its controller."""
    unit: str = ""
    """Of a disk: where it is on its controller."""
    monitor_latency: int | None = None

    def make(self) -> Device:
        """The device, if it is no disk."""
        nics, others = ([self.text], []) if self.option == "--nic" else ([], [self.text])
        (device,) = make_devices(nics=nics, others=others, monitor_latency=self.monitor_latency)
        device.instance_id = UUID(self.instance)
        return device


class DeviceHost(Protocol):
    """Where devices are plugged in (``vmbus.host.server.Host``)."""

    @property
    def slots(self) -> list[DeviceSlot]: ...

    def plug(self, device: Device) -> DeviceSlot: ...

    def unplug(self, slot: DeviceSlot) -> None: ...


class Inventory:
    """The changes to ``host``'s devices; belongs to the loop's thread."""

    def __init__(self, host: DeviceHost, changed: Callable[[], object]) -> None:
        """``host`` has the devices of its command line, and no others yet.

        ``changed`` is to be called when something of the devices is other than it was, be it only a disc.
        """
        self._host = host
        self.changed = changed
        self._named = set(_names(slot.device for slot in host.slots))
        self._added: list[Addition] = []
        self._removed: list[Name] = []
        """Of what the command line named."""

    # Changes

    def add_disks(self, disks: Sequence[tuple[str, MediaUnit]], monitor_latency: int | None) -> list[str]:
        """Put units on the controllers that their options name; the labels of controllers that are new.

        Raises a ``VmbusError`` for the first one that cannot be placed; it and those behind it are closed then.
        """
        try:
            return self._place([(parse_disk_option(text), unit) for text, unit in disks], monitor_latency)
        finally:
            where = {unit: (device, at) for device in self._controllers().values() for at, unit in device.units.items()}
            for text, unit in disks:
                if unit in where:
                    controller, address = where[unit]
                    instance = str(controller.instance_id)
                    self._added.append(Addition("--scsi", text, instance, str(address), monitor_latency))
            self.changed()

    def _place(self, disks: Sequence[tuple[DiskSpec, MediaUnit]], monitor_latency: int | None) -> list[str]:
        known = self._controllers()
        controllers = dict(known)
        left = list(disks)
        try:
            while left:
                place(*left[0], controllers)
                left.pop(0)
        finally:
            for _, unit in left:
                unit.close()
            new = [device for name, device in controllers.items() if name not in known and device.units]
            for device in new:
                device.offer = replace(device.offer, monitor_latency=monitor_latency)
            labels = [self._host.plug(device).label for device in new]
        return labels

    def add(self, option: str, text: str, devices: Sequence[Device], monitor_latency: int | None) -> list[str]:
        """Plug what ``option`` made of ``text``; the labels."""
        labels = []
        for device in devices:
            labels.append(self._host.plug(device).label)
            self._added.append(Addition(option, text, str(device.instance_id), "", monitor_latency))
        self.changed()
        return labels

    def remove(self, slot: DeviceSlot) -> None:
        """Take a device away for good."""
        self._forget(str(slot.device.instance_id))
        self._host.unplug(slot)
        self.changed()

    def remove_unit(self, controller: StorageController, address: UnitAddress) -> None:
        """Take a unit away for good."""
        unit = controller.remove(address)
        self._forget(str(controller.instance_id), str(address))
        unit.close()
        self.changed()

    def _forget(self, instance: str, unit: str = "") -> None:
        self._added = [one for one in self._added if one.instance != instance or unit not in ("", one.unit)]
        if (instance, unit) in self._named and (instance, unit) not in self._removed:
            self._removed.append((instance, unit))

    # The next process

    def save(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "added": [asdict(one) for one in self._added],
            "removed": [{"instance": instance, "unit": unit} for instance, unit in self._removed],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Bring the devices of the command line to where an earlier process had them.

        Raises ``NotThereAgain``: a disk that is missing is worse than a host that does not start, for which a guest
        waits.
        """
        for one in saved["removed"]:
            self._take_away(str(one["instance"]), str(one["unit"]))
        for one in saved["added"]:
            addition = Addition(one["option"], one["text"], one["instance"], one["unit"], one.get("monitor_latency"))
            try:
                self._make(addition)
            except VmbusError as error:
                raise NotThereAgain(f"{addition.text}, added at run time, cannot be added again: {error}") from None

    def _take_away(self, instance: str, unit: str) -> None:
        if (instance, unit) not in self._named:
            return  # the command line does not name it any more
        self._removed.append((instance, unit))
        for slot in list(self._host.slots):
            device = slot.device
            if str(device.instance_id) != instance:
                continue
            if not unit:
                self._host.unplug(slot)
            elif isinstance(device, StorageController):
                for address in [address for address in device.units if str(address) == unit]:
                    device.remove(address).close()

    def _make(self, addition: Addition) -> None:
        there = {str(slot.device.instance_id): slot.device for slot in self._host.slots}
        device = there.get(addition.instance)
        if not addition.unit:
            if device is None:
                self._host.plug(addition.make())
                self._added.append(addition)
            return
        if isinstance(device, StorageController) and any(str(address) == addition.unit for address in device.units):
            return  # the command line names it by now
        spec = _spec_at(parse_disk_option(addition.text), addition.unit)
        self._place([(spec, spec.open())], addition.monitor_latency)
        self._added.append(addition)

    def _controllers(self) -> dict[str, StorageController]:
        return {
            slot.device.name: slot.device for slot in self._host.slots if isinstance(slot.device, StorageController)
        }


def _names(devices: Iterable[Device]) -> Iterator[Name]:
    """What devices and their units are remembered by."""
    for device in devices:
        yield str(device.instance_id), ""
        if isinstance(device, StorageController):
            for address in device.units:
                yield str(device.instance_id), str(address)


def _spec_at(spec: DiskSpec, unit: str) -> DiskSpec:
    """The disk at the address that it got the first time."""
    if spec.is_ide:
        return spec
    path, target, lun = map(int, unit.split(":"))
    return replace(spec, path=path, target=target, lun=lun)
