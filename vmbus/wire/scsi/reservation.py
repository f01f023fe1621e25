"""SCSI PERSISTENT RESERVE IN and OUT: who may use a unit.

Sources: openvmm ``scsi_defs/src/lib.rs`` (``PersistentReserve*``, ``Pri*``, ``ProParameterList``) and
``scsidisk/src/reservation.rs``; Linux 6.12 ``drivers/scsi/sd.c`` (``sd_pr_*``), ``drivers/target/target_core_pr.c``.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, be16, be32, be64, bits, blob, items, pad, u8
from vmbus.wire.scsi.opcodes import Cdb


class ReserveIn(OpenEnum):
    """Service actions of PERSISTENT RESERVE IN."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    REPORT_CAPABILITIES = 2
    READ_FULL_STATUS = 3


class ReserveOut(OpenEnum):
    """Service actions of PERSISTENT RESERVE OUT."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE = 6
    REGISTER_AND_MOVE = 7
    REPLACE_LOST_RESERVATION = 8


class ReservationType(OpenEnum):
    """Who keeps which access."""

    NONE = 0
    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS = 5
    EXCLUSIVE_ACCESS_REGISTRANTS = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8


class PersistentReserveIn(Cdb):
    """PERSISTENT RESERVE IN."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    service_action: ReserveIn = bits(5, ReserveIn)
    reserved2: bytes = pad(5, default=b"")
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class PersistentReserveOut(Cdb):
    """PERSISTENT RESERVE OUT."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    service_action: ReserveOut = bits(5, ReserveOut)
    scope: int = bits(4, of=8, msb=True, default=0, doc="0: the whole unit")
    reservation_type: ReservationType = bits(4, ReservationType, default=0)
    reserved2: bytes = pad(2, default=b"")
    list_length: int = be32(unit="bytes")
    control: int = u8(default=0)


class ReserveOutList(Format):
    """The parameter list of PERSISTENT RESERVE OUT, 24 bytes."""

    key: int = be64(default=0)
    action_key: int = be64(default=0)
    obsolete: bytes = pad(4, default=b"")
    reserved: int = bits(4, of=8, msb=True, default=0)
    specify_initiators: int = bits(1, default=0)
    all_target_ports: int = bits(1, default=0)
    reserved2: int = bits(1, default=0)
    persist: int = bits(1, default=0, doc="APTPL: keep it through a power loss")
    reserved3: int = u8(default=0)
    obsolete2: int = be16(default=0)


class ReservationKeys(Format):
    """What READ KEYS returns."""

    generation: int = be32()
    length: int = be32(unit="bytes")
    keys: tuple[int, ...] = items(be64(), count="length // 8")


class Reservation(Format):
    """One reservation."""

    key: int = be64()
    obsolete: int = be32(default=0)
    reserved: int = u8(default=0)
    scope: int = bits(4, of=8, msb=True, default=0)
    reservation_type: ReservationType = bits(4, ReservationType)
    obsolete2: int = be16(default=0)


class Reservations(Format):
    """What READ RESERVATION returns: none or one."""

    generation: int = be32()
    length: int = be32(unit="bytes")
    reservations: tuple[Reservation, ...] = items(Reservation, count="length // 16")


class ReserveCapabilities(Format):
    """What REPORT CAPABILITIES returns."""

    length: int = be16(default=8, unit="bytes")
    replace_lost: int = bits(1, of=8, msb=True, default=0)
    reserved: int = bits(2, default=0)
    compatible_handling: int = bits(1, default=0)
    specify_initiators: int = bits(1, default=0)
    all_target_ports: int = bits(1, default=0)
    reserved2: int = bits(1, default=0)
    persist_capable: int = bits(1, default=0)
    type_mask_valid: int = bits(1, of=8, msb=True, default=0)
    allow_commands: int = bits(3, default=0)
    reserved3: int = bits(3, default=0)
    persist_active: int = bits(1, default=0)
    write_exclusive_all_registrants: int = bits(1, of=16, msb=True, default=0)
    exclusive_access_registrants: int = bits(1, default=0)
    write_exclusive_registrants: int = bits(1, default=0)
    reserved4: int = bits(1, default=0)
    exclusive_access: int = bits(1, default=0)
    reserved5: int = bits(1, default=0)
    write_exclusive: int = bits(1, default=0)
    reserved6: int = bits(8, default=0)
    exclusive_access_all_registrants: int = bits(1, default=0)
    reserved7: int = be16(default=0)


class FullStatus(Format):
    """One registration."""

    key: int = be64()
    reserved: int = be32(default=0)
    reserved2: int = bits(6, of=8, msb=True, default=0)
    all_target_ports: int = bits(1, default=0)
    holder: int = bits(1, default=0)
    scope: int = bits(4, of=8, msb=True, default=0)
    reservation_type: ReservationType = bits(4, ReservationType, default=0)
    reserved3: int = be32(default=0)
    target_port: int = be16(default=1)
    descriptor_length: int = be32(default=0, unit="bytes")
    transport_id: bytes = blob(length="descriptor_length")


class FullStatusList(Format):
    """What READ FULL STATUS returns."""

    generation: int = be32()
    length: int = be32(unit="bytes")
    registrations: tuple[FullStatus, ...] = items(FullStatus)


class ReserveInHead(Format):
    """The head of what PERSISTENT RESERVE IN returns, when there is room for no more."""

    generation: int = be32()
    length: int = be32(unit="bytes")
