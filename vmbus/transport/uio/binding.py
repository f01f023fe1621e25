"""Hand a device to ``uio_hv_generic``, and give it back to the kernel's own driver.

One device changes hands, not its whole class: its ``driver_override`` names the driver, which ``new_id`` would do for
every device of the interface, present and future. All of it needs root.

Sources: Linux 6.12 ``drivers/hv/vmbus_drv.c`` (``hv_vmbus_get_id``), ``drivers/base/bus.c`` (``unbind``, ``bind``,
``drivers_probe``), ``drivers/uio/uio_hv_generic.c`` (``hv_uio_probe``); in 6.1 that refuses a channel without a
monitor id with ENOTSUPP.
"""

from __future__ import annotations

import errno
from pathlib import Path

from vmbus.transport.uio.errors import NotBound, UioError
from vmbus.transport.uio.sysfs import UIO_DRIVER, SysfsDevice, read_device, read_text

MOUNTS = Path("/proc/self/mountinfo")
_ENOTSUPP = 524  # the kernel's own, unknown to libc


def require_bound(device: SysfsDevice) -> SysfsDevice:
    """The device, if user space can open it; :class:`NotBound` says what to do if not."""
    if device.driver == UIO_DRIVER and device.uio:
        return device
    has = f"is with {device.driver}" if device.driver else "has no driver"
    raise NotBound(f"{device} {has}, not with {UIO_DRIVER}: `vmbus uio bind {device.instance_id}` hands it over")


def bind(device: SysfsDevice) -> SysfsDevice:
    """Take the device from its driver and hand it to user space; return how it looks then.

    Its disks or network interfaces vanish with the driver. Raises :class:`UioError` when one of its disks is mounted,
    or when the kernel refuses; the device is then with the driver that it was with before.
    """
    if device.driver == UIO_DRIVER:
        return require_bound(device)
    if mounted := mounts_of(device):
        raise UioError(f"{device} has a disk that is in use: {', '.join(mounted)}")
    drivers = _bus(device) / "drivers"
    if not (drivers / UIO_DRIVER).is_dir():
        raise UioError(f"the kernel has no {UIO_DRIVER}: `modprobe {UIO_DRIVER}` loads it if it was built")
    _write(device.directory / "driver_override", UIO_DRIVER)
    if device.driver:
        _write(device.directory / "driver/unbind", device.directory.name)
    try:
        _write(drivers / UIO_DRIVER / "bind", device.directory.name)
    except UioError:
        release(device)
        raise
    return require_bound(_again(device))


def release(device: SysfsDevice) -> SysfsDevice:
    """Take the device from user space and let the kernel choose its driver; return how it looks then."""
    _write(device.directory / "driver_override", "\n")
    now = _again(device)
    if now.driver == UIO_DRIVER:
        _write(device.directory / "driver/unbind", device.directory.name)
    if now.driver in ("", UIO_DRIVER):
        _write(_bus(device) / "drivers_probe", device.directory.name)
    return _again(device)


def mounts_of(device: SysfsDevice, mounts: Path = MOUNTS) -> list[str]:
    """Where file systems on the device's disks and their partitions are mounted."""
    disks = [*device.directory.glob("host*/target*/*/block/*"), *device.directory.glob("host*/target*/*/block/*/*")]
    numbers = {number for disk in disks if (number := read_text(disk / "dev"))}
    lines = (line.split() for line in read_text(mounts, 1 << 20).splitlines())
    return [fields[4] for fields in lines if len(fields) > 4 and fields[2] in numbers]


def _bus(device: SysfsDevice) -> Path:
    """The bus' directory, beside the link to the device that it was found by."""
    return device.directory.parent.parent


def _again(device: SysfsDevice) -> SysfsDevice:
    now = read_device(device.directory)
    if now is None:
        raise UioError(f"{device} is gone: the host took it back")
    return now


def _write(path: Path, text: str) -> None:
    try:
        with path.open("w") as file:
            file.write(text)
    except OSError as error:
        if error.errno == _ENOTSUPP:
            why = "this kernel lets user space drive only channels with a monitor page id, and this one has none"
        elif error.errno in (errno.EACCES, errno.EPERM):
            why = "permission denied, only root may"
        else:
            why = error.strerror or str(error)
        raise UioError(f"cannot write {text.strip() or 'nothing'} to {path}: {why}") from None
