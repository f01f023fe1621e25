"""Devices by what the command line says of them."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from uuid import UUID

from vmbus.devices.device import Device, DeviceError, NoSuchDevice
from vmbus.wire.guids import NETWORK, SCSI

ENTRY_POINTS = "vmbus.devices"
"""The group in which other packages name their devices."""


def make_devices(
    *,
    disks: Sequence[str] = (),
    nics: Sequence[str] = (),
    others: Iterable[str] = (),
    monitor_latency: int | None = None,
) -> list[Device]:
    """The devices of a host: SCSI controllers with their disks, network cards, and others by name.

    With ``monitor_latency``, in units of 100 ns, they are signalled through monitor pages instead of hypercalls.

    Raises a ``VmbusError`` that says what is wrong with which option; what was opened before is closed again.
    """
    devices: list[Device] = []
    try:
        if disks:
            from vmbus.devices.storage import controllers_for, parse_disk_option

            devices += controllers_for([parse_disk_option(disk) for disk in disks])
        if nics:
            from vmbus.devices.network import device_from

            devices += [device_from(nic) for nic in _told_apart(nics)]
        devices += [named_device(name) for name in others]
    except BaseException:
        for device in devices:
            device.close()
        raise
    for device in devices:
        device.offer = replace(device.offer, monitor_latency=monitor_latency)
    return devices


def _told_apart(nics: Iterable[str]) -> Iterator[str]:
    """The same options, with an address of its own for each further card of a backend: address and instance id come
    from the backend's name, and no two devices may have the same.
    """
    from vmbus.devices.network import parse_nic_option
    from vmbus.devices.network.netvsp import default_mac

    cards: Counter[str] = Counter()
    for nic in nics:
        spec = parse_nic_option(nic)
        cards[spec.backend] += spec.mac is None
        if spec.mac is None and cards[spec.backend] > 1:
            nic += f",mac={default_mac(f'{spec.backend} {cards[spec.backend]}').hex(':')}"
        yield nic


def stand_in(interface_id: UUID, instance_id: UUID) -> Device | None:
    """A device that does nothing but say to a guest that its disks or its network are gone, in good order.

    For a guest that still uses a device which this host was not given. None if a guest of such a device can do without:
    a Linux disk or card that is only rescinded waits for ever for what it had asked.
    """
    if interface_id == SCSI:
        from vmbus.devices.storage.controller import StorageController

        return StorageController("missing-scsi", instance_id=instance_id)
    if interface_id == NETWORK:
        from vmbus.devices.network import NetworkProvider
        from vmbus.devices.network.backends.none import NoNetwork

        return NetworkProvider(NoNetwork(), mac=bytes(6), instance_id=instance_id)
    return None


def named_device(text: str) -> Device:
    """The device that ``NAME[:PARAMS]`` names: a module of this folder, a ``FILE.py`` of one's own, or an entry
    point of another package.

    Raises :class:`NoSuchDevice`, or what the device says about its parameters.
    """
    name, _, params = text.partition(":")
    module = f"{__package__}.{name}"
    make: Callable[[str], Device]
    if name.endswith(".py"):
        make = _from_file(Path(name))
    elif name.isidentifier() and find_spec(module) and hasattr(found := importlib.import_module(module), "device_from"):
        make = found.device_from
    elif plugins := tuple(entry_points(group=ENTRY_POINTS, name=name)):
        make = plugins[0].load()
    else:
        raise NoSuchDevice(f"there is no device {name!r}: no file in vmbus/devices and no installed package has it")
    return make(params)


def _from_file(path: Path) -> Callable[[str], Device]:
    """``device_from`` of a file; what is wrong with the file is one line that says where."""
    spec = spec_from_file_location(f"_device_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise NoSuchDevice(f"there is no file {path} with a device")
    module = sys.modules[spec.name] = module_from_spec(spec)  # where dataclasses look their names up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise DeviceError(f"{where}: {type(error).__name__}: {error}") from error
    if not hasattr(module, "device_from"):
        raise DeviceError(f"{path} has no function device_from, which makes the device")
    make: Callable[[str], Device] = module.device_from
    return make
