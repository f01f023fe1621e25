"""A channel of the machine we run in, driven from user space through Linux's ``uio_hv_generic``.

``sysfs`` finds VMBus devices and what the kernel says of them, ``binding`` hands one to user space and back, ``device``
opens its ``/dev/uioN``: rings, buffers, monitor page, interrupts. ``vmbus.guest.uio`` makes a channel and a bus for our
drivers of them. docs/uio.md is for people.
"""

from vmbus.transport.uio.binding import bind, release
from vmbus.transport.uio.device import ChannelFile, UioFile, UioMap
from vmbus.transport.uio.errors import ChannelInUse, DeviceGone, NoSuchDevice, NotBound, UioError
from vmbus.transport.uio.sysfs import SYSFS, UIO_DRIVER, SysfsDevice, find_device, list_devices

__all__ = [
    "SYSFS",
    "UIO_DRIVER",
    "ChannelFile",
    "ChannelInUse",
    "DeviceGone",
    "NoSuchDevice",
    "NotBound",
    "SysfsDevice",
    "UioError",
    "UioFile",
    "UioMap",
    "bind",
    "find_device",
    "list_devices",
    "release",
]
