"""Virtual PCI: the bus of a passed-through device, in raw packets.

The guest asks for a version and enters D0 with an address for the configuration space; the host lists the devices;
the guest asks what resources each needs, assigns them and makes interrupts.  The host ejects devices.  Requests
with the completion flag are answered by a completion packet whose layout follows from the request:
:data:`VPCI_COMPLETIONS`.

Sources: openvmm ``vm/devices/pci/vpci_protocol/src/lib.rs`` and ``vpci/src/device.rs``; Linux 6.12
``drivers/pci/controller/pci-hyperv.c`` (configuration blocks, ejection); Mile.HyperV
``Mile.HyperV.Guest.Protocols.h`` (``VPCI_*``).  No source lays out INVALIDATE_DEVICE, QUERY_STOP, RE_ENABLE and
QUERY_STOP_FAILED: their bodies stay bytes.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, array, blob, items, nested, rest, u16, u32, u64, variant
from vmbus.wire.vpci_resources import (
    MAX_BARS,
    DeviceDescription,
    DeviceDescription2,
    DevicePowerState,
    MsiDescriptor,
    MsiDescriptor2,
    MsiDescriptor3,
    MsiDescriptor3Padded,
    MsiRemapped,
    MsiRemapped2,
    PartialResourceDescriptor,
    SlotNumber,
    VpciStatus,
)


class VpciVersion(OpenEnum):
    """Major version in the high half, minor in the low one; named after the Windows that brought it."""

    WIN8 = 0x00010000
    WIN10 = 0x00010001
    RS1 = 0x00010002
    VB = 0x00010003
    FE = 0x00010004
    GE = 0x00010005
    DT = 0x00010006


class VpciMessageType(OpenEnum):
    """What a packet is."""

    BUS_RELATIONS = 0x42490000
    QUERY_BUS_RELATIONS = 0x42490001
    INVALIDATE_DEVICE = 0x42490002
    INVALIDATE_BUS = 0x42490003
    DEVICE_POWER_STATE_CHANGE = 0x42490004
    CURRENT_RESOURCE_REQUIREMENTS = 0x42490005
    GET_RESOURCES = 0x42490006
    FDO_D0_ENTRY = 0x42490007
    FDO_D0_EXIT = 0x42490008
    READ_BLOCK = 0x42490009
    WRITE_BLOCK = 0x4249000A
    EJECT = 0x4249000B
    QUERY_STOP = 0x4249000C
    RE_ENABLE = 0x4249000D
    QUERY_STOP_FAILED = 0x4249000E
    EJECT_COMPLETE = 0x4249000F
    ASSIGNED_RESOURCES = 0x42490010
    RELEASE_RESOURCES = 0x42490011
    INVALIDATE_BLOCK = 0x42490012
    QUERY_PROTOCOL_VERSION = 0x42490013
    CREATE_INTERRUPT = 0x42490014
    DELETE_INTERRUPT = 0x42490015
    ASSIGNED_RESOURCES2 = 0x42490016
    CREATE_INTERRUPT2 = 0x42490017
    DELETE_INTERRUPT2 = 0x42490018
    BUS_RELATIONS2 = 0x42490019
    ASSIGNED_RESOURCES3 = 0x4249001A
    CREATE_INTERRUPT3 = 0x4249001B
    RESET_DEVICE = 0x4249001C
    TDISP_COMMAND = 0x4249001D


class BusRelations(Format):
    """Host to guest: the devices there are, before 1.3."""

    device_count: int = u32()
    devices: tuple[DeviceDescription, ...] = items(DeviceDescription, count="device_count")


class BusRelations2(Format):
    """Host to guest: the devices there are, from 1.3 on."""

    device_count: int = u32()
    devices: tuple[DeviceDescription2, ...] = items(DeviceDescription2, count="device_count")


class VpciNothing(Format):
    """A packet that is its message type alone."""


class SlotBody(Format):
    """A packet about one device."""

    slot: SlotNumber = nested(SlotNumber)


class EjectComplete(SlotBody):
    """Guest to host: the device is no longer used. openvmm sends no status."""

    status: int = u32(default=0)


class QueryProtocolVersion(Format):
    """Guest to host: the version that the guest wants."""

    protocol_version: VpciVersion = u32(VpciVersion)


class FdoD0Entry(Format):
    """Guest to host: begin. The first page there is the slot number, the second that slot's configuration space."""

    padding: int = u32(default=0)
    mmio_start: int = u64()


class GetResources(SlotBody):
    """Guest to host: what the device has now."""

    reserved: tuple[int, ...] = array(u64(), 3, default=(0, 0, 0))


class DevicePowerChange(SlotBody):
    """Guest to host: turn a device on or off."""

    target_state: DevicePowerState = u32(DevicePowerState)


