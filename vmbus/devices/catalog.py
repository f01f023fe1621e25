"""Devices by what the command line says of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from uuid import UUID

from vmbus.devices.device import Device, NoSuchDevice
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

            devices += [device_from(nic) for nic in nics]
        devices += [named_device(name) for name in others]
    except BaseException:
        for device in devices:
            device.close()
        raise
    for device in devices:
        device.offer = replace(device.offer, monitor_latency=monitor_latency)
    return devices


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
    """The device that ``NAME[:PARAMS]`` names: a module of this folder, or an entry point of another package.

    Raises :class:`NoSuchDevice`, or what the device says about its parameters.
    """
    name, _, params = text.partition(":")
    module = f"{__package__}.{name}"
    make: Callable[[str], Device]
    if name.isidentifier() and find_spec(module) and hasattr(found := importlib.import_module(module), "device_from"):
        make = found.device_from
    elif plugins := tuple(entry_points(group=ENTRY_POINTS, name=name)):
        make = plugins[0].load()
    else:
        raise NoSuchDevice(f"there is no device {name!r}: no file in vmbus/devices and no installed package has it")
    return make(params)
