"""Persistent reservations among several initiators of one disk."""

from __future__ import annotations

import pytest

from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.devices.storage.result import BUS_RESET
from vmbus.testing.scsi import Initiator, Outcome
from vmbus.wire.scsi import response_format
from vmbus.wire.scsi.block import Transfer10
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.scsi.primary import Reserve6, TestUnitReady
from vmbus.wire.scsi.reservation import (
    PersistentReserveIn,
    PersistentReserveOut,
    ReservationKeys,
    Reservations,
    ReservationType,
    ReserveIn,
    ReserveOut,
    ReserveOutList,
)  # fmt: skip
from vmbus.wire.scsi.sense import AdditionalSense, SenseKey
from vmbus.wire.vstor import ScsiStatus

READ = Transfer10(opcode=Opcode.READ_10, lba=0, length=1)
WRITE = Transfer10(opcode=Opcode.WRITE_10, lba=0, length=1)
CONFLICT = ScsiStatus.RESERVATION_CONFLICT
GOOD = ScsiStatus.GOOD


class Node(Initiator):
    """An initiator with a key."""

    def __init__(self, unit: ScsiDisk, name: str, key: int) -> None:
        super().__init__(unit, name)
        self.key = key

    def out(self, action: ReserveOut, kind: int = 0, *, key: int | None = None, action_key: int = 0) -> Outcome:
        data = ReserveOutList(key=self.key if key is None else key, action_key=action_key).build()
        command = PersistentReserveOut(
            opcode=Opcode.PERSISTENT_RESERVE_OUT,
            service_action=action,
            reservation_type=ReservationType(kind),
            list_length=len(data),
        )
        return self.run(command, data=data)

    def register(self) -> Outcome:
        return self.out(ReserveOut.REGISTER, key=0, action_key=self.key)

    def ask(self, action: ReserveIn) -> Outcome:
        command = PersistentReserveIn(opcode=Opcode.PERSISTENT_RESERVE_IN, service_action=action, allocation_length=512)
        return self.run(command, length=512)

    def can(self) -> tuple[bool, bool]:
        """Whether it may read, and write."""
        read, write = self.run(READ, length=512), self.run(WRITE, data=bytes(512))
        assert {read.status, write.status} <= {GOOD, CONFLICT}
        return read.status == GOOD, write.status == GOOD


@pytest.fixture
def nodes() -> tuple[Node, Node, Node]:
    unit = ScsiDisk(MemoryBackend(1 << 20), Identity.of("shared"))
    return Node(unit, "a", 0xA), Node(unit, "b", 0xB), Node(unit, "c", 0xC)


@pytest.mark.parametrize(
    ("kind", "registered", "stranger"),
    [
        (1, (True, False), (True, False)),
        (3, (False, False), (False, False)),
        (5, (True, True), (True, False)),
        (6, (True, True), (False, False)),
        (7, (True, True), (True, False)),
        (8, (True, True), (False, False)),
    ],
)
def test_each_type_lets_in_whom_the_standard_says(
    nodes: tuple[Node, Node, Node], kind: int, registered: tuple[bool, bool], stranger: tuple[bool, bool]
) -> None:
    holder, member, outsider = nodes
    holder.register()
    member.register()
    assert holder.out(ReserveOut.RESERVE, kind).status == GOOD
    assert holder.can() == (True, True)
    assert member.can() == registered
    assert outsider.can() == stranger


