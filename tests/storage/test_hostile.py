"""Guests that send anything: the host lives, answers what can be answered exactly once, and serves the next disk.

Packets are mutated with their structure in mind, from a session of our own driver: operations, lengths, addresses,
directions, command bytes, page ranges, transaction ids, packet types. ``VMBUS_SOAK=1`` sends a million.
"""

from __future__ import annotations

import os
import random
import resource
import struct
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmbus.devices.storage.controller import UnitAddress
from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.faulty import Fault, FaultyBackend
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.devices.storage.task import Task
from vmbus.drivers.storage import Address, GuestBuffer
from vmbus.memory import PAGE_SIZE
from vmbus.ring.packet import COMPLETION, GPA_DIRECT, IN_BAND
from vmbus.testing.scsi import Initiator
from vmbus.testing.storage import StorageBench
from vmbus.wire.scsi import CDB_FORMATS
from vmbus.wire.scsi.block import Transfer10, Unmap, UnmapDescriptor, UnmapList
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.vstor import DataDirection, VstorOperation

SOAK = os.environ.get("VMBUS_SOAK", "0") not in ("", "0")

Packet = tuple[int, int, int, bytes, bytes]
"""Type, flags, transaction id, extension, payload; as they go into the ring."""

_EDGES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF)


@pytest.fixture
def bench() -> Iterator[StorageBench]:
    with StorageBench(memory_size=16 << 20) as bench:
        units = {
            0: ScsiDisk(MemoryBackend(1 << 20), Identity.of("0")),
            1: ScsiDisk(FaultyBackend(MemoryBackend(1 << 20), Fault(error=5, every=3)), Identity.of("1")),
            2: ScsiDvd(MemoryBackend(1 << 20), Identity.of("2")),
            9: ScsiDisk(MemoryBackend(1 << 20), Identity.of("9")),
        }
        for lun, unit in units.items():
            bench.controller.add(UnitAddress(0, 0, lun), unit)
        bench.wait(bench.link.negotiate())
        yield bench


def record_session(bench: StorageBench) -> list[Packet]:
    """What our driver sends for a little of everything."""
    sent: list[Packet] = []
    plain = bench.pair.guest.send

    def send(
        packet_type: int,
        payload: bytes,
        *,
        transaction_id: int = 0,
        extension: bytes = b"",
        completion_requested: bool = False,
    ) -> None:
        sent.append((packet_type, int(completion_requested), transaction_id, extension, bytes(payload)))
        plain(
            packet_type, payload, transaction_id=transaction_id, extension=extension,
            completion_requested=completion_requested,
        )  # fmt: skip

    bench.pair.guest.send = send  # type: ignore[method-assign]
    disk = bench.disk().open()
    disk.inquiry()
    disk.luns()
    disk.write(0, b"a" * 65536)
    disk.read(0, 128)
    disk.flush()
    disk.discard(0, 8)
    bench.disk(5).inquiry()
    for operation in VstorOperation:
        bench.link.operate(operation)
    bench.pair.pump()
    del bench.pair.guest.send  # type: ignore[method-assign]
    return sent


def mutate(chance: random.Random, packet: Packet) -> Packet:
    """One to four changes, each to something that the host reads."""
    packet_type, flags, transaction_id, extension, payload = packet
    body, ranges = bytearray(payload), bytearray(extension)

    def poke(data: bytearray, offset: int, size: int) -> None:
        if offset + size <= len(data):
            value = chance.choice(_EDGES) if chance.random() < 0.7 else chance.getrandbits(32)
            data[offset : offset + size] = (value & (1 << size * 8) - 1).to_bytes(
                size, chance.choice(("little", "big"))
            )

    for _ in range(chance.randrange(1, 5)):
        match chance.randrange(12):
            case 0:
                poke(body, 0, 4)  # operation
            case 1:
                poke(body, chance.choice((12, 14, 15, 20, 21, 22, 23)), 1)  # lengths, statuses, direction
            case 2:
                poke(body, chance.choice((17, 18, 19)), 1)  # path, target, LUN
                if chance.random() < 0.7:
                    body[17:20] = bytes((0, 0, chance.randrange(4)))
            case 3:
                poke(body, 24, 4)  # data length
            case 4 | 5:
                if len(body) > 44:
                    body[28] = chance.choice([*CDB_FORMATS, chance.randrange(256)])
            case 6 | 7:
                poke(body, 28 + chance.randrange(16), chance.choice((1, 2, 4)))  # command
            case 8:
                poke(ranges, chance.choice((4, 8, 12)), chance.choice((2, 4)))  # how many ranges, how long, from where
                if len(ranges) >= 24 and chance.random() < 0.5:  # not the rings' own pages: that ends the channel
                    pfn = chance.choice((chance.randrange(200, 5000), 1 << 52, (1 << 64) - 1))
                    ranges[16:24] = pfn.to_bytes(8, "little")
            case 9:
                packet_type = chance.choice((IN_BAND, GPA_DIRECT, COMPLETION))
                flags = int(chance.random() < 0.8)
            case 10:
                transaction_id = chance.choice((0, 1, transaction_id, 1 << 63, (1 << 64) - 1))
            case 11:
                del body[chance.randrange(len(body) + 1) & ~7 :]
    return packet_type, flags, transaction_id, bytes(ranges), bytes(body)


