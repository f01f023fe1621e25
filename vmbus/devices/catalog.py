"""Devices by what the command line says of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from vmbus.devices.device import Device, NoSuchDevice

OTHERS: dict[str, str] = {
    "echo": "vmbus.devices.echo:Echo",
}
"""Devices that take no parameters, by name: where their class is."""


def make_devices(
    *,
    disks: Sequence[str] = (),
    nics: Sequence[str] = (),
    others: Iterable[str] = (),
    monitor_latency: int | None = None,
) -> list[Device]:
    """The devices of a host: SCSI controllers with their disks, network cards, and what is named in ``OTHERS``.

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
        devices += [_other(name)() for name in others]
    except BaseException:
        for device in devices:
            device.close()
        raise
    for device in devices:
        device.offer = replace(device.offer, monitor_latency=monitor_latency)
    return devices


def _other(name: str) -> Callable[[], Device]:
    where = OTHERS.get(name)
    if where is None:
        raise NoSuchDevice(f"there is no device {name!r}; known: {', '.join(sorted(OTHERS))}")
    module, _, attribute = where.partition(":")
    factory: Callable[[], Device] = getattr(importlib.import_module(module), attribute)
    return factory