class ReadBlock(Format):
    """Guest to host: read a configuration block of a virtual function."""

    block_id: int = u32()
    slot: SlotNumber = nested(SlotNumber)
    bytes_requested: int = u32(unit="bytes", doc="at most 128")


class WriteBlock(Format):
    """Guest to host: write one."""

    block_id: int = u32()
    slot: SlotNumber = nested(SlotNumber)
    byte_count: int = u32(unit="bytes", doc="at most 128")
    block: bytes = blob(length="byte_count", payload=True)


class InvalidateBlock(SlotBody):
    """Host to guest: read these blocks again."""

    block_mask: int = u64(doc="bit n: block n")


class _Translate(SlotBody):
    """What the three versions of assigned resources begin with."""

    mmio_resources: tuple[PartialResourceDescriptor, ...] = array(PartialResourceDescriptor, MAX_BARS)
    msi_resource_count: int = u32()
    reserved: int = u32(default=0)


class AssignedResources(_Translate):
    """Guest to host: what the device decodes from now on, before 1.2."""

    msi_resources: tuple[MsiDescriptor, ...] = items(MsiDescriptor, count="msi_resource_count")


class AssignedResources2(_Translate):
    """Guest to host: the same from 1.2 on."""

    msi_resources: tuple[MsiDescriptor2, ...] = items(MsiDescriptor2, count="msi_resource_count")


class AssignedResources3(_Translate):
    """Guest to host: the same from 1.4 on."""

    msi_resources: tuple[MsiDescriptor3Padded, ...] = items(MsiDescriptor3Padded, count="msi_resource_count")


class CreateInterrupt(SlotBody):
    """Guest to host: make an interrupt, before 1.2."""

    interrupt: MsiDescriptor = nested(MsiDescriptor)


class CreateInterrupt2(SlotBody):
    """Guest to host: the same from 1.2 on."""

    interrupt: MsiDescriptor2 = nested(MsiDescriptor2)


class CreateInterrupt3(SlotBody):
    """Guest to host: the same from 1.4 on."""

    interrupt: MsiDescriptor3 = nested(MsiDescriptor3)


class DeleteInterrupt(SlotBody):
    """Guest to host: unmake one."""

    interrupt: MsiRemapped = nested(MsiRemapped)


class TdispCommand(SlotBody):
    """Guest to host: a command to a device's trusted interface (TDISP), serialized as a protocol buffer."""

    data_length: int = u64(unit="bytes")
    data: bytes = blob(length="data_length", payload=True)


VPCI_BODIES: dict[int, type[Format] | tuple[type[Format], ...]] = {
    VpciMessageType.BUS_RELATIONS: BusRelations,
    VpciMessageType.QUERY_BUS_RELATIONS: VpciNothing,
    VpciMessageType.INVALIDATE_BUS: VpciNothing,
    VpciMessageType.DEVICE_POWER_STATE_CHANGE: DevicePowerChange,
    VpciMessageType.CURRENT_RESOURCE_REQUIREMENTS: SlotBody,
    VpciMessageType.GET_RESOURCES: GetResources,
    VpciMessageType.FDO_D0_ENTRY: FdoD0Entry,
    VpciMessageType.FDO_D0_EXIT: VpciNothing,
    VpciMessageType.READ_BLOCK: ReadBlock,
    VpciMessageType.WRITE_BLOCK: WriteBlock,
    VpciMessageType.EJECT: SlotBody,
    VpciMessageType.EJECT_COMPLETE: (SlotBody, EjectComplete),
    VpciMessageType.ASSIGNED_RESOURCES: AssignedResources,
    VpciMessageType.RELEASE_RESOURCES: SlotBody,
    VpciMessageType.INVALIDATE_BLOCK: InvalidateBlock,
    VpciMessageType.QUERY_PROTOCOL_VERSION: QueryProtocolVersion,
    VpciMessageType.CREATE_INTERRUPT: CreateInterrupt,
    VpciMessageType.DELETE_INTERRUPT: DeleteInterrupt,
    VpciMessageType.ASSIGNED_RESOURCES2: AssignedResources2,
    VpciMessageType.CREATE_INTERRUPT2: CreateInterrupt2,
    VpciMessageType.DELETE_INTERRUPT2: DeleteInterrupt,
    VpciMessageType.BUS_RELATIONS2: BusRelations2,
    VpciMessageType.ASSIGNED_RESOURCES3: AssignedResources3,
    VpciMessageType.CREATE_INTERRUPT3: CreateInterrupt3,
    VpciMessageType.RESET_DEVICE: SlotBody,
    VpciMessageType.TDISP_COMMAND: TdispCommand,
}


class VpciMessage(Format):
    """Any packet of a virtual PCI bus that is not a completion, in either direction."""

    message_type: VpciMessageType = u32(VpciMessageType)
    body: Format | bytes = variant(on="message_type", cases=VPCI_BODIES)
    trailing: bytes = rest(doc="up to the next multiple of 8 bytes")


