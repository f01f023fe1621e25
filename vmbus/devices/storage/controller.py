"""A storage controller: the VSP of one SCSI controller or of one disk of an IDE controller, with its logical units.

Units can be added, removed and resized while the guest uses them; the guest is told with ENUMERATE_BUS, and Linux then
asks each unit whether it is still there and scans for new ones (``storvsc_host_scan``).

An absent unit answers INQUIRY with "no device here" (qualifier 3), because Linux turns every failed INQUIRY into a
success; for any other command an absent unit on path 0 gives INVALID_LUN, on which Linux removes the disk. On other
paths it is an ILLEGAL REQUEST instead: Linux would remove the unit of that target and LUN on path 0.

Sources: openvmm ``storvsp/src/lib.rs`` (``ScsiController``, ``execute_scsi``, ``StorageDevice::build_ide``); Linux 6.12
``drivers/scsi/storvsc_drv.c`` (``storvsc_host_scan``, ``storvsc_remove_lun``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from vmbus.channel import Channel, ChannelHandler
from vmbus.devices.device import Device, DeviceBus, DeviceError, OfferTraits
from vmbus.devices.storage.handler import StorageChannel
from vmbus.devices.storage.media import MAX_TRANSFER, MediaUnit
from vmbus.devices.storage.negotiation import Negotiation
from vmbus.devices.storage.result import BUS_RESET, INVALID_LUN, Result, illegal_request
from vmbus.devices.storage.task import Task
from vmbus.devices.storage.workers import Workers
from vmbus.state_format import State, StateFormat
from vmbus.wire.scsi.capacity import LunEntry, LunList, ReportLuns
from vmbus.wire.scsi.inquiry import Inquiry, InquiryExtension, PeripheralQualifier, StandardInquiry
from vmbus.wire.scsi.opcodes import DeviceType, Opcode
from vmbus.wire.scsi.sense import AdditionalSense
from vmbus.wire.vstor import (
    IDE_INTERFACE_ID,
    SCSI_INTERFACE_ID,
    FibreChannelNames,
    IdeOfferProperties,
    ScsiRequestV1,
    VstorOperation,
    VstorRequest,
)  # fmt: skip

_NAMESPACE = UUID("2e5dbd9e-2d8b-4a53-9d1e-0c4d3f8a9b11")

MAX_PATHS, MAX_TARGETS, MAX_LUNS = 8, 2, 255
"""What Linux's storvsc scans (``STORVSC_MAX_CHANNELS`` and its neighbours)."""

QUIET_SECONDS = 0.2
"""A controller that is taken away goes when so long no packet has come."""


class UnitAddress(NamedTuple):
    """Where a unit is on its controller."""

    path: int
    target: int
    lun: int

    def __str__(self) -> str:
        return f"{self.path}:{self.target}:{self.lun}"


def _with_discs(state: State) -> State:
    """1 to 2: a DVD drive says which disc it has, and how its tray is; a disk says whether it caches."""
    for unit in state["units"].values():
        if "write_cache" not in unit:
            unit |= {"changed_to": None, "tray_open": False, "locked_by": [], "media_events": []}
    return state