def test_keys_and_reservation_can_be_read(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    a.register()
    b.register()
    a.out(ReserveOut.RESERVE, 3)
    keys = b.ask(ReserveIn.READ_KEYS).parse(ReservationKeys)
    assert (keys.generation, keys.keys) == (2, (0xA, 0xB))
    held = b.ask(ReserveIn.READ_RESERVATION).parse(Reservations).reservations
    assert [(one.key, int(one.reservation_type)) for one in held] == [(0xA, 3)]


@pytest.mark.parametrize("kind", [7, 8])
def test_no_one_key_holds_a_reservation_of_all_registrants(nodes: tuple[Node, Node, Node], kind: int) -> None:
    nodes[0].register()
    nodes[0].out(ReserveOut.RESERVE, kind)
    (reservation,) = nodes[0].ask(ReserveIn.READ_RESERVATION).parse(Reservations).reservations
    assert (reservation.key, reservation.reservation_type) == (0, kind)


@pytest.mark.parametrize("action", list(ReserveIn))
def test_what_persistent_reserve_in_returns_decodes_to_the_last_byte(
    nodes: tuple[Node, Node, Node], action: ReserveIn
) -> None:
    a, b, _ = nodes
    a.register()
    b.register()
    a.out(ReserveOut.RESERVE, 7)
    data = a.ask(action).data
    fmt = response_format(bytes((Opcode.PERSISTENT_RESERVE_IN, action, 0, 0, 0, 0, 0, 2, 0, 0)))
    assert fmt is not None and fmt.parse(data).build() == data


def test_registering_needs_the_present_key(nodes: tuple[Node, Node, Node]) -> None:
    a = nodes[0]
    a.register()
    assert a.out(ReserveOut.REGISTER, key=0x99, action_key=1).status == CONFLICT
    assert a.out(ReserveOut.REGISTER_AND_IGNORE, key=0x99, action_key=1).status == GOOD


def test_preempting_takes_the_reservation_and_tells_the_loser(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    a.register()
    b.register()
    a.out(ReserveOut.RESERVE, 3)
    assert b.out(ReserveOut.PREEMPT, 3, action_key=0xA).status == GOOD
    assert a.run(TestUnitReady(opcode=0)).sense == (SenseKey.UNIT_ATTENTION, AdditionalSense.REGISTRATIONS_PREEMPTED)
    assert b.can() == (True, True)
    assert a.can() == (False, False)


def test_releasing_a_registrants_reservation_tells_the_other_registrants(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    a.register()
    b.register()
    a.out(ReserveOut.RESERVE, 5)
    assert a.out(ReserveOut.RELEASE, 5).status == GOOD
    assert b.run(TestUnitReady(opcode=0)).sense == (SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_RELEASED)


def test_releasing_with_another_type_is_refused(nodes: tuple[Node, Node, Node]) -> None:
    a = nodes[0]
    a.register()
    a.out(ReserveOut.RESERVE, 1)
    assert a.out(ReserveOut.RELEASE, 3).sense[1] == AdditionalSense.INVALID_RELEASE_OF_RESERVATION


def test_the_last_registrant_leaving_ends_an_all_registrants_reservation(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    a.register()
    b.register()
    a.out(ReserveOut.RESERVE, 8)
    for node in (a, b):
        node.out(ReserveOut.REGISTER, action_key=0)
    assert c.can() == (True, True)


def test_clear_forgets_everybody(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    a.register()
    b.register()
    a.out(ReserveOut.RESERVE, 3)
    assert b.out(ReserveOut.CLEAR).status == GOOD
    assert c.can() == (True, True)
    assert a.run(TestUnitReady(opcode=0)).sense[1] == AdditionalSense.RESERVATIONS_PREEMPTED


def test_reservations_survive_in_the_saved_state(nodes: tuple[Node, Node, Node]) -> None:
    a = nodes[0]
    a.register()
    a.out(ReserveOut.RESERVE, 3)
    other = ScsiDisk(MemoryBackend(1 << 20), Identity.of("shared"))
    other.restore(a.unit.save())
    assert Node(other, "a", 0xA).can() == (True, True)
    assert Node(other, "b", 0xB).can() == (False, False)


def test_the_old_reserve_locks_others_out_until_release(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    assert a.run(Reserve6(opcode=Opcode.RESERVE_6)).status == GOOD
    assert b.run(TestUnitReady(opcode=0)).status == CONFLICT
    b.run(Reserve6(opcode=Opcode.RELEASE_6))
    assert b.can() == (False, False)
    a.run(Reserve6(opcode=Opcode.RELEASE_6))
    assert b.can() == (True, True)


def test_moving_a_registration_and_unknown_actions_are_refused(nodes: tuple[Node, Node, Node]) -> None:
    a = nodes[0]
    a.register()
    for action in (ReserveOut.REGISTER_AND_MOVE, ReserveOut.REPLACE_LOST_RESERVATION, ReserveOut(17)):
        assert a.out(action).sense == (SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)


@pytest.mark.parametrize("kind", [0, 2, 4, 9, 15])
def test_a_reservation_of_no_known_type_is_refused(nodes: tuple[Node, Node, Node], kind: int) -> None:
    a = nodes[0]
    a.register()
    for action in (ReserveOut.RESERVE, ReserveOut.PREEMPT):
        assert a.out(action, kind, action_key=1).sense[1] == AdditionalSense.INVALID_FIELD_IN_CDB


def test_reserving_again_is_fine_for_the_holder_alone_and_with_the_same_type(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    a.register()
    b.register()
    assert a.out(ReserveOut.RESERVE, 1).status == GOOD
    assert a.out(ReserveOut.RESERVE, 1).status == GOOD
    assert a.out(ReserveOut.RESERVE, 3).status == CONFLICT
    assert b.out(ReserveOut.RESERVE, 1).status == CONFLICT
    assert b.out(ReserveOut.RELEASE, 1).status == GOOD  # which releases nothing
    assert b.can() == (True, False)


def test_preempting_nobody_is_a_conflict_and_key_zero_a_wrong_parameter(nodes: tuple[Node, Node, Node]) -> None:
    a = nodes[0]
    a.register()
    assert a.out(ReserveOut.PREEMPT, 1, action_key=0x77).status == CONFLICT
    assert a.out(ReserveOut.PREEMPT, 1).sense[1] == AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST


def test_preempting_all_registrants_with_key_zero_takes_everything(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    for node in nodes:
        node.register()
    a.out(ReserveOut.RESERVE, 8)
    assert b.out(ReserveOut.PREEMPT_AND_ABORT, 3).status == GOOD
    for loser in (a, c):
        assert loser.run(TestUnitReady(opcode=0)).sense[1] == AdditionalSense.REGISTRATIONS_PREEMPTED
        assert loser.can() == (False, False)
    assert b.can() == (True, True)


def test_registrations_are_bounded(nodes: tuple[Node, Node, Node]) -> None:
    unit = nodes[0].unit
    assert isinstance(unit, ScsiDisk)
    outcomes = [Node(unit, f"n{number}", number + 1).register() for number in range(65)]
    assert [one.status for one in outcomes[:64]] == [GOOD] * 64
    assert outcomes[64].sense[1] == AdditionalSense.INSUFFICIENT_REGISTRATION_RESOURCES


def test_the_old_reserve_and_persistent_reservations_exclude_each_other(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    a.run(Reserve6(opcode=Opcode.RESERVE_6))
    assert a.register().status == CONFLICT
    a.run(Reserve6(opcode=Opcode.RELEASE_6))
    a.register()
    assert b.run(Reserve6(opcode=Opcode.RESERVE_6)).status == CONFLICT


@pytest.mark.parametrize("how", ["reset", "lose"])
def test_reserve_lasts_until_a_reset_or_until_its_initiator_has_gone(how: str) -> None:
    unit = ScsiDisk(MemoryBackend(1 << 20), Identity.of("shared"))
    a, b = Node(unit, "a", 1), Node(unit, "b", 2)
    a.run(Reserve6(opcode=Opcode.RESERVE_6))
    assert b.run(WRITE, data=bytes(512)).status == CONFLICT
    if how == "reset":
        unit.reset(BUS_RESET, AdditionalSense.BUS_RESET_OCCURRED)
        b.run(TestUnitReady(opcode=Opcode.TEST_UNIT_READY))
    else:
        unit.lose("a")
    assert b.run(WRITE, data=bytes(512)).status == GOOD
