"""Storage: the VSP of SCSI controllers and IDE accelerators, their disks and DVD drives, and where the blocks live."""

from __future__ import annotations

from vmbus.devices.device import Device
from vmbus.devices.storage.spec import controllers_for, parse_disk_option

__all__ = ["controllers_for", "device_from", "parse_disk_option"]


def device_from(params: str) -> Device:
    """A controller with one disk: what ``--scsi`` takes, as a device of its own."""
    return controllers_for([parse_disk_option(params)])[0]