class StorageController(Device):
    """A SCSI controller, or with :meth:`ide` the accelerator channel of one IDE disk."""

    state_format = StateFormat(2, {1: _with_discs})

    def __init__(
        self,
        name: str = "scsi",
        *,
        instance_id: UUID | None = None,
        max_subchannels: int = 16,
        names: FibreChannelNames | None = None,
    ) -> None:
        """``names`` are answered to FC_HBA_DATA; without them that operation is refused."""
        self.interface_id = SCSI_INTERFACE_ID
        self.instance_id = instance_id or uuid5(_NAMESPACE, name)
        self.name = name
        self.names = names
        self.units: dict[UnitAddress, MediaUnit] = {}
        self.routes: dict[bytes, MediaUnit] = {}
        """Units by the three bytes of path, target and LUN, for the short cut; empty until the guest is ready."""
        self.negotiation = Negotiation(
            max_subchannels=max_subchannels, max_transfer=MAX_TRANSFER, create_subchannels=self._create_subchannels
        )
        self._ide: UnitAddress | None = None
        self._removed: list[MediaUnit] = []
        """Units that were taken away while workers had something of them."""
        self._channels: list[StorageChannel] = []
        self._is_restored = False
        self._is_retiring = False

    @classmethod
    def ide(cls, channel: int, device: int, unit: MediaUnit) -> StorageController:
        """The accelerator of disk ``device`` (0 or 1) on IDE channel 0 or 1; its instance id says which it is."""
        if channel not in (0, 1) or device not in (0, 1):
            raise DeviceError(f"there is no IDE disk {device} on channel {channel}: both are 0 or 1")
        instance_id = UUID(fields=(channel, device, 0x8899, 0, 0, 0))
        controller = cls(f"ide{channel}.{device}", instance_id=instance_id, max_subchannels=0)
        controller.interface_id = IDE_INTERFACE_ID
        controller.offer = OfferTraits(user_defined=IdeOfferProperties(path=channel, target=device).build())
        controller._ide = UnitAddress(channel, device, 0)
        controller.add(controller._ide, unit)
        return controller

    @property
    def initiator(self) -> str:
        """The name by which units know the guest that comes through this controller."""
        return str(self.instance_id)

    # Units

    def add(self, address: UnitAddress, unit: MediaUnit) -> None:
        """Add a unit; a running guest notices. Raises :class:`DeviceError` if the address is taken or none."""
        path, target, lun = address
        if not (0 <= path < MAX_PATHS and 0 <= target < MAX_TARGETS and 0 <= lun < MAX_LUNS):
            raise DeviceError(f"{address} is no address: paths 0-7, targets 0-1 and LUNs 0-254 exist")
        if address in self.units:
            raise DeviceError(f"{self.name}: there is a unit at {address} already")
        self.units[address] = unit
        unit.connect(self.initiator)
        unit.on_change = self.rescan
        if self.bus is not None:
            self._give_workers(unit)
        self.reroute()
        self.rescan()

    def free_address(self, path: int = 0, target: int = 0) -> UnitAddress:
        """The first LUN of a target that is free."""
        for lun in range(MAX_LUNS):
            if UnitAddress(path, target, lun) not in self.units:
                return UnitAddress(path, target, lun)
        raise DeviceError(f"{self.name} has no free LUN")

    def remove(self, address: UnitAddress) -> MediaUnit:
        """Take a unit away from a running guest; what it had under way fails. The caller closes the unit."""
        unit = self.units.pop(address, None)
        if unit is None:
            raise DeviceError(f"{self.name}: there is no unit at {address}")
        self.reroute()
        unit.abort(INVALID_LUN, self.initiator)
        unit.disconnect(self.initiator)
        self._removed = [one for one in (*self._removed, unit) if not one.is_at_rest]
        self.rescan()
        return unit

    def rescan(self) -> None:
        """Have the guest look at every unit again."""
        primary = self._primary
        if primary is not None and self.negotiation.has_notifications:
            assert self.negotiation.version is not None
            primary.notify(VstorOperation.ENUMERATE_BUS, self.negotiation.version)

    @property
    def _primary(self) -> StorageChannel | None:
        return next((channel for channel in self._channels if channel.is_primary), None)

    def reroute(self) -> None:
        """Fill ``routes`` anew, after units or the state of the initialization changed."""
        self.routes.clear()
        if self.negotiation.is_ready and not self._is_retiring:
            for address, unit in self.units.items():
                if self._ide is None:
                    self.routes[bytes(address)] = unit
                else:  # guests do not reliably set the path of an IDE disk
                    self.routes |= {bytes((path, address.target, 0)): unit for path in range(256)}

    def _unit_at(self, address: tuple[int, int, int]) -> MediaUnit | None:
        if self._is_retiring:
            return None
        if self._ide is not None:
            address = (self._ide.path, *address[1:])
        return self.units.get(UnitAddress(*address))

    # Commands

    def execute(self, address: tuple[int, int, int], task: Task) -> None:
        """Run a command on the unit at ``address``, or answer for a unit that is not there."""
        unit = self._unit_at(address)
        opcode = task.cdb[0]
        if opcode == Opcode.REPORT_LUNS:
            task.end(self._report_luns(address, task))
        elif unit is not None:
            unit.execute(task)
        elif opcode == Opcode.INQUIRY:
            task.end(self._absent_inquiry(address, task))
        elif address[0] == 0:
            task.end(INVALID_LUN)
        else:
            task.end(illegal_request(AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED).result)

    def _report_luns(self, address: tuple[int, int, int], task: Task) -> Result:
        command = ReportLuns.parse(task.cdb)
        if command.select_report not in (0, 1, 2):
            return illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB, field=2).result
        # There are no well-known units, and no others either when the controller is about to go.
        units = [] if command.select_report == 1 or self._is_retiring else list(self.units)
        luns = sorted(found.lun for found in units if found[:2] == address[:2])
        entries = tuple(LunEntry(method=0, lun=lun) for lun in luns)
        data = LunList(length=8 * len(entries), luns=entries).build()
        return task.give(data, command.allocation_length)

    def _absent_inquiry(self, address: tuple[int, int, int], task: Task) -> Result:
        command = Inquiry.parse(task.cdb)
        if command.vpd or command.page:
            return illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB, field=1).result
        named = address[2] == 0  # only LUN 0 says who answers
        data = StandardInquiry(
            qualifier=PeripheralQualifier.NOT_CAPABLE,
            device_type=DeviceType.NONE,
            additional_length=StandardInquiry.SIZE + InquiryExtension.SIZE - 5,
            vendor=b"Msft    " if named else b"",
            product=b"Virtual Disk    " if named else b"",
            revision=b"1.0 " if named else b"",
            extension=InquiryExtension(),
        )
        return task.give(data.build(), command.allocation_length)

    def reset(self, request: VstorRequest) -> None:
        """RESET_LUN, RESET_BUS or RESET_ADAPTER: everything under way there comes back before the reset is answered."""
        srb = request.body if isinstance(request.body, ScsiRequestV1) else None
        at = UnitAddress(srb.path, srb.target, srb.lun) if srb is not None else UnitAddress(0, 0, 0)
        attention = AdditionalSense.BUS_RESET_OCCURRED
        match request.operation:
            case VstorOperation.RESET_LUN:
                units = [unit] if (unit := self._unit_at(at)) is not None else []
                attention = AdditionalSense.DEVICE_RESET_OCCURRED
            case VstorOperation.RESET_BUS if self._ide is None:
                units = [unit for address, unit in self.units.items() if address.path == at.path]
            case _:
                units = list(self.units.values())
        for unit in units:
            unit.reset(BUS_RESET, attention)

    # Life

    def attach(self, bus: DeviceBus) -> None:
        super().attach(bus)
        for unit in self.units.values():
            self._give_workers(unit)

    def _give_workers(self, unit: MediaUnit) -> None:
        if self.bus is not None and not isinstance(unit.runner, Workers):
            limit = unit.backend.parallel if unit.backend is not None else 4
            unit.runner = Workers(self.bus.loop.call_soon_threadsafe, limit, f"{self.name}-disk")

    def retire(self, done: Callable[[], None]) -> None:
        """Let the guest lose every disk first: after a rescind Linux takes no answer out of the ring, and waits for it.

        What is under way comes back as INVALID_LUN, and so does every later command, on which Linux removes its disks
        by itself. The offer goes when nothing has come for a while.
        """
        self._is_retiring = True
        self.reroute()
        for unit in set(self.units.values()):
            unit.abort(INVALID_LUN, self.initiator)
        self.rescan()
        bus = self.bus
        assert bus is not None, "only a device on a bus is taken back"
        seen = -1

        def look_again() -> None:
            nonlocal seen
            requests = sum(channel.requests for channel in self._channels)
            if requests == seen:
                done()
                return
            seen = requests
            bus.loop.call_later(QUIET_SECONDS, look_again)

        look_again()

    def _create_subchannels(self, count: int) -> None:
        if self.bus is None:
            raise DeviceError(f"{self.name} is on no bus")
        self.bus.offer_subchannels(count)

    def open(self, channel: Channel) -> ChannelHandler:
        handler = StorageChannel(self, channel)
        if handler.is_primary and not self._is_restored:
            self.negotiation.reset()
            self._is_retiring = False
        self._is_restored = False
        self._channels.append(handler)
        self.reroute()
        return handler

    def channel_closed(self, handler: StorageChannel, waiting: list[Task]) -> None:
        """A channel ends: its requests are nobody's now."""
        self._channels.remove(handler)
        for unit in set(self.units.values()):
            unit.abandon(waiting)
        if handler.is_primary:
            for unit in set(self.units.values()):
                unit.lose(self.initiator)
            self.negotiation.reset()
            self.reroute()

    def save(self) -> State:
        units = {str(address): unit.save() for address, unit in self.units.items()}
        return {"negotiation": self.negotiation.save(), "units": units}

    def reopen(self, state: State) -> None:
        for address, unit in self.units.items():
            if str(address) in state["units"]:
                try:
                    unit.reopen(state["units"][str(address)])
                except DeviceError as error:
                    raise DeviceError(
                        f"{self.name}/{address}: its disc was changed at run time, and that one is not there: {error}"
                    ) from None

    def amend(self, state: State) -> State:
        units = {str(address): unit for address, unit in self.units.items()}
        amended = {at: units[at].amend(one) if at in units else one for at, one in state["units"].items()}
        return {**state, "units": amended}

    def restore(self, state: State) -> None:
        self.negotiation.restore(state["negotiation"])
        self._is_restored = True
        for address, unit in self.units.items():
            if str(address) in state["units"]:
                unit.restore(state["units"][str(address)])
        self.reroute()

    def inspect(self) -> State:
        negotiation: dict[str, Any] = self.negotiation.save()
        version = self.negotiation.version
        return {
            **negotiation,
            "version": None if version is None else f"{version >> 8}.{version & 255}",
            "units": {str(address): unit.inspect() for address, unit in self.units.items()},
            "channels": {str(one.channel.subchannel_index): one.inspect() for one in self._channels},
        }

    @property
    def is_at_rest(self) -> bool:
        return all(unit.is_at_rest for unit in (*self.units.values(), *self._removed))

    def close(self) -> None:
        for unit in set(self.units.values()):
            unit.close()
