"""When an end must signal the other: both edges, the mask, and the order of things."""

from __future__ import annotations

import pytest

from vmbus import ring
from vmbus.ring import IN_BAND
from vmbus.ring.memory import FEATURE_BITS, INTERRUPT_MASK, PENDING_SEND_SIZE


def send(ends, size=8):
    ends.outgoing.write(IN_BAND, 0, 0, b"", bytes(size))
    return ends.outgoing.commit()


def receive(ends):
    ends.incoming.read()
    return ends.incoming.commit()


def test_a_new_receiver_starts_masked_and_wants_no_signal(ends):
    assert ends.memory.words[INTERRUPT_MASK] == 1
    assert not send(ends)


def test_only_the_packet_that_ends_emptiness_is_signalled(ends):
    ends.incoming.unmask_interrupts()
    assert [send(ends) for _ in range(3)] == [True, False, False]
    ends.incoming.read_batch()
    ends.incoming.commit()
    assert send(ends)


def test_a_batch_is_signalled_once(ends):
    ends.incoming.unmask_interrupts()
    ends.outgoing.write_batch([(IN_BAND, 0, 0, b"", b"")] * 10)
    assert ends.outgoing.commit()
    assert ends.outgoing.signals == 1


def test_unmasking_reports_packets_that_came_while_masked(ends):
    assert not ends.incoming.unmask_interrupts()
    ends.incoming.mask_interrupts()
    assert not send(ends)
    assert ends.incoming.unmask_interrupts()


def test_sleeping_on_uncommitted_packets_is_refused(ends):
    send(ends)
    ends.incoming.read()
    with pytest.raises(ring.UncommittedPackets):
        ends.incoming.unmask_interrupts()
    ends.outgoing.write(IN_BAND, 0, 0)
    with pytest.raises(ring.UncommittedPackets):
        ends.outgoing.request_room(8)


def test_a_mask_that_the_other_end_sets_is_noticed(ends):
    ends.incoming.verify_unmasked()
    ends.incoming.unmask_interrupts()
    ends.incoming.verify_unmasked()
    ends.memory.words[INTERRUPT_MASK] = 1
    with pytest.raises(ring.InterruptsExternallyMasked):
        ends.incoming.verify_unmasked()


def test_a_sender_announces_that_it_uses_pending_send_size(ends):
    assert ends.incoming.peer_waits_for_room
    assert ends.memory.state().feature_bits == 1


def test_room_is_signalled_once_when_enough_is_free_as_in_openvmms_test(make_ends):
    # The figures of openvmm's test_pending_send_size: four packets of 4024 bytes fill a ring of 16384.
    ends = make_ends(size=16384)
    for _ in range(4):
        send(ends, 4000)
    with pytest.raises(ring.RingFull):
        send(ends, 4000)
    ends.memory.words[PENDING_SEND_SIZE] = 4024 * 2
    assert [receive(ends) for _ in range(4)] == [False, True, False, False]
    assert ends.incoming.signals == 1


@pytest.mark.parametrize(
    ("pending", "signals"),
    [
        (0, [0, 0, 0, 0]),
        (32, [0, 0, 0, 0]),  # 40 bytes are free from the start: this sender is not blocked
        (40, [1, 0, 0, 0]),
        (1063, [1, 0, 0, 0]),
        (1064, [0, 1, 0, 0]),
        (3111, [0, 0, 1, 0]),
        (4095, [0, 0, 0, 1]),
        (4096, [0, 0, 0, 0]),
    ],
)
def test_the_edge_is_the_commit_that_frees_more_than_was_asked_for(ends, pending, signals):
    for size in (1000, 1000, 1000, 960):  # 1024 bytes each in the ring, and 984
        send(ends, size)
    ends.memory.words[PENDING_SEND_SIZE] = pending
    assert [receive(ends) for _ in range(4)] == signals


def test_a_full_ring_that_empties_at_once_is_signalled_even_for_a_size_of_all_but_one(ends):
    # Some guests wait for the ring's size minus one: for an empty ring.
    send(ends, 4000)
    send(ends, 0)
    ends.memory.words[PENDING_SEND_SIZE] = 4095
    assert [receive(ends), receive(ends)] == [False, True]


