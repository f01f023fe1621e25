"""Guests that send anything: every command block and parameter list ends with a status, and memory is looked at once.

Mutated packets have a file of their own, ``test_mutations.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmbus.devices.storage.controller import UnitAddress
from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.devices.storage.task import Task
from vmbus.drivers.storage import Address, GuestBuffer
from vmbus.memory import PAGE_SIZE
from vmbus.testing.scsi import Initiator
from vmbus.testing.storage import StorageBench
from vmbus.wire.scsi import CDB_FORMATS
from vmbus.wire.scsi.block import Transfer10, Unmap, UnmapDescriptor, UnmapList
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.vstor import DataDirection


@pytest.fixture
def bench() -> Iterator[StorageBench]:
    with StorageBench(memory_size=16 << 20) as bench:
        bench.controller.add(UnitAddress(0, 0, 9), ScsiDisk(MemoryBackend(1 << 20), Identity.of("9")))
        bench.wait(bench.link.negotiate())
        yield bench


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
