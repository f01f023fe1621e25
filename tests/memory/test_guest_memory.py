"""Guest memory: sealing, sizes, bounds, and mappings that neither leak nor crash."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from pickle import PickleBuffer

import pytest

from vmbus.memory import (
    GuestMemory,
    GuestMemoryError,
    MappingFailed,
    MemoryFileTooSmall,
    MemoryInUse,
    OutsideGuestMemory,
    UnsealedMemory,
    merge_ranges,
)
from vmbus.memory import _runs_of_all as runs_of_all
from vmbus.testing.descriptors import full_table, open_descriptors

MIB = 1 << 20


@pytest.fixture
def memory():
    with GuestMemory.create(MIB) as guest:
        yield guest


@pytest.fixture
def descriptor():
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, MIB)
    yield fd
    os.close(fd)


def test_memory_that_we_make_can_be_neither_shrunk_nor_grown(memory):
    for size in (4096, 2 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)


def test_both_ends_see_the_same_bytes(memory):
    with GuestMemory.attach(memory.fd, MIB) as host:
        memory.write(12345, b"from the guest")
        assert host.read(12345, 14) == b"from the guest"


def test_a_memfd_that_could_be_sealed_and_is_not_is_refused(descriptor):
    with pytest.raises(UnsealedMemory, match="F_SEAL_SHRINK"):
        GuestMemory.attach(descriptor, MIB)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    GuestMemory.attach(descriptor, MIB).close()


def test_a_file_that_cannot_be_sealed_is_accepted(tmp_path):
    plain = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    unsealable = os.memfd_create("like User-Mode Linux's")
    for fd in (plain, unsealable):
        os.ftruncate(fd, MIB)
        GuestMemory.attach(fd, MIB).close()
        os.close(fd)


def test_scattered_pages_are_mapped_only_as_long_as_the_kernel_has_room_for_the_pieces(memory, monkeypatch):
    monkeypatch.setattr("vmbus.memory.MAX_RUNS", runs_of_all.mapped + 30)
    scattered = range(0, 40, 2)
    mapping = memory.map_pages(scattered)
    with pytest.raises(MappingFailed, match="20 pieces"):
        memory.map_pages(scattered)
    memory.map_pages(range(100)).close()  # one piece
    mapping.close()
    memory.map_pages(scattered)  # and is dropped
    gc.collect()
    memory.map_pages(scattered).close()


def test_memory_that_nobody_has_any_more_leaves_no_descriptor(memory):
    before = open_descriptors()
    GuestMemory.attach(memory.fd, MIB)
    gc.collect()
    assert open_descriptors() == before


@pytest.mark.parametrize("spare", [0, 1])
def test_a_table_of_descriptors_that_is_full_is_a_typed_error(memory, spare):
    before = open_descriptors()
    with full_table(spare), pytest.raises(MappingFailed, match="open files"):
        GuestMemory.attach(memory.fd, MIB)
    assert open_descriptors() == before


def test_a_file_smaller_than_announced_is_refused(memory):
    with pytest.raises(MemoryFileTooSmall, match="1048576 bytes, the guest says 2097152"):
        GuestMemory.attach(memory.fd, 2 * MIB)


@pytest.mark.parametrize(("size", "first"), [(0, 0), (-4096, 0), (4097, 0), (MIB, MIB), (MIB, -1)])
def test_impossible_sizes_are_refused(memory, size, first):
    with pytest.raises(GuestMemoryError):
        GuestMemory.attach(memory.fd, size, first)
    with pytest.raises(GuestMemoryError):
        GuestMemory.create(size if size != MIB else 1)


@pytest.mark.parametrize(("gpa", "length"), [(-1, 1), (0x1000, 1), (MIB, 1), (MIB - 1, 2), (1 << 60, 1), (0x2000, -1)])
def test_addresses_outside_the_memory_are_refused(memory, gpa, length):
    with GuestMemory.attach(memory.fd, MIB, first_gpa=0x2000) as host:
        for attempt in (host.view, host.read):
            with pytest.raises(OutsideGuestMemory):
                attempt(gpa, length)
        with pytest.raises(OutsideGuestMemory):
            host.write(MIB - 1, b"ab")


def test_views_are_the_memory_itself_and_reads_are_copies(memory):
    copy = memory.read(0, 4)
    with memory.view(0, 4) as view:
        view[:] = b"live"
    assert memory.read(0, 4) == b"live" and copy == bytes(4)


def test_ranges_that_touch_come_as_one_view(memory):
    assert merge_ranges([(0, 10), (10, 5), (20, 0), (15, 1), (40, 2), (38, 2)]) == [(0, 16), (40, 2), (38, 2)]
    views = memory.ranges([(4096, 4096), (8192, 100), (0, 8)])
    assert [len(view) for view in views] == [4196, 8]
    for view in views:
        view.release()
    for bad in ([(0, 8), (MIB - 8, 16)], [(-8, 8)], [(0, 8), (8, MIB)]):
        with pytest.raises(OutsideGuestMemory):
            memory.ranges(bad)


def test_scattered_pages_are_mapped_side_by_side_and_mirrored(memory):
    for pfn in (7, 2, 9):
        memory.write(pfn * 4096, bytes([pfn]) * 4096)
    with memory.map_pages([7, 2, 9], mirrored_from=1) as mapping:
        assert [mapping.view[page * 4096] for page in range(5)] == [7, 2, 9, 2, 9]
        mapping.view[4 * 4096] = 77
        assert mapping.view[2 * 4096] == 77 and memory.read(9 * 4096, 1) == b"\x4d"
    assert mapping.closed


def test_bad_pages_are_never_mapped(memory):
    for pfns in ([256], [1, -1], [1 << 52]):
        with pytest.raises(OutsideGuestMemory):
            memory.map_pages(pfns)
    for pfns in ([], [1] * 40000):
        with pytest.raises(MappingFailed):
            memory.map_pages(pfns)


def test_a_mapping_outlives_the_memory_object(memory):
    mapping = memory.map_pages([3])
    other = GuestMemory.attach(memory.fd, MIB)
    second = other.map_pages([3])
    other.close()
    second.view[0] = 5
    assert mapping.view[0] == 5
    second.close()
    mapping.close()
    mapping.close()


def test_nothing_is_unmapped_while_a_view_is_held():
    memory = GuestMemory.create(MIB)
    mapping = memory.map_pages([1])
    held, kept = memory.view(0, 1), mapping.view[:1]
    for thing in (memory, mapping):
        with pytest.raises(MemoryInUse):
            thing.close()
        assert not thing.closed
    held[0] = kept[0] = 1
    assert memory.read(0, 1) == b"\1" and mapping.view[0] == 1
    held.release()
    kept.release()
    mapping.close()
    memory.close()
    memory.close()
    assert memory.closed


def test_a_view_lent_to_another_library_counts_as_held(memory):
    mapping = memory.map_pages([1])
    lent = PickleBuffer(mapping.view)
    with pytest.raises(MemoryInUse):
        mapping.close()
    lent.release()
    mapping.close()


def test_more_memory_than_there_are_addresses_is_a_typed_error(tmp_path):
    for size in (1 << 62, 1 << 70):
        with pytest.raises(GuestMemoryError):
            GuestMemory.create(size)
    with open(tmp_path / "sparse", "w+b") as file:
        file.truncate(1 << 42)
        before = len(os.listdir("/proc/self/fd"))
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 41, hard))
        try:
            with pytest.raises(MappingFailed, match="cannot map 4398046511104 bytes"):
                GuestMemory.attach(file.fileno(), 1 << 42)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert len(os.listdir("/proc/self/fd")) <= before


def test_pages_that_the_kernel_will_not_map_are_a_typed_error(memory):
    with open("/dev/null") as null:
        os.dup2(null.fileno(), memory.fd)
    with pytest.raises(MappingFailed, match="cannot map 4096 bytes of guest memory at 0x1000"):
        memory.map_pages([1])


def test_mapping_and_unmapping_leaks_nothing(memory):
    def census():
        return Path("/proc/self/maps").read_text().count("memfd:vmbus"), len(os.listdir("/proc/self/fd"))

    memory.map_pages(range(1, 200, 2), mirrored_from=1).close()
    before = census()
    for _ in range(30):
        memory.map_pages(range(1, 200, 2), mirrored_from=1).close()
        GuestMemory.attach(memory.fd, MIB).close()
        with pytest.raises(MemoryFileTooSmall):
            GuestMemory.attach(memory.fd, 2 * MIB)
    after = census()
    assert after[0] <= before[0] and after[1] <= before[1]


def test_an_unsealed_file_that_shrinks_kills_the_process_that_touches_it(tmp_path):
    # What cannot be prevented for a file that cannot be sealed; docs and the module say so, and this shows it.
    script = f"""
import os
from vmbus.memory import GuestMemory
fd = os.open({str(tmp_path / "memory")!r}, os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1 << 20)
memory = GuestMemory.attach(fd, 1 << 20)
os.ftruncate(fd, 4096)
memory.read(0, 4096)
memory.read(8192, 1)
"""
    result = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert result.returncode == -signal.SIGBUS
