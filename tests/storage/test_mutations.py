"""Mutated packets: the host lives, answers each exactly once, refuses for every reason it knows, serves the next disk.

The packets are mutated with their structure in mind, from a session of our own driver that has every command and
operation: operations, lengths, addresses, directions, fields of commands as they are declared, parameter lists, page
ranges, transaction ids, packet types. ``VMBUS_SOAK=1`` sends a million.
"""

from __future__ import annotations

import ast
import errno
import gc
import inspect
import os
import random
import resource
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from vmbus.devices.storage import (
    block_commands,
    common_commands,
    discard_commands,
    dvd_commands,
    handler,
    media,
    reservations,
    result,
    supported_commands,
    unit,
)
from vmbus.devices.storage.buffers import Views
from vmbus.devices.storage.controller import UnitAddress
from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.faulty import Fault, FaultyBackend
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.drivers.storage import Address, GuestBuffer
from vmbus.ring.packet import COMPLETION, GPA_DIRECT, IN_BAND
from vmbus.testing.scsi import Initiator
from vmbus.testing.storage import StorageBench
from vmbus.wire.fields import Kind
from vmbus.wire.scsi import CDB_FORMATS, cdb_format
from vmbus.wire.scsi.block import UnmapDescriptor, UnmapList
from vmbus.wire.scsi.opcodes import DeviceType, MaintenanceAction, Opcode
from vmbus.wire.scsi.primary import PreventAllow, StartStopUnit
from vmbus.wire.scsi.reservation import PersistentReserveOut, ReservationType, ReserveOut, ReserveOutList
from vmbus.wire.vstor import DataDirection, VstorOperation

SOAK = os.environ.get("VMBUS_SOAK", "0") not in ("", "0")

_EDGES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF)
_CDB = 28
"""Where the command lies in a packet."""
_PAGE = bytes((8, 18, 4)).ljust(20, b"\0")
_DISK, _FAULTY, _DVD, _RESERVED, _READ_ONLY, _POOR, _QUIET = 0, 1, 2, 3, 4, 5, 9
"""LUNs. The last is left alone."""
_PARAMETERS = {
    Opcode.MODE_SELECT_6: bytes(4) + _PAGE,
    Opcode.MODE_SELECT_10: bytes(8) + _PAGE,
    Opcode.UNMAP: UnmapList(
        data_length=22, descriptors_length=16, descriptors=(UnmapDescriptor(lba=8, length=8),)
    ).build(),
    Opcode.PERSISTENT_RESERVE_OUT: ReserveOutList(key=0, action_key=0xA).build(),
    Opcode.COMPARE_AND_WRITE: bytes(1024),
} | dict.fromkeys((code for code in Opcode if code.name.startswith(("WRITE_", "VERIFY_"))), bytes(512))


IMPOSSIBLE = {
    "media: raise not_ready(AdditionalSense.MEDIUM_NOT_PRESENT)",  # a disk always has its medium, a drive says more
    "reservations: raise illegal_request(AdditionalSense.INSUFFICIENT_REGISTRATION_RESOURCES)",  # takes 65 guests
}
"""Refusals that one guest cannot cause."""


class Packet(NamedTuple):
    """As it goes into the ring; ``buffer`` is what its page ranges are."""

    packet_type: int
    flags: int
    transaction_id: int
    extension: bytes
    payload: bytes
    buffer: GuestBuffer | None = None
    parameters: bytes = b""


class PoorBackend(MemoryBackend):
    """Gives no room back, and fails every fifth time, at once."""

    can_discard = False
    turn = 0

    def _fail_at_times(self) -> None:
        self.turn += 1
        if not self.turn % 5:
            raise OSError(errno.EIO, "worn out")

    def read_into(self, views: Views, offset: int) -> None:
        self._fail_at_times()
        super().read_into(views, offset)

    def write_from(self, views: Views, offset: int) -> None:
        self._fail_at_times()
        super().write_from(views, offset)


@pytest.fixture
def bench() -> Iterator[StorageBench]:
    with StorageBench(memory_size=16 << 20) as bench:
        read_only = MemoryBackend(1 << 20)
        read_only.read_only = True
        units = {
            _DISK: ScsiDisk(MemoryBackend(4 << 20), Identity.of("0")),
            _FAULTY: ScsiDisk(FaultyBackend(MemoryBackend(1 << 20), Fault(error=5, every=3)), Identity.of("1")),
            _DVD: ScsiDvd(MemoryBackend(1 << 20), Identity.of("2")),
            _RESERVED: ScsiDisk(MemoryBackend(1 << 20), Identity.of("3")),
            _READ_ONLY: ScsiDisk(read_only, Identity.of("4")),
            _POOR: ScsiDisk(PoorBackend(1 << 20), Identity.of("5")),
            _QUIET: ScsiDisk(MemoryBackend(1 << 20), Identity.of("9")),
        }
        for lun, one in units.items():
            bench.controller.add(UnitAddress(0, 0, lun), one)
        yield bench