def test_a_sender_that_does_not_say_it_waits_is_not_signalled(ends):
    send(ends, 4000)
    ends.memory.words[PENDING_SEND_SIZE] = 64
    ends.memory.words[FEATURE_BITS] = 0
    assert not ends.incoming.peer_waits_for_room
    assert not receive(ends)


def test_the_write_index_is_read_afresh_for_the_decision(ends):
    # A receiver that still believes in the write index of its last read would miss this edge.
    send(ends, 2000)
    ends.incoming.read()
    send(ends, 2000)
    with pytest.raises(ring.RingFull):
        send(ends, 2000)
    assert ends.incoming.commit()


def test_a_bad_write_index_at_the_decision_is_left_to_the_next_read(ends):
    send(ends, 2000)
    ends.incoming.read()
    ends.memory.words[PENDING_SEND_SIZE] = 64
    ends.memory.words[0] = 0xFFFFFFF8
    assert not ends.incoming.commit()
    with pytest.raises(ring.InvalidRingPointer):
        ends.incoming.read()


def test_asking_for_room_asks_for_at_least_a_quarter_of_the_ring(ends):
    send(ends, 4000)
    assert not ends.outgoing.request_room(100)
    assert ends.memory.words[PENDING_SEND_SIZE] == 1016
    assert receive(ends)


def test_asking_for_room_that_has_appeared_takes_the_question_back(ends):
    assert ends.outgoing.request_room(4088)
    assert not ends.outgoing.waiting and ends.memory.words[PENDING_SEND_SIZE] == 0
    with pytest.raises(ring.InvalidMessageLength):
        ends.outgoing.request_room(4096)


def test_the_next_packet_that_is_written_takes_the_question_back(ends):
    send(ends, 4000)
    with pytest.raises(ring.RingFull):
        send(ends, 1000)
    assert ends.outgoing.waiting
    receive(ends)
    send(ends, 1000)
    assert not ends.outgoing.waiting and ends.memory.words[PENDING_SEND_SIZE] == 0


def test_room_that_appears_while_asking_is_used_at_once(ends, monkeypatch):
    send(ends, 4000)
    ends.incoming.read()
    original = ring.OutgoingRing.request_room

    def race(self, needed):
        ends.incoming.commit()  # the receiver is quicker than the question
        return original(self, needed)

    monkeypatch.setattr(ring.OutgoingRing, "request_room", race)
    assert ends.outgoing.write_batch([(IN_BAND, 0, 5, b"", bytes(1000))]) == 1


def test_room_that_appears_in_the_middle_of_a_batch_is_used(make_ends, pure):
    ends = make_ends()
    send(ends, 3000)
    ends.incoming.read()

    class Racing(list):
        def __iter__(self):
            for packet in list.__iter__(self):
                yield packet
                ends.incoming.commit()

    batch = Racing([(IN_BAND, 0, tid, b"", bytes(1000)) for tid in range(3)])
    written = ends.outgoing.write_batch(batch)
    assert written == (3 if pure else 1)  # the extension does not run the list's Python code
    ends.outgoing.commit()
    assert len(ends.incoming.read_batch()) == written


def test_whoever_takes_an_end_over_can_tell_that_a_signal_may_be_lost(ends):
    assert not ends.outgoing.receiver_may_be_asleep and not ends.incoming.sender_may_be_asleep
    ends.incoming.unmask_interrupts()
    send(ends, 4000)  # suppose that its signal was never delivered
    assert ends.outgoing.receiver_may_be_asleep
    ends.incoming.mask_interrupts()
    assert not ends.outgoing.receiver_may_be_asleep
    ends.outgoing.request_room(1000)
    assert not ends.incoming.sender_may_be_asleep
    receive(ends)  # and this one neither
    assert ends.incoming.sender_may_be_asleep


def test_both_ends_of_the_ring_can_be_looked_at(ends):
    send(ends, 8)
    state = ends.memory.state()
    assert (state.write_index, state.read_index, state.interrupt_mask, state.size) == (32, 0, 1, 4096)
