"""The VMBus devices of the machine we run in, as Linux shows them under ``/sys/bus/vmbus/devices``.

A device's directory is named after its instance id. Beside the offer's ids it has the driver that the device is with,
a directory for each channel, and, while ``uio_hv_generic`` has it, ``uio/uioN`` with the maps. What sysfs does not have
are the user-defined bytes of the offer and its connection id.

Sources: Linux 6.12 ``drivers/hv/vmbus_drv.c`` (``vmbus_dev_attrs``, ``vmbus_dev_attr_is_visible``: monitor attributes
are there only for channels that are signalled by a monitor page; ``vmbus_chan_attrs``), ``drivers/uio/uio.c``
(``map_attr``), ``Documentation/ABI/stable/sysfs-bus-vmbus``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from vmbus.transport.uio.errors import NoSuchDevice, UioError
from vmbus.wire.control_values import NO_MONITOR
from vmbus.wire.guids import interface_name
from vmbus.wire.hypervisor import MONITOR_COUNT

SYSFS = Path("/sys")
UIO_DRIVER = "uio_hv_generic"
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class SysfsDevice:
    """One device, or with ``subchannel_index`` one of its further channels; what drivers see of an offer.

    ``directory`` is the device's in sysfs.
    """

    directory: Path
    interface_id: UUID
    instance_id: UUID
    channel_id: int
    monitor_id: int = NO_MONITOR
    monitor_allocated: int = 0
    driver: str = ""
    """The kernel driver that has it; empty if none has."""
    uio: str = ""
    """``uioN`` while user space can open it."""
    subchannel_index: int = 0
    user_defined: bytes = b""

    @property
    def name(self) -> str:
        """A short name of its interface."""
        return interface_name(self.interface_id)

    @property
    def monitor_latency(self) -> float | None:
        """How late the host may look at the monitor bit, in microseconds; None without a monitor id."""
        latency = read_number(self.directory / "client_monitor_latency") if self.monitor_allocated else None
        return None if latency is None else latency / 10

    @property
    def channel_directory(self) -> Path:
        return self.directory / "channels" / str(self.channel_id)

    def __str__(self) -> str:
        return f"{self.name} {self.instance_id}"


def list_devices(root: Path = SYSFS) -> list[SysfsDevice]:
    """Every device of the bus, by name and instance; ``root`` is where sysfs is mounted.

    Raises :class:`UioError` where there is no VMBus.
    """
    devices = root / "bus/vmbus/devices"
    try:
        found = [device for entry in devices.iterdir() if (device := read_device(entry)) is not None]
    except OSError:
        raise UioError(f"there is no VMBus here: {devices} is missing (not a Hyper-V guest, or no hv_vmbus)") from None
    return sorted(found, key=lambda device: (device.name, str(device.instance_id)))


def find_device(wanted: str | UUID, root: Path = SYSFS) -> SysfsDevice:
    """The one device with that interface or instance id, or that name of an interface (``net``), or ``uioN``.

    Raises :class:`NoSuchDevice` when there is none, or more than one.
    """
    devices = list_devices(root)
    text = str(wanted).strip("{}").lower()
    found = [device for device in devices if text in _names(device)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NoSuchDevice(f"no device of this machine's VMBus is {text}; `vmbus uio list` shows them")
    instances = ", ".join(str(device.instance_id) for device in found)
    raise NoSuchDevice(f"{len(found)} devices are {text}: say which instance ({instances})")


def _names(device: SysfsDevice) -> set[str]:
    names = {str(device.interface_id), str(device.instance_id), device.name}
    return names | {device.uio} if device.uio else names


def read_device(directory: Path) -> SysfsDevice | None:
    """What is known of one device; None if it vanishes meanwhile, or is none."""
    interface, channel_id = _guid(read_text(directory / "class_id")), read_number(directory / "id")
    instance = _guid(read_text(directory / "device_id")) or _guid(directory.name)
    if interface is None or instance is None or channel_id is None:
        return None
    monitor_id, monitor_allocated = read_monitor(directory)
    driver = directory / "driver"
    return SysfsDevice(
        directory,
        interface,
        instance,
        channel_id,
        monitor_id,
        monitor_allocated,
        driver.resolve().name if driver.exists() else "",
        next((entry.name for entry in sorted(directory.glob("uio/uio*"))), ""),
    )


def read_subchannels(device: SysfsDevice) -> list[SysfsDevice]:
    """The device's subchannels that the kernel has opened and lets user space map."""
    found = []
    for ring in device.directory.glob("channels/*/ring"):
        channel_id, index = _number(ring.parent.name), read_number(ring.parent / "subchannel_id")
        if channel_id is None or not index or channel_id == device.channel_id:
            continue
        monitor_id, monitor_allocated = read_monitor(ring.parent)
        found.append(
            SysfsDevice(
                device.directory, device.interface_id, device.instance_id, channel_id, monitor_id, monitor_allocated,
                device.driver, device.uio, index,
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: one.subchannel_index)


def read_monitor(directory: Path) -> tuple[int, int]:
    """A channel's monitor id, and whether it has one."""
    monitor_id = read_number(directory / "monitor_id")
    if monitor_id is None or not 0 <= monitor_id < MONITOR_COUNT:
        return NO_MONITOR, 0
    return monitor_id, 1


def read_text(path: Path, longest: int = _LONGEST) -> str:
    """An attribute's text; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(longest).decode(errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """An attribute that is a number, decimal or hexadecimal."""
    return _number(read_text(path))


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _guid(text: str) -> UUID | None:
    try:
        return UUID(text.strip("{}"))
    except ValueError:
        return None
