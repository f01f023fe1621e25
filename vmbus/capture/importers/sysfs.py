"""A snapshot of a Linux guest's ``/sys/bus/vmbus`` as records: the offers, and what the rings looked like.

Taken from a directory (the live one, or a copy), or from the text that one line in the guest prints::

    grep -r . /sys/bus/vmbus/devices/*/ 2>/dev/null > vmbus.txt

Sources: Linux 6.12 ``Documentation/ABI/stable/sysfs-bus-vmbus``, ``drivers/hv/vmbus_drv.c`` (``vmbus_dev_attrs``,
``vmbus_chan_attrs``). Offers come out as snapshot records: they crossed long ago. What sysfs does not have (the
user-defined bytes of an offer, its connection id, the GPADLs) is 0 or missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from vmbus.capture.importers import CannotImport, imported
from vmbus.wire.capture import Direction, MessageRecord, NoteKind, NoteRecord, RecordFlags, RecordKind
from vmbus.wire.control import MessageHeader
from vmbus.wire.control_values import NO_MONITOR, VMBUS_SINT, MessageType
from vmbus.wire.offer import OfferChannel

Attributes = dict[str, str]
"""Attribute names and texts; those of a channel as ``channels/ID/NAME``."""

_GUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_LINE = re.compile(rf"^\S*?/({_GUID})/([\w/]+):(.*)$")
_STATES = ("offered", "opening", "open", "opened")  # enum vmbus_channel_state

_RING_ATTRIBUTES = (
    "state", "out_read_index", "out_write_index", "out_intr_mask", "out_read_bytes_avail", "out_write_bytes_avail",
    "in_read_index", "in_write_index", "in_intr_mask", "in_read_bytes_avail", "in_write_bytes_avail",
)  # fmt: skip
_LARGEST_FILE = 4096


def read_snapshot(path: Path) -> dict[UUID, Attributes]:
    """The devices of a directory or of a file of ``grep -r`` lines; raises :class:`CannotImport` if there are none."""
    try:
        found = _from_directory(path) if path.is_dir() else _from_lines(path)
    except OSError as error:
        raise CannotImport(f"cannot read {path}: {error.strerror}") from error
    if not found:
        raise CannotImport(
            f"{path} has no VMBus devices: wanted is /sys/bus/vmbus, or `grep -r . /sys/bus/vmbus/devices/*/`"
        )
    return found


def _from_directory(path: Path) -> dict[UUID, Attributes]:
    devices = path / "devices" if (path / "devices").is_dir() else path
    found: dict[UUID, Attributes] = {}
    for device in sorted(devices.iterdir()):
        if not re.fullmatch(_GUID, device.name):
            continue
        attributes = found.setdefault(UUID(device.name), {})
        files = [*device.glob("*"), *device.glob("channels/*/*")]
        for file in files:
            try:
                if file.is_file():
                    with file.open("rb") as opened:
                        attributes[file.relative_to(device).as_posix()] = opened.read(_LARGEST_FILE).decode().strip()
            except (OSError, UnicodeDecodeError):
                continue  # an attribute that only exists while the channel is open, or cannot be read at all
    return found


def _from_lines(path: Path) -> dict[UUID, Attributes]:
    found: dict[UUID, Attributes] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _LINE.match(line.rstrip("\r\n"))
            if match is not None:
                attributes = found.setdefault(UUID(match[1]), {})
                before = attributes.get(match[2])
                attributes[match[2]] = match[3] if before is None else f"{before}\n{match[3]}"
    return found


def records_of_sysfs(devices: dict[UUID, Attributes], time_ns: int = 0) -> Iterator[bytes]:
    """Packet blocks: for each device an offer of each of its channels, then a note on what sysfs says of it."""
    for instance, attributes in devices.items():
        interface = _guid(attributes.get("class_id", ""))
        primary = _number(attributes.get("id", ""))
        if interface is None or primary is None:
            yield _note(time_ns, f"device {instance}: its class or its channel id is not in the snapshot")
            continue
        yield _offer(time_ns, interface, instance, primary, 0, attributes.get("monitor_id", ""))
        for name, text in attributes.items():
            match = re.fullmatch(r"channels/(\d+)/subchannel_id", name)
            index = _number(text)
            if match and index and int(match[1]) != primary:
                monitor = attributes.get(f"channels/{match[1]}/monitor_id", "")
                yield _offer(time_ns, interface, instance, int(match[1]), index, monitor)
        yield _note(time_ns, _description(instance, primary, attributes))


def _offer(time_ns: int, interface: UUID, instance: UUID, channel_id: int, subchannel: int, monitor: str) -> bytes:
    monitor_id = _number(monitor)
    has_monitor = monitor_id is not None and 0 <= monitor_id < NO_MONITOR
    offer = OfferChannel(
        interface_id=interface,
        instance_id=instance,
        subchannel_index=subchannel & 0xFFFF,
        channel_id=channel_id & 0xFFFFFFFF,
        monitor_id=monitor_id if has_monitor and monitor_id is not None else NO_MONITOR,
        monitor_allocated=int(has_monitor),
        connection_id=0,
    )
    header = MessageRecord(
        kind=RecordKind.MESSAGE, direction=Direction.HOST_TO_GUEST, flags=RecordFlags.SNAPSHOT, sint=VMBUS_SINT
    )
    payload = MessageHeader(message_type=MessageType.OFFER_CHANNEL).build() + offer.build()
    return imported(
        time_ns, header, payload, comment="from /sys/bus/vmbus: it has no connection id or user-defined bytes"
    )


def _description(instance: UUID, primary: int, attributes: Attributes) -> str:
    told = []
    for name in _RING_ATTRIBUTES:
        text = attributes.get(name)
        if text is not None:
            number = _number(text)
            is_state = name == "state" and number is not None and 0 <= number < len(_STATES)
            told.append(f"{name} {_STATES[number] if is_state and number is not None else text}")
    channels = sorted({name.split("/")[1] for name in attributes if name.startswith("channels/")})
    for channel in channels:
        of_channel = [
            f"{name} {attributes[f'channels/{channel}/{name}']}"
            for name in ("cpu", "interrupts", "events", "out_full_total", "intr_in_full")
            if f"channels/{channel}/{name}" in attributes
        ]
        if of_channel:
            told.append(f"channel {channel}: {', '.join(of_channel)}")
    return f"device {instance}, channel {primary}: {'; '.join(told) or 'nothing else is known'}"


def _note(time_ns: int, text: str) -> bytes:
    header = NoteRecord(kind=RecordKind.NOTE, flags=RecordFlags.SNAPSHOT, note_kind=NoteKind.TEXT)
    return imported(time_ns, header, text.encode())


def _guid(text: str) -> UUID | None:
    try:
        return UUID(text.strip().strip("{}"))
    except ValueError:
        return None


def _number(text: str) -> int | None:
    try:
        return int(text.split()[0], 0)
    except (ValueError, IndexError):
        return None
