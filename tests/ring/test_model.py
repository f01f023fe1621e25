"""The ring against the simplest thing that behaves like one: a deque, and a count of bytes."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from vmbus import native
from vmbus.ring import COMPLETION, IN_BAND, IncomingRing, OutgoingRing, RingFull, RingMemory, packet_size

SIZE = 4096
payloads = st.integers(0, 1500).map(lambda size: (bytes(range(1, 252)) * 6)[:size])
packets = st.tuples(
    st.sampled_from([IN_BAND, COMPLETION]),
    st.integers(0, 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from([b"", bytes(8), b"sixteen bytes..."]),
    payloads,
)


class RingMachine(RuleBasedStateMachine):
    """Random operations at both ends; the model says what must come out and when a signal is due."""

    pure = True

    @initialize(position=st.integers(0, SIZE // 8 - 1))
    def open_somewhere(self, position: int) -> None:
        self.memory = RingMemory.private(SIZE)
        self.memory.words[0] = self.memory.words[1] = 8 * position
        self.outgoing = OutgoingRing(self.memory, pure=self.pure)
        self.incoming = IncomingRing(self.memory, pure=self.pure)
        self.written: list[tuple[object, ...]] = []  # not committed
        self.in_ring: deque[tuple[object, ...]] = deque()  # committed by the sender, not by the receiver
        self.taken = 0  # how many of those the receiver has read
        self.masked = True

    @staticmethod
    def size_of(packet: tuple[object, ...]) -> int:
        return packet_size(len(packet[4]), len(packet[3]))  # type: ignore[arg-type]

    @property
    def used(self) -> int:
        return sum(map(self.size_of, [*self.in_ring, *self.written]))

    @rule(packet=packets)
    def write(self, packet: tuple[object, ...]) -> None:
        if self.used + self.size_of(packet) > SIZE - 8:
            with pytest.raises(RingFull) as full:
                self.outgoing.write(*packet)  # type: ignore[arg-type]
            assert full.value.needed == self.size_of(packet)
            assert self.outgoing.waiting == (not self.written)
        else:
            self.outgoing.write(*packet)  # type: ignore[arg-type]
            assert not self.outgoing.waiting
            self.written.append(packet)

    @rule(batch=st.lists(packets, max_size=12))
    def write_batch(self, batch: list[tuple[object, ...]]) -> None:
        expected, used = 0, self.used
        for packet in batch:
            used += self.size_of(packet)
            if used > SIZE - 8:
                break
            expected += 1
        assert self.outgoing.write_batch(batch) == expected  # type: ignore[arg-type]
        self.written += batch[:expected]

    @rule()
    def revert_writes(self) -> None:
        self.outgoing.revert()
        self.written.clear()

    @rule()
    def commit_writes(self) -> None:
        due = bool(self.written) and not self.masked and not self.in_ring
        assert self.outgoing.commit() == due
        self.in_ring.extend(self.written)
        self.written.clear()

    @rule(limit=st.integers(0, 70))
    def read(self, limit: int) -> None:
        expected = list(self.in_ring)[self.taken : self.taken + min(limit, 64)]
        batch = self.incoming.read_batch(limit)
        assert [tuple(packet)[:4] for packet in batch] == [packet[:4] for packet in expected]
        for packet, model in zip(batch, expected, strict=True):
            assert packet.payload == model[4] + bytes(-len(model[4]) % 8)  # type: ignore[operator, arg-type]
        self.taken += len(batch)

    @rule()
    def peek(self) -> None:
        packet = self.incoming.peek()
        waiting = len(self.in_ring) > self.taken
        assert (packet is not None) == waiting
        assert packet is None or packet.transaction_id == self.in_ring[self.taken][2]

    @rule()
    def revert_reads(self) -> None:
        self.incoming.revert()
        self.taken = 0

    @rule()
    def commit_reads(self) -> None:
        in_ring = sum(map(self.size_of, self.in_ring))
        freed = sum(self.size_of(self.in_ring[i]) for i in range(self.taken))
        pending = self.memory.words[3]
        before, after = SIZE - in_ring, SIZE - in_ring + freed
        assert self.incoming.commit() == bool(pending and before <= pending < after)
        for _ in range(self.taken):
            self.in_ring.popleft()
        self.taken = 0

    @precondition(lambda self: not self.taken)
    @rule()
    def unmask(self) -> None:
        assert self.incoming.unmask_interrupts() == bool(self.in_ring)
        self.masked = False

    @rule()
    def mask(self) -> None:
        self.incoming.mask_interrupts()
        self.masked = True

    @invariant()
    def the_sizes_agree(self) -> None:
        if hasattr(self, "memory"):
            assert self.outgoing.free == SIZE - 8 - self.used
            assert self.incoming.uncommitted == self.taken
            # A sender that waits has nothing uncommitted, and is woken by an empty ring at the latest.
            assert not self.outgoing.waiting or self.memory.words[3] < SIZE


@pytest.mark.parametrize(
    "pure", [True, pytest.param(False, marks=pytest.mark.skipif(not native.extension, reason="not built"))]
)
def test_random_operations_from_both_ends_match_a_deque(pure):
    machine = type("Machine", (RingMachine,), {"pure": pure})
    run_state_machine_as_test(machine, settings=settings(max_examples=50, stateful_step_count=40, deadline=None))
