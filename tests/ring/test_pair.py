"""Both rings of a channel over the scattered pages of a guest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmbus.memory import GuestMemory, MemoryInUse, OutsideGuestMemory
from vmbus.pages import PageAllocator
from vmbus.ring import IN_BAND, InvalidRingMemory, InvalidRingPointer
from vmbus.ring.pair import divide_ring_pair, map_ring_pair


@pytest.fixture
def memory():
    with GuestMemory.create(1 << 20) as guest:
        yield guest


def mappings():
    """Those of guests' memory: what the allocator maps meanwhile is its own affair."""
    return Path("/proc/self/maps").read_text().count("memfd:vmbus")


def test_what_one_end_sends_the_other_receives_through_separate_mappings(memory, pure):
    pfns = PageAllocator(memory).allocate(9, scattered=True)
    host_memory = GuestMemory.attach(memory.fd, memory.size)
    guest = map_ring_pair(memory, pfns, 5, is_guest=True, pure=pure)
    host = map_ring_pair(host_memory, pfns, 5, is_guest=False, pure=pure)
    for sender, receiver in ((guest, host), (host, guest)):
        for tid in range(50):
            sender.outgoing.write(IN_BAND, 0, tid, b"", bytes([tid]) * 1111)
            sender.outgoing.commit()
            assert receiver.incoming.read().payload == (bytes([tid]) * 1111).ljust(1112, b"\0")
            receiver.incoming.commit()
    assert (guest.outgoing.memory.size, guest.incoming.memory.size) == (4 * 4096, 3 * 4096)
    guest.close()
    host.close()
    host_memory.close()


@pytest.mark.parametrize("offset", [0, 1, 5, 6, 99])
def test_rings_without_a_data_page_are_refused(memory, offset):
    with pytest.raises(InvalidRingMemory):
        map_ring_pair(memory, range(1, 7), offset, is_guest=False)


def test_pages_outside_the_guest_are_refused(memory):
    with pytest.raises(OutsideGuestMemory):
        map_ring_pair(memory, [1, 2, 3, 1 << 40], 2, is_guest=False)


def test_a_failed_opening_leaves_no_mapping_behind(memory, pure):
    memory.write(3 * 4096, b"\x04")
    before = mappings()
    for _ in range(20):
        with pytest.raises(InvalidRingPointer):
            map_ring_pair(memory, range(1, 7), 2, is_guest=False, pure=pure)
    assert mappings() <= before


def test_opening_and_closing_leaks_neither_mappings_nor_descriptors(memory, pure):
    pfns = PageAllocator(memory).allocate(40, scattered=True)

    map_ring_pair(memory, pfns, 20, is_guest=True, pure=pure).close()
    before = mappings(), len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        map_ring_pair(memory, pfns, 20, is_guest=True, pure=pure).close()
    after = mappings(), len(os.listdir("/proc/self/fd"))
    assert after[0] <= before[0] and after[1] <= before[1]


def test_closing_while_a_view_is_held_is_refused_and_can_be_repeated(memory, pure):
    pair = map_ring_pair(memory, range(1, 7), 3, is_guest=True, pure=pure)
    held = pair.mappings[1].view[:8]
    with pytest.raises(MemoryInUse):
        pair.close()
    held.release()
    for mapping in pair.mappings:
        mapping.close()
    assert all(mapping.closed for mapping in pair.mappings)


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_a_mapping_without_a_data_page_for_each_ring_is_no_pair_and_is_closed(memory, pages):
    mapping = memory.map_pages(range(1, 1 + pages))
    with pytest.raises(InvalidRingMemory):
        divide_ring_pair(mapping)
    assert mapping.closed