class Recorder:
    """Keeps what the guest sends while it is in use."""

    def __init__(self, bench: StorageBench) -> None:
        self.bench = bench
        self.packets: list[Packet] = []
        self.current: tuple[GuestBuffer | None, bytes] = (None, b"")

    def __enter__(self) -> list[Packet]:
        plain = self.bench.pair.guest.send

        def send(packet_type: int, payload: bytes, **options: Any) -> None:
            flags = int(options.get("completion_requested", False))
            tid, extension = options.get("transaction_id", 0), options.get("extension", b"")
            self.packets.append(Packet(packet_type, flags, tid, bytes(extension), bytes(payload), *self.current))
            plain(packet_type, payload, **options)

        self.bench.pair.guest.send = send  # type: ignore[method-assign]
        return self.packets

    def __exit__(self, *unused: object) -> None:
        self.bench.pair.pump()
        del self.bench.pair.guest.send  # type: ignore[method-assign]


def record_session(bench: StorageBench) -> list[Packet]:
    """Every operation, and every command of a disk and of a drive."""
    recorder = Recorder(bench)

    def run(lun: int, command: bytes, parameters: bytes) -> None:
        buffer = GuestBuffer(bench.pair.pages, len(parameters) or 512)
        buffer.write(parameters)
        recorder.current = buffer, parameters
        direction = DataDirection.OUT if parameters else DataDirection.IN
        bench.link.execute(Address(0, 0, lun), command, buffer, direction)

    with recorder as packets:
        for lun, kind in (_DISK, DeviceType.DISK), (_DVD, DeviceType.DVD):
            for opcode in bench.controller.units[UnitAddress(0, 0, lun)].commands:
                parameters = _PARAMETERS.get(Opcode(opcode), b"") if lun == _DISK else b""
                for action in supported_commands.SERVICE_ACTIONS.get(opcode, (0,)):
                    run(lun, typical(opcode, kind, len(parameters), action), parameters)
        ranges = (UnmapDescriptor(lba=0, length=1),) * 300
        long_list = UnmapList(data_length=4806, descriptors_length=4800, descriptors=ranges).build()
        run(_DISK, typical(Opcode.UNMAP, DeviceType.DISK, len(long_list)), long_list)
        asked = typical(Opcode.MAINTENANCE_IN, DeviceType.DISK, 0, MaintenanceAction.REPORT_SUPPORTED_OPERATION_CODES)
        run(_DISK, asked[:2] + bytes((1, Opcode.SERVICE_ACTION_IN_16)) + asked[4:], b"")
        other = b"\xff" * 512
        for byte_check, sent in (1, other), (1, b""), (2, other):
            run(_DISK, bytes((Opcode.VERIFY_10, byte_check << 1, 0, 0, 0, 0, 0, 0, 1, 0)), sent)
        run(_POOR, bytes((Opcode.WRITE_SAME_16, 0x08)).ljust(13, b"\0") + b"\1\0\0", bytes(512))  # with UNMAP
        run(_DISK, bytes((Opcode.COMPARE_AND_WRITE,)).ljust(13, b"\0") + b"\1\0\0", other + other)
        for _ in range(3):
            run(_DVD, PreventAllow(opcode=Opcode.PREVENT_ALLOW, prevent=1).build(), b"")
            run(_DVD, StartStopUnit(opcode=Opcode.START_STOP_UNIT, load_eject=1).build(), b"")
        for action, keys in reservation_steps():
            for lun in _DISK, _RESERVED:
                run(lun, action.build(), keys.build())
        recorder.current = None, b""
        for operation in VstorOperation:
            bench.link.operate(operation)
    return packets


def reservation_steps() -> Iterator[tuple[PersistentReserveOut, ReserveOutList]]:
    """Every action with the right key, and a PREEMPT of nobody, each after the registration that it needs."""
    for action, victim in [*((action, 0xA) for action in ReserveOut), (ReserveOut.PREEMPT, 0)]:
        for step, key, action_key in (ReserveOut.REGISTER_AND_IGNORE, 0, 0xA), (action, 0xA, victim):
            command = PersistentReserveOut(
                opcode=Opcode.PERSISTENT_RESERVE_OUT,
                service_action=step,
                reservation_type=ReservationType.WRITE_EXCLUSIVE,
                list_length=ReserveOutList.SIZE,
            )
            yield command, ReserveOutList(key=key, action_key=action_key)


