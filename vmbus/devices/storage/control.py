"""What can be changed of a storage controller while a guest uses it, in words: for ``vmbus ctl`` and for scripts.

========================================  ======================================================================
``add FILE[,option...]``                  add a disk or a DVD drive; the options of ``--scsi`` but ``controller``
``remove PATH:TARGET:LUN``                take a unit away
``resize PATH:TARGET:LUN SIZE``           make a raw file or a memory disk larger or smaller
``refresh PATH:TARGET:LUN``               look whether the file behind a disk has changed its size
``disc PATH:TARGET:LUN FILE|none [force]``  change a DVD; ``force`` although the guest has locked the tray
========================================  ======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmbus.devices.device import DeviceError
from vmbus.devices.storage.backend import open_backend, parse_size
from vmbus.devices.storage.controller import StorageController, UnitAddress
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.file import FileBackend
from vmbus.devices.storage.media import MediaUnit
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.devices.storage.spec import parse_disk_option

USAGE = "add FILE[,option...] | remove P:T:L | resize P:T:L SIZE | refresh P:T:L | disc P:T:L FILE|none [force]"


def run_control(controller: StorageController, words: Sequence[str]) -> str:
    """Do one of the above and say what was done. Raises :class:`DeviceError`."""
    verb, *rest = words or [""]
    action = _ACTIONS.get(verb)
    if action is None:
        raise DeviceError(f"{controller.name} understands: {USAGE}")
    return action(controller, rest)


def _add(controller: StorageController, words: list[str]) -> str:
    (text,) = _exactly(words, 1)
    spec = parse_disk_option(text)
    if spec.controller != "0":
        raise DeviceError("controller= makes no sense here: the disk goes to the controller that was asked")
    if spec.lun is None:
        address = controller.free_address(spec.path, spec.target)
    else:
        address = UnitAddress(spec.path, spec.target, spec.lun)
    unit = spec.open()
    try:
        controller.add(address, unit)
    except DeviceError:
        unit.close()
        raise
    return f"{text} is at {address}"


def _remove(controller: StorageController, words: list[str]) -> str:
    (text,) = _exactly(words, 1)
    address = _address(text)
    controller.remove(address).close()
    return f"{address} is removed"


def _resize(controller: StorageController, words: list[str]) -> str:
    text, size_text = _exactly(words, 2)
    size = parse_size(size_text)
    unit = _unit(controller, text)
    if not isinstance(unit.backend, (FileBackend, MemoryBackend)):
        raise DeviceError(f"{text} is no raw file and no memory: resize it where it comes from, then refresh")
    unit.backend.resize(size)
    return f"{text} has {size} bytes"


def _refresh(controller: StorageController, words: list[str]) -> str:
    (text,) = _exactly(words, 1)
    unit = _unit(controller, text)
    if not isinstance(unit.backend, FileBackend):
        raise DeviceError(f"{text} is no raw file or block device")
    unit.backend.refresh_size()
    return f"{text} has {unit.backend.size} bytes"


def _disc(controller: StorageController, words: list[str]) -> str:
    force = words[2:] == ["force"]
    text, disc = _exactly(words[:2] if force else words, 2)
    drive = _unit(controller, text)
    if not isinstance(drive, ScsiDvd):
        raise DeviceError(f"{text} is no DVD drive")
    backend = None if disc == "none" else open_backend(disc, read_only=True)
    try:
        drive.change_disc(backend, force=force)
    except DeviceError:
        if backend is not None:
            backend.close()
        raise
    return f"{text} has {disc}"


_ACTIONS: dict[str, Callable[[StorageController, list[str]], str]] = {
    "add": _add,
    "remove": _remove,
    "resize": _resize,
    "refresh": _refresh,
    "disc": _disc,
}


def _exactly(words: list[str], count: int) -> list[str]:
    if len(words) != count:
        raise DeviceError(f"a storage controller understands: {USAGE}")
    return words


def _address(text: str) -> UnitAddress:
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise DeviceError(f"{text!r} is no address: PATH:TARGET:LUN, for example 0:0:1")
    return UnitAddress(*map(int, parts))


def _unit(controller: StorageController, text: str) -> MediaUnit:
    unit = controller.units.get(_address(text))
    if unit is None:
        raise DeviceError(f"{controller.name}: there is no unit at {text}")
    return unit
