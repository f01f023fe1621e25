"""The volume snapshot service (VSS): the host has the guest hold still while it backs it up.

Operations 5 to 7 came with service version 5.0, 8 with 6.0.  Linux takes part in hot backup checks, freeze and thaw.

Sources: openvmm ``hyperv_ic_protocol/src/vss.rs``; Linux 6.12 ``include/uapi/linux/hyperv.h`` (``hv_vss_msg``: freeze
messages of 6,260 bytes, auto-recover ones of 12,500); Mile.HyperV ``Mile.HyperV.Guest.Protocols.h`` (``IC_VSS_*``).
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, array, guid, pad, rest, u8, u32, u64, variant

MAX_LUNS = 260


class VssOperation(OpenEnum):
    """What the host asks."""

    CREATE = 0
    DELETE = 1
    CHECK_HOT_BACKUP = 2
    GET_DIRECT_MAPPED_DEVICES_INFO = 3
    BACKUP_COMPLETE = 4
    FREEZE_APPLICATIONS = 5
    THAW_APPLICATIONS = 6
    AUTO_RECOVER = 7
    QUERY_GUEST_CLUSTER_INFORMATION = 8


class VssCreate(Format):
    """A snapshot set to make."""

    snapshot_set_id: UUID = guid()


class VssCreateV2(VssCreate):
    """The same, with what kind of backup it is."""

    backup_type: int = u32()


class VssDelete(Format):
    """A snapshot set to forget."""

    snapshot_set_id: UUID = guid()


class VssCheckHotBackup(Format):
    """Whether the guest can be backed up while it runs; Linux answers 5: yes, without auto-recovery."""

    flags: int = u32()


class VssDirectMappedDevicesInfo(Format):
    """Whether the guest has devices that the host cannot see into."""

    flags: int = u32()


class VssBackupComplete(Format):
    """The backup is over."""

    flags: int = u32()


class VssThaw(Format):
    """The guest may go on."""

    flags: int = u32()


class VssLun(Format):
    """A disk of the guest."""

    bus_type: int = u8()
    reserved: bytes = pad(3, default=b"")
    controller: UUID = guid()
    port: int = u8()
    target: int = u8()
    lun: int = u8()
    reserved2: int = u8(default=0)


class VssLuns(Format):
    """The disks that take part, for freeze and auto-recover."""

    backup_type: int = u32()
    flags: int = u32()
    lun_count: int = u32(doc="valid in the arrays")
    luns: tuple[VssLun, ...] = array(VssLun, MAX_LUNS)


class VssShadowLuns(VssLuns):
    """The same, with the disks' snapshots."""

    shadow_luns: tuple[VssLun, ...] = array(VssLun, MAX_LUNS)


class VssClusterInformation(Format):
    """The cluster that the guest belongs to."""

    cluster_id: UUID = guid()
    cluster_size: int = u32()
    lun_count: int = u32(doc="valid in the arrays")
    shared_luns: tuple[VssLun, ...] = array(VssLun, MAX_LUNS)
    shared_lun_status: tuple[int, ...] = array(u32(), MAX_LUNS)


class VssClusterInformationEx(VssClusterInformation):
    """The same, with when the group last moved."""

    last_move_time: int = u64()


VSS_BODIES: dict[int, type[Format] | tuple[type[Format], ...]] = {
    VssOperation.CREATE: (VssCreate, VssCreateV2),
    VssOperation.DELETE: VssDelete,
    VssOperation.CHECK_HOT_BACKUP: VssCheckHotBackup,
    VssOperation.GET_DIRECT_MAPPED_DEVICES_INFO: VssDirectMappedDevicesInfo,
    VssOperation.BACKUP_COMPLETE: VssBackupComplete,
    VssOperation.FREEZE_APPLICATIONS: VssLuns,
    VssOperation.THAW_APPLICATIONS: VssThaw,
    VssOperation.AUTO_RECOVER: (VssLuns, VssShadowLuns),
    VssOperation.QUERY_GUEST_CLUSTER_INFORMATION: (VssClusterInformation, VssClusterInformationEx),
}


class VssMessage(Format):
    """A request; the answer has the same layout, and its header the status."""

    operation: VssOperation = u8(VssOperation)
    reserved: bytes = pad(7, default=b"")
    body: Format | bytes = variant(on="operation", cases=VSS_BODIES)
    trailing: bytes = rest()