def typical(opcode: int, device_type: int, sent: int, action: int = 0) -> bytes:
    """A command that does something: one block, some room, the length of its parameter list."""
    fmt = cdb_format(bytes((opcode,)), device_type)
    command = fmt.parse(bytes((opcode,)).ljust(fmt.SIZE, b"\0"))
    wanted = {"allocation_length": 96, "list_length": sent, "length": 1, "page_format": int(sent > 0)}
    wanted["service_action"] = action
    names = {field.name for field in fmt.FIELDS}
    if opcode == Opcode.SEND_DIAGNOSTIC:
        return command.build()
    return command.replace(**{name: value for name, value in wanted.items() if name in names}).build()


def mutate(chance: random.Random, packet: Packet) -> Packet:
    """One to four changes, each to something that the host reads."""
    packet_type, flags, transaction_id, extension, payload, buffer, parameters = packet
    body, ranges = bytearray(payload), bytearray(extension)
    listed = bytearray(parameters)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        match chance.randrange(24):
            case 0:
                poke(chance, body, 0, 4)  # operation
            case 1:
                poke(chance, body, chance.choice((12, 14, 15, 20, 21, 22, 23)), 1)  # lengths, statuses, direction
            case 2:
                poke(chance, body, chance.choice((17, 18, 19)), 1)  # path, target, LUN
            case 3 | 4 | 5:
                body[17:20] = bytes((0, 0, chance.randrange(6)))
            case 6:
                poke(chance, body, 24, 4)  # data length
            case 7:
                if len(body) > 44:
                    body[_CDB] = chance.choice([*CDB_FORMATS, chance.randrange(256)])
            case 8 | 9 | 10:
                poke(chance, listed, chance.randrange(len(listed) + 1), chance.choice((1, 2)))
            case 11:
                poke(chance, body, _CDB + chance.randrange(16), chance.choice((1, 2, 4)))
            case 12 | 13:
                poke(chance, ranges, chance.choice((4, 8, 12)), chance.choice((2, 4)))  # how many, how long, from where
                if len(ranges) >= 24 and chance.random() < 0.5:  # not the rings' own pages: that ends the channel
                    pfn = chance.choice((chance.randrange(200, 5000), 1 << 52, (1 << 64) - 1))
                    ranges[16:24] = pfn.to_bytes(8, "little")
            case 14:
                packet_type = chance.choice((IN_BAND, GPA_DIRECT, COMPLETION))
                flags = int(chance.random() < 0.8)
                transaction_id = chance.choice((0, 1, transaction_id, 1 << 63, (1 << 64) - 1))
            case 15:
                del body[chance.randrange(len(body) + 1) & ~7 :]
            case _ if len(body) > 44:
                set_field(chance, body)
    return Packet(packet_type, flags, transaction_id, bytes(ranges), bytes(body), buffer, bytes(listed))


def poke(chance: random.Random, data: bytearray, offset: int, size: int) -> None:
    if offset + size <= len(data):
        value = chance.choice(_EDGES) if chance.random() < 0.7 else chance.getrandbits(32)
        data[offset : offset + size] = (value & (1 << size * 8) - 1).to_bytes(size, chance.choice(("little", "big")))


def set_field(chance: random.Random, body: bytearray) -> None:
    """Give one declared field of the command another value."""
    cdb = bytes(body[_CDB : _CDB + 16])
    fmt = cdb_format(cdb, DeviceType.DVD if body[19] == _DVD else DeviceType.DISK)
    field = chance.choice([field for field in fmt.FIELDS[1:] if field.kind in (Kind.INT, Kind.BITS)])
    most = (1 << (field.width or 8 * field.size)) - 1
    value = chance.choice((0, 1, 2, 3, 9, most, most >> 1, chance.randint(0, most), chance.randint(0, 15))) & most
    body[_CDB : _CDB + fmt.SIZE] = fmt.parse(cdb).replace(**{field.name: value}).build()


def is_sound_for_the_ring(packet: Packet) -> bool:
    """Whether the ring itself takes it; what it does not take ends the channel and has its own tests."""
    if packet.packet_type != GPA_DIRECT:
        return not packet.extension
    size = len(packet.extension)
    return size >= 8 and size % 8 == 0 and struct.unpack_from("<I", packet.extension, 4)[0] > 0