class EmptyCompletion(Format):
    """Answers what nobody need answer."""

    trailing: bytes = rest()


class StatusCompletion(Format):
    """Answers a request that has no other result."""

    status: VpciStatus = u32(VpciStatus)
    trailing: bytes = rest()


class VpciVersionCompletion(Format):
    """Answers QUERY_PROTOCOL_VERSION; REVISION_MISMATCH comes with the version that the host would like."""

    status: VpciStatus = u32(VpciStatus)
    protocol_version: VpciVersion = u32(VpciVersion)


class RequirementsCompletion(Format):
    """Answers CURRENT_RESOURCE_REQUIREMENTS."""

    status: VpciStatus = u32(VpciStatus)
    bars: tuple[int, ...] = array(u32(), MAX_BARS, doc="as read back after writing all ones")
    trailing: bytes = rest()


class ResourcesCompletion(Format):
    """Answers GET_RESOURCES (``CM_PARTIAL_RESOURCE_LIST``)."""

    version: int = u16(default=1)
    revision: int = u16(default=1)
    count: int = u32(default=MAX_BARS)
    descriptors: tuple[PartialResourceDescriptor, ...] = array(PartialResourceDescriptor, MAX_BARS)
    trailing: bytes = rest()


class PowerCompletion(Format):
    """Answers DEVICE_POWER_STATE_CHANGE; openvmm sends the status alone."""

    status: VpciStatus = u32(VpciStatus)
    slot: SlotNumber = nested(SlotNumber)
    resultant_state: DevicePowerState = u32(DevicePowerState)
    reserved: int = u32(default=0)


class BlockCompletion(Format):
    """Answers READ_BLOCK."""

    status: VpciStatus = u32(VpciStatus)
    block: bytes = rest(payload=True)


class _TranslateCompletion(Format):
    """What answers to assigned resources begin with."""

    status: VpciStatus = u32(VpciStatus)
    slot: SlotNumber = nested(SlotNumber)
    mmio_resources: tuple[PartialResourceDescriptor, ...] = array(PartialResourceDescriptor, MAX_BARS)
    msi_resource_count: int = u32()
    reserved: int = u32(default=0)


class TranslateCompletion(_TranslateCompletion):
    """Answers ASSIGNED_RESOURCES."""

    msi_resources: tuple[MsiRemapped, ...] = items(MsiRemapped, count="msi_resource_count")
    trailing: bytes = rest()


class TranslateCompletion2(_TranslateCompletion):
    """Answers ASSIGNED_RESOURCES2, and also 3."""

    msi_resources: tuple[MsiRemapped2, ...] = items(MsiRemapped2, count="msi_resource_count")
    trailing: bytes = rest()


class InterruptCompletion(Format):
    """Answers a create message of any version."""

    status: VpciStatus = u32(VpciStatus)
    reserved: int = u32(default=0)
    interrupt: MsiRemapped = nested(MsiRemapped)
    trailing: bytes = rest()


class TdispCompletion(Format):
    """Answers TDISP_COMMAND."""

    status: VpciStatus = u32(VpciStatus)
    slot: SlotNumber = nested(SlotNumber)
    data_length: int = u64(unit="bytes")
    data: bytes = blob(length="data_length", payload=True)
    trailing: bytes = rest()


VPCI_COMPLETIONS: dict[int, type[Format]] = {
    VpciMessageType.QUERY_BUS_RELATIONS: EmptyCompletion,
    VpciMessageType.QUERY_PROTOCOL_VERSION: VpciVersionCompletion,
    VpciMessageType.CURRENT_RESOURCE_REQUIREMENTS: RequirementsCompletion,
    VpciMessageType.GET_RESOURCES: ResourcesCompletion,
    VpciMessageType.DEVICE_POWER_STATE_CHANGE: PowerCompletion,
    VpciMessageType.READ_BLOCK: BlockCompletion,
    VpciMessageType.ASSIGNED_RESOURCES: TranslateCompletion,
    VpciMessageType.ASSIGNED_RESOURCES2: TranslateCompletion2,
    VpciMessageType.ASSIGNED_RESOURCES3: TranslateCompletion2,
    VpciMessageType.CREATE_INTERRUPT: InterruptCompletion,
    VpciMessageType.CREATE_INTERRUPT2: InterruptCompletion,
    VpciMessageType.CREATE_INTERRUPT3: InterruptCompletion,
    VpciMessageType.TDISP_COMMAND: TdispCompletion,
}
"""The packet that completes a request; requests that are not here are completed by :class:`StatusCompletion`."""


def vpci_completion(message_type: int, length: int) -> type[Format]:
    """The format of a completion of ``length`` bytes for a request of that type; failures may be a status alone."""
    wanted = VPCI_COMPLETIONS.get(message_type, StatusCompletion)
    return next((fmt for fmt in (wanted, StatusCompletion) if length >= fmt.SIZE), EmptyCompletion)
