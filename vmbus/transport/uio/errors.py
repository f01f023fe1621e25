"""What can be wrong with a device that is to be driven from user space."""

from __future__ import annotations

from vmbus.errors import OptionError, VmbusError


class UioError(VmbusError):
    """A device cannot be driven from user space, or not any longer."""


class NoSuchDevice(UioError, OptionError):
    """No device of this machine's VMBus is the one that was asked for, or several are."""


class NotBound(UioError):
    """The device is not with ``uio_hv_generic``."""


class ChannelInUse(UioError):
    """Another process drives the channel already."""


class DeviceGone(UioError):
    """The host took the device back, or the kernel did."""