class Refusals:
    """The places in the storage provider that refuse something, and which of them were reached."""

    NAMES = frozenset({
        "illegal_request", "invalid_field", "invalid_parameter", "not_ready", "unit_attention", "miscompare",
        "backend_failure", "CheckCondition", "Conflict",
    })  # fmt: skip

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lines: set[tuple[str, int]] = set()
        for error in (result.CheckCondition, reservations.Conflict):
            monkeypatch.setattr(error, "__init__", self._noting(error.__init__))

    def _noting(self, plain: Any) -> Any:
        def init(error: object, *arguments: Any, **options: Any) -> None:
            frame = sys._getframe(1)
            for _ in range(3):
                self._lines.add((frame.f_code.co_filename, frame.f_lineno))
                assert frame.f_back is not None
                frame = frame.f_back
            plain(error, *arguments, **options)

        return init

    def missed(self, *modules: ModuleType) -> set[str]:
        """The statements of these modules that refuse something, and never did."""
        found: set[str] = set()
        for module in modules:
            file, source = inspect.getfile(module), inspect.getsource(module)
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Raise) and self._refuses(node.exc):
                    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                    if not any((file, line) in self._lines for line in lines):
                        found.add(f"{module.__name__.rpartition('.')[2]}: {ast.unparse(node)}")
        return found

    def _refuses(self, node: ast.expr | None) -> bool:
        named = node.func if isinstance(node, ast.Call) else node
        return isinstance(named, ast.Name) and named.id in self.NAMES


def reserve_for_another(disk: ScsiDisk) -> None:
    """Somebody else holds the disk."""
    other = Initiator(disk, "another guest")
    for action, key, action_key in (ReserveOut.REGISTER_AND_IGNORE, 0, 0xB), (ReserveOut.RESERVE, 0xB, 0):
        data = ReserveOutList(key=key, action_key=action_key).build()
        command = PersistentReserveOut(
            opcode=Opcode.PERSISTENT_RESERVE_OUT,
            service_action=action,
            reservation_type=ReservationType.EXCLUSIVE_ACCESS,
            list_length=len(data),
        )
        other.run(command, data=data)


@pytest.mark.soak
def test_mutated_packets_are_each_answered_once_and_refused_for_every_reason(
    bench: StorageBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = Refusals(monkeypatch)
    with Recorder(bench) as greeting:
        bench.wait(bench.link.negotiate())
    session = record_session(bench)
    drive = bench.controller.units[UnitAddress(0, 0, _DVD)]
    reserved = bench.controller.units[UnitAddress(0, 0, _RESERVED)]
    assert isinstance(drive, ScsiDvd) and isinstance(reserved, ScsiDisk)
    chance = random.Random(20)
    answers: Counter[int] = Counter()
    expected: Counter[int] = Counter()
    bench.link.completed = lambda packet: answers.update([packet.transaction_id])  # type: ignore[method-assign]

    def missed() -> set[str]:
        return refusals.missed(
            block_commands, common_commands, discard_commands, dvd_commands, supported_commands, media, reservations,
            unit, handler,
        )  # fmt: skip

    def send(packet: Packet) -> None:
        if packet.buffer is not None and packet.parameters:
            packet.buffer.write(packet.parameters)
        bench.pair.guest.send(
            packet.packet_type,
            packet.payload,
            transaction_id=packet.transaction_id,
            extension=packet.extension,
            completion_requested=bool(packet.flags),
        )
        if packet.packet_type != COMPLETION and packet.flags:
            expected[packet.transaction_id] += 1

    gc.collect()  # descriptors that earlier tests left may not go in the middle of this one
    descriptors = len(os.listdir("/proc/self/fd"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    wanted, most = (1_000_000, 4_000_000) if SOAK else (50_000, 400_000)
    for count in range(most):  # as many as are wanted, and more if some place was not reached by chance
        if count >= wanted and not count % 5000 and missed() == IMPOSSIBLE:
            break
        packet = mutate(chance, chance.choice(session))
        if is_sound_for_the_ring(packet):
            send(packet)
        if count % 5 == 0:
            bench.pair.pump()
        assert not bench.pair.failures, (packet, bench.pair.failures)
        if not bench.controller.negotiation.is_ready:
            for hello in greeting:
                send(hello)
        if count % 300 == 0:
            drive.change_disc(MemoryBackend(1 << 20), force=True)
            reserve_for_another(reserved)
    assert bench.pair.loop.run(until=lambda: answers.total() == expected.total(), timeout=60)
    assert answers == expected
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert missed() == IMPOSSIBLE
    del bench.link.completed  # type: ignore[method-assign]
    disk = bench.disk(_QUIET).open()
    disk.write(7, b"still here".ljust(512))
    assert disk.read(7, 1) == b"still here".ljust(512)
