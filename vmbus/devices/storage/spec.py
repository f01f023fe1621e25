"""How a person names a disk on the command line, and the controllers and units made of that.

``--scsi FILE[,readonly][,lun=N][,target=N][,path=N][,controller=N][,sector=512|4096|512e][,dvd]``: FILE is whatever
:func:`~vmbus.devices.storage.backend.open_backend` takes. ``controller=ide0`` or ``ide1`` puts the disk behind an IDE
accelerator, as disk ``target``. ``dvd`` makes it a DVD drive; ``FILE`` may then be empty for a drive without a disc.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from vmbus.devices.device import DeviceError
from vmbus.devices.storage.backend import open_backend
from vmbus.devices.storage.controller import MAX_LUNS, MAX_PATHS, MAX_TARGETS, StorageController, UnitAddress
from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.media import MediaUnit
from vmbus.errors import OptionError

_SECTORS = {"512": (512, 512), "4096": (4096, 4096), "512e": (512, 4096)}
_KEYS = ("lun", "target", "path", "controller", "sector")


class BadDiskOption(DeviceError, OptionError):
    """A ``--scsi`` option that cannot be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """A disk as somebody asked for it. A LUN of None is the first free one."""

    backend: str
    read_only: bool = False
    is_dvd: bool = False
    sector: int = 512
    physical: int = 512
    controller: str = "0"
    path: int = 0
    target: int = 0
    lun: int | None = None

    @property
    def is_ide(self) -> bool:
        return self.controller.startswith("ide")

    def open(self) -> MediaUnit:
        """Open the backend and make the unit. Raises :class:`DeviceError`."""
        name = self.backend if ":" in self.backend else os.path.realpath(self.backend)
        if self.is_dvd:
            backend = open_backend(self.backend, read_only=True) if self.backend else None
            address = f"{self.controller}:{self.path}:{self.target}:{self.lun}"
            return ScsiDvd(backend, Identity.of(f"dvd {address}", product=b"Virtual DVD-ROM "))
        backend = open_backend(self.backend, read_only=self.read_only)
        try:
            return ScsiDisk(backend, Identity.of(name), sector=self.sector, physical=self.physical)
        except DeviceError:
            backend.close()
            raise


def parse_disk_option(text: str) -> DiskSpec:
    """Read ``FILE[,option...]``. Options stand at the end; a comma before them belongs to the file's name.

    Raises :class:`BadDiskOption` with one line that says what is wrong.
    """
    backend, options = _split(text)
    flags = {option for option in options if "=" not in option}
    values: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if equals:
            if key in values:
                raise BadDiskOption(f"{text!r} says {key} twice")
            values[key] = value
    is_dvd = "dvd" in flags
    if not backend and not is_dvd:
        raise BadDiskOption(f"{text!r} names no file")
    sector = values.get("sector", "512")
    if sector not in _SECTORS:
        raise BadDiskOption(f"sector={sector} is not possible: 512, 512e or 4096")
    if is_dvd and "sector" in values:
        raise BadDiskOption(f"{text!r}: a DVD's sectors are always 2048 bytes")
    controller = values.get("controller", "0")
    if not controller.isascii() or not (controller.isdigit() or controller in ("ide0", "ide1")):
        raise BadDiskOption(f"controller={controller} is not possible: a number, ide0 or ide1")
    lun = _number(values, "lun", MAX_LUNS)
    if controller.startswith("ide") and (lun or values.get("path")):
        raise BadDiskOption(f"{text!r}: a disk of an IDE controller has a target of 0 or 1, no LUN and no path")
    logical, physical = _SECTORS[sector]
    return DiskSpec(
        backend=backend,
        read_only="readonly" in flags or is_dvd,
        is_dvd=is_dvd,
        sector=logical,
        physical=physical,
        controller=controller,
        path=_number(values, "path", MAX_PATHS) or 0,
        target=_number(values, "target", MAX_TARGETS) or 0,
        lun=lun,
    )


def _split(text: str) -> tuple[str, list[str]]:
    """The backend's part and the options behind it."""
    parts = text.split(",")
    options: list[str] = []
    while len(parts) > 1 and _is_option(parts[-1]):
        options.insert(0, parts.pop())
    backend = ",".join(parts)
    if len(parts) > 1 and ":" not in backend and not os.path.exists(backend):
        known = ", ".join(["readonly", "dvd", *(f"{key}=" for key in _KEYS)])
        raise BadDiskOption(f"{parts[-1]!r} in {text!r} is no option of a disk: {known}")
    return backend, options


def _is_option(part: str) -> bool:
    return part in ("readonly", "dvd") or (part.partition("=")[0] in _KEYS and "=" in part)


def _number(values: dict[str, str], key: str, limit: int) -> int | None:
    text = values.get(key)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) >= limit:
        raise BadDiskOption(f"{key}={text} is not possible: a number from 0 to {limit - 1}")
    return int(text)


def controllers_for(specs: Iterable[DiskSpec]) -> list[StorageController]:
    """Open every disk and put it on its controller. On an error everything opened so far is closed again."""
    controllers: dict[str, StorageController] = {}
    try:
        for spec in specs:
            unit = spec.open()
            try:
                place(spec, unit, controllers)
            except DeviceError:
                unit.close()
                raise
    except DeviceError:
        for controller in controllers.values():
            controller.close()
        raise
    return list(controllers.values())


def place(spec: DiskSpec, unit: MediaUnit, controllers: dict[str, StorageController]) -> None:
    """Put a unit on its controller, one of ``controllers`` (by name) or a new one that is added to them.

    Raises :class:`DeviceError` if the address is taken.
    """
    if spec.is_ide:
        key = f"{spec.controller}.{spec.target}"
        if key in controllers:
            raise DeviceError(f"there is a disk {spec.target} on controller {spec.controller} already")
        controllers[key] = StorageController.ide(int(spec.controller[3:]), spec.target, unit)
        return
    name = "scsi" if spec.controller == "0" else f"scsi{spec.controller}"
    controller = controllers.setdefault(name, StorageController(name))
    address = UnitAddress(spec.path, spec.target, 0)
    if spec.lun is not None:
        address = address._replace(lun=spec.lun)
    else:
        address = controller.free_address(spec.path, spec.target)
    controller.add(address, unit)