def is_sound_for_the_ring(packet: Packet) -> bool:
    """Whether the ring itself takes it; what it does not take ends the channel and has its own tests."""
    packet_type, _, _, extension, _ = packet
    if packet_type != GPA_DIRECT:
        return not extension
    return len(extension) >= 8 and len(extension) % 8 == 0 and struct.unpack_from("<I", extension, 4)[0] > 0


@pytest.mark.soak
def test_mutated_packets_are_each_answered_once_and_leave_the_host_serving(bench: StorageBench) -> None:
    session = record_session(bench)
    chance = random.Random(20)
    answers: Counter[int] = Counter()
    expected: Counter[int] = Counter()
    bench.link.completed = lambda packet: answers.update([packet.transaction_id])  # type: ignore[method-assign]
    descriptors = len(os.listdir("/proc/self/fd"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    for count in range(1_000_000 if SOAK else 6_000):
        packet = mutate(chance, chance.choice(session))
        if not is_sound_for_the_ring(packet):
            continue
        packet_type, flags, transaction_id, extension, payload = packet
        bench.pair.guest.send(
            packet_type, payload, transaction_id=transaction_id, extension=extension, completion_requested=bool(flags)
        )
        if packet_type != COMPLETION and flags:
            expected[transaction_id] += 1
        if count % 50 == 0:
            bench.pair.pump()
            assert not bench.pair.failures, (packet, bench.pair.failures)
    assert bench.pair.loop.run(until=lambda: answers.total() == expected.total(), timeout=60)
    assert answers == expected
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    del bench.link.completed  # type: ignore[method-assign]
    disk = bench.disk(9).open()
    disk.write(7, b"still here".ljust(512))
    assert disk.read(7, 1) == b"still here".ljust(512)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    opcode=st.integers(0, 255),
    rest=st.binary(min_size=15, max_size=15),
    data=st.binary(max_size=1200),
    length=st.sampled_from([0, 8, 36, 255, 512, 4096]),
)
def test_any_command_block_ends_with_a_status(opcode: int, rest: bytes, data: bytes, length: int) -> None:
    disk = Initiator(ScsiDisk(MemoryBackend(64 << 10), Identity.of("x")))
    drive = Initiator(ScsiDvd(MemoryBackend(64 << 10), Identity.of("y")))
    for tester in (disk, drive):
        tester.run(bytes((opcode,)) + rest, length=length)
        tester.run(bytes((opcode,)) + rest, data=data)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    opcode=st.sampled_from([Opcode.MODE_SELECT_6, Opcode.MODE_SELECT_10, Opcode.UNMAP, Opcode.PERSISTENT_RESERVE_OUT]),
    flags=st.integers(0, 255),
    data=st.binary(max_size=600),
)
def test_any_parameter_list_ends_with_a_status(opcode: Opcode, flags: int, data: bytes) -> None:
    cdb = bytearray(CDB_FORMATS[opcode].SIZE)
    cdb[0], cdb[1] = opcode, flags
    cdb[7:9] = len(data).to_bytes(2, "big")
    if opcode == Opcode.MODE_SELECT_6:
        cdb[4] = len(data) & 0xFF
    Initiator(ScsiDisk(MemoryBackend(64 << 10), Identity.of("x"))).run(bytes(cdb), data=data)


def test_memory_that_changes_under_a_parameter_list_is_looked_at_once() -> None:
    """The range that is checked is the range that is discarded, whatever the guest writes there in between."""
    unit = ScsiDisk(MemoryBackend(64 << 10), Identity.of("x"))
    listed = UnmapList(data_length=22, descriptors_length=16, descriptors=(UnmapDescriptor(lba=0, length=8),)).build()
    shared = bytearray(listed)
    discarded: list[tuple[int, int]] = []

    def change_and_discard(offset: int, length: int) -> None:
        discarded.append((offset, length))

    class Later:
        limit = 1

        def submit(self, work: Callable[[], object], done: Callable[[object], object]) -> None:
            shared[8:24] = UnmapDescriptor(lba=1 << 40, length=8).build()
            done(work())

    unit.runner = Later()
    assert unit.backend is not None
    unit.backend.discard = change_and_discard  # type: ignore[method-assign]
    unit.execute(
        Task(
            Unmap(opcode=Opcode.UNMAP, list_length=24).build().ljust(16, b"\0"), views=[memoryview(shared)], direction=0
        )
    )
    assert discarded == [(0, 4096)]


def test_a_data_range_that_covers_other_memory_moves_only_what_was_asked_for(bench: StorageBench) -> None:
    buffer = GuestBuffer(bench.pair.pages, 8 * PAGE_SIZE)
    buffer.write(b"." * buffer.size)
    buffer.size = 512
    read = Transfer10(opcode=Opcode.READ_10, lba=0, length=1)
    assert bench.wait(bench.link.execute(Address(0, 0, 9), read, buffer, DataDirection.IN)).is_good
    assert buffer.read() == bytes(512) + b"." * (8 * PAGE_SIZE - 512)
