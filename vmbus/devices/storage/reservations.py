"""Who may use a unit: persistent reservations, and the older RESERVE and RELEASE.

An initiator is whatever hashable name its controller gives it. Keys survive a disconnect and, with APTPL, a host that
is stopped and started with ``--state``.

Sources: T10's SPC-4 5.13 (persistent reservations), its table of what each type allows; openvmm
``scsidisk/src/reservation.rs`` and ``disk_prwrap``; Linux 6.12 ``drivers/target/target_core_pr.c``.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from vmbus.devices.storage.result import illegal_request, invalid_parameter
from vmbus.errors import VmbusError
from vmbus.wire.scsi.opcodes import Opcode, ServiceActionIn
from vmbus.wire.scsi.reservation import ReservationType, ReserveOut
from vmbus.wire.scsi.sense import AdditionalSense

MAX_REGISTRATIONS = 64

_ALWAYS = frozenset({
    Opcode.INQUIRY, Opcode.REPORT_LUNS, Opcode.REQUEST_SENSE, Opcode.PERSISTENT_RESERVE_IN,
    Opcode.PERSISTENT_RESERVE_OUT, Opcode.RELEASE_6, Opcode.RELEASE_10, Opcode.TEST_UNIT_READY, Opcode.PREVENT_ALLOW,
})  # fmt: skip
_READS = frozenset({
    Opcode.READ_6, Opcode.READ_10, Opcode.READ_12, Opcode.READ_16, Opcode.VERIFY_10, Opcode.VERIFY_12,
    Opcode.VERIFY_16, Opcode.PRE_FETCH_10, Opcode.PRE_FETCH_16, Opcode.MODE_SENSE_6, Opcode.MODE_SENSE_10,
    Opcode.LOG_SENSE, Opcode.READ_BUFFER, Opcode.RECEIVE_DIAGNOSTIC, Opcode.SEEK_6, Opcode.SEEK_10,
})  # fmt: skip
_INFORMATION = frozenset({Opcode.READ_CAPACITY_10, Opcode.MAINTENANCE_IN})

_DESPITE_SIMPLE = frozenset({
    Opcode.INQUIRY, Opcode.REPORT_LUNS, Opcode.REQUEST_SENSE, Opcode.RELEASE_6, Opcode.RELEASE_10,
})  # fmt: skip

_REGISTRANTS = frozenset({
    ReservationType.WRITE_EXCLUSIVE_REGISTRANTS, ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS,
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
})  # fmt: skip
_ALL_REGISTRANTS = frozenset({
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
})  # fmt: skip
_WRITE_EXCLUSIVE = frozenset({
    ReservationType.WRITE_EXCLUSIVE, ReservationType.WRITE_EXCLUSIVE_REGISTRANTS,
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
})  # fmt: skip
KNOWN_TYPES = _REGISTRANTS | {ReservationType.WRITE_EXCLUSIVE, ReservationType.EXCLUSIVE_ACCESS}

Notices = list[tuple[Hashable, AdditionalSense]]
"""Initiators to be told of a change, and what to tell them."""


class Conflict(VmbusError):
    """The command gets RESERVATION CONFLICT."""


class Reservations:
    """The registrations and the reservation of one unit."""

    def __init__(self) -> None:
        self.keys: dict[Hashable, int] = {}
        self.generation = 0
        self.kind = ReservationType.NONE
        self.holder: Hashable = None
        self.persist = False
        self._simple: Hashable = None

    @property
    def is_held(self) -> bool:
        """Whether anybody's access may be restricted."""
        return self.kind != ReservationType.NONE or self._simple is not None

    def allows(self, initiator: Hashable, cdb: bytes) -> bool:
        """Whether the reservations let that command of that initiator pass."""
        if not self.is_held:
            return True
        opcode = cdb[0]
        if self._simple is not None and self._simple != initiator:
            return opcode in _DESPITE_SIMPLE
        if self.kind == ReservationType.NONE or opcode in _ALWAYS or opcode in _INFORMATION:
            return True
        if opcode == Opcode.SERVICE_ACTION_IN_16 and cdb[1] & 0x1F == ServiceActionIn.READ_CAPACITY_16:
            return True
        if self.is_holder(initiator) or (self.kind in _REGISTRANTS and initiator in self.keys):
            return True
        return self.kind in _WRITE_EXCLUSIVE and (opcode in _READS or opcode == Opcode.SERVICE_ACTION_IN_16)

    def is_holder(self, initiator: Hashable) -> bool:
        """Whether that initiator holds the reservation; of the all-registrants types every registrant does."""
        if self.kind in _ALL_REGISTRANTS:
            return initiator in self.keys
        return self.kind != ReservationType.NONE and initiator == self.holder

    @property
    def holders_key(self) -> int:
        """The key under which the reservation is held; 0 where every registrant holds it."""
        return 0 if self.kind in _ALL_REGISTRANTS else self.keys.get(self.holder, 0)

    # RESERVE and RELEASE

    def reserve_simple(self, initiator: Hashable) -> None:
        """RESERVE (6) and (10): the whole unit for one initiator."""
        if self.keys or self._simple not in (None, initiator):
            raise Conflict
        self._simple = initiator

    def release_simple(self, initiator: Hashable) -> None:
        """RELEASE: no error if it holds nothing."""
        if self._simple == initiator:
            self._simple = None

    def drop_simple(self) -> None:
        """A reset of the unit: what RESERVE had reserved is free (SPC-2 5.5.1; ``core_tmr_lun_reset`` in Linux)."""
        self._simple = None

    # PERSISTENT RESERVE OUT; each returns who is to be told of what

    def change(
        self, action: int, initiator: Hashable, kind: ReservationType, key: int, action_key: int, *, persist: bool
    ) -> Notices:
        """Do one service action. Raises :class:`Conflict` or ``CheckCondition``."""
        if self._simple is not None:
            raise Conflict
        match action:
            case ReserveOut.REGISTER:
                if self.keys.get(initiator, 0) != key:
                    raise Conflict
                return self._register(initiator, action_key, persist)
            case ReserveOut.REGISTER_AND_IGNORE:
                return self._register(initiator, action_key, persist)
        if initiator not in self.keys or self.keys[initiator] != key:
            raise Conflict
        match action:
            case ReserveOut.RESERVE:
                return self._reserve(initiator, kind)
            case ReserveOut.RELEASE:
                return self._release(initiator, kind)
            case ReserveOut.CLEAR:
                return self._clear(initiator)
            case ReserveOut.PREEMPT | ReserveOut.PREEMPT_AND_ABORT:
                return self._preempt(initiator, kind, action_key)
            case _:
                raise illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB, field=1)

    def _register(self, initiator: Hashable, key: int, persist: bool) -> Notices:
        self.generation += 1
        self.persist = persist
        if key:
            if initiator not in self.keys and len(self.keys) >= MAX_REGISTRATIONS:
                raise illegal_request(AdditionalSense.INSUFFICIENT_REGISTRATION_RESOURCES)
            self.keys[initiator] = key
            return []
        was_holder = self.is_holder(initiator)
        self.keys.pop(initiator, None)
        gone = not self.keys if self.kind in _ALL_REGISTRANTS else was_holder
        return self._drop(initiator) if gone else []

    def _reserve(self, initiator: Hashable, kind: ReservationType) -> Notices:
        if kind not in KNOWN_TYPES:
            raise illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB, field=2)
        if self.kind != ReservationType.NONE:
            if not self.is_holder(initiator) or kind != self.kind:
                raise Conflict
            return []
        self.kind, self.holder = kind, initiator
        return []

    def _release(self, initiator: Hashable, kind: ReservationType) -> Notices:
        if not self.is_holder(initiator):
            return []
        if kind != self.kind:
            raise illegal_request(AdditionalSense.INVALID_RELEASE_OF_RESERVATION)
        return self._drop(initiator)

    def _drop(self, initiator: Hashable) -> Notices:
        """The reservation ends; registrants of the registrants types are told."""
        told = [who for who in self.keys if who != initiator] if self.kind in _REGISTRANTS else []
        self.kind, self.holder = ReservationType.NONE, None
        return [(who, AdditionalSense.RESERVATIONS_RELEASED) for who in told]

    def _clear(self, initiator: Hashable) -> Notices:
        self.generation += 1
        told = [who for who in self.keys if who != initiator]
        self.keys.clear()
        self.kind, self.holder = ReservationType.NONE, None
        return [(who, AdditionalSense.RESERVATIONS_PREEMPTED) for who in told]

    def _preempt(self, initiator: Hashable, kind: ReservationType, victim: int) -> Notices:
        if kind not in KNOWN_TYPES:
            raise illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB, field=2)
        everybody = self.kind in _ALL_REGISTRANTS
        if not victim and not everybody:
            raise invalid_parameter(8)
        takes_over = (everybody and not victim) or (
            not everybody and self.kind != ReservationType.NONE and self.keys.get(self.holder) == victim
        )
        told = [who for who, key in self.keys.items() if who != initiator and (key == victim or not victim)]
        if victim and victim not in self.keys.values():
            raise Conflict
        self.generation += 1
        for who in told:
            del self.keys[who]
        old_kind = self.kind
        notices: Notices = [(who, AdditionalSense.REGISTRATIONS_PREEMPTED) for who in told]
        if takes_over:
            self.kind, self.holder = kind, initiator
            if old_kind in _REGISTRANTS and kind != old_kind:
                others = [who for who in self.keys if who != initiator]
                notices += [(who, AdditionalSense.RESERVATIONS_RELEASED) for who in others]
        return notices

    def save(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "keys": {str(who): key for who, key in self.keys.items()},
            "generation": self.generation,
            "kind": int(self.kind),
            "holder": None if self.holder is None else str(self.holder),
            "persist": self.persist,
            "simple": None if self._simple is None else str(self._simple),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`save` gave."""
        self.keys = dict(state.get("keys", {}))
        self.generation = state.get("generation", 0)
        self.kind = ReservationType(state.get("kind", 0))
        self.holder = state.get("holder")
        self.persist = state.get("persist", False)
        self._simple = state.get("simple")

    def inspect(self) -> dict[str, Any]:
        return {**self.save(), "kind": str(self.kind)}
