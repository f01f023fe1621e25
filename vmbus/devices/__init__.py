"""Synthetic devices, the host ends: storage, network, and one module for each small device.

The command line names a device as ``scheme:params``. A scheme is one of :data:`SCHEMES`, or the name of a module in
this folder, or of an entry point in the group ``vmbus.devices`` of any installed package; the module has a function
``device_from(params)``. A new device is a new file here, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec

from vmbus.devices.device import Device, DeviceError

SCHEMES = {"scsi": "storage", "nic": "network"}
"""Schemes that are not called like their module."""


def device_from(text: str) -> Device:
    """Make the device that ``scheme:params`` names; :class:`DeviceError` if no device has that scheme."""
    scheme, _, params = text.partition(":")
    module = f"{__name__}.{SCHEMES.get(scheme, scheme)}"
    make: Callable[[str], Device]
    if scheme.isidentifier() and find_spec(module) and hasattr(found := import_module(module), "device_from"):
        make = found.device_from
    elif plugins := tuple(entry_points(group="vmbus.devices", name=scheme)):
        make = plugins[0].load()
    else:
        raise DeviceError(
            f"no device is called {scheme!r}: known are {', '.join(SCHEMES)} and the files in vmbus/devices"
        )
    return make(params)
